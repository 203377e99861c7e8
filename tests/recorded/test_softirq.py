"""What the softirq probe answered on a real kernel, read; and what damage does to it."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import answered
import pytest
from answered import naive_quantile_ns

from ebpfperf.histograms import KERNEL
from ebpfperf.model import Flow, Status
from ebpfperf.model import Path as FlowPath
from ebpfperf.probes import probe
from ebpfperf.probes.answers import file, pack

PROBE = probe("softirq")
RAW = file("softirq")
CASES = ["exchange", "sliced"]
FLOW = Flow("f", FlowPath.POD_POD, "tcp", duration_s=2)


raw = partial(answered.raw, PROBE.name)


answer = partial(answered.answer, PROBE.name)


@pytest.mark.parametrize("case", CASES)
def test_every_event_is_in_the_histogram_of_its_vector(case: str) -> None:
    vectors = answer(case)["vectors"]
    assert len(vectors) == 10
    reading = PROBE.parse(FLOW, raw(case))
    assert reading.status is Status.OK
    assert {row.endpoint for row in reading.histograms} == {"client+server"}
    for vector, counted in vectors.items():
        for kind in ("wait", "run"):
            rows = [r for r in reading.histograms if r.metric == f"softirq_{kind}_ns:{vector}"]
            assert sum(r.count for r in rows) == sum(count for _, count in counted[kind])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("name", "kind", "q"),
    [("softirq_wait_p99_ns", "wait", 0.99), ("softirq_run_p50_ns", "run", 0.5)],
)
def test_percentiles_are_in_the_bin_of_the_naive_ones(
    case: str, name: str, kind: str, q: float
) -> None:
    bins = answer(case)["vectors"]["NET_RX"][kind]
    lower, upper = KERNEL.bounds_ns(KERNEL.index(naive_quantile_ns(bins, q)))
    assert lower <= PROBE.parse(FLOW, raw(case)).metrics[name] < upper


def test_the_share_is_of_the_watched_time_of_all_cpus() -> None:
    for case, watched_ns in (("sliced", answer("sliced")["watched_ns"]), ("exchange", 2 * 10**9)):
        seen = answer(case)
        ran_ns = sum(counted["run_ns"] for counted in seen["vectors"].values())
        share = PROBE.parse(FLOW, raw(case)).metrics["softirq_share_pct"]
        assert share == pytest.approx(100 * ran_ns / watched_ns / seen["cpus"])
        assert 0 < share < 100


def test_two_machines_are_told_apart_and_counted_together() -> None:
    (kernel,) = json.loads(raw("sliced")[RAW])["kernels"]
    kernels = [
        {**kernel, "node": node, "ends": [end]}
        for node, end in (("node-1", "client"), ("node-2", "server"))
    ]
    one = PROBE.parse(FLOW, raw("sliced"))
    two = PROBE.parse(FLOW, {RAW: pack("", kernels)})
    assert two.metrics == pytest.approx(one.metrics)
    assert len(two.histograms) == 2 * len(one.histograms)
    assert {row.endpoint for row in two.histograms} == {"client", "server"}


def test_no_softirq_is_no_time_and_no_percentile() -> None:
    seen = answer("exchange")
    none: dict[str, Any] = {"wait": [], "run": [], "run_ns": 0, "unseen": 0}
    seen["vectors"] = dict.fromkeys(seen["vectors"], none)
    kernel = {"node": "node-1", "ends": ["client"], "answer": seen}
    reading = PROBE.parse(FLOW, {RAW: pack("", [kernel])})
    assert reading.metrics == {"softirq_share_pct": 0.0}
    assert reading.histograms == ()


def test_waits_that_began_unseen_are_a_fact() -> None:
    seen = answer("sliced")
    for counted, unseen in zip(seen["vectors"].values(), (3, 4), strict=False):
        counted["unseen"] = unseen
    unseen_before = sum(c["unseen"] for c in list(answer("sliced")["vectors"].values())[2:])
    kernel = {"node": "node-1", "ends": ["client"], "answer": seen}
    facts = {f.name: f.value for f in PROBE.parse(FLOW, {RAW: pack("", [kernel])}).facts}
    assert facts["softirq_raise_unseen"] == str(7 + unseen_before)


def test_who_did_not_watch_says_no_zero() -> None:
    kernel = {"node": "node-1", "ends": ["client"], "answer": {**answer("sliced"), "opened": False}}
    reading = PROBE.parse(FLOW, {RAW: pack("", [kernel])})
    assert reading.status is Status.FAILED
    assert reading.reason.startswith("not_watched: ")


def test_a_flow_that_is_passed_over_is_a_fact() -> None:
    reading = PROBE.parse(FLOW, {RAW: pack("it is told so", ())})
    assert (reading.metrics, reading.histograms) == ({}, ())
    assert [(fact.name, fact.value) for fact in reading.facts] == [
        ("softirq_skipped", "it is told so")
    ]
