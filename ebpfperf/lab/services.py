"""What services a node's dataplane must serve: from the API's objects to addresses and backends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ebpfperf.lab.readable import Readable

Object = dict[str, Any]

# Addresses of ClusterIPs: of the benchmarking range (RFC 2544), as all that the lab hands out.
SERVICE_CIDR = "198.18.240.0/20"
NODE_PORTS = range(30000, 32768)
# The label by which an EndpointSlice says whose it is.
SERVICE_LABEL = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True, order=True)
class Backend:
    """A ready endpoint of a service port; ``node`` is the name of the node it is on."""

    address: str
    port: int
    node: str


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of one Service.

    Attributes
    ----------
    name
        ``namespace/service:port`` as kube-proxy names it (``:port`` only where the port is named).
    protocol
        ``TCP`` or ``UDP``.
    node_port
        None where the Service has none.
    affinity_s
        Seconds that a client stays with its backend; 0 without ``sessionAffinity: ClientIP``.
    external_local, internal_local
        Whether ``externalTrafficPolicy`` or ``internalTrafficPolicy`` is Local.
    backends
        Those that are ready, sorted.
    """

    name: str
    cluster_ip: str
    protocol: str
    port: int
    node_port: int | None
    affinity_s: int
    external_local: bool
    internal_local: bool
    backends: tuple[Backend, ...]


def service_ports(store: Readable) -> tuple[ServicePort, ...]:
    """Every port of every Service that has a ClusterIP, sorted by name and protocol."""
    slices = store.list("endpointslices")
    found = [port for service in store.list("services") for port in _ports_of(service, slices)]
    return tuple(sorted(found, key=lambda port: (port.name, port.protocol)))


def _ports_of(service: Object, slices: Sequence[Object]) -> Iterator[ServicePort]:
    meta, spec = service["metadata"], service.get("spec", {})
    address = spec.get("clusterIP")
    if address in (None, "", "None"):
        return
    own = [
        each
        for each in slices
        if each["metadata"]["namespace"] == meta["namespace"]
        and (each["metadata"].get("labels") or {}).get(SERVICE_LABEL) == meta["name"]
        and each.get("addressType") == "IPv4"
    ]
    sticks = spec.get("sessionAffinity") == "ClientIP"
    for port in spec.get("ports", ()):
        suffix = f":{port['name']}" if port.get("name") else ""
        yield ServicePort(
            name=f"{meta['namespace']}/{meta['name']}{suffix}",
            cluster_ip=address,
            protocol=port["protocol"],
            port=port["port"],
            node_port=port.get("nodePort"),
            affinity_s=spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"] if sticks else 0,
            external_local=spec.get("externalTrafficPolicy") == "Local",
            internal_local=spec.get("internalTrafficPolicy") == "Local",
            backends=tuple(sorted(set(_backends(port, own)))),
        )


def _backends(port: Object, slices: Sequence[Object]) -> Iterator[Backend]:
    wanted = port.get("name") or "", port["protocol"]
    for each in slices:
        numbers = [
            own["port"]
            for own in each.get("ports") or ()
            if (own.get("name") or "", own.get("protocol") or "TCP") == wanted
        ]
        for endpoint in each.get("endpoints") or ():
            # As Kubernetes reads it: what says nothing of being ready is ready.
            if (endpoint.get("conditions") or {}).get("ready") is False:
                continue
            for number in numbers:
                # More addresses of one endpoint are the same pod again.
                yield Backend(endpoint["addresses"][0], number, endpoint.get("nodeName") or "")
