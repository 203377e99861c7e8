"""The softirq probe in the real kernel: held against the kernel's own counts."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.namespaces import socket_in
from two_pods import TwoPods
from watched import TRIES, Watched, alone, events, fact, flow, watched

from ebpfperf.histograms import KERNEL
from ebpfperf.loads import load
from ebpfperf.model import Status

pytestmark = pytest.mark.lab

PRIME = 509


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
    for _ in range(TRIES):
        before = kernels_own()
        probe.arm()
        with alone(pods):
            armed = kernels_own()
            datagrams(pods, PRIME)
            done = kernels_own()
        answer, _ = probe.collect()
        after = kernels_own()
        vectors = answer["vectors"]
        names = set(before) & set(vectors)
        assert names >= {"NET_RX", "NET_TX", "TIMER", "SCHED", "RCU", "TASKLET", "HRTIMER"}
        # Never more than the kernel ran; not always all of them, see ``whole``.
        assert all(entries(vectors[name]) <= after[name] - before[name] for name in names)
        if all(entries(vectors[name]) >= done[name] - armed[name] for name in names):
            break
    else:
        pytest.fail(f"softirqs were missed in each of {TRIES} attempts")
    # A datagram over a veth raises one, and how each was raised and ended was seen as well.
    assert entries(vectors["NET_RX"]) >= PRIME
    assert vectors["NET_RX"]["unseen"] <= entries(vectors["NET_RX"]) / 100
    for counted in vectors.values():
        assert abs(events(counted["run"]) - entries(counted)) <= 3 + entries(counted) / 100
        bounds = [(KERNEL.bounds_ns(index), count) for index, count in counted["run"]]
        assert sum(low * count for (low, _), count in bounds) <= counted["run_ns"]
        assert sum(high * count for (_, high), count in bounds) >= counted["run_ns"]


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
