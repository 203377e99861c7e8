"""Captures that cannot begin, and what is expected on the wire of which path."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import pytest

from ebpfperf import wire
from ebpfperf.errors import CommandError, CommandTimeout, NodeError
from ebpfperf.model import Endpoint, Flow, Front, Overlay, Scope, Treatment, Workload, WorkloadKind
from ebpfperf.model import Path as FlowPath
from ebpfperf.network_view import Link, NodeView
from ebpfperf.remote_session import Completed

FLOW = Flow("f", FlowPath.POD_POD, "tcp")
ENDS = wire.Ends("198.19.0.0", "198.19.0.64")
LISTENING = b"listening on ens5, link-type EN10MB (Ethernet), snapshot length 128 bytes"


class FakeStream:
    """Says these lines, then fails as told; ends with a status and what is left to print."""

    def __init__(self, lines: list[bytes], error: NodeError | None, end: Completed) -> None:
        self.lines, self.error, self.end = lines, error, end

    def read_line(self, *, timeout_s: float) -> bytes:
        if self.lines:
            return self.lines.pop(0)
        assert self.error is not None
        raise self.error

    def stop(self, *, timeout_s: float = 5.0) -> Completed:
        return self.end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class FakeNode:
    name = "node-1"

    def __init__(self, stream: FakeStream) -> None:
        self.made = stream
        self.started: list[list[str]] = []

    def stream(self, argv: list[str], **_: Any) -> FakeStream:
        self.started.append(argv)
        return self.made


def ended(status: int, text: bytes = b"") -> Completed:
    return Completed((), status, text, b"", 0.0)


def captured(capture: wire.Capture, node: Any) -> wire.Caught:
    with capture.during(node, "ens5", FLOW, ENDS) as (caught, listening):
        listening()
    return caught


def test_what_was_said_before_and_after_it_listens_is_kept() -> None:
    stream = FakeStream([b"tcpdump: verbose output suppressed", LISTENING], None, ended(0, b"IP x"))
    caught = captured(wire.Capture(), FakeNode(stream))
    assert caught.unknown == ""
    assert caught.printed.splitlines()[1:] == [LISTENING, b"IP x"]
    assert wire.parse(caught.printed, ENDS).startswith("UNKNOWN: no packet of the flow")


@pytest.mark.parametrize(
    ("status", "said", "why"),
    [
        (127, b"sh: 1: exec: tcpdump: not found\n", "tcpdump is not installed"),
        (1, b"tcpdump: ens5: No such device exists\n", "No such device exists"),
    ],
)
def test_a_node_that_cannot_capture_is_asked_once(status: int, said: bytes, why: str) -> None:
    stream = FakeStream([], CommandError("ended.", "x"), ended(status, said))
    node, capture = FakeNode(stream), wire.Capture()
    for _ in range(2):
        assert why in captured(capture, node).unknown
    assert len(node.started) == 1


def test_one_that_is_late_is_tried_again() -> None:
    stream = FakeStream([], CommandTimeout("no line in time.", "x"), ended(0))
    node, capture = FakeNode(stream), wire.Capture()
    assert captured(capture, node).unknown == "no line in time."
    captured(capture, node)
    assert len(node.started) == 2


def end(name: str, node: str, kind: WorkloadKind = WorkloadKind.POD, number: int = 0) -> Endpoint:
    pid = 7 if kind is WorkloadKind.POD else None
    return Endpoint(Workload(name, node, kind), f"198.19.0.{number}", pid, "eth0", "cali1", 1500)


def view(name: str, address: str, prefix: int) -> NodeView:
    nic = Link("ens5", 2, 1500, "", True, (f"{address}/{prefix}",), None, None)
    return NodeView(name, address, (nic,), ())


ONE_SUBNET = {
    "node-1": view("node-1", "198.18.0.11", 24),
    "node-2": view("node-2", "198.18.0.12", 24),
}
TWO_SUBNETS = ONE_SUBNET | {"node-2": view("node-2", "198.18.9.12", 24)}
CLIENT, SERVER = end("c", "node-1"), end("s", "node-2", number=64)


@pytest.mark.parametrize("overlay", list(Overlay))
def test_pods_of_two_nodes_are_in_what_the_treatment_says(overlay: Overlay) -> None:
    always = Treatment("t", overlay)
    assert wire.expected(always, CLIENT, SERVER, ONE_SUBNET) == overlay.value
    across = replace(always, scope=Scope.CROSS_SUBNET)
    assert wire.expected(across, CLIENT, SERVER, ONE_SUBNET) == "none"
    assert wire.expected(across, CLIENT, SERVER, TWO_SUBNETS) == overlay.value
    hosts = [end(n, n, WorkloadKind.HOST) for n in ("node-1", "node-2")]
    assert wire.expected(always, hosts[0], hosts[1], ONE_SUBNET) == "none"


def test_where_nobody_can_know_nothing_is_expected_and_nothing_captured() -> None:
    vxlan = Treatment("t", Overlay.VXLAN)
    service = replace(SERVER, front=Front("198.18.240.7", ((5201, 5201),)))
    assert wire.looks_at(CLIENT, service)
    assert wire.expected(vxlan, CLIENT, service, ONE_SUBNET) == "vxlan"
    node_port = replace(SERVER, front=Front("198.18.0.11", ((5201, 30001),), node="node-1"))
    same = end("s", "node-1", number=1)
    for server, why in ((node_port, "by node port"), (same, "both ends are on one node")):
        assert not wire.looks_at(CLIENT, server)
        wanted = wire.expected(vxlan, CLIENT, server, ONE_SUBNET)
        found = {f.name: f.value for f in wire.facts(None, wanted, client=CLIENT, server=server)}
        assert found[wire.SEEN] == found[wire.EXPECTED]
        assert found[wire.SEEN].startswith(f"UNKNOWN: {why}")
    assert wire.expected(vxlan, CLIENT, SERVER, {}).startswith("UNKNOWN")
    assert wire.expected(replace(vxlan, overlay=None), CLIENT, SERVER, ONE_SUBNET).startswith(
        "UNKNOWN"
    )
