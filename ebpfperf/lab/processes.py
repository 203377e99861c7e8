"""Finding and ending the processes of one lab, and no others.

A process belongs to a lab when one of three things is so: it carries ``EBPFPERF_LAB=<name>`` in its
environment (all that the lab starts), it is in the lab's cgroup (also what users start on a node
over SSH), or it lives in a network namespace of the lab (what somebody moved out of the cgroup).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from ebpfperf.lab.cgroups import lab_cgroup, members
from ebpfperf.lab.state import MARKER

_PROC = Path("/proc")


def carries(pid: int, name: str) -> bool:
    """Whether the process lives and carries the lab's mark; a reused pid does not."""
    return alive(pid) and _mark(pid) == name.encode()


def marked(name: str) -> set[int]:
    """Pids of the processes that carry the lab's mark; never this process or its parents."""
    return {pid for pid in _pids() if _mark(pid) == name.encode()} - _ancestry()


def lab_names() -> set[str]:
    """Names of the labs that have a marked process, whether or not they are on disk."""
    return {mark.decode("ascii", "replace") for pid in _pids() if (mark := _mark(pid))}


def spaces_of_lab(name: str) -> set[int]:
    """Inodes of the network namespaces that the lab's own processes are in; not the host's."""
    own = marked(name) | members(lab_cgroup(name))
    spaces = {netns(pid) for pid in own} - {netns(os.getpid()), netns(1)}
    return {space for space in spaces if space is not None}


@contextlib.contextmanager
def spaces_held(name: str) -> Iterator[set[int]]:
    """``spaces_of_lab``; inside the block no other namespace gets one of these numbers."""
    others = {netns(os.getpid()), netns(1)}
    with contextlib.ExitStack() as stack:
        found: set[int] = set()
        for pid in marked(name) | members(lab_cgroup(name)):
            try:
                handle = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
            except OSError:
                continue
            space = os.fstat(handle).st_ino
            if space in others | found:
                os.close(handle)
                continue
            stack.callback(os.close, handle)
            found.add(space)
        yield found


def inside(spaces: Collection[int]) -> set[int]:
    """Pids of the processes in these network namespaces."""
    return {pid for pid in _pids() if netns(pid) in spaces}


def of_lab(name: str, *, spaces: Collection[int] = ()) -> set[int]:
    """Pids of all that belongs to the lab; never this process or its parents.

    Parameters
    ----------
    spaces
        More network namespaces that are known to be the lab's.
    """
    near = inside({*spaces_of_lab(name), *spaces})
    # The kernel gives the number of a namespace that is gone to the next one: another lab's, even.
    near = {pid for pid in near if _mark(pid) in (None, name.encode())}
    found = marked(name) | members(lab_cgroup(name)) | near
    return {pid for pid in found if alive(pid)} - _ancestry()


def netns(pid: int) -> int | None:
    """Inode of a process's network namespace; None when it is gone."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def end(pids: set[int], *, grace_s: float = 0.0, timeout_s: float = 3.0) -> set[int]:
    """Pids still there ``timeout_s`` after KILL, which comes ``grace_s`` after TERM."""
    if grace_s > 0:
        _signal(pids, signal.SIGTERM)
        pids = _wait(pids, grace_s)
    _signal(pids, signal.SIGKILL)
    return _wait(pids, timeout_s)


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _wait(pids: set[int], timeout_s: float) -> set[int]:
    deadline = time.monotonic() + timeout_s
    while (pids := {pid for pid in pids if alive(pid)}) and time.monotonic() < deadline:
        time.sleep(0.01)
    return pids


def _mark(pid: int) -> bytes | None:
    prefix = f"{MARKER}=".encode()
    try:
        environ = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    for entry in environ.split(b"\0"):
        if entry.startswith(prefix):
            return entry.removeprefix(prefix)
    return None


def _ancestry() -> set[int]:
    """Pids of this process and its parents: who takes a lab down must not go with it."""
    pid, found = os.getpid(), set()
    while pid > 0 and pid not in found:
        found.add(pid)
        stat = _stat(pid)
        pid = int(stat[1]) if stat else 0
    return found


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on; None when the process is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir(_PROC) if entry.isdigit()]
