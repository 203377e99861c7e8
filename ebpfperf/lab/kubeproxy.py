"""The lab's kube-proxy: one a node, serving Services where the standard dataplane is in charge."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from ebpfperf.errors import EbpfperfError
from ebpfperf.lab import conntrack
from ebpfperf.lab.kuberules import Table, restore_text, rules_of
from ebpfperf.lab.nodes import LabNode, run
from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.seed import POOL_CIDR
from ebpfperf.lab.services import ServicePort, service_ports
from ebpfperf.lab.status import NotFound, StatusError

# The dataplane can change hands without a change in the API.
_LOOK_S = 1.0
# What somebody else changed in the kernel is put right this often.
_RESYNC_S = 90.0
# So old must a look at the rules be for the next one, where another kube-proxy writes some.
_OPPOSED_S = 0.5
_RETRY_S = 0.5
_log = logging.getLogger(__name__)


class KubeProxy:
    """Keeps one node's iptables rules as the Services ask for; level-triggered.

    Parameters
    ----------
    active
        Whether it is to serve.
    cleanup
        Whether, while it is not, no rule and no chain of any kube-proxy is to be there: on a real
        node Felix removes them (bpfKubeProxyIptablesCleanupEnabled). Else what is there stays.
    """

    def __init__(
        self,
        node: LabNode,
        store: ObjectStore,
        *,
        active: Callable[[], bool],
        cleanup: Callable[[], bool],
    ) -> None:
        self._node = node
        self._store = store
        self._active = active
        self._cleanup = cleanup
        self._seen: tuple[int, bool] | None = None
        self._written: dict[str, Table] | None = None
        self._written_at = 0.0
        self._udp: set[str] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"kube-proxy-{node.name}", daemon=True
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; the rules go with the node's namespace."""
        self._stopped.set()
        self._store.wake()
        self._thread.join(5.0)

    def _run(self) -> None:
        while True:
            version = self._store.version
            if self._stopped.is_set():  # after the version: see ObjectStore.wake
                return
            try:
                self._look(version)
            except (EbpfperfError, StatusError, OSError, subprocess.SubprocessError) as error:
                _log.warning("kube-proxy %s: %s", self._node.name, error)
                self._retry()
            except Exception:  # A controller that died would leave its node stale, unsaid.
                _log.exception("kube-proxy %s", self._node.name)
                self._retry()
            self._store.changed(version, _LOOK_S)

    def _retry(self) -> None:
        self._seen = self._written = None
        self._stopped.wait(_RETRY_S)

    def _look(self, version: int) -> None:
        state = (version, self._active())
        _, active = state
        if not active and not self._cleanup():
            self._seen = self._written = None
            self._udp = set()
            return
        period = _RESYNC_S if active or not self._opposed() else _OPPOSED_S
        fresh = time.monotonic() - self._written_at < period
        if fresh and state == self._seen:
            return
        ports = service_ports(self._store) if active else ()
        wanted = rules_of(ports, self._node.name, cluster_cidr=POOL_CIDR) if active else {}
        if not fresh or wanted != self._written:
            self._write(wanted)
        self._forget(_udp_backends(ports))
        self._seen = state

    def _opposed(self) -> bool:
        """Whether the cluster has another kube-proxy."""
        try:
            self._store.get("daemonsets", "kube-proxy", "kube-system")
        except NotFound:
            return False
        return True

    def _write(self, wanted: dict[str, Table]) -> None:
        # By ``enter``: the lock of xtables is in the node's own /run.
        saved = run(self._node.enter(["iptables-save"]))
        text = restore_text(wanted, saved)
        if text:
            run(self._node.enter(["iptables-restore", "--noflush", "--wait"]), input=text)
        self._written, self._written_at = wanted, time.monotonic()

    def _forget(self, udp: set[str]) -> None:
        # After the rules: what comes in between would be sent the old way again.
        if gone := self._udp - udp:
            conntrack.forget(self._node, gone)
        self._udp = udp


def _udp_backends(ports: Sequence[ServicePort]) -> set[str]:
    return {
        f"{backend.address}:{backend.port}"
        for port in ports
        if port.protocol == "UDP"
        for backend in port.backends
    }
