"""Looks at real trials, and a notebook's kernel that is interrupted while it shows one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from ebpfperf import runner
from ebpfperf.cluster import Cluster
from ebpfperf.histograms import total
from ebpfperf.kube import Kube
from ebpfperf.lab.running import Lab
from ebpfperf.model import Campaign, ClusterRef, Flow, Overlay, Reading, Status, Treatment, Trial
from ebpfperf.model import Path as FlowPath
from ebpfperf.mutations import canonical
from ebpfperf.store import Store

pytestmark = pytest.mark.lab

CAMPAIGN = Campaign(
    name="seen",
    seed=1,
    blocks=1,
    baseline="none",
    treatments=(Treatment("none", Overlay.NONE),),
    flows=(Flow("tcp", FlowPath.POD_POD, "tcp", duration_s=2, omit_s=0),),
    probes=("tcp_rtt", "hops"),
)


def test_looks_see_counts_grow_up_to_what_the_record_holds(lab: Lab, tmp_path: Path) -> None:
    told: list[Mapping[str, Reading]] = []

    def connect(ref: ClusterRef, journal: Path) -> Cluster:
        reached = ClusterRef(str(lab.kubeconfig), ssh_config=str(lab.ssh_config))
        return Cluster.connect(reached, journal=journal)

    def on_look(trial: Trial, readings: Mapping[str, Reading]) -> None:
        told.append(readings)

    store = Store.create(tmp_path / "run", CAMPAIGN)
    (result,) = runner.run(store, connect=connect, on_look=on_look, look_every_s=0.1)
    assert result.status is Status.OK, result.reason
    assert not any("live view" in warning for warning in result.warnings)
    facts = {fact.name: fact.value for fact in result.facts}
    assert facts["live_looks"] == str(len(told))
    assert len(told) >= 2

    def grows(of: Callable[[Reading], float], probe: str, at_the_end: float) -> None:
        seen = [*(of(readings[probe]) for readings in told if probe in readings), at_the_end]
        assert seen == sorted(seen)
        assert len(set(seen)) > 1

    def received(reading: Any) -> float:
        (got,) = [s.value for s in reading.samples if _is_received(s)]
        return float(got)

    grows(received, "host_counters", received(result))
    # All that iperf3's receiver got has come through its device.
    measured_bits = result.metrics["received_bits_per_s"] * CAMPAIGN.flows[0].duration_s
    assert received(result) * 8 > 0.9 * measured_bits
    refused = {w.split()[1].rstrip(":") for w in result.warnings if w.startswith("probe ")}
    for probe in {"tcp_rtt", "hops"} - refused:
        ours = [row for row in result.histograms if row.probe == probe]
        grows(lambda reading: float(total(reading.histograms)), probe, float(total(ours)))


def _is_received(sample: Any) -> bool:
    return (sample.endpoint, sample.metric) == ("server", "device_rx_bytes")


FILE = """\
campaign: stopped
seed: 2
blocks: 1
aa_test: false
quiet: {sample_s: 0.1, wait_s: 0}
baseline: none
treatments: [none, vxlan]
flows:
  - {name: tcp, path: pod-pod, load: tcp, duration_s: 2, omit_s: 0}
"""


class Kernel:
    """A notebook's kernel: cells are run in it, and what they show is looked at."""

    def __init__(self, manager: KernelManager) -> None:
        self._manager = manager
        self._client = manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)

    def run(self, code: str, *, interrupt_at: str = "") -> list[str]:
        """What the cell showed, in order; interrupted once a text like that is shown."""
        asked = self._client.execute(code)
        shown: list[str] = []
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            message = self._client.get_iopub_msg(timeout=60)
            kind, content = message["msg_type"], message["content"]
            assert kind != "error", "\n".join(content["traceback"])
            if kind in ("display_data", "update_display_data"):
                shown.append(content["data"].get("text/html", ""))
                if interrupt_at and interrupt_at in shown[-1]:
                    self._manager.interrupt_kernel()
                    interrupt_at = ""
            ours = message["parent_header"].get("msg_id") == asked
            if ours and kind == "status" and content["execution_state"] == "idle":
                return shown
        raise AssertionError(f"the cell did not end; it last showed {shown[-1:]}")

    def close(self) -> None:
        self._client.stop_channels()


@pytest.fixture
def kernel(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    monkeypatch.setenv("KUBECONFIG", str(lab.kubeconfig))
    monkeypatch.setenv("EBPFPERF_SSH_CONFIG", str(lab.ssh_config))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    manager = KernelManager()
    manager.start_kernel(cwd=str(tmp_path))
    try:
        with contextlib.closing(Kernel(manager)) as made:
            yield made
    finally:
        manager.shutdown_kernel(now=True)


def specs(lab: Lab) -> list[bytes | str]:
    with contextlib.closing(Kube.connect(str(lab.kubeconfig))) as kube:
        felix = kube.felix_configuration()
        pools = [canonical(pool["spec"]) for pool in kube.ippools()]
        return [*pools, canonical(felix["spec"]) if felix else "absent"]


def test_the_stop_button_leaves_the_cluster_as_it_was_and_the_cell_goes_on_later(
    lab: Lab, tmp_path: Path, kernel: Kernel
) -> None:
    (tmp_path / "c.yaml").write_text(FILE)
    before = specs(lab)
    cell = "from ebpfperf import live\nstore = live.run('c.yaml', out='run', look_every_s=0.1)"
    shown = kernel.run(cell, interrupt_at="<img")
    assert any("interrupting the kernel again stops it at once" in html for html in shown)
    stopped = [html for html in shown if "ebpfperf-now" in html][-1]
    assert "Stopped: 1 of 2 trials are in run, and the cluster is as it was before" in stopped
    assert len(Store.open(tmp_path / "run").completed()) == 1
    assert specs(lab) == before

    shown = kernel.run(cell)
    assert "Done: 2 of 2 trials" in [html for html in shown if "ebpfperf-now" in html][-1]
    assert len({html for html in shown if "<img" in html}) > 1
    assert all(result.status is Status.OK for result in Store.open(tmp_path / "run").results())
    assert specs(lab) == before
