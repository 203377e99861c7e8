"""Checks of why programs drop packets, by Calico's own counters. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ebpfperf.calico.counters import COUNTED_FROM, ONE_MAP_FROM
from ebpfperf.diagnosis import Outcome, Verdict
from ebpfperf.doctor.case import Case, unknown
from ebpfperf.doctor.declaration import CURRENT, Check
from ebpfperf.doctor.drop_rows import ASKED_FOR, LIMITED, POLICY, counted, how_many, line_of
from ebpfperf.doctor.where_on import where_on
from ebpfperf.drop_differences import Drop, Source
from ebpfperf.evidence_sources import COUNTS, LATER

MUCH_PCT = 1.0
"""Above this share of the packets there, drops by policy are worth a look."""
_EMBEDDED_FROM = (3, 18)
_ROUTES = "Look at D5, and at the routes map: ebpfperf maps routes."
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


# What a stranger's packets, or a service without endpoints, bring about: the node is well.
OF_SENDERS = (
    "packets with unsupported IP options", "malformed IP packets",
    "packets hitting blackhole route", "fragment of yet incomplete packet",
    "fragment out of order within host", "fragments not supported",
    "Maglev lookup found no backends for service IP",
)  # fmt: skip


@where_on
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
        verdict = Verdict.WARN if row.reason in OF_SENDERS else Verdict.FAIL
        yield _reason(case, row, seconds, verdict, _REMEDIES.get(row.reason, ""))
    much = [row for row in asked if _much(row)]
    for row in much:
        remedy = f"Is it meant? {_policy_dump(case, row)}"
        if row.reason == LIMITED:
            remedy = "Is the pod's limit meant? See its bandwidth annotations."
        yield _reason(case, row, seconds, Verdict.WARN, remedy)
    if wrong or much:
        return
    places = len({(row.device, row.hook) for row in found.drops.drops})
    what = f"Programs at {places} hooks dropped nothing"
    lines = [line_of(row) for row in asked]
    if asked:
        total = sum(row.packets or 0 for row in asked)
        what = f"Programs dropped {total} packets, as policy or a limit asks, and no others"
    evidence = case.show(COUNTS + LATER, node, lines or f"{found.after.counters_map}: no growth")
    yield Outcome(Verdict.OK, f"{what} in {seconds:.1f} s.", (evidence,))


def _reason(case: Case, row: Drop, seconds: float, verdict: Verdict, remedy: str) -> Outcome:
    return Outcome(
        verdict,
        f"Packets {row.way} at {row.device} were dropped {_why(row.reason)}: "
        f"{how_many(row, seconds)}.",
        (case.show(COUNTS + LATER, row.node, line_of(row)),),
        subject=row.device,
        remedy=remedy,
    )


@where_on
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
            f"{how_many(row, found.drops.seconds)}.",
            (case.show(COUNTS + LATER, node, line_of(row)),),
            subject=row.device,
            remedy=_policy_dump(case, row),
            corrected="The page says to build calico-bpf. Since v3.18 it is part of calico-node: "
            "calico-node -bpf.",
        )
    if not rows:
        line = f"{found.after.counters_map}: no growth of drops by policy"
        evidence = case.show(COUNTS + LATER, node, line)
        what = f"Policy dropped nothing in {found.drops.seconds:.1f} s."
        yield Outcome(Verdict.OK, what, (evidence,))


def _policy_dump(case: Case, row: Drop) -> str:
    """The commands that show a device's policy and its hits, in the release's own tool."""
    tool = "calico-node -bpf" if case.minor >= _EMBEDDED_FROM else "calico-bpf"
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


_NO_REASONS = (
    "it has no counters that are read here (v3.24 has the first, v3.26 those); D1 counts without "
    "reasons"
)
CHECKS: tuple[Check, ...] = (
    Check(
        "D2",
        "drop-reasons",
        "For which reasons do programs drop packets?",
        "Connections fail or stall.",
        (COUNTS,),
        "Any reason but policy and a QoS limit is FAIL, or WARN where senders alone bring it about "
        "(IP options, malformed, fragments, blackhole routes, Maglev without backends); policy and "
        f"limits are WARN above {MUCH_PCT:g} % of the packets there, else OK.",
        CURRENT,
        of_node=reasons,
        since=ONE_MAP_FROM,
        why_not=_NO_REASONS,
    ),
    Check(
        "D4",
        "policy-drops",
        "Does policy drop packets, and which?",
        "Some connections are refused, others are not.",
        (COUNTS,),
        f"More than {MUCH_PCT:g} % of the packets at a hook dropped by policy is WARN, less is OK.",
        CURRENT,
        of_node=by_policy,
        since=ONE_MAP_FROM,
        why_not=_NO_REASONS,
    ),
)
