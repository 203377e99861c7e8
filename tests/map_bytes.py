"""Entries of Calico's maps packed field by field with struct, and what they must decode to.

An oracle of its own: offsets are written out here, and nothing of the decoder is used.
"""

from __future__ import annotations

import ipaddress
import json
import random
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

TYPES = ("normal", "nat-forward", "nat-reverse")
BITS = ("syn_seen", "ack_seen", "fin_seen", "rst_seen", "approved", "opener", "workload")
WORDS = {
    0: "nat-out", 1: "fwd-dsr", 2: "np-fwd", 3: "skip-fib", 4: "0x10", 5: "0x20",
    6: "ext-local", 7: "via-nat-iface", 8: "B-A", 9: "host-psnat", 10: "svc-self", 11: "np-loop",
    12: "np-remote", 13: "no-dsr", 14: "no-redir-peer", 15: "dscp", 16: "maglev", 17: "send-rst",
    18: "connlimit-in", 19: "connlimit-in-rej", 20: "connlimit-out", 21: "connlimit-dec",
    **{bit: hex(1 << bit) for bit in range(22, 32)},
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Offsets of one version: of the second leg, and of what follows the legs."""

    name: str
    release: str
    family: int
    size: int
    leg: int
    orig_ip: int
    orig_port: int
    orig_sport: int | None
    tun_ip: int
    nat_sport: int | None
    first: str
    flag_bytes: tuple[int, ...]


LAYOUTS = (
    Layout("cali_v4_ct", "v3.13", 4, 56, 8, 40, 44, None, 48, None, "created_ns", (17,)),
    Layout("cali_v4_ct2", "v3.16", 4, 64, 12, 48, 52, None, 56, None, "created_ns", (17,)),
    Layout("cali_v4_ct3", "v3.26", 4, 88, 24, 76, 80, 82, 72, 40, "created_ns", (17, 23)),
    Layout("cali_v4_ct3", "v3.30", 4, 88, 24, 76, 80, 82, 72, 40, "rst_seen_ns", (17, 23)),
    Layout("cali_v4_ct4", "v3.31", 4, 88, 24, 76, 80, 82, 72, 40, "rst_seen_ns", (17, 23)),
    Layout("cali_v4_ct4", "v3.32", 4, 88, 24, 76, 80, 82, 72, 40, "rst_seen_ns", (17, 23, 18, 19)),
    Layout("cali_v6_ct3", "v3.29", 6, 128, 24, 88, 104, 106, 72, 64, "created_ns", (17, 23)),
    Layout("cali_v6_ct3", "v3.30", 6, 128, 24, 88, 104, 106, 72, 64, "rst_seen_ns", (17, 23)),
    Layout(
        *("cali_v6_ct4", "v3.32", 6, 128, 24, 88, 104, 106, 72, 64, "rst_seen_ns"),
        (17, 23, 18, 19),
    ),
    Layout("cali_v4_ct2", "v3.21", 4, 64, 12, 48, 52, 54, 56, 40, "created_ns", (17,)),
)


def address(chance: random.Random, family: int) -> bytes:
    """Of few or of many, so that some occur again."""
    if chance.random() < 0.5:
        return ipaddress.ip_address("10.65.0.7" if family == 4 else "fd00::7").packed
    return chance.randbytes(4 if family == 4 else 16)


def text(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))


def key(chance: random.Random, family: int) -> tuple[bytes, dict[str, Any]]:
    """A conntrack key and its fields."""
    a, b = address(chance, family), address(chance, family)
    proto = chance.choice([1, 6, 6, 17, 58, 132])
    ports = chance.randrange(1 << 16), chance.randrange(1 << 16)
    fields = {"proto": proto, "addr_a": text(a), "port_a": ports[0]}
    fields |= {"addr_b": text(b), "port_b": ports[1]}
    return struct.pack("<I", proto) + a + b + struct.pack("<HH", *ports), fields


def connection(chance: random.Random, how: Layout) -> tuple[bytes, bytes, dict[str, Any]]:
    """Key, value and the JSON object that they are."""
    packed, expected = key(chance, how.family)
    value = bytearray(chance.randbytes(how.size))
    kind = chance.randrange(3)
    first, seen = sorted((chance.randrange(1 << 62), chance.randrange(1 << 62)))
    struct.pack_into("<QQB", value, 0, first, seen, kind)
    octets = [chance.choice([0, 1 << chance.randrange(8), chance.randrange(256)])
              for _ in how.flag_bytes]  # fmt: skip
    for at, octet in zip(how.flag_bytes, octets, strict=True):
        value[at] = octet
    flags = sum(octet << 8 * number for number, octet in enumerate(octets))
    words = dict(WORDS)
    if how.release == "v3.31":
        words[15] = "cluster-external"
    expected |= {"type": TYPES[kind], how.first: first, "last_seen_ns": seen, "flags": flags}
    expected["flag_names"] = [words[bit] for bit in range(32) if flags >> bit & 1]
    expected |= dict.fromkeys(("a_to_b", "b_to_a", "orig_ip", "orig_port", "orig_sport", "tun_ip",
                               "rev_key", "nat_sport", "tcp_state", "initiator"))  # fmt: skip
    by_flag = how.size >= 88
    opened_by_b = bool(flags & 0x100) if by_flag else None
    if kind == 1:
        reverse, fields = key(chance, how.family)
        if chance.random() < 0.8:
            opened_by_b = chance.random() < 0.5
            reverse, fields = _sharing(chance, how.family, packed, b=opened_by_b)
        value[24 : 24 + len(reverse)] = reverse
        expected["rev_key"] = fields
        if how.nat_sport is not None:
            (expected["nat_sport"],) = struct.unpack_from("<H", value, how.nat_sport)
    else:
        legs = [_leg(chance, value, 24 + how.leg * number, how) for number in range(2)]
        expected |= {"a_to_b": legs[0], "b_to_a": legs[1]}
        wide = 4 if how.family == 4 else 16
        expected["orig_ip"] = text(bytes(value[how.orig_ip : how.orig_ip + wide]))
        expected["tun_ip"] = text(bytes(value[how.tun_ip : how.tun_ip + wide]))
        (expected["orig_port"],) = struct.unpack_from("<H", value, how.orig_port)
        if how.orig_sport is not None:
            (expected["orig_sport"],) = struct.unpack_from("<H", value, how.orig_sport)
        if expected["proto"] == 6:
            expected["tcp_state"] = state(legs[0], legs[1], fwd_dsr=bool(flags & 2))
        if not by_flag and legs[0]["opener"] != legs[1]["opener"]:
            opened_by_b = legs[1]["opener"]
    if opened_by_b is not None:
        src, dst = ("b", "a") if opened_by_b else ("a", "b")
        expected["initiator"] = {
            "src": expected[f"addr_{src}"], "sport": expected[f"port_{src}"],
            "dst": expected[f"addr_{dst}"], "dport": expected[f"port_{dst}"],
        }  # fmt: skip
    return packed, bytes(value), expected


def _sharing(
    chance: random.Random, family: int, packed: bytes, *, b: bool
) -> tuple[bytes, dict[str, Any]]:
    """A reverse key that has the one end of a key, and another for the other."""
    wide = 4 if family == 4 else 16
    at = 4 + wide if b else 4
    shared = packed[at : at + wide]
    port_at = 4 + 2 * wide + (2 if b else 0)
    port = packed[port_at : port_at + 2]
    proto = packed[:4]
    other, other_port = chance.randbytes(wide), chance.randbytes(2)
    first = chance.random() < 0.5
    ends = (shared, other) if first else (other, shared)
    ports = (port, other_port) if first else (other_port, port)
    fields = {
        "proto": int.from_bytes(proto, "little"),
        "addr_a": text(ends[0]), "port_a": int.from_bytes(ports[0], "little"),
        "addr_b": text(ends[1]), "port_b": int.from_bytes(ports[1], "little"),
    }  # fmt: skip
    return proto + ends[0] + ends[1] + ports[0] + ports[1], fields


def _leg(chance: random.Random, value: bytearray, at: int, how: Layout) -> dict[str, Any]:
    inner = at + (12 if how.leg == 24 else 0)
    found: dict[str, Any] = {"bytes": None, "packets": None, "ifindex": None}
    if how.leg == 24:
        found["bytes"], found["packets"] = struct.unpack_from("<QI", value, at)
    (found["seqno"],) = struct.unpack_from(">I", value, inner)
    bits = chance.choice([0x3, 0x13, 0x33, 0x7, 0xB, chance.randrange(128)])
    struct.pack_into("<I", value, inner + 4, bits)
    found |= {name: bool(bits >> number & 1) for number, name in enumerate(BITS)}
    if not (how.first == "rst_seen_ns"):
        found["workload"] = None
    if how.leg >= 12:
        (found["ifindex"],) = struct.unpack_from("<I", value, inner + 8)
    return found


def state(a: dict[str, Any], b: dict[str, Any], *, fwd_dsr: bool) -> str:
    """As calico-bpf says it."""
    fins = a["fin_seen"] + b["fin_seen"]
    if fins == 2 or (fins and fwd_dsr):
        return "CLOSED"
    if a["rst_seen"] or b["rst_seen"]:
        return "RESET"
    if all(leg[name] for leg in (a, b) for name in ("syn_seen", "ack_seen")):
        return "ESTABLISHED"
    return "SYN-SENT"


def as_bpftool(entries: Iterable[tuple[bytes, bytes]], *, spaced: bool = False) -> bytes:
    """The entries as ``bpftool -j map dump`` writes them; ``spaced``: as ``-p`` does."""
    found = [
        {"key": [f"0x{octet:02x}" for octet in key], "value": [f"0x{octet:02x}" for octet in value]}
        for key, value in entries
    ]
    if spaced:
        return json.dumps(found, indent=4).encode()
    return json.dumps(found, separators=(",", ":")).encode()
