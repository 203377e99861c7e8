"""The probe in the real kernel: exact counts, both ends apart, once loaded, nothing left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from two_pods import TwoPods, two_pods

from ebpfperf.errors import ProbeError
from ebpfperf.loads import PORTS, load
from ebpfperf.model import Direction, Flow, Status
from ebpfperf.model import Path as FlowPath
from ebpfperf.probes.tcp_rtt import RAW, TcpRtt

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


def flow(name: str = "request-response", **fields: Any) -> Flow:
    return Flow("f", FlowPath.POD_POD, name, **{"duration_s": 1, "omit_s": 0, **fields})


def exchange(pods: TwoPods, number: int, *, port: int = PORTS["request-response"][3]) -> None:
    ends = [pods.client.address, pods.server.address, str(port), str(number)]
    argv = [sys.executable, "-c", EXCHANGE, *ends, *map(str, pods.holders())]
    subprocess.run(argv, check=True, timeout=60)


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoPods]:
    with two_pods(tmp_path_factory.mktemp("pods")) as made:
        yield made


@pytest.fixture(scope="module")
def attached(pods: TwoPods) -> Iterator[TcpRtt]:
    """The probe on both nodes, loaded once for all tests here."""
    made = TcpRtt()
    try:
        facts = made.attach(pods.nodes)
    except ProbeError as error:
        if error.fields["reason"] in ("no_tracepoint", "not_loaded", "no_permission"):
            pytest.skip(f"cannot: {error.what}")
        pytest.skip(f"missing: {error.what}")
    assert {fact.node for fact in facts} == {"node-1", "node-2"}
    assert {"tcp_rtt_bcc", "tcp_rtt_headers", "tcp_rtt_tracepoint"} <= {f.name for f in facts}
    yield made
    made.detach()


def seen(attached: TcpRtt) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(attached.collect()[RAW])
    return answer


def assert_answers(answer: dict[str, Any], end: str, number: int) -> None:
    """Exactly so many segments with data; fewer only by what the kernel says it passed over."""
    slot = answer["ends"][end]
    lost = answer["nodes"][slot["node"]]["lost"] or 0
    assert number - lost <= slot["data"] <= number


def test_a_prime_number_of_answers_is_counted_exactly(pods: TwoPods, attached: TcpRtt) -> None:
    attached.arm(flow(), pods.client, pods.server)
    exchange(pods, PRIME)
    answer = seen(attached)
    assert_answers(answer, "client", PRIME)
    slot = answer["ends"]["client"]
    # Every segment that was counted has a place, bare ACKs of the connection's ends included.
    assert sum(count for _, count in slot["bins"]) == slot["events"] >= slot["data"]


def test_armed_again_it_starts_from_nothing(pods: TwoPods, attached: TcpRtt) -> None:
    for number in (31, 13):
        attached.arm(flow(), pods.client, pods.server)
        exchange(pods, number)
        assert_answers(seen(attached), "client", number)


def test_nothing_is_counted_of_other_ports_and_other_addresses(
    pods: TwoPods, attached: TcpRtt
) -> None:
    attached.arm(flow(), pods.client, pods.server)
    exchange(pods, 17, port=PORTS["request-response"][-1] + 1)
    raw = attached.collect()
    reading = attached.parse(flow(), raw)
    assert reading.status is Status.OK
    assert reading.metrics == {"srtt_events": 0.0}
    attached.arm(flow(), pods.server, pods.client)
    exchange(pods, 17)
    assert attached.parse(flow(), attached.collect()).metrics["srtt_events"] == 0


def test_the_ends_of_one_kernel_are_told_apart(pods: TwoPods, attached: TcpRtt) -> None:
    attached.arm(flow("tcp", direction=Direction.BIDIR), pods.client, pods.server)
    exchange(pods, 23, port=PORTS["tcp"][2])
    answer = seen(attached)
    nodes = {end: slot["node"] for end, slot in answer["ends"].items()}
    assert nodes == {"client": "node-1", "server": "node-2"}
    # Both ends got 23 segments with data, each counted once and at its own end.
    for end in nodes:
        assert_answers(answer, end, 23)


def test_the_warmup_is_left_out(pods: TwoPods, attached: TcpRtt) -> None:
    attached.arm(flow(omit_s=3600), pods.client, pods.server)
    exchange(pods, 19)
    slot = seen(attached)["ends"]["client"]
    assert (slot["events"], slot["data"], slot["bins"]) == (0, 0, [])
    assert slot["warmup"] >= 19


def test_a_bulk_flow_has_its_round_trips(pods: TwoPods, attached: TcpRtt) -> None:
    asked = flow("tcp", omit_s=1)
    attached.arm(asked, pods.client, pods.server)
    driver = load("tcp")
    raw = driver.drive(asked, pods.client, pods.server, pods.nodes)
    raw |= attached.collect()
    assert driver.parse(asked, raw).status is Status.OK
    reading = attached.parse(asked, raw)
    metrics = reading.metrics
    assert metrics["srtt_events"] == sum(row.count for row in reading.histograms) > 0
    assert 0 < metrics["srtt_p50_ns"] <= metrics["srtt_p99_ns"]
    assert json.loads(raw[RAW])["ends"]["client"]["warmup"] > 0


def test_a_udp_flow_is_passed_over(pods: TwoPods, attached: TcpRtt) -> None:
    asked = flow("udp", rate_bits_per_s=1e6)
    attached.arm(asked, pods.client, pods.server)
    reading = attached.parse(asked, attached.collect())
    assert reading.status is Status.OK
    assert reading.metrics == {}


def pids(pods: TwoPods) -> set[int]:
    """The probe's own interpreters, of this test's connections only."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if b"'tcp_rtt.py', 'exec'" in (entry / "cmdline").read_bytes():
                found |= {pid for pid in (int(entry.name),) if pods.owns(pid)}
        except (OSError, ValueError):
            continue
    return found


def test_detached_nothing_is_left(pods: TwoPods) -> None:
    node = {"node-1": pods.nodes["node-1"]}
    mounts = Path("/proc/self/mounts").read_text()
    before = pids(pods)
    made = TcpRtt()
    try:
        made.attach(node)
    except ProbeError as error:
        pytest.skip(f"cannot: {error.what}")
    mine = pids(pods) - before
    assert mine
    made.detach()
    made.detach()
    deadline = time.monotonic() + 5
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
    made = TcpRtt()
    with pytest.raises(ProbeError) as caught:
        made.attach({"node-1": Scripted(pods.nodes["node-1"], argv)})  # type: ignore[dict-item]
    assert caught.value.fields["reason"] == reason
    assert caught.value.what.startswith("node-1: ")
    assert caught.value.remedy
    with pytest.raises(ProbeError):
        made.arm(flow(), pods.client, pods.server)


def test_one_node_without_it_costs_only_the_flows_that_it_sends(pods: TwoPods) -> None:
    other = Scripted(pods.nodes["node-2"], ["sh", "-c", "read x; exit 127"])
    made = TcpRtt()
    try:
        facts = made.attach({"node-1": pods.nodes["node-1"], "node-2": other})  # type: ignore[dict-item]
    except ProbeError as error:
        pytest.skip(f"cannot: {error.what}")
    try:
        (said,) = [fact.value for fact in facts if fact.node == "node-2"]
        assert said.startswith("UNKNOWN: ")
        made.arm(flow(), pods.client, pods.server)
        exchange(pods, 11)
        assert_answers(seen(made), "client", 11)
        with pytest.raises(ProbeError) as caught:
            made.arm(flow("tcp", direction=Direction.REVERSE), pods.client, pods.server)
        assert caught.value.fields["node"] == "node-2"
    finally:
        made.detach()


def test_without_root_the_script_says_so(pods: TwoPods) -> None:
    script = Path(sys.modules[TcpRtt.__module__].__file__ or "").parent / "node" / "tcp_rtt.py"
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-"],
        input=script.read_bytes(),
        capture_output=True,
        timeout=20,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert (answer["event"], answer["reason"]) == ("failed", "no_permission")


def test_a_probe_that_died_is_an_error_of_the_trial_only(pods: TwoPods) -> None:
    before = pids(pods)
    made = TcpRtt()
    try:
        made.attach({"node-1": pods.nodes["node-1"]})
    except ProbeError as error:
        pytest.skip(f"cannot: {error.what}")
    try:
        for pid in pids(pods) - before:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
        with pytest.raises(ProbeError) as caught:
            made.arm(flow(), pods.client, pods.server)
        assert caught.value.fields["reason"] == "ended"
    finally:
        made.detach()
