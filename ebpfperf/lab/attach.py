"""Attaching BPF programs to a device's hooks, as each release of Calico does.

Up to v3.30 as a filter of the clsact qdisc, with the name that ``tc filter show`` prints; later as
a TCX link, which that command does not know. By rtnetlink and bpf(2) themselves: Debian 12's tools
are older than TCX and choose names of their own.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ebpfperf.errors import LabError
from ebpfperf.lab import bpfmaps
from ebpfperf.lab.netns import inside
from ebpfperf.lab.nodes import LabNode, run

INGRESS, EGRESS = "ingress", "egress"
_TCX = {INGRESS: 46, EGRESS: 47}
_PARENT = {INGRESS: 0xFFFFFFF2, EGRESS: 0xFFFFFFF3}
_NEWTFILTER, _DELTFILTER = 44, 45
_REQUEST, _ACK, _CREATE = 0x1, 0x4, 0x400
_KIND, _OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS = 6, 7, 8
_DIRECT_ACTION = 1
_ETH_P_ALL = 0x0003
_ERROR = 2


@dataclass(frozen=True, slots=True)
class Hook:
    """One side of one device. ``ifindex`` tells a device from a later one of its name."""

    device: str
    ifindex: int
    direction: str


def attach_filter(node: LabNode, hook: Hook, program: Path, *, name: str, priority: int) -> None:
    """The pinned program as a filter; one of the same priority gives way without a gap.

    Raises
    ------
    LabError
        The kernel refuses.
    """
    run(node.enter(["tc", "qdisc", "replace", "dev", hook.device, "clsact"]))

    def attach() -> None:
        handle = bpfmaps.open_pinned(program)
        try:
            options = _attribute(_BPF_FD, struct.pack("<I", handle))
            options += _attribute(_BPF_NAME, name.encode() + b"\0")
            options += _attribute(_BPF_FLAGS, struct.pack("<I", _DIRECT_ACTION))
            _filter(_NEWTFILTER, hook, priority, _attribute(_OPTIONS, options))
        finally:
            os.close(handle)

    _try(node, hook, attach)


def detach_filter(node: LabNode, hook: Hook, *, priority: int) -> None:
    """No filter of that priority, whether or not there was one; the qdisc stays."""
    with suppress(OSError):
        inside(node, lambda: _filter(_DELTFILTER, hook, priority, b""))


def attach_link(node: LabNode, hook: Hook, program: Path, *, pin: Path) -> None:
    """The pinned program as a TCX link, pinned; a link that is there gets the new program.

    Raises
    ------
    LabError
        The kernel refuses: TCX needs Linux 6.6.
    """

    def attach() -> None:
        handle = bpfmaps.open_pinned(program)
        try:
            if pin.exists() and _updated(pin, handle):
                return
            pin.unlink(missing_ok=True)
            link = bpfmaps.link_create(handle, hook.ifindex, _TCX[hook.direction])
            try:
                bpfmaps.pin(link, pin)
            finally:
                os.close(link)
        finally:
            os.close(handle)

    _try(node, hook, attach)


def _updated(pin: Path, program: int) -> bool:
    """Whether the link took the program; not where its device is gone, one of its name or not."""
    link = bpfmaps.open_pinned(pin)
    try:
        bpfmaps.link_update(link, program)
        return True
    except OSError as error:
        if error.errno != errno.ENOLINK:
            raise
        return False
    finally:
        os.close(link)


def detach_link(pin: Path) -> None:
    """No link pinned there: with its pin it is gone."""
    pin.unlink(missing_ok=True)


def _try(node: LabNode, hook: Hook, action: Callable[[], None]) -> None:
    try:
        inside(node, action)
    except OSError as error:
        raise LabError(
            f"No program can be attached to {hook.direction} of {hook.device} on {node.name}: "
            f"{error.strerror}.",
            "Is the device still there? The kernel needs clsact, or from v3.31 on TCX (Linux 6.6).",
        ) from error


def _filter(command: int, hook: Hook, priority: int, options: bytes) -> None:
    info = priority << 16 | socket.htons(_ETH_P_ALL)
    body = struct.pack("<BxxxiIII", 0, hook.ifindex, 1, _PARENT[hook.direction], info)
    body += _attribute(_KIND, b"bpf\0") + options
    flags = _REQUEST | _ACK | (_CREATE if command == _NEWTFILTER else 0)
    header = struct.pack("<IHHII", 16 + len(body), command, flags, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as wire:
        wire.settimeout(5.0)
        wire.bind((0, 0))
        wire.send(header + body)
        answer = wire.recv(65536)
    (kind,) = struct.unpack_from("<H", answer, 4)
    (code,) = struct.unpack_from("<i", answer, 16)
    if kind == _ERROR and code != 0:
        raise OSError(-code, os.strerror(-code))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("<HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
