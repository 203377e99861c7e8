"""Traffic between two nodes: what is made of iperf3's words and of the nodes' counters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from ebpfperf import traffic_probe
from ebpfperf.errors import ConnectError, LoadError
from ebpfperf.loads.iperf3 import DOCUMENT, RUN, Tcp
from ebpfperf.model import Endpoint, Flow
from ebpfperf.network_view import LINKS_ARGV
from ebpfperf.remote import Node
from ebpfperf.remote_session import Completed

DOCUMENTS = Path(__file__).parents[1] / "recorded" / "iperf3"
ADDRESSES = {"node-1": "198.18.0.11", "node-2": "198.18.0.12"}


def counters(at_s: float, busy: int, idle: int) -> str:
    """A reading: one processor with these ticks (of 10 ms), one that idles."""
    return (
        "==> /proc/sys/kernel/random/boot_id <==\nb00t\n\n"
        f"==> /proc/uptime <==\n{at_s:.2f} 1.00\n\n"
        f"==> /proc/stat <==\ncpu  {busy} 0 0 {idle + 1000} 0 0 0 0\n"
        f"cpu0 {busy} 0 0 {idle} 0 0 0 0\ncpu1 0 0 0 {1000 + idle} 0 0 0 0\nintr 1\n\n"
        "==> /proc/net/softnet_stat <==\n00000000 00000000 00000000\n"
    )


class FakeNode:
    """Answers as a node would; the second reading is two seconds later."""

    def __init__(self, name: str, *, busy: int = 0, lost: bool = False) -> None:
        self.name, self.lost = name, lost
        self.readings = [counters(100, 0, 0), counters(102, busy, 200 - busy)] * 2

    def run(self, argv: Any, **_: Any) -> Completed:
        if self.lost:
            raise ConnectError(f"The connection to {self.name} is lost.", "")
        if tuple(argv) == LINKS_ARGV:
            device = {"ifname": "eth0", "ifindex": 2, "mtu": 9001, "flags": ["UP"], "addr_info": [
                {"family": "inet", "local": ADDRESSES[self.name], "prefixlen": 24}]}  # fmt: skip
            text = json.dumps([device])
        elif argv[0] == "cat":
            text = "b00t\n25000\n"
        else:
            text = self.readings.pop(0)
        return Completed(tuple(argv), 0, text.encode(), b"", 0.0)


def driving(monkeypatch: pytest.MonkeyPatch, documents: Mapping[int, str]) -> list[Flow]:
    """Streams → the document that iperf3 printed; one that is not there could not be driven."""
    flows = []

    def drive(
        self: Tcp, flow: Flow, client: Endpoint, server: Endpoint, nodes: Any
    ) -> dict[str, bytes]:
        assert (client.address, server.address) == tuple(ADDRESSES.values())
        assert client.netns_pid is server.netns_pid is None
        flows.append(flow)
        if flow.streams not in documents:
            raise LoadError("node-2: iperf3 is not installed.", "Install it.")
        document = (DOCUMENTS / documents[flow.streams]).read_bytes()
        return {DOCUMENT: document, RUN: b'{"status": 0}'}

    monkeypatch.setattr(Tcp, "drive", drive)
    return flows


def measured(nodes: list[FakeNode], seconds: float = 2.0) -> Any:
    found = cast(dict[str, Node], {node.name: node for node in nodes})
    return traffic_probe.measure(found, ADDRESSES, seconds=seconds, taken_utc="T")


def test_numbers_of_both_ends_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    flows = driving(monkeypatch, {1: "v3.12__tcp.json"})
    item = measured([FakeNode("node-1", busy=150), FakeNode("node-2", busy=50)])
    assert (item.source, item.node, item.error) == ("traffic", "", "")
    told = json.loads(item.content)
    assert told["client"] == {
        "node": "node-1", "address": "198.18.0.11", "nic": "eth0", "kind": "", "mtu_bytes": 9001,
        "speed_mbit_per_s": 25_000, "boot_id": "b00t",
    }  # fmt: skip
    one, many = told["runs"]
    assert one["streams"] == 1
    assert one["received_bits_per_s"] == pytest.approx(32_556_363_974.5)
    # 1.5 s and 0.5 s of one processor's two.
    assert one["cores_pct"] == [75, 25]
    assert len(one["process_pct"]) == 2
    assert many == {
        "streams": 8, "seconds": 2, "failed": "node-2: iperf3 is not installed. Install it.",
    }  # fmt: skip
    assert [(flow.streams, flow.duration_s, flow.omit_s) for flow in flows] == [
        (1, 2, 0), (8, 2, 0),
    ]  # fmt: skip


def test_a_document_that_may_not_be_used_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    driving(monkeypatch, {1: "v3.12__refused.json", 8: "v3.12__tcp.json"})
    item = measured([FakeNode("node-1"), FakeNode("node-2")])
    refused, other = json.loads(item.content)["runs"]
    assert "refused" in refused["failed"]
    assert "1 streams, not 8" in other["failed"]


def test_what_cannot_be_measured_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    flows = driving(monkeypatch, {})
    assert "needs two nodes" in measured([FakeNode("node-1")]).error
    assert measured([FakeNode("node-1"), FakeNode("node-2", lost=True)]).error == (
        "The connection to node-2 is lost."
    )
    assert flows == []


def test_counters_that_cannot_be_read_are_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    driving(monkeypatch, {1: "v3.12__tcp.json"})
    client = FakeNode("node-1")
    client.readings = ["sh: tail: not found"] * 4
    item = measured([client, FakeNode("node-2")])
    assert "counters cannot be read" in json.loads(item.content)["runs"][0]["failed"]


@pytest.mark.parametrize(
    ("rates", "pct"), [([100.0, 110.0, 90.0], 10.0), ([5.0, 5.0, 5.0, 5.0], 0.0)]
)
def test_variation_is_the_standard_deviation_of_the_mean(rates: list[float], pct: float) -> None:
    assert traffic_probe.variation_pct(rates) == pytest.approx(pct)


@pytest.mark.parametrize("rates", [[], [1.0, 2.0], [0.0, 0.0, 0.0]])
def test_too_few_rates_vary_by_nothing_known(rates: list[float]) -> None:
    assert traffic_probe.variation_pct(rates) is None


@pytest.mark.parametrize(("seconds", "whole"), [(0.2, 1), (1.0, 1), (2.6, 3), (60, 60)])
def test_iperf3_takes_whole_seconds(seconds: float, whole: int) -> None:
    assert traffic_probe.whole_s(seconds) == whole
