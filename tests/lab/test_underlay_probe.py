"""The underlay of a lab tried out: all arrives; a switch, or a node itself, that drops VXLAN."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ebpfperf import reach, underlay_probe
from ebpfperf.lab.faults import standing
from ebpfperf.lab.running import Lab
from ebpfperf.remote import Node

pytestmark = pytest.mark.lab

NAMES = ("node-1", "node-2")
ADDRESSES = {"node-1": "198.18.0.11", "node-2": "198.18.0.12"}


@pytest.fixture(scope="module")
def nodes(lab: Lab) -> Iterator[dict[str, Node]]:
    found, refused = reach.log_in(NAMES, ssh_config=lab.ssh_config)
    assert refused == {}
    yield found
    for node in found.values():
        node.close()


def tried(nodes: dict[str, Node], *, foreign: bool = False) -> dict[tuple[str, str], Any]:
    """Source and receiving node → the one pair that there is."""
    ports = dict.fromkeys(NAMES, 4789)
    items = underlay_probe.probe(nodes, ADDRESSES, ports, foreign=foreign)
    assert [item.error for item in items] == [""] * len(items)
    return {(item.source, item.node): json.loads(item.content)["pairs"][0] for item in items}


def numbers(pair: Any) -> tuple[int, int, int]:
    return pair["sent"], pair["left"], pair["arrived"]


def test_all_leave_and_arrive_also_with_another_nodes_source(
    lab: Lab, nodes: dict[str, Node]
) -> None:
    found = tried(nodes, foreign=True)
    assert len(found) == 4
    assert {numbers(pair) for pair in found.values()} == {(7, 7, 7)}
    pair = found["source-probe", "node-2"]
    assert (pair["from"], pair["source"], pair["owner"]) == ("node-1", "198.18.0.12", "node-2")
    assert (pair["out"], pair["in"]) == (["ens11"], ["ens12"])


def test_a_switch_that_drops_vxlan(lab: Lab, nodes: dict[str, Node]) -> None:
    fault = standing.named("vxlan-blocked")
    standing.put(lab, fault, "node-2")
    try:
        found = tried(nodes)
    finally:
        list(standing.heal(lab))
    assert {where[1]: numbers(pair) for where, pair in found.items()} == {
        "node-1": (7, 7, 0), "node-2": (7, 7, 0),
    }  # fmt: skip


def test_a_node_that_keeps_its_own_back(lab: Lab, nodes: dict[str, Node]) -> None:
    rule = ["OUTPUT", "-w", "-p", "udp", "--dport", "4789", "-j", "DROP"]
    nodes["node-1"].run(["iptables", "-A", *rule])
    try:
        found = tried(nodes)
    finally:
        nodes["node-1"].run(["iptables", "-D", *rule])
    kept = found["vxlan-probe", "node-2"]
    assert numbers(kept) == (0, 0, 0)
    assert "not permitted" in kept["error"]
    assert numbers(found["vxlan-probe", "node-1"]) == (7, 7, 7)
