"""Checks of processor time: kube-proxy, services, slices, settings, the connection table."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import replace
from typing import Any

import pytest
from evidence_made import changed, felix, healthy, objects, outcomes, verdicts

from ebpfperf.diagnosis import Outcome
from ebpfperf.evidence import Evidence

NODE, OTHER = "node-1", "node-2"
FIRST, LATER = ("processes", NODE), ("processes/later", NODE)
PERIOD = "bpfKubeProxyMinSyncPeriod"
CLEANUP = "bpfKubeProxyIptablesCleanupEnabled"
SLICES = "bpfKubeProxyEndpointSlicesEnabled"
RELEASES = ("v3.13.5", "v3.16.1", "v3.22.0", "v3.23.0", "v3.26.1", "v3.30.2", "v3.31.0", "v3.32.1")


def processes(at_s: float, *rows: str, ticks: int = 100) -> str:
    return "\n".join([f"{ticks} {at_s}", *rows]) + "\n"


def busy(used: int, *rows: str, took_s: float = 1.5, ticks: int = 100) -> Evidence:
    """calico-node has used so many ticks between the readings."""
    answers = {
        FIRST: processes(1000.0, "calico-node 42 700 300", *rows, ticks=ticks),
        LATER: processes(
            1000.0 + took_s, f"calico-node 42 {700 + used} 300", *rows, ticks=ticks
        ),
    }  # fmt: skip
    return changed(healthy(), answers)


def of(evidence: Evidence, check: str, node: str = NODE) -> Outcome:
    every = outcomes(evidence, check)
    (found,) = every.get(node) or every[""]
    return found


def daemonset(base: Evidence, desired: int | None, selector: dict[str, str]) -> Evidence:
    def add(found: list[Any]) -> None:
        status = {} if desired is None else {"desiredNumberScheduled": desired}
        found.append(
            {
                "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
                "spec": {"template": {"spec": {"nodeSelector": selector}}},
                "status": status,
            }
        )

    return changed(base, {("daemonsets", ""): objects(base, "daemonsets", add)})


def given(base: Evidence, **fields: Any) -> Evidence:
    return changed(base, {("felixconfigurations", ""): felix(base, fields)})


# -------------------------------------------------------------------------------------- C1


def test_kube_proxy_and_more_than_one_processor_is_a_failure() -> None:
    kube_proxy = "kube-proxy 77 5 5"
    # 150 ticks of a hundredth in 1.5 s are one processor, 151 are more.
    one = of(busy(150, kube_proxy), "C1")
    assert (one.verdict, "takes 100 % of a processor" in one.what) == ("WARN", True)
    more = of(busy(151, kube_proxy), "C1")
    assert (more.verdict, "takes 101 % of a processor" in more.what) == ("FAIL", True)
    assert f"{CLEANUP}: false" in more.remedy
    assert "non-calico" in more.remedy
    assert [each.source for each in more.shown] == [
        "processes/later", "processes/later", "felixconfigurations",
    ]  # fmt: skip
    assert more.shown[0].excerpt == "kube-proxy 77"
    assert verdicts(busy(151, kube_proxy), "C1")[OTHER] == "OK"


def test_ticks_are_the_nodes_own() -> None:
    assert "takes 60 % of" in of(busy(150, ticks=250, took_s=1.0), "C1").what


def test_a_process_that_is_new_or_was_another_counts_from_nought() -> None:
    answers = {
        FIRST: processes(10.0, "calico-node 42 700 300", "calico-node 43 100 0"),
        LATER: processes(12.0, "calico-node 43 20 10", "calico-node 44 50 20"),
    }
    # 30 ticks of a new 43, 70 of 44, in 2 s.
    assert "takes 50 % of" in of(changed(healthy(), answers), "C1").what


def test_rules_that_are_left_alone_are_a_waste_however_busy() -> None:
    found = of(given(busy(400, "kube-proxy 77 5 5"), **{CLEANUP: False}), "C1")
    assert (found.verdict, "is false" in found.what) == ("WARN", True)
    assert "They do not fight" in found.what


def with_pod(base: Evidence, node: str = NODE) -> Evidence:
    def add(found: list[Any]) -> None:
        meta = {"name": "kube-proxy-x7", "namespace": "kube-system"}
        found.append({"metadata": meta, "spec": {"nodeName": node}, "status": {}})

    return changed(base, {("pods", ""): objects(base, "pods", add)})


def test_a_daemonset_counts_where_it_has_a_pod() -> None:
    linux = {"kubernetes.io/os": "linux"}
    found = of(with_pod(daemonset(busy(10), 2, linux)), "C1")
    assert (found.verdict, found.shown[0].source) == ("WARN", "daemonsets")
    assert "desired 2" in found.shown[0].excerpt
    assert of(with_pod(daemonset(busy(10), None, {})), "C1").verdict == "WARN"
    assert of(with_pod(daemonset(busy(10), 2, linux), OTHER), "C1").verdict == "OK"
    assert of(with_pod(daemonset(busy(10), 0, linux)), "C1").verdict == "OK"
    assert of(with_pod(daemonset(busy(10), 2, {"non-calico": "true"})), "C1").verdict == "OK"


def test_the_operator_disables_kube_proxy_from_v3_31() -> None:
    operator = json.dumps([{"metadata": {"name": "default"}, "spec": {}}])
    for release, expected in (("v3.30.2", False), ("v3.31.0", True)):
        base = changed(busy(10, "kube-proxy 77 5 5"), {("installations", ""): operator})
        found = of(changed(base, release=release), "C1")
        assert ("kubeProxyManagement" in found.remedy) is expected


def test_without_kube_proxy_a_busy_calico_node_is_not_its_fault() -> None:
    found = of(busy(300), "C1")
    assert (found.verdict, "takes 200 % of" in found.what) == ("OK", True)


def test_what_was_not_seen_of_processes_is_said() -> None:
    lost = changed(healthy(), without=[FIRST, LATER])
    assert of(lost, "C1").verdict == "UNKNOWN"
    assert of(daemonset(lost, 2, {}), "C1").verdict == "WARN"
    once = replace(changed(busy(10, "kube-proxy 77 5 5"), without=[LATER]), seconds=0.0)
    found = of(once, "C1")
    assert (found.verdict, "read only once" in found.what) == ("WARN", True)
    again = changed(busy(10), {LATER: processes(3.0, "calico-node 42 1 1")})
    assert "started anew" in of(again, "C1").what


def test_a_cleanup_that_is_not_known_is_not_judged() -> None:
    variable = "FELIX_BPFKUBEPROXYIPTABLESCLEANUPENABLED"
    base = busy(10, "kube-proxy 77 5 5")

    def hidden(found: list[Any]) -> None:
        source = {"valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}}
        for pod in found:
            pod["spec"]["containers"][0]["env"] = [{"name": variable, **source}]

    found = of(changed(base, {("pods", ""): objects(base, "pods", hidden)}), "C1")
    assert (found.verdict, "UNKNOWN" in found.what) == ("UNKNOWN", True)
    process = f"==> environment <==\n{variable}=false\n==> file <==\n"
    found = of(changed(base, {("felix-process", NODE): process}), "C1")
    assert (found.verdict, variable in found.what) == ("WARN", True)
    assert found.shown[-1].source == "felix-process"


# -------------------------------------------------------------------------------------- C2


def counts(*each: str) -> Evidence:
    lines = [f"17959.{at} {words}" for at, words in enumerate(each)]
    return changed(healthy(), {("rules", NODE): "\n".join(lines) + "\n"})


def test_rules_that_come_and_go_are_a_fight() -> None:
    found = of(counts(*[f"iptables {n} legacy 0 nft -" for n in (13, 0, 13, 7, 0)]), "C2")
    assert (found.verdict, "iptables 13, 0, 7 of them" in found.what) == ("FAIL", True)
    assert found.shown[0].source == "rules"


def test_rules_that_stay_are_leftovers() -> None:
    found = of(counts(*["iptables 0 legacy 11 nft -"] * 5), "C2")
    assert (found.verdict, "(legacy 11)" in found.what) == ("WARN", True)
    assert "yet they are not removed" in found.what


def test_rules_that_felix_leaves_may_change() -> None:
    varying = counts(*[f"iptables {n} legacy 0 nft -" for n in (13, 17)])
    found = of(given(varying, **{CLEANUP: False}), "C2")
    assert (found.verdict, "Felix leaves them" in found.what) == ("WARN", True)


def test_no_rules_are_told_from_nobody_who_lists_them() -> None:
    assert of(counts(*["iptables 0 legacy - nft -"] * 5), "C2").verdict == "OK"
    assert of(counts(*["iptables 0 nft 0"] * 5), "C2").verdict == "OK"
    found = of(counts(*["iptables - legacy - nft -"] * 5), "C2")
    assert (found.verdict, "Neither iptables-save nor nft" in found.what) == ("UNKNOWN", True)
    assert of(changed(healthy(), without=[("rules", NODE)]), "C2").verdict == "UNKNOWN"


# -------------------------------------------------------------------------------------- C3


def many(base: Evidence, services: int) -> Evidence:
    def fill(found: list[Any]) -> None:
        found[:] = [
            {"metadata": {"name": f"s{at}", "namespace": "default"}, "spec": {}}
            for at in range(services)
        ]

    return changed(base, {("services", ""): objects(base, "services", fill)})


def slices(*generations: int) -> str:
    return json.dumps(
        [
            {
                "metadata": {
                    "namespace": "default", "name": f"s{at}", "uid": f"u{at}",
                    "generation": number, "resourceVersion": str(100 * at + number),
                },
                "endpoints": [{"addresses": ["198.19.0.1"]}],
            }
            for at, number in enumerate(generations)
        ]
    )  # fmt: skip


def churned(base: Evidence, before: str, after: str, apart_s: int) -> Evidence:
    answers = {("endpointslices", ""): before, ("endpointslices/later", ""): after}
    found = changed(base, answers)
    times = {"endpointslices": 10, "endpointslices/later": 10 + apart_s}
    items = dict(found.items)
    for name, at in times.items():
        items[name, ""] = replace(items[name, ""], taken_utc=f"2026-11-29T18:00:{at}Z")
    return replace(found, items=items, seconds=1.5)


def test_more_than_a_thousand_services_matter_to_a_busy_felix() -> None:
    assert of(many(busy(200), 1000), "C3").verdict == "OK"
    found = of(many(busy(200), 1001), "C3")
    assert (found.verdict, "Services: 1001" in found.what) == ("WARN", True)
    assert f"{PERIOD}: 10s in FelixConfiguration default" in found.remedy
    found = of(many(busy(150), 1001), "C3")
    assert (found.verdict, "keeps up" in found.what) == ("OK", True)


def test_changes_are_counted_by_generation_and_by_what_came_and_went() -> None:
    # Times of whole seconds: 10 and 12 are at most 3 s apart. Two changes and one that came.
    found = of(churned(busy(200), slices(7, 11, 13), slices(7, 13, 13, 1), 2), "C3")
    assert (found.verdict, "at least 1.0 a second" in found.what) == ("OK", True)
    found = of(churned(busy(200), slices(7, 11, 13), slices(7, 14, 13, 1), 2), "C3")
    assert (found.verdict, "at least 1.3 a second" in found.what) == ("WARN", True)
    assert found.shown[1].excerpt == "4 changes within 3.0 s"
    found = of(churned(busy(200), slices(7, 11, 13), slices(), 1), "C3")
    assert (found.verdict, "at least 1.5 a second" in found.what) == ("WARN", True)


def test_a_slice_made_anew_changed_once() -> None:
    anew = slices(2).replace("u0", "v0")
    assert "at least 0.5 a second" in of(churned(busy(200), slices(9), anew, 1), "C3").what


def test_a_longer_period_is_enough() -> None:
    base = many(busy(200), 1001)
    assert of(given(base, **{PERIOD: "1s"}), "C3").verdict == "WARN"
    found = of(given(base, **{PERIOD: "1001ms"}), "C3")
    assert (found.verdict, "already raised" in found.what) == ("OK", True)


def test_a_busy_cluster_is_warned_of_though_felix_is_not_seen() -> None:
    hidden = {FIRST: processes(1.0), LATER: processes(2.0)}
    found = of(many(changed(healthy(), hidden), 1001), "C3")
    assert (found.verdict, "calico-node takes is not known" in found.what) == ("WARN", True)


def test_changes_that_were_not_counted_are_unknown() -> None:
    once = replace(busy(200), seconds=0.0)
    assert of(once, "C3").verdict == "UNKNOWN"
    lost = changed(busy(200), without=[("endpointslices/later", "")])
    assert of(lost, "C3").verdict == "UNKNOWN"
    assert of(many(lost, 1001), "C3").verdict == "WARN"


def test_the_environment_takes_plain_seconds() -> None:
    base = many(busy(200), 1001)
    process = "==> environment <==\nFELIX_BPFKUBEPROXYMINSYNCPERIOD=1\n"
    found = of(changed(base, {("felix-process", NODE): process}), "C3")
    assert "Set FELIX_BPFKUBEPROXYMINSYNCPERIOD to 10 in" in found.remedy


# -------------------------------------------------------------------------------------- C4


def sliced(base: Evidence, *, families: tuple[str, ...]) -> Evidence:
    def fill(found: list[Any]) -> None:
        found[:] = [
            {"metadata": {"name": f"web-{at}", "namespace": "default",
                          "labels": {"kubernetes.io/service-name": "web"}},
             "addressType": family, "endpoints": []}
            for at, family in enumerate(families)
        ]  # fmt: skip

    return changed(base, {("endpointslices", ""): objects(base, "endpointslices", fill)})


@pytest.mark.parametrize(
    ("release", "expected"),
    [("v3.14.2", "N/A"), ("v3.15.0", "WARN"), ("v3.22.5", "WARN"), ("v3.23.0", "OK"),
     ("v3.31.4", "OK"), ("v3.32.0", "N/A")],
)  # fmt: skip
def test_slices_by_release_where_a_service_has_several(release: str, expected: str) -> None:
    base = sliced(changed(healthy(), release=release), families=("IPv4", "IPv4"))
    assert of(base, "C4").verdict == expected


def test_slices_switched_off_by_somebody_are_warned_of() -> None:
    base = sliced(healthy(), families=("IPv4",))
    for release in ("v3.16.1", "v3.26.1"):
        found = of(given(changed(base, release=release), **{SLICES: False}), "C4")
        assert (found.verdict, "somebody set it so" in found.what) == ("WARN", True)
        assert f"{SLICES}: true" in found.remedy
    assert "Or leave it unset" in found.remedy
    assert "No longer needed" in found.corrected
    assert of(given(changed(base, release="v3.16.1"), **{SLICES: True}), "C4").verdict == "OK"


def test_the_default_of_old_releases_costs_nothing_while_services_are_small() -> None:
    old = changed(healthy(), release="v3.16.1")
    found = of(sliced(old, families=("IPv4", "IPv6")), "C4")
    assert (found.verdict, SLICES in found.remedy) == ("OK", True)
    assert "no EndpointSlices" in of(sliced(old, families=()), "C4").what


def test_the_field_is_never_advised_where_it_is_gone() -> None:
    base = given(changed(healthy(), release="v3.32.1"), **{SLICES: False})
    found = of(base, "C4")
    assert (found.verdict, found.remedy) == ("N/A", "")
    assert "No longer possible" in found.corrected
    assert "The page says to set" in found.corrected


# -------------------------------------------------------------------------------------- C5


def test_the_debug_log_by_level() -> None:
    for level, expected in (("Off", "OK"), ("", "OK"), ("Info", "WARN"), ("debug", "FAIL")):
        assert of(given(healthy(), bpfLogLevel=level), "C5").verdict == expected
    found = of(given(healthy(), bpfLogLevel="Debug"), "C5")
    assert "bpfLogLevel: Off in FelixConfiguration default" in found.remedy
    assert found.shown[0].source == "felixconfigurations"


def test_the_debug_log_of_one_node_is_told_where_it_is_set() -> None:
    own = {("felixconfigurations", ""): felix(healthy(), {"bpfLogLevel": "Debug"}, "node.node-2")}
    found = outcomes(changed(healthy(), own), "C5")
    assert [found[NODE][0].verdict, found[OTHER][0].verdict] == ["OK", "FAIL"]
    assert "in FelixConfiguration node.node-2" in found[OTHER][0].remedy


def test_filters_are_told_where_the_release_has_them() -> None:
    fields = {"bpfLogLevel": "Debug", "bpfLogFilters": {"all": "tcp port 80"}}
    assert "bpfLogFilters" not in of(given(healthy(), **fields), "C5").what
    late = given(changed(healthy(), release="v3.30.2"), **fields)
    assert "all=tcp port 80" in of(late, "C5").what
    cleaner = {"bpfConntrackLogLevel": "Debug"}
    assert of(given(healthy(), **cleaner), "C5").verdict == "OK"
    assert of(given(changed(healthy(), release="v3.30.2"), **cleaner), "C5").verdict == "WARN"


# -------------------------------------------------------------------------------------- C6

SETTINGS = (
    "kernel/bpf_stats_enabled:{stats}\nnet/core/bpf_jit_enable:{jit}\n"
    "net/core/bpf_jit_harden:{harden}\n"
)


def settings(stats: int = 0, jit: int = 1, harden: int = 0, release: str = "v3.26.1") -> Evidence:
    text = SETTINGS.format(stats=stats, jit=jit, harden=harden)
    return changed(healthy(), {("settings", NODE): text}, release=release)


def test_what_observes_packets_is_warned_of() -> None:
    assert of(settings(), "C6").verdict == "OK"
    assert of(settings(stats=1), "C6").verdict == "WARN"
    assert of(changed(healthy(), {("settings", NODE): ""}), "C6").verdict == "UNKNOWN"
    profiling = {"bpfProfiling": "Enabled"}
    assert of(given(settings(), **profiling), "C6").verdict == "OK"
    found = of(given(settings(release="v3.30.2"), **profiling), "C6")
    assert (found.verdict, "bpfProfiling: Disabled" in found.remedy) == ("WARN", True)


def test_flow_logs_are_found_in_the_environment_and_the_resource() -> None:
    late = settings(release="v3.30.2")
    process = "==> environment <==\nFELIX_FLOWLOGSGOLDMANESERVER=goldmane:7443\n"
    found = of(changed(late, {("felix-process", NODE): process}), "C6")
    assert (found.verdict, "goldmane:7443" in found.what) == ("WARN", True)
    assert of(given(late, flowLogsLocalReporter="Enabled"), "C6").verdict == "WARN"
    assert of(given(late, flowLogsLocalReporter="Disabled"), "C6").verdict == "OK"


# -------------------------------------------------------------------------------------- C7


@pytest.mark.parametrize(
    ("jit", "harden", "expected"),
    [(1, 0, ["OK"]), (1, 1, ["OK"]), (0, 0, ["FAIL"]), (2, 0, ["WARN"]), (1, 2, ["WARN"]),
     (0, 2, ["FAIL", "WARN"])],
)  # fmt: skip
def test_the_jit_by_its_settings(jit: int, harden: int, expected: list[str]) -> None:
    found = outcomes(settings(jit=jit, harden=harden), "C7")[NODE]
    assert [each.verdict for each in found] == expected


def test_a_jit_that_is_not_shown_is_unknown() -> None:
    found = outcomes(changed(healthy(), {("settings", NODE): "kernel/x:1\n"}), "C7")[NODE]
    assert [each.verdict for each in found] == ["UNKNOWN", "UNKNOWN"]


def test_hardening_is_felixs_to_lower_from_v3_31() -> None:
    assert "bpfJITHardening" not in of(settings(harden=2), "C7").remedy
    late = settings(harden=2, release="v3.31.0")
    assert "when it starts" in of(late, "C7").remedy
    strict = given(late, bpfJITHardening="Strict")
    assert "bpfJITHardening: Auto" in of(strict, "C7").remedy


# -------------------------------------------------------------------------------------- C8


def table(entries: int, most: int, *, name: str = "cali_v4_ct3", size: int = 88) -> bytes:
    keys = b"".join(
        struct.pack("<I4s4sHH", 17, b"\x0a\x41\x00\x02", b"\x0a\x41\x01\x07", at, 80)
        for at in range(entries)
    )
    told = {
        "name": name, "others": [], "kind": "hash", "key_bytes": 16, "value_bytes": size,
        "cpus": 0, "max_entries": most, "how": "", "cut": False, "error": "",
        "sizes": [len(keys), size * entries],
    }  # fmt: skip
    head = {"maps": [told], "reason": "", "pinned": [name], "now_ns": 1, "interfaces": {}}
    return json.dumps(head).encode() + b"\n" + zlib.compress(keys + bytes(size * entries))


def held(entries: int, most: int = 200, release: str = "v3.26.1", **of: Any) -> Evidence:
    return changed(healthy(), {("maps", NODE): table(entries, most, **of)}, release=release)


@pytest.mark.parametrize(
    ("entries", "expected"), [(0, "OK"), (170, "OK"), (171, "WARN"), (180, "WARN"), (181, "FAIL")]
)
def test_a_connection_table_by_its_share(entries: int, expected: str) -> None:
    found = of(held(entries), "C8")
    assert (found.verdict, f"{entries} of at most 200" in found.what) == (expected, True)
    assert found.shown[0].excerpt == f"cali_v4_ct3: {entries} of 200 entries"


def test_what_to_do_about_a_full_table_by_release() -> None:
    old = of(held(190, release="v3.16.1", name="cali_v4_ct2", size=64), "C8")
    assert "fixed at 200 entries" in old.remedy
    assert "bpfMapSizeConntrack:" not in old.remedy
    assert "bpfMapSizeConntrack: 400" in of(held(190), "C8").remedy
    late = held(190, release="v3.30.2")
    assert "DoubleIfFull" not in of(late, "C8").remedy
    still = given(late, bpfMapSizeConntrackScaling="Disabled")
    assert "bpfMapSizeConntrackScaling: DoubleIfFull" in of(still, "C8").remedy
    each = given(late, bpfMapSizePerCpuConntrack=50)
    assert "bpfMapSizePerCpuConntrack: 100" in of(each, "C8").remedy


def test_a_table_that_felix_enlarged_is_told_with_its_line() -> None:
    line = (
        "2026-11-29 18:20:25.534 [WARNING][212] felix/conntrack.go 100: The eBPF conntrack table "
        "is becoming full. To prevent connections from failing, resizing from 512000 to 1024000 "
        "entries. Restarting Felix to apply the new size.\n"
    )
    base = held(10, release="v3.30.2")
    found = outcomes(changed(base, {("log", NODE): line}), "C8")[NODE]
    assert [each.verdict for each in found] == ["WARN", "OK"]
    assert "from 512000 to 1024000" in found[0].what
    assert "bpfMapSizeConntrack: 1024000" in found[0].remedy
    # The line stays in the log when somebody has done so.
    for size, expected in ((1_024_000, ["OK"]), (1_000_000, ["WARN", "OK"])):
        told = felix(base, {"bpfMapSizeConntrack": size})
        answers = {("log", NODE): line, ("felixconfigurations", ""): told}
        found = outcomes(changed(base, answers), "C8")[NODE]
        assert [each.verdict for each in found] == expected


def test_a_table_that_was_not_read_is_unknown() -> None:
    assert of(changed(healthy(), without=[("maps", NODE)]), "C8").verdict == "UNKNOWN"
    head = {"maps": [], "reason": "", "pinned": [], "now_ns": 1, "interfaces": {}}
    empty = json.dumps(head).encode() + b"\n" + zlib.compress(b"")
    found = of(changed(healthy(), {("maps", NODE): empty}), "C8")
    assert (found.verdict, "No map of conntrack is pinned" in found.what) == ("UNKNOWN", True)


# ------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("check", ["C1", "C2", "C3", "C4", "C5", "C6", "C7"])
def test_a_healthy_cluster_raises_nothing_in_any_release(release: str, check: str) -> None:
    base = changed(settings(release=release), {("settings", OTHER): SETTINGS.format(
        stats=0, jit=1, harden=0)})  # fmt: skip
    assert set(verdicts(base, check).values()) <= {"OK", "N/A"}


@pytest.mark.parametrize("release", RELEASES)
def test_no_remedy_names_a_field_that_the_release_lacks(release: str) -> None:
    from ebpfperf.calico import felix_fields

    base = many(settings(stats=1, harden=2, release=release), 2000)
    base = given(base, bpfLogLevel="Debug", bpfProfiling="Enabled", bpfConntrackLogLevel="Debug")
    base = changed(base, {FIRST: processes(1.0, "kube-proxy 1 1 1")})
    base = changed(base, {LATER: processes(2.0, "kube-proxy 1 1 1")})
    for check in ("C1", "C2", "C3", "C4", "C5", "C6", "C7"):
        every = outcomes(base, check)
        for each in every.get(NODE) or every[""]:
            for name, field in felix_fields.fields().items():
                if name in each.remedy.replace(":", " ").replace(".", " ").split():
                    assert field.in_resource(release), (check, name)


def test_a_release_that_is_not_known_leaves_what_does_not_depend_on_it() -> None:
    assert of(settings(harden=2, release=""), "C7").verdict == "WARN"
    assert of(replace(held(190), release=""), "C8").verdict == "FAIL"
    assert of(replace(busy(10), release=""), "C1").verdict == "OK"
    for check in ("C3", "C4", "C5", "C6"):
        found = of(replace(busy(10), release=""), check)
        said = "does not say which release" in found.what
        assert (found.verdict, said) == ("UNKNOWN", True), check


@pytest.mark.parametrize(("jit", "harden"), [("3", "0"), ("1", "5"), ("on", "1")])
def test_values_that_no_kernel_has_are_unknown(jit: str, harden: str) -> None:
    text = f"net/core/bpf_jit_enable:{jit}\nnet/core/bpf_jit_harden:{harden}\n"
    found = of(changed(healthy(), {("settings", NODE): text}), "C7")
    assert (found.verdict, jit in found.what, harden in found.what) == ("UNKNOWN", True, True)
