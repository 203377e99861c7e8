"""Calico's map entries read byte by byte, from tables of its layouts: an oracle of its own.

Nothing of the lab's encoders is used here. A layout is field → (offset, size, order); bytes that no
field claims are padding and must be zero.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebpfperf.lab.nodes import LabNode, run

Layout = Mapping[str, tuple[int, int, str]]
Fields = dict[str, Any]

GLOBALS = "/sys/fs/bpf/tc/globals"
NORMAL, NAT_FORWARD, NAT_REVERSE = 0, 1, 2
SYN, ACK, FIN, RST, APPROVED, OPENER, WORKLOAD = 1, 2, 4, 8, 0x10, 0x20, 0x40
NP_FWD, B_OPENED = 0x4, 0x100
RELEASES = ("v3.16", "v3.26", "v3.30", "v3.32")

CONNTRACK_MAP = dict(
    zip(RELEASES, ("cali_v4_ct2", "cali_v4_ct3", "cali_v4_ct3", "cali_v4_ct4"), strict=True)
)
FRONTEND_MAP = dict(zip(RELEASES, ("cali_v4_nat_fe2", *3 * ("cali_v4_nat_fe3",)), strict=True))
COUNTERS_MAP = {"v3.26": "cali_counters2", "v3.30": "cali_counters3", "v3.32": "cali_counters6"}

_KEY: Layout = {
    "protocol": (0, 4, "little"),
    "addr_a": (4, 4, "ip"),
    "addr_b": (8, 4, "ip"),
    "port_a": (12, 2, "little"),
    "port_b": (14, 2, "little"),
}
_HEAD: Layout = {
    "word0": (0, 8, "little"),
    "last_seen": (8, 8, "little"),
    "type": (16, 1, "little"),
    "flags": (17, 1, "little"),
}
_FLAGS_HIGH: Layout = {"flags_high": (23, 1, "little")}
_SHORT_LEG: Layout = {"seqno": (0, 4, "big"), "bits": (4, 4, "little"), "ifindex": (8, 4, "little")}
_LONG_LEG: Layout = {
    "bytes": (0, 8, "little"),
    "packets": (8, 4, "little"),
    "seqno": (12, 4, "big"),
    "bits": (16, 4, "little"),
    "ifindex": (20, 4, "little"),
}
_SHORT_BODY: Layout = {
    "orig_ip": (48, 4, "ip"),
    "orig_port": (52, 2, "little"),
    "tun_ip": (56, 4, "ip"),
}
_LONG_BODY: Layout = {
    "tun_ip": (72, 4, "ip"),
    "orig_ip": (76, 4, "ip"),
    "orig_port": (80, 2, "little"),
    "orig_sport": (82, 2, "little"),
    "orig_sip": (84, 4, "ip"),
}


def has_counts(release: str) -> bool:
    """Whether a leg has bytes and packets, and the opener's side is a flag (map 3 and later)."""
    return release != "v3.16"


def has_reset_time(release: str) -> bool:
    """Whether the first word is the time of a reset, and a leg knows workloads."""
    return release in ("v3.30", "v3.32")


def read(layout: Layout, data: bytes) -> Fields:
    """The fields of ``data``; AssertionError where padding is not zero."""
    rest = bytearray(data)
    found: Fields = {}
    for name, (offset, size, order) in layout.items():
        piece = data[offset : offset + size]
        assert len(piece) == size, f"{name} is beyond the end"
        if order == "ip":
            found[name] = socket.inet_ntoa(piece)
        else:
            found[name] = int.from_bytes(piece, "big" if order == "big" else "little")
        rest[offset : offset + size] = bytes(size)
    assert not any(rest), f"padding is not zero: {data.hex()}"
    return found


def connection_key(data: bytes) -> Fields:
    return read(_KEY, data)


def connection(value: bytes, release: str) -> Fields:
    """A conntrack value; the flags as one number; of a NAT forward entry the ``reverse`` key."""
    assert len(value) == (88 if has_counts(release) else 64)
    head = dict(_HEAD)
    if has_counts(release):
        head |= _FLAGS_HIGH
    if value[16] == NAT_FORWARD:
        layout = head | {f"reverse.{k}": (24 + o, s, w) for k, (o, s, w) in _KEY.items()}
    else:
        leg, second = (_LONG_LEG, 48) if has_counts(release) else (_SHORT_LEG, 36)
        layout = head | (_LONG_BODY if has_counts(release) else _SHORT_BODY)
        for name, place in (("a_to_b", 24), ("b_to_a", second)):
            layout |= {f"{name}.{k}": (place + o, s, w) for k, (o, s, w) in leg.items()}
    found = read(layout, value)
    found["flags"] |= found.pop("flags_high", 0) << 8
    return found


@dataclass(frozen=True)
class End:
    """One side of a connection, and what it sent as its node must have noted it."""

    address: str
    port: int
    bits: int = 0
    ifindex: int = 0
    packets: int = 0
    size: int = 0
    seqno: int = 0

    def leg(self, name: str, release: str) -> Fields:
        found = {"seqno": self.seqno, "ifindex": self.ifindex}
        found["bits"] = self.bits if has_reset_time(release) else self.bits & ~WORKLOAD
        if has_counts(release):
            found |= {"packets": self.packets, "bytes": self.size}
        return {f"{name}.{key}": value for key, value in found.items()}


def ordered(one: End, other: End) -> tuple[End, End]:
    """A and B: the last octet of the address counts most, then the port."""

    def rank(end: End) -> tuple[int, int]:
        return int.from_bytes(socket.inet_aton(end.address), "little"), end.port

    return (one, other) if rank(one) < rank(other) else (other, one)


def key_of(protocol: int, one: End, other: End) -> Fields:
    """The fields of the key between two ends."""
    a, b = ordered(one, other)
    return {
        "protocol": protocol,
        "addr_a": a.address,
        "addr_b": b.address,
        "port_a": a.port,
        "port_b": b.port,
    }


def tracked(
    release: str,
    opener: End,
    other: End,
    *,
    service: End | None = None,
    tun_ip: str = "0.0.0.0",
    flags: int = 0,
) -> Fields:
    """All fields, beside times, of the entry that holds a connection; of NAT with ``service``."""
    a, b = ordered(opener, other)
    if has_counts(release) and b is opener:
        flags |= B_OPENED
    found: Fields = {"type": NAT_REVERSE if service else NORMAL, "flags": flags}
    found |= {
        "orig_ip": service.address if service else "0.0.0.0",
        "orig_port": service.port if service else 0,
        "tun_ip": tun_ip,
    }
    if has_counts(release):
        found |= {"orig_sport": 0, "orig_sip": "0.0.0.0"}
    return found | a.leg("a_to_b", release) | b.leg("b_to_a", release)


def forward(protocol: int, opener: End, other: End) -> Fields:
    """All fields, beside times, of the entry under a service's address."""
    reverse = {f"reverse.{k}": v for k, v in key_of(protocol, opener, other).items()}
    return {"type": NAT_FORWARD, "flags": 0} | reverse


# --------------------------------------------------------------------------- what bpftool prints


def bpftool(node: LabNode, *argv: str) -> Any:
    """What ``bpftool -j`` prints on the node, where the maps are pinned."""
    return json.loads(run(node.enter(["bpftool", "-j", *argv])))


def dump(node: LabNode, name: str) -> dict[bytes, bytes]:
    """The entries of a pinned map."""
    entries = bpftool(node, "map", "dump", "pinned", f"{GLOBALS}/{name}")
    # Of one that went between its key and its value an error is printed.
    return {
        octets(entry["key"]): octets(entry["value"])
        for entry in entries
        if isinstance(entry["value"], list)
    }


def octets(texts: Sequence[str]) -> bytes:
    return bytes(int(text, 16) for text in texts)


def connections(node: LabNode, release: str) -> dict[tuple[Any, ...], Fields]:
    """Key's fields (as a tuple) → value's fields."""
    return {
        tuple(connection_key(key).values()): connection(value, release)
        for key, value in dump(node, CONNTRACK_MAP[release]).items()
    }


def counters(node: LabNode, release: str) -> dict[tuple[int, int], list[int]]:
    """(ifindex, hook) → counters, summed over the CPUs; hook 0 is ingress, 1 egress."""
    entries = bpftool(node, "map", "dump", "pinned", f"{GLOBALS}/{COUNTERS_MAP[release]}")
    found = {}
    for entry in entries:
        if "values" not in entry:
            continue  # it went while it was looked at
        key = octets(entry["key"])
        place = int.from_bytes(key[:4], "little"), int.from_bytes(key[4:], "little")
        found[place] = summed(octets(cpu["value"]) for cpu in entry["values"])
    return found


def summed(per_cpu: Iterable[bytes]) -> list[int]:
    rows = [
        [int.from_bytes(value[at : at + 8], "little") for at in range(0, len(value), 8)]
        for value in per_cpu
    ]
    return [sum(column) for column in zip(*rows, strict=True)]
