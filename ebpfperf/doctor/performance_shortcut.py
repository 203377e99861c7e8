"""Check of whether programs really redirect packets past the host's IP stack. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ebpfperf.calico.counters import CAPTIONS, TOTAL
from ebpfperf.diagnosis import Outcome, Verdict
from ebpfperf.doctor.case import Case, Missing, not_applicable
from ebpfperf.doctor.performance_flags import not_wanted, shortcut_wanted
from ebpfperf.doctor.performance_overlay import FLAGS, pod_prefixes, show_value
from ebpfperf.doctor.where_on import where_on
from ebpfperf.drop_counts import NodeCounts
from ebpfperf.evidence_sources import COUNTS, LATER

NAMED_BEFORE = (3, 21)
"""Up to v3.20 a filter's name is the file its program was loaded from, which says ``fib_``."""
COUNTED_FROM = (3, 31)
"""Since v3.31 programs count redirects."""
REDIRECTS = tuple(at for at, (kind, _) in enumerate(CAPTIONS) if kind == "Redirect")
BUSY_PACKETS = 10_000
"""From pods between two readings: more than probes of the kubelet and answers to them."""
_HOW = (
    "To see it, send traffic and count results: ebpfperf trace capture records the debug log, in "
    "which ALLOW with 7 (v3.30 and later: rc 7) is a redirect and -1 is the host's IP stack"
)


@where_on
def active(case: Case, node: str) -> Iterator[Outcome]:
    """Whether the FIB short-cut that settings and release promise is there."""
    if not shortcut_wanted(case, node):
        yield not_wanted(case, node)
    elif case.minor < NAMED_BEFORE:
        yield _named(case, node)
    elif case.minor < COUNTED_FROM:
        yield not_applicable(
            f"By its settings the FIB short-cut is on; {case.release} neither names nor counts "
            f"it. {_HOW}.",
            *(show_value(case, case.value(node, name)) for name in FLAGS),
        )
    else:
        yield _counted(case, node)


def _named(case: Case, node: str) -> Outcome:
    """By the names of programs for what comes from pods and NICs."""
    counts = _reading(case, node)
    names = [
        (device, name)
        for device, hooks in counts.programs.items()
        for name in (hooks or {}).get("ingress", ())
        if name.startswith("from_") and ".o:" in name
    ]
    source = _source(case, node)
    if not names:
        raise Missing(
            "no program on a device is named after its file (from_….o)", case.show(source, node)
        )
    evidence = (case.show(source, node, [f"{device}: {name}" for device, name in names]),)
    without = [device for device, name in names if "_fib_" not in name]
    if not without:
        return Outcome(
            Verdict.OK,
            f"The {len(names)} programs for what comes in are compiled with the FIB short-cut.",
            evidence,
        )
    return Outcome(
        Verdict.FAIL,
        f"Flags and pools ask for the FIB short-cut, but the programs on {_few(without)} are "
        "compiled without it.",
        evidence,
        subject=without[0] if len(without) == 1 else "",
        remedy="Restart calico-node there, and look in its log for why it keeps old programs.",
    )


def _counted(case: Case, node: str) -> Outcome:
    """By counters of redirects, between two readings or since they began."""
    counts = _reading(case, node)
    source = _source(case, node)
    if counts.counters is None:
        raise Missing(
            f"Calico's counters cannot be read ({counts.counters_map or 'none are pinned'})",
            case.show(source, node, counts.counters_map),
        )
    ever, grown = _sums(case, node, counts), _grown(case, node, counts)
    seconds = f"{case.evidence.seconds:.0f} s"
    lines = [f"{counts.counters_map}: {_said(ever)} since counting began"]
    lines += [f"{_said(grown)} within {seconds}"] if grown else []
    evidence = (case.show(source, node, lines),)
    if grown and grown.redirected:
        said = f"Programs redirected {grown.redirected} packets within {seconds}."
        return Outcome(Verdict.OK, said, evidence)
    if grown and grown.from_pods >= BUSY_PACKETS:
        return Outcome(
            Verdict.WARN,
            f"None of {grown.from_pods} packets from pods was redirected within {seconds}, though "
            "the FIB short-cut is on; packets to the node itself and those with outgoing NAT "
            "never are.",
            evidence,
            remedy=f"{_HOW}. If they leave by outgoing NAT, natOutgoing of their pool is why.",
        )
    if ever.redirected:
        said = f"Programs redirected {ever.redirected} packets since their counting began."
        return Outcome(Verdict.OK, said, evidence)
    return not_applicable(
        f"By its settings the FIB short-cut is on; {_said(ever)}, and packets to the node itself "
        f"or with outgoing NAT never are redirected. {_HOW}.",
        *evidence,
    )


@dataclass(frozen=True, slots=True)
class _Sums:
    """Packets that came in from pods, and that were redirected from any device."""

    from_pods: int
    redirected: int


def _said(sums: _Sums) -> str:
    return f"{sums.from_pods} packets came from pods and {sums.redirected} were redirected"


def _grown(case: Case, node: str, counts: NodeCounts) -> _Sums | None:
    """What came between the two readings; None where there is one, or they began anew."""
    if _source(case, node) == COUNTS:
        return None
    try:
        before = case.counts(node, later=False)
    except Missing:
        return None
    same = before.boot_id == counts.boot_id and before.counters_map == counts.counters_map
    if before.counters is None or not same:
        return None
    then, now = _sums(case, node, before), _sums(case, node, counts)
    found = _Sums(now.from_pods - then.from_pods, now.redirected - then.redirected)
    return None if found.from_pods < 0 or found.redirected < 0 else found


def _sums(case: Case, node: str, counts: NodeCounts) -> _Sums:
    prefixes = pod_prefixes(case, node)
    rows = [
        (counts.links.get(ifindex, ""), numbers)
        for (ifindex, hook), numbers in (counts.counters or {}).items()
        if hook == "ingress"
    ]
    return _Sums(
        sum(numbers[TOTAL] for device, numbers in rows if device.startswith(prefixes)),
        sum(numbers[at] for _, numbers in rows for at in REDIRECTS if at < len(numbers)),
    )


def _reading(case: Case, node: str) -> NodeCounts:
    return case.counts(node, later=_source(case, node) != COUNTS)


def _source(case: Case, node: str) -> str:
    later = case.evidence.item(COUNTS + LATER, node)
    return COUNTS if later is None or later.error else COUNTS + LATER


def _few(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
