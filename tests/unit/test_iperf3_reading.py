"""iperf3 documents: what a sound one says is what is read, and no damage makes a false "ok"."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iperf3_made import RELEASES, Test, Way, document, dumped, pretty, printed, streamed

from ebpfperf import importing
from ebpfperf.loads import iperf3_document
from ebpfperf.loads.iperf3_document import Outcome
from ebpfperf.loads.reasons import Reason

RECORDED = Path(__file__).parents[1] / "recorded" / "iperf3"
SUBJECTS = (
    "v3.1.3__tcp_p4_omit1.json",
    "v3.1.3__udp.json",
    "v3.12__tcp.json",
    "v3.12__tcp_reverse.json",
    "v3.12__bidir_udp.json",
    "v3.12__as_server_tcp.json",
    "v3.12__as_server_udp_bidir.json",
    "v3.21__bidir_tcp.json",
    "v3.21__udp.json",
)
BAD = (
    -1, -7.5, 1e30, -1e30, 10**25, math.nan, math.inf, -math.inf, "7", "", None, [], {}, 3.5, 0,
)  # fmt: skip
HEADLINE = (
    "sent_bits_per_s", "received_bits_per_s", "reverse_sent_bits_per_s",
    "reverse_received_bits_per_s", "lost_pct", "retransmits",
)  # fmt: skip
# What a document may lose without its rates being any less true.
OPTIONAL = {"retransmits"}


def way(draw: st.DrawFn, streams: int, seconds: int, *, udp: bool, sends: bool) -> Way:
    amounts = st.integers(10**5, 10**11)
    carried = [[draw(amounts) for _ in range(seconds)] for _ in range(streams)]
    counted = sum(map(sum, carried))
    packets = draw(st.integers(1, 10**6)) if udp else 0
    lost = draw(st.integers(0, packets // 2)) if udp else 0
    if udp:
        kept = 1 - lost / packets
        sent, arrived = (counted, int(counted * kept)) if sends else (int(counted / kept), counted)
    else:
        part = draw(st.floats(0.1, 1))
        sent, arrived = (counted, int(counted * part)) if sends else (int(counted / part), counted)
    retransmits = 0 if udp else draw(st.integers(0, 10**6))
    return Way(carried, sent, arrived, retransmits=retransmits, packets=packets, lost=lost)


@st.composite
def sound_tests(draw: st.DrawFn) -> Test:
    protocol = draw(st.sampled_from(("TCP", "UDP")))
    direction = draw(st.sampled_from(("forward", "reverse", "bidir")))
    # --bidir came with 3.7.
    release = draw(st.sampled_from(RELEASES[2:] if direction == "bidir" else RELEASES))
    streams, seconds = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    ways = [
        way(draw, streams, seconds, udp=protocol == "UDP", sends=sends)
        for sends in {"forward": [True], "reverse": [False], "bidir": [True, False]}[direction]
    ]
    omit_s = draw(st.integers(0, seconds))
    return Test(release, ways, protocol, reverse=direction == "reverse", omit_s=omit_s)


def as_printed(test: Test) -> Iterator[bytes]:
    yield printed(test)
    if test.release == "3.21":
        yield pretty(test)
        yield streamed(test)
        yield streamed(test) + pretty(test)


@given(sound_tests())
@settings(max_examples=150, deadline=None)
def test_what_a_sound_document_says_is_what_is_read(test: Test) -> None:
    for text in as_printed(test):
        read = iperf3_document.read(text)
        assert read.reason is None, read.detail
        assert (read.version, read.protocol) == (test.release, test.protocol)
        assert (read.reverse, read.bidir) == (test.reverse, test.bidir)
        assert read.streams == len(test.ways[0].carried)
        assert (read.host_cpu_pct, read.remote_cpu_pct) == test.cpu
        found = [read.backward] if test.reverse else [read.forward]
        found += [read.backward] if test.bidir else []
        for said, totals in zip(test.ways, found, strict=True):
            assert totals is not None
            assert totals.sent_bytes == said.sent
            rate = said.sent * 8 / test.seconds
            assert totals.sent_bits_per_s == pytest.approx(rate, rel=1e-5)
            assert totals.received_bytes == pytest.approx(said.arrived, abs=2, rel=1e-9)
            if test.protocol == "TCP":
                assert totals.retransmits == said.retransmits
                assert totals.lost_pct is None
            else:
                assert totals.lost_pct == pytest.approx(100 * said.lost / said.packets)
                assert totals.retransmits is None
        assert (read.rtt_mean_us is None) == (
            test.protocol == "UDP" or test.release.startswith("3.0")
        )
        carried = sum(sum(stream) for said in test.ways for stream in said.carried)
        measured = [row for row in read.intervals if not row.omitted]
        assert sum(row.byte_count for row in measured) == carried
        assert len(read.intervals) == (test.seconds + test.omit_s) * len(test.ways)
        assert sum(row.byte_count for row in read.stream_intervals if not row.omitted) == carried


@pytest.mark.parametrize("release", RELEASES[:4])
def test_before_3_11_what_arrived_by_udp_follows_of_the_loss(release: str) -> None:
    test = Test(release, [Way([[10**6]], 10**6, 1, packets=1000, lost=250)], "UDP")
    totals = iperf3_document.read(printed(test)).forward
    assert totals is not None
    assert totals.received_bits_per_s == pytest.approx(8e6 * 0.75)


def test_before_3_11_a_receiver_may_have_counted_more_than_the_loss_says() -> None:
    # In a real document of 3.16 the received rate is 5 % above what the loss leaves of the sent.
    test = Test("3.10.1", [Way([[320_000]], 10**6, 1, packets=1000, lost=700)], "UDP", reverse=True)
    read = iperf3_document.read(printed(test))
    assert read.reason is None, read.detail
    assert read.backward is not None
    assert read.backward.received_bits_per_s == pytest.approx(8e6 * 0.3)


def headline(read: Outcome) -> dict[str, Any]:
    return {key: importing.summary("", read)[key] for key in HEADLINE}


def described(read: Outcome) -> tuple[Any, ...]:
    return read.protocol, read.reverse, read.bidir, read.streams, read.duration_s


def numbers_can_be(read: Outcome) -> None:
    """Every number in every row is one that can be."""
    rows = [*read.intervals, *read.stream_intervals, *read.stream_rows]
    for row in rows:
        for value in asdict(row).values():
            assert value is None or (isinstance(value, int | float) and 0 <= value < 1e19), row
    for number in (read.snd_cwnd_max_bytes, read.snd_wnd_max_bytes, read.rtt_mean_us,
                   read.host_cpu_pct, read.remote_cpu_pct, read.mss_bytes):  # fmt: skip
        assert number is None or 0 <= number < 1e19


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items: Any = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else items:
        yield from leaves(inner, (*path, key))


def without(whole: Any, path: tuple[Any, ...]) -> Any:
    made = copy.deepcopy(whole)
    at = made
    for key in path[:-1]:
        at = at[key]
    del at[path[-1]]
    return made


def replaced(whole: Any, path: tuple[Any, ...], value: object) -> Any:
    made = copy.deepcopy(whole)
    at = made
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return made


def never_falsely_ok(made: Any, sound: Outcome, what: object) -> None:
    read = iperf3_document.read(json.dumps(made).encode())
    if read.reason is not None:
        assert headline(read) == dict.fromkeys(HEADLINE), what
        return
    for key, value in headline(read).items():
        expected = headline(sound)[key]
        assert value == expected or (value is None and key in OPTIONAL), (what, key)
    assert described(read)[:4] == described(sound)[:4], what
    numbers_can_be(read)


@pytest.mark.parametrize("name", SUBJECTS)
def test_no_key_can_go_unnoticed(name: str) -> None:
    whole = json.loads((RECORDED / name).read_bytes())
    sound = iperf3_document.read((RECORDED / name).read_bytes())
    assert sound.reason is None
    for path in leaves(whole):
        never_falsely_ok(without(whole, path), sound, path)


@pytest.mark.parametrize("name", SUBJECTS)
def test_no_number_that_cannot_be_goes_unnoticed(name: str) -> None:
    whole = json.loads((RECORDED / name).read_bytes())
    sound = iperf3_document.read((RECORDED / name).read_bytes())
    for index, path in enumerate(leaves(whole)):
        at = whole
        for key in path:
            at = at[key]
        if isinstance(at, dict | list):
            continue
        # Each kind of damage at every fifth place, so that each place meets three of them.
        for value in BAD[index % 5 :: 5]:
            if type(value) is type(at) and value == at:
                continue
            if path[0] != "start" or path[-1] in ("reverse", "bidir", "num_streams", "protocol"):
                never_falsely_ok(replaced(whole, path, value), sound, (path, value))
            else:
                iperf3_document.read(json.dumps(replaced(whole, path, value)).encode())


@pytest.mark.parametrize(
    "name", ["v3.12__udp.json", "v3.9__bidir_tcp.json", "v3.21__json_stream_tcp.ndjson"]
)
def test_cut_at_any_byte_it_is_never_ok(name: str) -> None:
    whole = (RECORDED / name).read_bytes()
    limit = whole.rindex(b"\n", 0, -2) if name.endswith("ndjson") else len(whole.rstrip()) - 1
    for end in range(limit):
        assert iperf3_document.read(whole[:end]).reason is not None, end


@pytest.mark.parametrize("line", range(4))
def test_a_lost_line_of_a_stream_is_missed(line: int) -> None:
    lines = (RECORDED / "v3.21__json_stream_tcp.ndjson").read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    assert iperf3_document.read(b"".join(lines)).reason is None
    left = b"".join(lines[:line] + lines[line + 1 :])
    assert iperf3_document.read(left).reason is not None


def test_one_interval_of_many_lost_is_missed() -> None:
    test = Test("3.21", [Way([[10**9] * 60], 60 * 10**9, 60 * 10**9)])
    lines = streamed(test).splitlines(keepends=True)
    assert iperf3_document.read(b"".join(lines)).reason is None
    read = iperf3_document.read(b"".join(lines[:7] + lines[8:]))
    assert read.reason is Reason.INCONSISTENT


@pytest.mark.parametrize("printed_as", [b"-nan", b"nan", b"NaN", b"inf", b"-Infinity"])
def test_a_number_that_is_none_spoils_only_what_it_is_of(printed_as: bytes) -> None:
    good = (RECORDED / "v3.12__udp.json").read_bytes()
    sound = iperf3_document.read(good)
    jitter = good.replace(b'"jitter_ms":\t0', b'"jitter_ms":\t' + printed_as + b', "was":\t0')
    assert jitter != good
    assert headline(iperf3_document.read(jitter)) == headline(sound)
    rate = good.replace(b'"bits_per_second":\t2', b'"bits_per_second":\t%b, "was": 2' % printed_as)
    assert iperf3_document.read(rate).reason is Reason.INCONSISTENT


def test_bytes_that_are_no_utf_8_in_a_name_change_no_number() -> None:
    good = (RECORDED / "v3.12__tcp.json").read_bytes()
    odd = good.replace(b"Linux vm", b"Linux \xff\xfe")
    assert odd != good
    assert headline(iperf3_document.read(odd)) == headline(iperf3_document.read(good))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[" * 100_000, Reason.NOT_JSON),
        (b'{"start": ' + b"[" * 100_000, Reason.TRUNCATED),
        (b"{", Reason.TRUNCATED),
        (b'{\n\t"st', Reason.TRUNCATED),
        (b"{'start': 1}", Reason.NOT_JSON),
        (b"7", Reason.NOT_JSON),
        (b"null", Reason.NOT_JSON),
        (b"   \n", Reason.EMPTY),
        (b'{"event": "start"}\n{"event": "start"}\n', Reason.CONCATENATED),
        (b'{"event": 7, "data": 1}', Reason.NOT_JSON),
        (b'{"start": {}, "intervals": [], "end": {"sum_sent": {"bytes": 1}}}', Reason.INCONSISTENT),
    ],
)
def test_what_is_no_document_has_its_reason(text: bytes, reason: Reason) -> None:
    assert iperf3_document.read(text).reason is reason


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_crash_it_or_are_ok(data: bytes) -> None:
    assert iperf3_document.read(data).reason is not None


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)


@given(st.dictionaries(st.sampled_from(["start", "end", "intervals", "error", "event"]), JSON))
def test_no_json_crashes_it_or_is_ok(made: Any) -> None:
    assert iperf3_document.read(json.dumps(made).encode()).reason is not None


def test_a_key_twice_with_two_values_is_a_doubt() -> None:
    good = (RECORDED / "v3.16__tcp.json").read_bytes()
    at = good.rindex(b'"sum_received":')
    part = good[at : good.index(b"}", at) + 1]
    for changed in (part, part.replace(b'"bytes":\t', b'"bytes":\t1')):
        twice = good[:at] + changed + b",\n" + good[at:]
        assert iperf3_document.read(twice).reason is Reason.INCONSISTENT


def test_a_document_that_claims_both_directions_must_have_both() -> None:
    whole = document(Test("3.21", [Way([[8000]], 8000, 8000), Way([[4000]], 4000, 4000)]))
    assert iperf3_document.read(json.dumps(whole).encode()).reason is None
    for key in ("sum_sent_bidir_reverse", "sum_received_bidir_reverse"):
        one = without(whole, ("end", key))
        assert iperf3_document.read(json.dumps(one).encode()).reason is Reason.INCONSISTENT


@pytest.mark.parametrize("release", ["3.7", "3.12", "3.21"])
def test_a_test_both_ways_that_failed_is_still_one_both_ways(release: str) -> None:
    whole = document(Test(release, [Way([[8000]], 8000, 8000), Way([[4000]], 4000, 4000)]))
    whole |= {"end": {}, "error": "control socket has closed unexpectedly"}
    read = iperf3_document.read(dumped(whole).encode())
    assert (read.reason, read.bidir) == (Reason.SERVER_DIED, True)


def test_who_ended_the_test_is_who_was_interrupted() -> None:
    # A server's own document, and its client's.
    for said in ("interrupt - the server has terminated", "the server has terminated"):
        whole = document(Test("3.12", [Way([[8000]], 8000, 8000)])) | {"error": said}
        assert iperf3_document.read(json.dumps(whole).encode()).reason is Reason.SERVER_DIED


def test_a_release_that_printed_no_end_at_its_server_has_no_result() -> None:
    # A 3.0.11 server: every interval is there, the end is empty, and so it is after a failure.
    whole = document(Test("3.0.11", [Way([[8000, 8000]], 16000, 16000)]))
    del whole["start"]["connecting_to"]
    whole["start"]["accepted_connection"] = {"host": "192.0.2.2", "port": 1}
    whole["end"] = {}
    read = iperf3_document.read(json.dumps(whole).encode())
    assert read.reason is Reason.NO_END
    assert read.server
