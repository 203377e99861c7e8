"""What the lab puts on the wire and on its nodes, mode by mode: captured, counted, read back."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab.ebpf import MODES, POOL, Pod
from lab.namespaces import (
    LIMIT_S,
    eventually,
    inside,
    one_processor,
    pause,
    restart_after,
    socket_in,
)

from ebpfperf.calico.nodelog import felix_state, parse
from ebpfperf.kube import Kube
from ebpfperf.lab import lifecycle
from ebpfperf.lab.cgroups import cgroup_root
from ebpfperf.lab.nodes import LabNode
from ebpfperf.lab.running import Lab
from ebpfperf.lab.state import Shape
from ebpfperf.mutations import Mutation

pytestmark = pytest.mark.lab

PORT = 5201
PRIME = 101
OVERHEAD = {"none": 0, "ipip": 20, "vxlan": 50}
DEVICES = {"ipip": "tunl0", "vxlan": "vxlan.calico"}
_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
_IP_MTU_DISCOVER, _IP_PMTUDISC_DO, _IP_MTU = 10, 2, 14


# ---------------------------------------------------------------------------------- the cluster


class Cluster:
    """The lab as its users have it, and the processes that hold its namespaces."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.kube = Kube.connect(str(lab.kubeconfig))
        self.nodes = {node.name: node for node in lab.nodes}
        restart_after(self.kube, lab)

    def patch(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        self.kube.apply(Mutation("patch", kind, name, body={"spec": spec}))

    def felix(self, **fields: Any) -> None:
        self.patch("FelixConfiguration", "default", fields)

    def pool(self, **fields: Any) -> None:
        self.patch("IPPool", POOL, fields)

    def log(self, node: str) -> str:
        pod = self.kube.calico_node_pod(node)
        assert pod is not None
        return self.kube.logs("kube-system", pod["metadata"]["name"])

    def felix_pid(self, node: str) -> int:
        return eventually("Felix runs", lambda: felix_state(parse(self.log(node))).pid or 0)

    def create(self, name: str, node: str, **annotations: str) -> None:
        meta = {"name": name, "annotations": {f"cni.projectcalico.org/{k}": v
                                              for k, v in annotations.items()}}  # fmt: skip
        spec = {"nodeName": node, "containers": [{"name": "pause", "image": "pause"}]}
        body = {"metadata": meta, "spec": spec}
        self.kube.apply(Mutation("create", "Pod", name, "default", body))

    def ready(self, name: str) -> Pod:
        found = self.kube.wait_pod_ready("default", name, timeout_s=LIMIT_S)
        node = self.nodes[found["spec"]["nodeName"]]
        return Pod(name, node, found["status"]["podIP"], pause(node, found["metadata"]["uid"]))

    def delete(self, name: str) -> None:
        self.kube.apply(Mutation("delete", "Pod", name, "default"))
        self.kube.wait_gone("Pod", name, "default", timeout_s=LIMIT_S)

    @contextlib.contextmanager
    def pod(self, name: str, node: str, **annotations: str) -> Iterator[Pod]:
        self.create(name, node, **annotations)
        try:
            yield self.ready(name)
        finally:
            self.delete(name)

    def routes(self, node: str) -> dict[str, dict[str, Any]]:
        """Destination → route, of those to whole blocks."""
        found = json.loads(self.nodes[node].run(["ip", "-j", "route", "show"]))
        return {route["dst"]: route for route in found if route["dst"].endswith("/26")}

    def links(self, node: str) -> dict[str, dict[str, Any]]:
        found = json.loads(self.nodes[node].run(["ip", "-d", "-j", "addr", "show"]))
        return {link["ifname"]: link for link in found}

    def way(self, node: str) -> str:
        """The device by which the node sends to the other's pods, if any."""
        return str((self.to_peer(node) or {}).get("dev", ""))

    def to_peer(self, node: str) -> dict[str, Any] | None:
        """The node's route to the block that both nodes' first pods come from, if any."""
        found = [r for r in self.routes(node).values() if r.get("type") != "blackhole"]
        return found[0] if found else None


def cgroup(node: LabNode, pid: int) -> Path:
    """The cgroup of a pod's process, as the host sees it."""
    (line,) = [one for one in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
               if one.startswith("0::")]  # fmt: skip
    return cgroup_root() / line.removeprefix("0::/")


@contextlib.contextmanager
def a_cluster(release: str, *, subnets: int = 1, mtu_bytes: int = 1500) -> Iterator[Cluster]:
    name = f"dp{os.getpid()}-{release.replace('.', '')}-{subnets}"
    lab, _ = lifecycle.up(
        Shape(name, nodes=2, release=release, mtu_bytes=mtu_bytes, subnets=subnets)
    )
    try:
        cluster = Cluster(lab)
        yield cluster
        cluster.kube.close()
    finally:
        lifecycle.down(name)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with a_cluster("v3.26") as cluster:
        yield cluster


@dataclass(frozen=True)
class Running:
    """The cluster in one mode, with a pod on each node."""

    mode: str
    cluster: Cluster
    client: Pod
    server: Pod

    @property
    def pod_mtu(self) -> int:
        return 1500 - OVERHEAD[self.mode]


@pytest.fixture(scope="module", params=list(MODES))
def running(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Running]:
    mode = request.param
    show(cluster, mode)
    with cluster.pod("client", "node-1") as client, cluster.pod("server", "node-2") as server:
        for name, node in cluster.nodes.items():
            device = DEVICES.get(mode, node.nic)
            # Devices come before the routes that lead through them.
            eventually("the mode's route", lambda n=name, d=device: cluster.way(n) == d)
        yield Running(mode, cluster, client, server)


def show(cluster: Cluster, mode: str) -> None:
    """Switch the pool, and wait until both Felixes have restarted, if they have to."""
    pool = next(p for p in cluster.kube.ippools() if p["metadata"]["name"] == POOL)
    before = {name: cluster.felix_pid(name) for name in cluster.nodes}
    switches = {k: pool["spec"].get(k) for k in MODES[mode]} != MODES[mode]
    cluster.pool(**MODES[mode])
    for name in cluster.nodes:
        if switches:
            eventually(f"Felix on {name} restarts",
                       lambda n=name: cluster.felix_pid(n) != before[n])  # fmt: skip
        eventually(f"{name} shows {mode}", lambda n=name: shows(cluster, n, mode))


def shows(cluster: Cluster, node: str, mode: str) -> bool:
    links = cluster.links(node)
    tunl = any(a["family"] == "inet" for a in links.get("tunl0", {}).get("addr_info", ()))
    return (tunl, "vxlan.calico" in links) == (mode == "ipip", mode == "vxlan")


# ------------------------------------------------------------------------------ on the wire


@contextlib.contextmanager
def captured(node: LabNode, marker: bytes) -> Iterator[list[bytes]]:
    """Frames with ``marker`` in them that arrive at the node's NIC, complete after the block."""
    tap = socket_in(node.holder_pid, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    with tap:
        tap.bind((node.nic, _ETH_P_ALL))
        tap.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8_000_000)
        frames: list[bytes] = []
        yield frames
        tap.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while True:
                frame, (_, _, kind, *_) = tap.recvfrom(70_000)
                if kind != socket.PACKET_OUTGOING and marker in frame:
                    frames.append(frame)


@dataclass(frozen=True)
class IPv4:
    protocol: int
    source: str
    destination: str
    ttl: int
    dont_fragment: bool
    length: int
    payload: bytes


def ipv4(packet: bytes) -> IPv4:
    header = packet[: (packet[0] & 15) * 4]
    assert ones_sum(header) == 0xFFFF, "the header's checksum is wrong"
    length, flags = struct.unpack("!H2xH", header[2:8])
    return IPv4(
        protocol=header[9],
        source=socket.inet_ntoa(header[12:16]),
        destination=socket.inet_ntoa(header[16:20]),
        ttl=header[8],
        dont_fragment=bool(flags & 0x4000),
        length=length,
        payload=packet[len(header) : length],
    )


def ones_sum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def unwrapped(frame: bytes, running: Running) -> tuple[IPv4, IPv4]:
    """The outer and the inner packet of a frame, which is of the mode or the test fails."""
    assert frame[12:14] == b"\x08\x00"
    outer = ipv4(frame[14:])
    if running.mode == "none":
        return outer, outer
    assert (outer.source, outer.destination) == (
        running.client.node.underlay_ip,
        running.server.node.underlay_ip,
    )
    if running.mode == "ipip":
        assert outer.protocol == 4
        return outer, ipv4(outer.payload)
    assert outer.protocol == socket.IPPROTO_UDP
    (port,) = struct.unpack("!2xH", outer.payload[:4])
    flags, vni = struct.unpack("!B3xI", outer.payload[8:16])
    assert (port, flags, vni >> 8) == (4789, 0x08, 4096)
    assert outer.payload[28:30] == b"\x08\x00"
    return outer, ipv4(outer.payload[30:])


# ------------------------------------------------------------------------------ mode by mode


def test_what_leaves_a_pod_is_of_that_mode_on_the_wire_and_all_arrives(running: Running) -> None:
    marker = os.urandom(16)
    sender = socket_in(running.client.pid, socket.AF_INET, socket.SOCK_DGRAM)
    receiver = socket_in(running.server.pid, socket.AF_INET, socket.SOCK_DGRAM)
    with sender, receiver, captured(running.server.node, marker) as frames:
        receiver.bind((running.server.address, PORT))
        sent = [marker + struct.pack("!I", i) + bytes(i) for i in range(PRIME)]
        with one_processor():
            for payload in sent:
                sender.sendto(payload, (running.server.address, PORT))
        got = [receiver.recv(2000) for _ in sent]
    assert got == sent
    assert len(frames) == PRIME
    for frame, payload in zip(frames, sent, strict=True):
        outer, inner = unwrapped(frame, running)
        assert (inner.source, inner.destination) == (
            running.client.address,
            running.server.address,
        )
        assert inner.payload[8:] == payload
        # Routed once, on the sender's node.
        assert inner.ttl == 63
        if running.mode == "ipip":
            assert (outer.ttl, outer.dont_fragment) == (inner.ttl, inner.dont_fragment)
            assert outer.length == inner.length + 20


def test_checksums_are_right_where_the_pod_computes_them(running: Running) -> None:
    inside(running.client.pid, "ethtool", "-K", "eth0", "tx", "off")
    try:
        marker = os.urandom(16)
        sender = socket_in(running.client.pid, socket.AF_INET, socket.SOCK_DGRAM)
        receiver = socket_in(running.server.pid, socket.AF_INET, socket.SOCK_DGRAM)
        with sender, receiver, captured(running.server.node, marker) as frames:
            receiver.bind((running.server.address, PORT))
            sender.sendto(marker + b"odd", (running.server.address, PORT))
            assert receiver.recv(100) == marker + b"odd"
    finally:
        inside(running.client.pid, "ethtool", "-K", "eth0", "tx", "on")
    (frame,) = frames
    _, inner = unwrapped(frame, running)
    pseudo = socket.inet_aton(inner.source) + socket.inet_aton(inner.destination)
    pseudo += struct.pack("!HH", socket.IPPROTO_UDP, len(inner.payload))
    assert ones_sum(pseudo + inner.payload) == 0xFFFF


def test_mss_is_the_pods_mtu_less_headers(running: Running) -> None:
    listener = socket_in(running.server.pid, socket.AF_INET, socket.SOCK_STREAM)
    client = socket_in(running.client.pid, socket.AF_INET, socket.SOCK_STREAM)
    with listener, client:
        listener.bind((running.server.address, PORT))
        listener.listen()
        # A SYN has no payload to mark: its ports are its mark.
        client.bind((running.client.address, 0))
        marker = struct.pack("!HH", client.getsockname()[1], PORT)
        with captured(running.server.node, marker) as frames:
            client.connect((running.server.address, PORT))
            accepted, _ = listener.accept()
        with accepted:
            segment = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    timestamps = open("/proc/sys/net/ipv4/tcp_timestamps").read().strip() != "0"
    assert segment == running.pod_mtu - 40 - (12 if timestamps else 0)
    segments = [unwrapped(frame, running)[1].payload for frame in frames]
    syn = next(segment for segment in segments if segment[13] == 0x02)
    assert syn[20:22] == b"\x02\x04", "the first option of a SYN is its MSS"
    assert struct.unpack("!H", syn[22:24]) == (running.pod_mtu - 40,)


def test_bulk_arrives_whole_segmented_by_nobody_or_right(running: Running) -> None:
    listener = socket_in(running.server.pid, socket.AF_INET, socket.SOCK_STREAM)
    client = socket_in(running.client.pid, socket.AF_INET, socket.SOCK_STREAM)
    data = os.urandom(1_000_003) * 31
    with listener, client:
        listener.bind((running.server.address, PORT))
        listener.listen()
        client.connect((running.server.address, PORT))
        accepted, _ = listener.accept()
        # For ``sendall`` a limit is one of the whole; whoever receives has one for each piece.
        client.settimeout(None)
        accepted.settimeout(LIMIT_S)

        def send() -> None:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        digest, count = hashlib.sha256(), 0
        with accepted:
            while chunk := accepted.recv(1_000_000):
                digest.update(chunk)
                count += len(chunk)
        thread.join(LIMIT_S)
    assert count == len(data)
    assert digest.digest() == hashlib.sha256(data).digest()


def test_devices_carry_the_mtu_of_the_mode(running: Running) -> None:
    for pod in (running.client, running.server):
        assert pod.ip("link", "show", "eth0")[0]["mtu"] == running.pod_mtu
        links = running.cluster.links(pod.node.name)
        assert links[pod.device]["mtu"] == running.pod_mtu
        assert links[pod.device]["address"] == "ee:ee:ee:ee:ee:ee"
        if running.mode != "none":
            assert links[DEVICES[running.mode]]["mtu"] == running.pod_mtu
        mtu_file = Path(f"/proc/{pod.node.holder_pid}/root/var/lib/calico/mtu")
        eventually("the MTU file", lambda f=mtu_file: (
            f.exists() and f.read_text() == f"{running.pod_mtu}\n"
        ))  # fmt: skip


def test_a_pod_reaches_the_world_by_calicos_gateway(running: Running) -> None:
    routes = {route["dst"]: route for route in running.client.ip("route", "show")}
    assert routes["default"]["gateway"] == "169.254.1.1"
    assert routes["169.254.1.1"]["scope"] == "link"
    (address,) = [
        a
        for a in running.client.ip("addr", "show", "eth0")[0]["addr_info"]
        if a["family"] == "inet"
    ]
    assert (address["local"], address["prefixlen"]) == (running.client.address, 32)
    node = json.loads(running.client.node.run(["ip", "-j", "route", "show"]))
    assert {"dst": running.client.address, "dev": running.client.device, "scope": "link",
            "flags": []} in node  # fmt: skip


@pytest.mark.parametrize("running", ["ipip"], indirect=True)
def test_the_stand_in_for_ipip_shows_itself(running: Running) -> None:
    link = running.cluster.links("node-1")["tunl0"]
    assert link["linkinfo"]["info_kind"] in ("ipip", "tun")


@pytest.mark.parametrize("running", ["ipip", "vxlan"], indirect=True)
def test_an_oversize_packet_is_answered_with_the_mtu_to_use(running: Running) -> None:
    # A pod that was made before the mode was switched still has the MTU of then.
    with running.cluster.pod("stale", "node-1") as stale:
        inside(stale.pid, "ip", "link", "set", "eth0", "mtu", "1500")
        stale.node.run(["ip", "link", "set", stale.device, "mtu", "1500"])
        with socket_in(stale.pid, socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
            sender.connect((running.server.address, PORT))
            sender.send(bytes(1500 - 28))
            eventually(
                "ICMP says fragmentation needed",
                lambda: sender.getsockopt(socket.IPPROTO_IP, _IP_MTU) == running.pod_mtu,
            )
            # The ICMP error of the first is taken off, should it be there.
            sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            with pytest.raises(OSError, match="Message too long") as refused:
                sender.send(bytes(1500 - 28))
            assert refused.value.errno == errno.EMSGSIZE


def test_the_largest_packet_of_the_pods_mtu_passes(running: Running) -> None:
    sender = socket_in(running.client.pid, socket.AF_INET, socket.SOCK_DGRAM)
    receiver = socket_in(running.server.pid, socket.AF_INET, socket.SOCK_DGRAM)
    with sender, receiver:
        receiver.bind((running.server.address, PORT))
        sender.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
        payload = os.urandom(running.pod_mtu - 28)
        sender.sendto(payload, (running.server.address, PORT))
        assert receiver.recv(2000) == payload


# ------------------------------------------------------------------------------------- Felix


def test_a_flag_set_to_false_beats_the_pool_and_unset_follows_it(cluster: Cluster) -> None:
    show(cluster, "vxlan")
    with cluster.pod("a", "node-1"), cluster.pod("b", "node-2"):
        eventually("routes by VXLAN", lambda: cluster.way("node-1") == "vxlan.calico")
        cluster.felix(vxlanEnabled=False)
        eventually("the device is gone", lambda: "vxlan.calico" not in cluster.links("node-1"))
        eventually("no way to the peer", lambda: cluster.to_peer("node-1") is None)
        with cluster.pod("plain", "node-1") as plain:
            assert plain.ip("link", "show", "eth0")[0]["mtu"] == 1500
        cluster.felix(vxlanEnabled=None)
        eventually("the device is back", lambda: "vxlan.calico" in cluster.links("node-1"))
        eventually("routes by VXLAN", lambda: cluster.way("node-1") == "vxlan.calico")


def test_a_flag_set_to_true_keeps_a_tunnel_that_no_pool_uses(cluster: Cluster) -> None:
    show(cluster, "none")
    cluster.felix(ipipEnabled=True)
    try:
        eventually("tunl0 has an address", lambda: shows(cluster, "node-1", "ipip"))
        with cluster.pod("small", "node-1") as small, cluster.pod("b", "node-2"):
            assert small.ip("link", "show", "eth0")[0]["mtu"] == 1480
            route = eventually("a route", lambda: cluster.to_peer("node-1"))
            assert route["dev"] == "ens11"
    finally:
        cluster.felix(ipipEnabled=None)
    for node in cluster.nodes:
        eventually("tunl0 has no address", lambda n=node: shows(cluster, n, "none"))


def test_a_restart_is_told_in_calicos_words(cluster: Cluster) -> None:
    show(cluster, "none")
    loading = "Loading configuration..."
    before = cluster.felix_pid("node-2")
    restart_after(cluster.kube, cluster.lab, None)
    cluster.felix(bpfLogLevel="Info")
    after = before

    def loads() -> bool:
        nonlocal after
        after = cluster.felix_pid("node-2")
        return after > before and any(
            line.pid == after and line.message == loading for line in parse(cluster.log("node-2"))
        )

    try:
        eventually("a new Felix", loads)
    finally:
        restart_after(cluster.kube, cluster.lab)
        cluster.felix(bpfLogLevel="")
    lines = [line for line in parse(cluster.log("node-2")) if line.pid >= before]
    messages = [line.message for line in lines]
    told = messages.index(
        "Configuration value changed; change DOES require Felix to restart. "
        'key="BPFLogLevel" new="Info" old=""'
    )
    left = messages.index("Exiting for config change")
    assert told < left < messages.index(loading, left)
    assert (lines[left].time - lines[told].time).total_seconds() >= 1.9
    eventually("settled again", lambda: cluster.felix_pid("node-2") > after)


def test_port_vni_and_mtu_of_vxlan_are_honoured(cluster: Cluster) -> None:
    show(cluster, "vxlan")
    cluster.felix(vxlanPort=4790, vxlanVNI=4097, vxlanMTU=1400)
    try:
        wanted = (4097, 4790, 1400)

        def shown(node: str) -> bool:
            link = cluster.links(node).get("vxlan.calico")
            data = link["linkinfo"]["info_data"] if link else {}
            return bool(link) and (data["id"], data["port"], link["mtu"]) == wanted

        for node in cluster.nodes:
            eventually(f"{node} shows it", lambda n=node: shown(n))
        with cluster.pod("a", "node-1") as a, cluster.pod("b", "node-2") as b:
            assert a.ip("link", "show", "eth0")[0]["mtu"] == 1400
            # The other node's entries of this one come after the device that was seen.
            eventually("an echo", lambda: echo(a, b))
    finally:
        before = cluster.felix_pid("node-2")
        cluster.felix(vxlanPort=None, vxlanVNI=None, vxlanMTU=None)
        eventually("a new Felix", lambda: cluster.felix_pid("node-2") > before)


def echo(one: Pod, other: Pod) -> bool:
    """Whether a datagram gets from one pod to the other, within a second."""
    sender = socket_in(one.pid, socket.AF_INET, socket.SOCK_DGRAM)
    receiver = socket_in(other.pid, socket.AF_INET, socket.SOCK_DGRAM)
    with sender, receiver:
        receiver.bind((other.address, PORT))
        receiver.settimeout(1.0)
        sender.sendto(b"?", (other.address, PORT))
        try:
            return receiver.recv(10) == b"?"
        except TimeoutError:
            return False


@pytest.mark.parametrize(("mode", "device"), [("vxlanMode", "vxlan.calico"), ("ipipMode", "tunl0")])
def test_cross_subnet_does_without_a_tunnel_inside_a_subnet(
    cluster: Cluster, mode: str, device: str
) -> None:
    show(cluster, "none")
    before = {node: cluster.felix_pid(node) for node in cluster.nodes}
    cluster.pool(**{mode: "CrossSubnet"})
    try:
        for node in cluster.nodes:
            eventually("a new Felix", lambda n=node: cluster.felix_pid(n) > before[n])
        eventually("the device is there", lambda: device in cluster.links("node-1"))
        with cluster.pod("a", "node-1") as a, cluster.pod("b", "node-2") as b:
            route = eventually("a route", lambda: cluster.to_peer("node-1"))
            assert (route["dev"], route["gateway"]) == ("ens11", "198.18.0.12")
            assert a.ip("link", "show", "eth0")[0]["mtu"] < 1500
            eventually("an echo", lambda: echo(a, b))
    finally:
        show(cluster, "none")


@pytest.mark.parametrize(("mode", "device"), [("vxlanMode", "vxlan.calico"), ("ipipMode", "tunl0")])
def test_cross_subnet_tunnels_between_subnets(mode: str, device: str) -> None:
    with a_cluster("v3.26", subnets=2) as cluster:
        with cluster.pod("a", "node-1") as a, cluster.pod("b", "node-2") as b:
            route = eventually("a route", lambda: cluster.to_peer("node-1"))
            assert (route["dev"], route["gateway"]) == ("ens11", "198.18.0.1")
            assert not echo(a, b), "the router between the subnets was not told of pods"
        cluster.pool(**{mode: "CrossSubnet"})
        for node in cluster.nodes:
            eventually("the device is there", lambda n=node: device in cluster.links(n))
        with cluster.pod("a", "node-1") as a, cluster.pod("b", "node-2") as b:
            for node in cluster.nodes:
                eventually("a tunnelled route", lambda n=node: cluster.way(n) == device)
            eventually("an echo", lambda: echo(a, b))
            eventually("an echo back", lambda: echo(b, a))


@pytest.mark.parametrize("mode", ["vxlan", "ipip"])
def test_what_somebody_else_removed_comes_back_with_a_restart(cluster: Cluster, mode: str) -> None:
    show(cluster, mode)
    node = cluster.nodes["node-1"]
    with cluster.pod("a", "node-1") as a, cluster.pod("b", "node-2") as b:
        eventually("a route", lambda: cluster.way("node-1") == DEVICES[mode])
        # The kernel's own tunl0 cannot be deleted.
        node.run(["ip", "link", "del", DEVICES[mode]], check=False)
        node.run(["ip", "route", "flush", "proto", "bird"])
        before = cluster.felix_pid("node-1")
        cluster.felix(bpfLogLevel="Info")
        try:
            eventually("a new Felix", lambda: cluster.felix_pid("node-1") > before)
            eventually("the route is back", lambda: cluster.way("node-1") == DEVICES[mode])
            eventually("an echo", lambda: echo(a, b))
            eventually("an echo back", lambda: echo(b, a))
        finally:
            before = cluster.felix_pid("node-1")
            cluster.felix(bpfLogLevel="")
            eventually("a new Felix", lambda: cluster.felix_pid("node-1") > before)


def test_up_to_v322_a_pool_raises_the_flag_and_changes_are_told_in_old_words() -> None:
    with a_cluster("v3.16") as cluster:
        assert cluster.kube.release() == "v3.16.1"
        cluster.pool(vxlanMode="Always")
        spec = eventually(
            "the flag is raised",
            lambda: (cluster.kube.felix_configuration() or {})["spec"].get("vxlanEnabled"),
        )
        assert spec is True
        # It is made with the kernel's MTU, and given its own at once.
        eventually(
            "the device with its MTU",
            lambda: cluster.links("node-2").get("vxlan.calico", {}).get("mtu") == 1410,
        )
        cluster.pool(vxlanMode="Never")
        eventually(
            "the change is told",
            lambda: (
                'Config change requires restart key="VXLANEnabled" new="true" old="false"'
                in cluster.log("node-1")
            ),
        )
        assert (cluster.kube.felix_configuration() or {})["spec"]["vxlanEnabled"] is True


# ------------------------------------------------------------------------------------ kubelet


def test_an_annotation_chooses_the_pool(cluster: Cluster) -> None:
    body = {"metadata": {"name": "second"}, "spec": {"cidr": "198.18.128.0/24"}}
    cluster.kube.apply(Mutation("create", "IPPool", "second", body=body))
    try:
        with cluster.pod("a", "node-1", ipv4pools='["second"]') as a:
            assert a.address.startswith("198.18.128.")
            with cluster.pod("b", "node-1") as b:
                assert b.address.startswith("198.19.")
    finally:
        cluster.kube.apply(Mutation("delete", "IPPool", "second"))


def test_a_pod_that_cannot_be_made_says_why_and_holds_up_no_other(cluster: Cluster) -> None:
    cluster.create("a-bad", "node-1", ipv4pools='["nowhere"]')
    try:
        with cluster.pod("good", "node-1"):
            pass

        def message() -> str:
            pod = cluster.kube.get("Pod", "a-bad", "default") or {}
            return str(pod.get("status", {}).get("message", ""))

        assert "No enabled IP pool is named nowhere" in eventually("it says why", message)
    finally:
        cluster.delete("a-bad")


def test_a_deleted_pod_leaves_nothing_and_its_name_is_free_at_once(cluster: Cluster) -> None:
    node = cluster.nodes["node-1"]
    with cluster.pod("again", "node-1") as first:
        first_cgroup = cgroup(node, first.pid)
    assert first.device not in cluster.links("node-1")
    assert not os.path.exists(f"/proc/{first.pid}")
    with cluster.pod("again", "node-1") as second:
        assert second.pid != first.pid
        assert second.device in cluster.links("node-1")
        second_cgroup = cgroup(node, second.pid)
    for path in (first_cgroup, second_cgroup):
        assert path.name.endswith(".scope")
        assert not path.parent.exists()


def test_a_killed_pod_is_made_anew(cluster: Cluster) -> None:
    with cluster.pod("victim", "node-1") as victim:
        uid = (cluster.kube.get("Pod", "victim", "default") or {})["metadata"]["uid"]
        os.kill(victim.pid, 9)

        def successor() -> int:
            # Of two cgroups, or of one that goes while it is read, none is it.
            with contextlib.suppress(ValueError, OSError):
                found = pause(victim.node, uid)
                return found if found != victim.pid else 0
            return 0

        pid = eventually("another process", successor)
        # The process is there before it is wired.
        eventually("its device", lambda: "eth0" in inside(pid, "ip", "-br", "link", "show"))


def test_nodes_and_felix_rest_when_nothing_changes(cluster: Cluster) -> None:
    """For seconds on end no process: what looks again every 90 s may fall into some, not all."""
    daemon = cluster.lab.daemon_pid

    def children_cpu_ticks() -> int:
        fields = open(f"/proc/{daemon}/stat").read().rpartition(")")[2].split()
        return int(fields[13]) + int(fields[14])  # cutime, cstime

    time.sleep(1.0)
    spent: list[int] = []
    while not spent or (spent[-1] and len(spent) < 5):
        before = children_cpu_ticks()
        time.sleep(6.0)
        spent.append(children_cpu_ticks() - before)
    assert spent[-1] == 0, f"a measurement would be disturbed: {spent}"
