"""What the drops probe answered on a real kernel, read; and what damage does to it."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import answered
import pytest

from ebpfperf.model import Flow, Reading, Status
from ebpfperf.model import Path as FlowPath
from ebpfperf.probes import probe
from ebpfperf.probes.answers import file

PROBE = probe("drops")
RAW = file("drops")
FLOW = Flow("f", FlowPath.POD_POD, "tcp")


raw = partial(answered.raw, PROBE.name)


def counted(case: str) -> list[dict[str, Any]]:
    (kernel,) = json.loads(raw(case)[RAW])["kernels"]
    return list(kernel["answer"]["drops"])


def read(**changes: Any) -> Reading:
    """The lossy answer with changes."""
    document = json.loads(raw("lossy")[RAW])
    document["kernels"][0]["answer"].update(changes)
    return PROBE.parse(FLOW, {RAW: json.dumps(document).encode()})


@pytest.mark.parametrize("case", ["forward", "lossy", "udp", "nothing"])
def test_counts_add_up(case: str) -> None:
    reading = PROBE.parse(FLOW, raw(case))
    assert reading.status is Status.OK
    lost = [drop for drop in counted(case) if drop["loss"]]
    assert reading.metrics == {
        "dropped_packets": sum(drop["count"] for drop in lost),
        "flow_dropped_packets": sum(drop["count"] for drop in lost if drop["flow"]),
    }
    kinds = {"dropped": 0.0, "dropped_protocol": 0.0, "flow_dropped": 0.0, "freed": 0.0}
    for sample in reading.samples:
        assert (sample.source, sample.endpoint) == ("drops", "client+server")
        kinds[sample.metric.partition(":")[0]] += sample.value
    assert kinds["dropped"] == kinds["dropped_protocol"] == reading.metrics["dropped_packets"]
    assert kinds["flow_dropped"] == reading.metrics["flow_dropped_packets"]
    assert kinds["freed"] == sum(d["count"] for d in counted(case) if not d["loss"])


def test_each_reason_and_place_is_a_sample() -> None:
    expected: dict[str, float] = {}
    for drop in counted("lossy"):
        where = f"{drop['reason']}@{drop['place']}"
        kinds = [f"dropped:{where}"] if drop["loss"] else [f"freed:{where}"]
        kinds += [f"flow_dropped:{where}"] if drop["loss"] and drop["flow"] else []
        for kind in kinds:
            expected[kind] = expected.get(kind, 0) + drop["count"]
    found = {one.metric: one.value for one in PROBE.parse(FLOW, raw("lossy")).samples}
    protocols = {name for name in found if name.startswith("dropped_protocol:")}
    assert {name: found[name] for name in set(found) - protocols} == expected
    assert protocols == {"dropped_protocol:IPv4", "dropped_protocol:IPv6"}
    assert found["flow_dropped:NO_SOCKET@__udp4_lib_rcv"] == 97


def test_without_a_window_there_is_no_number() -> None:
    reading = PROBE.parse(FLOW, raw("unseen"))
    assert (reading.status, reading.metrics) == (Status.FAILED, {})
    assert reading.reason.startswith("not_watched: ")


def test_without_types_in_the_kernel_no_packet_is_said_to_be_the_flows() -> None:
    assert set(read(of_flow=False).metrics) == {"dropped_packets"}


def test_without_reasons_the_place_is_named() -> None:
    drop = {"reason": "", "place": "0xffff", "protocol": 6, "flow": True, "loss": True, "count": 3}
    found = {one.metric: one.value for one in read(drops=[drop]).samples}
    assert found == {
        "dropped:@0xffff": 3,
        "flow_dropped:@0xffff": 3,
        "dropped_protocol:0x0006": 3,
    }


def test_what_found_no_room_is_a_fact() -> None:
    facts = {fact.name: fact.value for fact in read(missed=5).facts}
    assert facts["drops_without_room"] == "5"
    assert "drops_without_room" not in {fact.name for fact in read().facts}


def test_every_flow_is_watched() -> None:
    assert not PROBE.skip(FLOW)
    assert not PROBE.skip(Flow("f", FlowPath.POD_POD, "udp"))


def test_a_count_that_is_no_number_has_a_reason() -> None:
    (first, *others) = counted("lossy")
    assert read(drops=[{**first, "count": "many"}, *others]).status is Status.FAILED
