"""What services a node's dataplane must serve: from the API's objects to addresses and backends."""

from __future__ import annotations

from dataclasses import dataclass

from ebpfperf.lab.objects import ObjectStore

# Addresses of ClusterIPs: of the benchmarking range (RFC 2544), as all that the lab hands out.
SERVICE_CIDR = "198.18.240.0/20"
NODE_PORTS = range(30000, 32768)


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


def service_ports(store: ObjectStore) -> tuple[ServicePort, ...]:
    """Every port of every Service that has a ClusterIP, sorted by name."""
    raise NotImplementedError(store)
