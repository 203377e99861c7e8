"""The lab's stand-in for Felix: one a node. Reads the API's objects, restarts as Felix does."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ebpfperf.calico.encapsulation import Enabled, enabled
from ebpfperf.calico.mtu import host_mtu_bytes, pod_mtu_bytes
from ebpfperf.calico.releases import full_version, minor
from ebpfperf.errors import EbpfperfError
from ebpfperf.lab.dataplane import Dataplane
from ebpfperf.lab.felixlog import line
from ebpfperf.lab.ipam import Ipam
from ebpfperf.lab.nodes import LabNode
from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.status import StatusError

RESTART_S = 2.0
_RESYNC_S = 5.0
_KEPT_LINES = 5000
_pids = itertools.count(101, 37)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Config:
    """What Felix read when it started: only another start takes a change up."""

    spec: dict[str, Any]
    tunnels: Enabled


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
        self._store = store
        self._version = full_version(release)
        self._dataplane = Dataplane(node, nodes, ipam)
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._pid = 0
        self._config: Config | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"felix-{node.name}", daemon=True)

    @property
    def log_lines(self) -> list[str]:
        """What calico-node has logged, oldest first; bounded."""
        return list(self._lines)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; devices and routes go with the node's namespace."""
        self._stopped.set()
        self._store.wake()
        self._thread.join(5.0)
        self._dataplane.close()

    def pod_mtu_bytes(self) -> int:
        """MTU of a pod created now, as Felix would tell the CNI plugin."""
        config = self._config or self._read()
        return pod_mtu_bytes(config.spec, config.tunnels, self._host_mtu(), self._version)

    def _run(self) -> None:
        seen = 0
        while not self._stopped.is_set():
            version = self._store.version
            try:
                self._follow_config()
                self._reconcile()
            except (EbpfperfError, StatusError, OSError, subprocess.SubprocessError) as error:
                self._say("WARNING", "int_dataplane.go", 2017, f"Failed to apply: {error}")
                _log.warning("felix %s: %s", self._node.name, error)
                self._stopped.wait(0.5)
                version = seen
            seen = self._store.changed(version, _RESYNC_S)

    def _read(self) -> Config:
        spec: dict[str, Any] = {}
        for name in ("default", f"node.{self._node.name}"):
            try:
                spec |= self._store.get("felixconfigurations", name)["spec"]
            except StatusError:
                continue
        pools = [pool["spec"] for pool in self._store.list("ippools")]
        return Config(spec, enabled(spec, pools, self._version))

    def _follow_config(self) -> None:
        """Start, or restart where something changed that Felix cannot take up live."""
        wanted = self._read()
        running = self._config
        if running == wanted:
            return
        if running is not None:
            self._say_why(running, wanted)
            # Felix waits before it exits, so that one more change does not cost another restart.
            self._stopped.wait(RESTART_S)
            what = "config" if running.spec != wanted.spec else "encapsulation"
            self._say("WARNING", "daemon.go", 1216, f"Exiting for {what} change")
            wanted = self._read()
        self._pid = next(_pids)
        self._config = wanted
        self._say(
            "INFO", "daemon.go", 386, f"Felix starting up GOMAXPROCS=2 version={self._version}"
        )
        self._say("INFO", "daemon.go", 465, "Loading configuration...")
        if wanted.spec.get("bpfEnabled"):
            # The truth: this lab forwards by the kernel, so BPF mode is not to be had.
            message = (
                "BPF dataplane mode enabled but not supported by the kernel.  Disabling BPF mode."
            )
            self._say("ERROR", "daemon.go", 337, message)

    def _say_why(self, running: Config, wanted: Config) -> None:
        old, new = running.spec, wanted.spec
        for key in sorted(set(old) | set(new)):
            if old.get(key) == new.get(key):
                continue
            fields = f'key="{key}" new="{_text(new.get(key))}" old="{_text(old.get(key))}"'
            if minor(self._version) >= (3, 24):
                message = "Configuration value changed; change DOES require Felix to restart."
                self._say("INFO", "config_params.go", 1047, f"{message} {fields}")
            else:
                self._say("WARNING", "daemon.go", 1084, f"Config change requires restart {fields}")
        if old == new:
            kinds = (
                "IPIP, VXLAN and/or noencap"
                if minor(self._version) >= (3, 26)
                else "IPIP and/or VXLAN"
            )
            self._say(
                "WARNING", "daemon.go", 1147, f"{kinds} encapsulation changed, need to restart."
            )

    def _reconcile(self) -> None:
        config = self._config
        assert config is not None
        self._dataplane.apply(
            config.spec,
            self._store.list("ippools"),
            self._store.list("ipamblocks"),
            tunnels=config.tunnels,
            host_mtu_bytes=self._host_mtu(),
            version=self._version,
        )

    def _host_mtu(self) -> int:
        links = json.loads(self._node.run(["ip", "-j", "link", "show"]))
        return host_mtu_bytes({link["ifname"]: link["mtu"] for link in links})

    def _say(self, level: str, file: str, number: int, message: str) -> None:
        self._lines.append(line(level, self._pid, file, number, message))


def _text(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
