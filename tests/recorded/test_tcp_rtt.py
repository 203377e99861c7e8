"""What the tcp_rtt probe answered on a real kernel, read; and what damage does to it."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import answered
import pytest
from answered import naive_quantile_ns

from ebpfperf.histograms import KERNEL, total
from ebpfperf.model import Direction, Endpoint, Flow, Status, Workload, WorkloadKind
from ebpfperf.model import Path as FlowPath
from ebpfperf.probes import probe
from ebpfperf.probes.answers import file
from ebpfperf.probes.ends import end, not_tcp, senders, window

PROBE = probe("tcp_rtt")
RAW = file("tcp_rtt")


def flow(load: str = "tcp", **fields: Any) -> Flow:
    return Flow("f", FlowPath.POD_POD, load, **fields)


raw = partial(answered.raw, PROBE.name)


def answered(answer: dict[str, Any]) -> dict[str, bytes]:
    """The file of one kernel with that answer."""
    kernel = {"node": "node-1", "ends": ["client"], "answer": answer}
    return {RAW: json.dumps({"skipped": "", "kernels": [kernel]}).encode()}


def ends_of(case: str) -> dict[str, Any]:
    """End → what the node script counted there."""
    kernels = json.loads(raw(case)[RAW])["kernels"]
    return {end: slot for kernel in kernels for end, slot in kernel["answer"]["ends"].items()}


@pytest.mark.parametrize(
    ("case", "ends"), [("forward", ["client"]), ("bidir", ["client", "server"])]
)
def test_every_event_is_in_the_histogram(case: str, ends: list[str]) -> None:
    counted = ends_of(case)
    reading = PROBE.parse(flow(), raw(case))
    assert reading.status is Status.OK
    assert sorted({row.endpoint for row in reading.histograms}) == ends
    for which in ends:
        rows = [row for row in reading.histograms if row.endpoint == which]
        assert total(rows) == counted[which]["events"]
    assert reading.metrics["srtt_events"] == sum(counted[end]["events"] for end in ends)
    assert {(row.probe, row.metric) for row in reading.histograms} == {("tcp_rtt", "srtt_ns")}


@pytest.mark.parametrize(("name", "q"), [("srtt_p50_ns", 0.5), ("srtt_p99_ns", 0.99)])
def test_percentiles_are_in_the_bin_of_the_naive_ones(name: str, q: float) -> None:
    bins = ends_of("forward")["client"]["bins"]
    lower, upper = KERNEL.bounds_ns(KERNEL.index(naive_quantile_ns(bins, q)))
    assert lower <= PROBE.parse(flow(), raw("forward")).metrics[name] < upper


def test_lost_events_are_a_fact() -> None:
    kernels = json.loads(raw("bidir")[RAW])["kernels"]
    lost = sum(kernel["answer"]["program"]["recursion_misses"] for kernel in kernels)
    facts = {fact.name: fact.value for fact in PROBE.parse(flow(), raw("bidir")).facts}
    assert facts["tcp_rtt_lost_events"] == str(lost)


def test_for_how_long_it_watched_is_a_fact() -> None:
    (kernel,) = json.loads(raw("sliced")[RAW])["kernels"]
    facts = {fact.name: fact.value for fact in PROBE.parse(flow(), raw("sliced")).facts}
    assert float(facts["tcp_rtt_watched_s"]) == round(kernel["answer"]["watched_ns"] / 1e9, 3) > 0


def test_a_udp_flow_has_no_round_trips_rather_than_none_seen() -> None:
    reading = PROBE.parse(flow("udp"), raw("udp"))
    assert reading.status is Status.OK
    assert "srtt_events" not in reading.metrics
    assert reading.facts[0].name == "tcp_rtt_skipped"


def test_no_event_is_reported_as_zero() -> None:
    slot = {"events": 0, "outside": 7, "data": 0, "bins": []}
    reading = PROBE.parse(flow(), answered({"ends": {"client": slot}, "program": {}}))
    assert reading.metrics == {"srtt_events": 0.0}
    assert reading.facts[0].value.startswith("UNKNOWN: ")


@pytest.mark.parametrize("unwatched", [{"opened": False}, {"opened": True, "watched_ns": 0}])
def test_who_did_not_watch_did_not_see_zero(unwatched: dict[str, Any]) -> None:
    slot = {"events": 0, "outside": 7, "data": 0, "bins": []}
    reading = PROBE.parse(flow(), answered({"ends": {"client": slot}, **unwatched}))
    assert reading.status is Status.FAILED
    assert reading.reason.startswith("not_watched: node-1: ")


@pytest.mark.parametrize(
    ("direction", "ends"),
    [
        (Direction.FORWARD, ("client",)),
        (Direction.REVERSE, ("server",)),
        (Direction.BIDIR, ("client", "server")),
    ],
)
def test_those_who_send_are_watched(direction: Direction, ends: tuple[str, ...]) -> None:
    assert senders(flow(direction=direction)) == ends


def test_udp_flows_are_not_tcp() -> None:
    assert not_tcp(flow("udp"))
    assert not_tcp(flow("request-response", transport="udp"))
    assert not not_tcp(flow("request-response"))
    assert not not_tcp(flow())


def test_the_filter_names_the_servers_port_from_both_sides() -> None:
    def endpoint(name: str, address: str) -> Endpoint:
        workload = Workload(name, name, WorkloadKind.POD, "ns")
        return Endpoint(workload, address, 1, "eth0", "cali0", 1450)

    client, server = endpoint("c", "198.19.0.1"), endpoint("s", "198.19.0.2")
    near = end(flow(), "client", here=client, there=server)
    far = end(flow(), "server", here=server, there=client)
    assert (near["local"], near["remote"], near["server"]) == ("198.19.0.1", "198.19.0.2", False)
    assert (far["local"], far["remote"], far["server"]) == ("198.19.0.2", "198.19.0.1", True)
    assert near["first_port"] == far["first_port"] == 5201


@pytest.mark.parametrize(
    ("asked", "opens"),
    [
        (flow("tcp", omit_s=3), "connection"),
        # iperf3 talks over TCP before it sends datagrams.
        (flow("udp", omit_s=3), "connection"),
        (flow("request-response", omit_s=3), "data"),
        (flow("request-response", omit_s=3, transport="udp"), "traffic"),
    ],
)
def test_what_counts_is_the_measured_seconds(asked: Flow, opens: str) -> None:
    found = window(asked, share=0.25)
    assert (found.opens, found.share) == (opens, 0.25)
    assert (found.omit_ns, found.length_ns) == (3 * 10**9, asked.duration_s * 10**9)


def test_what_the_load_itself_leaves_out_does_not_count() -> None:
    found = window(flow("request-response", omit_s=0), share=0.25)
    assert found.omit_ns == 400_000_000
