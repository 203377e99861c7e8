"""The benchmark of orchestration does one job in all its ways. Nothing is asserted about speed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from ebpfperf.lab.running import Lab

pytestmark = pytest.mark.lab

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_every_way_brings_the_same_files(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    orchestration = importlib.import_module("orchestration")
    try:
        (took,) = orchestration.measure(lab, tmp_path, count=1, seconds=1, warm_up=0)
    finally:
        for name in ("orchestration", "openssh_node"):
            sys.modules.pop(name, None)
    probed, bare = set(), set()
    for way in took.keys() - {orchestration.RUNNER}:
        files = frozenset(path.name for path in (tmp_path / way).iterdir())
        (probed if "with probes" in way else bare).add(files)
    assert len(probed) == len(bare) == 1
    assert len(took) == 7
    assert {name for way, base in orchestration.COMPARED for name in (way, base)} == set(took)
    text = orchestration.report([took] * 6)
    assert all(name in text for name in took)
    assert "too few rounds" not in text
    assert "too few rounds" in orchestration.report([took])
