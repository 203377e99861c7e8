"""Maps against the API: what is missing, stale or wrong is named, and nothing else is."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from ebpfperf import map_checks, map_wanted
from ebpfperf.map_checks import Problem
from ebpfperf.map_wanted import SERVICE_LABEL, Api, Service
from ebpfperf.mapdump.nat import BLACKHOLE

ENDS = frozenset({("10.65.1.2", 8080), ("10.65.2.3", 8080)})
WEB = Service("default/web:http", ("10.96.0.10", 80, 6), ENDS)


def frontend(address: str, port: int, number: int, count: int, **more: Any) -> dict[str, Any]:
    return {"proto": 6, "addr": address, "port": port, "src_cidr": "0.0.0.0/0", "id": number,
            "count": count, "local": 0} | more  # fmt: skip


def backends(*ends: tuple[int, int, str, int]) -> pd.DataFrame:
    return pd.DataFrame(ends, columns=["id", "ordinal", "addr", "port"])


GOOD = backends((7, 0, "10.65.1.2", 8080), (7, 1, "10.65.2.3", 8080))


def said(problems: tuple[Problem, ...]) -> list[tuple[str, str]]:
    return [(problem.check, problem.severity) for problem in problems]


def of_web(fronts: list[dict[str, Any]], behind: pd.DataFrame, ends: Any = ENDS) -> list[Any]:
    api = Api((Service(WEB.name, WEB.place, frozenset(ends)),))
    columns = ["proto", "addr", "port", "src_cidr", "id", "count", "local"]
    return list(map_checks.services(api, pd.DataFrame(fronts, columns=columns), behind))


def test_a_service_that_leads_to_its_endpoints_is_no_problem() -> None:
    assert of_web([frontend("10.96.0.10", 80, 7, 2)], GOOD) == []


@pytest.mark.parametrize(
    ("fronts", "behind", "ends", "check", "severity", "words"),
    [
        ([], GOOD, ENDS, "service-missing", "FAIL", "is not in the NAT map"),
        ([frontend("10.96.0.10", 443, 7, 2)], GOOD, ENDS, "service-missing", "FAIL", "not in"),
        ([frontend("10.96.0.10", 80, 7, 0)], GOOD, ENDS, "service-empty", "FAIL", "2 in the API"),
        ([frontend("10.96.0.10", 80, 7, 0)], GOOD, (), "service-empty", "WARN", "neither"),
        (
            *([frontend("10.96.0.10", 80, 7, 2)], GOOD[:1], {("10.65.1.2", 8080)}),
            *("backend-missing", "FAIL", "2 backends, and 1 of them are not in the map"),
        ),
        (
            *([frontend("10.96.0.10", 80, 7, 2)], GOOD, {("10.65.1.2", 8080)}),
            *("backend-stale", "FAIL", "leads to 10.65.2.3:8080"),
        ),
        (
            *([frontend("10.96.0.10", 80, 7, 2)], GOOD, {*ENDS, ("10.65.2.4", 8080)}),
            *("backend-unknown", "FAIL", "does not lead to 10.65.2.4:8080"),
        ),
    ],
)
def test_what_is_wrong_with_a_service(
    fronts: Any, behind: Any, ends: Any, check: str, severity: str, words: str
) -> None:
    (problem,) = of_web(fronts, behind, ends)
    assert (problem.check, problem.severity) == (check, severity)
    assert words in problem.what
    assert problem.subject == "default/web:http"


@pytest.mark.parametrize(
    ("second", "third", "checks"),
    [
        ({}, {}, ["backend-stale", "backend-unknown"]),
        # It is going away, and goes on serving those who know it.
        ({"conditions": {"ready": False, "serving": True}}, {}, ["backend-unknown"]),
        (
            {"conditions": {"ready": False, "serving": False}},
            {},
            ["backend-stale", "backend-unknown"],
        ),
        # A node leads to the endpoints of its own zone.
        ({}, {"hints": {"forZones": [{"name": "b"}]}}, ["backend-stale"]),
    ],
)
def test_endpoints_that_end_or_are_of_another_zone(
    second: dict[str, Any], third: dict[str, Any], checks: list[str]
) -> None:
    """The maps lead to .2 and .3; the API has .2, .4, and (where it says something of it) .3."""
    meta = {"name": "web-1", "namespace": "default", "labels": {SERVICE_LABEL: "web"}}
    ends = [{"addresses": ["10.65.1.2"]}, {"addresses": ["10.65.2.4"], **third}]
    ends += [{"addresses": ["10.65.2.3"], **second}] if second else []
    ports = [{"name": "http", "port": 8080}]
    slices = [{"metadata": meta, "addressType": "IPv4", "endpoints": ends, "ports": ports}]
    spec = {"clusterIP": "10.96.0.10", "ports": [{"name": "http", "port": 80}]}
    service = {"metadata": {"name": "web", "namespace": "default"}, "spec": spec}
    api = map_wanted.api([service], slices, [], [])
    front = pd.DataFrame([frontend("10.96.0.10", 80, 7, 2)])
    found = map_checks.services(api, front, GOOD)
    assert [problem.check for problem in found] == checks


def test_sources_that_are_dropped_are_no_lack_of_backends() -> None:
    rest = frontend("10.96.0.10", 80, 7, 2, src_cidr="10.0.0.0/8")
    assert of_web([frontend("10.96.0.10", 80, 7, BLACKHOLE), rest], GOOD) == []


def test_backends_beyond_the_count_do_not_count() -> None:
    more = backends((7, 0, "10.65.1.2", 8080), (7, 1, "10.65.2.3", 8080), (7, 2, "10.65.9.9", 1))
    assert of_web([frontend("10.96.0.10", 80, 7, 2)], more) == []


# ----------------------------------------------------------------------------------------- routes

NODES = {"node-1": ("172.16.0.11",), "node-2": ("172.16.0.12",)}
HOST, LOCAL, WORKLOAD = 0x10, 0x8, 0x4


def table(**changes: tuple[int, str | None] | None) -> pd.DataFrame:
    """What node-1 must hold, with changes by the key of the row."""
    rows: dict[str, Any] = {
        "own": ("172.16.0.11/32", HOST | LOCAL, None),
        "other": ("172.16.0.12/32", HOST, None),
        "pod": ("10.65.1.2/32", WORKLOAD | LOCAL, None),
        "block": ("10.65.2.0/26", WORKLOAD, "172.16.0.12"),
        "pool": ("10.65.0.0/16", 0x3, None),
    }
    for name, change in changes.items():
        rows[name] = None if change is None else (rows[name][0], *change)
    kept = [row for row in rows.values() if row is not None]
    return pd.DataFrame(kept, columns=["dest", "flags", "next_hop"])


PODS = (("default/a", "node-1", "10.65.1.2"), ("default/b", "node-2", "10.65.2.3"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"other": None}, [("route-missing", "node-2")]),
        ({"other": (HOST | LOCAL, None)}, [("route-wrong", "node-2")]),
        ({"block": None}, [("route-missing", "default/b")]),
        ({"block": (WORKLOAD, "172.16.0.99")}, [("route-wrong", "default/b")]),
        ({"block": (WORKLOAD, None)}, [("route-wrong", "default/b")]),
        ({"pod": None}, [("route-missing", "default/a")]),
        ({"pod": (WORKLOAD, "172.16.0.12")}, [("route-wrong", "default/a")]),
    ],
)
def test_routes_to_pods_and_nodes(changes: Any, expected: list[tuple[str, str]]) -> None:
    api = Api((), NODES, PODS)
    found = map_checks.routes(api, "node-1", table(**changes))
    assert [(problem.check, problem.subject) for problem in found] == expected


def test_addresses_of_a_family_without_a_map_are_not_looked_for() -> None:
    api = Api((), {"node-1": ("172.16.0.11", "fd00::11"), "node-2": ("172.16.0.12",)}, PODS)
    assert map_checks.routes(api, "node-1", table(), families=(4,)) == ()
    (problem,) = map_checks.routes(api, "node-1", table())
    assert problem.what.startswith("fd00::11")


def test_services_of_a_family_without_a_map_are_not_looked_for() -> None:
    api = Api((Service("default/six", ("fd00::a", 80, 6), frozenset()),))
    empty = pd.DataFrame(columns=["proto", "addr", "port", "src_cidr", "id", "count", "local"])
    assert map_checks.services(api, empty, GOOD, families=(4,)) == ()
    assert said(map_checks.services(api, empty, GOOD)) == [("service-missing", "FAIL")]


def test_an_empty_routes_map_leads_nowhere() -> None:
    found = map_checks.routes(Api((), NODES, PODS), "node-1", table()[:0])
    assert said(found) == [("route-missing", "FAIL")] * 4


# ------------------------------------------------------------------------------------ connections


def through(address: str, state: str = "ESTABLISHED") -> dict[str, Any]:
    return {"type": "nat-reverse", "tcp_state": state, "initiator_dst": address,
            "initiator_dport": 8080, "orig_ip": "10.96.0.10", "orig_port": 80}  # fmt: skip


def test_connections_to_backends_that_are_gone() -> None:
    frame = pd.DataFrame([through("10.65.1.2"), through("10.65.9.9"), through("10.65.9.9")])
    (problem,) = map_checks.connections(frame, GOOD)
    assert (problem.check, problem.severity) == ("connection-stale", "WARN")
    assert "2 connections to 10.96.0.10:80 go to 10.65.9.9:8080" in problem.what


@pytest.mark.parametrize(
    ("unanswered", "most", "expected"),
    [
        (20, None, []),
        (21, None, [("syn-sent", "WARN")]),
        (0, 118, []),
        (0, 117, [("conntrack-full", "WARN")]),
        (0, 111, [("conntrack-full", "FAIL")]),
    ],
)
def test_share_of_syn_sent_and_a_full_map(
    unanswered: int, most: int | None, expected: list[tuple[str, str]]
) -> None:
    states = ["SYN-SENT"] * unanswered + ["ESTABLISHED"] * (100 - unanswered)
    frame = pd.DataFrame({"type": "normal", "tcp_state": states, "initiator_dst": None})
    assert said(map_checks.connections(frame, max_entries=most)) == expected


# ---------------------------------------------------------------------------------------- the API


def test_what_the_api_says() -> None:
    meta = {"name": "web", "namespace": "default"}
    services = [
        {"metadata": meta, "spec": {"clusterIP": "10.96.0.10", "ports": [
            {"name": "http", "port": 80, "protocol": "TCP"},
            {"name": "other", "port": 9, "protocol": "SCTP"}]}},
        {"metadata": meta | {"name": "headless"}, "spec": {"clusterIP": "None", "ports": [
            {"port": 80}]}},
        {"metadata": meta | {"name": "external"}, "spec": {"type": "ExternalName"}},
    ]  # fmt: skip
    slices = [
        {
            "metadata": {"namespace": "default", "labels": {map_wanted.SERVICE_LABEL: name}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": [address], "conditions": {"ready": ready}}
                for address, ready in (
                    ("10.65.1.2", True),
                    ("10.65.2.3", None),
                    ("10.65.2.4", False),
                )
            ],
        }
        for name in ("web", "headless")
    ]
    addresses = [
        {"type": "InternalIP", "address": "172.16.0.11"},
        {"type": "Hostname", "address": "node-1"},
    ]
    nodes = [{"metadata": {"name": "node-1"}, "status": {"addresses": addresses}}]
    pods = [
        {"metadata": meta | {"name": name}, "spec": {"nodeName": "node-1", "hostNetwork": host},
         "status": {"phase": phase, "podIP": "10.65.1.2"}}
        for name, host, phase in (("a", False, "Running"), ("b", True, "Running"),
                                  ("c", False, "Succeeded"))
    ]  # fmt: skip
    found = map_wanted.api(services, slices, nodes, pods)
    assert found == Api(
        (WEB,), {"node-1": ("172.16.0.11",)}, (("default/a", "node-1", "10.65.1.2"),)
    )


def test_a_service_that_is_not_to_be_translated_is_not_compared() -> None:
    row = frontend("10.96.0.10", 80, 7, 0, flags=4)
    api = Api((WEB,))
    assert map_checks.services(api, pd.DataFrame([row]), GOOD[:0]) == ()
    for flags in (1, pd.NA):
        problems = map_checks.services(api, pd.DataFrame([row | {"flags": flags}]), GOOD[:0])
        assert said(problems) == [("service-empty", "FAIL")]


def pod(name: str, node: str, address: str) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "default", "name": name},
        "spec": {"nodeName": node},
        "status": {"phase": "Running", "podIP": address},
    }


def node_with(name: str, *addresses: str, chosen: str = "") -> dict[str, Any]:
    annotations = {"projectcalico.org/IPv4Address": f"{chosen}/24"} if chosen else {}
    listed = [{"type": "InternalIP", "address": each} for each in addresses]
    return {
        "metadata": {"name": name, "annotations": annotations},
        "status": {"addresses": listed},
    }


def test_other_nodes_pods_outside_calicos_pools_have_no_route() -> None:
    """As with a cloud's own CNI plugin: Calico knows the node's own pods alone."""
    table = pd.DataFrame(
        [("10.0.0.1/32", 0x18, None), ("10.0.0.2/32", 0x10, None), ("10.0.0.11/32", 0x0C, None)],
        columns=["dest", "flags", "next_hop"],
    )
    nodes = [node_with("node-1", "10.0.0.1"), node_with("node-2", "10.0.0.2")]
    pods = [pod("here", "node-1", "10.0.0.11"), pod("there", "node-2", "10.0.0.12")]
    assert said(map_checks.routes(map_wanted.api((), (), nodes, pods), "node-1", table)) == [
        ("route-missing", "FAIL")
    ]
    without = map_wanted.api((), (), nodes, pods, [])
    assert map_checks.routes(without, "node-1", table) == ()
    within = map_wanted.api((), (), nodes, pods, [{"spec": {"cidr": "10.0.0.0/28"}}])
    assert [p.subject for p in map_checks.routes(within, "node-1", table)] == ["default/there"]
    lost = map_wanted.api((), (), nodes, [pod("lost", "node-1", "10.0.0.13")], [])
    assert said(map_checks.routes(lost, "node-1", table)) == [("route-missing", "FAIL")]


def test_of_a_nodes_addresses_calico_uses_one() -> None:
    table = pd.DataFrame(
        [("10.0.0.1/32", 0x18, None), ("172.16.0.2/32", 0x10, None),
         ("10.65.2.0/26", 0x07, "172.16.0.2")],
        columns=["dest", "flags", "next_hop"],
    )  # fmt: skip
    pods = [pod("there", "node-2", "10.65.2.3")]
    here = node_with("node-1", "10.0.0.1", "10.9.9.1")
    pools = [{"spec": {"cidr": "10.65.0.0/16"}}]
    chosen = [here, node_with("node-2", "10.0.0.2", chosen="172.16.0.2")]
    assert map_checks.routes(map_wanted.api((), (), chosen, pods, pools), "node-1", table) == ()
    other = [here, node_with("node-2", "10.0.0.2")]
    found = map_checks.routes(map_wanted.api((), (), other, pods, pools), "node-1", table)
    assert said(found) == [("route-missing", "FAIL"), ("route-wrong", "FAIL")]
