"""A chart: a figure, the words that say what it shows, and the numbers it shows; and its look.

Colours are those of Okabe and Ito with at least 3:1 contrast on white, fixed per overlay mode, and
never alone: marker and line style say the same. Figures are made without pyplot, so nothing needs
closing and no window is opened.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ebpfperf import tables
from ebpfperf.model import Campaign, Overlay

DPI = 192  # twice the size at which it is shown
WIDTH_IN = 7.6
INK, FAINT = "#222222", "#767676"

# None: the overlay mode of imported results that do not say theirs.
_COLOURS = {
    Overlay.NONE: "#0072B2", Overlay.IPIP: "#009E73", Overlay.VXLAN: "#D55E00", None: "#595959",
}  # fmt: skip
_MARKERS = {Overlay.NONE: "o^P", Overlay.IPIP: "sDX", Overlay.VXLAN: "vph", None: "dHx"}
_LINES = {Overlay.NONE: "-", Overlay.IPIP: "--", Overlay.VXLAN: "-.", None: ":"}


@dataclass(frozen=True, slots=True)
class Look:
    """How a treatment is drawn everywhere: overlay mode gives the colour."""

    colour: str
    marker: str
    line: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure with its alternative text and the frame it shows.

    In a notebook or report it shows as an HTML figure whose table opens below it.
    """

    figure: Figure
    title: str
    alt: str
    frame: pd.DataFrame

    def png(self) -> bytes:
        """The picture, at twice the size at which it is shown."""
        drawn, packed = io.BytesIO(), io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi=DPI)
        # A palette is a third of the size and cannot be told apart in a chart.
        with Image.open(drawn) as image:
            image.convert("RGB").quantize(colors=128).save(packed, format="png", optimize=True)
        return packed.getvalue()

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.png()).decode("ascii")
        width = round(self.figure.get_figwidth() * DPI / 2)
        numeric = tuple(str(name) for name in self.frame.select_dtypes("number"))
        shown = self.frame.map(lambda value: f"{value:.5g}" if isinstance(value, float) else value)
        table = tables.Table(self.title, shown, numeric=numeric)
        return (
            f'<figure><img src="data:image/png;base64,{data}" alt="{escape(self.alt)}" '
            f'width="{width}" style="max-width:100%;height:auto">\n'
            f"<figcaption>{escape(self.title)}</figcaption>\n"
            f"<details><summary>The numbers in this figure</summary>{table._repr_html_()}</details>"
            "</figure>"
        )


def looks(campaign: Campaign) -> dict[str, Look]:
    """How each treatment is drawn: treatments of one overlay mode differ in marker."""
    found: dict[str, Look] = {}
    seen: dict[Overlay | None, int] = {}
    for treatment in campaign.treatments:
        overlay = treatment.overlay
        number = seen[overlay] = seen.get(overlay, -1) + 1
        markers = _MARKERS[overlay]
        found[treatment.name] = Look(
            _COLOURS[overlay], markers[number % len(markers)], _LINES[overlay]
        )
    return found


def tidy(axes: Axes) -> None:
    """Take away what a chart does not need, and set a quiet grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#E3E3E3", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)


def label_ends(
    axes: Axes, ends: Sequence[tuple[float, float, str]], style: dict[str, Look]
) -> None:
    """Names at the right ends of lines, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = (high - low) / 8
    ordered = sorted(ends, key=lambda end: end[1])
    places: list[float] = []
    for _, y, _ in ordered:
        places.append(max(y, places[-1] + gap) if places else y)
    # Moved apart upwards; brought back as a whole where that leaves the axes.
    excess = max(0.0, places[-1] - high) if places else 0.0
    for (x, y, name), place in zip(ordered, places, strict=True):
        axes.annotate(
            name, (x, y), xytext=(1.01, place - excess), textcoords=("axes fraction", "data"),
            va="center", color=style[name].colour, fontweight="bold", fontsize=9,
        )  # fmt: skip
