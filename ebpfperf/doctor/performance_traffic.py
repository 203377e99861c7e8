"""Checks of what underlay and pods carry, by traffic that was asked for. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebpfperf import units
from ebpfperf.diagnosis import Outcome, Shown, Verdict
from ebpfperf.doctor import clouds
from ebpfperf.doctor.case import Case, Missing, not_applicable
from ebpfperf.doctor.performance_overlay import pools
from ebpfperf.evidence_sources import POD_GAP, TRAFFIC

FULL_CORE_PCT, IDLE_CORE_PCT = 90.0, 70.0
SCALES_TIMES, SAME_TIMES = 1.5, 1.25
FULL_LINK_PCT = 85.0
GOOD_PCT, BAD_PCT, FEWEST_TRIALS = 95.0, 80.0, 3
# A shaper gives the same rate to one stream, steadily, and to many. Where the traffic itself fills
# a core, iperf3 has a good part of one: receiving copies every byte.
STEADY_PCT, AGREES_PCT, LIGHT_PROCESS_PCT = 10.0, 10.0, 20.0
AWS_CONNECTION_BITS_PER_S = (4.5e9, 5.1e9)
"""What one connection gets on AWS outside a placement group: 5 Gbit/s less headers."""
_ASK = "not asked: ebpfperf doctor --traffic 5s sends traffic between two nodes for some seconds"


@dataclass(frozen=True, slots=True)
class Run:
    """One test between two nodes.

    Attributes
    ----------
    core_pct
        The busiest processor of both ends; None where it is not known.
    process_pct
        What iperf3 used at the busier end, percent of one core.
    variation_pct
        Standard deviation of the rates of its intervals, percent of their mean.
    """

    streams: int
    bits_per_s: float
    core_pct: float | None
    process_pct: float | None
    variation_pct: float | None

    @property
    def idle(self) -> bool:
        """Whether no processor was near its limit."""
        return self.core_pct is not None and self.core_pct < IDLE_CORE_PCT

    @property
    def full(self) -> bool:
        """Whether a processor was at its limit."""
        return self.core_pct is not None and self.core_pct >= FULL_CORE_PCT

    @property
    def light(self) -> bool:
        """Whether iperf3 itself had little to do."""
        return self.process_pct is not None and self.process_pct < LIGHT_PROCESS_PCT

    @property
    def steady(self) -> bool:
        """Whether its intervals had nearly one rate."""
        return self.variation_pct is not None and self.variation_pct <= STEADY_PCT

    def __str__(self) -> str:
        core = "" if self.core_pct is None else f" (busiest processor {self.core_pct:.0f} %)"
        streams = "one stream" if self.streams == 1 else f"{self.streams} streams"
        return f"{units.bits_per_s(self.bits_per_s)} with {streams}{core}"


def underlay(case: Case) -> Iterator[Outcome]:
    """What two nodes carry without Calico, and what limits it."""
    if case.evidence.item(TRAFFIC) is None:
        yield not_applicable(_ASK)
        return
    told = json.loads(case.text(TRAFFIC))
    where = f"{told['client']['node']} to {told['server']['node']}"
    failed = [run["failed"] for run in told["runs"] if "failed" in run]
    if failed:
        raise Missing(f"traffic from {where} failed: {failed[0]}", case.show(TRAFFIC))
    runs = [_run(row) for row in told["runs"]]
    verdict, said, remedy = _judged(
        runs[0], runs[-1], provider=_provider(case, told["client"]["node"]), link=_link(told)
    )
    numbers = "; ".join(str(run) for run in runs)
    shown = case.show(TRAFFIC, excerpt=[f"{where}: {numbers}", *_ends(told)])
    yield Outcome(verdict, f"From {where}, {numbers}: {said}.", (shown,), remedy=remedy)


def _run(row: Mapping[str, Any]) -> Run:
    return Run(
        int(row["streams"]),
        float(row["received_bits_per_s"]),
        _most(row.get("cores_pct") or ()),
        _most(row.get("process_pct") or ()),
        row.get("variation_pct"),
    )


def _most(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None


def _link(told: Mapping[str, Any]) -> float | None:
    """Bits per second that the slower NIC announces; None of virtual ones, or not known."""
    speeds = []
    for end in (told["client"], told["server"]):
        if end["kind"] == "veth" or not end["speed_mbit_per_s"]:
            return None
        speeds.append(units.parse_bits_per_s(f"{end['speed_mbit_per_s']}M"))
    return min(speeds)


def _ends(told: Mapping[str, Any]) -> Iterator[str]:
    for end in (told["client"], told["server"]):
        speed = end["speed_mbit_per_s"]
        yield (
            f"{end['node']}: {end['nic']} ({end['kind'] or 'physical'}), MTU {end['mtu_bytes']}, "
            f"speed {f'{speed} Mbit/s' if speed else 'not known'}"
        )


def _provider(case: Case, node: str) -> str:
    """Whose machine it is; empty where that is not known."""
    try:
        return clouds.cloud(case, node)
    except Missing:
        return ""


def _judged(one: Run, many: Run, *, provider: str, link: float | None) -> tuple[Verdict, str, str]:
    """Verdict, what is said, remedy."""
    best = max(one.bits_per_s, many.bits_per_s)
    scales = many.bits_per_s >= SCALES_TIMES * one.bits_per_s
    low, high = AWS_CONNECTION_BITS_PER_S
    if provider == clouds.AWS and scales and low <= one.bits_per_s <= high and not one.full:
        return (
            Verdict.WARN,
            "AWS limits one connection to about 5 Gbit/s; it is the provider's limit, not Calico's",
            "Use more connections, or put the nodes into one cluster placement group.",
        )
    if link is not None and 100 * best >= FULL_LINK_PCT * link:
        return Verdict.OK, f"the NIC of {units.bits_per_s(link)} is full", ""
    shaped = one.light and many.light and one.steady and _agree(one, many)
    capped = many.bits_per_s < SAME_TIMES * one.bits_per_s and ((one.idle and many.idle) or shaped)
    if capped:
        speed = (
            "the NIC's own speed is not known and may be it"
            if link is None
            else f"the NIC announces {units.bits_per_s(link)}"
        )
        whose = f"{provider} or the underlay" if provider else "the underlay or the provider"
        return (
            Verdict.WARN,
            f"more streams carry no more and {_left(one, many)}, so {whose} limits what passes "
            f"between the nodes ({speed})",
            "Compare with the bandwidth that the machine type or the link promises; no setting of "
            "Calico's changes it.",
        )
    if many.full and not many.light:
        return Verdict.OK, "the hosts' processors are the limit, not the underlay", ""
    why = "neither a processor nor the NIC is full, or its use is not known"
    if many.full:
        why = (
            f"processors were busy with other work, of which iperf3 had {many.process_pct:.0f} % "
            "of a core"
        )
    return (
        Verdict.UNKNOWN,
        f"what limits it does not show: {why}",
        "Ask again while the nodes are idle, with more seconds: ebpfperf doctor --traffic 10s.",
    )


def _left(one: Run, many: Run) -> str:
    """Why it is not the processors, in words."""
    if one.idle and many.idle:
        return "the hosts have processors left"
    used = max(one.process_pct or 0.0, many.process_pct or 0.0)
    return f"iperf3 waits most of the time (at most {used:.0f} % of a core)"


def _agree(one: Run, many: Run) -> bool:
    return abs(many.bits_per_s / one.bits_per_s - 1) * 100 <= AGREES_PCT


def pod_gap(case: Case) -> Iterator[Outcome]:
    """What pods carry of what their hosts do, by a campaign that measured both."""
    if case.evidence.item(POD_GAP) is None:
        yield not_applicable(
            "not asked: give a campaign with flows of path host-host and pod-pod, ebpfperf doctor "
            "--campaign runs/NAME (ebpfperf run makes one)"
        )
        return
    told = json.loads(case.text(POD_GAP))
    overlays = {pool.overlay.value for pool in pools(case) if pool.in_use} or {"none"}
    rows = [row for row in told["rows"] if row["overlay"] in overlays and _ebpf(row)]
    if not rows:
        had = sorted({row["overlay"] for row in told["rows"]})
        yield not_applicable(
            f"campaign {told['campaign']} has no treatment with the cluster's overlay "
            f"({', '.join(sorted(overlays))}) and both paths; it has {', '.join(had) or 'none'}",
            case.show(POD_GAP),
        )
        return
    lines = [_gap(row) for row in rows]
    shown = (case.show(POD_GAP, excerpt=lines),)
    if str(told["shared_kernel"]).startswith("yes"):
        yield not_applicable(
            f"{lines[0]}; but the nodes share one kernel, so that these are no nodes' numbers",
            *shown,
        )
        return
    for row, line in zip(rows, lines, strict=True):
        yield _gap_outcome(row, line, shown)


def _ebpf(row: Mapping[str, Any]) -> bool:
    # Empty: the treatment left what the cluster has.
    return row["dataplane"] in ("ebpf", "")


def _part(row: Mapping[str, Any]) -> float:
    return 100 * float(row["pod"]["bits_per_s"]) / float(row["host"]["bits_per_s"])


def _gap(row: Mapping[str, Any]) -> str:
    """``treatment none, 1 stream, forward: pods 9.1 Gbit/s, hosts 9.4 Gbit/s (96.8 %)``."""
    streams = "1 stream" if row["streams"] == 1 else f"{row['streams']} streams"
    pod, host = (units.bits_per_s(row[word]["bits_per_s"]) for word in ("pod", "host"))
    return (
        f"treatment {row['treatment']}, {streams}, {row['direction']}: pods {pod}, hosts {host} "
        f"({_part(row):.1f} %)"
    )


def _gap_outcome(row: Mapping[str, Any], line: str, shown: tuple[Shown, ...]) -> Outcome:
    said = f"{line[:1].upper()}{line[1:]}."
    trials = min(row[word]["trials"] for word in ("pod", "host"))
    if trials < FEWEST_TRIALS:
        said = f"{said} {trials} trials are too few, {FEWEST_TRIALS} would do."
        return Outcome(Verdict.UNKNOWN, said, shown, subject=row["treatment"])
    part = _part(row)
    if part >= GOOD_PCT:
        return Outcome(Verdict.OK, said, shown, subject=row["treatment"])
    return Outcome(
        Verdict.FAIL if part < BAD_PCT else Verdict.WARN,
        said,
        shown,
        subject=row["treatment"],
        remedy="See E1 to E4 and E7; the campaign's report says where the time goes.",
    )
