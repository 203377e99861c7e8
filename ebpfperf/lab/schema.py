"""What an object of the lab's Calico kinds may hold, by release: schemas and cross-field rules."""

from __future__ import annotations

import ipaddress
import json
import re
from functools import lru_cache
from typing import Any

from ebpfperf.lab.felix_schema import Schema, felix_spec
from ebpfperf.lab.status import Cause

NEWEST_MINOR = 32
MODES = ["Always", "CrossSubnet", "Never"]

_STR: Schema = {"type": "string"}
_BOOL: Schema = {"type": "boolean"}
_OPEN: Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_INT: Schema = {"type": "integer", "minimum": 0}
_MAP: Schema = {"type": "object", "additionalProperties": _STR}


def _open(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    """An object of which only these fields are looked at."""
    return {**_OPEN, "properties": properties, "required": list(required)}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_CONDITIONS = _array(_open(("type", "status"), type=_STR, status=_STR))
_POD_SPEC = _open(
    ("containers",),
    nodeName=_STR,
    nodeSelector=_MAP,
    hostNetwork=_BOOL,
    restartPolicy={"type": "string", "enum": ["Always", "OnFailure", "Never"]},
    terminationGracePeriodSeconds=_INT,
    tolerations=_array(_OPEN),
    containers=_array(_open(("name", "image"), name=_STR, image=_STR)),
)
_PORT: Schema = {"type": "integer"}
_SERVICE_SPEC = _open(
    type={"type": "string", "enum": ["ClusterIP", "LoadBalancer", "NodePort"]},
    selector=_MAP,
    clusterIP=_STR,
    clusterIPs=_array(_STR),
    ports=_array(
        _open(
            ("port",),
            name=_STR,
            protocol={"type": "string", "enum": ["TCP", "UDP"]},
            port=_PORT,
            targetPort={"x-kubernetes-int-or-string": True},
            nodePort=_PORT,
        )
    ),
    sessionAffinity={"type": "string", "enum": ["ClientIP", "None"]},
    sessionAffinityConfig=_open(clientIP=_open(timeoutSeconds=_PORT)),
    externalTrafficPolicy={"type": "string", "enum": ["Cluster", "Local"]},
    internalTrafficPolicy={"type": "string", "enum": ["Cluster", "Local"]},
    ipFamilies=_array({"type": "string", "enum": ["IPv4"]}),
    ipFamilyPolicy={"type": "string", "enum": ["PreferDualStack", "SingleStack"]},
    publishNotReadyAddresses=_BOOL,
)
_SLICE = _open(
    ("addressType", "endpoints"),
    metadata=_OPEN,
    addressType={"type": "string", "enum": ["FQDN", "IPv4", "IPv6"]},
    endpoints=_array(
        _open(
            ("addresses",),
            addresses=_array(_STR),
            conditions=_open(ready=_BOOL),
            nodeName=_STR,
        )
    ),
    ports=_array(_open(("port",), name=_STR, protocol=_STR, port=_PORT)),
)
# Kubernetes' own kinds: what the lab's parts rely on, and no more.
_SPECS = {
    "pods": _POD_SPEC,
    "services": _SERVICE_SPEC,
    "nodes": _open(unschedulable=_BOOL),
    "daemonsets": _open(template=_open(spec=_open(nodeSelector=_MAP))),
}
_STATUSES = {
    "pods": _open(
        conditions=_CONDITIONS,
        podIP=_STR,
        phase=_STR,
        containerStatuses=_array(_open(("name",), name=_STR, ready=_BOOL, restartCount=_INT)),
    ),
    "nodes": _open(
        conditions=_CONDITIONS,
        addresses=_array(_open(("type", "address"), type=_STR, address=_STR)),
        nodeInfo=_OPEN,
    ),
    "namespaces": _open(phase=_STR),
}
_RELEASE = re.compile(r"v?3\.(\d+)")
# (since, name, schema); the modes may be empty, which means Never.
_POOL_FIELDS: tuple[tuple[int, str, Schema], ...] = (
    (0, "cidr", _STR),
    (0, "blockSize", {"type": "integer"}),
    (0, "ipipMode", {"type": "string", "enum": [*MODES, ""]}),
    (0, "vxlanMode", {"type": "string", "enum": [*MODES, ""]}),
    (0, "natOutgoing", _BOOL),
    (0, "disabled", _BOOL),
    (0, "nodeSelector", _STR),
    (20, "allowedUses", {"type": "array", "items": _STR}),
    (21, "disableBGPExport", _BOOL),
    (29, "assignmentMode", {"type": "string", "enum": ["Automatic", "Manual"]}),
    (32, "namespaceSelector", _STR),
)


def minor_of(release: str | None) -> int:
    """26 of ``"v3.26.1"``; the newest release served here when there is none."""
    match = _RELEASE.match(release or "")
    return int(match[1]) if match else NEWEST_MINOR


@lru_cache(maxsize=64)
def schema_of(resource: str, minor: int) -> Schema:
    """Structural schema of the whole object, to be read only: it is shared.

    Calico's kinds lose fields that the release does not have; of Kubernetes' own kinds only what
    the lab relies on is looked at.
    """
    match resource:
        case "felixconfigurations":
            spec = felix_spec(minor)
        case "ippools":
            fields = {name: schema for since, name, schema in _POOL_FIELDS if minor >= since}
            spec = {"type": "object", "properties": fields, "required": ["cidr"]}
        case "clusterinformations":
            names = ("calicoVersion", "clusterGUID", "clusterType", "variant")
            fields = {name: _STR for name in names} | {"datastoreReady": _BOOL}
            spec = {"type": "object", "properties": fields}
        case "endpointslices":
            return _SLICE
        case "configmaps":
            return _open(metadata=_OPEN, data=_MAP, binaryData=_MAP, immutable=_BOOL)
        case _:
            spec, status = _SPECS.get(resource, _OPEN), _STATUSES.get(resource, _OPEN)
            needed = ("spec",) if resource in ("pods", "services") else ()
            return _open(needed, metadata=_OPEN, spec=spec, status=status)
    top = {"apiVersion": _STR, "kind": _STR, "metadata": _OPEN, "spec": spec}
    return {"type": "object", "properties": top}


def broken_rules(
    resource: str, new: dict[str, Any], old: dict[str, Any] | None
) -> tuple[Cause, ...]:
    """What is wrong with ``new`` although every field by itself is well-typed."""
    if resource != "ippools":
        return ()
    spec = new.get("spec", {})
    before = old.get("spec", {}) if old else {}
    causes = [
        _cause(f"spec.{field}", spec.get(field), "field is immutable")
        for field in ("cidr", "blockSize")
        if field in before and spec.get(field) != before[field]
    ]
    if "blockSize" in spec and old is not None and "blockSize" not in before:
        causes.append(_cause("spec.blockSize", spec["blockSize"], "field is immutable"))
    return (*causes, *_pool(spec))


def _pool(spec: dict[str, Any]) -> list[Cause]:
    causes = []
    ipip, vxlan = (spec.get(field) or "Never" for field in ("ipipMode", "vxlanMode"))
    if ipip != "Never" and vxlan != "Never":
        causes.append(
            _cause("spec.ipipMode", ipip, "ipipMode and vxlanMode may not both be enabled")
        )
    cidr = spec.get("cidr")
    try:
        network = ipaddress.ip_network(str(cidr))
    except ValueError as error:
        causes.append(_cause("spec.cidr", cidr, str(error)))
        return causes
    low, high = (20, 32) if network.version == 4 else (116, 128)
    size = spec.get("blockSize", 26 if network.version == 4 else 122)
    if network.version == 6 and ipip != "Never":
        causes.append(_cause("spec.ipipMode", ipip, "IPIP is not supported on an IPv6 pool"))
    if not low <= size <= high:
        causes.append(_cause("spec.blockSize", size, f"must be between {low} and {high}"))
    elif network.prefixlen > size:
        causes.append(_cause("spec.cidr", cidr, f"the pool is smaller than a /{size} block"))
    return causes


def _cause(field: str, value: Any, message: str) -> Cause:
    return field, "FieldValueInvalid", f"Invalid value: {json.dumps(value)}: {message}"
