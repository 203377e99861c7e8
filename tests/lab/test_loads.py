"""Loads driven for real: iperf3 and sockperf between two network namespaces, over a real sshd."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from two_pods import TwoPods

from ebpfperf.errors import LoadError, NodeError
from ebpfperf.loads import PORTS, load
from ebpfperf.loads.iperf3 import DOCUMENT
from ebpfperf.model import Direction, Flow, Reading, Status
from ebpfperf.model import Path as FlowPath

pytestmark = pytest.mark.lab


def flow(name: str, **fields: Any) -> Flow:
    return Flow("f", FlowPath.POD_POD, name, **{"duration_s": 1, "omit_s": 0, **fields})


def drive(pods: TwoPods, asked: Flow) -> tuple[dict[str, bytes], Reading]:
    driver = load(asked.load)
    assert driver.check(asked) is None
    raw = driver.drive(asked, pods.client, pods.server, pods.nodes)
    return raw, driver.parse(asked, raw)


def inside(pods: TwoPods) -> set[str]:
    """Names of the processes that live in the two network namespaces, their holders left out."""
    spaces = {os.readlink(f"/proc/{pid}/ns/net") for pid in pods.holders()}
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in pods.holders():
            try:
                if os.readlink(entry / "ns/net") in spaces:
                    found.add((entry / "comm").read_text().strip())
            except OSError:
                continue
    return found


def nothing_left(pods: TwoPods) -> None:
    deadline = time.monotonic() + 30
    while left := inside(pods):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _ends_alone(pods: TwoPods) -> Iterator[None]:
    yield
    nothing_left(pods)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"omit_s": 1, "streams": 2},
        {"direction": Direction.REVERSE},
        {"direction": Direction.BIDIR, "streams": 2},
        {"message_bytes": 4096, "rate_bits_per_s": 200e6, "mss_bytes": 1000},
    ],
    ids=lambda fields: "-".join(map(str, fields)) or "plain",
)
def test_tcp(pods: TwoPods, fields: dict[str, Any]) -> None:
    _, reading = drive(pods, flow("tcp", **fields))
    assert reading.status is Status.OK, reading.reason
    assert reading.metrics["received_bits_per_s"] > 0
    assert reading.metrics["mtu_bytes"] == 1500
    if "mss_bytes" not in fields:
        # 1500 − 40 of headers − 12 of timestamps.
        assert reading.metrics["mss_bytes"] == 1448
    if rate := fields.get("rate_bits_per_s"):
        assert reading.metrics["received_bits_per_s"] < rate * 1.2
    phases = {sample.phase for sample in reading.samples}
    assert phases == ({"warmup", "measure"} if fields.get("omit_s") else {"measure"})


def test_udp(pods: TwoPods) -> None:
    _, reading = drive(pods, flow("udp", rate_bits_per_s=20e6, message_bytes=1000))
    assert reading.status is Status.OK, reading.reason
    assert 0 <= reading.metrics["lost_pct"] <= 100
    assert reading.metrics["sent_bits_per_s"] < 25e6


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_request_response(pods: TwoPods, transport: str) -> None:
    asked = flow("request-response", transport=transport, message_bytes=64)
    _, reading = drive(pods, asked)
    assert reading.status is Status.OK, reading.reason
    metrics = reading.metrics
    assert metrics["requests"] == sum(row.count for row in reading.histograms) > 0
    ordered = [metrics[f"rr_{name}_ns"] for name in ("p50", "p90", "p99", "p999")]
    assert ordered == sorted(ordered)
    assert metrics["rr_max_ns"] >= ordered[-1] * 0.98


def occupied(pods: TwoPods, port: int) -> subprocess.Popen[bytes]:
    """A stranger that listens on the server's port."""
    code = (
        "import socket, sys; s = socket.create_server((sys.argv[1], int(sys.argv[2])));"
        "print('up', flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", code, pods.server.address, str(port)]
    process = subprocess.Popen(
        pods.server.within(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


@pytest.mark.parametrize("name", ["tcp", "request-response"])
def test_a_port_in_use_is_passed_over(pods: TwoPods, name: str) -> None:
    stranger = occupied(pods, PORTS[name][0])
    try:
        _, reading = drive(pods, flow(name))
    finally:
        stranger.communicate()
    assert reading.status is Status.OK, reading.reason


def test_no_free_port_is_said(pods: TwoPods, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebpfperf.loads.iperf3.PORTS", {"tcp": range(5201, 5203)})
    strangers = [occupied(pods, port) for port in (5201, 5202)]
    try:
        with pytest.raises(LoadError) as caught:
            drive(pods, flow("tcp"))
    finally:
        for stranger in strangers:
            stranger.communicate()
    assert caught.value.fields["reason"] == "port_taken"


class WithoutPrograms:
    """A node on which nothing named iperf3 or sockperf can be found."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self.name = node.name

    def _hidden(self, argv: list[str]) -> list[str]:
        return [f"absent-{a}" if a in ("iperf3", "sockperf") else a for a in argv]

    def run(self, argv: list[str], **options: Any) -> Any:
        return self._node.run(self._hidden(argv), **options)

    def stream(self, argv: list[str], **options: Any) -> Any:
        return self._node.stream(self._hidden(argv), **options)


@pytest.mark.parametrize("name", ["tcp", "request-response"])
@pytest.mark.parametrize("lacking", ["node-1", "node-2"])
def test_a_missing_program_names_node_and_package(pods: TwoPods, name: str, lacking: str) -> None:
    nodes = {**pods.nodes, lacking: WithoutPrograms(pods.nodes[lacking])}
    with pytest.raises(LoadError) as caught:
        load(name).drive(flow(name), pods.client, pods.server, nodes)  # type: ignore[arg-type]
    assert caught.value.fields["reason"] == "missing_binary"
    assert caught.value.what.startswith(f"{lacking}: ")
    assert "apt-get install" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "reason"), [("tcp", "unreachable"), ("request-response", "other")]
)
def test_a_server_out_of_reach_is_a_failed_reading_or_a_load_error(
    pods: TwoPods, name: str, reason: str
) -> None:
    # The server's node listens on its address; the client's packets for it have no route.
    _block(pods, "add")
    try:
        _, reading = drive(pods, flow(name))
    finally:
        _block(pods, "del")
    assert reading.status is Status.FAILED
    assert reading.reason.split(":")[0] in {reason, "unreachable"}
    assert reading.metrics == {}


def _block(pods: TwoPods, verb: str) -> None:
    argv = ["ip", "route", verb, "unreachable", f"{pods.server.address}/32"]
    subprocess.run(pods.client.within(argv), check=True, timeout=10)


def test_a_path_that_swallows_packets_ends_in_time(
    pods: TwoPods, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebpfperf.loads.iperf3._GRACE_S", 1.0)
    argv = ["ip", "route", "add", "blackhole", f"{pods.client.address}/32"]
    subprocess.run(pods.server.within(argv), check=True, timeout=10)
    try:
        with pytest.raises(LoadError) as caught:
            drive(pods, flow("tcp"))
    finally:
        argv[2] = "del"
        subprocess.run(pods.server.within(argv), check=True, timeout=10)
    assert caught.value.fields["reason"] == "timeout"


def test_a_server_killed_in_the_test_is_a_failed_reading(pods: TwoPods) -> None:
    begun = _received_bytes(pods) + 10_000_000

    def kill() -> None:
        deadline = time.monotonic() + 30
        # In the test: much has come, and more is to come.
        while _received_bytes(pods) < begun and time.monotonic() < deadline:
            time.sleep(0.05)
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _is_server(entry, pods):
                os.kill(int(entry.name), 9)

    killer = threading.Thread(target=kill)
    killer.start()
    _, reading = drive(pods, flow("tcp", duration_s=5))
    killer.join()
    assert reading.status is Status.FAILED
    assert reading.reason.startswith("server_died: ")


def _received_bytes(pods: TwoPods) -> int:
    text = Path(f"/proc/{pods.server.netns_pid}/net/dev").read_text()
    (line,) = (line for line in text.splitlines() if line.strip().startswith("eth0:"))
    return int(line.partition(":")[2].split()[0])


def _is_server(entry: Path, pods: TwoPods) -> bool:
    try:
        arguments = (entry / "cmdline").read_bytes().split(b"\0")
        here = os.readlink(entry / "ns/net") == os.readlink(f"/proc/{pods.server.netns_pid}/ns/net")
    except OSError:
        return False
    return here and arguments[0] == b"iperf3"


def test_no_connection_to_the_node_is_said(pods: TwoPods) -> None:
    with pytest.raises(NodeError) as caught:
        load("tcp").drive(flow("tcp"), pods.client, pods.server, {"node-1": pods.nodes["node-1"]})
    assert caught.value.fields["node"] == "node-2"


def test_the_clients_address_is_the_workloads(pods: TwoPods) -> None:
    raw, _ = drive(pods, flow("tcp"))
    assert f'"local_host":\t"{pods.client.address}"'.encode() in raw[DOCUMENT]


def test_an_end_that_is_gone_is_an_error_and_nothing_hangs(pods: TwoPods) -> None:
    # The least that no process can have.
    gone = replace(pods.server, netns_pid=2**22)
    with pytest.raises(LoadError) as caught:
        load("tcp").drive(flow("tcp"), pods.client, gone, pods.nodes)
    assert caught.value.fields["reason"] == "other"
