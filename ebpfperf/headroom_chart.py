"""The headroom frame as a chart: what is carried against the demand, what it costs in cores."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ebpfperf import capacity, units
from ebpfperf.chart import INK, WIDTH_IN, Chart, looks, tidy
from ebpfperf.model import Campaign


def draw(headroom: pd.DataFrame, campaign: Campaign, *, wanted: capacity.Demand) -> Chart:
    """Carried rate and cores by treatment, with intervals, beside the lines of the demand."""
    style = looks(campaign)
    rows = headroom.to_dict("records")
    figure = Figure(figsize=(WIDTH_IN, 1.3 + 0.4 * max(2, len(rows))), layout="constrained")
    carried, cores = figure.subplots(1, 2, sharey=True)
    for axes in (carried, cores):
        tidy(axes)
        axes.grid(visible=False, axis="y")
    for place, row in enumerate(rows):
        look = style[str(row["treatment"])]
        rates = [units.gbit(row[f"carried_{key}"]) for key in ("bits_per_s", "low", "high")]
        spent = [row["cores"], row["cores_low"], row["cores_high"]]
        for axes, (centre, low, high) in ((carried, rates), (cores, spent)):
            if not math.isnan(low):
                axes.plot([low, high], [place, place], color=look.colour, linewidth=2.4)
            axes.plot(centre, place, look.marker, color=look.colour, markersize=8)
    carried.set_yticks(range(len(rows)), [f"{row['treatment']} · {row['flow']}" for row in rows])
    carried.set_ylim(len(rows) - 0.4, -0.6)
    _line(carried, units.gbit(wanted.bits_per_s), "demand")
    _line(cores, wanted.cores, "budget")
    carried.set_xlabel("Carried, Gbit/s")
    cores.set_xlabel("Cores at the demand, both ends")
    title = (
        f"What each treatment carries, and the cores it needs for "
        f"{units.bits_per_s(wanted.bits_per_s)}"
    )
    said = "; ".join(
        f"{row['treatment']} carries {units.bits_per_s(row['carried_bits_per_s'])} "
        f"and needs {units.number(row['cores'])} cores"
        for row in rows
    )
    columns = ["treatment", "flow", "carried_bits_per_s", "carried_low", "carried_high"]
    frame = headroom[[*columns, "cores", "cores_low", "cores_high", "verdict"]]
    return Chart(figure, title, f"{title}: {said or 'nothing measured'}.", frame)


def _line(axes: Axes, value: float, word: str) -> None:
    """A vertical line that says what it is; zero is on the axis, so that distances can be read."""
    axes.axvline(value, color=INK, linewidth=1.2, linestyle=":")
    axes.annotate(
        f"{word} {value:g}", (value, 1.0), xycoords=("data", "axes fraction"), xytext=(3, 3),
        textcoords="offset points", color=INK, fontsize=9,
    )  # fmt: skip
    axes.set_xlim(left=0, right=max(axes.get_xlim()[1], value * 1.15))
