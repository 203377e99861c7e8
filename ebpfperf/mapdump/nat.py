"""Services: frontends, backends and affinities of every release as frames.

Layouts: felix/bpf/nat/maps{,6}.go and bpf-gpl/nat_types.h, v3.13 to v3.32.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ebpfperf.mapdump import addresses
from ebpfperf.mapdump.entries import (
    Column,
    Entries,
    Words,
    categories,
    flag_names,
    frame,
    masked,
    plain,
    read,
    record,
)

WORDS: Words = {0x1: "external-local", 0x2: "internal-local", 0x4: "nat-exclude", 0x8: "maglev"}
FLAGS_SINCE = (3, 22)
NAT_EXCLUDE = 0x4
"""Flag of a service that is not translated: whoever set it has another way for it."""
# The count of a frontend for sources outside loadBalancerSourceRanges.
BLACKHOLE = 0xFFFFFFFF


def frontends(entries: Entries, family: int) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A row per frontend; with the key of eight bytes (v3.13, v3.14) any source counts."""
    address, wide = addresses.FORMATS[family], addresses.BYTES[family]
    trie = entries.key_bytes > 8
    at = 4 if trie else 0
    fields = [("addr", address, at), ("port", "<u2", at + wide), ("proto", "u1", at + wide + 2)]
    if trie:
        fields += [("bits", "<u4", 0), ("src", address, at + wide + 3)]
    key = read(entries.keys, record(*fields, size=entries.key_bytes))
    words = [("id", "<u4", 0), ("count", "<u4", 4), ("local", "<u4", 8), ("affinity", "<u4", 12)]
    if entries.value_bytes >= 20:
        words.append(("flags", "<u4", 16))
    value = read(entries.values, record(*words, size=entries.value_bytes))
    remarks: tuple[str, ...] = ()
    if trie:
        # The length counts what is before the source: address, port and protocol.
        before = 8 * (wide + 3)
        bits = key["bits"].astype(np.int64) - before
        if count := int(((bits < 0) | (bits > 8 * wide)).sum()):
            remarks = (f"{count} of {len(bits)} frontends have a source of impossible length.",)
            bits = bits.clip(0, 8 * wide)
        sources: Column = pd.array(addresses.networks(family, key["src"], bits), dtype="str")
    else:
        sources = pd.array(["0.0.0.0/0"] * len(key), dtype="str")
    (addr,) = addresses.columns(family, (key["addr"], None))
    count_of = plain(value["count"])
    flagged = entries.value_bytes >= 20
    flags = plain(value["flags"]) if flagged else np.zeros(len(value), np.uint32)
    found = {
        "proto": plain(key["proto"]),
        "addr": addr,
        "port": plain(key["port"]),
        "src_cidr": sources,
        "id": plain(value["id"]),
        "count": count_of,
        "local": plain(value["local"]),
        "affinity_timeout_s": plain(value["affinity"]),
        "flags": flags if flagged else masked(flags, True),
        "flag_names": flag_names(flags, WORDS)
        if flagged
        else categories(np.full(len(value), -1, np.int8), []),
        "blackhole": count_of == BLACKHOLE,
    }
    return frame(found), remarks


def backends(entries: Entries, family: int) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A row per backend of a service."""
    address, wide = addresses.FORMATS[family], addresses.BYTES[family]
    key = read(entries.keys, record(("id", "<u4", 0), ("ordinal", "<u4", 4), size=8))
    layout = record(("addr", address, 0), ("port", "<u2", wide), size=entries.value_bytes)
    value = read(entries.values, layout)
    (addr,) = addresses.columns(family, (value["addr"], None))
    found = {
        "id": plain(key["id"]),
        "ordinal": plain(key["ordinal"]),
        "addr": addr,
        "port": plain(value["port"]),
    }
    return frame(found), ()


def affinities(entries: Entries, family: int) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A row per client that a service sends to one backend again."""
    address, wide = addresses.FORMATS[family], addresses.BYTES[family]
    key = read(
        entries.keys,
        record(
            *(("addr", address, 0), ("port", "<u2", wide), ("proto", "u1", wide + 2)),
            ("client", address, wide + 4),
            size=entries.key_bytes,
        ),
    )
    value = read(
        entries.values,
        record(
            *(("addr", address, 0), ("port", "<u2", wide)),
            ("at", "<u8", 8 if family == 4 else 24),
            size=entries.value_bytes,
        ),
    )
    pairs = ((key["addr"], None), (key["client"], None), (value["addr"], None))
    addr, client, backend = addresses.columns(family, *pairs)
    found = {
        "proto": plain(key["proto"]),
        "addr": addr,
        "port": plain(key["port"]),
        "client": client,
        "backend_addr": backend,
        "backend_port": plain(value["port"]),
        "last_used_ns": plain(value["at"]),
    }
    return frame(found), ()
