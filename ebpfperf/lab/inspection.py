"""What a running lab's nodes show, read from their kernels and from Felix's log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ebpfperf.calico.maps import DIRECTORY
from ebpfperf.errors import LabError
from ebpfperf.lab.nodes import LabNode, run
from ebpfperf.lab.running import Lab

_TUNL, _VXLAN = "tunl0", "vxlan.calico"
_DRIVERS = {"ipip": "kernel", "tun": "tc-BPF stand-in"}


def describe(lab: Lab) -> dict[str, Any]:
    """The lab as a JSON document: what it was asked to be, and a row a node as observed."""
    said = _felix(lab)
    return {
        "name": lab.name,
        "release": lab.shape.release,
        "mtu_bytes": lab.shape.mtu_bytes,
        "subnets": lab.shape.subnets,
        "daemon_pid": lab.daemon_pid,
        "api": lab.api.url,
        "kubeconfig": str(lab.kubeconfig),
        "ssh_config": str(lab.ssh_config),
        "nodes": [_row(node, said.get(node.name, "")) for node in lab.nodes],
        "client": _machine(lab.client, _links(lab.client)),
    }


def _felix(lab: Lab) -> dict[str, str]:
    """Node name → the last line of its Felix's log."""
    pods = "/api/v1/namespaces/kube-system/pods"
    try:
        items = json.loads(lab.api.get(f"{pods}?labelSelector=k8s-app%3Dcalico-node"))["items"]
        return {
            pod["spec"]["nodeName"]: lab.api.get(
                f"{pods}/{pod['metadata']['name']}/log?tailLines=1"
            ).decode(errors="replace")
            for pod in items
        }
    except OSError as error:
        raise LabError(
            f"The API of the lab {lab.name} does not answer: {error}.", "Try again."
        ) from error


def _links(node: LabNode) -> dict[str, Any]:
    shown = run(node.in_network(["ip", "-j", "-d", "link", "show"]))
    return {link["ifname"]: link for link in json.loads(shown)}


def _machine(node: LabNode, links: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": node.name,
        "ssh": f"{node.ssh_address}:{node.ssh_port}",
        "underlay_ip": node.underlay_ip,
        "nic": node.nic,
        "mtu_bytes": links[node.nic]["mtu"],
        "holder_pid": node.holder_pid,
    }


def _row(node: LabNode, felix_said: str) -> dict[str, Any]:
    links = _links(node)
    routes = json.loads(run(node.in_network(["ip", "-j", "route", "show"])) or "[]")
    # Routes to other nodes' blocks; a tunnel device alone encapsulates nothing.
    devices = {route.get("dev") for route in routes if route.get("gateway")}
    tunl = links.get(_TUNL)
    overlays = [name for name, device in (("ipip", _TUNL), ("vxlan", _VXLAN)) if device in devices]
    return {
        **_machine(node, links),
        "pods": sum(name.startswith("cali") for name in links),
        "dataplane": "ebpf" if _has_maps(node) else "standard",
        "encapsulation": " and ".join(overlays) or "none",
        "ipip_driver": _DRIVERS.get(tunl["linkinfo"]["info_kind"], "?") if tunl else "not in use",
        "felix": felix_said.strip(),
    }


def _has_maps(node: LabNode) -> bool:
    """Whether the node has an eBPF dataplane's maps pinned."""
    directory = Path(f"/proc/{node.holder_pid}/root{DIRECTORY}")
    return directory.is_dir() and any(directory.iterdir())
