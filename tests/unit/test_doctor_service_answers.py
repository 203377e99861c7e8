"""Checks B5 to B8, of answers by DSR: every verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from evidence_made import NODES, changed, felix, verdicts
from services_made import AMAZON, DSR, GOOGLE, base, on_both, one, probes, with_service

from ebpfperf.doctor import clouds
from ebpfperf.evidence import Evidence, Item

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
