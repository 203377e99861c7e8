"""The lab's kubelet and CNI: a Pod bound to a node becomes a process in a network namespace."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ebpfperf.errors import EbpfperfError
from ebpfperf.lab.ipam import Ipam, pools_of
from ebpfperf.lab.nodes import LabNode, marked_environment, run
from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.status import NotFound, StatusError

GATEWAY = "169.254.1.1"
HOST_SIDE_MAC = "ee:ee:ee:ee:ee:ee"
_RESYNC_S = 5.0
_RETRY_S = 0.5
_EMPTIED_S = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod that runs."""

    uid: str
    name: str
    namespace: str
    process: subprocess.Popen[bytes]
    device: str
    cgroup: Path
    address: str


def device_name(namespace: str, pod: str) -> str:
    """``cali`` and 11 hex digits of the SHA-1 of ``namespace.pod``, as Calico's CNI names it."""
    return "cali" + hashlib.sha1(f"{namespace}.{pod}".encode()).hexdigest()[:11]


def cgroup_of(node: LabNode, uid: str, container: str) -> Path:
    """Where kubelet with the systemd driver puts a best-effort pod's container."""
    pod = f"kubepods-besteffort-pod{uid.replace('-', '_')}.slice"
    return (
        node.cgroup
        / "kubepods.slice"
        / "kubepods-besteffort.slice"
        / pod
        / f"cri-containerd-{container}.scope"
    )


class Kubelet:
    """Keeps one node's pods as the API wants them; level-triggered."""

    def __init__(
        self,
        lab: str,
        node: LabNode,
        store: ObjectStore,
        ipam: Ipam,
        *,
        pod_mtu_bytes: Callable[[], int],
    ) -> None:
        self._lab = lab
        self._node = node
        self._store = store
        self._ipam = ipam
        self._pod_mtu_bytes = pod_mtu_bytes
        self._sandboxes: dict[str, Sandbox] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"kubelet-{node.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and end the pods."""
        self._stopped.set()
        self._store.wake()
        self._thread.join(5.0)
        for sandbox in list(self._sandboxes.values()):
            self._tear_down(sandbox)

    def _run(self) -> None:
        seen = 0
        while True:
            version = self._store.version
            if self._stopped.is_set():  # after the version: see ObjectStore.wake
                return
            try:
                self._reconcile()
            except (EbpfperfError, StatusError, OSError, subprocess.SubprocessError) as error:
                _log.warning("kubelet %s: %s", self._node.name, error)
                self._stopped.wait(_RETRY_S)
                version = seen
            except Exception:  # A controller that died would leave its node stale, unsaid.
                _log.exception("kubelet %s", self._node.name)
                self._stopped.wait(_RETRY_S)
                version = seen
            seen = self._store.changed(version, _RESYNC_S)

    def _reconcile(self) -> None:
        pods = [
            pod
            for pod in self._store.list("pods")
            if pod["spec"].get("nodeName") == self._node.name
        ]
        wanted = {pod["metadata"]["uid"] for pod in pods}
        for uid in set(self._sandboxes) - wanted:
            self._tear_down(self._sandboxes[uid])
        # Going first: a successor may carry the name, and with it the device's name, at once.
        for pod in sorted(pods, key=lambda pod: "deletionTimestamp" not in pod["metadata"]):
            try:
                self._reconcile_pod(pod)
            except NotFound:
                continue  # deleted meanwhile: the next look finds it gone
            except EbpfperfError as error:
                # One pod that cannot be made must not keep the others waiting.
                _log.warning("kubelet %s: %s", self._node.name, error)
                self._report_waiting(pod, str(error))

    def _reconcile_pod(self, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        sandbox = self._sandboxes.get(uid)
        if "deletionTimestamp" in pod["metadata"]:
            if sandbox is not None:
                self._tear_down(sandbox)
            self._store.finalize_delete(
                "pods", pod["metadata"]["name"], pod["metadata"]["namespace"]
            )
        elif pod["spec"].get("hostNetwork"):
            self._report(pod, self._node.underlay_ip)
        elif sandbox is None:
            self._bring_up(pod)
        elif sandbox.process.poll() is not None:
            # The pod's process was killed: as after a crash, the sandbox is made anew.
            self._tear_down(sandbox)
            self._bring_up(pod)

    def _bring_up(self, pod: dict[str, Any]) -> None:
        meta = pod["metadata"]
        address = str(self._ipam.assign(meta["uid"], self._node.name, pools_of(pod)))
        container = hashlib.sha256(f"{meta['uid']}{uuid.uuid4()}".encode()).hexdigest()
        cgroup = cgroup_of(self._node, meta["uid"], container)
        cgroup.mkdir(parents=True)
        pause = 'hostname "$0"; ip link set lo up; echo ready; exec sleep infinity >/dev/null 2>&1'
        process = subprocess.Popen(
            self._node.enter(
                ["unshare", "--net", "--uts", "--", "sh", "-c", pause, meta["name"][:63]]
            ),
            env=marked_environment(self._lab),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        device = device_name(meta["namespace"], meta["name"])
        sandbox = Sandbox(
            meta["uid"], meta["name"], meta["namespace"], process, device, cgroup, address
        )
        self._sandboxes[meta["uid"]] = sandbox
        try:
            assert process.stdout is not None
            process.stdout.readline()
            process.stdout.close()
            (cgroup / "cgroup.procs").write_text(str(process.pid))
            self._wire(sandbox)
        except BaseException:
            # Half a pod would look like a whole one at the next look.
            self._tear_down(sandbox)
            raise
        self._report(pod, address)

    def _wire(self, sandbox: Sandbox) -> None:
        mtu = self._pod_mtu_bytes()
        pid, device = sandbox.process.pid, sandbox.device
        self._node.run(["ip", "link", "del", device], check=False)
        host = [
            f"link add {device} address {HOST_SIDE_MAC} mtu {mtu} type veth "
            f"peer name eth0 mtu {mtu} netns {pid}",
            f"link set {device} addrgenmode none",
            f"link set {device} up",
            f"route replace {sandbox.address}/32 dev {device} scope link",
        ]
        self._node.run(["ip", "-batch", "-"], input="\n".join(host))
        self._node.run(["sysctl", "-qw", f"net.ipv4.conf.{device}.proxy_arp=1"])
        pod = [
            "link set lo up",
            "link set eth0 up",
            f"addr add {sandbox.address}/32 dev eth0",
            f"route add {GATEWAY} dev eth0 scope link",
            f"route add default via {GATEWAY} dev eth0",
            f"neigh replace {GATEWAY} lladdr {HOST_SIDE_MAC} dev eth0 nud permanent",
        ]
        inside = ["nsenter", f"--net=/proc/{pid}/ns/net", "--"]
        # Container runtimes switch IPv6 off where the cluster's network has none.
        run([*inside, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"])
        run([*inside, "ip", "-batch", "-"], input="\n".join(pod))

    def _tear_down(self, sandbox: Sandbox) -> None:
        # The device first: it is named by the pod's name, which a successor may carry at once.
        self._node.run(["ip", "link", "del", sandbox.device], check=False)
        kill = sandbox.cgroup / "cgroup.kill"
        if kill.exists():
            kill.write_text("1")
        sandbox.process.kill()
        sandbox.process.wait(5.0)
        for path in (sandbox.cgroup, sandbox.cgroup.parent):
            deadline = time.monotonic() + _EMPTIED_S
            while time.monotonic() < deadline:
                try:
                    path.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)  # the kernel empties a killed cgroup in its own time
        self._ipam.release(sandbox.uid)
        self._sandboxes.pop(sandbox.uid, None)

    def _report(self, pod: dict[str, Any], address: str) -> None:
        meta = pod["metadata"]
        old = pod.get("status") or {}
        if old.get("podIP") == address and old.get("phase") == "Running":
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": now}
            for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        ]
        statuses = [
            {
                "name": container["name"],
                "image": container.get("image", ""),
                "imageID": "",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": now}},
                "containerID": f"containerd://{hashlib.sha256(meta['uid'].encode()).hexdigest()}",
            }
            for container in pod["spec"].get("containers", ())
        ]
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "hostIP": self._node.underlay_ip,
            "startTime": now,
            "conditions": conditions,
            "containerStatuses": statuses,
            "qosClass": "BestEffort",
        }
        self._store.update_status("pods", meta["name"], status, meta["namespace"])

    def _report_waiting(self, pod: dict[str, Any], message: str) -> None:
        meta = pod["metadata"]
        status = {
            "phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "True"}],
            "message": message,
            "reason": "FailedCreatePodSandBox",
        }
        if (pod.get("status") or {}).get("message") != message:
            self._store.update_status("pods", meta["name"], status, meta["namespace"])
