"""Counts as stacked bars, a bar a row: every part has a colour and a hatch, every bar its sum."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ebpfperf.chart import INK, WIDTH_IN, Chart, tidy

MOST_ROWS = 20


def draw(
    counts: pd.DataFrame, looks: Mapping[str, tuple[str, str]], *, title: str, what: str, rows: str
) -> Chart:
    """The chart of a table of counts.

    Parameters
    ----------
    counts
        A row per bar, a column per part.
    looks
        Part → (colour, hatch), in the order in which they are drawn.
    what
        What is counted, for the axis.
    rows
        What a row is, such as ``hook``.
    """
    totals = counts.sum(axis=1).sort_values(ascending=False, kind="stable")
    kept = counts.loc[sorted(totals.head(MOST_ROWS).index)]
    parts = [part for part in looks if part in kept and kept[part].sum()]
    table = {part: [int(each) for each in kept[part]] for part in parts}
    names = [str(each) for each in kept.index]
    figure = Figure(figsize=(WIDTH_IN, 1.3 + 0.34 * max(1, len(names))), layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    axes.grid(visible=False, axis="y")
    left = [0] * len(names)
    for part, values in table.items():
        colour, hatch = looks[part]
        axes.barh(
            range(len(names)), values, left=left, height=0.62, color=colour, hatch=hatch,
            edgecolor=INK, linewidth=0.6, label=part,
        )  # fmt: skip
        left = [one + other for one, other in zip(left, values, strict=True)]
    for place, count in enumerate(left):
        axes.annotate(f"{count:,}", (count, place), xytext=(4, 0), textcoords="offset points",
                      va="center", fontsize=8.5, color=INK)  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(1, len(names)) - 0.4, -0.6)
    axes.set_xlim(0, max([1, *left]) * 1.08)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(what)
    if parts:
        figure.legend(
            loc="outside lower center", ncols=min(5, len(parts)), fontsize=8.5, frameon=False
        )
    if len(counts) > len(names):
        title += f" (the {len(names)} with most of {len(counts)})"
    said = "; ".join(
        f"{name}: " + ", ".join(f"{table[part][at]:,} {part}" for part in parts if table[part][at])
        for at, name in enumerate(names)
    )
    numbers = pd.DataFrame({rows: names, **table})
    return Chart(figure, title, f"{title}. {said or 'There are none'}.", numbers)
