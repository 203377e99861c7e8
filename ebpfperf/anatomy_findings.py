"""Differences between the parts of the way to sentences, and whether to believe them.

Nothing is said that an interval does not allow: a part whose interval holds zero cannot be told
from none, and below six blocks nothing can be said.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from ebpfperf import anatomy, compare, tables, units
from ebpfperf.anatomy import SOCKET, UNTIL_SOCKET, WHOLE
from ebpfperf.findings import Headline, Headlines, Sentences
from ebpfperf.model import Campaign, Overlay, Path, Status

LONGER, SHORTER, NOT_TOLD, VOID = "longer", "shorter", "cannot be told from zero", "void"


def told(row: Mapping[Hashable, Any]) -> str:
    """What the interval of a difference allows: longer, shorter, or that it cannot be told."""
    if pd.isna(row["low_ns"]):
        return f"{VOID}: too few blocks: {row['n_blocks']} of {compare.FEWEST_BLOCKS}"
    if row["low_ns"] > 0:
        return LONGER
    return SHORTER if row["high_ns"] < 0 else NOT_TOLD


def micro(ns: float) -> str:
    """``"2.90 µs"``: microseconds whatever the size, as on the charts' axes."""
    return f"{units.number(ns / units.NS_PER_US)} µs"


def signed(ns: float) -> str:
    """``"+2.90 µs"``, with a true minus sign where it is less."""
    return f"{'−' if ns < 0 else '+'}{micro(abs(ns))}" if ns else micro(ns)


def where(found: pd.DataFrame, walked: pd.DataFrame, campaign: Campaign) -> Headlines | Sentences:
    """In which part each treatment's difference to the baseline is; one headline a way.

    ``found`` is the frame of ``anatomy.differences``, ``walked`` that of ``anatomy.steps``. Flows
    between hosts are the control and lead only where there is no other.
    """
    asked = anatomy.senders(found, campaign, control=False)
    if not asked and len(walked):
        return Sentences(("There is no treatment to compare the baseline's packets with.",))
    if not asked:
        return missing("hops", campaign)
    items = []
    for flow, sender in asked:
        ours = found[found["flow"].eq(flow) & found["sender"].eq(sender)]
        changes = [
            change
            for _, rows in ours.groupby("treatment", sort=False)
            for change in _changes(rows.to_dict("records"))
        ]
        first, waking = (ours[ours["part"].eq(part)] for part in (UNTIL_SOCKET, SOCKET))
        lead = (
            f"Packets that the {sender} of flow {flow} sends. Baseline {campaign.baseline}: "
            f"{micro(first['baseline_ns'].iloc[0])} each until the socket, "
            + (f"{micro(waking['baseline_ns'].iloc[0])} there." if len(waking) else "none read.")
        )
        items.append(Headline(lead, tuple(changes)))
    unseen = (_unseen_tunnel(treatment.name, walked, campaign) for treatment in campaign.treatments)
    legend = (
        "Differences of time per packet, paired by block, with their intervals (level at least "
        f"{campaign.level:.0%} for each alone). Until the socket: from where the packet was first "
        "seen to the stack of the workload that reads it. The parts were estimated each by itself "
        "and add up to the whole but roughly."
    )
    return Headlines(tuple(items), " ".join(filter(None, (legend, *unseen))))


def _changes(rows: Sequence[Mapping[Hashable, Any]]) -> list[tuple[str, str]]:
    """``("vxlan takes 2.90 µs … longer …", "longer")``, and what is so at the socket."""
    by_part = {str(row["part"]): row for row in rows}
    until = by_part[UNTIL_SOCKET]
    name, word = str(until["treatment"]), told(until)
    if word.startswith(VOID):
        return [(f"{name}: what differs cannot be said", word)]
    if word == NOT_TOLD:
        said = f"{name}, until the socket: {_spanned(until)}"
    else:
        low, high = sorted(abs(until[end]) for end in ("low_ns", "high_ns"))
        span = tables.estimated(abs(until["difference_ns"]), low, high, show=micro)
        said = f"{name} takes {span} {word} than {until['baseline']} until the socket"
    parts = [by_part[part] for part in anatomy.PARTS if part in by_part and part != SOCKET]
    apart = [row for row in parts if told(row) != NOT_TOLD]
    apart.sort(key=lambda row: -abs(row["difference_ns"]))
    if apart:
        changed = ", ".join(f"{row['part']} {_spanned(row)}" for row in apart)
        said += f", {'in parts' if word == NOT_TOLD else 'of it'} {changed}"
    if rest := [str(row["part"]) for row in parts if told(row) == NOT_TOLD]:
        said += f", and in {_and(rest)} nothing that can be told from zero"
    found = [(said, word)]
    if SOCKET in by_part:
        waking, whole = by_part[SOCKET], by_part[WHOLE]
        there, all_of_it = f"at the socket {_spanned(waking)}", f"the whole way {_spanned(whole)}"
        if told(waking) == told(whole):
            found.append((f"{name}, {there}, {all_of_it}", told(whole)))
        else:
            found += [(f"{name}, {there}", told(waking)), (f"{name}, {all_of_it}", told(whole))]
    return found


def _unseen_tunnel(name: str, walked: pd.DataFrame, campaign: Campaign) -> str:
    """A sentence where packets were encapsulated in no step of its own; empty where not so."""
    pods = [flow.name for flow in campaign.flows if flow.path is not Path.HOST_HOST]
    ours = walked[walked["treatment"].eq(name) & walked["flow"].isin(pods)]
    if ours.empty or campaign.treatment(name).overlay is Overlay.NONE:
        return ""
    places = set(ours[["start", "end"]].to_numpy().ravel())
    sides = [
        side
        for place, side in (("tunnel-queue", "sender"), ("tunnel-receive", "receiver"))
        if place not in places
    ]
    if not sides:
        return ""
    return (
        f"Under {name} no packet was seen at a tunnel device of the {_and(sides)}: what the "
        "overlay costs there is counted as host stack."
    )


def _spanned(row: Mapping[Hashable, Any]) -> str:
    return tables.estimated(row["difference_ns"], row["low_ns"], row["high_ns"], show=signed)


def _and(words: Sequence[str]) -> str:
    """``"a, b and c"``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def missing(probe: str, campaign: Campaign) -> Sentences:
    """Why there is nothing of a probe to show, and how to get it."""
    if probe in campaign.optional_probes:
        return Sentences(
            (f"`{probe}` was to watch, but no good trial has numbers of it: Validity says why.",)
        )
    probes = ", ".join((*campaign.optional_probes, probe))
    return Sentences(
        (
            f"This campaign did not watch with `{probe}`. Give its campaign file the line "
            f"`probes: [{probes}]` and run it into a new directory.",
        )
    )


def watched(
    trials: pd.DataFrame, samples: pd.DataFrame, facts: pd.DataFrame, campaign: Campaign
) -> Sentences:
    """Whether to believe what the probes say: how long they watched, what they lost or gave up."""
    named = campaign.optional_probes
    if not named:
        return Sentences(("No probe watched but those that are always on.",))
    ours = compare.watched(trials, campaign)
    ours = ours[ours["status"].eq(Status.OK.value)]
    said = _times(ours, facts, named)
    said += _refused(facts, named)
    if (samples["source"].eq("hops") & samples["trial_id"].isin(ours["trial_id"])).any():
        said += _walks(ours, samples)
        said.append(
            "Each step holds about one run of the probe's own program, which saw the packet at its "
            "end: see `hops` in docs/probes.md for what that costs, and compare treatments by "
            "their differences."
        )
        if compare.shared_kernel(facts):
            said.append(
                "The nodes share one kernel: the wire is a pair of virtual devices, and no cable, "
                "switch or second clock is in any step."
            )
        else:
            said.append(
                "The nodes have kernels of their own, whose clocks are not compared: the step over "
                "the wire is not known, and the whole way is both halves without it."
            )
    said += _lost(facts, named)
    return Sentences(tuple(said))


def _times(trials: pd.DataFrame, facts: pd.DataFrame, named: Sequence[str]) -> list[str]:
    """For how long each probe was on, probes of one time together."""
    there = facts[facts["trial_id"].isin(trials["trial_id"])]
    by_time: dict[str, list[str]] = {}
    for probe in named:
        values = pd.to_numeric(
            there.loc[there["name"].eq(f"{probe}_watched_s"), "value"], errors="coerce"
        ).dropna()
        if len(values):
            by_time.setdefault(units.duration_s(float(values.median())), []).append(probe)
    always = [
        probe
        for probe in named
        if there["name"].eq(f"{probe}_lost_events").any()
        and not any(probe in probes for probes in by_time.values())
    ]
    said = [
        f"In slices of each trial's steady time, {time} in all (median): {_and(probes)}."
        for time, probes in by_time.items()
    ]
    if always:
        said.append(f"For the whole of each trial: {_and(always)}.")
    return said


def _refused(facts: pd.DataFrame, named: Sequence[str]) -> list[str]:
    """Probes that a node could not run, and why."""
    rows = facts[facts["value"].str.startswith(units.UNKNOWN)]
    return [
        f"{probe} did not run on {_and(sorted(set(ours['node'])))}: "
        f"{str(value).removeprefix(f'{units.UNKNOWN}: ').rstrip('.')}."
        for probe in named
        for value, ours in rows[rows["name"].eq(f"{probe}_variant")].groupby("value")
    ]


def _walks(trials: pd.DataFrame, samples: pd.DataFrame) -> list[str]:
    """How many packets were followed, by flow, and how many of them to their reader."""
    rows = samples[samples["source"].eq("hops") & samples["metric"].str.startswith("hops:")]
    joined = rows.merge(trials[["trial_id", "flow"]], on="trial_id")
    said = []
    for flow, ours in joined.groupby("flow", sort=False):
        counts = ours.groupby("metric")["value"].sum()
        started, finished = (int(counts.get(f"hops:{what}", 0)) for what in _WALKED)
        text = (
            f"Flow {flow}: {started:,} packets were followed, {finished:,} of them to their reader"
        )
        begun = ours.loc[ours["metric"].eq("hops:started"), "value"]
        if nothing := int(begun.eq(0).sum()):
            text += f" ({nothing} of {len(begun)} trials had none in the watched time)"
        if started and finished < _MOST * started:
            text += (
                "; of the others the early steps are counted, and the step at the socket is of "
                "those alone that were read as they were sent"
            )
        said.append(f"{text}.")
    return said


# What became of walks; below this part of them, those that ended are not all alike.
_WALKED, _MOST = ("started", "finished"), 0.9


def _lost(facts: pd.DataFrame, named: Sequence[str]) -> list[str]:
    """Events that a probe passed over because another program ran there."""
    lost, unknown = {}, []
    for probe in named:
        values = facts.loc[facts["name"].eq(f"{probe}_lost_events"), "value"]
        if values.str.startswith(units.UNKNOWN).any():
            unknown.append(probe)
        elif len(values):
            lost[probe] = int(pd.to_numeric(values).sum())
    said = []
    if lost:
        counted = ", ".join(f"{probe} {count:,}" for probe, count in lost.items())
        said.append(f"Events passed over because another program ran on that CPU: {counted}.")
    if unknown:
        said.append(f"How many events passed over: UNKNOWN for {_and(unknown)}.")
    return said


def belongings() -> tables.Table:
    """Which step belongs to which part of the way, and why."""
    rows = [
        {"from": start, "to": end, "part": belonging.part, "because": belonging.reason}
        for (start, end), belonging in anatomy.STEPS.items()
    ]
    note = (
        "Where a short-cut passes places by, a step belongs to the socket if it ends there, to NIC "
        "and wire between the nodes, to what both its ends are, and to the host stack otherwise."
    )
    return tables.Table(
        "Steps and the parts they belong to", pd.DataFrame(rows), notes=(note,), folded=True
    )
