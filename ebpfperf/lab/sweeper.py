"""Ending conntrack entries: by the timeouts of the connection's state, and with their backend.

Felix does it every ten seconds. Timeouts: felix/bpf/conntrack/timeouts (fixed in v3.16, the field
``bpfConntrackTimeouts`` since v3.30).
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ebpfperf.calico.releases import minor
from ebpfperf.lab.bpfmaps import Map
from ebpfperf.units import NS_PER_S

PERIOD_S = 10.0
_TCP, _UDP, _ICMP = 6, 17, 1
_NORMAL, _FORWARD, _REVERSE = 0, 1, 2
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8
_DSR_FORWARD = 0x2
_RST_TIME_FROM, _FIELD_FROM = (3, 30), (3, 30)
# Values without bytes and packets of either side.
_NARROW_BYTES = 64
_DEFAULTS_S = {
    "creationGracePeriod": 10.0,
    "tcpSynSent": 20.0,
    "tcpEstablished": 3600.0,
    "tcpFinsSeen": 30.0,
    "tcpResetSeen": 40.0,
    "udpTimeout": 60.0,
    "genericTimeout": 600.0,
    "icmpTimeout": 5.0,
}
_DURATION = re.compile(r"([0-9.]+)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Entry:
    """What a sweep reads of an entry."""

    protocol: int
    kind: int
    flags: int
    first_word: int
    last_seen_ns: int
    bits: tuple[int, int]
    reverse: bytes


def read(key: bytes, value: bytes) -> Entry:
    """An entry's fields, by the layout that its length shows."""
    (protocol,) = struct.unpack_from("<I", key)
    first, last_seen, kind, flags = struct.unpack_from("<QQBB", value)
    wide = len(value) > _NARROW_BYTES
    places = (24 + 16, 48 + 16) if wide else (24 + 4, 36 + 4)
    bits = tuple(struct.unpack_from("<I", value, place)[0] for place in places)
    return Entry(protocol, kind, flags, first, last_seen, (bits[0], bits[1]), value[24:40])


def timeout_s(entry: Entry, timeouts: Mapping[str, float]) -> float:
    """Seconds without a packet after which the entry is over."""
    if entry.protocol == _UDP:
        return timeouts["udpTimeout"]
    if entry.protocol == _ICMP:
        return timeouts["icmpTimeout"]
    if entry.protocol != _TCP:
        return timeouts["genericTimeout"]
    one, other = entry.bits
    fins = one & other & _FIN or (entry.flags & _DSR_FORWARD and (one | other) & _FIN)
    if (one | other) & _RST:
        return timeouts["tcpResetSeen"]
    if fins:
        return timeouts["tcpFinsSeen"]
    if one & other & (_SYN | _ACK) == (_SYN | _ACK) or entry.flags & _DSR_FORWARD:
        return timeouts["tcpEstablished"]
    return timeouts["tcpSynSent"]


def timeouts_of(spec: Mapping[str, Any], release: str) -> dict[str, float]:
    """Name → seconds: the defaults, and what ``bpfConntrackTimeouts`` says where it exists."""
    found = dict(_DEFAULTS_S)
    if minor(release) < _FIELD_FROM:
        return found
    known = {name.lower(): name for name in found}
    for name, text in (spec.get("bpfConntrackTimeouts") or {}).items():
        parts = _DURATION.findall(str(text))
        if name.lower() in known and parts:
            found[known[name.lower()]] = sum(
                float(number) * _SECONDS[unit] for number, unit in parts
            )
    return found


def sweep(
    conntrack: Map,
    spec: Mapping[str, Any],
    release: str,
    backends: Callable[[], frozenset[tuple[bytes, int]]],
) -> int:
    """How many entries were removed.

    Parameters
    ----------
    backends
        (address, port) of each backend there is: translations to any other are over. Asked after
        the entries were read: one that came meanwhile may have connections already.
    """
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    timeouts = timeouts_of(spec, release)
    entries = {key: read(key, value) for key, value in conntrack.items()}
    there = backends()
    # A new entry may be half of a pair. Later releases do not say when one was made.
    grace_ns = timeouts["creationGracePeriod"] * NS_PER_S
    known = minor(release) < _RST_TIME_FROM
    old = {k: e for k, e in entries.items() if not known or now - e.first_word > grace_ns}
    over = {
        key
        for key, entry in old.items()
        if entry.kind != _FORWARD
        and (
            now - entry.last_seen_ns > timeout_s(entry, timeouts) * NS_PER_S
            or (entry.kind == _REVERSE and not _has_backend(key, there))
        )
    }
    over |= {
        key
        for key, entry in old.items()
        if entry.kind == _FORWARD and (entry.reverse in over or not _is_there(conntrack, entry))
    }
    for key in over:
        conntrack.delete(key)
    return len(over)


def _is_there(conntrack: Map, entry: Entry) -> bool:
    """Whether the map has the entry that this one points to.

    Now, and not when it was walked: a pair that was made meanwhile may be half of what was seen.
    """
    return conntrack.get(entry.reverse) is not None


def _has_backend(key: bytes, backends: frozenset[tuple[bytes, int]]) -> bool:
    port_a, port_b = struct.unpack_from("<HH", key, 12)
    return (key[4:8], port_a) in backends or (key[8:12], port_b) in backends
