"""What holds of every probe's answers: damage, and who did not watch, is never a number."""

from __future__ import annotations

import json

import answered
import pytest

from ebpfperf.model import ALWAYS_ON, Flow, Status
from ebpfperf.model import Path as FlowPath
from ebpfperf.probes import NAMES, probe
from ebpfperf.probes.answers import file, pack

PROBES = [name for name in NAMES if name not in ALWAYS_ON]
FLOW = Flow("f", FlowPath.POD_POD, "tcp", duration_s=2)
BROKEN = (
    b"",
    b"{}",
    b"[]",
    b'{"kernels": 3}',
    b'{"skipped": "", "kernels": [{}]}',
    b"\xff",
    b"null",
)


def cases(name: str) -> list[str]:
    return sorted(case.name for case in (answered.RECORDED / name).iterdir())


@pytest.mark.parametrize("found", BROKEN)
@pytest.mark.parametrize("name", PROBES)
def test_a_damaged_answer_has_a_reason(name: str, found: bytes) -> None:
    reading = probe(name).parse(FLOW, {file(name): found})
    assert reading.status is Status.FAILED
    assert reading.reason.startswith("unreadable: ")
    assert probe(name).parse(FLOW, {}).status is Status.FAILED


@pytest.mark.parametrize("name", PROBES)
def test_an_answer_cut_short_is_never_taken_for_a_whole_one(name: str) -> None:
    whole = answered.raw(name, cases(name)[0])[file(name)]
    for length in range(0, len(whole) - 1, max(1, len(whole) // 97)):
        assert probe(name).parse(FLOW, {file(name): whole[:length]}).status is Status.FAILED


@pytest.mark.parametrize("name", PROBES)
def test_a_flow_that_is_passed_over_is_a_fact_and_no_number(name: str) -> None:
    reading = probe(name).parse(FLOW, {file(name): pack("it is told so", ())})
    assert reading.status is Status.OK
    assert reading.metrics == {}
    assert (f"{name}_skipped", "it is told so") in {(f.name, f.value) for f in reading.facts}


@pytest.mark.parametrize("unwatched", [{"opened": False}, {"opened": True, "watched_ns": 0}])
@pytest.mark.parametrize("name", [name for name in PROBES if name != "tcp_connect"])
def test_who_did_not_watch_did_not_see_zero(name: str, unwatched: dict[str, object]) -> None:
    for case in cases(name):
        document = json.loads(answered.raw(name, case)[file(name)])
        for kernel in document["kernels"]:
            kernel["answer"] |= unwatched
        reading = probe(name).parse(FLOW, {file(name): json.dumps(document).encode()})
        if document["kernels"]:
            assert reading.status is Status.FAILED
            assert reading.reason.startswith("not_watched: ")
        assert reading.metrics == {}
