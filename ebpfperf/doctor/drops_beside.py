"""Checks of packets lost beside policy: the way back, the kernel, connections gone stale. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from ebpfperf import map_checks, map_wanted
from ebpfperf.calico import felix_fields
from ebpfperf.diagnosis import Outcome, Verdict
from ebpfperf.doctor import kernel_counts, values
from ebpfperf.doctor.case import Case, Missing, unknown
from ebpfperf.doctor.declaration import Check
from ebpfperf.doctor.kernel_counts import SQUEEZED_PER_S
from ebpfperf.doctor.vxlan_device import VXLAN_DEVICE
from ebpfperf.doctor.where_on import where_on
from ebpfperf.drop_differences import UNCOUNTED, Source, between
from ebpfperf.evidence_sources import COUNTS, LATER, MAPS
from ebpfperf.map_answers import NodeMaps
from ebpfperf.mapdump.routes import LOCAL, WORKLOAD
from ebpfperf.mapdump.summaries import SYN_SENT_PCT

BY_ROUTE = ("packets with unknown source", "packets with unknown route")
ENFORCE = "bpfEnforceRPF"
STATISTICS = "statistics"
FEW_SYN_SENT = 5
"""Fewer connections than this that wait for an answer say nothing about servers."""
OVERLAYS = (VXLAN_DEVICE, "vxlan-v6.calico")
MULTICASTS_PER_S = 5.0
"""So many packets of its own a second and fewer are dropped by an overlay's device that is well."""
MOST = 8


@where_on
def reverse_path(case: Case, node: str) -> Iterator[Outcome]:
    """D5: whether sources of packets are known: by the counters, and by the map of routes."""
    found = list(_by_route(case, node))
    maps = case.maps(node)
    tables = maps.of("routes")
    if not tables:
        why = next((each for each in maps.missing if "route" in each), "it is not pinned.")
        found.append(unknown(f"The map of routes was not read: {why}", case.show(MAPS, node, why)))
    else:
        found += _routes(case, node, maps)
    yield from found


def _by_route(case: Case, node: str) -> Iterator[Outcome]:
    """What was dropped for its source or route, or for no reason that Calico counts."""
    if not case.evidence.seconds:
        return
    drops = between(case.counts(node, later=False), case.counts(node), release=case.release or None)
    for row in drops.drops:
        if not row.packets or (row.reason not in BY_ROUTE and row.reason != UNCOUNTED):
            continue
        line = f"{row.device} {row.hook} {row.source.value}: {row.packets} {row.reason}"
        shown = case.show(COUNTS + LATER, node, line)
        if row.source is Source.COUNTERS:
            what = f"{row.packets} packets {row.way} at {row.device} were dropped ({row.reason})."
            verdict, remedy = Verdict.FAIL, _rpf_remedy(case, node)
        else:
            what = (
                f"{row.packets} packets at {row.device} were dropped for no reason that Calico "
                "counts. A failed check of the way back is one such; an endpoint that is not ready "
                "another."
            )
            verdict = Verdict.WARN
            remedy = (
                f"ebpfperf drops --node {node} --log-for 5s names them: look for lines with RPF. "
                + _rpf_remedy(case, node)
            )
        yield Outcome(verdict, what, (shown,), subject=row.device, remedy=remedy)


def _rpf_remedy(case: Case, node: str) -> str:
    advice = "Look at the routes back to the sender, and at ebpfperf maps check."
    try:
        if case.minor and felix_fields.field(ENFORCE).settable(case.release):
            value = case.value(node, ENFORCE)
            said = f" {values.spoken(value)}."
            if value.value == "Strict":
                said += f" Where routes are asymmetric: {values.advice(value, 'Loose')}"
            return advice + said
    except Missing:
        pass
    return advice


def _routes(case: Case, node: str, maps: NodeMaps) -> Iterator[Outcome]:
    table = _stacked(maps, "routes")
    asked = case.kept(("routed",), lambda: _routed(case))
    families = {each.decoded.version.family for each in maps.of("routes") if each.decoded.version}
    problems = [
        (each.subject, each.what)
        for each in map_checks.routes(asked, node, table, families=families)
    ]
    problems += _gone(table, maps)
    for subject, what in problems[:MOST]:
        yield Outcome(
            Verdict.FAIL,
            f"{what} Packets from there fail the check of their way back, or find none.",
            (case.show(MAPS, node, f"routes: {what}"),),
            subject=subject,
            remedy="Look at calico-node's log on this node: Felix keeps the map; ebpfperf maps "
            "check compares it with the API.",
        )
    if len(problems) > MOST:
        yield Outcome(
            Verdict.FAIL,
            f"{len(problems) - MOST} more routes are missing or wrong.",
            (case.show(MAPS, node, f"routes: {len(problems)} problems"),),
        )
    if not problems:
        hosts = len(asked.node_addresses)
        what = f"The map of routes leads to {hosts} nodes and {len(asked.routed(node))} pods."
        yield Outcome(Verdict.OK, what, (case.show(MAPS, node, f"routes: {len(table)} entries"),))


def _routed(case: Case) -> map_wanted.Api:
    try:
        pools = case.objects("ippools")
    except Missing:
        # A node's own pods alone are surely Calico's.
        pools = []
    return map_wanted.api((), (), case.objects("nodes"), case.objects("pods"), pools)


def _gone(table: pd.DataFrame, maps: NodeMaps) -> list[tuple[str, str]]:
    """Local pods whose device, by the map, is not there."""
    rows: Any = table.itertuples()
    return [
        (str(row.dest), f"{row.dest} is a pod behind interface {row.ifindex}, which is not there.")
        for row in rows
        if int(row.flags) & LOCAL
        and int(row.flags) & WORKLOAD
        and not pd.isna(row.ifindex)
        and int(row.ifindex) not in maps.interfaces
    ]


def _stacked(maps: NodeMaps, purpose: str) -> pd.DataFrame:
    frames = [each.decoded.frame for each in maps.of(purpose)]
    filled = [frame for frame in frames if not frame.empty] or frames[:1]
    return pd.concat(filled, ignore_index=True)


def kernel(case: Case, node: str) -> Iterator[Outcome]:
    """D6: what the kernel dropped outside the programs, between two readings."""
    if not case.evidence.seconds:
        raise Missing("the kernel's counts were read only once: ask for seconds to count in")
    first, later = case.text(STATISTICS, node), case.text(STATISTICS + LATER, node)
    before, after = kernel_counts.parse(first), kernel_counts.parse(later)
    seconds = case.evidence.seconds
    grown = kernel_counts.grown(before, after)
    for each in grown:
        if _common(each, seconds):
            continue
        yield Outcome(
            Verdict.WARN,
            f"{each.sentence} {each.count} times in {seconds:.1f} s "
            f"({each.count / seconds:.1f}/s).",
            (case.show(STATISTICS + LATER, node, f"{each.what}: +{each.count}"),),
            subject=each.device,
            remedy=each.remedy,
        )
    if not after:
        yield unknown("The kernel's counts cannot be read.", case.show(STATISTICS + LATER, node))
    elif all(_common(each, seconds) for each in grown):
        few = ", ".join(f"{each.device} {each.what} +{each.count}".strip() for each in grown)
        line = f"few, and common: {few}" if grown else f"{len(after)} counters, none of which grew"
        yield Outcome(
            Verdict.OK,
            f"The kernel dropped nothing outside the programs in {seconds:.1f} s "
            f"({len(after)} counters).",
            (case.show(STATISTICS + LATER, node, line),),
        )


def _common(grown: kernel_counts.Grown, seconds: float) -> bool:
    """Whether so few of these are seen on nodes that are well.

    The kernel gives a device addresses and asks for routers there; a VXLAN device that knows its
    peers one by one has nowhere to send such multicast, and counts it as dropped.
    """
    if grown.what == kernel_counts.SQUEEZED:
        return grown.count <= SQUEEZED_PER_S * seconds
    return (
        grown.device in OVERLAYS
        and grown.what == "tx dropped"
        and (grown.count <= MULTICASTS_PER_S * max(seconds, 1.0))
    )


@where_on
def connections(case: Case, node: str) -> Iterator[Outcome]:
    """D7: connections to backends that are gone, and many without an answer."""
    maps = case.maps(node)
    tables = maps.of("conntrack")
    if not tables:
        why = next((each for each in maps.missing if "conntrack" in each or "_ct" in each), "")
        why = f"The connection table was not read: {why or 'it is not pinned.'}"
        yield unknown(why, case.show(MAPS, node, why))
        return
    known = bool(maps.of("nat-backend"))
    backends = _stacked(maps, "nat-backend") if known else None
    found: list[Outcome] = []
    total = 0
    for table in tables:
        frame = table.decoded.frame
        total += len(frame)
        waiting = int((frame["tcp_state"] == "SYN-SENT").sum())
        problems = [
            each
            for each in map_checks.connections(frame, backends)
            if each.check != "syn-sent" or waiting >= FEW_SYN_SENT
        ]
        found += _problems(case, node, table.name, problems)
    if not known:
        why = "The map of backends was not read: stale connections are not seen."
        found.append(unknown(why, case.show(MAPS, node, why)))
    what = f"Of {total} connections none leads to a backend that is gone, few have no answer."
    evidence = case.show(MAPS, node, [f"{each.name}: {len(each.entries)}" for each in tables])
    yield from found or [Outcome(Verdict.OK, what, (evidence,))]


def _problems(
    case: Case, node: str, name: str, problems: Sequence[map_checks.Problem]
) -> Iterator[Outcome]:
    for each in problems[:MOST]:
        stale = each.check == "connection-stale"
        yield Outcome(
            Verdict(each.severity),
            each.what,
            (case.show(MAPS, node, f"{name}: {each.what}"),),
            subject=each.subject,
            remedy=_stale_remedy(case)
            if stale
            else "Look at the servers, and at policy between "
            "(D2, D4); ebpfperf maps conntrack lists them.",
        )
    if len(problems) > MOST:
        yield Outcome(
            Verdict.WARN,
            f"{len(problems) - MOST} more services have connections to backends that are gone.",
            (case.show(MAPS, node, f"{name}: {len(problems)} problems"),),
        )


def _stale_remedy(case: Case) -> str:
    try:
        tool = "calico-node -bpf" if case.minor >= (3, 18) else "calico-bpf"
    except Missing:
        tool = "calico-bpf"
    return (
        "Clients that keep such a connection wait in vain until it times out: restart them, or "
        f"remove it: {tool} conntrack remove PROTOCOL IP1 IP2."
    )


CHECKS: tuple[Check, ...] = (
    Check(
        "D5",
        "reverse-path",
        "Are the sources of packets known?",
        "Packets of some pods, or over some NICs, get lost.",
        (COUNTS, MAPS, "nodes", "pods", "ippools", "felixconfigurations", "felix-process"),
        "Drops for an unknown source or route, or a route of a pod or node that is missing or "
        "wrong in the map are FAIL; drops for no counted reason are WARN. Pods of other nodes "
        "count where they are in a pool of Calico's.",
        "felix/bpf-gpl/rpf.h; felix/dataplane/linux/bpf_route_mgr.go",
        of_node=reverse_path,
    ),
    Check(
        "D6",
        "kernel-drops",
        "Does the kernel drop packets outside the programs?",
        "Packets get lost although no program drops them.",
        (STATISTICS,),
        "Any growth of a device's drops or errors, of softnet's drops or of a drop counter of IP, "
        f"UDP or TCP is WARN; of time squeezes more than {SQUEEZED_PER_S:g} a second, of what "
        f"{' or '.join(OVERLAYS)} drops while sending more than {MULTICASTS_PER_S:g}. Not read: "
        "ethtool -S.",
        "the kernel's Documentation/networking/snmp_counter.rst and statistics.rst",
        of_node=kernel,
        ebpf=False,
    ),
    Check(
        "D7",
        "stale-connections",
        "Do connections lead to backends that are gone, or to no answer?",
        "Clients wait until they time out.",
        (MAPS,),
        "A connection to a backend that no service has is WARN; more than "
        f"{SYN_SENT_PCT:g} % of TCP's connections (and at least {FEW_SYN_SENT}) in SYN-SENT too.",
        "felix/bpf/conntrack; felix/bpf/proxy/syncer.go",
        of_node=connections,
    ),
)
