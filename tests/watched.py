"""One probe in the real kernel, armed and read by a test: what its answers are."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import pytest
from two_pods import TwoPods

from ebpfperf.model import Flow, Path, Reading, Status
from ebpfperf.probes import probe
from ebpfperf.probes.answers import file
from ebpfperf.probes.observers import Observers


def flow(load: str = "request-response", **fields: Any) -> Flow:
    return Flow("f", Path.POD_POD, load, **{"duration_s": 1, "omit_s": 0, **fields})


class Watched:
    """A probe that is loaded on the nodes of two pods, which share a kernel."""

    def __init__(self, pods: TwoPods, name: str, observers: Observers) -> None:
        self._pods, self._observers = pods, observers
        self.probe = probe(name)

    def arm(self, asked: Flow | None = None) -> None:
        self._asked = asked or flow()
        ends = self._pods.client, self._pods.server
        assert self._observers.arm([self.probe.name], self._asked, *ends) == {}

    def collect(self, *, last: bool = True) -> tuple[dict[str, Any], Reading]:
        """The node script's answer since it was armed, and what was read of it."""
        raw = self._observers.collect(last=last)[self.probe.name]
        (kernel,) = json.loads(raw[file(self.probe.name)])["kernels"]
        reading = self.probe.parse(self._asked, raw)
        assert reading.status is Status.OK
        return kernel["answer"], reading


@contextlib.contextmanager
def watched(
    pods: TwoPods,
    name: str,
    *,
    share: float = 1.0,
    whole: bool = True,
    options: Mapping[str, Any] | None = None,
) -> Iterator[Watched]:
    """The probe on both nodes: on all the time and counting since it is armed, unless told else."""
    made = Observers([probe(name)], share=share, whole=whole, options={name: options or {}})
    try:
        facts = made.attach(pods.nodes)
        for why in made.refused().values():
            cannot = any(f"({reason})" in why for reason in ("no_tracepoint", "not_loaded"))
            pytest.skip(f"{'cannot' if cannot else 'missing'}: {why}")
        assert f"{name}_variant" in {fact.name for fact in facts}
        yield Watched(pods, name, made)
    finally:
        made.detach()


T = TypeVar("T")

TRIES = 5
SPIN = """
import os, sys, threading, time
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
until = time.monotonic() + 0.8
print(flush=True)
while time.monotonic() < until and not os.path.exists(sys.argv[2]):
    pass
"""


@contextlib.contextmanager
def alone(pods: TwoPods) -> Iterator[None]:
    """Meanwhile, for less than a second, the processors run this thread or spin for it.

    So it is known what interrupts and softirqs interrupt: tasks of this test. A kernel may refuse
    to run programs on top of tasks that supervise it, and does not say how often.
    """
    over = pods.directory / f"over-{os.urandom(4).hex()}"
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    with contextlib.ExitStack() as stack:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(2))
        stack.callback(os.sched_setscheduler, 0, *before)
        stack.callback(over.touch)
        for cpu in sorted(os.sched_getaffinity(0)):
            argv = [sys.executable, "-S", "-E", "-c", SPIN, str(cpu), str(over)]
            spinning = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE))
            assert spinning.stdout is not None
            spinning.stdout.readline()
        yield
        over.touch()


def whole(
    probe: Watched,
    number: int,
    work: Callable[[], T],
    seen: Callable[[dict[str, Any]], int],
    *,
    more: bool = False,
) -> tuple[dict[str, Any], Reading, T]:
    """Answer, reading and what ``work`` gave, of an attempt in which all ``number`` were seen.

    Never more, and not always fewer: see ``alone``, which does not keep the scheduler from giving
    some milliseconds to those that wait. With ``more`` not always more either: where the kernel
    itself may add to the work.
    """
    for _ in range(TRIES):
        probe.arm()
        done = work()
        answer, reading = probe.collect()
        found = seen(answer)
        assert found <= number or more
        if found == number:
            return answer, reading, done
    pytest.fail(f"{found} of {number} were seen, and never all in {TRIES} attempts")


def lost(answer: Mapping[str, Any]) -> int:
    """Events that the kernel passed over because another program ran on that CPU."""
    return int(answer["program"].get("recursion_misses", 0))


def fact(reading: Reading, name: str) -> str:
    (value,) = [fact.value for fact in reading.facts if fact.name == name]
    return value


def events(pairs: list[list[int]]) -> int:
    """Number of observations of (bin number, count) pairs."""
    return sum(count for _, count in pairs)
