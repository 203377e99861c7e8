"""Checks B9 and B10, of a node's own processes: every verdict."""

from __future__ import annotations

import json
from typing import Any

import pytest
from evidence_made import NODES, changed, objects, verdicts
from services_made import UNSUPPORTED, base, one

from ebpfperf.doctor import service_hosts
from ebpfperf.doctor.case import Case
from ebpfperf.evidence import Evidence


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
