"""Drops between two readings: by Calico's counters, by qdiscs, and where nothing counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ebpfperf.calico.counters import CAPTIONS, DROPS
from ebpfperf.calico.maps import counters_of
from ebpfperf.cli import app
from ebpfperf.drop_counts import NodeCounts, parse
from ebpfperf.drop_differences import NONE, UNCOUNTED, Drop, NodeDrops, Source, between, way
from ebpfperf.errors import InputError

POD, NIC = "cali0123456789a", "eth0"
LINKS = {POD: 17, NIC: 2, "lo": 1}
FILTERS = {"ingress": ["cali_tc_preambl"], "egress": ["cali_tc_preambl"]}
TCX = {"ingress": ["tcx:cali_tc_preambl"], "egress": ["tcx:cali_tc_preambl"]}
POLICY, ROUTE, COLLISION, PLAIN = 4, 12, 14, 17
Entries = Mapping[tuple[str, int], Mapping[int, int]]


def numbers(values: Mapping[int, int], count: int) -> list[int]:
    return [values.get(number, 0) for number in range(count)]


def reading(
    at_s: float,
    *,
    counted: Entries | None = None,
    early: Entries | None = None,
    qdiscs: Mapping[str, tuple[int, int]] | None = None,
    hooks: Mapping[str, list[str]] | None = None,
    boot: str = "b",
    count: int = 27,
    **changes: Any,
) -> NodeCounts:
    def held(entries: Entries | None) -> dict[str, Any]:
        if entries is None:
            return {}
        rows = [[LINKS[d], h, numbers(v, count)] for (d, h), v in entries.items()]
        return {"cali_counters6": rows}

    answer = {
        "boot_id": boot,
        "at_s": at_s,
        "links": LINKS,
        "qdiscs": {device: list(both) for device, both in (qdiscs or {}).items()},
        "programs": {POD: hooks or FILTERS, NIC: hooks or FILTERS, "lo": {}},
        "counters": held(counted),
        "counters_early": held(counted if early is None else early),
    }
    return parse("node-1", json.loads(json.dumps(answer | changes)))


def rows(found: NodeDrops) -> list[tuple[str, str, str, int | None]]:
    return [(drop.device, drop.hook, drop.reason, drop.packets) for drop in found.drops]


def one(found: NodeDrops) -> Drop:
    (drop,) = [drop for drop in found.drops if drop.packets]
    return drop


def test_drops_are_differences_and_rates_by_reason() -> None:
    before = reading(100.0, counted={(POD, 0): {0: 1000, POLICY: 50, PLAIN: 9}})
    after = reading(110.0, counted={(POD, 0): {0: 1100, POLICY: 57, ROUTE: 13, PLAIN: 99}})
    found = between(before, after)
    assert (found.seconds, found.source, found.packets) == (10.0, Source.COUNTERS, 20)
    assert rows(found)[:2] == [
        (POD, "ingress", "packets with unknown route", 13),
        (POD, "ingress", "by policy", 7),
    ]
    assert [drop.per_s for drop in found.drops[:2]] == [1.3, 0.7]
    assert found.drops[1].share_pct == pytest.approx(7.0)
    assert found.drops[1].way == "from the pod"


@pytest.mark.parametrize("release", ["v3.26", "v3.30", "v3.31", "v3.32"])
def test_every_reason_of_a_release_is_told_apart(release: str) -> None:
    """Prime numbers of packets: a sum of others is none of them."""
    primes = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79,
              83, 89, 97, 101, 103]  # fmt: skip
    count = counters_of(release)
    before = reading(0.0, counted={(NIC, 1): {}}, count=count)
    after = reading(1.0, counted={(NIC, 1): dict(enumerate(primes[:count]))}, count=count)
    found = {drop.reason: drop.packets for drop in between(before, after).drops if drop.packets}
    assert found == {CAPTIONS[at][1]: primes[at] for at in range(count) if at in DROPS}


def test_what_is_no_drop_is_none() -> None:
    before = reading(0.0, counted={(NIC, 0): {}})
    after = reading(1.0, counted={(NIC, 0): {0: 9, 1: 9, 2: 9, 3: 9, COLLISION: 9, 18: 9, 19: 9}})
    assert (NIC, "ingress", NONE, 0) in rows(between(before, after))
    assert between(before, after).packets == 0


@given(
    st.lists(
        st.tuples(*[st.integers(0, 2**63)] * 27, *[st.integers(0, 2**40)] * 27).map(
            lambda both: (both[:27], both[27:])
        ),
        min_size=1,
        max_size=3,
    )
)
def test_the_sum_is_that_of_a_naive_loop(entries: list[tuple[tuple[int, ...], ...]]) -> None:
    places = [(POD, 0), (POD, 1), (NIC, 0)][: len(entries)]
    before = {p: dict(enumerate(was)) for p, (was, _) in zip(places, entries, strict=True)}
    after = {
        place: {at: was + more for at, (was, more) in enumerate(zip(*both, strict=True))}
        for place, both in zip(places, entries, strict=True)
    }
    total = 0
    for _, more in entries:
        for number in (4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 20, 21, 22, 23, 25, 26):
            total += more[number]
    assert between(reading(0.0, counted=before), reading(1.0, counted=after)).packets == total


def test_qdiscs_count_where_there_are_no_counters() -> None:
    before = reading(0.0, qdiscs={POD: (100, 4), NIC: (50, 0)})
    after = reading(4.0, qdiscs={POD: (300, 17), NIC: (60, 0)})
    found = between(before, after, release="v3.16.1")
    drop = one(found)
    assert (drop.device, drop.hook, drop.packets, drop.per_s) == (POD, "both", 13, 3.25)
    assert drop.reason.startswith("UNKNOWN")
    assert drop.share_pct == pytest.approx(6.5)
    assert (NIC, "both", NONE, 0) in rows(found)
    assert found.source is Source.CLSACT
    assert "v3.16.1 has no counters" in found.remarks[0]


def test_what_the_qdisc_dropped_beyond_the_counters_is_told_apart() -> None:
    before = reading(0.0, counted={(POD, 0): {POLICY: 3}}, qdiscs={POD: (0, 3)})
    after = reading(1.0, counted={(POD, 0): {POLICY: 8}}, qdiscs={POD: (90, 19)})
    found = between(before, after)
    assert {drop.reason: drop.packets for drop in found.drops if drop.packets} == {
        "by policy": 5,
        UNCOUNTED: 11,
    }


def test_a_packet_between_the_two_reads_is_not_taken_for_uncounted() -> None:
    """The qdisc saw five; the counters had them before it was read at first."""
    before = reading(0.0, counted={(POD, 0): {POLICY: 5}}, early={(POD, 0): {}},
                     qdiscs={POD: (9, 0)})  # fmt: skip
    after = reading(1.0, counted={(POD, 0): {POLICY: 5}}, qdiscs={POD: (9, 5)})
    assert between(before, after).packets == 0


def test_tcx_without_counters_is_unknown_and_said_aloud() -> None:
    found = between(reading(0.0, hooks=TCX), reading(1.0, hooks=TCX))
    assert found.source is Source.NOTHING
    assert {drop.packets for drop in found.drops} == {None}
    (said,) = found.remarks
    assert "TCX" in said
    assert "UNKNOWN" in said
    assert "lo" not in {drop.device for drop in found.drops}


def test_tcx_with_counters_says_what_counts_and_what_does_not() -> None:
    entries: Entries = {(POD, 0): {}, (NIC, 0): {}}
    found = between(
        reading(0.0, hooks=TCX, counted=entries), reading(1.0, hooks=TCX, counted=entries)
    )
    assert found.source is Source.COUNTERS
    (said,) = found.remarks
    assert "tc -s qdisc counts nothing" in said
    assert "cali_counters6" in said


@pytest.mark.parametrize(
    ("was", "now", "packets"), [((100, 60), (5, 2), 2), ((100, 60), (900, 2), 2)]
)
def test_a_qdisc_made_anew_counts_from_nought(
    was: tuple[int, int], now: tuple[int, int], packets: int
) -> None:
    found = between(reading(0.0, qdiscs={NIC: was}), reading(1.0, qdiscs={NIC: now}))
    assert one(found).packets == packets
    assert any("made anew" in said for said in found.remarks)


def test_an_index_that_another_device_had_counts_from_nought() -> None:
    before = reading(0.0, counted={(POD, 0): {POLICY: 100}}, links={"cali-gone": 17, NIC: 2})
    after = reading(1.0, counted={(POD, 0): {POLICY: 107}})
    assert one(between(before, after)).packets == 107


def test_a_node_that_was_started_anew_has_nothing_to_compare() -> None:
    found = between(reading(900.0, boot="a"), reading(20.0, boot="b"))
    assert found.drops == ()
    assert "started anew" in found.remarks[0]


def test_a_node_without_ebpf_says_so() -> None:
    plain = reading(0.0, programs={NIC: {}, "lo": {}})
    assert not plain.has_bpf
    found = between(plain, reading(1.0, programs={NIC: {}, "lo": {}}))
    assert "does not forward by eBPF" in found.remarks[0]


def test_the_newest_map_counts_and_one_that_cannot_be_read_is_said() -> None:
    old = [[LINKS[NIC], 0, numbers({POLICY: 99}, 14)]]
    new = [[LINKS[NIC], 0, numbers({POLICY: 2}, 17)]]
    both = {"cali_counters2": old, "cali_counters3": new}
    assert reading(0.0, counters=both).counters_map == "cali_counters3"
    blocked = {"cali_counters2": old, "cali_counters3": "Operation not permitted"}
    found = between(reading(0.0, counters=blocked), reading(1.0, counters=blocked))
    assert found.source is Source.NOTHING
    assert "cali_counters3: Operation not permitted" in found.remarks[0]


@pytest.mark.parametrize(
    ("device", "hook", "said"),
    [
        (POD, "ingress", "from the pod"),
        (POD, "egress", "to the pod"),
        (NIC, "ingress", "into the node"),
        (NIC, "egress", "out of the node"),
        (NIC, "xdp", "into the node"),
        (NIC, "both", ""),
    ],
)
def test_hooks_are_the_devices_and_say_whose_packets(device: str, hook: str, said: str) -> None:
    assert way(device, hook) == said


def test_no_cluster_is_an_input_error(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    for arguments in (["drops"], ["felix", "show"], ["felix", "explain", "bpfEnabled"]):
        done = CliRunner().invoke(app, arguments)
        assert isinstance(done.exception, InputError), done.output
        assert done.exception.exit_status == 2
