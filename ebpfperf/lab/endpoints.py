"""Who stands behind a Service: EndpointSlices and Endpoints from its selector and the pods. Pure.

Source: the API reference of EndpointSlice (discovery.k8s.io/v1) and of Endpoints (v1).
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from typing import Any

from ebpfperf.lab.services import SERVICE_LABEL

Object = dict[str, Any]
Objects = list[Object]

SLICE_KEEPER = ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io")
ENDPOINTS_KEEPER = ("endpoints.kubernetes.io/managed-by", "endpoint-controller")


def slice_name(service: Object) -> str:
    """The name of a Service's slice; a successor of the same name has another."""
    digest = hashlib.sha256(service["metadata"]["uid"].encode()).hexdigest()
    return f"{service['metadata']['name']}-{digest[:5]}"


def slice_of(service: Object, pods: Iterable[Object]) -> Object:
    """The EndpointSlice of a Service with a selector: its pods, each with whether it is ready."""
    meta = service["metadata"]
    label, keeper = SLICE_KEEPER
    return {
        "metadata": {
            "name": slice_name(service),
            "namespace": meta["namespace"],
            "labels": {SERVICE_LABEL: meta["name"], label: keeper},
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": meta["name"],
                    "uid": meta["uid"],
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [pod["status"]["podIP"]],
                "conditions": {"ready": ready, "serving": ready, "terminating": False},
                "nodeName": pod["spec"]["nodeName"],
                "targetRef": _reference(pod),
            }
            for pod, ready in _behind(service, pods)
        ],
        "ports": _ports(service),
    }


def endpoints_of(service: Object, pods: Iterable[Object]) -> Object:
    """The Endpoints of a Service with a selector: the older form, which some clients still read."""
    meta = service["metadata"]
    label, keeper = ENDPOINTS_KEEPER
    lists: dict[str, list[Object]] = {}
    for pod, ready in _behind(service, pods):
        address = {
            "ip": pod["status"]["podIP"],
            "nodeName": pod["spec"]["nodeName"],
            "targetRef": _reference(pod),
        }
        lists.setdefault("addresses" if ready else "notReadyAddresses", []).append(address)
    obj: Object = {
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "labels": {label: keeper},
        }
    }
    if lists:
        obj["subsets"] = [{**lists, "ports": _ports(service)}]
    return obj


def stale(
    objects: Iterable[Object], keeper: tuple[str, str], kept: set[tuple[str, str]]
) -> Objects:
    """Those that the keeper wrote and that no Service needs any more.

    Parameters
    ----------
    kept
        (namespace, name) of what some Service needs.
    """
    label, value = keeper
    return [
        obj
        for obj in objects
        if (obj["metadata"].get("labels") or {}).get(label) == value
        and (obj["metadata"]["namespace"], obj["metadata"]["name"]) not in kept
    ]


def _behind(service: Object, pods: Iterable[Object]) -> list[tuple[Object, bool]]:
    """The selected pods by address, and whether each is ready; one that is going is none."""
    spec = service["spec"]
    found = [
        (pod, bool(spec.get("publishNotReadyAddresses")) or _is_ready(pod))
        for pod in pods
        if pod["metadata"]["namespace"] == service["metadata"]["namespace"]
        and "deletionTimestamp" not in pod["metadata"]
        and spec["selector"].items() <= (pod["metadata"].get("labels") or {}).items()
        and pod["spec"].get("nodeName")
        and pod.get("status", {}).get("podIP")
        and pod["status"].get("phase") not in ("Succeeded", "Failed")
    ]
    return sorted(found, key=lambda one: ipaddress.ip_address(one[0]["status"]["podIP"]))


def _is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _ports(service: Object) -> list[Object]:
    return [
        {
            "name": port.get("name", ""),
            "port": port["targetPort"],
            "protocol": port["protocol"],
        }
        for port in service["spec"].get("ports", ())
    ]


def _reference(pod: Object) -> Object:
    meta = pod["metadata"]
    return {
        "kind": "Pod",
        "name": meta["name"],
        "namespace": meta["namespace"],
        "uid": meta["uid"],
    }
