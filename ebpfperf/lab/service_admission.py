"""What the API makes of a Service before it is stored: defaults, addresses, ports. Pure.

And what it lets pass as an EndpointSlice: a node's dataplane relies on whatever is stored.

Source: the API reference of Service v1, and what kube-apiserver 1.32 answers.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

from ebpfperf.lab.services import NODE_PORTS, SERVICE_CIDR
from ebpfperf.lab.status import Cause

Object = dict[str, Any]

HEADLESS = "None"
_NETWORK = ipaddress.IPv4Network(SERVICE_CIDR)
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_PORT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_AFFINITY_S, _LONGEST_AFFINITY_S = 10800, 86400
# Only these open a port on the nodes.
_EXTERNAL = ("NodePort", "LoadBalancer")
_NOT_SERVED = ("externalIPs", "externalName", "loadBalancerIP", "loadBalancerSourceRanges")


def completed(new: Object, old: Object | None) -> Object:
    """``new``, well-typed, with defaults and what a write need not repeat of ``old``."""
    service = deepcopy(new)
    spec, before = service["spec"], (old or {}).get("spec", {})
    external = spec.setdefault("type", "ClusterIP") in _EXTERNAL
    given = spec.get("clusterIP") or next(iter(spec.get("clusterIPs") or ()), "")
    _set_address(spec, given or before.get("clusterIP", ""))
    _complete_ports(spec, before, external=external)
    if spec.setdefault("sessionAffinity", "None") == "ClientIP":
        config = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        config.setdefault("timeoutSeconds", _AFFINITY_S)
    else:
        spec.pop("sessionAffinityConfig", None)
    spec.setdefault("internalTrafficPolicy", "Cluster")
    if external:
        spec.setdefault("externalTrafficPolicy", "Cluster")
    elif spec.get("externalTrafficPolicy") == before.get("externalTrafficPolicy"):
        # What goes with the type goes when the type does.
        spec.pop("externalTrafficPolicy", None)
    spec["ipFamilies"] = ["IPv4"]
    spec.setdefault("ipFamilyPolicy", "SingleStack")
    return service


def allocated(service: Object, others: Sequence[Object]) -> tuple[Object, tuple[Cause, ...]]:
    """The service with an address and node ports of its own, and what of its wishes is refused.

    Parameters
    ----------
    service
        Completed.
    others
        Every other Service. What they hold is taken, so nothing needs to be released.
    """
    service = deepcopy(service)
    meta, spec = service["metadata"], service["spec"]
    seed = f"{meta.get('namespace')}/{meta['name']}/{meta.get('uid')}"
    causes = [*_allocate_address(spec, others, seed)]
    if spec["type"] in _EXTERNAL:
        causes += _allocate_node_ports(spec, others, seed)
    return service, tuple(causes)


def wrong(service: Object, old: Object | None) -> tuple[Cause, ...]:
    """What is wrong with a completed service by itself, and as a successor of ``old``."""
    return (*_wrong_name(service), *_wrong_spec(service["spec"]), *_changed(service, old))


def wrong_slice(found: Object, old: Object | None) -> tuple[Cause, ...]:
    """What is wrong with a well-typed EndpointSlice."""
    kind = found["addressType"]
    causes = [
        _invalid(f"endpoints[{index}].addresses[{place}]", address, f"must be an {kind} address")
        for index, endpoint in enumerate(found["endpoints"])
        for place, address in enumerate(endpoint["addresses"])
        if kind != "FQDN" and not _is_address(address, version=int(kind[-1]))
    ]
    causes += [
        (f"endpoints[{index}].addresses", "FieldValueRequired", "Required value")
        for index, endpoint in enumerate(found["endpoints"])
        if not endpoint["addresses"]
    ]
    causes += [
        _invalid(f"ports[{index}].port", port["port"], "must be between 1 and 65535, inclusive")
        for index, port in enumerate(found.get("ports", ()))
        if not 1 <= port["port"] <= 65535
    ]
    if old is not None and kind != old.get("addressType"):
        causes.append(_invalid("addressType", kind, "field is immutable"))
    return tuple(causes)


def _set_address(spec: Object, address: str) -> None:
    if address:
        spec["clusterIP"], spec["clusterIPs"] = address, [address]


def _complete_ports(spec: Object, before: Object, *, external: bool) -> None:
    had = {
        (port["port"], port["protocol"]): port["nodePort"]
        for port in before.get("ports", ())
        if port.get("nodePort")
    }
    for port in spec.get("ports", ()):
        protocol = port.setdefault("protocol", "TCP")
        port["targetPort"] = port.get("targetPort") or port["port"]
        old = had.get((port["port"], protocol))
        if not port.get("nodePort"):
            port.pop("nodePort", None)
        if external and old and "nodePort" not in port:
            port["nodePort"] = old
        elif not external and old and port.get("nodePort") == old:
            port.pop("nodePort")


def _allocate_address(spec: Object, others: Sequence[Object], seed: str) -> Iterator[Cause]:
    taken = {other.get("spec", {}).get("clusterIP") for other in others}
    wanted = spec.get("clusterIP", "")
    if wanted == HEADLESS:
        return
    if not wanted:
        hosts = range(1, _NETWORK.num_addresses - 1)
        free = (str(_NETWORK[number]) for number in _scattered(hosts, seed))
        address = next((each for each in free if each not in taken), None)
        if address is None:
            yield (
                "spec.clusterIPs",
                "InternalError",
                "failed to allocate a serviceIP: range is full",
            )
        else:
            _set_address(spec, address)
        return
    problem = ""
    if not _is_inside(wanted):
        problem = (
            f"the provided IP ({wanted}) is not in the valid range. The range of valid IPs is "
            f"{SERVICE_CIDR}"
        )
    elif wanted in taken:
        problem = "provided IP is already allocated"
    if problem:
        yield _invalid("spec.clusterIPs", [wanted], f"failed to allocate IP {wanted}: {problem}")


def _allocate_node_ports(spec: Object, others: Sequence[Object], seed: str) -> Iterator[Cause]:
    taken = {
        port["nodePort"]
        for other in others
        for port in other.get("spec", {}).get("ports", ())
        if port.get("nodePort")
    }
    # One number with two protocols gets one node port.
    own = {port["port"]: port["nodePort"] for port in spec["ports"] if port.get("nodePort")}
    for index, port in enumerate(spec["ports"]):
        field = f"spec.ports[{index}].nodePort"
        wanted = port.get("nodePort") or own.get(port["port"])
        if wanted is None:
            held = taken | set(own.values())
            wanted = next((n for n in _scattered(NODE_PORTS, seed) if n not in held), None)
            if wanted is None:
                yield field, "InternalError", "failed to allocate a nodePort: range is full"
                return
            own[port["port"]] = wanted
        elif wanted not in NODE_PORTS:
            yield _invalid(
                field,
                wanted,
                "provided port is not in the valid range. The range of valid ports is "
                f"{NODE_PORTS.start}-{NODE_PORTS.stop - 1}",
            )
        elif wanted in taken:
            yield _invalid(field, wanted, "provided port is already allocated")
        port["nodePort"] = wanted


def _scattered(numbers: range, seed: str) -> Iterator[int]:
    """Every number once, from a place that is the service's own.

    A service's successor does not get its address: connections to the old one may linger.
    """
    start = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") % len(numbers)
    yield from numbers[start:]
    yield from numbers[:start]


def _is_inside(address: str) -> bool:
    if not _is_address(address, version=4):
        return False
    found = ipaddress.IPv4Address(address)
    ends = (_NETWORK.network_address, _NETWORK.broadcast_address)
    return found in _NETWORK and found not in ends


def _is_address(text: str, *, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _wrong_name(service: Object) -> Iterator[Cause]:
    name = service["metadata"]["name"]
    if not _NAME.fullmatch(name) or len(name) > 63:
        yield _invalid(
            "metadata.name",
            name,
            "must have at most 63 lower case alphanumeric characters or '-', begin with a letter "
            "and end alphanumeric",
        )


def _wrong_spec(spec: Object) -> Iterator[Cause]:
    kind, headless = spec["type"], spec.get("clusterIP") == HEADLESS
    ports = spec.get("ports") or ()
    if headless and kind in _EXTERNAL:
        yield _invalid(
            "spec.clusterIPs[0]", HEADLESS, f"may not be set to 'None' for {kind} services"
        )
    if not ports and not headless:
        yield "spec.ports", "FieldValueRequired", "Required value"
    yield from _wrong_ports(ports, external=kind in _EXTERNAL)
    if kind not in _EXTERNAL and "externalTrafficPolicy" in spec:
        yield _forbidden("spec.externalTrafficPolicy", f"may not be used when `type` is '{kind}'")
    if spec["sessionAffinity"] == "ClientIP":
        timeout = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"]
        if not 0 < timeout <= _LONGEST_AFFINITY_S:
            yield _invalid(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                timeout,
                f"must be greater than 0 and less than {_LONGEST_AFFINITY_S + 1}",
            )
    for field in _NOT_SERVED:
        if spec.get(field):
            yield _forbidden(f"spec.{field}", "the lab does not serve it")


def _wrong_ports(ports: Sequence[Object], *, external: bool) -> Iterator[Cause]:
    names = Counter[str]()
    numbers = Counter[tuple[int, str]]()
    node_ports = Counter[tuple[int, str]]()
    for index, port in enumerate(ports):
        field = f"spec.ports[{index}]"
        name, protocol = port.get("name", ""), port["protocol"]
        if not name and len(ports) > 1:
            yield f"{field}.name", "FieldValueRequired", "Required value"
        elif name and (not _PORT_NAME.fullmatch(name) or len(name) > 63):
            yield _invalid(f"{field}.name", name, "must be lower case alphanumeric or '-'")
        elif name and names[name]:
            yield _duplicate(f"{field}.name", name)
        if not 1 <= port["port"] <= 65535:
            yield _invalid(f"{field}.port", port["port"], "must be between 1 and 65535, inclusive")
        target = port["targetPort"]
        if isinstance(target, str):
            yield _invalid(
                f"{field}.targetPort",
                target,
                "must be a number: the lab's pods declare no ports that a name could mean",
            )
        elif not 1 <= target <= 65535:
            yield _invalid(f"{field}.targetPort", target, "must be between 1 and 65535, inclusive")
        if numbers[port["port"], protocol]:
            yield _duplicate(field, {"port": port["port"], "protocol": protocol})
        node_port = port.get("nodePort")
        if node_port and not external:
            yield _forbidden(f"{field}.nodePort", "may not be used when `type` is 'ClusterIP'")
        elif node_port and node_ports[node_port, protocol]:
            yield _duplicate(f"{field}.nodePort", node_port)
        names[name] += 1
        numbers[port["port"], protocol] += 1
        node_ports[node_port or 0, protocol] += bool(node_port)


def _changed(service: Object, old: Object | None) -> Iterator[Cause]:
    before = (old or {}).get("spec", {}).get("clusterIP")
    now = service["spec"].get("clusterIP")
    if before and now != before:
        yield _invalid("spec.clusterIPs[0]", [now], "may not change once set")


def _invalid(field: str, value: Any, message: str) -> Cause:
    return field, "FieldValueInvalid", f"Invalid value: {json.dumps(value)}: {message}"


def _duplicate(field: str, value: Any) -> Cause:
    return field, "FieldValueDuplicate", f"Duplicate value: {json.dumps(value)}"


def _forbidden(field: str, message: str) -> Cause:
    return field, "FieldValueForbidden", f"Forbidden: {message}"
