"""The maps of the lab's eBPF dataplane, byte for byte: what users' tools read, by release."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import pytest
from lab import calico_bytes
from lab.calico_bytes import (
    ACK,
    APPROVED,
    CONNTRACK_MAP,
    FIN,
    FRONTEND_MAP,
    GLOBALS,
    NP_FWD,
    OPENER,
    RELEASES,
    RST,
    SYN,
    WORKLOAD,
    End,
    Fields,
    bpftool,
    forward,
    has_counts,
    has_reset_time,
    key_of,
    ordered,
    tracked,
)
from lab.ebpf import Pod, World
from lab.namespaces import LIMIT_S, eventually, one_processor, socket_in

from ebpfperf.lab import lifecycle
from ebpfperf.lab.nodes import LabNode, run
from ebpfperf.lab.state import Shape
from ebpfperf.mutations import Mutation

pytestmark = pytest.mark.lab

T = TypeVar("T")

TCP, UDP, ICMP = 6, 17, 1
ETHERNET, IP_AND_UDP, IP_AND_ICMP = 14, 28, 28
INGRESS, EGRESS = 0, 1
_ETH_P_ALL = 3


def only(*releases: str) -> pytest.MarkDecorator:
    """For tests of what other releases do not have."""
    return pytest.mark.parametrize("world", releases, indirect=True, scope="module")


@pytest.fixture(scope="module", params=RELEASES)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    name = f"maps{os.getpid()}-{request.param.replace('.', '')}"
    lab, _ = lifecycle.up(Shape(name, release=request.param))
    try:
        world = World(lab)
        world.become("none")
        yield world
        world.kube.close()
    finally:
        lifecycle.down(name)


@pytest.fixture(scope="module")
def pods(world: World) -> Iterator[tuple[Pod, Pod]]:
    """One on each node; the first node's has the smaller address."""
    with (
        world.pod("left", 1, behind="left") as left,
        world.pod("right", 2, behind="right") as right,
    ):
        assert ordered(a := End(left.address, 1), b := End(right.address, 1)) == (a, b)
        for pod, other in ((left, right), (right, left)):
            block = ipaddress.IPv4Interface(f"{other.address}/26").network
            eventually("a way there", lambda n=pod.node, b=block: str(b) in routes(n))
        # From here on the neighbours are known: the short-cut is open.
        exchange(left, right, ports=(999, 998), forth=2, back=2)
        yield left, right


@pytest.fixture(params=["A", "B"])
def ends(pods: tuple[Pod, Pod], request: pytest.FixtureRequest) -> tuple[Pod, Pod]:
    """Who opens and who answers, so that the opener is once A and once B of the key."""
    return pods if request.param == "A" else pods[::-1]


# ------------------------------------------------------------------------------- the maps there


_SAME_SINCE_V326 = {
    "cali_v4_nat_fe3": ("lpm_trie", 16, 20, 65536, 1),
    "cali_v4_nat_be": ("hash", 8, 8, 262144, 1),
    "cali_v4_nat_aff": ("lru_hash", 16, 16, 65536, 0),
    "cali_v4_routes": ("lpm_trie", 8, 8, 262144, 1),
    "cali_v4_ip_sets": ("lpm_trie", 20, 4, 1048576, 1),
    "cali_v4_srmsg": ("lru_hash", 16, 8, 510000, 0),
    "cali_v4_ct_nats": ("lru_hash", 24, 8, 10000, 0),
    "cali_v4_arp2": ("lru_hash", 8, 12, 10000, 0),
    "cali_v4_fsafes2": ("lpm_trie", 12, 4, 65536, 1),
    "cali_rule_ctrs2": ("percpu_hash", 8, 8, 10000, 0),
}
_SAME_SINCE_V330 = _SAME_SINCE_V326 | {
    "cali_iface4": ("hash", 4, 52, 1000, 1),
    "cali_profiling2": ("percpu_hash", 8, 16, 20000, 0),
}
# Name → type, bytes of key and value, entries, flags (1: not preallocated).
MAPS = {
    "v3.16": {
        "cali_v4_ct2": ("hash", 16, 64, 512000, 1),
        "cali_v4_nat_fe2": ("lpm_trie", 16, 16, 511000, 1),
        "cali_v4_nat_be": ("hash", 8, 8, 510000, 1),
        "cali_v4_nat_aff": ("lru_hash", 16, 16, 510000, 0),
        "cali_v4_routes": ("lpm_trie", 8, 8, 1048576, 1),
        "cali_v4_ip_sets": ("lpm_trie", 20, 4, 1048576, 1),
        "cali_v4_srmsg": ("lru_hash", 16, 8, 510000, 0),
        "cali_v4_state": ("percpu_array", 4, 64, 1, 0),
    },
    "v3.26": _SAME_SINCE_V326
    | {
        "cali_v4_ct3": ("hash", 16, 88, 512000, 1),
        "cali_state2": ("percpu_array", 4, 512, 2, 0),
        "cali_counters2": ("percpu_hash", 8, 14 * 8, 20000, 0),
        "cali_iface2": ("hash", 4, 20, 1000, 1),
    },
    "v3.30": _SAME_SINCE_V330
    | {
        "cali_v4_ct3": ("hash", 16, 88, 512000, 1),
        "cali_state4": ("percpu_array", 4, 512, 2, 0),
        "cali_counters3": ("percpu_hash", 8, 17 * 8, 20000, 0),
        "cali_v4_ccq1": ("hash", 16, 32, 100000, 1),
    },
    "v3.32": _SAME_SINCE_V330
    | {
        "cali_v4_ct4": ("lru_hash", 16, 88, 512000, 0),
        "cali_state6": ("percpu_array", 4, 512, 2, 0),
        "cali_counters6": ("percpu_hash", 8, 27 * 8, 20000, 0),
        "cali_v4_ccq2": ("hash", 16, 32, 100000, 1),
        "cali_v4_mglv2": ("hash", 8, 8, 1009, 1),
    },
}


def test_the_maps_pinned_are_those_of_the_release(world: World) -> None:
    for node in world.lab.nodes:
        names = run(node.enter(["ls", GLOBALS])).split()
        assert {name: shape(node, name) for name in names} == {
            name: (name, *rest) for name, rest in MAPS[world.release].items()
        }


def shape(node: LabNode, name: str) -> tuple[str, str, int, int, int, int]:
    """Kernel's name, type, sizes and flags of a pinned map."""
    found = bpftool(node, "map", "show", "pinned", f"{GLOBALS}/{name}")
    keys = ("name", "type", "bytes_key", "bytes_value", "max_entries", "flags")
    return tuple(found[key] for key in keys)  # type: ignore[return-value]


# ------------------------------------------------------------------------------ what hangs where


# (hook, kind of device) → the filter's name as tc prints it: an object and a section, or since
# v3.21 a program.
OBJECTS = {
    ("ingress", "wep"): "from_wep_fib_no_log.o:[calico_from_workload_ep]",
    ("egress", "wep"): "to_wep_no_log.o:[calico_to_workload_ep]",
    ("ingress", "hep"): "from_hep_fib_no_log.o:[calico_from_host_ep]",
    ("egress", "hep"): "to_hep_no_log.o:[calico_to_host_ep]",
}
# As above, with ipipEnabled true, bpfExternalServiceMode DSR and bpfLogLevel Debug.
OTHER_OBJECTS = {
    ("ingress", "wep"): "from_wep_dsr_debug.o:[calico_from_workload_ep]",
    ("egress", "wep"): "to_wep_debug.o:[calico_to_workload_ep]",
    ("ingress", "hep"): "from_hep_dsr_debug.o:[calico_from_host_ep]",
    ("egress", "hep"): "to_hep_dsr_debug.o:[calico_to_host_ep]",
    ("ingress", "tnl"): "from_tnl_debug.o:[calico_from_tunnel_ep]",
    ("egress", "tnl"): "to_tnl_debug.o:[calico_to_tunnel_ep]",
}
# The kernel keeps fifteen characters of a program's name.
PROGRAMS = {
    ("ingress", "wep"): "calico_from_wor",
    ("egress", "wep"): "calico_to_workl",
    ("ingress", "hep"): "calico_from_hos",
    ("egress", "hep"): "calico_to_host_",
    ("ingress", "tnl"): "calico_from_tun",
    ("egress", "tnl"): "calico_to_tunne",
}


def filters(node: LabNode, device: str, way: str) -> list[dict[str, Any]]:
    """What ``tc filter show`` prints of the programs on one side of a device."""
    shown = json.loads(node.run(["tc", "-j", "filter", "show", "dev", device, way]) or "[]")
    return [entry["options"] for entry in shown if "bpf_name" in entry.get("options", {})]


def qdiscs(node: LabNode, device: str) -> dict[str, dict[str, Any]]:
    shown = json.loads(node.run(["tc", "-s", "-j", "qdisc", "show", "dev", device]))
    return {entry["kind"]: entry for entry in shown}


def devices(pod: Pod) -> dict[str, str]:
    return {"wep": pod.device, "hep": pod.node.nic}


def test_filters_bear_the_names_that_the_release_gives(world: World, pods: tuple[Pod, Pod]) -> None:
    for pod in pods:
        for kind, device in devices(pod).items():
            for way in ("ingress", "egress"):
                found = filters(pod.node, device, way)
                if world.release == "v3.32":
                    assert found == []
                    continue
                (options,) = found
                program = options["prog"]
                assert program["name"] == (
                    "cali_tc_preambl" if world.release == "v3.30" else PROGRAMS[way, kind]
                )
                assert options["bpf_name"] == (
                    OBJECTS[way, kind]
                    if world.release == "v3.16"
                    else f"{program['name']}:[{program['id']}]"
                )


@only("v3.32")
def test_programs_are_links_without_a_qdisc(world: World, pods: tuple[Pod, Pod]) -> None:
    for pod in pods:
        for device in devices(pod).values():
            assert "clsact" not in qdiscs(pod.node, device)
        pins = run(pod.node.enter(["ls", "/sys/fs/bpf/tcx"])).split()
        assert sorted(pins) == sorted(
            f"{device}_{way}" for device in devices(pod).values() for way in ("ingress", "egress")
        )
        ids = {
            bpftool(pod.node, "link", "show", "pinned", f"/sys/fs/bpf/tcx/{pin}")["prog_id"]
            for pin in pins
        }
        assert len(ids) == len(pins)
        for number in ids:
            # bpftool reads the whole name from the program's types where it can.
            name = bpftool(pod.node, "prog", "show", "id", str(number))["name"]
            assert name.startswith("cali_tc_preambl")


# ------------------------------------------------------------------------------------ conntrack


@dataclass(frozen=True)
class Span:
    """The monotonic clock before and after something, nanoseconds."""

    before: int
    after: int


def exchange(
    client: Pod, server: Pod, *, ports: tuple[int, int], forth: int, back: int, size: int = 37
) -> Span:
    """``forth`` datagrams to the server and then ``back`` to the client, each of them received.

    One after the other: two processors that have the first two packets of a flow at once would each
    take theirs for the first.
    """
    with (
        socket_in(client.pid, socket.AF_INET, socket.SOCK_DGRAM) as here,
        socket_in(server.pid, socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        here.bind((client.address, ports[0]))
        there.bind((server.address, ports[1]))
        before = time.monotonic_ns()
        for _ in range(forth):
            here.sendto(bytes(size), (server.address, ports[1]))
            _, sender = there.recvfrom(2000)
        for _ in range(back):
            there.sendto(bytes(size), sender)
            here.recv(2000)
        return Span(before, time.monotonic_ns())


def ifindex(node: LabNode, device: str) -> int:
    (link,) = json.loads(node.run(["ip", "-j", "link", "show", "dev", device]))
    return int(link["ifindex"])


def on_node(end: End, pod: Pod, node: LabNode) -> End:
    """An end as a node sees it: behind the pod's device there, elsewhere behind the NIC."""
    if pod.node is node:
        return replace(end, ifindex=ifindex(node, pod.device), bits=end.bits | WORKLOAD)
    return replace(end, ifindex=ifindex(node, node.nic))


def entry(world: World, node: LabNode, key: Fields) -> Fields:
    """The conntrack entry of a key."""
    return calico_bytes.connections(node, world.release)[tuple(key.values())]


def expect(
    world: World, found: Fields, expected: Fields, span: Span, *, reset: bool = False
) -> None:
    """AssertionError unless every field is as expected, and times are within the span."""
    times = {name: found[name] for name in ("word0", "last_seen")}
    assert found == expected | times
    assert span.before < times["last_seen"] < span.after
    if not has_reset_time(world.release):
        assert span.before < times["word0"] <= times["last_seen"]
    elif reset:
        assert span.before < times["word0"] <= times["last_seen"]
    else:
        assert times["word0"] == 0


def test_datagrams_are_tracked_on_both_nodes(world: World, ends: tuple[Pod, Pod]) -> None:
    client, server = ends
    forth, back, size, ports = 17, 11, 41, (40017, 5201)
    span = exchange(client, server, ports=ports, forth=forth, back=back, size=size)
    frame = ETHERNET + IP_AND_UDP + size
    opener = End(client.address, ports[0], APPROVED | OPENER, packets=forth, size=forth * frame)
    other = End(server.address, ports[1], APPROVED, packets=back, size=back * frame)
    for node in world.lab.nodes:
        found = entry(world, node, key_of(UDP, opener, other))
        here, there = on_node(opener, client, node), on_node(other, server, node)
        expect(world, found, tracked(world.release, here, there), span)


def test_the_host_itself_has_no_interface(world: World, pods: tuple[Pod, Pod]) -> None:
    """Nor is the last octet of its address the largest, though the address is."""
    left, _ = pods
    host = world.node(2)
    with (
        socket_in(host.holder_pid, socket.AF_INET, socket.SOCK_DGRAM) as here,
        socket_in(left.pid, socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        here.bind((host.underlay_ip, 40019))
        there.bind((left.address, 5202))
        before = time.monotonic_ns()
        for _ in range(7):
            here.sendto(b"from the host", (left.address, 5202))
            there.recv(100)
        for _ in range(5):
            there.sendto(b"from a pod", (host.underlay_ip, 40019))
            here.recv(100)
        span = Span(before, time.monotonic_ns())
    opener = End(host.underlay_ip, 40019, APPROVED | OPENER, 0, 7, 7 * (13 + 42))
    other = End(left.address, 5202, APPROVED, 0, 5, 5 * (10 + 42))
    assert ordered(opener, other) == (other, opener)
    assert ipaddress.ip_address(opener.address) < ipaddress.ip_address(other.address)
    key = key_of(UDP, opener, other)
    expect(
        world,
        entry(world, host, key),
        tracked(world.release, opener, replace(other, ifindex=ifindex(host, host.nic))),
        span,
    )
    nic = ifindex(left.node, left.node.nic)
    expect(
        world,
        entry(world, left.node, key),
        tracked(world.release, replace(opener, ifindex=nic), on_node(other, left, left.node)),
        span,
    )


def test_echoes_are_tracked_without_ports(world: World, ends: tuple[Pod, Pod]) -> None:
    client, server = ends
    count, size = 13, 29
    key = key_of(ICMP, End(client.address, 0), End(server.address, 0))
    # What the other opener left would be the same connection: there are no ports to tell them.
    for node in world.lab.nodes:
        forget(world, node, ICMP, client.address, server.address)
    with socket_in(client.pid, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.connect((server.address, 0))
        before = time.monotonic_ns()
        for number in range(count):
            raw.send(echo_request(number, bytes(size)))
            assert raw.recv(2000)[20] == 0
        span = Span(before, time.monotonic_ns())
    # At once: five seconds after the last of them they are forgotten.
    found = {node.name: entry(world, node, key) for node in world.lab.nodes}
    sent = count * (ETHERNET + IP_AND_ICMP + size)
    opener = End(client.address, 0, APPROVED | OPENER, packets=count, size=sent)
    other = End(server.address, 0, APPROVED, packets=count, size=sent)
    for node in world.lab.nodes:
        here, there = on_node(opener, client, node), on_node(other, server, node)
        expect(world, found[node.name], tracked(world.release, here, there), span)


def forget(world: World, node: LabNode, protocol: int, *addresses: str) -> None:
    """Delete the entries between two addresses, by bpftool as an administrator would."""
    path = f"{GLOBALS}/{CONNTRACK_MAP[world.release]}"
    for key in calico_bytes.dump(node, CONNTRACK_MAP[world.release]):
        found = calico_bytes.connection_key(key)
        if found["protocol"] == protocol and {found["addr_a"], found["addr_b"]} == set(addresses):
            words = [f"{octet:#04x}" for octet in key]
            # Its time may be over meanwhile, and then it is gone.
            delete = ["bpftool", "map", "delete", "pinned", path, "key", *words]
            run(node.enter(delete), check=False)


def echo_request(number: int, data: bytes) -> bytes:
    message = struct.pack("!BBHHH", 8, 0, 0, 77, number) + data
    padded = message + bytes(len(message) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return message[:2] + struct.pack("!H", checksum) + message[4:]


class Wire:
    """Frames that pass a device, both ways; complete after the block."""

    def __init__(self, node: LabNode, device: str) -> None:
        self._node, self._device = node, device
        self.arrived: list[bytes] = []
        self.left: list[bytes] = []

    def __enter__(self) -> Wire:
        self._tap = socket_in(
            self._node.holder_pid, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)
        )
        self._tap.bind((self._device, _ETH_P_ALL))
        return self

    def __exit__(self, *_: object) -> None:
        while select.select([self._tap], [], [], 0.15)[0]:
            frame, (_, _, kind, *_) = self._tap.recvfrom(70_000)
            (self.left if kind == socket.PACKET_OUTGOING else self.arrived).append(frame)
        self._tap.close()

    def segments(self, source: End, destination: End) -> list[bytes]:
        """The frames of one direction of a TCP connection."""
        ports = struct.pack("!HH", source.port, destination.port)
        ends = socket.inet_aton(source.address) + socket.inet_aton(destination.address)
        return [
            frame
            for frame in (*self.arrived, *self.left)
            if frame[23] == TCP and frame[26:34] == ends and frame[34:38] == ports
        ]


def as_captured(end: End, segments: list[bytes]) -> End:
    """The end with what it sent counted, and the number that its SYN had."""
    (seqno,) = {struct.unpack("!I", frame[38:42]) for frame in segments if frame[47] & 0x02}
    return replace(end, packets=len(segments), size=sum(map(len, segments)), seqno=seqno[0])


@pytest.mark.parametrize("how", ["open", "closed", "reset"])
def test_connections_are_tracked_with_what_was_seen_of_them(
    world: World, ends: tuple[Pod, Pod], how: str
) -> None:
    client, server = ends
    port = {"open": 5301, "closed": 5302, "reset": 5303}[how]
    opener, other = End(client.address, 41017), End(server.address, port)
    before = time.monotonic_ns()
    with contextlib.ExitStack() as sockets:
        wire = Wire(server.node, server.node.nic)
        listener = sockets.enter_context(socket_in(server.pid, socket.AF_INET, socket.SOCK_STREAM))
        here = sockets.enter_context(socket_in(client.pid, socket.AF_INET, socket.SOCK_STREAM))
        listener.bind((other.address, other.port))
        listener.listen()
        here.bind((opener.address, opener.port))
        with one_processor(), wire:
            here.connect((other.address, other.port))
            there = sockets.enter_context(listener.accept()[0])
            there.settimeout(LIMIT_S)
            here.sendall(bytes(101))
            assert len(_read(there, 101)) == 101
            there.sendall(bytes(53))
            assert len(_read(here, 53)) == 53
            # What is still to be acknowledged is so now, and not in the middle of the counting.
            for end in (here, there):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            if how == "closed":
                here.close()
                assert there.recv(1) == b""
                there.close()
            elif how == "reset":
                here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                here.close()
                with pytest.raises(ConnectionResetError):
                    there.recv(1)
            # There and back, behind all that was sent before.
            exchange(server, client, ports=(997, 996), forth=1, back=1)
        span = Span(before, time.monotonic_ns())
        found = {node.name: entry(world, node, key_of(TCP, opener, other))
                 for node in world.lab.nodes}  # fmt: skip
    seen = SYN | ACK | APPROVED | (FIN if how == "closed" else 0)
    opener = as_captured(opener, wire.segments(opener, other))
    other = as_captured(other, wire.segments(other, opener))
    opener = replace(opener, bits=seen | OPENER | (RST if how == "reset" else 0))
    other = replace(other, bits=seen)
    for node in world.lab.nodes:
        here_end, there_end = on_node(opener, client, node), on_node(other, server, node)
        expected = tracked(world.release, here_end, there_end)
        expect(world, found[node.name], expected, span, reset=how == "reset")


def _read(stream: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := stream.recv(count - len(data))):
        data += more
    return data


# ------------------------------------------------------------------------------------------ NAT


CLUSTER_IP = "198.18.241.201"
EVERY_NODE = "255.255.255.255"
STICKY_S = 77


def create_service(world: World, name: str, selector: str, **spec: Any) -> None:
    """TCP 80 and UDP 53, as node ports 30080 and 30053 and so on where it has any."""
    ports = [
        {"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 8080},
        {"name": "udp", "protocol": "UDP", "port": 53, "targetPort": 8053},
    ]
    if "first_node_port" in spec:
        first = spec.pop("first_node_port")
        ports = [port | {"nodePort": first + port["port"]} for port in ports]
        spec["type"] = "NodePort"
    key, _, value = selector.partition("=")
    body = {"metadata": {"name": name}, "spec": {"selector": {key: value}, "ports": ports} | spec}
    world.kube.apply(Mutation("create", "Service", name, "default", body=body))


@pytest.fixture(scope="module")
def services(world: World, pods: tuple[Pod, Pod]) -> Iterator[dict[str, str]]:
    """Name → address: ``both`` sticks and has both pods behind it, ``local`` too, ``far`` one."""
    for pod in pods:
        body = {"metadata": {"labels": {"app": "web"}}}
        world.kube.apply(Mutation("patch", "Pod", pod.name, "default", body=body))
    sticks = {"clientIP": {"timeoutSeconds": STICKY_S}}
    create_service(
        world, "both", "app=web", clusterIP=CLUSTER_IP, first_node_port=30000,
        sessionAffinity="ClientIP", sessionAffinityConfig=sticks,
    )  # fmt: skip
    create_service(
        world, "local", "app=web", first_node_port=30200,
        externalTrafficPolicy="Local", internalTrafficPolicy="Local",
    )  # fmt: skip
    create_service(world, "far", "behind=right", first_node_port=31000)
    names = ("both", "local", "far")
    found = {}
    for name in names:
        service = world.kube.get("Service", name, "default")
        assert service is not None
        found[name] = service["spec"]["clusterIP"]
    assert found["both"] == CLUSTER_IP
    for node in world.lab.nodes:
        settle(partial(nat, world, node), partial(expected_nat, world, pods, found, node))
    yield found
    for name in names:
        world.kube.apply(Mutation("delete", "Service", name, "default"))
    for node in world.lab.nodes:
        eventually(
            "no frontend", lambda n=node: not calico_bytes.dump(n, FRONTEND_MAP[world.release])
        )


def frontend_key(address: str, port: int, protocol: int) -> bytes:
    """56 bits are compared: no source."""
    head = (56).to_bytes(4, "little") + socket.inet_aton(address)
    return head + port.to_bytes(2, "little") + bytes([protocol]) + bytes(5)


def words(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in numbers)


Entries = dict[bytes, bytes]


def nat(world: World, node: LabNode) -> tuple[Entries, Entries]:
    """The frontends and the backends that the node has."""
    frontends = calico_bytes.dump(node, FRONTEND_MAP[world.release])
    return frontends, calico_bytes.dump(node, "cali_v4_nat_be")


def expected_nat(
    world: World, pods: tuple[Pod, Pod], services: dict[str, str], node: LabNode
) -> tuple[Entries, Entries]:
    """Those that it must have, each service under the number that the node gave it."""
    frontends = calico_bytes.dump(node, FRONTEND_MAP[world.release])
    right = pods[1]
    # Name → first node port, backends, affinity in seconds, flags (1 external, 2 internal local).
    kinds = {
        "both": (30000, pods, STICKY_S, 0),
        "local": (30200, pods, 0, 3),
        "far": (31000, (right,), 0, 0),
    }
    expected, backends = {}, {}
    for name, (first, behind, affinity, flags) in kinds.items():
        for protocol, port, target in ((TCP, 80, 8080), (UDP, 53, 8053)):
            key = frontend_key(services[name], port, protocol)
            number = int.from_bytes(frontends.get(key, bytes(4))[:4], "little")
            here = [pod for pod in behind if pod.node is node]
            value = words(number, len(behind), len(here), affinity)
            value += words(flags) if has_counts(world.release) else b""
            own = value
            if flags & 1 and not has_counts(world.release):
                # No flag says Local there: the node's own backends are all that count.
                own = words(number, len(here), len(here), affinity)
            for address, what in ((node.underlay_ip, own), (EVERY_NODE, value)):
                expected[frontend_key(address, first + port, protocol)] = what
            expected[key] = value
            # This node's own come first: who comes from another node gets one of them.
            for ordinal, pod in enumerate(sorted(behind, key=lambda pod: pod not in here)):
                backend = socket.inet_aton(pod.address) + target.to_bytes(2, "little")
                backends[words(number, ordinal)] = backend + bytes(2)
    return expected, backends


def test_frontends_and_backends_are_those_of_the_services(
    world: World, pods: tuple[Pod, Pod], services: dict[str, str]
) -> None:
    for node in world.lab.nodes:
        assert nat(world, node) == expected_nat(world, pods, services, node)
        assert len({value[:4] for value in nat(world, node)[0].values()}) == 6


def test_affinity_is_kept_for_a_client_and_a_frontend(
    world: World, pods: tuple[Pod, Pod], services: dict[str, str]
) -> None:
    left, _ = pods
    with socket_in(left.pid, socket.AF_INET, socket.SOCK_STREAM) as stream:
        before = time.monotonic_ns()
        with pytest.raises(ConnectionRefusedError):  # nobody listens in the pods
            stream.connect((services["both"], 80))
        span = Span(before, time.monotonic_ns())
    key = socket.inet_aton(CLUSTER_IP) + (80).to_bytes(2, "little") + bytes([TCP, 0])
    key += socket.inet_aton(left.address) + bytes(4)
    kept = calico_bytes.dump(left.node, "cali_v4_nat_aff")
    assert list(kept) == [key]
    backends = [socket.inet_aton(pod.address) + (8080).to_bytes(2, "little") for pod in pods]
    value = kept[key]
    assert value[:6] in backends
    assert value[6:8] == bytes(2)
    assert span.before < int.from_bytes(value[8:], "little") < span.after


def test_a_connection_to_a_service_has_two_entries_at_the_client(
    world: World, pods: tuple[Pod, Pod], services: dict[str, str]
) -> None:
    left, right = pods
    forth, back, frame = 19, 7, ETHERNET + IP_AND_UDP + 37
    client, service = End(left.address, 43017), End(services["far"], 53)
    span = through(left, service, right, 8053, client.port, forth=forth, back=back)
    opener = replace(client, bits=APPROVED | OPENER, packets=forth, size=forth * frame)
    backend = End(right.address, 8053, APPROVED, packets=back, size=back * frame)
    found = entry(world, left.node, key_of(UDP, client, service))
    expect(world, found, forward(UDP, opener, backend), span)
    for node in world.lab.nodes:
        here, there = on_node(opener, left, node), on_node(backend, right, node)
        # The other node sees the backend's address, no service's.
        of = service if node is left.node else None
        found = entry(world, node, key_of(UDP, client, backend))
        expect(world, found, tracked(world.release, here, there, service=of), span)
    missing = tuple(key_of(UDP, client, service).values())
    assert missing not in calico_bytes.connections(right.node, world.release)


def through(
    client: Pod | LabNode, service: End, backend: Pod, target: int, port: int, *, forth: int,
    back: int,
) -> Span:  # fmt: skip
    """Datagrams of 37 bytes to a service and back, all received, from its address."""
    pid = client.pid if isinstance(client, Pod) else client.holder_pid
    with (
        socket_in(pid, socket.AF_INET, socket.SOCK_DGRAM) as here,
        socket_in(backend.pid, socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        here.bind(("0.0.0.0", port))
        there.bind((backend.address, target))
        before = time.monotonic_ns()
        for _ in range(forth):
            here.sendto(bytes(37), (service.address, service.port))
            _, sender = there.recvfrom(2000)
        for _ in range(back):
            there.sendto(bytes(37), sender)
            assert here.recvfrom(2000)[1] == (service.address, service.port)
        return Span(before, time.monotonic_ns())


def test_a_node_port_without_a_backend_here_leads_through_the_tunnel(
    world: World, pods: tuple[Pod, Pod], services: dict[str, str]
) -> None:
    _, right = pods
    first, second = world.lab.nodes
    forth, back, frame = 23, 13, ETHERNET + IP_AND_UDP + 37
    client = End(world.client.underlay_ip, 44017)
    service = End(first.underlay_ip, 31053)
    span = through(world.client, service, right, 8053, client.port, forth=forth, back=back)
    opener = replace(client, bits=APPROVED | OPENER, packets=forth, size=forth * frame)
    backend = End(right.address, 8053, APPROVED, packets=back, size=back * frame)
    for node, flags, peer in ((first, NP_FWD, second), (second, 0, first)):
        found = entry(world, node, key_of(UDP, client, service))
        expect(world, found, forward(UDP, opener, backend), span)
        found = entry(world, node, key_of(UDP, client, backend))
        expected = tracked(
            world.release,
            replace(opener, ifindex=ifindex(node, node.nic)),
            on_node(backend, right, node),
            service=service,
            tun_ip=peer.underlay_ip,
            flags=flags,
        )
        expect(world, found, expected, span)


# --------------------------------------------------------------------------- counters and drops


@only("v3.26", "v3.30", "v3.32")
def test_counters_are_what_passed_the_hooks(world: World, ends: tuple[Pod, Pod]) -> None:
    client, server = ends
    forth, back, ports = 31, 29, (45017, 5401)
    with contextlib.ExitStack() as stack:
        wires = {
            device: stack.enter_context(Wire(pod.node, device))
            for pod in ends
            for device in devices(pod).values()
        }
        before = {pod.node.name: counted(world, pod.node) for pod in ends}
        exchange(client, server, ports=ports, forth=forth, back=back)
        after = {pod.node.name: counted(world, pod.node) for pod in ends}
    grown = {}
    for pod in ends:
        for device in devices(pod).values():
            for hook in (INGRESS, EGRESS):
                place = ifindex(pod.node, device), hook
                rows = after[pod.node.name][place], before[pod.node.name][place]
                grown[device, hook] = [new - old for new, old in zip(*rows, strict=True)]
    out, into = (client.device, INGRESS), (server.device, EGRESS)
    back_out, back_into = (server.device, INGRESS), (client.device, EGRESS)
    away, arriving = (client.node.nic, EGRESS), (server.node.nic, INGRESS)
    back_away, back_arriving = (server.node.nic, EGRESS), (client.node.nic, INGRESS)
    # Since v3.29 a settled flow's packets are put into the pod without passing its device.
    straight = world.release != "v3.26"
    total = {out: forth, away: forth, arriving: forth, into: 1 if straight else forth}
    total |= {back_out: back, back_away: back, back_arriving: back}
    total |= {back_into: 0 if straight else back}
    for (device, hook), counts in grown.items():
        frames = wires[device].arrived if hook == INGRESS else wires[device].left
        others = sum(frame[12:14] != b"\x08\x00" for frame in frames)  # ARP
        assert total[device, hook] <= counts[0] <= total[device, hook] + others
        assert len(counts) == MAPS[world.release][calico_bytes.COUNTERS_MAP[world.release]][2] // 8
        assert not any(counts[4:17]), "drops"
    # A flow's first packet is policy's, where it leaves a pod and where it enters one.
    assert {place: counts[2] for place, counts in grown.items() if counts[2]} == {out: 1, into: 1}
    # Once both sides have allowed it, the hook after the first need not look again.
    bypassed = {away: forth - 1, back_away: back}
    if not straight:
        bypassed |= {into: forth - 1, back_into: back}
    assert {place: counts[3] for place, counts in grown.items() if counts[3]} == bypassed
    if world.release == "v3.32":
        # Plain redirects, by neighbour, to the peer in the pod: all but a flow's first from a NIC.
        assert {place: counts[17:20] for place, counts in grown.items() if any(counts[17:])} == {
            out: [forth, 0, 0],
            back_out: [back, 0, 0],
            arriving: [0, 0, forth - 1],
            back_arriving: [0, 0, back],
        }


def counted(world: World, node: LabNode) -> dict[tuple[int, int], list[int]]:
    return calico_bytes.counters(node, world.release)


@dataclass(frozen=True)
class Barred:
    """A pod with a deny list, and the one that it may not reach and be reached by."""

    pod: Pod
    peer: Pod


@pytest.fixture(scope="module")
def barred(world: World, pods: tuple[Pod, Pod]) -> Iterator[Barred]:
    """Egress to UDP 5501 of the peer, and ingress from it to UDP 5502, are denied."""
    _, right = pods
    cidr = f"{right.address}/32"
    deny = [
        {"direction": "egress", "cidr": cidr, "protocol": "UDP", "port": 5501},
        {"direction": "ingress", "cidr": cidr, "protocol": "UDP", "port": 5502},
    ]
    with world.pod("barred", 1, deny=deny) as pod:
        yield Barred(pod, right)


@pytest.mark.parametrize("way", ["egress", "ingress"])
def test_denied_datagrams_are_drops_at_that_hook_and_others_pass(
    world: World, barred: Barred, way: str
) -> None:
    denied, passing = 53, 19
    ends = (barred.pod, barred.peer) if way == "egress" else (barred.peer, barred.pod)
    sender, receiver = ends
    port = 5501 if way == "egress" else 5502
    before = drops(world, barred.pod)
    with (
        socket_in(sender.pid, socket.AF_INET, socket.SOCK_DGRAM) as here,
        socket_in(receiver.pid, socket.AF_INET, socket.SOCK_DGRAM) as shut,
        socket_in(receiver.pid, socket.AF_INET, socket.SOCK_DGRAM) as open_,
        one_processor(),
    ):
        shut.bind((receiver.address, port))
        open_.bind((receiver.address, 5503))
        for _ in range(denied):
            here.sendto(b"no", (receiver.address, port))
        for number in range(passing):
            here.sendto(bytes([number]), (receiver.address, 5503))
        # Those that pass come after those that do not, by one way.
        assert [open_.recv(10) for _ in range(passing)] == [bytes([n]) for n in range(passing)]
        shut.setblocking(False)
        with pytest.raises(BlockingIOError):
            shut.recv(10)
    after = drops(world, barred.pod)
    # A pod's egress policy is at the ingress hook of its device, and the other way round.
    hook = INGRESS if way == "egress" else EGRESS
    added = {place: after[place] - before[place] for place in after}
    if "clsact" in added:
        assert added.pop("clsact") == denied
    if has_counts(world.release):
        assert added == {hook: denied, 1 - hook: 0}
    tracked_there = calico_bytes.connections(sender.node, world.release)
    ports = {key[3:] for key in tracked_there if receiver.address in key}
    assert any(port in pair for pair in ports) == (way == "ingress")


def drops(world: World, pod: Pod) -> dict[int | str, int]:
    """By policy at each hook where the release counts them; all where tc does."""
    found: dict[int | str, int] = {}
    if has_counts(world.release):
        number = ifindex(pod.node, pod.device)
        rows = counted(world, pod.node)
        for hook in (INGRESS, EGRESS):
            counts = rows[number, hook]
            found[hook] = counts[4]
            assert counts[4] == sum(counts[4:14])
    shown = qdiscs(pod.node, pod.device)
    assert ("clsact" in shown) == (world.release != "v3.32")
    if "clsact" in shown:
        found["clsact"] = shown["clsact"]["drops"]
    return found


# --------------------------------------------------------------------------------------- routes


IN_POOL, NAT_OUT, REMOTE, LOCAL, SAME_SUBNET = 0x1, 0x2, 0x4, 0xC, 0x20
OTHER_HOST, OWN_HOST = 0x10, 0x18
# What a block behind an overlay has beside in-pool, workload and same-subnet.
OVERLAY = {
    ("v3.16", "ipip"): 0, ("v3.16", "vxlan"): 0,
    ("v3.26", "ipip"): 0x40, ("v3.26", "vxlan"): 0x40,
    ("v3.30", "ipip"): 0x40, ("v3.30", "vxlan"): 0x40,
    ("v3.32", "ipip"): 0x40, ("v3.32", "vxlan"): 0x440,
}  # fmt: skip


def routes(node: LabNode) -> dict[str, tuple[int, str | int]]:
    """Network → flags, and the next hop or the ifindex."""
    found = {}
    for key, value in calico_bytes.dump(node, "cali_v4_routes").items():
        network = f"{socket.inet_ntoa(key[4:])}/{int.from_bytes(key[:4], 'little')}"
        flags = int.from_bytes(value[:4], "little")
        local = flags & LOCAL == LOCAL
        end = int.from_bytes(value[4:], "little") if local else socket.inet_ntoa(value[4:])
        found[network] = (flags, end)
    return found


def expected_routes(
    world: World, pods: tuple[Pod, ...], node: LabNode, more: int, nat: int = 0
) -> dict[str, tuple[int, str | int]]:
    pool = IN_POOL | nat
    found: dict[str, tuple[int, str | int]] = {"198.19.0.0/16": (pool, "0.0.0.0")}
    for pod in pods:
        if pod.node is node:
            found[f"{pod.address}/32"] = (pool | LOCAL, ifindex(node, pod.device))
        else:
            block = ipaddress.IPv4Interface(f"{pod.address}/26").network
            flags = pool | REMOTE | SAME_SUBNET | more
            found[str(block)] = (flags, pod.node.underlay_ip)
    for host in world.lab.nodes:
        kind = OWN_HOST if host is node else OTHER_HOST
        tunnels = [
            info["local"]
            for device in ("tunl0", "vxlan.calico")
            for info in world.links(host).get(device, {}).get("addr_info", ())
            if info["family"] == "inet"
        ]
        found |= {f"{address}/32": (kind, "0.0.0.0") for address in (host.underlay_ip, *tunnels)}
    return found


def test_routes_are_of_pools_blocks_pods_and_hosts(
    world: World, pods: tuple[Pod, Pod], barred: Barred
) -> None:
    for nat in (0, NAT_OUT):
        body = {"spec": {"natOutgoing": bool(nat)}}
        world.kube.apply(Mutation("patch", "IPPool", "default-ipv4-ippool", body=body))
        for node in world.lab.nodes:
            wanted = partial(expected_routes, world, (*pods, barred.pod), node, 0, nat)
            settle(partial(routes, node), wanted)
    body = {"spec": {"natOutgoing": False}}
    world.kube.apply(Mutation("patch", "IPPool", "default-ipv4-ippool", body=body))


def settle(found: Callable[[], T], wanted: Callable[[], T]) -> None:
    """Until what is found is what is wanted; AssertionError with the difference when it is not."""
    deadline = time.monotonic() + LIMIT_S
    # Asked for again: what is wanted reads devices' addresses, or numbers, off the node.
    while found() != wanted() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found() == wanted()


# ------------------------------------------------------- other settings: each is a restart


@only("v3.16")
def test_objects_are_named_by_the_settings(world: World, pods: tuple[Pod, Pod]) -> None:
    world.become("none", ipipEnabled=True, bpfExternalServiceMode="DSR", bpfLogLevel="Debug")
    for pod in pods:
        for kind, device in (devices(pod) | {"tnl": "tunl0"}).items():
            for way in ("ingress", "egress"):
                found = {one["bpf_name"]: one for one in filters(pod.node, device, way)}
                # Beside it may be what stands in for the kernel's IPIP.
                (name,) = [name for name in found if "[calico_" in name]
                assert name == OTHER_OBJECTS[way, kind]
                assert found[name]["prog"]["name"] == PROGRAMS[way, kind]


@only("v3.26", "v3.30", "v3.32")
def test_a_conntrack_map_of_another_size_keeps_the_connections(
    world: World, pods: tuple[Pod, Pod]
) -> None:
    exchange(*pods, ports=(46017, 5601), forth=3, back=3)
    key = key_of(UDP, End(pods[0].address, 46017), End(pods[1].address, 5601))
    before = [entry(world, node, key) for node in world.lab.nodes]
    world.become("none", bpfMapSizeConntrack=4099)
    name = CONNTRACK_MAP[world.release]
    *sizes, _, flags = MAPS[world.release][name]
    for node in world.lab.nodes:
        assert shape(node, name) == (name, *sizes, 4099, flags)
    assert [entry(world, node, key) for node in world.lab.nodes] == before


@only("v3.30")
def test_datagrams_are_forgotten_after_their_timeout(world: World, pods: tuple[Pod, Pod]) -> None:
    exchange(*pods, ports=(47017, 5701), forth=3, back=3)
    key = tuple(key_of(UDP, End(pods[0].address, 47017), End(pods[1].address, 5701)).values())
    world.become("none", bpfConntrackTimeouts={"UDPTimeout": "1s"})
    for node in world.lab.nodes:
        # Felix looks every ten seconds, and had to restart.
        eventually(
            "it is forgotten", lambda n=node: key not in calico_bytes.connections(n, "v3.30")
        )


@pytest.mark.parametrize("mode", ["ipip", "vxlan"])
def test_routes_through_an_overlay_say_so(
    world: World, pods: tuple[Pod, Pod], barred: Barred, mode: str
) -> None:
    world.become(mode)
    for node in world.lab.nodes:
        more = OVERLAY[world.release, mode]
        wanted = partial(expected_routes, world, (*pods, barred.pod), node, more)
        settle(partial(routes, node), wanted)
        assert len(routes(node)) >= 7
