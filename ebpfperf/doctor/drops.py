"""Checks of packets that programs drop: how many, why, which. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ebpfperf.calico.counters import COUNTED_FROM
from ebpfperf.diagnosis import Outcome, Verdict
from ebpfperf.doctor import drop_reasons, drops_beside
from ebpfperf.doctor.case import Case, Missing, not_applicable, unknown
from ebpfperf.doctor.declaration import PAGE, Check
from ebpfperf.doctor.drop_rows import ASKED_FOR, counted, how_many, line_of, some
from ebpfperf.doctor.where_on import where_on
from ebpfperf.drop_counts import NodeCounts
from ebpfperf.drop_differences import BOTH, Drop, Source, between
from ebpfperf.evidence_sources import COUNTS, LATER

FEW_PCT = 0.1
"""Above this share of the packets there, drops are a failure."""
_FILTERED_FROM = (3, 27)


def _qdiscs(case: Case, node: str) -> tuple[list[Drop], NodeCounts, float]:
    """Per device what its clsact dropped of both directions, counted or not by Calico as well."""
    found = counted(case, node)
    before, after = case.counts(node, later=False), found.after
    rows: list[Drop] = []
    for device, (seen, lost) in after.qdiscs.items():
        seen_was, lost_was = before.qdiscs.get(device, (0, 0))
        if seen < seen_was or lost < lost_was:
            seen_was = lost_was = 0
        packets = lost - lost_was
        rows.append(
            Drop(node, device, BOTH, "", "", Source.CLSACT, packets,
                 packets / found.drops.seconds, seen - seen_was)
        )  # fmt: skip
    return rows, after, found.drops.seconds


@where_on
def dropping(case: Case, node: str) -> Iterator[Outcome]:
    """D1: what the clsact qdiscs count as dropped between two readings."""
    rows, after, seconds = _qdiscs(case, node)
    lost = [row for row in rows if row.packets]
    wanted = _policy_packets(case, node)
    why = "D2 says why; " if after.counters is not None else ""
    for row in sorted(lost, key=lambda each: -(each.packets or 0)):
        packets, share = row.packets or 0, row.share_pct
        by_policy = packets <= wanted.get(row.device, 0)
        much = share is None or share > FEW_PCT
        what = f"Programs on {row.device} dropped {how_many(row, seconds)}"
        if by_policy:
            what += ", all of them as policy asks"
        yield Outcome(
            Verdict.FAIL if much and not by_policy else Verdict.WARN,
            f"{what}.",
            (case.show(COUNTS + LATER, node, line_of(row)),),
            subject=row.device,
            remedy=f"{why}ebpfperf drops --node {node} --log-for 5s says which packets.",
        )
    yield from _without_qdisc(case, node, after)
    seen = [row.device for row in rows if row.device not in after.tcx_devices]
    if not lost and seen:
        packets = sum(row.seen or 0 for row in rows)
        evidence = case.show(COUNTS + LATER, node, [line_of(row) for row in rows])
        what = f"Programs on {len(seen)} devices dropped none of {packets} packets"
        yield Outcome(Verdict.OK, f"{what} in {seconds:.1f} s.", (evidence,))


def _without_qdisc(case: Case, node: str, after: NodeCounts) -> Iterator[Outcome]:
    """What is said of devices whose programs no qdisc counts for, or where there is nothing."""
    tcx = after.tcx_devices
    evidence = case.show(
        COUNTS + LATER, node, [_attached(after, name) for name in tcx or after.programs]
    )
    if tcx:
        what = (
            f"Programs are attached as TCX links on {some(tcx)}, where tc -s qdisc counts "
            "nothing: it shows no drop even if every packet is dropped."
        )
        corrected = (
            "The page says to read drops off tc -s qdisc show. With TCX (the default from v3.31) "
            "it shows none: read Calico's counters."
        )
        if after.counters is not None:
            yield Outcome(
                Verdict.NOT_APPLICABLE,
                f"{what} D2 reads Calico's own counters instead.",
                (evidence,),
                corrected=corrected,
            )
        else:
            yield Outcome(
                Verdict.UNKNOWN,
                f"{what} Calico's counters cannot be read either "
                f"({after.counters_map or 'none are pinned'}): what they drop is not known.",
                (evidence,),
                remedy=f"ebpfperf drops --node {node} --log-for 5s says which packets are dropped.",
                corrected=corrected,
            )
    elif not after.qdiscs and not after.has_bpf:
        yield unknown("There is no program of Calico's on a device, and nothing counts.", evidence)
    elif not after.qdiscs:
        yield unknown("No device has a clsact qdisc that counts.", evidence)


def _attached(after: NodeCounts, device: str) -> str:
    hooks = after.programs[device]
    if hooks is None:
        return f"{device}: its programs are not told"
    listed = (f"{hook} {', '.join(names)}" for hook, names in hooks.items())
    return f"{device}: {'; '.join(listed) or 'no program'}"


def _policy_packets(case: Case, node: str) -> dict[str, int]:
    """Device → packets that Calico's counters say policy (or a limit) dropped."""
    before, after = case.counts(node, later=False), case.counts(node)
    # From before the qdiscs' time to after it, so that none that both count is left out.
    before = replace(before, counters=before.counters_early)
    found: dict[str, int] = {}
    for drop in between(before, after).drops:
        if drop.source is Source.COUNTERS and drop.reason in ASKED_FOR and drop.hook != "xdp":
            found[drop.device] = found.get(drop.device, 0) + (drop.packets or 0)
    return found


@where_on
def which(case: Case, node: str) -> Iterator[Outcome]:
    """D3: which packets were dropped: where to ask, as the debug log is not read here."""
    try:
        found = counted(case, node)
    except Missing as missing:
        yield not_applicable(
            f"Whether packets are dropped is not known ({missing.why}), and the debug log, which "
            "names them, is not read here.",
            *missing.shown,
        )
        return
    lost = [row for row in found.drops.drops if row.packets]
    if not lost:
        lines = [line_of(row) for row in found.drops.drops]
        shown = case.show(COUNTS + LATER, node, lines or "nothing that drops was seen")
        yield not_applicable("Nothing was seen dropped, so there are no packets to name.", shown)
        return
    advice = f"ebpfperf drops --node {node} --log-for 5s has the debug log on for five seconds"
    cost = "it costs: Felix restarts twice, and each packet is logged at each hook meanwhile"
    hint = ""
    if case.minor >= _FILTERED_FROM:
        hint = " bpfLogFilters narrows it to a device or to addresses."
    elif case.minor < COUNTED_FROM:
        hint = f" In {case.release} most drops by policy are a silence after policy was asked."
    yield Outcome(
        Verdict.NOT_APPLICABLE,
        f"Packets were dropped on {some(sorted({row.device for row in lost}))}; which ones is in "
        "the programs' debug log, which is not read here.",
        (case.show(COUNTS + LATER, node, [line_of(row) for row in lost]),),
        remedy=f"{advice}; {cost}.{hint}",
    )


_READS = (COUNTS,)
CHECKS: tuple[Check, ...] = (
    Check(
        "D1",
        "program-drops",
        "Do programs drop packets, by their qdiscs' count?",
        "Connections fail or stall.",
        _READS,
        f"None dropped between two readings is OK, some is WARN, more than {FEW_PCT:g} % of the "
        "packets there is FAIL unless Calico's counters say that policy dropped them all; programs "
        "on TCX links have no such count: N/A where D2 has counters, else UNKNOWN.",
        PAGE,
        of_node=dropping,
    ),
    drop_reasons.CHECKS[0],
    Check(
        "D3",
        "dropped-packets",
        "Which packets are dropped?",
        "Connections fail or stall.",
        _READS,
        "Always N/A: says how to find out where D1 or D2 saw drops.",
        PAGE,
        of_node=which,
    ),
    *drop_reasons.CHECKS[1:],
    *drops_beside.CHECKS,
)
