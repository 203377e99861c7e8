"""What the hops probe answered on a real kernel, read; and what damage does to it."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import answered
import pytest

from ebpfperf.histograms import KERNEL, total
from ebpfperf.model import Direction, Flow, Status
from ebpfperf.model import Path as FlowPath
from ebpfperf.probes import probe
from ebpfperf.probes.answers import file
from ebpfperf.probes.hops import label

PROBE = probe("hops")
RAW = file("hops")
CASES = sorted(case.name for case in (answered.RECORDED / "hops").iterdir())


def flow(load: str = "request-response", **fields: Any) -> Flow:
    return Flow("f", FlowPath.POD_POD, load, **fields)


raw = partial(answered.raw, PROBE.name)


def steps(case: str) -> list[tuple[str, dict[str, Any]]]:
    """(sender, step) of every step and whole way that was counted."""
    return [
        (sender, step)
        for kernel in json.loads(raw(case)[RAW])["kernels"]
        for sender, listed in kernel["answer"]["steps"].items()
        for step in listed
    ]


@pytest.mark.parametrize("case", CASES)
def test_every_observation_is_in_a_histogram(case: str) -> None:
    reading = PROBE.parse(flow(), raw(case))
    assert reading.status is Status.OK
    counted = {(sender, f"hop_ns:{label(step)}"): step["events"] for sender, step in steps(case)}
    shown = {
        key: total(row for row in reading.histograms if (row.endpoint, row.metric) == key)
        for key in {(row.endpoint, row.metric) for row in reading.histograms}
    }
    assert shown == counted


@pytest.mark.parametrize("case", CASES)
def test_means_are_exact_and_within_their_bins(case: str) -> None:
    reading = PROBE.parse(flow(), raw(case))
    means = {
        (sample.endpoint, sample.metric): sample.value
        for sample in reading.samples
        if sample.metric.startswith("hop_mean_ns:")
    }
    for sender, step in steps(case):
        mean = means[sender, f"hop_mean_ns:{label(step)}"]
        assert mean == step["sum_ns"] / step["events"]
        lower, upper = (
            sum(KERNEL.bounds_ns(index)[side] * count for index, count in step["bins"])
            for side in (0, 1)
        )
        assert lower <= mean * step["events"] < upper


@pytest.mark.parametrize("case", ["vxlan-rr", "ebpf-none-rr"])
def test_steps_of_an_exchange_make_up_the_whole(case: str) -> None:
    for sender in ("client", "server"):
        ours = [(label(step), step) for one, step in steps(case) if one == sender]
        parts = sum(step["sum_ns"] for name, step in ours if ">" in name)
        ((_, whole),) = [pair for pair in ours if pair[0] == "=end-to-end"]
        assert parts == whole["sum_ns"]


def test_what_the_cluster_does_is_seen_in_the_steps() -> None:
    vxlan = {label(step) for _, step in steps("vxlan-rr")}
    none = {label(step) for _, step in steps("ebpf-none-rr")}
    assert "tunnel-queue>nic-queue" in vxlan
    assert not any("tunnel" in name for name in none)


@pytest.mark.parametrize(
    ("asked", "sender"),
    [(flow(), "client"), (flow("tcp"), "client"), (flow(direction=Direction.REVERSE), "server")],
)
def test_percentiles_are_of_what_the_flows_sender_sends(asked: Flow, sender: str) -> None:
    reading = PROBE.parse(asked, raw("vxlan-rr"))
    for half in ("sender", "receiver"):
        (step,) = [s for one, s in steps("vxlan-rr") if (one, label(s)) == (sender, f"={half}")]
        values = [KERNEL.bounds_ns(i)[0] for i, count in step["bins"] for _ in range(count)]
        lower, upper = KERNEL.bounds_ns(KERNEL.index(values[(len(values) + 1) // 2 - 1]))
        assert lower <= reading.metrics[f"hop_{half}_p50_ns"] < upper


def test_datagrams_arrive_unread() -> None:
    reading = PROBE.parse(flow("udp"), raw("none-udp"))
    walks = json.loads(raw("none-udp")[RAW])["kernels"][0]["answer"]["walks"]
    assert reading.metrics["hops_packets"] == walks["finished"] > 0
    assert not any("socket-copy" in row.metric for row in reading.histograms)


def test_what_became_of_the_walks_is_told() -> None:
    walks = json.loads(raw("vxlan-tcp")[RAW])["kernels"][0]["answer"]["walks"]
    reading = PROBE.parse(flow("tcp"), raw("vxlan-tcp"))
    told = {s.metric.removeprefix("hops:"): s.value for s in reading.samples if s.unit == "1"}
    assert told == walks
    facts = {fact.name: fact.value for fact in reading.facts}
    given_up = sum(walks[what] for what in ("unfinished", "stale", "foreign"))
    assert facts["hops_given_up"] == str(given_up) != "0"


def test_no_packet_is_reported_as_zero() -> None:
    walks = dict.fromkeys(("started", "finished", "unfinished", "stale", "foreign"), 0)
    answer = {"steps": {}, "walks": walks, "opened": True, "watched_ns": 1}
    kernel = {"node": "node-1", "ends": ["client"], "answer": answer}
    found = {RAW: json.dumps({"skipped": "", "kernels": [kernel]}).encode()}
    assert PROBE.parse(flow(), found).metrics == {"hops_packets": 0.0}
