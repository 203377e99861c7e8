"""Checks of devices: offloads, and what hides traffic from tcpdump. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ebpfperf import network_view as view
from ebpfperf.diagnosis import Outcome, Verdict
from ebpfperf.doctor.case import Case, Missing
from ebpfperf.doctor.performance_overlay import pod_prefixes, pools, show_value
from ebpfperf.evidence_sources import MACHINE
from ebpfperf.felix_values import shown
from ebpfperf.kube_objects import internal_ip
from ebpfperf.model import Overlay

_KINDS = ("veth", "netkit", "")
# Kernel's name of an offload → what ethtool -K calls it.
_SEGMENTATION = {"tx-tcp-segmentation": "tso", "tx-generic-segmentation": "gso"}
_RECEIVE = {"rx-gro": "gro"}
_TUNNEL_OFFLOAD = "tx-udp_tnl-segmentation"


def pod_devices(case: Case, node: str) -> list[view.Link]:
    """The node's ends of its pods' devices; Missing."""
    prefixes, address = pod_prefixes(case, node), internal_ip(case.node_object(node))
    links = case.links(node)
    nic = None if address is None else view.link_of(links, address)
    return [
        each
        for each in links
        if each.name.startswith(prefixes) and each.kind in _KINDS and each != nic
    ]


# ------------------------------------------------------------------------------------ E8


def offloads(case: Case, node: str) -> Iterator[Outcome]:
    """Whether the NIC, and what it stands on, hands up and takes many packets at once."""
    devices = {
        str(told["name"]): told
        for role, told in _machine(case, node).items()
        if role.split("/")[0] == "nic" and "name" in told
    }
    if not devices:
        raise Missing("no device carries the node's address", case.show(MACHINE, node))
    off = {name: _off(told) for name, told in devices.items()}
    lines = [
        f"{name} ({told['kind'] or 'physical'}): "
        + ("offloads are not shown by its driver" if words is None else f"off: {_listed(words)}")
        for (name, told), words in zip(devices.items(), off.values(), strict=True)
    ]
    evidence = (case.show(MACHINE, node, lines),)
    found = []
    for name, words in off.items():
        if words:
            found.append(
                Outcome(
                    Verdict.WARN,
                    f"{name} has {_listed(words)} off: every packet is handled alone, which takes "
                    "more processor time for bulk traffic.",
                    evidence,
                    subject=name,
                    remedy=f"ethtool -K {name} "
                    + " ".join(f"{word} on" for word in words)
                    + ", unless it is off because of a fault of the NIC.",
                )
            )
    found += _disabled(case, node, devices)
    if not found and all(words is None for words in off.values()):
        raise Missing("the NIC's driver does not show its offloads", *evidence)
    if not found:
        named = ", ".join(devices)
        which = "Segmentation and receive offloads"
        if all(told["kind"] == "veth" for told in devices.values()):
            which = "Segmentation offloads (GRO of a veth is not judged)"
        said = f"{which} of {named} are on{_not_offered(devices)}{_tunnelled(case, devices)}."
        found.append(Outcome(Verdict.OK, said, evidence))
    yield from found


def _machine(case: Case, node: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(case.text(MACHINE, node))["devices"]
    return found


def _off(told: Mapping[str, Any]) -> list[str] | None:
    """The offloads that are off, as ethtool calls them; None where the driver shows none."""
    if told.get("features") is None:
        return None
    # A veth has no GRO unless it is switched on: that is the kernel's default.
    wanted = _SEGMENTATION if told["kind"] == "veth" else {**_SEGMENTATION, **_RECEIVE}
    other = {*told["features"], *(told.get("fixed") or ())}
    return [short for name, short in wanted.items() if name not in other]


def _not_offered(devices: Mapping[str, Any]) -> str:
    """The offloads that drivers do not have: AWS' ena has no TSO, and nobody can switch it on."""
    said = [
        f"{name}'s driver has no {short.upper()}"
        for name, told in devices.items()
        for word, short in (_SEGMENTATION | _RECEIVE).items()
        if word in (told.get("fixed") or ()) and not (told["kind"] == "veth" and word in _RECEIVE)
    ]
    return f", as far as there are any: {', '.join(said)}" if said else ""


def _listed(words: Sequence[str]) -> str:
    return ", ".join(word.upper() for word in words) or "none"


def _disabled(case: Case, node: str, devices: Mapping[str, Any]) -> Iterator[Outcome]:
    """Whether Felix itself switches GRO off on the NIC (v3.27 and later)."""
    try:
        value = case.value(node, "bpfDisableGROForIfaces")
    except Missing:
        return
    pattern = value.value
    if not isinstance(pattern, str) or not pattern:
        return
    try:
        named = [name for name in devices if re.search(pattern, name)]
    except re.error:
        return
    if named:
        yield Outcome(
            Verdict.WARN,
            f"bpfDisableGROForIfaces is {shown(pattern)}: Felix switches GRO off on "
            f"{', '.join(named)}.",
            (show_value(case, value),),
            subject=named[0],
            remedy=f"Take it out of {value.where}, unless GRO of this NIC is broken.",
        )


def _tunnelled(case: Case, devices: Mapping[str, Any]) -> str:
    """What is to be said of segmentation of VXLAN by the NIC, where VXLAN is used."""
    vxlan = any(pool.overlay is Overlay.VXLAN and pool.in_use for pool in pools(case))
    lacking = [
        name
        for name, told in devices.items()
        if not told["kind"] and _TUNNEL_OFFLOAD not in (told.get("features") or ())
    ]
    if not vxlan or not lacking:
        return ""
    return (
        f"; {', '.join(lacking)} does not segment VXLAN itself ({_TUNNEL_OFFLOAD}): the kernel does"
    )


# ----------------------------------------------------------------------------------- E12


def hidden(case: Case, node: str) -> Iterator[Outcome]:
    """Whether tcpdump on the node's end of a pod's device misses packets."""
    value = case.value(node, "bpfRedirectToPeer")
    netkit = [each.name for each in pod_devices(case, node) if each.kind == "netkit"]
    evidence = (show_value(case, value),)
    said = f"bpfRedirectToPeer is {shown(value.value)}"
    if netkit:
        said += f", and {len(netkit)} pods have netkit devices"
    if value.value == "Disabled" and not netkit:
        yield Outcome(
            Verdict.OK, f"{said}: packets pass the node's end of pods' devices.", evidence
        )
        return
    yield Outcome(
        Verdict.OK,
        f"{said}: tcpdump on the node's cali… devices misses packets that go straight into pods; "
        "capture inside the pod's network namespace.",
        evidence,
    )
