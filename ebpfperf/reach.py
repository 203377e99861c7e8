"""A cluster's API and its nodes, for commands that only look: no cluster is an input error."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from pathlib import Path

from ebpfperf.errors import InputError, KubeError, NodeError
from ebpfperf.kube import Kube
from ebpfperf.kube_objects import Object
from ebpfperf.remote import Node, SSHNode

AT_ONCE = 16
# Open files of a connection, and of everything else.
_FILES_OF_EACH, _FILES = 4, 256


def connect(kubeconfig: str | None, context: str | None) -> Kube:
    """The cluster's API, asked once; InputError where there is no cluster to ask."""
    try:
        kube = Kube.connect(kubeconfig, context)
    except KubeError as error:
        raise InputError(error.what, error.remedy) from error
    try:
        kube.ippools()
    except KubeError as error:
        if error.fields.get("status") == 403:
            # The API answers; what this user may not read, others than pools, is seen later.
            return kube
        kube.close()
        if "status" in error.fields and error.fields.get("reason") != "no-calico":
            raise
        raise InputError(error.what, error.remedy) from error
    return kube


def release_of(kube: Kube) -> str:
    """Calico's release; InputError where the cluster does not say it."""
    found = kube.release()
    if not found:
        raise InputError(
            "The cluster does not say which release of Calico it runs (ClusterInformation).",
            "Give it: --release v3.26.",
        )
    return found


def node_names(kube: Kube, wanted: Sequence[str]) -> list[str]:
    """The nodes' names, all or those wanted; InputError for one that there is not, or for none."""
    known = [name_of(node) for node in kube.nodes()]
    if not known:
        raise InputError("The cluster has no nodes.", "Is this its kubeconfig and context?")
    for name in wanted:
        if name not in known:
            nearest = get_close_matches(name, known, n=1)
            raise InputError(
                f"The cluster has no node {name}.",
                f"Did you mean {nearest[0]}?" if nearest else f"It has {', '.join(known)}.",
                node=name,
            )
    return list(wanted) or known


def log_in(
    names: Sequence[str], *, ssh_config: Path | None
) -> tuple[dict[str, Node], dict[str, NodeError]]:
    """The nodes that SSH reaches, in order, and why it does not reach the others."""
    refused: dict[str, NodeError] = {}
    _let_open(_FILES + _FILES_OF_EACH * len(names))

    def one(name: str) -> Node | None:
        try:
            return SSHNode.connect(name, ssh_config=ssh_config)
        except NodeError as error:
            refused[name] = error
            return None

    with ThreadPoolExecutor(max_workers=min(AT_ONCE, len(names) or 1)) as pool:
        found = dict(zip(names, pool.map(one, names), strict=True))
    return {name: node for name, node in found.items() if node is not None}, refused


def _let_open(files: int) -> None:
    """Let this process have so many open files, as far as it may: many shells allow 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files if hard == resource.RLIM_INFINITY else min(files, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def name_of(found: Object) -> str:
    """An object's name."""
    return str(found["metadata"]["name"])
