"""Checks of devices: MTUs that fit, offloads, and what hides traffic from tcpdump. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network
from typing import Any

from ebpfperf import network_view as view
from ebpfperf.calico import mtu
from ebpfperf.calico.releases import AUTO_MTU_FROM
from ebpfperf.diagnosis import Outcome, Verdict
from ebpfperf.doctor.case import Case, Missing
from ebpfperf.doctor.performance_overlay import FLAGS, pod_prefixes, pools, show_value
from ebpfperf.evidence_sources import MACHINE
from ebpfperf.felix_values import shown
from ebpfperf.kube_objects import internal_ip
from ebpfperf.model import Overlay, Scope

SMALLER_BYTES = 10
WIREGUARD_OVERHEAD_BYTES = 60
TUNNELS = {Overlay.IPIP: "tunl0", Overlay.VXLAN: "vxlan.calico"}
_KINDS = ("veth", "netkit", "")
# Kernel's name of an offload → what ethtool -K calls it.
_SEGMENTATION = {"tx-tcp-segmentation": "tso", "tx-generic-segmentation": "gso"}
_RECEIVE = {"rx-gro": "gro"}
_TUNNEL_OFFLOAD = "tx-udp_tnl-segmentation"


# ------------------------------------------------------------------------------------ E7


@dataclass(frozen=True, slots=True)
class Room:
    """What pods' packets may be on a node.

    Attributes
    ----------
    nic
        The NIC's MTU.
    overhead
        Bytes that the largest encapsulation in use between this node and another adds.
    reserved
        The same of every encapsulation that pools may use, between whichever nodes.
    why
        What adds them, in words.
    """

    nic: int
    overhead: int
    reserved: int
    why: str


def mtus(case: Case, node: str) -> Iterator[Outcome]:
    """Whether pods' packets fit into the NIC with what is added to them, and fill it."""
    nic, pods = case.nic(node), pod_devices(case, node)
    room = _room(case, node, nic)
    links = case.links(node)
    told = _told(case, node)
    lines = [f"{nic.name} mtu {nic.mtu_bytes}"]
    lines += [f"{each.name} mtu {each.mtu_bytes}" for each in links if each.name in _tunnels()]
    lines += sorted({f"pods' devices: mtu {each.mtu_bytes}" for each in pods})
    evidence = [case.show("links", node, lines)]
    if told is not None:
        evidence.append(case.show("mtu-file", node))
    found = list(_wrong(case, node, room, pods, told))
    found += _tunnels_wrong(case, nic, links)
    for verdict, said, subject, remedy in found:
        yield Outcome(verdict, said, tuple(evidence), subject=subject, remedy=remedy)
    if not found:
        sizes = ", ".join(str(size) for size in sorted({each.mtu_bytes for each in pods}))
        said = f"{nic.name} has MTU {nic.mtu_bytes}, {room.why}; "
        said += f"pods have {sizes}." if pods else "no pod is there."
        yield Outcome(Verdict.OK, said, tuple(evidence))


_Found = tuple[Verdict, str, str, str]


def _wrong(
    case: Case, node: str, room: Room, pods: Sequence[view.Link], told: int | None
) -> Iterator[_Found]:
    most = room.nic - room.overhead
    large = [each for each in pods if each.mtu_bytes > most]
    if large:
        yield (
            Verdict.FAIL,
            f"{_pods(large)} MTU {_sizes(large)}, but the NIC's {room.nic} bytes leave {most} "
            f"({room.why}): larger packets are dropped or cut.",
            large[0].name if len(large) == 1 else "",
            f"{_first(told, most)}Make these pods anew; where Calico's MTU is set by hand, set it "
            f"to at most {most}{_automatic(case)}.",
        )
    fitting = room.nic - room.reserved
    small = [each for each in pods if each.mtu_bytes < fitting - SMALLER_BYTES]
    if small and not _on_purpose(case, node, small, told, fitting):
        remedy = "Make these pods anew: a pod keeps the MTU that it was made with."
        if case.minor < AUTO_MTU_FROM:
            remedy = (
                f"{case.release} does not find the MTU itself: set veth_mtu of ConfigMap "
                f"calico-config to {fitting} (and ipipMTU or vxlanMTU, too), then make these "
                "pods anew."
            )
        if told is not None and told < fitting - SMALLER_BYTES:
            remedy = (
                f"New pods get {told} bytes, too (/var/lib/calico/mtu): see E2, the MTU fields "
                "and mtuIfacePattern; then make these pods anew."
            )
        yield (
            Verdict.WARN,
            f"{_pods(small)} MTU {_sizes(small)}, though the NIC's {room.nic} bytes leave "
            f"{fitting} ({room.why}): as many bytes take more packets.",
            small[0].name if len(small) == 1 else "",
            remedy,
        )


def _first(told: int | None, most: int) -> str:
    """What is to be done before pods are made anew; empty where new ones would fit."""
    if told is None or told <= most:
        return ""
    return (
        f"New pods get {told} bytes, too (/var/lib/calico/mtu): see E3, and restart calico-node "
        "there if the NIC's MTU was changed. "
    )


def _automatic(case: Case) -> str:
    return " or to 0 (automatic)" if case.minor >= AUTO_MTU_FROM else ""


def _on_purpose(
    case: Case, node: str, small: Sequence[view.Link], told: int | None, fitting: int
) -> bool:
    """Whether pods are smaller by what VXLAN of node ports needs, and nothing else asks for it.

    Calico's pages advise that in eBPF mode without an overlay.
    """
    if any(fitting - each.mtu_bytes > mtu.VXLAN_OVERHEAD_BYTES for each in small):
        return False
    if any(case.value(node, name).value is not False for name in FLAGS):
        return False
    # Before v3.17 there is no file: the plugin's own setting is not seen.
    return told is None or all(each.mtu_bytes == told for each in small)


def _tunnels_wrong(case: Case, nic: view.Link, links: Sequence[view.Link]) -> Iterator[_Found]:
    """Tunnel devices of overlays in use that let through more than the NIC carries."""
    used = {pool.overlay for pool in pools(case) if pool.in_use}
    for kind, name in TUNNELS.items():
        device = next((each for each in links if each.name == name), None)
        overhead = next(added for each, added in FLAGS.values() if each is kind)
        if device is None or kind not in used or device.mtu_bytes <= nic.mtu_bytes - overhead:
            continue
        yield (
            Verdict.FAIL,
            f"{name} has MTU {device.mtu_bytes}, but {nic.name}'s {nic.mtu_bytes} bytes leave "
            f"{nic.mtu_bytes - overhead}: full packets of the overlay are dropped or cut.",
            name,
            f"Set {'ipipMTU' if kind is Overlay.IPIP else 'vxlanMTU'} to at most "
            f"{nic.mtu_bytes - overhead}{_automatic(case)}.",
        )


def pod_devices(case: Case, node: str) -> list[view.Link]:
    """The node's ends of its pods' devices; Missing."""
    prefixes = pod_prefixes(case, node)
    return [
        each
        for each in case.links(node)
        if each.name.startswith(prefixes)
        and each.kind in _KINDS
        and each.name != case.nic(node).name
    ]


def _room(case: Case, node: str, nic: view.Link) -> Room:
    overhead, reserved, why = 0, 0, []
    for pool in pools(case):
        if pool.overlay is Overlay.NONE or not pool.in_use or ":" in str(pool.spec.get("cidr")):
            continue
        added = next(bytes_ for kind, bytes_ in FLAGS.values() if kind is pool.overlay)
        reserved = max(reserved, added)
        if pool.scope is Scope.CROSS_SUBNET and not _subnets(case, node, nic):
            continue
        overhead = max(overhead, added)
        why.append(f"{pool.overlay.value.upper()} adds {added}")
    if case.value(node, "wireguardEnabled").value is True:
        overhead = max(overhead, WIREGUARD_OVERHEAD_BYTES)
        reserved = max(reserved, WIREGUARD_OVERHEAD_BYTES)
        why.append(f"WireGuard adds {WIREGUARD_OVERHEAD_BYTES}")
    said = ", ".join(dict.fromkeys(why)) or "nothing is added to pods' packets"
    return Room(nic.mtu_bytes, overhead, reserved, said)


def _subnets(case: Case, node: str, nic: view.Link) -> bool:
    """Whether another node's address lies outside of the NIC's subnets."""
    own = [ip_network(each, strict=False) for each in nic.addresses]
    others = [
        internal_ip(each) for each in case.objects("nodes") if each["metadata"]["name"] != node
    ]
    return any(not any(IPv4Address(each) in network for network in own) for each in others if each)


def _told(case: Case, node: str) -> int | None:
    """The MTU of new pods that Felix wrote for the CNI plugin; None where it wrote none."""
    item = case.evidence.item("mtu-file", node)
    text = "" if item is None or item.error or item.status else item.text.strip()
    return int(text) if text.isdigit() else None


def _tunnels() -> tuple[str, ...]:
    return (*TUNNELS.values(), "wireguard.cali")


def _pods(devices: Sequence[view.Link], most: int = 3) -> str:
    names = ", ".join(each.name for each in devices[:most])
    if len(devices) == 1:
        return f"The pod at {names} has"
    more = f" and {len(devices) - most} more" if len(devices) > most else ""
    return f"{len(devices)} pods ({names}{more}) have"


def _sizes(devices: Sequence[view.Link]) -> str:
    return ", ".join(str(size) for size in sorted({each.mtu_bytes for each in devices}))


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
        said = f"{which} of {named} are on{_tunnelled(case, devices)}."
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
    return [short for name, short in wanted.items() if name not in told["features"]]


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
            remedy="Remove the field, unless GRO of this NIC is broken.",
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
