"""The lab's scheduler: a pod without a node goes to the ready node that has the fewest."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import Any

from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.status import StatusError

Object = dict[str, Any]

_log = logging.getLogger(__name__)


def choose_node(pod: Object, nodes: list[Object], pods: list[Object]) -> str | None:
    """Name of the node for ``pod``; None when none is ready, schedulable and selected."""
    wanted = pod["spec"].get("nodeSelector") or {}
    load = Counter(other["spec"].get("nodeName") for other in pods)
    names = [
        node["metadata"]["name"]
        for node in nodes
        if _is_ready(node)
        and not node.get("spec", {}).get("unschedulable")
        and wanted.items() <= (node["metadata"].get("labels") or {}).items()
    ]
    return min(names, key=lambda name: (load[name], name), default=None)


class Scheduler:
    """A thread that binds pods. ``stop`` then ``join``."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lab-scheduler", daemon=True)

    def start(self) -> None:
        """Begin binding."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stopped.set()
        self._store.wake()

    def join(self, timeout_s: float = 5.0) -> None:
        """Wait for the thread's end."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        seen = 0
        while True:
            version = self._store.version
            if self._stopped.is_set():  # after the version: see ObjectStore.wake
                return
            try:
                self._bind_all()
            except StatusError as error:
                # The pod was deleted meanwhile: the next change brings the next look.
                _log.info("not bound: %s", error)
            seen = max(seen, version)
            self._store.changed(seen, 1.0)

    def _bind_all(self) -> None:
        pods = self._store.list("pods")
        for pod in pods:
            if pod["spec"].get("nodeName") or pod["metadata"].get("deletionTimestamp"):
                continue
            node = choose_node(pod, self._store.list("nodes"), self._store.list("pods"))
            if node is not None:
                meta = pod["metadata"]
                self._store.patch(
                    "pods",
                    meta["name"],
                    {"metadata": {"uid": meta["uid"]}, "spec": {"nodeName": node}},
                    namespace=meta["namespace"],
                )


def _is_ready(node: Object) -> bool:
    conditions = node.get("status", {}).get("conditions", ())
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
