"""The benchmark of probes measures the arms it names, in shared connections. Nothing on speed."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ebpfperf.lab.running import Lab
from ebpfperf.model import Overlay

pytestmark = pytest.mark.lab

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``import`` of a benchmark by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in ("probes", "turns", "twins", "dataplane"):
        sys.modules.pop(name, None)


def test_both_arms_take_a_turn_in_every_connection(
    lab: Lab, tmp_path: Path, benchmarks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes: ModuleType = benchmarks("probes")
    turns: ModuleType = benchmarks("turns")
    pair = (probes.Arm("none"), probes.Arm("tcp_rtt, always on", ("tcp_rtt",), always=True))
    monkeypatch.setattr(probes, "arms_for", lambda names: (pair, ()))

    found = probes.measure(
        lab, tmp_path, names=("tcp_rtt",), blocks=1, seconds=0.5, overlay=Overlay.NONE
    )

    by_load = {
        load: [t for t in found.turns if t.load == load] for load in ("tcp", "request-response")
    }
    for taken in by_load.values():
        connections = sorted({turn.connection for turn in taken})
        arms = [[t.arm for t in taken if t.connection == number] for number in connections]
        places = [[t.place for t in taken if t.connection == number] for number in connections]
        # Where a turn took longer than was thought, the other arm has its own in the next one.
        assert all("none" in one for one in arms)
        assert sorted(arms[-1]) == ["none", "tcp_rtt, always on"]
        assert all(sorted(one) == list(range(len(one))) for one in places)
        assert all(turn.window_s >= 0.5 for turn in taken)
        rates = {turn.arm: turn.events_per_s for turn in taken}
        assert rates["none"] is None
        assert rates["tcp_rtt, always on"] > 0
    assert set(by_load["tcp"][0].values) == {"bits_per_s", "cpu_s_per_gbit"}
    assert all(value > 0 for turn in found.turns for value in turn.values.values())
    held = {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
    assert "/dev/cpu_dma_latency" not in held
    text = turns.report(found)
    assert "tcp_rtt, always on" in text
