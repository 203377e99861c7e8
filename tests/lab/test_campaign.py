"""Whole campaigns on an embedded cluster: killed, interrupted, broken, resumed, put back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ebpfperf import plan, runner
from ebpfperf.cluster import Cluster
from ebpfperf.kube import Kube
from ebpfperf.lab.running import Lab
from ebpfperf.model import (
    Campaign,
    ClusterRef,
    Flow,
    Overlay,
    Status,
    Treatment,
    Trial,
    TrialResult,
)
from ebpfperf.model import Path as FlowPath
from ebpfperf.mutations import canonical
from ebpfperf.store import Store

pytestmark = pytest.mark.lab

CLI = [sys.executable, "-m", "ebpfperf.cli"]
FILE = """\
campaign: short
seed: 5
blocks: 1
baseline: none
treatments: [none, vxlan]
flows:
  - {name: tcp, path: pod-pod, load: tcp, duration_s: 1, omit_s: 0}
  - {name: host, path: host-host, load: tcp, duration_s: 1, omit_s: 0}
probes: [tcp_rtt]
aa_test: false
quiet: {sample_s: 0.1, wait_s: 0}
"""


def specs(lab: Lab) -> dict[str, str]:
    """Every Calico object's spec as canonical bytes, and the names of namespaces and kit pods."""
    kube = Kube.connect(str(lab.kubeconfig), None)
    try:
        found = {f"ippool {p['metadata']['name']}": canonical(p["spec"]) for p in kube.ippools()}
        felix = kube.felix_configuration()
        found["felix"] = "absent" if felix is None else canonical(felix["spec"])
        found["pods"] = str(len(kube.pods("ebpfperf")))
        found["namespace"] = str(kube.get("Namespace", "ebpfperf") is not None)
    finally:
        kube.close()
    return found


def environment(lab: Lab) -> dict[str, str]:
    return {
        **os.environ,
        "KUBECONFIG": str(lab.kubeconfig),
        "EBPFPERF_SSH_CONFIG": str(lab.ssh_config),
    }


def cli(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *arguments],
        env=environment(lab),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while not what():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def on_nodes(lab: Lab, name: str, argument: str = "") -> list[int]:
    """Pids of processes of that name in the lab's nodes and pods (by their cgroup)."""
    found = []
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if path.name.isdigit() and (path / "comm").read_text().strip() == name:
                arguments = (path / "cmdline").read_text().split("\0")
                here = f"ebpfperf-lab-{lab.name}" in (path / "cgroup").read_text()
                if here and (not argument or argument in arguments):
                    found.append(int(path.name))
    return found


@contextlib.contextmanager
def running(lab: Lab, file: Path, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*CLI, "run", str(file), "--out", str(out)],
        env=environment(lab),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def recorded(out: Path) -> list[Path]:
    return list(out.glob("trials/*/record.json"))


def held_in_a_trial(lab: Lab, process: subprocess.Popen[bytes]) -> bool:
    """Whether a load's client runs while the campaign is stopped: then a trial is in hand.

    The client alone: before any trial, iperf3 is asked for its version. If not, it goes on.
    """
    if not on_nodes(lab, "iperf3", "-c"):
        return False
    process.send_signal(signal.SIGSTOP)
    if on_nodes(lab, "iperf3", "-c"):
        return True
    process.send_signal(signal.SIGCONT)
    return False


@pytest.mark.usefixtures("true_restarts")
def test_killed_restored_resumed(lab: Lab, tmp_path: Path) -> None:
    file, out = tmp_path / "short.yaml", tmp_path / "run"
    # The bare trials are of the same flow: three trials, in an order that the seed gives.
    lines = [line for line in FILE.splitlines() if "host-host" not in line]
    file.write_text("\n".join([*lines, "probes_off: true", ""]))
    before = specs(lab)
    with running(lab, file, out) as process:
        # Mid-trial: one trial is recorded, and the load of the second is there.
        wait_for(lambda: len(recorded(out)) >= 1)
        wait_for(lambda: held_in_a_trial(lab, process))
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    first = {path.parent.name: path.read_bytes() for path in recorded(out)}
    assert 0 < len(first) < 3
    assert specs(lab) != before

    # What ran on the nodes for it has ended with the connection.
    wait_for(lambda: not on_nodes(lab, "iperf3"))

    status = json.loads(cli(lab, "status", str(out), "--json").stdout)
    assert status["cluster_to_be_restored"] is True
    done = cli(lab, "restore", str(out))
    assert done.returncode == 0, done.stderr
    assert specs(lab) == before
    again = cli(lab, "restore", str(out))
    assert (again.returncode, "Nothing to restore" in again.stdout) == (0, True)

    done = cli(lab, "run", str(file), "--out", str(out))
    assert done.returncode == 0, done.stderr
    store = Store.open(out)
    order = [trial.trial_id for trial in plan.schedule(store.campaign)]
    results = list(store.results())
    assert [result.trial.trial_id for result in results] == order
    assert len(order) == 3
    assert sorted(results, key=lambda r: r.start_utc) == results
    assert {result.status for result in results} == {Status.OK}
    watched = {result.trial.trial_id for result in results if "srtt_events" in result.metrics}
    assert watched == {name for name in order if not name.endswith("-bare")} < set(order)
    for name, record in first.items():
        assert (out / "trials" / name / "record.json").read_bytes() == record
    assert specs(lab) == before


def test_ctrl_c_stops_after_the_trial_in_hand(lab: Lab, tmp_path: Path) -> None:
    file, out = tmp_path / "short.yaml", tmp_path / "run"
    file.write_text(FILE)
    before = specs(lab)
    with running(lab, file, out) as process:
        wait_for(lambda: held_in_a_trial(lab, process))
        ended = len(recorded(out))
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        assert process.wait(60) == 130
    assert len(recorded(out)) == ended + 1 < 4
    assert {json.loads(file.read_text())["status"] for file in recorded(out)} == {"ok"}
    assert specs(lab) == before


def test_the_command_line_end_to_end(lab: Lab, tmp_path: Path) -> None:
    nodes = json.loads(cli(lab, "nodes", "--json").stdout)
    assert [(row["node"], row["ssh"]) for row in nodes] == [("node-1", "ok"), ("node-2", "ok")]
    facts = json.loads(cli(lab, "facts", "--json").stdout)
    boots = {fact["value"] for fact in facts if fact["name"] == "boot_id"}
    assert boots == {Path("/proc/sys/kernel/random/boot_id").read_text().strip()}
    bad = cli(lab, "run", str(tmp_path / "none.yaml"))
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("error: ")
    assert "Traceback" not in bad.stderr


@dataclass
class Tampered:
    """A campaign of host-host trials on the lab, whose SSH configuration a test may spoil."""

    lab: Lab
    store: Store
    ssh_config: Path
    cluster: Cluster | None = None
    seen: list[TrialResult] = field(default_factory=list)

    def connect(self, ref: ClusterRef, journal: Path) -> Cluster:
        self.cluster = Cluster.connect(ref, journal=journal)
        return self.cluster

    def cut(self, node: str) -> None:
        """End the connection to a node, as a reboot would."""
        assert self.cluster is not None
        self.cluster.nodes[node].close()

    def run(self, spoil: dict[int, Callable[[], None]]) -> list[TrialResult]:
        """All results; ``spoil[n]`` is called before trial n."""

        def on_start(trial: Trial) -> None:
            spoil.get(trial.order, lambda: None)()

        return list(runner.run(self.store, connect=self.connect, on_start=on_start))


@pytest.fixture
def tampered(lab: Lab, tmp_path: Path) -> Tampered:
    config, hosts = tmp_path / "ssh_config", tmp_path / "known_hosts"
    original = lab.ssh_config.read_text()
    hosts.write_bytes((lab.ssh_config.parent / "known_hosts").read_bytes())
    config.write_text(original.replace(str(lab.ssh_config.parent / "known_hosts"), str(hosts)))
    campaign = Campaign(
        name="tampered",
        seed=1,
        blocks=1,
        baseline="one",
        treatments=tuple(Treatment(name, Overlay.NONE) for name in ("one", "two", "three")),
        flows=(Flow("host", FlowPath.HOST_HOST, "tcp", duration_s=1, omit_s=0),),
        cluster=ClusterRef(kubeconfig=str(lab.kubeconfig), ssh_config=str(config)),
    )
    return Tampered(lab, Store.create(tmp_path / "run", campaign), config)


def check(results: list[TrialResult], code: str) -> str:
    """The reason of the one failed trial: the second, with that code; the others are ok."""
    assert [str(r.status) for r in results] == ["ok", "failed", "ok"], [r.reason for r in results]
    assert results[1].reason.startswith(f"{code}: "), results[1].reason
    return results[1].reason


def test_a_changed_host_key_is_a_failed_trial(tampered: Tampered) -> None:
    hosts = tampered.ssh_config.parent / "known_hosts"
    good = hosts.read_text()
    first, *others = good.splitlines()
    swapped = "\n".join([f"{first.split()[0]} ssh-ed25519 {others[0].split()[2]}", *others, ""])

    def spoil() -> None:
        hosts.write_text(swapped)
        tampered.cut("node-1")

    results = tampered.run({1: spoil, 2: lambda: hosts.write_text(good) and None})
    assert "host key" in check(results, "host_key")


def test_a_dead_node_is_a_failed_trial(tampered: Tampered) -> None:
    good = tampered.ssh_config.read_text()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]

    def spoil() -> None:
        tampered.ssh_config.write_text(good.replace("Port 2222", f"Port {port}"))
        tampered.cut("node-2")

    results = tampered.run({1: spoil, 2: lambda: tampered.ssh_config.write_text(good) and None})
    assert "node-2" in check(results, "unreachable")


def test_a_node_without_iperf3_is_a_failed_trial(tampered: Tampered) -> None:
    node = tampered.lab.nodes[0]
    # In the node's own mount namespace: there, and only there, the binary cannot be run.
    inside = ["nsenter", "-t", str(node.holder_pid), "-m", "--"]

    def spoil() -> None:
        subprocess.run([*inside, "mount", "--bind", "/dev/null", "/usr/bin/iperf3"], check=True)

    def mend() -> None:
        subprocess.run([*inside, "umount", "/usr/bin/iperf3"], check=True)

    results = tampered.run({1: spoil, 2: mend})
    assert [str(r.status) for r in results] == ["ok", "failed", "ok"]
    assert "iperf3" in results[1].reason


def test_a_frozen_load_is_ended_and_a_failed_trial(
    tampered: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that hangs: its iperf3 server is stopped dead while the trial needs it."""
    monkeypatch.setattr("ebpfperf.loads.iperf3._GRACE_S", 2.0)
    stop = threading.Event()

    def freeze() -> None:
        while not stop.is_set():
            for pid in on_nodes(tampered.lab, "iperf3"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            time.sleep(0.02)

    thread = threading.Thread(target=freeze)

    def mend() -> None:
        stop.set()
        thread.join()

    results = tampered.run({1: thread.start, 2: mend})
    assert [str(r.status) for r in results] == ["ok", "failed", "ok"], results[1].reason
    assert results[1].reason
    wait_for(lambda: not on_nodes(tampered.lab, "iperf3"))


def test_a_probe_that_cannot_run_is_a_warning(tampered: Tampered) -> None:
    store = tampered.store
    made = Store.create(
        store.path.with_name("probed"),
        replace(store.campaign, probes=("tcp_rtt",), treatments=store.campaign.treatments[:2]),
    )
    tampered.store = made
    nodes = tampered.lab.nodes
    for node in nodes:
        inside = ["nsenter", "-t", str(node.holder_pid), "-m", "--"]
        hide = [
            *inside,
            "mount",
            "--bind",
            "/dev/null",
            "/usr/lib/python3/dist-packages/bcc/__init__.py",
        ]
        subprocess.run(hide, check=True)
    try:
        results = tampered.run({})
    finally:
        for node in nodes:
            inside = ["nsenter", "-t", str(node.holder_pid), "-m", "--"]
            subprocess.run(
                [*inside, "umount", "/usr/lib/python3/dist-packages/bcc/__init__.py"], check=True
            )
    assert {str(r.status) for r in results} == {"ok"}
    assert all(any("tcp_rtt" in w for w in r.warnings) for r in results)
    assert all("received_bits_per_s" in r.metrics for r in results)
