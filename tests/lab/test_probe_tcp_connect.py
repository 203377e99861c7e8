"""The tcp_connect probe in the real kernel: connections counted exactly, a known wait found."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from lab.losses import dropping
from lab.namespaces import eventually, socket_in
from two_pods import TwoPods
from watched import Watched, events, flow, lost, watched

from ebpfperf.loads import PORTS, load
from ebpfperf.model import Reading
from ebpfperf.probes import probe as probe_named
from ebpfperf.units import NS_PER_S

pytestmark = pytest.mark.lab

PRIME = 101
PORT = PORTS["request-response"][1]
OTHER = PORTS["request-response"][-1] + 1
SYN = ["-p", "tcp", "--dport", str(PORT), "--syn"]
NONE = {"failed": 0, "waiting": 0, "missed": 0}


@pytest.fixture(scope="module")
def probe(pods: TwoPods) -> Iterator[Watched]:
    with watched(pods, "tcp_connect") as made:
        yield made


@contextlib.contextmanager
def listening(pods: TwoPods, port: int, *, back: bool = False) -> Iterator[None]:
    """The server (``back``: the client) takes connections at ``port``."""
    end, pid = (pods.client, pods.holders()[0]) if back else (pods.server, pods.holders()[1])
    with socket_in(pid, socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((end.address, port))
        listener.listen(PRIME)
        yield


def connect(pods: TwoPods, number: int, port: int, *, back: bool = False) -> int:
    """So many connections, each closed again; how long the last took, ns."""
    pid = pods.holders()[1 if back else 0]
    address = (pods.client if back else pods.server).address
    took = 0
    for _ in range(number):
        with socket_in(pid, socket.AF_INET, socket.SOCK_STREAM) as one:
            began = time.monotonic_ns()
            one.connect((address, port))
            took = time.monotonic_ns() - began
    return took


def samples(reading: Reading) -> dict[str, float]:
    assert {(one.source, one.endpoint) for one in reading.samples} == {("tcp_connect", "client")}
    return {one.metric.removeprefix("connects_"): one.value for one in reading.samples}


def test_a_prime_number_of_connections_is_counted_exactly(pods: TwoPods, probe: Watched) -> None:
    for number in (PRIME, 13):
        with listening(pods, PORT):
            probe.arm()
            connect(pods, number, PORT)
        answer, reading = probe.collect()
        assert number - lost(answer) <= events(answer["ends"]["client"]["bins"]) <= number
        assert reading.metrics["connects"] == events(answer["ends"]["client"]["bins"])
        assert 0 < reading.metrics["connect_p50_ns"] <= reading.metrics["connect_p99_ns"]
        assert samples(reading) == NONE


@pytest.mark.parametrize(("port", "back"), [(OTHER, False), (PORT, True)])
def test_other_ports_and_the_other_way_are_not_counted(
    pods: TwoPods, probe: Watched, port: int, back: bool
) -> None:
    with listening(pods, port, back=back):
        probe.arm()
        connect(pods, 7, port, back=back)
    _, reading = probe.collect()
    assert reading.metrics == {"connects": 0.0}
    assert samples(reading) == NONE


def test_refused_connections_are_set_apart(pods: TwoPods, probe: Watched) -> None:
    probe.arm()
    for _ in range(11):
        with pytest.raises(ConnectionRefusedError):
            connect(pods, 1, PORT)
    answer, reading = probe.collect()
    assert reading.metrics == {"connects": 0.0}
    assert 11 - lost(answer) <= samples(reading)["failed"] <= 11


def test_a_lost_syn_costs_the_second_until_the_next_one(pods: TwoPods, probe: Watched) -> None:
    took: list[int] = []
    with listening(pods, PORT):
        probe.arm()
        connecting = threading.Thread(target=lambda: took.append(connect(pods, 1, PORT)))
        with dropping(pods.holders()[1], *SYN) as dropped:
            connecting.start()
            eventually("the SYN was dropped", dropped)
        connecting.join()
    _, reading = probe.collect()
    (row,) = reading.histograms
    assert row.count == 1
    # No longer than the program waited, and no shorter than TCP's first time-out of a second.
    assert row.lower_ns <= took[0]
    assert row.upper_ns > 0.95 * NS_PER_S


def test_who_waits_is_told_and_who_gives_up_has_failed(pods: TwoPods, probe: Watched) -> None:
    with dropping(pods.holders()[1], *SYN):
        probe.arm()
        with socket_in(pods.holders()[0], socket.AF_INET, socket.SOCK_STREAM) as one:
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.connect((pods.server.address, PORT))
            assert samples(probe.collect(last=False)[1]) == {**NONE, "waiting": 1}
        _, reading = probe.collect()
    assert samples(reading) == {**NONE, "failed": 1}
    assert reading.metrics == {"connects": 0.0}


def test_what_began_before_is_not_counted(pods: TwoPods, probe: Watched) -> None:
    with listening(pods, PORT):
        connecting = threading.Thread(target=lambda: connect(pods, 1, PORT))
        with dropping(pods.holders()[1], *SYN) as dropped:
            connecting.start()
            eventually("the SYN was dropped", dropped)
            probe.arm()
        connecting.join()
    _, reading = probe.collect()
    assert reading.metrics == {"connects": 0.0}
    assert samples(reading) == NONE


def test_the_connections_of_a_real_flow_are_counted_before_its_window(pods: TwoPods) -> None:
    asked = flow("tcp", streams=3, omit_s=1)
    with watched(pods, "tcp_connect", whole=False, share=0.04) as made:
        made.arm(asked)
        load("tcp").drive(asked, pods.client, pods.server, pods.nodes)
        answer, reading = made.collect()
    # Three streams and iperf3's own connection.
    assert 4 - lost(answer) <= reading.metrics["connects"] <= 4
    assert "tcp_connect_watched_s" not in {fact.name for fact in reading.facts}


def test_a_udp_flow_is_passed_over() -> None:
    assert probe_named("tcp_connect").skip(flow("udp", rate_bits_per_s=1e6))
    assert probe_named("tcp_connect").skip(flow(transport="udp"))
    assert not probe_named("tcp_connect").skip(flow("tcp"))
