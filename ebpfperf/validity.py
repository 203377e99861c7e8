"""Whether to believe a campaign's verdicts: sentences and tables beside the numbers. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ebpfperf import compare, confounders, gates, metrics, tables, units
from ebpfperf import verdicts as verdicts_of
from ebpfperf.diagnosis import Verdict
from ebpfperf.diagnosis_groups import checks, clock, grouped
from ebpfperf.findings import Sentences, change
from ebpfperf.model import Campaign, Design, Path, Status
from ebpfperf.verdicts import Verdicts


def sentences(found: Verdicts, facts: pd.DataFrame) -> Sentences:
    """Whether to believe it, and then what was noted beside it."""
    noted = _noted(found.trials, facts, found.campaign, effects=found.effects)
    return Sentences((*belief(found, facts).items, *noted))


def belief(found: Verdicts, facts: pd.DataFrame) -> Sentences:
    """Whether to believe it: what ran, on what, the level, the A/A test, confounders and gates."""
    return Sentences(
        (
            *_counted(found.trials, found.campaign),
            *_before(found),
            *_level(found),
            *_itself(found),
            *_confounded(found, facts),
            *_gates(found),
        )
    )


def _before(found: Verdicts) -> list[str]:
    """What the checks of the cluster said before each run of the campaign."""
    said: dict[str, None] = {}
    for each in found.preflights:
        when, bad = clock(each.taken_utc), grouped(each, (Verdict.FAIL, Verdict.WARN))
        for group in bad:
            place, what = group.where(each.nodes), " ".join(group.said())
            said[f"Before the run of {when}: {group.verdict} {group.check} ({place}): {what}"] = (
                None
            )
        counts = each.counts()
        asked = len(each.results) - counts[Verdict.NOT_APPLICABLE]
        if asked and not bad:
            unknown = counts[Verdict.UNKNOWN]
            doubt = f", but {unknown} of them could not tell" if unknown else ""
            right = f"{checks(asked)} of the cluster found nothing wrong{doubt}"
            said[f"Before the run of {when} {right}."] = None
    return list(said)


def _level(found: Verdicts) -> list[str]:
    campaign, effects = found.campaign, found.effects
    primary = effects[effects["primary"] & effects["p_value"].notna()]
    if primary.empty:
        return []
    sizes = sorted(set(primary["family"]))
    family = " or ".join(map(str, sizes))
    others = effects.loc[~effects["primary"], "metric"].nunique()
    said = [
        f"Better and worse hold at {campaign.level:.0%} over the {family} metrics that lead each "
        f"question together (Holm); the other {others} are looked at one by one: what they show is "
        "a lead, not a result. Each interval is for its comparison alone."
    ]
    if campaign.until_pct is not None:
        ended = (
            f"ended after {campaign.run_blocks} of {campaign.blocks} blocks, when"
            if campaign.ended_after
            else f"was to end when, within {campaign.blocks} blocks,"
        )
        said.append(
            f"The campaign {ended} its intervals were within ±{campaign.until_pct:g} %; its looks "
            f"share the error, so that each interval is at {compare.level(campaign):.2%}."
        )
    return said


def _itself(found: Verdicts) -> list[str]:
    if not found.campaign.aa_test:
        return [
            "No A/A test: whether differences appear here where none are is unknown; "
            "`aa_test: true` runs the baseline twice."
        ]
    differs = verdicts_of.aa_differences(found.aa, level=compare.level(found.campaign))
    if len(differs):
        listed = "; ".join(
            f"{metrics.metric(row['metric']).label} of {row['flow']} "
            f"{tables.estimated(row['ratio'], row['low'], row['high'], show=tables.percent)}"
            for row in differs.to_dict("records")
        )
        return [
            f"The A/A test fails: run as if it were two treatments, the baseline differs from "
            f"itself ({listed}). Every verdict is marked. By chance alone one question in "
            f"{round(1 / (1 - found.campaign.level))} does so; repeat the campaign before using it."
        ]
    primary = found.aa[found.aa["primary"] & found.aa["low"].notna()]
    # Six blocks have intervals, and yet no difference can be established over two metrics.
    if not np.isfinite(primary["detectable_pct"]).any():
        return ["The A/A test has too few blocks to show anything yet."]
    finest, *_, coarsest = sorted(
        primary.to_dict("records") * 2, key=lambda row: float(row["detectable_pct"])
    )
    return [
        f"The A/A test holds: of {len(primary)} comparisons of the baseline with itself none found "
        f"a difference (detectable {tables.detectable(finest['detectable_pct'])} to "
        f"{tables.detectable(coarsest['detectable_pct'])}, the coarsest in "
        f"{metrics.metric(coarsest['metric']).label} of {coarsest['flow']})."
    ]


def _confounded(found: Verdicts, facts: pd.DataFrame) -> list[str]:
    marks = confounders.marks(found.differences)
    listed: dict[str, list[str]] = {}
    for (treatment, flow), texts in marks.items():
        for text in texts:
            listed.setdefault(text, []).append(f"{treatment} ({flow})")
    if listed:
        return [
            f"{text[:1].upper()}{text[1:]}: {', '.join(where)} against {found.campaign.baseline}."
            for text, where in listed.items()
        ]
    of_trials = facts[facts["trial_id"].notna()] if "trial_id" in facts else facts.iloc[:0]
    if not confounders.recorded(of_trials):
        return [
            "The conditions of each trial were not recorded: whether something besides the "
            "treatments differed is unknown."
        ]
    known = of_trials[~of_trials["value"].str.startswith(units.UNKNOWN) & of_trials["unit"].eq("")]
    unread = found.differences["kind"].eq(confounders.UNREAD).sum()
    return [
        "Nothing but the treatments themselves differed between the arms, of "
        f"{known['name'].nunique()} facts that are known of each trial"
        + (f"; {unread} could be read in one arm only." if unread else ".")
    ]


def _gates(found: Verdicts) -> list[str]:
    summary = gates.summary(found.gates, found.trials, comparisons=found.comparison_gates)
    # What there was nothing to ask of has not passed either.
    unasked = summary["unchecked"].gt(0) | summary["checked"].eq(0)
    passed = summary[summary["tripped"].eq(0) & ~unasked]
    tripped = summary[summary["tripped"].gt(0)]
    unchecked = summary[unasked]
    said = [f"{len(passed)} of {len(summary)} validity gates passed everywhere."]
    if len(tripped):
        listed = ", ".join(
            f"{row['gate']} ({row['tripped']} of {row['checked'] + row['unchecked']} "
            f"{_UNITS.get(row['scope'], row['scope'])})"
            for row in tripped.to_dict("records")
        )
        said.append(f"Tripped: {listed}; why, and what to do, stands below.")
    if len(unchecked):
        listed = ", ".join(unchecked["gate"])
        said.append(f"Not checked everywhere, which is not the same as passed: {listed}.")
    return [" ".join(said)]


def advice(found: Verdicts) -> Sentences:
    """Why each gate that tripped did, by its first example, and what to do: one sentence each."""
    said = []
    for gate in gates.GATES.values():
        of = found.gates if gate.scope is gates.Scope.TRIAL else found.comparison_gates
        ours = gates.tripped(of[of["gate"].eq(gate.name)])
        if len(ours):
            more = ", for example" if len(ours) > 1 else ""
            said.append(f"Gate {gate.name}{more}: {ours['evidence'].iloc[0]} {gate.advice}")
    return Sentences(tuple(said))


_UNITS = {
    "trial": "trials",
    "treatment and flow": "comparisons",
    "treatment": "treatments",
    "flow": "flows",
    "campaign": "campaigns",
}


def of_trials(trials: pd.DataFrame, facts: pd.DataFrame, campaign: Campaign) -> Sentences:
    """Trials and blocks against the plan, failures, warnings, the underlay, blocks that lack."""
    effects = compare.effects(trials, campaign)
    noted = _noted(trials, facts, campaign, effects=effects)
    return Sentences((*_counted(trials, campaign), *noted))


def _counted(trials: pd.DataFrame, campaign: Campaign) -> list[str]:
    """How many trials and blocks there are of those planned, and why some are no good."""
    planned = campaign.run_blocks * campaign.trials_per_block
    ok = trials[trials["status"].eq(Status.OK.value)]
    of_block = compare.watched(ok, campaign).groupby("block").size()
    complete = of_block.eq(len(campaign.treatments) * len(campaign.flows)).sum()
    said = [
        f"{len(ok)} of {planned} planned trials are good; {complete} of {campaign.run_blocks} "
        f"blocks are complete ({compare.FEWEST_BLOCKS} are the fewest for a verdict)."
    ]
    if campaign.design is Design.INDEPENDENT:
        said = [
            f"{len(ok)} of {len(trials)} imported trials are good; they are not paired. On what "
            "they ran (path, overlay mode, link, MTU) is what the import was told, not observed."
        ]
    for status, word in ((Status.FAILED, "failed"), (Status.VOID, "left out by a gate")):
        bad = trials[trials["status"].eq(status.value)]
        causes = bad["reason"].str.split(":").str[0].value_counts()
        said += [
            f"{count} trial(s) {word}: {cause or 'no reason'}." for cause, count in causes.items()
        ]
    return said


def _noted(
    trials: pd.DataFrame, facts: pd.DataFrame, campaign: Campaign, *, effects: pd.DataFrame
) -> list[str]:
    return [
        *_warned(trials),
        *_looked_at(trials, facts),
        *_underlay(effects, campaign),
        *_blocks_needed(effects, campaign),
    ]


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
    _, _, said = change(row).partition(f"{compare.PROBES_ON} ")
    return f"{label} {said}, {tables.verdict(row)}"


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
        # The bin by which an interval is wider stays, however many blocks there are.
        bin_width = np.log1p(metrics.metric(name).resolution_pct / 100)
        left = np.log1p(campaign.margin_pct / 100) - bin_width
        noise = np.log(rows["high"] / rows["low"]) / 2 - bin_width
        needed = np.ceil((rows["n_blocks"] * (noise / left) ** 2).max()) if left > 0 else np.inf
        if needed > _MANY_BLOCKS:
            hopeless.append(label)
        else:
            said.append(
                f"{label} is undecided: at this noise about {needed:.0f} blocks would narrow its "
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
