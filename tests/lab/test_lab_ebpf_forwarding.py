"""How a lab in eBPF mode forwards, release by release: short-cut, tunnel for node ports, log."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from lab import traces
from lab.ebpf import (
    PINS,
    PORT,
    Backend,
    Pod,
    Service,
    Tap,
    Trace,
    World,
    answers,
    asked,
    exchanged,
)
from lab.namespaces import LIMIT_S, eventually, socket_in

from ebpfperf.lab import lifecycle
from ebpfperf.lab.nodes import LabNode
from ebpfperf.lab.state import Shape

pytestmark = pytest.mark.lab

RELEASES = ("v3.16", "v3.26", "v3.30", "v3.32")
PRIME = 101
FLOW_PORT = 5201
VXLAN_PORT = 4789
NODE_PORT_VNI, OVERLAY_VNI = 0xCA11C0, 4096
UNREACHABLE, FRAGMENTATION_NEEDED = 3, 4
# Longest IP packet that fits once wrapped: vxlanMTU, which v3.16 does not derive from the NIC's.
LIMIT = {"v3.16": 1410, "v3.26": 1450, "v3.30": 1450, "v3.32": 1450}
# (ipipEnabled, vxlanEnabled) with which the short-cut is off; None is unset.
WITHOUT_SHORT_CUT = {
    "v3.16": {(True, True), (True, False), (True, None), (False, True), (None, True)},
    "v3.26": {(True, True), (True, False), (True, None)},
    "v3.30": {(True, True), (True, False), (True, None)},
    "v3.32": set(),
}
_IP_MTU_DISCOVER, _IP_PMTUDISC_DO, _IP_MTU = 10, 2, 14
_SO_NO_CHECK = 11


@pytest.fixture(scope="module", params=RELEASES)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Three nodes, so that three settings of the two flags can be tried side by side."""
    release = request.param
    name = f"fw{os.getpid()}-{release.replace('.', '')}"
    try:
        world = World(lifecycle.up(Shape(name, nodes=3, release=release))[0])
        world.become(bpfLogLevel="Info")
        yield world
        world.kube.close()
        left = traces.take(world.lab)
    finally:
        lifecycle.down(name)
    traces.nothing_left(left)


@pytest.fixture(scope="module")
def pods(world: World) -> Iterator[list[Pod]]:
    """One on each node; they reach each other."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(world.pod(f"forward-{n}", n)) for n in (1, 2, 3)]
        for here, there in zip(found, found[1:] + found[:1], strict=True):
            eventually("the pods reach each other", lambda h=here, t=there: reaches(h, t))
        yield found


@dataclass(frozen=True)
class Front:
    """A service and what is behind it, on node-2."""

    service: Service
    backend: Backend


@pytest.fixture(scope="module")
def front(world: World) -> Iterator[Front]:
    with (
        world.service("front") as service,
        world.pod("front-2", 2, behind="front") as pod,
        Backend(pod) as backend,
    ):
        for address in (world.node(1).underlay_ip, world.node(2).underlay_ip):
            eventually("the node ports answer", lambda a=address: answers(
                world.client.holder_pid, a, service.node_port
            ))  # fmt: skip
        yield Front(service, backend)


@dataclass
class Flow:
    """A UDP flow between two pods, one datagram at a time."""

    client: socket.socket
    server: socket.socket

    def exchange(self, count: int) -> None:
        """``count`` datagrams there, each answered; all arrive."""
        for number in range(count):
            self.there(number)
            self.back(number)

    def there(self, number: int) -> None:
        self.client.send(str(number).encode())
        data, _ = self.server.recvfrom(64)
        assert data == str(number).encode()

    def back(self, number: int) -> None:
        self.server.sendto(str(number).encode(), self.client.getsockname())
        assert self.client.recv(64) == str(number).encode()


@contextlib.contextmanager
def flow(one: Pod, other: Pod, port: int = FLOW_PORT) -> Iterator[Flow]:
    client = socket_in(one.pid, socket.AF_INET, socket.SOCK_DGRAM)
    server = socket_in(other.pid, socket.AF_INET, socket.SOCK_DGRAM)
    with client, server:
        client.bind((one.address, 0))
        client.connect((other.address, port))
        server.bind((other.address, port))
        yield Flow(client, server)


def reaches(one: Pod, other: Pod) -> bool:
    with flow(one, other, 5999) as trial, contextlib.suppress(OSError):
        trial.server.settimeout(0.3)
        trial.client.settimeout(0.3)
        trial.exchange(1)
        return True
    return False


# --------------------------------------------------------------------------------- packets


@dataclass(frozen=True)
class IPv4:
    protocol: int
    source: str
    destination: str
    ttl: int
    length: int
    payload: bytes


def ipv4(packet: bytes) -> IPv4:
    header = packet[:20]
    assert header[0] == 0x45
    assert ones_sum(header) == 0xFFFF, "the header's checksum is wrong"
    (length,) = struct.unpack("!2xH", header[:4])
    source, destination = (socket.inet_ntoa(header[at : at + 4]) for at in (12, 16))
    return IPv4(header[9], source, destination, header[8], length, packet[20:length])


def ones_sum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def udp_packet(
    source: tuple[str, int], destination: tuple[str, int], payload: bytes, *, ttl: int = 64
) -> bytes:
    """An IPv4 packet; its UDP checksum is none."""
    udp = struct.pack("!HHHH", source[1], destination[1], 8 + len(payload), 0) + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, ttl, 17, 0)
    header += socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    check = 0xFFFF - ones_sum(header)
    return header[:10] + struct.pack("!H", check) + header[12:] + udp


def mac(octets: bytes) -> str:
    return octets.hex(":")


def nic_mac(world: World, machine: LabNode) -> str:
    return str(world.links(machine)[machine.nic]["address"])


@dataclass(frozen=True)
class Wrapped:
    outer: IPv4
    ports: tuple[int, int]
    checksum: int
    flags: int
    vni: int
    ethernet: bytes
    inner: IPv4


def wrapped(frame: bytes) -> Wrapped:
    """A frame with VXLAN in it, by RFC 7348."""
    assert frame[12:14] == b"\x08\x00"
    outer = ipv4(frame[14:])
    assert outer.protocol == socket.IPPROTO_UDP
    source, destination, length, checksum = struct.unpack("!HHHH", outer.payload[:8])
    assert length == len(outer.payload)
    flags, vni = struct.unpack("!II", outer.payload[8:16])
    assert vni & 0xFF == 0
    return Wrapped(
        outer,
        (source, destination),
        checksum,
        flags,
        vni >> 8,
        outer.payload[16:30],
        ipv4(outer.payload[30:]),
    )


# --------------------------------------------------------------------------------- node ports


def test_a_node_port_is_wrapped_to_the_node_of_its_backend_and_back(
    world: World, front: Front
) -> None:
    world.become(bpfLogLevel="Info")
    marker = os.urandom(16)
    payloads = [marker + bytes(number) for number in range(PRIME)]
    node_1, node_2, client = world.node(1), world.node(2), world.client
    with (
        Tap(node_2, marker) as tap,
        socket_in(client.holder_pid, socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind((client.underlay_ip, 0))
        here, there = datagrams.getsockname(), (node_1.underlay_ip, front.service.node_port)
        for payload in payloads:
            datagrams.sendto(payload, there)
            assert datagrams.recvfrom(2048) == (payload, there)
    assert [data for data in front.backend.datagrams if marker in data] == payloads
    ends = (node_1.underlay_ip, node_2.underlay_ip)
    macs = [nic_mac(world, node) for node in (node_1, node_2)]
    for frames, way, inner_ends, order in (
        (tap.arrived, ends, (here, there), macs),
        (tap.left, ends[::-1], (there, here), macs[::-1]),
    ):
        assert len(frames) == PRIME
        for frame, payload in zip(frames, payloads, strict=True):
            assert [mac(frame[6:12]), mac(frame[:6])] == order
            found = wrapped(frame)
            assert (found.outer.source, found.outer.destination) == way
            assert found.ports == (VXLAN_PORT, VXLAN_PORT)
            assert (found.flags, found.vni, found.checksum) == (0x08000000, NODE_PORT_VNI, 0)
            assert found.ethernet == bytes(12) + b"\x08\x00"
            assert found.outer.length == found.inner.length + 50
            source, destination = struct.unpack("!HH", found.inner.payload[:4])
            assert ((found.inner.source, source), (found.inner.destination, destination)) == (
                inner_ends
            )
            assert found.inner.payload[8:] == payload
            # A router between them would find room to count down.
            assert 1 < found.outer.ttl <= 64
            assert 1 < found.inner.ttl <= 64


def test_a_node_port_of_the_backends_own_node_is_not_wrapped(world: World, front: Front) -> None:
    marker = os.urandom(16)
    payloads = [marker + bytes(number) for number in range(31)]
    node_2, client = world.node(2), world.client
    with (
        Tap(node_2, marker) as tap,
        socket_in(client.holder_pid, socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.connect((node_2.underlay_ip, front.service.node_port))
        assert exchanged(datagrams, payloads) == payloads
        port = datagrams.getsockname()[1]
    expected = (client.underlay_ip, port), (node_2.underlay_ip, front.service.node_port)
    for frames, (source, destination) in ((tap.arrived, expected), (tap.left, expected[::-1])):
        packets = [ipv4(frame[14:]) for frame in frames]
        assert len(packets) == 31
        for packet in packets:
            ports = struct.unpack("!HH", packet.payload[:4])
            assert (packet.source, ports[0]) == source
            assert (packet.destination, ports[1]) == destination


def bulk(pid: int, address: str, port: int, data: bytes) -> bytes:
    """What comes back of ``data`` from a backend, while it is still being sent."""
    with socket_in(pid, socket.AF_INET, socket.SOCK_STREAM) as stream:
        stream.connect((address, port))

        def send() -> None:
            stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        received = bytearray()
        while chunk := stream.recv(1 << 20):
            received += chunk
        thread.join(LIMIT_S)
    return bytes(received[16:])


def whole(pid: int, address: str, port: int, size: int) -> bool:
    data = os.urandom(size)
    return hashlib.sha256(bulk(pid, address, port, data)).digest() == hashlib.sha256(data).digest()


@contextlib.contextmanager
def cut_by_the_stack(*machines: LabNode) -> Iterator[None]:
    """Segments leave the NICs as they would on a wire."""
    for machine in machines:
        machine.run(["ethtool", "-K", machine.nic, "tso", "off", "gso", "off"])
    try:
        yield
    finally:
        for machine in machines:
            machine.run(["ethtool", "-K", machine.nic, "tso", "on", "gso", "on"])


def test_bulk_passes_a_node_port_whole_both_ways(world: World, front: Front) -> None:
    world.become(bpfLogLevel="Info")
    bulk_is_whole(world, front.service)


def bulk_is_whole(world: World, service: Service) -> None:
    """Through the node without the backend, cut by nobody and cut by the stack."""
    node_1, node_2, client = world.node(1), world.node(2), world.client
    there = (node_1.underlay_ip, service.node_port)
    assert whole(client.holder_pid, *there, 20_000_003)
    with cut_by_the_stack(node_1, node_2, client), Tap(node_2, b"") as tap:
        assert whole(client.holder_pid, *there, 1_000_003)
    mark = struct.pack("!I", NODE_PORT_VNI << 8)
    longest = {
        way: max(len(frame) for frame in frames if frame[46:50] == mark)
        for way, frames in (("there", tap.arrived), ("back", tap.left))
    }
    # Ethernet's header, the tunnel's, and the longest packet that leaves room for both.
    full = 14 + 50 + LIMIT[world.release]
    assert longest["there"] == full
    assert longest["back"] == full - (50 if world.release == "v3.16" else 0)


# ----------------------------------------------------------------------------------- services


def refused(pid: int, address: str, port: int) -> bool:
    """Whether both protocols are refused by ICMP; what has no answer fails."""
    with socket_in(pid, socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.connect((address, port))
        with contextlib.suppress(ConnectionRefusedError):
            exchanged(datagrams, [b"?"])
            return False
    with contextlib.suppress(ConnectionRefusedError):
        asked(pid, address, port)
        return False
    return True


def test_what_has_no_backend_is_refused_and_so_is_what_has_lost_it(
    world: World, pods: list[Pod]
) -> None:
    world.become(bpfLogLevel="Info")
    outside, node_1 = world.client.holder_pid, world.node(1)
    with world.service("few") as service:
        # Before the service is known there, nothing would answer.
        known = eventually("it is known", lambda: frontends(world, node_1, service))
        assert known == {(0, 0)}
        for pid, there in (
            (pods[0].pid, (service.address, PORT)),
            (outside, (node_1.underlay_ip, service.node_port)),
        ):
            assert refused(pid, *there)
        with world.pod("few-2", 2, behind="few") as pod, Backend(pod):
            eventually("it answers", lambda: answers(pods[0].pid, service.address, PORT))
            eventually(
                "it answers outside",
                lambda: answers(outside, node_1.underlay_ip, service.node_port),
            )
            assert frontends(world, node_1, service) == {(1, 0)}
        eventually("no backend", lambda: frontends(world, node_1, service) == {(0, 0)})
        assert refused(pods[0].pid, service.address, PORT)
        assert refused(outside, node_1.underlay_ip, service.node_port)


def frontends(world: World, node: LabNode, service: Service) -> set[tuple[int, int]]:
    """(backends, those on the node) of each entry of a service's own address."""
    name = "cali_v4_nat_fe2" if world.release == "v3.16" else "cali_v4_nat_fe3"
    found = set()
    for entry in world.tool(node, "bpftool", "-j", "map", "dump", "pinned", f"{PINS}/{name}"):
        key, value = (bytes(int(o, 16) for o in entry[part]) for part in ("key", "value"))
        if key[4:8] == socket.inet_aton(service.address):
            found.add(struct.unpack("<4xII", value[:12]))
    return found


def test_affinity_keeps_a_client_with_its_backend_and_without_it_both_are_asked(
    world: World, pods: list[Pod]
) -> None:
    world.become(bpfLogLevel="Info")
    outside, node_1 = world.client.holder_pid, world.node(1)
    both = {"selector": {"behind": "two"}}
    with (
        world.service("sticky", sessionAffinity="ClientIP", **both) as sticky,
        world.service("any", **both) as any_one,
        world.pod("two-1", 1, behind="two") as first,
        world.pod("two-2", 2, behind="two") as second,
        Backend(first),
        Backend(second),
    ):
        eventually("both are known", lambda: all(
            frontends(world, world.node(n), each) == {(2, 1)}
            for each in (sticky, any_one) for n in (1, 2)
        ))  # fmt: skip
        for service, behind in ((sticky, 1), (any_one, 2)):
            for pid, there in (
                (pods[0].pid, (service.address, PORT)),
                (outside, (node_1.underlay_ip, service.node_port)),
            ):
                found = Counter(asked(pid, *there) for _ in range(31))
                # That chance asks only one of two happens once in 2 ** 30.
                assert len(found) == behind, (service.name, found)
                assert found.total() == 31


def test_a_client_goes_on_seeing_the_service_and_the_backend_the_client(
    world: World, pods: list[Pod], front: Front
) -> None:
    world.become(bpfLogLevel="Info")
    eventually("it answers", lambda: answers(pods[0].pid, front.service.address, PORT))
    with socket_in(pods[0].pid, socket.AF_INET, socket.SOCK_STREAM) as stream:
        stream.connect((front.service.address, PORT))
        assert stream.getpeername() == (front.service.address, PORT)
        assert stream.recv(16).strip() == b"front-2"
        assert front.backend.clients[-1] == stream.getsockname()
        data = os.urandom(1_009)
        stream.sendall(data)
        assert stream.recv(2048, socket.MSG_WAITALL) or True
        assert stream.getpeername() == (front.service.address, PORT)
    # From outside the client's address arrives as well: nothing is masqueraded.
    with socket_in(world.client.holder_pid, socket.AF_INET, socket.SOCK_STREAM) as stream:
        stream.connect((world.node(1).underlay_ip, front.service.node_port))
        assert stream.recv(16).strip() == b"front-2"
        assert front.backend.clients[-1] == stream.getsockname()


def test_with_the_policy_local_only_the_backends_node_answers_outside(world: World) -> None:
    world.become(bpfLogLevel="Info")
    outside, node_1, node_2 = world.client, world.node(1), world.node(2)
    with (
        world.service("near", externalTrafficPolicy="Local") as service,
        world.pod("near-2", 2, behind="near") as pod,
        Backend(pod) as backend,
    ):
        eventually("node-1 knows it", lambda: frontends(world, node_1, service) == {(1, 0)})
        eventually(
            "node-2 answers",
            lambda: answers(outside.holder_pid, node_2.underlay_ip, service.node_port),
        )
        seen = len(backend.clients), len(backend.datagrams)
        assert refused(outside.holder_pid, node_1.underlay_ip, service.node_port)
        assert (len(backend.clients), len(backend.datagrams)) == seen
        assert {address for address, _ in backend.clients} == {outside.underlay_ip}


# ------------------------------------------------------------------------ what does not fit


def test_what_does_not_fit_once_wrapped_is_answered_with_the_mtu_to_use(
    world: World, front: Front
) -> None:
    world.become(bpfLogLevel="Info")
    node_1, client, limit = world.node(1), world.client, LIMIT[world.release]
    there = (node_1.underlay_ip, front.service.node_port)
    icmp = socket_in(client.holder_pid, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    datagrams = socket_in(client.holder_pid, socket.AF_INET, socket.SOCK_DGRAM)
    with icmp, datagrams:
        datagrams.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
        datagrams.bind((client.underlay_ip, 0))
        datagrams.connect(there)
        # The longest that fits, and one byte more: as its connection's first, and later on.
        fits, oversize = os.urandom(limit - 28), os.urandom(limit - 27)
        for first in (True, False):
            if not first:
                client.run(["ip", "route", "flush", "cache"])
                datagrams.send(fits)
                eventually("it arrives", lambda: fits in front.backend.datagrams)
            datagrams.send(oversize)
            packet = ipv4(icmp.recv(2048))
            assert (packet.source, packet.destination) == (node_1.underlay_ip, client.underlay_ip)
            assert ones_sum(packet.payload) == 0xFFFF
            kind, code, mtu = struct.unpack("!BB4xH", packet.payload[:8])
            assert (kind, code, mtu) == (UNREACHABLE, FRAGMENTATION_NEEDED, limit)
            quoted = packet.payload[8:]
            assert quoted[2:4] == struct.pack("!H", limit + 1)
            assert quoted[9] == socket.IPPROTO_UDP
            assert quoted[12:20] == socket.inet_aton(client.underlay_ip) + socket.inet_aton(
                node_1.underlay_ip
            )
            assert struct.unpack("!HH", quoted[20:24]) == (
                datagrams.getsockname()[1],
                front.service.node_port,
            )
            assert datagrams.getsockopt(socket.IPPROTO_IP, _IP_MTU) == limit
            with pytest.raises(OSError, match="Message too long"):
                datagrams.send(oversize)
    assert oversize not in front.backend.datagrams
    client.run(["ip", "route", "flush", "cache"])


# ------------------------------------------------------------------------------- what is forged


def raw_in(pid: int) -> socket.socket:
    made = socket_in(pid, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
    return made


def denied(release: str, reason: int) -> str:
    """How a release begins its last line on a packet that it drops for that reason."""
    code = f"{reason:x}" if release in ("v3.16", "v3.26") else f"{reason}"
    return f"Final result=DENY ({code})"


TIMED = r"\. Program execution time: \d+ns"


def test_a_workload_that_sends_from_an_address_of_another_is_dropped(
    world: World, pods: list[Pod]
) -> None:
    world.become(bpfLogLevel="Info")
    one, other, _ = pods
    index = world.links(one.node)[one.device]["ifindex"]
    reason = 0xDEAD if world.release == "v3.16" else 12
    with world.pod("neighbour", 1) as neighbour:
        there = world.links(one.node)[neighbour.device]["ifindex"]
        cases = (
            ("198.18.99.9", 7, "missing route."),
            (other.address, 11, "not a local workload."),
            (neighbour.address, 13, rf"skb iface \({index}\) != route iface \({there}\)"),
        )
        before = world.drops(one.node, one.device, 12)
        receiver = socket_in(other.pid, socket.AF_INET, socket.SOCK_DGRAM)
        with Trace(one.node, only=f"{one.device[:8]}*") as trace, raw_in(one.pid) as raw, receiver:
            receiver.bind((other.address, FLOW_PORT))
            for source, count, words in cases:
                packet = udp_packet((source, 999), (other.address, FLOW_PORT), b"spoofed")
                for _ in range(count):
                    raw.sendto(packet, (other.address, 0))
                between = "" if words.startswith("skb") else ":"
                end = re.escape(denied(world.release, reason)) + TIMED
                expected = [rf"Workload RPF fail{between} {words}", end] * count
                lines = told(trace, tag(world.release, one.device, "E"))
                assert len(lines) == len(expected)
                for line, pattern in zip(lines, expected, strict=True):
                    assert re.fullmatch(pattern, line)
            assert world.drops(one.node, one.device, 12) - before == 7 + 11 + 13
            genuine = udp_packet((one.address, 999), (other.address, FLOW_PORT), b"genuine")
            raw.sendto(genuine, (other.address, 0))
            assert receiver.recv(64) == b"genuine", "and it is the first that arrives"


def test_a_node_ports_packet_is_unwrapped_only_if_a_node_wrapped_it(
    world: World, front: Front
) -> None:
    world.become(bpfLogLevel="Info")
    node_1, node_2, client = world.node(1), world.node(2), world.client
    reason = 0xED if world.release == "v3.16" else 11
    before = world.drops(node_2, node_2.nic, 11)
    with Trace(node_2, only=f"{node_2.nic}-*") as trace:
        for machine, count in ((client, 7), (node_1, 11)):
            payload = os.urandom(16)
            inner = udp_packet(
                (client.underlay_ip, 4000 + count),
                (node_1.underlay_ip, front.service.node_port),
                payload,
            )
            forged = struct.pack("!II", 0x08000000, NODE_PORT_VNI << 8)
            forged += bytes(12) + b"\x08\x00" + inner
            with socket_in(machine.holder_pid, socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, 1)
                for _ in range(count):
                    sender.sendto(forged, (node_2.underlay_ip, VXLAN_PORT))
            verdicts = Counter(
                line.partition(".")[0] for line in told(trace, tag(world.release, node_2.nic, "I"))
            )
            refusal = denied(world.release, reason)
            if machine is client:
                assert verdicts[refusal] == count
                assert world.drops(node_2, node_2.nic, 11) - before == count
                assert payload not in front.backend.datagrams
            else:
                eventually("delivery", lambda p=payload, c=count: (
                    front.backend.datagrams.count(p) == c
                ))  # fmt: skip
                assert verdicts[refusal] == 0
    assert world.drops(node_2, node_2.nic, 11) - before == 7


# ------------------------------------------------------------------------------------- the log


def tag(release: str, device: str, letter: str) -> str:
    """What a line begins with: v3.16 has room for 8 characters, v3.25 and later for 15."""
    width = 8 if release == "v3.16" else 15
    return f"{device[:width].ljust(width, '-')}-{letter}"


def told(trace: Trace, start: str) -> list[str]:
    """What lines with that tag say after it."""
    return [line.removeprefix(f"{start}: ") for line in trace.lines() if line.startswith(start)]
