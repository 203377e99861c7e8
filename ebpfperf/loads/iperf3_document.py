"""iperf3's JSON document, read: what was measured, or why it may not be used.

No single mark says whether a test succeeded. Exit status 0 is printed for refused connections by
3.11 to 3.13 and for an interrupted client by 3.19 and later; 3.9 fails without an ``error`` key;
``end`` is filled after an interruption. So exit status, stderr, the ``error`` key, the ``end``
object, bytes and intervals are judged together, and one doubt is enough for a reason.

Format: printed by iperf3 3.1 to 3.21; see ``iperf_api.c`` and ``iperf_client_api.c`` of each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ebpfperf.loads.reasons import Reason

# Up to 3.10.1 --bidir repeats these keys for the second direction; 3.11 gave it a name.
_REPEATED = ("sum", "sum_sent", "sum_received")
_REVERSE = "_bidir_reverse"

# Words of error messages, first match first. Prefixes and wording changed in 3.11 and 3.14.
_WORDS: tuple[tuple[str, Reason], ...] = (
    ("server is busy", Reason.BUSY),
    ("connection refused", Reason.REFUSED),
    ("no route to host", Reason.UNREACHABLE),
    ("network is unreachable", Reason.UNREACHABLE),
    ("timed out", Reason.UNREACHABLE),
    ("unable to connect", Reason.UNREACHABLE),
    ("interrupt", Reason.INTERRUPTED),
    ("control socket has closed", Reason.SERVER_DIED),
    ("server has terminated", Reason.SERVER_DIED),
    ("connection reset", Reason.SERVER_DIED),
    ("broken pipe", Reason.SERVER_DIED),
    ("message too long", Reason.TOO_LONG),
    ("unable to write to stream", Reason.SERVER_DIED),
    ("unable to read from stream", Reason.SERVER_DIED),
    ("unrecognized option", Reason.BAD_OPTION),
    ("parameter error", Reason.BAD_OPTION),
    ("some option you are trying to set", Reason.BAD_OPTION),
    ("unable to set tcp", Reason.BAD_OPTION),
)

_MAY_LACK = 0.9  # part of the time asked for that intervals and sums must cover
_MAY_EXCEED = 1.02  # received over sent: bytes in flight over the end of the warm-up


@dataclass(frozen=True, slots=True)
class Totals:
    """One direction of a test, warm-up left out.

    Attributes
    ----------
    sent_bits_per_s, received_bits_per_s
        What the sender wrote and what the receiver read, each over its own seconds.
    lost_pct
        UDP datagrams that did not arrive, percent of those sent; None for TCP.
    retransmits
        TCP segments sent again, all streams; None where not reported.
    """

    sent_bits_per_s: float
    received_bits_per_s: float
    sent_bytes: int
    received_bytes: int
    sent_s: float
    lost_pct: float | None
    retransmits: int | None


@dataclass(frozen=True, slots=True)
class Interval:
    """One direction in one reporting interval, as the client saw it.

    Attributes
    ----------
    start_s, end_s
        Seconds from the start of the warm-up (``omitted``), or from its end.
    sender
        Whether the client was the sender of this direction.
    snd_cwnd_bytes
        Congestion windows of all streams added; None at a receiver.
    rtt_us
        Smoothed round-trip time, mean of the streams, microseconds.
    """

    start_s: float
    end_s: float
    omitted: bool
    sender: bool
    bits_per_s: float
    byte_count: int
    retransmits: int | None
    lost_packets: int | None
    snd_cwnd_bytes: int | None
    rtt_us: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client's output says: ``reason`` is None exactly when the numbers may be used.

    Attributes
    ----------
    forward, backward
        Client to server, and server to client; a test of one direction has one of them.
    mss_bytes
        Segment size of the control connection when it was set up, which the kernel gives.
    snd_cwnd_max_bytes
        Largest congestion window of any stream that the client sends.
    """

    reason: Reason | None
    detail: str = ""
    version: str = ""
    protocol: str = ""
    streams: int = 0
    omit_s: float = 0
    duration_s: float = 0
    forward: Totals | None = None
    backward: Totals | None = None
    intervals: tuple[Interval, ...] = ()
    mss_bytes: int | None = None
    snd_cwnd_max_bytes: int | None = None
    congestion: str = ""


def read(stdout: bytes, *, stderr: str = "", status: int = 0) -> Outcome:
    """The outcome of one client: its standard output, standard error and exit status."""
    text = stdout.decode("utf-8", "replace").strip()
    if not text:
        return Outcome(_by_words(stderr) or Reason.EMPTY, stderr or f"exit status {status}")
    document, problem = _load(text)
    if document is None:
        return Outcome(problem, stderr or text[:200])
    try:
        return _judge(document, stderr, status)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        return Outcome(Reason.INCONSISTENT, f"unexpected shape: {error!r}")


def _load(text: str) -> tuple[dict[str, Any] | None, Reason]:
    decoder = json.JSONDecoder(object_pairs_hook=_keep_both)
    try:
        first, end = decoder.raw_decode(text)
    except ValueError:
        started = text.startswith("{") and '"start"' in text
        return None, Reason.TRUNCATED if started else Reason.NOT_JSON
    if not isinstance(first, dict):
        return None, Reason.NOT_JSON
    if "event" in first:
        return _from_events(text, decoder)
    if text[end:].strip():
        return None, Reason.CONCATENATED
    return first, Reason.OTHER


def _from_events(text: str, decoder: json.JSONDecoder) -> tuple[dict[str, Any] | None, Reason]:
    """A document put together from ``--json-stream`` lines (3.17 and later)."""
    document: dict[str, Any] = {"intervals": []}
    for line in text.splitlines():
        try:
            event = decoder.decode(line)
        except ValueError:
            # --json-stream-full-output appends the whole document, pretty-printed.
            if line.strip() == "{" and "end" in document:
                break
            return None, Reason.TRUNCATED
        if not isinstance(event, dict) or "event" not in event:
            return None, Reason.NOT_JSON
        if event["event"] == "interval":
            document["intervals"].append(event["data"])
        elif event["event"] in document:
            return None, Reason.CONCATENATED
        else:
            document[event["event"]] = event.get("data")
    return document, Reason.OTHER


def _keep_both(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key not in found:
            found[key] = value
        elif key in _REPEATED:
            found[key + _REVERSE] = value
    return found


def _judge(document: Mapping[str, Any], stderr: str, status: int) -> Outcome:
    start, end = document.get("start") or {}, document.get("end") or {}
    test = start.get("test_start") or {}
    base = Outcome(
        None,
        version=str(start.get("version", "")).removeprefix("iperf "),
        protocol=str(test.get("protocol", "")),
        streams=int(test.get("num_streams", 0)),
        omit_s=float(test.get("omit", 0)),
        duration_s=float(test.get("duration", 0)),
    )
    error = document.get("error")
    detail = str(error) if error else stderr
    failed = _failure(start, end, error=error, stderr=stderr, status=status)
    if failed is not None:
        return replace(base, reason=failed, detail=detail or f"exit status {status}")
    reverse = bool(test.get("reverse", 0))
    # Before 3.13 test_start does not say whether both directions were asked for.
    both = bool(test.get("bidir", 0)) or any(key.endswith(_REVERSE) for key in end)
    first = _totals(end, "", base.protocol)
    second = _totals(end, _REVERSE, base.protocol) if both else None
    intervals = tuple(
        _interval(item, suffix, test=test, client_sends=(suffix == "") != reverse)
        for item in document.get("intervals") or []
        for suffix in ("", *((_REVERSE,) if both else ()))
    )
    outcome = replace(
        base,
        forward=None if reverse else first,
        backward=first if reverse else second,
        intervals=intervals,
        mss_bytes=_whole(start.get("tcp_mss_default")),
        snd_cwnd_max_bytes=_largest_window(end, document),
        congestion=str(end.get("sender_tcp_congestion", "")),
    )
    doubt = _doubt(outcome, timed=not (test.get("bytes") or test.get("blocks")))
    return outcome if doubt is None else replace(outcome, reason=doubt[0], detail=doubt[1])


def _failure(
    start: Mapping[str, Any], end: Mapping[str, Any], *, error: Any, stderr: str, status: int
) -> Reason | None:
    if error:
        return _by_words(str(error)) or Reason.OTHER
    sums = any(key in end for key in ("sum", "sum_sent"))
    if not sums or status != 0:
        # 3.9 prints no error key; a refused connection shows only in that none was made.
        if not start.get("connected") and "unable to send control message" in stderr:
            return Reason.REFUSED
        return _by_words(stderr) or (Reason.OTHER if sums else Reason.NO_END)
    return None


def _by_words(message: str) -> Reason | None:
    lowered = message.lower()
    return next((reason for words, reason in _WORDS if words in lowered), None)


def _totals(end: Mapping[str, Any], suffix: str, protocol: str) -> Totals:
    udp = protocol == "UDP"
    whole = end.get(f"sum{suffix}") if udp else None
    sent = end.get(f"sum_sent{suffix}", whole)
    received = end.get(f"sum_received{suffix}")
    if sent is None:
        raise KeyError(f"sum_sent{suffix}")
    lost_pct = None
    if udp:
        # Loss as the receiver counted it: sum up to 3.10.1, sum_received beside it from 3.11 on.
        lost_pct = float((whole or received or sent)["lost_percent"])
    if received is None:
        if not udp:
            raise KeyError(f"sum_received{suffix}")
        # Up to 3.10.1 a UDP document has the sender's rate alone, and the loss.
        arrived = 1 - (lost_pct or 0.0) / 100
        received = {
            "bytes": sent["bytes"] * arrived,
            "bits_per_second": sent["bits_per_second"] * arrived,
        }
    return Totals(
        sent_bits_per_s=float(sent["bits_per_second"]),
        received_bits_per_s=float(received["bits_per_second"]),
        sent_bytes=int(sent["bytes"]),
        received_bytes=int(received["bytes"]),
        sent_s=float(sent["seconds"]),
        lost_pct=lost_pct,
        retransmits=_whole(sent.get("retransmits")),
    )


def _interval(
    item: Mapping[str, Any], suffix: str, *, test: Mapping[str, Any], client_sends: bool
) -> Interval:
    total = item[f"sum{suffix}"]
    # 3.7 and later say of each stream which way it goes; before, there was one way.
    streams = [s for s in item["streams"] if s.get("sender", client_sends) == client_sends]
    windows = [s["snd_cwnd"] for s in streams if s.get("snd_cwnd")]
    rtts = [s["rtt"] for s in streams if s.get("rtt")]
    return Interval(
        # Across the end of the warm-up, "start" still counts from the warm-up's own start.
        start_s=float(total["end"]) - float(total["seconds"]),
        end_s=float(total["end"]),
        omitted=bool(total.get("omitted", False)),
        sender=client_sends,
        bits_per_s=float(total["bits_per_second"]),
        byte_count=int(total["bytes"]),
        retransmits=_whole(total.get("retransmits")),
        lost_packets=_whole(total.get("lost_packets")),
        snd_cwnd_bytes=sum(windows) if windows else None,
        rtt_us=sum(rtts) / len(rtts) if rtts else None,
    )


def _largest_window(end: Mapping[str, Any], document: Mapping[str, Any]) -> int | None:
    windows = [int(s.get("sender", {}).get("max_snd_cwnd", 0)) for s in end.get("streams", [])]
    for item in document.get("intervals") or []:
        windows += [int(s.get("snd_cwnd", 0)) for s in item["streams"]]
    return max(windows, default=0) or None


def _doubt(outcome: Outcome, *, timed: bool) -> tuple[Reason, str] | None:
    """The first thing about the numbers that cannot be believed."""
    measured = [i for i in outcome.intervals if not i.omitted]
    for name, totals in (("forward", outcome.forward), ("backward", outcome.backward)):
        if totals is None:
            continue
        if totals.sent_bytes <= 0 or totals.received_bytes <= 0:
            return Reason.NO_TRAFFIC, f"{name}: {totals.received_bytes} bytes received"
        if totals.received_bytes > totals.sent_bytes * _MAY_EXCEED and outcome.omit_s == 0:
            return (
                Reason.INCONSISTENT,
                f"{name}: {totals.received_bytes} bytes received, {totals.sent_bytes} sent",
            )
        if timed and totals.sent_s < outcome.duration_s * _MAY_LACK:
            return Reason.SHORT, f"{name}: {totals.sent_s:.2f} of {outcome.duration_s:g} s"
        covered = sum(i.end_s - i.start_s for i in measured if i.sender == (name == "forward"))
        if timed and covered < outcome.duration_s * _MAY_LACK:
            return Reason.SHORT, f"intervals cover {covered:.2f} of {outcome.duration_s:g} s"
    return None


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) else None
