"""Waiting for quiet nodes: what is busy, how long is waited, and that a trial goes ahead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from ebpfperf import quiet
from ebpfperf.errors import CommandError, ConnectError
from ebpfperf.model import Quiet, Status
from ebpfperf.remote_session import Completed

DEVICES = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo:  999       1    0    0    0     0          0         0      999       1    0    0    0
  eth0: {rx}       1    0    0    0     0          0         0     {tx}       1    0    0    0
"""


def reading(at_s: float, ticks: Sequence[int], rx: int, tx: int) -> str:
    cpu = " ".join(map(str, ticks))
    return f"{at_s:.2f} 99.99\ncpu  {cpu}\n{DEVICES.format(rx=rx, tx=tx)}"


def printed(busy_pct: int, *, carried_bytes: int = 0) -> str:
    """Half a second of two processors: a hundred ticks, so many of them busy."""
    ticks = [1000, 0, 0, 5000, 10, 0, 0, 0, 0, 0]
    later = [1000 + busy_pct, 0, 0, 5000 + 100 - busy_pct, 10, 0, 0, 0, 0, 0]
    received = carried_bytes // 2
    sent = carried_bytes - received
    return (
        reading(100.0, ticks, 10**12, 7)
        + "== later ==\n"
        + reading(100.5, later, 10**12 + received, 7 + sent)
    )


class FakeNode:
    """Prints one text after the other, the last one for ever."""

    def __init__(self, *texts: str | Exception) -> None:
        self.texts = list(texts)
        self.asked = 0

    def run(self, argv: Sequence[str], **_: Any) -> Completed:
        self.asked += 1
        text = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
        if isinstance(text, Exception):
            raise text
        return Completed(tuple(argv), 0, text.encode(), b"", 0.0)


class Clock:
    """Time that passes while somebody sleeps, and a tenth of a second whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.1
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(quiet, "time", made)
    return made


def waited(*nodes: FakeNode, asked: Quiet | None = None) -> Any:
    named: Any = {f"node-{number}": node for number, node in enumerate(nodes)}
    nics = dict.fromkeys(named, "eth0")
    return quiet.wait(named, named, asked or Quiet(wait_s=2), nics=nics, say=SAID.append)


SAID: list[str] = []


def test_busy_is_all_but_idle_and_waiting_for_disks_and_stolen_time_counts() -> None:
    before = [10, 20, 30, 40, 50, 60, 70, 80, 5, 5]
    spent = [2, 3, 5, 7, 11, 13, 17, 19, 2, 3]
    after = [a + b for a, b in zip(before, spent, strict=True)]
    text = reading(5, before, 0, 0) + "== later ==\n" + reading(6, after, 100, 25)
    found = quiet.parse("n", text, nic="eth0")
    assert found.busy_pct == pytest.approx(100 * (2 + 3 + 5 + 13 + 17 + 19) / sum(spent[:8]))
    assert found.nic_bits_per_s == 8 * 125
    assert quiet.parse("n", text, nic="").nic_bits_per_s is None


def test_that_and_why_nodes_are_waited_for_is_said_once(clock: Clock) -> None:
    SAID.clear()
    waited(FakeNode(printed(2)), FakeNode(printed(90), printed(80), printed(5)))
    assert SAID == ["Waiting up to 2 s for quiet nodes: node-1 was 90 % busy."]
    SAID.clear()
    waited(FakeNode(printed(2)))
    waited(FakeNode(printed(90)), asked=Quiet(wait_s=0))
    assert SAID == []


def test_quiet_nodes_are_asked_once_and_not_waited_for(clock: Clock) -> None:
    nodes = FakeNode(printed(15)), FakeNode(printed(3))
    found = waited(*nodes)
    assert [node.asked for node in nodes] == [1, 1]
    assert found.metrics["idle_busy_pct"] == 15
    assert found.metrics["waited_s"] == 0


def test_the_worst_node_counts_and_is_waited_for(clock: Clock) -> None:
    nodes = FakeNode(printed(2)), FakeNode(printed(16), printed(90), printed(5))
    found = waited(*nodes)
    assert [node.asked for node in nodes] == [3, 3]
    assert found.metrics["idle_busy_pct"] == 5
    assert 0 < found.metrics["waited_s"] < 2


@pytest.mark.parametrize(("carried_bytes", "asked"), [(625_000, 1), (625_001, 2)])
def test_a_nic_that_carries_something_is_waited_for(
    clock: Clock, carried_bytes: int, asked: int
) -> None:
    """10 Mbit/s for half a second, both ways added."""
    node = FakeNode(printed(0, carried_bytes=carried_bytes), printed(0))
    waited(node)
    assert node.asked == asked


def test_after_its_time_the_trial_goes_ahead_and_the_last_sample_is_told(clock: Clock) -> None:
    node = FakeNode(printed(99), printed(50))
    found = waited(node, asked=Quiet(wait_s=3, sample_s=0.5))
    assert found.status is Status.OK
    assert found.metrics["idle_busy_pct"] == 50
    # No sample begins that would end after the time.
    assert 3 - 0.5 - 0.4 <= found.metrics["waited_s"] <= 3


def test_nothing_is_asked_where_nothing_is_wanted() -> None:
    node: Any = FakeNode(printed(99))
    assert quiet.wait({"n": node}, ["n"], None).metrics == {}
    assert node.asked == 0


@pytest.mark.parametrize("what", ["", "what?\n", printed(5)[:60]])
def test_a_node_that_cannot_be_watched_fails_no_trial(clock: Clock, what: str) -> None:
    found = waited(FakeNode(what))
    assert found.status is Status.FAILED
    assert found.reason.startswith("How quiet the nodes were is not known: ")
    assert found.metrics == {}
    assert waited(FakeNode(CommandError("no.", "x"))).status is Status.FAILED


def test_a_lost_connection_is_the_trials_matter(clock: Clock) -> None:
    with pytest.raises(ConnectError):
        waited(FakeNode(ConnectError("gone.", "x")))


def test_the_command_pauses_between_its_two_readings() -> None:
    script = " ".join(quiet.WATCH.split())
    assert re.search(r"reading && echo '== later ==' && sleep \"\$1\" && reading$", script)
