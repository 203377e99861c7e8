"""Whether a node shows a treatment: what it must show, against what it shows. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from ebpfperf.calico.encapsulation import Enabled, enabled, felix_fields
from ebpfperf.calico.mtu import (
    DEFAULT_MTU_IFACE_PATTERN,
    host_mtu_bytes,
    ipip_mtu_bytes,
    pod_mtu_bytes,
    vxlan_mtu_bytes,
)
from ebpfperf.calico.releases import AUTO_MTU_FROM, minor
from ebpfperf.model import Overlay, Scope, Treatment
from ebpfperf.network_view import NodeView, Route

IPIP_DEVICE = "tunl0"
VXLAN_DEVICE = "vxlan.calico"
# Without ClusterInformation: a release in the middle of those that behave alike here.
ASSUMED_RELEASE = "v3.26.1"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a treatment means on one node.

    Attributes
    ----------
    felix
        Effective FelixConfiguration fields of that node: ``default``, its own, its environment.
    pools
        ``spec`` of every pool of the cluster: another pool may keep a tunnel alive.
    cidrs
        CIDRs of the pools that the campaign changes.
    unknown_fields
        Felix fields whose effective value cannot be known (set from a ConfigMap).
    """

    treatment: Treatment
    felix: Mapping[str, Any]
    pools: tuple[Mapping[str, Any], ...]
    cidrs: tuple[str, ...]
    release: str = ASSUMED_RELEASE
    unknown_fields: frozenset[str] = frozenset()

    @property
    def tunnels(self) -> Enabled:
        """Which tunnels Felix maintains."""
        return enabled(self.felix, self.pools, self.release)


def wanted_device(view: NodeView, peer: NodeView, wanted: Wanted) -> str:
    """The device by which packets to the peer's pods must leave this node."""
    overlay = wanted.treatment.overlay
    crosses = wanted.treatment.scope is Scope.CROSS_SUBNET and view.on_link(peer.address)
    if overlay is Overlay.NONE or crosses:
        return view.nic.name if view.nic else ""
    return IPIP_DEVICE if overlay is Overlay.IPIP else VXLAN_DEVICE


def wanted_pod_mtu(view: NodeView, wanted: Wanted) -> int | None:
    """MTU of a new pod by Calico's automatic rule; None where it cannot be known.

    Before v3.17 there was no rule: the CNI configuration held a number.
    """
    if minor(wanted.release) < AUTO_MTU_FROM:
        return None
    tunnels = wanted.tunnels
    fields = {"ipipMTU"} if tunnels.ipip else set()
    fields |= {"vxlanMTU"} if tunnels.vxlan else set()
    if (fields | {"mtuIfacePattern"}) & wanted.unknown_fields:
        return None
    return pod_mtu_bytes(wanted.felix, tunnels, _host_mtu(view, wanted), wanted.release)


def problems(view: NodeView, peer: NodeView, wanted: Wanted) -> tuple[str, ...]:
    """What this node shows instead of what it must, as half-sentences; empty when it does."""
    if view.nic is None:
        return (f"no device of {view.name} carries its address {view.address}",)
    return (
        *_device_problems(view, wanted),
        *_route_problems(view, peer, wanted),
        *_mtu_file_problems(view, wanted),
        *_program_problems(view, wanted),
    )


def blocks(view: NodeView, cidrs: Iterable[str]) -> tuple[IPv4Network, ...]:
    """The address blocks that belong to a node, as it shows them: its own blackhole routes.

    Felix and BIRD both keep ``blackhole <block>`` on the block's node, in every overlay mode.
    """
    pools = [IPv4Network(cidr) for cidr in cidrs if ":" not in cidr]
    own = [route.network for route in view.routes if route.kind == "blackhole"]
    return tuple(
        network
        for network in own
        if network is not None and any(network.subnet_of(pool) for pool in pools)
    )


def peer_routes(view: NodeView, peer: NodeView, cidrs: Iterable[str]) -> tuple[Route, ...]:
    """Routes of this node to the peer's blocks."""
    theirs = blocks(peer, cidrs)
    return tuple(
        route for route in view.routes if route.kind == "unicast" and route.network in theirs
    )


def _device_problems(view: NodeView, wanted: Wanted) -> list[str]:
    tunnels, found = wanted.tunnels, []
    host = _host_mtu(view, wanted)
    needs = (
        (tunnels.ipip, IPIP_DEVICE, "ipipMTU", ipip_mtu_bytes),
        (tunnels.vxlan, VXLAN_DEVICE, "vxlanMTU", vxlan_mtu_bytes),
    )
    for needed, name, field, rule in needs:
        link = view.link(name)
        if not needed:
            # tunl0 is the kernel's and stays. In eBPF mode a VXLAN device may serve NodePorts.
            if link is not None and name == VXLAN_DEVICE and not wanted.felix.get("bpfEnabled"):
                found.append(f"{view.name} still has {name}")
            continue
        if link is None or not link.up:
            found.append(f"{view.name} has no {name}" + (" that is up" if link else ""))
            continue
        mtu = rule(wanted.felix, host, wanted.release)
        known = not {field, "mtuIfacePattern"} & wanted.unknown_fields
        if known and link.mtu_bytes != mtu:
            found.append(f"{name} of {view.name} has MTU {link.mtu_bytes}, not {mtu}")
    return found


def _route_problems(view: NodeView, peer: NodeView, wanted: Wanted) -> list[str]:
    device = wanted_device(view, peer, wanted)
    found = []
    routes = {route.network: route for route in peer_routes(view, peer, wanted.cidrs)}
    for block in blocks(peer, wanted.cidrs):
        route = routes.get(block)
        if route is None:
            found.append(f"{view.name} has no route to {block}, a block of {peer.name}")
        elif route.device != device:
            found.append(f"{view.name} sends {block} by {route.device}, not {device}")
    return found


def _mtu_file_problems(view: NodeView, wanted: Wanted) -> list[str]:
    rule = wanted_pod_mtu(view, wanted)
    if rule is None or view.mtu_file_bytes is None or view.mtu_file_bytes == rule:
        return []
    return [f"Felix on {view.name} gives pods MTU {view.mtu_file_bytes}, not {rule}"]


def _program_problems(view: NodeView, wanted: Wanted) -> list[str]:
    """Whether the NIC has Calico's programs, where the treatment says which dataplane it is."""
    asked = felix_fields(wanted.treatment).get("bpfEnabled")
    if asked is None or view.programs is None or view.nic is None:
        return []
    if asked and not view.programs:
        return [f"{view.nic.name} of {view.name} has no eBPF program of Calico's"]
    if not asked and view.programs:
        return [f"{view.nic.name} of {view.name} still has {view.programs[0]}"]
    return []


def _host_mtu(view: NodeView, wanted: Wanted) -> int:
    pattern = wanted.felix.get("mtuIfacePattern") or DEFAULT_MTU_IFACE_PATTERN
    mtus = {link.name: link.mtu_bytes for link in view.links}
    try:
        return host_mtu_bytes(mtus, pattern)
    except re.error:
        # Go's syntax, which Felix reads, knows a few constructs that Python's does not.
        return host_mtu_bytes(mtus)
