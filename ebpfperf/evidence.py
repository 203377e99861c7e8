"""What was gathered of a cluster at one time, as it was printed: the ground of a diagnosis. Pure.

An item is one answer of one node, or of the API. Whoever judges parses it; nothing here does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

API = ""
"""The node of an item that the API answered."""


@dataclass(frozen=True, slots=True)
class Item:
    """One answer.

    Attributes
    ----------
    source
        Its name in ``evidence_sources``.
    node
        Who answered; empty for the API.
    asked
        The command, or the call, as a person would type it.
    taken_utc
        When, ``2026-01-31T09:05:33Z``.
    content
        What was printed, unchanged.
    status
        The command's exit status; None for the API.
    error
        Why there is no answer; empty where there is one.
    """

    source: str
    node: str
    asked: str
    taken_utc: str
    content: bytes = b""
    status: int | None = None
    error: str = ""

    @property
    def text(self) -> str:
        """The content as text."""
        return self.content.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Evidence:
    """All items of one gathering.

    Attributes
    ----------
    nodes
        Names of the nodes that were asked, reached or not.
    lost
        Node → why SSH did not reach it.
    release
        Calico's release, ``v3.26.1``; empty where the cluster does not say it.
    taken_utc
        When gathering began.
    seconds
        How long lay between the two readings of what is read twice.
    pseudonyms
        Whether names and addresses are not the true ones.
    """

    items: Mapping[tuple[str, str], Item]
    nodes: tuple[str, ...]
    release: str
    taken_utc: str
    seconds: float = 0.0
    lost: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    pseudonyms: bool = False

    @classmethod
    def of(
        cls,
        items: Iterable[Item],
        *,
        nodes: Iterable[str],
        release: str,
        taken_utc: str,
        seconds: float = 0.0,
        lost: Mapping[str, str] | None = None,
        pseudonyms: bool = False,
    ) -> Evidence:
        """The evidence that these items are."""
        found = {(item.source, item.node): item for item in items}
        return cls(
            MappingProxyType(found), tuple(nodes), release, taken_utc, seconds,
            MappingProxyType(dict(lost or {})), pseudonyms,
        )  # fmt: skip

    def item(self, source: str, node: str = API) -> Item | None:
        """The item of that source and node, or None."""
        return self.items.get((source, node))

    def with_item(self, item: Item) -> Evidence:
        """The evidence with one item more."""
        items = {**self.items, (item.source, item.node): item}
        return replace(self, items=MappingProxyType(items))

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items.values())
