"""The softirq probe in the real kernel: held against the kernel's own counts."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.namespaces import socket_in
from two_pods import TwoPods, two_pods
from watched import Watched, alone, events, fact, flow, lost, watched

from ebpfperf.histograms import KERNEL
from ebpfperf.loads import load
from ebpfperf.model import Status

pytestmark = pytest.mark.lab

PRIME = 509
# A softirq of each CPU may run while it is read.
UNDER_WAY = 2


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoPods]:
    with two_pods(tmp_path_factory.mktemp("pods")) as made:
        yield made


@pytest.fixture(scope="module", params=["raw", "classic"])
def probe(pods: TwoPods, request: pytest.FixtureRequest) -> Iterator[Watched]:
    with watched(pods, "softirq", options={"raw": request.param == "raw"}) as made:
        yield made


def kernels_own() -> dict[str, int]:
    """Vector → how often it ran, by /proc/softirqs."""
    lines = Path("/proc/softirqs").read_text().splitlines()[1:]
    return {name.strip(): sum(map(int, rest.split())) for name, _, rest in
            (line.partition(":") for line in lines)}  # fmt: skip


def datagrams(pods: TwoPods, number: int) -> None:
    """So many datagrams, each received before the next is sent."""
    with (
        socket_in(pods.holders()[0], socket.AF_INET, socket.SOCK_DGRAM) as client,
        socket_in(pods.holders()[1], socket.AF_INET, socket.SOCK_DGRAM) as server,
    ):
        server.bind((pods.server.address, 0))
        server.settimeout(5)
        for _ in range(number):
            client.sendto(b"x", server.getsockname())
            server.recv(1)


def entries(counted: dict[str, Any]) -> int:
    return events(counted["wait"]) + int(counted["unseen"])


def test_every_softirq_that_the_kernel_counts_is_seen(pods: TwoPods, probe: Watched) -> None:
    before = kernels_own()
    probe.arm()
    with alone(pods):
        armed = kernels_own()
        datagrams(pods, PRIME)
        done = kernels_own()
    answer, _ = probe.collect()
    after = kernels_own()
    names = {"NET_RX", "NET_TX", "TIMER", "SCHED", "RCU", "TASKLET", "HRTIMER"}
    assert names < set(answer["vectors"])
    for name in set(before) & set(answer["vectors"]):
        counted = answer["vectors"][name]
        seen = entries(counted)
        assert done[name] - armed[name] - lost(answer) <= seen <= after[name] - before[name]
        # Each of them ended, and how long it ran is in its histogram and its sum alike.
        assert abs(events(counted["run"]) - seen) <= UNDER_WAY + lost(answer)
        bounds = [(KERNEL.bounds_ns(index), count) for index, count in counted["run"]]
        assert sum(low * count for (low, _), count in bounds) <= counted["run_ns"]
        assert sum(high * count for (_, high), count in bounds) >= counted["run_ns"]
    # A datagram over a veth raises one.
    assert entries(answer["vectors"]["NET_RX"]) >= PRIME - lost(answer)
    assert answer["vectors"]["NET_RX"]["unseen"] <= UNDER_WAY + lost(answer)


def test_armed_again_it_starts_from_nothing(pods: TwoPods, probe: Watched) -> None:
    probe.arm()
    datagrams(pods, PRIME)
    before = kernels_own()
    probe.arm()
    answer, _ = probe.collect()
    ran = kernels_own()["NET_RX"] - before["NET_RX"]
    assert entries(answer["vectors"]["NET_RX"]) <= ran


def test_a_flow_has_its_softirqs_in_slices_of_its_window(pods: TwoPods) -> None:
    asked = flow("tcp", duration_s=2)
    with watched(pods, "softirq", whole=False, share=0.04) as made:
        made.arm(asked)
        driver = load("tcp")
        raw = driver.drive(asked, pods.client, pods.server, pods.nodes)
        assert driver.parse(asked, raw).status is Status.OK
        answer, reading = made.collect()
    # Two slices; the hooks are taken off one after the other, which takes a while.
    assert 0.04 <= float(fact(reading, "softirq_watched_s")) <= 0.5
    assert events(answer["vectors"]["NET_RX"]["wait"]) > 0
    assert 0 < reading.metrics["softirq_share_pct"] <= 100
    assert reading.metrics["softirq_run_p50_ns"] > 0
    longest = max(row.lower_ns for row in reading.histograms)
    assert longest < answer["watched_ns"]
