"""How an object leaves the API: in the view asked for, alone, as a list, a Table or an event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ebpfperf.lab.resources import ResourceType, api_version
from ebpfperf.lab.status import NotAcceptable
from ebpfperf.lab.tables import table

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Representation:
    """What one client wants of one resource.

    Attributes
    ----------
    as_table
        Whether objects are sent as rows of a Table.
    include
        For a Table: ``Metadata``, ``Object`` or ``None``.
    """

    kind: ResourceType
    view: tuple[str, str]
    as_table: bool = False
    include: str = "Metadata"

    def one(self, obj: Object) -> Object:
        """The document of one object."""
        if self.as_table:
            return self._table([self._seen(obj)], obj["metadata"]["resourceVersion"])
        return self._seen(obj)

    def many(self, objects: Sequence[Object], version: int) -> Object:
        """The document of a list, true at ``version``."""
        seen = [self._seen(obj) for obj in objects]
        if self.as_table:
            return self._table(seen, str(version))
        return {
            "kind": f"{self.kind.kind}List",
            "apiVersion": api_version(self.view),
            "metadata": {"resourceVersion": str(version)},
            "items": seen,
        }

    def event(self, word: str, obj: Object, *, headed: bool = False) -> bytes:
        """One line of a watch: ADDED, MODIFIED or DELETED, and the object."""
        document = self._seen(obj)
        if self.as_table:
            document = self._table([document], obj["metadata"]["resourceVersion"], headed=headed)
        return event_line(word, document)

    def bookmark(self, version: int) -> bytes:
        """The line of a watch that says it is complete up to ``version``."""
        document: Object = {
            "kind": self.kind.kind,
            "apiVersion": api_version(self.view),
            "metadata": {"resourceVersion": str(version)},
        }
        if self.as_table:
            document = self._table([], str(version), headed=False)
        return event_line("BOOKMARK", document)

    def _seen(self, obj: Object) -> Object:
        return {**obj, "apiVersion": api_version(self.view)}

    def _table(self, objects: Sequence[Object], version: str, *, headed: bool = True) -> Object:
        return table(
            self.kind.plural, objects, version=version, include=self.include, headed=headed
        )


def event_line(word: str, document: Object) -> bytes:
    """One line of a watch."""
    return json.dumps({"type": word, "object": document}, separators=(",", ":")).encode() + b"\n"


def wants_table(accept: str) -> bool:
    """Whether the first acceptable media type is a Table.

    Raises
    ------
    NotAcceptable
        None of them is JSON.
    """
    for item in accept.split(",") if accept.strip() else ("application/json",):
        media, *parameters = (part.strip() for part in item.split(";"))
        if media not in ("application/json", "application/*", "*/*"):
            continue
        wanted = dict(part.partition("=")[::2] for part in parameters)
        if "as" not in wanted:
            return False
        if wanted["as"] == "Table" and wanted.get("g") == "meta.k8s.io":
            return True
    raise NotAcceptable("only application/json is served, as objects or as Table")
