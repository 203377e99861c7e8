"""Checks of what the cluster is told about eBPF mode: by whom, and on all nodes alike. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from ebpfperf import felix_values
from ebpfperf.diagnosis import Outcome, Shown, Verdict
from ebpfperf.doctor.case import Case, Missing, asked, not_applicable, unknown
from ebpfperf.doctor.node_state import Mode
from ebpfperf.evidence_sources import COUNTS, LOG
from ebpfperf.felix_values import Effective, Given, Origin
from ebpfperf.felix_values import shown as written
from ebpfperf.kube_objects import Object, is_windows
from ebpfperf.units import UNKNOWN

_FIELD = "bpfEnabled"
_LOCAL = (Origin.ENVIRONMENT, Origin.FILE)
_BPF, _IPTABLES = "BPF", "Iptables"
_NAMED = 8


def configuration(case: Case) -> Iterator[Outcome]:
    """Whether all that may turn eBPF mode on say the same, and nothing beats a resource."""
    told = _installed(case)
    found = []
    for node in case.nodes:
        found += asked(partial(_node, case, node, told), node)
    found += asked(partial(_strays, case), "")
    if isinstance(told, Missing):
        found.append(unknown(f"The Installation cannot be read: {told.why}.", *told.shown))
    if found and all(each.verdict is Verdict.NOT_APPLICABLE for each in found):
        yield not_applicable("Nobody asks for eBPF mode.", _resources(case))
    else:
        yield from found


def mixed(case: Case) -> Iterator[Outcome]:
    """Whether all nodes forward by eBPF, or none."""
    others, windows = _others(case)
    states = {node: case.state(node) for node in case.nodes if node not in windows}
    on = [node for node, state in states.items() if state.on]
    off = [node for node, state in states.items() if state.mode in (Mode.OFF, Mode.FALLBACK)]
    unsaid = [node for node in states if node not in (*on, *off)]
    table = [f"{node}: {state.mode.value}, {state.why}" for node, state in states.items()]
    if not on:
        if unsaid:
            what = f"Which nodes forward by eBPF is not known: {'; '.join(table[:_NAMED])}."
            yield unknown(what, *_evidence(case, unsaid[0], table))
        else:
            shown = _evidence(case, off[0], table) if off else (case.show("nodes"),)
            yield not_applicable("No node forwards by eBPF: nothing is mixed.", *shown)
        return
    for node in off:
        state = states[node]
        yield Outcome(
            Verdict.FAIL,
            f"{node} does not forward by eBPF ({state.mode.value}: {state.why}), but "
            f"{_several(on)}: Calico does not support such a mixture.",
            _evidence(case, node, table),
            node=node,
            remedy="Bring the node to eBPF mode (A1 says what hinders it), or turn bpfEnabled off "
            "for all.",
        )
    for node in unsaid:
        state = states[node]
        what = f"Whether {node} forwards by eBPF as the others do is not known: {state.why}."
        yield Outcome(Verdict.UNKNOWN, what, _evidence(case, node, table), node=node)
    for node, why in (*others.items(), *windows.items()):
        yield Outcome(
            Verdict.FAIL,
            f"{node} {why}, but {_several(on)}: Calico does not support such a mixture.",
            (case.show("nodes", "", f"{node}: {why}"),),
            node=node,
            remedy="Keep such nodes out of the cluster, or turn bpfEnabled off for all.",
        )
    if not (off or unsaid or others or windows):
        rest = _not_asked(case)
        what = (
            f"All {len(on)} nodes forward by eBPF" if len(on) > 1 else "The node forwards by eBPF"
        )
        what += f"; {rest} more were not looked at, and are told to" if rest else ""
        yield Outcome(Verdict.OK, f"{what}.", _evidence(case, on[0], table))


# --------------------------------------------------------------------------- configuration


def _installed(case: Case) -> str | Missing | None:
    """The Installation's ``linuxDataplane``; None where there is no operator."""
    try:
        objects = case.objects("installations")
    except Missing as missing:
        return None if _without_operator(case) else missing
    if not objects:
        return None
    default = next((each for each in objects if each["metadata"]["name"] == "default"), objects[0])
    # What the operator made of all Installations together, if it says so.
    computed = _dataplane((default.get("status") or {}).get("computed"))
    return computed or _dataplane(default.get("spec")) or _IPTABLES


def _without_operator(case: Case) -> bool:
    """Whether calico-node runs where manifests put it; the operator puts it in calico-system.

    An API refuses a kind to whoever may not read it, also where it does not have that kind.
    """
    try:
        places = {
            str(pod["metadata"].get("namespace"))
            for node in case.nodes
            if (pod := case.calico_pod(node)) is not None
        }
    except Missing:
        return False
    return places == {"kube-system"}


def _dataplane(spec: Mapping[str, Any] | None) -> str:
    return str(((spec or {}).get("calicoNetwork") or {}).get("linuxDataplane") or "")


def _node(case: Case, node: str, told: str | Missing | None) -> Iterator[Outcome]:
    own = case.value(node, _FIELD)
    givens = _givens(own)
    if own.value is not None and str(own.value).startswith(UNKNOWN):
        shown = (_resources(case), case.show("felix-process", node))
        yield unknown(f"Whether eBPF mode is asked for is not known: {own.value}.", *shown)
        return
    evidence = case.felix(node)
    wants = case.wants_ebpf(node)
    asked_for = wants or told == _BPF or any(given.value is True for given in givens)
    values = "; ".join(f"{given.where} says {written(given.value)}" for given in givens)
    values = values or f"nobody sets {_FIELD}"
    words = f"{values}{f'; Installation says {told}' if isinstance(told, str) else ''}"
    if not asked_for:
        yield not_applicable("eBPF mode is not asked for there.", _resources(case))
        return
    shown = (_resources(case), case.show("felix-process", node))
    quiet = True
    if isinstance(told, str) and (told == _BPF) is not wants:
        quiet = False
        yield Outcome(
            Verdict.FAIL,
            f"The operator is told linuxDataplane {told}, but Felix acts on {_FIELD} "
            f"{written(wants)}: {words}.",
            (case.show("installations", "", f"linuxDataplane: {told}"), *shown),
            subject=_FIELD,
            remedy="Set Installation default, spec.calicoNetwork.linuxDataplane, to "
            f"{_BPF if wants else told}, and leave {_FIELD} to the operator.",
        )
    for value in felix_values.effective(evidence):
        if found := _beaten(case, node, value):
            quiet = False
            yield found
    if evidence.environment is None:
        yield unknown("Felix's environment is not known, and it beats the resources.", *shown)
    elif quiet:
        yield Outcome(Verdict.OK, f"All that is said of {_FIELD} agrees: {words}.", shown)


def _givens(value: Effective) -> list[Given]:
    """What people say of a field, highest first, without what Felix overrides itself."""
    first = Given(value.origin, value.where, value.value)
    every = [first, *value.shadowed]
    return [each for each in every if each.origin not in
            (Origin.OVERRIDE, Origin.DERIVED, Origin.RELEASE)]  # fmt: skip


def _beaten(case: Case, node: str, value: Effective) -> Outcome | None:
    """A resource that says otherwise than what beats it; None where none does."""
    givens = _givens(value)
    if len(givens) < 2:
        return None
    first, *rest = givens
    if first.origin not in _LOCAL and value.field != _FIELD:
        # A node's own resource is there to say otherwise; of the mode itself all must say the same.
        return None
    other = [given for given in rest if given.value != first.value]
    if not other:
        return None
    says = " and ".join(f"{given.where} says {written(given.value)}" for given in other)
    place = _from(case, node, first)
    shown = (
        case.show(place, "" if place == "pods" else node, f"{first.where}: {written(first.value)}")
        if first.origin in _LOCAL
        else _resources(case),
        case.show(
            "felixconfigurations", "",
            [f"{given.where}: {value.field} {written(given.value)}" for given in other],
        ),
    )  # fmt: skip
    remedy = f"Set {value.field} alike in both, or take it out of {first.where}."
    if first.origin is Origin.ENVIRONMENT:
        remedy = f"Take {first.where} out of the DaemonSet calico-node, or set it alike."
    return Outcome(
        Verdict.WARN,
        f"{value.field} is {written(first.value)} by {first.where}, although {says}.",
        shown,
        subject=value.field,
        remedy=remedy,
    )


def _from(case: Case, node: str, given: Given) -> str:
    """The evidence that shows it: Felix's own process, or where none was found its pod."""
    if given.origin is Origin.ENVIRONMENT:
        item = case.evidence.item("felix-process", node)
        if item is None or item.error or given.where not in item.text.upper():
            return "pods"
    return "felix-process"


def _strays(case: Case) -> Iterator[Outcome]:
    """What is set and ignored: of the resources once, of a node's own places for it."""
    said: dict[str, list[str]] = {}
    for node in case.nodes:
        try:
            evidence = case.felix(node)
        except Missing:
            continue
        for sentence in felix_values.strays(evidence):
            said.setdefault(sentence, []).append(node)
    for sentence, nodes in said.items():
        one = nodes[0] if len(nodes) == 1 and len(case.nodes) > 1 else ""
        yield Outcome(
            Verdict.WARN,
            f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}.",
            (_resources(case),),
            node=one,
            remedy="Take it out, so that nobody relies on it.",
        )


def _resources(case: Case) -> Shown:
    try:
        objects = case.objects("felixconfigurations")
    except Missing:
        return case.show("felixconfigurations")
    lines = [
        f"{each['metadata']['name']}: {_FIELD} {written((each.get('spec') or {}).get(_FIELD))}"
        for each in objects
    ]
    return case.show("felixconfigurations", "", lines or "no FelixConfiguration")


# ----------------------------------------------------------------------------------- mixed


def _others(case: Case) -> tuple[dict[str, str], dict[str, str]]:
    """Nodes that were not asked and will not forward by eBPF: by configuration, and Windows."""
    try:
        objects = case.objects("nodes")
    except Missing:
        return {}, {}
    windows = {_name(each): "is a Windows node" for each in objects if is_windows(each)}
    rest = [_name(each) for each in objects if _name(each) not in (*case.nodes, *windows)]
    found = {}
    for node in rest:
        try:
            if not case.wants_ebpf(node):
                found[node] = f"is told {_FIELD} false"
        except Missing:
            continue
    return found, windows


def _not_asked(case: Case) -> int:
    """How many nodes of the cluster are none of those that were asked."""
    try:
        return sum(_name(each) not in case.nodes for each in case.objects("nodes"))
    except Missing:
        return 0


def _name(node: Object) -> str:
    return str(node["metadata"]["name"])


def _several(nodes: list[str]) -> str:
    named = ", ".join(nodes[:_NAMED]) + (f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED
                                         else "")  # fmt: skip
    return f"{named} {'does' if len(nodes) == 1 else 'do'}"


def _evidence(case: Case, node: str, table: list[str]) -> tuple[Shown, ...]:
    sources = case.state(node).sources
    place = {source: node if source in (LOG, COUNTS) else "" for source in sources}
    return tuple(case.show(source, where, table) for source, where in place.items())
