"""Real iperf3 documents of six versions: verdicts and numbers, and what damage does to them.

``cases.json`` holds for each what its maker knew: how it was made, and the numbers in it as read
by a plain JSON loader (which keeps the last of repeated keys).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ebpfperf.loads import iperf3_document, load
from ebpfperf.loads.iperf3 import DOCUMENT, ERRORS, RUN
from ebpfperf.loads.reasons import SENTENCES, Reason
from ebpfperf.model import Direction, Flow, Status
from ebpfperf.model import Path as FlowPath

HERE = Path(__file__).parent / "iperf3"
CASES: list[dict[str, Any]] = json.loads((HERE / "cases.json").read_text())
GOOD = [case for case in CASES if not case["reason"]]


def named(cases: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=[case["file"] for case in cases])


def text(case: dict[str, Any]) -> bytes:
    return (HERE / case["file"]).read_bytes()


def outcome(case: dict[str, Any]) -> iperf3_document.Outcome:
    return iperf3_document.read(text(case), stderr=case["stderr"], status=case["exit"])


@named(CASES)
def test_the_verdict_and_its_reason(case: dict[str, Any]) -> None:
    assert (outcome(case).reason or "") == case["reason"]


@named(CASES)
def test_a_failure_is_seen_without_exit_status_and_stderr(case: dict[str, Any]) -> None:
    assert (iperf3_document.read(text(case)).reason is None) == (not case["reason"])


@named(GOOD)
def test_the_numbers_are_those_in_the_document(case: dict[str, Any]) -> None:
    read = outcome(case)
    # Where the keys repeat, a plain loader has kept the second direction.
    totals = read.backward if case["repeated_keys"] else read.forward or read.backward
    assert totals is not None
    for name in ("sent_bits_per_s", "received_bits_per_s", "lost_pct"):
        if case[name] is not None:
            assert getattr(totals, name) == pytest.approx(case[name])
    if case["protocol"] == "TCP":
        assert totals.retransmits == case["retransmits"]


@named(GOOD)
def test_both_directions_exactly_when_both_were_driven(case: dict[str, Any]) -> None:
    read = outcome(case)
    both = read.forward is not None and read.backward is not None
    assert both == ("--bidir" in case["command"])
    if not both:
        assert (read.backward is not None) == (" -R" in case["command"])


@named([case for case in GOOD if case["protocol"] == "UDP" and case["sent_bits_per_s"] is None])
def test_old_udp_documents_derive_what_arrived(case: dict[str, Any]) -> None:
    totals = outcome(case).forward
    assert totals is not None
    if not case["repeated_keys"]:
        lost = case["lost_pct"] / 100
        assert totals.received_bits_per_s == pytest.approx(case["udp_sum_bits_per_s"] * (1 - lost))


@named([case for case in GOOD if " -t " in case["command"]])
def test_intervals_cover_the_test(case: dict[str, Any]) -> None:
    read = outcome(case)
    measured = [i for i in read.intervals if not i.omitted]
    ways = 1 if read.forward is None or read.backward is None else 2
    covered = sum(i.end_s - i.start_s for i in measured)
    assert covered == pytest.approx(read.duration_s * ways, rel=0.02)
    assert any(i.omitted for i in read.intervals) == (read.omit_s > 0)


@named(GOOD)
def test_a_document_cut_anywhere_is_never_ok(case: dict[str, Any]) -> None:
    whole = text(case)
    # A stream of events is complete with its end event, whatever follows.
    limit = whole.rindex(b'{"event":"end"') if b'"event"' in whole else len(whole.rstrip()) - 1
    for end in range(0, limit, max(1, limit // 40)):
        assert iperf3_document.read(whole[:end]).reason is not None, end


@named([case for case in GOOD if case["file"].endswith(".json")])
def test_two_documents_are_not_one(case: dict[str, Any]) -> None:
    assert iperf3_document.read(text(case) * 2).reason is Reason.CONCATENATED


def edited(name: str, **end: Any) -> bytes:
    document = json.loads((HERE / name).read_text())
    for key, values in end.items():
        document["end"][key].update(values)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (edited("v3.12__tcp.json", sum_received={"bytes": 0}), Reason.NO_TRAFFIC),
        (edited("v3.12__tcp.json", sum_sent={"seconds": 0.4}), Reason.SHORT),
        (edited("v3.12__tcp.json", sum_received={"bytes": 10**13}), Reason.INCONSISTENT),
        (b"", Reason.EMPTY),
        (b"iperf3: parameter error\n", Reason.NOT_JSON),
        (b"[]", Reason.NOT_JSON),
        (b'"start"', Reason.NOT_JSON),
        (b"{}", Reason.NO_END),
        (b'{"start": 3, "end": {"sum_sent": {}}}', Reason.INCONSISTENT),
        (b'{"end": {"sum_sent": {}, "sum_received": {}}}', Reason.INCONSISTENT),
        (b'{"error": "something new", "end": {"sum_sent": {}}}', Reason.OTHER),
        (b"\xff\xfe\x00", Reason.NOT_JSON),
    ],
)
def test_damage_has_a_reason(made: bytes, reason: Reason) -> None:
    assert iperf3_document.read(made).reason is reason


def test_a_good_document_with_a_bad_exit_status_is_doubted() -> None:
    good = (HERE / "v3.12__tcp.json").read_bytes()
    assert iperf3_document.read(good).reason is None
    assert iperf3_document.read(good, status=1).reason is Reason.OTHER


def test_every_reason_has_its_sentence() -> None:
    assert set(SENTENCES) == set(Reason)
    assert all(sentence.endswith(".") for sentence in SENTENCES.values())


def raw(name: str, **run: Any) -> dict[str, bytes]:
    run = {"status": 0, "mtu_bytes": 1480, **run}
    return {DOCUMENT: (HERE / name).read_bytes(), ERRORS: b"", RUN: json.dumps(run).encode()}


def flow(load_name: str = "tcp", **fields: Any) -> Flow:
    return Flow("f", FlowPath.POD_POD, load_name, **{"duration_s": 2, "omit_s": 0, **fields})


def test_a_trial_of_four_streams() -> None:
    name = "v3.12__tcp_p4_omit1.json"
    reading = load("tcp").parse(flow(streams=4, omit_s=1), raw(name))
    end = json.loads((HERE / name).read_text())["end"]
    assert reading.status is Status.OK
    assert reading.metrics["received_bits_per_s"] == end["sum_received"]["bits_per_second"]
    assert reading.metrics["retransmits"] == end["sum_sent"]["retransmits"]
    assert reading.metrics["mtu_bytes"] == 1480
    warm = [s for s in reading.samples if s.phase == "warmup"]
    measured = [s for s in reading.samples if s.phase == "measure"]
    assert {s.metric for s in measured} >= {"sent_bits_per_s", "retransmits", "snd_cwnd_bytes"}
    assert max(s.t_s for s in warm) <= 1.05
    assert min(s.t_s for s in measured) > 1.05
    assert max(s.t_s for s in measured) == pytest.approx(3, abs=0.1)


def test_bidir_adds_both_directions() -> None:
    name = "v3.12__bidir_tcp.json"
    reading = load("tcp").parse(flow(direction=Direction.BIDIR), raw(name))
    end = json.loads((HERE / name).read_text())["end"]
    both = sum(
        end[key]["bits_per_second"] for key in ("sum_received", "sum_received_bidir_reverse")
    )
    assert reading.metrics["received_bits_per_s"] == pytest.approx(both)
    assert {"sent_bits_per_s", "received_bits_per_s"} <= {s.metric for s in reading.samples}


def test_udp_has_its_loss() -> None:
    name = "v3.16__udp_unlimited_p8_smallpkt.json"
    reading = load("udp").parse(flow("udp", streams=8, omit_s=1), raw(name))
    assert reading.metrics["lost_pct"] == pytest.approx(73.71109828)
    assert reading.metrics["received_bits_per_s"] < reading.metrics["sent_bits_per_s"] / 3
    assert "retransmits" not in reading.metrics


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("v3.12__tcp.json", flow(streams=2)),
        ("v3.12__tcp.json", flow(direction=Direction.REVERSE)),
        ("v3.12__tcp.json", flow("udp", rate_bits_per_s=1e6)),
        ("v3.12__bidir_tcp.json", flow()),
    ],
)
def test_a_document_of_another_test_is_refused(name: str, asked: Flow) -> None:
    reading = load(asked.load).parse(asked, raw(name))
    assert reading.status is Status.FAILED
    assert reading.reason.startswith("mismatch: ")
    assert reading.metrics == {}


@pytest.mark.parametrize(
    "case", [case for case in CASES if case["reason"]], ids=lambda case: case["file"]
)
def test_a_failed_trial_says_why_and_has_no_numbers(case: dict[str, Any]) -> None:
    found = raw(case["file"], status=case["exit"]) | {ERRORS: case["stderr"].encode()}
    reading = load("tcp").parse(flow(), found)
    assert reading.status is Status.FAILED
    assert reading.reason.startswith(f"{case['reason']}: ")
    assert reading.metrics == {}


@pytest.mark.parametrize(
    "asked",
    [
        flow("udp"),
        flow("udp", rate_bits_per_s=1e6, message_bytes=70_000),
        flow(streams=129),
        flow(streams=0),
        flow(duration_s=0),
        flow(omit_s=601),
        flow(mss_bytes=20),
        flow("request-response", streams=2),
        flow("request-response", transport="sctp"),
        flow("request-response", message_bytes=4),
        flow("request-response", direction=Direction.REVERSE),
        flow("request-response", rate_bits_per_s=1e6),
        flow("request-response", mss_bytes=1000),
    ],
)
def test_what_a_load_cannot_drive_is_said_beforehand(asked: Flow) -> None:
    said = load(asked.load).check(asked)
    assert said is not None
    assert said.endswith(".")


@pytest.mark.parametrize(
    "asked",
    [flow(), flow("udp", rate_bits_per_s=1e6), flow("request-response", transport="udp")],
)
def test_what_a_load_can_drive(asked: Flow) -> None:
    assert load(asked.load).check(asked) is None
