"""What must be minded when two campaigns are compared, as sentences. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from ebpfperf import compare, judging, metrics, tables, verdicts
from ebpfperf.between import AFTER, BEFORE, Pair, Side, common_flows, left_out
from ebpfperf.campaigns_apart import between as differing
from ebpfperf.campaigns_apart import roles
from ebpfperf.model import Design, Path
from ebpfperf.verdict_formats import Condition

_OF_THE_UNDERLAY = ("received_bits_per_s", "rr_p50_ns")
_NAMES_SHOWN, _KINDS_SHOWN = 3, 6
UNDERLAY_MOVED = "underlay moved"


def sentences(
    before: Side, after: Side, effects: pd.DataFrame, *, paired: Sequence[Pair]
) -> tuple[str, ...]:
    """What a reader must know beside the verdicts, what matters most first."""
    return (
        *_same_trials(before, after),
        *_underlay(before, after, effects, paired),
        *_uncontrolled(before, after),
        *_unpaired_baselines(before, after, paired),
        *left_out(before.campaign, after.campaign, paired=paired),
        "Intervals cover how trials differ within a campaign, not how a campaign differs from its "
        "repetition on another day: two campaigns before the change show that.",
    )


def marks(*, accepted: str | None, unexpected: Collection[str]) -> tuple[str, ...]:
    """Short phrases that every verdict carries: why it is not to be relied on as it stands."""
    found = []
    if accepted is not None:
        found.append(f"accepted: {accepted.replace(';', ',')}")
    names = list(dict.fromkeys(unexpected))
    if names:
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        found.append(f"differs besides: {', '.join(names[:_NAMES_SHOWN])}{more}")
    return tuple(found)


def chosen(before: Side, after: Side, *, margin_pct: float, level: float) -> tuple[str, ...]:
    """Marks for a margin or level with which neither campaign was run: its numbers were known."""
    found = []
    for name, given, fixed, unit in (
        ("margin", margin_pct, [one.campaign.margin_pct for one in (before, after)], " %"),
        ("level", level, [one.campaign.level for one in (before, after)], ""),
    ):
        if given not in fixed:
            told = " and ".join(f"{value:g}{unit}" for value in dict.fromkeys(fixed))
            found.append(f"{name} {given:g}{unit} instead of {told} as fixed before the runs")
    return tuple(found)


def marked(
    effects: pd.DataFrame,
    before: Side,
    after: Side,
    *,
    paired: Sequence[Pair],
    marks: Sequence[str] = (),
) -> pd.DataFrame:
    """The rows, each with these marks and with what gates say of most of its trials on a side.

    Those are said as sentences in ``warnings``, too; a campaign's own conditions and comparisons
    are marked where it is compared within itself. Where a path moved that no overlay touches, every
    row of the frame is marked, too (costs have none, and are free of it).
    """
    marks = [*marks, UNDERLAY_MOVED] if len(_moved_between_hosts(effects)) else marks
    noisy = {
        side: {} if one.gates is None else verdicts.noisy(one.trials, one.gates, one.campaign)
        for side, one in ((BEFORE, before), (AFTER, after))
    }
    names = {pair.name: pair for pair in paired}
    rows = []
    for row in effects.to_dict("records"):
        pair, found, said = names[str(row["treatment"])], list(marks), []
        for side, treatment in ((BEFORE, pair.before), (AFTER, pair.after)):
            for gate, count, n in noisy[side].get((treatment, str(row["flow"])), ()):
                found.append(gate)
                said.append(f"{gate} in {count} of {n} trials {side}")
        warnings = [text for text in str(row["warnings"]).split("; ") if text]
        row |= {
            "marks": "; ".join(dict.fromkeys(found)),
            "warnings": "; ".join([*said, *warnings]),
        }
        rows.append(row)
    return pd.DataFrame(rows, columns=list(compare.COLUMNS)).astype(compare.COLUMNS)


def conditions(
    before: Side, after: Side, *, paired: Sequence[Pair], expected: Collection[str] = ()
) -> tuple[Condition, ...]:
    """What was not the same on the nodes, as far as facts say; what was expected to differ last.

    Facts of trials count where their treatment and flow are compared. Nodes whose names differ
    stand for each other by the end that they carried, where the facts tell.

    Parameters
    ----------
    expected
        Names of facts, or of a kind of them (``offloads`` for ``offloads:nic``, ``felix_spec`` for
        all its fields).
    """
    found, _ = _differences(before, after, paired)
    rows = [
        Condition(name, node, one, other, expected=_is_of(name, expected))
        for name, node, one, other in found.astype(str).itertuples(index=False, name=None)
    ]
    return tuple(sorted(rows, key=lambda row: row.expected))


def not_compared(before: Side, after: Side, *, paired: Sequence[Pair]) -> tuple[str, ...]:
    """A sentence on the conditions that one side alone was asked for."""
    _, kinds = _differences(before, after, paired)
    if not kinds:
        return ()
    more = f" and {len(kinds) - _KINDS_SHOWN} more kinds" if len(kinds) > _KINDS_SHOWN else ""
    return (
        f"Known of one side only, and not compared: {', '.join(kinds[:_KINDS_SHOWN])}{more}. An "
        "older version of ebpfperf asked for less.",
    )


def _differences(
    before: Side, after: Side, paired: Sequence[Pair]
) -> tuple[pd.DataFrame, list[str]]:
    """What differs, and the kinds of facts of which one side has none at all."""
    facts = (
        _facts_compared(before, after, [pair.before for pair in paired]),
        _facts_compared(after, before, [pair.after for pair in paired]),
    )
    nodes = [set(frame["node"]) - {""} for frame in facts]
    ends = [roles(frame) for frame in facts]
    if nodes[0] == nodes[1] or not all(ends):
        ends = [{}, {}]
    found = differing(
        facts[0],
        facts[1],
        roles_before=ends[0],
        roles_after=ends[1],
        same_nodes=nodes[0] == nodes[1],
    )
    known = [{_kind(name) for name in frame["name"].unique()} for frame in facts]
    kinds = found["name"].map(_kind)
    unasked = ~kinds.isin(known[0] & known[1])
    return found[~unasked], sorted(set(kinds[unasked]))


def _facts_compared(side: Side, other: Side, treatments: Collection[str]) -> pd.DataFrame:
    good = side.good
    flows = {flow.name for flow in common_flows(side.campaign, other.campaign)}
    ours = good.loc[good["treatment"].isin(treatments) & good["flow"].isin(flows), "trial_id"]
    facts = side.facts
    return facts[facts["trial_id"].isna() | facts["trial_id"].isin(ours)]


def _is_of(name: str, expected: Collection[str]) -> bool:
    return name in expected or _kind(name) in expected


def _kind(name: str) -> str:
    """``offloads`` of ``offloads:nic``, ``felix_spec`` of its fields."""
    return re.split("[:.]", name)[0]


def unmet(expected: Sequence[str], found: Sequence[Condition]) -> tuple[str, ...]:
    """A sentence on each condition that was to differ and does not."""
    return tuple(
        f"{name} was expected to differ, and the facts show no difference of that name."
        for name in expected
        if not any(_is_of(one.name, [name]) for one in found)
    )


def _same_trials(before: Side, after: Side) -> tuple[str, ...]:
    numbers = [name for name in metrics.HEADLINE if name in before.good and name in after.good]
    same = len(before.good.merge(after.good, on=["trial_id", "start_utc", *numbers]))
    if not same:
        return ()
    return (
        f"{same} of the {len(before.good)} good trials before are trials of the campaign after, "
        "too: they are compared with themselves.",
    )


def _underlay(
    before: Side, after: Side, effects: pd.DataFrame, paired: Sequence[Pair]
) -> tuple[str, ...]:
    """What moved where no overlay is in the way: it moves everything."""
    kept = effects["metric"].isin(_OF_THE_UNDERLAY)
    rows = effects[kept & effects["path"].eq(Path.HOST_HOST.value)]
    if len(rows):
        off = _moved_between_hosts(effects)
        if len(off):
            told = "; ".join(map(_moved, off.to_dict("records")))
            return (
                f"Between hosts, where no overlay is in the way, it moved, too: {told}. Look at "
                "the machines and the network between them, not at Calico; what treatments cost "
                "against the baseline is free of it.",
            )
        if rows["verdict"].eq(judging.EQUIVALENT).all():
            return ("Between hosts, where no overlay is in the way, nothing moved: equivalent.",)
        seen = rows["detectable_pct"]
        why = (
            "too few trials" if seen.isna().any() else f"detectable {tables.detectable(seen.max())}"
        )
        return (
            f"Between hosts, where no overlay is in the way, no change was established ({why}).",
        )
    said = ["No host-host flow is in both campaigns: whether the underlay moved is not known."]
    bases = Pair(before.campaign.baseline, after.campaign.baseline)
    shared = effects[kept & effects["treatment"].eq(bases.name) & effects["primary"]]
    off = shared[shared["verdict"].isin(judging.ESTABLISHED)]
    if bases in paired and len(off):
        told = "; ".join(map(_moved, off.to_dict("records")))
        free = {Design.BLOCKS} == {before.campaign.design, after.campaign.design}
        more = " What moves every treatment alike cancels in their cost against it." if free else ""
        said.append(f"The baseline itself moved: {told}.{more}")
    return tuple(said)


def _uncontrolled(before: Side, after: Side) -> tuple[str, ...]:
    """Flows whose load no host-host flow carried, where another load has such a control."""
    common = common_flows(before.campaign, after.campaign)
    controlled = {flow.load for flow in common if flow.path is Path.HOST_HOST}
    without = [flow.name for flow in common if flow.load not in controlled]
    if not controlled or not without:
        return ()
    return (
        f"No host-host flow has the load of {', '.join(without)}: whether the machines moved for "
        "it is not known, but what treatments cost against the baseline is free of that.",
    )


def _moved_between_hosts(effects: pd.DataFrame) -> pd.DataFrame:
    between_hosts = effects["path"].eq(Path.HOST_HOST.value)
    kept = between_hosts & effects["metric"].isin(_OF_THE_UNDERLAY)
    return effects[kept & effects["verdict"].isin(judging.ESTABLISHED)]


def _moved(row: Mapping[Hashable, Any]) -> str:
    label = metrics.metric(str(row["metric"])).label
    change = tables.estimated(row["ratio"], row["low"], row["high"], show=tables.percent)
    return f"{label} of {row['flow']} under {row['treatment']} {change}, {row['verdict']}"


def _unpaired_baselines(before: Side, after: Side, paired: Sequence[Pair]) -> tuple[str, ...]:
    one, other = before.campaign, after.campaign
    if Pair(one.baseline, other.baseline) not in paired:
        return (
            f"The baselines are not compared with each other ({one.baseline} before, "
            f"{other.baseline} after), so that what treatments cost against them is not, either.",
        )
    return ()
