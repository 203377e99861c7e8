"""What to do, in the release that runs and at the place that decides there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from evidence_made import changed, felix, healthy, objects, outcomes
from services_made import AMAZON, DSR, base, on_both, probes, with_service

from ebpfperf.evidence import Evidence

BLOCKED = probes(foreign=True, arrived=lambda way: 0 if way.foreign else 7)
BALANCED = {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}
HELD = 'UNCONN 0 0 0.0.0.0:4789 0.0.0.0:* users:(("dockerd",pid=18,fd=3))\n'


def cluster(release: str, **fields: Any) -> Evidence:
    """Of AWS, with a load balancer, an underlay that drops foreign sources, a held port."""
    found = on_both(base(release, items=BLOCKED, **fields), "cloud", AMAZON)
    found = with_service(found, {"type": "LoadBalancer"}, **BALANCED)
    links = json.loads(found.items["links", "node-1"].text)
    links.append({"ifname": "vxlan.calico", "ifindex": 98, "mtu": 1499, "flags": []})

    def vxlan(pools: list[Any]) -> None:
        pools[0]["spec"]["vxlanMode"] = "Always"

    answers: dict[tuple[str, str], str | bytes] = {
        ("links", "node-1"): json.dumps(links),
        ("sockets", "node-1"): HELD,
        ("ippools", ""): objects(found, "ippools", vxlan),
    }
    return changed(found, answers)


def told(evidence: Evidence, variables: Mapping[str, Any]) -> Evidence:
    """Felix of both nodes has these variables, too."""
    lines = "".join(f"{name}={value}\n" for name, value in variables.items())
    return on_both(evidence, "felix-process", f"==> environment <==\n{lines}==> file <==\n")


def remedies(evidence: Evidence, check: str) -> list[str]:
    """What to do by a check, of node-1 and the cluster, where it says so."""
    found = outcomes(evidence, check)
    return [each.remedy for node in ("node-1", "") for each in found.get(node, ()) if each.remedy]


WRONG = {
    "bpfExternalServiceMode": ("DSR", "B8"),
    "vxlanPort": (4789, "B11"),
    "bpfDataIfacePattern": ("^none$", "A8"),
    "vxlanMTU": (1499, "E7"),
}


@pytest.mark.parametrize("release", ["v3.16", "v3.26", "v3.32"])
@pytest.mark.parametrize("field", [*WRONG, "balanced"])
def test_a_field_is_changed_where_it_is_set(release: str, field: str) -> None:
    name = "bpfExternalServiceMode" if field == "balanced" else field
    value, check = WRONG[name]
    check = "B7" if field == "balanced" else check
    flags = {"vxlanEnabled": True} if check in ("B11", "E7") else {}
    in_default = cluster(release, **{name: value}, **flags)
    texts = remedies(in_default, check)
    assert any(f"{name}" in text and "FelixConfiguration default" in text for text in texts), texts
    variable = f"FELIX_{name.upper()}"
    by_environment = told(cluster(release, **flags), {variable: value})
    texts = [text for text in remedies(by_environment, check) if name in text or variable in text]
    assert texts
    assert all(variable in text and "which wins" in text for text in texts), texts
    assert not any("FelixConfiguration default" in text for text in texts), texts


def test_of_one_node_it_is_changed_in_its_own_resource() -> None:
    evidence = on_both(base(items=BLOCKED), "cloud", "")
    own = felix(evidence, {**DSR, "bpfEnabled": True}, name="node.node-1")
    (text,) = remedies(changed(evidence, {("felixconfigurations", ""): own}), "B8")
    assert "bpfExternalServiceMode: Tunnel in FelixConfiguration node.node-1" in text


@pytest.mark.parametrize(("release", "anew"), [("v3.16", False), ("v3.26", True)])
def test_pods_are_made_anew_where_their_mtu_follows_the_flags(release: str, anew: bool) -> None:
    evidence = healthy(release)
    flag = felix(evidence, {"ipipEnabled": True})
    (text,) = remedies(changed(evidence, {("felixconfigurations", ""): flag}), "E2")
    assert ("make the pods anew" in text) is anew
