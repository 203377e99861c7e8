"""The runqueue probe in the real kernel: known sleeps, known waits, and nobody else's tasks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from two_pods import TwoPods
from watched import Watched, events, fact, flow, watched, whole

from ebpfperf.histograms import KERNEL
from ebpfperf.loads import load
from ebpfperf.model import Status
from ebpfperf.probes import ends

pytestmark = pytest.mark.lab

PRIME = 211
# Longer than the kernel keeps: it is cut.
TASK = f"waiting-{os.getpid()}-of-a-test"

COMMON = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None)

def named(name):
    assert libc.prctl(15, name.encode(), 0, 0, 0) == 0

def first_in_line(priority):
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))

def busy_until(moment):
    while time.monotonic() < moment:
        pass

os.sched_setaffinity(0, {int(sys.argv[2])})
"""
# Ahead of all others it is never preempted: it waits once for each time that it slept. Another
# one keeps the CPU busy meanwhile, so that it is known which task its wakeups interrupt.
SLEEPS = """
first_in_line(40)
reader, writer = os.pipe()
if os.fork() == 0:
    os.close(writer)
    first_in_line(30)
    os.set_blocking(reader, False)
    until = time.monotonic() + 0.8
    while time.monotonic() < until:
        try:
            if not os.read(reader, 1):
                break
        except BlockingIOError:
            pass
    os._exit(0)
time.sleep(0.01)
named(sys.argv[1])
for _ in range(int(sys.argv[3])):
    time.sleep(0.0005)
named("other")
os.close(writer)
os.wait()
"""
# Wakes while another task holds the CPU; says how late it ran. Nobody else comes before the two.
DELAYED = """
first_in_line(20)
began = time.monotonic() + 0.1
if os.fork() == 0:
    first_in_line(30)
    time.sleep(max(0, began - time.monotonic()))
    busy_until(began + 0.08)
    os._exit(0)
named(sys.argv[1])
woken = began + 0.02
time.sleep(max(0, woken - time.monotonic()))
late = time.monotonic() - woken
named("other")
os.wait()
print(late)
"""
# Two tasks that both want the one CPU for as long, and get it by turns of a known length.
RIVALS = """
os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(20))
until = time.monotonic() + float(sys.argv[3])
if os.fork() == 0:
    named(sys.argv[1])
    busy_until(until)
    os._exit(0)
named(sys.argv[1])
busy_until(until)
named("other")
os.wait()
"""


def run(script: str, *arguments: object, name: str = TASK) -> str:
    cpu = max(os.sched_getaffinity(0))
    argv = [sys.executable, "-c", COMMON + script, name, str(cpu), *map(str, arguments)]
    return subprocess.run(argv, check=True, timeout=30, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def loaded(pods: TwoPods) -> Iterator[Watched]:
    with watched(pods, "runqueue") as made:
        yield made


@pytest.fixture
def probe(loaded: Watched, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """It watches the tasks of this test alone: others may run the real loads meanwhile."""
    monkeypatch.setitem(ends.PROGRAMS, "request-response", TASK)
    return loaded


def waits(answer: dict[str, Any]) -> int:
    return events(answer["bins"])


def test_a_prime_number_of_sleeps_is_counted_exactly(probe: Watched) -> None:
    # Whom the kernel's own tasks interrupt waits once more.
    answer, reading, _ = whole(probe, PRIME, partial(run, SLEEPS, PRIME), waits, more=True)
    assert reading.metrics["runqueue_events"] == PRIME
    assert answer["unseen"] == 0


def test_armed_again_it_starts_from_nothing(probe: Watched) -> None:
    for number in (31, 13):
        answer, _, _ = whole(probe, number, partial(run, SLEEPS, number), waits, more=True)
        assert waits(answer) == number


def test_other_tasks_are_not_counted(probe: Watched) -> None:
    probe.arm()
    for name in ("another", TASK[:14], "x" + TASK):
        run(SLEEPS, 17, name=name)
    answer, reading = probe.collect()
    assert answer["bins"] == []
    assert reading.metrics == {"runqueue_events": 0.0}


def test_a_known_wait_is_found_in_its_bin(probe: Watched) -> None:
    probe.arm()
    late_ns = int(float(run(DELAYED)) * 1e9)
    answer, _ = probe.collect()
    assert late_ns >= 50_000_000
    # The task says how late it ran, which is a little later than it was given the CPU.
    longest = max(index for index, _ in answer["bins"])
    lower, upper = KERNEL.bounds_ns(longest)
    assert lower <= late_ns
    assert upper >= late_ns - 5_000_000


def test_of_two_rivals_one_waits_while_the_other_runs(probe: Watched) -> None:
    turn_ns = int(Path("/proc/sys/kernel/sched_rr_timeslice_ms").read_text()) * 10**6
    probe.arm()
    run(RIVALS, 6 * turn_ns / 1e9)
    answer, _ = probe.collect()
    # Of six turns the first task's wait for theirs from the second on, preempted while runnable.
    whole = [
        count for index, count in answer["bins"] if KERNEL.bounds_ns(index)[1] >= 0.9 * turn_ns
    ]
    assert 3 <= sum(whole) <= 6


def test_a_flow_has_its_waits_in_slices_of_its_window(pods: TwoPods) -> None:
    asked = flow("request-response", duration_s=2)
    with watched(pods, "runqueue", whole=False, share=0.04) as made:
        made.arm(asked)
        driver = load("request-response")
        raw = driver.drive(asked, pods.client, pods.server, pods.nodes)
        assert driver.parse(asked, raw).status is Status.OK
        answer, reading = made.collect()
    assert 0.04 <= float(fact(reading, "runqueue_watched_s")) <= 0.5
    assert answer["programs"] == ["sockperf"]
    assert reading.metrics["runqueue_events"] == events(answer["bins"]) > 0
    assert 0 < reading.metrics["runqueue_p50_ns"] <= reading.metrics["runqueue_p99_ns"]
    # What began before a slice is not in it.
    assert max(row.lower_ns for row in reading.histograms) < answer["watched_ns"]
