"""Which text is one iperf3 document: what stands around it, twice in it, or in place of it."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest
from iperf3_made import Test, Way, pretty, printed, streamed

from ebpfperf.loads import iperf3_document, iperf3_text
from ebpfperf.loads.reasons import Reason

RECORDED = Path(__file__).parents[1] / "recorded" / "iperf3"
TEST = Test("3.21", [Way([[1000, 1000]], 2000, 1990)])
OTHER = Test("3.21", [Way([[500]], 500, 490)])
REFUSED = (RECORDED / "v3.12__refused.json").read_bytes()
FULL = streamed(TEST) + pretty(TEST) + b"\n"


def reason(text: bytes) -> Reason | None:
    return iperf3_document.read(text).reason


@pytest.mark.parametrize("whole", [pretty(TEST), printed(TEST), streamed(TEST), FULL])
@pytest.mark.parametrize("more", [pretty(OTHER), printed(OTHER), streamed(OTHER), FULL, REFUSED])
@pytest.mark.parametrize("between", [b"\n", b"\n--- run 2\n", b"\nrun 2: ", b"\r\n\r\n"])
def test_one_of_several_documents_is_never_taken_for_all(
    whole: bytes, more: bytes, between: bytes
) -> None:
    assert reason(whole) is None
    assert reason(whole + between + more) is not None
    assert reason(b"run 1: " + whole + between + more) is not None
    if between.strip() != b"run 2:":
        assert reason(whole + between + more) is Reason.CONCATENATED


def test_the_whole_document_after_the_events_must_be_theirs() -> None:
    assert reason(FULL) is None
    for end in range(len(streamed(TEST)) + 1, len(FULL.rstrip())):
        assert reason(FULL[:end]) is Reason.TRUNCATED
    assert reason(FULL.replace(b'"bytes": 1990', b'"bytes": 1980')) is Reason.INCONSISTENT
    failed = json.loads(pretty(TEST)) | {"error": "control socket has closed unexpectedly"}
    said = streamed(TEST) + json.dumps(failed, indent="\t").encode()
    assert reason(said) is Reason.SERVER_DIED


@pytest.mark.parametrize("whole", [pretty(TEST), streamed(TEST), FULL])
def test_what_stands_around_a_document_is_heard(whole: bytes) -> None:
    note, failure = b"warning: UDP block size exceeds TCP MSS\n", b"iperf3: error - something new\n"
    for said, expected in ((note, None), (failure, Reason.OTHER)):
        assert reason(said + whole) is expected
        assert reason(whole + b"\n" + said) is expected
    first, rest = whole.split(b"\n", 1)
    if whole == streamed(TEST):
        assert reason(first + b"\n" + note + rest) is None
        assert reason(first + b"\n" + failure + rest) is Reason.OTHER


def test_only_a_line_feed_ends_an_event() -> None:
    title = {"title": "caf\u00e9 \u2028 next \x85 \x1c"}
    events = [json.loads(line) for line in streamed(TEST).splitlines()]
    events[0]["data"] |= title
    text = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events)
    assert reason(text.encode()) is None


def test_an_events_line_that_lost_its_beginning_is_missed() -> None:
    lines = streamed(TEST).splitlines(keepends=True)
    for cut in range(1, len(lines[1]) - 1):
        assert reason(b"".join([lines[0], lines[1][cut:], *lines[2:]])) is not None, cut


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF8])
@pytest.mark.parametrize("whole", [pretty(TEST), streamed(TEST), FULL, REFUSED])
def test_what_a_shell_on_windows_wrote_is_read(mark: bytes, whole: bytes) -> None:
    coding = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(mark, "utf-8")
    text = mark + whole.replace(b"\n", b"\r\n").decode().encode(coding)
    assert iperf3_document.read(text) == iperf3_document.read(whole)
    assert reason(text[: len(text) // 2]) is not None


@pytest.mark.parametrize("text", ["", "x", 0, False, {}, []])
def test_an_error_that_says_nothing_is_one(text: object) -> None:
    whole = json.loads(pretty(TEST))
    assert reason(json.dumps(whole | {"error": text}).encode()) is Reason.OTHER
    assert reason(json.dumps(whole | {"error": None}).encode()) is None
    *lines, end = streamed(TEST).splitlines(keepends=True)
    event = json.dumps({"event": "error", "data": text}).encode() + b"\n"
    assert reason(b"".join([*lines, event, end])) is Reason.OTHER
    assert reason(b"".join([*lines, b'{"event": "error"}\n', end])) is Reason.OTHER


@pytest.mark.parametrize("name", ["v3.1.3__tcp_reverse", "v3.12__udp", "v3.21__bidir_tcp"])
def test_no_key_of_two_values_goes_unnoticed(name: str) -> None:
    whole = (RECORDED / f"{name}.json").read_bytes()
    assert reason(whole) is None
    lines = whole.splitlines(keepends=True)
    told = 0
    for number, line in enumerate(lines):
        key, colon, value = line.partition(b":")
        # A plain value that others follow; the sizes of sockets differ from stream to stream.
        if not colon or value.strip()[-1:] != b"," or b"_actual" in key or b"sock_buf" in key:
            continue
        other = b"\t8" + value.lstrip() if value.strip()[:1].isdigit() else b'\t"other",\n'
        for twice in ([line, key + b":" + other], [key + b":" + other, line]):
            made = b"".join([*lines[:number], *twice, *lines[number + 1 :]])
            assert reason(made) is Reason.INCONSISTENT, twice
            told += 1
    assert told > 50


def test_a_plain_document_needs_no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iperf3_text, "_carefully", None)
    for name in ("v3.1.3__tcp", "v3.12__udp_unlimited_p8_smallpkt", "v3.21__bidir_tcp"):
        assert reason((RECORDED / f"{name}.json").read_bytes()) is None
