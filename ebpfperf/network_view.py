"""A node's devices, addresses and routes as iproute2 prints them. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_network
from typing import Any

# Detail (-d) carries the kind of a device; addresses come with it, so one command tells both.
LINKS_ARGV = ("ip", "-j", "-d", "addr", "show")
ROUTES_ARGV = ("ip", "-j", "-4", "route", "show")
# Where Calico pins its links since v3.31: programs attached by TCX are no filters of tc.
LINKS_DIRECTORY = "/sys/fs/bpf/tcx"
TCX_ARGV = ("ls", LINKS_DIRECTORY)
_FILTER = re.compile(r" handle \S+ (?P<name>\S*cali\S*)")


@dataclass(frozen=True, slots=True)
class Link:
    """A device. ``kind`` is ``vxlan``, ``ipip``, ``tun``, ``veth`` …, empty for hardware.

    Attributes
    ----------
    addresses
        IPv4 addresses with prefix length: ``198.18.0.11/24``.
    peer_index
        Interface index of the other end where that is in another namespace; None otherwise.
    """

    name: str
    index: int
    mtu_bytes: int
    kind: str
    up: bool
    addresses: tuple[str, ...]
    peer_index: int | None
    vni: int | None


@dataclass(frozen=True, slots=True)
class Route:
    """An IPv4 route; ``kind`` is ``unicast``, ``blackhole``, ``unreachable`` …."""

    destination: str
    kind: str
    gateway: str
    device: str
    protocol: str

    @property
    def network(self) -> IPv4Network | None:
        """The destination as a network; None for ``default``."""
        return None if self.destination == "default" else IPv4Network(self.destination)

    def __str__(self) -> str:
        words = [self.destination] if self.kind == "unicast" else [self.kind, self.destination]
        words += ["via", self.gateway] if self.gateway else []
        words += ["dev", self.device] if self.device else []
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class NodeView:
    """What one node shows. ``address`` is its InternalIP; ``mtu_file`` what Felix wrote for CNI.

    ``programs`` names Calico's programs on the ingress of the NIC; None where nobody looked, or
    nobody may.
    """

    name: str
    address: str
    links: tuple[Link, ...]
    routes: tuple[Route, ...]
    mtu_file_bytes: int | None = None
    programs: tuple[str, ...] | None = None

    def link(self, name: str) -> Link | None:
        """The device of that name."""
        return next((link for link in self.links if link.name == name), None)

    @property
    def nic(self) -> Link | None:
        """The device that carries the node's address."""
        return link_of(self.links, self.address)

    def on_link(self, address: str) -> bool:
        """Whether that address lies in the subnet of this node's own."""
        nic = self.nic
        if nic is None:
            return False
        ours = [a for a in nic.addresses if a.split("/")[0] == self.address]
        return any(IPv4Address(address) in ip_network(a, strict=False) for a in ours)


def link_of(links: tuple[Link, ...], address: str) -> Link | None:
    """The device that carries an IPv4 address, or None."""
    for link in links:
        if any(a.split("/")[0] == address for a in link.addresses):
            return link
    return None


def ipip_driver(tunnel: Link | None) -> str:
    """How IPIP is done on a node, from its ``tunl0``: the kernel's device, or something else."""
    if tunnel is None:
        return "not in use"
    if tunnel.kind == "ipip":
        return "kernel ipip device"
    return f"{tunnel.kind or 'unknown'} device with encapsulation by BPF programs"


def parse_links(text: bytes) -> tuple[Link, ...]:
    """Devices from ``ip -j -d addr show``.

    Raises
    ------
    ValueError
        Not iproute2's JSON (busybox ``ip`` prints none).
    """
    return tuple(_link(entry) for entry in _entries(text) if entry.get("ifname"))


def parse_routes(text: bytes) -> tuple[Route, ...]:
    """Routes from ``ip -j -4 route show``; a host route reads ``a.b.c.d``, as iproute2 prints it.

    Raises
    ------
    ValueError
        Not iproute2's JSON.
    """
    return tuple(
        Route(
            entry["dst"],
            entry.get("type", "unicast"),
            entry.get("gateway", ""),
            entry.get("dev", ""),
            str(entry.get("protocol", "")),
        )
        for entry in _entries(text)
        if entry.get("dst")
    )


def filters_argv(device: str) -> list[str]:
    """The command that prints the filters on the ingress of a device."""
    return ["tc", "filter", "show", "dev", device, "ingress"]


def parse_programs(filters: str, pins: str, device: str) -> tuple[str, ...]:
    """Calico's programs on the ingress of a device: filters by name, and pinned TCX links.

    Up to v3.20 a filter's name is the object's file, which tells how it was compiled
    (``from_hep_fib_no_log.o:[calico_from_host_ep]``); since v3.31 there is no filter.
    """
    named = [match["name"] for match in _FILTER.finditer(filters)]
    pin = f"{device.replace('.', '')}_ingress"  # felix/bpf/tc/attach.go, ProgPinPath
    links = [f"TCX link {name}" for name in pins.split() if name == pin]
    return (*named, *links)


def parse_source(text: bytes) -> tuple[str, str] | None:
    """Source address and device from ``ip -j -4 route get``; None where there is no way."""
    entry = next(iter(_entries(text)), {})
    if "prefsrc" not in entry or "dev" not in entry:
        return None
    return entry["prefsrc"], entry["dev"]


def _entries(text: bytes) -> list[dict[str, Any]]:
    # An empty table prints nothing in some versions, "[ ]" in others.
    if not text.strip():
        return []
    entries = json.loads(text)
    if not isinstance(entries, list):
        raise ValueError("ip -j printed no list")
    return [entry for entry in entries if isinstance(entry, dict)]


def _link(entry: dict[str, Any]) -> Link:
    info = entry.get("linkinfo", {})
    return Link(
        name=entry["ifname"],
        index=entry["ifindex"],
        mtu_bytes=entry["mtu"],
        kind=info.get("info_kind", ""),
        up="UP" in entry.get("flags", ()),
        addresses=tuple(
            f"{address['local']}/{address['prefixlen']}"
            for address in entry.get("addr_info", ())
            if address.get("family") == "inet" and "local" in address
        ),
        peer_index=entry.get("link_index"),
        vni=info.get("info_data", {}).get("id"),
    )
