"""Drops of a lab's programs: so many datagrams against a deny list, counted, named, logged."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab.namespaces import eventually, socket_in
from typer.testing import CliRunner

from ebpfperf.cli import app
from ebpfperf.cluster import Cluster
from ebpfperf.drop_differences import NONE, Drop, NodeDrops, Source, between
from ebpfperf.drop_reading import Watched
from ebpfperf.lab.running import Lab
from ebpfperf.log_level import restored
from ebpfperf.model import ClusterRef, Dataplane, Endpoint, Flow, Overlay, Treatment
from ebpfperf.model import Path as FlowPath
from ebpfperf.mutations import FELIX, Mutation
from ebpfperf.probes.host_text import parse_clsact

pytestmark = pytest.mark.lab

FLOW = Flow("tcp", FlowPath.POD_POD, "tcp")
EBPF = Treatment("none", Overlay.NONE, dataplane=Dataplane.EBPF)
DENIED, DATAGRAMS = 5997, 13


@dataclass(frozen=True)
class Settled:
    lab: Lab
    cluster: Cluster
    client: Endpoint
    server: Endpoint

    def send(self, count: int) -> None:
        """Datagrams from the client's pod to the port that is denied."""
        assert self.client.netns_pid is not None
        with socket_in(self.client.netns_pid, socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(count):
                with contextlib.suppress(PermissionError):
                    sock.sendto(b"x", (self.server.address, DENIED))

    def watched(self) -> Watched:
        node = self.cluster.client_node
        return Watched({node: self.cluster.nodes[node]}, self.cluster.release)

    def dropped(self, count: int) -> NodeDrops:
        """What the client's node dropped when so many were sent, once that are as many."""
        watched, node = self.watched(), self.cluster.client_node
        before = watched.read()[node]
        self.send(count)

        def found() -> NodeDrops | None:
            seen = between(before, watched.read()[node], release=self.cluster.release)
            return seen if seen.packets >= count else None

        seen = eventually("as many drops", found)
        assert watched.lost == {}
        return seen

    def denies(self) -> bool:
        """Whether a datagram more was dropped at once."""
        watched, node = self.watched(), self.cluster.client_node
        before = watched.read()[node]
        self.send(1)
        return between(before, watched.read()[node]).packets == 1

    @property
    def arguments(self) -> list[str]:
        return ["--kubeconfig", str(self.lab.kubeconfig), "--ssh-config", str(self.lab.ssh_config)]


@pytest.fixture(scope="module")
def settled(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settled]:
    ref = ClusterRef(kubeconfig=str(lab.kubeconfig), ssh_config=str(lab.ssh_config))
    with Cluster.connect(ref, journal=tmp_path_factory.mktemp("drops") / "journal.json") as cluster:
        found = cluster.settle(EBPF, (FLOW,))
        client, server = (found.endpoints[FLOW.path, role] for role in ("client", "server"))
        deny = [{"direction": "egress", "cidr": "0.0.0.0/0", "protocol": "UDP", "port": DENIED}]
        body = {"metadata": {"annotations": {"lab.ebpfperf/deny": json.dumps(deny)}}}
        workload = client.workload
        cluster.kube.apply(Mutation("patch", "Pod", workload.name, workload.namespace, body))
        place = Settled(lab, cluster, client, server)
        eventually("the deny list in place", place.denies)
        yield place


def only(found: NodeDrops) -> Drop:
    (drop,) = [drop for drop in found.drops if drop.packets]
    return drop


def test_what_a_program_drops_is_counted_by_device_hook_and_reason(settled: Settled) -> None:
    found = settled.dropped(DATAGRAMS)
    drop = only(found)
    assert (drop.device, drop.hook, drop.way) == (
        settled.client.host_device,
        "ingress",
        "from the pod",
    )
    assert (drop.reason, drop.packets, drop.source) == ("by policy", DATAGRAMS, Source.COUNTERS)
    assert drop.seen is not None
    assert drop.seen >= DATAGRAMS
    assert {d.reason for d in found.drops if d is not drop} == {NONE}
    assert found.remarks == ()


def test_the_command_shows_it_and_changes_nothing(settled: Settled) -> None:
    kube = settled.cluster.kube
    before = kube.get(*FELIX)
    asked = ["drops", "--for", "0.2s", "--json", "--node", settled.cluster.client_node]
    done = CliRunner().invoke(app, [*asked, *settled.arguments])
    assert done.exit_code == 0, done.output
    (node,) = json.loads(done.stdout)["nodes"]
    assert (node["source"], node["packets"]) == ("counters", 0)
    assert settled.client.host_device in {drop["device"] for drop in node["drops"]}
    assert kube.get(*FELIX) == before


def test_qdiscs_are_read_as_tc_shows_them(settled: Settled) -> None:
    settled.dropped(DATAGRAMS)
    node = settled.cluster.client_node
    shown = settled.cluster.nodes[node].run(["tc", "-s", "-j", "qdisc", "show"]).text
    dropped = {d: lost for d, (_, lost) in settled.watched().read()[node].qdiscs.items()}
    assert dropped[settled.client.host_device] >= DATAGRAMS
    assert dropped == parse_clsact(shown)


def spec(settled: Settled) -> Any:
    return (settled.cluster.kube.get(*FELIX) or {})["spec"]


def started(settled: Settled, cwd: Path, seconds: str, *further: str) -> subprocess.Popen[str]:
    code = "from ebpfperf.cli import main\nmain()"
    asked = ["drops", "--for", "0.1s", "--log-for", seconds, "--json", *further]
    asked += settled.arguments
    return subprocess.Popen(
        [sys.executable, "-c", code, *asked],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip


def test_who_and_why_and_the_level_is_back(settled: Settled, tmp_path: Path) -> None:
    before = spec(settled)
    assert before.get("bpfLogLevel") in (None, "", "Off")
    over, sent = threading.Event(), 0

    def keep_sending() -> None:
        nonlocal sent
        while not over.wait(0.05):
            settled.send(1)
            sent += 1

    sender = threading.Thread(target=keep_sending)
    sender.start()
    try:
        with started(settled, tmp_path, "1s") as command:
            out, said = command.communicate(timeout=240)
    finally:
        over.set()
        sender.join()
    assert command.returncode == 0, said
    log = json.loads(out)["log"]
    mine = [row for row in log["drops"] if row["destination"].endswith(f":{DENIED}")]
    (row,) = mine
    assert row["device"] == settled.client.host_device
    assert row["source"].split(":")[0] == settled.client.address
    assert "policy" in row["reason"]
    # Each that was sent is told of once, and those before and after the log of none.
    assert 0 < row["packets"] < sent
    assert "costs much" in said
    assert spec(settled) == before


def test_the_level_is_put_back_after_kill_9(settled: Settled, tmp_path: Path) -> None:
    """Of one node: its own resource was not there, and is not there again."""
    before, node = spec(settled), settled.cluster.client_node
    kube = settled.cluster.kube
    assert kube.felix_configuration(f"node.{node}") is None
    with started(settled, tmp_path, "60s", "--node", node) as command:
        own = eventually("the node's own", lambda: kube.felix_configuration(f"node.{node}"))
        command.send_signal(signal.SIGKILL)
    assert own["spec"] == {"bpfLogLevel": "Debug"}
    said = restored(tmp_path / "runs/log-level")
    assert any(text.startswith(f"delete FelixConfiguration node.{node}") for text in said)
    assert kube.felix_configuration(f"node.{node}") is None
    assert spec(settled) == before
    assert restored(tmp_path / "runs/log-level") == ()
