"""The matrix of faults: what counts as named, as a miss, as a false alarm."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

from ebpfperf.diagnosis import Outcome, Result, Shown, Verdict
from ebpfperf.lab.faults import standing

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "doctor.py"
SHOWN = (Shown("bpffs", "node-2", "findmnt", "2026-01-31T09:05:33Z", "(nothing)"),)


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = util.spec_from_file_location("benchmark_doctor", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module


def result(check: str, outcome: Outcome) -> Result:
    return Result(check, "name", "title", "symptom", "rule", "source", (outcome,))


@pytest.mark.parametrize(
    ("check", "verdict", "node", "shown", "named"),
    [
        ("A4", Verdict.FAIL, "node-2", SHOWN, True),
        ("A4", Verdict.WARN, "node-2", SHOWN, True),
        ("A4", Verdict.UNKNOWN, "node-2", SHOWN, False),
        ("A4", Verdict.FAIL, "node-1", SHOWN, False),
        ("A4", Verdict.FAIL, "node-2", (), False),
        ("A3", Verdict.FAIL, "node-2", SHOWN, False),
        ("A4", Verdict.FAIL, "", SHOWN, False),
    ],
)
def test_a_fault_is_named_by_its_check_on_its_node_with_evidence(
    bench: ModuleType, check: str, verdict: Verdict, node: str, shown: tuple[Shown, ...],
    *, named: bool,
) -> None:  # fmt: skip
    fault = standing.named("bpffs-missing")
    outcome = Outcome(verdict, "It is not mounted.", shown, node)
    assert bench.names(fault, result(check, outcome), outcome) is named


def test_what_the_log_tells_of_the_past_is_no_false_alarm_afterwards(bench: ModuleType) -> None:
    over = Outcome(Verdict.WARN, "It failed; Felix has restarted since.", SHOWN, "node-2")
    still = Outcome(Verdict.FAIL, "It failed.", SHOWN, "node-2")
    assert bench.past(bench.AFTER, result("A7", over), over)
    assert not bench.past(bench.AFTER, result("A7", still), still)
    assert not bench.past(bench.AFTER, result("A4", over), over)
    assert not bench.past(bench.BEFORE, result("A7", over), over)


def test_the_table_has_every_miss_false_alarm_and_leftover(bench: ModuleType) -> None:
    faults = [standing.named("bpffs-missing"), standing.named("profiling-on")]
    cells = [
        bench.Cell("v3.16", bench.BEFORE, True, "", (), ()),
        bench.Cell("v3.16", "bpffs-missing", True, "A4 FAIL node-2: gone", (), ()),
        bench.Cell("v3.16", bench.AFTER, False, "", ("E7 FAIL node-1: 1400",), ()),
        bench.Cell("v3.32", "bpffs-missing", False, "", (), ("FelixConfiguration /default",)),
        bench.Cell("v3.32", "profiling-on", True, "C6 WARN node-1: on", (), ()),
    ]
    said = bench.table(cells, faults, ["v3.16", "v3.32"]).splitlines()
    assert said[3] == "| bpffs-missing | A4 FAIL | **missed** |"
    assert said[4] == "| profiling-on | – | C6 WARN |"
    assert said[5] == "| healthy after | **1 false alarms** | – |"
    assert said[7:] == [
        "2 of 3 faults named.",
        "- v3.16 healthy after: raised E7 FAIL node-1: 1400",
        "- v3.32 bpffs-missing: raised -",
        "- v3.32 bpffs-missing: left FelixConfiguration /default",
    ]
