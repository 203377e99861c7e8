"""What the API's objects ask of a node's maps: services, endpoints, nodes and pods. Pure.

Which endpoints are taken follows of felix/bpf/proxy/syncer.go, which address of a node of
calico-node's own annotations.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ebpfperf.kube_objects import internal_ips

Object = Mapping[str, Any]
Place = tuple[str, int, int]  # address, port, protocol
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
CHOSEN = ("projectcalico.org/IPv4Address", "projectcalico.org/IPv6Address")
"""Annotations by which calico-node says which of its addresses it uses."""
PROTOCOLS = {"TCP": 6, "UDP": 17}
SERVICE_LABEL = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True)
class Service:
    """One port of a Service: where it is reached, and which endpoints are ready.

    Attributes
    ----------
    ending
        Endpoints that are not ready any more, but still serve: nodes may lead to them.
    hinted
        Whether endpoints are meant for zones (topology hints): then a node leads to some alone.
    """

    name: str
    place: Place
    endpoints: frozenset[tuple[str, int]]
    ending: frozenset[tuple[str, int]] = frozenset()
    hinted: bool = False


@dataclass(frozen=True, slots=True)
class Api:
    """What of the API matters to the maps.

    Attributes
    ----------
    node_addresses
        Node → the address that Calico chose, where it says so, and its InternalIPs.
    pods
        (namespace/name, node, address) of running pods with a network of their own.
    pools
        Calico's pools. Another node's pod outside them has its address of another CNI plugin, and
        no route in the maps. None: not known, and every pod is taken for Calico's.
    """

    services: tuple[Service, ...] = ()
    node_addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pods: tuple[tuple[str, str, str], ...] = ()
    pools: tuple[Network, ...] | None = None

    def routed(self, node: str) -> tuple[tuple[str, str, str], ...]:
        """The pods to which the maps of a node must lead: its own, and those of Calico's pools."""
        if self.pools is None:
            return self.pods
        inside = _inside(tuple(each[2] for each in self.pods), self.pools)
        return tuple(each for each in self.pods if each[1] == node or each[2] in inside)


def api(
    services: Iterable[Object], slices: Iterable[Object], nodes: Iterable[Object],
    pods: Iterable[Object], pools: Iterable[Object] | None = None,
) -> Api:  # fmt: skip
    """What the API's objects say, as far as the maps follow of it."""
    every = list(slices)
    networks = None
    if pools is not None:
        cidrs = (str((pool.get("spec") or {}).get("cidr", "")) for pool in pools)
        networks = tuple(ipaddress.ip_network(cidr, strict=False) for cidr in cidrs if cidr)
    return Api(
        tuple(found for service in services for found in _ports(service, every)),
        {str(node["metadata"]["name"]): _of_node(node) for node in nodes},
        tuple(found for pod in pods for found in _addresses(pod)),
        networks,
    )


def _of_node(node: Object) -> tuple[str, ...]:
    """The addresses of a Node: Calico's own choice may be none of the kubelet's."""
    annotations = node["metadata"].get("annotations") or {}
    chosen = [str(annotations.get(key) or "").partition("/")[0] for key in CHOSEN]
    return tuple(dict.fromkeys(each for each in (*chosen, *internal_ips(node)) if each))


@lru_cache(maxsize=2)
def _inside(addresses: tuple[str, ...], pools: tuple[Network, ...]) -> frozenset[str]:
    """Those of the addresses that are of a pool; asked once for all nodes."""
    parsed = {address: ipaddress.ip_address(address) for address in addresses}
    return frozenset(
        address
        for address, own in parsed.items()
        if any(own.version == pool.version and own in pool for pool in pools)
    )


def _ports(service: Object, slices: Sequence[Object]) -> Iterator[Service]:
    meta, spec = service["metadata"], service.get("spec", {})
    own = [
        each
        for each in slices
        if each["metadata"].get("namespace") == meta.get("namespace")
        and (each["metadata"].get("labels") or {}).get(SERVICE_LABEL) == meta["name"]
    ]
    addresses = [
        address
        for address in spec.get("clusterIPs") or [spec.get("clusterIP")]
        if address not in (None, "", "None")
    ]
    for port in spec.get("ports") or ():
        protocol = PROTOCOLS.get(port.get("protocol", "TCP"))
        if protocol is None:
            continue
        name = f"{meta.get('namespace', '')}/{meta['name']}"
        name += f":{port['name']}" if port.get("name") else ""
        for address in addresses:
            family = "IPv6" if ":" in address else "IPv4"
            place = _same(address), int(port["port"]), protocol
            found = list(_endpoints(port, own, family))
            yield Service(
                name,
                place,
                frozenset(end for end, told in found if _ready(told)),
                frozenset(end for end, told in found if not _ready(told) and _serving(told)),
                hinted=any((told.get("hints") or {}).get("forZones") for _, told in found),
            )


def _ready(endpoint: Object) -> bool:
    # What says nothing of being ready is ready.
    return (endpoint.get("conditions") or {}).get("ready") is not False


def _serving(endpoint: Object) -> bool:
    return (endpoint.get("conditions") or {}).get("serving") is True


def _endpoints(
    port: Object, slices: Sequence[Object], family: str
) -> Iterator[tuple[tuple[str, int], Object]]:
    wanted = port.get("name") or "", port.get("protocol", "TCP")
    for each in slices:
        if each.get("addressType", "IPv4") != family:
            continue
        numbers = [
            int(own["port"])
            for own in each.get("ports") or ()
            if (own.get("name") or "", own.get("protocol") or "TCP") == wanted
        ]
        for endpoint in each.get("endpoints") or ():
            address = _same(endpoint["addresses"][0])
            yield from (((address, number), endpoint) for number in numbers)


def _addresses(pod: Object) -> Iterator[tuple[str, str, str]]:
    spec, status = pod.get("spec", {}), pod.get("status", {})
    if spec.get("hostNetwork") or status.get("phase") != "Running" or not spec.get("nodeName"):
        return
    if pod["metadata"].get("deletionTimestamp"):
        return
    name = f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"
    listed = [each["ip"] for each in status.get("podIPs") or () if each.get("ip")]
    for address in listed or [each for each in [status.get("podIP")] if each]:
        yield name, str(spec["nodeName"]), _same(address)


def _same(address: str) -> str:
    """An address as the maps' reader spells it."""
    return str(ipaddress.ip_address(address))
