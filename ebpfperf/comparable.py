"""Why two campaigns are not comparable: every reason, each with what to do about it. Pure.

A difference that is not the subject would be taken for it: another load, other probes (they cost
something), another margin. Each of these is refused; who knows better says why, and that is kept
with the result.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import pandas as pd

from ebpfperf import findings, metrics, tables, verdicts
from ebpfperf.between import AFTER, BEFORE, Pair, Side, common_flows
from ebpfperf.errors import InputError
from ebpfperf.model import Campaign, Flow, Path, Treatment

ACCEPTING = "Or go on with --accept REASON, which is kept with the result."
_MTU_FACTS = ("nic_mtu", "mtu")


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason, in a sentence, and one on what to do.

    Attributes
    ----------
    final
        Whether nothing can be compared however much is accepted.
    """

    what: str
    remedy: str
    final: bool = False

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}"


def check(found: Sequence[Refusal], *, accepted: str | None) -> tuple[str, ...]:
    """What was accepted: the reasons against comparing, without what to do about them.

    Raises
    ------
    InputError
        There are some and none is accepted, or one cannot be; field ``problems`` has them all.
    """
    final = [one for one in found if one.final]
    if final or (found and accepted is None):
        shown = final if accepted is not None else list(found)
        problems = [str(one) for one in shown]
        if not final:
            problems[-1] += f" {ACCEPTING}"
        raise InputError(
            f"The two campaigns are not comparable: {' '.join(one.what for one in shown)}",
            ACCEPTING if not final else shown[-1].remedy,
            problems=tuple(problems),
        )
    return tuple(one.what for one in found)


def refusals(
    before: Side,
    after: Side,
    *,
    paired: Sequence[Pair],
    renamed: Collection[str] = (),
    margin_given: bool = False,
    level_given: bool = False,
    expected: Collection[str] = (),
    units: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
) -> tuple[Refusal, ...]:
    """Every reason against comparing these two campaigns; empty when there is none.

    Parameters
    ----------
    renamed
        Names before of the treatments that a person paired: these may differ in what they are.
    margin_given, level_given
        Whether a person said which counts, so that the campaigns' own may differ.
    expected
        Facts that are the subject; those of the MTU excuse a difference of it.
    units
        Metric → unit of the samples of each side.
    """
    return tuple(
        [
            *_nothing(before, after, paired),
            *_flows(before.campaign, after.campaign),
            *_treatments(before.campaign, after.campaign, paired, renamed),
            *_watched(before.campaign, after.campaign),
            *_origins(before, after),
            *_rules(before.campaign, after.campaign, given=(margin_given, level_given)),
            *_units(*units),
            *_against_itself(before, after),
            *(_mtus(before, after, paired) if not {*_MTU_FACTS} & {*expected} else ()),
        ]
    )


def _nothing(before: Side, after: Side, paired: Sequence[Pair]) -> Iterator[Refusal]:
    if not paired:
        names = [
            ", ".join(one.name for one in side.campaign.treatments) for side in (before, after)
        ]
        yield Refusal(
            f"No treatment is in both campaigns: before {names[0]}; after {names[1]}.",
            "Pair them with --treatment BEFORE=AFTER.",
            final=True,
        )
    if not common_flows(before.campaign, after.campaign):
        names = [", ".join(flow.name for flow in side.campaign.flows) for side in (before, after)]
        yield Refusal(
            f"No flow is in both campaigns: before {names[0]}; after {names[1]}.",
            "Measure the same flows.",
            final=True,
        )
    for name, side in ((BEFORE, before), (AFTER, after)):
        if side.good.empty:
            yield Refusal(
                f"The campaign {name} ({side.name}) has no good trial.",
                f"See `ebpfperf status {side.name}` for why, and run it again.",
                final=True,
            )


def _flows(before: Campaign, after: Campaign) -> Iterator[Refusal]:
    earlier = {flow.name: flow for flow in before.flows}
    for flow in common_flows(before, after):
        told = _differing(earlier[flow.name], flow)
        if told:
            yield Refusal(
                f"Flow {flow.name} is not the same: {told}.",
                "Measure it again as it was, or give another flow another name.",
            )


def _treatments(
    before: Campaign, after: Campaign, paired: Sequence[Pair], renamed: Collection[str]
) -> Iterator[Refusal]:
    for pair in paired:
        if pair.before in renamed:
            continue
        told = _differing(before.treatment(pair.before), after.treatment(pair.after))
        if told:
            yield Refusal(
                f"Treatment {pair.name} is not the same: {told}.",
                f"If that is the subject, say so with --treatment {pair.before}={pair.after}.",
            )


def _watched(before: Campaign, after: Campaign) -> Iterator[Refusal]:
    one, other = (sorted(campaign.optional_probes) for campaign in (before, after))
    if one != other:
        yield Refusal(
            f"The probes are not the same, and they cost something: before {_listed(one)}; after "
            f"{_listed(other)}.",
            "Measure again with the same probes.",
        )
    elif one and before.probe_share_pct != after.probe_share_pct:
        yield Refusal(
            f"The probes were on for {before.probe_share_pct:g} % of the time before and for "
            f"{after.probe_share_pct:g} % after.",
            "Measure again with the same probe_share_pct.",
        )


def _origins(before: Side, after: Side) -> Iterator[Refusal]:
    kinds = [
        "the embedded lab" if findings.emulated(side.facts) else "a real cluster"
        for side in (before, after)
    ]
    if kinds[0] != kinds[1]:
        yield Refusal(
            f"One cluster is the embedded lab: before {kinds[0]}, after {kinds[1]}.",
            "Compare campaigns of one kind of cluster; the lab is not Calico.",
        )
    sources = [side.campaign.source or "ebpfperf" for side in (before, after)]
    if sources[0] != sources[1]:
        yield Refusal(
            f"They were not measured by the same tool: before {sources[0]}, after {sources[1]}.",
            "Measure both with ebpfperf run, or import both.",
        )


def _rules(before: Campaign, after: Campaign, *, given: tuple[bool, bool]) -> Iterator[Refusal]:
    margin_given, level_given = given
    if before.margin_pct != after.margin_pct and not margin_given:
        yield Refusal(
            f"The margin fixed before the runs is not the same: {before.margin_pct:g} % before, "
            f"{after.margin_pct:g} % after.",
            "Say which counts with --margin.",
        )
    if before.level != after.level and not level_given:
        yield Refusal(
            f"The level fixed before the runs is not the same: {before.level:g} before, "
            f"{after.level:g} after.",
            "Say which counts with --level.",
        )


def _units(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Refusal]:
    for metric in sorted(set(before) & set(after)):
        if before[metric] != after[metric]:
            yield Refusal(
                f"{metric} is in {before[metric]} before and in {after[metric]} after.",
                "Use the version of ebpfperf that wrote one of them to measure both.",
            )


def _against_itself(before: Side, after: Side) -> Iterator[Refusal]:
    for name, side in ((BEFORE, before), (AFTER, after)):
        off = None if side.aa is None else verdicts.aa_beyond_the_margin(side.aa)
        told = [
            f"{metrics.metric(row['metric']).label} of {row['flow']} "
            f"{tables.percent(row['ratio'])} ({tables.interval(row['low'], row['high'])})"
            for row in ([] if off is None else off.to_dict("records"))
        ]
        if told:
            yield Refusal(
                f"The A/A test of the campaign {name} ({side.name}) differs: {'; '.join(told)}.",
                "Something besides the treatments moved its numbers: run it again on quiet nodes.",
            )


def _mtus(before: Side, after: Side, paired: Sequence[Pair]) -> Iterator[Refusal]:
    for flow in common_flows(before.campaign, after.campaign):
        for pair in paired:
            one = _sizes(before.good, flow.name, pair.before)
            other = _sizes(after.good, flow.name, pair.after)
            explained = flow.path is not Path.HOST_HOST and _mtu_follows(
                before.campaign.treatment(pair.before), after.campaign.treatment(pair.after)
            )
            if one and other and one != other and not explained:
                yield Refusal(
                    f"The MTU of flow {flow.name} under {pair.name} is not the same: "
                    f"{_listed(one)} bytes before, {_listed(other)} after, and the treatment does "
                    "not explain it.",
                    "Give both the same MTU, or say with --expect nic_mtu that it is the subject.",
                )


def _mtu_follows(before: Treatment, after: Treatment) -> bool:
    """Whether what the two treatments set decides the MTU of pods, and differs."""
    sizes = ("ipipMTU", "vxlanMTU", "ipipEnabled", "vxlanEnabled", "mtuIfacePattern")
    one, other = (
        (each.overlay, [dict(each.felix).get(name) for name in sizes]) for each in (before, after)
    )
    return one != other


def _sizes(trials: pd.DataFrame, flow: str, treatment: str) -> list[str]:
    if "mtu_bytes" not in trials:
        return []
    ours = trials["flow"].eq(flow) & trials["treatment"].eq(treatment)
    return [str(size) for size in sorted({int(x) for x in trials.loc[ours, "mtu_bytes"].dropna()})]


def _differing(one: Flow | Treatment, other: Flow | Treatment) -> str:
    """The fields in which two differ, apart from their names: ``streams 1 before, 8 after``."""
    return "; ".join(
        f"{field.name} {_said(getattr(one, field.name))} before, "
        f"{_said(getattr(other, field.name))} after"
        for field in fields(one)
        if field.name != "name" and getattr(one, field.name) != getattr(other, field.name)
    )


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{name}={setting}" for name, setting in value) or "none"
    return "not set" if value is None else str(value)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
