"""A cluster's evidence as one file: a tar archive, gzip, that people can open and read.

``index.json`` says of each item its source, node, command, time, status and file; the files below
``items/`` hold what was printed, unchanged but for secrets. An archive may come from anywhere: it
is read within bounds, nothing of it is written to disk, and what is none is refused in a sentence.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import re
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ebpfperf.errors import InputError
from ebpfperf.evidence import Evidence, Item
from ebpfperf.evidence_secrets import redacted

SCHEMA = 1
MOST_BYTES = 1_000_000_000
MOST_FILES, MOST_NODES = 200_000, 20_000
_PIECE_BYTES = 1 << 20
# A header, what fills a block, and its row of the index.
_OF_ITEM_BYTES = 2_000
_INDEX = "index.json"
_FIELDS = ("source", "node", "asked", "taken_utc", "status", "error")
_FILE = re.compile(r"items/[\w.-]+")
_NOT_IN_NAMES = re.compile(r"[^\w.-]+")
_MODE = 0o600


class _Unfit(Exception):
    """The file is no bundle; says why."""


def write(evidence: Evidence, path: Path, *, force: bool = False) -> None:
    """Write the archive, without secrets, readable by its owner alone.

    It exists whole or not at all. FileExistsError where something is there, unless ``force``;
    other OSError as they come. InputError where it would be larger than ``read`` takes.
    """
    size = sum(len(item.content) + _OF_ITEM_BYTES for item in evidence)
    if size > MOST_BYTES:
        raise InputError(
            f"What was gathered is {size // 1_000_000} MB, more than the "
            f"{MOST_BYTES // 1_000_000} MB of a bundle.",
            "Gather fewer nodes (--node), or no maps (--no-maps).",
        )
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
        with os.fdopen(handle, "wb") as file:
            _written(redacted(evidence), file)
        if force:
            part.replace(path)
        else:
            # Unlike a rename, a link never replaces what has come there meanwhile.
            os.link(part, path)
    finally:
        part.unlink(missing_ok=True)


def read(path: Path) -> Evidence:
    """The evidence of an archive that ``write`` made.

    Raises
    ------
    InputError
        It is none, it is damaged, too large, or of another schema.
    """
    remedy = "Make one: ebpfperf bundle."
    try:
        files = _files(path)
        index = json.loads(files[_INDEX])
        if not isinstance(index, dict):
            raise _Unfit(f"its {_INDEX} is no object")
        schema = index.get("schema")
        if isinstance(schema, int) and schema > SCHEMA:
            remedy = "Read it with a newer ebpfperf."
            raise _Unfit(f"its schema is {schema}, and this version reads {SCHEMA}")
        if schema != SCHEMA:
            raise _Unfit(f"its schema is {schema!r}, not {SCHEMA}")
        return _evidence(index, files)
    except _Unfit as unfit:
        why = str(unfit)
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.", remedy, path=str(path)) from None
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        why = f"it is damaged, or no tar archive of gzip ({error})"
    except UnicodeDecodeError:
        why = f"its {_INDEX} is no text"
    except (ValueError, RecursionError) as error:
        why = f"its {_INDEX} is no JSON ({error})"
    raise InputError(f"{path} is no bundle of evidence: {why}.", remedy, path=str(path))


# -------------------------------------------------------------------------------- writing


def _written(evidence: Evidence, file: BinaryIO) -> None:
    rows, contents = [], []
    for number, item in enumerate(evidence):
        words = (f"{number:04d}", item.node or "api", item.source)
        name = "items/" + "-".join(_NOT_IN_NAMES.sub("-", word) for word in words)
        rows.append({**{key: getattr(item, key) for key in _FIELDS}, "file": name})
        contents.append((name, item.content))
    index = {
        "schema": SCHEMA,
        "taken_utc": evidence.taken_utc,
        "calico_release": evidence.release,
        "nodes": list(evidence.nodes),
        "seconds": evidence.seconds,
        "lost": dict(evidence.lost),
        "pseudonyms": evidence.pseudonyms,
        "items": rows,
    }
    first = (_INDEX, json.dumps(index, indent=1).encode())
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name, content in (first, *contents):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), _MODE
            archive.addfile(entry, io.BytesIO(content))


# -------------------------------------------------------------------------------- reading


class _Bounded(io.RawIOBase):
    """What is unpacked, up to a bound: few bytes of gzip may be any number of zeros."""

    def __init__(self, packed: gzip.GzipFile) -> None:
        super().__init__()
        self._packed = packed
        self._left = MOST_BYTES

    def read(self, size: int = -1) -> bytes:
        """The next bytes; ``_Unfit`` beyond the bound."""
        found = self._packed.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(found)
        if self._left < 0:
            raise _Unfit(f"it unpacks to more than {MOST_BYTES // 1_000_000} MB")
        return found


def _files(path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    with gzip.open(path, "rb") as packed:
        bounded = _Bounded(packed)
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            _members(archive, files)
        # To the end: only there gzip says whether a bit has changed.
        while bounded.read(_PIECE_BYTES):
            pass
    if _INDEX not in files:
        raise _Unfit(f"it has no {_INDEX}")
    return files


def _members(archive: tarfile.TarFile, files: dict[str, bytes]) -> None:
    for entry in archive:
        if not (entry.name == _INDEX or _FILE.fullmatch(entry.name)):
            raise _Unfit(f"it holds {entry.name[:80]!r}, which no bundle does")
        if not entry.isreg():
            raise _Unfit(f"{entry.name[:80]!r} in it is a link or another thing that is no file")
        if entry.size > MOST_BYTES or len(files) >= MOST_FILES:
            raise _Unfit("it holds more than any bundle does")
        content = archive.extractfile(entry)
        assert content is not None, "a regular file has a content"
        files[entry.name] = content.read()


def _evidence(index: Mapping[str, Any], files: Mapping[str, bytes]) -> Evidence:
    items = []
    for row in _of(index, "items", list):
        if not isinstance(row, dict):
            raise _Unfit("an item is no object")
        own = {key: _of(row, key, str) for key in _FIELDS if key != "status"}
        status = row.get("status")
        if status is not None and not isinstance(status, int):
            raise _Unfit("an item's status is no number")
        name = _of(row, "file", str)
        if name not in files:
            raise _Unfit(f"its file {name} is missing")
        items.append(Item(**own, status=status, content=files[name]))
    nodes = _of(index, "nodes", list)
    lost = _of(index, "lost", dict)
    if not all(isinstance(each, str) for each in (*nodes, *lost, *lost.values())):
        raise _Unfit("its nodes are no names")
    if len(nodes) > MOST_NODES or len({*nodes}) < len(nodes):
        raise _Unfit(f"its nodes are more than {MOST_NODES}, or one is there twice")
    if not all(each.isprintable() for each in (*nodes, *lost, *(item.node for item in items))):
        raise _Unfit("its nodes have names that cannot be printed")
    seconds = float(_of(index, "seconds", (int, float)))
    if not 0 <= seconds < math.inf:
        raise _Unfit("its seconds are no time")
    return Evidence.of(
        items,
        nodes=nodes,
        release=_of(index, "calico_release", str),
        taken_utc=_of(index, "taken_utc", str),
        seconds=seconds,
        lost=lost,
        pseudonyms=_of(index, "pseudonyms", bool),
    )


def _of(row: Mapping[str, Any], key: str, kind: Any) -> Any:
    """The value of a key, of that type; ``_Unfit``."""
    found = row.get(key)
    if not isinstance(found, kind):
        raise _Unfit(f"its {_INDEX} has no right {key}")
    return found
