"""Looking at a trial while it runs: the thread, what a notebook's cell shows, and how it ends."""

from __future__ import annotations

import base64
import itertools
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
import synthetic

from ebpfperf import live, live_view, plan, runner, validity
from ebpfperf.live_view import Now, Point
from ebpfperf.looking import Looks
from ebpfperf.model import (
    Direction,
    Fact,
    HistogramBin,
    Reading,
    Sample,
    Status,
    Trial,
    TrialResult,
)
from ebpfperf.store import Store

CAMPAIGN = replace(synthetic.CAMPAIGN, blocks=1, probes=("tcp_rtt", "hops"))
TRIALS = plan.schedule(CAMPAIGN)
(TCP, *_) = [trial for trial in TRIALS if trial.flow.name == "tcp"]
(RR, *_) = [trial for trial in TRIALS if trial.flow.name == "rr"]
SECOND = 10.0


def counters(t_s: float, **got: float) -> Reading:
    """Device counters ``END_COUNTER`` at a time."""
    samples = [
        Sample("host_counters", end, f"device_{name}", "B", t_s, value)
        for end, _, name, value in ((*key.partition("_"), value) for key, value in got.items())
    ]
    return Reading(samples=tuple(samples))


# The thread that looks.


def looking() -> list[threading.Thread]:
    """The threads that look: others of this process come and go when they like."""
    return [one for one in threading.enumerate() if one.name.startswith("looks at ")]


def test_looks_go_on_until_the_traffic_ends_and_none_is_under_way_after_it() -> None:
    told: list[tuple[Trial, Mapping[str, Reading]]] = []
    enough = threading.Event()

    def on_look(trial: Trial, readings: Mapping[str, Reading]) -> None:
        told.append((trial, readings))
        if len(told) == 3:
            enough.set()

    seen = itertools.count()
    look = lambda: {"tcp_rtt": Reading(metrics={"srtt_events": float(next(seen))})}  # noqa: E731
    with Looks(on_look, every_s=0.001).during(TCP, look) as looked:
        assert enough.wait(SECOND)
    assert looking() == []
    assert {trial for trial, _ in told} == {TCP}
    events = [readings["tcp_rtt"].metrics["srtt_events"] for _, readings in told]
    assert events == list(range(len(told)))
    assert looked.warnings == ()
    assert looked.facts == (
        Fact("", "live_view", "yes: looked every 0.001 s"),
        Fact("", "live_looks", str(len(told)), "1"),
    )


def test_a_look_in_flight_ends_before_the_block_does() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def look() -> dict[str, Reading]:
        begun.set()
        may_end.wait(SECOND)
        ended.set()
        return {}

    with Looks(lambda *_: None, every_s=0.001).during(TCP, look):
        assert begun.wait(SECOND)
        assert not ended.is_set()
        may_end.set()
    assert ended.is_set()


def test_nobody_looks_unless_asked() -> None:
    def look() -> dict[str, Reading]:
        raise AssertionError("somebody looked")

    with Looks().during(TCP, look) as looked:
        assert looking() == []
    assert (looked.facts, looked.warnings) == ((), ())


@pytest.mark.parametrize("which", ["look", "on_look"])
def test_a_failing_look_is_noted_once_and_the_next_is_made(which: str) -> None:
    calls = 0
    enough = threading.Event()

    def fail(*_: object) -> dict[str, Reading]:
        nonlocal calls
        calls += 1
        if calls == 3:
            enough.set()
        raise ValueError(f"number {calls}")

    fine: Callable[..., dict[str, Reading]] = lambda *_: {}  # noqa: E731
    look, on_look = (fail, fine) if which == "look" else (fine, fail)
    with Looks(on_look, every_s=0.001).during(TCP, look) as looked:
        assert enough.wait(SECOND)
    assert looked.warnings == ("live view: number 1",)
    assert looked.facts[1].value == "0"


def test_the_thread_ends_when_the_traffic_fails() -> None:
    with (
        pytest.raises(RuntimeError, match="gone"),
        Looks(lambda *_: None, every_s=0.001).during(TCP, dict),
    ):
        raise RuntimeError("gone")
    assert looking() == []


# What is shown.


@pytest.mark.parametrize(
    ("direction", "bits"),
    [(Direction.FORWARD, 800.0), (Direction.REVERSE, 80.0), (Direction.BIDIR, 880.0)],
)
def test_bulk_is_what_its_receivers_got(direction: Direction, bits: float) -> None:
    flow = replace(TCP.flow, direction=direction)
    reading = counters(2.0, server_rx_bytes=100, client_rx_bytes=10)
    assert live_view.point(flow, reading) == Point(2.0, bits)
    assert live_view.point(flow, None) is None


def test_an_exchange_is_counted_in_the_packets_that_its_client_got() -> None:
    reading = counters(2.0, client_rx_packets=7, server_rx_packets=8)
    assert live_view.point(RR.flow, reading) == Point(2.0, 7.0)


def test_rates_are_of_what_lies_between_two_looks() -> None:
    points = (Point(1.0, 0.0), Point(1.5, 100.0), Point(1.5, 100.0), Point(3.5, 100.0))
    assert live_view.rates(points) == ((1.5, 200.0), (3.5, 0.0))
    assert live_view.rates(points[:1]) == ()


def readings() -> dict[str, Reading]:
    rows = tuple(
        HistogramBin("hops", "client", f"hop_ns:{way}", lower, lower + 128, count)
        for way, lower, count in (
            ("pod-queue>veth-rx", 1024, 9),
            ("pod-receive>socket-copy", 1048576, 5),
            ("=sender", 4096, 4),
        )
    )
    return {
        "tcp_rtt": Reading(metrics={"srtt_p50_ns": 83_000.0, "srtt_events": 0.0}),
        "hops": Reading(histograms=rows),
        "softirq": Reading(facts=(Fact("", "softirq_skipped", "node-1: not begun"),)),
        "drops": Reading(metrics={"dropped_packets": 0.0}),
        "runqueue": Reading(Status.FAILED, "not_watched: node-1: it was over before its turn"),
        "host_counters": counters(2.0, server_rx_bytes=100),
    }


def test_bars_are_the_steps_and_whole_ways_are_left_out() -> None:
    found = {bar.label: (bar.group, bar.ns) for bar in live_view.bars(readings())}
    assert found["TCP smoothed RTT, median"] == ("Round trips", 83_000.0)
    assert found["pod-queue → veth-rx"][1] == 1088.0
    assert found["pod-queue → veth-rx"][0] != found["pod-receive → socket-copy"][0]
    assert not any("sender" in label for label in found)


def test_the_counts_say_why_a_probe_is_silent() -> None:
    frame = live_view.counts(readings()).frame.set_index("probe")
    seen = {"tcp_rtt": "–", "hops": "18", "softirq": "–", "drops": "0", "runqueue": "–"}
    assert frame["seen"].to_dict() == seen
    assert frame.loc["runqueue", "note"] == "nothing yet"
    assert frame.loc["softirq", "note"] == "node-1: not begun"


def test_the_picture_is_svg_with_words_and_escapes_what_it_shows() -> None:
    points = (Point(0.5, 0.0), Point(1.0, 1e9), Point(1.5, 1.5e9))
    now = Now(CAMPAIGN, "Trial <1>", TCP, readings(), points, said=("a & b",))
    html = now._repr_html_()
    assert "Trial &lt;1&gt;" in html
    assert "a &amp; b" in html
    alt = re.search(r'alt="([^"]+)"', html)
    assert alt is not None
    assert "Received 1 Gbit/s, at most 2 Gbit/s" in alt[1]
    data = re.search(r"base64,([A-Za-z0-9+/=]+)", html)
    assert data is not None
    svg = ElementTree.fromstring(base64.b64decode(data[1]))
    texts = [node.text for node in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert "pod-queue → veth-rx" in texts
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}circle"))) == 2


def test_nothing_seen_yet_is_said_and_not_drawn() -> None:
    html = Now(CAMPAIGN, "Trial 1", TCP)._repr_html_()
    assert "<img" not in html
    assert "UNKNOWN so far" in Now(CAMPAIGN, "Trial 1", TCP, readings())._repr_html_()


def result(trial: Trial, **fields: Any) -> TrialResult:
    metrics = {"received_bits_per_s": 2e9}
    return TrialResult(
        trial, **{"status": Status.OK, "reason": "", "start_utc": "2026-11-25T00:00:00.000Z",
                  "duration_s": 1.0, "overhead_s": 0.1, "metrics": metrics, **fields},
    )  # fmt: skip


def test_finished_trials_stand_newest_first_with_their_reason() -> None:
    bad = result(RR, status=Status.FAILED, reason="refused: The server refused.", metrics={})
    frame = live_view.finished([result(TCP), bad]).frame
    assert list(frame["trial"]) == [RR.trial_id, TCP.trial_id]
    assert list(frame["Throughput"]) == ["–", "2 Gbit/s"]
    assert frame.loc[0, "reason"] == bad.reason


def test_validity_says_how_many_trials_were_looked_at(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "c", CAMPAIGN)
    store.append(result(TRIALS[0], facts=(Fact("", "live_view", "yes: looked every 0.5 s"),)))
    store.append(result(TRIALS[1]))
    said = validity.of_trials(store.frame("trials"), store.frame("facts"), CAMPAIGN)
    assert any("1 of 2 trials were looked at" in text for text in said.items)


# The cell of a notebook.


class Shown:
    """What a display shows, and what it showed before."""

    def __init__(self, first: Any) -> None:
        self.history = [first]

    def update(self, value: Any) -> None:
        self.history.append(value)


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> list[Shown]:
    """The displays of a notebook's cell, upper and lower."""
    made: list[Shown] = []

    def display(value: Any, *, display_id: bool) -> Shown:
        assert display_id
        made.append(Shown(value))
        return made[-1]

    fake = ModuleType("IPython.display")
    fake.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "c", CAMPAIGN)


def fake_run(meanwhile: Callable[[int], None]) -> Callable[..., Iterator[TrialResult]]:
    """A runner that looks twice at every trial; ``meanwhile`` is called in each."""

    def run(store: Store, **told: Any) -> Iterator[TrialResult]:
        for number, trial in enumerate(runner.remaining(store)):
            if told["stop"]():
                return
            told["on_start"](trial)
            for t_s in (1.0, 2.0):
                reading = counters(t_s, server_rx_bytes=1e9 * t_s, client_rx_packets=t_s)
                told["on_look"](trial, {"host_counters": reading})
            meanwhile(number)
            ended = result(trial)
            store.append(ended)
            yield ended

    return run


def test_the_cell_shows_every_trial_and_then_that_all_is_done(
    store: Store, cell: list[Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "run", fake_run(lambda number: None))
    assert live.run(store) is store
    upper, lower = cell
    places = [now.place for now in upper.history]
    assert any(place.startswith(f"Trial 1 of {len(TRIALS)}, about ") for place in places)
    assert "and the cluster is as it was before" in places[-1]
    assert places[-1].startswith(f"Done: {len(TRIALS)} of {len(TRIALS)} trials are in ")
    for trial in TRIALS:
        looks = [now for now in upper.history if now.trial == trial and now.points]
        assert [len(now.points) for now in looks][:2] == [1, 2]
    assert len(lower.history[-1].frame) == len(TRIALS)
    assert upper.history[-1].trial is None


def test_one_interrupt_stops_after_the_trial_in_hand(
    store: Store, cell: list[Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(number: int) -> None:
        if number == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(runner, "run", fake_run(interrupt))
    live.run(store)
    last = cell[0].history[-1]
    assert last.place.startswith(f"Stopped: 2 of {len(TRIALS)} trials")
    assert last.place.endswith("run this cell again to go on")
    assert last.said == (
        "Stopping after the trial in hand; interrupting the kernel again stops it at once.",
    )
    monkeypatch.setattr(runner, "run", fake_run(lambda number: None))
    live.run(store)
    assert cell[2].history[-1].place.startswith(f"Done: {len(TRIALS)} of {len(TRIALS)}")
    assert len(cell[3].history[-1].frame) == len(TRIALS) - 2


def test_two_interrupts_stop_at_once(
    store: Store, cell: list[Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(number: int) -> None:
        if number == 1:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(runner, "run", fake_run(interrupt))
    live.run(store)
    last = cell[0].history[-1]
    assert last.place.startswith(f"Stopped: 1 of {len(TRIALS)} trials")
    assert last.said[-1] == "Stopping now, and putting the cluster back."


def test_an_error_is_raised_and_the_cell_promises_nothing(
    store: Store, cell: list[Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> None:
        raise RuntimeError("gone")

    monkeypatch.setattr(runner, "run", fake_run(fail))
    with pytest.raises(RuntimeError, match="gone"):
        live.run(store)
    last = cell[0].history[-1]
    assert last.place.startswith("Ended by an error")
    assert "as it was before" not in last.place


def test_outside_a_notebook_lines_are_printed_and_nobody_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: dict[str, Any] = {}

    def run(store: Store, **given: Any) -> Iterator[TrialResult]:
        told.update(given)
        for trial in runner.remaining(store):
            given["on_start"](trial)
            yield result(trial)

    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(runner, "run", run)
    file = tmp_path / "c.yaml"
    file.write_text(
        "campaign: c\nseed: 1\nblocks: 1\nbaseline: none\ntreatments: [none, ipip]\n"
        "flows:\n  - {name: tcp, path: pod-pod, load: tcp, duration_s: 1, omit_s: 0}\n"
        "aa_test: false\n"
    )
    store = live.run(file, out=tmp_path / "out")
    assert store.path == tmp_path / "out"
    assert (store.path / "campaign.yaml").read_text() == file.read_text()
    assert "on_look" not in told
    assert "[1/2]" in capsys.readouterr().err
