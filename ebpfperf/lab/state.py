"""Where a lab keeps itself on disk: one directory under /run, gone after ``down``."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ebpfperf.errors import LabError
from ebpfperf.lab.files import write_private

ROOT = Path("/run/ebpfperf/lab")
MARKER = "EBPFPERF_LAB"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a lab is asked to be; ``up`` with another shape is refused while it runs."""

    name: str
    nodes: int = 2
    release: str = "v3.26"
    mtu_bytes: int = 1500
    subnets: int = 1


def is_name(text: str) -> bool:
    """Whether the text may name a lab."""
    return _NAME.fullmatch(text) is not None


def check_name(name: str) -> str:
    """``name``, when it may name a lab; LabError otherwise."""
    if not is_name(name):
        raise LabError(
            f"{name!r} cannot name a lab.",
            "Use 1 to 20 of a-z, 0-9 and -, beginning and ending with a letter or digit.",
        )
    return name


def directory(name: str) -> Path:
    """The state directory of a lab."""
    return ROOT / check_name(name)


def names() -> list[str]:
    """Names of the labs that have left a trace on disk, running or not."""
    return sorted(p.name for p in ROOT.iterdir() if p.is_dir()) if ROOT.is_dir() else []


def write_shape(path: Path, shape: Shape, *, daemon_pid: int = 0) -> None:
    """Record the shape, and who runs it once it is up; whole or not at all."""
    record = {**asdict(shape), "daemon_pid": daemon_pid}
    write_private(path / "lab.json", json.dumps(record).encode())


def read_shape(path: Path) -> tuple[Shape, int] | None:
    """The recorded shape and daemon pid (0: not up); None where there is none or it is damaged."""
    try:
        found: dict[str, Any] = json.loads((path / "lab.json").read_text())
        pid = int(found.pop("daemon_pid"))
        return Shape(**found), pid
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def remove_empty_roots() -> None:
    """Remove /run/ebpfperf when no lab is left in it."""
    for path in (ROOT, ROOT.parent):
        try:
            os.rmdir(path)
        except OSError:
            return
