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

import numpy as np
import pandas as pd

from ebpfperf import compare, metrics, tables
from ebpfperf.expectations import AS_EXPECTED, CONTRADICTS, NO_EXPECTATION, UNDECIDED
from ebpfperf.model import Campaign, Path, Status


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
    hosts = {flow.name for flow in campaign.flows if flow.path is Path.HOST_HOST}
    asked = [flow.name for flow in campaign.flows if flow.name not in hosts] or sorted(hosts)
    found = []
    for name in metrics.HEADLINE:
        for flow in asked:
            rows = effects[effects["metric"].eq(name) & effects["flow"].eq(flow)]
            if len(rows):
                found.append(_headline(rows.to_dict("records")))
    legend = (
        f"Change against the baseline, with its interval (level at least {campaign.level:.0%}). "
        f"Margin of equivalence, fixed before the run: ±{campaign.margin_pct:g} %. Detectable is "
        "the smallest change that another such campaign would establish four times out of five."
    )
    return Headlines(tuple(found), legend)


def _headline(rows: Sequence[Mapping[Hashable, Any]]) -> Headline:
    first = rows[0]
    entry = metrics.metric(str(first["metric"]))
    lead = (
        f"{entry.label} (flow {first['flow']}, {entry.better.value} is better). "
        f"Baseline {first['baseline']}: {entry.show(first['baseline_value'])}."
    )
    return Headline(lead, tuple((_change(row), tables.verdict(row)) for row in rows))


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
        f"{_change(row | {'detectable_pct': float('nan')}).partition(' ')[2]}, "
        f"{tables.verdict(row)}. {tables.grounds(row)}"
        for row in kept[kept["agreement"].eq(CONTRADICTS)].to_dict("records")
    ]
    nothing = kept.loc[kept["agreement"].eq(NO_EXPECTATION), "why"].value_counts(sort=False)
    said += [
        f"No expectation ({count} of {len(kept)}): {reason}." for reason, count in nothing.items()
    ]
    return Sentences(tuple(said), "headline")


_EXPECTED = {"none": "the same", "slower": "worse", "faster": "better", "some": "different"}


def _change(row: Mapping[Hashable, Any]) -> str:
    estimate = tables.estimated(row["ratio"], row["low"], row["high"], show=tables.percent)
    if row["verdict"] in ("undecided", "equivalent"):
        estimate += f", detectable {tables.detectable(row['detectable_pct'])}"
    return f"{row['treatment']} {estimate}"


def validity(trials: pd.DataFrame, facts: pd.DataFrame, campaign: Campaign) -> Sentences:
    """Whether to believe it: trials and blocks against the plan, failures, warnings, conditions."""
    planned = campaign.blocks * campaign.trials_per_block
    ok = trials[trials["status"].eq(Status.OK.value)]
    of_block = compare.watched(ok, campaign).groupby("block").size()
    complete = of_block.eq(len(campaign.treatments) * len(campaign.flows)).sum()
    said = [
        f"{len(ok)} of {planned} planned trials are good; {complete} of {campaign.blocks} blocks "
        f"are complete ({compare.FEWEST_BLOCKS} are the fewest for a verdict).",
        f"Intervals are at least {campaign.level:.0%} for each comparison alone; with many "
        "comparisons some will miss by chance.",
    ]
    bad = trials[trials["status"].ne(Status.OK.value)]
    causes = bad["reason"].str.split(":").str[0].value_counts()
    said += [f"{count} trial(s) failed: {cause or 'no reason'}." for cause, count in causes.items()]
    said += _warned(trials)
    said += _looked_at(trials, facts)
    effects = compare.effects(trials, campaign)
    said += _underlay(effects, campaign)
    said += _blocks_needed(effects, campaign)
    return Sentences(tuple(said))


def overhead(found: pd.DataFrame, campaign: Campaign) -> Sentences:
    """What the probes cost (``compare.probe_overhead``), by flow; or why that is not known."""
    names = ", ".join(campaign.optional_probes)
    if not names:
        return Sentences(("No probe watched but those that are always on.",))
    if not campaign.probes_off:
        return Sentences(
            (
                f"This campaign has no probes-off arm, so that what its probes ({names}) cost here "
                "is unknown; `probes_off: true` adds one.",
            )
        )
    rows = found[found["metric"].isin(metrics.HEADLINE)]
    if rows.empty:
        return Sentences(("No trial has given a number to tell the probes' cost by yet.",))
    said = [
        f"The probes ({names}) changed flow {flow} by: "
        f"{'; '.join(map(_cost, ours.to_dict('records')))}."
        for flow, ours in rows.groupby("flow", sort=False)
    ]
    said.append(
        f"That is their cost under the baseline {campaign.baseline}; what they cost under another "
        "treatment was not measured."
    )
    if rows["warnings"].str.contains(_PROBE_FAILED).any():
        said.append(
            "Not every probe watched every trial (the warnings say which), so that this is not the "
            "cost of all of them."
        )
    return Sentences(tuple(said))


# How a trial's warnings name a probe that had nothing to say.
_PROBE_FAILED = r"(?:^|; )probe "


def _cost(row: Mapping[Hashable, Any]) -> str:
    label = metrics.metric(str(row["metric"])).label
    if pd.isna(row["ratio"]):
        return f"{label} UNKNOWN, {tables.verdict(row)}"
    _, _, change = _change(row).partition(f"{compare.PROBES_ON} ")
    return f"{label} {change}, {tables.verdict(row)}"


def _warned(trials: pd.DataFrame) -> list[str]:
    texts = trials["warnings"].str.split("; ").explode()
    counts = texts[texts.ne("")].value_counts()
    return [f"{text} ({count} of {len(trials)} trials)." for text, count in counts.items()]


def _looked_at(trials: pd.DataFrame, facts: pd.DataFrame) -> list[str]:
    count = int(facts["name"].eq("live_view").sum())
    if not count:
        return []
    return [
        f"{count} of {len(trials)} trials were looked at while their traffic ran (live view): that "
        "takes processor time on the nodes, which their numbers contain."
    ]


def _blocks_needed(effects: pd.DataFrame, campaign: Campaign) -> list[str]:
    """How many blocks would decide what is undecided: an interval narrows with their root."""
    hosts = {flow.name for flow in campaign.flows if flow.path is Path.HOST_HOST}
    undecided = effects[effects["verdict"].eq("undecided") & ~effects["flow"].isin(hosts)]
    said, hopeless = [], []
    for name in metrics.HEADLINE:
        rows = undecided[undecided["metric"].eq(name) & undecided["low"].notna()]
        if rows.empty:
            continue
        label = metrics.metric(name).label
        width = np.log(rows["high"] / rows["low"]) / 2 / np.log1p(campaign.margin_pct / 100)
        needed = int(np.ceil((rows["n_blocks"] * width**2).max()))
        if needed > _MANY_BLOCKS:
            hopeless.append(label)
        else:
            said.append(
                f"{label} is undecided: at this noise about {needed} blocks would narrow its "
                "intervals to the margin."
            )
    if hopeless:
        said.append(
            f"{', '.join(hopeless)}: undecided, and the noise is so far beyond the margin that "
            "more blocks alone will not do. Lengthen the trials and quieten the nodes first."
        )
    return said


_MANY_BLOCKS = 200


def _underlay(effects: pd.DataFrame, campaign: Campaign) -> list[str]:
    """What the path that no overlay touches shows: any difference there is noise or drift."""
    hosts = {flow.name for flow in campaign.flows if flow.path is Path.HOST_HOST}
    if not hosts:
        return ["No host-host flow was driven: what the underlay itself carries is not known."]
    rows = effects[effects["flow"].isin(hosts) & effects["metric"].isin(_OF_THE_UNDERLAY)]
    if rows.empty:
        return [
            "Between hosts no trial has given a number: what the underlay carries is not known."
        ]
    off = [
        f"{row['treatment']} {tables.percent(row['ratio'])} "
        f"({tables.interval(row['low'], row['high'])})"
        for row in rows.to_dict("records")
        if row["verdict"] in ("better", "worse")
    ]
    if off:
        return [
            "Between hosts, where no overlay is in the way, treatments differ all the same: "
            + "; ".join(off)
            + ". Differences of that size between pods prove nothing."
        ]
    seen = tables.detectable(rows["detectable_pct"].max())
    return [
        "Between hosts, where no overlay is in the way, no difference was established "
        f"(detectable {seen})."
    ]


_OF_THE_UNDERLAY = ("received_bits_per_s", "rr_p50_ns")


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
