"""Checks B3, B4 and B11, of the way between nodes: every verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from evidence_made import NODES, changed, objects, verdicts
from services_made import (
    ADDRESSES,
    AMAZON,
    GOOGLE,
    RELEASES,
    base,
    on_both,
    one,
    probes,
    with_items,
    with_service,
)

from ebpfperf.evidence import Evidence, Item
from ebpfperf.underlay_probe import Way

# ------------------------------------------------------------------------------------- B3

THREE = ("node-1", "node-2", "node-3")


def three(items: list[Item]) -> Evidence:
    return replace(base(items=items), nodes=THREE)


def test_b3_the_node_that_is_cut_off_both_ways_is_named_alone() -> None:
    cut = three(
        probes(THREE, arrived=lambda way: 0 if "node-2" in (way.sender, way.receiver) else 7)
    )
    assert verdicts(cut, "B3") == {"node-1": "OK", "node-2": "FAIL", "node-3": "OK"}
    found = one(cut, "B3", "node-2")
    assert "from node-1, node-3 to node-2 and from node-2 to node-3, node-1" in found.what
    assert "7 of 7 datagrams leave node-1 by eth0, none arrives at node-2" in found.what
    assert "UDP port 4789" in found.remedy
    assert any("7 sent, 7 left by eth0, 0 arrived" in each.excerpt for each in found.shown)


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        (lambda way: way.receiver == "node-3", {"node-3"}),
        (lambda way: way.sender == "node-3", {"node-3"}),
        (lambda way: (way.sender, way.receiver) == ("node-1", "node-3"), {"node-3"}),
        (lambda way: True, set(THREE)),
    ],
)
def test_b3_one_way_and_single_ways_are_told(lost: Callable[[Way], bool], named: set[str]) -> None:
    found = verdicts(three(probes(THREE, arrived=lambda way: 0 if lost(way) else 7)), "B3")
    assert {node for node, verdict in found.items() if verdict == "FAIL"} == named
    assert {found[node] for node in set(THREE) - named} <= {"OK"}


def test_b3_where_nothing_passes_between_many_nodes_one_sentence_says_so() -> None:
    seven = tuple(ADDRESSES)
    lost = replace(base(items=probes(seven, arrived=lambda way: 0)), nodes=seven)
    found = one(lost, "B3", "")
    assert (found.verdict, "between all nodes" in found.what) == ("FAIL", True)
    assert "each of 7 nodes" in found.what
    one_way = [("node-1", "node-2")]
    some = probes(seven, arrived=lambda w: 7 * ((w.sender, w.receiver) in one_way))
    assert len(verdicts(replace(lost, items=with_items(lost, some).items), "B3")) == 7


def test_b3_what_does_not_leave_is_the_senders() -> None:
    kept = three(probes(THREE, left=lambda way: 0 if way.sender == "node-1" else 7,
                        arrived=lambda way: 0 if way.sender == "node-1" else 7))  # fmt: skip
    assert verdicts(kept, "B3") == {"node-1": "FAIL", "node-2": "OK", "node-3": "OK"}
    found = one(kept, "B3")
    assert "does not leave the node: of 7 datagrams none" in found.what
    refused = base(items=probes(left=lambda w: 0, arrived=lambda w: 0, refused="[Errno 1] no"))
    assert verdicts(refused, "B3") == dict.fromkeys(NODES, "FAIL")
    assert "does not leave the node: [Errno 1] no." in one(refused, "B3").what


def test_b3_some_lost_is_warn() -> None:
    some = base(items=probes(arrived=lambda way: 6 if way.receiver == "node-2" else 7))
    assert verdicts(some, "B3") == {"node-1": "OK", "node-2": "WARN"}
    assert "7 left by eth0, 6 arrived" in one(some, "B3", "node-2").what


def test_b3_not_tried_is_unknown_and_one_node_has_no_way() -> None:
    assert verdicts(base(items=[]), "B3") == {"": "UNKNOWN"}
    deaf = base(items=probes(failed={"node-2": "it did not answer within 3 s"}))
    assert verdicts(deaf, "B3") == dict.fromkeys(NODES, "UNKNOWN")
    assert "it did not answer within 3 s" in one(deaf, "B3", "node-2").what
    assert verdicts(replace(base(items=[]), nodes=("node-1",)), "B3") == {"": "N/A"}


def test_b3_what_is_known_is_said_also_where_a_third_node_is_silent() -> None:
    deaf = three(probes(THREE, failed={"node-3": "no python3"}))
    assert verdicts(deaf, "B3") == {"node-1": "OK", "node-2": "OK", "node-3": "UNKNOWN"}
    found = one(deaf, "B3")
    assert "between the node and 1 other: all 7" in found.what
    assert "Not known: node-3" in found.what
    assert "between the node and 2 others" in one(three(probes(THREE)), "B3").what


def test_b3_the_remedy_is_the_clouds_and_the_page_is_corrected() -> None:
    lost = probes(arrived=lambda way: 0)
    assert "security groups" in one(on_both(base(items=lost), "cloud", AMAZON), "B3").remedy
    assert "firewall rule" in one(on_both(base(items=lost), "cloud", GOOGLE), "B3").remedy
    assert one(base(items=lost), "B3").corrected == ""
    assert "compiled in" in one(base("v3.16", items=lost), "B3").corrected
    other = base(items=probes(arrived=lambda way: 0, port=4790), vxlanPort=4790)
    assert "vxlanPort is 4790" in one(other, "B3").corrected
    assert "UDP port 4790" in one(other, "B3").remedy


# ------------------------------------------------------------------------------------- B4


def mtus(evidence: Evidence, **wanted: int) -> Evidence:
    """Devices of node-1 with other MTUs: ``nic``, ``pod``."""

    def change(links: list[Any]) -> None:
        for link in links:
            kind = "pod" if link["ifname"].startswith("cali") else "nic"
            if link["ifname"] != "lo" and kind in wanted:
                link["mtu"] = wanted[kind]

    links = json.loads(evidence.items["links", "node-1"].text)
    change(links)
    return changed(evidence, {("links", "node-1"): json.dumps(links)})


def test_b4_pods_may_be_as_big_as_the_nic_and_that_is_said() -> None:
    found = one(base(), "B4")
    assert (found.verdict, "packets of more than 1450 bytes" in found.what) == ("OK", True)
    found = one(mtus(base(), pod=1450), "B4")
    assert found.what == "What node ports wrap (up to 1450 bytes) fits the NIC (1500)."


@pytest.mark.parametrize("release", RELEASES)
def test_b4_a_vxlan_mtu_beyond_the_nic(release: str) -> None:
    assert verdicts(base(release, vxlanMTU=1450), "B4")["node-1"] == "OK"
    found = one(base(release, vxlanMTU=1451), "B4")
    assert found.verdict == "WARN"
    assert "up to 1451 bytes" in found.what
    # Automatic since v3.17; the old default is 1410.
    wanted = "vxlanMTU: 1450" if release == "v3.16" else "vxlanMTU: 0"
    assert wanted in found.remedy
    small = verdicts(mtus(base(release), nic=1459, pod=1400), "B4")["node-1"]
    assert small == ("WARN" if release == "v3.16" else "OK")


def test_b4_another_nodes_nic_is_narrower() -> None:
    evidence = mtus(base(), nic=1499, pod=1400)
    assert verdicts(evidence, "B4") == {"node-1": "OK", "node-2": "WARN"}
    found = one(evidence, "B4", "node-2")
    assert "exceed the 1499 of ens11 on node-1" in found.what
    assert "vxlanMTU: 1449" in found.remedy


def test_b4_a_pod_bigger_than_the_nic_and_no_service_from_outside() -> None:
    found = one(mtus(base(), pod=1501), "B4")
    assert (found.verdict, found.subject.startswith("cali")) == ("WARN", True)
    inside = with_service(mtus(base(), pod=1501), {"type": "ClusterIP"})
    assert verdicts(inside, "B4") == dict.fromkeys(NODES, "N/A")
    outside = with_service(inside, {"type": "ClusterIP", "externalIPs": ["203.0.113.1"]})
    assert verdicts(outside, "B4")["node-1"] == "WARN"


# ------------------------------------------------------------------------------------ B11


def vxlan(
    state: str, release: str = "v3.26", sockets: str = "", log: str = "", **fields: Any
) -> Evidence:
    """VXLAN is enabled; node-1's ``vxlan.calico`` is ``up``, ``down`` or ``gone``."""
    evidence = base(release, vxlanEnabled=True, **fields)
    answers: dict[tuple[str, str], str | bytes] = {("sockets", "node-1"): sockets}
    for node in NODES:
        links = json.loads(evidence.items["links", node].text)
        flags = [] if node == "node-1" and state == "down" else ["UP"]
        if node != "node-1" or state != "gone":
            links.append({"ifname": "vxlan.calico", "ifindex": 98, "mtu": 1450, "flags": flags,
                          "linkinfo": {"info_kind": "vxlan"}})  # fmt: skip
        answers["links", node] = json.dumps(links)
    if log:
        answers["log", "node-1"] = evidence.items["log", "node-1"].text + log
    return changed(evidence, answers)


HELD = 'UNCONN 0 0 0.0.0.0:4789 0.0.0.0:* users:(("dockerd",pid=18,fd=3))\n'
KERNELS = "UNCONN 0 0 0.0.0.0:4789 0.0.0.0:*\n"
LOGGED = (
    "2026-11-29 18:20:30.000 [WARNING][249] felix/vxlan_mgr.go 463: Failed to set tunnel device up "
    "error=address already in use\n"
)


def test_b11_down_and_who_holds_the_port() -> None:
    assert verdicts(vxlan("up"), "B11") == dict.fromkeys(NODES, "OK")
    assert verdicts(base(), "B11") == dict.fromkeys(NODES, "N/A")
    found = one(vxlan("down", sockets=HELD), "B11")
    assert (found.verdict, found.subject) == ("FAIL", "vxlan.calico")
    assert "UDP port 4789 is held by the process dockerd" in found.what
    assert "vxlanPort to a free port such as 4790" in found.remedy
    found = one(vxlan("down", log=LOGGED), "B11")
    assert "address already in use" in found.what
    assert any(each.source == "log" for each in found.shown)
    found = one(vxlan("gone"), "B11")
    assert (found.verdict, "is not there" in found.what) == ("FAIL", True)
    assert "calico-node's log" in found.remedy
    assert verdicts(vxlan("down"), "B11") == {"node-1": "FAIL", "node-2": "OK"}


def test_b11_another_tunnel_another_port_and_v3_16() -> None:
    evidence = vxlan("down", sockets=KERNELS)
    links = json.loads(evidence.items["links", "node-1"].text)
    links.append({"ifname": "vx-ingress", "ifindex": 97, "mtu": 1450, "flags": ["UP"],
                  "linkinfo": {"info_kind": "vxlan"}})  # fmt: skip
    both = changed(evidence, {("links", "node-1"): json.dumps(links)})
    assert "held by the device vx-ingress" in one(both, "B11").what
    assert "the kernel (a tunnel)" in one(evidence, "B11").what
    other = one(vxlan("down", sockets=HELD, vxlanPort=4790), "B11")
    assert "held" not in other.what, "4789 is not the port in question"
    assert "go on using 4789" in one(vxlan("down", "v3.16", sockets=HELD), "B11").corrected
    unread = changed(vxlan("down"), without=[("sockets", "node-1")])
    assert verdicts(unread, "B11")["node-1"] == "FAIL"


def test_b3_of_nodes_without_ipv4_says_why_nothing_was_sent() -> None:
    def change(found: list[Any]) -> None:
        for node in found:
            node["status"]["addresses"] = [{"type": "InternalIP", "address": "2001:db8::1"}]
            node["metadata"]["annotations"].pop("projectcalico.org/IPv4Address")

    nodes = objects(base(), "nodes", change)
    found = one(changed(with_items(base(), []), {("nodes", ""): nodes}), "B3", "")
    assert (found.verdict, "no IPv4 InternalIP" in found.what) == ("UNKNOWN", True)
    assert "IPv4" not in one(with_items(base(), []), "B3", "").what


def test_b4_pods_devices_are_those_of_another_cni_plugin_as_well() -> None:
    evidence = mtus(base(interfacePrefix="eni"), pod=1501)
    links = evidence.items["links", "node-1"].text.replace('"cali', '"eni')
    found = one(changed(evidence, {("links", "node-1"): links}), "B4")
    assert (found.verdict, found.subject[:3]) == ("WARN", "eni")
