"""Checks B1 to B12: every verdict, on recorded evidence with single answers changed."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from evidence_made import NODES, changed, felix, healthy, objects, outcomes, verdicts

from ebpfperf import underlay_probe
from ebpfperf.diagnosis import Outcome
from ebpfperf.doctor import clouds, service_hosts, services
from ebpfperf.doctor.case import Case, Missing
from ebpfperf.evidence import Evidence, Item
from ebpfperf.underlay_probe import Way, ways

RELEASES = ("v3.16", "v3.26", "v3.30", "v3.32")
OWN, WEB, KUBERNETES = "198.18.0.11", "default/web", "198.18.240.1"
ADDRESSES = {f"node-{at}": f"198.18.0.1{at}" for at in range(1, 8)}
CONFIGMAP = [
    {
        "metadata": {"name": "kubernetes-services-endpoint", "namespace": "kube-system"},
        "data": {"KUBERNETES_SERVICE_HOST": OWN, "KUBERNETES_SERVICE_PORT": "6443"},
    }
]
DSR = {"bpfExternalServiceMode": "DSR"}
AMAZON = "/sys/class/dmi/id/sys_vendor:Amazon EC2\n"
GOOGLE = (
    "/sys/class/dmi/id/sys_vendor:Google\n/sys/class/dmi/id/product_name:Google Compute Engine\n"
)


# ---------------------------------------------------------------------------- evidence made


def probes(
    names: Iterable[str] = NODES,
    *,
    foreign: bool = False,
    arrived: Callable[[Way], int | None] = lambda way: 7,
    left: Callable[[Way], int | None] = lambda way: 7,
    failed: dict[str, str] | None = None,
    port: int = 4789,
    refused: str = "",
) -> list[Item]:
    """What the probe of the underlay finds, by pair."""
    plan = ways(list(names), foreign=foreign)
    heard: dict[str, dict[str, Any]] = {}
    for name in names:
        if name not in (failed or {}):
            heard[name] = {
                "sent": {str(w.pair): 0 if refused else 7 for w in plan if w.sender == name},
                "errors": {str(w.pair): refused for w in plan if w.sender == name and refused},
                "left": {str(w.pair): [left(w), ["eth0"]] for w in plan if w.sender == name},
                "arrived": {str(w.pair): [arrived(w), ["eth0"]] for w in plan
                            if w.receiver == name},
            }  # fmt: skip
    return underlay_probe.items(
        plan, heard, failed or {}, addresses=ADDRESSES, ports=dict.fromkeys(names, port), vni=9,
        taken_utc="2026-01-31T09:05:33Z",
    )  # fmt: skip


def with_items(evidence: Evidence, items: Iterable[Item]) -> Evidence:
    kept = {where: item for where, item in evidence.items.items() if "probe" not in where[0]}
    return replace(evidence, items={**kept, **{(i.source, i.node): i for i in items}})


def base(release: str = "v3.26", items: Iterable[Item] | None = None, **fields: Any) -> Evidence:
    """A healthy cluster with these fields of Felix, and the probes' items."""
    found = healthy(release)
    answers: dict[tuple[str, str], str | bytes] = {("configmaps", ""): json.dumps(CONFIGMAP)}
    if fields:
        answers["felixconfigurations", ""] = felix(found, fields)
    return with_items(changed(found, answers), probes() if items is None else items)


def one(evidence: Evidence, check: str, node: str = "node-1") -> Outcome:
    (found,) = outcomes(evidence, check)[node]
    return found


def on_both(evidence: Evidence, source: str, text: str) -> Evidence:
    return changed(evidence, {(source, node): text for node in NODES})


def with_service(evidence: Evidence, spec: dict[str, Any], **status: Any) -> Evidence:
    """The recorded service as this one."""

    def change(found: list[Any]) -> None:
        web = next(each for each in found if each["metadata"]["name"] == "web")
        web["spec"] = {**web["spec"], **spec}
        web["status"] = status

    return changed(evidence, {("services", ""): objects(evidence, "services", change)})


def with_map(
    evidence: Evidence, node: str, name: str, change: Callable[[list[tuple[bytes, bytes]]], Any]
) -> Evidence:
    """With the entries of the map whose name begins so changed in place."""
    line, _, packed = evidence.items["maps", node].content.partition(b"\n")
    head, content = json.loads(line), zlib.decompress(packed)
    at, parts = 0, []
    for told in head["maps"]:
        first, second = told["sizes"]
        keys, values = content[at : at + first], content[at + first : at + first + second]
        at += first + second
        if told["name"].startswith(name):
            k, v = told["key_bytes"], told["value_bytes"]
            entries = [
                (keys[n * k : (n + 1) * k], values[n * v : (n + 1) * v])
                for n in range(len(keys) // k)
            ]
            change(entries)
            keys, values = (b"".join(each) for each in zip(*entries, strict=True)) if entries else (
                b"", b"")  # fmt: skip
            told["sizes"] = [len(keys), len(values)]
        parts += [keys, values]
    answer = json.dumps(head).encode() + b"\n" + zlib.compress(b"".join(parts))
    return changed(evidence, {("maps", node): answer})


# -------------------------------------------------------------------------------- healthy


@pytest.mark.parametrize("release", RELEASES)
def test_a_healthy_cluster_raises_nothing(release: str) -> None:
    evidence = base(release)
    for check in services.CHECKS:
        found = {
            each.verdict.value for own in outcomes(evidence, check.id).values() for each in own
        }
        assert found <= {"OK", "N/A"}, (check.id, outcomes(evidence, check.id))
    assert verdicts(evidence, "B1") == verdicts(evidence, "B2") == dict.fromkeys(NODES, "OK")
    assert verdicts(evidence, "B3") == verdicts(evidence, "B4") == dict.fromkeys(NODES, "OK")


def test_the_checks_are_there_in_order() -> None:
    assert [check.id for check in services.CHECKS] == [f"B{at}" for at in range(1, 13)]


# ------------------------------------------------------------------------------------- B1

UNSUPPORTED = (
    "2026-11-29 18:20:29.451 [INFO][9] felix/daemon.go 386: Felix starting up\n"
    "2026-11-29 18:20:29.452 [ERROR][9] felix/daemon.go 337: BPF dataplane mode enabled but not "
    "supported by the kernel.  Disabling BPF mode.\n"
)


def test_b1_neither_is_fail_and_a_kube_proxy_is_enough() -> None:
    fallen = changed(base(), {("log", "node-2"): UNSUPPORTED})
    assert verdicts(fallen, "B1") == {"node-1": "OK", "node-2": "FAIL"}
    found = one(fallen, "B1", "node-2")
    assert "Nothing translates services" in found.what
    assert {each.source for each in found.shown} >= {"log", "rules", "daemonsets"}
    assert "Disabling BPF mode" in "".join(each.excerpt for each in found.shown)
    running = changed(fallen, {
        ("processes/later", "node-2"): "100 20.0\nkube-proxy 77 1 1\n",
    })  # fmt: skip
    assert verdicts(running, "B1")["node-2"] == "OK"


def test_b1_rules_without_a_process_are_somebodys_too() -> None:
    fallen = changed(base(), {("log", "node-2"): UNSUPPORTED})
    rules = "1.5 iptables 13 legacy 0 nft -\n1.9 iptables 13 legacy 0 nft -\n"
    found = one(changed(fallen, {("rules", "node-2"): rules}), "B1", "node-2")
    assert (found.verdict, "iptables 13" in found.what) == ("OK", True)
    gone = changed(fallen, {("rules", "node-2"): rules + "2.3 iptables 0 legacy 0 nft -\n"})
    assert verdicts(gone, "B1")["node-2"] == "FAIL"


def test_b1_applies_without_ebpf_mode_too_and_needs_its_evidence() -> None:
    off = base(bpfEnabled=False)
    counts = [(source, node) for source in ("counts", "counts/later") for node in NODES]
    off = changed(off, {("log", node): "" for node in NODES}, without=counts)
    assert verdicts(off, "B1") == dict.fromkeys(NODES, "FAIL")
    assert verdicts(off, "B2") == dict.fromkeys(NODES, "N/A")
    running = changed(off, {("processes/later", "node-1"): "100 20.0\nkube-proxy 77 1 1\n"},
                      without=[("log", "node-1"), ("log", "node-2")])  # fmt: skip
    assert verdicts(running, "B1") == {"node-1": "OK", "node-2": "FAIL"}
    blind = changed(off, without=[("rules", "node-1")])
    assert verdicts(blind, "B1") == {"node-1": "UNKNOWN", "node-2": "FAIL"}


# ------------------------------------------------------------------------------------- B2


@pytest.mark.parametrize("release", RELEASES)
def test_b2_a_frontend_that_is_missing(release: str) -> None:
    broken = with_map(base(release), "node-2", "cali_v4_nat_fe", list.clear)
    found = outcomes(broken, "B2")
    assert found["node-1"][0].verdict == "OK"
    wrong = next(each for each in found["node-2"] if each.subject == WEB)
    assert wrong.verdict == "FAIL"
    assert "is not in the NAT map" in wrong.what
    assert "not in the map" in wrong.shown[0].excerpt
    assert "node-2" in wrong.remedy


def test_b2_a_backend_that_is_missing_or_stale() -> None:
    lacking = with_map(base(), "node-1", "cali_v4_nat_be", lambda found: found.pop())
    found = one(lacking, "B2")
    assert (found.verdict, found.subject) == ("FAIL", WEB)
    assert "2 backends, and 1 of them" in found.what
    assert "count 2" in found.shown[0].excerpt
    assert "ready 198.19" in found.shown[1].excerpt

    def away(entries: list[tuple[bytes, bytes]]) -> None:
        key, value = entries[0]
        entries[0] = key, bytes([10, 9, 8, 7]) + value[4:]

    stale = with_map(base(), "node-1", "cali_v4_nat_be", away)
    words = [each.what for each in outcomes(stale, "B2")["node-1"]]
    assert any("10.9.8.7" in each and "no ready endpoint" in each for each in words)


def _unready(found: list[Any]) -> None:
    for each in found:
        for end in each["endpoints"]:
            end["conditions"] = {"ready": False}


def test_b2_no_ready_endpoint_is_warn_and_a_change_meanwhile_is_nothing() -> None:
    slices = objects(base(), "endpointslices", _unready)
    none = with_map(
        changed(base(), {("endpointslices", ""): slices, ("endpointslices/later", ""): slices}),
        "node-1", "cali_v4_nat_fe",
        # The count of backends: bytes 4 to 8 of the value.
        lambda found: found.__setitem__(
            slice(None), [(key, value[:4] + bytes(4) + value[8:]) for key, value in found]
        ),
    )  # fmt: skip
    web = next(each for each in outcomes(none, "B2")["node-1"] if each.subject == WEB)
    assert (web.verdict, "no ready endpoint" in web.what) == ("WARN", True)
    assert "kubectl get endpointslice -n default" in web.remedy
    meanwhile = changed(base(), {("endpointslices/later", ""): slices})
    assert verdicts(meanwhile, "B2") == dict.fromkeys(NODES, "OK")


def _again(found: list[Any]) -> None:
    for each in found:
        each["metadata"]["generation"] = int(each["metadata"]["generation"]) + 2


def test_b2_endpoints_that_change_are_not_held_against_the_maps_but_frontends_are() -> None:
    """They are as they were at both readings, and were others in between."""
    moved = {("endpointslices/later", ""): objects(base(), "endpointslices", _again)}
    lacking = with_map(base(), "node-1", "cali_v4_nat_be", lambda found: found.pop())
    assert verdicts(lacking, "B2")["node-1"] == "FAIL"
    assert verdicts(changed(lacking, moved), "B2")["node-1"] == "OK"
    found = one(changed(lacking, moved), "B2")
    assert "endpoints changed meanwhile, so not held against them: 1" in found.shown[0].excerpt
    gone = with_map(base(), "node-1", "cali_v4_nat_fe", lambda found: found.clear())
    assert verdicts(changed(gone, moved), "B2")["node-1"] == "FAIL"


def test_b2_many_problems_are_capped_with_their_number() -> None:
    def many(found: list[Any]) -> None:
        web = next(each for each in found if each["metadata"]["name"] == "web")
        for at in range(23):
            own = json.loads(json.dumps(web))
            own["metadata"]["name"] = f"s{at:02}"
            own["spec"]["clusterIP"] = f"10.96.0.{at + 1}"
            own["spec"]["clusterIPs"] = [own["spec"]["clusterIP"]]
            found.append(own)

    evidence = changed(base(), {("services", ""): objects(base(), "services", many)})
    found = outcomes(evidence, "B2")["node-1"]
    assert len(found) == 6
    assert found[-1].what.startswith(
        "18 more problems of services, of s05".replace("s05", "default/s05")
    )
    assert {each.verdict.value for each in found} == {"FAIL"}


def test_b2_services_of_another_proxy_are_not_compared() -> None:
    def change(found: list[Any]) -> None:
        web = next(each for each in found if each["metadata"]["name"] == "web")
        web["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "other"}

    evidence = changed(base(), {("services", ""): objects(base(), "services", change)})
    broken = with_map(evidence, "node-1", "cali_v4_nat_fe", list.clear)
    assert all(each.subject != WEB for each in outcomes(broken, "B2")["node-1"])


def test_b2_unread_maps_are_unknown_and_a_node_in_fallback_has_none_to_compare() -> None:
    assert verdicts(changed(base(), without=[("maps", "node-1")]), "B2")["node-1"] == "UNKNOWN"
    nothing = changed(base(), {("maps", "node-1"): json.dumps({
        "maps": [], "reason": "/sys/fs/bpf/tc/globals: No such file or directory", "pinned": [],
        "now_ns": 1, "interfaces": {}}).encode() + b"\n" + zlib.compress(b"")})  # fmt: skip
    found = one(nothing, "B2")
    assert (found.verdict, "No such file" in found.what) == ("UNKNOWN", True)
    fallen = changed(nothing, {("log", "node-1"): UNSUPPORTED})
    assert verdicts(fallen, "B2")["node-1"] == "N/A"


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


# ----------------------------------------------------------------------------- B5, B6, B8


def dsr(items: list[Item], release: str = "v3.26", cloud: str = "", **fields: Any) -> Evidence:
    return on_both(base(release, items=items, **DSR, **fields), "cloud", cloud)


BLOCKED = probes(foreign=True, arrived=lambda w: 0 if w.foreign and w.sender == "node-2" else 7)
CARRIED = probes(foreign=True)
UNTRIED = probes()


@pytest.mark.parametrize(("check", "cloud"), [("B5", AMAZON), ("B6", GOOGLE), ("B8", "")])
def test_dsr_where_foreign_sources_are_dropped(check: str, cloud: str) -> None:
    found = dsr(BLOCKED, cloud=cloud)
    assert verdicts(found, check) == {"node-1": "OK", "node-2": "FAIL"}
    bad = one(found, check, "node-2")
    assert "none of 7 datagrams to node-1 with the source 198.18.0.11" in bad.what
    assert "with its own source 7 of 7 do" in bad.what
    assert {each.source for each in bad.shown} >= {"source-probe", "vxlan-probe"}
    assert bad.remedy
    assert verdicts(dsr(UNTRIED, cloud=cloud), check) == dict.fromkeys(NODES, "UNKNOWN")
    tunnel = on_both(base(items=BLOCKED), "cloud", cloud)
    assert verdicts(tunnel, check) == dict.fromkeys(NODES, "N/A")


def test_b5_and_b6_are_of_their_cloud_alone() -> None:
    assert verdicts(dsr(BLOCKED, cloud=GOOGLE), "B5") == dict.fromkeys(NODES, "N/A")
    assert verdicts(dsr(BLOCKED, cloud=AMAZON), "B6") == dict.fromkeys(NODES, "N/A")
    assert verdicts(dsr(BLOCKED), "B5") == dict.fromkeys(NODES, "N/A")
    assert "aws ec2 describe-instance-attribute" in one(dsr(UNTRIED, cloud=AMAZON), "B5").remedy
    assert "canIpForward" in one(dsr(UNTRIED, cloud=GOOGLE), "B6").remedy


def test_b5_what_felix_is_told_to_do_with_the_check() -> None:
    told = dsr(UNTRIED, cloud=AMAZON, awsSrcDstCheck="Enable")
    assert verdicts(told, "B5") == dict.fromkeys(NODES, "FAIL")
    assert "awsSrcDstCheck: Disable" in one(told, "B5").remedy
    assert "awsSrcDstCheck: Disable lets Felix do it" in one(told, "B5").corrected
    against = dsr(CARRIED, cloud=AMAZON, awsSrcDstCheck="Enable")
    assert verdicts(against, "B5") == dict.fromkeys(NODES, "WARN")
    # Felix may lack the right: what it is told is no proof.
    told = dsr(UNTRIED, cloud=AMAZON, awsSrcDstCheck="Disable")
    assert verdicts(told, "B5") == dict.fromkeys(NODES, "UNKNOWN")


def test_b8_is_unknown_where_nothing_arrives_or_nothing_leaves() -> None:
    nothing = dsr(probes(foreign=True, arrived=lambda way: 0))
    assert verdicts(nothing, "B8") == dict.fromkeys(NODES, "UNKNOWN")
    assert "with its own source neither (check B3)" in one(nothing, "B8").what
    kept = dsr(probes(foreign=True, left=lambda way: 0 if way.foreign else 7,
                      arrived=lambda way: 0 if way.foreign else 7))  # fmt: skip
    assert "its own rules keep them back" in one(kept, "B8").what
    assert verdicts(kept, "B8") == dict.fromkeys(NODES, "UNKNOWN")
    deaf = dsr(probes(foreign=True, failed={"node-2": "it did not answer within 3 s"}))
    assert "node-2 did not listen" in one(deaf, "B8").what
    alone = replace(dsr([]), nodes=("node-1",))
    assert verdicts(alone, "B8") == {"node-1": "N/A"}


def test_b8_some_lost_is_warn() -> None:
    some = dsr(probes(foreign=True, arrived=lambda way: 5 if way.foreign else 7))
    assert verdicts(some, "B8") == dict.fromkeys(NODES, "WARN")


def test_b8_dsr_by_a_nodes_own_resource_is_that_nodes_alone() -> None:
    evidence = base(items=CARRIED)
    own = felix(evidence, {**DSR, "bpfEnabled": True}, name="node.node-2")
    found = verdicts(changed(evidence, {("felixconfigurations", ""): own}), "B8")
    assert found == {"node-1": "N/A", "node-2": "OK"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (AMAZON, "AWS"),
        (GOOGLE, "Google Cloud"),
        ("/sys/hypervisor/uuid:ec2a1b2c-0000-1111-2222-333344445555\n", "AWS"),
        ("/sys/hypervisor/uuid:0e2a1b2c-0000-1111-2222-333344445555\n", ""),
        ("/sys/class/dmi/id/sys_vendor:DigitalOcean\n", "DigitalOcean"),
        ("/sys/class/dmi/id/sys_vendor:Microsoft Corporation\n"
         "/sys/class/dmi/id/chassis_asset_tag:7783-7084-3265-9085-8269-3286-77\n", "Azure"),
        ("/sys/class/dmi/id/sys_vendor:Microsoft Corporation\n", ""),
        ("/sys/class/dmi/id/sys_vendor:Googleplex\n", ""),
        ("/sys/class/dmi/id/product_name:PowerEdge R640\n", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_clouds_by_their_firmware(text: str, found: str) -> None:
    assert clouds.named(text) == found


# ------------------------------------------------------------------------------------- B7

BALANCED = {"type": "LoadBalancer"}
INGRESS = {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}


def test_b7_dsr_behind_a_clouds_load_balancer() -> None:
    both = with_service(dsr(CARRIED, cloud=AMAZON), BALANCED, **INGRESS)
    found = one(both, "B7", "")
    assert found.verdict == "FAIL"
    assert "load balancers of AWS before default/web" in found.what
    assert "203.0.113.7" in found.shown[1].excerpt
    assert "bpfDSROptoutCIDRs" in found.remedy
    assert "since v3.26" in found.corrected
    old = with_service(dsr(CARRIED, "v3.16", AMAZON), BALANCED, **INGRESS)
    found = one(old, "B7", "")
    assert (found.verdict, found.corrected) == ("FAIL", "")
    assert "bpfDSROptoutCIDRs" not in found.remedy, "v3.16 has no such field"
    assert "bpfExternalServiceMode: Tunnel" in found.remedy


def test_b7_unknown_ok_and_not_applicable() -> None:
    elsewhere = with_service(dsr(CARRIED), BALANCED, **INGRESS)
    assert verdicts(elsewhere, "B7") == {"": "UNKNOWN"}
    exempt = with_service(
        dsr(CARRIED, cloud=AMAZON, bpfDSROptoutCIDRs=["10.0.0.0/8"]), BALANCED, **INGRESS
    )
    assert verdicts(exempt, "B7") == {"": "UNKNOWN"}
    for spec, status in (
        (BALANCED, {}),
        ({**BALANCED, "externalTrafficPolicy": "Local"}, INGRESS),
        ({"type": "NodePort"}, INGRESS),
    ):
        quiet = with_service(dsr(CARRIED, cloud=AMAZON), spec, **status)
        assert verdicts(quiet, "B7") == {"": "OK"}
    tunnel = with_service(on_both(base(), "cloud", AMAZON), BALANCED, **INGRESS)
    assert verdicts(tunnel, "B7") == {"": "N/A"}


# -------------------------------------------------------------------------------- B9, B10


def test_b9_says_where_to_look() -> None:
    assert "connections to services are redirected" in one(base(), "B9").what
    assert "bpfConnectTimeLoadBalancing is TCP" in one(base("v3.30"), "B9").what
    off = one(base("v3.30", bpfConnectTimeLoadBalancing="Disabled"), "B9")
    assert (off.verdict, "translated by the programs" in off.what) == ("OK", True)
    old = one(base("v3.30", bpfConnectTimeLoadBalancingEnabled=False), "B9")
    assert "translated by the programs" in old.what
    assert "translated" in one(base(bpfConnectTimeLoadBalancingEnabled=False), "B9").what


CONNECT = """\
==> /run/calico/cgroup <==
ID       AttachType      AttachFlags     Name
83       cgroup_inet4_connect                 calico_connect_
84       cgroup_inet4_post_bind                 other
"""
NO_CONNECT = "==> /sys/fs/cgroup <==\n"
ROUTE = {"dst": "10.96.0.10", "gateway": "169.254.1.1", "dev": "bpfin.cali", "flags": ["onlink"]}


def host(
    release: str = "v3.30",
    *,
    device: bool | None = True,
    connect: str | None = NO_CONNECT,
    route: bool = True,
    filtered: str = "0",
    **fields: Any,
) -> Evidence:
    """A cluster that is no lab, with a UDP service; ``device`` False: down, None: not there."""
    evidence = base(release, **fields)

    def real(found: list[Any]) -> None:
        for each in found:
            each["metadata"]["annotations"] = {}

    def dns(found: list[Any]) -> None:
        found.append({
            "metadata": {"name": "dns", "namespace": "kube-system"},
            "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 53, "protocol": "UDP"}]},
        })  # fmt: skip

    links = json.loads(evidence.items["links", "node-1"].text)
    if device is not None:
        flags = ["UP"] if device else []
        links.append({"ifname": "bpfin.cali", "ifindex": 99, "mtu": 1500, "flags": flags})
    routes = json.loads(evidence.items["routes", "node-1"].text)
    answers: dict[tuple[str, str], str | bytes] = {
        ("nodes", ""): objects(evidence, "nodes", real),
        ("services", ""): objects(evidence, "services", dns),
        ("links", "node-1"): json.dumps(links),
        ("routes", "node-1"): json.dumps([*routes, ROUTE] if route else routes),
        ("settings", "node-1"): f"net/ipv4/conf/all/rp_filter:{filtered}\n",
    }
    if connect is not None:
        answers["connect-programs", "node-1"] = connect
    without = [("connect-programs", "node-1")] if connect is None else []
    found = changed(evidence, answers, without=without)
    return changed(found, statuses={("connect-programs", "node-1"): 0} if connect else {})


@pytest.mark.parametrize(
    ("how", "verdict", "word"),
    [
        ({}, "OK", "by bpfin.cali"),
        ({"connect": CONNECT}, "OK", "and TCP at connect()"),
        ({"connect": None}, "OK", "by bpfin.cali"),
        ({"route": False}, "FAIL", "kube-system/dns"),
        ({"filtered": "1"}, "WARN", "rp_filter is 1"),
        ({"device": None}, "FAIL", "do not reach services"),
        ({"device": False}, "FAIL", "bpfin.cali is down"),
        ({"device": None, "connect": None}, "FAIL", "bpfin.cali is not there"),
        ({"device": None, "connect": "Error: no\n", "bpfConnectTimeLoadBalancing": "Enabled"},
         "UNKNOWN", "was not read"),
        ({"device": None, "connect": CONNECT}, "WARN", "by TCP alone"),
        ({"device": None, "connect": CONNECT, "bpfConnectTimeLoadBalancing": "Enabled"}, "OK",
         "redirected at connect()"),
        ({"device": None, "connect": None, "bpfConnectTimeLoadBalancing": "Enabled"}, "UNKNOWN",
         "was not read"),
        ({"device": None, "connect": CONNECT, "bpfHostNetworkedNATWithoutCTLB": "Disabled"},
         "WARN", "UDP is not"),
        ({"device": None, "bpfHostNetworkedNATWithoutCTLB": "Disabled"}, "FAIL",
         "do not reach services"),
    ],
)  # fmt: skip
def test_b10_hosts_reach_services(how: dict[str, Any], verdict: str, word: str) -> None:
    found = one(host(**how), "B10")
    assert (found.verdict, word in found.what) == (verdict, True), found.what
    assert found.shown
    assert bool(found.remedy) == (verdict in ("FAIL", "WARN"))


def test_b10_begins_with_v3_27_and_leaves_the_lab_and_fallback_alone() -> None:
    assert verdicts(base(), "B10") == {"": "N/A"}
    assert verdicts(base("v3.32"), "B10") == dict.fromkeys(NODES, "N/A")
    fallen = changed(host(device=None), {("log", "node-1"): UNSUPPORTED})
    assert verdicts(fallen, "B10")["node-1"] == "N/A"


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


# ------------------------------------------------------------------------------------ B12


def api(configmaps: list[Any], **answers: str) -> Evidence:
    told = {("configmaps", ""): json.dumps(configmaps)}
    return changed(base("v3.32"), {**told, **{(name, ""): text for name, text in answers.items()}})


def place(**other: Any) -> list[Any]:
    (found,) = json.loads(json.dumps(CONFIGMAP))
    found["metadata"]["namespace"] = other.pop("namespace", "kube-system")
    found["data"].update(other)
    return [found]


def _kubernetes(found: list[Any]) -> None:
    found.append({"metadata": {"name": "kubernetes", "namespace": "default"},
                  "spec": {"clusterIP": KUBERNETES, "ports": []}})  # fmt: skip


def _variable(host_: str) -> Callable[[list[Any]], None]:
    def change(found: list[Any]) -> None:
        for each in found:
            for container in each["spec"]["template"]["spec"]["containers"]:
                container["env"] = [{"name": "KUBERNETES_SERVICE_HOST", "value": host_}]

    return change


def test_b12_the_api_must_be_found_without_kube_proxy() -> None:
    assert verdicts(api(CONFIGMAP), "B12") == {"": "OK"}
    assert verdicts(api(place(namespace="tigera-operator")), "B12") == {"": "OK"}
    found = one(api([]), "B12", "")
    assert found.verdict == "FAIL"
    assert "kube-proxy is not on node-1, node-2" in found.what
    assert "configmap -n kube-system kubernetes-services-endpoint" in found.remedy
    elsewhere = one(api(place(namespace="default")), "B12", "")
    assert (elsewhere.verdict, "(only in default)" in elsewhere.what) == ("FAIL", True)
    half = one(api(place(KUBERNETES_SERVICE_PORT="")), "B12", "")
    assert (half.verdict, "lacks KUBERNETES_SERVICE_PORT" in half.what) == ("FAIL", True)
    half = one(api(place(KUBERNETES_SERVICE_HOST="")), "B12", "")
    assert "lacks KUBERNETES_SERVICE_HOST" in half.what


def test_b12_the_services_own_address_leads_in_a_circle() -> None:
    everything = objects(base("v3.32"), "services", _kubernetes)
    circle = api(place(KUBERNETES_SERVICE_HOST=KUBERNETES), services=everything)
    found = one(circle, "B12", "")
    assert (found.verdict, KUBERNETES in found.what) == ("FAIL", True)
    fine = objects(base("v3.32"), "daemonsets", _variable(OWN))
    assert verdicts(api([], daemonsets=fine), "B12") == {"": "OK"}
    same = objects(base("v3.32"), "daemonsets", _variable(KUBERNETES))
    assert verdicts(api([], daemonsets=same, services=everything), "B12") == {"": "FAIL"}


def test_b12_the_operator_bootstraps_from_v3_31() -> None:
    spec = {"calicoNetwork": {"bpfNetworkBootstrap": "Enabled"}}
    told = json.dumps([{"metadata": {"name": "default"}, "spec": spec}])
    assert verdicts(api([], installations=told), "B12") == {"": "OK"}
    assert (
        "-n tigera-operator"
        in one(
            changed(base(), {("configmaps", ""): "[]", ("installations", ""): told}), "B12", ""
        ).remedy
    )


def test_b12_where_kube_proxy_runs_everywhere_it_does_not_matter() -> None:
    running = on_both(api([]), "processes/later", "100 20.0\nkube-proxy 77 1 1\n")
    assert verdicts(running, "B12") == {"": "N/A"}
    half = changed(api([]), {("processes/later", "node-1"): "100 20.0\nkube-proxy 77 1 1\n"})
    found = one(half, "B12", "")
    assert "kube-proxy is not on node-2," in found.what


def refused(evidence: Evidence, *sources: str) -> Evidence:
    """The evidence where the API refuses these lists."""
    items = {
        (name, ""): Item(name, "", name, evidence.taken_utc, error=f"You may not list {name}.")
        for name in sources
    }
    return replace(evidence, items={**evidence.items, **items})


def test_b12_what_the_operator_was_told_and_may_not_be_read() -> None:
    # With the ConfigMap nothing depends on it; without, the operator may tell Calico.
    assert verdicts(refused(api(CONFIGMAP), "installations"), "B12") == {"": "OK"}
    found = one(refused(api([]), "installations"), "B12", "")
    assert (found.verdict, "may not list installations" in found.what) == ("UNKNOWN", True)
    # Before v3.31 it cannot, and where the ConfigMap belongs is told for both.
    older = refused(changed(base(), {("configmaps", ""): "[]"}), "installations")
    found = one(older, "B12", "")
    assert (found.verdict, "<tigera-operator" in found.remedy) == ("FAIL", True)


@pytest.mark.parametrize("source", ["pods", "ippools"])
def test_fields_do_not_depend_on_lists_beside_the_process(source: str) -> None:
    printed = "==> environment <==\nFELIX_LOGSEVERITYSCREEN=info\n==> file <==\n"
    evidence = refused(on_both(base(), "felix-process", printed), source)
    assert verdicts(evidence, "C5") == dict.fromkeys(NODES, "OK")
    assert verdicts(evidence, "B9") == dict.fromkeys(NODES, "OK")


def test_an_encapsulation_that_follows_of_pools_that_were_not_read_is_unknown() -> None:
    for node, (found,) in outcomes(refused(base(), "ippools"), "B11").items():
        assert (node in NODES, found.verdict) == (True, "UNKNOWN")
        assert "IP pools, which were not read" in found.what
    told = refused(base(vxlanEnabled=False), "ippools")
    assert verdicts(told, "B11") == dict.fromkeys(NODES, "N/A")


def test_b3_of_nodes_without_ipv4_says_why_nothing_was_sent() -> None:
    def change(found: list[Any]) -> None:
        for node in found:
            node["status"]["addresses"] = [{"type": "InternalIP", "address": "2001:db8::1"}]
            node["metadata"]["annotations"].pop("projectcalico.org/IPv4Address")

    nodes = objects(base(), "nodes", change)
    found = one(changed(with_items(base(), []), {("nodes", ""): nodes}), "B3", "")
    assert (found.verdict, "no IPv4 InternalIP" in found.what) == ("UNKNOWN", True)
    assert "IPv4" not in one(with_items(base(), []), "B3", "").what


def test_the_address_that_calico_chose_is_the_one_that_counts() -> None:
    """The kubelet's may be on another NIC."""

    def change(found: list[Any]) -> None:
        for node in found:
            node["metadata"]["annotations"]["projectcalico.org/IPv4Address"] = "10.7.7.7/24"

    nodes = objects(base(), "nodes", change)
    case = Case(changed(base(), {("nodes", ""): nodes}))
    assert case.address("node-1") == "10.7.7.7"
    assert Case(base()).address("node-1") == ADDRESSES["node-1"]
    with pytest.raises(Missing, match=r"no device carries 10\.7\.7\.7"):
        case.nic("node-1")


def test_b10_services_that_calico_does_not_translate_need_no_route() -> None:
    def with_udp(**metadata: Any) -> list[str]:
        def change(found: list[Any]) -> None:
            found.append({"metadata": {"name": "own", "namespace": "default", **metadata},
                          "spec": {"clusterIP": "10.199.9.9",
                                   "ports": [{"port": 53, "protocol": "UDP"}]}})  # fmt: skip

        told = objects(base(), "services", change)
        case = Case(changed(base(), {("services", ""): told, ("routes", "node-1"): "[]"}))
        return service_hosts._without_route(case, "node-1")

    assert "default/own" in with_udp()
    label = {"service.kubernetes.io/service-proxy-name": "other"}
    assert "default/own" not in with_udp(labels=label)
    for value, left in (("true", False), ("false", True)):
        annotations = {"projectcalico.org/natExcludeService": value}
        assert ("default/own" in with_udp(annotations=annotations)) is left


def test_b4_pods_devices_are_those_of_another_cni_plugin_as_well() -> None:
    evidence = mtus(base(interfacePrefix="eni"), pod=1501)
    links = evidence.items["links", "node-1"].text.replace('"cali', '"eni')
    found = one(changed(evidence, {("links", "node-1"): links}), "B4")
    assert (found.verdict, found.subject[:3]) == ("WARN", "eni")
