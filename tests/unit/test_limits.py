"""What limited a trial: examples with known answers, limits at their edges, and what never holds.

The 40 Gbit/s numbers are of github.com/InfraBuilder/benchmark-k8s-cni-2024-01: three runs an arm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfperf.limits_rules import RULES, Held, Limiter, judge
from ebpfperf.limits_seen import End, Seen
from ebpfperf.model import (
    Flow,
    Path,
)

SENDER, RECEIVER = End("the sender", "node-1"), End("the receiver", "node-2")
TCP = Flow("tcp", Path.POD_POD, "tcp", duration_s=10)


def seen(*, sender: Sequence[float] = (), receiver: Sequence[float] = (), **numbers: Any) -> Seen:
    """A bulk TCP trial of which nothing is known but what is given; CPU as (process, core)."""
    given: dict[str, Any] = {"load": "tcp", "threads": 1, **numbers}
    return Seen(
        sender=End(SENDER.name, SENDER.node, *sender),
        receiver=End(RECEIVER.name, RECEIVER.node, *receiver),
        **given,
    )


def first(one: Seen) -> Held:
    return judge(one)[0]


EXAMPLES = {
    "link": (
        seen(received_bits_per_s=39.0e9, ceiling_bits_per_s=39.7e9, link_bits_per_s=40e9),
        "link: 39 Gbit/s received is 98.2 % of the 39.7 Gbit/s that headers leave of a "
        "40 Gbit/s link",
    ),
    "receiver core": (
        seen(receiver=(97.0, 98.0), streams=8, iperf3="3.12", received_bits_per_s=9e9),
        "receiver core: iperf3 at the receiver used 97 % of one core (iperf3 3.12 is one thread "
        "for all streams) and the busiest core of node-2 was 98 % busy",
    ),
    "sender core": (
        seen(sender=(760.0,), streams=8, threads=8, iperf3="3.16", received_bits_per_s=9e9),
        "sender core: iperf3 at the sender used 760 % of one core (iperf3 3.16 has 8 threads, "
        "one a stream)",
    ),
    "window": (
        seen(
            received_bits_per_s=2.01e9,
            peer_window_bytes=3.1e6,
            cwnd_bytes=4e6,
            rtt_ns=12e6,
            base_rtt_ns=11e6,
        ),
        "window: 3,100,000 bytes in flight (the receiver's window) at a round trip of 12 ms is "
        "2.07 Gbit/s, measured 2.01 Gbit/s; the round trip without load is 11 ms",
    ),
    "provider cap": (
        seen(
            sender=(30.0, 41.0),
            receiver=(50.0,),
            received_bits_per_s=4.97e9,
            ceiling_bits_per_s=9.41e9,
            link_bits_per_s=10e9,
            variation_pct=0.4,
            intervals=10,
            retransmitted_pct=0.0,
        ),
        "provider cap: 10 intervals steady within 0.40 % (standard deviation) at 4.97 Gbit/s, "
        "with the busiest core of node-1 41 % busy, iperf3 at the receiver using 50 % of a core "
        "and 0 % of the segments sent again",
    ),
    "loss": (
        seen(
            received_bits_per_s=100e6,
            retransmitted_pct=0.5,
            segment_bytes=1448,
            rtt_ns=2e6,
        ),
        "loss: 0.50 % of the segments were sent again; at a round trip of 2 ms Mathis's formula "
        "gives 100 Mbit/s, measured 100 Mbit/s",
    ),
    "paced": (
        seen(load="udp", transport="udp", pace_bits_per_s=500e6, received_bits_per_s=499e6),
        "paced: 499 Mbit/s received is 99.8 % of the 500 Mbit/s that the flow asks for",
    ),
    "latency-bound": (
        seen(load="request-response", requests_per_s=25_000.0, request_rtt_ns=38_000.0),
        "latency-bound: one request is in flight at a time, and at a round trip of 38 µs (median) "
        "that is 26,316 requests/s; measured 25,000",
    ),
    "lab's shared CPU": (
        seen(shared_kernel=True, busy_pct=97.0, sender=(99.0, 100.0), received_bits_per_s=9e9),
        "lab's shared CPU: the nodes share one kernel, whose processors were 97 % busy",
    ),
    "headers/MTU": (
        seen(received_bits_per_s=9e9, packet_bytes=1450.0, path_mtu_bytes=9000.0),
        "headers/MTU: packets hold 1,450 bytes, 16.1 % of the 9,000 that the NIC's MTU allows",
    ),
    "unknown": (
        seen(
            received_bits_per_s=4.2e9,
            ceiling_bits_per_s=9.41e9,
            link_bits_per_s=10e9,
            sender=(40.0,),
            segment_bytes=1448.0,
            retransmitted_pct=0.0,
            path_mtu_bytes=1500.0,
        ),
        "unknown: no limit shows at 4.20 Gbit/s; 44.6 % of what headers leave of the link; iperf3 "
        "at the sender used 40 % of a core; not known: the receiver's CPU, the round trip, "
        "windows, rates of 5 intervals",
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_evidence_is_a_sentence_with_its_numbers(name: str) -> None:
    one, sentence = EXAMPLES[name]
    assert (first(one).limiter.value, first(one).sentence) == (name, sentence)


def test_every_limiter_has_an_example_and_a_rule() -> None:
    assert set(EXAMPLES) == set(Limiter)
    assert {rule.limiter for rule in RULES} | {Limiter.UNKNOWN} == set(Limiter)
    assert [rule.limiter for rule in RULES] == [one for one in Limiter if one != Limiter.UNKNOWN]


EDGES: list[tuple[Limiter, Seen, str, float, float]] = [
    (Limiter.LINK, EXAMPLES["link"][0], "received_bits_per_s", 0.9501 * 39.7e9, 0.9499 * 39.7e9),
    (Limiter.LINK, EXAMPLES["link"][0], "received_bits_per_s", 1.0199 * 39.7e9, 1.0201 * 39.7e9),
    (Limiter.PACED, EXAMPLES["paced"][0], "received_bits_per_s", 485.1e6, 484.9e6),
    (Limiter.SHARED_CPU, EXAMPLES["lab's shared CPU"][0], "busy_pct", 90.0, 89.99),
    (Limiter.LOSS, EXAMPLES["loss"][0], "retransmitted_pct", 0.1, 0.0999),
    (Limiter.LOSS, EXAMPLES["loss"][0], "received_bits_per_s", 200e6, 202e6),
    (Limiter.CAP, EXAMPLES["provider cap"][0], "variation_pct", 1.0, 1.001),
    (Limiter.CAP, EXAMPLES["provider cap"][0], "intervals", 5, 4),
    (Limiter.CAP, EXAMPLES["provider cap"][0], "retransmitted_pct", 0.099, 0.1),
    (Limiter.WINDOW, EXAMPLES["window"][0], "base_rtt_ns", 8.1e6, 7.9e6),
    (Limiter.WINDOW, EXAMPLES["window"][0], "rtt_ns", 14.8e6, 14.9e6),
    (Limiter.HEADERS, EXAMPLES["headers/MTU"][0], "packet_bytes", 8099.0, 8100.0),
]


@pytest.mark.parametrize(("limiter", "one", "field", "inside", "outside"), EDGES)
def test_a_limit_holds_up_to_its_edge(
    limiter: Limiter, one: Seen, field: str, inside: float, outside: float
) -> None:
    assert limiter in {held.limiter for held in judge(replace(one, **{field: inside}))}
    assert limiter not in {held.limiter for held in judge(replace(one, **{field: outside}))}


@pytest.mark.parametrize(("process", "core", "full"), [
    (90.0, math.nan, True), (89.9, math.nan, False), (10.0, 95.0, True), (10.0, 94.9, False),
])  # fmt: skip
def test_a_core_is_full_by_the_process_or_by_the_busiest_core(
    process: float, core: float, full: bool
) -> None:
    for side, limiter in (("sender", Limiter.SENDER_CORE), ("receiver", Limiter.RECEIVER_CORE)):
        found = first(seen(received_bits_per_s=9e9, **{side: (process, core)}))
        assert (found.limiter is limiter) is full


def test_threads_divide_what_a_process_used() -> None:
    """760 % are eight full threads, or (before 3.16) more than one thread can use."""
    many = seen(sender=(400.0,), streams=8, received_bits_per_s=9e9)
    assert first(replace(many, threads=8)).limiter is Limiter.UNKNOWN
    assert first(replace(many, threads=4)).limiter is Limiter.SENDER_CORE
    one = seen(sender=(95.0,), streams=8, received_bits_per_s=9e9)
    assert first(replace(one, threads=1)).limiter is Limiter.SENDER_CORE
    unsure = first(replace(one, threads=None))
    assert unsure.limiter is Limiter.UNKNOWN
    assert "iperf3's release" in unsure.evidence


def test_the_fuller_core_comes_first_and_the_other_is_listed() -> None:
    both = judge(seen(sender=(93.0,), receiver=(97.0,), received_bits_per_s=9e9))
    assert [held.limiter for held in both] == [Limiter.RECEIVER_CORE, Limiter.SENDER_CORE]
    both = judge(seen(sender=(97.0,), receiver=(93.0,), received_bits_per_s=9e9))
    assert [held.limiter for held in both] == [Limiter.SENDER_CORE, Limiter.RECEIVER_CORE]


def test_on_a_shared_kernel_no_core_is_one_ends() -> None:
    one = seen(shared_kernel=True, sender=(50.0, 99.0), receiver=(40.0, 99.0), busy_pct=60.0)
    assert first(one).limiter is Limiter.UNKNOWN
    one = seen(shared_kernel=True, sender=(95.0, 99.0), receiver=(40.0, 99.0), busy_pct=60.0)
    assert first(one).limiter is Limiter.SENDER_CORE
    assert "busiest core" not in first(one).evidence


def test_what_is_shown_comes_before_what_is_suggested() -> None:
    window = EXAMPLES["window"][0]
    assert [held.sure for held in judge(window)] == [True]
    unsure = replace(window, base_rtt_ns=math.nan)
    assert [held.sure for held in judge(unsure)] == [False]
    assert "a queue would look the same" in first(unsure).evidence
    idle = {"sender": replace(SENDER, core_pct=40.0), "receiver": replace(RECEIVER, core_pct=40.0)}
    steady = {"variation_pct": 0.2, "intervals": 8, "retransmitted_pct": 0.0, **idle}
    assert [held.limiter for held in judge(replace(unsure, **steady))] == ["provider cap", "window"]
    assert [held.limiter for held in judge(replace(window, **steady))] == ["window", "provider cap"]


def test_a_window_that_losses_keep_small_is_not_the_limit() -> None:
    lossy = replace(EXAMPLES["window"][0], cwnd_bytes=3e6, retransmitted_pct=0.2)
    assert [held.limiter for held in judge(lossy)] == [Limiter.LOSS]
    clean = replace(lossy, retransmitted_pct=0.0)
    assert first(clean).limiter is Limiter.WINDOW
    assert "the sender's window" in first(clean).evidence


def test_a_virtual_link_limits_nothing() -> None:
    one = replace(EXAMPLES["link"][0], link_is_virtual=True)
    assert first(one).limiter is Limiter.UNKNOWN
    assert "the link's speed" not in first(one).evidence


# ------------------------------------------------------------------ whatever the numbers

SOME = st.one_of(st.just(math.nan), st.floats(0, 1e12), st.sampled_from([0.0, 90.0, 95.0, 100.0]))
PCT = st.one_of(st.just(math.nan), st.floats(0, 120))
RATE = st.one_of(st.just(math.nan), st.floats(1e6, 1e11))
ENDS = st.tuples(PCT, PCT)


@st.composite
def anything(draw: st.DrawFn) -> Seen:
    load = draw(st.sampled_from(["tcp", "udp", "request-response"]))
    streams, ways = draw(st.sampled_from([1, 8])), draw(st.sampled_from([1, 2]))
    numbers: dict[str, Any] = {
        name: draw(RATE if name.endswith("_bits_per_s") else PCT if name.endswith("_pct") else SOME)
        for name in (
            "received_bits_per_s", "pace_bits_per_s", "link_bits_per_s", "ceiling_bits_per_s",
            "busy_pct", "retransmitted_pct", "lost_pct", "variation_pct", "segment_bytes",
            "packet_bytes", "path_mtu_bytes", "cwnd_bytes", "peer_window_bytes", "rtt_ns",
            "base_rtt_ns", "requests_per_s", "request_rtt_ns",
        )
    }  # fmt: skip
    return seen(
        load=load,
        transport="udp" if load == "udp" else "tcp",
        streams=streams,
        ways=ways,
        threads=draw(st.sampled_from([1, streams * ways, None])),
        shared_kernel=draw(st.booleans()),
        link_is_virtual=draw(st.booleans()),
        intervals=draw(st.integers(0, 12)),
        sender=draw(ENDS),
        receiver=draw(ENDS),
        **numbers,
    )


def holds(one: Seen, limiter: Limiter) -> bool:
    """What must be so where a limiter is named, written down once more and plainly."""
    if limiter in (Limiter.SENDER_CORE, Limiter.RECEIVER_CORE):
        end = one.sender if limiter is Limiter.SENDER_CORE else one.receiver
        return end.process_pct >= 90 or (end.core_pct >= 95 and not one.shared_kernel)
    received = one.received_bits_per_s
    return {
        Limiter.PACED: received >= 0.97 * one.pace_bits_per_s * (1 - 1e-9),
        Limiter.LINK: not one.link_is_virtual
        and received >= 0.95 * one.ceiling_bits_per_s * (1 - 1e-9),
        Limiter.SHARED_CPU: one.shared_kernel and one.busy_pct >= 90,
        Limiter.LATENCY: one.load == "request-response",
        Limiter.LOSS: one.lost_pct >= 1 if one.transport == "udp" else one.retransmitted_pct >= 0.1,
        Limiter.CAP: one.intervals >= 5 and one.variation_pct <= 1 and one.load == "tcp",
        Limiter.WINDOW: one.rtt_ns > 0 and one.load == "tcp",
        Limiter.HEADERS: one.packet_bytes < one.path_mtu_bytes,
        Limiter.UNKNOWN: True,
    }[limiter]


@given(anything())
def test_whatever_is_named_is_so_and_said_in_numbers(one: Seen) -> None:
    found = judge(one)
    assert found
    assert len({held.limiter for held in found}) == len(found)
    assert (Limiter.UNKNOWN in {held.limiter for held in found}) is (len(found) == 1 and (
        found[0].limiter is Limiter.UNKNOWN))  # fmt: skip
    assert [held.sure for held in found] == sorted((held.sure for held in found), reverse=True)
    for held in found:
        assert holds(one, held.limiter), held
        assert not re.search(r"nan|\binf\b|UNKNOWN bit", held.sentence, re.I), held.sentence


CORES = {Limiter.SENDER_CORE, Limiter.RECEIVER_CORE}


@given(anything(), ENDS, ENDS)
def test_more_cpu_never_makes_a_trial_less_bound_by_cores(
    one: Seen, sender: tuple[float, float], receiver: tuple[float, float]
) -> None:
    def more(end: End, added: tuple[float, float]) -> End:
        process, core = (0.0 if math.isnan(value) else value for value in added)
        return replace(end, process_pct=end.process_pct + process, core_pct=end.core_pct + core)

    busier = replace(one, sender=more(one.sender, sender), receiver=more(one.receiver, receiver))
    before, after = judge(one), judge(busier)
    assert {h.limiter for h in before} & CORES <= {h.limiter for h in after} & CORES
    if before[0].limiter in CORES:
        assert after[0].limiter in CORES
