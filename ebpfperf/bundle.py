"""A cluster's evidence as one file: a tar archive, gzip, that people can open and read.

``index.json`` says of each item its source, node, command, time, status and file; the files below
``items/`` hold what was printed, unchanged.
"""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebpfperf.errors import InputError
from ebpfperf.evidence import Evidence, Item

SCHEMA = 1
_INDEX = "index.json"
_FIELDS = ("source", "node", "asked", "taken_utc", "status", "error")


def write(evidence: Evidence, path: Path) -> None:
    """Write the archive; OSError."""
    rows, files = [], []
    for number, item in enumerate(evidence):
        name = f"items/{number:04d}-{item.node or 'api'}-{item.source.replace('/', '-')}"
        rows.append({**{key: getattr(item, key) for key in _FIELDS}, "file": name})
        files.append((name, item.content))
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
    with tarfile.open(path, "w:gz") as archive:
        for name, content in ((_INDEX, json.dumps(index, indent=1).encode()), *files):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def read(path: Path) -> Evidence:
    """The evidence of an archive that ``write`` made.

    Raises
    ------
    InputError
        It is none, it is damaged, or of another schema.
    """
    try:
        with tarfile.open(path, "r:gz") as archive:
            files = {
                entry.name: file.read()
                for entry in archive
                if entry.isfile() and (file := archive.extractfile(entry)) is not None
            }
        index = json.loads(files[_INDEX])
        return _evidence(index, files)
    except (OSError, EOFError, tarfile.TarError, zlib.error, KeyError, TypeError, ValueError) as e:
        raise InputError(
            f"{path} is no bundle of evidence: {e!r}.", "Make one: ebpfperf bundle.", path=str(path)
        ) from e


def _evidence(index: Mapping[str, Any], files: Mapping[str, bytes]) -> Evidence:
    if index["schema"] != SCHEMA:
        raise ValueError(f"its schema is {index['schema']}, not {SCHEMA}")
    items = [
        Item(**{key: row[key] for key in _FIELDS}, content=files[row["file"]])
        for row in index["items"]
    ]
    return Evidence.of(
        items,
        nodes=index["nodes"],
        release=index["calico_release"],
        taken_utc=index["taken_utc"],
        seconds=index["seconds"],
        lost=index["lost"],
        pseudonyms=index["pseudonyms"],
    )
