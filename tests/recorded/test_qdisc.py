"""What the qdisc probe answered on a real kernel, read; and what damage does to it."""

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
from ebpfperf.probes.qdisc import NO_QUEUE

PROBE = probe("qdisc")
RAW = file("qdisc")
FLOW = Flow("f", FlowPath.POD_POD, "tcp", duration_s=2)


raw = partial(answered.raw, PROBE.name)


answer = partial(answered.answer, PROBE.name)


def facts(case: str) -> dict[str, str]:
    return {fact.name: fact.value for fact in PROBE.parse(FLOW, raw(case)).facts}


def test_every_packet_is_in_the_histogram_of_its_device() -> None:
    reading = PROBE.parse(FLOW, raw("sliced"))
    assert reading.status is Status.OK
    for device in answer("sliced")["devices"]:
        rows = [
            row
            for row in reading.histograms
            if row.metric == f"qdisc_ns:{device['device']}"
            and row.endpoint == "+".join(device["ends"])
        ]
        assert total(rows) == sum(count for _, count in device["bins"])
    assert reading.metrics["qdisc_packets"] == total(reading.histograms) > 0


@pytest.mark.parametrize(("name", "q"), [("qdisc_p50_ns", 0.5), ("qdisc_p99_ns", 0.99)])
def test_percentiles_are_in_the_bin_of_the_naive_ones(name: str, q: float) -> None:
    bins = [pair for device in answer("sliced")["devices"] for pair in device["bins"]]
    lower, upper = KERNEL.bounds_ns(KERNEL.index(naive_quantile_ns(bins, q)))
    assert lower <= PROBE.parse(FLOW, raw("sliced")).metrics[name] < upper


def test_queues_that_nothing_waited_in_are_zero_and_named() -> None:
    assert PROBE.parse(FLOW, raw("bypassed")).metrics == {"qdisc_packets": 0.0}
    assert facts("bypassed")["qdisc_queues"] == "client+server eth0 pfifo_fast"


def test_without_any_queue_it_says_so() -> None:
    assert PROBE.parse(FLOW, raw("noqueue")).metrics == {"qdisc_packets": 0.0}
    assert facts("noqueue")["qdisc_queues"] == NO_QUEUE


def test_what_is_not_in_the_numbers_is_a_fact() -> None:
    seen = answer("sliced")
    unseen = sum(device["unseen"] for device in seen["devices"])
    assert facts("sliced")["qdisc_enqueue_unseen"] == str(unseen)
    assert facts("sliced")["qdisc_lost_events"] == str(seen["program"]["recursion_misses"])
    assert float(facts("sliced")["qdisc_watched_s"]) == round(seen["watched_ns"] / 1e9, 3) > 0


def test_who_did_not_watch_says_no_zero() -> None:
    kernel = {"node": "node-1", "ends": ["client"], "answer": {**answer("sliced"), "opened": False}}
    reading = PROBE.parse(FLOW, {RAW: pack("", [kernel])})
    assert reading.status is Status.FAILED
    assert reading.reason.startswith("not_watched: ")


def test_a_flow_that_is_passed_over_is_a_fact() -> None:
    reading = PROBE.parse(FLOW, {RAW: pack("it is told so", ())})
    assert reading.metrics == {}
    assert [fact.name for fact in reading.facts] == ["qdisc_skipped"]
