"""Frames to charts: effects as a forest, every trial beside its summary, the course over blocks.

Raw trials are drawn beside every summary, and intervals always.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ebpfperf import compare, intervals, metrics, stats, tables
from ebpfperf.chart import FAINT, INK, WIDTH_IN, Chart, Look, label_ends, looks, tidy
from ebpfperf.compare import baseline_first
from ebpfperf.expectations import NO_EXPECTATION
from ebpfperf.model import Campaign, Flow, Status


def forest(
    effects: pd.DataFrame,
    campaign: Campaign,
    *,
    names: Sequence[str] = metrics.HEADLINE,
    title: str = "",
) -> Chart:
    """Every effect of the metrics in ``names`` as a point and interval, the margin shaded."""
    style = looks(campaign)
    kept = effects[effects["metric"].isin(names) & effects["ratio"].notna()]
    ranked = kept.assign(rank=kept["metric"].map({name: i for i, name in enumerate(names)}))
    rows = ranked.sort_values("rank", kind="stable").to_dict("records")
    lines = len(rows) + len({row["metric"] for row in rows})
    figure = Figure(figsize=(WIDTH_IN, 0.9 + 0.27 * max(3, lines)), layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    margin = 1 + campaign.margin_pct / 100
    axes.axvspan(1 / margin, margin, color="#E9E9E9", zorder=0)
    axes.axvline(1, color=FAINT, linewidth=1)
    widest = _widest(rows, margin)
    labels: list[str] = []
    heads: list[int] = []
    for row in rows:
        entry, look = metrics.metric(str(row["metric"])), style[str(row["treatment"])]
        head = f"{entry.label} ({entry.better.value} is better)"
        if head not in labels:
            heads.append(len(labels))
            labels.append(head)
        place = len(labels)
        _whisker(axes, place, row, look=look, widest=widest)
        axes.annotate(
            f"{tables.percent(row['ratio'])}  {row['verdict']}",
            (1.01, place), xycoords=("axes fraction", "data"), va="center", color=INK, fontsize=9,
        )  # fmt: skip
        labels.append(f"{row['flow']} · {row['treatment']}")
    axes.set_yticks(range(len(labels)), labels)
    for place in heads:
        axes.get_yticklabels()[place].set_fontweight("bold")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    _ratio_axis(axes, campaign, widest=widest)
    frame = pd.DataFrame(
        [
            {
                "metric": metrics.metric(str(row["metric"])).label,
                "flow": row["flow"],
                "treatment": row["treatment"],
                "change_pct": 100 * (row["ratio"] - 1),
                "low_pct": 100 * (row["low"] - 1),
                "high_pct": 100 * (row["high"] - 1),
                "verdict": row["verdict"],
            }
            for row in rows
        ]
    )
    said = "; ".join(
        f"{metrics.metric(str(row['metric'])).label} {row['flow']} {row['treatment']} "
        f"{tables.percent(row['ratio'])} ({tables.interval(row['low'], row['high'])}), "
        f"{row['verdict']}"
        for row in rows
    )
    heading = title or f"Effects against {campaign.baseline}, on a logarithmic axis"
    return Chart(figure, heading, f"{heading}, with intervals: {said or 'none yet'}.", frame)


def comparison(
    trials: pd.DataFrame, effects: pd.DataFrame, campaign: Campaign, *, metric: str
) -> Chart:
    """Every trial's value by treatment, baseline leftmost, with centre and interval beside them.

    Trials of a treatment stand from left to right in the order of their blocks. The interval is
    that of one treatment's centre and includes the drift of the blocks; the paired comparison,
    which does not, is in the effects.
    """
    entry, style = metrics.metric(metric), looks(campaign)
    usable, flows = _usable(trials, campaign, entry)
    names = baseline_first(campaign)
    width = min(WIDTH_IN, 1.2 + 3.2 * max(1, len(flows)))
    upright = max(map(len, names)) * len(names) > _LEVEL_CHARACTERS
    height = 3.2 + (0.08 * max(map(len, names)) if upright else 0)
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(1, max(1, len(flows)), squeeze=False)[0]
    shown = []
    for axes, flow in zip(panels, flows, strict=False):
        tidy(axes)
        for place, name in enumerate(names):
            ours = usable[usable["flow"].eq(flow.name) & usable["treatment"].eq(name)]
            values = ours.sort_values("block")[metric].to_numpy(dtype=float) / entry.per_axis_unit
            if not values.size:
                continue
            look = style[name]
            spread = np.linspace(-0.3, 0.1, values.size) if values.size > 1 else np.zeros(1)
            axes.plot(
                place + spread, values, look.marker, color=look.colour, alpha=0.55, markersize=5
            )
            centre, low, high = _centre(values, level=campaign.level)
            axes.errorbar(
                place + 0.27, centre, yerr=[[centre - low], [high - centre]],
                fmt=look.marker, color=look.colour, capsize=4, markersize=7, linewidth=2,
            )  # fmt: skip
            shown.append((flow.name, name, centre, low, high, values.size))
        axes.set_xticks(range(len(names)), names)
        if upright:
            axes.tick_params(axis="x", labelrotation=90)
        axes.set_xlim(-0.5, len(names) - 0.4)
        axes.set_title(f"{flow.name} ({flow.path.value})", fontsize=10, loc="left")
    if flows:
        panels[0].set_ylabel(f"{entry.label}, {entry.axis}")
    columns = ["flow", "treatment", f"centre, {entry.axis}", "low", "high", "trials"]
    frame = pd.DataFrame(shown, columns=columns)
    title = f"{entry.label}, {entry.better.value} is better: every trial, centre and interval"
    return Chart(figure, title, f"{title}. {_said(effects, metric)}", frame)


def expected(
    trials: pd.DataFrame, found: pd.DataFrame, campaign: Campaign, *, metric: str
) -> Chart:
    """Each treatment's ratio to the baseline, every block's beside it, over where it was expected.

    ``found`` is the frame of ``expectations``. Hatching covers the side on which the effect was
    expected (or the margin, where none was); the words at the right say the same.
    """
    entry, style = metrics.metric(metric), looks(campaign)
    rows = found[found["metric"].eq(metric) & found["ratio"].notna()].to_dict("records")
    flows = list(dict.fromkeys(str(row["flow"]) for row in rows))
    figure = Figure(
        figsize=(WIDTH_IN, 1.0 + 0.42 * max(2, len(rows)) + 0.27 * len(flows)), layout="constrained"
    )
    axes = figure.subplots()
    tidy(axes)
    margin = 1 + campaign.margin_pct / 100
    axes.axvspan(1 / margin, margin, color="#E9E9E9", zorder=0)
    axes.axvline(1, color=FAINT, linewidth=1)
    widest = _widest(rows, margin)
    ticks: list[float] = []
    labels: list[str] = []
    heads: list[int] = []
    place = -1.0
    for flow in flows:
        place += 0.85
        heads.append(len(labels))
        ticks.append(place)
        labels.append(f"{flow} ({entry.label})")
        table = compare.paired(compare.watched(trials, campaign), flow=flow, metric=metric)
        for row in (row for row in rows if row["flow"] == flow):
            place += 1
            ticks.append(place)
            labels.append(str(row["treatment"]))
            look = style[str(row["treatment"])]
            _hatch(axes, place, row, entry=entry, margin=margin, edge=widest**1.03)
            blocks = table.reindex(columns=[campaign.baseline, str(row["treatment"])]).dropna()
            ratios = (blocks[str(row["treatment"])] / blocks[campaign.baseline]).to_numpy(float)
            axes.plot(
                np.clip(ratios, 1 / widest, widest), np.full(ratios.size, place + 0.2),
                look.marker, color=look.colour, alpha=0.55, markersize=4,
            )  # fmt: skip
            _whisker(axes, place - 0.12, row, look=look, widest=widest)
            axes.annotate(
                f"{tables.percent(row['ratio'])}  {row['verdict']}\n{_outcome(row)}",
                (1.01, place), xycoords=("axes fraction", "data"), va="center", color=INK,
                fontsize=8,
            )  # fmt: skip
    axes.set_yticks(ticks, labels)
    for head in heads:
        axes.get_yticklabels()[head].set_fontweight("bold")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(place + 0.6, -0.6)
    _ratio_axis(axes, campaign, widest=widest, hatched=True)
    frame = pd.DataFrame(
        [
            {
                "flow": row["flow"],
                "treatment": row["treatment"],
                "expected": row["expected"],
                "change_pct": 100 * (row["ratio"] - 1),
                "low_pct": 100 * (row["low"] - 1),
                "high_pct": 100 * (row["high"] - 1),
                "verdict": row["verdict"],
                "agreement": row["agreement"],
            }
            for row in rows
        ]
    )
    title = f"{entry.label}, {entry.better.value} is better: measured over where it was expected"
    said = "; ".join(
        f"{row['flow']} {row['treatment']} {tables.percent(row['ratio'])} "
        f"({tables.interval(row['low'], row['high'])}), {_outcome(row)}"
        for row in rows
    )
    return Chart(figure, title, f"{title}. {said or 'Nothing yet'}.", frame)


def expectations(
    trials: pd.DataFrame, found: pd.DataFrame, campaign: Campaign
) -> tuple[Chart, ...]:
    """One chart of expected against measured for each headline metric that was measured."""
    measured = [name for name in metrics.HEADLINE if found["metric"].eq(name).any()]
    return tuple(expected(trials, found, campaign, metric=name) for name in measured)


def _outcome(row: Mapping[Hashable, Any]) -> str:
    """``"expected slower: as expected"``; ``"no expectation (void)"`` where there is none."""
    if row["agreement"] == NO_EXPECTATION:
        return f"{NO_EXPECTATION} ({row['expected']})"
    return f"expected {row['expected']}: {row['agreement']}"


def _hatch(
    axes: Axes,
    place: float,
    row: Mapping[Hashable, Any],
    *,
    entry: metrics.Metric,
    margin: float,
    edge: float,
) -> None:
    """Cover the part of a row in which the ratio was expected; nothing where none was."""
    lower = (1 / edge, 1.0)
    higher = (1.0, edge)
    good, bad = (higher, lower) if entry.better is metrics.Better.HIGHER else (lower, higher)
    spans = {
        "none": [(1 / margin, margin)],
        "slower": [bad],
        "faster": [good],
        "some": [(1 / edge, 1 / margin), (margin, edge)],
    }
    for left, right in spans.get(str(row["expected"]), []):
        axes.fill_between(
            [left, right], place - 0.42, place + 0.42,
            facecolor="none", edgecolor="#B5B5B5", hatch="////", linewidth=0, zorder=0.5,
        )  # fmt: skip


def _whisker(
    axes: Axes, place: float, row: Mapping[Hashable, Any], *, look: Look, widest: float
) -> None:
    """An estimate and its interval, with an arrow at an end that the axis does not reach."""
    if not math.isnan(row["low"]):
        ends = [max(row["low"], 1 / widest), min(row["high"], widest)]
        axes.plot(ends, [place, place], color=look.colour, linewidth=2.2, solid_capstyle="butt")
        for end, full, arrow in zip(ends, (row["low"], row["high"]), "<>", strict=True):
            if end != full:
                axes.plot(end, place, arrow, color=look.colour, markersize=6)
    middle = min(max(row["ratio"], 1 / widest), widest)
    axes.plot(middle, place, look.marker, color=look.colour, markersize=7)


def _ratio_axis(axes: Axes, campaign: Campaign, *, widest: float, hatched: bool = False) -> None:
    """Label a logarithmic axis of ratios in percent of change."""
    key = "grey: within the margin" + ("; hatched: as expected" if hatched else "")
    axes.set_xlabel(f"Change against {campaign.baseline}, percent ({key})")
    axes.set_xscale("log")
    axes.set_xlim(1 / widest**1.03, widest**1.03)
    axes.xaxis.set_major_locator(ticker.FixedLocator([1 + p / 100 for p in _ticks_pct(widest)]))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(_signed))
    axes.xaxis.set_minor_locator(ticker.NullLocator())


def comparisons(
    trials: pd.DataFrame, effects: pd.DataFrame, campaign: Campaign
) -> tuple[Chart | tables.Table, ...]:
    """For each headline metric that was measured: its comparison, and the table of its effects."""
    measured = [name for name in metrics.HEADLINE if effects["metric"].eq(name).any()]
    return tuple(
        shown
        for name in measured
        for shown in (
            comparison(trials, effects, campaign, metric=name),
            tables.effects(effects, campaign, metric=name),
        )
    )


def drift(trials: pd.DataFrame, campaign: Campaign, *, metric: str) -> Chart:
    """The metric by block, one line a treatment: what the machine did over the campaign."""
    entry, style = metrics.metric(metric), looks(campaign)
    usable, flows = _usable(trials, campaign, entry)
    figure = Figure(figsize=(WIDTH_IN, 0.5 + 2.0 * max(1, len(flows))), layout="constrained")
    panels = figure.subplots(max(1, len(flows)), 1, squeeze=False, sharex=True)[:, 0]
    spreads = []
    for axes, flow in zip(panels, flows, strict=False):
        tidy(axes)
        ends = []
        for name in baseline_first(campaign):
            ours = usable[usable["flow"].eq(flow.name) & usable["treatment"].eq(name)]
            ours = ours.sort_values("block")
            values = ours[metric].to_numpy(dtype=float) / entry.per_axis_unit
            if values.size:
                look = style[name]
                axes.plot(
                    ours["block"], values, look.line, marker=look.marker, color=look.colour,
                    linewidth=1.4, markersize=5,
                )  # fmt: skip
                ends.append((float(ours["block"].max()), float(values[-1]), name))
                spreads.append((flow.name, name, stats.spread_pct(values), values.size))
        label_ends(axes, ends, style)
        axes.set_title(flow.name, fontsize=10, loc="left")
        axes.set_ylabel(entry.axis)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    panels[-1].set_xlabel("Block, in the order in which they ran")
    frame = pd.DataFrame(spreads, columns=["flow", "treatment", "spread_pct", "trials"])
    title = f"{entry.label} by block"
    said = "; ".join(f"{flow} {name} {pct:.1f} %" for flow, name, pct, _ in spreads)
    return Chart(
        figure, title, f"{title}. Standard deviation over the mean, between blocks: {said}.", frame
    )


def drifts(trials: pd.DataFrame, effects: pd.DataFrame, campaign: Campaign) -> tuple[Chart, ...]:
    """One course over the blocks for throughput, round trip and CPU, as far as measured."""
    measured = set(effects["metric"])
    names = ("received_bits_per_s", "rr_p50_ns", "cpu_s_per_gbit")
    return tuple(drift(trials, campaign, metric=name) for name in names if name in measured)


def _usable(
    trials: pd.DataFrame, campaign: Campaign, entry: metrics.Metric
) -> tuple[pd.DataFrame, list[Flow]]:
    """Good trials that carry the metric, and the flows for which it is compared."""
    trials = compare.watched(trials, campaign)
    usable = trials[trials["status"].eq(Status.OK.value) & trials[entry.name].gt(0)]
    flows = [
        flow
        for flow in campaign.flows
        if entry.of(flow.load) and usable["flow"].eq(flow.name).any()
    ]
    return usable, flows


# As many characters as stand side by side below one panel.
_LEVEL_CHARACTERS = 36
# Beyond a factor of three the arrow says enough; the numbers stand beside it.
_WIDEST = 3.0
_TICKS_PCT = (1, 2, 5, 10, 20, 50, 100, 200)


def _widest(rows: Sequence[Mapping[Hashable, Any]], margin: float) -> float:
    """The ratio up to which the axis of a forest reaches, to both sides."""
    ends: list[float] = [row[key] for row in rows for key in ("ratio", "low", "high")]
    reach = [max(end, 1 / end) for end in ends if end > 0]
    return min(max(1.5 * (margin - 1) + 1, *reach, 1.01), _WIDEST)


def _ticks_pct(widest: float) -> list[float]:
    """Changes at which the axis is labelled: no change, and a few steps to each side."""
    reach = math.log(widest)
    ticks, last = [0.0], 0.0
    for step in _TICKS_PCT:
        here = math.log1p(step / 100)
        if here <= reach + 1e-9 and here - last >= reach / 4:
            # A step down is as far on a logarithmic axis as the step up that undoes it.
            ticks += [step, 100 * (1 / (1 + step / 100) - 1)]
            last = here
    return ticks


def _signed(ratio: float, _place: object) -> str:
    """``"+5"``, ``"−17"`` or ``"0"``: a change in whole percent."""
    pct = round(100 * (ratio - 1))
    return f"{pct:+d}".replace("-", "−") if pct else "0"


def _centre(values: stats.Floats, *, level: float) -> tuple[float, float, float]:
    """Centre and interval of positive values, by their logarithms; the range where n is too few."""
    logs = np.log(values)
    found = intervals.paired_interval(logs, level=level)
    if found is None:
        low, high = float(values.min()), float(values.max())
        # Not beyond its own range by a rounding of the logarithm.
        return min(max(math.exp(stats.hodges_lehmann(logs)), low), high), low, high
    return math.exp(found.estimate), math.exp(found.low), math.exp(found.high)


def _said(effects: pd.DataFrame, metric: str) -> str:
    rows = effects[effects["metric"].eq(metric)].to_dict("records")
    entry = metrics.metric(metric)
    return "; ".join(
        f"{row['flow']}: {row['treatment']} {entry.show(row['value'])} against {row['baseline']} "
        f"{entry.show(row['baseline_value'])}, {tables.percent(row['ratio'])} "
        f"({tables.interval(row['low'], row['high'])}), {row['verdict']}"
        for row in rows
    )
