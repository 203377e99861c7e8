"""Forgets UDP connections of the kernel's conntrack to backends that are gone.

kube-proxy does as much, because a client that goes on sending would be sent to the old backend for
ever. Source: the kernel's ``nfnetlink_conntrack.h`` and ``nfnetlink.h``.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from ebpfperf.lab.netns import inside
from ebpfperf.lab.nodes import LabNode

_NETLINK_NETFILTER = 12
_GET, _DELETE = 0x101, 0x102
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_ERROR, _DONE = 2, 3
_ORIGINAL, _REPLY = 1, 2
_HEADER = struct.Struct("=IHHII")
# nfgenmsg: IPv4, version 0, no resource.
_IPV4 = struct.pack("=BBH", socket.AF_INET, 0, 0)
_ATTRIBUTE = struct.Struct("=HH")


@dataclass(frozen=True, slots=True)
class Entry:
    """One tracked connection: whom it was for, who answers; ``original`` is how to name it."""

    protocol: int
    destination: str
    answers: str
    original: bytes


def forget(node: LabNode, backends: set[str]) -> None:
    """Make the node forget UDP connections to these backends, each ``address:port``.

    Raises
    ------
    OSError
        The kernel refuses.
    """
    inside(node, lambda: _forget(backends))


def entries(data: bytes) -> Iterator[Entry]:
    """The IPv4 connections in what the kernel sent."""
    for kind, body in _messages(data):
        if kind == _GET & ~0xFF:
            parts = dict(_attributes(body[len(_IPV4) :]))
            protocol, _, destination = _tuple(parts[_ORIGINAL])
            _, answers, _ = _tuple(parts[_REPLY])
            yield Entry(protocol, destination, answers, parts[_ORIGINAL])


def _forget(gone: set[str]) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as kernel:
        found = [entry for data in _asked(kernel, _GET, _DUMP) for entry in entries(data)]
        for entry in found:
            sent_on = entry.answers != entry.destination
            if entry.protocol == socket.IPPROTO_UDP and sent_on and entry.answers in gone:
                name = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(entry.original), 0x8000 | _ORIGINAL)
                # It may have ended meanwhile, which is what was wanted.
                with contextlib.suppress(FileNotFoundError):
                    list(_asked(kernel, _DELETE, _ACK, name + entry.original))


def _asked(kernel: socket.socket, kind: int, flags: int, body: bytes = b"") -> Iterator[bytes]:
    """What the kernel sends until it says that this is all; OSError when it refuses."""
    size = _HEADER.size + len(_IPV4) + len(body)
    kernel.send(_HEADER.pack(size, kind, _REQUEST | flags, 0, 0) + _IPV4 + body)
    while True:
        data = kernel.recv(1 << 16)
        yield data
        for sort, body in _messages(data):
            if sort == _ERROR and (number := -int.from_bytes(body[:4], sys.byteorder, signed=True)):
                raise OSError(number, os.strerror(number))
            if sort in (_ERROR, _DONE):
                return


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place + _HEADER.size <= len(data):
        size, kind, *_ = _HEADER.unpack_from(data, place)
        yield kind, data[place + _HEADER.size : place + size]
        place += (size + 3) & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, place)
        # The two highest bits say how it is written, not what it is.
        yield kind & 0x3FFF, data[place + _ATTRIBUTE.size : place + size]
        place += (size + 3) & ~3


def _tuple(data: bytes) -> tuple[int, str, str]:
    """Protocol, source and destination of one direction."""
    parts = dict(_attributes(data))
    addresses, ports = dict(_attributes(parts[1])), dict(_attributes(parts[2]))
    source, destination = (
        f"{socket.inet_ntoa(addresses[n])}:{int.from_bytes(ports.get(n + 1, b''), 'big')}"
        for n in (1, 2)
    )
    return ports[1][0], source, destination
