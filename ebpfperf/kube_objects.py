"""What the API's raw objects say. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ebpfperf.errors import InputError
from ebpfperf.model import ClusterRef

Object = dict[str, Any]


def pod_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod's condition Ready is True and nobody has deleted it."""
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions = pod.get("status", {}).get("conditions") or []
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def node_ready(node: Mapping[str, Any]) -> bool:
    """Whether a node's condition Ready is True."""
    conditions = node.get("status", {}).get("conditions") or []
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def internal_ip(node: Mapping[str, Any]) -> str | None:
    """The node's first IPv4 InternalIP, or None."""
    for address in node.get("status", {}).get("addresses") or []:
        if address.get("type") == "InternalIP" and ":" not in address["address"]:
            return str(address["address"])
    return None


def internal_ips(node: Mapping[str, Any]) -> tuple[str, ...]:
    """The node's InternalIPs of both families, in the API's order."""
    return tuple(
        str(address["address"])
        for address in (node.get("status") or {}).get("addresses") or ()
        if address.get("type") == "InternalIP"
    )


def is_windows(node: Mapping[str, Any]) -> bool:
    """Whether a Node runs Windows, where there is no eBPF dataplane, and no shell to ask."""
    labels = node["metadata"].get("labels") or {}
    told = ((node.get("status") or {}).get("nodeInfo") or {}).get("operatingSystem")
    return "windows" in (labels.get("kubernetes.io/os"), told)


def pod_state(pod: Mapping[str, Any] | None) -> str:
    """Half a sentence on why a pod is not ready."""
    if pod is None:
        return "there is no such pod"
    status = pod.get("status", {})
    for container in status.get("containerStatuses") or []:
        waiting = container.get("state", {}).get("waiting")
        if waiting:
            return f"{waiting.get('reason', 'waiting')} {waiting.get('message', '')}".strip()
    unmet = [
        f"{c['type']} {c.get('reason', '')} {c.get('message', '')}".strip()
        for c in status.get("conditions") or []
        if c.get("status") != "True"
    ]
    return f"phase {status.get('phase', 'unknown')}" + (f", {'; '.join(unmet)}" if unmet else "")


def choose_nodes(nodes: Sequence[Object], ref: ClusterRef) -> tuple[str, str]:
    """Names of the client's and the server's node.

    Those that the reference names; else the first ready nodes by name, those that take ordinary
    pods before those that do not.

    Raises
    ------
    InputError
        There are no two, or a named one is missing or not ready.
    """
    ready = [node for node in nodes if node_ready(node)]
    ordinary = sorted(ready, key=lambda node: (_tainted(node), node["metadata"]["name"]))
    names = [str(node["metadata"]["name"]) for node in ordinary]
    known = ", ".join(names) or "none"
    for asked in filter(None, (ref.client_node, ref.server_node)):
        if asked not in names:
            raise InputError(
                f"The cluster has no ready node {asked}.", f"Its ready nodes are: {known}."
            )
    free = [name for name in names if name not in (ref.client_node, ref.server_node)]
    try:
        client = ref.client_node or free.pop(0)
        server = ref.server_node or free.pop(0)
    except IndexError:
        raise InputError(
            "Two ready nodes are needed to measure between nodes.",
            f"The cluster's ready nodes are: {known}.",
        ) from None
    if client == server:
        raise InputError(
            f"Client and server are both on node {client}.",
            "Name two nodes: nothing is encapsulated within one.",
        )
    return client, server


def _tainted(node: Object) -> bool:
    spec = node.get("spec", {})
    effects = {taint.get("effect") for taint in spec.get("taints") or []}
    return bool(spec.get("unschedulable")) or bool(effects & {"NoSchedule", "NoExecute"})
