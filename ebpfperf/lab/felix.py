"""The lab's stand-in for Felix: one a node. Reads the API's objects, restarts as Felix does."""

from __future__ import annotations

import itertools
import json
import logging
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ebpfperf.calico.mtu import (
    DEFAULT_MTU_IFACE_PATTERN,
    host_mtu_bytes,
    ipip_mtu_bytes,
    pod_mtu_bytes,
    vxlan_mtu_bytes,
)
from ebpfperf.calico.releases import AUTO_MTU_FROM, full_version, minor
from ebpfperf.errors import EbpfperfError
from ebpfperf.lab import felixconfig, felixlog
from ebpfperf.lab.bpfmanager import BpfManager
from ebpfperf.lab.dataplane import (
    DEFAULT_PORT,
    DEFAULT_VNI,
    Dataplane,
    Desired,
    Tunl,
    TunnelDown,
    Vxlan,
    plan_routes,
)
from ebpfperf.lab.ebpf import Wanted as Programs
from ebpfperf.lab.felixconfig import Config
from ebpfperf.lab.ipam import Ipam, affine_blocks, ipv4_pools
from ebpfperf.lab.nodes import LabNode
from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.own_annotations import (
    BY_PROGRAMS,
    FORWARDING,
    PLAIN,
    faults,
    restart_s,
)
from ebpfperf.lab.poolflags import PoolFlags
from ebpfperf.lab.status import StatusError
from ebpfperf.model import Overlay

# Felix's routeRefreshInterval and interfaceRefreshInterval: what somebody else changed in the
# kernel is put right this often, and a measurement is not disturbed more often than that.
RESYNC_S = 90.0
_RETRY_S = 0.5
# So often an endpoint that could not be programmed is tried again.
_DIRTY_S = 10.0
_MTU_FILE = "var/lib/calico/mtu"
# felix/dataplane/linux/vxlan_mgr.go: in eBPF mode the device is told of each packet's way.
_FLOW_BASED_FROM = (3, 31)
_pids = itertools.count(101, 37)
_log = logging.getLogger(__name__)


class Felix:
    """Keeps one node's dataplane as the API wants it; level-triggered."""

    def __init__(
        self,
        node: LabNode,
        nodes: Sequence[LabNode],
        store: ObjectStore,
        ipam: Ipam,
        *,
        release: str,
    ) -> None:
        self._node = node
        self._peers = [peer for peer in nodes if peer.name != node.name]
        self._store = store
        self._ipam = ipam
        self._version = full_version(release)
        # One of them is enough: the flags are the cluster's.
        self._flags = PoolFlags(store, self._version) if node.index == 1 else None
        self._dataplane = Dataplane(node)
        self._bpf = BpfManager(node, self._peers, store, ipam, version=self._version)
        self._log = felixlog.NodeLog(Path(f"/proc/{node.holder_pid}/root"))
        self._pid = 0
        self._config: Config | None = None
        self._host_mtu = 0
        # 0: what it read when it started has been applied.
        self._started_at = 0.0
        self._dirty = ""
        self._dirty_at = 0.0
        self._applied: tuple[Desired, Programs | None] | None = None
        self._applied_at = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"felix-{node.name}", daemon=True)

    @property
    def bpf_active(self) -> bool:
        """Whether the node forwards by eBPF now, or is about to."""
        return self._config is not None and self._config.bpf

    @property
    def kube_proxy_serves(self) -> bool:
        """Whether kube-proxy is in charge of Services, and is there."""
        return self._config is None or self._config.kube_proxy_serves

    @property
    def removes_rules(self) -> bool:
        """Whether no rules of kube-proxy are to be on the node while it does not serve."""
        return self._config is None or self._config.removes_rules

    @property
    def log_lines(self) -> list[str]:
        """What calico-node has logged, oldest first; bounded."""
        return self._log.lines

    def start(self) -> None:
        """Begin."""
        self._thread.start()
        self._bpf.start()

    def stop(self) -> None:
        """End; devices and routes go with the node's namespace."""
        self._stopped.set()
        self._store.wake()
        self._thread.join(5.0)
        self._bpf.stop()
        self._dataplane.close()

    def pod_mtu_bytes(self) -> int:
        """MTU of a pod created now, as Felix tells the CNI plugin."""
        config = self._config or self._read()
        host = self._host_mtu or self._read_host_mtu(config.spec)
        return pod_mtu_bytes(config.spec, config.tunnels, host, self._version)

    def _run(self) -> None:
        while True:
            version = self._store.version
            if self._stopped.is_set():  # after the version: see ObjectStore.wake
                return
            try:
                if self._flags is not None:
                    self._flags.follow()
                self._follow_config()
                self._reconcile()
            except TunnelDown as error:
                message = f"Failed to set tunnel device up error={error.reason}"
                self._say("WARNING", "vxlan_mgr.go", 463, message)
                self._retry()
                continue
            except (EbpfperfError, StatusError, OSError, subprocess.SubprocessError) as error:
                self._say("WARNING", "int_dataplane.go", 2017, f"Failed to apply: {error}")
                _log.warning("felix %s: %s", self._node.name, error)
                self._retry()
                continue
            except Exception as error:  # A controller that died would leave its node stale, unsaid.
                self._say("ERROR", "int_dataplane.go", 2017, f"Failed to apply: {error!r}")
                _log.exception("felix %s", self._node.name)
                self._retry()
                continue
            self._store.changed(version, _DIRTY_S if self._dirty else RESYNC_S)

    def _retry(self) -> None:
        self._applied = None
        self._stopped.wait(_RETRY_S)

    def _read(self) -> Config:
        return felixconfig.read(self._store, self._node.name, self._version, self._config)

    def _annotations(self) -> dict[str, str]:
        return felixconfig.annotations_of(self._store, self._node.name)

    def _follow_config(self) -> None:
        """Start, or restart where something changed: Felix takes no change of these up live."""
        wanted = self._read()
        running = self._config
        if running == wanted:
            return
        if running is not None and running.pod == wanted.pod:
            self._leave(running, wanted)
            wanted = self._read()
        if running is not None and running.pod != wanted.pod:
            self._log.begin()
        self._pid = next(_pids)
        self._config = wanted
        self._applied = None
        self._started_at = time.monotonic()
        self._say(
            "INFO", "daemon.go", 386, f"{felixlog.STARTING} GOMAXPROCS=2 version={self._version}"
        )
        self._say("INFO", "daemon.go", 465, "Loading configuration...")
        for words in felixlog.bpf_start(wanted.spec, self._version, supported=wanted.bpf):
            self._say(*words)

    def _leave(self, running: Config, wanted: Config) -> None:
        """Say why, and wait before the exit, so that one more change costs no other restart."""
        changes = felixlog.config_change(running.spec, wanted.spec, self._version)
        if not changes and running.tunnels == wanted.tunnels:
            return  # a fault put in or taken out: the process just ends
        for words in changes or [felixlog.encapsulation_change(self._version)]:
            self._say(*words)
        self._stopped.wait(restart_s(self._annotations()))
        what = "config" if changes else "encapsulation"
        self._say("WARNING", "daemon.go", 1216, f"Exiting for {what} change")

    def _reconcile(self) -> None:
        """Bring the kernel to what is desired, where that changed or it is time to look again."""
        now = time.monotonic()
        fresh = self._applied is not None and now - self._applied_at < RESYNC_S
        config = self._config
        assert config is not None
        if not fresh:
            self._host_mtu = self._read_host_mtu(config.spec)
        desired = self._desired(config)
        down: TunnelDown | None = None
        if self._applied is None or not fresh or desired != self._applied[0]:
            try:
                self._dataplane.apply(desired)
            except TunnelDown as error:
                down = error  # what does not need the device goes on
        programs = None
        if config.bpf:
            standing = faults(self._annotations())
            programs = self._bpf.plan(
                config.spec, config.tunnels, host_mtu=self._host_mtu, faults=standing
            )
        if not fresh or (desired, programs) != self._applied:
            self._bpf.follow(programs)
            self._write_mtu(self.pod_mtu_bytes())
            self._applied, self._applied_at = (desired, programs), now
        self._tell(BY_PROGRAMS if config.bpf else PLAIN)
        if self._started_at:
            since = f"secsSinceStart={time.monotonic() - self._started_at:.9g}"
            self._say("INFO", "int_dataplane.go", 2307, f"{felixlog.FIRST_UPDATE} {since}")
            config.leave(self._node.dir)
            self._started_at = 0.0
        self._try_dirty(programs)
        if down is not None:
            raise down

    def _try_dirty(self, programs: Programs | None) -> None:
        """Say of an endpoint that no program could be loaded for it, again and again, as Felix."""
        self._dirty = self._bpf.dirty if programs else ""
        now = time.monotonic()
        if self._dirty and now - self._dirty_at >= _DIRTY_S / 2:
            self._dirty_at = now
            for text in felixlog.rejected(self._version):
                self._log.add(text, to_file=False)
            self._say(*felixlog.left_dirty(self._dirty, self._version))

    def _tell(self, forwarding: str) -> None:
        """Let the node's object say how it forwards, where it does not."""
        name = self._node.name
        meta = self._store.get("nodes", name)["metadata"]
        if (meta.get("annotations") or {}).get(FORWARDING) != forwarding:
            patch = {"metadata": {"annotations": {FORWARDING: forwarding}}}
            self._store.patch("nodes", name, patch)

    def _desired(self, config: Config) -> Desired:
        spec, tunnels, node = config.spec, config.tunnels, self._node
        tunl = None
        if tunnels.ipip:
            tunl = Tunl(
                ipip_mtu_bytes(spec, self._host_mtu, self._version),
                self._ipam.assign_tunnel(Overlay.IPIP, node.name),
            )
        vxlan = None
        vteps: dict[str, str] = {}
        if tunnels.vxlan:
            vteps = {
                each.name: self._ipam.assign_tunnel(Overlay.VXLAN, each.name)
                for each in (node, *self._peers)
            }
            vxlan = Vxlan(
                vxlan_mtu_bytes(spec, self._host_mtu, self._version),
                vteps[node.name],
                int(spec.get("vxlanVNI") or DEFAULT_VNI),
                int(spec.get("vxlanPort") or DEFAULT_PORT),
                tuple((peer.name, vteps[peer.name], peer.underlay_ip) for peer in self._peers),
                flow_based=config.bpf and minor(self._version) >= _FLOW_BASED_FROM,
            )
        routes = plan_routes(
            node,
            self._peers,
            [pool["spec"] for pool in ipv4_pools(self._store)],
            affine_blocks(self._store),
            tunnels=tunnels,
            vteps=vteps,
        )
        return Desired(tunl, vxlan, routes)

    def _read_host_mtu(self, spec: dict[str, Any]) -> int:
        links = json.loads(self._node.run(["ip", "-j", "link", "show"]))
        mtus = {link["ifname"]: link["mtu"] for link in links}
        try:
            return host_mtu_bytes(mtus, spec.get("mtuIfacePattern") or DEFAULT_MTU_IFACE_PATTERN)
        except re.error:
            # Go's syntax, which Felix reads, knows a few constructs that Python's does not.
            return host_mtu_bytes(mtus)

    def _write_mtu(self, mtu_bytes: int) -> None:
        """Tell the CNI plugin, where the node has a /var/lib of its own to write to."""
        root = Path(f"/proc/{self._node.holder_pid}/root")
        library = root / "var/lib"
        if minor(self._version) < AUTO_MTU_FROM or not library.is_dir():
            return
        if library.stat().st_dev == Path("/var/lib").stat().st_dev:
            return
        file = root / _MTU_FILE
        file.parent.mkdir(exist_ok=True)
        partial = file.with_suffix(".new")
        partial.write_text(f"{mtu_bytes}\n")
        partial.replace(file)

    def _say(self, level: str, file: str, number: int, message: str) -> None:
        spec = self._config.spec if self._config else {}
        to_file = str(spec.get("logFilePath", "")).lower() != "none"
        text = felixlog.line(level, self._pid, file, number, message)
        self._log.add(text, to_file=to_file)
