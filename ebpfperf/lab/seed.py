"""What a freshly installed cluster's API holds, before anybody uses it."""

from __future__ import annotations

import platform
from copy import deepcopy
from pathlib import Path
from typing import Any

from ebpfperf.calico.releases import full_version, minor
from ebpfperf.lab.admission import CONTAINER_DEFAULTS, POD_DEFAULTS
from ebpfperf.lab.nodes import LabNode
from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.own_annotations import EMULATION, FORWARDING, PLAIN
from ebpfperf.lab.status import AlreadyExists

POOL = "default-ipv4-ippool"
POOL_CIDR = "198.19.0.0/16"
SERVICES_ENDPOINT = "kubernetes-services-endpoint"
NOT_CALICO = "independent emulation on one machine; not Calico"
_CALICO_NAMESPACE = "kube-system"
# Go's names, which Kubernetes uses.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def seed(store: ObjectStore, nodes: list[LabNode], release: str) -> None:
    """Create the objects; those that exist are left as they are."""
    version = full_version(release)
    for name in ("default", "kube-system"):
        _create(store, "namespaces", {"metadata": {"name": name}, "status": {"phase": "Active"}})
    for node in nodes:
        _create(store, "nodes", _node(node))
    _create(store, "configmaps", _services_endpoint(nodes[0]))
    _create(
        store,
        "clusterinformations",
        {
            "metadata": {"name": "default"},
            "spec": {"calicoVersion": version, "clusterType": "k8s", "datastoreReady": True},
        },
    )
    _create(
        store,
        "ippools",
        {
            "metadata": {"name": POOL},
            "spec": {
                "cidr": POOL_CIDR,
                "blockSize": 26,
                "ipipMode": "Never",
                "vxlanMode": "Never",
                "natOutgoing": False,
                "nodeSelector": "all()",
            },
        },
    )
    _create(
        store,
        "felixconfigurations",
        {"metadata": {"name": "default"}, "spec": _felix_spec(version)},
    )
    labels = {"k8s-app": "calico-node"}
    template = {"metadata": {"labels": labels}, "spec": _calico_pod_spec(version)}
    _create(
        store,
        "daemonsets",
        {
            "metadata": {"name": "calico-node", "namespace": _CALICO_NAMESPACE, "labels": labels},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
            "status": {
                "currentNumberScheduled": len(nodes),
                "desiredNumberScheduled": len(nodes),
                "numberReady": len(nodes),
                "numberAvailable": len(nodes),
                "numberMisscheduled": 0,
            },
        },
    )
    for node in nodes:
        _create(
            store,
            "pods",
            {
                "metadata": {
                    "name": f"calico-node-{node.index:05x}",
                    "namespace": _CALICO_NAMESPACE,
                    "labels": labels,
                },
                "spec": _calico_pod(version, node.name),
            },
        )


def _create(store: ObjectStore, resource: str, obj: dict[str, Any]) -> None:
    try:
        store.create(resource, obj)
    except AlreadyExists:
        return


def _services_endpoint(node: LabNode) -> dict[str, Any]:
    """Where Calico finds the API without kube-proxy, as its guide to eBPF mode has one write it.

    The address is a node's, as a control plane's would be; nobody of the lab calls it.
    """
    return {
        "metadata": {"name": SERVICES_ENDPOINT, "namespace": _CALICO_NAMESPACE},
        "data": {"KUBERNETES_SERVICE_HOST": node.underlay_ip, "KUBERNETES_SERVICE_PORT": "6443"},
    }


def _felix_spec(version: str) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "bpfLogLevel": "",
        "logSeverityScreen": "Info",
        "reportingInterval": "0s",
    }
    # Up to v3.22 the flags are explicit; later an unset flag is derived from the pools.
    if minor(version) < (3, 23):
        spec |= {"ipipEnabled": False, "vxlanEnabled": False}
    return spec


def _calico_pod_spec(version: str) -> dict[str, Any]:
    return {
        "hostNetwork": True,
        "containers": [{"name": "calico-node", "image": f"docker.io/calico/node:{version}"}],
    }


def _calico_pod(version: str, node: str) -> dict[str, Any]:
    """``spec`` of a pod of the DaemonSet, as the API would have stored it."""
    spec = _calico_pod_spec(version)
    containers = [{**each, **deepcopy(CONTAINER_DEFAULTS)} for each in spec["containers"]]
    return {**spec, **POD_DEFAULTS, "containers": containers, "nodeName": node}


def _node(node: LabNode) -> dict[str, Any]:
    return {
        "metadata": {
            "name": node.name,
            "labels": {
                "kubernetes.io/hostname": node.name,
                "kubernetes.io/os": "linux",
            },
            "annotations": {
                "projectcalico.org/IPv4Address": f"{node.underlay_ip}/24",
                EMULATION: NOT_CALICO,
                FORWARDING: PLAIN,
            },
        },
        "spec": {},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": node.underlay_ip},
                {"type": "Hostname", "address": node.name},
            ],
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            "nodeInfo": {
                "kernelVersion": platform.release(),
                "operatingSystem": "linux",
                "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
                "osImage": "ebpfperf lab",
                "kubeletVersion": "v1.30.0",
                "containerRuntimeVersion": "lab://1",
                "kubeProxyVersion": "",
                # The kernel's own: nodes that share a kernel show it.
                "bootID": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
                "machineID": "",
                "systemUUID": "",
            },
        },
    }
