"""Steps to charts: the way of a packet as a waterfall, and by part how treatments differ.

The step at the socket holds waking the reader, and can be longer than all others together: it
always has an axis of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ebpfperf import anatomy, stats, tables
from ebpfperf.anatomy import SOCKET, UNTIL_SOCKET, WHOLE
from ebpfperf.anatomy_findings import micro, missing, signed, told
from ebpfperf.chart import FAINT, INK, WIDTH_IN, Chart, Look, looks, tidy
from ebpfperf.compare import baseline_first
from ebpfperf.findings import Sentences
from ebpfperf.model import Campaign
from ebpfperf.units import NS_PER_US


@dataclass(frozen=True, slots=True)
class Fill:
    """How bars of a part are told from others without their colour: by shade and hatch."""

    shade: float
    hatch: str


FILLS = {
    anatomy.POD_VETH: Fill(0.35, ""),
    anatomy.HOST_STACK: Fill(0.65, "///"),
    anatomy.OVERLAY: Fill(1.0, ""),
    anatomy.NIC_AND_WIRE: Fill(0.15, "..."),
    anatomy.SOCKET: Fill(0.25, "xxx"),
}


def waterfalls(
    walked: pd.DataFrame, summary: pd.DataFrame, campaign: Campaign
) -> tuple[Chart | Sentences, ...]:
    """For each flow and sender the steps of its packets, a panel a treatment; or what is missing.

    A bar begins where the last one ended; its length is a step's time per packet, the centre of the
    blocks. Its interval is at its end, and the small marks are the blocks. Each row was estimated
    by itself, so that the steps end but roughly where the row of the whole does.
    """
    pairs = anatomy.senders(walked, campaign)
    charts = tuple(
        _waterfall(walked, summary, campaign, flow=flow, sender=sender) for flow, sender in pairs
    )
    return charts or (missing("hops", campaign),)


def differences(
    costs: pd.DataFrame, found: pd.DataFrame, campaign: Campaign, *, control: bool = False
) -> tuple[Chart, ...]:
    """For each flow and sender the difference to the baseline by part.

    ``control`` asks for the flows between hosts, which no overlay touches, in place of the others.
    """
    return tuple(
        _difference(costs, found, campaign, flow=flow, sender=sender)
        for flow, sender in anatomy.senders(found, campaign, control=control)
    )


def _waterfall(
    walked: pd.DataFrame, summary: pd.DataFrame, campaign: Campaign, *, flow: str, sender: str
) -> Chart:
    style = looks(campaign)
    ours = summary[summary["flow"].eq(flow) & summary["sender"].eq(sender)]
    names = [name for name in baseline_first(campaign) if ours["treatment"].eq(name).any()]
    sizes = [int(ours["treatment"].eq(name).sum()) + 3.2 for name in names]
    figure = Figure(figsize=(WIDTH_IN, 1.0 + 0.24 * sum(sizes)), layout="constrained")
    panels = figure.subplots(
        len(names), 2, squeeze=False, sharex="col", width_ratios=[4, 1], height_ratios=sizes
    )
    reach, said = 0.0, []
    for (axes, aside), name in zip(panels, names, strict=True):
        costs = anatomy.by_block(walked, flow=flow, sender=sender, treatment=name)
        rows = _rows(costs, campaign)
        for each in (axes, aside):
            tidy(each)
            each.grid(visible=False, axis="y")
            each.tick_params(axis="y", length=0, labelsize=8.5)
            each.set_yticks([])
        reach = max(reach, _bars(axes, aside, rows, look=style[name]))
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        for label, row in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_fontweight("normal" if row.part else "bold")
        _frame(axes, aside, rows, shares=_shares(ours[ours["treatment"].eq(name)]))
        axes.set_title(name, fontsize=10, loc="left", fontweight="bold", color=style[name].colour)
        said.append(
            f"{name}: " + ", ".join(f"{row.label} {micro(row.centre.estimate)}" for row in rows)
        )
    # The values stand in a column of their own at the right.
    panels[0, 0].set_xlim(0, reach / _BARS)
    panels[0, 1].set_xlim(left=0)
    panels[-1, 0].set_xlabel("µs since the packet was first seen")
    panels[-1, 1].set_xlabel("µs, own axis")
    figure.legend(handles=_key(), loc="outside upper center", ncols=len(FILLS), frameon=False,
                  fontsize=9, handlelength=2.4, handleheight=1.1)  # fmt: skip
    title = f"Flow {flow}, what the {sender} sends: time per packet from step to step"
    if not ours["half"].eq(anatomy.WIRE).any():
        title += ", without the wire, which was not seen"
    shown = ours.drop(columns=["flow", "sender"]).rename(columns={"start": "from", "end": "to"})
    return Chart(figure, title, f"{title}. {'; '.join(said)}.", shown)


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of the waterfall: a step, or a total (without a part); nanoseconds by block."""

    label: str
    part: str
    half: str
    costs: pd.Series[float]
    centre: stats.Interval

    @property
    def aside(self) -> bool:
        """Whether it holds the time at the socket."""
        return SOCKET in self.part or self.label == WHOLE


def _rows(costs: dict[tuple[str, str], pd.Series[float]], campaign: Campaign) -> list[_Row]:
    """The steps in the order of the way, then the way until the socket, then all of it."""
    rows = []
    for (start, end), values in costs.items():
        part = anatomy.belonging(start, end).part
        label = f"{start} › {end}, {part}"
        half = anatomy.half(start, end)
        rows.append(_Row(label, part, half, values, anatomy.centred(values, campaign)))
    zero = 0 * next(iter(costs.values()))
    until = sum((row.costs for row in rows if not row.aside), start=zero)
    whole = sum((row.costs for row in rows), start=zero)
    rows.append(_Row(UNTIL_SOCKET, "", "", until, anatomy.centred(until, campaign)))
    if any(row.aside for row in rows):
        rows.append(_Row(WHOLE, "", "", whole, anatomy.centred(whole, campaign)))
    return rows


def _bars(axes: Axes, aside: Axes, rows: Sequence[_Row], *, look: Look) -> float:
    """Draw the rows, each step from where the last one ended; how far the axis reaches, µs."""
    left = reach = 0.0
    for place, row in enumerate(rows):
        where, start = (aside, 0.0) if row.aside else (axes, left if row.part else 0.0)
        values = start + row.costs / NS_PER_US
        ends = [start + end / NS_PER_US for end in (row.centre.low, row.centre.high)]
        middle = start + row.centre.estimate / NS_PER_US
        fill = FILLS.get(row.part, Fill(0.0, ""))
        where.barh(
            place, middle - start, left=start, height=0.62, hatch=fill.hatch, linewidth=0.9,
            edgecolor=look.colour, facecolor=_tint(look.colour, fill.shade),
        )  # fmt: skip
        where.plot(values, np.full(len(values), place + 0.2), look.marker, color=look.colour,
                   alpha=0.6, markersize=3, markeredgewidth=0)  # fmt: skip
        where.plot(ends, [place - 0.12] * 2, color=INK, linewidth=1.2)
        where.plot(middle, place - 0.12, look.marker, color=INK, markersize=4)
        if not row.aside:
            left = middle
            reach = max(reach, float(np.nanmax([middle, *ends, values.max()])))
    return reach


def _frame(axes: Axes, aside: Axes, rows: Sequence[_Row], *, shares: dict[str, str]) -> None:
    """The column of values, and lines and names that tell sender, wire and receiver apart."""
    for place, row in enumerate(rows):
        value = tables.estimated(
            row.centre.estimate, row.centre.low, row.centre.high, show=micro
        ) + shares.get(row.label, "")
        axes.annotate(value, (0.995, place), xycoords=("axes fraction", "data"), ha="right",
                      va="center", fontsize=8, color=INK)  # fmt: skip
        if place and row.half != rows[place - 1].half:
            for each in (axes, aside):
                each.axhline(place - 0.5, color=FAINT, linewidth=0.8, linestyle=":")
        if row.half and (not place or row.half != rows[place - 1].half):
            aside.annotate(row.half, (0.98, place), xycoords=("axes fraction", "data"), ha="right",
                           va="center", fontsize=8.5, fontstyle="italic", color=FAINT)  # fmt: skip
    for each in (axes, aside):
        each.set_ylim(len(rows) - 0.4, -0.6)


# Part of the axis that bars take; a step counts as one of all packets from this share on.
_BARS, _ALL = 0.62, 0.995


def _shares(rows: pd.DataFrame) -> dict[str, str]:
    """Words for the steps that not every packet takes, by the label of their row."""
    return {
        f"{row['start']} › {row['end']}, {row['part']}": f", {100 * row['share']:.0f} % of packets"
        for row in rows.to_dict("records")
        if row["share"] < _ALL
    }


def _difference(
    costs: pd.DataFrame, found: pd.DataFrame, campaign: Campaign, *, flow: str, sender: str
) -> Chart:
    style = looks(campaign)
    ours = found[found["flow"].eq(flow) & found["sender"].eq(sender)]
    waking = ours["part"].isin([SOCKET, WHOLE])
    groups = [group for group in (ours[~waking], ours[waking]) if len(group)]
    sizes = [len(group) + group["treatment"].nunique() + 0.6 for group in groups]
    figure = Figure(figsize=(WIDTH_IN, 1.2 + 0.25 * sum(sizes)), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=sizes)[:, 0]
    for axes, group in zip(panels, groups, strict=True):
        tidy(axes)
        axes.axvline(0, color=FAINT, linewidth=1)
        labels: list[str] = []
        heads: list[int] = []
        for treatment, rows in group.groupby("treatment", sort=False):
            look = style[str(treatment)]
            heads.append(len(labels))
            labels.append(str(treatment))
            for row in rows.to_dict("records"):
                place = len(labels)
                table = anatomy.paired(costs, flow=flow, sender=sender, part=str(row["part"]))
                table = table.reindex(columns=[campaign.baseline, treatment]).dropna()
                apart = (table[treatment] - table[campaign.baseline]) / NS_PER_US
                axes.plot(apart, np.full(len(apart), place + 0.22), look.marker, alpha=0.55,
                          color=look.colour, markersize=3.5, markeredgewidth=0)  # fmt: skip
                ends = row["low_ns"] / NS_PER_US, row["high_ns"] / NS_PER_US
                axes.plot(ends, (place - 0.08,) * 2, color=look.colour, linewidth=2.2)
                axes.plot(row["difference_ns"] / NS_PER_US, place - 0.08, look.marker,
                          color=look.colour, markersize=6)  # fmt: skip
                axes.annotate(
                    f"{signed(row['difference_ns'])}  {told(row)}", (1.01, place), va="center",
                    xycoords=("axes fraction", "data"), fontsize=8.5, color=INK,
                )  # fmt: skip
                labels.append(str(row["part"]))
        axes.set_yticks(range(len(labels)), labels)
        for head in heads:
            axes.get_yticklabels()[head].set_fontweight("bold")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(labels) - 0.4, -0.6)
    panels[-1].set_xlabel(
        f"Difference to {campaign.baseline}, µs per packet (each panel has its own axis)"
    )
    title = f"Flow {flow}, what the {sender} sends: difference to {campaign.baseline} by part"
    said = "; ".join(
        f"{row['treatment']} {row['part']} {signed(row['difference_ns'])} "
        f"({tables.spanned(row['low_ns'], row['high_ns'], show=signed)}), {told(row)}"
        for row in ours.to_dict("records")
    )
    shown = ours.drop(columns=["flow", "sender", "baseline"]).assign(
        told=[told(row) for row in ours.to_dict("records")]
    )
    return Chart(figure, title, f"{title}. {said}.", shown)


def _key() -> list[Patch]:
    return [
        Patch(label=part, hatch=fill.hatch, edgecolor=INK, facecolor=_tint(INK, fill.shade * 0.8))
        for part, fill in FILLS.items()
    ]


def _tint(colour: str, shade: float) -> tuple[float, float, float]:
    """The colour mixed with white: 1 is the colour itself."""
    red, green, blue = (1 - shade * (1 - channel) for channel in to_rgb(colour))
    return red, green, blue
