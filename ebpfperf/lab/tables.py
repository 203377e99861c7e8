"""What ``kubectl get`` shows: objects as rows of a ``meta.k8s.io/v1`` Table. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

Object = dict[str, Any]
Column = tuple[str, int, Callable[[Object], Any]]
"""(title, priority, cell): a priority above 0 is shown by ``-o wide`` only."""


def age(obj: Object) -> str:
    """``"42s"``, ``"5m"``, ``"3h"``, ``"2d"`` since the object was made."""
    made = obj["metadata"].get("creationTimestamp")
    if not made:
        return "<unknown>"
    seconds = max(0, int(time.time() - datetime.fromisoformat(made).timestamp()))
    for unit, length, limit in (("s", 1, 120), ("m", 60, 120 * 60), ("h", 3600, 48 * 3600)):
        if seconds < limit:
            return f"{seconds // length}{unit}"
    return f"{seconds // 86400}d"


def table(
    resource: str, objects: Sequence[Object], *, version: str, include: str, headed: bool = True
) -> Object:
    """The Table of these objects, in their order.

    Parameters
    ----------
    version
        resourceVersion of the list.
    include
        What travels in each row's ``object``: ``Metadata``, ``Object`` or ``None``.
    headed
        Whether the column definitions are sent (a watch sends them once).
    """
    columns = _COLUMNS.get(resource, (_NAME, _AGE))
    definitions = [
        {
            "name": title,
            "type": "string",
            "format": "name" if title == "Name" else "",
            "description": "",
            "priority": priority,
        }
        for title, priority, _ in columns
    ]
    rows = []
    for obj in objects:
        row: Object = {"cells": [cell(obj) for _, _, cell in columns]}
        if include == "Object":
            row["object"] = obj
        elif include != "None":
            row["object"] = {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": obj["metadata"],
            }
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version},
        "columnDefinitions": definitions if headed else None,
        "rows": rows,
    }


def _read(*path: str, default: str = "<none>") -> Callable[[Object], Any]:
    def cell(obj: Any) -> Any:
        for key in path:
            obj = obj.get(key) if isinstance(obj, dict) else None
        return default if obj in (None, "") else obj

    return cell


def _node_status(node: Object) -> str:
    ready = _condition(node, "Ready")
    words = ["Ready" if ready == "True" else "NotReady"]
    if node.get("spec", {}).get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def _condition(obj: Object, name: str) -> str:
    conditions = obj.get("status", {}).get("conditions", ())
    return next((c["status"] for c in conditions if c.get("type") == name), "Unknown")


def _roles(node: Object) -> str:
    mark = "node-role.kubernetes.io/"
    labels = node["metadata"].get("labels") or {}
    return ",".join(sorted(k[len(mark) :] for k in labels if k.startswith(mark))) or "<none>"


def _internal_ip(node: Object) -> str:
    addresses = node.get("status", {}).get("addresses", ())
    return next((a["address"] for a in addresses if a.get("type") == "InternalIP"), "<none>")


def _pod_ready(pod: Object) -> str:
    statuses = pod.get("status", {}).get("containerStatuses", ())
    total = len(pod.get("spec", {}).get("containers", ()))
    return f"{sum(bool(s.get('ready')) for s in statuses)}/{total}"


def _pod_status(pod: Object) -> str:
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    status = pod.get("status", {})
    return str(status.get("reason") or status.get("phase") or "Unknown")


def _restarts(pod: Object) -> str:
    statuses = pod.get("status", {}).get("containerStatuses", ())
    return str(sum(s.get("restartCount", 0) for s in statuses))


def _selector(obj: Object) -> str:
    chosen = _read("spec", "template", "spec", "nodeSelector", default="")(obj) or {}
    return ",".join(f"{key}={value}" for key, value in sorted(chosen.items())) or "<none>"


def _service_ports(service: Object) -> str:
    words = []
    for port in service.get("spec", {}).get("ports", ()):
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        words.append(f"{port['port']}{node}/{port.get('protocol', 'TCP')}")
    return ",".join(words) or "<none>"


def _external_ip(service: Object) -> str:
    pending = service.get("spec", {}).get("type") == "LoadBalancer"
    return "<pending>" if pending else "<none>"


def _service_selector(service: Object) -> str:
    chosen = service.get("spec", {}).get("selector") or {}
    return ",".join(f"{key}={value}" for key, value in sorted(chosen.items())) or "<none>"


def _data_count(obj: Object) -> str:
    return str(len(obj.get("data") or {}) + len(obj.get("binaryData") or {}))


def _slice_ports(found: Object) -> str:
    return _few([str(port.get("port", "*")) for port in found.get("ports") or ()], "<unset>")


def _slice_addresses(found: Object) -> str:
    endpoints = found.get("endpoints") or ()
    return _few([address for each in endpoints for address in each["addresses"]], "<unset>")


def _endpoints(found: Object) -> str:
    words = [
        f"{address.get('ip')}:{port.get('port')}"
        for subset in found.get("subsets") or ()
        for address in subset.get("addresses") or ()
        for port in subset.get("ports") or ()
    ]
    return _few(words, "<none>")


def _few(words: Sequence[str], nothing: str) -> str:
    more = f" + {len(words) - 3} more..." if len(words) > 3 else ""
    return ",".join(words[:3]) + more or nothing


_NAME: Column = ("Name", 0, _read("metadata", "name"))
_AGE: Column = ("Age", 0, age)
_COLUMNS: dict[str, tuple[Column, ...]] = {
    "namespaces": (_NAME, ("Status", 0, _read("status", "phase")), _AGE),
    "nodes": (
        _NAME,
        ("Status", 0, _node_status),
        ("Roles", 0, _roles),
        _AGE,
        ("Version", 0, _read("status", "nodeInfo", "kubeletVersion")),
        ("Internal-IP", 1, _internal_ip),
        ("OS-Image", 1, _read("status", "nodeInfo", "osImage")),
        ("Kernel-Version", 1, _read("status", "nodeInfo", "kernelVersion")),
    ),
    "pods": (
        _NAME,
        ("Ready", 0, _pod_ready),
        ("Status", 0, _pod_status),
        ("Restarts", 0, _restarts),
        _AGE,
        ("IP", 1, _read("status", "podIP")),
        ("Node", 1, _read("spec", "nodeName")),
    ),
    "services": (
        _NAME,
        ("Type", 0, _read("spec", "type")),
        ("Cluster-IP", 0, _read("spec", "clusterIP")),
        ("External-IP", 0, _external_ip),
        ("Port(s)", 0, _service_ports),
        _AGE,
        ("Selector", 1, _service_selector),
    ),
    "endpoints": (_NAME, ("Endpoints", 0, _endpoints), _AGE),
    "endpointslices": (
        _NAME,
        ("AddressType", 0, _read("addressType")),
        ("Ports", 0, _slice_ports),
        ("Endpoints", 0, _slice_addresses),
        _AGE,
    ),
    "configmaps": (_NAME, ("Data", 0, _data_count), _AGE),
    "daemonsets": (
        _NAME,
        ("Desired", 0, _read("status", "desiredNumberScheduled", default="0")),
        ("Current", 0, _read("status", "currentNumberScheduled", default="0")),
        ("Ready", 0, _read("status", "numberReady", default="0")),
        ("Up-to-date", 0, _read("status", "updatedNumberScheduled", default="0")),
        ("Available", 0, _read("status", "numberAvailable", default="0")),
        ("Node Selector", 0, _selector),
        _AGE,
    ),
    "ippools": (
        _NAME,
        ("CIDR", 0, _read("spec", "cidr")),
        ("VXLAN", 0, _read("spec", "vxlanMode", default="Never")),
        ("IPIP", 0, _read("spec", "ipipMode", default="Never")),
        ("NAT", 0, _read("spec", "natOutgoing", default="false")),
        _AGE,
    ),
    "clusterinformations": (_NAME, ("Version", 0, _read("spec", "calicoVersion")), _AGE),
}
