"""Packets followed from device to device: each of a prime number, and each step of its way."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from lab.losses import counter
from two_pods import TwoPods
from watched import TRIES, Watched, flow, lost, watched

from ebpfperf.cluster import Cluster
from ebpfperf.histograms import KERNEL
from ebpfperf.lab.running import Lab
from ebpfperf.model import (
    ClusterRef,
    Dataplane,
    Direction,
    Endpoint,
    Flow,
    Overlay,
    Status,
    Treatment,
)
from ebpfperf.model import Path as FlowPath
from ebpfperf.probes import probe
from ebpfperf.probes.answers import file
from ebpfperf.probes.hops import Hops
from ebpfperf.probes.observers import Observers, _Observer
from ebpfperf.remote import Node
from ebpfperf.units import NS_PER_S

pytestmark = pytest.mark.lab

PRIME = 101
PORT = 11113
# Every packet, and none is given up for having been still: a machine may stand still for seconds.
EVERY = {"sample": 1, "limit_ns": 100 * NS_PER_S}
PROBE = Hops()
# Messages one way over UDP, or to and fro over TCP, or one way over TCP that nobody reads; both
# ends in one program, each in its own network namespace. The reader waits before it reads each.
TALK = """
import ctypes, socket, sys, threading, time
kind, client, server, port, number, wait_s, client_ns, server_ns = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
stream = kind != "udp"
kind_of = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM

def enter(pid):
    with open(f"/proc/{pid}/ns/net") as handle:
        assert libc.setns(handle.fileno(), 0x40000000) == 0

enter(server_ns)
listener = socket.socket(socket.AF_INET, kind_of)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((server, int(port)))
if stream:
    listener.listen()
enter(client_ns)
speaker = socket.socket(socket.AF_INET, kind_of)
speaker.bind((client, 0))
speaker.connect((server, int(port)))
if stream:
    speaker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    hearer, _ = listener.accept()
for _ in range(int(number)):
    speaker.sendall(b"x" * 50)
    if kind == "unread":
        continue
    time.sleep(float(wait_s))
    if kind == "tcp":
        assert len(hearer.recv(100)) == 50
        hearer.sendall(b"y" * 50)
        assert len(speaker.recv(100)) == 50
    else:
        assert len(listener.recv(100)) == 50
"""


def talk(
    client: Endpoint, server: Endpoint, kind: str = "tcp", *, number: int = PRIME,
    port: int = PORT, wait_s: float = 0,
) -> None:  # fmt: skip
    ends = [client.address, server.address, str(port), str(number), str(wait_s)]
    pids = [str(end.netns_pid) for end in (client, server)]
    argv = [sys.executable, "-c", TALK, kind, *ends, *pids]
    subprocess.run(argv, check=True, timeout=240)


def once(arm: Callable[[], object], work: Callable[[], object], *ends: Endpoint) -> None:
    """``work`` after ``arm``, anew where a segment was sent twice: where the machine stood still.

    What is sent again is followed as well, and comes to no reader.
    """
    pids = [end.netns_pid for end in ends if end.netns_pid is not None]

    def sent_again() -> int:
        return sum(counter(pid, "Tcp", "RetransSegs") for pid in pids)

    for _ in range(TRIES):
        arm()
        before = sent_again()
        work()
        if sent_again() == before:
            return
    pytest.fail(f"segments were sent twice in each of {TRIES} attempts")


def steps(answer: Mapping[str, Any], sender: str) -> dict[str, dict[str, Any]]:
    """``pod-queue>veth-rx`` → what was counted; the whole ways by their one place."""
    return {
        step["from"] if step["from"] == step["to"] else f"{step['from']}>{step['to']}": step
        for step in answer["steps"].get(sender, [])
    }


def assert_whole(answer: Mapping[str, Any], sender: str, way: list[str], number: int) -> None:
    """So many packets went that way and no other, and its steps make up the whole exactly."""
    found = steps(answer, sender)
    assert [name for name in found if ">" in name] == way
    assert {step["events"] for step in found.values()} == {number}
    parts = sum(found[name]["sum_ns"] for name in way)
    assert parts == found["pod-queue"]["sum_ns"]  # the whole way's row
    for step in found.values():
        assert sum(count for _, count in step["bins"]) == number
        # The exact sum lies where the bins say.
        lower = sum(KERNEL.bounds_ns(index)[0] * count for index, count in step["bins"])
        upper = sum(KERNEL.bounds_ns(index)[1] * count for index, count in step["bins"])
        assert lower <= step["sum_ns"] < upper


def pairs(*places: str) -> list[str]:
    return [f"{one}>{other}" for one, other in itertools.pairwise(places)]


# ------------------------------------------------------------------------- two namespaces, a veth


@pytest.fixture(scope="module")
def every(pods: TwoPods) -> Iterator[Watched]:
    """Follows every packet, from when it is armed."""
    with watched(pods, "hops", options=EVERY) as made:
        yield made


VETH = pairs("pod-queue", "pod-rx", "pod-receive", "socket-copy")


def test_every_message_and_answer_is_followed_to_its_reader(pods: TwoPods, every: Watched) -> None:
    both = pods.client, pods.server
    once(every.arm, lambda: talk(*both), *both)
    answer, reading = every.collect()
    for sender in ("client", "server"):
        assert_whole(answer, sender, VETH, PRIME)
    walks = answer["walks"]
    assert (walks["started"], walks["finished"]) == (2 * PRIME, 2 * PRIME)
    assert (walks["unfinished"], walks["stale"], walks["foreign"]) == (0, 0, 0)
    assert reading.metrics["hops_packets"] == 2 * PRIME


@pytest.mark.parametrize(
    ("direction", "sender"), [(Direction.FORWARD, "client"), (Direction.REVERSE, "server")]
)
def test_of_a_bulk_flow_the_sender_is_followed(
    pods: TwoPods, every: Watched, direction: Direction, sender: str
) -> None:
    both, asked = (pods.client, pods.server), flow("tcp", direction=direction)
    once(lambda: every.arm(asked), lambda: talk(*both, port=5203), *both)
    answer, _ = every.collect()
    assert set(answer["steps"]) == {sender}
    assert_whole(answer, sender, VETH, PRIME)


def test_datagrams_are_followed_too(pods: TwoPods, every: Watched) -> None:
    every.arm(flow("udp"))
    talk(pods.client, pods.server, "udp", port=5201)
    answer, _ = every.collect()
    # No event tells of their reading.
    assert_whole(answer, "client", VETH[:-1], PRIME)


def test_a_reader_that_waits_is_found_in_the_right_bin(pods: TwoPods, every: Watched) -> None:
    both = pods.client, pods.server
    once(every.arm, lambda: talk(*both, number=7, wait_s=0.1), *both)
    answer, _ = every.collect()
    found = steps(answer, "client")

    def longer(name: str) -> int:
        """How many took 100 ms or more: where a bin has both, they are counted."""
        return sum(
            count for i, count in found[name]["bins"] if KERNEL.bounds_ns(i)[1] > 100_000_000
        )

    # Never less than it waited; a loaded machine may wake it late, and deliver one late.
    assert found["pod-queue"]["events"] == longer("pod-queue") == 7
    assert longer("pod-receive>socket-copy") > 7 / 2
    others = [name for name in found if name.endswith(("pod-rx", "pod-receive"))]
    assert others
    assert all(longer(name) < 7 / 2 for name in others)


def test_other_ports_are_not_followed_and_none_is_zero(pods: TwoPods, every: Watched) -> None:
    every.arm()
    talk(pods.client, pods.server, port=11200)
    answer, reading = every.collect()
    assert answer["walks"]["started"] == 0
    assert reading.metrics == {"hops_packets": 0.0}


def test_buffers_that_are_used_again_are_not_taken_for_the_same_packet(
    pods: TwoPods, every: Watched
) -> None:
    both = pods.client, pods.server

    def begin() -> None:
        # What nobody reads is put together with what came before: its buffers serve others.
        every.arm()
        for _ in range(5):
            talk(*both, "unread")

    once(begin, lambda: talk(*both), *both)
    answer, _ = every.collect()
    walks = answer["walks"]
    assert walks["finished"] == 2 * PRIME < walks["started"]
    for sender in ("client", "server"):
        assert steps(answer, sender)["pod-receive>socket-copy"]["events"] == PRIME
    assert walks["unfinished"] + walks["stale"] + walks["foreign"] > 0


def test_one_of_so_many_is_followed(pods: TwoPods) -> None:
    with watched(pods, "hops", options={**EVERY, "sample": 4}) as some:
        some.arm(flow("udp"))
        talk(pods.client, pods.server, "udp", port=5201, number=4001)
        answer, _ = some.collect()
    # A quarter by chance: a thousand within eight standard deviations.
    assert 780 < answer["walks"]["started"] < 1220
    assert answer["walks"]["finished"] == answer["walks"]["started"]


# ------------------------------------------------------------------------------------- a cluster


@pytest.fixture(scope="module")
def cluster(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    ref = ClusterRef(kubeconfig=str(lab.kubeconfig), ssh_config=str(lab.ssh_config))
    journal = tmp_path_factory.mktemp("hops") / "journal.json"
    with Cluster.connect(ref, journal=journal) as made:
        yield made


FLOW = Flow("f", FlowPath.POD_POD, "request-response", duration_s=1, omit_s=0)
OUT, IN = ("pod-queue", "veth-rx", "veth-receive"), ("pod-rx", "pod-receive", "socket-copy")
WIRE = ("nic-queue", "nic-xmit", "nic-rx", "nic-receive")
# The lab's IPIP on a kernel without the device is a program on the NIC: no device is queued at.
WAYS = {
    "none": pairs(*OUT, *WIRE, "veth-queue", *IN),
    "ipip": pairs(*OUT, *WIRE, "tunnel-receive", "veth-queue", *IN),
    "vxlan": pairs(*OUT, "tunnel-queue", *WIRE, "tunnel-receive", "veth-queue", *IN),
}


class Apart(Observers):
    """Takes every node for one with a kernel of its own."""

    def _start(self, node: Node) -> None:
        super()._start(node)
        observer: _Observer = self._observers[node.name]
        observer.kernel = node.name


@contextlib.contextmanager
def loaded(cluster: Cluster, kind: type[Observers], **options: Any) -> Iterator[Observers]:
    made = kind([PROBE], share=1.0, whole=True, options={"hops": {**EVERY, **options}})
    try:
        made.attach(cluster.nodes)
        assert made.refused() == {}
        yield made
    finally:
        made.detach()


def kernels(made: Observers) -> list[dict[str, Any]]:
    raw = made.collect()[PROBE.name]
    assert PROBE.parse(FLOW, raw).status is Status.OK
    found: list[dict[str, Any]] = json.loads(raw[file(PROBE.name)])["kernels"]
    return found


def lacking(answer: Mapping[str, Any], way: list[str]) -> dict[tuple[str, str], int]:
    """Sender and step → packets, where they are fewer than were sent.

    Without a look at headers, what carries no data is followed as well.
    """
    seen = {
        (sender, name): steps(answer, sender).get(name, {"events": 0})["events"]
        for sender in ("client", "server")
        for name in way
    }
    return {place: events for place, events in seen.items() if events < PRIME}


def talked(
    made: Observers,
    asked: Flow,
    client: Endpoint,
    server: Endpoint,
    *,
    inside: Sequence[Endpoint] = (),
) -> None:
    """Armed for a flow and talked, ``inside`` these or its ends, with no segment sent twice."""

    def arm() -> None:
        assert made.arm([PROBE.name], asked, client, server) == {}

    ends = inside or (client, server)
    once(arm, lambda: talk(*ends), *ends)


@pytest.mark.parametrize("overlay", ["none", "ipip", "vxlan"])
def test_the_way_from_pod_to_pod(cluster: Cluster, overlay: str) -> None:
    settled = cluster.settle(Treatment(overlay, Overlay(overlay), dataplane=Dataplane.STANDARD),
                             [FLOW])  # fmt: skip
    client, server = (settled.endpoints[FLOW.path, end] for end in ("client", "server"))
    device = any(
        fact.name == "ipip_driver" and "BPF" not in fact.value and "in use" not in fact.value
        for fact in settled.facts
    )
    way = WAYS[overlay]
    if overlay == "ipip" and device:
        way = WAYS["vxlan"]
    # As one kernel; then by the devices' names alone; and each node as if its kernel were its own.
    with loaded(cluster, Observers) as made:
        talked(made, FLOW, client, server)
        (kernel,) = kernels(made)
        for sender in ("client", "server"):
            assert_whole(kernel["answer"], sender, way, PRIME)
    if overlay != "vxlan":
        return
    with loaded(cluster, Observers, variant="tracepoint") as made:
        for _ in range(TRIES):
            talked(made, FLOW, client, server)
            (kernel,) = kernels(made)
            fewer = lacking(kernel["answer"], way)
            # Here the kernel passes events over while one of its processors has a task, preempted
            # or not, in the middle of bpf(2): and says how many.
            if not fewer or not lost(kernel["answer"]):
                break
        assert fewer == {}
    with loaded(cluster, Apart) as made:
        talked(made, FLOW, client, server)
        halves = {kernel["node"]: kernel["answer"] for kernel in kernels(made)}
        here = steps(halves[client.node], "client")
        there = steps(halves[server.node], "client")
    left, right = way[: way.index("nic-xmit>nic-rx")], way[way.index("nic-xmit>nic-rx") + 1 :]
    assert [name for name in here if ">" in name] == left
    assert [name for name in there if ">" in name] == right
    assert {step["events"] for step in (*here.values(), *there.values())} == {PRIME}
    assert here["nic-xmit"]["sum_ns"] == sum(here[name]["sum_ns"] for name in left)
    assert there["socket-copy"]["sum_ns"] == sum(there[name]["sum_ns"] for name in right)


def test_from_node_to_node(cluster: Cluster) -> None:
    asked = Flow("f", FlowPath.HOST_HOST, "request-response", duration_s=1, omit_s=0)
    settled = cluster.settle(Treatment("none", Overlay.NONE), [asked])
    client, server = (settled.endpoints[asked.path, end] for end in ("client", "server"))
    with loaded(cluster, Observers) as made:
        nodes = {node: made._observers[node].pid for node in cluster.nodes}
        inside = [_at(end, nodes[end.node]) for end in (client, server)]
        talked(made, asked, client, server, inside=inside)
        (kernel,) = kernels(made)
    for sender in ("client", "server"):
        assert_whole(kernel["answer"], sender, pairs(*WIRE, "socket-copy"), PRIME)


def _at(end: Endpoint, pid: int) -> Endpoint:
    return Endpoint(end.workload, end.address, pid, end.device, end.host_device, end.mtu_bytes)


def test_its_slices_are_within_the_share(cluster: Cluster) -> None:
    from ebpfperf.loads import load

    asked = Flow("f", FlowPath.POD_POD, "request-response", duration_s=2, omit_s=0)
    settled = cluster.settle(Treatment("vxlan", Overlay.VXLAN), [asked])
    client, server = (settled.endpoints[asked.path, end] for end in ("client", "server"))
    made = Observers([PROBE], share=0.1, options={"hops": EVERY})
    made.attach(cluster.nodes)
    try:
        assert made.arm([PROBE.name], asked, client, server) == {}
        driver = load(asked.load)
        raw = driver.drive(asked, client, server, cluster.nodes)
        requests = driver.parse(asked, raw).metrics["requests"]
        reading = probe("hops").parse(asked, made.collect()[PROBE.name])
    finally:
        made.detach()
    (watched_s,) = [float(f.value) for f in reading.facts if f.name == "hops_watched_s"]
    assert 0 < watched_s <= 0.25
    # Requests and answers of a part of the time alone, and none of the connection's beginning.
    assert 0 < reading.metrics["hops_packets"] < 2 * requests
    ways = {row.metric for row in reading.histograms}
    assert {"hop_ns:=sender", "hop_ns:=receiver", "hop_ns:=end-to-end"} <= ways
    assert {f"hop_ns:{step}" for step in WAYS["vxlan"]} <= ways
