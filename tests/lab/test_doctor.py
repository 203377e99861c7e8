"""The doctor over a live cluster: quiet where all is well, and it names what is wrong and where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic
from lab.namespaces import lab_in_ebpf_mode

from ebpfperf import preflight
from ebpfperf.cluster import Cluster
from ebpfperf.diagnosis import Diagnosis, Verdict, from_json
from ebpfperf.doctor import judge
from ebpfperf.lab.faults.place import Place
from ebpfperf.lab.running import Lab
from ebpfperf.model import ClusterRef
from ebpfperf.store import Store

pytestmark = pytest.mark.lab
# Steal and what the kernel drops are those of the machine that carries the lab, whatever it does.
OF_THE_MACHINE = ("D6", "E11")


@pytest.fixture(scope="module")
def own_lab() -> Iterator[Lab]:
    """A lab in eBPF mode, with nothing wrong."""
    with lab_in_ebpf_mode(f"test-doctor-{os.getpid()}", restart_s=0.2) as lab:
        yield lab


def cli(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ebpfperf.cli", *arguments],
        env={
            **os.environ,
            "KUBECONFIG": str(lab.kubeconfig),
            "EBPFPERF_SSH_CONFIG": str(lab.ssh_config),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def objects(lab: Lab) -> str:
    """Every object of Calico's, as bytes: nothing of it may change.

    Not the list's own version, which counts what the lab writes of its nodes, too.
    """
    place = Place(lab, lab.nodes[0])
    crds = "/apis/crd.projectcalico.org/v1"
    lists = [place.get(f"{crds}/{kind}") for kind in ("felixconfigurations", "ippools")]
    return json.dumps([found["items"] for found in lists if found])


def before_a_campaign(lab: Lab, place: Path) -> list[str]:
    """What a run says before its first trial."""
    said: list[str] = []
    ref = ClusterRef(kubeconfig=str(lab.kubeconfig), ssh_config=str(lab.ssh_config))
    store = Store.create(place / "run", synthetic.CAMPAIGN)
    with Cluster.connect(ref, journal=store.journal) as cluster:
        preflight.before(store, cluster, say=said.append)
    return [text for text in said if not any(f" {each} " in text for each in OF_THE_MACHINE)]


def bad(found: Diagnosis) -> dict[str, list[Any]]:
    """Verdict → check and node, of all that is not OK and is the cluster's own."""
    told: dict[str, list[Any]] = {}
    for result, each in found.outcomes():
        right = each.verdict in (Verdict.OK, Verdict.NOT_APPLICABLE)
        if not right and result.id not in OF_THE_MACHINE:
            told.setdefault(each.verdict, []).append((result.id, each.node, each.what))
    return told


def test_nothing_is_raised_of_a_healthy_lab_and_a_fault_is_named_where_it_is(
    own_lab: Lab, tmp_path: Path
) -> None:
    before = objects(own_lab)
    healthy = cli(own_lab, "doctor", "--for", "1", "--json")
    assert healthy.stdout, healthy.stderr
    found = from_json(json.loads(healthy.stdout))
    assert bad(found) == {}
    assert healthy.returncode == judge.exit_status(found)
    assert (found.nodes, found.emulated) == (("node-1", "node-2"), True)
    assert found.counts()[Verdict.OK] > 20
    assert objects(own_lab) == before

    fault = ("bpffs-missing", "--name", own_lab.name)
    assert cli(own_lab, "lab", "fault", *fault, "--node", "node-2").returncode == 0
    told = cli(own_lab, "doctor", "--for", "0", "--check", "A4", "--check", "A9")
    assert told.returncode == 1, told.stdout
    assert told.stdout.startswith("FAIL: 1 of 2 checks fails (node-2).\n")
    assert "FAIL     A4 bpffs, node-2: Is the BPF file system mounted?" in told.stdout
    assert "OK       A4 bpffs, node-1:" in told.stdout
    assert told.stderr == ""

    # A campaign is told before its first trial, and keeps it.
    assert before_a_campaign(own_lab, tmp_path) == [
        "FAIL: A4 bpffs (node-2): /sys/fs/bpf is not mounted: what Felix pins is lost when it "
        "restarts, and pods drop packets until programs are loaded anew."
    ]
    assert cli(own_lab, "lab", "heal", *fault).returncode == 0
    assert before_a_campaign(own_lab, tmp_path) == []
    kept = [from_json(document) for document in Store.open(tmp_path / "run").preflights()]
    assert [list(bad(each)) for each in kept] == [["FAIL"], []]
