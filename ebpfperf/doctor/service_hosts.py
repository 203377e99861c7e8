"""Checks of connect-time load balancing, and of how a node's own processes reach services. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ebpfperf.diagnosis import Outcome, Shown, Verdict
from ebpfperf.doctor import values
from ebpfperf.doctor.case import Case, Missing, not_applicable, unknown
from ebpfperf.doctor.declaration import CURRENT, Check
from ebpfperf.doctor.node_state import Mode
from ebpfperf.doctor.service_maps import OTHER_PROXY
from ebpfperf.felix_values import Effective
from ebpfperf.kube_objects import Object

CTLB_OLD, CTLB = "bpfConnectTimeLoadBalancingEnabled", "bpfConnectTimeLoadBalancing"
WITHOUT_CTLB = "bpfHostNetworkedNATWithoutCTLB"
NAT_DEVICE = "bpfin.cali"
RP_FILTER = "net.ipv4.conf.all.rp_filter"
_CONNECT = re.compile(r"^\s*\d+\s+\S*connect\S*\s.*\bcali", re.M)
_EMULATION = "lab.ebpfperf/emulation"
_EXCLUDED = "projectcalico.org/natExcludeService"
_NAMED = 5


def at_connect(case: Case, node: str) -> Iterator[Outcome]:
    """B9: which connections are redirected at connect(), and so not seen as translated."""
    value, mode = _connect_mode(case, node)
    shown = values.shown(case, value)
    if values.is_unknown(value):
        yield unknown(f"{values.spoken(value)}.", shown)
    elif mode == "Disabled":
        words = "pods' connections to services are translated by the programs, and show so."
        yield Outcome(Verdict.OK, f"{values.spoken(value)}: {words}", (shown,))
    else:
        which = "TCP connections" if mode == "TCP" else "connections"
        words = (
            f"{which} to services are redirected at connect(): look for the backend's address in "
            "the connection table and in captures, not for the service's."
        )
        yield Outcome(Verdict.OK, f"{values.spoken(value)}: {words}", (shown,))


def _connect_mode(case: Case, node: str) -> tuple[Effective, str]:
    """The field that decides, and what it says as the newer field spells it."""
    old = case.value(node, CTLB_OLD)
    if case.minor < (3, 27) or old.value is not None:
        return old, "Enabled" if old.value is True else "Disabled"
    new = case.value(node, CTLB)
    return new, str(new.value)


def from_host(case: Case, node: str) -> Iterator[Outcome]:
    """B10: whether the node's own processes reach services: at connect(), or by a route."""
    state = case.state(node)
    if state.mode in (Mode.FALLBACK, Mode.OFF):
        yield not_applicable(f"the node does not forward by eBPF: {state.why}")
        return
    decides, mode = _connect_mode(case, node)
    without = case.value(node, WITHOUT_CTLB)
    if values.is_unknown(decides) or values.is_unknown(without):
        told = (values.shown(case, decides), values.shown(case, without))
        yield unknown(f"{values.spoken(decides)}; {values.spoken(without)}.", *told)
        return
    device = next((link for link in case.links(node) if link.name == NAT_DEVICE), None)
    programs = _connect_programs(case, node)
    shown = [case.show("links", node, f"{NAT_DEVICE}: {_link_words(device)}")]
    if case.evidence.item("connect-programs", node) is not None:
        shown.append(case.show("connect-programs", node))
    if device is None and not programs and _emulated(case, node):
        why = "the lab does not emulate how a node's own processes reach services"
        yield not_applicable(why, case.show("nodes", excerpt=f"{node}: {_EMULATION}"))
        return
    if programs and mode == "Enabled":
        words = f"The node's own processes are redirected at connect() ({values.spoken(decides)})."
        yield Outcome(Verdict.OK, words, tuple(shown))
        return
    if device is None or not device.up:
        yield _no_nat_device(case, device, programs, (decides, mode), without, tuple(shown))
        return
    lacking = _without_route(case, node)
    filtered = case.settings(node).get(RP_FILTER)
    shown.append(case.show("routes", node, [
        str(each) for each in case.routes(node) if each.device == NAT_DEVICE]))  # fmt: skip
    shown.append(case.show("settings", node, f"{RP_FILTER} = {filtered}"))
    if lacking:
        words = ", ".join(lacking[:_NAMED]) + (" …" if len(lacking) > _NAMED else "")
        yield Outcome(
            Verdict.FAIL,
            f"No route by {NAT_DEVICE} leads to {len(lacking)} services with UDP ports: {words}. "
            "The node's own processes do not reach them.",
            tuple(shown), remedy="Restart calico-node there: Felix writes these routes.",
        )  # fmt: skip
    elif filtered not in ("0", None):
        yield Outcome(
            Verdict.WARN,
            f"{RP_FILTER} is {filtered}: answers of services to the node's own processes come in "
            f"by {NAT_DEVICE}, and may be dropped.",
            tuple(shown),
            remedy=f"Set {RP_FILTER} to 0, as Felix does; something sets it back after it.",
        )
    else:
        words = f"The node's own processes reach services by {NAT_DEVICE}"
        also = ", and TCP at connect()" if programs and mode == "TCP" else ""
        yield Outcome(Verdict.OK, f"{words}{also}.", tuple(shown))


def _no_nat_device(
    case: Case,
    device: Any,
    programs: bool | None,
    decides: tuple[Effective, str],
    without: Effective,
    shown: tuple[Shown, ...],
) -> Outcome:
    field, mode = decides
    what = f"{NAT_DEVICE} is {'not there' if device is None else 'down'}"
    if mode == "Enabled" or without.value == "Disabled":
        # Redirected at connect() alone.
        if programs is None:
            return unknown(f"{what}, and who redirects at connect() was not read.", *shown)
        if programs:
            words = (
                f"TCP of the node's own processes is redirected at connect(), UDP is not: {what}"
            )
            return Outcome(
                Verdict.WARN, f"{words}, {values.spoken(without)}.", shown,
                remedy=values.advice(without, "Enabled"),
            )  # fmt: skip
        reason = f"{values.spoken(field)}, {values.spoken(without)}"
    else:
        reason = f"{values.spoken(without)}"
        if programs:
            return Outcome(
                Verdict.WARN,
                f"{what}, though {reason}: the node's own processes reach services by TCP alone.",
                shown, remedy="Restart calico-node there; its log says why it makes none.",
            )  # fmt: skip
    seen = "" if programs is None else ", and no program of Calico's redirects at connect()"
    wanted = without if mode != "Enabled" and without.value == "Disabled" else None
    return Outcome(
        Verdict.FAIL,
        f"{what} ({reason}){seen}: the node's own processes do not reach services.",
        shown,
        remedy=values.advice(wanted, "Enabled") if wanted else "Restart calico-node there; its log "
        "says why it sets nothing up (a cgroup v2 hierarchy is needed for connect()).",
    )  # fmt: skip


def _connect_programs(case: Case, node: str) -> bool | None:
    """Whether Calico's programs are at connect(); None where that was not read."""
    try:
        item = case.item("connect-programs", node)
    except Missing:
        return None
    if _CONNECT.search(item.text):
        return True
    return None if item.status or "Error:" in item.text else False


def _link_words(device: Any) -> str:
    return "not there" if device is None else "up" if device.up else "down"


def _emulated(case: Case, node: str) -> bool:
    return _EMULATION in (case.node_object(node)["metadata"].get("annotations") or {})


def _without_route(case: Case, node: str) -> list[str]:
    """Services with UDP ports to which no route by the device leads."""
    networks = [
        each.network
        for each in case.routes(node)
        if each.device == NAT_DEVICE and each.network is not None
    ]
    return [
        f"{service['metadata'].get('namespace', '')}/{service['metadata']['name']}"
        for service in case.services()
        if not _served_otherwise(service["metadata"])
        if any(p.get("protocol") == "UDP" for p in (service.get("spec") or {}).get("ports") or ())
        for address in addresses(service)
        if "." in address
        and not any(ipaddress.IPv4Address(address) in network for network in networks)
    ]


def _served_otherwise(meta: Mapping[str, Any]) -> bool:
    """Whether another proxy serves it, or it is not to be translated (v3.28 and later)."""
    excluded = str((meta.get("annotations") or {}).get(_EXCLUDED, "")).lower() == "true"
    return excluded or OTHER_PROXY in (meta.get("labels") or {})


def addresses(service: Object) -> list[str]:
    """A Service's own addresses; none for one without."""
    spec = service.get("spec") or {}
    found = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return [str(each) for each in found if each not in (None, "", "None")]


CHECKS: tuple[Check, ...] = (
    Check(
        "B9", "connect-time", "Which connections to services are redirected at connect()?",
        "A service is not seen in the connection table, or in a capture.",
        ("felixconfigurations", "felix-process"),
        "Information alone: always OK where the field is known.",
        CURRENT, of_node=at_connect,
    ),
    Check(
        "B10", "services-from-host", "Do the node's own processes reach services?",
        "Pods reach a service, the node itself (kubelet, host network) does not.",
        ("links", "routes", "settings", "connect-programs", "services", "felixconfigurations"),
        f"Neither programs at connect() nor {NAT_DEVICE} with routes is FAIL, also a service with "
        f"UDP ports without a route; TCP alone, or {RP_FILTER} other than 0, WARN.",
        "felix/dataplane/linux/bpf_ep_mgr.go", of_node=from_host,
        since=(3, 27), why_not="the fields that decide came with v3.27",
    ),
)  # fmt: skip
