"""Checks of packets that programs drop: how many, why, which, and by what policy. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ebpfperf.calico.counters import COUNTED_FROM, ONE_MAP_FROM
from ebpfperf.diagnosis import Outcome, Verdict
from ebpfperf.doctor import drops_beside
from ebpfperf.doctor.case import Case, Missing, not_applicable, unknown
from ebpfperf.doctor.declaration import CURRENT, PAGE, Check
from ebpfperf.drop_counts import NodeCounts
from ebpfperf.drop_differences import BOTH, Drop, NodeDrops, Source, between
from ebpfperf.evidence_sources import COUNTS, LATER

FEW_PCT = 0.1
"""Above this share of the packets there, drops are a failure."""
MUCH_PCT = 1.0
"""Above this share of the packets there, drops by policy are worth a look."""
LIMITED = "QoS control limit"
POLICY = "by policy"
ASKED_FOR = (POLICY, LIMITED)
EMBEDDED_FROM, FILTERED_FROM = (3, 18), (3, 27)
_ROUTES = "Look at D5, and at the routes map: ebpfperf maps dump routes."
_SIZES = "Look at C8: is the connection table full?"
_REMEDIES = {
    "too short packets": "Look at who sends them, and at the NIC's offloads.",
    "incorrect checksum": "Look at the NIC's offloads (ethtool -k) and at the sender.",
    "malformed IP packets": "Look at who sends them.",
    "packets with unsupported IP options": "Look at who sends IP options: they are not supported.",
    "failed encapsulation": "Look at the nodes' addresses and at the MTU of the underlay (E7).",
    "VXLAN encap when host IP unknown": "Look at the nodes' addresses in the API and in the "
    "routes map.",
    "failed decapsulation": "Look at who sends UDP to vxlanPort.",
    "packets with unknown source": "Tunnelled packets of a sender that is no node, or a service's "
    "loadBalancerSourceRanges. " + _ROUTES,
    "packets with unknown route": _ROUTES,
    "packets hitting blackhole route": "Somebody sends to an address of this node's block that no "
    "pod has: look at who still uses it.",
    "NAT source collision resolution failed": "Many connections share a source port: widen "
    "bpfPSNATPorts.",
    "failed to create conntrack": _SIZES,
    "Maglev lookup found no backends for service IP": "Look at the service's endpoints (B2).",
    "fragment of yet incomplete packet": "Look at why packets are fragmented: the path's MTU.",
    "fragment out of order within host": "Look at why packets are fragmented: the path's MTU.",
    "fragments not supported": "Look at why packets are fragmented: the path's MTU.",
}


@dataclass(frozen=True, slots=True)
class Counted:
    """Two readings of a node, and what was dropped in between."""

    after: NodeCounts
    drops: NodeDrops

    def of(self, source: Source) -> list[Drop]:
        """What one source saw dropped, most first."""
        return [each for each in self.drops.drops if each.source is source and each.packets]


def counted(case: Case, node: str) -> Counted:
    """What was dropped between the readings; Missing where there are not two."""
    if not case.evidence.seconds:
        raise Missing("drops were counted only once: ask for seconds to count in")
    before, after = case.counts(node, later=False), case.counts(node)
    found = between(before, after, release=case.release or None)
    if not found.seconds > 0:
        raise Missing("; ".join(found.remarks).rstrip("."), case.show(COUNTS + LATER, node))
    return Counted(after, found)


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
        what = f"Programs on {row.device} dropped {_how_many(row, seconds)}"
        if by_policy:
            what += ", all of them as policy asks"
        yield Outcome(
            Verdict.FAIL if much and not by_policy else Verdict.WARN,
            f"{what}.",
            (case.show(COUNTS + LATER, node, _line(row)),),
            subject=row.device,
            remedy=f"{why}ebpfperf drops --node {node} --log-for 5s says which packets.",
        )
    yield from _without_qdisc(case, node, after)
    seen = [row.device for row in rows if row.device not in after.tcx_devices]
    if not lost and seen:
        packets = sum(row.seen or 0 for row in rows)
        evidence = case.show(COUNTS + LATER, node, [_line(row) for row in rows])
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
            f"Programs are attached as TCX links on {_some(tcx)}, where tc -s qdisc counts "
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


def reasons(case: Case, node: str) -> Iterator[Outcome]:
    """D2: what Calico's counters say was dropped, by device, direction and reason."""
    found = counted(case, node)
    if found.after.counters is None:
        why = found.after.counters_map or "no counters map is pinned"
        yield unknown(f"Calico's counters were not read: {why}.", case.show(COUNTS + LATER, node))
        return
    seconds = found.drops.seconds
    wrong, asked = _parted(found.of(Source.COUNTERS))
    for row in wrong:
        yield _reason(case, row, seconds, Verdict.FAIL, _REMEDIES.get(row.reason, ""))
    much = [row for row in asked if _much(row)]
    for row in much:
        remedy = f"Is it meant? {policy_dump(case, row)}"
        if row.reason == LIMITED:
            remedy = "Is the pod's limit meant? See its bandwidth annotations."
        yield _reason(case, row, seconds, Verdict.WARN, remedy)
    if wrong or much:
        return
    places = len({(row.device, row.hook) for row in found.drops.drops})
    what = f"Programs at {places} hooks dropped nothing"
    lines = [_line(row) for row in asked]
    if asked:
        total = sum(row.packets or 0 for row in asked)
        what = f"Programs dropped {total} packets, as policy or a limit asks, and no others"
    evidence = case.show(COUNTS + LATER, node, lines or f"{found.after.counters_map}: no growth")
    yield Outcome(Verdict.OK, f"{what} in {seconds:.1f} s.", (evidence,))


def _reason(case: Case, row: Drop, seconds: float, verdict: Verdict, remedy: str) -> Outcome:
    return Outcome(
        verdict,
        f"Packets {row.way} at {row.device} were dropped {_why(row.reason)}: "
        f"{_how_many(row, seconds)}.",
        (case.show(COUNTS + LATER, row.node, _line(row)),),
        subject=row.device,
        remedy=remedy,
    )


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
        yield not_applicable("Nothing was seen dropped, so there are no packets to name.")
        return
    advice = f"ebpfperf drops --node {node} --log-for 5s has the debug log on for five seconds"
    cost = "it costs: Felix restarts twice, and each packet is logged at each hook meanwhile"
    hint = ""
    if case.minor >= FILTERED_FROM:
        hint = " bpfLogFilters narrows it to a device or to addresses."
    elif case.minor < COUNTED_FROM:
        hint = f" In {case.release} most drops by policy are a silence after policy was asked."
    yield Outcome(
        Verdict.NOT_APPLICABLE,
        f"Packets were dropped on {_some(sorted({row.device for row in lost}))}; which ones is in "
        "the programs' debug log, which is not read here.",
        (case.show(COUNTS + LATER, node, [_line(row) for row in lost]),),
        remedy=f"{advice}; {cost}.{hint}",
    )


def by_policy(case: Case, node: str) -> Iterator[Outcome]:
    """D4: what policy dropped, and where its rules and their hits are shown."""
    found = counted(case, node)
    if found.after.counters is None:
        why = found.after.counters_map or "no counters map is pinned"
        yield unknown(f"Drops by policy were not counted: {why}.", case.show(COUNTS + LATER, node))
        return
    rows = [row for row in found.of(Source.COUNTERS) if row.reason == POLICY]
    for row in rows:
        yield Outcome(
            Verdict.WARN if _much(row) else Verdict.OK,
            f"Policy dropped packets {row.way} at {row.device}: "
            f"{_how_many(row, found.drops.seconds)}.",
            (case.show(COUNTS + LATER, node, _line(row)),),
            subject=row.device,
            remedy=policy_dump(case, row),
            corrected="The page says to build calico-bpf. Since v3.18 it is part of calico-node: "
            "calico-node -bpf.",
        )
    if not rows:
        line = f"{found.after.counters_map}: no growth of drops by policy"
        evidence = case.show(COUNTS + LATER, node, line)
        what = f"Policy dropped nothing in {found.drops.seconds:.1f} s."
        yield Outcome(Verdict.OK, what, (evidence,))


def policy_dump(case: Case, row: Drop) -> str:
    """The commands that show a device's policy and its hits, in the release's own tool."""
    tool = "calico-node -bpf" if case.minor >= EMBEDDED_FROM else "calico-bpf"
    if case.minor < COUNTED_FROM:
        return f"See the policies of the pod; {tool} ipsets dump shows who their selectors match."
    return (
        f"In the calico-node pod of {row.node}: {tool} policy dump {row.device} all shows the "
        f"rules and their hits, {tool} ipsets dump who they match."
    )


def _parted(rows: Iterable[Drop]) -> tuple[list[Drop], list[Drop]]:
    """Drops that are wrong, and those that somebody asked for."""
    every = list(rows)
    wrong = [row for row in every if row.reason not in ASKED_FOR]
    return wrong, [row for row in every if row.reason in ASKED_FOR]


def _much(row: Drop) -> bool:
    return row.share_pct is None or row.share_pct > MUCH_PCT


def _why(reason: str) -> str:
    return reason if reason.startswith("by ") else f"({reason})"


def _how_many(row: Drop, seconds: float) -> str:
    """``7 of 1009 packets in 2.0 s (3.5/s, 0.694 %)``."""
    seen = f" of {row.seen}" if row.seen else ""
    share = "" if row.share_pct is None else f", {row.share_pct:.3g} %"
    return f"{row.packets}{seen} packets in {seconds:.1f} s ({row.per_s or 0.0:.1f}/s{share})"


def _line(row: Drop) -> str:
    what = f" {row.reason}" if row.reason else ""
    return f"{row.device} {row.hook} {row.source.value}: {row.packets} of {row.seen}{what}"


def _some(devices: list[str]) -> str:
    more = f" and {len(devices) - 3} more" if len(devices) > 3 else ""
    return ", ".join(devices[:3]) + more


_READS = (COUNTS,)
_NO_REASONS = (
    "it has no counters that are read here (v3.24 has the first, v3.26 those); D1 counts without "
    "reasons"
)
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
    Check(
        "D2",
        "drop-reasons",
        "For which reasons do programs drop packets?",
        "Connections fail or stall.",
        _READS,
        "Any reason but policy and a QoS limit is FAIL; those are WARN above "
        f"{MUCH_PCT:g} % of the packets there, else OK.",
        CURRENT,
        of_node=reasons,
        since=ONE_MAP_FROM,
        why_not=_NO_REASONS,
    ),
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
    Check(
        "D4",
        "policy-drops",
        "Does policy drop packets, and which?",
        "Some connections are refused, others are not.",
        _READS,
        f"More than {MUCH_PCT:g} % of the packets at a hook dropped by policy is WARN, less is OK.",
        CURRENT,
        of_node=by_policy,
        since=ONE_MAP_FROM,
        why_not=_NO_REASONS,
    ),
    *drops_beside.CHECKS,
)
