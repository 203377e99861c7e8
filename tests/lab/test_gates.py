"""What the gates judge by, measured on an embedded cluster: noise, the wire, drops."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator

import pandas as pd
import pytest
from lab.namespaces import eventually, socket_in

from ebpfperf import frames, gates, quiet, records, wire
from ebpfperf.cluster import Cluster, Settled
from ebpfperf.lab.running import Lab
from ebpfperf.model import (
    Campaign,
    ClusterRef,
    Dataplane,
    Endpoint,
    Flow,
    Overlay,
    Quiet,
    Status,
    Treatment,
    Trial,
    TrialResult,
)
from ebpfperf.model import Path as FlowPath
from ebpfperf.mutations import Mutation
from ebpfperf.watching import Watch

pytestmark = pytest.mark.lab

FLOW = Flow("tcp", FlowPath.POD_POD, "tcp", duration_s=1, omit_s=0)
EBPF_NONE = Treatment("none", Overlay.NONE, dataplane=Dataplane.EBPF)
EBPF_VXLAN = Treatment("vxlan", Overlay.VXLAN, dataplane=Dataplane.EBPF)
IPIP = Treatment("ipip", Overlay.IPIP, dataplane=Dataplane.STANDARD)
CAMPAIGN = Campaign("gates", 1, 1, "none", (EBPF_NONE, EBPF_VXLAN, IPIP), (FLOW,))
PORT, DENIED = 5201, 5998
DATAGRAMS = 7


@pytest.fixture(scope="module")
def cluster(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    ref = ClusterRef(kubeconfig=str(lab.kubeconfig), ssh_config=str(lab.ssh_config))
    journal = tmp_path_factory.mktemp("gates") / "journal.json"
    with Cluster.connect(ref, journal=journal) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def watch(cluster: Cluster) -> Iterator[Watch]:
    with Watch((), cluster.nodes, share_pct=4) as watch:
        yield watch


def talk(client: Endpoint, server: Endpoint) -> None:
    """A connection and a word each way, from pod to pod."""
    assert client.netns_pid is not None
    assert server.netns_pid is not None
    tcp = (socket.AF_INET, socket.SOCK_STREAM)
    with socket_in(server.netns_pid, *tcp) as waits, socket_in(client.netns_pid, *tcp) as dials:
        waits.bind((server.address, PORT))
        waits.listen()
        dials.connect((server.address, PORT))
        accepted, _ = waits.accept()
        with accepted:
            dials.sendall(b"ping")
            assert accepted.recv(4) == b"ping"
            accepted.sendall(b"pong")
            assert dials.recv(4) == b"pong"


def seen(watch: Watch, settled: Settled, *, extra: int = 0) -> TrialResult:
    """A trial that only talks, and sends ``extra`` datagrams to a port.

    It lasts several of the hundredths of a second in which the kernel counts processors' time:
    of a shorter one nobody knows how busy they were, and its columns are not there.
    """
    client, server = (settled.endpoints[FLOW.path, role] for role in ("client", "server"))
    trial = Trial("b000-x-tcp", 0, 0, settled.treatment, FLOW)
    with watch.armed(trial, client, server, views=settled.views) as found:
        talk(client, server)
        assert client.netns_pid is not None
        with socket_in(client.netns_pid, socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(extra):
                with contextlib.suppress(PermissionError):
                    sock.sendto(b"x", (server.address, DENIED))
        time.sleep(10 / os.sysconf("SC_CLK_TCK"))
    (reading,) = found.read(trial).values()
    assert found.warnings == ()
    return TrialResult(
        trial, Status.OK, "", "2026-11-25T07:00:00Z", 1.0, 0.0,
        reading.metrics, reading.samples, (), (*found.facts, *reading.facts),
    )  # fmt: skip


def judged(result: TrialResult) -> pd.DataFrame:
    tables = {
        name: frames.build(name, rows) for name, rows in records.rows("gates", result).items()
    }
    return gates.of_trials(tables["trials"], tables["samples"], tables["facts"], CAMPAIGN)


def tripped(result: TrialResult) -> dict[str, str]:
    """Gate → severity."""
    found = gates.tripped(judged(result))
    return dict(zip(found["gate"], found["severity"], strict=True))


def on_the_wire(result: TrialResult) -> tuple[str, str]:
    values = {fact.name: fact.value for fact in result.facts}
    return values[wire.SEEN], values[wire.EXPECTED]


def test_a_busy_node_is_waited_for_and_the_trial_is_marked(cluster: Cluster) -> None:
    """One loop takes half of a machine of two processors, and a sixteenth of one of sixteen."""
    loop_pct = 100 / (os.cpu_count() or 1)
    asked = Quiet(sample_s=0.2, busy_pct=loop_pct / 3, wait_s=0.6)
    node = cluster.nodes[cluster.client_node]
    loop = ["sh", "-c", "echo on; while :; do :; done"]
    with node.stream(loop, grace_s=0) as stream:
        assert stream.read_line(timeout_s=10) == b"on"
        reading = quiet.wait(cluster.nodes, (cluster.client_node, cluster.server_node), asked)
    assert reading.status is Status.OK
    assert reading.metrics["idle_busy_pct"] > loop_pct / 3
    assert reading.metrics["waited_s"] >= asked.wait_s - 2 * asked.sample_s - 0.2
    loud = quiet.wait(
        cluster.nodes, [cluster.client_node], Quiet(sample_s=0.1, busy_pct=100), nics={}
    )
    assert loud.metrics["waited_s"] == 0
    assert "idle_nic_bits_per_s" not in loud.metrics


@pytest.mark.parametrize(
    ("treatment", "mode"), [(EBPF_NONE, "none"), (EBPF_VXLAN, "vxlan"), (IPIP, "ipip")]
)
def test_the_wire_shows_what_was_applied(
    cluster: Cluster, watch: Watch, treatment: Treatment, mode: str
) -> None:
    result = seen(watch, cluster.settle(treatment, [FLOW]))
    assert on_the_wire(result) == (mode, mode)
    assert result.metrics["clock_step_s"] < 0.1
    assert result.metrics["clsact_drops"] == 0 or treatment is IPIP
    assert 0 <= result.metrics["other_nic_bits_per_s"] < 1e6
    for end in ("client", "server"):
        assert 0 <= result.metrics[f"{end}_busiest_core_pct"] <= 100
    assert {"wrong_path", "clsact_drops", "clock"} & set(tripped(result)) == set()


def test_encapsulation_that_routes_lack_is_a_wrong_path(cluster: Cluster, watch: Watch) -> None:
    settled = cluster.settle(IPIP, [FLOW])
    names = (cluster.client_node, cluster.server_node)
    before = {}
    for name, peer in zip(names, reversed(names), strict=True):
        node, view = cluster.nodes[name], settled.views[name]
        (route,) = (r for r in view.routes if r.device == "tunl0" and r.kind == "unicast")
        before[name] = route
        assert view.nic is not None
        by_nic = ["via", settled.views[peer].address, "dev", view.nic.name]
        node.run(["ip", "route", "replace", route.destination, *by_nic])
    try:
        result = seen(watch, settled)
    finally:
        for name, route in before.items():
            way = ["via", route.gateway, "dev", route.device, "onlink"]
            cluster.nodes[name].run(["ip", "route", "replace", route.destination, *way])
    assert on_the_wire(result) == ("none", "ipip")
    assert tripped(result)["wrong_path"] == "void"
    assert gates.excluded(judged(result)) == {"b000-x-tcp"}


def test_what_programs_drop_is_counted(cluster: Cluster, watch: Watch) -> None:
    settled = cluster.settle(EBPF_NONE, [FLOW])
    client = settled.endpoints[FLOW.path, "client"]
    deny = [{"direction": "egress", "cidr": "0.0.0.0/0", "protocol": "UDP", "port": DENIED}]
    body = {"metadata": {"annotations": {"lab.ebpfperf/deny": json.dumps(deny)}}}
    workload = client.workload
    cluster.kube.apply(Mutation("patch", "Pod", workload.name, workload.namespace, body))

    def denied() -> TrialResult | None:
        result = seen(watch, settled, extra=DATAGRAMS)
        return result if result.metrics["clsact_drops"] == DATAGRAMS else None

    result = eventually("the deny list in place", denied)
    at = {s.metric: s.value for s in result.samples if s.value and "clsact" in s.metric}
    assert at == {f"clsact_drops:{client.host_device}": DATAGRAMS}
    assert tripped(result)["clsact_drops"] == "void"
