"""What limited one trial: rules, in order, each with its limit and the ground for it. Pure.

Every rule looks at the same numbers and answers for itself; several may hold. What is shown
directly comes before what is inferred; among each, the order of ``RULES`` decides, and of two full
cores the fuller one comes first. A number that is not known makes a rule silent, never false.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from ebpfperf import units
from ebpfperf.gate_table import FULL_CORE_PCT, IDLE_CORE_PCT, SHARED_BUSY_PCT, STEADY_PCT
from ebpfperf.limits_seen import FEWEST_INTERVALS, NAN, End, Seen, missing, percent
from ebpfperf.units import BITS_PER_BYTE, NS_PER_S


class Limiter(StrEnum):
    """What more would have had to be there for the rate to be higher."""

    PACED = "paced"
    LINK = "link"
    SHARED_CPU = "lab's shared CPU"
    LATENCY = "latency-bound"
    SENDER_CORE = "sender core"
    RECEIVER_CORE = "receiver core"
    LOSS = "loss"
    CAP = "provider cap"
    WINDOW = "window"
    HEADERS = "headers/MTU"
    UNKNOWN = "unknown"


FULL_LINK_PCT, BEYOND_LINK_PCT = 95.0, 102.0
REACHED_PACE_PCT = 97.0
FULL_THREAD_PCT = 90.0
LOST_SEGMENTS_PCT = 0.1
LOST_DATAGRAMS_PCT = 1.0
AGREES_WITHIN_PCT = 20.0
QUEUED_TIMES = 1.5
SMALL_SEGMENT_PCT = 90.0
_FORMULA_TIMES = 2.0


@dataclass(frozen=True, slots=True)
class Held:
    """A rule that holds: its sentence, and whether the numbers show it or suggest it."""

    limiter: Limiter
    evidence: str
    sure: bool = True
    strength: float = 0.0

    @property
    def sentence(self) -> str:
        """``link: 39.0 Gbit/s received is …``."""
        return f"{self.limiter}: {self.evidence}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that may limit: the condition and its limit in words, and why that limit."""

    limiter: Limiter
    condition: str
    limit: str
    ground: str
    holds: Callable[[Seen], Held | None]


def judge(seen: Seen) -> tuple[Held, ...]:
    """Every rule that holds, the strongest first; one of ``UNKNOWN`` where none does."""
    if not seen.usable:
        why = f"the trial's numbers may not be used ({seen.reason or 'no reason was given'})"
        return (Held(Limiter.UNKNOWN, why, sure=False),)
    held = [(place, found) for place, rule in enumerate(RULES) if (found := rule.holds(seen))]
    if not held:
        return (Held(Limiter.UNKNOWN, _nothing(seen), sure=False),)
    cores = {Limiter.SENDER_CORE, Limiter.RECEIVER_CORE}
    first = min((place for place, found in held if found.limiter in cores), default=0)
    held.sort(
        key=lambda item: (
            not item[1].sure,
            first if item[1].limiter in cores else item[0],
            -item[1].strength,
        )
    )
    return tuple(found for _, found in held)


def _paced(seen: Seen) -> Held | None:
    reached = percent(seen.received_bits_per_s, seen.pace_bits_per_s)
    if not reached >= REACHED_PACE_PCT:
        return None
    said = (
        f"{units.bits_per_s(seen.received_bits_per_s)} received is {_pct(reached)} of the "
        f"{units.bits_per_s(seen.pace_bits_per_s)} that the flow asks for"
    )
    return Held(Limiter.PACED, said)


def _link(seen: Seen) -> Held | None:
    # Above the ceiling the announced speed is not what the packets meet.
    if seen.link_is_virtual or not FULL_LINK_PCT <= seen.of_ceiling_pct <= BEYOND_LINK_PCT:
        return None
    said = (
        f"{units.bits_per_s(seen.received_bits_per_s)} received is {_pct(seen.of_ceiling_pct)} of "
        f"the {units.bits_per_s(seen.ceiling_bits_per_s)} that headers leave of a "
        f"{units.bits_per_s(seen.link_bits_per_s)} link" + (", both ways" if seen.ways > 1 else "")
    )
    return Held(Limiter.LINK, said)


def _shared_cpu(seen: Seen) -> Held | None:
    if not (seen.shared_kernel and seen.busy_pct >= SHARED_BUSY_PCT):
        return None
    said = f"the nodes share one kernel, whose processors were {_pct(seen.busy_pct)} busy"
    return Held(Limiter.SHARED_CPU, said)


def _latency(seen: Seen) -> Held | None:
    if seen.load != "request-response" or not (
        seen.requests_per_s > 0 and seen.request_rtt_ns >= 1
    ):
        return None
    possible = NS_PER_S / seen.request_rtt_ns
    said = (
        "one request is in flight at a time, and at a round trip of "
        f"{units.duration_ns(seen.request_rtt_ns)} (median) that is "
        f"{units.number(possible)} requests/s; measured {units.number(seen.requests_per_s)}"
    )
    return Held(Limiter.LATENCY, said, sure=0.5 <= seen.requests_per_s / possible <= 1.5)


def _sender_core(seen: Seen) -> Held | None:
    return _core(seen, seen.sender, Limiter.SENDER_CORE)


def _receiver_core(seen: Seen) -> Held | None:
    return _core(seen, seen.receiver, Limiter.RECEIVER_CORE)


def _core(seen: Seen, end: End, limiter: Limiter) -> Held | None:
    said, strength = [], 0.0
    thread_pct = busiest_thread_pct(seen, end)
    if thread_pct >= FULL_THREAD_PCT:
        said.append(
            f"iperf3 at {end.name} used {_pct(end.process_pct)} of one core ({_threads(seen)})"
        )
        strength = thread_pct
    # On a kernel that the nodes share, nothing says for which end a core was busy.
    if end.core_pct >= FULL_CORE_PCT and not seen.shared_kernel:
        said.append(f"the busiest core of {end.node} was {_pct(end.core_pct)} busy")
        strength = max(strength, end.core_pct)
    return Held(limiter, " and ".join(said), strength=strength) if said else None


def busiest_thread_pct(seen: Seen, end: End) -> float:
    """What each of iperf3's threads at that end used, percent of a core; at least, if unsure."""
    if seen.load == "request-response":
        return NAN
    most = max(1, seen.streams * seen.ways)
    return end.process_pct / (seen.threads or most)


def _threads(seen: Seen) -> str:
    release = f"iperf3 {seen.iperf3}" if seen.iperf3 else "iperf3"
    if seen.streams * seen.ways == 1:
        return f"{release}, one stream"
    if seen.threads == 1:
        return f"{release} is one thread for all streams"
    if seen.threads is None:
        return f"{seen.streams * seen.ways} streams"
    return f"{release} has {seen.threads} threads, one a stream"


def _loss(seen: Seen) -> Held | None:
    if seen.load == "request-response":
        return None
    if seen.transport != "tcp":
        if not seen.lost_pct >= LOST_DATAGRAMS_PCT:
            return None
        return Held(Limiter.LOSS, f"{_pct(seen.lost_pct)} of the datagrams did not arrive")
    if not seen.retransmitted_pct >= LOST_SEGMENTS_PCT:
        return None
    said = f"{_pct(seen.retransmitted_pct)} of the segments were sent again"
    part = seen.retransmitted_pct / 100
    bound = NAN
    if seen.rtt_ns >= 1:
        per_s = seen.segment_bytes * BITS_PER_BYTE * NS_PER_S / seen.rtt_ns
        bound = per_s * math.sqrt(1.5 / part) * seen.streams * seen.ways
    measured = seen.received_bits_per_s
    # Far above the formula, segments were lost in bursts that cost the rate little.
    if measured > bound * _FORMULA_TIMES:
        return None
    sure = bound > 0 and measured >= bound / _FORMULA_TIMES
    if bound > 0:
        said += (
            f"; at a round trip of {units.duration_ns(seen.rtt_ns)} Mathis's formula gives "
            f"{units.bits_per_s(bound)}, measured {units.bits_per_s(measured)}"
        )
    return Held(Limiter.LOSS, said, sure=sure)


def _cap(seen: Seen) -> Held | None:
    steady = seen.intervals >= FEWEST_INTERVALS and seen.variation_pct <= STEADY_PCT
    if not (
        seen.bulk_tcp
        and seen.ways == 1
        and math.isnan(seen.pace_bits_per_s)
        and steady
        and seen.received_bits_per_s > 0
        and all(_at_most_pct(end) < IDLE_CORE_PCT for end in (seen.sender, seen.receiver))
        and seen.retransmitted_pct < LOST_SEGMENTS_PCT
        and not seen.of_ceiling_pct >= FULL_LINK_PCT
    ):
        return None
    said = (
        f"{seen.intervals} intervals steady within {_pct(seen.variation_pct)} (standard deviation) "
        f"at {units.bits_per_s(seen.received_bits_per_s)}, with "
        f"{_idle(seen.sender)}, {_idle(seen.receiver)} and {_pct(seen.retransmitted_pct)} of the "
        "segments sent again"
    )
    if math.isnan(seen.link_bits_per_s) and not seen.link_is_virtual:
        said += "; the link's own speed is UNKNOWN and may be what caps"
    return Held(Limiter.CAP, said, sure=False)


def _at_most_pct(end: End) -> float:
    """What no core of that end exceeds, as far as is known: all of iperf3, without a better one."""
    return end.process_pct if math.isnan(end.core_pct) else end.core_pct


def _idle(end: End) -> str:
    if math.isnan(end.core_pct):
        return f"iperf3 at {end.name} using {_pct(end.process_pct)} of a core"
    return f"the busiest core of {end.node} {_pct(end.core_pct)} busy"


def _window(seen: Seen) -> Held | None:
    if not seen.bulk_tcp or seen.ways != 1 or not seen.rtt_ns >= 1:
        return None
    peers = seen.peer_window_bytes <= seen.cwnd_bytes or (
        seen.peer_window_bytes > 0 and math.isnan(seen.cwnd_bytes)
    )
    # What a congestion window was reduced to by losses is the losses' doing.
    if not peers and not seen.retransmitted_pct < LOST_SEGMENTS_PCT:
        return None
    window = (seen.peer_window_bytes if peers else seen.cwnd_bytes) * seen.streams
    bound = window * BITS_PER_BYTE * NS_PER_S / seen.rtt_ns
    apart = abs(percent(seen.received_bits_per_s, bound) - 100)
    queued = seen.rtt_ns / seen.base_rtt_ns if seen.base_rtt_ns >= 1 else NAN
    if not apart <= AGREES_WITHIN_PCT or queued > QUEUED_TIMES:
        return None
    said = (
        f"{window:,.0f} bytes in flight ({'the receiver' if peers else 'the sender'}'s window) at "
        f"a round trip of {units.duration_ns(seen.rtt_ns)} is {units.bits_per_s(bound)}, measured "
        f"{units.bits_per_s(seen.received_bits_per_s)}"
    )
    if math.isnan(queued):
        said += "; the round trip without load is UNKNOWN, and a queue would look the same"
    else:
        said += f"; the round trip without load is {units.duration_ns(seen.base_rtt_ns)}"
    return Held(Limiter.WINDOW, said, sure=not math.isnan(queued))


def _headers(seen: Seen) -> Held | None:
    part = percent(seen.packet_bytes, seen.path_mtu_bytes)
    if not seen.bulk_tcp or not part < SMALL_SEGMENT_PCT:
        return None
    said = (
        f"packets hold {seen.packet_bytes:,.0f} bytes, {_pct(part)} of the "
        f"{seen.path_mtu_bytes:,.0f} that the NIC's MTU allows"
    )
    return Held(Limiter.HEADERS, said, sure=False)


def _nothing(seen: Seen) -> str:
    """What is known where no rule holds, and what is not."""
    said = [f"no limit shows at {units.bits_per_s(seen.received_bits_per_s)}"]
    if seen.load == "request-response" or math.isnan(seen.received_bits_per_s):
        said = ["no limit shows"]
    if not math.isnan(seen.of_ceiling_pct) and not seen.link_is_virtual:
        said.append(f"{_pct(seen.of_ceiling_pct)} of what headers leave of the link")
    for end in (seen.sender, seen.receiver):
        if not math.isnan(end.process_pct):
            said.append(f"iperf3 at {end.name} used {_pct(end.process_pct)} of a core")
    if found := missing(seen):
        said.append(f"not known: {', '.join(found)}")
    return "; ".join(said)


def _pct(value: float) -> str:
    return f"{units.number(value)} %"


RULES: tuple[Rule, ...] = (
    Rule(
        Limiter.PACED,
        "received against the pace that the flow asks for",
        f"at least {REACHED_PACE_PCT:.0f} %",
        "what is asked for has arrived; pacing by a timer is exact to about one percent",
        _paced,
    ),
    Rule(
        Limiter.LINK,
        "received against what headers leave of the announced speed; not of virtual devices, and "
        "not where more was received than the speed allows",
        f"at least {FULL_LINK_PCT:.0f} %",
        "published runs at line rate reach 98 to 100 % (InfraBuilder/benchmark-k8s-cni-2024-01, "
        "eight streams on 40 Gbit/s); more than 5 % cannot be gained",
        _link,
    ),
    Rule(
        Limiter.SHARED_CPU,
        "nodes of one boot_id, all their processors together",
        f"at least {SHARED_BUSY_PCT:.0f} % busy",
        "sender and receiver compete for the same processors",
        _shared_cpu,
    ),
    Rule(
        Limiter.LATENCY,
        "request-response: a closed loop with one request in flight",
        "always; sure where rate times median round trip is 0.5 to 1.5",
        "Little's law: requests in flight = rate × round trip",
        _latency,
    ),
    Rule(
        Limiter.SENDER_CORE,
        "iperf3 at the sender, percent of a core for each of its threads (before 3.16 one for all "
        "streams, from 3.16 one a stream); or the busiest core of the sender's node, unless the "
        "nodes share a kernel",
        f"at least {FULL_THREAD_PCT:.0f} % (iperf3), {FULL_CORE_PCT:.0f} % (a core)",
        "saturated senders show 93 % in the published runs: what interrupts take of the core is "
        "not iperf3's; threads: its release notes, 3.16; a core: the gate `core_saturated`",
        _sender_core,
    ),
    Rule(
        Limiter.RECEIVER_CORE,
        "the same at the receiver",
        f"at least {FULL_THREAD_PCT:.0f} % (iperf3), {FULL_CORE_PCT:.0f} % (a core)",
        "saturated receivers show 95 to 98 % in the published runs",
        _receiver_core,
    ),
    Rule(
        Limiter.LOSS,
        "TCP segments sent again of those sent; UDP datagrams that did not arrive",
        f"at least {LOST_SEGMENTS_PCT} % (TCP), {LOST_DATAGRAMS_PCT:.0f} % (UDP); TCP is sure "
        f"where the rate is within a factor of {_FORMULA_TIMES:.0f} of Mathis's formula, and not "
        "named above that",
        "Mathis et al. 1997: rate = segment / round trip × √(3/2 / loss); UDP loses as much of "
        "its rate as is lost",
        _loss,
    ),
    Rule(
        Limiter.CAP,
        f"unpaced TCP of one direction, {FEWEST_INTERVALS} intervals or more, every core below "
        f"{IDLE_CORE_PCT:.0f} %, segments sent again below {LOST_SEGMENTS_PCT} %, link not full",
        f"standard deviation at most {STEADY_PCT:.0f} % of the mean; never sure",
        "clouds cap a single flow (Amazon EC2: 5 Gbit/s outside a placement group); one stream "
        "limited by a core varies by 2 to 17 % within a run, one at line rate by 0.1 to 0.2 %",
        _cap,
    ),
    Rule(
        Limiter.WINDOW,
        "TCP of one direction: the smaller of the largest windows over the round trip against "
        "what was received; not where losses keep the sender's window small",
        f"within {AGREES_WITHIN_PCT:.0f} %; sure where the round trip is at most "
        f"{QUEUED_TIMES:g} × that without load, and not named above that",
        "RFC 9293: at most a window each round trip; by Little's law a queue elsewhere gives the "
        "same numbers, but a longer round trip",
        _window,
    ),
    Rule(
        Limiter.HEADERS,
        "a full segment's packet against the NIC's MTU less the overlay's headers",
        f"below {SMALL_SEGMENT_PCT:.0f} %; never sure",
        "a tenth less in a packet is a ninth more packets, and processors are paid by the packet",
        _headers,
    ),
)
