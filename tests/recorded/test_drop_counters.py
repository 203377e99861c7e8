"""Two answers of a lab's node, between which a pod sent so many datagrams that are denied.

A new platform is a new file in drop_counters/: ``release``, ``device``, ``datagrams``, and what
``probes/node/drop_counters.py`` answered ``before`` and ``after``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ebpfperf.drop_counts import parse
from ebpfperf.drop_differences import NONE, NodeDrops, Source, between

ANSWERS = Path(__file__).parent / "drop_counters"
CASES = sorted(path.stem for path in ANSWERS.glob("*.json"))
# Releases without counters, and those whose programs are attached as TCX links.
BY_QDISC, BY_TCX = {"v3.16"}, {"v3.32"}


def recorded(case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ANSWERS / f"{case}.json").read_text())
    return found


def found(told: dict[str, Any]) -> NodeDrops:
    before, after = (parse("node-1", told[when]) for when in ("before", "after"))
    return between(before, after, release=told["release"])


@pytest.mark.parametrize("case", CASES)
def test_the_datagrams_are_the_drops(case: str) -> None:
    told = recorded(case)
    drops = found(told)
    (drop,) = [drop for drop in drops.drops if drop.packets]
    assert (drop.device, drop.packets) == (told["device"], told["datagrams"])
    assert {d.reason for d in drops.drops if d is not drop} == {NONE}
    assert drops.source is (Source.CLSACT if case in BY_QDISC else Source.COUNTERS)
    if case in BY_QDISC:
        assert drop.hook == "both"
        assert drop.reason.startswith("UNKNOWN")
    else:
        assert (drop.hook, drop.way, drop.reason) == ("ingress", "from the pod", "by policy")


@pytest.mark.parametrize("case", CASES)
def test_programs_are_seen_where_they_hang(case: str) -> None:
    told = recorded(case)
    counts = parse("node-1", told["after"])
    assert told["device"] in counts.calico_devices
    assert len(counts.calico_devices) == 2
    assert counts.tcx_devices == (counts.calico_devices if case in BY_TCX else [])
    assert bool(counts.qdiscs) == (case not in BY_TCX)
    assert len(counts.program_ids) >= 2


@pytest.mark.parametrize("case", sorted(BY_TCX))
def test_without_its_counters_tcx_is_blind_and_says_so(case: str) -> None:
    told = recorded(case)
    for when in ("before", "after"):
        told[when] |= {"counters": {}, "counters_early": {}}
    drops = found(told)
    assert drops.source is Source.NOTHING
    assert {drop.packets for drop in drops.drops} == {None}
    assert any("UNKNOWN" in said and "TCX" in said for said in drops.remarks)
