"""Finding and ending the processes of one lab, and no others.

Every process a lab starts carries ``EBPFPERF_LAB=<name>`` in its environment. What users start
inside a node over SSH does not, but it lives in a network namespace of the lab.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from ebpfperf.lab.state import MARKER

_PROC = Path("/proc")


def marked(name: str) -> set[int]:
    """Pids of the processes that carry the lab's mark; never this process."""
    wanted = f"{MARKER}={name}".encode()
    found = set()
    for pid in _pids():
        try:
            environ = (_PROC / str(pid) / "environ").read_bytes()
        except OSError:
            continue
        if wanted in environ.split(b"\0"):
            found.add(pid)
    return found - {os.getpid()}


def of_lab(name: str) -> set[int]:
    """Pids of the lab's own processes and of everything in its network namespaces."""
    own = marked(name)
    ours = netns(os.getpid()), netns(1)
    spaces = {netns(pid) for pid in own} - {None, *ours}
    inside = {pid for pid in _pids() if netns(pid) in spaces}
    return (own | inside) - {os.getpid(), os.getppid()}


def netns(pid: int) -> int | None:
    """Inode of a process's network namespace; None when it is gone."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def end(pids: set[int], *, timeout_s: float = 3.0) -> set[int]:
    """Pids that are still there after TERM and, past ``timeout_s``, KILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + timeout_s
        while pids := {pid for pid in pids if alive(pid)}:
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        if not pids:
            break
    return pids


def _pids() -> list[int]:
    return [int(p.name) for p in _PROC.iterdir() if p.name.isdigit()]
