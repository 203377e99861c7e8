"""Campaigns through a Service on an embedded cluster: by its address, by node ports, killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ebpfperf import plan, runner
from ebpfperf.cluster import Cluster
from ebpfperf.errors import InputError, SettleError
from ebpfperf.kube import Kube
from ebpfperf.kube_objects import internal_ip
from ebpfperf.lab.running import Lab
from ebpfperf.loads import load
from ebpfperf.model import (
    ClusterRef,
    Direction,
    Endpoint,
    Flow,
    Overlay,
    Status,
    Treatment,
    TrialResult,
)
from ebpfperf.model import Path as FlowPath
from ebpfperf.mutations import SERVICE, canonical, delete
from ebpfperf.store import Store

pytestmark = pytest.mark.lab

CLI = [sys.executable, "-m", "ebpfperf.cli"]
OUTSIDE = "client-1"
PATHS = (FlowPath.POD_SERVICE, FlowPath.NODEPORT_LOCAL, FlowPath.NODEPORT_REMOTE)
LOADS = {
    "tcp": "load: tcp",
    # It is the server that sends: datagrams come back through the address that was dialled.
    "udp": "load: udp, rate_bits_per_s: 20M, direction: reverse",
    "rr": "load: request-response",
    "rru": "load: request-response, transport: udp",
}
# sockperf dials a node port of either node in the same way: bulk flows show that both lead on.
WAYS = [
    (path, name)
    for path in PATHS
    for name in LOADS
    if name in ("tcp", "udp") or path is not FlowPath.NODEPORT_LOCAL
]
FLOWS = "".join(
    f"  - {{name: {path}-{name}, path: {path}, {LOADS[name]}, duration_s: 1, omit_s: 0}}\n"
    for path, name in WAYS
)
HEAD = f"""\
campaign: services
seed: 5
blocks: 1
aa_test: false
quiet: {{sample_s: 0.1, wait_s: 0}}
baseline: none
treatments: [none, vxlan]
cluster: {{external_client: {OUTSIDE}}}
probes: [tcp_rtt]
flows:
"""
FLAGS = Treatment("flags", Overlay.VXLAN)


@pytest.fixture
def kube(lab: Lab) -> Iterator[Kube]:
    found = Kube.connect(str(lab.kubeconfig), None)
    yield found
    found.close()


@pytest.fixture
def ref(lab: Lab) -> ClusterRef:
    return ClusterRef(
        kubeconfig=str(lab.kubeconfig), ssh_config=str(lab.ssh_config), external_client=OUTSIDE
    )


def cluster_state(kube: Kube) -> dict[str, str]:
    """Calico's specs as canonical bytes, and what there is of the kit's."""
    felix = kube.felix_configuration()
    return {
        **{pool["metadata"]["name"]: canonical(pool["spec"]) for pool in kube.ippools()},
        "felix": "absent" if felix is None else canonical(felix["spec"]),
        "service": canonical(kube.get("Service", SERVICE, "ebpfperf")),
        "slices": str(len(kube.endpoint_slices("ebpfperf", SERVICE))),
        "pods": str(len(kube.pods("ebpfperf"))),
        "namespace": str(kube.get("Namespace", "ebpfperf") is not None),
    }


def environment(lab: Lab) -> dict[str, str]:
    given = {"KUBECONFIG": str(lab.kubeconfig), "EBPFPERF_SSH_CONFIG": str(lab.ssh_config)}
    return {**os.environ, **given}


def wait_for(what: Callable[[], bool], timeout_s: float = 300.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def connected_to(document: bytes) -> tuple[str, int]:
    """Address and port that iperf3's client says it is connected to."""
    (connected,) = json.loads(document)["start"]["connected"]
    return connected["remote_host"], connected["remote_port"]


def dialled(result: TrialResult) -> str:
    (value,) = [fact.value for fact in result.facts if fact.name == "dialled"]
    return value


@pytest.mark.usefixtures("short_waits")
def test_every_load_goes_by_service_and_node_ports(
    lab: Lab, kube: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the overlay; without one, iperf3 goes these ways in another test."""
    file, out = tmp_path / "c.yaml", tmp_path / "run"
    file.write_text(HEAD + FLOWS)
    read = plan.load(file)
    overlay = tuple(one for one in read.treatments if one.overlay is Overlay.VXLAN)
    for name, value in environment(lab).items():
        monkeypatch.setenv(name, value)
    before = cluster_state(kube)
    store = Store.create(out, replace(read, baseline=overlay[0].name, treatments=overlay))
    run = [result.trial.trial_id for result in runner.run(store)]
    assert cluster_state(kube) == before
    results = list(store.results())
    assert [result.trial.trial_id for result in results] == run
    assert len(results) == len(WAYS)
    assert {(r.trial.trial_id, r.reason, r.warnings) for r in results} == {
        (r.trial.trial_id, "", ()) for r in results
    }
    nodes = {node["metadata"]["name"]: internal_ip(node) for node in kube.nodes()}
    for result in results:
        flow, said = result.trial.flow, dialled(result)
        pod = said.split(" → ")[1].split(":")[0]
        here, _, number = said.split(" → ")[0].split(" ")[-1].partition(":")
        if flow.path is FlowPath.POD_SERVICE:
            assert said.startswith("service 198.18.2"), said
        else:
            node = "node-2" if flow.path is FlowPath.NODEPORT_LOCAL else "node-1"
            assert said.startswith(f"node port of {node} {nodes[node]}:"), said
            assert 30000 <= int(number) < 32768
        if flow.load != "request-response":
            # Both ends as iperf3 itself saw them.
            raw = out / "trials" / result.trial.trial_id / "raw"
            document = (raw / "iperf3.json").read_bytes()
            assert connected_to(document) == (here, int(number))
            assert f"local {pod} port 5201" in (raw / "iperf3-server.txt").read_text()
        if "udp" not in (flow.load, flow.transport):
            assert result.metrics["srtt_events"] > 0, result.trial.trial_id
        if flow.load == "udp":
            assert result.metrics["received_bits_per_s"] > 0


def test_killed_in_the_middle_restore_leaves_no_service(
    lab: Lab, kube: Kube, tmp_path: Path
) -> None:
    file, out = tmp_path / "c.yaml", tmp_path / "run"
    # Many blocks: whoever is slow to see the first trial's record still kills it in the middle.
    head = HEAD.replace("blocks: 1\n", "blocks: 20\n")
    assert head != HEAD
    file.write_text(head + FLOWS.splitlines(keepends=True)[0])
    before = cluster_state(kube)
    process = subprocess.Popen(
        [*CLI, "run", str(file), "--out", str(out)],
        env=environment(lab),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: any(out.glob("trials/*/record.json")))
        process.send_signal(signal.SIGKILL)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait(60)
    assert kube.get("Service", SERVICE, "ebpfperf") is not None
    done = subprocess.run(
        [*CLI, "restore", str(out)],
        env=environment(lab),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"delete Service ebpfperf/{SERVICE}" in done.stdout
    assert cluster_state(kube) == before


def test_the_legs_are_seen_and_the_service_is_kept_over_treatments(
    ref: ClusterRef, kube: Kube, tmp_path: Path
) -> None:
    tcp = Flow("tcp", FlowPath.POD_SERVICE, "tcp", duration_s=1, omit_s=0)
    udp = replace(tcp, name="udp", load="udp", rate_bits_per_s=20e6, direction=Direction.REVERSE)
    flows = [
        replace(flow, name=f"{path}-{flow.name}", path=path)
        for path in PATHS
        for flow in (tcp, udp)
    ]
    with Cluster.connect(ref, journal=tmp_path / "journal.json") as cluster:
        first = cluster.settle(Treatment("none", Overlay.NONE), flows)
        # By the underlay alone too.
        for flow in flows:
            server = first.endpoints[flow.path, "server"]
            by = load(flow.load)
            raw = by.drive(flow, first.endpoints[flow.path, "client"], server, cluster.nodes)
            assert by.parse(flow, raw).status is Status.OK
            there = (server.dialled_address, server.dialled_port(5201))
            assert connected_to(raw["iperf3.json"]) == there
            assert f"local {server.address} port 5201" in raw["iperf3-server.txt"].decode()
        second = cluster.settle(FLAGS, flows)
        facts = {(fact.node, fact.name): fact.value for fact in second.facts}
        assert "dev vxlan.calico" in facts["node-1", "nodeport_remote_route"]
        assert "dev cali" in facts["node-2", "nodeport_local_route"]
        assert "dev vxlan.calico" in facts["node-2", "pod_service_route"]
        assert facts[OUTSIDE, "nodeport_remote_mtu"] == "1500"
        for path in PATHS:
            was, now = (s.endpoints[path, "server"] for s in (first, second))
            assert was.front == now.front
            assert now.front is not None
            assert facts["", f"{path}_answers".replace("-", "_")] == now.dialling(5201)
        outside: Endpoint = second.endpoints[FlowPath.NODEPORT_REMOTE, "client"]
        assert (outside.node, outside.netns_pid) == (OUTSIDE, None)
        assert not cluster.settle(FLAGS, flows).changed
        # Somebody takes the Service away: what was settled is not taken for granted.
        kube.apply(delete("Service", SERVICE, "ebpfperf", why="test"))
        assert cluster.settle(FLAGS, flows).changed
        assert {fact.node for fact in cluster.facts()} >= {"node-1", "node-2", OUTSIDE}


def test_a_node_is_no_client_outside(ref: ClusterRef, lab: Lab, tmp_path: Path) -> None:
    inside = ClusterRef(
        kubeconfig=ref.kubeconfig, ssh_config=ref.ssh_config, external_client=lab.nodes[0].name
    )
    with pytest.raises(InputError, match="is a node of the cluster"):
        Cluster.connect(inside, journal=tmp_path / "journal.json")
    none = ClusterRef(kubeconfig=ref.kubeconfig, ssh_config=ref.ssh_config)
    with (
        Cluster.connect(none, journal=tmp_path / "journal.json") as cluster,
        pytest.raises(SettleError, match="no machine there is named"),
    ):
        cluster.settle(FLAGS, [Flow("n", FlowPath.NODEPORT_LOCAL, "tcp")])
