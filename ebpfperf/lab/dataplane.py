"""From the API's objects to one node's routes and tunnel devices, as Felix and BIRD make them.

Forwarding is the kernel's own. Routes to other nodes' blocks: protocol 12 (bird) without overlay
and for IPIP; on the VXLAN device 3 (boot), which ``ip route`` does not print; 80 for same-subnet
routes of VXLAN pools. Sources: felix/dataplane/linux/route_mgr.go and vxlan_mgr.go, v3.16 to v3.30.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebpfperf.calico.encapsulation import Enabled, pool_overlay
from ebpfperf.errors import LabError
from ebpfperf.lab import ipip, underlay
from ebpfperf.lab.nodes import LabNode
from ebpfperf.model import Overlay, Scope

VXLAN_DEVICE = "vxlan.calico"
DEFAULT_VNI = 4096
DEFAULT_PORT = 4789
_BIRD, _BOOT, _FELIX = 12, 3, 80


@dataclass(frozen=True, slots=True)
class Route:
    """One route to a block; a node's own block is a blackhole, so that no address leaves twice."""

    block: str
    protocol: int
    via: str = ""
    device: str = ""
    onlink: bool = False

    def words(self) -> str:
        """Arguments of ``ip route replace``."""
        if not self.device:
            return f"blackhole {self.block} proto {self.protocol}"
        onlink = " onlink" if self.onlink else ""
        return f"{self.block} via {self.via} dev {self.device} proto {self.protocol}{onlink}"


@dataclass(frozen=True, slots=True)
class Tunl:
    """``tunl0`` as it must be."""

    mtu_bytes: int
    address: str


@dataclass(frozen=True, slots=True)
class Vxlan:
    """``vxlan.calico`` as it must be; ``vteps`` are (peer's node, VTEP address, underlay IP).

    ``flow_based``: the device takes each packet's destination from the packet (``external``), as in
    eBPF mode since v3.31.
    """

    mtu_bytes: int
    address: str
    vni: int
    port: int
    vteps: tuple[tuple[str, str, str], ...]
    flow_based: bool = False


@dataclass(frozen=True, slots=True)
class Desired:
    """What a node's kernel must hold. None: the device is not wanted."""

    tunl: Tunl | None
    vxlan: Vxlan | None
    routes: tuple[Route, ...]


def vtep_mac(node: str) -> str:
    """MAC of a node's ``vxlan.calico``: begins with 66, derived from the node's name."""
    digest = hashlib.sha1(node.encode()).hexdigest()
    return "66:" + ":".join(digest[i : i + 2] for i in range(0, 10, 2))


def plan_routes(
    node: LabNode,
    peers: Sequence[LabNode],
    pools: Sequence[Mapping[str, Any]],
    blocks: Sequence[tuple[ipaddress.IPv4Network, str]],
    *,
    tunnels: Enabled,
    vteps: Mapping[str, str],
) -> tuple[Route, ...]:
    """The routes to every node's blocks; none where a pool's encapsulation is switched off.

    Parameters
    ----------
    pools
        ``spec`` of the IPv4 pools.
    blocks
        (block, name of its node). One whose pool or node is gone gets no route.
    vteps
        Node → VTEP address, where VXLAN is on.
    """
    by_name = {peer.name: peer for peer in peers}
    networks = [(ipaddress.IPv4Network(spec["cidr"]), spec) for spec in pools]
    routes = []
    for cidr, owner in blocks:
        spec = next((spec for network, spec in networks if cidr.subnet_of(network)), None)
        if spec is None:
            continue
        overlay, scope = pool_overlay(spec)
        untunnelled = _FELIX if overlay is Overlay.VXLAN else _BIRD
        if owner == node.name:
            routes.append(Route(str(cidr), untunnelled))
            continue
        peer = by_name.get(owner)
        if peer is None:
            continue
        near = scope is Scope.CROSS_SUBNET and same_subnet(node, peer)
        if overlay is Overlay.NONE or near:
            routes.append(Route(str(cidr), untunnelled, _next_hop(node, peer), node.nic))
        elif overlay is Overlay.IPIP and tunnels.ipip:
            routes.append(Route(str(cidr), _BIRD, peer.underlay_ip, ipip.DEVICE, True))
        elif overlay is Overlay.VXLAN and tunnels.vxlan:
            routes.append(Route(str(cidr), _BOOT, vteps[owner], VXLAN_DEVICE, True))
    return tuple(routes)


def same_subnet(one: LabNode, other: LabNode) -> bool:
    """Whether the nodes reach each other without a router."""
    network = ipaddress.IPv4Interface(f"{one.underlay_ip}/24").network
    return ipaddress.IPv4Address(other.underlay_ip) in network


def _next_hop(node: LabNode, peer: LabNode) -> str:
    """The peer, or the router on the way: BIRD resolves a BGP next hop that is not on the link.

    A router knows pods only where it speaks BGP too. The lab's does not, so packets without overlay
    end there, as on an underlay that was not told.
    """
    return peer.underlay_ip if same_subnet(node, peer) else underlay.router(node.underlay_ip)


class TunnelDown(LabError):
    """The kernel does not set a tunnel device up."""

    @property
    def reason(self) -> str:
        """What the kernel said, as Felix logs it: ``address already in use``."""
        said = self.what.rpartition("RTNETLINK answers: ")[2].splitlines()[0].rstrip(".")
        return said[:1].lower() + said[1:]


class Dataplane:
    """Keeps one node's kernel as desired."""

    def __init__(self, node: LabNode) -> None:
        self._node = node
        self._tunnel = ipip.Tunnel(node)

    def close(self) -> None:
        """Let go of what this process holds for the node."""
        self._tunnel.close()

    def apply(self, desired: Desired) -> None:
        """Make devices and routes so; idempotent.

        New devices first, then routes (each replaced in one step), then devices no longer wanted:
        a block is never without a route in between.

        Raises
        ------
        TunnelDown
            ``vxlan.calico`` stays down; everything that does not need it is done.
        LabError
            The kernel refuses something else.
        """
        down: TunnelDown | None = None
        if desired.tunl is not None:
            self._tunnel.up(mtu_bytes=desired.tunl.mtu_bytes, address=desired.tunl.address)
        if desired.vxlan is not None:
            try:
                self._vxlan_up(desired.vxlan)
            except TunnelDown as error:
                down = error
        self._apply_routes(
            [each for each in desired.routes if down is None or each.device != VXLAN_DEVICE]
        )
        if desired.tunl is None:
            self._tunnel.idle()
        if desired.vxlan is None:
            self._node.run(["ip", "link", "del", VXLAN_DEVICE], check=False)
        if down is not None:
            raise down

    def _vxlan_up(self, wish: Vxlan) -> None:
        node = self._node
        shown = node.run(["ip", "-d", "-j", "link", "show", VXLAN_DEVICE], check=False).strip()
        if shown and not _is(json.loads(shown)[0]["linkinfo"]["info_data"], wish):
            node.run(["ip", "link", "del", VXLAN_DEVICE])
            shown = ""
        if not shown:
            kind = f"type vxlan id {wish.vni} local {node.underlay_ip} dev {node.nic} nolearning"
            if wish.flow_based:
                kind = "type vxlan external"
            new = f"{VXLAN_DEVICE} address {vtep_mac(node.name)} {kind} dstport {wish.port}"
            node.run(["ip", "link", "add", *new.split()])
        try:
            node.run(["ip", "link", "set", VXLAN_DEVICE, "mtu", str(wish.mtu_bytes), "up"])
        except LabError as error:
            raise TunnelDown(error.what, error.remedy) from error
        batch = [f"addr replace {wish.address}/32 dev {VXLAN_DEVICE}"]
        batch += [
            f"neigh replace {vtep} lladdr {vtep_mac(peer)} dev {VXLAN_DEVICE} nud permanent"
            for peer, vtep, _ in wish.vteps
        ]
        node.run(["ip", "-batch", "-"], input="\n".join(batch))
        if wish.flow_based:
            return
        entries = [
            f"fdb replace {vtep_mac(peer)} dev {VXLAN_DEVICE} dst {underlay}"
            for peer, _, underlay in wish.vteps
        ]
        node.run(["bridge", "-batch", "-"], input="\n".join(entries))

    def _apply_routes(self, routes: Sequence[Route]) -> None:
        wanted = {route.block: route for route in routes}
        stale = []
        for entry in json.loads(self._node.run(["ip", "-j", "route", "show"]) or "[]"):
            ours = entry.get("protocol") in ("bird", str(_FELIX))
            ours = ours or entry.get("dev") in (VXLAN_DEVICE, ipip.DEVICE)
            if ours and "/" in entry["dst"] and entry["dst"] not in wanted:
                kind = "blackhole " if entry.get("type") == "blackhole" else ""
                stale.append(f"route del {kind}{entry['dst']}")
        batch = [*stale, *(f"route replace {route.words()}" for route in wanted.values())]
        if batch:
            self._node.run(["ip", "-batch", "-"], input="\n".join(batch))


def _is(data: Mapping[str, Any], wish: Vxlan) -> bool:
    """Whether a device that is there is the one wanted; what cannot be changed decides."""
    if bool(data.get("external")) != wish.flow_based or data["port"] != wish.port:
        return False
    return wish.flow_based or data["id"] == wish.vni
