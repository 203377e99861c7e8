"""Checks of services: who translates them, whether the maps hold them, whether Calico sees the API.

Node ports between nodes are in ``service_ways``, answers that go straight in ``service_answers``,
the node's own processes in ``service_hosts``, the overlay's device in ``vxlan_device``. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ebpfperf import map_checks, map_wanted
from ebpfperf.diagnosis import Outcome, Shown, Verdict
from ebpfperf.doctor import (
    kube_proxy,
    service_answers,
    service_hosts,
    service_maps,
    service_ways,
    vxlan_device,
)
from ebpfperf.doctor.case import Case, Missing, not_applicable, unknown
from ebpfperf.doctor.declaration import CURRENT, PAGE, Check
from ebpfperf.doctor.node_state import Mode
from ebpfperf.evidence_sources import LOG, MAPS
from ebpfperf.kube_objects import Object

ENDPOINT = "kubernetes-services-endpoint"
_ENDPOINT_KEYS = ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")
_ENDPOINT_PLACES = ("tigera-operator", "kube-system", "calico-system")
_BOOTSTRAP_FROM = (3, 31)
_NAMED = 5


# ------------------------------------------------------------------------------ B1, B12


def translated(case: Case, node: str) -> Iterator[Outcome]:
    """B1: whether eBPF mode or kube-proxy translates services on the node."""
    state = case.state(node)
    why = tuple(_state_shown(case, node, source, state.why) for source in state.sources)
    if state.on:
        yield Outcome(Verdict.OK, f"eBPF mode translates services: {state.why}.", why)
        return
    proxy = kube_proxy.presence(case, node)
    if proxy.there:
        words = f"kube-proxy translates services: {proxy.words}; eBPF mode does not: {state.why}."
        yield Outcome(Verdict.OK, words, (*proxy.shown, *why))
        return
    rules = _rules(case, node)
    if rules is not None and rules[0]:
        # Some distributions run kube-proxy inside a process of another name.
        words = f"kube-proxy's rules translate services ({rules[0]}); eBPF mode does not"
        yield Outcome(Verdict.OK, f"{words}: {state.why}.", (*rules[1], *why))
        return
    shown = (*proxy.shown, *(rules[1] if rules else ()), *why)
    if state.mode is Mode.UNKNOWN or proxy.there is None or rules is None:
        yield unknown(f"Not known: {state.why}; {proxy.words}.", *shown)
        return
    yield Outcome(
        Verdict.FAIL,
        f"Nothing translates services: {state.why}, {proxy.words}, and there are no rules of it.",
        shown,
        remedy="Get eBPF mode to work (check A1 says what is in its way), or run kube-proxy there "
        "until it does.",
    )


def _state_shown(case: Case, node: str, source: str, why: str) -> Shown:
    item = case.evidence.item(source, node)
    if source == LOG and item is not None and not item.error:
        said = [line for line in item.text.splitlines() if "BPF " in line]
        return case.show(LOG, node, said[-1:] or why)
    return case.show(source, node if source == LOG or item is not None else "", why)


def _rules(case: Case, node: str) -> tuple[str, tuple[Shown, ...]] | None:
    """What is left of kube-proxy's rules by the last count, in words; None where nobody counted."""
    try:
        counted = kube_proxy.parse_rules(case.text("rules", node))
    except Missing:
        return None
    if not counted.counts:
        return None
    words = ", ".join(f"{name} {each[-1]}" for name, each in counted.counts.items() if each[-1])
    return words, (case.show("rules", node),)


def api_endpoint(case: Case) -> Iterator[Outcome]:
    """B12: whether Calico finds the API where no kube-proxy translates its service."""
    without = [name for name in case.nodes if _no_kube_proxy(case, name)]
    if not without:
        yield not_applicable("kube-proxy is on every node that was asked")
        return
    told, shown = _told_by_pods(case)
    if told:
        yield Outcome(Verdict.OK, told, shown)
        return
    found = [each for each in case.objects("configmaps") if each["metadata"]["name"] == ENDPOINT]
    for each in found:
        place = str(each["metadata"].get("namespace", ""))
        data = each.get("data") or {}
        host, port = (str(data.get(key) or "") for key in _ENDPOINT_KEYS)
        line = case.show("configmaps", excerpt=f"{place}/{ENDPOINT}: {host}:{port}")
        if place not in _ENDPOINT_PLACES:
            continue
        if not host or not port:
            yield Outcome(
                Verdict.FAIL,
                f"ConfigMap {place}/{ENDPOINT} lacks {_ENDPOINT_KEYS[bool(host)]}.",
                (line,), remedy=_endpoint_remedy(case),
            )  # fmt: skip
        elif host in _cluster_addresses(case):
            yield Outcome(
                Verdict.FAIL,
                f"ConfigMap {place}/{ENDPOINT} names {host}, the address of the service "
                "kubernetes: it is reached only once Calico translates it.",
                (line,), remedy=_endpoint_remedy(case),
            )  # fmt: skip
        else:
            yield Outcome(
                Verdict.OK, f"ConfigMap {place}/{ENDPOINT} says where the API is: {host}:{port}.",
                (line,),
            )  # fmt: skip
        return
    if case.minor >= _BOOTSTRAP_FROM:
        case.objects("installations")  # Missing: the operator may tell Calico.
    nodes = ", ".join(without[:_NAMED]) + (" …" if len(without) > _NAMED else "")
    where = f" (only in {found[0]['metadata'].get('namespace')})" if found else ""
    yield Outcome(
        Verdict.FAIL,
        f"kube-proxy is not on {nodes}, and nothing tells Calico where the API is without it: no "
        f"ConfigMap {ENDPOINT}{where}, and no KUBERNETES_SERVICE_HOST in calico-node's DaemonSet.",
        (case.show("configmaps"), case.show("daemonsets", excerpt=_daemonset_line(case))),
        remedy=_endpoint_remedy(case),
    )


def _no_kube_proxy(case: Case, node: str) -> bool:
    rules = _rules(case, node)
    return kube_proxy.presence(case, node).there is False and not (rules and rules[0])


def _told_by_pods(case: Case) -> tuple[str, tuple[Shown, ...]]:
    """How the operator, or the DaemonSet itself, tells calico-node; empty where neither does."""
    if case.minor >= _BOOTSTRAP_FROM:
        for each in _installations(case):
            network = (each.get("spec") or {}).get("calicoNetwork") or {}
            if network.get("bpfNetworkBootstrap") == "Enabled":
                line = case.show("installations", excerpt="bpfNetworkBootstrap: Enabled")
                return "The operator tells Calico where the API is (bpfNetworkBootstrap).", (line,)
    for each in case.objects("daemonsets"):
        host = _environment(each).get(_ENDPOINT_KEYS[0])
        if each["metadata"]["name"] == "calico-node" and host:
            if host in _cluster_addresses(case):
                continue
            line = case.show("daemonsets", excerpt=f"calico-node: {_ENDPOINT_KEYS[0]}={host}")
            return f"calico-node's DaemonSet says where the API is: {host}.", (line,)
    return "", ()


def _installations(case: Case) -> list[Object]:
    """The operator's; none where they were not to be read: then a ConfigMap may still do."""
    try:
        return case.objects("installations")
    except Missing:
        return []


def _environment(daemonset: Object) -> dict[str, str]:
    inside = ((daemonset.get("spec") or {}).get("template") or {}).get("spec") or {}
    return {
        str(one.get("name")): str(one.get("value") or "")
        for container in inside.get("containers") or ()
        for one in container.get("env") or ()
    }


def _daemonset_line(case: Case) -> str:
    names = [
        f"{each['metadata'].get('namespace', '')}/{each['metadata']['name']}: "
        f"{', '.join(_environment(each)) or 'no such variable'}"
        for each in case.objects("daemonsets")
        if each["metadata"]["name"] == "calico-node"
    ]
    return "\n".join(names) or "no DaemonSet calico-node"


def _cluster_addresses(case: Case) -> set[str]:
    return {
        str(address)
        for each in case.services()
        if (each["metadata"].get("namespace"), each["metadata"]["name"])
        == ("default", "kubernetes")
        for address in service_hosts.addresses(each)
    }


def _endpoint_remedy(case: Case) -> str:
    try:
        place = "tigera-operator" if case.objects("installations") else "kube-system"
    except Missing:
        place = "<tigera-operator, where the operator is; else kube-system>"
    return (
        f"Create it: kubectl create configmap -n {place} {ENDPOINT} --from-literal="
        "KUBERNETES_SERVICE_HOST=<the API server's own address> --from-literal="
        "KUBERNETES_SERVICE_PORT=<its port>; then restart calico-node."
    )


# ------------------------------------------------------------------------------------ B2


def in_maps(case: Case, node: str) -> Iterator[Outcome]:
    """B2: services of the API against the node's NAT maps."""
    state = case.state(node)
    if state.mode in (Mode.FALLBACK, Mode.OFF):
        yield not_applicable(f"the node does not forward by eBPF: {state.why}")
        return
    maps = case.maps(node)
    frames = {
        purpose: [each.decoded for each in maps.of(purpose)]
        for purpose in ("nat-frontend", "nat-backend")
    }
    if not all(frames.values()):
        why = "; ".join(maps.missing) or "no map of services was read"
        yield unknown(
            f"Services cannot be compared: {why.rstrip('.')}.", case.show(MAPS, node, why)
        )
        return
    if any(each.partial for found in frames.values() for each in found):
        remarks = [text for found in frames.values() for each in found for text in each.remarks]
        yield unknown("The maps were not read whole.", case.show(MAPS, node, remarks))
        return
    families = {each.version.family for each in frames["nat-frontend"] if each.version}
    front, back = (pd.concat([each.frame for each in found]) for found in frames.values())
    ports = service_maps.ports(case)
    api = map_wanted.Api(ports)
    found = map_checks.services(api, front, back, families=families)
    if (later := service_maps.ports_later(case)) is not None:
        # What changed meanwhile may be in the maps already, or not yet: neither is wrong.
        still = {(each.check, each.subject) for each in map_checks.services(
            map_wanted.Api(later), front, back, families=families)}  # fmt: skip
        found = tuple(each for each in found if (each.check, each.subject) in still)
    moving = service_maps.changing(case)
    found = tuple(
        each
        for each in found
        if each.check == "service-missing" or each.subject.partition(":")[0] not in moving
    )
    compared = sum(service_maps.family(each.place[0]) in families for each in ports)
    for each in found[: service_maps.MOST]:
        lines = service_maps.rows(each.subject, ports, front, back)
        yield Outcome(
            Verdict(each.severity),
            each.what,
            (case.show(MAPS, node, lines), service_maps.api_shown(case, each.subject, ports)),
            subject=each.subject,
            remedy=service_maps.remedy(each, node),
        )
    if len(found) > service_maps.MOST:
        rest = found[service_maps.MOST :]
        worst = Verdict.FAIL if any(each.severity == "FAIL" for each in rest) else Verdict.WARN
        names = ", ".join(dict.fromkeys(each.subject for each in rest[:_NAMED]))
        words = (
            f"{len(rest)} more problems of services, of {names} and others: ebpfperf maps check."
        )
        yield Outcome(worst, words, (case.show(MAPS, node, [each.what for each in rest]),))
    if not found:
        counted = f"{len(front)} frontends, {len(back)} backends"
        if moving:
            counted += f"; endpoints changed meanwhile, so not held against them: {len(moving)}"
        yield Outcome(
            Verdict.OK,
            f"Every address and port of a service ({compared}) is in the maps, with every ready "
            "endpoint."
            if compared
            else "The API has no service with an address of its own.",
            (case.show(MAPS, node, counted),),
        )


_OWN: tuple[Check, ...] = (
    Check(
        "B1", "services-translated", "Does anything translate services on the node?",
        "Pods and hosts of a node reach no service.",
        ("log", "counts", "processes", "daemonsets", "rules"),
        "Neither eBPF mode nor kube-proxy (process, DaemonSet, rules) is FAIL.",
        PAGE, of_node=translated, ebpf=False,
    ),
    Check(
        "B2", "nat-maps", "Do the NAT maps hold every service and its ready endpoints?",
        "One service is dead, or some of its connections fail, on some nodes.",
        ("maps", "services", "endpointslices"),
        "A service that is missing, a backend that is missing, stale or unknown to the map is "
        "FAIL; a service without any ready endpoint WARN; maps that were not read UNKNOWN.",
        CURRENT + "; felix/bpf/proxy/syncer.go", of_node=in_maps,
    ),
    Check(
        "B12", "api-endpoint", "Does Calico find the API without kube-proxy?",
        "calico-node cannot reach the API after kube-proxy was taken away or a node restarted.",
        ("configmaps", "daemonsets", "installations", "services", "processes", "rules"),
        f"Without kube-proxy: no ConfigMap {ENDPOINT}, no KUBERNETES_SERVICE_HOST in calico-node's "
        "DaemonSet and no bpfNetworkBootstrap (v3.31 and later) is FAIL.",
        "Calico's guide to eBPF mode", of_cluster=api_endpoint,
    ),
)  # fmt: skip
_ALL = (
    *_OWN,
    *service_ways.CHECKS,
    *service_answers.CHECKS,
    *service_hosts.CHECKS,
    *vxlan_device.CHECKS,
)
CHECKS: tuple[Check, ...] = tuple(sorted(_ALL, key=lambda check: int(check.id[1:])))
