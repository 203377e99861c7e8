"""iperf3's JSON document, read: what was measured, or why it may not be used.

No single mark says whether a test succeeded. Exit status 0 is printed for refused connections by
3.11 to 3.13 and for an interrupted client by 3.19 and later; 3.9 fails without an ``error`` key;
``end`` is filled after an interruption; a bidirectional document that went through another loader
has lost a direction. So exit status, stderr, the ``error`` key, the ``end`` object, bytes, rates,
intervals, streams and repeated keys are judged together, and one doubt is enough for a reason.

Format: printed by iperf3 3.0 to 3.21, by a client or a server. ``docs/iperf3.md`` says what differs
and which releases were seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ebpfperf.loads import iperf3_checks as checks
from ebpfperf.loads import iperf3_rows as rows
from ebpfperf.loads import iperf3_text
from ebpfperf.loads.iperf3_checks import Doubt, Totals
from ebpfperf.loads.iperf3_rows import Interval, Stream, StreamInterval, largest
from ebpfperf.loads.iperf3_text import REVERSE
from ebpfperf.loads.reasons import Reason

__all__ = ["Interval", "Outcome", "Stream", "StreamInterval", "Totals", "read"]

# Words of error messages, first match first. Prefixes and wording changed in 3.11 and 3.14.
_WORDS: tuple[tuple[str, Reason], ...] = (
    ("server is busy", Reason.BUSY),
    ("connection refused", Reason.REFUSED),
    ("no route to host", Reason.UNREACHABLE),
    ("network is unreachable", Reason.UNREACHABLE),
    ("timed out", Reason.UNREACHABLE),
    ("unable to connect", Reason.UNREACHABLE),
    ("server has terminated", Reason.SERVER_DIED),
    ("interrupt", Reason.INTERRUPTED),
    ("client has terminated", Reason.INTERRUPTED),
    ("client has unexpectedly closed", Reason.CLIENT_DIED),
    ("idle timeout for receiving data", Reason.CLIENT_DIED),
    ("control socket has closed", Reason.SERVER_DIED),
    ("connection reset", Reason.SERVER_DIED),
    ("broken pipe", Reason.SERVER_DIED),
    ("message too long", Reason.TOO_LONG),
    ("authorization failed", Reason.DENIED),
    ("larger than server limit", Reason.DENIED),
    ("server's maximum", Reason.DENIED),
    ("unable to write to stream", Reason.SERVER_DIED),
    ("unable to read from stream", Reason.SERVER_DIED),
    ("unable to receive control message", Reason.SERVER_DIED),
    ("unrecognized option", Reason.BAD_OPTION),
    ("unrecognised option", Reason.BAD_OPTION),
    ("invalid option", Reason.BAD_OPTION),
    ("parameter error", Reason.BAD_OPTION),
    ("some option you are trying to set", Reason.BAD_OPTION),
    ("unable to set tcp", Reason.BAD_OPTION),
)
_ERROR = re.compile(r"\berror\b", re.IGNORECASE)
# Failures that are judged here: no program says them, and numbers of such a document mislead.
_JUDGED = frozenset(
    {Reason.NO_END, Reason.NO_TRAFFIC, Reason.SHORT, Reason.INCONSISTENT, Reason.MISMATCH}
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was printed: ``reason`` is None exactly when the numbers may be used.

    Attributes
    ----------
    server
        Whether the server printed it: it knows what it sent and received itself, not the rest.
    streams
        Connections in each direction.
    duration_s
        Seconds asked for after ``omit_s``; 0 where the test ends after bytes or blocks.
    target_bits_per_s
        Pace of each stream; 0 is as fast as it goes, None where the release does not say (3.10).
    forward, backward
        Client to server, and server to client; a test of one direction has one of them.
    started_s
        Unix time of the start, whole seconds.
    mss_bytes
        Segment size of the control connection when it was set up, which the kernel gives.
    host_cpu_pct, remote_cpu_pct
        Processor time of the iperf3 process here and at the other end, percent of one core.
    """

    reason: Reason | None
    detail: str = ""
    server: bool = False
    version: str = ""
    protocol: str = ""
    streams: int = 0
    reverse: bool = False
    bidir: bool = False
    omit_s: float = 0
    duration_s: float = 0
    bytes_asked: int = 0
    blocks_asked: int = 0
    block_bytes: int | None = None
    target_bits_per_s: float | None = None
    forward: Totals | None = None
    backward: Totals | None = None
    cookie: str = ""
    started_s: int | None = None
    mss_bytes: int | None = None
    congestion: str = ""
    host_cpu_pct: float | None = None
    remote_cpu_pct: float | None = None
    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def partial(self) -> tuple[Totals | None, Totals | None]:
        """What was counted each way before the program failed, if its ``end`` says so; unjudged."""
        end = _object(self.document.get("end"))
        expected = self.streams * (2 if self.bidir else 1)
        if self.reason in _JUDGED or not end or len(_list(end.get("streams"))) != expected:
            return None, None
        ways = {forward: suffix for suffix, forward in self._sides.ways}
        found = [
            checks.unjudged(
                end, ways[forward], to_server=forward, server=self.server, protocol=self.protocol
            )
            if forward in ways
            else None
            for forward in (True, False)
        ]
        return found[0], found[1]

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """Rows of the reporting intervals, one a direction; made anew each time."""
        return () if self.reason else tuple(rows.intervals(self.document, self._sides))

    @property
    def stream_intervals(self) -> tuple[StreamInterval, ...]:
        """Rows of each stream in each interval; made anew each time."""
        return () if self.reason else tuple(rows.stream_intervals(self.document, self._sides))

    @property
    def stream_rows(self) -> tuple[Stream, ...]:
        """Rows of each stream over the whole test; made anew each time."""
        return () if self.reason else tuple(rows.streams(self.document, self._sides))

    @property
    def snd_cwnd_max_bytes(self) -> int | None:
        """Largest congestion window of any stream, as far as a sender printed it."""
        return None if self.reason else largest(self.document, "snd_cwnd")

    @property
    def snd_wnd_max_bytes(self) -> int | None:
        """Largest window that a receiver offered to any stream (3.10 and later)."""
        return None if self.reason else largest(self.document, "snd_wnd")

    @property
    def rtt_mean_us(self) -> float | None:
        """Mean over streams of the sender's mean round-trip time, microseconds (3.1 and later)."""
        means = [s.rtt_mean_us for s in self.stream_rows if s.rtt_mean_us is not None]
        return sum(means) / len(means) if means else None

    @property
    def _sides(self) -> rows.Sides:
        return rows.Sides(server=self.server, reverse=self.reverse, bidir=self.bidir)


def read(stdout: bytes, *, stderr: str = "", status: int = 0) -> Outcome:
    """The outcome of one client or server: its standard output, standard error, exit status."""
    if not stdout or stdout.isspace():
        return Outcome(_by_words(stderr) or Reason.EMPTY, stderr or f"exit status {status}")
    printed = iperf3_text.load(stdout)
    said = f"{stderr}\n{printed.beside}".strip() if printed.beside else stderr
    if printed.document is None:
        shown = said or stdout[:200].decode("utf-8", "replace")
        return Outcome(printed.problem or Reason.NOT_JSON, shown)
    fields: dict[str, Any] = {}
    try:
        fields = _described(printed.document)
        failed = _failure(printed.document, stderr=said, status=status)
        if failed is None and printed.conflict:
            failed = Reason.INCONSISTENT, f"{printed.conflict} twice, with two values"
        if failed is None:
            fields |= _measured(printed.document, **fields)
    except Doubt as doubt:
        failed = doubt.reason, doubt.detail
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        failed = Reason.INCONSISTENT, f"unexpected shape: {error!r}"
    if failed is None:
        return Outcome(None, document=printed.document, **fields)
    detail = failed[1] or f"exit status {status}"
    return Outcome(failed[0], detail, document=printed.document, **fields)


def _described(document: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the outcome that the document says of itself; no judgement."""
    start, end = _object(document.get("start")), _object(document.get("end"))
    test, time = _object(start.get("test_start")), _object(start.get("timestamp"))
    server = "accepted_connection" in start
    cpu = _object(end.get("cpu_utilization_percent"))
    return {
        "server": server,
        "version": str(start.get("version", "")).removeprefix("iperf").strip(),
        "protocol": str(test.get("protocol", "")),
        "streams": _whole(test.get("num_streams")) or 0,
        "reverse": test.get("reverse") == 1,
        # Before 3.13 test_start does not say whether both directions were asked for.
        "bidir": test.get("bidir") == 1 or _second_sums(end) or _second_sums(_interval(document)),
        "omit_s": _plain(test.get("omit")) or 0,
        "duration_s": _plain(test.get("duration")) or 0,
        "bytes_asked": _whole(test.get("bytes")) or 0,
        "blocks_asked": _whole(test.get("blocks")) or 0,
        "block_bytes": _whole(test.get("blksize")),
        "target_bits_per_s": _plain(test.get("target_bitrate", start.get("target_bitrate"))),
        "cookie": str(start.get("cookie", "")),
        "started_s": _whole(time.get("timesecs")),
        # A server prints 0; a size that was asked for has a key of its own.
        "mss_bytes": _whole(start.get("tcp_mss_default")) or _whole(start.get("tcp_mss")) or None,
        "congestion": str(end.get("sender_tcp_congestion", "")),
        "host_cpu_pct": _percent(cpu.get("host_total")),
        # A server prints 0 for what it does not know.
        "remote_cpu_pct": None if server else _percent(cpu.get("remote_total")),
    }


def _measured(document: Mapping[str, Any], **said: Any) -> dict[str, Totals | None]:
    """The totals of each direction; Doubt, or what a wrong shape raises, where there are none."""
    reverse, bidir, omit_s = said["reverse"], said["bidir"], said["omit_s"]
    checks.asked(document["start"]["test_start"])
    checks.directions(document["end"], said["streams"], reverse=reverse, bidir=bidir)
    judge = checks.Judge(document, udp=said["protocol"] == "UDP", server=said["server"])
    timed_s = 0 if said["bytes_asked"] or said["blocks_asked"] else said["duration_s"]
    first = judge.totals("", to_server=not reverse, timed_s=timed_s, omit_s=omit_s)
    if reverse:
        return {"forward": None, "backward": first}
    second = None
    if bidir:
        second = judge.totals(REVERSE, to_server=False, timed_s=timed_s, omit_s=omit_s)
    return {"forward": first, "backward": second}


def _failure(document: Mapping[str, Any], *, stderr: str, status: int) -> tuple[Reason, str] | None:
    """Why the program says, in any of its ways, that it failed."""
    start, end = _object(document.get("start")), _object(document.get("end"))
    error = document.get("error")
    if error is not None:
        return _by_words(str(error)) or Reason.OTHER, str(error)
    theirs = _object(document.get("server_output_json")).get("error")
    if theirs is not None:
        return _by_words(str(theirs)) or Reason.OTHER, f"server: {theirs}"
    sums = "sum" in end or "sum_sent" in end
    if sums and status == 0 and not stderr:
        return None
    known = _by_words(stderr)
    if sums and status == 0 and known is None and not _ERROR.search(stderr):
        return None
    # 3.9 prints no error key; a refused connection shows only in that none was made.
    if not start.get("connected") and "unable to send control message" in stderr:
        return Reason.REFUSED, stderr
    return known or (Reason.OTHER if sums else Reason.NO_END), stderr


def _by_words(message: str) -> Reason | None:
    lowered = message.lower()
    return next((reason for words, reason in _WORDS if words in lowered), None)


def _second_sums(part: Mapping[str, Any]) -> bool:
    return any([f"{name}{REVERSE}" in part for name in ("sum", "sum_sent", "sum_received")])


def _interval(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first interval, which is there where a failure left no end."""
    found = _list(document.get("intervals"))
    return _object(found[0]) if found else {}


def _object(value: object) -> Mapping[str, Any]:
    return value if type(value) is dict else {}


def _list(value: object) -> list[Any]:
    return value if type(value) is list else []


def _plain(value: Any) -> float | None:
    """A number that can be one of seconds, bytes or bits; None for anything else."""
    kind = type(value)
    return value if (kind is int or kind is float) and 0 <= value < 1e18 else None


def _whole(value: Any) -> int | None:
    kind = type(value)
    return int(value) if (kind is int or kind is float) and 0 <= value < 1e18 else None


def _percent(value: object) -> float | None:
    number = _plain(value)
    return number if number is not None and number < 1e6 else None
