"""The retransmits probe in the real kernel: equal to the kernel's own RetransSegs, end by end."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from lab.losses import counter, dropping
from lab.namespaces import eventually, inside, socket_in
from two_pods import TwoPods
from watched import TRIES, Watched, flow, lost, watched

from ebpfperf.loads import PORTS, load
from ebpfperf.model import Reading
from ebpfperf.probes import probe as probe_named

pytestmark = pytest.mark.lab

PORT = PORTS["tcp"][1]
OTHER = PORTS["tcp"][-1] + 1
TCP = flow("tcp")
# At most in one buffer, which is one event.
SEGMENTS = 46


@pytest.fixture(scope="module")
def probe(pods: TwoPods) -> Iterator[Watched]:
    with watched(pods, "retransmits") as made:
        yield made


@contextlib.contextmanager
def connected(pods: TwoPods, port: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection: the client's socket and the server's."""
    client_pid, server_pid = pods.holders()
    with (
        socket_in(server_pid, socket.AF_INET, socket.SOCK_STREAM) as listener,
        socket_in(client_pid, socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        listener.bind((pods.server.address, port))
        listener.listen()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.connect((pods.server.address, port))
        server, _ = listener.accept()
        with server:
            server.settimeout(20)
            yield client, server


def receive(one: socket.socket, number: int) -> None:
    while number:
        got = one.recv(min(number, 1 << 20))
        assert got
        number -= len(got)


def retransmitted(pods: TwoPods) -> tuple[int, int]:
    """The kernel's own count, of the client's namespace and of the server's."""
    client, server = (counter(pid, "Tcp", "RetransSegs") for pid in pods.holders())
    return client, server


def samples(reading: Reading) -> dict[tuple[str, str], float]:
    """End and state → segments."""
    found = {(one.endpoint, one.metric.partition(":")[2]): one.value for one in reading.samples}
    assert sum(found.values()) == reading.metrics["retransmitted_segments"]
    return found


def agree(answer: dict[str, Any], found: Mapping[Any, float], expected: Mapping[Any, int]) -> None:
    """As many as expected; fewer only where the kernel says that it passed events over."""
    assert found.keys() <= expected.keys()
    least = {key: max(0, n - lost(answer) * SEGMENTS) for key, n in expected.items()}
    for key, number in expected.items():
        assert least[key] <= found.get(key, 0) <= number


def test_as_many_as_were_dropped_and_as_the_kernel_says(pods: TwoPods, probe: Watched) -> None:
    arriving = ["-p", "tcp", "--dport", str(PORT)]
    with connected(pods, PORT) as (client, server):
        probe.arm(TCP)
        before = retransmitted(pods)
        with dropping(pods.holders()[1], *arriving) as dropped:
            client.sendall(b"x")
            eventually("the segment was dropped thrice", lambda: dropped() >= 3)
        receive(server, 1)
        after = retransmitted(pods)
        answer, reading = probe.collect()
    # Each that was dropped was sent again, and nothing else was.
    assert (after[0] - before[0], after[1] - before[1]) == (dropped(), 0)
    agree(answer, samples(reading), {("client", "ESTABLISHED"): dropped()})


def test_buffers_of_many_segments_are_counted_by_the_segment(pods: TwoPods, probe: Watched) -> None:
    arriving = ["-p", "tcp", "--dport", str(PORT)]
    with connected(pods, PORT) as (client, server):
        # A window that is open, so that much is lost at once, and stays so while nothing is sent.
        inside(pods.holders()[0], "sysctl", "-qw", "net.ipv4.tcp_slow_start_after_idle=0")
        for _ in range(20):
            client.sendall(bytes(1 << 18))
            receive(server, 1 << 18)
        probe.arm(TCP)
        before = retransmitted(pods)
        with dropping(pods.holders()[1], *arriving) as dropped:
            client.sendall(bytes(1 << 17))
            eventually("much was dropped", dropped)
        receive(server, 1 << 17)
        after = retransmitted(pods)
        answer, reading = probe.collect()
    assert after[0] - before[0] > 10
    assert after[1] == before[1]
    agree(answer, samples(reading), {("client", "ESTABLISHED"): after[0] - before[0]})


def test_both_ends_of_a_handshake_are_told_apart(pods: TwoPods, probe: Watched) -> None:
    answering = ["-p", "tcp", "--sport", str(PORT)]
    made = threading.Event()

    def connect() -> None:
        with connected(pods, PORT):
            made.set()

    for _ in range(TRIES):
        made.clear()
        probe.arm(TCP)
        before = retransmitted(pods)
        connecting = threading.Thread(target=connect)
        with dropping(pods.holders()[0], *answering) as dropped:
            connecting.start()
            eventually("the answer was dropped", dropped)
        connecting.join()
        assert made.is_set()
        after = retransmitted(pods)
        answer, reading = probe.collect()
        by_client, by_server = after[0] - before[0], after[1] - before[1]
        both = {("client", "SYN_SENT"): by_client, ("server", "SYN_RECV"): by_server}
        agree(answer, samples(reading), both)
        # Both wait a second. Where the server's is over first, the client sends nothing again.
        if by_client and by_server and not lost(answer):
            return
    pytest.fail(f"never did both send again in {TRIES} attempts")


def test_other_ports_are_not_counted(pods: TwoPods, probe: Watched) -> None:
    with connected(pods, OTHER) as (client, server):
        probe.arm(TCP)
        before = retransmitted(pods)
        with dropping(pods.holders()[1], "-p", "tcp", "--dport", str(OTHER)) as dropped:
            client.sendall(b"x")
            eventually("the segment was dropped", dropped)
        receive(server, 1)
        assert retransmitted(pods) > before
        _, reading = probe.collect()
    assert reading.metrics == {"retransmitted_segments": 0.0}
    assert reading.samples == ()


def test_without_a_loss_it_is_zero(pods: TwoPods, probe: Watched) -> None:
    for _ in range(TRIES):
        probe.arm(TCP)
        before = retransmitted(pods)
        with connected(pods, PORT) as (client, server):
            client.sendall(b"x")
            receive(server, 1)
        # A machine that pauses makes TCP believe in a loss.
        if retransmitted(pods) == before:
            break
    _, reading = probe.collect()
    assert reading.metrics == {"retransmitted_segments": 0.0}


@pytest.mark.parametrize(("omit_s", "counted"), [(0, True), (3600, False)])
def test_only_the_window_counts(pods: TwoPods, omit_s: int, counted: bool) -> None:
    with watched(pods, "retransmits", whole=False, share=0.04) as made:
        made.arm(flow("tcp", duration_s=60, omit_s=omit_s))
        before = retransmitted(pods)
        with connected(pods, PORT) as (client, server):
            with dropping(pods.holders()[1], "-p", "tcp", "--dport", str(PORT)) as dropped:
                client.sendall(b"x")
                eventually("the segment was dropped", dropped)
            receive(server, 1)
            number = sum(retransmitted(pods)) - sum(before)
            answer, reading = made.collect()
    assert number > 0
    agree(answer, reading.metrics, {"retransmitted_segments": number if counted else 0})


def test_a_real_flow_has_as_many_as_its_namespaces(pods: TwoPods, probe: Watched) -> None:
    asked = flow("tcp", streams=2)
    probe.arm(asked)
    before = retransmitted(pods)
    load("tcp").drive(asked, pods.client, pods.server, pods.nodes)
    after = retransmitted(pods)
    answer, reading = probe.collect()
    refused = sum(counter(pid, "TcpExt", "TCPRetransFail") for pid in pods.holders())
    assert refused == 0
    agree(answer, reading.metrics, {"retransmitted_segments": sum(after) - sum(before)})


def test_a_udp_flow_is_passed_over() -> None:
    assert probe_named("retransmits").skip(flow("udp", rate_bits_per_s=1e6))
    assert not probe_named("retransmits").skip(TCP)
