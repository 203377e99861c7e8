"""Routes, IP sets, neighbours and interfaces of every release as frames.

Layouts: felix/bpf/{routes,ipsets,arp,ifstate}/map{,6}.go, v3.13 to v3.32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ebpfperf.mapdump import addresses
from ebpfperf.mapdump.entries import (
    Column,
    Entries,
    Words,
    flag_names,
    frame,
    masked,
    plain,
    read,
    record,
)

IN_POOL, NAT_OUT, WORKLOAD, LOCAL, HOST, SAME_SUBNET = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
TUNNELED, VXLAN = 0x40, 0x400
WORDS: Words = {
    IN_POOL: "in-pool", NAT_OUT: "nat-out", WORKLOAD: "workload", LOCAL: "local", HOST: "host",
    SAME_SUBNET: "same-subnet", TUNNELED: "tunneled", 0x80: "no-dsr",
    0x100: "blackhole-drop", 0x200: "blackhole-reject", VXLAN: "vxlan",
    0x800: "skip-ingress-redir",
}  # fmt: skip
INTERFACE_WORDS: Words = {
    0x1: "workload", 0x2: "v4Ready", 0x4: "v6Ready", 0x8: "host", 0x10: "bond",
    0x20: "bondslave", 0x40: "vxlan", 0x80: "ipip", 0x100: "wg", 0x200: "l3",
    0x400: "not-managed",
}  # fmt: skip
# Before IPv6 (v3.27) there was one bit for ready.
OLD_INTERFACE_WORDS: Words = {0x1: "workload", 0x2: "ready"}
# Numbers of programs after flags and name, by size of the value; -1 is none.
PROGRAMS: dict[int, tuple[str, ...]] = {
    4: (),
    20: (),
    40: ("xdp_v4", "ingress_v4", "egress_v4", "ingress_filter", "egress_filter"),
    52: (
        *("xdp_v4", "ingress_v4", "egress_v4", "xdp_v6", "ingress_v6", "egress_v6"),
        *("ingress_filter", "egress_filter"),
    ),
}
EVERY_PROGRAM = PROGRAMS[52]
_SET_BITS = 64


def routes(entries: Entries, family: int) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A row per route: ``ifindex`` to a workload here, ``next_hop`` to one elsewhere."""
    address, wide = addresses.FORMATS[family], addresses.BYTES[family]
    key = read(
        entries.keys, record(("bits", "<u4", 0), ("addr", address, 4), size=entries.key_bytes)
    )
    value = read(
        entries.values,
        record(
            *(("flags", "<u4", 0), ("next_hop", address, 4), ("ifindex", "<u4", 4)),
            size=entries.value_bytes,
        ),
    )
    flags = plain(value["flags"])
    workload, local = flags & WORKLOAD != 0, flags & LOCAL != 0
    bits, remarks = _lengths(key["bits"], 0, 8 * wide, "routes")
    (hop,) = addresses.columns(family, (value["next_hop"], workload & ~local))
    found: dict[str, Column] = {
        "dest": pd.array(addresses.networks(family, key["addr"], bits), dtype="str"),
        "flags": flags,
        "flag_names": flag_names(flags, WORDS),
        "ifindex": masked(value["ifindex"], ~(workload & local)),
        "next_hop": hop,
    }
    return frame(found), remarks


def ip_sets(entries: Entries, family: int) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A row per member of a set: a network, or an address with port and protocol."""
    address, wide = addresses.FORMATS[family], addresses.BYTES[family]
    key = read(
        entries.keys,
        record(
            *(("bits", "<u4", 0), ("set", ">u8", 4), ("addr", address, 12)),
            *(("port", "<u2", 12 + wide), ("proto", "u1", 14 + wide)),
            size=entries.key_bytes,
        ),
    )
    port = plain(key["proto"]) != 0
    raw = np.where(port, _SET_BITS + 8 * wide, key["bits"])
    bits, remarks = _lengths(raw, _SET_BITS, 8 * wide, "members")
    found: dict[str, Column] = {
        "set_id": pd.array([f"{number:#x}" for number in key["set"].tolist()], dtype="str"),
        "member": pd.array(addresses.networks(family, key["addr"], bits), dtype="str"),
        "port": masked(key["port"], ~port),
        "proto": masked(key["proto"], ~port),
    }
    return frame(found), remarks


def neighbours(entries: Entries, family: int) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A row per next hop: the two MAC addresses of packets to it."""
    address, wide = addresses.FORMATS[family], addresses.BYTES[family]
    layout = record(("addr", address, 0), ("ifindex", "<u4", wide), size=entries.key_bytes)
    key = read(entries.keys, layout)
    (addr,) = addresses.columns(family, (key["addr"], None))
    found: dict[str, Column] = {
        "addr": addr,
        "ifindex": plain(key["ifindex"]),
        "src_mac": _macs(entries.values[:, :6]),
        "dst_mac": _macs(entries.values[:, 6:12]),
    }
    return frame(found), ()


def interfaces(entries: Entries, *, new_words: bool) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A row per interface: flags, and which programs it has by number.

    ``new_words``: whether ready is told apart for IPv4 and IPv6 (v3.27).
    """
    size = entries.value_bytes
    fields = [("flags", "<u4", 0)]
    fields += [("name", "S16", 4)] if size >= 20 else []
    fields += [(name, "<i4", 20 + 4 * at) for at, name in enumerate(PROGRAMS[size])]
    value = read(entries.values, record(*fields, size=size))
    key = read(entries.keys, record(("ifindex", "<u4", 0), size=4))
    flags = plain(value["flags"])
    names: list[str | None] = [None] * len(value)
    if size >= 20:
        names = [name.decode("utf-8", "replace") for name in value["name"].tolist()]
    found: dict[str, Column] = {
        "ifindex": plain(key["ifindex"]),
        "name": pd.array(names, dtype="str"),
        "flags": flags,
        "flag_names": flag_names(flags, INTERFACE_WORDS if new_words else OLD_INTERFACE_WORDS),
    }
    for name in EVERY_PROGRAM:
        if name in PROGRAMS[size]:
            found[name] = masked(value[name], plain(value[name]) == -1)
        else:
            found[name] = masked(np.zeros(len(value), np.int32), True)
    return frame(found), ()


def _lengths(
    bits: npt.NDArray[Any], before: int, most: int, what: str
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Bits of the address, and what is said where there can be no such number."""
    found = bits.astype(np.int64) - before
    count = int(((found < 0) | (found > most)).sum())
    if not count:
        return found, ()
    said = f"{count} of {len(found)} {what} have a prefix of impossible length."
    return found.clip(0, most), (said,)


def _macs(octets: npt.NDArray[np.uint8]) -> Column:
    texts = [row.tobytes().hex(":") for row in np.ascontiguousarray(octets)]
    return pd.array(texts, dtype="str")
