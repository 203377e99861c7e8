"""Conditions of a lab's nodes: against what other tools say, and what a test changed on a node."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
from synthetic import CAMPAIGN, results, trials_frame

from ebpfperf import conditions, confounders
from ebpfperf.cluster import Cluster
from ebpfperf.facts import node_facts
from ebpfperf.lab.running import Lab
from ebpfperf.model import ClusterRef, Endpoint, Fact, Flow, Overlay, Treatment
from ebpfperf.model import Path as FlowPath

pytestmark = pytest.mark.lab

# ethtool's word for what the kernel calls otherwise.
OLD_WORDS = {
    "rx-checksumming": "rx-checksum",
    "generic-segmentation-offload": "tx-generic-segmentation",
    "generic-receive-offload": "rx-gro",
    "large-receive-offload": "rx-lro",
    "rx-vlan-offload": "rx-vlan-hw-parse",
    "tx-vlan-offload": "tx-vlan-hw-insert",
    "ntuple-filters": "rx-ntuple-filter",
    "receive-hashing": "rx-hashing",
}
# ethtool's words for several of the kernel's at once.
SUMS = {"tx-checksumming", "scatter-gather", "tcp-segmentation-offload"}
PODS = Flow("tcp", FlowPath.POD_POD, "tcp")


@dataclass(frozen=True)
class Settled:
    cluster: Cluster
    client: Endpoint
    server: Endpoint

    def read(self) -> tuple[Fact, ...]:
        return conditions.read(self.cluster.nodes, self.client, self.server)

    def inside(self, *argv: str) -> str:
        """What a command prints in the client's pod."""
        return self.cluster.nodes[self.client.node].run(self.client.within(argv)).text

    def on_node(self, *argv: str) -> str:
        """What a command prints on the client's node."""
        return self.cluster.nodes[self.client.node].run(argv).text


@pytest.fixture(scope="module")
def settled(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settled]:
    ref = ClusterRef(kubeconfig=str(lab.kubeconfig), ssh_config=str(lab.ssh_config))
    journal: Path = tmp_path_factory.mktemp("conditions") / "journal.json"
    with Cluster.connect(ref, journal=journal) as cluster:
        ends = cluster.settle(Treatment("none", Overlay.NONE), (PODS,)).endpoints
        yield Settled(cluster, ends["pod-pod", "client"], ends["pod-pod", "server"])


def by_name(facts: Iterable[Fact], node: str) -> dict[str, str]:
    return {fact.name: fact.value for fact in facts if fact.node == node}


def test_what_is_read_is_what_other_tools_say(settled: Settled) -> None:
    found = by_name(settled.read(), settled.client.node)
    assert found["conditions"] == "read"
    assert set(found["devices"].split()) >= {"nic", "pod", "pod-host"}
    assert found["mtu:pod"] == str(settled.client.mtu_bytes)
    known = by_name(node_facts(settled.cluster.nodes[settled.client.node]), settled.client.node)
    assert found["mtu:nic"] == known["nic_mtu"]
    assert found["kind:nic"] == known["nic_kind"]
    for name in ("kernel", "iperf3_version", "smt_active"):
        assert found[name] == known[name]
    for name in ("net.ipv4.tcp_rmem", "net.ipv4.ip_forward"):
        assert found[f"pod_sysctl:{name}"] == " ".join(settled.inside("sysctl", "-n", name).split())
        assert found[f"sysctl:{name}"] == " ".join(settled.on_node("sysctl", "-n", name).split())


def test_offloads_are_those_that_ethtool_prints(settled: Settled) -> None:
    if shutil.which("ethtool", path="/usr/sbin:/sbin:/usr/bin") is None:
        pytest.skip("missing: ethtool (Debian package ethtool)")
    found = by_name(settled.read(), settled.client.node)
    printed = settled.inside("ethtool", "-k", settled.client.device)
    on = set(re.findall(r"^\s*(\S+): on\b", printed, re.MULTILINE)) - SUMS
    assert set(found["offloads:pod"].split()) == {OLD_WORDS.get(word, word) for word in on}


def test_what_changed_between_two_trials_is_found_and_nothing_else(settled: Settled) -> None:
    before = settled.read()
    node = settled.client.node
    rmem = settled.inside("sysctl", "-n", "net.ipv4.tcp_rmem").split()
    link = ("ip", "link", "set", "dev", settled.client.host_device, "txqueuelen")
    try:
        settled.inside("sysctl", "-qw", "net.ipv4.tcp_rmem=4096 65537 1000003")
        settled.on_node(*link, "997")
        after = settled.read()
    finally:
        settled.inside("sysctl", "-qw", f"net.ipv4.tcp_rmem={' '.join(rmem)}")
        settled.on_node(*link, "1000")
    changed = {
        (fact.node, fact.name, fact.value)
        for fact in after
        if fact not in before and not fact.name.startswith("address:")
    }
    assert changed == {
        (node, "pod_sysctl:net.ipv4.tcp_rmem", "4096 65537 1000003"),
        (node, "txqueuelen:pod-host", "997"),
    }
    assert len(after) == len(before)
    assert settled.read() == before

    other = Treatment("other", Overlay.NONE)
    told = replace(
        CAMPAIGN, treatments=(CAMPAIGN.treatments[0], other), flows=CAMPAIGN.flows[:1], blocks=1
    )
    trials = results(told)
    rows = [
        (told.name, result.trial.trial_id, fact.node, fact.name, fact.value, fact.unit)
        for result in trials
        for fact in (after if result.trial.treatment.name == "other" else before)
    ]
    columns = ["campaign", "trial_id", "node", "name", "value", "unit"]
    found = confounders.differences(
        pd.DataFrame(rows, columns=columns), trials_frame(trials, told), told
    )
    assert set(found["kind"]) == {"confounded"}
    assert set(confounders.marks(found)["other", "tcp"]) == {
        f"confounded by pod_sysctl:net.ipv4.tcp_rmem: 4096 65537 1000003 against {' '.join(rmem)} "
        f"on {node}",
        f"confounded by txqueuelen:pod-host: 997 against 1000 on {node}",
    }
