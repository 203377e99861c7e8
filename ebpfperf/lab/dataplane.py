"""From the API's objects to one node's routes and tunnel devices, as Felix and BIRD make them.

Forwarding is the kernel's own. Routes: none and IPIP carry protocol 12 (bird); on the VXLAN device
protocol 3 (boot), which ``ip route`` does not print; same-subnet routes of VXLAN pools 80.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ebpfperf.calico.encapsulation import Enabled, pool_overlay
from ebpfperf.calico.mtu import ipip_mtu_bytes, vxlan_mtu_bytes
from ebpfperf.lab import ipip
from ebpfperf.lab.ipam import Ipam
from ebpfperf.lab.nodes import LabNode
from ebpfperf.model import Overlay, Scope

VXLAN_DEVICE = "vxlan.calico"
_BIRD, _BOOT, _FELIX = 12, 3, 80


@dataclass(frozen=True, slots=True)
class Route:
    """One route to a block, as ``ip route`` takes it."""

    block: str
    via: str
    device: str
    protocol: int
    onlink: bool

    def words(self) -> str:
        """Arguments of ``ip route replace``."""
        onlink = " onlink" if self.onlink else ""
        return f"{self.block} via {self.via} dev {self.device} proto {self.protocol}{onlink}"


def vtep_mac(node: str) -> str:
    """MAC of a node's ``vxlan.calico``: begins with 66, derived from the node's name."""
    digest = hashlib.sha1(node.encode()).hexdigest()
    return "66:" + ":".join(digest[i : i + 2] for i in range(0, 10, 2))


def plan_routes(
    node: LabNode,
    peers: Sequence[LabNode],
    pools: Sequence[dict[str, Any]],
    blocks: Sequence[dict[str, Any]],
    *,
    tunnels: Enabled,
    vteps: dict[str, str],
) -> list[Route]:
    """The routes to the other nodes' blocks; none where a pool's encapsulation is switched off."""
    by_name = {peer.name: peer for peer in peers}
    networks = [(ipaddress.IPv4Network(pool["spec"]["cidr"]), pool["spec"]) for pool in pools]
    routes = []
    for block in blocks:
        peer = by_name.get(block["spec"]["affinity"].removeprefix("host:"))
        cidr = ipaddress.IPv4Network(block["spec"]["cidr"])
        spec = next((spec for network, spec in networks if cidr.subnet_of(network)), None)
        if peer is None or spec is None:
            continue
        overlay, scope = pool_overlay(spec)
        direct = overlay is Overlay.NONE or (
            scope is Scope.CROSS_SUBNET and _same_subnet(node, peer)
        )
        if direct:
            protocol = _FELIX if overlay is Overlay.VXLAN else _BIRD
            routes.append(Route(str(cidr), peer.underlay_ip, node.nic, protocol, False))
        elif overlay is Overlay.IPIP and tunnels.ipip:
            routes.append(Route(str(cidr), peer.underlay_ip, ipip.DEVICE, _BIRD, True))
        elif overlay is Overlay.VXLAN and tunnels.vxlan:
            routes.append(Route(str(cidr), vteps[peer.name], VXLAN_DEVICE, _BOOT, True))
    return routes


def _same_subnet(one: LabNode, other: LabNode) -> bool:
    network = ipaddress.IPv4Interface(f"{one.underlay_ip}/24").network
    return ipaddress.IPv4Address(other.underlay_ip) in network


class Dataplane:
    """Keeps one node's kernel as planned."""

    def __init__(self, node: LabNode, nodes: Sequence[LabNode], ipam: Ipam) -> None:
        self._node = node
        self._peers = [peer for peer in nodes if peer.name != node.name]
        self._ipam = ipam
        self._tunnel = ipip.Tunnel(node)

    def close(self) -> None:
        """Let go of what the process holds for the node."""
        self._tunnel.close()

    def apply(
        self,
        felix_spec: dict[str, Any],
        pools: Sequence[dict[str, Any]],
        blocks: Sequence[dict[str, Any]],
        *,
        tunnels: Enabled,
        host_mtu_bytes: int,
        version: str,
    ) -> None:
        """Make devices and routes so; idempotent. LabError when the kernel refuses."""
        if tunnels.ipip:
            self._tunnel.up(
                mtu_bytes=ipip_mtu_bytes(felix_spec, host_mtu_bytes, version),
                address=self._tunnel_address("ipip", self._node.name),
            )
        else:
            self._tunnel.idle()
        vteps: dict[str, str] = {}
        if tunnels.vxlan:
            vteps = {
                peer.name: self._tunnel_address("vxlan", peer.name)
                for peer in (self._node, *self._peers)
            }
            self._vxlan_up(felix_spec, vteps, vxlan_mtu_bytes(felix_spec, host_mtu_bytes, version))
        else:
            self._node.run(["ip", "link", "del", VXLAN_DEVICE], check=False)
        routes = plan_routes(self._node, self._peers, pools, blocks, tunnels=tunnels, vteps=vteps)
        self._apply_routes(routes, self._own_blocks(blocks))

    def _own_blocks(self, blocks: Sequence[dict[str, Any]]) -> list[str]:
        own = f"host:{self._node.name}"
        return [b["spec"]["cidr"] for b in blocks if b["spec"]["affinity"] == own]

    def _tunnel_address(self, kind: str, node: str) -> str:
        return str(self._ipam.assign(f"{kind}-tunnel-addr-{node}", node))

    def _vxlan_up(self, felix_spec: dict[str, Any], vteps: dict[str, str], mtu: int) -> None:
        vni = int(felix_spec.get("vxlanVNI") or 4096)
        port = int(felix_spec.get("vxlanPort") or 4789)
        shown = self._node.run(["ip", "-d", "-j", "link", "show", VXLAN_DEVICE], check=False)
        if shown.strip():
            data = json.loads(shown)[0]["linkinfo"]["info_data"]
            if (data["id"], data["port"]) != (vni, port):
                self._node.run(["ip", "link", "del", VXLAN_DEVICE])
                shown = ""
        node = self._node
        batch = []
        if not shown.strip():
            batch.append(
                f"link add {VXLAN_DEVICE} address {vtep_mac(node.name)} type vxlan id {vni} "
                f"local {node.underlay_ip} dev {node.nic} dstport {port} nolearning"
            )
        batch += [
            f"link set {VXLAN_DEVICE} mtu {mtu} up",
            f"addr replace {vteps[node.name]}/32 dev {VXLAN_DEVICE}",
        ]
        for peer in self._peers:
            mac = vtep_mac(peer.name)
            batch.append(
                f"neigh replace {vteps[peer.name]} lladdr {mac} dev {VXLAN_DEVICE} nud permanent"
            )
        node.run(["ip", "-batch", "-"], input="\n".join(batch))
        for peer in self._peers:
            node.run(
                ["bridge", "fdb", "replace", vtep_mac(peer.name), "dev", VXLAN_DEVICE,
                 "dst", peer.underlay_ip]
            )  # fmt: skip

    def _apply_routes(self, routes: list[Route], own: list[str]) -> None:
        wanted = {route.block: route.words() for route in routes}
        wanted |= {block: f"blackhole {block} proto {_BIRD}" for block in own}
        stale = []
        for entry in json.loads(self._node.run(["ip", "-j", "route", "show"]) or "[]"):
            ours = entry.get("protocol") in ("bird", str(_FELIX), _FELIX)
            ours = ours or entry.get("dev") in (VXLAN_DEVICE, ipip.DEVICE)
            if ours and "/" in entry["dst"] and entry["dst"] not in wanted:
                kind = "blackhole " if entry.get("type") == "blackhole" else ""
                stale.append(f"route del {kind}{entry['dst']}")
        batch = [*stale, *(f"route replace {words}" for words in wanted.values())]
        if batch:
            self._node.run(["ip", "-batch", "-"], input="\n".join(batch))
