"""The checks of performance: what they say of each release, by hand-computed numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from evidence_made import changed, felix, healthy, objects, outcomes, result, verdicts

from ebpfperf import pod_gap
from ebpfperf.diagnosis import Outcome, Verdict
from ebpfperf.evidence import Evidence
from ebpfperf.store import Store

DEMO = Path(__file__).parents[2] / "examples" / "demo"

RELEASES = [f"v3.{minor}.0" for minor in range(13, 33)]
CHECKS = [f"E{number}" for number in range(1, 13)]
NODE = "node-2"


def number(release: str) -> int:
    return int(release.split(".")[1])


def base(release: str) -> Evidence:
    """A healthy cluster of that release: the recording that is nearest to it."""
    recorded = "v3.16" if number(release) <= 20 else "v3.26" if number(release) < 30 else "v3.30"
    if number(release) >= 31:
        recorded = "v3.32"
    return changed(healthy(recorded), release=release)


def pools(evidence: Evidence, **fields: Any) -> Evidence:
    """The first pool with these fields."""
    return changed(
        evidence,
        {
            ("ippools", ""): objects(
                evidence, "ippools", lambda found: found[0]["spec"].update(fields)
            )
        },
    )


def flagged(evidence: Evidence, **fields: Any) -> Evidence:
    return changed(evidence, {("felixconfigurations", ""): felix(evidence, fields)})


def answer(evidence: Evidence, source: str, node: str, change: Callable[[Any], None]) -> Evidence:
    """A JSON answer of a node after ``change`` had its way with it."""
    document = json.loads(evidence.items[source, node].text)
    change(document)
    return changed(evidence, {(source, node): json.dumps(document)})


def only(evidence: Evidence, check: str, node: str = "") -> Outcome:
    (found,) = outcomes(evidence, check)[node]
    return found


@pytest.mark.parametrize("release", RELEASES)
def test_a_healthy_cluster_raises_nothing(release: str) -> None:
    found = {check: result(base(release), check) for check in CHECKS}
    said = {
        check: [each.what for each in each_.outcomes]
        for check, each_ in found.items()
        if each_.verdict not in (Verdict.OK, Verdict.NOT_APPLICABLE)
    }
    assert said == {}
    assert {check for check, each in found.items() if each.verdict is Verdict.OK} >= {
        "E1", "E2", "E3", "E7", "E8", "E11",
    }  # fmt: skip


# ------------------------------------------------------------------------------------ E1


@pytest.mark.parametrize("release", RELEASES)
def test_ipip_fails_and_says_what_it_costs_there(release: str) -> None:
    found = only(pools(base(release), ipipMode="Always"), "E1")
    assert found.verdict is Verdict.FAIL
    assert found.subject == "default-ipv4-ippool"
    assert "ipipMode Always" in found.what
    assert "2 pods have an address" in found.what
    assert ("short-cut is off" in found.what) == (number(release) < 32)
    # Up to v3.22 the flags do not follow the pools.
    assert ("set vxlanEnabled to true" in found.remedy) == (number(release) < 23)
    assert "kubectl patch ippool default-ipv4-ippool" in found.remedy


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"vxlanMode": "Always"}, "WARN"),
        ({"vxlanMode": "CrossSubnet"}, "OK"),
        ({"ipipMode": "CrossSubnet"}, "FAIL"),
        ({"ipipMode": "Always", "cidr": "10.99.0.0/16"}, "WARN"),
        ({"ipipMode": "Always", "cidr": "10.99.0.0/16", "disabled": True}, "OK"),
        ({"ipipMode": "Always", "disabled": True}, "FAIL"),
        ({"vxlanMode": "Always", "cidr": "fd00::/48"}, "WARN"),
    ],
)
def test_pools_by_mode_and_use(fields: dict[str, Any], verdict: str) -> None:
    assert verdicts(pools(base("v3.26.0"), **fields), "E1") == {"": verdict}


def test_an_operator_s_pool_is_changed_in_its_installation() -> None:
    evidence = pools(base("v3.30.0"), ipipMode="Always")
    evidence = changed(
        evidence, {("installations", ""): '[{"metadata":{"name":"default"},"spec":{}}]'}
    )
    assert "Installation default" in only(evidence, "E1").remedy


def test_without_pods_the_pool_is_judged_as_used() -> None:
    evidence = changed(pools(base("v3.26.0"), ipipMode="Always"), without=[("pods", "")])
    found = only(evidence, "E1")
    assert found.verdict is Verdict.FAIL
    assert "unknown number of pods" in found.what


# ------------------------------------------------------------------------------------ E2


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("flag", ["ipipEnabled", "vxlanEnabled"])
def test_a_flag_that_no_pool_needs(release: str, flag: str) -> None:
    last_that_ends_the_shortcut = {"ipipEnabled": 31, "vxlanEnabled": 17}[flag]
    found = only(flagged(base(release), **{flag: True}), "E2", NODE)
    ends = number(release) <= last_that_ends_the_shortcut
    assert found.verdict is (Verdict.FAIL if ends else Verdict.WARN)
    assert found.subject == flag
    assert ("short-cut is off" in found.what) == ends
    bytes_less = {"ipipEnabled": 20, "vxlanEnabled": 50}[flag]
    assert (f"{bytes_less} bytes of MTU less" in found.what) == (number(release) >= 17)
    value = "false" if number(release) < 23 else "null"
    assert f'{{"spec":{{"{flag}":{value}}}}}' in found.remedy
    assert ("ipInIpEnabled" in found.corrected) == (flag == "ipipEnabled")
    assert ("since v3.23 leave it unset" in found.corrected) == (number(release) >= 23)
    assert ("since v3.32" in found.corrected) == (number(release) >= 32)
    assert any("true" in shown.excerpt for shown in found.shown)


def test_a_flag_of_one_node_is_that_node_s() -> None:
    evidence = base("v3.22.0")
    evidence = changed(
        evidence,
        {("felixconfigurations", ""): felix(evidence, {"ipipEnabled": True}, f"node.{NODE}")},
    )
    assert verdicts(evidence, "E2") == {"node-1": "OK", NODE: "FAIL"}
    assert f"felixconfiguration node.{NODE} " in only(evidence, "E2", NODE).remedy


def test_a_flag_in_the_environment_is_taken_away_there() -> None:
    printed = "==> environment <==\nFELIX_IPINIPENABLED=true\n==> file <==\n"
    evidence = changed(base("v3.26.0"), {("felix-process", NODE): printed})
    assert verdicts(evidence, "E2") == {"node-1": "OK", NODE: "FAIL"}
    found = only(evidence, "E2", NODE)
    assert "Take FELIX_IPINIPENABLED away from calico-node's environment" in found.remedy
    assert found.shown[-2].source == "felix-process"


def test_a_flag_that_pools_need_or_nobody_sets_is_right() -> None:
    vxlan = flagged(pools(base("v3.22.0"), vxlanMode="Always"), vxlanEnabled=True)
    assert verdicts(vxlan, "E2") == {"node-1": "OK", NODE: "OK"}
    derived = pools(base("v3.26.0"), ipipMode="Always")
    assert "as the pools ask (default-ipv4-ippool)" in only(derived, "E2", NODE).what


def test_beside_ipip_vxlan_costs_no_shortcut_that_is_there() -> None:
    evidence = flagged(
        pools(base("v3.16.0"), ipipMode="Always"), ipipEnabled=True, vxlanEnabled=True
    )
    found = only(evidence, "E2", NODE)
    assert (found.verdict, found.subject) == (Verdict.WARN, "vxlanEnabled")


def test_the_page_s_name_in_a_resource_does_nothing() -> None:
    found = only(flagged(base("v3.26.0"), ipInIpEnabled=True), "E2", NODE)
    assert found.verdict is Verdict.WARN
    assert "ipInIpEnabled" in found.what
    assert "ipipEnabled" in found.remedy


def test_flags_are_unknown_without_the_resources() -> None:
    evidence = changed(base("v3.26.0"), without=[("felixconfigurations", "")])
    assert verdicts(evidence, "E2") == {"node-1": "UNKNOWN", NODE: "UNKNOWN"}


def with_old_pool(evidence: Evidence, cidr: str = "10.200.0.0/16") -> Evidence:
    """With a pool that somebody disabled."""

    def add(found: list[Any]) -> None:
        spec = {"cidr": cidr, "ipipMode": "Always", "disabled": True}
        found.append({"metadata": {"name": "old"}, "spec": spec})

    return changed(evidence, {("ippools", ""): objects(evidence, "ippools", add)})


@pytest.mark.parametrize(
    ("release", "verdict"),
    [("v3.22.0", "OK"), ("v3.23.0", "FAIL"), ("v3.31.0", "FAIL"), ("v3.32.0", "WARN")],
)
def test_a_disabled_pool_keeps_its_tunnel_since_v3_23(release: str, verdict: str) -> None:
    evidence = with_old_pool(base(release))
    assert verdicts(evidence, "E2")[NODE] == verdict
    if verdict != "OK":
        found = only(evidence, "E2", NODE)
        assert found.what.startswith("ipipEnabled is true by IP pools: old has ipipMode Always")
        assert "Delete pool old" in found.remedy
        assert "kubectl patch felixconfiguration" not in found.remedy


def test_a_disabled_pool_of_which_pods_have_addresses_needs_its_flag() -> None:
    used = with_old_pool(base("v3.26.0"), "198.19.0.0/16")
    assert verdicts(used, "E2")[NODE] == "OK"
    assert verdicts(flagged(used, ipipEnabled=False), "E3")[NODE] == "FAIL"
    unused = with_old_pool(base("v3.26.0"))
    assert verdicts(flagged(unused, ipipEnabled=False), "E3")[NODE] == "OK"


# ------------------------------------------------------------------------------------ E3


@pytest.mark.parametrize("release", RELEASES)
def test_an_overlay_whose_flag_is_off_is_broken(release: str) -> None:
    evidence = flagged(pools(base(release), vxlanMode="Always"), vxlanEnabled=False)
    found = only(evidence, "E3", NODE)
    assert (found.verdict, found.subject) == (Verdict.FAIL, "vxlanEnabled")
    value = "true" if number(release) < 23 else "null"
    assert f'{{"spec":{{"vxlanEnabled":{value}}}}}' in found.remedy


@pytest.mark.parametrize("release", RELEASES)
def test_an_unset_flag_follows_the_pools_from_v3_23(release: str) -> None:
    evidence = pools(base(release), ipipMode="CrossSubnet")
    verdict = "FAIL" if number(release) < 23 else "OK"
    assert verdicts(evidence, "E3") == {"node-1": verdict, NODE: verdict}


# ------------------------------------------------------------------------------------ E4


def test_up_to_v3_20_the_programs_names_tell() -> None:
    evidence = base("v3.16.1")
    assert only(evidence, "E4", NODE).verdict is Verdict.OK

    def compiled_without(document: Any) -> None:
        for hooks in document["programs"].values():
            hooks["ingress"] = [name.replace("_fib_", "_") for name in hooks.get("ingress", ())]

    found = only(answer(evidence, "counts/later", NODE, compiled_without), "E4", NODE)
    assert found.verdict is Verdict.FAIL
    assert "compiled without it" in found.what
    assert "from_hep_no_log.o" in found.shown[0].excerpt


def test_a_shortcut_that_flags_switch_off_is_not_missed() -> None:
    evidence = flagged(base("v3.16.1"), vxlanEnabled=True)
    found = only(evidence, "E4", NODE)
    assert found.verdict is Verdict.NOT_APPLICABLE
    assert "while vxlanEnabled is true" in found.what
    # Since v3.18 that flag does not.
    assert only(flagged(base("v3.20.0"), vxlanEnabled=True), "E4", NODE).verdict is Verdict.OK


def counted(from_pod: int, redirected: int) -> Callable[[Any], None]:
    """These packets more from a pod than before, of which so many were redirected."""

    def change(document: Any) -> None:
        (name,) = document["counters"]
        device = next(i for d, i in document["links"].items() if d.startswith("cali"))
        for row in document["counters"][name]:
            if row[:2] == [device, 0]:
                row[2][0] += from_pod
                row[2][18] += redirected

    return change


@pytest.mark.parametrize(
    ("packets", "redirected", "verdict"),
    [(12_000, 11_990, "OK"), (12_000, 0, "WARN"), (9_999, 0, "N/A"), (3, 1, "OK")],
)
def test_since_v3_31_redirects_are_counted(packets: int, redirected: int, verdict: str) -> None:
    evidence = answer(base("v3.32.0"), "counts/later", NODE, counted(packets, redirected))
    assert verdicts(evidence, "E4")[NODE] == verdict
    if verdict == "WARN":
        assert "None of 12000 packets" in only(evidence, "E4", NODE).what


def test_in_between_nothing_tells() -> None:
    found = only(base("v3.26.0"), "E4", NODE)
    assert found.verdict is Verdict.NOT_APPLICABLE
    assert "ebpfperf trace capture" in found.what


def test_no_counters_are_unknown() -> None:
    def none(document: Any) -> None:
        document["counters"] = {}

    found = only(answer(base("v3.32.0"), "counts/later", NODE, none), "E4", NODE)
    assert found.verdict is Verdict.UNKNOWN
    assert "none are pinned" in found.what


# ------------------------------------------------------------------------------------ E5


def traffic(
    one: Mapping[str, Any], many: Mapping[str, Any], *, kind: str = "", speed: int | None = None
) -> str:
    def end(name: str) -> dict[str, Any]:
        return {"node": name, "address": "", "nic": "eth0", "kind": kind, "mtu_bytes": 9001,
                "speed_mbit_per_s": speed, "boot_id": name}  # fmt: skip

    runs = []
    for streams, given in ((1, one), (8, many)):
        run = {"streams": streams, "seconds": 3, "variation_pct": 2.0, "cores_pct": [40, 50],
               "process_pct": [20, 30]}  # fmt: skip
        runs.append({**run, **given})
    return json.dumps({"client": end("node-1"), "server": end("node-2"), "runs": runs})


def rate(gbit: float, core: float = 50.0, process: float = 30.0) -> dict[str, Any]:
    return {
        "received_bits_per_s": gbit * 1e9, "cores_pct": [core - 10, core],
        "process_pct": [process, process],
    }  # fmt: skip


AWS = "/sys/class/dmi/id/sys_vendor:Amazon EC2\n"


@pytest.mark.parametrize(
    ("one", "many", "link", "machine", "verdict", "words"),
    [
        (rate(4.97), rate(9.6), None, AWS, "WARN", "AWS limits one connection"),
        # The same numbers elsewhere say nothing for sure.
        (rate(4.97), rate(9.6), None, "", "UNKNOWN", "does not show"),
        # One core was full with one stream: it may have been the core.
        (rate(4.97, core=97), rate(9.6), None, AWS, "UNKNOWN", "does not show"),
        (rate(4.97), rate(9.41), 10_000, "", "OK", "the NIC of 10 Gbit/s is full"),
        (rate(0.95), rate(0.96), 10_000, "", "WARN", "the NIC announces 10 Gbit/s"),
        (rate(0.95), rate(0.96), None, AWS, "WARN", "AWS or the underlay limits"),
        (rate(13.8, 100, 50), rate(14.6, 100, 64), None, "", "OK", "processors are the limit"),
        # What else runs fills the processors, and a shaper lets little through.
        (rate(0.1915, 100, 3), rate(0.1919, 100, 4), None, "", "WARN", "waits most of the time"),
        (rate(0.1915, 100, 3), rate(0.15, 100, 4), None, "", "UNKNOWN", "busy with other work"),
    ],
)
def test_what_limits_the_underlay(
    one: Any, many: Any, link: int | None, machine: str, verdict: str, words: str
) -> None:
    evidence = changed(
        base("v3.26.0"),
        {("traffic", ""): traffic(one, many, speed=link), ("cloud", "node-1"): machine},
    )
    found = only(evidence, "E5")
    assert found.verdict.value == verdict, found.what
    assert words in found.what
    assert "node-1 to node-2" in found.shown[0].excerpt


def test_a_veth_s_announced_speed_is_no_limit() -> None:
    evidence = changed(
        base("v3.26.0"),
        {("traffic", ""): traffic(rate(9.9), rate(9.9), kind="veth", speed=10_000)},
    )
    assert only(evidence, "E5").verdict is Verdict.WARN


def test_traffic_that_failed_is_unknown_and_unasked_does_not_apply() -> None:
    failed = traffic({"failed": "node-2: iperf3 is not installed."}, rate(1))
    evidence = changed(base("v3.26.0"), {("traffic", ""): failed})
    found = only(evidence, "E5")
    assert found.verdict is Verdict.UNKNOWN
    assert "iperf3 is not installed" in found.what
    assert "--traffic" in only(base("v3.26.0"), "E5").what


# ------------------------------------------------------------------------------------ E6


def gap(
    evidence: Evidence, pod: float, *, trials: int = 8, overlay: str = "none", shared: str = "no",
    dataplane: str = "",
) -> Evidence:  # fmt: skip
    """With a campaign in which hosts carried 10 Gbit/s."""
    row = {
        "treatment": "t", "overlay": overlay, "dataplane": dataplane, "streams": 1,
        "direction": "forward", "host": {"bits_per_s": 10e9, "trials": 8},
        "pod": {"bits_per_s": pod * 1e9, "trials": trials},
    }  # fmt: skip
    told = {"campaign": "c", "shared_kernel": shared, "rows": [row]}
    return changed(evidence, {("pod-gap", ""): json.dumps(told)})


@pytest.mark.parametrize(
    ("pod", "verdict"), [(9.5, "OK"), (9.49, "WARN"), (8.0, "WARN"), (7.99, "FAIL")]
)
def test_pods_against_hosts(pod: float, verdict: str) -> None:
    found = only(gap(base("v3.26.0"), pod), "E6")
    assert found.verdict.value == verdict
    assert f"hosts 10 Gbit/s ({pod * 10:.1f} %)" in found.what


def test_what_a_campaign_does_not_show_of_this_cluster() -> None:
    healthy_one = base("v3.26.0")
    assert verdicts(gap(healthy_one, 5, trials=2), "E6") == {"": "UNKNOWN"}
    assert verdicts(gap(healthy_one, 5, shared="yes: node-1, node-2"), "E6") == {"": "N/A"}
    assert verdicts(gap(healthy_one, 5, overlay="vxlan"), "E6") == {"": "N/A"}
    assert verdicts(gap(healthy_one, 5, dataplane="standard"), "E6") == {"": "N/A"}
    vxlan = pools(healthy_one, vxlanMode="Always")
    assert verdicts(gap(vxlan, 5, overlay="vxlan"), "E6") == {"": "FAIL"}
    assert "--campaign" in only(healthy_one, "E6").what


def test_the_numbers_of_a_campaign_are_its_medians() -> None:
    told = json.loads(pod_gap.measured(DEMO).content)
    trials = Store.open(DEMO).frame("trials")
    assert told["shared_kernel"].startswith("yes")
    (none,) = [row for row in told["rows"] if row["treatment"] == "none"]
    for word, flow in (("pod", "tcp"), ("host", "host-tcp")):
        own = trials[
            (trials["treatment"] == "none") & (trials["flow"] == flow)
            & (trials["status"] == "ok") & (trials["role"] == "compared")
        ]  # fmt: skip
        rates = sorted(own["received_bits_per_s"])
        middle = len(rates) // 2
        median = (rates[middle] + rates[-middle - 1]) / 2
        assert none[word]["trials"] == len(rates) > 3
        assert none[word]["bits_per_s"] == pytest.approx(median)


# ------------------------------------------------------------------------------------ E7


def sized(
    evidence: Evidence, *, nic: int = 1500, pod: int = 1500, tunnel: tuple[str, int] | None = None,
    told: int | None = None,
) -> Evidence:  # fmt: skip
    """Devices of node-2 with these MTUs, and what Felix wrote for new pods."""

    def change(found: Any) -> None:
        for device in found:
            if device["ifname"].startswith("cali"):
                device["mtu"] = pod
            elif device["ifname"] != "lo":
                device["mtu"] = nic
        if tunnel is not None:
            found.append({"ifname": tunnel[0], "ifindex": 99, "mtu": tunnel[1], "flags": ["UP"]})

    evidence = answer(evidence, "links", NODE, change)
    where = ("mtu-file", NODE)
    if told is None:
        return changed(evidence, without=[where])
    return changed(evidence, {where: f"{told}\n"}, statuses={where: 0})


@pytest.mark.parametrize(
    ("mode", "sizes", "verdict", "words"),
    [
        # 1500: nothing is added; 1400 is below it.
        ({}, {"nic": 1400, "told": 1500}, "FAIL", "1400 bytes leave 1400"),
        ({}, {"nic": 9001, "pod": 9001, "told": 9001}, "OK", "pods have 9001"),
        ({}, {"nic": 9001, "pod": 1500, "told": 1500}, "WARN", "9001 bytes leave 9001"),
        # 9001 - 50 = 8951; 10 bytes less are let pass, 11 are not.
        ({"vxlanMode": "Always"}, {"nic": 9001, "pod": 8951, "told": 8951}, "OK", "VXLAN adds 50"),
        ({"vxlanMode": "Always"}, {"nic": 9001, "pod": 8952, "told": 8951}, "FAIL", "leave 8951"),
        ({"vxlanMode": "Always"}, {"nic": 9001, "pod": 8941, "told": 8951}, "OK", "8941"),
        ({"vxlanMode": "Always"}, {"nic": 9001, "pod": 8940, "told": 8951}, "WARN", "leave 8951"),
        # 1500 - 20 = 1480.
        ({"ipipMode": "Always"}, {"pod": 1480, "told": 1480}, "OK", "IPIP adds 20"),
        ({"ipipMode": "Always"}, {"pod": 1500, "told": 1480}, "FAIL", "leave 1480"),
        ({"ipipMode": "Always"}, {"pod": 1450, "told": 1480}, "WARN", "leave 1480"),
        # 8981 = 9001 - 20 lets pass what a NIC of 1500 does not carry.
        (
            {"ipipMode": "Always"},
            {"pod": 1480, "told": 1480, "tunnel": ("tunl0", 8981)}, "FAIL", "tunl0 has MTU 8981",
        ),
        (
            {"vxlanMode": "Always"},
            {"pod": 1450, "told": 1450, "tunnel": ("vxlan.calico", 1450)}, "OK", "1450",
        ),
        # Both nodes are in one subnet: nothing is wrapped now, and 50 bytes may be kept free.
        ({"vxlanMode": "CrossSubnet"}, {"pod": 1450, "told": 1450}, "OK", "nothing is added"),
        ({"vxlanMode": "CrossSubnet"}, {"pod": 1500, "told": 1450}, "OK", "nothing is added"),
    ],
)  # fmt: skip
def test_mtus_add_up(mode: dict[str, Any], sizes: dict[str, Any], verdict: str, words: str) -> None:
    evidence = sized(pools(base("v3.26.0"), **mode), **sizes)
    (found, *_) = outcomes(evidence, "E7")[NODE]
    assert found.verdict.value == verdict, found.what
    assert words in found.what


def test_room_for_node_ports_is_kept_free_on_purpose_or_forgotten() -> None:
    kept = sized(base("v3.26.0"), pod=1450, told=1450)
    assert verdicts(kept, "E7")[NODE] == "OK"
    # What new pods get says that these are old.
    forgotten = sized(base("v3.26.0"), pod=1450, told=1500)
    assert verdicts(forgotten, "E7")[NODE] == "WARN"
    assert "keeps the MTU that it was made with" in only(forgotten, "E7", NODE).remedy
    # A flag that is on asks for it, not a person.
    flag = flagged(kept, vxlanEnabled=True)
    assert verdicts(flag, "E7")[NODE] == "WARN"
    assert "see E2" in only(flag, "E7", NODE).remedy


def test_the_other_node_is_not_blamed_and_wireguard_counts() -> None:
    evidence = flagged(sized(base("v3.30.0"), told=1440), wireguardEnabled=True)
    found = only(evidence, "E7", NODE)
    assert (found.verdict, "leave 1440" in found.what) == (Verdict.FAIL, True)
    assert verdicts(sized(base("v3.30.0"), nic=1400, told=1500), "E7")["node-1"] == "OK"


def test_nodes_of_other_subnets_make_crosssubnet_count() -> None:
    evidence = sized(pools(base("v3.26.0"), vxlanMode="CrossSubnet"), pod=1500, told=1450)

    def elsewhere(found: list[Any]) -> None:
        for node in found:
            if node["metadata"]["name"] == "node-1":
                for address in node["status"]["addresses"]:
                    if address["type"] == "InternalIP":
                        address["address"] = "203.0.113.7"

    evidence = changed(evidence, {("nodes", ""): objects(evidence, "nodes", elsewhere)})
    assert only(evidence, "E7", NODE).verdict is Verdict.FAIL


# ------------------------------------------------------------------------------------ E8


def nic(evidence: Evidence, **told: Any) -> Evidence:
    return answer(evidence, "machine", NODE, lambda d: d["devices"]["nic"].update(told))


ALL_ON = ["tx-tcp-segmentation", "tx-generic-segmentation", "rx-gro"]


@pytest.mark.parametrize(
    ("kind", "features", "verdict", "words"),
    [
        ("", ALL_ON, "OK", "receive offloads"),
        ("", ALL_ON[:2], "WARN", "GRO off"),
        ("veth", ALL_ON[:2], "OK", "GRO of a veth is not judged"),
        ("veth", [], "WARN", "TSO, GSO off"),
        ("", None, "UNKNOWN", "does not show its offloads"),
    ],
)
def test_offloads_of_the_nic(kind: str, features: Any, verdict: str, words: str) -> None:
    evidence = nic(base("v3.26.0"), kind=kind, features=features)
    assert verdicts(evidence, "E8")["node-1"] == "OK"
    found = only(evidence, "E8", NODE)
    assert found.verdict.value == verdict
    assert words in found.what


def test_what_a_bond_stands_on_counts_too() -> None:
    def bonded(document: Any) -> None:
        own = document["devices"]["nic"]
        own.update(kind="bond", name="bond0", features=ALL_ON)
        document["devices"]["nic/eth1"] = {**own, "name": "eth1", "kind": "", "features": []}

    found = only(answer(base("v3.26.0"), "machine", NODE, bonded), "E8", NODE)
    assert (found.verdict, found.subject) == (Verdict.WARN, "eth1")
    assert found.remedy.startswith("ethtool -K eth1 tso on gso on gro on")


def test_felix_may_switch_gro_off_itself() -> None:
    evidence = flagged(base("v3.27.0"), bpfDisableGROForIfaces="^en.*")
    found = only(evidence, "E8", NODE)
    assert found.verdict is Verdict.WARN
    assert "bpfDisableGROForIfaces is ^en.*" in found.what
    other = flagged(base("v3.27.0"), bpfDisableGROForIfaces="^wl.*")
    assert only(other, "E8", NODE).verdict is Verdict.OK
    # v3.26 does not know the field.
    before = flagged(base("v3.26.0"), bpfDisableGROForIfaces="^en.*")
    assert only(before, "E8", NODE).verdict is Verdict.OK


# ----------------------------------------------------------------------------- E10, E11, E12


def test_programs_cost_what_they_ran_between_the_readings() -> None:
    then = {"7": ["ens12 ingress tcx", "cali_tc_preambl", 1_000, 10]}
    now = {
        "7": ["ens12 ingress tcx", "cali_tc_preambl", 61_000, 110],
        "8": ["cali1 ingress tcx", "cali_tc_preambl", 9_000, 30],
    }
    evidence = answer(base("v3.32.0"), "counts", NODE, lambda d: d.update(program_times=then))
    evidence = answer(evidence, "counts/later", NODE, lambda d: d.update(program_times=now))
    found = only(evidence, "E10", NODE)
    assert found.verdict is Verdict.OK
    # 60000 ns over 100 packets; program 8 was loaded meanwhile, and its runs before are not known.
    assert "took 600 ns for each of 100 packets" in found.what
    assert "ens12 ingress tcx cali_tc_preambl: 600 ns" in found.shown[0].excerpt


@pytest.mark.parametrize(("release", "profiling"), [("v3.29.0", False), ("v3.30.0", True)])
def test_without_times_the_way_to_them_is_said(release: str, profiling: bool) -> None:
    found = only(base(release), "E10", NODE)
    assert found.verdict is Verdict.NOT_APPLICABLE
    assert "kernel.bpf_stats_enabled is 0" in found.what
    assert ("bpfProfiling" in found.what) == profiling


def ticks(idle: int, steal: int) -> str:
    return (
        f"==> stat <==\ncpu  100 0 100 {idle} 0 0 0 {steal} 0 0\n"
        f"cpu0 100 0 100 {idle} 0 0 0 {steal} 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\n"
    )


@pytest.mark.parametrize(("stolen", "verdict"), [(19, "OK"), (21, "WARN")])
def test_stolen_time_is_of_the_time_between(stolen: int, verdict: str) -> None:
    evidence = changed(
        base("v3.26.0"),
        {
            ("statistics", NODE): ticks(1_000, 500),
            # 1000 ticks passed.
            ("statistics/later", NODE): ticks(2_000 - stolen, 500 + stolen),
        },
    )
    assert verdicts(evidence, "E11") == {"node-1": "OK", NODE: verdict}
    if verdict == "WARN":
        assert "2.1 %" in only(evidence, "E11", NODE).what


def test_one_reading_says_what_was_stolen_since_the_boot() -> None:
    evidence = changed(
        base("v3.26.0"),
        {("statistics", NODE): ticks(700, 100)},
        without=[("statistics/later", NODE)],
    )
    found = only(evidence, "E11", NODE)
    assert found.verdict is Verdict.WARN
    assert "10.0 %" in found.what
    assert "since it was booted" in found.what


@pytest.mark.parametrize(("driver", "verdict"), [("acpi-cpufreq", "WARN"), ("intel_pstate", "OK")])
def test_powersave_is_slow_where_the_driver_obeys(driver: str, verdict: str) -> None:
    policy = {"scaling_governor": "powersave", "scaling_driver": driver}
    evidence = answer(
        base("v3.26.0"), "machine", NODE, lambda d: d.update(policies={"policy0": policy})
    )
    assert verdicts(evidence, "E11")[NODE] == verdict


@pytest.mark.parametrize(
    ("irqs", "verdict"),
    [
        ({"rx-0": "0", "rx-1": "0", "rx-2": "0"}, "WARN"),
        ({"rx-0": "0", "rx-1": "1", "rx-2": "0"}, "OK"),
        ({"virtio0-config": "0-1", "virtio0-input.0": "0", "virtio0-output.0": "0"}, "OK"),
        ({"rx-0": "0-1", "rx-1": "0-1", "rx-2": "0-1"}, "OK"),
    ],
)
def test_interrupts_of_many_queues_on_one_processor(irqs: Any, verdict: str) -> None:
    evidence = nic(base("v3.26.0"), irqs=irqs, numbers={"rx_queues": 4})
    assert verdicts(evidence, "E11")[NODE] == verdict


@pytest.mark.parametrize(
    ("release", "value"), [("v3.29.0", "L2Only"), ("v3.31.0", "L2Only"), ("v3.32.0", "Enabled")]
)
def test_packets_hidden_from_tcpdump_are_said(release: str, value: str) -> None:
    assert f"bpfRedirectToPeer is {value}: tcpdump" in only(base(release), "E12", NODE).what
    off = flagged(base(release), bpfRedirectToPeer="Disabled")
    assert "packets pass the node's end" in only(off, "E12", NODE).what


@pytest.mark.parametrize("check", ["E7", "E8", "E11"])
def test_odd_output_is_unknown_and_no_crash(check: str) -> None:
    source = {"E7": "links", "E8": "machine", "E11": "machine"}[check]
    for text in ("", "[]", "{}", "ip: unknown option", '{"devices": {"nic": {"error": "gone"}}}'):
        evidence = changed(base("v3.26.0"), {(source, NODE): text})
        assert verdicts(evidence, check)[NODE] in ("UNKNOWN", "OK"), text
        if check != "E11":
            assert verdicts(evidence, check)[NODE] == "UNKNOWN", text


def test_before_v3_17_pods_have_the_mtu_of_a_configmap() -> None:
    # A fixed 1410 where 1500 - 50 would fit.
    evidence = flagged(
        sized(pools(base("v3.16.1"), vxlanMode="Always"), pod=1410), vxlanEnabled=True
    )
    found = only(evidence, "E7", NODE)
    assert found.verdict is Verdict.WARN
    assert "veth_mtu of ConfigMap calico-config to 1450" in found.remedy
