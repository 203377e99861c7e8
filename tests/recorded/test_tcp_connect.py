"""What the tcp_connect probe answered on a real kernel, read; and what damage does to it."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import answered
import pytest
from answered import naive_quantile_ns

from ebpfperf.histograms import KERNEL, total
from ebpfperf.model import Flow, Status
from ebpfperf.model import Path as FlowPath
from ebpfperf.probes import probe
from ebpfperf.probes.answers import file

PROBE = probe("tcp_connect")
RAW = file("tcp_connect")
FLOW = Flow("f", FlowPath.POD_POD, "tcp")


raw = partial(answered.raw, PROBE.name)


def client(case: str) -> dict[str, Any]:
    """What the node script counted at the client, which alone connects."""
    (kernel,) = json.loads(raw(case)[RAW])["kernels"]
    (slot,) = kernel["answer"]["ends"].values()
    return dict(slot)


@pytest.mark.parametrize("case", ["forward", "lossy"])
def test_every_connection_is_in_the_histogram(case: str) -> None:
    reading = PROBE.parse(FLOW, raw(case))
    assert reading.status is Status.OK
    # Three streams and iperf3's own connection.
    assert reading.metrics["connects"] == total(reading.histograms) == client(case)["events"] == 4
    labels = {(row.probe, row.endpoint, row.metric) for row in reading.histograms}
    assert labels == {("tcp_connect", "client", "connect_ns")}


@pytest.mark.parametrize(("name", "q"), [("connect_p50_ns", 0.5), ("connect_p99_ns", 0.99)])
def test_percentiles_are_in_the_bin_of_the_naive_ones(name: str, q: float) -> None:
    for case in ("forward", "lossy"):
        naive = naive_quantile_ns(client(case)["bins"], q)
        lower, upper = KERNEL.bounds_ns(KERNEL.index(naive))
        assert lower <= PROBE.parse(FLOW, raw(case)).metrics[name] < upper


def test_a_refused_connection_is_a_sample() -> None:
    found = {one.metric: one.value for one in PROBE.parse(FLOW, raw("lossy")).samples}
    assert found == {"connects_failed": 1, "connects_waiting": 0, "connects_missed": 0}


def test_no_connection_is_zero_and_has_no_percentile() -> None:
    assert PROBE.parse(FLOW, raw("nothing")).metrics == {"connects": 0.0}


def test_where_no_client_was_watched_there_is_no_number() -> None:
    """The client's node could not; the server's has nothing to say."""
    kernel = {"node": "node-2", "ends": ["server"], "answer": {"ends": {}}}
    answer = {"skipped": "", "kernels": [kernel]}
    reading = PROBE.parse(FLOW, {RAW: json.dumps(answer).encode()})
    assert (reading.status, reading.metrics, reading.samples) == (Status.OK, {}, ())


def test_a_udp_flow_has_no_connections_rather_than_none_seen() -> None:
    reading = PROBE.parse(FLOW, raw("udp"))
    assert reading.metrics == {}
    assert [fact.name for fact in reading.facts] == ["tcp_connect_skipped"]


def test_a_truncated_slot_has_a_reason() -> None:
    document = json.loads(raw("forward")[RAW])
    del document["kernels"][0]["answer"]["ends"]["client"]["failed"]
    reading = PROBE.parse(FLOW, {RAW: json.dumps(document).encode()})
    assert reading.status is Status.FAILED
