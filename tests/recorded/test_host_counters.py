"""Counters of a real machine before and after real traffic, against two-line readings of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ebpfperf.model import Flow, Reading, Status
from ebpfperf.model import Path as FlowPath
from ebpfperf.probes.host_counters import ENDS, HostCounters

HERE = Path(__file__).parent / "host_counters"
PROBE = HostCounters()
CASES = {
    "forward": Flow("f", FlowPath.POD_POD, "tcp"),
    "request-response": Flow("f", FlowPath.POD_POD, "request-response", message_bytes=64),
}


def raw(case: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (HERE / case).iterdir()}


def text(case: str, node: str, when: str) -> str:
    return (HERE / case / f"host_counters.{node}.{when}.txt").read_text()


def parse(case: str, found: dict[str, bytes] | None = None) -> Reading:
    return PROBE.parse(CASES[case], found or raw(case))


def ticks(printed: str) -> list[int]:
    return [int(n) for n in re.search(r"^cpu  (.*)$", printed, re.M)[1].split()]  # type: ignore[index]


def received(case: str, node: str) -> int:
    """Bytes that eth0 of the node's end received between the two readings."""
    ends = (text(case, node, "before"), text(case, node, "after"))
    before, after = (int(re.search(r"^ *eth0: *(\d+)", t, re.M)[1]) for t in ends)  # type: ignore[index]
    return after - before


@pytest.mark.parametrize("case", CASES)
def test_busy_is_all_but_idle_iowait_and_steal(case: str) -> None:
    before, after = (ticks(text(case, "node-1", when)) for when in ("before", "after"))
    user, nice, system, _, _, irq, softirq, *_ = (b - a for a, b in zip(before, after, strict=True))
    reading = parse(case)
    assert reading.status is Status.OK, reading.reason
    assert reading.metrics["cpu_s"] == pytest.approx((user + nice + system + irq + softirq) / 100)
    assert reading.metrics["softirq_s"] == pytest.approx(softirq / 100)


@pytest.mark.parametrize("case", CASES)
def test_nodes_of_one_boot_id_are_one_machine(case: str) -> None:
    assert json.loads(raw(case)[ENDS])["client"]["node"] == "node-1"
    modes = [s.metric for s in parse(case).samples if s.metric.startswith("cpu_")]
    assert len(modes) == len(set(modes)) == 8
    # As two machines, twice the seconds.
    apart = raw(case)
    for name in apart:
        if ".node-2." in name:
            apart[name] = re.sub(rb"\w{8}-\w{4}-\w{4}-\w{4}-\w{12}", b"another", apart[name])
    assert parse(case, apart).metrics["cpu_s"] == pytest.approx(
        2 * parse(case).metrics["cpu_s"], rel=0.05
    )


def test_a_node_that_forwards_in_between_counts_once() -> None:
    """A machine of its own adds its seconds and no bits; one that is known already adds nothing."""
    known, apart = raw("forward"), raw("forward")
    ends = json.loads(known[ENDS])
    for found, node in ((known, "node-2"), (apart, "node-3")):
        found[ENDS] = json.dumps({**ends, "between": {"node": node}}).encode()
    for when in ("before", "after"):
        apart[f"host_counters.node-3.{when}.txt"] = re.sub(
            rb"\w{8}-\w{4}-\w{4}-\w{4}-\w{12}",
            b"another",
            apart[f"host_counters.node-1.{when}.txt"],
        )
    alone = parse("forward").metrics
    assert parse("forward", known).metrics == alone
    with_it = parse("forward", apart).metrics
    assert with_it["cpu_s"] == pytest.approx(2 * alone["cpu_s"])
    assert with_it["cpu_s_per_gbit"] == pytest.approx(2 * alone["cpu_s_per_gbit"])
    assert with_it["tcpext_retransmits"] == alone["tcpext_retransmits"]


def test_processor_seconds_per_gigabit_are_over_what_the_ends_received() -> None:
    bits = 8 * (received("forward", "node-1") + received("forward", "node-2"))
    metrics = parse("forward").metrics
    assert bits > 1e9
    assert metrics["cpu_s_per_gbit"] == pytest.approx(metrics["cpu_s"] / (bits / 1e9))
    assert "rr_cpu_us_per_request" not in metrics


def test_processor_time_per_request_is_over_the_answers() -> None:
    def segments(when: str) -> int:
        tcp = re.findall(r"^Tcp: (.*)$", text("request-response", "node-1", when), re.M)
        return int(dict(zip(*(line.split() for line in tcp[:2]), strict=True))["InSegs"])

    answers = segments("after") - segments("before")
    metrics = parse("request-response").metrics
    assert answers > 1000
    expected = metrics["cpu_s"] * 1e6 / answers
    assert metrics["rr_cpu_us_per_request"] == pytest.approx(expected)


@pytest.mark.parametrize("case", CASES)
def test_samples_span_the_window(case: str) -> None:
    samples = parse(case).samples
    assert {s.endpoint for s in samples} == {"node-1", "client", "server"}
    assert len({s.t_s for s in samples}) <= 2
    assert all(0 < s.t_s < 60 for s in samples)
    names = [(s.endpoint, s.metric) for s in samples]
    assert len(names) == len(set(names))


def test_a_reboot_during_the_trial_is_a_failure() -> None:
    found = raw("forward")
    name = "host_counters.node-1.after.txt"
    found[name] = re.sub(rb"\w{8}-\w{4}-\w{4}-\w{4}-\w{12}", b"another", found[name])
    assert parse("forward", found).reason.startswith("rebooted: ")


@pytest.mark.parametrize("name", sorted(path.name for path in (HERE / "forward").iterdir()))
@pytest.mark.parametrize("damage", ["gone", "empty", "cut"])
def test_damaged_counters_have_a_reason(name: str, damage: str) -> None:
    found: dict[str, Any] = raw("forward")
    if damage == "gone":
        del found[name]
    else:
        found[name] = b"" if damage == "empty" else found[name][: len(found[name]) // 3]
    reading = PROBE.parse(CASES["forward"], found)
    assert reading.status is Status.FAILED
    assert reading.reason.startswith("unreadable: ")
