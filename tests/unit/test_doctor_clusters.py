"""Clusters unlike the lab: what checks of eBPF mode, MTUs and offloads say of their nodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from evidence_made import NODES, changed, felix, healthy, objects, outcomes, verdicts

from ebpfperf.diagnosis import Outcome, Verdict
from ebpfperf.doctor import judge
from ebpfperf.doctor.case import Case
from ebpfperf.evidence import Evidence

BASE = healthy()
NODE, NIC = "node-1", "ens11"
ADDRESS = "198.18.0.11"
AZURE = "/sys/class/dmi/id/chassis_asset_tag:7783-7084-3265-9085-8269-3286-77\n"
Devices = list[dict[str, Any]]


def answer(change: Callable[[Any], None], *sources: str, base: Evidence = BASE) -> Evidence:
    """With JSON answers of node-1 after ``change`` had its way with each."""
    found = base
    for source in sources:
        document = json.loads(found.items[source, NODE].text)
        change(document)
        found = changed(found, {(source, NODE): json.dumps(document)})
    return found


def device(name: str, index: int, **more: Any) -> dict[str, Any]:
    return {
        "ifname": name, "ifindex": index, "mtu": 1500, "operstate": "UP",
        "flags": ["BROADCAST", "UP", "LOWER_UP"], "addr_info": [], **more,
    }  # fmt: skip


def with_device(base: Evidence = BASE, **own: Any) -> Evidence:
    """With one device more on node-1, without programs, there in every answer."""
    name, index = own["ifname"], own["ifindex"]

    def counted(found: Any) -> None:
        found["links"][name] = index
        found["programs"][name] = {}

    evidence = answer(lambda found: found.append(own), "links", base=base)
    return answer(counted, "counts", "counts/later", base=evidence)


def only(evidence: Evidence, check: str) -> Outcome:
    (found,) = outcomes(evidence, check)[NODE]
    return found


def of_node(evidence: Evidence, checks: str) -> dict[str, str]:
    return {check: verdicts(evidence, check)[NODE] for check in checks.split()}


# -------------------------------------------------------------------------------- devices


def test_devices_of_docker_and_of_other_plugins_need_no_programs() -> None:
    evidence = BASE
    names = "docker0 br-6f2a vethc0ffee1 cni0 flannel.1 lxc12ab cilium_host kube-ipvs0 virbr0 wlan9"
    for index, name in enumerate(names.split(), 70):
        down = {"flags": ["NO-CARRIER", "UP"], "operstate": "DOWN"} if name == "wlan9" else {}
        evidence = with_device(evidence, **device(name, index, **down))
    assert of_node(evidence, "A2 A8 E7") == {"A2": "OK", "A8": "OK", "E7": "OK"}


def test_a_second_nic_needs_programs_and_what_a_nic_stands_on_does_not() -> None:
    assert only(with_device(**device("ens12", 70)), "A2").subject == "ens12"
    # Azure's accelerated networking: no kind of a slave is told of such a device.
    below = device("enP1s1", 70, master=NIC)
    assert of_node(with_device(**below), "A2 A8") == {"A2": "OK", "A8": "OK"}
    bonded = device("ens12", 70, master="bond0", linkinfo={"info_slave_kind": "bond"})
    assert of_node(with_device(**bonded), "A2") == {"A2": "OK"}


def test_a_vpn_s_device_with_the_node_s_address_may_be_matched_by_the_pattern_of_tunnels() -> None:
    vpn = with_device(**device("wg0", 70, linkinfo={"info_kind": "wireguard"}))
    evidence = answer(lambda found: moved(found, "wg0"), "links", base=vpn)
    found = only(evidence, "A8")
    assert (found.verdict, found.subject) == (Verdict.FAIL, "wg0")

    def told(pattern: str) -> Evidence:
        fields = {"bpfL3IfacePattern": pattern}
        return changed(evidence, {("felixconfigurations", ""): felix(BASE, fields)})

    assert only(told("^wg[0-9]+$"), "A8").verdict is Verdict.OK
    assert only(told("^wg[0-9]+$"), "A2").subject == "wg0"
    assert only(told("^tun"), "A8").verdict is Verdict.FAIL
    assert only(told("(?U)wg"), "A8").verdict is Verdict.UNKNOWN
    # Calico v3.24 has no such field.
    assert only(replace(told("^wg[0-9]+$"), release="v3.24.1"), "A8").verdict is Verdict.FAIL


def test_devices_of_aws_s_plugin_are_workloads_where_felix_is_told_so() -> None:
    pod = device("eni0123456789a", 70, linkinfo={"info_kind": "veth"})
    assert of_node(with_device(**pod), "A2") == {"A2": "OK"}
    told = {("felixconfigurations", ""): felix(BASE, {"interfacePrefix": "cali,eni"})}
    found = only(changed(with_device(**pod), told), "A2")
    assert (found.verdict, found.subject) == (Verdict.FAIL, "eni0123456789a")
    small = changed(with_device(**{**pod, "mtu": 1200}), told)
    assert only(small, "E7").subject == "eni0123456789a"


# ------------------------------------------------------------------------------ addresses


def addressed(addresses: list[str], base: Evidence = BASE) -> Evidence:
    """node-1 with these InternalIPs."""

    def change(found: list[Any]) -> None:
        for each in found:
            if each["metadata"]["name"] == NODE:
                each["status"]["addresses"] = [
                    {"type": "InternalIP", "address": address} for address in addresses
                ]

    return changed(base, {("nodes", ""): objects(base, "nodes", change)})


def moved(found: Devices, to: str) -> None:
    """Gives the node's IPv4 address to another device."""
    own = next(each for each in found if each["ifname"] == NIC)
    held = [each for each in own["addr_info"] if each["family"] == "inet"]
    own["addr_info"] = [each for each in own["addr_info"] if each not in held]
    next(each for each in found if each["ifname"] == to)["addr_info"] += held


def default_by(name: str, base: Evidence) -> Evidence:
    route = {"dst": "default", "gateway": "198.18.0.1", "dev": name, "protocol": "static"}
    return answer(lambda found: found.append(route), "routes", base=base)


def test_a_node_with_ipv6_alone_is_judged_by_its_nic_too() -> None:
    def six(found: Devices) -> None:
        for each in found:
            each["addr_info"] = []
            if each["ifname"] == NIC:
                each["addr_info"] = [{"family": "inet6", "local": "2001:db8::11", "prefixlen": 64}]

    evidence = answer(six, "links", base=addressed(["2001:db8::11"]))
    found = only(evidence, "A8")
    assert (found.verdict, NIC in found.what) == (Verdict.OK, True), found.what
    pattern = {("felixconfigurations", ""): felix(BASE, {"bpfDataIfacePattern": "^eth9$"})}
    found = only(changed(evidence, pattern), "A8")
    assert (found.verdict, found.subject) == (Verdict.FAIL, NIC)
    assert "2001:db8::11" in found.what
    assert of_node(evidence, "E7") == {"E7": "OK"}
    assert verdicts(replace(evidence, release="v3.30.2"), "E12")[NODE] == "OK"
    assert only(pods_of(1501, evidence), "E7").verdict is Verdict.FAIL
    elsewhere = addressed(["2001:db8::99"], evidence)
    assert only(elsewhere, "E7").what == "No device carries 2001:db8::99."
    assert only(addressed([], evidence), "E7").verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("to", ["lo", "dummy0"])
def test_an_address_that_routers_announce_is_carried_by_the_default_routes(to: str) -> None:
    base = with_device(**device("dummy0", 70, linkinfo={"info_kind": "dummy"}, mtu=65536))
    evidence = answer(lambda found: moved(found, to), "links", base=base)
    routed = default_by(NIC, evidence)
    assert of_node(routed, "A8 E7") == {"A8": "OK", "E7": "OK"}
    assert f"{NIC} has MTU 1500" in only(routed, "E7").what
    found = only(changed(evidence, {("routes", NODE): "[]"}), "E7")
    assert (found.verdict, f"address is on {to}" in found.what) == (Verdict.UNKNOWN, True)


# ------------------------------------------------------------------------------------ MTU


def pods_of(size: int, base: Evidence = BASE) -> Evidence:
    def change(found: Devices) -> None:
        for each in found:
            if each["ifname"].startswith("cali"):
                each["mtu"] = size

    told = {("mtu-file", NODE): f"{size}\n"}
    return changed(answer(change, "links", base=base), told, statuses={("mtu-file", NODE): 0})


def test_a_pool_of_ipv6_with_vxlan_takes_70_bytes() -> None:
    def add(found: list[Any]) -> None:
        spec = {"cidr": "fd00:10:65::/48", "vxlanMode": "Always"}
        found.append({"metadata": {"name": "six"}, "spec": spec})

    dual = changed(BASE, {("ippools", ""): objects(BASE, "ippools", add)})
    assert only(pods_of(1430, dual), "E7").verdict is Verdict.OK
    assert only(pods_of(1431, dual), "E7").verdict is Verdict.FAIL
    found = only(pods_of(1419, dual), "E7")
    assert (found.verdict, "leave 1430" in found.what) == (Verdict.WARN, True)
    # Calico v3.23 has no VXLAN over IPv6.
    assert only(pods_of(1500, replace(dual, release="v3.23.1")), "E7").verdict is Verdict.OK


def test_wireguard_leaves_azure_100_bytes_more() -> None:
    told = {("felixconfigurations", ""): felix(BASE, {"wireguardEnabled": True})}
    here = changed(BASE, told)
    assert only(pods_of(1440, here), "E7").verdict is Verdict.OK
    assert only(pods_of(1340, here), "E7").verdict is Verdict.WARN
    azure = changed(here, {("cloud", NODE): AZURE})
    assert only(pods_of(1340, azure), "E7").verdict is Verdict.OK
    assert only(pods_of(1441, azure), "E7").verdict is Verdict.FAIL
    six = with_device(**device("wg-v6.cali", 70, mtu=1420))
    assert only(pods_of(1420, six), "E7").verdict is Verdict.OK
    assert only(pods_of(1421, six), "E7").verdict is Verdict.FAIL


# ------------------------------------------------------------------------------- offloads


def test_an_offload_that_the_driver_does_not_have_is_said_and_no_warning() -> None:
    def nic(found: Any) -> dict[str, Any]:
        return next(each for role, each in found["devices"].items() if role.startswith("nic"))

    def off(found: Any) -> None:
        nic(found)["features"].remove("tx-tcp-segmentation")

    def ena(found: Any) -> None:
        nic(found)["fixed"] = ["tx-tcp-segmentation", "tx-fcoe-segmentation"]

    switched = answer(off, "machine")
    assert "ethtool -K" in only(switched, "E8").remedy
    found = only(answer(ena, "machine", base=switched), "E8")
    assert found.verdict is Verdict.OK
    assert "driver has no TSO" in found.what


# --------------------------------------------------------------------------------- clocks


def dated(ahead_s: float, dirty_ago_s: float) -> Evidence:
    """A node whose clock is so far ahead, and whose Felix failed so long before it was asked."""
    item = BASE.items["rules", NODE]
    taken = datetime.strptime(item.taken_utc, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    now = taken.timestamp() + ahead_s
    words = item.text.splitlines()[0].split()[1:]
    at = datetime.fromtimestamp(now - dirty_ago_s, UTC)
    workload = next(name for name in json.loads(BASE.items["counts", NODE].text)["links"]
                    if name.startswith("cali"))  # fmt: skip
    line = (
        f"{at:%Y-%m-%d %H:%M:%S}.000 [WARNING][300] felix/bpf_ep_mgr.go 1: Failed to apply policy "
        f'to endpoint, leaving it dirty error="no" name="{workload}"\n'
    )
    return changed(BASE, {("rules", NODE): f"{now} {' '.join(words)}\n", ("log", NODE): line})


@pytest.mark.parametrize("ahead_s", [-7200.0, -90.0, 0.0, 7200.0])
def test_what_a_log_says_is_as_old_as_by_the_node_s_own_clock(ahead_s: float) -> None:
    assert only(dated(ahead_s, 200), "A7").verdict is Verdict.FAIL
    assert only(dated(ahead_s, 400), "A7").verdict is Verdict.WARN


# ------------------------------------------------------------------------ what is not there


def test_a_login_that_may_not_become_root_is_unknown_with_its_reason() -> None:
    places = [place for place in BASE.items if place[1] == NODE and place[0] != "log"]
    said = dict.fromkeys(places, "sudo: a password is required\n")
    found = judge.diagnose(changed(BASE, said, statuses=dict.fromkeys(places, 1)))
    bad = [
        (result.id, each.verdict, each.what)
        for result in found.results
        for each in result.outcomes
        if each.node == NODE and each.verdict in (Verdict.FAIL, Verdict.WARN)
    ]
    assert bad == []
    (outcome,) = outcomes(changed(BASE, said, statuses=dict.fromkeys(places, 1)), "A4")[NODE]
    assert outcome.what == "The login may not become root: sudo: a password is required."


def test_nodes_without_python_and_findmnt_are_judged_by_the_rest() -> None:
    places = [(source, NODE) for source in ("counts", "counts/later", "machine", "maps", "bpffs")]
    none = changed(
        BASE, dict.fromkeys(places, "sh: not found\n"), statuses=dict.fromkeys(places, 127)
    )
    assert of_node(none, "A1 A2 A3 A4 A7 A8 E2 E7 E8") == {
        "A1": "OK", "A2": "UNKNOWN", "A3": "OK", "A4": "UNKNOWN", "A7": "OK", "A8": "OK",
        "E2": "OK", "E7": "OK", "E8": "UNKNOWN",
    }  # fmt: skip
    assert verdicts(none, "A6") == {"": "OK"}


def test_pods_that_may_not_be_listed_matter_only_where_felix_s_process_is_not_seen() -> None:
    refused = replace(BASE.items["pods", ""], content=b"", error="You may not list pods.")
    unseen = replace(BASE, items={**BASE.items, ("pods", ""): refused})
    assert only(unseen, "E2").what == "You may not list pods."
    process = "==> environment <==\nFELIX_LOGSEVERITYSCREEN=info\n==> file <==\n"
    seen = changed(unseen, {("felix-process", NODE): process})
    assert of_node(seen, "A1 A2 A5 A8 E2") == dict.fromkeys("A1 A2 A5 A8 E2".split(), "OK")


def test_a_node_that_is_not_reached_is_unknown_for_that_reason() -> None:
    places = [place for place in BASE.items if place[1] == NODE]
    lost = replace(changed(BASE, without=places), lost={NODE: "it refused"})
    for result in judge.diagnose(lost).results:
        for each in result.outcomes:
            if each.node == NODE and each.verdict is Verdict.UNKNOWN and result.id[0] == "E":
                assert each.what == "The node was not reached: it refused.", result.id


def test_all_checks_together_say_what_each_says_alone() -> None:
    refused = changed(BASE, {("bpffs", NODE): ""}, statuses={("bpffs", NODE): 1})
    together = {found.id: found for found in judge.diagnose(refused).results}
    assert list(together) == [check.id for check in judge.CHECKS]
    for check in judge.CHECKS:
        assert together[check.id] == judge.result(Case(refused), check)


def test_a_windows_node_that_was_named_is_said_once() -> None:
    def windows(nodes: list[Any]) -> None:
        nodes.append({"metadata": {"name": "win-1", "labels": {"kubernetes.io/os": "windows"}}})

    evidence = changed(BASE, {("nodes", ""): objects(BASE, "nodes", windows)})
    named = replace(evidence, nodes=(*NODES, "win-1"))
    assert verdicts(named, "A6") == {"win-1": "FAIL"}


def test_of_many_pods_of_a_node_the_newest_calico_node_counts() -> None:
    def older(pods: list[Any]) -> None:
        own = next(each for each in pods if each["spec"].get("nodeName") == NODE
                   and each["metadata"]["name"].startswith("calico-node"))  # fmt: skip
        ending = json.loads(json.dumps(own))
        ending["metadata"] |= {"name": "calico-node-old", "creationTimestamp": "2020-01-01"}
        ending["status"]["conditions"] = []
        pods.append(ending)

    evidence = changed(BASE, {("pods", ""): objects(BASE, "pods", older)})
    found = Case(evidence).calico_pod(NODE)
    assert found is not None
    assert found["metadata"]["name"] != "calico-node-old"
    assert verdicts(evidence, "A7")[NODE] == "OK"
