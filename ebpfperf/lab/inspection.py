"""What a running lab's nodes show, read from their kernels."""

from __future__ import annotations

import json
from typing import Any

from ebpfperf.lab.dataplane import VXLAN_DEVICE
from ebpfperf.lab.ipip import DEVICE
from ebpfperf.lab.lifecycle import Lab
from ebpfperf.lab.nodes import run

_STAND_IN = "tc-BPF stand-in"


def node_rows(lab: Lab) -> list[dict[str, Any]]:
    """A row a node: what ``nodes.json`` says; pods, encapsulation and ipip driver as observed."""
    rows = []
    for node in lab.nodes:
        enter = ["nsenter", f"--net=/proc/{node['holder_pid']}/ns/net", "--", "ip", "-j", "-d"]
        links = {link["ifname"]: link for link in json.loads(run([*enter, "link", "show"]))}
        routes = json.loads(run([*enter, "route", "show"]) or "[]")
        devices = {route.get("dev") for route in routes}
        tunnel = links.get(DEVICE)
        kind = tunnel["linkinfo"]["info_kind"] if tunnel else ""
        rows.append(
            {
                **node,
                "pods": sum(name.startswith("cali") for name in links),
                "encapsulation": "vxlan"
                if VXLAN_DEVICE in devices
                else "ipip"
                if DEVICE in devices
                else "none",
                "ipip_driver": {"ipip": "kernel", "tun": _STAND_IN}.get(kind, "not in use"),
            }
        )
    return rows
