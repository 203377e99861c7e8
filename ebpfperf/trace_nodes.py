"""The nodes of a cluster whose debug log is to be read: which, at what level, over SSH."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ebpfperf.errors import InputError
from ebpfperf.kube import Kube
from ebpfperf.remote import Node, SSHNode
from ebpfperf.trace_capture import log_level


@dataclass(frozen=True, slots=True)
class Seen:
    """What the API says: names of the nodes, bpfLogLevel of each, Calico's release or None."""

    nodes: tuple[str, ...]
    levels: Mapping[str, str]
    release: str | None


def seen(kubeconfig: str | None, context: str | None, *, names: Sequence[str] | None) -> Seen:
    """The named nodes, or all of the cluster's.

    Raises
    ------
    InputError
        The cluster has no node of that name, or none at all.
    KubeError
        The API cannot be reached.
    """
    kube = Kube.connect(kubeconfig, context)
    try:
        there = sorted(str(node["metadata"]["name"]) for node in kube.nodes())
        if not there:
            raise InputError("The cluster has no nodes.", "Is this its kubeconfig and context?")
        for name in names or ():
            if name not in there:
                raise InputError(
                    f"The cluster has no node {name}.", f"Name one of {', '.join(there)}."
                )
        chosen = tuple(dict.fromkeys(names or there))
        default = (kube.felix_configuration() or {}).get("spec") or {}
        levels = {}
        for name in chosen:
            own = (kube.felix_configuration(f"node.{name}") or {}).get("spec") or {}
            levels[name] = log_level(default, own, kube.calico_node_pod(name))
        return Seen(chosen, levels, kube.release())
    finally:
        kube.close()


@contextmanager
def opened(names: Sequence[str], *, ssh_config: Path | None) -> Iterator[dict[str, Node]]:
    """Connections to the nodes, by name; closed in the end.

    Raises
    ------
    ConnectError
        A node cannot be reached.
    """
    nodes: dict[str, Node] = {}
    try:
        with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
            futures = {
                name: pool.submit(SSHNode.connect, name, ssh_config=ssh_config) for name in names
            }
        for name, future in futures.items():
            if future.exception() is None:
                nodes[name] = future.result()
        for future in futures.values():
            future.result()
        yield nodes
    finally:
        for node in nodes.values():
            node.close()
