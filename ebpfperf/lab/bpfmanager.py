"""The part of the lab's Felix for eBPF: programs, maps, and what has expired in them."""

from __future__ import annotations

import itertools
import json
import logging
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ebpfperf.calico.encapsulation import Enabled
from ebpfperf.lab import bpfplan, mapbytes
from ebpfperf.lab.bpfplan import LocalPod
from ebpfperf.lab.ebpf import Ebpf, Wanted
from ebpfperf.lab.ipam import Ipam, affine_blocks, ipv4_pools
from ebpfperf.lab.kubelet import device_name
from ebpfperf.lab.nodes import LabNode
from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.own_annotations import DIRTY, FAULT_NAMESPACE, FULL, STALE, deny_list, owned
from ebpfperf.lab.services import ServicePort, service_ports
from ebpfperf.lab.sweeper import PERIOD_S, sweep
from ebpfperf.model import Overlay

_log = logging.getLogger(__name__)


class BpfManager:
    """One node's eBPF dataplane, planned from the API's objects."""

    def __init__(
        self,
        node: LabNode,
        peers: Sequence[LabNode],
        store: ObjectStore,
        ipam: Ipam,
        *,
        version: str,
    ) -> None:
        self._node = node
        self._peers = peers
        self._store = store
        self._ipam = ipam
        self._version = version
        self._ebpf = Ebpf(node)
        # What the sweeper needs of the last plan.
        self._spec: Mapping[str, Any] = {}
        self._backends: frozenset[tuple[bytes, int]] = frozenset()
        self._numbers: mapbytes.Numbers = {}
        self._free = itertools.count(1)
        self._faults: tuple[str, ...] = ()
        dirty = owned(DIRTY, node.name)
        self._dirty, self._left = device_name(FAULT_NAMESPACE, dirty), ""
        self._stopped = threading.Event()
        self._sweeper = threading.Thread(
            target=self._sweep, name=f"sweeper-{node.name}", daemon=True
        )

    def start(self) -> None:
        """Begin to look for connections that are over."""
        self._sweeper.start()

    def stop(self) -> None:
        """End that; maps and programs go with the node."""
        self._stopped.set()
        self._sweeper.join(5.0)

    def plan(
        self,
        spec: Mapping[str, Any],
        tunnels: Enabled,
        *,
        host_mtu: int,
        faults: tuple[str, ...] = (),
    ) -> Wanted:
        """What the node must hold, its devices being as they are now."""
        node = self._node
        links = {
            link["ifname"]: link["ifindex"]
            for link in json.loads(node.run(["ip", "-j", "link", "show"]))
        }
        services = service_ports(self._store)
        self._spec, self._backends, self._faults = spec, _places(services), faults
        self._numbers = mapbytes.numbered(services, self._numbers, self._free)
        cluster = bpfplan.Cluster(
            [pool["spec"] for pool in ipv4_pools(self._store)],
            affine_blocks(self._store),
            self._tunnel_addresses(tunnels),
            services,
            self._numbers,
        )
        pods = self._pods(links)
        self._left = next((pod.device for pod in pods if pod.dirty), "")
        return bpfplan.plan(
            node,
            self._peers,
            cluster,
            pods,
            spec=spec,
            tunnels=tunnels,
            links=links,
            host_mtu=host_mtu,
            release=self._version,
            faults=faults,
        )

    @property
    def dirty(self) -> str:
        """Device of a pod that the last plan left without programs; empty without one."""
        return self._left

    def follow(self, wanted: Wanted | None) -> None:
        """Make the node so; None: without eBPF. LabError when the kernel refuses."""
        if wanted is None and not self._ebpf.active:
            return
        # What a program translates or wraps enters the stack with the node's own address.
        accept = f"net.ipv4.conf.all.accept_local={int(wanted is not None)}"
        self._node.run(["sysctl", "-qw", accept])
        if wanted is None:
            self._ebpf.remove()
        else:
            self._ebpf.apply(wanted)

    def _pods(self, links: Mapping[str, int]) -> list[LocalPod]:
        """The node's pods that have an address and a device."""
        found = []
        for pod in self._store.list("pods"):
            meta, address = pod["metadata"], (pod.get("status") or {}).get("podIP")
            device = device_name(meta["namespace"], meta["name"])
            own = pod["spec"].get("nodeName") == self._node.name
            if not own or pod["spec"].get("hostNetwork") or not address or device not in links:
                continue
            deny = deny_list(meta.get("annotations") or {})
            dirty = DIRTY in self._faults and device == self._dirty
            found.append(LocalPod(device, links[device], address, deny, dirty))
        return found

    def _tunnel_addresses(self, tunnels: Enabled) -> list[tuple[str, str]]:
        kinds = [Overlay.IPIP] * tunnels.ipip + [Overlay.VXLAN] * tunnels.vxlan
        return [
            (self._ipam.assign_tunnel(kind, node.name), node.name)
            for kind in kinds
            for node in (self._node, *self._peers)
        ]

    def _sweep(self) -> None:
        while not self._stopped.wait(PERIOD_S):
            if {STALE, FULL} & {*self._faults}:
                continue
            conntrack = self._ebpf.opened("conntrack")
            if conntrack is None:
                continue
            try:
                sweep(conntrack, self._spec, self._version, lambda: self._backends)
            except OSError as error:
                _log.warning("sweeper %s: %s", self._node.name, error)
            finally:
                conntrack.close()


def _places(services: Sequence[ServicePort]) -> frozenset[tuple[bytes, int]]:
    return frozenset(
        (socket.inet_aton(backend.address), backend.port)
        for port in services
        for backend in port.backends
    )
