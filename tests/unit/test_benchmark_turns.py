"""What the benchmark of probes makes of its turns, and of what other tools print."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``import`` of a benchmark by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in ("turns", "twins"):
        sys.modules.pop(name, None)


def taken(turns: Any, arm: str, value: float, *, block: int = 0, connection: int = 0) -> Any:
    """A turn of bulk with that throughput."""
    values = {"bits_per_s": value, "cpu_s_per_gbit": 1 / value}
    return turns.Turn(block, connection, 0, arm, "tcp", 1.0, 7.0, values)


def test_a_ratio_is_to_the_rest_of_its_own_connection(benchmark_module: Any) -> None:
    turns = benchmark_module("turns")
    throughput = turns.METRICS[0]
    seen = [
        taken(turns, "none", 100.0),
        taken(turns, "none, again", 400.0),
        taken(turns, "a", 100.0),
        # Twice as fast a connection, so that it is not twice as fast an arm.
        taken(turns, "none", 200.0, connection=1),
        taken(turns, "a", 100.0, connection=1),
        # Without a rest there is nothing to hold it against.
        taken(turns, "a", 100.0, connection=2),
    ]
    ratios = turns.log_ratios(seen, throughput)
    assert {arm: [math.exp(log) for _, log in of] for arm, of in ratios.items()} == {
        "none, again": [pytest.approx(4.0)],
        "a": [pytest.approx(0.5), pytest.approx(0.5)],
    }
    assert turns.log_ratios(seen, turns.METRICS[2]) == {}


def test_pairs_are_of_blocks_in_which_both_came(benchmark_module: Any) -> None:
    turns = benchmark_module("turns")
    ratios = {"a": [(0, 1.0), (0, 3.0), (1, 5.0)], "b": [(0, 0.5), (2, 9.0)]}
    assert turns.paired(ratios, "a", "b") == [1.5]
    assert turns.paired(ratios, "a", "nobody") == []


@pytest.mark.parametrize(
    ("factor", "more_is_better", "expected"),
    [
        (0.999, True, "met"),
        (0.9, True, "not met"),
        (0.9, False, "met"),
        (1.2, False, "not met"),
    ],
)
def test_an_aim_is_met_where_the_whole_interval_says_so(
    benchmark_module: Any, factor: float, more_is_better: bool, expected: str
) -> None:
    turns = benchmark_module("turns")
    found = turns.interval([math.log(factor)] * 6)
    assert turns.verdict(found, limit=0.98, more_is_better=more_is_better) == expected
    wide = turns.interval([math.log(x) for x in (0.5, 0.6, 0.9, 1.1, 1.5, 2.0)])
    assert turns.verdict(wide, limit=0.98, more_is_better=more_is_better) == "undecided"
    assert turns.verdict(None, limit=0.98, more_is_better=more_is_better) == "undecided"


def test_the_report_names_what_ran_and_what_does_not(benchmark_module: Any) -> None:
    turns = benchmark_module("turns")
    seen = [
        taken(turns, arm, value, block=block, connection=block)
        for block in range(6)
        for arm, value in (("none", 100.0), ("all", 99.5), ("a", 99.0), ("b", 50.0))
    ]
    found = turns.Found(
        tuple(seen),
        ("none", "all", "a", "b"),
        {"c": "does not compile: sorry"},
        (turns.Pair("a", "b", True),),
        "of this kernel",
    )
    text = turns.report(found)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "a / b 1.980 (1.980–1.980) 0.505 (0.505–0.505)" in lines
    assert "met all: throughput above 0.98 times none: 0.995 (0.995–0.995)" in lines
    assert "met a costs less throughput than b: 1.980 (1.980–1.980)" in lines
    assert "c: does not compile: sorry" in lines
    assert "another kernel" not in text
    assert "another kernel" in turns.report(
        turns.Found(found.turns, found.arms, {}, (), "6.1.0-56-amd64")
    )


PRINTED = {
    # bpftrace 0.17
    "@wait_ns[3]: \n[1]                    4 |@@@@      |\n[2, 4)                 3 |@@  |\n"
    "[1K, 2K)              10 |@@@@@@@@@@|\n(..., 0)               1 |@|\n": 18,
    "Attaching 1 probe...\n\n\n@again[2, 0xffffffff820d8dee, 34525]: 8\n@again[1, 2, 3]: 3\n": 11,
    "Attaching 3 probes...\n\n\n": 0,
    # BCC 0.26
    "     usecs               : count     distribution\n"
    "         0 -> 1          : 6        |**                  |\n"
    "        16 -> 31         : 5        |*                   |\n": 11,
    "TIME     PID     IP LADDR:LPORT          T> RADDR:RPORT          STATE\n"
    "15:14:00 18260   4  198.19.0.0:43855     R> 198.19.0.64:5201     ESTABLISHED\n"
    "15:14:03 21734   4  127.0.0.1:39170      R> 127.0.10.4:2222      ESTABLISHED\n": 2,
    "PID    COMM         IP SADDR            DADDR            DPORT LAT(ms)\n"
    "1201   wget         4  10.153.223.157   52.222.136.1     80    13.50\n": 1,
}


@pytest.mark.parametrize("printed", PRINTED)
def test_events_of_other_tools_are_counted(benchmark_module: Any, printed: str) -> None:
    assert benchmark_module("twins").events(printed) == PRINTED[printed]
