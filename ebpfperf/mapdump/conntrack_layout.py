"""Where things are in a conntrack entry: every version of the map, IPv4 and IPv6.

Sources: felix/bpf/conntrack/{,v2,v3,v4}/map{,6}.go and bpf-gpl/conntrack_types.h, v3.13 to v3.32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ebpfperf.calico.releases import minor
from ebpfperf.mapdump import addresses
from ebpfperf.mapdump.entries import Entries, Words, record

# felix/bpf/conntrack/v*/map.go, String; the bit of np-remote prints no-dsr as well in v3's.
WORDS: Words = {
    0x1: "nat-out", 0x2: "fwd-dsr", 0x4: "np-fwd", 0x8: "skip-fib", 0x40: "ext-local",
    0x80: "via-nat-iface", 0x100: "B-A", 0x200: "host-psnat", 0x400: "svc-self",
    0x800: "np-loop", 0x1000: "np-remote", 0x2000: "no-dsr", 0x4000: "no-redir-peer",
    0x8000: "dscp", 0x10000: "maglev", 0x20000: "send-rst", 0x40000: "connlimit-in",
    0x80000: "connlimit-in-rej", 0x100000: "connlimit-out", 0x200000: "connlimit-dec",
}  # fmt: skip
RESET_TIME_SINCE = (3, 30)
_CLUSTER_EXTERNAL_IN = (3, 31)
_HIGH_FLAGS_SINCE = (3, 32)
_WORKLOAD_SINCE = (3, 30)
# Before, what is now a changed source port was padding.
_SOURCE_PORTS_SINCE = (3, 21)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in one version, and what they mean in one release.

    Attributes
    ----------
    first_word
        Name of the first eight bytes: ``created_ns`` or ``rst_seen_ns``.
    legs
        Whether a leg has bytes and packets, and whether it has an ifindex.
    flag_bytes
        How many bytes of flags there are: 1, 2 or 4.
    source_ports
        Whether ports that NAT gave a source are there: ``orig_sport``, ``nat_sport``.
    """

    family: int
    key: np.dtype[Any]
    value: np.dtype[Any]
    forward: np.dtype[Any]
    first_word: str
    counts: bool
    ifindex: bool
    flag_bytes: int
    opener_by_flag: bool
    source_ports: bool
    workload: bool
    words: Words


def layout(number: int, family: int, release: str | None, *, first_word: str | None) -> Layout:
    """The layout of version 1, 2, 3 or 4 of the map.

    Parameters
    ----------
    release
        None: what the version's newest release means.
    first_word
        Of version 3, where the release is not known.
    """
    newest = {1: (3, 13), 2: (3, 23), 3: (3, 30), 4: (3, 34)}[number]
    at = minor(release) if release else newest
    if number == 3 and release is None:
        at = (3, 29) if first_word == "created_ns" else (3, 30)
    reset = number == 4 or (number == 3 and at >= RESET_TIME_SINCE)
    words = dict(WORDS)
    if number == 4 and at == _CLUSTER_EXTERNAL_IN:
        words[0x8000] = "cluster-external"
    if number == 4 and release is None:
        # Two releases mean two things by it.
        del words[0x8000]
    wide = number == 4 and at >= _HIGH_FLAGS_SINCE
    return Layout(
        family=family,
        key=key_type(family),
        value=_value(number, family),
        forward=_forward(number, family),
        first_word="rst_seen_ns" if reset else "created_ns",
        counts=number >= 3,
        ifindex=number >= 2,
        flag_bytes=4 if wide else 2 if number >= 3 else 1,
        opener_by_flag=number >= 3,
        source_ports=number >= 2 and at >= _SOURCE_PORTS_SINCE,
        workload=number == 4 or (number == 3 and at >= _WORKLOAD_SINCE),
        words=words,
    )


def first_word_seen(entries: Entries) -> str:
    """What the first eight bytes seem to be: nearly no connection has been reset."""
    words = np.asarray(entries.values[:, :8].any(axis=1))
    return "created_ns" if len(words) and words.mean() > 0.5 else "rst_seen_ns"


def key_type(family: int, at: int = 0, size: int = 0, prefix: str = "") -> np.dtype[Any]:
    """The record of a key; with ``at`` and ``size``, of one within something longer."""
    address, wide = addresses.FORMATS[family], addresses.BYTES[family]
    fields = (
        ("proto", "<u4", 0), ("addr_a", address, 4), ("addr_b", address, 4 + wide),
        ("port_a", "<u2", 4 + 2 * wide), ("port_b", "<u2", 6 + 2 * wide),
    )  # fmt: skip
    return record(
        *((prefix + name, kind, at + offset) for name, kind, offset in fields),
        size=size or 8 + 2 * wide,
    )


_HEAD = (("first", "<u8", 0), ("last_seen_ns", "<u8", 8), ("type", "u1", 16), ("flags", "u1", 17),
         ("flags_16", "u1", 18), ("flags_24", "u1", 19), ("flags_8", "u1", 23))  # fmt: skip
_SIZES = {(1, 4): 56, (2, 4): 64, (3, 4): 88, (4, 4): 88, (3, 6): 128, (4, 6): 128}


def _value(number: int, family: int) -> np.dtype[Any]:
    address = addresses.FORMATS[family]
    leg = {1: 8, 2: 12}.get(number, 24)
    at = 12 if leg == 24 else 0
    inside = [("seqno", ">u4", at), ("bits", "<u4", at + 4)]
    if leg > 8:
        inside.append(("ifindex", "<u4", at + 8))
    if leg > 12:
        inside += [("bytes", "<u8", 0), ("packets", "<u4", 8)]
    legs = [
        (f"{way}_{name}", kind, start + offset)
        for way, start in (("a_to_b", 24), ("b_to_a", 24 + leg))
        for name, kind, offset in inside
    ]
    if number <= 2:
        end = 24 + 2 * leg
        rest = [("orig_ip", address, end), ("orig_port", "<u2", end + 4)]
        rest += [("orig_sport", "<u2", end + 6), ("tun_ip", address, end + 8)]
        if number == 2:
            rest.append(("orig_sip", address, end + 12))
    elif family == 4:
        rest = [("tun_ip", address, 72), ("orig_ip", address, 76), ("orig_port", "<u2", 80),
                ("orig_sport", "<u2", 82), ("orig_sip", address, 84)]  # fmt: skip
    else:
        rest = [("tun_ip", address, 72), ("orig_ip", address, 88), ("orig_port", "<u2", 104),
                ("orig_sport", "<u2", 106), ("orig_sip", address, 108)]  # fmt: skip
    return record(*_HEAD, *legs, *rest, size=_SIZES[number, family])


def _forward(number: int, family: int) -> np.dtype[Any]:
    size = _SIZES[number, family]
    inner = key_type(family, 24, size, "rev_")
    fields = {name: inner.fields[name] for name in inner.names}  # type: ignore[index,union-attr]
    found = [(name, kind.str if kind.subdtype is None else addresses.FORMATS[family], offset)
             for name, (kind, offset, *_) in fields.items()]  # fmt: skip
    found.append(("nat_sport", "<u2", 40 if family == 4 else 64))
    return record(*found, size=size)
