"""The probe in the real kernel: exact counts, both ends apart, once loaded, nothing left."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from two_pods import TwoPods

from ebpfperf.errors import ProbeError
from ebpfperf.loads import PORTS, load
from ebpfperf.model import Direction, Endpoint, Flow, Status
from ebpfperf.model import Path as FlowPath
from ebpfperf.probes import probe
from ebpfperf.probes.answers import file
from ebpfperf.probes.observers import COMMAND, Observers, sources
from ebpfperf.remote import SSHNode

pytestmark = pytest.mark.lab

PRIME = 1009
# A request and its answer at a time over one connection; both ends in one program, each in its
# own network namespace.
EXCHANGE = """
import ctypes, socket, sys, threading
client, server, port, number, client_ns, server_ns = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)

def enter(pid):
    with open(f"/proc/{pid}/ns/net") as handle:
        assert libc.setns(handle.fileno(), 0x40000000) == 0

enter(server_ns)
listener = socket.create_server((server, int(port)))

def serve():
    connection, _ = listener.accept()
    while data := connection.recv(100):
        connection.sendall(data)

thread = threading.Thread(target=serve)
thread.start()
enter(client_ns)
with socket.create_connection((server, int(port)), 5, (client, 0)) as connection:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(int(number)):
        connection.sendall(b"x" * 50)
        assert len(connection.recv(100)) == 50
thread.join()
"""


BROKEN = """
from ground import Probe as Base

class Probe(Base):
    name, source = "broken", "int broken_event(void *ctx) { return no_such_thing; }"
    hooks = (("tracepoint", "net:netif_rx", "broken_event"),)

    def __init__(self, ground, options):
        pass
"""
PROBE = probe("tcp_rtt")


def flow(name: str = "request-response", **fields: Any) -> Flow:
    return Flow("f", FlowPath.POD_POD, name, **{"duration_s": 1, "omit_s": 0, **fields})


def exchange(pods: TwoPods, number: int, *, port: int = PORTS["request-response"][3]) -> None:
    ends = [pods.client.address, pods.server.address, str(port), str(number)]
    argv = [sys.executable, "-c", EXCHANGE, *ends, *map(str, pods.holders())]
    subprocess.run(argv, check=True, timeout=60)


def attach(nodes: Mapping[str, SSHNode], **options: Any) -> Observers:
    """The probe on those nodes, counting everything from when it is armed."""
    made = Observers([PROBE], **{"share": 1.0, "whole": True, **options})
    made.attach(nodes)
    return made


@pytest.fixture(scope="module")
def attached(pods: TwoPods) -> Iterator[Observers]:
    """The probe on both nodes, loaded once for all tests here."""
    made = Observers([PROBE], share=1.0, whole=True)
    facts = made.attach(pods.nodes)
    for why in made.refused().values():
        cannot = any(f"({reason})" in why for reason in ("no_tracepoint", "not_loaded"))
        pytest.skip(f"{'cannot' if cannot else 'missing'}: {why}")
    assert {fact.node for fact in facts} == {"node-1", "node-2"}
    assert {"probes_bcc", "probes_headers", "tcp_rtt_variant"} <= {f.name for f in facts}
    yield made
    made.detach()


def arm(observers: Observers, asked: Flow, client: Endpoint, server: Endpoint) -> None:
    assert observers.arm([PROBE.name], asked, client, server) == {}


def seen(attached: Observers) -> dict[str, Any]:
    """End → what was counted there, and what the kernel passed over."""
    document = json.loads(attached.collect()[PROBE.name][file(PROBE.name)])
    return {
        end: {**slot, "lost": kernel["answer"]["program"]["recursion_misses"]}
        for kernel in document["kernels"]
        for end, slot in kernel["answer"]["ends"].items()
    }


def metrics(attached: Observers, asked: Flow) -> Mapping[str, float]:
    reading = PROBE.parse(asked, attached.collect()[PROBE.name])
    assert reading.status is Status.OK
    return reading.metrics


def assert_answers(ends: dict[str, Any], end: str, number: int) -> None:
    """Exactly so many segments with data; fewer only by what the kernel says it passed over."""
    slot = ends[end]
    assert number - slot["lost"] <= slot["data"] <= number


def test_a_prime_number_of_answers_is_counted_exactly(pods: TwoPods, attached: Observers) -> None:
    arm(attached, flow(), pods.client, pods.server)
    exchange(pods, PRIME)
    ends = seen(attached)
    assert_answers(ends, "client", PRIME)
    slot = ends["client"]
    # Every segment that was counted has a place, bare ACKs of the connection's ends included.
    assert sum(count for _, count in slot["bins"]) == slot["events"] >= slot["data"]


def test_armed_again_it_starts_from_nothing(pods: TwoPods, attached: Observers) -> None:
    for number in (31, 13):
        arm(attached, flow(), pods.client, pods.server)
        exchange(pods, number)
        assert_answers(seen(attached), "client", number)


def test_nothing_is_counted_of_other_ports_and_other_addresses(
    pods: TwoPods, attached: Observers
) -> None:
    arm(attached, flow(), pods.client, pods.server)
    exchange(pods, 17, port=PORTS["request-response"][-1] + 1)
    assert metrics(attached, flow()) == {"srtt_events": 0.0}
    arm(attached, flow(), pods.server, pods.client)
    exchange(pods, 17)
    assert metrics(attached, flow())["srtt_events"] == 0


def test_the_ends_of_one_kernel_are_told_apart(pods: TwoPods, attached: Observers) -> None:
    arm(attached, flow("tcp", direction=Direction.BIDIR), pods.client, pods.server)
    exchange(pods, 23, port=PORTS["tcp"][2])
    ends = seen(attached)
    # Both ends got 23 segments with data, each counted once and at its own end.
    assert set(ends) == {"client", "server"}
    for end in ends:
        assert_answers(ends, end, 23)


def test_the_warmup_is_left_out(pods: TwoPods) -> None:
    made = attach({"node-1": pods.nodes["node-1"]}, whole=False)
    try:
        arm(made, flow(omit_s=3600), pods.client, pods.server)
        exchange(pods, 19)
        slot = seen(made)["client"]
        assert (slot["events"], slot["data"], slot["bins"]) == (0, 0, [])
        assert slot["outside"] >= 19
    finally:
        made.detach()


def test_a_bulk_flow_has_its_round_trips_in_slices_of_its_window(pods: TwoPods) -> None:
    made = attach(pods.nodes, whole=False, share=0.2)
    asked = flow("tcp", omit_s=1, duration_s=2)
    try:
        arm(made, asked, pods.client, pods.server)
        driver = load("tcp")
        raw = driver.drive(asked, pods.client, pods.server, pods.nodes)
        assert driver.parse(asked, raw).status is Status.OK
        reading = PROBE.parse(asked, made.collect()[PROBE.name])
    finally:
        made.detach()
    found = reading.metrics
    assert found["srtt_events"] == sum(row.count for row in reading.histograms) > 0
    assert 0 < found["srtt_p50_ns"] <= found["srtt_p99_ns"]
    # Two periods of a second with a slice of a fifth each; detaching it takes a while too.
    (watched,) = [float(f.value) for f in reading.facts if f.name == "tcp_rtt_watched_s"]
    assert 0.2 <= watched <= 1.0


def test_a_udp_flow_is_passed_over(pods: TwoPods, attached: Observers) -> None:
    asked = flow("udp", rate_bits_per_s=1e6)
    arm(attached, asked, pods.client, pods.server)
    reading = PROBE.parse(asked, attached.collect()[PROBE.name])
    assert reading.metrics == {}
    assert [fact.name for fact in reading.facts] == ["tcp_rtt_skipped"]


def pids(pods: TwoPods) -> set[int]:
    """The observers' own interpreters, of this test's connections only."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if b"observer.main()" in (entry / "cmdline").read_bytes():
                found |= {pid for pid in (int(entry.name),) if pods.owns(pid)}
        except (OSError, ValueError):
            continue
    return found


def test_detached_nothing_is_left(pods: TwoPods) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    before = pids(pods)
    made = attach({"node-1": pods.nodes["node-1"]})
    mine = pids(pods) - before
    assert mine
    made.detach()
    made.detach()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in mine):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert Path("/proc/self/mounts").read_text() == mounts


class Scripted:
    """A node whose python3 is another program."""

    def __init__(self, node: Any, argv: list[str]) -> None:
        self._node, self._argv = node, argv
        self.name = node.name

    def stream(self, argv: list[str], **options: Any) -> Any:
        return self._node.stream(self._argv, **options)


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["/nonexistent/python3"], "no_python"),
        (["sh", "-c", "read x; echo oops >&2; exit 3"], "ended"),
        (["sh", "-c", "read x; echo not json"], "unreadable"),
        (
            [
                "sh",
                "-c",
                """read x; echo '{"event":"failed","reason":"no_bcc","message":"None."}'""",
            ],
            "no_bcc",
        ),
    ],
)
def test_a_node_that_cannot_run_it_says_why(pods: TwoPods, argv: list[str], reason: str) -> None:
    made = attach({"node-1": Scripted(pods.nodes["node-1"], argv)})  # type: ignore[dict-item]
    (why,) = made.refused().values()
    assert why.startswith("node-1: ")
    assert f"({reason})" in why
    assert reason in made.arm([PROBE.name], flow(), pods.client, pods.server)[PROBE.name]
    assert made.collect() == {}


def test_one_node_without_it_costs_only_the_flows_that_it_sends(pods: TwoPods) -> None:
    other = Scripted(pods.nodes["node-2"], ["sh", "-c", "read x; exit 127"])
    made = attach({"node-1": pods.nodes["node-1"], "node-2": other})  # type: ignore[dict-item]
    try:
        assert made.refused() == {}
        why = made.arm([PROBE.name], flow(), pods.client, pods.server)[PROBE.name]
        assert why.startswith("node-2: ")
        exchange(pods, 11)
        assert_answers(seen(made), "client", 11)
    finally:
        made.detach()


def test_without_root_the_script_says_so(pods: TwoPods) -> None:
    asked = [sources([PROBE.name]), {"do": "load", "probes": [PROBE.name]}]
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", *COMMAND],
        input="".join(json.dumps(line) + "\n" for line in asked).encode(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    here, loaded = map(json.loads, done.stdout.splitlines())
    assert here["event"] == "here"
    assert loaded["probes"][PROBE.name]["reason"] == "no_permission"


def test_observers_that_died_are_an_error_of_the_trial_only(pods: TwoPods) -> None:
    before = pids(pods)
    made = attach({"node-1": pods.nodes["node-1"]})
    try:
        for pid in pids(pods) - before:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        with pytest.raises(ProbeError) as caught:
            made.arm([PROBE.name], flow(), pods.client, pods.server)
        assert caught.value.fields["reason"] == "ended"
    finally:
        made.detach()


def test_a_probe_that_does_not_compile_leaves_the_others(pods: TwoPods) -> None:
    """What one node script cannot have does not take the other probes with it."""
    broken = {**sources([PROBE.name]), "broken": BROKEN}
    asked = [broken, {"do": "load", "probes": ["broken", PROBE.name]}]
    done = subprocess.run(
        COMMAND,
        input="".join(json.dumps(line) + "\n" for line in asked).encode(),
        capture_output=True,
        timeout=180,
        check=True,
    )
    loaded = json.loads(done.stdout.splitlines()[1])["probes"]
    assert loaded["broken"]["reason"] == "not_loaded"
    assert loaded[PROBE.name]["facts"]["variant"].startswith("tracepoint")
