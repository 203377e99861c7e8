"""What the cluster was before the kit touched it: on disk before the first change.

One JSON file per campaign directory, ``journal.json``. Every write is whole (temporary name, fsync,
rename, fsync of the directory), so that after ``kill -9`` it says at least what was done. It holds
paths, names and the objects' specs, and no secret.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ebpfperf.errors import RestoreError
from ebpfperf.model import ClusterRef
from ebpfperf.mutations import Mutation, canonical

SCHEMA = 1
OPEN = "open"
RESTORED = "restored"
FILE_NAME = "journal.json"

Key = tuple[str, str, str]
"""(kind, namespace, name)."""


@dataclass(slots=True)
class Remembered:
    """An object as it was before the campaign, and what the campaign did to it.

    Attributes
    ----------
    original
        The whole object; None where there was none.
    touched
        Field of ``spec`` → every value the kit ever gave it, None standing for *removed*.
    """

    kind: str
    name: str
    namespace: str
    original: Mapping[str, Any] | None
    touched: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """(kind, namespace, name)."""
        return self.kind, self.namespace, self.name

    @property
    def spec(self) -> Mapping[str, Any] | None:
        """``spec`` of the original; None where there was no object."""
        return None if self.original is None else self.original.get("spec", {})


class Journal:
    """The journal of one campaign directory.

    Attributes
    ----------
    ref
        How the cluster was reached: absolute paths, resolved names.
    cluster_uid
        Identity of the cluster; None where it would not say.
    """

    def __init__(self, path: Path, ref: ClusterRef, *, cluster_uid: str | None) -> None:
        self.path = path
        self.ref = ref
        self.cluster_uid = cluster_uid
        self.state = OPEN
        self.created_utc = _now()
        self.restored_utc: str | None = None
        self._objects: dict[Key, Remembered] = {}

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """The journal in that file, or None where there is none.

        Raises
        ------
        RestoreError
            The file cannot be read as a journal of this version.
        """
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise _unreadable(path, f"{error}") from error
        try:
            if content["schema"] != SCHEMA:
                raise _unreadable(path, f"its schema is {content['schema']}, not {SCHEMA}")
            ref = dict(content["cluster"])
            ref["ippools"] = tuple(ref["ippools"])
            journal = cls(path, ClusterRef(**ref), cluster_uid=content["cluster_uid"])
            journal.state = content["state"]
            journal.created_utc = content["created_utc"]
            journal.restored_utc = content["restored_utc"]
            for entry in content["objects"]:
                remembered = Remembered(**entry)
                journal._objects[remembered.key] = remembered
        except (KeyError, TypeError) as error:
            raise _unreadable(path, f"{type(error).__name__} {error}") from error
        return journal

    @property
    def is_open(self) -> bool:
        """Whether something may still have to be put back."""
        return self.state == OPEN

    def objects(self) -> tuple[Remembered, ...]:
        """Everything remembered, in the order it was met."""
        return tuple(self._objects.values())

    def knows(self, kind: str, name: str, namespace: str = "") -> bool:
        """Whether the object was remembered."""
        return (kind, namespace, name) in self._objects

    def remembered(self, kind: str, name: str, namespace: str = "") -> Remembered:
        """What is remembered of an object; KeyError where it is not."""
        return self._objects[kind, namespace, name]

    def remember(
        self, kind: str, name: str, namespace: str = "", *, original: Mapping[str, Any] | None
    ) -> None:
        """Keep an object as it is now, on disk; what is remembered already stays the truth."""
        key = (kind, namespace, name)
        if key not in self._objects:
            self._objects[key] = Remembered(kind, name, namespace, original)
            self._write()

    def intend(self, *mutations: Mutation) -> None:
        """Put on disk what is about to be changed: called before the change is sent."""
        for mutation in mutations:
            touched = self._objects[mutation.kind, mutation.namespace, mutation.name].touched
            for name, value in mutation.fields.items():
                values = touched.setdefault(name, [])
                if canonical(value) not in map(canonical, values):
                    values.append(value)
        self._write()

    def close(self) -> None:
        """Mark as restored, on disk: only after the cluster was read back and compared."""
        self.state = RESTORED
        self.restored_utc = _now()
        self._write()

    def _write(self) -> None:
        content = {
            "schema": SCHEMA,
            "state": self.state,
            "created_utc": self.created_utc,
            "restored_utc": self.restored_utc,
            "cluster": asdict(self.ref),
            "cluster_uid": self.cluster_uid,
            "objects": [asdict(remembered) for remembered in self._objects.values()],
        }
        data = json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"
        try:
            _write_durably(self.path, data)
        except OSError as error:
            raise RestoreError(
                f"The journal {self.path} cannot be written: {error.strerror}.",
                "Nothing is changed on a cluster without it: free space or choose another --out.",
                journal=str(self.path),
            ) from error


def _write_durably(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _unreadable(path: Path, why: str) -> RestoreError:
    return RestoreError(
        f"{path} cannot be read as a journal: {why}.",
        "It may hold what the cluster was: look at it by hand before you delete it.",
        journal=str(path),
    )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
