"""The drops probe in the real kernel: a prime number of packets dropped in each way, by its name.

Others use this machine's kernel too: exact is what is of the flow.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lab.losses import counter, dropping
from lab.namespaces import eventually, inside, socket_in
from two_pods import TwoPods
from watched import Watched, fact, flow, lost, watched

from ebpfperf.loads import PORTS
from ebpfperf.model import Reading

pytestmark = pytest.mark.lab

PRIME = 97
PORT = PORTS["udp"][2]
OTHER = PORTS["udp"][-1] + 1
VXLAN = 4789
UDP = flow("udp", rate_bits_per_s=1e6)


@pytest.fixture(scope="module")
def probe(pods: TwoPods) -> Iterator[Watched]:
    with watched(pods, "drops") as made:
        yield made


def send(pods: TwoPods, number: int, port: int, data: bytes = b"x") -> None:
    """So many datagrams to the server, where nothing stops them."""
    with socket_in(pods.holders()[0], socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(number):
            sender.sendto(data, (pods.server.address, port))


@contextlib.contextmanager
def handed_over(pods: TwoPods, number: int) -> Iterator[None]:
    """Waits at its end until the server's kernel has got so many packets.

    It takes its time where much else is to be done: who has sent them may be quicker.
    """
    server = pods.holders()[1]
    before = counter(server, "Ip", "InReceives")
    yield
    eventually("delivery", lambda: counter(server, "Ip", "InReceives") - before >= number)


def collected(
    probe: Watched, number: int, of: Callable[[dict[str, Any]], int] | None = None
) -> tuple[dict[str, Any], Reading]:
    """What the probe has in the end, once it has so many packets: of the flow, unless told else."""

    def there() -> bool:
        answer, _ = probe.collect(last=False)
        seen = of(answer) if of else sum(of_flow(answer).values())
        return seen + lost(answer) >= number

    eventually("so many dropped packets", there)
    return probe.collect()


def of_flow(answer: dict[str, Any]) -> dict[tuple[str, str], int]:
    """Reason and protocol → packets of the flow that were lost."""
    found: dict[tuple[str, str], int] = {}
    for drop in answer["drops"]:
        if drop["flow"] and drop["loss"]:
            key = drop["reason"], hex(drop["protocol"])
            found[key] = found.get(key, 0) + drop["count"]
    return found


def assert_all(answer: dict[str, Any], reading: Reading, reason: str, number: int) -> None:
    """That many packets of the flow were dropped, all for one reason at one place."""
    (counted,) = of_flow(answer).values()
    assert of_flow(answer) == {(reason, "0x800"): counted}
    assert number - lost(answer) <= counted <= number
    (sample,) = [one for one in reading.samples if one.metric.startswith("flow_dropped:")]
    assert (sample.endpoint, sample.value) == ("client+server", counted)
    assert sample.metric.startswith(f"flow_dropped:{reason}@")
    (same,) = [s for s in reading.samples if s.metric == sample.metric.removeprefix("flow_")]
    assert same.value >= sample.value
    assert reading.metrics["flow_dropped_packets"] == counted
    assert reading.metrics["dropped_packets"] >= counted


def test_datagrams_to_a_closed_port(pods: TwoPods, probe: Watched) -> None:
    for number in (PRIME, 13):
        probe.arm(UDP)
        send(pods, number, PORT)
        answer, reading = collected(probe, number)
        assert_all(answer, reading, "NO_SOCKET", number)
        assert "flow_dropped:NO_SOCKET@__udp4_lib_rcv" in {s.metric for s in reading.samples}


def test_datagrams_to_a_full_buffer(pods: TwoPods, probe: Watched) -> None:
    server = pods.holders()[1]
    with socket_in(server, socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        receiver.setblocking(False)
        receiver.bind((pods.server.address, PORT))
        probe.arm(UDP)
        before, received = counter(server, "Udp", "RcvbufErrors"), 0
        with handed_over(pods, PRIME):
            send(pods, PRIME, PORT)

        def judged() -> int:
            """How many were refused, once each was either refused or received."""
            nonlocal received
            with contextlib.suppress(BlockingIOError):
                while receiver.recv(10):
                    received += 1
            refused = counter(server, "Udp", "RcvbufErrors") - before
            return refused if received + refused == PRIME else 0

        refused = eventually("all are refused or received", judged)
        answer, reading = collected(probe, refused)
    assert 0 < refused < PRIME
    assert_all(answer, reading, "SOCKET_RCVBUFF", refused)


def test_packets_that_a_rule_drops(pods: TwoPods, probe: Watched) -> None:
    probe.arm(UDP)
    with dropping(pods.holders()[1], "-p", "udp", "--dport", str(PORT)) as dropped:
        with handed_over(pods, PRIME):
            send(pods, PRIME, PORT)
        eventually("the rule has dropped them", lambda: dropped() == PRIME)
    answer, reading = collected(probe, PRIME)
    assert_all(answer, reading, "NETFILTER_DROP", PRIME)


@contextlib.contextmanager
def filtered(pid: int, way: str) -> Iterator[None]:
    """Inside the block the device's tc drops all IPv4 on its way in or out."""
    # A program of one instruction, which returns TC_ACT_SHOT.
    shot = ["protocol", "ip", "bpf", "da", "bytecode", "1,6 0 0 2"]
    inside(pid, "tc", "qdisc", "add", "dev", "eth0", "clsact")
    try:
        inside(pid, "tc", "filter", "add", "dev", "eth0", way, *shot)
        yield
    finally:
        inside(pid, "tc", "qdisc", "delete", "dev", "eth0", "clsact")


@pytest.mark.parametrize(
    ("end", "way", "reason"), [(0, "egress", "TC_EGRESS"), (1, "ingress", "TC_INGRESS")]
)
def test_packets_that_tc_drops(
    pods: TwoPods, probe: Watched, end: int, way: str, reason: str
) -> None:
    with filtered(pods.holders()[end], way):
        probe.arm(UDP)
        send(pods, PRIME, PORT)
        answer, reading = collected(probe, PRIME)
    assert_all(answer, reading, reason, PRIME)


def test_connections_to_a_closed_port(pods: TwoPods, probe: Watched) -> None:
    probe.arm(flow("tcp"))
    client = pods.holders()[0]
    before = counter(client, "Tcp", "RetransSegs")
    for _ in range(7):
        with socket_in(client, socket.AF_INET, socket.SOCK_STREAM) as one:
            assert one.connect_ex((pods.server.address, PORT)) != 0
    # Where the machine stands still for a second, the kernel asks again.
    asked = 7 + counter(client, "Tcp", "RetransSegs") - before
    answer, reading = collected(probe, asked)
    assert_all(answer, reading, "NO_SOCKET", asked)


def test_other_packets_are_the_kernels_and_not_the_flows(pods: TwoPods, probe: Watched) -> None:
    probe.arm(UDP)
    send(pods, PRIME, OTHER)

    def in_udp(answer: dict[str, Any]) -> int:
        return sum(d["count"] for d in answer["drops"] if d["place"] == "__udp4_lib_rcv")

    answer, reading = collected(probe, PRIME, in_udp)
    assert of_flow(answer) == {}
    assert reading.metrics["flow_dropped_packets"] == 0
    (value,) = [s.value for s in reading.samples if s.metric == "dropped:NO_SOCKET@__udp4_lib_rcv"]
    assert reading.metrics["dropped_packets"] >= value >= PRIME - lost(answer)
    (value,) = [s.value for s in reading.samples if s.metric == "dropped_protocol:IPv4"]
    assert value >= PRIME - lost(answer)


def packet(pods: TwoPods, port: int) -> bytes:
    """An IPv4 packet of the flow, with a datagram without data."""
    ends = [socket.inet_aton(end.address) for end in (pods.client, pods.server)]
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, socket.IPPROTO_UDP, 0, *ends)
    return header + struct.pack("!HHHH", 40000, port, 8, 0)


def in_vxlan(pods: TwoPods, number: int, port: int) -> None:
    """The packet in an Ethernet frame in VXLAN, to an end that does not take VXLAN."""
    header = struct.pack("!II", 0x08000000, 4096 << 8) + bytes(12) + b"\x08\x00"
    send(pods, number, VXLAN, header + packet(pods, port))


def in_ipip(pods: TwoPods, number: int, port: int) -> None:
    """The packet in IPv4, to an end that does not take IPIP."""
    pid, ipip = pods.holders()[0], socket.IPPROTO_IPIP
    with socket_in(pid, socket.AF_INET, socket.SOCK_RAW, ipip) as sender:
        for _ in range(number):
            sender.sendto(packet(pods, port), (pods.server.address, 0))


@pytest.mark.parametrize(
    ("encapsulated", "reason"), [(in_vxlan, "NO_SOCKET"), (in_ipip, "IP_NOPROTO")]
)
def test_the_flow_is_found_within_an_overlay(
    pods: TwoPods,
    probe: Watched,
    encapsulated: Callable[[TwoPods, int, int], None],
    reason: str,
) -> None:
    probe.arm(UDP)
    with handed_over(pods, PRIME + 11):
        encapsulated(pods, PRIME, PORT)
        encapsulated(pods, 11, OTHER)
    answer, reading = collected(probe, PRIME)
    assert_all(answer, reading, reason, PRIME)


def test_what_nobody_read_is_no_loss(pods: TwoPods, probe: Watched) -> None:
    probe.arm(UDP)
    with socket_in(pods.holders()[1], socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((pods.server.address, PORT))
        send(pods, 11, PORT)
        assert len(receiver.recv(10)) == 1

    def freed(answer: dict[str, Any]) -> int:
        """The kernel does it when nobody can be using the socket any more."""
        return sum(d["count"] for d in answer["drops"] if d["flow"] and not d["loss"])

    answer, reading = collected(probe, 10, freed)
    assert reading.metrics["flow_dropped_packets"] == 0
    assert of_flow(answer) == {}
    samples = sum(s.value for s in reading.samples if s.metric.startswith("freed:"))
    assert samples >= 10 - lost(answer)


def test_only_the_window_counts(pods: TwoPods) -> None:
    """It opens with the flow's first connection, and is no slice: the probe is on all the time."""

    def connect_and_send(number: int, *, counts: int) -> tuple[dict[str, Any], Reading]:
        client, server = pods.holders()
        with contextlib.ExitStack() as stack:
            kind = socket.AF_INET, socket.SOCK_STREAM
            listener = stack.enter_context(socket_in(server, *kind))
            listener.bind((pods.server.address, PORT))
            listener.listen()

            def opened() -> bool:
                """Another connection: the kernel passes over an event now and then."""
                stack.enter_context(socket_in(client, *kind)).connect((pods.server.address, PORT))
                return bool(made.collect(last=False)[0]["opened"])

            eventually("the window opens", opened)
            with handed_over(pods, number):
                send(pods, number, PORT)
            return collected(made, counts)

    with watched(pods, "drops", whole=False, share=0.04) as made:
        made.arm(flow("udp", rate_bits_per_s=1e6, duration_s=60))
        with handed_over(pods, 5):
            send(pods, 5, PORT)
        answer, reading = connect_and_send(7, counts=7)
        assert_all(answer, reading, "NO_SOCKET", 7)
        assert "drops_watched_s" not in {fact.name for fact in reading.facts}
        assert fact(reading, "drops_lost_events") == str(lost(answer))
        made.arm(flow("udp", rate_bits_per_s=1e6, omit_s=3600))
        answer, reading = connect_and_send(11, counts=0)
    assert answer["drops"] == []
    assert reading.metrics == {"dropped_packets": 0.0, "flow_dropped_packets": 0.0}
