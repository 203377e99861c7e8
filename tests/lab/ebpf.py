"""A lab in eBPF mode as its users see it: Felix's fields, pods, services, programs, counters, log.

What is read here is read as the tools of a node read it (tc, bpftool, the trace pipe) and decoded
by the tables of Calico's sources; none of the lab's encoders takes part.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.calico_bytes import octets
from lab.namespaces import LIMIT_S, eventually, inside, pause, restart_after, socket_in

from ebpfperf.calico.nodelog import felix_state, parse
from ebpfperf.kube import Kube
from ebpfperf.lab.kubelet import device_name
from ebpfperf.lab.nodes import LabNode
from ebpfperf.lab.running import Lab
from ebpfperf.mutations import Mutation

POOL = "default-ipv4-ippool"
PORT, TARGET = 80, 8080
MODES = {
    "none": {"ipipMode": "Never", "vxlanMode": "Never"},
    "ipip": {"ipipMode": "Always", "vxlanMode": "Never"},
    "vxlan": {"ipipMode": "Never", "vxlanMode": "Always"},
}
FORWARDING, UNKNOWN = "lab.ebpfperf/forwarding", "unknown"
EMULATED, PLAIN = "the lab's own eBPF programs", "plain kernel routing"
PINS = "/sys/fs/bpf/tc/globals"
# Name of the pinned map, where there is one: its version is part of it.
COUNTERS = {"v3.26": "cali_counters2", "v3.30": "cali_counters3", "v3.32": "cali_counters6"}
_TCX = frozenset({"v3.32"})
_ETH_P_ALL = 3
_MOST_BYTES = 16_000_000
_SO_RCVBUFFORCE = 33


@dataclass(frozen=True)
class Pod:
    name: str
    node: LabNode
    address: str
    pid: int

    @property
    def device(self) -> str:
        return device_name("default", self.name)

    def ip(self, *argv: str) -> Any:
        """What ``ip -j`` shows inside the pod."""
        return json.loads(inside(self.pid, "ip", "-j", *argv))


@dataclass(frozen=True)
class Service:
    name: str
    address: str
    node_port: int


class World:
    """One lab, its API, and what its nodes show."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.release = lab.shape.release
        self.kube = Kube.connect(str(lab.kubeconfig))
        self.client = lab.client
        restart_after(self.kube, lab)

    def node(self, number: int) -> LabNode:
        return self.lab.node(f"node-{number}")

    # ------------------------------------------------------------------------ configuration

    def become(
        self,
        overlay: str = "none",
        *,
        own: Mapping[str, Mapping[str, Any]] | None = None,
        **fields: Any,
    ) -> None:
        """Give Felix and the pool these settings, and return when every node forwards by them.

        ``own`` has fields of single nodes. A field that is not named is unset.
        """
        explicit = self.release == "v3.16"
        wanted: dict[str, Any] = {
            "bpfEnabled": True,
            "bpfLogLevel": "Off",
            "bpfExternalServiceMode": None,
            "ipipEnabled": overlay == "ipip" if explicit and own is None else None,
            "vxlanEnabled": overlay == "vxlan" if explicit and own is None else None,
        } | fields
        configurations = {"default": wanted}
        for node in self.lab.nodes:
            configurations[f"node.{node.name}"] = {
                "ipipEnabled": None,
                "vxlanEnabled": None,
            } | dict((own or {}).get(node.name, {}))
        (pool,) = (p for p in self.kube.ippools() if p["metadata"]["name"] == POOL)
        modes = {key: pool["spec"].get(key) for key in MODES[overlay]}
        changes = {name: self._changes(name, spec) for name, spec in configurations.items()}
        nodes = [
            node
            for node in self.lab.nodes
            if modes != MODES[overlay] or changes["default"] or changes[f"node.{node.name}"]
        ]
        before = {node.name: self.felix_pid(node) for node in nodes}
        for name, spec in changes.items():
            self._write(name, spec)
        self.kube.apply(Mutation("patch", "IPPool", POOL, body={"spec": MODES[overlay]}))
        for node in nodes:
            eventually("a new Felix", lambda n=node: self.felix_pid(n) != before[n.name])
        # What Felix writes last, once all else is done; the one before it would not count. The new
        # one may have read half of the changes, and be about to restart once more: what it writes
        # the second time it has read after all of them.
        for _ in range(2):
            for node in nodes:
                self.annotate(node, FORWARDING, UNKNOWN)
            for node in nodes:
                eventually("done", lambda n=node: self.annotation(n, FORWARDING) != UNKNOWN)

    def _changes(self, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        old = (self.kube.felix_configuration(name) or {"spec": {}})["spec"]
        return {key: value for key, value in spec.items() if old.get(key) != value}

    def _write(self, name: str, changes: dict[str, Any]) -> None:
        if not changes:
            return
        verb, body = "patch", {"spec": changes}
        if self.kube.felix_configuration(name) is None:
            verb, body = "create", {"spec": changes, "metadata": {"name": name}}
        self.kube.apply(Mutation(verb, "FelixConfiguration", name, body=body))

    def wait_for_programs(self, node: LabNode) -> None:
        """Until every device of the node that needs them has programs."""

        def there() -> bool:
            devices = {node.nic, *(d for d in self.links(node) if d.startswith("cali"))}
            hooks = {(device, way) for device in devices for way in ("ingress", "egress")}
            return hooks <= set(self.programs(node))

        eventually(f"programs on {node.name}", there)

    def log(self, node: LabNode) -> str:
        """What calico-node has logged there."""
        pod = self.kube.calico_node_pod(node.name)
        assert pod is not None
        return self.kube.logs("kube-system", pod["metadata"]["name"])

    def felix_pid(self, node: LabNode) -> int:
        """Of the one that has started last; where the lab has just come up, of the first."""
        return eventually("Felix's pid", lambda: felix_state(parse(self.log(node))).pid)

    def annotation(self, node: LabNode, key: str) -> str | None:
        found = self.kube.get("Node", node.name)
        assert found is not None
        value = found["metadata"].get("annotations", {}).get(key)
        return None if value is None else str(value)

    def annotate(self, node: LabNode, key: str, value: str | None) -> None:
        body = {"metadata": {"annotations": {key: value}}}
        self.kube.apply(Mutation("patch", "Node", node.name, body=body))

    # ---------------------------------------------------------------------- pods and services

    @contextlib.contextmanager
    def pod(
        self, name: str, node: int, *, behind: str = "", deny: list[dict[str, Any]] | None = None
    ) -> Iterator[Pod]:
        """A pod whose device has its programs, behind that service, with that deny list."""
        place = self.node(node)
        body = {
            "metadata": {
                "name": name,
                "labels": {"behind": behind},
                "annotations": {"lab.ebpfperf/deny": json.dumps(deny or [])},
            },
            "spec": {
                "nodeName": place.name,
                "containers": [{"name": "pause", "image": "pause"}],
            },
        }
        self.kube.apply(Mutation("create", "Pod", name, "default", body))
        try:
            found = self.kube.wait_pod_ready("default", name, timeout_s=LIMIT_S)
            pid = pause(place, found["metadata"]["uid"])
            if self.annotation(place, FORWARDING) == EMULATED:
                self.wait_for_programs(place)
            yield Pod(name, place, found["status"]["podIP"], pid)
        finally:
            self.kube.apply(Mutation("delete", "Pod", name, "default"))
            self.kube.wait_gone("Pod", name, "default", timeout_s=LIMIT_S)

    @contextlib.contextmanager
    def service(self, name: str, **spec: Any) -> Iterator[Service]:
        """A NodePort service for TCP and UDP, behind which pods with ``behind=NAME`` are."""
        ports = [
            {"name": protocol.lower(), "protocol": protocol, "port": PORT, "targetPort": TARGET}
            for protocol in ("TCP", "UDP")
        ]
        body = {
            "metadata": {"name": name},
            "spec": {"type": "NodePort", "selector": {"behind": name}, "ports": ports} | spec,
        }
        self.kube.apply(Mutation("create", "Service", name, "default", body))
        try:
            found = self.kube.get("Service", name, "default")
            assert found is not None
            number = {port["nodePort"] for port in found["spec"]["ports"]}
            assert len(number) == 1
            yield Service(name, found["spec"]["clusterIP"], number.pop())
        finally:
            self.kube.apply(Mutation("delete", "Service", name, "default"))

    # -------------------------------------------------------------------------- what nodes show

    def prints(self, node: LabNode, *argv: str) -> str:
        """What a tool of the node prints."""
        done = subprocess.run(
            node.enter(argv), check=True, capture_output=True, text=True, timeout=LIMIT_S
        )
        return done.stdout

    def tool(self, node: LabNode, *argv: str) -> Any:
        """What a tool of the node prints, as JSON."""
        return json.loads(self.prints(node, *argv) or "[]")

    def links(self, node: LabNode) -> dict[str, dict[str, Any]]:
        return {link["ifname"]: link for link in self.tool(node, "ip", "-d", "-j", "addr", "show")}

    def programs(self, node: LabNode) -> dict[tuple[str, str], int]:
        """(device, hook) → id of the program that Calico has there."""
        if self.release in _TCX:
            found = {}
            for pin in self.at(node, "/sys/fs/bpf/tcx").glob("*"):
                device, _, way = pin.name.rpartition("_")
                path = f"/sys/fs/bpf/tcx/{pin.name}"
                with contextlib.suppress(subprocess.CalledProcessError):
                    shown = self.tool(node, "bpftool", "-j", "link", "show", "pinned", path)
                    found[device, way] = shown["prog_id"]
            return found
        (shown,) = self.tool(node, "bpftool", "-j", "net", "show")
        return {
            (entry["devname"], entry["kind"].removeprefix("clsact/")): entry["id"]
            for entry in shown["tc"]
            if entry["name"].startswith(("cali", "from_", "to_"))
        }

    def at(self, node: LabNode, path: str) -> Path:
        """A path of the node, as this process reaches it."""
        return Path(f"/proc/{node.holder_pid}/root{path}")

    def drops(self, node: LabNode, device: str, reason: int) -> int:
        """Packets dropped so far on the way from the device: of that reason, where it is told.

        v3.16 has no counters: all that the device's clsact qdisc dropped.
        """
        if self.release in COUNTERS:
            return self.counted(node, device, reason)
        shown = self.tool(node, "tc", "-s", "-j", "qdisc", "show", "dev", device)
        return sum(each["drops"] for each in shown if each["kind"] == "clsact")

    def counted(self, node: LabNode, device: str, *numbers: int) -> int:
        """Sum of these counters for what comes from the device."""
        path = f"{PINS}/{COUNTERS[self.release]}"
        index = int(self.links(node)[device]["ifindex"])
        for entry in self.tool(node, "bpftool", "-j", "map", "dump", "pinned", path):
            if octets(entry["key"]) == index.to_bytes(4, "little") + bytes(4):
                values = [octets(each["value"]) for each in entry["values"]]
                return sum(
                    int.from_bytes(value[8 * number : 8 * number + 8], "little")
                    for value in values
                    for number in numbers
                )
        raise AssertionError(f"no counters of {device}")


# ------------------------------------------------------------------------------------ the log


class Trace:
    """The lines of the debug log with these tags, from where it is entered on.

    From an instance of the tracing directory, which has a pipe of its own: whoever reads the
    machine's one pipe takes lines away from other readers.
    """

    def __init__(self, node: LabNode, *tags: str) -> None:
        self._root = Path(f"/proc/{node.holder_pid}/root/sys/kernel/tracing/instances")
        self._place = self._root / f"t{os.getpid()}-{time.monotonic_ns()}"
        # By the kernel: a machine that runs other labs has more to tell than a buffer holds.
        self._only = " || ".join(f'bpf_string ~ "{tag}: *"' for tag in tags)

    def __enter__(self) -> Trace:
        self._place.mkdir()
        # Of each processor.
        (self._place / "buffer_size_kb").write_text(str(max(2048, 32768 // (os.cpu_count() or 1))))
        event = self._place / "events/bpf_trace/bpf_trace_printk"
        (event / "filter").write_text(self._only)
        self._pipe = os.open(self._place / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
        (event / "enable").write_text("1")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._pipe)
        self._place.rmdir()

    def raw(self) -> list[str]:
        """The lines since the last call, as the pipe gives them."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._pipe, 1 << 16):
                data += chunk
                assert len(data) < _MOST_BYTES, "another lab's NIC of the same name talks as well"
        assert b"LOST" not in data
        return data.decode().splitlines()

    def lines(self) -> list[str]:
        """The text of each of them, without the kernel's part and without blank lines."""
        return [line.split(": ", 2)[2] for line in self.raw() if line]

    def enough(self, what: str, are_enough: Callable[[list[str]], bool]) -> list[str]:
        """``lines`` as soon as they are enough: who has sent a packet may go on before it is seen.

        The kernel handles it in its own time where much else is to be done.
        """
        seen: list[str] = []

        def there() -> bool:
            seen.extend(self.lines())
            return are_enough(seen)

        eventually(what, there)
        return seen


# ------------------------------------------------------------------------------ on the wire


class Tap:
    """Frames at a machine's NIC that have ``marker`` in them: (arrived here, frame)."""

    def __init__(self, machine: LabNode, marker: bytes) -> None:
        self._machine, self._marker = machine, marker
        self.frames: list[tuple[bool, bytes]] = []

    def __enter__(self) -> Tap:
        # Without a protocol it gets nothing until it is bound: frames of this NIC alone.
        self._tap = socket_in(self._machine.holder_pid, socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._tap.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64_000_000)
        self._tap.bind((self._machine.nic, _ETH_P_ALL))
        return self

    def __exit__(self, *_: object) -> None:
        """All frames that have passed until now are there afterwards."""
        while select.select([self._tap], [], [], 0.2)[0]:
            frame, (_, _, kind, *_) = self._tap.recvfrom(70_000)
            # A bridge that has forgotten where a machine is sends what is for it to all.
            if self._marker in frame and kind != socket.PACKET_OTHERHOST:
                self.frames.append((kind != socket.PACKET_OUTGOING, frame))
        self._tap.close()

    @property
    def arrived(self) -> list[bytes]:
        return [frame for here, frame in self.frames if here]

    @property
    def left(self) -> list[bytes]:
        return [frame for here, frame in self.frames if not here]


# ------------------------------------------------------------------------------ who answers


class Backend:
    """Answers in a pod: datagrams with themselves, connections with the pod's name and all sent."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.datagrams: list[bytes] = []
        self.clients: list[tuple[str, int]] = []
        kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        self._stream, self._datagram = (socket_in(pod.pid, socket.AF_INET, kind) for kind in kinds)
        for each in (self._stream, self._datagram):
            each.bind(("0.0.0.0", TARGET))
            each.settimeout(0.1)
        self._stream.listen(64)
        self._stopped = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads = [
            threading.Thread(target=self._serve, args=(work,), daemon=True)
            for work in (self._accept, self._answer)
        ]

    def __enter__(self) -> Backend:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._stream.close()
        self._datagram.close()

    def _serve(self, work: Callable[[], None]) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(OSError):
                work()

    def _accept(self) -> None:
        connection, client = self._stream.accept()
        self.clients.append(client)
        self._open.add(connection)
        # In a thread of its own: one whose client is gone keeps nobody else waiting.
        threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(LIMIT_S)
            connection.sendall(self.pod.name.encode().ljust(16))
            while data := connection.recv(1 << 20):
                connection.sendall(data)
        self._open.discard(connection)

    def _answer(self) -> None:
        data, client = self._datagram.recvfrom(4096)
        self.datagrams.append(data)
        self._datagram.sendto(data, client)


def asked(pid: int, address: str, port: int, *, timeout_s: float = LIMIT_S) -> str:
    """The name of the pod that answers a connection from a process's network."""
    with socket_in(pid, socket.AF_INET, socket.SOCK_STREAM) as stream:
        stream.settimeout(timeout_s)
        stream.connect((address, port))
        stream.shutdown(socket.SHUT_WR)
        with stream.makefile() as answer:
            return str(answer.read()).strip()


def exchanged(datagrams: socket.socket, payloads: list[bytes]) -> list[bytes]:
    """The answers of a connected socket's peer, each awaited before the next is asked."""
    answers = []
    for payload in payloads:
        datagrams.send(payload)
        answers.append(datagrams.recv(4096))
    return answers


def answers(pid: int, address: str, port: int) -> bool:
    """Whether both protocols answer now."""
    with contextlib.suppress(OSError):
        asked(pid, address, port, timeout_s=0.5)
        with socket_in(pid, socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.settimeout(0.5)
            datagrams.connect((address, port))
            return exchanged(datagrams, [b"ready?"]) == [b"ready?"]
    return False
