"""Effects and facts to sentences: what was found, and whether to believe it.

A reader who sees only this must not be misled: every number comes with its interval and verdict,
and what the cluster was (an emulation, one shared kernel, a stand-in for a driver) is said first.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path as FilePath
from typing import Any

import pandas as pd

from ebpfperf import compare, metrics, tables
from ebpfperf.expectations import AS_EXPECTED, CONTRADICTS, NO_EXPECTATION, UNDECIDED
from ebpfperf.model import Campaign


@dataclass(frozen=True, slots=True)
class Sentences:
    """Sentences that show as a list; ``kind`` names their look in a report.

    Attributes
    ----------
    kind
        ``notice`` (mind this before reading on), ``headline`` or ``plain``.
    """

    items: tuple[str, ...]
    kind: str = "plain"

    def _repr_html_(self) -> str:
        if not self.items:
            return ""
        body = "".join(f"<li>{escape(item)}</li>" for item in self.items)
        return f'<ul class="{self.kind}">{body}</ul>'

    def __str__(self) -> str:
        return "\n".join(self.items)


@dataclass(frozen=True, slots=True)
class Commands:
    """Shell commands, shown as they are typed."""

    lines: tuple[str, ...]

    def _repr_html_(self) -> str:
        return f"<pre><code>{escape(str(self))}</code></pre>"

    def __str__(self) -> str:
        return "\n".join(self.lines)


def emulated(facts: pd.DataFrame) -> bool:
    """Whether any fact says that the cluster was the embedded lab."""
    return bool(_told_by_lab(facts).any())


def notice(facts: pd.DataFrame) -> Sentences:
    """What must be known before any number is read; empty for a cluster of real machines."""
    said = []
    if emulated(facts):
        said.append(
            "Lab: these numbers come from an embedded emulation of a Calico cluster on one "
            "machine. It is not Calico. They compare what encapsulation costs on that kernel; they "
            "do not predict a real cluster."
        )
    if compare.shared_kernel(facts):
        said.append(
            "The nodes share one kernel and its cores (same boot_id): sender and receiver compete "
            "for CPU, so read ratios between treatments, not absolute rates."
        )
    said += [
        f"IPIP was carried by a {driver}, not by the kernel's ipip device: the packets on the wire "
        "are the same, the CPU cost is that of the stand-in."
        for driver in _values(facts, "ipip_driver")
        if "BPF" in driver
    ]
    return Sentences(tuple(said), "notice")


def conditions(facts: pd.DataFrame) -> Sentences:
    """The few facts that decide what the numbers are of; the rest is in the appendix."""
    said = []
    for name, words in _CONDITIONS.items():
        values = [value for value in _values(facts, name) if value != "not in use"]
        if values:
            said.append(f"{words}: {', '.join(values)}.")
    told = facts[_told_by_lab(facts)]
    if "trial_id" in told:
        # What was so before the campaign changed it is no condition of its numbers.
        during = told["trial_id"].notna()
        told = told[during | ~told["name"].isin(told.loc[during, "name"])]
    for row in told.drop_duplicates(["name", "value"]).to_dict("records"):
        key = str(row["name"]).rpartition("lab.ebpfperf/")[2].removeprefix("lab_")
        said.append(f"Lab, {key.replace('_', ' ')}: {row['value']}.")
    return Sentences(tuple(said))


_CONDITIONS = {
    "calico_release": "Calico release",
    "felix_dataplane": "Dataplane, as Felix announced it",
    "ipip_driver": "IPIP carried by",
    "kernel": "Kernel",
    "cpu_model": "CPU",
}


def _told_by_lab(facts: pd.DataFrame) -> pd.Series[bool]:
    """Rows in which an emulation says what it is: its nodes carry annotations of that prefix."""
    names = facts["name"]
    return names.str.startswith("lab_") | names.str.contains("lab.ebpfperf/", regex=False)


@dataclass(frozen=True, slots=True)
class Headline:
    """One metric of one flow: what the baseline did, and a sentence with verdict per treatment."""

    lead: str
    changes: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"{self.lead} " + " ".join(f"{change}: {word}." for change, word in self.changes)


@dataclass(frozen=True, slots=True)
class Headlines:
    """Headlines that show as a list, the verdicts in bold; ``legend`` says how to read them."""

    items: tuple[Headline, ...]
    legend: str = ""

    def _repr_html_(self) -> str:
        if not self.items:
            return f"<p>{escape(str(self))}</p>"
        items = "".join(map(self._item, self.items))
        return f'<ul class="headline">{items}</ul><p class="legend">{escape(self.legend)}</p>'

    def __str__(self) -> str:
        return "\n".join(map(str, self.items)) or "No trial has given a number to compare yet."

    @staticmethod
    def _item(item: Headline) -> str:
        lines = "".join(
            f"<br>{escape(change)}: <strong>{escape(word)}</strong>."
            for change, word in item.changes
        )
        return f"<li>{escape(item.lead)}{lines}</li>"


def headlines(effects: pd.DataFrame, campaign: Campaign) -> Headlines:
    """One headline per metric and flow between pods, with interval and verdict per treatment.

    Flows between hosts are the control, not the question; they lead only where there is no other.
    """
    found = []
    for name in metrics.HEADLINE:
        for flow in campaign.asked_flows:
            rows = effects[effects["metric"].eq(name) & effects["flow"].eq(flow)]
            if len(rows):
                found.append(_headline(rows.to_dict("records")))
    legend = (
        f"Change against the baseline, with its interval (level at least {campaign.level:.0%}). "
        f"Margin of equivalence, fixed before the run: ±{campaign.margin_pct:g} %. Detectable is "
        "the smallest change that another such campaign would establish four times out of five; "
        "none, where so few blocks cannot establish any over the metrics of one question."
    )
    return Headlines(tuple(found), legend)


def _headline(rows: Sequence[Mapping[Hashable, Any]]) -> Headline:
    first = rows[0]
    entry = metrics.metric(str(first["metric"]))
    lead = (
        f"{entry.label} (flow {first['flow']}, {entry.better.value} is better). "
        f"Baseline {first['baseline']}: {tables.measured(first, 'baseline_value')}."
    )
    return Headline(lead, tuple((change(row), tables.verdict(row)) for row in rows))


def agreement(expected: pd.DataFrame) -> Sentences:
    """How far what was measured is what was to be expected; contradictions by name, reasons once.

    ``expected`` is the frame of ``expectations``; only headline metrics are counted.
    """
    kept = expected[expected["metric"].isin(metrics.HEADLINE)]
    if kept.empty:
        return Sentences(("No trial has given a number to hold against an expectation yet.",))
    counts = kept["agreement"].value_counts()
    said = [
        f"Of {len(kept)} comparisons with the baseline, {counts.get(AS_EXPECTED, 0)} came out as "
        f"expected, {counts.get(CONTRADICTS, 0)} contradict it, {counts.get(UNDECIDED, 0)} are "
        f"undecided, and for {counts.get(NO_EXPECTATION, 0)} there is no expectation."
    ]
    said += [
        f"Contradicts: {metrics.metric(str(row['metric'])).label} of {row['flow']} under "
        f"{row['treatment']} was expected to be {_EXPECTED[row['expected']]}, and is "
        f"{change(row | {'detectable_pct': float('nan')}).partition(' ')[2]}, "
        f"{tables.verdict(row)}. {tables.grounds(row)}"
        for row in kept[kept["agreement"].eq(CONTRADICTS)].to_dict("records")
    ]
    nothing = kept.loc[kept["agreement"].eq(NO_EXPECTATION), "why"].value_counts(sort=False)
    said += [
        f"No expectation ({count} of {len(kept)}): {reason}." for reason, count in nothing.items()
    ]
    return Sentences(tuple(said), "headline")


_EXPECTED = {"none": "the same", "slower": "worse", "faster": "better", "some": "different"}


def change(row: Mapping[Hashable, Any]) -> str:
    """An effect in a few words: treatment, change with interval, what could be detected."""
    estimate = tables.estimated(row["ratio"], row["low"], row["high"], show=tables.percent)
    if row["verdict"] in ("undecided", "equivalent"):
        estimate += f", detectable {tables.detectable(row['detectable_pct'])}"
    return f"{row['treatment']} {estimate}"


def repeat(campaign: FilePath, notebook: str) -> Commands:
    """The commands that measure the same campaign again and make the same report of it."""
    name = campaign.resolve().name
    return Commands(
        (
            f"ebpfperf run runs/{name}/campaign.yaml --out runs/{name}-again",
            f"ebpfperf report {notebook} --campaign runs/{name}-again",
        )
    )


def _values(facts: pd.DataFrame, name: str) -> Iterable[str]:
    rows = facts[facts["name"].eq(name) & ~facts["value"].str.startswith("UNKNOWN")]
    return sorted(set(rows["value"]))
