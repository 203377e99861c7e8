"""From the API's objects to what a node's eBPF dataplane must hold. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebpfperf.calico import felix_fields
from ebpfperf.calico.encapsulation import Enabled, pool_overlay
from ebpfperf.calico.flags import fib_shortcut
from ebpfperf.calico.maps import maps_of
from ebpfperf.calico.mtu import vxlan_mtu_bytes
from ebpfperf.calico.releases import minor
from ebpfperf.lab import ipip, mapbytes
from ebpfperf.lab.dataplane import DEFAULT_PORT, DEFAULT_VNI, VXLAN_DEVICE, same_subnet
from ebpfperf.lab.ebpf import Device, Wanted
from ebpfperf.lab.nodes import LabNode
from ebpfperf.lab.own_annotations import (
    BACKEND_MISSING,
    FAULT_NAMESPACE,
    FRONTEND_MISSING,
    Denied,
    owned,
)
from ebpfperf.lab.programs import Kind, Option, Settings
from ebpfperf.lab.services import ServicePort
from ebpfperf.model import Overlay, Scope
from ebpfperf.units import UNKNOWN

# From v3.30 on Felix adds its own tunnels by itself.
_OWN_TUNNELS_FROM = (3, 30)
# bpf_redirect_peer: an option since v3.29, used from L2 devices where it is not set.
_PEER_FROM = (3, 29)


@dataclass(frozen=True, slots=True)
class LocalPod:
    """A pod of the node whose device is there; no program can be loaded for a ``dirty`` one."""

    device: str
    ifindex: int
    address: str
    deny: tuple[Denied, ...] = ()
    dirty: bool = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """What of the cluster matters to one node.

    Attributes
    ----------
    pools
        ``spec`` of the IPv4 pools.
    blocks
        (block, name of its node).
    tunnel_addresses
        (address of a tunnel device, name of its node).
    numbers
        Of the services, see ``mapbytes.numbered``.
    """

    pools: Sequence[Mapping[str, Any]]
    blocks: Sequence[tuple[ipaddress.IPv4Network, str]]
    tunnel_addresses: Sequence[tuple[str, str]]
    services: Sequence[ServicePort]
    numbers: mapbytes.Numbers


def plan(
    node: LabNode,
    peers: Sequence[LabNode],
    cluster: Cluster,
    pods: Sequence[LocalPod],
    *,
    spec: Mapping[str, Any],
    tunnels: Enabled,
    links: Mapping[str, int],
    host_mtu: int,
    release: str,
    faults: Collection[str] = (),
) -> Wanted:
    """What the node must hold.

    Parameters
    ----------
    spec
        Effective FelixConfiguration of the node.
    links
        Device of the node → its ifindex.
    faults
        What is broken on the node.
    """
    settings = Settings(
        release=release,
        options=_options(spec, cluster.pools, release),
        log_level=str(spec.get("bpfLogLevel") or "off"),
        host_ip=node.underlay_ip,
        tunnel_mtu=vxlan_mtu_bytes(spec, host_mtu, release),
        vxlan_port=int(spec.get("vxlanPort") or DEFAULT_PORT),
        vxlan_vni=int(spec.get("vxlanVNI") or DEFAULT_VNI),
        vxlan_ifindex=links.get(VXLAN_DEVICE, 0) if tunnels.vxlan else 0,
        tunl_ifindex=links.get(ipip.DEVICE, 0),
    )
    frontends, backends = mapbytes.nat(
        cluster.services, node.name, node.underlay_ip, release, numbers=cluster.numbers
    )
    for key in _lacking(cluster, node.name, faults):
        frontends.pop(key, None)
        backends.pop(key, None)
    # The NIC last: whoever sees programs there may rely on those of all other devices.
    hosts = _host_devices(node, links, spec, tunnels, release)
    workloads = [_workload(pod) for pod in pods if not pod.dirty]
    devices = (*workloads, *reversed(hosts))
    entries = {
        "routes": routes(node, peers, cluster, pods, release),
        "nat-frontend": frontends,
        "nat-backend": backends,
        "deny": {
            mapbytes.deny_key(pod.ifindex, rule): bytes(4) for pod in pods for rule in pod.deny
        },
    }
    specs = {each.purpose: each for each in maps_of(release)}
    if "ifstate" in specs:
        size = specs["ifstate"].value_bytes
        entries["ifstate"] = {
            device.ifindex.to_bytes(4, "little"): mapbytes.ifstate(
                device.name, size, workload=bool(device.kind & Kind.WORKLOAD)
            )
            for device in devices
        }
    fields = {each.size_field for each in specs.values() if each.size_field}
    sizes = {field: int(spec[field]) for field in fields if spec.get(field)}
    return Wanted(settings, devices, entries, sizes)


def routes(
    node: LabNode,
    peers: Sequence[LabNode],
    cluster: Cluster,
    pods: Sequence[LocalPod],
    release: str,
) -> dict[bytes, bytes]:
    """The routes map: pools, other nodes' blocks, this node's pods, every node and tunnel."""
    found: dict[bytes, bytes] = {}
    networks = [(ipaddress.IPv4Network(spec["cidr"]), spec) for spec in cluster.pools]
    by_name = {peer.name: peer for peer in peers}
    for network, spec in networks:
        found[mapbytes.route_key(str(network))] = mapbytes.route(_pool_flags(spec))
    for block, owner in cluster.blocks:
        pool = next((spec for network, spec in networks if block.subnet_of(network)), None)
        if pool is None or owner not in by_name:
            continue
        peer = by_name[owner]
        flags = mapbytes.WORKLOAD | _pool_flags(pool) | _remote_flags(node, peer, pool, release)
        found[mapbytes.route_key(str(block))] = mapbytes.route(flags, next_hop=peer.underlay_ip)
    for pod in pods:
        address = ipaddress.IPv4Address(pod.address)
        pool = next((spec for network, spec in networks if address in network), None)
        flags = mapbytes.WORKLOAD | mapbytes.LOCAL | (_pool_flags(pool) if pool else 0)
        found[mapbytes.route_key(pod.address)] = mapbytes.route(flags, ifindex=pod.ifindex)
    hosts = [(each.underlay_ip, each.name) for each in (node, *peers)]
    for host, owner in (*hosts, *cluster.tunnel_addresses):
        local = mapbytes.LOCAL if owner == node.name else 0
        found[mapbytes.route_key(host)] = mapbytes.route(mapbytes.HOST | local)
    return found


def data_devices(
    node: LabNode, links: Mapping[str, int], spec: Mapping[str, Any], tunnels: Enabled, release: str
) -> tuple[str, ...]:
    """Devices beside the pods' that get programs: those that ``bpfDataIfacePattern`` matches."""
    default = _default_pattern(release)
    try:
        pattern = re.compile(spec.get("bpfDataIfacePattern") or default)
    except re.error:
        pattern = re.compile(default)
    own = {ipip.DEVICE} if tunnels.ipip else set()
    own |= {VXLAN_DEVICE} if tunnels.vxlan else set()
    chosen = []
    for name in (node.nic, ipip.DEVICE, VXLAN_DEVICE):
        added = minor(release) >= _OWN_TUNNELS_FROM and name in own
        wanted = name in own or name == node.nic
        if name in links and wanted and (added or pattern.search(name)):
            chosen.append(name)
    return tuple(chosen)


def _default_pattern(release: str) -> str:
    """``bpfDataIfacePattern`` where it is not set.

    Where it was not read off for a release, the one before: for the devices of a lab's node all
    from v3.20 to v3.29 say the same.
    """
    known = [
        str(text)
        for since, text in felix_fields.field("bpfDataIfacePattern").defaults
        if minor(since) <= minor(release) and not str(text).startswith(UNKNOWN)
    ]
    return known[-1]


def _lacking(cluster: Cluster, node: str, faults: Collection[str]) -> Iterator[bytes]:
    """Keys that faults keep out of the NAT maps: a frontend's, that of a service's last backend."""
    names = {fault: f"{FAULT_NAMESPACE}/{owned(fault, node)}" for fault in faults}
    for port in cluster.services:
        if port.name == names.get(FRONTEND_MISSING):
            yield mapbytes.frontend_key(port.cluster_ip, port.port, port.protocol)
        elif port.name == names.get(BACKEND_MISSING) and port.backends:
            number = cluster.numbers[mapbytes.place(port)]
            yield mapbytes.backend_key(number, len(port.backends) - 1)


def _host_devices(
    node: LabNode, links: Mapping[str, int], spec: Mapping[str, Any], tunnels: Enabled, release: str
) -> list[Device]:
    kinds = {ipip.DEVICE: Kind.TUNNEL | Kind.L3, VXLAN_DEVICE: Kind.TUNNEL}
    return [
        Device(name, links[name], kinds.get(name, Kind.HOST))
        for name in data_devices(node, links, spec, tunnels, release)
    ]


def _workload(pod: LocalPod) -> Device:
    return Device(pod.device, pod.ifindex, Kind.WORKLOAD, deny=bool(pod.deny))


def _options(spec: Mapping[str, Any], pools: Sequence[Mapping[str, Any]], release: str) -> Option:
    options = Option(0)
    if fib_shortcut(spec, pools, release):
        options |= Option.FIB
    if str(spec.get("bpfExternalServiceMode") or "").lower() == "dsr":
        options |= Option.DSR
    peer = str(spec.get("bpfRedirectToPeer") or "Enabled").lower()
    if minor(release) >= _PEER_FROM and peer != "disabled":
        options |= Option.PEER
    return options


def _pool_flags(pool: Mapping[str, Any]) -> int:
    return mapbytes.IN_POOL | (mapbytes.NAT_OUT if pool.get("natOutgoing") else 0)


def _remote_flags(node: LabNode, peer: LabNode, pool: Mapping[str, Any], release: str) -> int:
    overlay, scope = pool_overlay(pool)
    near = same_subnet(node, peer)
    flags = mapbytes.SAME_SUBNET if near else 0
    tunnelled = overlay is not Overlay.NONE and not (near and scope is Scope.CROSS_SUBNET)
    if tunnelled and minor(release) >= mapbytes.TUNNELED_SINCE:
        flags |= mapbytes.TUNNELED
    if tunnelled and overlay is Overlay.VXLAN and minor(release) >= mapbytes.VXLAN_SINCE:
        flags |= mapbytes.VXLAN
    return flags
