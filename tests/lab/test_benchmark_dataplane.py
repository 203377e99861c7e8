"""The benchmark of dataplanes compares what it says it does. Nothing is asserted about speed."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ebpfperf.lab.running import Lab
from ebpfperf.model import Path as FlowPath

pytestmark = pytest.mark.lab

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.usefixtures("short_waits")
def test_every_dataplane_is_measured_in_every_block(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    dataplane = importlib.import_module("dataplane")
    try:
        # Without what makes a real one trustworthy and slow.
        whole = replace(dataplane.campaign(lab, blocks=1, seconds=1), aa_test=False, quiet=None)
        small = tuple(flow for flow in whole.flows if flow.load == "request-response")
        found = dataplane.measure(
            replace(whole, flows=small), tmp_path / "campaign", release="v3.26"
        )
    finally:
        sys.modules.pop("dataplane", None)

    assert {flow.path for flow in small} == {FlowPath.POD_POD, FlowPath.HOST_HOST}
    trials = found.trials
    assert (trials["status"] == "ok").all(), trials[["trial_id", "reason"]].to_string()
    assert len(trials) == len(whole.treatments) * len(small)
    # What a treatment changes is who forwards, never the size of packets.
    assert set(trials.loc[trials["path"] == "pod-pod", "mtu_bytes"]) == {1500.0}
    assert found.shortcut == {
        "ebpf": "yes",
        "ebpf-ipip-on": "no",
        "ebpf-debug": "yes",
        "standard": "-",
    }
    held = {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
    assert "/dev/cpu_dma_latency" not in held
    compared = found.effects[found.effects["metric"] == "rr_p50_ns"].set_index("treatment")
    others = {"ebpf-ipip-on", "ebpf-debug", "standard", "hosts, standard", "hosts, ebpf"}
    assert set(compared.index) == others
    by_id = trials.set_index("trial_id")["rr_p50_ns"]
    for treatment, trial in (
        ("standard", "b000-standard-rr"),
        ("hosts, standard", "b000-standard-host-rr"),
        ("hosts, ebpf", "b000-ebpf-host-rr"),
    ):
        ratio = by_id[trial] / by_id["b000-ebpf-rr"]
        assert compared.loc[treatment, "ratio"] == pytest.approx(ratio)

    text = dataplane.report(found)
    assert all(name in text for name in ("ebpf", *others))
    assert "p 1.00 is the smallest that 1 can give" in text
