"""What a node's Felix reads when it starts: resources, its pod's environment, the pools."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ebpfperf.calico import felix_fields
from ebpfperf.calico.encapsulation import Enabled, enabled
from ebpfperf.calico.felixenv import effective, environment
from ebpfperf.lab.own_annotations import AT_START, NEITHER, faults
from ebpfperf.lab.readable import Readable
from ebpfperf.lab.status import StatusError

_APPLIED = "felix-applied.json"


@dataclass(frozen=True, slots=True)
class Config:
    """What Felix read when it started: only another start takes a change up.

    ``environment`` is what its pod says of fields, ``pod`` the pod's UID; ``faults`` are those that
    keep it from eBPF.
    """

    spec: dict[str, Any]
    tunnels: Enabled
    environment: dict[str, str | None] = field(default_factory=dict)
    pod: str = ""
    faults: frozenset[str] = frozenset()

    @property
    def bpf(self) -> bool:
        """Whether this Felix forwards by eBPF."""
        return bool(self.spec.get("bpfEnabled")) and not self.faults

    @property
    def kube_proxy_serves(self) -> bool:
        """Whether kube-proxy is in charge of Services, and is there."""
        return not self.bpf and NEITHER not in self.faults

    @property
    def removes_rules(self) -> bool:
        """Whether no rules of kube-proxy are to be there while it does not serve."""
        return not self.bpf or self.spec.get("bpfKubeProxyIptablesCleanupEnabled") is not False

    @property
    def text(self) -> str:
        """All of it, to tell one from another."""
        return json.dumps(asdict(self), sort_keys=True, default=sorted)

    def leave(self, directory: Path) -> None:
        """Say in the directory of the node's files that this is what its Felix has applied."""
        part = directory / f"{_APPLIED}.part"
        part.write_text(self.text)
        os.replace(part, directory / _APPLIED)


def applied(directory: Path) -> str:
    """What the Felix of the node that keeps its files there has last applied; empty before."""
    try:
        return (directory / _APPLIED).read_text()
    except FileNotFoundError:
        return ""


def read(store: Readable, node: str, version: str, before: Config | None = None) -> Config:
    """What the node's Felix would start with now.

    While its pod is being made anew there is none, and it goes on as it was ``before``.
    """
    default, own = (_spec(store, name) for name in ("default", f"node.{node}"))
    pod, given = (before.pod, before.environment) if before else ("", {})
    found = _calico_pod(store, node)
    if found is not None:
        known = [name for name, each in felix_fields.fields().items() if each.settable(version)]
        pod, given = found["metadata"]["uid"], environment(found, known)
    spec = effective(default, own, given)
    pools = [pool["spec"] for pool in store.list("ippools")]
    standing = AT_START.intersection(faults(annotations_of(store, node)))
    return Config(spec, enabled(spec, pools, version), given, pod, standing)


def annotations_of(store: Readable, node: str) -> dict[str, str]:
    """The node's; empty where it is not there."""
    try:
        meta = store.get("nodes", node)["metadata"]
    except StatusError:
        return {}
    return meta.get("annotations") or {}


def _spec(store: Readable, name: str) -> dict[str, Any]:
    try:
        found = store.get("felixconfigurations", name)
    except StatusError:
        return {}
    return {key: value for key, value in (found.get("spec") or {}).items() if value is not None}


def _calico_pod(store: Readable, node: str) -> dict[str, Any] | None:
    for pod in store.list("pods"):
        labels = pod["metadata"].get("labels") or {}
        own = pod["spec"].get("nodeName") == node
        if own and labels.get("k8s-app") == "calico-node":
            return pod
    return None
