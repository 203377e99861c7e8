"""What decides on Felix's values, read off a cluster: objects, environment, file, log.

It changes nothing. A node that SSH does not reach still has its objects and its pod's environment;
a remark says what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebpfperf.calico import felixenv
from ebpfperf.calico.felix_fields import PREFIX
from ebpfperf.calico.nodelog import LoggedDataplane, felix_state, parse
from ebpfperf.errors import KubeError, NodeError
from ebpfperf.evidence_sources import FELIX
from ebpfperf.felix_selected import Selected, labels_of, selected
from ebpfperf.felix_values import FILE, Evidence, parse_printed
from ebpfperf.kube import Kube
from ebpfperf.kube_objects import Object
from ebpfperf.reach import connect, name_of, node_names, release_of
from ebpfperf.remote import SSHNode

TIMEOUT_S = 10.0
LOG_LINES = 500
DEFAULT, OWN = "default", "node."


@dataclass(frozen=True, slots=True)
class _Objects:
    """What the API holds for all nodes; node → its labels, where a selector asks for them."""

    felix: Mapping[str, Mapping[str, Any]]
    pools: Mapping[str, Mapping[str, Any]]
    selected: tuple[Selected, ...]
    labels: Mapping[str, Mapping[str, str]]


def read(
    kubeconfig: str | None,
    context: str | None,
    *,
    ssh_config: Path | None,
    node: str | None = None,
    release: str | None = None,
) -> list[Evidence]:
    """The evidence of every node, or of one, by name.

    Parameters
    ----------
    release
        Instead of the one that the cluster says it has.

    Raises
    ------
    InputError
        There is no such node, or the cluster does not say its release; no cluster is reached.
    KubeError
        The API refuses.
    """
    kube = connect(kubeconfig, context)
    try:
        version = release or release_of(kube)
        names = node_names(kube, [node] if node else [])
        configurations = kube.felix_configurations()
        chosen = selected(configurations)
        objects = _Objects(
            {name_of(found): found.get("spec") or {} for found in configurations},
            {name_of(pool): pool.get("spec") or {} for pool in kube.ippools()},
            chosen,
            {name_of(each): labels_of(each) for each in kube.nodes()} if chosen else {},
        )
        with ThreadPoolExecutor(max_workers=min(16, len(names) or 1)) as pool:
            return list(
                pool.map(lambda name: _evidence(kube, name, version, objects, ssh_config), names)
            )
    finally:
        kube.close()


def _evidence(
    kube: Kube, name: str, release: str, objects: _Objects, ssh_config: Path | None
) -> Evidence:
    remarks: list[str] = []
    environment, file = _on_node(name, ssh_config, remarks)
    pod = kube.calico_node_pod(name)
    if environment is None and pod is None:
        remarks.append("there is no calico-node pod: the environment is not known.")
    if environment is None and pod is not None:
        environment = {
            variable: text
            for variable, text in felixenv.variables(pod).items()
            if variable.startswith(PREFIX)
        }
        remarks.append("the environment is that of its pod's specification.")
    return Evidence(
        name,
        release,
        default=objects.felix.get(DEFAULT),
        own=objects.felix.get(OWN + name),
        selected=objects.selected,
        labels=objects.labels.get(name),
        environment=environment,
        file=file,
        pools=objects.pools,
        unsupported=pod is not None and _unsupported(kube, pod, remarks),
        remarks=tuple(remarks),
    )


def _on_node(
    name: str, ssh_config: Path | None, remarks: list[str]
) -> tuple[dict[str, str | None] | None, dict[str, str] | None]:
    """Environment and file of the node's Felix; None, and a remark, for what cannot be read."""
    unread = f"{FILE} was not read, and would beat the resources"
    try:
        node = SSHNode.connect(name, ssh_config=ssh_config)
        try:
            printed = node.run(["sh", "-c", FELIX], timeout_s=TIMEOUT_S).text
        finally:
            node.close()
    except NodeError as error:
        remarks.append(f"{unread}: {error.what}")
        return None, None
    environment, file = parse_printed(printed)
    if environment is None:
        remarks.append(f"{unread}: no process calico-node -felix runs there.")
    return environment, file


def _unsupported(kube: Kube, pod: Object, remarks: list[str]) -> bool:
    """Whether the newest Felix there says that the kernel does not let it forward by eBPF."""
    meta = pod["metadata"]
    containers = [str(c.get("name")) for c in pod.get("spec", {}).get("containers") or []]
    container = "calico-node" if "calico-node" in containers else None
    try:
        text = kube.logs(meta["namespace"], meta["name"], tail_lines=LOG_LINES, container=container)
    except KubeError as error:
        remarks.append(f"whether the kernel lets eBPF mode begin is unknown: {error.what}")
        return False
    return felix_state(parse(text)).dataplane is LoggedDataplane.UNSUPPORTED
