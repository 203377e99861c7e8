"""Connections: the conntrack map of every release as a frame.

``conntrack_layout`` says where things are in an entry.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ebpfperf.mapdump import addresses
from ebpfperf.mapdump.conntrack_layout import Layout
from ebpfperf.mapdump.entries import (
    Column,
    Entries,
    categories,
    flag_names,
    frame,
    masked,
    named,
    plain,
    read,
)

Bool = npt.NDArray[np.bool_]
TCP = 6
TYPES = ("normal", "nat-forward", "nat-reverse")
NORMAL, FORWARD, REVERSE = range(3)
STATES = ("SYN-SENT", "ESTABLISHED", "RESET", "CLOSED")
LEG_BITS = {
    "syn_seen": 0x1, "ack_seen": 0x2, "fin_seen": 0x4, "rst_seen": 0x8,
    "approved": 0x10, "opener": 0x20, "workload": 0x40,
}  # fmt: skip
FWD_DSR, B_OPENED = 0x2, 0x100


def decode(entries: Entries, how: Layout) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The frame, and what is wrong with entries that are no connections."""
    key, value = read(entries.keys, how.key), read(entries.values, how.value)
    rest = read(entries.values, how.forward)
    kind = plain(value["type"])
    forward = kind == FORWARD
    known = kind <= REVERSE
    legs = known & ~forward
    flags = _flags(value, how)
    bits = {way: plain(value[f"{way}_bits"]) for way in ("a_to_b", "b_to_a")}
    columns: dict[str, Column] = {"proto": plain(key["proto"])}
    a, b, orig, orig_sip, tun, rev_a, rev_b = addresses.columns(
        how.family,
        (key["addr_a"], None),
        (key["addr_b"], None),
        (value["orig_ip"], legs),
        (value["orig_sip"], legs) if "orig_sip" in how.value.fields else _none(value["orig_ip"]),  # type: ignore[operator]
        (value["tun_ip"], legs),
        (rest["rev_addr_a"], forward),
        (rest["rev_addr_b"], forward),
    )
    columns |= {"addr_a": a, "port_a": plain(key["port_a"])}
    columns |= {"addr_b": b, "port_b": plain(key["port_b"])}
    columns["type"] = named(kind, TYPES)
    columns[how.first_word] = plain(value["first"])
    columns["last_seen_ns"] = plain(value["last_seen_ns"])
    columns |= {"flags": flags, "flag_names": flag_names(flags, how.words)}
    for way in ("a_to_b", "b_to_a"):
        columns |= _leg(value, way, bits[way], how, ~legs)
    columns |= {"orig_ip": orig, "orig_port": masked(value["orig_port"], ~legs)}
    columns["orig_sport"] = masked(value["orig_sport"], ~legs if how.source_ports else True)
    columns |= {"orig_sip": orig_sip, "tun_ip": tun}
    columns |= {
        "rev_proto": masked(rest["rev_proto"], ~forward),
        "rev_addr_a": rev_a,
        "rev_port_a": masked(rest["rev_port_a"], ~forward),
        "rev_addr_b": rev_b,
        "rev_port_b": masked(rest["rev_port_b"], ~forward),
    }
    columns["nat_sport"] = masked(rest["nat_sport"], ~forward if how.source_ports else True)
    columns["tcp_state"] = _state(bits["a_to_b"], bits["b_to_a"], flags, legs & (key["proto"] == 6))
    columns |= _initiator(key, rest, forward, bits, flags, how, (a, b))
    return frame(columns), _doubts(key, kind, value, how)


def likely(entries: Entries) -> bool:
    """Whether these are connections, and not something else of that length: protocols and types."""
    protocols, kinds = entries.keys[:, 1:4], entries.values[:, 16]
    return not protocols.any() and bool((kinds <= REVERSE).all())


def _flags(value: npt.NDArray[Any], how: Layout) -> npt.NDArray[np.uint32]:
    flags = value["flags"].astype(np.uint32)
    if how.flag_bytes >= 2:
        flags |= value["flags_8"].astype(np.uint32) << 8
    if how.flag_bytes == 4:
        flags |= value["flags_16"].astype(np.uint32) << 16
        flags |= value["flags_24"].astype(np.uint32) << 24
    return flags


def _leg(
    value: npt.NDArray[Any], way: str, bits: npt.NDArray[np.uint32], how: Layout, missing: Bool
) -> dict[str, Column]:
    count = len(bits)
    found = {
        "bytes": masked(value[f"{way}_bytes"], missing)
        if how.counts
        else _absent(count, np.uint64),
        "packets": masked(value[f"{way}_packets"], missing)
        if how.counts
        else _absent(count, np.uint32),
        "seqno": masked(value[f"{way}_seqno"], missing),
    }
    for name, bit in LEG_BITS.items():
        unknown = missing if how.workload or name != "workload" else True
        found[name] = masked((bits & bit) != 0, unknown)
    found["ifindex"] = (
        masked(value[f"{way}_ifindex"], missing) if how.ifindex else _absent(count, np.uint32)
    )
    return {f"{way}_{name}": column for name, column in found.items()}


def _state(
    a: npt.NDArray[np.uint32], b: npt.NDArray[np.uint32], flags: npt.NDArray[np.uint32], has: Bool
) -> Column:
    """Calico's own rule: felix/cmd/calico-bpf/commands/conntrack.go, dumpExtra."""
    either, both = a | b, a & b
    fin = np.where(flags & FWD_DSR != 0, either & 0x4, both & 0x4) != 0
    codes = np.full(len(a), -1, np.int8)
    codes[has] = 0
    codes[has & (both & 0x3 == 0x3)] = 1
    codes[has & (either & 0x8 != 0)] = 2
    codes[has & fin] = 3
    return categories(codes, list(STATES))


def _initiator(
    key: npt.NDArray[Any],
    rest: npt.NDArray[Any],
    forward: Bool,
    bits: dict[str, npt.NDArray[np.uint32]],
    flags: npt.NDArray[np.uint32],
    how: Layout,
    ends: tuple[Any, Any],
) -> dict[str, Column]:
    """Who opened it: by the flag, or in older versions by the legs' opener bits.

    Of a NAT forward entry it is the end that it shares with the connection behind it.
    """
    opened_a, opened_b = (bits[way] & 0x20 != 0 for way in ("a_to_b", "b_to_a"))
    if how.opener_by_flag:
        by_b = flags & B_OPENED != 0
        unknown = np.zeros(len(flags), np.bool_)
    else:
        by_b = opened_b & ~forward
        unknown = (opened_a == opened_b) | forward
    if forward.any():
        at = np.flatnonzero(forward)
        one, other = key[at], rest[at]
        shared_a, shared_b = (
            np.logical_or.reduce(
                [
                    addresses.equal(one[f"addr_{end}"], other[f"rev_addr_{side}"])
                    & (one[f"port_{end}"] == other[f"rev_port_{side}"])
                    for side in "ab"
                ]
            )
            for end in "ab"
        )
        told = shared_a != shared_b
        by_b[at[told]] = shared_b[told]
        unknown[at[told]] = False
    a, b = ends
    codes_a, codes_b = np.asarray(a.codes), np.asarray(b.codes)
    result = {}
    for name, first, second in (("src", codes_a, codes_b), ("dst", codes_b, codes_a)):
        codes = np.where(by_b, second, first)
        codes[unknown] = -1
        result[f"initiator_{name}"] = pd.Categorical.from_codes(
            codes, dtype=a.dtype, validate=False
        )
    sport = np.where(by_b, key["port_b"], key["port_a"])
    dport = np.where(by_b, key["port_a"], key["port_b"])
    return {
        "initiator_src": result["initiator_src"],
        "initiator_sport": masked(sport, unknown),
        "initiator_dst": result["initiator_dst"],
        "initiator_dport": masked(dport, unknown),
    }


def _doubts(
    key: npt.NDArray[Any], kind: npt.NDArray[np.uint8], value: npt.NDArray[Any], how: Layout
) -> tuple[str, ...]:
    """What no connection of Calico's is like."""
    found = []
    if count := int((kind > REVERSE).sum()):
        found.append(f"{count} of {len(kind)} entries are of no known type: their body is missing.")
    if count := int((key["proto"] > 255).sum()):
        found.append(f"{count} of {len(kind)} entries have a protocol above 255.")
    if count := int((value["first"] > value["last_seen_ns"]).sum()):
        found.append(
            f"{count} of {len(kind)} entries have {how.first_word} after last_seen_ns: "
            "another release's layout, or a torn entry."
        )
    return tuple(found)


def _none(like: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Bool]:
    return like, np.zeros(len(like), np.bool_)


def _absent(count: int, dtype: Any) -> Column:
    return masked(np.zeros(count, dtype), True)
