"""Addresses for pods and tunnels: /26 blocks of the IP pools, each affine to a node, as Calico's.

The blocks are kept as IPAMBlock objects, so that every Felix sees them; which address of a block is
whose is kept here.
"""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Sequence
from typing import Any

from ebpfperf.calico.encapsulation import pool_overlay
from ebpfperf.errors import LabError
from ebpfperf.lab.objects import ObjectStore
from ebpfperf.model import Overlay


class Ipam:
    """Hands out addresses; thread-safe."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._handles: dict[str, ipaddress.IPv4Address] = {}

    def assign(self, handle: str, node: str, pools: Sequence[str] = ()) -> ipaddress.IPv4Address:
        """The address of ``handle`` (a pod's uid, a tunnel's name); the same one every time.

        Parameters
        ----------
        pools
            Names or CIDRs of the pools allowed; none: any that is not disabled.

        Raises
        ------
        LabError
            No pool of that name, or all are full.
        """
        with self._lock:
            if handle in self._handles:
                return self._handles[handle]
            for pool in self._pools(pools):
                for block in self._blocks(pool, node):
                    taken = set(self._handles.values())
                    for address in block:
                        if address not in taken:
                            self._handles[handle] = address
                            return address
            raise LabError(
                f"No address is left for {handle} on {node}.", "Enlarge or add an IP pool."
            )

    def release(self, handle: str) -> None:
        """Give an address back; nothing when the handle has none."""
        with self._lock:
            self._handles.pop(handle, None)

    def assign_tunnel(self, kind: Overlay, node: str) -> str:
        """The address of a node's tunnel device: from a pool of that overlay mode, if there is one.

        LabError as in ``assign``.
        """
        names = [
            pool["metadata"]["name"]
            for pool in ipv4_pools(self._store)
            if not pool["spec"].get("disabled") and pool_overlay(pool["spec"])[0] is kind
        ]
        return str(self.assign(f"{kind}-tunnel-addr-{node}", node, names))

    def _pools(self, wanted: Sequence[str]) -> list[dict[str, Any]]:
        pools = [p for p in ipv4_pools(self._store) if not p["spec"].get("disabled")]
        if not wanted:
            return pools
        found = [p for p in pools if {p["metadata"]["name"], p["spec"]["cidr"]} & set(wanted)]
        if not found:
            raise LabError(
                f"No enabled IP pool is named {', '.join(wanted)}.",
                "Look at the annotation cni.projectcalico.org/ipv4pools and at the pools.",
            )
        return found

    def _blocks(self, pool: dict[str, Any], node: str) -> list[ipaddress.IPv4Network]:
        """The node's blocks in the pool, then a new one if there is room."""
        network = ipaddress.IPv4Network(pool["spec"]["cidr"])
        size = int(pool["spec"].get("blockSize") or 26)
        affine, used = [], set()
        for cidr, owner in affine_blocks(self._store):
            if not cidr.subnet_of(network):
                continue
            used.add(cidr)
            if owner == node:
                affine.append(cidr)
        taken = set(self._handles.values())
        if any(address not in taken for block in affine for address in block):
            return affine
        for cidr in network.subnets(new_prefix=size):
            if cidr not in used:
                self._store.create("ipamblocks", _block(cidr, node))
                return [*affine, cidr]
        return affine


def ipv4_pools(store: ObjectStore) -> list[dict[str, Any]]:
    """The IPPool objects that hold IPv4 addresses, by name; disabled ones too."""
    return [pool for pool in store.list("ippools") if ":" not in pool["spec"]["cidr"]]


def affine_blocks(store: ObjectStore) -> list[tuple[ipaddress.IPv4Network, str]]:
    """(block, name of the node it belongs to); blocks somebody else wrote otherwise are left out.

    The affinity reads ``host:<node>`` (libcalico-go, AllocationBlock).
    """
    found = []
    for block in store.list("ipamblocks"):
        spec = block.get("spec") or {}
        kind, _, owner = str(spec.get("affinity", "")).partition(":")
        try:
            cidr = ipaddress.IPv4Network(spec.get("cidr", ""))
        except ValueError:
            continue
        if kind == "host":
            found.append((cidr, owner))
    return found


def pools_of(pod: dict[str, Any]) -> list[str]:
    """Pool names or CIDRs that the pod's annotation asks for; empty when it does not say."""
    annotations = pod["metadata"].get("annotations") or {}
    text = annotations.get("cni.projectcalico.org/ipv4pools")
    if not text:
        return []
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise LabError(
            f"The annotation cni.projectcalico.org/ipv4pools is no JSON list of names: {text}.",
            'Write for example ["default-ipv4-ippool"].',
        )
    return names


def _block(cidr: ipaddress.IPv4Network, node: str) -> dict[str, Any]:
    return {
        "apiVersion": "crd.projectcalico.org/v1",
        "kind": "IPAMBlock",
        "metadata": {"name": str(cidr).replace(".", "-").replace("/", "-")},
        "spec": {
            "cidr": str(cidr),
            "affinity": f"host:{node}",
            "deleted": False,
            "allocations": [],
            "attributes": [],
            "unallocated": [],
            "strictAffinity": False,
        },
    }
