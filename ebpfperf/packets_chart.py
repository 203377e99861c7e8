"""What became of packets at each hook, as a chart."""

from __future__ import annotations

import pandas as pd

from ebpfperf import stacked_bars
from ebpfperf.chart import Chart
from ebpfperf.packets_view import Log, hooks

# Dropped comes last, in the strongest of colours and hatches.
_LOOKS = {
    "redirect": ("#0072B2", ""), "redirect to peer": ("#56B4E9", "//"),
    "host stack": ("#E69F00", ".."), "bypass": ("#CCCCCC", ""),
    "accepted by XDP": ("#009E73", "--"), "UNKNOWN": ("#FFFFFF", "xx"),
    "dropped": ("#D55E00", "\\\\\\"),
}  # fmt: skip


def fates(log: Log) -> Chart:
    """Sights of packets by hook and by what became of them."""
    path = log.packets["path"].astype(str)
    counts = pd.crosstab(hooks(log.packets), path) if len(path) else pd.DataFrame()
    title = "What became of packets, by hook"
    return stacked_bars.draw(counts, _LOOKS, title=title, what="Sights of packets", rows="hook")
