"""The lab's part of the cgroup v2 hierarchy: ``ebpfperf-lab-NAME/{daemon,switch,node-N}``.

Nothing is limited by it; it names the pods as kubelet does, and keeps a lab's processes together,
so that they can be ended together.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from ebpfperf.errors import LabError

_PREFIX = "ebpfperf-lab-"
_JOIN = 'echo $$ >"$0/cgroup.procs" && exec "$@"'


def cgroup_root() -> Path:
    """Where the host mounts cgroup v2.

    Raises
    ------
    LabError
        Nowhere.
    """
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise LabError(
        "No cgroup v2 hierarchy is mounted.",
        "Mount one: mount -t cgroup2 none /sys/fs/cgroup (or another directory).",
    )


def lab_cgroup(lab: str) -> Path:
    """Root of a lab's subtree, as the host sees it; whether it exists or not."""
    return cgroup_root() / f"{_PREFIX}{lab}"


def lab_names() -> set[str]:
    """Names of the labs that have a subtree."""
    return {path.name.removeprefix(_PREFIX) for path in cgroup_root().glob(f"{_PREFIX}*/")}


def make(path: Path) -> Path:
    """``path``, made with its parents where it is missing; LabError when the kernel refuses."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(
            f"The cgroup {path} cannot be made: {error.strerror}.",
            "The lab needs root, and a cgroup v2 hierarchy that is mounted read-write.",
        ) from error
    return path


def joining(path: Path, argv: Sequence[str]) -> list[str]:
    """``argv`` run as a member of the cgroup from its first instruction on."""
    return ["sh", "-c", _JOIN, str(path), *argv]


def members(root: Path) -> set[int]:
    """Pids in a subtree; empty where there is none."""
    found: set[int] = set()
    for path, _, _ in os.walk(root):
        try:
            found |= {int(pid) for pid in (Path(path) / "cgroup.procs").read_text().split()}
        except OSError:
            continue  # removed meanwhile
    return found - {0}


def remove(root: Path, *, timeout_s: float = 20.0) -> bool:
    """Whether the subtree is gone; its processes must have ended."""
    deadline = time.monotonic() + timeout_s
    while root.exists():
        for path, _, _ in os.walk(root, topdown=False):
            try:
                os.rmdir(path)
            except OSError:
                continue  # the kernel empties a cgroup in its own time
        if time.monotonic() > deadline:
            break
        if root.exists():
            time.sleep(0.02)
    return not root.exists()
