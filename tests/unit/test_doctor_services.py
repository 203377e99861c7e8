"""Checks B1, B2 and B12: every verdict, on recorded evidence with single answers changed."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from evidence_made import NODES, changed, objects, outcomes, verdicts
from services_made import (
    ADDRESSES,
    CONFIGMAP,
    KUBERNETES,
    OWN,
    RELEASES,
    UNSUPPORTED,
    WEB,
    base,
    on_both,
    one,
    with_map,
)

from ebpfperf.doctor import services
from ebpfperf.doctor.case import Case, Missing
from ebpfperf.evidence import Evidence, Item

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
