"""A campaign run from a notebook in a real JupyterLab, against an embedded cluster."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from in_jupyterlab import SECOND_MS, browsing, executed, has_loaded, run_all, serving
from lab.namespaces import restart_after
from playwright.sync_api import expect

from ebpfperf import templates
from ebpfperf.kube import Kube
from ebpfperf.lab import lifecycle
from ebpfperf.lab.running import Lab
from ebpfperf.lab.state import Shape
from ebpfperf.store import Store

pytestmark = pytest.mark.browser

FILE = """\
campaign: seen
seed: 3
blocks: 1
aa_test: false
quiet: {sample_s: 0.1, wait_s: 0}
baseline: none
treatments: [none, vxlan]
flows:
  - {name: tcp, path: pod-pod, load: tcp, duration_s: 3, omit_s: 0}
probes: [tcp_rtt, hops]
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    name = f"seen-{os.getpid()}"
    try:
        lab, _ = lifecycle.up(Shape(name))
        with contextlib.closing(Kube.connect(str(lab.kubeconfig))) as kube:
            restart_after(kube, lab)
        yield lab
    finally:
        lifecycle.down(name)


def test_a_trial_is_seen_while_it_runs_and_the_finished_ones_are_a_table(
    lab: Lab, tmp_path: Path
) -> None:
    shutil.copytree(templates.notebooks_dir(), tmp_path / "notebooks")
    plans = tmp_path / "benchmarks" / "campaigns"
    plans.mkdir(parents=True)
    (plans / "demo.yaml").write_text(FILE)
    reach = {"KUBECONFIG": str(lab.kubeconfig), "EBPFPERF_SSH_CONFIG": str(lab.ssh_config)}
    with serving(tmp_path, reach) as address, browsing() as page:
        notebook = run_all(page, address.format(name="05-live"))
        now = notebook.locator(".ebpfperf-now")
        picture = now.locator("figure img")
        expect(picture).to_be_visible(timeout=180 * SECOND_MS)
        first, trial = picture.get_attribute("src"), picture.get_attribute("alt") or ""
        assert trial.startswith("Trial b000-")
        # Between two trials there is none.
        expect(picture).not_to_have_attribute("src", first or "", timeout=60 * SECOND_MS)
        has_loaded(picture)
        page.screenshot(path=tmp_path / "running.png")
        expect(now).to_contain_text("Done: 2 of 2 trials", timeout=180 * SECOND_MS)
        finished = notebook.get_by_role("table", name="Finished, newest first")
        expect(finished.locator("tbody tr")).to_have_count(2)
        page.screenshot(path=tmp_path / "finished.png")
        cells = executed(page, tmp_path / "notebooks" / "05-live.ipynb")
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    for result in Store.open(tmp_path / "runs" / "live").results():
        assert any(fact.name == "live_view" for fact in result.facts)
