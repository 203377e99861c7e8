"""Histograms to charts: the share of observations below and above, on logarithmic scales."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ebpfperf import stats
from ebpfperf.chart import WIDTH_IN, Chart, Look, looks, tidy
from ebpfperf.compare import baseline_first, watched
from ebpfperf.model import Campaign, Status
from ebpfperf.units import NS_PER_US

ROUND_TRIPS = ("rr_ns", "srtt_ns")

_TITLES = {
    "rr_ns": "Round trip of every request",
    "srtt_ns": "TCP smoothed round-trip time",
    "runqueue_ns": "Wait of the load's tasks for a CPU",
    "softirq_wait_ns:NET_RX": "Wait of receiving softirqs (NET_RX)",
    "softirq_run_ns:NET_RX": "Run of receiving softirqs (NET_RX)",
    "connect_ns": "Making a TCP connection",
    "qdisc_ns": "Wait in the queue of",
}


def draw(
    histograms: pd.DataFrame,
    trials: pd.DataFrame,
    campaign: Campaign,
    *,
    names: Sequence[str] = ROUND_TRIPS,
) -> tuple[Chart, ...]:
    """For each histogram and flow: the share below (ECDF) and the share above (tail), log scales.

    Only histograms of ``names`` are drawn; a name stands for all that it is the beginning of, up to
    a colon (``qdisc_ns`` for every device's). Counts of a treatment's good trials are added, never
    their percentiles averaged; the thin lines are the single trials. Every step is at the upper
    bound of a bin, where it is exact.
    """
    trials = watched(trials, campaign)
    good = trials.loc[trials["status"].eq(Status.OK.value), ["trial_id", "treatment", "flow"]]
    if histograms.empty:
        return ()
    asked = histograms["metric"].isin(names)
    asked |= histograms["metric"].str.partition(":")[0].isin(names)
    joined = histograms[asked].merge(good, on="trial_id", validate="many_to_one")
    seen = (
        joined[["flow", "metric", "endpoint"]].drop_duplicates().sort_values(["metric", "endpoint"])
    )
    return tuple(
        _distribution(joined[joined["flow"].eq(flow.name)], campaign, flow.name, *map(str, pair))
        for flow in campaign.flows
        for pair in seen.loc[seen["flow"].eq(flow.name), ["metric", "endpoint"]].to_numpy()
    )


def _distribution(
    rows: pd.DataFrame, campaign: Campaign, flow: str, metric: str, endpoint: str
) -> Chart:
    style = looks(campaign)
    ours = rows[rows["metric"].eq(metric) & rows["endpoint"].eq(endpoint)]
    figure = Figure(figsize=(WIDTH_IN, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    shown, lines = [], []
    for name in baseline_first(campaign):
        one = ours[ours["treatment"].eq(name)]
        if one.empty:
            continue
        look = style[name]
        for _, trial in one.groupby("trial_id"):
            _steps(panels, trial, look=look, width=0.6, alpha=0.25)
        lines.append(_steps(panels, one, look=look, width=2.0, alpha=1))
        bounds, below = stats.cumulative(one["upper_ns"] / NS_PER_US, one["count"])
        counted = int(one["count"].sum())
        at = [float(bounds[np.searchsorted(below, q - 1e-12)]) for q in (0.5, 0.9, 0.99, 0.999)]
        shown.append((name, *at, counted))
    for axes in panels:
        tidy(axes)
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        steps = (1, 2, 5) if high / low < 100 else (1,)
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=steps))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.set_xlabel("µs (logarithmic)")
    panels[0].set_ylabel("Share of observations below")
    panels[1].set_ylabel("Share above")
    panels[1].set_yscale("log")
    names = [str(row[0]) for row in shown]
    figure.legend(lines, names, loc="outside upper center", ncols=len(names) or 1, frameon=False)
    columns = [
        "treatment",
        "p50_below_us",
        "p90_below_us",
        "p99_below_us",
        "p999_below_us",
        "count",
    ]
    frame = pd.DataFrame(shown, columns=columns)
    title = f"{_title(metric)}: flow {flow}, {_seen_at(endpoint)}"
    said = "; ".join(
        f"{name}: half below {p50:.4g} µs, 99 % below {p99:.4g} µs, of {count:,}"
        for name, p50, _, p99, _, count in shown
    )
    return Chart(figure, title, f"{title}. {said}.", frame)


def _title(metric: str) -> str:
    kind, _, device = metric.partition(":")
    return _TITLES.get(metric) or f"{_TITLES.get(kind, kind)} {device}".strip()


def _seen_at(endpoint: str) -> str:
    ends = endpoint.split("+")
    return f"seen at the {ends[0]}" if len(ends) == 1 else f"{' and '.join(ends)} together"


def _steps(
    panels: tuple[Axes, Axes], rows: pd.DataFrame, *, look: Look, width: float, alpha: float
) -> Line2D:
    """The line drawn for the histogram ``rows`` in the left panel; its complement in the right."""
    bounds, below = stats.cumulative(rows["upper_ns"] / NS_PER_US, rows["count"])
    line = look.line if alpha == 1 else "-"
    (drawn,) = panels[0].step(
        bounds, below, where="post", linestyle=line, color=look.colour, linewidth=width, alpha=alpha
    )
    # Nothing is above the last bound: a logarithmic axis has no place for it.
    panels[1].step(
        bounds[:-1],
        1 - below[:-1],
        where="post",
        linestyle=line,
        color=look.colour,
        linewidth=width,
        alpha=alpha,
    )
    return drawn
