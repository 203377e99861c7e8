"""Checks of processors and of what programs cost. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ebpfperf.calico.releases import minor
from ebpfperf.diagnosis import Outcome, Verdict
from ebpfperf.doctor.case import Case, Missing, not_applicable
from ebpfperf.evidence_sources import COUNTS, LATER, MACHINE

STEAL_PCT = 2.0
PROFILING_FROM = (3, 30)
_MODES = 8
_STEAL = 7
"""Column of /proc/stat's cpu lines, after user, nice, system, idle, iowait, irq and softirq."""
_SCALES_ITSELF = ("intel_pstate", "amd-pstate", "amd-pstate-epp")
_STAT = re.compile(r"^==> stat <==$\n(.*?)(?=^==>|\Z)", re.M | re.S)
_CPU = re.compile(r"^cpu((?: +\d+)+)$", re.M)


def latency(case: Case) -> Iterator[Outcome]:
    """Where delays are measured."""
    yield not_applicable(
        "not asked here: ebpfperf run with the load request-response measures round trips, and its "
        "probes hops, softirq and runqueue where they go"
    )


# ----------------------------------------------------------------------------------- E10


@dataclass(frozen=True, slots=True)
class Cost:
    """What one program took between two readings."""

    hook: str
    name: str
    runs: int
    ns: int

    @property
    def each_ns(self) -> float:
        """Nanoseconds of a packet."""
        return self.ns / self.runs


def program_cost(case: Case, node: str) -> Iterator[Outcome]:
    """Nanoseconds that Calico's programs take for a packet, where the kernel takes the time."""
    # A kernel older than 5.1 has no such setting.
    on = "kernel/bpf_stats_enabled:1" in case.text("settings", node).split()
    costs = _costs(case, node)
    if not costs:
        why = (
            "no packet met Calico's programs meanwhile"
            if on
            else "kernel.bpf_stats_enabled is 0, so the kernel takes no times of programs; set it "
            "to 1 for a minute, with traffic, and ask again"
        )
        yield not_applicable(f"{why}{_profiling(case)}", case.show("settings", node))
        return
    costs.sort(key=lambda cost: -cost.ns)
    lines = [
        f"{cost.hook} {cost.name}: {cost.each_ns:.0f} ns a packet, {cost.runs} packets"
        for cost in costs
    ]
    runs, spent = sum(cost.runs for cost in costs), sum(cost.ns for cost in costs)
    yield Outcome(
        Verdict.OK,
        f"Calico's programs took {spent / runs:.0f} ns for each of {runs} packets, most at "
        f"{costs[0].hook} ({costs[0].each_ns:.0f} ns); each packet meets several of them.",
        (case.show(COUNTS + LATER, node, lines),),
    )


def _costs(case: Case, node: str) -> list[Cost]:
    """Of the programs that ran between the readings and were not loaded anew meanwhile."""
    try:
        before, after = (
            json.loads(case.text(source, node)).get("program_times") or {}
            for source in (COUNTS, COUNTS + LATER)
        )
    except Missing:
        return []
    found = []
    for number, (hook, name, ns, runs) in after.items():
        _, _, then_ns, then_runs = before.get(number) or ("", "", 0, runs)
        if runs > then_runs and ns > then_ns:
            found.append(Cost(hook, name, runs - then_runs, ns - then_ns))
    return found


def _profiling(case: Case) -> str:
    try:
        known = minor(case.release) >= PROFILING_FROM
    except ValueError:
        known = False
    return (
        "; or bpfProfiling Enabled and calico-node -bpf profiling e2e, by device and kind"
        if known
        else ""
    )


# ----------------------------------------------------------------------------------- E11


def processors(case: Case, node: str) -> Iterator[Outcome]:
    """Whether the node's processors are its own, run at speed, and share the NIC's interrupts."""
    found = [*_steal(case, node), *_slow(case, node), *_pinned(case, node)]
    bad = [each for each in found if each.verdict is not Verdict.OK]
    if bad:
        yield from bad
        return
    said = [each.what.rstrip(".") for each in found]
    shown = tuple(dict.fromkeys(piece for each in found for piece in each.shown))
    yield Outcome(Verdict.OK, f"{'; '.join(said)}.", shown)


def _steal(case: Case, node: str) -> Iterator[Outcome]:
    now = _ticks(case, node, "statistics" + LATER)
    then = _ticks(case, node, "statistics")
    if then is None:
        _ = case.item("statistics", node)  # Why it is missing.
        raise Missing("/proc/stat was not read", case.show("statistics", node))
    source, since = "statistics" + LATER, f"within {case.evidence.seconds:.0f} s"
    if now is None:
        # One reading alone says how it was since the boot.
        now, then, source, since = then, [0] * _MODES, "statistics", "since it was booted"
    spent = [max(0, after - before) for after, before in zip(now, then, strict=True)]
    if not sum(spent):
        raise Missing("no processor time passed between the readings", case.show(source, node))
    stolen = 100 * spent[_STEAL] / sum(spent)
    shown = (case.show(source, node, f"cpu {' '.join(map(str, now))} (steal {stolen:.2f} %)"),)
    if stolen > STEAL_PCT:
        yield Outcome(
            Verdict.WARN,
            f"{stolen:.1f} % of the processors' time went to other machines on the same host "
            f"(steal) {since}.",
            shown,
            remedy="Take a machine type with processors of its own, or another host.",
        )
        return
    yield Outcome(Verdict.OK, f"{stolen:.1f} % of processor time was stolen {since}.", shown)


def _ticks(case: Case, node: str, source: str) -> list[int] | None:
    """Ticks of all processors together, by mode; None where they were not read."""
    try:
        text = case.text(source, node)
    except Missing:
        return None
    part = _STAT.search(text)
    line = _CPU.search(part[1]) if part else None
    if line is None:
        return None
    numbers = [int(word) for word in line[1].split()][:_MODES]
    return numbers if len(numbers) == _MODES else None


def _slow(case: Case, node: str) -> Iterator[Outcome]:
    """A governor that holds the lowest frequency."""
    policies = _machine(case, node).get("policies") or {}
    governors = {held.get("scaling_governor", "") for held in policies.values()} - {""}
    drivers = {held.get("scaling_driver", "") for held in policies.values()}
    named = ", ".join(sorted(governors))
    shown = (case.show(MACHINE, node, f"scaling_governor: {named or 'none'}"),)
    # The drivers that scale by themselves mean another thing by the same word.
    if "powersave" in governors and not drivers <= {*_SCALES_ITSELF}:
        yield Outcome(
            Verdict.WARN,
            "The frequency governor is powersave: processors run at their lowest frequency.",
            shown,
            remedy="cpupower frequency-set -g performance.",
        )
        return
    said = f"the frequency governor is {named}" if named else "the kernel sets no frequency"
    yield Outcome(Verdict.OK, f"{said}.", shown)


def _pinned(case: Case, node: str) -> Iterator[Outcome]:
    """Interrupts of several queues that all come to one processor."""
    if len(re.findall(r"^cpu\d+ ", case.text("statistics", node), re.M)) < 2:
        return
    for role, told in _machine(case, node)["devices"].items():
        if role.split("/")[0] != "nic" or (told.get("numbers") or {}).get("rx_queues", 1) < 2:
            continue
        queues = {
            action: cpus
            for action, cpus in (told.get("irqs") or {}).items()
            if cpus and "config" not in action and "control" not in action
        }
        targets = set(queues.values())
        # One queue may have two: what is received, and what was sent.
        if len(queues) > 2 and len(targets) == 1 and (only := targets.pop()).isdigit():
            shown = case.show(MACHINE, node, [f"{name}: {cpus}" for name, cpus in queues.items()])
            yield Outcome(
                Verdict.WARN,
                f"All {len(queues)} interrupts of {told['name']} come to processor {only}.",
                (shown,),
                subject=str(told["name"]),
                remedy="Spread them over processors: run irqbalance, or set smp_affinity_list.",
            )


def _machine(case: Case, node: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(case.text(MACHINE, node))
    return found
