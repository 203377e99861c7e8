"""Entries of the conntrack map as the programs would make them. Pure.

Layouts: ``bpf/calico/layouts.h``.
"""

from __future__ import annotations

import socket
import struct

from ebpfperf.calico.maps import map_for
from ebpfperf.calico.releases import minor

End = tuple[str, int]
_TCP = 6
_NORMAL, _FORWARD, _REVERSE = 0, 1, 2
# SYN, ACK, approved by policy; who opened it.
_ESTABLISHED, _OPENER = 0x1 | 0x2 | 0x10, 0x20
_B_OPENED_HIGH = 0x1
_FIRST_IS_RESET_FROM = (3, 30)
_NARROW_BYTES = 64


def key(one: End, other: End) -> bytes:
    """Key of a TCP connection between two ends."""
    (a, a_port), (b, b_port) = sorted((one, other), key=_rank)
    ends = socket.inet_aton(a) + socket.inet_aton(b)
    return struct.pack("<I", _TCP) + ends + struct.pack("<HH", a_port, b_port)


def established(
    client: str, ports: range, server: End, release: str, now_ns: int
) -> dict[bytes, bytes]:
    """Entries of TCP connections from these ports of a client that stand, seen last ``now_ns``.

    ``now_ns`` counts from boot. The client's address is another than the server's.
    """
    first = client, ports.start
    # Which end is A depends on the addresses: only the client's port makes a difference.
    head, value = key(first, server)[:12], _value(_NORMAL, first, server, None, release, now_ns)
    if _b_opened(first, server):
        return {head + struct.pack("<HH", server[1], port): value for port in ports}
    return {head + struct.pack("<HH", port, server[1]): value for port in ports}


def translated(
    client: End, service: End, backend: End, release: str, now_ns: int
) -> dict[bytes, bytes]:
    """The two entries of a TCP connection through a service: there, and behind it."""
    behind = key(client, backend)
    forward = bytearray(_head(_FORWARD, release, now_ns))
    if _wide(release) and _b_opened(client, service):
        forward[23] = _B_OPENED_HIGH
    body = bytes(forward) + behind
    size = map_for("conntrack", release).value_bytes
    return {
        key(client, service): body + bytes(size - len(body)),
        behind: _value(_REVERSE, client, backend, service, release, now_ns),
    }


def _value(
    kind: int, client: End, server: End, service: End | None, release: str, now_ns: int
) -> bytes:
    size = map_for("conntrack", release).value_bytes
    wide = _wide(release)
    value = bytearray(_head(kind, release, now_ns) + bytes(size - 24))
    by_b = _b_opened(client, server)
    if wide and by_b:
        value[23] = _B_OPENED_HIGH
    bits, second = (16, 48) if wide else (4, 36)
    for place, opener in ((24, not by_b), (second, by_b)):
        struct.pack_into("<I", value, place + bits, _ESTABLISHED | (_OPENER if opener else 0))
    if service is not None:
        at = 76 if wide else 48
        value[at : at + 4] = socket.inet_aton(service[0])
        struct.pack_into("<H", value, at + 4, service[1])
    return bytes(value)


def _head(kind: int, release: str, now_ns: int) -> bytes:
    """Time of creation (later of a reset), of the last packet, the type, and no flag."""
    first = 0 if minor(release) >= _FIRST_IS_RESET_FROM else now_ns
    return struct.pack("<QQB7x", first, now_ns, kind)


def _wide(release: str) -> bool:
    return map_for("conntrack", release).value_bytes > _NARROW_BYTES


def _rank(end: End) -> tuple[int, int]:
    """A is the end whose address, read as a little endian number, is smaller."""
    return int.from_bytes(socket.inet_aton(end[0]), "little"), end[1]


def _b_opened(client: End, server: End) -> bool:
    return _rank(client) > _rank(server)
