"""What a Service and its EndpointSlices say of reaching the server. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ebpfperf.model import Front


def service_front(service: Mapping[str, Any]) -> Front:
    """The Service's own address and ports."""
    spec = service["spec"]
    return Front(spec["clusterIP"], _ports(spec, "port"))


def node_front(service: Mapping[str, Any], *, node: str, address: str) -> Front:
    """A node's address and the Service's node ports; KeyError where it has none."""
    return Front(address, _ports(service["spec"], "nodePort"), node)


def serves(service: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a Service as it is has the type, selector and ports of ``wanted``, a whole object."""
    return _shape(service["spec"]) == _shape(wanted["spec"])


def ready_addresses(slices: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Addresses of ready endpoints in EndpointSlices; an unsaid condition means ready."""
    return frozenset(
        address
        for one in slices
        for endpoint in one.get("endpoints") or ()
        if (endpoint.get("conditions") or {}).get("ready") is not False
        for address in endpoint["addresses"]
    )


def _ports(spec: Mapping[str, Any], dialled: str) -> tuple[tuple[int, int], ...]:
    # TCP and UDP of one port are dialled by one number.
    return tuple(sorted({(port["targetPort"], port[dialled]) for port in spec["ports"]}))


def _shape(spec: Mapping[str, Any]) -> tuple[Any, ...]:
    ports = {(port["protocol"], port["port"], port["targetPort"]) for port in spec["ports"]}
    return spec["type"], dict(spec.get("selector") or {}), ports
