"""What the retransmits probe answered on a real kernel, read; and what damage does to it."""

from __future__ import annotations

import json
from functools import partial

import answered
import pytest

from ebpfperf.model import Flow, Status
from ebpfperf.model import Path as FlowPath
from ebpfperf.probes import probe
from ebpfperf.probes.answers import file

PROBE = probe("retransmits")
RAW = file("retransmits")
FLOW = Flow("f", FlowPath.POD_POD, "tcp")


raw = partial(answered.raw, PROBE.name)


@pytest.mark.parametrize("case", ["forward", "lossy"])
def test_all_segments_are_in_the_samples(case: str) -> None:
    (kernel,) = json.loads(raw(case)[RAW])["kernels"]
    counted = kernel["answer"]["ends"]["client"]["ESTABLISHED"]
    reading = PROBE.parse(FLOW, raw(case))
    assert reading.status is Status.OK
    assert reading.metrics == {"retransmitted_segments": counted}
    (sample,) = reading.samples
    assert (sample.source, sample.endpoint, sample.metric, sample.value) == (
        "retransmits",
        "client",
        "retransmitted:ESTABLISHED",
        counted,
    )


def test_ends_and_states_are_told_apart_and_added() -> None:
    answers = [
        ("node-1", ["client"], {"client": {"SYN_SENT": 2, "ESTABLISHED": 5}}),
        ("node-2", ["server"], {"server": {"SYN_RECV": 3}}),
    ]
    kernels = [{"node": n, "ends": e, "answer": {"ends": found}} for n, e, found in answers]
    document = {"skipped": "", "kernels": kernels}
    reading = PROBE.parse(FLOW, {RAW: json.dumps(document).encode()})
    assert reading.metrics == {"retransmitted_segments": 10}
    assert [(s.endpoint, s.metric, s.value) for s in reading.samples] == [
        ("client", "retransmitted:ESTABLISHED", 5),
        ("client", "retransmitted:SYN_SENT", 2),
        ("server", "retransmitted:SYN_RECV", 3),
    ]


def test_none_is_zero() -> None:
    reading = PROBE.parse(FLOW, raw("nothing"))
    assert (reading.metrics, reading.samples) == ({"retransmitted_segments": 0.0}, ())


def test_without_a_window_there_is_no_number() -> None:
    reading = PROBE.parse(FLOW, raw("unseen"))
    assert (reading.status, reading.metrics) == (Status.FAILED, {})
    assert reading.reason.startswith("not_watched: ")


def test_a_udp_flow_has_no_segments_rather_than_none_seen() -> None:
    reading = PROBE.parse(FLOW, raw("udp"))
    assert reading.metrics == {}
    assert [fact.name for fact in reading.facts] == ["retransmits_skipped"]
