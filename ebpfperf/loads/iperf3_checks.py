"""Whether an iperf3 document's numbers can be believed, and the totals that follow of them. Pure.

What is checked is true of every recorded document of an undamaged test (``tests/recorded/iperf3``):
a rate is bytes over seconds; the streams of ``end`` add up to its sums and there are as many as
asked for, in each direction; the intervals after the warm-up cover the test and add up to what the
end that printed them counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import itemgetter
from typing import Any

from ebpfperf.loads.iperf3_text import REVERSE
from ebpfperf.loads.reasons import Reason
from ebpfperf.units import BITS_PER_BYTE

_MAY_LACK = 0.9  # part of the time asked for that intervals and sums must cover
_MAY_EXCEED = 1.02  # received over sent
_MAY_EXCEED_WARM = 1.5  # the same after a warm-up, whose last bytes arrive in the measured seconds
_RATE_OFF = 0.05
_ADDED_OFF = 0.01  # intervals are cut by a timer, while the streams go on
_TIMER_S = 0.1
_LOSS_OFF = 0.1
_LARGEST = 1e18
_NUMBERS = {int, float}
_LIMITS = frozenset({"omit", "bytes", "blocks"})
_OF_SUM = itemgetter("seconds", "bytes", "bits_per_second", "end", "omitted")


class Doubt(Exception):
    """A number that cannot be believed, or an answer that is missing."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Totals:
    """One direction of a test, warm-up left out. None is what the document does not say.

    Attributes
    ----------
    sent_bits_per_s, received_bits_per_s
        What the sender wrote and what the receiver read, each over its own seconds. A server's
        document has its own side alone.
    lost_pct
        UDP datagrams that did not arrive, percent of those sent; None for TCP.
    retransmits
        TCP segments sent again, all streams.
    """

    sent_bits_per_s: float | None
    received_bits_per_s: float | None
    sent_bytes: int | None
    received_bytes: int | None
    seconds: float
    lost_pct: float | None
    retransmits: int | None


def amount(part: Mapping[str, Any], key: str) -> float:
    """The number under ``key``; Doubt unless it is finite, of this world and not negative."""
    value = part[key]
    if (type(value) is int or type(value) is float) and 0 <= value < _LARGEST:
        return value
    raise Doubt(Reason.INCONSISTENT, f"{key} is {value!r}")


def asked(test: Mapping[str, Any]) -> None:
    """Doubt unless the document says what was asked for."""
    if test["protocol"] not in ("TCP", "UDP", "SCTP"):
        raise Doubt(Reason.INCONSISTENT, f"protocol {test['protocol']!r}")
    if test["reverse"] not in (0, 1) or test.get("bidir", 0) not in (0, 1):
        raise Doubt(Reason.INCONSISTENT, "reverse and bidir are not 0 or 1")
    if amount(test, "num_streams") < 1:
        raise Doubt(Reason.INCONSISTENT, "no streams")
    amount(test, "duration")
    for key in _LIMITS & test.keys():
        amount(test, key)


def directions(end: Mapping[str, Any], streams: int, *, reverse: bool, bidir: bool) -> None:
    """Doubt unless ``end`` has as many streams as the directions need: none may be lost."""
    expected = streams * (2 if bidir else 1)
    if len(end["streams"]) != expected:
        raise Doubt(
            Reason.INCONSISTENT, f"{len(end['streams'])} streams in the end, {expected} expected"
        )
    if reverse and bidir:
        raise Doubt(Reason.INCONSISTENT, "both reverse and bidirectional")


class Judge:
    """Reads the sums of one document, direction by direction."""

    def __init__(self, document: Mapping[str, Any], *, udp: bool, server: bool) -> None:
        self._end: Mapping[str, Any] = document["end"]
        self._intervals: list[Mapping[str, Any]] = document["intervals"]
        self._udp = udp
        self._server = server

    def totals(self, suffix: str, *, to_server: bool, timed_s: float, omit_s: float) -> Totals:
        """One direction, named by the suffix of its keys.

        Raises
        ------
        Doubt
            Its numbers contradict each other, stop early or are none.
        """
        end, sends = self._end, to_server != self._server
        name = "to the server" if to_server else "to the client"
        whole = end[f"sum{suffix}"] if self._udp else None
        sent, received = end.get(f"sum_sent{suffix}"), end.get(f"sum_received{suffix}")
        first = sent if whole is None else whole
        if first is None or (sent is None) != (received is None):
            raise Doubt(Reason.INCONSISTENT, f"{name}: a sum is missing")
        # 3.7 and later say of each sum who sends.
        if first.get("sender", sends) is not sends:
            raise Doubt(Reason.INCONSISTENT, f"{name}: the sum is of the other direction")
        covered = self._covered(suffix)
        lost_pct = None
        if whole is not None and not (self._server and sends):
            lost_pct = _lost(whole)
        derived = sent is None
        if sent is None or received is None:
            sent, received = self._derived(first, lost_pct, sends=sends, measured=covered)
        elif self._server:
            # What the other end counted is printed as 0: unknown, not none.
            if sends:
                received = received if received["bytes"] else None
            else:
                sent = sent if sent["bytes"] else None
        own = sent if sends else received
        if own is None or not (
            (sent is None or sent["bytes"] > 0) and (received is None or received["bytes"] > 0)
        ):
            raise Doubt(Reason.NO_TRAFFIC, f"{name}: {received and received['bytes']} bytes")
        if whole is not None and lost_pct is None and not (self._server and sends):
            raise Doubt(Reason.INCONSISTENT, f"{name}: bytes, but no datagrams")
        seconds = amount(own, "seconds")
        if timed_s:
            if seconds < timed_s * _MAY_LACK:
                raise Doubt(Reason.SHORT, f"{name}: {seconds:.2f} of {timed_s:g} s")
            if covered[0] < timed_s * _MAY_LACK:
                raise Doubt(
                    Reason.SHORT, f"{name}: intervals cover {covered[0]:.2f} of {timed_s:g} s"
                )
            added_off = own["bytes"] * (_ADDED_OFF + _TIMER_S / timed_s)
            if not (derived and own is received) and abs(covered[1] - own["bytes"]) > added_off:
                raise Doubt(
                    Reason.INCONSISTENT,
                    f"{name}: {covered[1]} bytes in the intervals, {own['bytes']} in the end",
                )
        if sent is not None and received is not None:
            limit = _MAY_EXCEED_WARM if omit_s else _MAY_EXCEED
            if received["bytes"] > sent["bytes"] * limit:
                raise Doubt(
                    Reason.INCONSISTENT,
                    f"{name}: {received['bytes']} bytes received, {sent['bytes']} sent",
                )
        for part in (sent, received):
            # 3.7 to 3.10 print UDP sums with the sender's rate beside the receiver's seconds, which
            # is far off where the test ends after bytes.
            if part is not None and (part is not whole or timed_s):
                _rate(part)
        streams = self._streams(sends=sends, suffix=suffix)
        if self._udp:
            _adds([stream["udp"] for stream in streams], sent, "bytes")
        else:
            _adds([stream["sender"] for stream in streams], sent, "bytes")
            _adds([stream["receiver"] for stream in streams], received, "bytes")
        return Totals(
            sent_bits_per_s=None if sent is None else float(sent["bits_per_second"]),
            received_bits_per_s=None if received is None else float(received["bits_per_second"]),
            sent_bytes=None if sent is None else int(sent["bytes"]),
            received_bytes=None if received is None else int(received["bytes"]),
            seconds=seconds,
            lost_pct=lost_pct,
            retransmits=None if self._udp or sent is None else _retransmits(streams, sent),
        )

    def _covered(self, suffix: str) -> tuple[float, float]:
        """Seconds and bytes of the intervals after the warm-up; their numbers are all checked."""
        if not self._intervals:
            return 0, 0
        key = f"sum{suffix}"
        if not suffix:
            _column([part["bytes"] for item in self._intervals for part in item["streams"]])
        sums = [item[key] for item in self._intervals]
        seconds, counted, rates, ends, omitted = zip(*map(_OF_SUM, sums), strict=True)
        # Of rates and ends, which are only shown, a yes or no would pass as 1 or 0.
        _possible(rates)
        _possible(ends)
        covered = _column(seconds), _column(counted)
        warm = {*omitted}
        if not warm <= {True, False}:
            raise Doubt(Reason.INCONSISTENT, "omitted is no yes or no")
        if True in warm:
            kept = [not one for one in omitted]
            return sum(compress(seconds, kept)), sum(compress(counted, kept))
        return covered

    def _derived(
        self,
        whole: Mapping[str, Any],
        lost_pct: float | None,
        *,
        sends: bool,
        measured: tuple[float, float],
    ) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
        """Sent and received of a UDP sum before 3.11, which holds the sender's rate alone."""
        if self._server and sends:
            return whole, None
        if self._server:
            seconds, counted = measured
            rate = counted * BITS_PER_BYTE / seconds if seconds else 0.0
            return None, {"bytes": counted, "seconds": seconds, "bits_per_second": rate}
        arrived = 1 - (lost_pct or 0.0) / 100
        received = {"seconds": whole["seconds"]}
        for key in ("bytes", "bits_per_second"):
            received[key] = amount(whole, key) * arrived
        return whole, received

    def _streams(self, *, sends: bool, suffix: str) -> list[Mapping[str, Any]]:
        """The streams of this direction."""
        streams: list[Mapping[str, Any]] = self._end["streams"]
        if suffix or f"sum_sent{REVERSE}" in self._end or f"sum{REVERSE}" in self._end:
            side = "udp" if self._udp else "sender"
            ours = [stream for stream in streams if stream[side]["sender"] is sends]
            if len(ours) * 2 != len(streams):
                raise Doubt(Reason.INCONSISTENT, "the streams are not half of each direction")
            return ours
        return streams


def unjudged(
    end: Mapping[str, Any], suffix: str, *, to_server: bool, server: bool, protocol: str
) -> Totals | None:
    """What ``end`` says of a direction of a test that failed, as far as it is a number.

    None where it says nothing; a server's 0 of the other end is "not known", as in ``Judge``.
    """
    parts = [end.get(f"{name}{suffix}") for name in ("sum", "sum_sent", "sum_received")]
    if not any(parts):
        return None
    whole, sent, received = (part if type(part) is dict else {} for part in parts)
    udp = protocol == "UDP"
    lost_pct = _said(whole, "lost_percent") if udp else None
    rate, arrived = _said(sent, "bits_per_second"), _said(received, "bits_per_second")
    if udp and not sent:
        rate = _said(whole, "bits_per_second")
        arrived = None if rate is None or lost_pct is None else rate * (1 - lost_pct / 100)
    if server and to_server:
        rate = rate or None
    elif server:
        arrived, lost_pct = arrived or None, None
    retransmits = None if udp else _said(sent, "retransmits")
    return Totals(
        sent_bits_per_s=rate,
        received_bits_per_s=arrived,
        sent_bytes=None,
        received_bytes=None,
        seconds=0.0,
        lost_pct=lost_pct,
        retransmits=None if retransmits is None else int(retransmits),
    )


def _said(part: Mapping[str, Any], key: str) -> float | None:
    try:
        return float(amount(part, key))
    except (Doubt, KeyError):
        return None


def _retransmits(streams: list[Mapping[str, Any]], sent: Mapping[str, Any]) -> int | None:
    """Of all streams; None where the sender's kernel or release does not count them (−1)."""
    if sent.get("retransmits", -1) == -1:
        return None
    count = amount(sent, "retransmits")
    if all(stream["sender"].get("retransmits", -1) != -1 for stream in streams):
        _adds([stream["sender"] for stream in streams], sent, "retransmits")
    return int(count)


def _rate(part: Mapping[str, Any]) -> None:
    """Doubt unless the rate is bytes over seconds."""
    bits = amount(part, "bytes") * BITS_PER_BYTE
    by_rate = amount(part, "bits_per_second") * amount(part, "seconds")
    if abs(bits - by_rate) > _RATE_OFF * max(bits, by_rate):
        raise Doubt(
            Reason.INCONSISTENT,
            f"{part['bytes']} bytes in {part['seconds']} s are not {part['bits_per_second']} bit/s",
        )


def _adds(parts: list[Mapping[str, Any]], total: Mapping[str, Any] | None, key: str) -> None:
    """Doubt unless the parts are numbers and, where the total is known, add up to it."""
    added = sum([amount(part, key) for part in parts])
    if total is not None and abs(added - total[key]) > 1e-3 * added:
        raise Doubt(Reason.INCONSISTENT, f"{key} of the streams are {added}, of all {total[key]}")


def _column(values: Sequence[Any]) -> float:
    """Their sum; Doubt unless all are numbers that ``amount`` would take."""
    if not {*map(type, values)} <= _NUMBERS:
        raise Doubt(Reason.INCONSISTENT, "a number of an interval is none")
    return _possible(values)


def _possible(values: Sequence[Any]) -> float:
    """Their sum; Doubt, or TypeError, unless all are finite and not negative."""
    added: float = sum(values)
    # A NaN is not caught by comparing it, but spreads through the sum.
    if not (added < _LARGEST and min(values) >= 0):
        raise Doubt(Reason.INCONSISTENT, "a number of an interval cannot be")
    return added


def _lost(part: Mapping[str, Any]) -> float | None:
    """Percent of datagrams lost; None where none was sent, of which old releases print -nan."""
    packets, lost = amount(part, "packets"), amount(part, "lost_packets")
    if packets == 0:
        return None
    lost_pct = amount(part, "lost_percent")
    # Which end's packets it is a part of differs by release; with a warm-up they are not the same.
    if lost_pct > 100 or abs(lost_pct - 100 * lost / packets) > 0.1 + lost_pct * _LOSS_OFF:
        raise Doubt(Reason.INCONSISTENT, f"{lost} of {packets} datagrams lost are not {lost_pct} %")
    return float(lost_pct)
