"""How a lab in eBPF mode forwards, release by release: short-cut, tunnel for node ports, log."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from lab import calico_bytes, traces
from lab.ebpf import (
    EMULATED,
    FORWARDING,
    PINS,
    PLAIN,
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
from lab.log_words import TIMED, Words, matches, packets, tag
from lab.namespaces import LIMIT_S, eventually, inside, socket_in
from lab.packets import ipv4, mac, ones_sum, udp_packet, wrapped

from ebpfperf.calico.nodelog import felix_state, parse
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
# Source ports that the kernel gives nobody, each used once: nothing is known of such a connection,
# while a port of the kernel's choice may be that of one that the dataplane has not forgotten.
_fresh_ports = itertools.cycle(range(20_000, 30_000))


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
        node_ports_answer(world, service)
        yield Front(service, backend)


def node_ports_answer(world: World, service: Service) -> None:
    """Wait until both nodes do: settings that have just changed may be on their way still."""
    for address in (world.node(1).underlay_ip, world.node(2).underlay_ip):
        eventually("the node ports answer", lambda a=address: answers(
            world.client.holder_pid, a, service.node_port
        ))  # fmt: skip


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
        client.bind((one.address, next(_fresh_ports)))
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


def nic_mac(world: World, machine: LabNode) -> str:
    return str(world.links(machine)[machine.nic]["address"])


# --------------------------------------------------------------------------------- node ports


def test_a_node_port_is_wrapped_to_the_node_of_its_backend_and_back(
    world: World, front: Front
) -> None:
    world.become(bpfLogLevel="Info")
    node_ports_answer(world, front.service)
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
            # The outer one is counted down where it was wrapped, what it carries where it leaves.
            assert (found.outer.ttl, found.inner.ttl) == (63, 64)


def test_a_node_port_of_the_backends_own_node_is_not_wrapped(world: World, front: Front) -> None:
    node_ports_answer(world, front.service)
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
    node_ports_answer(world, front.service)
    bulk_is_whole(world, front.service)


def bulk_is_whole(world: World, service: Service) -> None:
    """Through the node without the backend, cut by nobody and cut by the stack."""
    node_1, node_2, client = world.node(1), world.node(2), world.client
    there = (node_1.underlay_ip, service.node_port)
    assert whole(client.holder_pid, *there, 20_000_003)
    with cut_by_the_stack(node_1, node_2, client), Tap(node_2, b"") as tap:
        assert whole(client.holder_pid, *there, 1_000_003)
    mark = struct.pack("!I", NODE_PORT_VNI << 8)
    for frames in (tap.arrived, tap.left):
        lengths = [len(frame) for frame in frames if frame[46:50] == mark]
        assert sum(lengths) > 1_000_003
        # Segments that the stack cuts, it cuts small enough for the tunnel's header.
        assert max(lengths) <= 1514


# ----------------------------------------------------------------------------------- services


def refused(pid: int, address: str, port: int) -> bool:
    """Whether both protocols are refused by ICMP; what has no answer fails."""
    with socket_in(pid, socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("", next(_fresh_ports)))
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
        assert set(known.values()) == {(0, 0)}
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
            eventually("one backend", lambda: everywhere(world, node_1, service, (1, 0)))
        eventually("no backend", lambda: everywhere(world, node_1, service, (0, 0)))
        assert refused(pods[0].pid, service.address, PORT)
        assert refused(outside, node_1.underlay_ip, service.node_port)


def frontends(
    world: World, node: LabNode, service: Service
) -> dict[tuple[str, int, int], tuple[int, int]]:
    """Address, port and protocol of a service → its backends, and those on the node.

    Empty until it is known under all of its places, of which the node port has two.
    """
    found = {}
    for key, value in calico_bytes.dump(node, calico_bytes.FRONTEND_MAP[world.release]).items():
        address, (port, protocol) = socket.inet_ntoa(key[4:8]), struct.unpack("<HB", key[8:11])
        if address == service.address or port == service.node_port:
            count, local = struct.unpack("<4xII", value[:12])
            found[address, port, protocol] = count, local
    return found if len(found) == 2 * 3 else {}


def everywhere(world: World, node: LabNode, service: Service, backends: tuple[int, int]) -> bool:
    """Whether a service has so many backends, and so many on the node, in all of its places."""
    return set(frontends(world, node, service).values()) == {backends}


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
            everywhere(world, world.node(n), each, (2, 1))
            for each in (sticky, any_one) for n in (1, 2)
        ))  # fmt: skip
        for service, behind in ((sticky, 1), (any_one, 2)):
            for pid, there in (
                (pods[0].pid, (service.address, PORT)),
                (outside, (node_1.underlay_ip, service.node_port)),
            ):
                eventually("it answers", lambda p=pid, t=there: answers(p, *t))
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
        assert stream.recv(len(data), socket.MSG_WAITALL) == data
        assert stream.getpeername() == (front.service.address, PORT)
    # From outside the client's address arrives as well: nothing is masqueraded.
    outside, port = world.client.holder_pid, front.service.node_port
    eventually("the port answers", lambda: answers(outside, world.node(1).underlay_ip, port))
    with socket_in(world.client.holder_pid, socket.AF_INET, socket.SOCK_STREAM) as stream:
        stream.connect((world.node(1).underlay_ip, port))
        assert stream.recv(16).strip() == b"front-2"
        assert front.backend.clients[-1] == stream.getsockname()


def test_connections_to_a_service_do_not_mind_that_others_come_and_go(
    world: World, pods: list[Pod], front: Front
) -> None:
    """One that sorts before it, with a backend of its own, comes and goes a dozen times."""
    world.become(bpfLogLevel="Info")
    eventually("it answers", lambda: answers(pods[0].pid, front.service.address, PORT))
    ended, found = threading.Event(), Counter[str]()

    def ask() -> None:
        while not ended.is_set():
            try:
                found[asked(pods[0].pid, front.service.address, PORT)] += 1
            except OSError as error:
                found[repr(error)] += 1

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        with world.pod("first-1", 1, behind="first") as pod, Backend(pod):
            for _ in range(12):
                with world.service("a-first", selector={"behind": "first"}) as first:
                    eventually("it is known", lambda: frontends(world, world.node(1), first))
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert set(found) == {"front-2"}, found
    assert found.total() >= 11


def test_with_the_policy_local_only_the_backends_node_answers_outside(world: World) -> None:
    world.become(bpfLogLevel="Info")
    outside, node_1, node_2 = world.client, world.node(1), world.node(2)
    with (
        world.service("near", externalTrafficPolicy="Local") as service,
        world.pod("near-2", 2, behind="near") as pod,
        Backend(pod) as backend,
    ):
        places = {
            (address, port, protocol): (1, 0)
            for address, port in (
                (service.address, PORT),
                (node_1.underlay_ip, service.node_port),
                ("255.255.255.255", service.node_port),
            )
            for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
        }
        if world.release == "v3.16":
            # Without a flag to say so, the node's own address has the node's own backends alone.
            places |= {place: (0, 0) for place in places if place[0] == node_1.underlay_ip}
        eventually("node-1 knows it", lambda: frontends(world, node_1, service) == places)
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
    node_ports_answer(world, front.service)
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
            # What the client has learned, here or by another test, would keep it from trying.
            client.run(["ip", "route", "flush", "cache"])
            if not first:
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
            # Raw sockets get the answer before the kernel itself takes note of it.
            refusal = eventually("its error", lambda: (
                datagrams.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            ))  # fmt: skip
            assert refusal == errno.EMSGSIZE
            assert datagrams.getsockopt(socket.IPPROTO_IP, _IP_MTU) == limit
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
        start = tag(world.release, one.device, "E")
        receiver = socket_in(other.pid, socket.AF_INET, socket.SOCK_DGRAM)
        with Trace(one.node, start) as trace, raw_in(one.pid) as raw, receiver:
            receiver.bind((other.address, FLOW_PORT))
            for source, count, words in cases:
                packet = udp_packet((source, 999), (other.address, FLOW_PORT), b"spoofed")
                for _ in range(count):
                    raw.sendto(packet, (other.address, 0))
                between = "" if words.startswith("skb") else ":"
                end = re.escape(denied(world.release, reason)) + TIMED
                expected = [rf"Workload RPF fail{between} {words}", end] * count
                lines = refusals(trace, len(expected))
                assert len(lines) == len(expected)
                for line, pattern in zip(lines, expected, strict=True):
                    assert re.fullmatch(pattern, line)
            genuine = udp_packet((one.address, 999), (other.address, FLOW_PORT), b"genuine")
            raw.sendto(genuine, (other.address, 0))
            assert receiver.recv(64) == b"genuine", "and it is the first that arrives"
            assert drops_since(world, one, 12, before, 7 + 11 + 13) == 7 + 11 + 13


def test_a_node_ports_packet_is_unwrapped_only_if_a_node_wrapped_it(
    world: World, front: Front
) -> None:
    world.become(bpfLogLevel="Info")
    node_ports_answer(world, front.service)
    node_1, node_2, client = world.node(1), world.node(2), world.client
    reason = 0xED if world.release == "v3.16" else 11
    before = world.drops(node_2, node_2.nic, 11)
    with Trace(node_2, tag(world.release, node_2.nic, "I")) as trace:
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
            refusal = denied(world.release, reason)
            if machine is client:
                lines = refusals(trace, count)
                assert [line.partition(".")[0] for line in lines] == [refusal] * count
                assert payload not in front.backend.datagrams
            else:
                eventually("delivery", lambda p=payload, c=count: (
                    front.backend.datagrams.count(p) == c
                ))  # fmt: skip
                assert not any(text.startswith(refusal) for text in told(trace))
    assert world.drops(node_2, node_2.nic, 11) - before == 7


# ------------------------------------------------------------------------------------- the log


# On the first two nodes nothing is switched on.
FLAGS = (None, False, True)


def debug(world: World, ipip: bool | None = None) -> None:
    """Everything is told; each node has another ``vxlanEnabled``, and no overlay is in use."""
    own = {
        f"node-{number}": {"ipipEnabled": ipip, "vxlanEnabled": vxlan}
        for number, vxlan in enumerate(FLAGS, start=1)
    }
    world.become(own=own, bpfLogLevel="Debug")


def told(trace: Trace) -> list[str]:
    """What the lines since the last call say after their tags."""
    return [line.split(": ", 1)[1] for line in trace.lines()]


def refusals(trace: Trace, number: int) -> list[str]:
    """The same of what is not allowed, once they are so many: ARP may pass meanwhile."""

    def of(lines: list[str]) -> list[str]:
        return [line.split(": ", 1)[1] for line in lines if "ALLOW" not in line]

    return of(trace.enough("refusals", lambda lines: len(of(lines)) >= number))


def told_of_an_exchange(world: World, pods: list[Pod]) -> list[str]:
    """What the log says of an exchange, on the devices that it leaves the first node by."""
    one, other, _ = pods
    tags = [tag(world.release, device, "E") for device in (one.device, one.node.nic)]
    with Trace(one.node, *tags) as trace, flow(one, other) as exchange:
        exchange.exchange(PRIME)
        return told(trace)


def test_info_tells_only_what_became_of_packets(world: World, pods: list[Pod]) -> None:
    world.become(bpfLogLevel="Info")
    lines, words = told_of_an_exchange(world, pods), Words(world.release)
    last = [words.final(7), words.final(-1), words.bypassed[-1]]
    assert all(any(re.fullmatch(pattern, line) for pattern in last) for line in lines)
    assert sum(bool(re.fullmatch(words.final(7), line)) for line in lines) == PRIME


def test_felix_restarts_under_an_exchange_that_loses_nothing(world: World, pods: list[Pod]) -> None:
    world.become(bpfLogLevel="Info")
    one, other, _ = pods
    before = {node.name: world.felix_pid(node) for node in world.lab.nodes}
    begun, done = threading.Event(), threading.Event()
    failure: list[BaseException] = []

    def go_on() -> None:
        try:
            with flow(one, other) as running:
                # Much less than it is waited for below: a loss is told as one.
                running.client.settimeout(LIMIT_S / 4)
                running.server.settimeout(LIMIT_S / 4)
                while not done.is_set():
                    running.exchange(PRIME)
                    begun.set()
                    done.wait(0.01)
                running.exchange(PRIME)
        except BaseException as error:
            failure.append(error)
        finally:
            begun.set()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        begun.wait()
        debug(world)
    finally:
        done.set()
        thread.join(LIMIT_S)
    assert failure == []
    assert not thread.is_alive()
    assert all(world.felix_pid(node) != before[node.name] for node in world.lab.nodes)


def test_debug_tells_of_each_packet_line_by_line(world: World, pods: list[Pod]) -> None:
    debug(world)
    one, other, _ = pods
    words, release = Words(world.release), world.release
    index = {
        (pod.name, device): world.links(pod.node)[device]["ifindex"]
        for pod in (one, other)
        for device in (pod.device, pod.node.nic)
    }
    devices = [pod.device for pod in (one, other)], [pod.node.nic for pod in (one, other)]
    tags = [tag(release, device, "?") for each in devices for device in each]
    with Trace(one.node, *tags) as trace, flow(one, other) as exchange:
        # Neighbours known, and nothing of the flow itself.
        with flow(one, other, FLOW_PORT + 1) as another:
            another.exchange(2)
        here, there = exchange.client.getsockname(), (other.address, FLOW_PORT)
        trace.raw()
        ways = {
            "E": (tag(release, one.device, "E"), tag(release, one.node.nic, "E")),
            "I": (tag(release, other.node.nic, "I"), tag(release, other.device, "I")),
            "e": (tag(release, other.device, "E"), tag(release, other.node.nic, "E")),
            "i": (tag(release, one.node.nic, "I"), tag(release, one.device, "I")),
        }
        miss, new = words.new
        seen = words.mark("seen")
        to_peer = words.redirected(other.node.underlay_ip, index[one.name, one.node.nic])
        to_one = words.redirected(one.node.underlay_ip, index[other.name, other.node.nic])

        exchange.there(1)
        forth = words.lookup(here, there)
        first = [*forth, *miss, *words.no_service(there)]
        matches(packets(trace, release), [
            (ways["E"][0], [*words.start("0"), *first, *words.allowed, *new,
                            *words.towards_host("seen"), *to_peer]),
            (ways["E"][1], [*words.start(seen), *forth, *words.hit, words.final(-1)]),
            # The host's stack is to check the way back of what comes from outside.
            (ways["I"][0], [*words.start("0"), *first, *new,
                            *words.towards_host("seen"), words.final(-1)]),
            (ways["I"][1], [*words.start(seen), *forth, *words.hit, *words.allowed,
                            words.final(-1)]),
        ])  # fmt: skip

        exchange.back(1)
        back = [*words.start("0"), *words.lookup(there, here), *words.hit,
                *words.towards_host("bypass")]  # fmt: skip
        into = words.into_pod(one.address, index[one.name, one.device])
        at_pod = [(ways["i"][1], words.bypassed)] if words.old else []
        matches(packets(trace, release), [
            (ways["e"][0], [*back, *to_one]),
            (ways["e"][1], words.bypassed),
            (ways["i"][0], [*back, *into]),
            *at_pod,
        ])  # fmt: skip

        exchange.there(2)
        settled = [*words.start("0"), *forth, *words.hit, *words.towards_host("bypass")]
        into = words.into_pod(other.address, index[other.name, other.device])
        at_pod = [(ways["I"][1], words.bypassed)] if words.old else []
        matches(packets(trace, release), [
            (ways["E"][0], [*settled, *to_peer]),
            (ways["E"][1], words.bypassed),
            (ways["I"][0], [*settled, *into]),
            *at_pod,
        ])  # fmt: skip


def test_a_line_is_the_kernels_and_up_to_v329_a_blank_one_follows(
    world: World, pods: list[Pod]
) -> None:
    debug(world)
    one, other, _ = pods
    start = tag(world.release, one.device, "E")
    with Trace(one.node, start) as trace, flow(one, other) as exchange:
        exchange.exchange(PRIME)
        exchange_ends = exchange.client.getsockname(), (other.address, FLOW_PORT)
        lines = trace.raw()
    # linux/Documentation/trace/ftrace.rst: task-pid, CPU, five flags, seconds; then the function.
    shape = re.compile(
        r" *.{1,16}-\d+ +\[\d{3}\] [.dDbB][.NnpLlBb][.hHsSzZ][.0-9a-f]{2} +\d+\.\d{6}: "
        rf"bpf_trace_printk: {re.escape(start)}: (?P<text>.*)"
    )
    words = Words(world.release)
    told = lines[::2] if words.old else lines
    if words.old:
        assert set(lines[1::2]) == {""}
        assert len(lines) == 2 * len(told)
    texts = []
    for line in told:
        found = shape.fullmatch(line)
        assert found, line
        texts.append(found["text"])
    here, there = exchange_ends
    known = [
        *words.start("0"),
        *words.lookup(here, there),
        *words.lookup(there, here),
        *words.no_service(there),
        *words.hit,
        *words.new[0],
        *words.new[1],
        *words.allowed,
        *words.towards_host("seen"),
        *words.towards_host("bypass"),
        *words.redirected(other.node.underlay_ip, world.links(one.node)[one.node.nic]["ifindex"]),
        words.final(-1),
    ]
    for text in texts:
        assert any(re.fullmatch(pattern, text) for pattern in known), text
    assert sum(bool(re.fullmatch(words.final(7), text)) for text in texts) == PRIME


def test_debug_tells_what_policy_denied_and_none_of_it_arrives(
    world: World, pods: list[Pod]
) -> None:
    debug(world)
    other, words = pods[1], Words(world.release)
    deny = [{"direction": "egress", "cidr": "0.0.0.0/0", "protocol": "UDP", "port": 5998}]
    with world.pod("denied", 1, deny=deny) as one:
        eventually("the pods reach each other", lambda: reaches(one, other))
        start = tag(world.release, one.device, "E")
        before = world.drops(one.node, one.device, 4)
        with (
            Trace(one.node, start) as trace,
            flow(one, other, 5998) as stopped,
            flow(one, other) as passing,
        ):
            for _ in range(PRIME):
                stopped.client.send(b"denied")
            here, there = stopped.client.getsockname(), (other.address, 5998)
            expected = [*words.start("0"), *words.lookup(here, there), *words.new[0],
                        *words.no_service(there), *words.denied]  # fmt: skip
            number = PRIME * len(expected)
            matches(packets(trace, world.release, number), [(start, expected)] * PRIME)
            passing.exchange(31)
            stopped.server.setblocking(False)
            with pytest.raises(BlockingIOError):
                stopped.server.recv(64)
        assert drops_since(world, one, 4, before, PRIME) == PRIME


def drops_since(world: World, pod: Pod, reason: int, before: int, number: int) -> int:
    """Packets of the pod, once they are so many: a qdisc counts after its program has spoken."""

    def found() -> int:
        count = world.drops(pod.node, pod.device, reason) - before
        return count if count >= number else 0

    return eventually("drops", found)


# ------------------------------------------------------------------------------ the short-cut


def passed_the_stack(world: World, pod: Pod) -> tuple[int, int]:
    """(datagrams from the pod, to the pod) that the rules of ``watched`` have counted."""
    saved = world.prints(pod.node, "iptables-save", "-c", "-t", "filter")
    rules = [line for line in saved.splitlines() if "-A FORWARD" in line]
    counts = {
        way: int(line[1:].partition(":")[0])
        for line in rules
        for way in ("-s", "-d")
        if f"{way} {pod.address}/32" in line
    }
    return counts["-s"], counts["-d"]


@contextlib.contextmanager
def watched(world: World, pods: list[Pod]) -> Iterator[None]:
    """Rules of the host's that count a flow from each pod, and what comes back of it."""
    for verb in ("-I", "-D"):
        for pod in pods:
            for way, port in (("-s", "--dport"), ("-d", "--sport")):
                rule = ["-p", "udp", way, pod.address, port, str(FLOW_PORT)]
                world.prints(pod.node, "iptables", "-w", verb, "FORWARD", *rule)
        if verb == "-I":
            yield


@pytest.mark.parametrize("ipip", FLAGS, ids=lambda value: f"ipip-{value}".lower())
def test_the_short_cut_is_on_or_off_by_release_and_flags(
    world: World, pods: list[Pod], ipip: bool | None
) -> None:
    debug(world, ipip)
    words = Words(world.release)
    with watched(world, pods):
        for one, other, vxlan in zip(pods, pods[1:] + pods[:1], FLAGS, strict=True):
            short_cut = (ipip, vxlan) not in WITHOUT_SHORT_CUT[world.release]
            starts = [tag(world.release, one.device, "E"), tag(world.release, one.node.nic, "I")]
            with flow(one, other) as exchange, Trace(one.node, *starts) as trace:
                # The first of a flow from a NIC passes the stack, and what finds no neighbour.
                exchange.exchange(3)
                eventually("all are told", lambda t=trace: not t.raw())
                before, redirects = passed_the_stack(world, one), redirected(world, one)
                exchange.exchange(PRIME)
                after = passed_the_stack(world, one)
                told = Counter(
                    (start, texts[-1]) if "Bypass" in texts[-1] else (start, code(texts[-1], words))
                    for start, texts in packets(trace, world.release)
                )
            passed = tuple(now - then for now, then in zip(after, before, strict=True))
            assert passed == ((0, 0) if short_cut else (PRIME, PRIME)), (ipip, vxlan)
            assert told == {(start, 7 if short_cut else -1): PRIME for start in starts}
            if redirects is not None:
                assert redirected(world, one) == redirects + PRIME


def redirected(world: World, pod: Pod) -> int | None:
    """Packets of the pod that its programs have redirected, in releases that count them."""
    if world.release != "v3.32":
        return None
    return world.counted(pod.node, pod.device, 17, 18, 19)


def code(text: str, words: Words) -> int:
    """The action in the last line on an allowed packet."""
    found = re.fullmatch(words.final(0).replace("0", r"(-?\d+)", 1), text)
    assert found, text
    return int(found[1])


# ------------------------------------------------------------------------------------------ DSR


def test_off_tells_nothing(world: World, pods: list[Pod]) -> None:
    world.become(bpfExternalServiceMode="DSR")
    assert told_of_an_exchange(world, pods) == []


def test_with_dsr_the_backends_node_answers_as_the_node_that_was_asked(
    world: World, front: Front
) -> None:
    world.become(bpfExternalServiceMode="DSR")
    node_ports_answer(world, front.service)
    marker = os.urandom(16)
    payloads = [marker + bytes(number) for number in range(PRIME)]
    node_1, node_2, client = world.node(1), world.node(2), world.client
    there = (node_1.underlay_ip, front.service.node_port)
    with (
        Tap(client, marker) as at_client,
        Tap(node_1, marker) as at_first,
        Tap(node_2, marker) as at_second,
        socket_in(client.holder_pid, socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind((client.underlay_ip, 0))
        for payload in payloads:
            datagrams.sendto(payload, there)
            assert datagrams.recvfrom(2048) == (payload, there)
        here = datagrams.getsockname()
    assert [data for data in front.backend.datagrams if marker in data] == payloads
    assert len(at_client.arrived) == PRIME
    second = nic_mac(world, node_2)
    for frame, payload in zip(at_client.arrived, payloads, strict=True):
        assert mac(frame[6:12]) == second
        packet = ipv4(frame[14:])
        ports = struct.unpack("!HH", packet.payload[:4])
        assert (packet.source, ports[0]) == there
        assert (packet.destination, ports[1]) == here
        assert packet.payload[8:] == payload
    # There by the first node, in the tunnel; back past it.
    assert [len(at_first.arrived), len(at_first.left)] == [PRIME, PRIME]
    assert {ipv4(frame[14:]).source for frame in at_first.arrived} == {client.underlay_ip}
    assert {wrapped(frame).vni for frame in at_second.arrived} == {NODE_PORT_VNI}
    assert {ipv4(frame[14:]).source for frame in at_second.left} == {node_1.underlay_ip}
    assert whole(client.holder_pid, *there, 2_000_003)


# ------------------------------------------------------------------------- --- falling back


def rules(world: World, node: LabNode) -> list[str]:
    """kube-proxy's."""
    saved = world.prints(node, "iptables-save")
    return [line for line in saved.splitlines() if "KUBE-" in line]


def test_a_node_whose_kernel_is_said_not_to_do_falls_back_alone(
    world: World, pods: list[Pod], front: Front
) -> None:
    world.become(bpfExternalServiceMode="DSR")
    node_1, node_2 = world.node(1), world.node(2)
    others = world.programs(node_2)
    assert set(world.programs(node_1))
    eventually("no rules of kube-proxy", lambda: not rules(world, node_1) + rules(world, node_2))
    world.annotate(node_1, "lab.ebpfperf/fault", "kernel-unsupported")
    try:
        eventually("it says so", lambda: world.annotation(node_1, FORWARDING) == PLAIN)
        eventually("kube-proxy's rules", lambda: rules(world, node_1))
        assert world.programs(node_1) == {}
        end = ""
        if world.release not in ("v3.16", "v3.26"):
            end = r" error=\"BPF syscall support is not available on this platform\""
        line = re.compile(
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \[ERROR\]\[\d+\] felix/daemon\.go \d+: BPF "
            rf"dataplane mode enabled but not supported by the kernel\.  Disabling BPF mode\.{end}"
        )
        assert any(line.fullmatch(each) for each in world.log(node_1).splitlines())
        assert not any(line.fullmatch(each) for each in world.log(node_2).splitlines())
        assert felix_state(parse(world.log(node_1))).dataplane.value == "unsupported"
        assert world.programs(node_2) == others
        assert world.annotation(node_2, FORWARDING) == EMULATED
        assert rules(world, node_2) == []
        # Between the two ways of forwarding nothing is lost.
        with flow(pods[0], pods[1]) as exchange:
            exchange.exchange(PRIME)
        there = (node_1.underlay_ip, front.service.node_port)
        eventually("the node port answers", lambda: answers(world.client.holder_pid, *there))
    finally:
        world.annotate(node_1, "lab.ebpfperf/fault", None)
    eventually("it is back", lambda: world.annotation(node_1, FORWARDING) == EMULATED)
    world.wait_for_programs(node_1)
    eventually("no rules of kube-proxy", lambda: not rules(world, node_1))
    with flow(pods[0], pods[1]) as exchange:
        exchange.exchange(PRIME)


# ---------------------------------------------------------------------------------- overlays


# Releases that show IPIP as well: the oldest that derives it, and the one with a way of its own.
OVERLAYS = {
    "v3.16": {"vxlan": 1410},
    "v3.26": {"ipip": 1480, "vxlan": 1450},
    "v3.30": {"vxlan": 1450},
    "v3.32": {"ipip": 1480, "vxlan": 1450},
}


def test_an_overlay_carries_pods_and_node_ports_pass_beside_it(world: World) -> None:
    for overlay, mtu in OVERLAYS[world.release].items():
        world.become(overlay)
        carries(world, overlay, mtu)


def carries(world: World, overlay: str, mtu: int) -> None:
    with (
        world.service("over") as service,
        world.pod("over-1", 1) as one,
        world.pod("over-2", 2, behind="over") as other,
        Backend(other),
    ):
        eventually("the pods reach each other", lambda: reaches(one, other))
        outside, node_1 = world.client.holder_pid, world.node(1)
        there = (node_1.underlay_ip, service.node_port)
        eventually("the node port answers", lambda: answers(outside, *there))
        for pod in (one, other):
            assert world.links(pod.node)[pod.device]["mtu"] == mtu
        if overlay == "vxlan":
            told_by_the_packet = world.release == "v3.32"
            for node in world.lab.nodes:
                data = world.links(node)["vxlan.calico"]["linkinfo"]["info_data"]
                assert bool(data.get("external")) is told_by_the_packet
                assert (data.get("id") == OVERLAY_VNI) is not told_by_the_packet
        of_the_overlay(overlay, one, other)
        segments_are_of_the_mtu(one, other, mtu)
        eventually("the service answers", lambda: answers(one.pid, service.address, PORT))
        assert whole(outside, *there, 20_000_003)
        assert whole(one.pid, service.address, PORT, 20_000_003)
        oversize_is_answered(one, other, mtu)


def of_the_overlay(overlay: str, one: Pod, other: Pod) -> None:
    """Each datagram of an exchange is on the wire once, as the overlay has it."""
    marker = os.urandom(16)
    ends = one.node.underlay_ip, other.node.underlay_ip
    with Tap(other.node, marker) as tap, flow(one, other) as exchange:
        for number in range(PRIME):
            payload = marker + bytes(number)
            exchange.client.send(payload)
            assert exchange.server.recv(2048) == payload
            exchange.server.sendto(payload, exchange.client.getsockname())
            assert exchange.client.recv(2048) == payload
        here = exchange.client.getsockname()
    for frames, way, (source, destination) in (
        (tap.arrived, ends, (here, (other.address, FLOW_PORT))),
        (tap.left, ends[::-1], ((other.address, FLOW_PORT), here)),
    ):
        assert len(frames) == PRIME
        for frame in frames:
            if overlay == "vxlan":
                found = wrapped(frame)
                outer, inner = found.outer, found.inner
                assert (found.flags, found.vni, found.ports[1]) == (
                    0x08000000, OVERLAY_VNI, VXLAN_PORT,
                )  # fmt: skip
                assert outer.length == inner.length + 50
            else:
                outer = ipv4(frame[14:])
                assert outer.protocol == socket.IPPROTO_IPIP
                inner = ipv4(outer.payload)
                assert outer.length == inner.length + 20
            assert (outer.source, outer.destination) == way
            ports = struct.unpack("!HH", inner.payload[:4])
            assert (inner.source, ports[0]) == source
            assert (inner.destination, ports[1]) == destination
            assert inner.ttl == 63, "routed once, on the sender's node"


def segments_are_of_the_mtu(one: Pod, other: Pod, mtu: int) -> None:
    listener = socket_in(other.pid, socket.AF_INET, socket.SOCK_STREAM)
    client = socket_in(one.pid, socket.AF_INET, socket.SOCK_STREAM)
    with listener, client:
        listener.bind((other.address, FLOW_PORT))
        listener.listen()
        client.bind((one.address, 0))
        # A SYN has no payload to mark: its ports are its mark.
        marker = struct.pack("!HH", client.getsockname()[1], FLOW_PORT)
        with Tap(other.node, marker) as tap:
            client.connect((other.address, FLOW_PORT))
        segment = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    timestamps = inside(one.pid, "cat", "/proc/sys/net/ipv4/tcp_timestamps").strip() != "0"
    assert segment == mtu - 40 - (12 if timestamps else 0)
    segments = [frame[frame.index(marker) :] for frame in tap.arrived]
    # Of its flags; who would have congestion told sets two more.
    syn = next(each for each in segments if each[13] & 0x3F == 0x02)
    assert syn[20:24] == b"\x02\x04" + struct.pack("!H", mtu - 40)


def oversize_is_answered(one: Pod, other: Pod, mtu: int) -> None:
    """By the kernel, of a pod that still has the MTU of another mode."""
    for argv in (["nsenter", f"--net=/proc/{one.pid}/ns/net", "ip", "link", "set", "eth0"],
                 ["ip", "link", "set", one.device]):  # fmt: skip
        one.node.run([*argv, "mtu", "1500"])
    with socket_in(one.pid, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
        sender.connect((other.address, FLOW_PORT + 2))
        assert sender.getsockopt(socket.IPPROTO_IP, _IP_MTU) == 1500
        sender.send(bytes(mtu + 1 - 28))
        eventually("an answer", lambda: (
            sender.getsockopt(socket.IPPROTO_IP, _IP_MTU) == mtu
        ))  # fmt: skip


# ------------------------------------------------------------------------------------------ off


def test_switched_off_it_leaves_nothing_and_flows_go_on(
    world: World, pods: list[Pod], front: Front
) -> None:
    world.become("vxlan")
    node_1 = world.node(1)
    there = (node_1.underlay_ip, front.service.node_port)
    programs, maps, links = held(world)
    assert len(programs) >= 2 * 2 * 3
    assert len(maps) >= 5 * 3
    assert bool(links) is (world.release == "v3.32")
    with flow(pods[0], pods[1]) as exchange:
        exchange.exchange(PRIME)
        world.become("vxlan", bpfEnabled=False)
        exchange.exchange(PRIME)
        for node in world.lab.nodes:
            assert world.programs(node) == {}
            assert world.annotation(node, FORWARDING) == PLAIN
            names = [path.name for path in world.at(node, "/sys/fs/bpf").rglob("*")]
            assert not [name for name in names if name.startswith(("cali", node.nic))]
            assert world.prints(node, "sysctl", "-n", "net.ipv4.conf.all.accept_local") == "0\n"
            for device in world.links(node):
                shown = world.prints(node, "tc", "filter", "show", "dev", device, "ingress")
                assert "cali" not in shown
        eventually("freed", lambda: not still_there(programs, maps, links))
        for node in world.lab.nodes:
            eventually("kube-proxy's rules", lambda n=node: rules(world, n))
        eventually("the node port answers", lambda: answers(world.client.holder_pid, *there))
        exchange.exchange(PRIME)


def held(world: World) -> tuple[set[int], set[int], set[int]]:
    """Ids of the programs, maps and links that the nodes have."""
    programs, maps, links = set(), set(), set()
    for node in world.lab.nodes:
        programs |= set(world.programs(node).values())
        for pin in world.at(node, PINS).iterdir():
            path = f"{PINS}/{pin.name}"
            maps.add(world.tool(node, "bpftool", "-j", "map", "show", "pinned", path)["id"])
    for link in traces.bpftool("link", "show"):
        if link.get("prog_id") in programs:
            links.add(link["id"])
    return programs, maps, links


def still_there(programs: set[int], maps: set[int], links: set[int]) -> bool:
    return any(
        ids & {entry["id"] for entry in traces.bpftool(kind, "show")}
        for kind, ids in (("prog", programs), ("map", maps), ("link", links))
    )
