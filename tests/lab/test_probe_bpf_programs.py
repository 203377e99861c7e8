"""Runs of BPF programs in the real kernel: exact counts, hooks by their names, node by node."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lab.ebpf import Pod, World
from lab.namespaces import inside, socket_in
from two_pods import TwoPods

from ebpfperf.lab import lifecycle
from ebpfperf.lab.state import Shape
from ebpfperf.model import Endpoint, Flow, Reading, Status, Workload, WorkloadKind
from ebpfperf.model import Path as FlowPath
from ebpfperf.probes import probe
from ebpfperf.probes.answers import file
from ebpfperf.probes.observers import Observers
from ebpfperf.remote import SSHNode

pytestmark = pytest.mark.lab

PRIME, PORT = 1009, 9009
PROBE = probe("bpf_programs")
FLOW = Flow("f", FlowPath.POD_POD, "request-response", duration_s=2, omit_s=0)
# iproute2 mounts a BPF file system where it loads a program from a file, and leaves it there.
OWN_MOUNTS = ("unshare", "--mount")
NOTHING = """
__attribute__((section("filter"))) int nothing(void *packet) { return 0; }
__attribute__((section("xdp"))) int passing(void *packet) { return 2; }
char licence[] __attribute__((section("license"))) = "GPL";
"""


def attached(nodes: dict[str, SSHNode], **options: Any) -> Observers:
    """The probe on those nodes; always on unless told otherwise."""
    made = Observers([PROBE], **{"share": 1.0, "whole": True, **options})
    made.attach(nodes)
    for why in made.refused().values():
        made.detach()
        pytest.skip(f"{'cannot' if '(no_statistics)' in why else 'missing'}: {why}")
    return made


def read(observers: Observers) -> tuple[Reading, list[dict[str, Any]]]:
    """The reading, and what each node answered."""
    raw = observers.collect()[PROBE.name]
    reading = PROBE.parse(FLOW, raw)
    assert reading.status is Status.OK
    return reading, json.loads(raw[file(PROBE.name)])["kernels"]


def runs(reading: Reading) -> dict[str, float]:
    """Hook → runs."""
    named = (sample.metric.partition(":") for sample in reading.samples)
    values = (sample.value for sample in reading.samples)
    pairs = zip(named, values, strict=True)
    return {hook: value for (metric, _, hook), value in pairs if metric == "bpf_runs"}


def send(source: int, target: int, address: str, number: int) -> None:
    """So many datagrams, each taken before the next one is sent."""
    kind = socket.AF_INET, socket.SOCK_DGRAM
    with socket_in(target, *kind) as far, socket_in(source, *kind) as near:
        far.bind((address, PORT))
        for _ in range(number):
            near.sendto(b"datagram", (address, PORT))
            assert far.recv(100) == b"datagram"


# --------------------------------------------------------------------------- two pods, no cluster


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("program")
    source, made = directory / "nothing.c", directory / "nothing.o"
    source.write_text(NOTHING)
    command = ["clang", "-O2", "-target", "bpf", "-c", str(source), "-o", str(made)]
    subprocess.run(command, check=True, timeout=60)
    return made


@pytest.fixture(scope="module")
def programs(pods: TwoPods, compiled: Path) -> TwoPods:
    """The same with programs on the client's device, in three hooks."""
    client, _ = pods.holders()
    inside(client, "tc", "qdisc", "add", "dev", "eth0", "clsact")
    for direction in ("ingress", "egress"):
        put_filter(client, direction, compiled)
    xdp = ["xdpgeneric", "obj", str(compiled), "sec", "xdp"]
    inside(client, *OWN_MOUNTS, "ip", "link", "set", "dev", "eth0", *xdp)
    return pods


def put_filter(pid: int, direction: str, program: Path) -> None:
    what = ["bpf", "direct-action", "obj", str(program), "sec", "filter"]
    where = ["dev", "eth0", direction, "pref", "1", "handle", "1"]
    inside(pid, *OWN_MOUNTS, "tc", "filter", "replace", *where, *what)


def test_where_no_program_is_there_are_no_runs(pods: TwoPods) -> None:
    made = attached(pods.nodes)
    try:
        assert made.arm([PROBE.name], FLOW, pods.client, pods.server) == {}
        send(*pods.holders(), pods.server.address, 3)
        reading, _ = read(made)
    finally:
        made.detach()
    assert not any("eth0" in hook and ":" in hook for hook in runs(reading))
    assert reading.metrics["bpf_runs"] == sum(runs(reading).values())
    assert ("bpf_ns_per_run" in reading.metrics) == (reading.metrics["bpf_runs"] > 0)


def test_a_prime_number_of_runs_is_counted_exactly(programs: TwoPods) -> None:
    client, server = programs.holders()
    made = attached(programs.nodes)
    try:
        send(client, server, programs.server.address, 7)
        assert made.arm([PROBE.name], FLOW, programs.client, programs.server) == {}
        send(client, server, programs.server.address, PRIME)
        send(server, client, programs.client.address, 11)
        reading, kernels = read(made)
        found = runs(reading)
        assert found["client: eth0 egress filter"] == PRIME
        assert found["client: eth0 ingress filter"] == found["client: eth0 ingress xdp"] == 11
        times = {s.metric: s.value for s in reading.samples}
        assert times["bpf_ns_per_run:client: eth0 egress filter"] > 0
        # Armed again it starts from nothing.
        assert made.arm([PROBE.name], FLOW, programs.client, programs.server) == {}
        send(client, server, programs.server.address, 13)
        assert runs(read(made)[0])["client: eth0 egress filter"] == 13
    finally:
        made.detach()
    # The second node's observer has no other probe, and the client is not its own.
    assert [kernel["answer"]["ends"] for kernel in kernels] == [["client"], ["server"]]
    assert not any("client" in each["hook"] for each in kernels[1]["answer"]["programs"])


def test_nothing_is_counted_while_nobody_asks(programs: TwoPods) -> None:
    """Slices that did not come yet have no runs: the window opens in an hour."""
    client, server = programs.holders()
    made = attached(programs.nodes, share=0.2, whole=False)
    asked = Flow("f", FlowPath.POD_POD, "tcp", duration_s=2, omit_s=3600)
    try:
        assert made.arm([PROBE.name], asked, programs.client, programs.server) == {}
        send(client, server, programs.server.address, 17)
        raw = made.collect()[PROBE.name]
    finally:
        made.detach()
    here, _ = json.loads(raw[file(PROBE.name)])["kernels"]
    counted = {each["hook"]: each["runs"] for each in here["answer"]["programs"]}
    assert counted["client: eth0 egress filter"] == 0
    # That is not the same as a window without a run.
    assert PROBE.parse(asked, raw).reason.startswith("not_watched: ")


def test_a_program_that_was_replaced_is_told(programs: TwoPods, compiled: Path) -> None:
    client, server = programs.holders()
    made = attached(programs.nodes)
    try:
        assert made.arm([PROBE.name], FLOW, programs.client, programs.server) == {}
        put_filter(client, "egress", compiled)
        send(client, server, programs.server.address, 19)
        reading, _ = read(made)
    finally:
        made.detach()
    changed = {fact.value for fact in reading.facts if fact.name == "bpf_programs_changed"}
    assert changed == {"client: eth0 egress filter"}
    assert runs(reading)["client: eth0 egress filter"] == 0


# -------------------------------------------------------------------------------------- in a lab


@pytest.fixture(scope="module", params=["v3.26", "v3.32"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Filters up to v3.30, TCX later."""
    name = f"bp{os.getpid()}-{request.param.replace('.', '')}"
    try:
        world = World(lifecycle.up(Shape(name, release=request.param))[0])
        world.become("vxlan")
        yield world
        world.kube.close()
    finally:
        lifecycle.down(name)


def endpoint(pod: Pod) -> Endpoint:
    workload = Workload(pod.name, pod.node.name, WorkloadKind.POD, "default")
    return Endpoint(workload, pod.address, pod.pid, "eth0", pod.device, 1450)


def test_hooks_are_named_and_counted_on_their_own_node(world: World) -> None:
    names = ("node-1", "node-2")
    nodes = {n: SSHNode.connect(n, ssh_config=world.lab.ssh_config) for n in names}
    try:
        with world.pod("a", 1) as client, world.pod("b", 2) as server:
            ends = endpoint(client), endpoint(server)
            whole = attached(nodes)
            assert whole.arm([PROBE.name], FLOW, *ends) == {}
            send(client.pid, server.pid, server.address, 101)
            reading, kernels = read(whole)
            whole.detach()
            seen = {
                node.name: {(way, number) for (_, way), number in world.programs(node).items()}
                for node in (client.node, server.node)
            }
            # As little as a campaign's probes are on, while datagrams flow.
            sliced = attached(nodes, share=0.04, whole=False)
            datagrams = replace(FLOW, transport="udp")
            assert sliced.arm([PROBE.name], datagrams, *ends) == {}
            sent, until = 0, time.monotonic() + FLOW.duration_s
            while time.monotonic() < until:
                send(client.pid, server.pid, server.address, 100)
                sent += 100
            part, _ = read(sliced)
            sliced.detach()
    finally:
        for node in nodes.values():
            node.close()
    kind = "tcx" if world.release == "v3.32" else "filter"
    for kernel in kernels:
        there = [(*each["hook"].split()[1:], each["id"]) for each in kernel["answer"]["programs"]]
        assert {(way, number) for way, _, number in there} == seen[kernel["node"]]
        assert {found_kind for _, found_kind, _ in there} == {kind}
    found = runs(reading)
    assert found[f"{client.device} ingress {kind}"] >= 101
    assert found[f"{client.node.nic} egress {kind}"] >= 101
    assert found[f"{server.node.nic} ingress {kind}"] >= 101
    by_hook = {s.metric.partition(":")[2]: s.endpoint for s in reading.samples}
    assert by_hook[f"{client.device} ingress {kind}"] == "client"
    assert by_hook[f"{server.node.nic} ingress {kind}"] == "server"
    watched = [float(f.value) for f in part.facts if f.name == "bpf_programs_watched_s"]
    assert len(watched) == 2
    assert all(0 < each <= 0.3 for each in watched)
    # Most of the time nothing was counted, of the one hook as of the others.
    assert 0 < runs(part)[f"{client.device} ingress {kind}"] < sent / 2
