"""What Calico's programs counted, by interface, hook and reason: the counters map as a frame.

Source: felix/bpf/counters/counters.go and bpf-gpl/counters.h, v3.24 to v3.32.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ebpfperf.calico.counters import CAPTIONS, HOOKS
from ebpfperf.mapdump.entries import Column, Entries, frame, named, plain, read, record


def decode(entries: Entries) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A row per interface, hook and counter: packets, added over all processors.

    A number that this table has no words for is ``Unknown counter 27``.
    """
    values = entries.values if entries.per_cpu else entries.values[:, np.newaxis, :]
    sums = np.ascontiguousarray(values).view("<u8").sum(axis=1, dtype=np.uint64)
    count = sums.shape[1]
    size = entries.key_bytes
    if size >= 8:
        key = read(entries.keys, record(("ifindex", "<u4", 0), ("hook", "<u4", 4), size=size))
        ifindex, hook = plain(key["ifindex"]), plain(key["hook"])
    else:
        # v3.24 and v3.25 have a map for each interface and hook, which the pin's place tells.
        ifindex = hook = np.full(len(entries), len(HOOKS), np.uint32)
    rows = len(entries)
    known = CAPTIONS[:count]
    words = [*known, *(("Unknown", f"counter {at}") for at in range(len(known), count))]
    hooks = named(hook, HOOKS)
    places: Column = pd.array(ifindex, dtype="UInt32")
    if size < 8:
        places[:] = pd.NA
    found: dict[str, Column] = {
        "interface": pd.array([None] * (rows * count), dtype="str"),
        "ifindex": places.repeat(count),
        "hook": hooks.repeat(count),
        "counter": np.tile(np.arange(count, dtype=np.uint8), rows),
        "category": pd.Categorical([category for category, _ in words] * rows),
        "caption": pd.Categorical([caption for _, caption in words] * rows),
        "packets": sums.reshape(-1),
    }
    remarks: tuple[str, ...] = ()
    if not entries.per_cpu and rows:
        remarks = ("The dump has one value an entry: of one processor, or already added.",)
    return frame(found), remarks
