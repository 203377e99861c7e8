"""Packets lost on purpose in a network namespace, and what the kernel's own counters say of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from lab.namespaces import inside


@contextlib.contextmanager
def dropping(pid: int, *match: str) -> Iterator[Callable[[], int]]:
    """Whatever arrives and matches is dropped inside the block; gives how many packets were.

    After the block it is how many were in all of it.
    """
    inside(pid, "iptables", "-w", "-A", "INPUT", *match, "-j", "DROP")
    in_all: list[int] = []

    def dropped() -> int:
        if in_all:
            return in_all[0]
        lines = inside(pid, "iptables", "-w", "-L", "INPUT", "-vnx").splitlines()
        return int(next(line.split()[0] for line in lines if " DROP " in line))

    try:
        yield dropped
    finally:
        # What arrives from here on passes, so that nothing is dropped once it was counted.
        inside(pid, "iptables", "-w", "-I", "INPUT", "1", *match, "-j", "ACCEPT")
        in_all.append(dropped())
        for verdict in ("DROP", "ACCEPT"):
            inside(pid, "iptables", "-w", "-D", "INPUT", *match, "-j", verdict)


def counter(pid: int, protocol: str, name: str) -> int:
    """A number of /proc/net/snmp or netstat in the network namespace of a process."""
    file = "netstat" if protocol.endswith("Ext") else "snmp"
    names, numbers = (
        line.split()
        for line in Path(f"/proc/{pid}/net/{file}").read_text().splitlines()
        if line.startswith(f"{protocol}:")
    )
    return int(numbers[names.index(name)])
