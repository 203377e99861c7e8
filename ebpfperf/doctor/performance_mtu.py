"""Check of MTUs: what pods' packets may be, and what they are. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network

from ebpfperf import network_view as view
from ebpfperf.calico import mtu
from ebpfperf.calico.releases import AUTO_MTU_FROM
from ebpfperf.diagnosis import Outcome, Verdict
from ebpfperf.doctor import clouds, values
from ebpfperf.doctor.case import Case, Missing
from ebpfperf.doctor.devices import parse_devices
from ebpfperf.doctor.performance_devices import pod_devices
from ebpfperf.doctor.performance_overlay import FLAGS, pools
from ebpfperf.kube_objects import internal_ip, internal_ips
from ebpfperf.model import Overlay, Scope

SMALLER_BYTES = 10
# felix/dataplane/linux/int_dataplane.go, ConfigureDefaultMTUs: in AKS WireGuard has so much less.
WIREGUARD_BYTES, WIREGUARD_V6_BYTES, AKS_BYTES = 60, 80, 100
WIREGUARD_V6 = "wg-v6.cali"
VXLAN_V6_BYTES, VXLAN_V6_FROM = 70, (3, 24)
TUNNELS = {Overlay.IPIP: "tunl0", Overlay.VXLAN: "vxlan.calico"}


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
    nic, pods = _carrying(case, node), pod_devices(case, node)
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
    found += _tunnels_wrong(case, node, nic, links)
    for verdict, said, subject, remedy in found:
        yield Outcome(verdict, said, tuple(evidence), subject=subject, remedy=remedy)
    if not found:
        sizes = ", ".join(str(size) for size in sorted({each.mtu_bytes for each in pods}))
        said = f"{nic.name} has MTU {nic.mtu_bytes}, {room.why}; "
        said += f"pods have {sizes}." if pods else "no pod is there."
        yield Outcome(Verdict.OK, said, tuple(evidence))


_Found = tuple[Verdict, str, str, str]


def _carrying(case: Case, node: str) -> view.Link:
    """The NIC that packets to other nodes leave by; Missing.

    A node's address may be one that routers announce, on the loopback device: then those of the
    default routes carry it, of which the smallest MTU counts.
    """
    own = _with_address(case, node)
    if own.name != "lo" and own.kind != "dummy":
        return own
    names = case.default_devices(node)
    found = [link for link in case.links(node) if link.name in names]
    if not found:
        why = f"the node's address is on {own.name}, and no default route says which NIC carries it"
        raise Missing(why, case.show("links", node))
    return min(found, key=lambda link: link.mtu_bytes)


def _with_address(case: Case, node: str) -> view.Link:
    """The device with the node's IPv4 address, or where it has none with one of IPv6; Missing."""
    own = internal_ips(case.node_object(node))
    if not own or internal_ip(case.node_object(node)) is not None:
        return case.nic(node)
    devices = parse_devices(case.text("links", node)).values()
    names = [each.name for each in devices if not {*own}.isdisjoint(each.addresses)]
    if not names:
        raise Missing(f"no device carries {own[0]}", case.show("links", node))
    return next(link for link in case.links(node) if link.name == names[0])


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


def _tunnels_wrong(
    case: Case, node: str, nic: view.Link, links: Sequence[view.Link]
) -> Iterator[_Found]:
    """Tunnel devices of overlays in use that let through more than the NIC carries."""
    used = {pool.overlay for pool in pools(case) if pool.in_use}
    for kind, name in TUNNELS.items():
        device = next((each for each in links if each.name == name), None)
        overhead = next(added for each, added in FLAGS.values() if each is kind)
        if device is None or kind not in used or device.mtu_bytes <= nic.mtu_bytes - overhead:
            continue
        field = "ipipMTU" if kind is Overlay.IPIP else "vxlanMTU"
        yield (
            Verdict.FAIL,
            f"{name} has MTU {device.mtu_bytes}, but {nic.name}'s {nic.mtu_bytes} bytes leave "
            f"{nic.mtu_bytes - overhead}: full packets of the overlay are dropped or cut.",
            name,
            f"Set {field} {values.place(case.value(node, field))} to at most "
            f"{nic.mtu_bytes - overhead}{_automatic(case)}.",
        )


def _room(case: Case, node: str, nic: view.Link) -> Room:
    overhead, reserved, why = 0, 0, []
    for pool in pools(case):
        if pool.overlay is Overlay.NONE or not pool.in_use:
            continue
        added = next(bytes_ for kind, bytes_ in FLAGS.values() if kind is pool.overlay)
        if ":" in str(pool.spec.get("cidr")):
            if case.minor < VXLAN_V6_FROM:
                continue
            added = VXLAN_V6_BYTES
        reserved = max(reserved, added)
        if pool.scope is Scope.CROSS_SUBNET and not _subnets(case, node, nic):
            continue
        overhead = max(overhead, added)
        six = " over IPv6" if added == VXLAN_V6_BYTES else ""
        why.append(f"{pool.overlay.value.upper()}{six} adds {added}")
    for added in _wireguard(case, node):
        overhead, reserved = max(overhead, added), max(reserved, added)
        why.append(f"WireGuard adds {added}")
        if _cloud(case, node) == clouds.AZURE:
            reserved = max(reserved, added + AKS_BYTES)
    said = ", ".join(dict.fromkeys(why)) or "nothing is added to pods' packets"
    return Room(nic.mtu_bytes, overhead, reserved, said)


def _wireguard(case: Case, node: str) -> Iterator[int]:
    """What each of WireGuard's tunnels adds: by the field, and for IPv6 by its device."""
    if case.value(node, "wireguardEnabled").value is True:
        yield WIREGUARD_BYTES
    if any(link.name == WIREGUARD_V6 for link in case.links(node)):
        yield WIREGUARD_V6_BYTES


def _cloud(case: Case, node: str) -> str:
    try:
        return clouds.cloud(case, node)
    except Missing:
        return ""


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
    return (*TUNNELS.values(), "wireguard.cali", WIREGUARD_V6)


def _pods(devices: Sequence[view.Link], most: int = 3) -> str:
    names = ", ".join(each.name for each in devices[:most])
    if len(devices) == 1:
        return f"The pod at {names} has"
    more = f" and {len(devices) - most} more" if len(devices) > most else ""
    return f"{len(devices)} pods ({names}{more}) have"


def _sizes(devices: Sequence[view.Link]) -> str:
    return ", ".join(str(size) for size in sorted({each.mtu_bytes for each in devices}))
