"""Real iperf3 documents of six releases: verdicts and numbers, and what damage does to them.

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


@named([case for case in GOOD if case["udp_sum_bits_per_s"] and not case["sent_bits_per_s"]])
def test_old_udp_documents_derive_what_arrived(case: dict[str, Any]) -> None:
    totals = outcome(case).forward
    assert totals is not None
    if not case["repeated_keys"]:
        lost = case["lost_pct"] / 100
        assert totals.received_bits_per_s == pytest.approx(case["udp_sum_bits_per_s"] * (1 - lost))


def pairs_kept(items: list[tuple[str, Any]]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in items:
        kept.setdefault(key, []).append(value)
    return kept


@named([case for case in GOOD if case["repeated_keys"]])
def test_no_direction_of_repeated_keys_is_lost(case: dict[str, Any]) -> None:
    (end,) = json.loads(text(case), object_pairs_hook=pairs_kept)["end"]
    read = outcome(case)
    key = "sum" if case["protocol"] == "UDP" else "sum_sent"
    sent = [totals["bits_per_second"][0] for totals in end[key]]
    assert read.forward is not None
    assert read.backward is not None
    assert [read.forward.sent_bits_per_s, read.backward.sent_bits_per_s] == sent
    assert sent[0] != sent[1]


@named([case for case in GOOD if case["repeated_keys"]])
def test_a_direction_that_another_loader_lost_is_missed(case: dict[str, Any]) -> None:
    # What jq or json.load and json.dump make of it: the second direction alone.
    passed_on = json.dumps(json.loads(text(case))).encode()
    assert iperf3_document.read(passed_on).reason is Reason.INCONSISTENT


@named([case for case in GOOD if "_as_server_" in case["file"]])
def test_a_server_knows_its_own_side(case: dict[str, Any]) -> None:
    read = outcome(case)
    assert read.server
    assert read.mss_bytes is None
    assert read.remote_cpu_pct is None
    if read.forward is not None:
        assert read.forward.sent_bits_per_s is None
        assert read.forward.received_bits_per_s is not None
    if read.backward is not None:
        assert read.backward.sent_bits_per_s is not None
        assert read.backward.received_bits_per_s is None
        assert read.backward.lost_pct is None
    client = HERE / case["file"].replace("_as_server_", "_")
    if client.exists():
        assert not iperf3_document.read(client.read_bytes()).server


@named([case for case in GOOD if case["file"].endswith(".json")])
def test_what_the_server_said_is_not_counted_again(case: dict[str, Any]) -> None:
    document = json.loads(text(case))
    if "server_output_json" in document:
        del document["server_output_json"]
        assert iperf3_document.read(json.dumps(document).encode()) == outcome(case)
        document["server_output_json"] = {"error": "the client has terminated"}
        failed = iperf3_document.read(json.dumps(document).encode())
        assert failed.reason is Reason.INTERRUPTED


@named(GOOD)
def test_rows_are_the_documents_own(case: dict[str, Any]) -> None:
    read = outcome(case)
    ways = (read.forward is not None) + (read.backward is not None)
    assert len(read.stream_rows) == read.streams * ways
    assert len(read.stream_intervals) * ways == len(read.intervals) * read.streams * ways
    for forward in (True, False):
        totals = read.forward if forward else read.backward
        if totals is None:
            continue
        rows = [row for row in read.stream_intervals if row.forward is forward and not row.omitted]
        own = totals.received_bytes if forward is read.server else totals.sent_bytes
        assert sum(row.byte_count for row in rows) == pytest.approx(own, rel=0.01)
        parts = [row for row in read.stream_rows if row.forward is forward]
        assert len(parts) == read.streams
        if totals.retransmits is not None:
            assert sum(row.retransmits or 0 for row in parts) == totals.retransmits
        if totals.sent_bits_per_s is not None and read.protocol == "TCP":
            sent = sum(row.sent_bits_per_s or 0 for row in parts)
            assert sent == pytest.approx(totals.sent_bits_per_s, rel=0.01)


@named([case for case in GOOD if case["file"].startswith(("v3.12", "v3.16", "v3.21"))])
def test_round_trips_and_windows_are_the_senders(case: dict[str, Any]) -> None:
    read = outcome(case)
    if read.protocol == "UDP":
        assert read.rtt_mean_us is None
        assert read.snd_wnd_max_bytes is None
    elif read.forward is not None and not read.server:
        rows = [row for row in read.stream_rows if row.forward]
        for row in rows:
            assert row.rtt_min_us is not None
            assert row.rtt_mean_us is not None
            assert row.rtt_max_us is not None
            assert row.rtt_min_us <= row.rtt_mean_us <= row.rtt_max_us
        in_intervals = [row.snd_wnd_bytes or 0 for row in read.stream_intervals]
        assert read.snd_wnd_max_bytes is not None
        assert read.snd_wnd_max_bytes >= max(in_intervals) > 0


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


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("", None),
        ("warning: this system does not seem to support IPv6 - trying IPv4", None),
        ("iperf3: error - something new", Reason.OTHER),
        ("unable to write to stream socket: Connection reset by peer", Reason.SERVER_DIED),
    ],
)
def test_standard_error_is_heard_beside_a_good_document(stderr: str, reason: Reason | None) -> None:
    good = (HERE / "v3.12__tcp.json").read_bytes()
    assert iperf3_document.read(good, stderr=stderr).reason is reason
    # The same where both went to one file, in either order.
    said = stderr.encode()
    assert iperf3_document.read(said + b"\n" + good).reason is reason
    assert iperf3_document.read(good + b"\n" + said).reason is reason


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
    assert reading.metrics["sender_cpu_pct"] == end["cpu_utilization_percent"]["host_total"]
    assert reading.metrics["receiver_cpu_pct"] == end["cpu_utilization_percent"]["remote_total"]
    means_us = [stream["sender"]["mean_rtt"] for stream in end["streams"]]
    assert reading.metrics["rtt_mean_ns"] == pytest.approx(sum(means_us) / 4 * 1000)
    assert reading.metrics["snd_wnd_max_bytes"] == max(
        stream["sender"]["max_snd_wnd"] for stream in end["streams"]
    )
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


def test_in_reverse_the_server_is_the_sender() -> None:
    name = "v3.12__tcp_reverse.json"
    reading = load("tcp").parse(flow(direction=Direction.REVERSE), raw(name))
    cpu = json.loads((HERE / name).read_text())["end"]["cpu_utilization_percent"]
    assert reading.metrics["sender_cpu_pct"] == cpu["remote_total"]
    assert reading.metrics["receiver_cpu_pct"] == cpu["host_total"]


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
