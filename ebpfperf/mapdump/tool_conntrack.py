"""What ``calico-bpf conntrack dump`` prints, with and without ``--raw``, v3.16 to v3.32.

Sources: felix/cmd/calico-bpf/commands/conntrack.go and felix/bpf/conntrack/v*/map.go (String).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from ebpfperf.mapdump.addresses import respelled
from ebpfperf.mapdump.conntrack import LEG_BITS, TYPES
from ebpfperf.mapdump.conntrack_layout import WORDS
from ebpfperf.mapdump.entries import spell

Row = dict[str, Any]
_KEY = r"ConntrackKey\{proto=(\d+) (\S+):(\d+) <-> (\S+):(\d+)\}"
_RAW = re.compile(
    rf"{_KEY} -> Entry\{{Type:(?P<type>\d+),(?: Created:(?P<created>\d+),)? "
    rf"LastSeen:(?P<seen>\d+), Flags:(?P<flags>.*?)\s+"
    rf"(?:REVKey ?: (?P<rev>{_KEY})(?: NATSPort: (?P<sport>\d+))?|Data: \{{(?P<data>.*)\}}"
    rf"|TYPE INVALID)\}}(?P<rest>.*)"
)
_REV = re.compile(_KEY)
_LEG = re.compile(r"(A2B|B2A):\{([^}]*)\}")
_PAIR = re.compile(r"(\w+):(\S+)")
_END = r"(\S+):(\d+)"
_PRETTY = re.compile(
    rf"(?P<proto>[A-Z0-9]+|Proto-\d+|UNKNOWN) {_END} -> {_END}(?: -> {_END})?"
    r"(?: external client, service forwarded to/from (?P<tunnel>\S+))?"
    r"(?: source port changed from (?P<sport>\d+))?\s+(?P<rest>(?:Age|Active ago).*)"
)
_REST = re.compile(r"Active ago (?P<ago>-?[0-9.a-zµ]+)(?: (?P<state>[A-Z-]+))?")
_PROTOCOLS = {"TCP": 6, "UDP": 17, "ICMP": 1, "ICMP6": 58, "SCTP": 132}
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6, "ns": 1e-9}
_LEG_NAMES = {
    "Bytes": "bytes", "Packets": "packets", "Seqno": "seqno", "Ifindex": "ifindex",
    "SynSeen": "syn_seen", "AckSeen": "ack_seen", "FinSeen": "fin_seen", "RstSeen": "rst_seen",
    "Whitelisted": "approved", "Approved": "approved", "Opener": "opener", "Workload": "workload",
}  # fmt: skip
_LEG_FIELDS = ("bytes", "packets", "seqno", *LEG_BITS, "ifindex")
COLUMNS = (
    *("proto", "addr_a", "port_a", "addr_b", "port_b", "type", "created_ns", "last_seen_ns"),
    *("flags", "flag_names"),
    *(f"{way}_{name}" for way in ("a_to_b", "b_to_a") for name in _LEG_FIELDS),
    *("orig_ip", "orig_port", "orig_sport", "orig_sip", "tun_ip"),
    *("rev_proto", "rev_addr_a", "rev_port_a", "rev_addr_b", "rev_port_b", "nat_sport"),
    *("tcp_state", "initiator_src", "initiator_sport", "initiator_dst", "initiator_dport"),
    "active_ago_s",
)


def rows(text: str) -> tuple[dict[str, list[Row]], int, list[str]]:
    """Rows of connections, how many lines are none, and what is to be said."""
    found: list[Row] = []
    unread = pretty = 0
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            if at := _RAW.fullmatch(line.strip()):
                found.append(_raw(at))
            elif at := _PRETTY.fullmatch(line.strip()):
                found.append(_pretty(at))
                pretty += 1
            else:
                unread += 1
        except ValueError:
            # An address, or a number, that is none: the line was cut or mixed with another.
            unread += 1
    remarks = []
    if pretty:
        remarks.append(
            "The tool shows connections without counts, flags and NAT-forward entries: "
            "dump with --raw, or the map with bpftool."
        )
    return {"conntrack": found}, unread, remarks


def seconds(duration: str) -> float | None:
    """Seconds of what Go prints of a duration, such as ``1m15.98s``; None where it is none."""
    parts = re.findall(r"([0-9.]+)(h|ms|m|s|µs|us|ns)", duration)
    if not parts:
        return None
    total = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    return -total if duration.startswith("-") else total


def _raw(at: re.Match[str]) -> Row:
    proto, addr_a, port_a, addr_b, port_b = at.group(1, 2, 3, 4, 5)
    row = _blank(int(proto), (addr_a, int(port_a)), (addr_b, int(port_b)))
    kind = int(at["type"])
    row["type"] = TYPES[kind] if kind < len(TYPES) else None
    row["created_ns"] = int(at["created"]) if at["created"] else None
    row["last_seen_ns"] = int(at["seen"])
    words = at["flags"].split()
    names = [word for word in words if word != "<none>" and not word.startswith("0x")]
    number = next((int(word, 16) for word in words if word.startswith("0x")), None)
    bits = {name: bit for bit, name in WORDS.items()}
    row["flags"] = sum(bits.get(name, 0) for name in names) if number is None else number
    # Of map 3 the tool prints no-dsr for the bit of np-remote, too: the number is right.
    row["flag_names"] = spell(row["flags"], WORDS)
    if at["rev"] and (rev := _REV.fullmatch(at["rev"])):
        row |= {
            "rev_proto": int(rev[1]), "rev_addr_a": respelled(rev[2]), "rev_port_a": int(rev[3]),
            "rev_addr_b": respelled(rev[4]), "rev_port_b": int(rev[5]),
        }  # fmt: skip
        row["nat_sport"] = int(at["sport"]) if at["sport"] else None
    if at["data"]:
        _body(row, at["data"])
    _rest(row, at["rest"])
    return row


def _body(row: Row, data: str) -> None:
    for way, inside in _LEG.findall(data):
        prefix = "a_to_b" if way == "A2B" else "b_to_a"
        for name, value in _PAIR.findall(inside):
            if name in _LEG_NAMES:
                told = value == "true" if value in ("true", "false") else int(value)
                row[f"{prefix}_{_LEG_NAMES[name]}"] = told
    others = dict(_PAIR.findall(_LEG.sub("", data)))
    for name, field in (("orig_ip", "OrigDst"), ("orig_sip", "OrigSrc"), ("tun_ip", "TunIP")):
        row[name] = respelled(others[field]) if field in others else None
    for name, field in (("orig_port", "OrigPort"), ("orig_sport", "OrigSPort")):
        row[name] = int(others[field]) if field in others else None
    # The flag tells since v3.24, which prints bytes of the legs; before, the opener's bit.
    if "Bytes:" in data:
        _initiated(row, by_b=bool(row["flags"] & 0x100))
    elif row["a_to_b_opener"] != row["b_to_a_opener"]:
        _initiated(row, by_b=bool(row["b_to_a_opener"]))


def _pretty(at: re.Match[str]) -> Row:
    src, sport, second, second_port, third, third_port = at.groups()[1:7]
    ends = [(src.strip("[]"), int(sport)), (second.strip("[]"), int(second_port))]
    server = (third.strip("[]"), int(third_port)) if third else ends[1]
    client = ends[0]
    word = at["proto"]
    number = _PROTOCOLS.get(word, int(word[6:]) if word.startswith("Proto-") else None)
    a, b = sorted((client, server), key=_rank)
    row = _blank(number, a, b)
    row["type"] = "nat-reverse" if third else "normal"
    if third:
        row["orig_ip"], row["orig_port"] = respelled(ends[1][0]), ends[1][1]
        row["tun_ip"] = respelled(at["tunnel"]) if at["tunnel"] else None
    row["orig_sport"] = int(at["sport"]) if at["sport"] else None
    _initiated(row, by_b=client != a)
    _rest(row, at["rest"])
    return row


def _rank(end: tuple[str, int]) -> tuple[tuple[int, ...], int]:
    """Which end is A: addresses compare as little-endian words (bpf-gpl/conntrack.h)."""
    packed = ipaddress.ip_address(end[0]).packed
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    return tuple(int.from_bytes(word, "little") for word in words), end[1]


def _blank(proto: int | None, a: tuple[str, int], b: tuple[str, int]) -> Row:
    row: Row = dict.fromkeys(COLUMNS)
    row |= {
        "proto": proto, "addr_a": respelled(a[0]), "port_a": a[1],
        "addr_b": respelled(b[0]), "port_b": b[1],
    }  # fmt: skip
    return row


def _initiated(row: Row, *, by_b: bool) -> None:
    src, dst = ("b", "a") if by_b else ("a", "b")
    row |= {
        "initiator_src": row[f"addr_{src}"], "initiator_sport": row[f"port_{src}"],
        "initiator_dst": row[f"addr_{dst}"], "initiator_dport": row[f"port_{dst}"],
    }  # fmt: skip


def _rest(row: Row, text: str) -> None:
    if at := _REST.search(text):
        row["active_ago_s"] = seconds(at["ago"])
        row["tcp_state"] = at["state"]
