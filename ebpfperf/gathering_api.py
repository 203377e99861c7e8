"""What the API says for a diagnosis: its lists as they are kept, and calico-node's logs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from ebpfperf.errors import KubeError
from ebpfperf.evidence import API, Item
from ebpfperf.evidence_sources import LOG, LOG_BEFORE, ApiSource
from ebpfperf.kube import Kube
from ebpfperf.kube_objects import Object, internal_ip, is_windows
from ebpfperf.reach import AT_ONCE

# Of a log: so many lines of each node, fewer of many nodes. A line has some 200 bytes.
LOG_LINES, _FEWEST_LINES, _LINES_OF_ALL = 4_000, 400, 2_000_000
_CLUSTER_WIDE = ("ClusterInformation", "FelixConfiguration", "IPPool", "Installation", "Node")
_SERVICES_ENDPOINT = "kubernetes-services-endpoint"
# calico/node:v3.26.1, quay.io/calico/node:v3.30.0, rancher/mirrored-calico-node:v3.27.2.
_IMAGE = re.compile(r"(?:^|/)(?:mirrored-)?(?:calico-)?node:(v\d+\.\d+\.\d+)")
# What of an object nobody judges, and may be large or private.
_METADATA = ("managedFields", "ownerReferences", "finalizers", "selfLink")
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_POD_SPEC = ("nodeName", "hostNetwork", "containers")
_POD_STATUS = ("phase", "podIP", "podIPs", "conditions")
_CONTAINER = ("name", "image", "env", "envFrom")
# Variables of calico-node that decide on something here; others may be secrets.
_VARIABLES = ("FELIX_", "IP", "CALICO_", "NODENAME", "KUBERNETES_SERVICE_")


def now_utc() -> str:
    """The time, ``2026-01-31T09:05:33Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def log_lines_of_each(nodes: int) -> int:
    """How many lines of calico-node's log are read of so many nodes."""
    return max(_FEWEST_LINES, min(LOG_LINES, _LINES_OF_ALL // max(nodes, 1)))


def listed(kube: Kube, source: ApiSource, ending: str = "", *, first: bool = False) -> Item:
    """A list as it is kept; what is refused, or not answered in time, is said in the item.

    Raises
    ------
    KubeError
        It is the first that is asked for, and the API is not reached.
    """
    taken = now_utc()
    name = source.name + ending
    try:
        if source.kind in _CLUSTER_WIDE:
            found = kube.cluster_wide(source.kind, kept=_trimmed)
        elif source.kind == "ConfigMap":
            found = kube.everywhere(source.kind, named=_SERVICES_ENDPOINT, kept=_trimmed)
        else:
            found = kube.everywhere(source.kind, kept=_trimmed)
    except KubeError as error:
        if error.fields.get("status") == 404:
            # A kind that the cluster does not have: none of it is there.
            return Item(name, API, source.asked, taken, b"[]")
        if first and "status" not in error.fields:
            raise
        return Item(name, API, source.asked, taken, error=error.what)
    content = json.dumps(found, separators=(",", ":")).encode()
    return Item(name, API, source.asked, taken, content)


def _trimmed(found: Mapping[str, Any]) -> Object:
    """An object without what nobody judges: of pods, what they are and where."""
    meta = {key: value for key, value in found["metadata"].items() if key not in _METADATA}
    if annotations := meta.get("annotations"):
        meta["annotations"] = {k: v for k, v in annotations.items() if k != _APPLIED}
    kept = {**found, "metadata": meta}
    status = found.get("status") or {}
    if "images" in status:  # of a Node: every image that it ever pulled
        kept["status"] = {key: value for key, value in status.items() if key != "images"}
    spec = found.get("spec") or {}
    if "containers" in spec:
        kept["spec"] = _pod_spec(spec)
        kept["status"] = {key: status[key] for key in _POD_STATUS if key in status}
    elif "template" in spec:
        inside = _pod_spec((spec["template"] or {}).get("spec") or {})
        kept["spec"] = {**spec, "template": {**spec["template"], "spec": inside}}
    return kept


def _pod_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: spec[key] for key in _POD_SPEC if key in spec}
    if "nodeSelector" in spec:
        kept["nodeSelector"] = spec["nodeSelector"]
    containers = []
    for each in spec.get("containers") or []:
        own = {key: each[key] for key in _CONTAINER if key in each}
        if "env" in own:
            own["env"] = [
                one for one in own["env"] or [] if str(one.get("name")).startswith(_VARIABLES)
            ]
        containers.append(own)
    return {**kept, "containers": containers}


def release_of(kube: Kube, items: Iterable[Item]) -> str:
    """Calico's release by ClusterInformation, or by calico-node's image; empty for neither."""
    try:
        if found := kube.release():
            return found
    except KubeError:
        pass  # The image may say it; that the API is lost is seen in the lists.
    item = next((i for i in items if i.source == "daemonsets" and not i.error), None)
    for each in json.loads(item.content) if item is not None else []:
        inside = ((each.get("spec") or {}).get("template") or {}).get("spec") or {}
        for container in inside.get("containers") or []:
            tag = _IMAGE.search(str(container.get("image", "")))
            if each["metadata"]["name"] == "calico-node" and tag is not None:
                return tag[1]
    return ""


def windows(items: Iterable[Item]) -> frozenset[str]:
    """The nodes that run Windows, by the list of nodes as it was gathered."""
    found = next((i for i in items if i.source == "nodes" and not i.error), None)
    objects = json.loads(found.content) if found is not None else []
    return frozenset(str(each["metadata"]["name"]) for each in objects if is_windows(each))


def logs(kube: Kube, names: Sequence[str], *, before: bool) -> list[Item]:
    """Of each node calico-node's log; ``before``: and that from before its last restart."""
    try:
        pods = kube.calico_node_pods()
    except KubeError as error:
        asked = "kubectl get pod -A -l k8s-app=calico-node"
        return [Item(LOG, name, asked, now_utc(), error=error.what) for name in names]
    most = log_lines_of_each(len(names))

    def one(name: str) -> list[Item]:
        pod = pods.get(name)
        found = [_log(kube, name, pod, most)]
        return found + _log_before(kube, name, pod, most) if before else found

    with ThreadPoolExecutor(max_workers=min(AT_ONCE, len(names) or 1)) as pool:
        return [item for found in pool.map(one, names) for item in found]


def _log(kube: Kube, name: str, pod: Object | None, most: int) -> Item:
    taken, asked = now_utc(), f"kubectl logs (calico-node of {name}) --tail={most}"
    if pod is None:
        return Item(LOG, name, asked, taken, error="there is no calico-node pod on it")
    meta = pod["metadata"]
    asked = f"kubectl logs -n {meta['namespace']} {meta['name']} --tail={most}"
    containers = [str(c.get("name")) for c in pod.get("spec", {}).get("containers") or []]
    try:
        text = kube.logs(
            meta["namespace"],
            meta["name"],
            tail_lines=most,
            container="calico-node" if "calico-node" in containers else None,
        )
    except KubeError as error:
        return Item(LOG, name, asked, taken, error=error.what)
    return Item(LOG, name, asked, taken, text.encode())


def _log_before(kube: Kube, name: str, pod: Object | None, most: int) -> list[Item]:
    """The log of the calico-node before this one, where it was restarted."""
    restarted = [
        str(each.get("name"))
        for each in ((pod or {}).get("status") or {}).get("containerStatuses") or []
        if each.get("restartCount") and each.get("name") == "calico-node"
    ]
    if pod is None or not restarted:
        return []
    taken, meta = now_utc(), pod["metadata"]
    asked = (
        f"kubectl logs --previous -n {meta['namespace']} {meta['name']} -c {restarted[0]} "
        f"--tail={most}"
    )
    try:
        text = kube.logs(
            meta["namespace"],
            meta["name"],
            tail_lines=most,
            container=restarted[0],
            previous=True,
        )
    except KubeError as error:
        return [Item(LOG_BEFORE, name, asked, taken, error=error.what)]
    return [Item(LOG_BEFORE, name, asked, taken, text.encode())]


def addresses_of(items: Iterable[Item]) -> dict[str, str]:
    """Node → its first IPv4 InternalIP, from the list of nodes as it was gathered."""
    item = next((i for i in items if i.source == "nodes" and not i.error), None)
    objects = json.loads(item.content) if item is not None else []
    found = {str(each["metadata"]["name"]): internal_ip(each) for each in objects}
    return {name: address for name, address in found.items() if address is not None}
