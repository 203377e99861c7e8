"""The gates of single trials: what each trial's own numbers, intervals and facts say. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from ebpfperf import gate_table as limits
from ebpfperf.gate_cases import Case, cases
from ebpfperf.gate_table import Severity
from ebpfperf.model import Campaign
from ebpfperf.units import BITS_PER_BYTE, UNKNOWN, bits_per_s

Judged = tuple[str, str, Severity, str, int]
"""Trial id (empty for what was not checked), gate, severity, sentence, number of trials."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one gate says of one trial; nothing said at all means that it passed."""

    severity: Severity
    said: str


Check = Callable[[Case], Iterator[Verdict]]


def judge(
    trials: pd.DataFrame, samples: pd.DataFrame, facts: pd.DataFrame, campaign: Campaign
) -> Iterator[Judged]:
    """What trips, trial by trial, and then what was not checked, once for each reason."""
    unchecked: Counter[tuple[str, str]] = Counter()
    for case in cases(trials, samples, facts, campaign):
        for name, check in CHECKS.items():
            for verdict in check(case):
                if verdict.severity is Severity.UNCHECKED:
                    unchecked[name, verdict.said] += 1
                else:
                    yield case.trial_id, name, verdict.severity, verdict.said, 1
    for (name, why), count in unchecked.items():
        yield "", name, Severity.UNCHECKED, f"not checked: {why}", count


def shift(values: Sequence[float]) -> tuple[float, float]:
    """The largest step between two parts: percent of the mean, and share of the variance.

    Of all splits into parts of at least two values, the one that explains most. A straight slope
    explains three quarters of its variance by a split in the middle; its line explains all of it,
    so that the better of the two counts.
    """
    n, mean = len(values), math.fsum(values) / len(values)
    total = math.fsum((value - mean) ** 2 for value in values)
    if total <= 0 or mean <= 0:
        return 0.0, 0.0
    best, step = 0.0, 0.0
    for at in range(2, n - 1):
        left, right = math.fsum(values[:at]) / at, math.fsum(values[at:]) / (n - at)
        explained = at * (n - at) / n * (right - left) ** 2 / total
        if explained > best:
            best, step = explained, right - left
    middle = (n - 1) / 2
    spread = math.fsum((x - middle) ** 2 for x in range(n))
    slope = math.fsum((x - middle) * (y - mean) for x, y in enumerate(values)) / spread
    if slope * slope * spread / total > best:
        best, step = slope * slope * spread / total, slope * (n - 1) / 2
    return 100 * step / mean, best


def _doubt(said: str) -> Verdict:
    return Verdict(Severity.DOUBT, said)


def _void(said: str) -> Verdict:
    return Verdict(Severity.VOID, said)


def _unchecked(why: str) -> Verdict:
    return Verdict(Severity.UNCHECKED, why)


def _idle_load(case: Case) -> Iterator[Verdict]:
    busy = case.number("idle_busy_pct")
    if math.isnan(busy):
        yield _unchecked("the nodes were not watched before the trial")
    elif busy > case.quiet.busy_pct:
        waited = case.number("waited_s")
        so = f" after {waited:.0f} s of waiting" if waited >= 1 else ""
        yield _doubt(f"A node was {busy:.0f} % busy before the trial{so}.")


def _other_traffic(case: Case) -> Iterator[Verdict]:
    idle, during = case.number("idle_nic_bits_per_s"), case.number("other_nic_bits_per_s")
    quiet = case.quiet.nic_bits_per_s
    if math.isnan(idle) and math.isnan(during):
        yield _unchecked("what else crossed the NICs is not known")
    elif math.isnan(idle):
        yield _unchecked("what crossed the NICs before the trial is not known")
    elif math.isnan(during):
        yield _unchecked("what else crossed the NICs during the trial is not known")
    if idle > quiet:
        yield _doubt(f"A NIC carried {bits_per_s(idle)} before the trial.")
    rate = case.number("received_bits_per_s")
    least = max(quiet, 0.0 if math.isnan(rate) else rate * limits.OTHER_PCT / 100)
    if during > least:
        yield _doubt(f"A NIC carried {bits_per_s(during)} besides the flow.")


def _above(column: str, limit: float, said: str, unknown: str) -> Check:
    """Trips where a number is beyond a limit; ``said`` has a place for it."""

    def check(case: Case) -> Iterator[Verdict]:
        value = case.number(column)
        if math.isnan(value):
            yield _unchecked(unknown)
        elif value > limit:
            yield _doubt(said.format(value))

    return check


def _clock(case: Case) -> Iterator[Verdict]:
    step = case.number("clock_step_s")
    if math.isnan(step):
        yield _unchecked("the nodes' clocks were not read beside the trial")
    elif step >= limits.CLOCK_STEP_S:
        yield _void(f"A node's clock stepped by {step:.2f} s.")
    words = {"clocksource": "clock source", "cpu_governor": "governor",
             "cpu_limit_khz": "frequency limit (kHz)"}  # fmt: skip
    for node, name, value in case.facts:
        if name in words and "→" in value:
            yield _doubt(f"The {words[name]} of {node} changed: {value}.")
        if name == "cpu_throttled" and value not in ("0", "") and value.isdigit():
            yield _doubt(f"{node} slowed processors for heat {value} times.")


def _rebooted(case: Case) -> Iterator[Verdict]:
    warnings = str(case.row.get("warnings") or "")
    if "rebooted: " in warnings:
        yield _void("A node was started anew during the trial.")
    elif math.isnan(case.number("cpu_s")):
        yield _unchecked("the nodes' counters were not read")


def _retransmit_storm(case: Case) -> Iterator[Verdict]:
    again, sent = case.number("retransmits"), case.number("sent_bits_per_s")
    mss = case.number("mss_bytes")
    if math.isnan(again):
        yield _unchecked("retransmits are counted of bulk TCP alone")
    elif math.isnan(sent) or not mss > 0:
        yield _unchecked("how many segments were sent is not known")
    else:
        segments = sent * case.flow.duration_s / BITS_PER_BYTE / mss
        pct = 100 * again / segments if segments > 0 else 0.0
        if pct > limits.RETRANSMITTED_PCT:
            yield _doubt(f"{again:.0f} segments ({pct:.1f} %) were sent again.")


def _short_trial(case: Case) -> Iterator[Verdict]:
    flow = case.flow
    for way, found in case.intervals.items():
        measured = [t_s for t_s, _, phase in found if phase == "measure"]
        warm = [t_s for t_s, _, phase in found if phase != "measure"]
        covered = max(measured, default=0.0) - max(warm, default=0.0)
        if covered < limits.COVERED * flow.duration_s:
            yield _void(
                f"Intervals ({way}) cover {covered:.1f} s of the {flow.duration_s} s asked for."
            )
            return
    requests = case.number("requests")
    if requests < limits.FEWEST_REQUESTS:
        yield _doubt(f"{requests:.0f} requests are too few for a 99th percentile.")
    if flow.load == "tcp" and flow.duration_s < limits.SHORTEST_S:
        yield _doubt(f"{flow.duration_s} s of TCP are much slow start and filling of buffers.")


def _not_steady(case: Case) -> Iterator[Verdict]:
    checked = False
    for way, found in case.intervals.items():
        rates = [value for _, value, phase in sorted(found) if phase == "measure"]
        if len(rates) < limits.FEWEST_INTERVALS:
            continue
        checked = True
        pct, explained = shift(rates)
        if abs(pct) >= limits.SHIFT_PCT and explained >= limits.EXPLAINED:
            yield _doubt(
                f"The rate ({way}) went {'up' if pct > 0 else 'down'} by {abs(pct):.0f} % within "
                f"the trial."
            )
    if not checked:
        yield _unchecked(f"fewer than {limits.FEWEST_INTERVALS} measured intervals")


def _wrong_path(case: Case) -> Iterator[Verdict]:
    seen, wanted = case.fact("wire_overlay"), case.fact("wire_expected")
    if seen is None or wanted is None:
        yield _unchecked("no packet of the flow was captured")
        return
    for value in (seen, wanted):
        if value.startswith(UNKNOWN):
            yield _unchecked(value.partition(": ")[2] or "not known")
            return
    if seen != wanted:
        names = {"none": "no encapsulation", "ipip": "IPIP", "vxlan": "VXLAN",
                 "mixed": "different encapsulation each way"}  # fmt: skip
        yield _void(
            f"Captured packets of the flow have {names.get(seen, seen)}, "
            f"not {names.get(wanted, wanted)}."
        )


def _clsact_drops(case: Case) -> Iterator[Verdict]:
    total = case.number("clsact_drops")
    if math.isnan(total):
        yield _unchecked("no program on the path's devices counts what it drops")
    elif total > 0:
        at = {where: count for where, count in case.drops.items() if count > 0}
        own = [where for where in at if where.partition(" ")[2].startswith("cali")]
        places = ", ".join(f"{count:.0f} at {where}" for where, count in at.items())
        said = f"Programs dropped {places or f'{total:.0f} packets'} during the trial."
        yield _void(said) if own else _doubt(said)


def _core_saturated(case: Case) -> Iterator[Verdict]:
    if case.flow.load not in ("tcp", "udp"):
        yield _unchecked("a request waits for its answer, so that a full core is no limit")
        return
    cores = {end: case.number(f"{end}_busiest_core_pct") for end in ("client", "server")}
    loads = {end: case.number(f"{end}_cpu_pct") for end in ("sender", "receiver")}
    if not _one_thread(case):
        loads = {}
    if all(math.isnan(value) for value in (*cores.values(), *loads.values())):
        yield _unchecked("how busy single processors were is not known")
    for end, value in cores.items():
        if value >= limits.FULL_CORE_PCT:
            yield _doubt(f"The busiest processor of the {end}'s node was {value:.0f} % busy.")
    for end, value in loads.items():
        if value >= limits.FULL_CORE_PCT:
            yield _doubt(f"iperf3's only thread at the {end} used {value:.0f} % of a processor.")


def _one_thread(case: Case) -> bool:
    """Whether iperf3 drove it by one thread: one stream, or a release before 3.16."""
    version = (case.fact("iperf3_version") or "").split(".")
    old = version[0] == "3" and len(version) > 1 and version[1].isdigit() and int(version[1]) < 16
    return case.flow.streams == 1 or old


def _lab_shared_cpu(case: Case) -> Iterator[Verdict]:
    busy = case.number("busy_pct")
    if case.shared is None:
        yield _unchecked("whether the nodes share a kernel is not known")
    elif case.shared and math.isnan(busy):
        yield _unchecked("how busy the processors were is not known")
    elif case.shared and busy >= limits.SHARED_BUSY_PCT:
        yield _doubt(f"Both ends share processors, which were {busy:.0f} % busy.")


CHECKS: dict[str, Check] = {
    "idle_load": _idle_load,
    "other_traffic": _other_traffic,
    "steal": _above(
        "steal_pct",
        limits.STEAL_PCT,
        "{:.1f} % of a node's processor time was stolen.",
        "stolen time was not read",
    ),
    "softnet_drops": _above(
        "softnet_dropped",
        0.0,
        "A full backlog refused {:.0f} packets.",
        "the softnet counters were not read",
    ),
    "clock": _clock,
    "rebooted": _rebooted,
    "retransmit_storm": _retransmit_storm,
    "short_trial": _short_trial,
    "not_steady": _not_steady,
    "wrong_path": _wrong_path,
    "clsact_drops": _clsact_drops,
    "core_saturated": _core_saturated,
    "lab_shared_cpu": _lab_shared_cpu,
}
