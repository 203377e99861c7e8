"""The nodes of a cluster as the kit sees them: API and SSH."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ebpfperf.errors import InputError, NodeError
from ebpfperf.facts import node_facts
from ebpfperf.kube import Kube
from ebpfperf.kube_objects import choose_nodes, internal_ip, node_ready
from ebpfperf.model import ClusterRef
from ebpfperf.remote import SSHNode
from ebpfperf.units import UNKNOWN

WANTED = ("kernel", "iperf3_version", "sockperf_version", "bcc_version")


def node_list(
    kubeconfig: str | None, context: str | None, *, ssh_config: Path | None
) -> list[dict[str, str]]:
    """A row per node, by name: ready, address, role by default, SSH and what is installed.

    A node that SSH does not reach has the reason under ``ssh`` and its facts UNKNOWN.

    Raises
    ------
    KubeError
        The API cannot be reached.
    """
    kube = Kube.connect(kubeconfig, context)
    try:
        objects = sorted(kube.nodes(), key=lambda node: str(node["metadata"]["name"]))
    finally:
        kube.close()
    try:
        roles = dict(zip(choose_nodes(objects, ClusterRef()), ("client", "server"), strict=True))
    except InputError:
        roles = {}
    names = [str(node["metadata"]["name"]) for node in objects]
    with ThreadPoolExecutor(max_workers=8) as pool:
        seen = list(pool.map(lambda name: _seen(name, ssh_config), names))
    return [
        {
            "node": name,
            "ready": "yes" if node_ready(node) else "no",
            "address": internal_ip(node) or UNKNOWN,
            "role": roles.get(name, ""),
            **found,
        }
        for name, node, found in zip(names, objects, seen, strict=True)
    ]


def _seen(name: str, ssh_config: Path | None) -> dict[str, str]:
    try:
        node = SSHNode.connect(name, ssh_config=ssh_config)
        try:
            values = {fact.name: fact.value for fact in node_facts(node)}
        finally:
            node.close()
    except NodeError as error:
        return {"ssh": str(error), **dict.fromkeys(WANTED, UNKNOWN)}
    return {"ssh": "ok", **{fact: values.get(fact, UNKNOWN) for fact in WANTED}}
