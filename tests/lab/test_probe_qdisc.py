"""The qdisc probe in the real kernel: packets that a shaper holds for a known time."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from lab.namespaces import socket_in
from two_pods import TwoPods
from watched import Watched, alone, events, fact, flow, watched, whole

from ebpfperf.histograms import KERNEL
from ebpfperf.loads import load
from ebpfperf.model import Status

pytestmark = pytest.mark.lab

PRIME = 97
FRAME = 1000
HEADERS = 14 + 20 + 8
RATE = 8_000_000  # bit/s: a frame a millisecond
BURST = 4000
PACED = ["tbf", "rate", f"{RATE}bit", "burst", str(BURST), "limit", "1000000"]


def inside(pid: int, *argv: str) -> None:
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", "--", *argv]
    subprocess.run(command, check=True, timeout=20, capture_output=True)


@pytest.fixture(scope="module", params=[True, False], ids=["raw", "classic"])
def probe(pods: TwoPods, request: pytest.FixtureRequest) -> Iterator[Watched]:
    with watched(pods, "qdisc", options={"raw": request.param}) as made:
        yield made


@pytest.fixture
def paced(pods: TwoPods) -> Iterator[None]:
    """The client's device sends at a known rate."""
    inside(pods.holders()[0], "tc", "qdisc", "replace", "dev", "eth0", "root", *PACED)
    yield
    inside(pods.holders()[0], "tc", "qdisc", "delete", "dev", "eth0", "root")


@pytest.fixture
def short_queue(pods: TwoPods) -> Iterator[None]:
    """The same, and a packet leaves as it entered and at most 20 ms later, or not at all.

    Of a segment that must be cut for the burst nobody can say when its parts entered.
    """
    client = pods.holders()[0]
    inside(client, "ip", "link", "set", "dev", "eth0", "gso_max_segs", "1")
    inside(client, "tc", "qdisc", "replace", "dev", "eth0", "root", *PACED[:-1], "20000")
    yield
    inside(client, "tc", "qdisc", "delete", "dev", "eth0", "root")
    inside(client, "ip", "link", "set", "dev", "eth0", "gso_max_segs", "65535")


def send(pods: TwoPods, number: int, *, back: bool = False) -> int:
    """So many frames at once, until all have arrived; how long sending took, ns."""
    one, other = reversed(pods.holders()) if back else pods.holders()
    address = pods.client.address if back else pods.server.address
    with (
        alone(pods),
        socket_in(one, socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket_in(other, socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind((address, 0))
        receiver.settimeout(5)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        began = time.monotonic_ns()
        for _ in range(number):
            sender.sendto(b"x" * (FRAME - HEADERS), receiver.getsockname())
        took = time.monotonic_ns() - began
        for _ in range(number):
            receiver.recv(FRAME)
    return took


def of(answer: dict[str, Any], device: str, end: str) -> dict[str, Any]:
    (found,) = [d for d in answer["devices"] if d["device"] == device and end in d["ends"]]
    return dict(found)


def clients(answer: dict[str, Any]) -> int:
    """Packets that were seen to leave the client's paced device."""
    return events(of(answer, "pod:eth0", "client")["bins"])


def test_a_prime_number_of_packets_waits_as_long_as_their_rate_says(
    pods: TwoPods, probe: Watched, paced: None
) -> None:
    answer, reading, took_ns = whole(probe, PRIME, lambda: send(pods, PRIME), clients)
    queue = of(answer, "pod:eth0", "client")
    assert (queue["discipline"], queue["ends"], queue["unseen"]) == ("tbf", ["client"], 0)
    assert "client pod:eth0 tbf" in fact(reading, "qdisc_queues")
    # The last waits for the tokens of all but the burst, the one before for a frame's less.
    wire_ns = (PRIME * FRAME - BURST) * 8 * 10**9 // RATE
    waits = [KERNEL.bounds_ns(index)[1] for index, count in queue["bins"] for _ in range(count)]
    for place, longest_ns in enumerate(reversed(waits)):
        assert longest_ns >= wire_ns - took_ns - place * FRAME * 8 * 10**9 // RATE
    rows = [row for row in reading.histograms if row.metric == "qdisc_ns:pod:eth0"]
    assert {row.endpoint for row in rows} == {"client"}


def test_without_a_queue_nothing_waits(pods: TwoPods, probe: Watched) -> None:
    probe.arm()
    send(pods, 23)
    answer, _ = probe.collect()
    assert not [d for d in answer["devices"] if d["device"] == "pod:eth0"]


def test_only_the_way_out_of_a_paced_device_is_counted(
    pods: TwoPods, probe: Watched, paced: None
) -> None:
    probe.arm()
    send(pods, 19, back=True)
    answer, _ = probe.collect()
    assert clients(answer) == 0


def test_armed_again_it_starts_from_nothing(pods: TwoPods, probe: Watched, paced: None) -> None:
    for number in (31, 13):
        answer, _, _ = whole(probe, number, partial(send, pods, number), clients)
        assert clients(answer) == number


def test_a_flow_has_its_queues_in_slices_of_its_window(pods: TwoPods, short_queue: None) -> None:
    asked = flow("tcp", duration_s=2)
    with watched(pods, "qdisc", whole=False, share=0.04) as made:
        made.arm(asked)
        driver = load("tcp")
        raw = driver.drive(asked, pods.client, pods.server, pods.nodes)
        assert driver.parse(asked, raw).status is Status.OK
        answer, reading = made.collect()
    assert 0.04 <= float(fact(reading, "qdisc_watched_s")) <= 0.5
    queue = of(answer, "pod:eth0", "client")
    assert reading.metrics["qdisc_packets"] >= events(queue["bins"]) > 0
    # What began before a slice is not in it.
    assert max(row.lower_ns for row in reading.histograms) < answer["watched_ns"]
