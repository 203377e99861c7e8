"""Evidence → diagnosis: every check asked, what is missing UNKNOWN, never a guess. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version

from ebpfperf.diagnosis import Diagnosis, Outcome, Result, Verdict
from ebpfperf.doctor import cpu, drops, ebpf_on, performance, services, values
from ebpfperf.doctor.case import UNREADABLE, Case, Missing, asked, not_applicable, unknown
from ebpfperf.doctor.declaration import Check
from ebpfperf.errors import InputError
from ebpfperf.evidence import Evidence
from ebpfperf.kube_objects import Object

_LAB = "lab.ebpfperf/"
CHECKS: tuple[Check, ...] = (
    *ebpf_on.CHECKS,
    *services.CHECKS,
    *cpu.CHECKS,
    *drops.CHECKS,
    *performance.CHECKS,
)


def chosen(names: Collection[str]) -> tuple[Check, ...]:
    """The checks of these ids or names, in order; InputError for one that there is not."""
    if not names:
        return CHECKS
    known = {word.lower(): check for check in CHECKS for word in (check.id, check.name)}
    for name in names:
        if name.lower() not in known:
            raise InputError(
                f"There is no check {name}.",
                f"There are {', '.join(f'{c.id} {c.name}' for c in CHECKS)}.",
            )
    wanted = {known[name.lower()].id for name in names}
    return tuple(check for check in CHECKS if check.id in wanted)


def diagnose(
    evidence: Evidence, checks: Iterable[Check] = CHECKS, *, from_bundle: bool = False
) -> Diagnosis:
    """What the checks say of the evidence.

    A node's maps take much memory: all checks are asked of a node before the next.
    """
    case, asked_for = Case(evidence), tuple(checks)
    of_nodes: dict[str, list[Outcome]] = {check.id: [] for check in asked_for}
    for node in (*case.nodes, *case.windows):
        for check in asked_for:
            of_nodes[check.id] += _of_node(case, check, node)
        case.forget_maps(node)
    return Diagnosis(
        evidence.taken_utc,
        evidence.release,
        evidence.nodes,
        tuple(
            _result(check, of_nodes[check.id] or _of_cluster(case, check)) for check in asked_for
        ),
        evidence.lost,
        version("ebpfperf"),
        from_bundle,
        evidence.pseudonyms,
        _emulated(case),
        evidence.seconds,
    )


def result(case: Case, check: Check) -> Result:
    """What one check says."""
    every = (*case.nodes, *case.windows)
    found = [outcome for node in every for outcome in _of_node(case, check, node)]
    return _result(check, found or _of_cluster(case, check))


def _result(check: Check, outcomes: Iterable[Outcome]) -> Result:
    return Result(
        check.id, check.name, check.title, check.symptom, check.rule, check.source,
        tuple(outcomes),
    )  # fmt: skip


def _of_node(case: Case, check: Check, node: str) -> list[Outcome]:
    """What a check of nodes says of one; nothing where the release is another, or of others."""
    of_node = check.of_node
    if of_node is None or _outside(case, check):
        return []
    if node in case.windows:
        why = "a Windows node: Calico's eBPF mode is for Linux alone"
        return [replace(not_applicable(why, case.show("nodes", excerpt=node)), node=node)]
    if check.ebpf and not _to_be_on(case, node):
        shown = values.shown(case, case.value(node, "bpfEnabled"))
        return [replace(not_applicable("eBPF mode is not asked for there", shown), node=node)]
    return asked(lambda: of_node(case, node), node)


def _of_cluster(case: Case, check: Check) -> list[Outcome]:
    """What is said of no single node."""
    if why := _outside(case, check):
        return [not_applicable(why, case.released())]
    if check.of_cluster is None:
        return [unknown("The cluster has no nodes.", case.show("nodes"))]
    of_cluster = check.of_cluster
    if check.ebpf and not any(_to_be_on(case, node) for node in case.nodes):
        shown = (values.shown(case, case.value(node, "bpfEnabled")) for node in case.nodes)
        told = dict.fromkeys(shown) or (case.show("nodes"),)
        return [not_applicable("no node is to forward by eBPF", *told)]
    return asked(lambda: of_cluster(case), "") or [unknown("The check found nothing to ask.")]


def _outside(case: Case, check: Check) -> str:
    """Why the check does not apply to the release; empty where it does or that is unknown."""
    try:
        found = case.minor
    except Missing:
        return ""
    if check.since is not None and found < check.since:
        return f"{case.release}: {check.why_not or 'only later releases'}"
    if check.before is not None and found >= check.before:
        return f"{case.release}: {check.why_not or 'only earlier releases'}"
    return ""


def _emulated(case: Case) -> bool:
    """Whether a node says that it is the embedded lab's."""
    try:
        marks = [mark for node in case.objects("nodes") for mark in _annotations(node)]
    except (Missing, *UNREADABLE):
        return False
    return any(mark.startswith(_LAB) for mark in marks)


def _annotations(node: Object) -> Mapping[str, str]:
    return node["metadata"].get("annotations") or {}


def _to_be_on(case: Case, node: str) -> bool:
    """Whether eBPF mode is asked for on the node, or that is not known."""
    try:
        return case.wants_ebpf(node)
    except (Missing, *UNREADABLE):
        return True


def exit_status(diagnosis: Diagnosis, *, strict: bool = False) -> int:
    """1 where a check fails (``strict``: or warns), else 3 where one is UNKNOWN, else 0."""
    found = {result.verdict for result in diagnosis.results}
    if Verdict.FAIL in found or (strict and Verdict.WARN in found):
        return 1
    return 3 if Verdict.UNKNOWN in found else 0
