"""Frames to accessible HTML tables: a caption, scoped headers, figures aligned, little style.

Great Tables was tried and not taken: it writes 9 kB of style into every table, and the same ids
into each, so that on a page with two tables the cells point at the headers of the first.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from ebpfperf import compare, metrics, units
from ebpfperf.calico import flags
from ebpfperf.model import Campaign, Flow, Status, Trial

# Enough for a notebook's own page; the report's style sheet adds colours and stripes.
_INLINE = "border-collapse:collapse;text-align:left;font-variant-numeric:tabular-nums"


@dataclass(frozen=True, slots=True)
class Table:
    """A frame of text as it is shown: the first column heads each row.

    Attributes
    ----------
    frame
        What is shown, already formatted.
    numeric
        Columns aligned right.
    notes
        Sentences below the table, lettered from a.
    folded
        Whether a reader has to open it.
    """

    caption: str
    frame: pd.DataFrame
    numeric: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    folded: bool = False

    def _repr_html_(self) -> str:
        if self.frame.empty:
            return f"<p>{escape(self.caption)}: nothing to show.</p>"
        head = "".join(
            f'<th scope="col"{self._align(name)}>{escape(str(name))}</th>' for name in self.frame
        )
        body = "\n".join(self._row(row) for row in self.frame.itertuples(index=False, name=None))
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        html = (
            f'<div class="table"><table style="{_INLINE}">'
            f'<caption style="text-align:left">{escape(self.caption)}</caption>\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
            + (f'<ol type="a" class="notes">{notes}</ol>' if notes else "")
        )
        if self.folded:
            return f"<details><summary>{escape(self.caption)}</summary>{html}</details>"
        return html

    def __str__(self) -> str:
        return f"{self.caption}\n{self.frame.to_string(index=False)}"

    def _align(self, name: object) -> str:
        # Said for every cell, because JupyterLab's own style sheet aligns all of them right.
        right = name in self.numeric
        return f' style="text-align:{"right;white-space:nowrap" if right else "left"}"'

    def _row(self, values: Sequence[object]) -> str:
        cells = []
        for position, (name, value) in enumerate(zip(self.frame.columns, values, strict=True)):
            text = escape(str(value))
            if position == 0:
                cells.append(f'<th scope="row"{self._align(name)}>{text}</th>')
            elif name == "verdict":
                kind = re.split(r"[^a-z]", text)[0]
                cells.append(f'<td class="verdict {kind}"{self._align(name)}>{text}</td>')
            else:
                cells.append(f"<td{self._align(name)}>{text}</td>")
        return f"<tr>{''.join(cells)}</tr>"


def percent(ratio: float) -> str:
    """``"−4.2 %"`` for 0.958 (with a true minus sign); an en dash for NaN."""
    if pd.isna(ratio):
        return "–"
    return units.ratio_pct(ratio).replace("-", "−")


def interval(low: float, high: float) -> str:
    """``"−5.1 to −3.0 %"``; an en dash where there is none."""
    return spanned(low, high, show=percent)


def spanned(low: float, high: float, *, show: Callable[[float], str]) -> str:
    """``"14.5 to 15.6 Gbit/s"``: a unit that both ends share is said once; an en dash for NaN."""
    if pd.isna(low) or pd.isna(high):
        return "–"
    first, last = show(low), show(high)
    unit = last.partition(" ")[2]
    return f"{first.removesuffix(f' {unit}') if unit else first} to {last}"


def estimated(value: float, low: float, high: float, *, show: Callable[[float], str]) -> str:
    """``"14.9 Gbit/s (14.5 to 15.6 Gbit/s)"``; the value alone where there is no interval."""
    if pd.isna(low) or pd.isna(high):
        return show(value)
    return f"{show(value)} ({spanned(low, high, show=show)})"


def detectable(pct: float) -> str:
    """``"±4.2 %"``, or ``"×2.5"`` where a percentage would mislead; an en dash for NaN."""
    if pd.isna(pct):
        return "–"
    if math.isinf(pct):
        return "none"
    return f"±{pct:.1f} %" if pct < 100 else f"×{1 + pct / 100:.1f}"


def verdict(row: Mapping[Hashable, Any]) -> str:
    """``"worse, beyond the margin"``, ``"undecided: all 4 blocks positive, …"``; then its marks."""
    if row["reason"]:
        said = f"{row['verdict']}: {row['reason']}"
    else:
        said = f"{row['verdict']}, {row['size']}" if row["size"] else str(row["verdict"])
    marks = row.get("marks", "")
    return f"{said}; {marks}" if marks else said


def measured(row: Mapping[Hashable, Any], name: str) -> str:
    """What an arm did, ``name`` being ``value`` or ``baseline_value``: of a percentile, its bin.

    ``"65.3 µs (64.5 to 66.0 µs)"`` for a percentile, which is known to within its bin.
    """
    show = metrics.metric(str(row["metric"])).show
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if pd.isna(low) or low == high:
        return show(row[name])
    return estimated(row[name], low, high, show=show)


def _within(row: Mapping[Hashable, Any], name: str) -> str:
    """As ``measured``, in a table's width: of a percentile its bin alone."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if pd.isna(low) or low == high:
        return measured(row, name)
    return spanned(low, high, show=metrics.metric(str(row["metric"])).show)


def counted(row: Mapping[Hashable, Any]) -> str:
    """``"7/8"`` blocks of those planned; ``"3+3"`` trials, the baseline's first, without blocks."""
    if row["planned_blocks"]:
        return f"{row['n_blocks']}/{row['planned_blocks']}"
    return f"{row['n_baseline']}+{row['n_blocks']}"


def effects(found: pd.DataFrame, campaign: Campaign, *, metric: str = "") -> Table:
    """The effects as a reader wants them: change, interval, verdict, and what could be detected.

    With ``metric`` only that one; what must be minded beside a row is lettered below the table.
    """
    kept = found[found["metric"].eq(metric)] if metric else found
    frame, notes = compared(kept)
    if metric and len(frame):
        frame = frame.drop(columns="metric")
    label = metrics.metric(metric).label if metric else "All metrics"
    return Table(
        f"{label}: each treatment against {campaign.baseline}, "
        f"equivalent within ±{campaign.margin_pct:g} %",
        frame,
        numeric=(campaign.baseline, "treated", *COMPARED_NUMERIC),
        notes=notes,
        folded=not metric,
    )


def overhead(found: pd.DataFrame, campaign: Campaign) -> tuple[Table, ...]:
    """What the probes cost (``compare.probe_overhead``); none where there is nothing to show."""
    if found.empty:
        return ()
    frame, notes = compared(found)
    return (
        Table(
            f"Probes on against probes off, both under {campaign.baseline}, "
            f"equivalent within ±{campaign.margin_pct:g} %",
            frame.drop(columns="treatment").rename(columns={"treated": compare.PROBES_ON}),
            numeric=(compare.PROBES_OFF, compare.PROBES_ON, *COMPARED_NUMERIC),
            notes=notes,
        ),
    )


COMPARED_NUMERIC = ("change", "interval", "detectable", "blocks")


def compared(found: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Effects as text, and the notes that their last column has the letters of."""
    notes: list[str] = []
    rows = []
    for row in found.to_dict("records"):
        entry = metrics.metric(str(row["metric"]))
        texts = [text for text in str(row["warnings"]).split("; ") if text]
        notes += [text for text in texts if text not in notes]
        rows.append(
            {
                "flow": row["flow"],
                "treatment": row["treatment"],
                "metric": entry.label,
                str(row["baseline"]): _within(row, "baseline_value"),
                "treated": _within(row, "value"),
                "change": percent(row["ratio"]),
                "interval": interval(row["low"], row["high"]),
                "verdict": verdict(row),
                "detectable": detectable(row["detectable_pct"]),
                "blocks": counted(row),
                "notes": ", ".join(letter(notes.index(text)) for text in texts),
            }
        )
    return pd.DataFrame(rows), tuple(notes)


def expectations(found: pd.DataFrame, campaign: Campaign) -> Table:
    """What was expected beside what was measured, of the headline metrics; reasons are lettered."""
    kept = found[found["metric"].isin(metrics.HEADLINE)]
    reasons: list[str] = []
    rows = []
    for row in kept.to_dict("records"):
        reason = grounds(row)
        reasons += [reason] if reason not in reasons else []
        rows.append(
            {
                "flow": row["flow"],
                "treatment": row["treatment"],
                "expected": row["expected"],
                "because": letter(reasons.index(reason)),
                "metric": metrics.metric(str(row["metric"])).label,
                "change": percent(row["ratio"]),
                "interval": interval(row["low"], row["high"]),
                "verdict": verdict(row),
                "agreement": row["agreement"],
            }
        )
    return Table(
        f"Expected against measured, each treatment against {campaign.baseline}",
        pd.DataFrame(rows),
        numeric=("change", "interval"),
        notes=tuple(reasons),
    )


def grounds(row: Mapping[Hashable, Any]) -> str:
    """Why a row of the expectations frame expects what it does, with its source."""
    text, source = str(row["why"]), row["source"]
    # A field's name keeps its spelling.
    if text.split(" ")[0].islower():
        text = text[:1].upper() + text[1:]
    return f"{text}. Source: {source}." if source else f"{text}."


def rules(release: str | None) -> Table:
    """What a release of Calico does with each flag in eBPF mode; all releases where it is None."""
    if release is None:
        rows = list(flags.RULES)
    else:
        found = (flags.rule(flag, release) for flag in flags.LEVELS)
        rows = [row for row in found if row is not None]
    frame = pd.DataFrame(
        [
            {
                "flag": row.flag,
                "releases": row.releases,
                "changes": row.changes,
                "unset means": row.unset,
                "ends the FIB short-cut": "true does" if row.ends_shortcut else "no",
                "source": row.source,
            }
            for row in rows
        ]
    )
    which = f"Calico {release}" if release else "Calico, by release"
    return Table(f"What the flags do in eBPF mode: {which}", frame, folded=True)


def letter(number: int) -> str:
    """a, b, … z, aa, ab …, as HTML letters a list."""
    first, last = divmod(number, 26)
    return (letter(first - 1) if first else "") + chr(ord("a") + last)


def treatments(campaign: Campaign) -> Table:
    """What each treatment sets, the baseline marked."""
    rows = [
        {
            "treatment": treatment.name
            + (" (baseline)" if treatment.name == campaign.baseline else ""),
            "overlay mode": treatment.overlay_name,
            "scope": treatment.scope.value,
            "Felix fields": ", ".join(
                f"{name}: {'unset' if value is None else json.dumps(value)}"
                for name, value in treatment.felix
            )
            or "as found",
            "dataplane": treatment.dataplane.value if treatment.dataplane else "as found",
        }
        for treatment in campaign.treatments
    ]
    return Table("Treatments", pd.DataFrame(rows))


def flows(campaign: Campaign) -> Table:
    """What traffic each flow is."""
    rows = [
        {
            "flow": flow.name,
            "path": flow.path.value,
            "load": flow.load,
            "direction": flow.direction.value,
            "streams": flow.streams,
            "measured": units.duration_s(flow.duration_s),
            "warm-up": units.duration_s(flow.omit_s),
            "details": _details(flow),
        }
        for flow in campaign.flows
    ]
    return Table("Flows", pd.DataFrame(rows), numeric=("streams", "measured", "warm-up"))


def plan(planned: Sequence[Trial]) -> Table:
    """The trials of a campaign in the order in which they will run."""
    rows = [
        {
            "order": trial.order,
            "block": trial.block,
            "treatment": trial.treatment.name,
            "flow": trial.flow.name,
            "probes": ", ".join(trial.optional_probes) or "none",
            "trial": trial.trial_id,
        }
        for trial in planned
    ]
    caption = f"The {len(rows)} trials in the order in which they will run"
    return Table(caption, pd.DataFrame(rows), numeric=("order", "block"), folded=True)


def _details(flow: Flow) -> str:
    said = [flow.transport] if flow.load == "request-response" else []
    if flow.message_bytes is not None:
        said.append(f"{flow.message_bytes} bytes a message")
    if flow.rate_bits_per_s is not None:
        said.append(f"paced at {units.bits_per_s(flow.rate_bits_per_s)}")
    if flow.congestion is not None:
        said.append(flow.congestion)
    if flow.mss_bytes is not None:
        said.append(f"MSS {flow.mss_bytes} bytes")
    return ", ".join(said)


def counters(trials: pd.DataFrame, campaign: Campaign) -> Table:
    """What is counted beside the metrics, by flow and treatment: medians over the good trials.

    A ratio says nothing of numbers that may be zero, so these are shown and not compared.
    """
    trials = compare.watched(trials, campaign)
    good = trials[trials["status"].eq(Status.OK.value)]
    shown = {name: words for name, words in _COUNTERS.items() if name in good}
    rows = []
    for flow in campaign.flows:
        for treatment in campaign.treatments:
            ours = good[good["flow"].eq(flow.name) & good["treatment"].eq(treatment.name)]
            medians = ours[list(shown)].median()
            rows.append(
                {
                    "flow": flow.name,
                    "treatment": treatment.name,
                    "trials": len(ours),
                    **{
                        words: units.number(medians[name]) if pd.notna(medians[name]) else "–"
                        for name, words in shown.items()
                    },
                }
            )
    frame = pd.DataFrame(rows)
    empty = [name for name in frame if name in shown.values() and frame[name].eq("–").all()]
    frame = frame.drop(columns=empty)
    return Table(
        "Sizes and losses, medians over the good trials",
        frame,
        numeric=("trials", *shown.values()),
    )


_COUNTERS = {
    "mtu_bytes": "MTU, bytes",
    "mss_bytes": "MSS, bytes",
    "retransmits": "flow retransmits",
    "tcpext_retransmits": "node retransmits",
    "lost_pct": "lost, %",
    "softnet_dropped": "softnet drops",
}


def facts(frame: pd.DataFrame) -> Table:
    """Facts by name, one column per node; a fact of the cluster stands under ``cluster``."""
    of_nodes = frame[frame["trial_id"].isna()] if "trial_id" in frame else frame
    # str: a fact of the whole cluster carries no node.
    named = of_nodes.assign(
        node=of_nodes["node"].astype("str").replace("", "cluster"),
        shown=(of_nodes["value"] + " " + of_nodes["unit"].fillna("")).str.strip(),
    )
    wide = named.pivot_table(index="name", columns="node", values="shown", aggfunc="last")
    wide = wide.fillna("").reset_index().rename(columns={"name": "fact"})
    wide.columns.name = None
    return Table("What the nodes were while measuring", wide.astype("str"), folded=True)


def order(trials: pd.DataFrame) -> Table:
    """Every trial in the order in which it ran, with its status."""
    ran = trials.sort_values("order")
    frame = pd.DataFrame(
        {
            "trial": ran["trial_id"],
            "block": ran["block"],
            "treatment": ran["treatment"],
            "flow": ran["flow"],
            "probes": ran["probes"].replace("", "none"),
            "started (UTC)": ran["start_utc"].dt.strftime("%Y-%m-%d %H:%M:%S"),
            "status": ran["status"],
            "reason": ran["reason"],
        }
    )
    caption = f"The {len(frame)} trials in the order in which they ran"
    return Table(caption, frame, numeric=("block",), folded=True)
