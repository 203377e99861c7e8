"""Rows of an iperf3 document that has been judged: intervals, streams, streams in intervals. Pure.

Numbers beside bytes and the rates of sums are None where they are missing or cannot be: windows and
round-trip times are printed by a sender alone, and 0 there is "not measured".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ebpfperf.loads.iperf3_text import REVERSE


@dataclass(frozen=True, slots=True)
class Sides:
    """Who printed the document, and which ways its test went."""

    server: bool
    reverse: bool
    bidir: bool

    @property
    def ways(self) -> tuple[tuple[str, bool], ...]:
        """Suffix of the keys, and whether that direction is from client to server."""
        return (("", True), (REVERSE, False)) if self.bidir else (("", not self.reverse),)


@dataclass(frozen=True, slots=True)
class Interval:
    """One direction in one reporting interval, as the end that printed it saw it.

    Attributes
    ----------
    start_s, end_s
        Seconds from the start of the warm-up (``omitted``), or from its end.
    forward
        Whether this direction is from client to server.
    sender
        Whether the end that printed the document sends in this direction.
    snd_cwnd_bytes
        Congestion windows of all streams added; None at a receiver.
    rtt_us
        Smoothed round-trip time, mean of the streams, microseconds.
    """

    start_s: float
    end_s: float
    omitted: bool
    forward: bool
    sender: bool
    bits_per_s: float
    byte_count: int
    retransmits: int | None
    lost_packets: int | None
    snd_cwnd_bytes: int | None
    rtt_us: float | None


@dataclass(frozen=True, slots=True)
class StreamInterval:
    """One stream in one reporting interval, as the end that printed it saw it."""

    socket: int
    start_s: float
    end_s: float
    omitted: bool
    forward: bool
    sender: bool
    bits_per_s: float | None
    byte_count: int
    retransmits: int | None
    lost_packets: int | None
    snd_cwnd_bytes: int | None
    snd_wnd_bytes: int | None
    rtt_us: float | None


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream over the whole test, warm-up left out.

    Attributes
    ----------
    sent_bits_per_s, received_bits_per_s
        None where the end that printed the document does not know; for UDP the received rate of a
        stream is in no document.
    rtt_min_us, rtt_mean_us, rtt_max_us
        Of the sender's samples, one an interval, microseconds; of TCP alone.
    """

    socket: int
    forward: bool
    sent_bits_per_s: float | None
    received_bits_per_s: float | None
    retransmits: int | None
    lost_pct: float | None
    rtt_min_us: float | None
    rtt_mean_us: float | None
    rtt_max_us: float | None
    snd_cwnd_max_bytes: int | None
    snd_wnd_max_bytes: int | None


def intervals(document: Mapping[str, Any], sides: Sides) -> Iterator[Interval]:
    """A row for every interval and direction."""
    for item in document["intervals"]:
        for suffix, forward in sides.ways:
            total, sends = item[f"sum{suffix}"], forward != sides.server
            # 3.7 and later say of each stream which way it goes; before, there was one way.
            streams = [s for s in item["streams"] if s.get("sender", sends) == sends]
            windows = [w for s in streams if (w := _count(s.get("snd_cwnd")))]
            rtts = [r for s in streams if (r := _number(s.get("rtt")))]
            yield Interval(
                start_s=_start_s(total),
                end_s=float(total["end"]),
                omitted=bool(total["omitted"]),
                forward=forward,
                sender=sends,
                bits_per_s=float(total["bits_per_second"]),
                byte_count=int(total["bytes"]),
                retransmits=_count(total.get("retransmits")),
                lost_packets=_count(total.get("lost_packets")),
                snd_cwnd_bytes=sum(windows) if windows else None,
                rtt_us=sum(rtts) / len(rtts) if rtts else None,
            )


def stream_intervals(document: Mapping[str, Any], sides: Sides) -> Iterator[StreamInterval]:
    """A row for every stream in every interval."""
    suffixes = {forward: suffix for suffix, forward in sides.ways}
    for item in document["intervals"]:
        for stream in item["streams"]:
            sends = bool(stream.get("sender", sides.reverse == sides.server))
            forward = sends != sides.server
            total = item[f"sum{suffixes.get(forward, '')}"]
            yield StreamInterval(
                socket=_count(stream.get("socket")) or 0,
                start_s=_start_s(total),
                end_s=float(total["end"]),
                omitted=bool(total["omitted"]),
                forward=forward,
                sender=sends,
                bits_per_s=_number(stream.get("bits_per_second")),
                byte_count=int(stream["bytes"]),
                retransmits=_count(stream.get("retransmits")),
                lost_packets=_count(stream.get("lost_packets")),
                snd_cwnd_bytes=_count(stream.get("snd_cwnd")) or None,
                snd_wnd_bytes=_count(stream.get("snd_wnd")) or None,
                rtt_us=_number(stream.get("rtt")) or None,
            )


def streams(document: Mapping[str, Any], sides: Sides) -> Iterator[Stream]:
    """A row for every stream."""
    for stream in document["end"]["streams"]:
        udp = stream.get("udp")
        sent = udp or stream["sender"]
        received = {} if udp else stream["receiver"]
        sends = bool(sent.get("sender", sides.reverse == sides.server))
        yield Stream(
            socket=_count(sent.get("socket")) or 0,
            forward=sends != sides.server,
            # A server prints 0 for what it does not know.
            sent_bits_per_s=_number(sent.get("bits_per_second")) or None,
            received_bits_per_s=_number(received.get("bits_per_second")) or None,
            retransmits=_count(sent.get("retransmits")),
            lost_pct=_number(sent.get("lost_percent")) if udp else None,
            rtt_min_us=_number(sent.get("min_rtt")) or None,
            rtt_mean_us=_number(sent.get("mean_rtt")) or None,
            rtt_max_us=_number(sent.get("max_rtt")) or None,
            snd_cwnd_max_bytes=_count(sent.get("max_snd_cwnd")) or None,
            snd_wnd_max_bytes=_count(sent.get("max_snd_wnd")) or None,
        )


def largest(document: Mapping[str, Any], window: str) -> int | None:
    """The largest ``snd_cwnd`` or ``snd_wnd`` of any stream, in the end or in an interval."""
    found = [s.get("sender", {}).get(f"max_{window}") for s in document["end"]["streams"]]
    for item in document["intervals"]:
        found += [s.get(window) for s in item["streams"]]
    return max((w for value in found if (w := _count(value))), default=None)


def _start_s(total: Mapping[str, Any]) -> float:
    # Across the end of the warm-up, "start" still counts from the warm-up's own start. The other
    # two numbers are of two clocks' making, microseconds apart.
    return max(0.0, float(total["end"]) - float(total["seconds"]))


def _number(value: object) -> float | None:
    """A number that can be; None for anything else."""
    return float(value) if type(value) in (int, float) and 0 <= value < 1e18 else None  # type: ignore[operator,arg-type]


def _count(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)
