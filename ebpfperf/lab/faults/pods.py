"""Pods that a fault makes for itself, named ``fault-…``, and takes away again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ebpfperf.lab import cgroups
from ebpfperf.lab.faults.place import Place
from ebpfperf.lab.kubelet import device_name

NAMESPACE = "default"
_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that runs: its address, its device on the node, and a process in its network."""

    name: str
    address: str
    device: str
    pid: int


def make(
    place: Place,
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Pod:
    """The pod of that name on the place's node, running; one that is there already stays."""
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": dict(labels or {}),
            "annotations": dict(annotations or {}),
        },
        "spec": {
            "nodeName": place.node.name,
            "containers": [{"name": "main", "image": "fault"}],
        },
    }
    place.create(_PODS, body)
    found: list[Pod] = []

    def runs() -> bool:
        pod = _running(place, name)
        found.extend([pod] if pod else [])
        return bool(found)

    place.wait(f"the pod {name}", runs)
    return found[0]


def remove(place: Place, *names: str) -> None:
    """Delete pods that ``make`` made, and return once they are gone; those that are not, are."""
    for name in names:
        place.delete(f"{_PODS}/{name}")
    for name in names:
        place.wait(f"the end of the pod {name}", lambda name=name: _get(place, name) is None)  # type: ignore[misc]


def _get(place: Place, name: str) -> dict[str, Any] | None:
    return place.get(f"{_PODS}/{name}")


def _running(place: Place, name: str) -> Pod | None:
    pod = _get(place, name) or {}
    status, meta = pod.get("status") or {}, pod.get("metadata") or {}
    if status.get("phase") != "Running" or "deletionTimestamp" in meta:
        return None
    slices = place.node.cgroup.glob(f"**/*pod{meta['uid'].replace('-', '_')}.slice")
    pids = sorted(pid for each in slices for pid in cgroups.members(each))
    if not pids:
        return None
    return Pod(name, status["podIP"], device_name(NAMESPACE, name), pids[0])
