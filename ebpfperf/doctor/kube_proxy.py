"""Whether kube-proxy works against Felix: processor time, and rules that come and go. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ebpfperf.diagnosis import Outcome, Shown, Verdict
from ebpfperf.doctor import values
from ebpfperf.doctor.case import Case, Missing, unknown
from ebpfperf.doctor.declaration import PAGE, Check
from ebpfperf.doctor.where_on import where_on
from ebpfperf.evidence_sources import LATER

KUBE_PROXY, FELIX = "kube-proxy", "calico-node"
BUSY_PCT = 100.0
"""Above this calico-node takes more than one processor."""
CLEANUP = "bpfKubeProxyIptablesCleanupEnabled"
_DISABLE = (
    "Disable kube-proxy: kubectl patch daemonset kube-proxy -n kube-system --type merge -p "
    '\'{"spec":{"template":{"spec":{"nodeSelector":{"non-calico":"true"}}}}}\''
)


_OPERATOR_FROM = (3, 31)


def disable(case: Case) -> str:
    """How kube-proxy is disabled on this cluster, without a full stop."""
    try:
        if case.minor >= _OPERATOR_FROM and case.objects("installations"):
            return (
                "Disable kube-proxy: Installation spec.calicoNetwork.kubeProxyManagement: Enabled"
            )
    except Missing:
        pass
    return _DISABLE


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether kube-proxy is on a node, in words, and by which evidence.

    ``there``: None where that is not known.
    """

    there: bool | None
    words: str
    shown: tuple[Shown, ...]


def busy_pct(case: Case, node: str, name: str) -> float:
    """Percent of one processor that processes of a name took between the readings; Missing.

    Of a process that was started in between, all of its time.
    """
    if not case.evidence.seconds:
        raise Missing("its processor time was read only once")
    first, later = case.processes(node, later=False), case.processes(node)
    took_s = later.at_s - first.at_s
    if not took_s > 0:
        raise Missing("the node was started anew between the readings")
    was = {each.pid: each.busy_s for each in first.named(name)}
    now = later.named(name)
    if not now:
        raise Missing(f"no process {name} is seen there")
    used_s = 0.0
    for each in now:
        before_s = was.get(each.pid, 0.0)
        # A number that another process had before counts from nought.
        used_s += each.busy_s - (before_s if before_s <= each.busy_s else 0.0)
    return 100 * used_s / took_s


def _latest(case: Case, node: str) -> str:
    later = case.evidence.item("processes" + LATER, node)
    return "processes" + LATER if later is not None and not later.error else "processes"


def presence(case: Case, node: str) -> Presence:
    """Whether kube-proxy runs there, or a DaemonSet wants it there."""
    source, unseen = _latest(case, node), ""
    try:
        found = case.processes(node, later=source != "processes").named(KUBE_PROXY)
        if found:
            pids = ", ".join(str(each.pid) for each in found)
            line = f"{KUBE_PROXY} {pids}"
            return Presence(True, "kube-proxy runs", (case.show(source, node, line),))
    except Missing as missing:
        unseen = missing.why
    evidence = [case.show(source, node)]
    try:
        wanting = _wanting(case, node)
        # Where processes are seen and none is kube-proxy's, a pod of it decides: not every
        # node that a DaemonSet may choose has one.
        if wanting and (unseen or _pod(case, node)):
            place, why = wanting
            line = f"DaemonSet {place}: {why}"
            words = f"DaemonSet {place} wants kube-proxy there"
            return Presence(True, words, (case.show("daemonsets", excerpt=line),))
        line = "no DaemonSet kube-proxy has a pod on this node"
        evidence.append(case.show("daemonsets", excerpt=line))
    except Missing as missing:
        evidence += missing.shown
    if unseen:
        words = f"whether kube-proxy runs is not known ({unseen})"
        return Presence(None, words, tuple(evidence))
    return Presence(False, "kube-proxy does not run", tuple(evidence))


def _wanting(case: Case, node: str) -> tuple[str, str] | None:
    """A DaemonSet that may put kube-proxy on the node, and why; Missing."""
    labels = case.node_object(node)["metadata"].get("labels") or {}
    for each in case.objects("daemonsets"):
        if why := _wanted(each, labels):
            return f"{each['metadata'].get('namespace', '')}/{KUBE_PROXY}", why
    return None


def _pod(case: Case, node: str) -> bool:
    """Whether a pod of kube-proxy's is on the node; Missing."""
    return any(
        (pod.get("spec") or {}).get("nodeName") == node
        and str(pod["metadata"]["name"]).startswith(f"{KUBE_PROXY}-")
        for pod in case.objects("pods")
    )


def _wanted(daemonset: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Why a DaemonSet puts kube-proxy on a node with these labels; empty where it does not."""
    if daemonset["metadata"]["name"] != KUBE_PROXY:
        return ""
    inside = ((daemonset.get("spec") or {}).get("template") or {}).get("spec") or {}
    selector = inside.get("nodeSelector") or {}
    desired = (daemonset.get("status") or {}).get("desiredNumberScheduled")
    if desired == 0 or any(labels.get(key) != value for key, value in selector.items()):
        return ""
    return f"desired {'not said' if desired is None else desired}, nodeSelector {selector or '{}'}"


@where_on
def processor(case: Case, node: str) -> Iterator[Outcome]:
    """C1: kube-proxy beside Felix, whether Felix removes its rules, and what that takes."""
    found = presence(case, node)
    busy, evidence, how = None, list(found.shown), ""
    try:
        busy = busy_pct(case, node, FELIX)
        how = f"calico-node takes {busy:.0f} % of a processor"
        line = f"{how} over {case.evidence.seconds:.1f} s"
        evidence.append(case.show("processes" + LATER, node, line))
    except Missing as missing:
        how = f"what calico-node takes is not known ({missing.why})"
    if found.there is None:
        yield unknown(f"{_upper(found.words)}; {how}.", *evidence)
        return
    if not found.there:
        yield Outcome(Verdict.OK, f"{_upper(found.words)}; {how}.", tuple(evidence))
        return
    cleanup = case.value(node, CLEANUP)
    evidence.append(values.shown(case, cleanup))
    said = f"{_upper(found.words)}; {values.spoken(cleanup)}; {how}."
    if values.is_unknown(cleanup):
        yield unknown(f"{said} Whether the two fight depends on {CLEANUP}.", *evidence)
        return
    if cleanup.value is False:
        yield Outcome(
            Verdict.WARN, f"{said} They do not fight, but two serve the same services.",
            tuple(evidence),
            remedy=f"{disable(case)}, where nothing else needs it; then leave {CLEANUP} unset.",
        )  # fmt: skip
        return
    fail = busy is not None and busy > BUSY_PCT
    yield Outcome(
        Verdict.FAIL if fail else Verdict.WARN,
        f"{said} Felix removes the rules that kube-proxy writes again.",
        tuple(evidence),
        remedy=f"{disable(case)}. Or, where it must stay: {values.advice(cleanup, False)}",
    )


@dataclass(frozen=True, slots=True)
class Counted:
    """How often rules of kube-proxy's were counted, by the program that listed them.

    A program that is not installed there is left out.
    """

    counts: Mapping[str, tuple[int, ...]]

    @property
    def varying(self) -> dict[str, tuple[int, ...]]:
        """Those whose counts differ."""
        return {name: each for name, each in self.counts.items() if len(set(each)) > 1}

    @property
    def found(self) -> dict[str, tuple[int, ...]]:
        """Those that found any."""
        return {name: each for name, each in self.counts.items() if any(each)}


def parse_rules(text: str) -> Counted:
    """Counts of lines ``TIME iptables 12 legacy 0 nft -``."""
    found: dict[str, list[int]] = {}
    for line in text.splitlines():
        words = line.split()[1:]
        for name, count in zip(words[::2], words[1::2], strict=False):
            if count.isdigit():
                found.setdefault(name, []).append(int(count))
    return Counted({name: tuple(each) for name, each in found.items()})


@where_on
def fighting(case: Case, node: str) -> Iterator[Outcome]:
    """C2: whether kube-proxy's rules come and go while they are counted."""
    counted = parse_rules(case.text("rules", node))
    evidence = case.show("rules", node)
    if not counted.counts:
        yield unknown("Neither iptables-save nor nft is there to list rules.", evidence)
        return
    if not counted.found:
        yield Outcome(Verdict.OK, "The node has no rules of kube-proxy's.", (evidence,))
        return
    cleanup = case.value(node, CLEANUP)
    words = _listed(counted.varying or counted.found)
    if counted.varying and cleanup.value is not False:
        yield Outcome(
            Verdict.FAIL,
            f"kube-proxy's rules come and go: {words} of them in five counts within two seconds. "
            "kube-proxy writes them and Felix removes them.",
            (evidence, values.shown(case, cleanup)),
            remedy=f"{disable(case)}. Or, where it must stay: {values.advice(cleanup, False)}",
        )
        return
    if cleanup.value is False:
        why = f"{values.spoken(cleanup)}: Felix leaves them, and two serve the same services"
    else:
        why = f"{values.spoken(cleanup)}, yet they are not removed: leftovers, or of a kind " \
            "that Felix does not remove"  # fmt: skip
    yield Outcome(
        Verdict.WARN,
        f"The node has rules of kube-proxy's ({words}) beside eBPF. {_upper(why)}.",
        (evidence, values.shown(case, cleanup)),
        remedy=f"{disable(case)}, and take its rules away: kube-proxy --cleanup, or restart the "
        "node.",
    )


def _listed(counts: Mapping[str, tuple[int, ...]]) -> str:
    return "; ".join(
        f"{name} {', '.join(map(str, dict.fromkeys(each)))}" for name, each in counts.items()
    )


def _upper(text: str) -> str:
    return text if text.startswith(("kube-", "bpf")) else text[:1].upper() + text[1:]


CHECKS: tuple[Check, ...] = (
    Check(
        "C1",
        "kube-proxy",
        "Does kube-proxy run beside eBPF mode?",
        "calico-node, and kube-proxy, take much processor time.",
        ("processes", "daemonsets", "nodes", "pods", "installations", "felixconfigurations",
         "felix-process"),
        f"kube-proxy (a process, or a DaemonSet that wants it on the node) with {CLEANUP} on is "
        "FAIL if calico-node takes more than one processor between the readings, else WARN; with "
        "it off WARN; without kube-proxy OK.",
        PAGE,
        of_node=processor,
        preflight=True,
    ),
    Check(
        "C2",
        "rules-fought-over",
        "Do kube-proxy and Felix fight over rules?",
        "calico-node and kube-proxy take much processor time, and rules come and go.",
        ("rules", "installations", "felixconfigurations", "felix-process"),
        "Five counts of rules named KUBE-S… (nft: kube-proxy) that differ are FAIL, with "
        f"{CLEANUP} off WARN; equal and not 0 is WARN; all 0 is OK.",
        "felix/dataplane/linux/int_dataplane.go (kube-proxy's rules)",
        of_node=fighting,
    ),
)  # fmt: skip
