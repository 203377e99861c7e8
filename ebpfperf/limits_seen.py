"""The numbers of one trial that ``limits_rules`` look at: NaN where not known. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

NAN = math.nan
FEWEST_INTERVALS = 5
"""Below it nothing is said about whether a rate was steady."""


@dataclass(frozen=True, slots=True)
class End:
    """One end's processors: NaN where not known.

    Attributes
    ----------
    name
        ``the sender``, ``the receiver``; where both ends do both, ``the client``, ``the server``.
    node
        Words for its node.
    process_pct
        What iperf3 used there, percent of one core, all its threads together.
    core_pct
        How busy the busiest core of its node was.
    """

    name: str
    node: str
    process_pct: float = NAN
    core_pct: float = NAN


@dataclass(frozen=True, slots=True)
class Seen:
    """The numbers of one trial that rules look at: NaN where not known.

    Attributes
    ----------
    ways
        1, or 2 for a flow of both directions, whose rates are added.
    pace_bits_per_s, ceiling_bits_per_s
        Of all streams and ways together.
    link_is_virtual
        Whether the NIC is a device of the kernel alone, whose announced speed is no limit.
    threads
        How many threads iperf3 moves data with at each end; None where its release is not known.
    retransmitted_pct
        TCP segments sent again, percent of those sent.
    packet_bytes, path_mtu_bytes
        A full segment's packet, and what the NIC's MTU leaves of one after the overlay's headers.
    cwnd_bytes, peer_window_bytes
        Largest congestion window and largest window offered by the receiver, of one stream.
    base_rtt_ns
        Median round trip of request-response on the same path under the same treatment, unloaded.
    variation_pct
        Standard deviation of the rates of ``intervals`` intervals, percent of their mean.
    """

    load: str
    sender: End
    receiver: End
    transport: str = "tcp"
    streams: int = 1
    ways: int = 1
    usable: bool = True
    reason: str = ""
    received_bits_per_s: float = NAN
    pace_bits_per_s: float = NAN
    link_bits_per_s: float = NAN
    ceiling_bits_per_s: float = NAN
    link_is_virtual: bool = False
    threads: int | None = None
    iperf3: str = ""
    busy_pct: float = NAN
    shared_kernel: bool = False
    retransmitted_pct: float = NAN
    lost_pct: float = NAN
    segment_bytes: float = NAN
    packet_bytes: float = NAN
    path_mtu_bytes: float = NAN
    cwnd_bytes: float = NAN
    peer_window_bytes: float = NAN
    rtt_ns: float = NAN
    base_rtt_ns: float = NAN
    variation_pct: float = NAN
    intervals: int = 0
    requests_per_s: float = NAN
    request_rtt_ns: float = NAN

    @property
    def bulk_tcp(self) -> bool:
        """Whether TCP decides by itself how fast it goes."""
        return self.load != "request-response" and self.transport == "tcp"

    @property
    def of_ceiling_pct(self) -> float:
        """What was received, percent of what headers leave of the link."""
        return percent(self.received_bits_per_s, self.ceiling_bits_per_s)


def percent(part: float, whole: float) -> float:
    """``part`` of ``whole`` in percent; NaN where the whole is not above zero."""
    return 100 * part / whole if whole > 0 else NAN


def missing(seen: Seen) -> tuple[str, ...]:
    """What is not known and some rule asks for, in words."""
    if seen.load == "request-response":
        known = seen.requests_per_s > 0 and seen.request_rtt_ns >= 1
        return () if known else ("requests and their round trips",)
    found = {
        "what was received": math.isnan(seen.received_bits_per_s),
        "the link's speed": math.isnan(seen.link_bits_per_s) and not seen.link_is_virtual,
        "the segment's size": seen.transport == "tcp" and math.isnan(seen.segment_bytes),
        "the sender's CPU": _cpu_unknown(seen, seen.sender),
        "the receiver's CPU": _cpu_unknown(seen, seen.receiver),
        "iperf3's release": seen.threads is None and seen.streams * seen.ways > 1,
        "how busy all processors were": seen.shared_kernel and math.isnan(seen.busy_pct),
        "losses": math.isnan(seen.retransmitted_pct if seen.transport == "tcp" else seen.lost_pct),
    }
    if seen.bulk_tcp:
        found |= {
            "the round trip": math.isnan(seen.rtt_ns),
            "windows": math.isnan(seen.cwnd_bytes) and math.isnan(seen.peer_window_bytes),
            f"rates of {FEWEST_INTERVALS} intervals": seen.intervals < FEWEST_INTERVALS,
            "the NIC's MTU": math.isnan(seen.path_mtu_bytes),
        }
    return tuple(words for words, unknown in found.items() if unknown)


def _cpu_unknown(seen: Seen, end: End) -> bool:
    return math.isnan(end.process_pct) and (seen.shared_kernel or math.isnan(end.core_pct))
