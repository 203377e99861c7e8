"""What the runqueue probe answered on a real kernel, read; and what damage does to it."""

from __future__ import annotations

from functools import partial

import answered
import pytest
from answered import naive_quantile_ns

from ebpfperf.histograms import KERNEL, total
from ebpfperf.model import Flow, Status
from ebpfperf.model import Path as FlowPath
from ebpfperf.probes import probe
from ebpfperf.probes.answers import file, pack

PROBE = probe("runqueue")
RAW = file("runqueue")
CASES = ["exchange", "sliced"]
FLOW = Flow("f", FlowPath.POD_POD, "tcp", duration_s=2)


raw = partial(answered.raw, PROBE.name)


answer = partial(answered.answer, PROBE.name)


@pytest.mark.parametrize("case", CASES)
def test_every_wait_is_in_the_histogram(case: str) -> None:
    counted = sum(count for _, count in answer(case)["bins"])
    reading = PROBE.parse(FLOW, raw(case))
    assert reading.status is Status.OK
    assert reading.metrics["runqueue_events"] == total(reading.histograms) == counted > 0
    labels = {(row.endpoint, row.metric) for row in reading.histograms}
    assert labels == {("client+server", "runqueue_ns")}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "q"), [("runqueue_p50_ns", 0.5), ("runqueue_p99_ns", 0.99)])
def test_percentiles_are_in_the_bin_of_the_naive_ones(case: str, name: str, q: float) -> None:
    naive_ns = naive_quantile_ns(answer(case)["bins"], q)
    lower, upper = KERNEL.bounds_ns(KERNEL.index(naive_ns))
    assert lower <= PROBE.parse(FLOW, raw(case)).metrics[name] < upper


def test_two_machines_are_told_apart_and_counted_together() -> None:
    kernels = [
        {"node": "node-1", "ends": ["client"], "answer": answer("sliced")},
        {"node": "node-2", "ends": ["server"], "answer": answer("exchange")},
    ]
    reading = PROBE.parse(FLOW, {RAW: pack("", kernels)})
    for end, case in (("client", "sliced"), ("server", "exchange")):
        rows = [row for row in reading.histograms if row.endpoint == end]
        assert total(rows) == sum(count for _, count in answer(case)["bins"])
    assert reading.metrics["runqueue_events"] == total(reading.histograms)


def test_no_wait_is_zero_and_no_percentile() -> None:
    kernel = {"node": "node-1", "ends": ["client"], "answer": {**answer("exchange"), "bins": []}}
    assert PROBE.parse(FLOW, {RAW: pack("", [kernel])}).metrics == {"runqueue_events": 0.0}


def test_what_is_not_in_the_numbers_is_a_fact() -> None:
    seen = answer("sliced")
    facts = {fact.name: fact.value for fact in PROBE.parse(FLOW, raw("sliced")).facts}
    assert facts["runqueue_wakeup_unseen"] == str(seen["unseen"])
    assert facts["runqueue_lost_events"] == str(seen["program"]["recursion_misses"])
    assert float(facts["runqueue_watched_s"]) == round(seen["watched_ns"] / 1e9, 3) > 0


def test_who_did_not_watch_says_no_zero() -> None:
    kernel = {"node": "node-1", "ends": ["client"], "answer": {**answer("sliced"), "opened": False}}
    reading = PROBE.parse(FLOW, {RAW: pack("", [kernel])})
    assert reading.status is Status.FAILED
    assert reading.reason.startswith("not_watched: ")


def test_a_flow_that_is_passed_over_is_a_fact() -> None:
    reading = PROBE.parse(FLOW, {RAW: pack("it is told so", ())})
    assert reading.metrics == {}
    assert [fact.name for fact in reading.facts] == ["runqueue_skipped"]
