"""Checks of settings that cost processor time on each packet, and of the connection table. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ebpfperf import map_checks
from ebpfperf.calico import felix_fields
from ebpfperf.diagnosis import Outcome, Shown, Verdict
from ebpfperf.doctor import values
from ebpfperf.doctor.case import Case, Missing, unknown
from ebpfperf.doctor.declaration import PAGE, Check
from ebpfperf.doctor.where_on import where_on
from ebpfperf.evidence_sources import LOG, MAPS
from ebpfperf.felix_values import Effective, Origin
from ebpfperf.mapdump.summaries import FULL_PCT, NEARLY_FULL_PCT

LEVEL, CLEANER, FILTERS = "bpfLogLevel", "bpfConntrackLogLevel", "bpfLogFilters"
PROFILING, HARDENING = "bpfProfiling", "bpfJITHardening"
SIZE, PER_CPU, SCALING = (
    "bpfMapSizeConntrack", "bpfMapSizePerCpuConntrack", "bpfMapSizeConntrackScaling"
)  # fmt: skip
# Not fields that change the eBPF mode itself; either turns flow logs on. Since v3.30.
FLOW_LOGS = ("FlowLogsGoldmaneServer", "FlowLogsLocalReporter")
STATS, JIT, HARDEN = (
    "kernel.bpf_stats_enabled",
    "net.core.bpf_jit_enable",
    "net.core.bpf_jit_harden",
)
# felix/bpf/conntrack, v3.30 and later.
_FULL = re.compile(r"conntrack table is becoming full\..*resizing from (\d+) to (\d+) entries")
_OFF = ("", "0", "false", "disabled", "none")


def _has(case: Case, field: str) -> bool:
    """Whether the release has the field; Missing where the release is not known."""
    _ = case.minor
    return felix_fields.field(field).settable(case.release)


def debug_log(case: Case, node: str) -> Iterator[Outcome]:
    """C5: whether programs write lines on each packet."""
    value = case.value(node, LEVEL)
    shown = [values.shown(case, value)]
    said = values.spoken(value)
    if values.is_unknown(value):
        yield unknown(f"{said}.", *shown)
        return
    if value.value != "Off":
        narrowed = ""
        if _has(case, FILTERS) and (filters := case.value(node, FILTERS)).value:
            narrowed = f" {values.spoken(filters)}: fewer lines, but each packet is looked at."
            shown.append(values.shown(case, filters))
        debug = value.value == "Debug"
        yield Outcome(
            Verdict.FAIL if debug else Verdict.WARN,
            f"{said}: programs write {'many lines' if debug else 'lines'} on each packet, which "
            f"takes time.{narrowed}",
            tuple(shown),
            remedy=f"{values.advice(value, 'Off')} Felix restarts once. To look for a short while: "
            "ebpfperf drops --log-for 5s puts it back by itself.",
        )
        return
    if _has(case, CLEANER):
        cleaner = case.value(node, CLEANER)
        if cleaner.value == "Debug":
            yield Outcome(
                Verdict.WARN,
                f"{values.spoken(cleaner)}: the program that cleans the connection table logs.",
                (values.shown(case, cleaner),),
                remedy=values.advice(cleaner, "Off"),
            )
            return
    yield Outcome(Verdict.OK, f"{said}.", tuple(shown))


def observing(case: Case, node: str) -> Iterator[Outcome]:
    """C6: profiling, flow logs and the kernel's own statistics of programs."""
    found: list[Outcome] = []
    seen: list[str] = []
    shown: list[Shown] = []
    if _has(case, PROFILING):
        value = case.value(node, PROFILING)
        shown.append(values.shown(case, value))
        seen.append(values.spoken(value))
        if values.is_unknown(value):
            found.append(unknown(f"{values.spoken(value)}.", shown[-1]))
        elif value.value == "Enabled":
            found.append(
                Outcome(
                    Verdict.WARN,
                    f"{values.spoken(value)}: programs take the time of each packet.",
                    (shown[-1],),
                    remedy=values.advice(value, "Disabled"),
                )
            )
        found += _flow_logs(case, node)
    settings = case.settings(node)
    if STATS not in settings:
        found.append(unknown(f"The node does not show {STATS}.", case.show("settings", node)))
    else:
        shown.append(case.show("settings", node, f"{STATS} = {settings[STATS]}"))
        seen.append(f"{STATS} is {settings[STATS]}")
        if settings[STATS] != "0":
            found.append(
                Outcome(
                    Verdict.WARN,
                    f"{STATS} is {settings[STATS]}: the kernel takes the time of each run of each "
                    "program.",
                    (shown[-1],),
                    remedy=f"sysctl -w {STATS}=0, once nobody needs the numbers.",
                )
            )
    yield from found or [Outcome(Verdict.OK, f"{'; '.join(seen)}.", tuple(shown))]


def _flow_logs(case: Case, node: str) -> Iterator[Outcome]:
    """A warning where something collects flow logs of the node."""
    felix = case.felix(node)
    for name in FLOW_LOGS:
        resource = name[0].lower() + name[1:]
        places: tuple[tuple[str, str, Any], ...] = (
            ("felix-process", f"FELIX_{name.upper()}",
             (felix.environment or {}).get(f"FELIX_{name.upper()}")),
            ("felixconfigurations", f"FelixConfiguration node.{node}",
             (felix.own or {}).get(resource)),
            ("felixconfigurations", "FelixConfiguration default",
             (felix.default or {}).get(resource)),
        )  # fmt: skip
        for source, where, value in places:
            if value is None:
                continue
            if str(value).strip().lower() not in _OFF:
                line = f"{where}: {name} {value}"
                at = "" if source == "felixconfigurations" else node
                yield Outcome(
                    Verdict.WARN,
                    f"Flow logs are on ({name} is {value}, {where}): policy programs report "
                    "connections to Felix, which takes time.",
                    (case.show(source, at, line),),
                    remedy="Leave them off while something is measured (the operator turns them on "
                    "for Goldmane and Whisker).",
                )
            break


def jit(case: Case, node: str) -> Iterator[Outcome]:
    """C7: whether the kernel compiles programs, and with which hardening."""
    settings = case.settings(node)
    here = {name: settings[name] for name in (JIT, HARDEN) if name in settings}
    lines = [f"{name} = {value}" for name, value in here.items()]
    shown = case.show("settings", node, lines)
    if JIT not in here:
        yield unknown(f"The node does not show {JIT}.", case.show("settings", node))
    elif here[JIT] == "0":
        yield Outcome(
            Verdict.FAIL, f"{JIT} is 0: programs are interpreted, at a far higher cost.",
            (shown,), remedy=f"sysctl -w {JIT}=1, and in /etc/sysctl.d; then restart calico-node.",
        )  # fmt: skip
    elif here[JIT] == "2":
        yield Outcome(
            Verdict.WARN, f"{JIT} is 2: each program that is loaded is written to the kernel's "
            "log.", (shown,), remedy=f"sysctl -w {JIT}=1.",
        )  # fmt: skip
    if HARDEN not in here:
        yield unknown(f"The node does not show {HARDEN}.", case.show("settings", node))
    elif here[HARDEN] == "2":
        yield Outcome(
            Verdict.WARN,
            f"{HARDEN} is 2: constants are blinded in all programs, which makes each packet "
            "dearer.",
            (shown,),
            remedy=_soften(case, node),
        )
    elif here.get(JIT, "1") not in ("0", "1", "2") or here[HARDEN] not in ("0", "1"):
        yield unknown(f"{' and '.join(lines)}: what that means is not known.", shown)
    elif here.get(JIT) == "1":
        yield Outcome(Verdict.OK, f"{JIT} is 1 and {HARDEN} is {here[HARDEN]}.", (shown,))


def _soften(case: Case, node: str) -> str:
    by_hand = f"sysctl -w {HARDEN}=1, and in /etc/sysctl.d; then restart calico-node."
    try:
        if _has(case, HARDENING):
            value = case.value(node, HARDENING)
            if value.value == "Strict":
                return f"{values.advice(value, 'Auto')} Felix then lowers it to 1. Or {by_hand}"
            return f"{values.spoken(value)}: Felix lowers it to 1 when it starts. {by_hand}"
    except Missing:
        pass
    return by_hand


@where_on
def table_full(case: Case, node: str) -> Iterator[Outcome]:
    """C8: how full the connection table is, and whether Felix had to enlarge it."""
    found = list(_enlarged(case, node))
    maps = case.maps(node)
    tables = maps.of("conntrack")
    if not tables:
        why = next((each for each in maps.missing if "ct" in each or "conntrack" in each), "")
        yield from found
        why = f"The connection table was not read: {why or 'it is not pinned.'}"
        yield unknown(why, case.show(MAPS, node, why))
        return
    for table in tables:
        frame, most = table.decoded.frame, table.max_entries
        line = f"{table.name}: {len(frame)} of {most} entries"
        evidence = case.show(MAPS, node, line)
        problems = [
            each
            for each in map_checks.connections(frame, max_entries=most)
            if each.check == "conntrack-full"
        ]
        if table.decoded.partial and not problems:
            found.append(unknown(f"{table.name} was read in part: {len(frame)} entries.", evidence))
        elif not problems:
            pct = 100 * len(frame) / most if most else 0.0
            what = f"{table.name} holds {len(frame)} of at most {most} connections ({pct:.1f} %)."
            found.append(Outcome(Verdict.OK, what, (evidence,)))
        found += [
            Outcome(
                Verdict(each.severity),
                f"{table.name} holds {each.what}",
                (evidence,),
                subject=table.name,
                remedy=_enlarge(case, node, most),
            )
            for each in problems
        ]
    yield from found


def _enlarged(case: Case, node: str) -> Iterator[Outcome]:
    try:
        lines = [line for line in case.text(LOG, node).splitlines() if _FULL.search(line)]
    except Missing:
        return
    if lines:
        sizes = _FULL.search(lines[-1])
        assert sizes is not None
        if _set_to(case, node, int(sizes[2])):
            return  # Somebody has done it since.
        yield Outcome(
            Verdict.WARN,
            f"Felix found the connection table nearly full and enlarged it from {sizes[1]} to "
            f"{sizes[2]} entries, for which it restarted.",
            (case.show(LOG, node, lines[-1]),),
            remedy=f"Set the size at once: {_size(case, node, int(sizes[2]))}",
        )


def _set_to(case: Case, node: str, entries: int) -> bool:
    """Whether the size is set to so many, or more."""
    try:
        value = case.value(node, SIZE)
    except Missing:
        return False
    set_so = value.origin is not Origin.RELEASE and isinstance(value.value, int)
    return set_so and value.value >= entries


def _enlarge(case: Case, node: str, most: int) -> str:
    try:
        if not _has(case, SIZE):
            return (
                f"{case.release} has it fixed at {most} entries: end connections that are not "
                "needed, or use v3.23 or later, where it can be set."
            )
        advice = _size(case, node, 2 * most)
        if _has(case, SCALING):
            scaling = case.value(node, SCALING)
            if scaling.value == "Disabled":
                advice += f" Or let Felix double it: {values.advice(scaling, 'DoubleIfFull')}"
        return advice
    except Missing:
        return "Enlarge the connection table, where the release has a field for it."


def _size(case: Case, node: str, entries: int) -> str:
    """Which field to set, so that the table has so many entries."""
    if _has(case, PER_CPU):
        each: Effective = case.value(node, PER_CPU)
        if isinstance(each.value, int) and each.value:
            return (
                f"{values.advice(each, 2 * each.value)} It beats {SIZE}, and is for each "
                "processor."
            )  # fmt: skip
    return f"{values.advice(case.value(node, SIZE), entries)} Felix restarts once."


CHECKS: tuple[Check, ...] = (
    Check(
        "C5",
        "debug-log",
        "Is the programs' debug log off?",
        "Packets take long, and the processors are busy.",
        ("felixconfigurations", "felix-process"),
        f"{LEVEL} Debug is FAIL, Info is WARN, Off is OK; {CLEANER} Debug is WARN.",
        PAGE,
        of_node=debug_log,
        preflight=True,
    ),
    Check(
        "C6",
        "observing-costs",
        "Does something take the time of each packet, or report each connection?",
        "Packets take longer than elsewhere.",
        ("felixconfigurations", "felix-process", "settings"),
        f"{PROFILING} Enabled, flow logs, or {STATS} other than 0 is WARN.",
        "felix/config/config_params.go; the kernel's Documentation/admin-guide/sysctl",
        of_node=observing,
        preflight=True,
    ),
    Check(
        "C7",
        "jit",
        "Does the kernel compile BPF programs, without hardening for all?",
        "Each packet costs more processor time than elsewhere.",
        ("settings", "felixconfigurations", "felix-process"),
        f"{JIT} 0 is FAIL, 2 is WARN; {HARDEN} 2 is WARN.",
        "the kernel's Documentation/admin-guide/sysctl/net.rst; Calico's current page",
        of_node=jit,
        preflight=True,
    ),
    Check(
        "C8",
        "connection-table-full",
        "Is there room in the connection table?",
        "New connections fail while old ones go on.",
        (MAPS, LOG, "felixconfigurations", "felix-process"),
        f"More than {NEARLY_FULL_PCT:g} % of its entries is WARN, more than {FULL_PCT:g} % is "
        "FAIL; Felix's line that it enlarged the table is WARN.",
        "felix/bpf/conntrack; felix/bpf/maps",
        of_node=table_full,
    ),
)
