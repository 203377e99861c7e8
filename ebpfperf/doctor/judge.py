"""Evidence → diagnosis: every check asked, what is missing UNKNOWN, never a guess. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version

from ebpfperf.diagnosis import Diagnosis, Outcome, Result, Verdict
from ebpfperf.doctor import cpu, drops, ebpf_on, performance, services
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
    """What the checks say of the evidence."""
    case = Case(evidence)
    return Diagnosis(
        evidence.taken_utc,
        evidence.release,
        evidence.nodes,
        tuple(result(case, check) for check in checks),
        evidence.lost,
        version("ebpfperf"),
        from_bundle,
        evidence.pseudonyms,
        _emulated(case),
        evidence.seconds,
    )


def result(case: Case, check: Check) -> Result:
    """What one check says."""
    return Result(
        check.id, check.name, check.title, check.symptom, check.rule, check.source,
        tuple(_outcomes(case, check)),
    )  # fmt: skip


def _outcomes(case: Case, check: Check) -> list[Outcome]:
    if why := _outside(case, check):
        return [not_applicable(why)]
    if check.of_cluster is not None:
        of_cluster = check.of_cluster
        if check.ebpf and not any(_to_be_on(case, node) for node in case.nodes):
            return [not_applicable("no node is to forward by eBPF")]
        return asked(lambda: of_cluster(case), "") or [unknown("The check found nothing to ask.")]
    of_node = check.of_node
    assert of_node is not None, check.id
    found = []
    for node in case.nodes:
        if check.ebpf and not _to_be_on(case, node):
            found.append(replace(not_applicable("eBPF mode is not asked for there"), node=node))
            continue
        found += asked(lambda node=node: of_node(case, node), node)  # type: ignore[misc]
    return found or [unknown("the cluster has no nodes")]


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
