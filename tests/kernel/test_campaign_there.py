"""A lab and a campaign on Debian 12's stock kernel: right numbers of things, nothing about speed.

The lab is on that kernel, the kit on this one: they meet over SSH and the API, as on any cluster.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kernel.machine import NAME, PROJECT, Machine, release_of, stock_image

from ebpfperf import Store, plan, probes, runner
from ebpfperf.calico.releases import FULL_VERSIONS
from ebpfperf.cluster import Cluster
from ebpfperf.lab import programs
from ebpfperf.model import ClusterRef
from ebpfperf.remote import Node

LAB = "there"
RELEASE = "v3.26"
CAMPAIGN = f"""\
campaign: there
seed: 61
blocks: 1
aa_test: false
quiet: {{sample_s: 0.1, wait_s: 0}}
baseline: none
treatments:
  - {{name: none, overlay: none, dataplane: ebpf}}
  - {{name: ipip, overlay: ipip, dataplane: ebpf}}
  - {{name: vxlan, overlay: vxlan, dataplane: ebpf}}
  - {{name: standard, overlay: none, dataplane: standard}}
flows:
  - {{name: tcp, path: pod-pod, load: tcp, duration_s: 1, omit_s: 0}}
  - {{name: rr, path: pod-pod, load: request-response, duration_s: 1, omit_s: 0, message_bytes: 64}}
probes: [{", ".join(probes.NAMES)}]
probe_share_pct: 100
"""
TRAFFIC_S = 1
TUNNELS = {"ipip": "tunl0", "vxlan": "vxlan.calico"}
EBPFPERF = [str(PROJECT / ".venv/bin/python"), "-m", "ebpfperf.cli"]
TRACES = ["python3", str(Path(__file__).with_name("traces.py"))]
# In one line each.
LOOK = ["sh", "-c", "ip -j -s link show && bpftool -j net show"]
# Loaded by the lab's first device of the kind, and no trace of the lab.
MODULES = ["ipip", "vxlan", "bridge", "veth", "sch_ingress", "cls_bpf"]
# A clean-up that the kernel puts off.
GONE_S = 20.0
COMMAND_S = 600.0


@dataclass(frozen=True, slots=True)
class Look:
    """A node's devices as ``ip -j -s link`` prints them, and the programs on their hooks."""

    links: Sequence[Mapping[str, Any]]
    programs: Sequence[Mapping[str, Any]]

    @classmethod
    def at(cls, node: Node) -> Look:
        links, hooks = node.run(LOOK, timeout_s=COMMAND_S).text.splitlines()
        return cls(json.loads(links), json.loads(hooks)[0]["tc"])

    def sent_bytes(self, device: str) -> int:
        """Since the device was made; none where there is no such device."""
        sent = {link["ifname"]: link["stats64"]["tx"]["bytes"] for link in self.links}
        return int(sent.get(device, 0))

    def hooks(self) -> set[tuple[str, str]]:
        """Device and direction of each program."""
        return {(one["devname"], one["kind"].rpartition("/")[2]) for one in self.programs}

    def pods(self) -> list[str]:
        """The devices that lead to pods."""
        return [link["ifname"] for link in self.links if link["ifname"].startswith("cali")]


@dataclass
class Ran:
    """What is known of the campaign: its store, and what was seen beside it.

    Attributes
    ----------
    looks
        Trial → node → its devices and the programs on them, after the trial.
    """

    store: Store
    ipip: str = ""
    looks: dict[str, dict[str, Look]] = field(default_factory=dict)
    left: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def trials(self) -> pd.DataFrame:
        return self.store.frame("trials").set_index("trial_id")

    def facts(self, name: str) -> list[str]:
        facts = self.store.frame("facts")
        return list(facts[facts["name"] == name]["value"])

    def carried_bytes(self, trial_id: str, device: str) -> int:
        """What the nodes sent through that device between the trial before it and its end."""
        order = list(self.looks)
        index = order.index(trial_id)
        now, earlier = self.looks[trial_id], self.looks[order[index - 1]] if index else {}
        before = {node: look.sent_bytes(device) for node, look in earlier.items()}
        # A device that is new counts from zero.
        return sum(max(0, now[node].sent_bytes(device) - before.get(node, 0)) for node in now)


def traces(there: Machine) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(there.run(TRACES, limit_s=COMMAND_S))
    return found


def left_of(before: Mapping[str, list[str]], there: Machine) -> dict[str, list[str]]:
    """Kind → what was not there before, once the kernel has freed what nobody holds."""
    deadline = time.monotonic() + GONE_S
    while True:
        now = traces(there)
        left = {kind: sorted({*now[kind]} - {*before[kind]}) for kind in now}
        if not any(left.values()) or time.monotonic() > deadline:
            return left


def reached(there: Machine, directory: Path) -> ClusterRef:
    """The lab as a cluster that is reached by one jump and one forwarded port."""
    home = f"/run/ebpfperf/lab/{LAB}"

    for name in ("ssh_config", "known_hosts", "id_ed25519", "kubeconfig"):
        text = there.run(["cat", f"{home}/{name}"], limit_s=COMMAND_S)
        if name == "kubeconfig":
            document = json.loads(text)
            cluster = document["clusters"][0]["cluster"]
            port = there.forward(int(cluster["server"].rpartition(":")[2]))
            cluster["server"] = f"https://127.0.0.1:{port}"
            text = json.dumps(document)
        if name == "ssh_config":
            text = text.replace(home, str(directory))
            text = text.replace("  User root\n", f"  User root\n  ProxyJump {NAME}\n")
            text += there.ssh_config.read_text()
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)
    return ClusterRef(
        kubeconfig=str(directory / "kubeconfig"), ssh_config=str(directory / "ssh_config")
    )


@pytest.fixture(scope="module")
def ran(there: Machine, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    directory = tmp_path_factory.mktemp("there")
    # Compiled here, in a second, and read there: under emulation it takes minutes.
    programs.prepare(FULL_VERSIONS[RELEASE])
    there.run(["modprobe", "-a", *MODULES], limit_s=COMMAND_S)
    before = traces(there)
    (directory / "there.yaml").write_text(CAMPAIGN)
    campaign = plan.load(directory / "there.yaml")
    ran = Ran(Store.create(directory / "run", campaign))
    clusters: list[Cluster] = []

    there.run([*EBPFPERF, "lab", "up", "--name", LAB, "--release", RELEASE], limit_s=COMMAND_S)
    try:
        ref = reached(there, directory)

        def connect(_: ClusterRef, journal: Path) -> Cluster:
            clusters.append(Cluster.connect(ref, journal=journal))
            node = clusters[0].nodes["node-1"]
            ran.ipip = node.run(["ip", "-d", "link", "show", "type", "ipip"]).text
            return clusters[0]

        for result in runner.run(ran.store, connect=connect):
            nodes = clusters[0].nodes
            with ThreadPoolExecutor(len(nodes)) as pool:
                seen = pool.map(Look.at, nodes.values())
                ran.looks[result.trial.trial_id] = dict(zip(nodes, seen, strict=True))
    finally:
        there.run([*EBPFPERF, "lab", "down", "--name", LAB], limit_s=COMMAND_S)
    ran.left = left_of(before, there)
    return ran


def test_nodes_run_debians_kernel(ran: Ran) -> None:
    image = stock_image()
    assert image is not None
    assert set(ran.facts("kernel")) == {release_of(image)}


def test_every_trial_is_ok(ran: Ran) -> None:
    planned = [trial.trial_id for trial in plan.schedule(ran.store.campaign)]
    assert dict(ran.trials["reason"]) == dict.fromkeys(planned, "")
    assert set(ran.trials["status"]) == {"ok"}


def test_tunl0_is_the_kernels_own_device(ran: Ran) -> None:
    assert "tunl0" in ran.ipip
    assert set(ran.facts("ipip_driver")) == {"kernel ipip device"}


@pytest.mark.parametrize("overlay", TUNNELS)
def test_overlay_carries_what_the_flow_sends(ran: Ran, overlay: str) -> None:
    (trial_id,) = ran.trials.query(f"treatment == {overlay!r} and flow == 'tcp'").index
    received = ran.trials.loc[trial_id, "received_bits_per_s"] * TRAFFIC_S / 8
    assert ran.carried_bytes(trial_id, TUNNELS[overlay]) > received > 0


@pytest.mark.parametrize("device", TUNNELS.values())
@pytest.mark.parametrize("treatment", ["none", "standard"])
def test_no_overlay_carries_nothing(ran: Ran, treatment: str, device: str) -> None:
    (trial_id,) = ran.trials.query(f"treatment == {treatment!r} and flow == 'tcp'").index
    assert ran.carried_bytes(trial_id, device) == 0


@pytest.mark.parametrize("treatment", ["none", "ipip", "vxlan"])
def test_programs_are_on_both_sides_of_the_devices(ran: Ran, treatment: str) -> None:
    for trial_id in ran.trials.query(f"treatment == {treatment!r}").index:
        for node, look in ran.looks[trial_id].items():
            nic = f"ens1{node.removeprefix('node-')}"
            devices = [nic, *look.pods(), *([TUNNELS[treatment]] if treatment in TUNNELS else [])]
            assert look.pods()
            assert {*product(devices, ("ingress", "egress"))} <= look.hooks()


def test_standard_dataplane_has_no_program(ran: Ran) -> None:
    for trial_id in ran.trials.query("treatment == 'standard'").index:
        assert [look.programs for look in ran.looks[trial_id].values()] == [[], []]


@pytest.mark.parametrize("probe", probes.NAMES)
def test_probe_watches_every_trial(ran: Ran, probe: str) -> None:
    warnings = dict(ran.trials["warnings"])
    assert {trial: said for trial, said in warnings.items() if f"probe {probe}:" in said} == {}


@pytest.mark.parametrize(
    ("function", "overlay"), [("ipip_tunnel_xmit", "ipip"), ("vxlan_xmit", "vxlan")]
)
def test_function_of_an_overlay_runs_under_it_alone(ran: Ran, function: str, overlay: str) -> None:
    seen = ran.store.frame("histograms").query(f"metric == 'function_ns:{function}'")
    assert set(ran.trials.loc[seen["trial_id"], "overlay"]) == {overlay}


def test_packets_are_encapsulated_as_their_treatment_says(ran: Ran) -> None:
    seen, wanted = (ran.facts(name) for name in ("wire_overlay", "wire_expected"))
    assert len(seen) == len(ran.trials)
    assert seen == wanted


def test_conditions_of_every_trial_were_read_on_both_nodes(ran: Ran) -> None:
    assert ran.facts("conditions") == ["read"] * 2 * len(ran.trials)


def test_round_trips_of_tcp_are_counted(ran: Ran) -> None:
    events = ran.trials.query("load == 'tcp'")["srtt_events"]
    assert (events > 0).all(), dict(events)


@pytest.mark.parametrize(
    "kind",
    ["processes", "namespaces", "mounts", "devices", "programs", "maps", "cgroups", "files"],
)
def test_lab_down_leaves_nothing(ran: Ran, kind: str) -> None:
    assert ran.left[kind] == []
