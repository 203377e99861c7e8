"""Connections of nodes as charts: their states, and how long ago each was active."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ebpfperf import stacked_bars
from ebpfperf.chart import WIDTH_IN, Chart, tidy
from ebpfperf.mapdump import summaries
from ebpfperf.maps_view import Maps

# Colour and hatch say the same.
_LOOKS = {
    "ESTABLISHED": ("#0072B2", ""), "SYN-SENT": ("#D55E00", "\\\\\\"), "CLOSED": ("#CCCCCC", ""),
    "RESET": ("#E69F00", ".."), "not TCP": ("#009E73", "--"),
}  # fmt: skip
_LINES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#595959", ":"))
# What is less long ago is drawn there: a logarithm has no zero.
_LEAST_S = 1e-3
# Of a dump that says of no node.
_NO_NODE = "the dump"


def states(found: Maps) -> Chart:
    """Connections by node and TCP state; entries that only lead to another are left out."""
    frame = found.frame("conntrack")
    counts = pd.DataFrame()
    if "type" in frame:
        own = frame[~frame["type"].eq("nat-forward")]
        state = own["tcp_state"].astype(object).where(own["tcp_state"].notna(), "not TCP")
        counts = pd.crosstab(own["node"].replace("", _NO_NODE), state)
    title = "Connections by node and TCP state"
    return stacked_bars.draw(counts, _LOOKS, title=title, what="Connections", rows="node")


def ages(found: Maps) -> Chart:
    """How long ago connections were active: of each node the share that was within a time."""
    figure = Figure(figsize=(WIDTH_IN, 2.8), layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    rows: list[tuple[str, int, float, float, float]] = []
    since_all: set[str] = set()
    wanted = sorted(found.of("conntrack"), key=lambda each: -len(each.decoded.frame))
    for number, each in enumerate(wanted[: len(_LINES)]):
        frame = each.decoded.frame
        since, old = summaries.ages(frame[~frame["type"].eq("nat-forward")])
        if old.empty:
            continue
        since_all.add(since)
        at = np.sort(old.clip(lower=_LEAST_S).to_numpy())
        colour, line = _LINES[number]
        share = 100 * np.arange(1, len(at) + 1) / len(at)
        axes.step(at, share, where="post", color=colour, linestyle=line, linewidth=1.8,
                  label=f"{each.node or _NO_NODE} ({len(at):,})")  # fmt: skip
        half, most = np.quantile(at, [0.5, 0.9])
        rows.append((each.node or _NO_NODE, len(at), half, most, at[-1]))
    axes.set_xscale("log")
    axes.set_ylim(0, 103)
    axes.set_ylabel("Connections, %")
    axes.set_xlabel(
        f"Active within so many seconds before {' or '.join(sorted(since_all)) or 'now'}"
    )
    if rows:
        axes.legend(fontsize=8.5, frameon=False, loc="upper left")
    title = "How long ago connections were active"
    if len(wanted) > len(_LINES):
        title += f" (the {len(_LINES)} nodes with most of {len(wanted)})"
    said = "; ".join(
        f"{name}: half of {count:,} within {half:.3g} s, 90 % within {most:.3g} s"
        for name, count, half, most, _ in rows
    )
    columns = ["node", "connections", "half_within_s", "p90_within_s", "oldest_s"]
    numbers = pd.DataFrame(rows, columns=columns)
    return Chart(figure, title, f"{title}. {said or 'There are none'}.", numbers)
