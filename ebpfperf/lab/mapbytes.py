"""Entries of the dataplane's maps as bytes. Layouts: ``bpf/calico/layouts.h``."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ebpfperf.calico.releases import minor
from ebpfperf.lab.own_annotations import PROTOCOLS, Denied
from ebpfperf.lab.services import ServicePort

IN_POOL, NAT_OUT, WORKLOAD, LOCAL, HOST, SAME_SUBNET = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
TUNNELED, VXLAN = 0x40, 0x400
TUNNELED_SINCE, VXLAN_SINCE = (3, 23), (3, 31)
_EVERY_HOST = "255.255.255.255"
_EXTERNAL_LOCAL, _INTERNAL_LOCAL = 1, 2
# The key's length with a source's address of zero bits.
_ANY_SOURCE = 56
_FLAGS_SINCE = (3, 22)


def deny_key(ifindex: int, rule: Denied) -> bytes:
    """Key of one rule; its value is a word of no meaning."""
    network = ipaddress.IPv4Network(rule.cidr)
    fixed = (64 + network.prefixlen, ifindex, rule.egress, PROTOCOLS[rule.protocol], rule.port)
    return struct.pack("<IIBBH", *fixed) + network.network_address.packed


def route_key(cidr: str) -> bytes:
    """Key of a network."""
    network = ipaddress.IPv4Network(cidr)
    return struct.pack("<I", network.prefixlen) + network.network_address.packed


def route(flags: int, *, next_hop: str = "0.0.0.0", ifindex: int = 0) -> bytes:
    """A route: with ``ifindex`` for a workload of this node, with ``next_hop`` for others."""
    end = struct.pack("<I", ifindex) if ifindex else socket.inet_aton(next_hop)
    return struct.pack("<I", flags) + end


def counter_key(ifindex: int, *, egress: bool) -> bytes:
    """Key of a hook's counters."""
    return struct.pack("<II", ifindex, egress)


def ifstate(name: str, value_bytes: int, *, workload: bool) -> bytes:
    """State of an interface that is ready; programs by number are none."""
    value = struct.pack("<I15sx", 0x3 if workload else 0xA, name.encode())
    return value + b"\xff" * (value_bytes - len(value))


Numbers = Mapping[tuple[str, int, str], int]
"""Address, port and protocol of a service → its number in the maps."""


def numbered(ports: Iterable[ServicePort], known: Numbers, free: Iterator[int]) -> Numbers:
    """A number for each: the one that it has, else the next free one.

    A service keeps its number while others come and go, and none gets that of one that is gone: a
    frontend never leads to another service's backends, whenever a packet looks.
    """
    places = (place(port) for port in ports)
    return {each: known[each] if each in known else next(free) for each in places}


def place(port: ServicePort) -> tuple[str, int, str]:
    """Where a service is reached."""
    return port.cluster_ip, port.port, port.protocol


def nat(
    ports: Sequence[ServicePort], node: str, node_ip: str, release: str, *, numbers: Numbers
) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Entries of the frontend map and of the backend map of one node.

    A service's backends on the node come first: ``local`` of them are for who came through another
    node's tunnel. NodePorts are listed under the node's address, and under 255.255.255.255 for
    those of other nodes.
    """
    frontends: dict[bytes, bytes] = {}
    backends: dict[bytes, bytes] = {}
    for port in ports:
        number = numbers[place(port)]
        chosen = sorted(port.backends, key=lambda backend: (backend.node != node, backend))
        local = sum(backend.node == node for backend in chosen)
        for ordinal, backend in enumerate(chosen):
            value = socket.inet_aton(backend.address) + struct.pack("<HH", backend.port, 0)
            backends[backend_key(number, ordinal)] = value
        flags = _EXTERNAL_LOCAL if port.external_local else 0
        flags |= _INTERNAL_LOCAL if port.internal_local else 0
        value = struct.pack("<IIII", number, len(chosen), local, port.affinity_s)
        if minor(release) >= _FLAGS_SINCE:
            value += struct.pack("<I", flags)
        places = [(port.cluster_ip, port.port, value)]
        if port.node_port is not None:
            here = value
            if port.external_local and minor(release) < _FLAGS_SINCE:
                # Without a flag to say so, there are no other backends than the node's own.
                here = struct.pack("<IIII", number, local, local, port.affinity_s)
            places += [(node_ip, port.node_port, here), (_EVERY_HOST, port.node_port, value)]
        for address, number_on_wire, what in places:
            frontends[frontend_key(address, number_on_wire, port.protocol)] = what
    return frontends, backends


def backend_key(number: int, ordinal: int) -> bytes:
    """Key of a backend of the service of that number."""
    return struct.pack("<II", number, ordinal)


def frontend_key(address: str, port: int, protocol: str) -> bytes:
    """Key of a service's place, for every source."""
    head = struct.pack("<I", _ANY_SOURCE) + socket.inet_aton(address)
    return head + struct.pack("<HB5x", port, PROTOCOLS[protocol])
