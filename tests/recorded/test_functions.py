"""What the functions probe answered on Debian 12's kernel, read; and what damage does to it."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import answered
import pytest

from ebpfperf.histograms import KERNEL, quantile, total
from ebpfperf.model import Flow, Status
from ebpfperf.model import Path as FlowPath
from ebpfperf.probes import probe
from ebpfperf.probes.answers import file, pack

PROBE = probe("functions")
RAW = file("functions")
FLOW = Flow("f", FlowPath.POD_POD, "tcp")
# Datagrams that were sent through a VXLAN device while each case was recorded.
SENT = 101


raw = partial(answered.raw, PROBE.name)


def functions(case: str) -> dict[str, Any]:
    (kernel,) = json.loads(raw(case)[RAW])["kernels"]
    found: dict[str, Any] = kernel["answer"]["functions"]
    return found


@pytest.mark.parametrize("case", ["fentry", "kprobe", "sliced"])
def test_every_call_is_in_the_histogram_of_its_function(case: str) -> None:
    reading = PROBE.parse(FLOW, raw(case))
    assert reading.status is Status.OK
    assert reading.metrics == {}
    calls = {s.metric.removeprefix("function_calls:"): s.value for s in reading.samples}
    assert calls == {name: slot["events"] for name, slot in functions(case).items()}
    for name, slot in functions(case).items():
        rows = [row for row in reading.histograms if row.metric == f"function_ns:{name}"]
        assert total(rows) == slot["events"]
    everything = (*reading.samples, *reading.histograms)
    assert {row.endpoint for row in everything} == {"client+server"}


def test_both_ways_of_watching_count_the_same() -> None:
    kprobe, fentry = functions("kprobe"), functions("fentry")
    assert kprobe["vxlan_xmit"]["events"] == kprobe["vxlan_rcv"]["events"] == SENT
    # Each datagram twice: by itself and wrapped.
    for found in (kprobe, fentry):
        assert found["ip_local_deliver"]["events"] == 2 * SENT
        assert found["dev_hard_start_xmit"]["events"] == 2 * SENT
    # Only the kernel's own functions have fentry: VXLAN is a module there.
    assert "vxlan_xmit" not in fentry


def test_a_function_that_was_not_called_has_zero_calls() -> None:
    reading = PROBE.parse(FLOW, raw("kprobe"))
    (calls,) = [s.value for s in reading.samples if s.metric == "function_calls:ipip_tunnel_xmit"]
    assert calls == 0
    assert "function_ns:ipip_tunnel_xmit" not in {row.metric for row in reading.histograms}


def test_percentiles_are_in_the_bin_of_the_naive_ones() -> None:
    reading = PROBE.parse(FLOW, raw("kprobe"))
    bins = functions("kprobe")["vxlan_xmit"]["bins"]
    calls = sorted(KERNEL.bounds_ns(index)[0] for index, count in bins for _ in range(count))
    rows = [row for row in reading.histograms if row.metric == "function_ns:vxlan_xmit"]
    for q in (0.5, 0.99):
        at = quantile(rows, q)
        assert at is not None
        lower, upper = KERNEL.bounds_ns(KERNEL.index(calls[int(q * len(calls))]))
        assert lower <= at.value_ns < upper


def test_calls_that_were_left_out_are_a_fact() -> None:
    slots = {
        "ip_rcv": {"events": 0, "bins": [], "unmatched": 3},
        "vxlan_xmit": {"events": 1, "bins": [[40, 1]], "unmatched": 2},
    }
    answer = {"functions": slots, "too_deep": 7}
    kernel = {"node": "node-1", "ends": ["client"], "answer": answer}
    reading = PROBE.parse(FLOW, {RAW: pack("", [kernel])})
    assert {f.name: f.value for f in reading.facts}["functions_unmatched"] == "12"


def test_for_how_long_it_watched_is_a_fact() -> None:
    (kernel,) = json.loads(raw("sliced")[RAW])["kernels"]
    facts = {fact.name: fact.value for fact in PROBE.parse(FLOW, raw("sliced")).facts}
    watched = round(kernel["answer"]["watched_ns"] / 1e9, 3)
    assert float(facts["functions_watched_s"]) == watched > 0
