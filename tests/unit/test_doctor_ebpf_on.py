"""The checks of whether eBPF mode is really on, against recorded evidence with answers changed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from evidence_made import NODES, changed, felix, healthy, objects, outcomes, verdicts

from ebpfperf.diagnosis import Outcome
from ebpfperf.doctor.case import Case
from ebpfperf.doctor.devices import below, matches, parse_devices, patterns
from ebpfperf.doctor.node_state import Mode
from ebpfperf.evidence import Evidence

RELEASES = tuple(f"v3.{number}.1" for number in range(13, 33))
CHECKS = tuple(f"A{number}" for number in range(1, 10))
BASE = healthy()
TAKEN = datetime.strptime(BASE.items["log", "node-1"].taken_utc, "%Y-%m-%dT%H:%M:%SZ")
(PID,) = re.findall(r"\]\[(\d+)\] felix/.*\n\Z", BASE.items["log", "node-1"].text)
FALLBACK = (
    "2026-11-29 18:21:30.000 [ERROR][300] felix/daemon.go 1608: BPF dataplane mode enabled but not "
    'supported by the kernel.  Disabling BPF mode. error="kernel is too old (have: 4.4 but want at '
    'least: 5.3)"\n'
)
NO_WORDS = "2026-11-29 18:21:30.000 [INFO][300] felix/int_dataplane.go 1: Finished applying.\n"
ON = "2026-11-29 18:20:00.000 [INFO][300] felix/x.go 1: BPF enabled, starting BPF endpoint manager and map manager.\n"  # noqa: E501


def text(source: str, node: str = "node-1") -> str:
    return BASE.items[source, node].text


def counts(change: Callable[[dict[str, Any]], None], node: str = "node-1") -> Evidence:
    """The evidence with another second reading of a node's programs."""
    found = json.loads(text("counts/later", node))
    change(found)
    return changed(BASE, {("counts/later", node): json.dumps(found)})


def links(change: Callable[[list[dict[str, Any]]], None], node: str = "node-1") -> str:
    found = json.loads(text("links", node))
    change(found)
    return json.dumps(found)


def on(evidence: Evidence, check: str, node: str = "node-1") -> Outcome:
    """The one thing that a check says of a node."""
    (found,) = outcomes(evidence, check)[node]
    return found


def no_programs(found: dict[str, Any]) -> None:
    found["programs"] = {device: {} for device in found["programs"]}


# ------------------------------------------------------------------------------- healthy


@pytest.mark.parametrize("release", RELEASES)
def test_a_healthy_cluster_is_ok_in_every_release(release: str) -> None:
    evidence = changed(BASE, release=release)
    for check in CHECKS:
        assert set(verdicts(evidence, check).values()) == {"OK"}, check


# ------------------------------------------------------------------------ state of a node


def state(evidence: Evidence) -> Mode:
    return Case(evidence).state("node-1").mode


def test_the_log_says_first_how_a_node_forwards_then_its_programs() -> None:
    assert state(BASE) is Mode.ON
    assert state(changed(BASE, {("log", "node-1"): FALLBACK})) is Mode.FALLBACK
    silent = {("log", "node-1"): NO_WORDS}
    assert state(changed(BASE, silent)) is Mode.ON
    bare = counts(no_programs)
    assert state(bare) is Mode.ON
    assert state(changed(bare, silent)) is Mode.OFF
    unread = [(source, "node-1") for source in ("log", "counts", "counts/later")]
    assert state(changed(BASE, without=unread)) is Mode.UNKNOWN


def test_a_node_that_nobody_asks_is_off_unless_its_programs_say_otherwise() -> None:
    asked = felix(BASE, {"bpfEnabled": False})
    base = {("felixconfigurations", ""): asked, ("log", "node-1"): NO_WORDS}
    assert state(changed(BASE, base)) is Mode.UNKNOWN
    assert state(changed(counts(no_programs), base)) is Mode.OFF
    # Felix has not restarted yet: what it does counts, not what it is told.
    assert state(changed(BASE, {("felixconfigurations", ""): asked})) is Mode.ON


def test_a_node_that_ssh_does_not_reach_is_judged_by_its_log() -> None:
    gone = {place for place in BASE.items if place[1] == "node-1" and place[0] != "log"}
    lost = replace(changed(BASE, without=gone), lost={"node-1": "no route to host"})
    assert state(lost) is Mode.ON
    assert on(lost, "A1").verdict == "OK"
    assert on(lost, "A2").verdict == "UNKNOWN"
    assert "no route to host" in on(lost, "A2").what


# ------------------------------------------------------------------------------------ A1


@pytest.mark.parametrize("release", ["v3.16.1", "v3.32.1"])
def test_a_fallback_fails_with_its_reason_and_the_kernel_that_the_release_wants(
    release: str,
) -> None:
    answers = {("log", "node-2"): FALLBACK, ("kernel", "node-2"): "4.4.0-21-generic x86_64\n"}
    evidence = changed(BASE, answers, release=release)
    assert verdicts(evidence, "A1") == {"node-1": "OK", "node-2": "FAIL"}
    found = on(evidence, "A1", "node-2")
    assert "4.4.0-21-generic" in found.what
    assert "want at least: 5.3" in found.what
    assert ("5.10" if release == "v3.32.1" else "at least 5.3") in found.remedy
    assert "two spaces" in found.corrected
    assert found.shown[0].excerpt == FALLBACK.strip()


def test_a_fallback_with_a_new_kernel_does_not_advise_an_older_one() -> None:
    found = on(changed(BASE, {("log", "node-1"): FALLBACK}), "A1")
    assert "new enough" in found.remedy
    assert "Boot" not in found.remedy


def test_the_newest_felix_counts() -> None:
    older = FALLBACK.replace("[300]", "[200]")
    assert on(changed(BASE, {("log", "node-1"): older + ON}), "A1").verdict == "OK"
    assert (
        on(changed(BASE, {("log", "node-1"): ON.replace("300", "9") + FALLBACK}), "A1").verdict
        == "FAIL"
    )


def test_a_silent_log_leaves_it_to_the_programs() -> None:
    silent = {("log", "node-1"): NO_WORDS}
    found = on(changed(BASE, silent), "A1")
    assert found.verdict == "OK"
    assert "does not say" in found.what
    assert "ens11" in found.what
    assert on(changed(counts(no_programs), silent), "A1").verdict == "FAIL"
    unread = changed(BASE, silent, without=[("counts", "node-1"), ("counts/later", "node-1")])
    assert on(unread, "A1").verdict == "UNKNOWN"


def test_a_felix_that_is_going_is_not_judged() -> None:
    going = ON + NO_WORDS.replace("Finished applying.", "Exiting for config change")
    found = on(changed(BASE, {("log", "node-1"): going}), "A1")
    assert found.verdict == "UNKNOWN"
    assert "Exiting for config change" in found.what


def test_checks_of_ebpf_mode_do_not_apply_where_nobody_asks_for_it() -> None:
    """Of the node's programs and of the configuration is said what is left of it."""
    evidence = changed(BASE, {("felixconfigurations", ""): felix(BASE, {"bpfEnabled": False})})
    for check in ("A1", "A3", "A4", "A6", "A7", "A8", "A9"):
        assert set(verdicts(evidence, check).values()) == {"N/A"}, check
    assert set(verdicts(evidence, "A5").values()) == {"N/A"}
    assert set(verdicts(evidence, "A2").values()) == {"WARN"}


# ------------------------------------------------------------------------------------ A2


def test_no_program_anywhere_fails_also_where_maps_are_left() -> None:
    evidence = counts(no_programs)
    assert verdicts(evidence, "A2") == {"node-1": "FAIL", "node-2": "OK"}
    assert "14 of its maps are pinned" in on(evidence, "A2").what


@pytest.mark.parametrize(
    ("device", "hook", "word"),
    [("ens11", "ingress", "NIC ens11"), ("cali0761ccbeace", "egress", "Workload device cali")],
)
def test_a_hook_without_a_program_fails_by_its_device(device: str, hook: str, word: str) -> None:
    found = on(counts(lambda answer: answer["programs"][device].pop(hook)), "A2")
    assert (found.verdict, found.subject) == ("FAIL", device)
    assert word in found.what
    assert f"on {hook}:" in found.what
    assert found.shown[0].excerpt.splitlines()[0].startswith(f"{device}: ")


def test_programs_of_others_do_not_count_and_tcx_links_do() -> None:
    def others(answer: dict[str, Any]) -> None:
        answer["programs"]["ens11"] = {"ingress": ["cil_from_netdev"], "egress": ["cil_to_netdev"]}

    def tcx(answer: dict[str, Any]) -> None:
        hooks = {hook: ["tcx:cali_tc_preambl"] for hook in ("ingress", "egress")}
        answer["programs"]["ens11"] = hooks

    assert on(counts(others), "A2").subject == "ens11"
    assert on(counts(tcx), "A2").verdict == "OK"


def test_what_the_kernel_does_not_tell_is_unknown() -> None:
    found = on(counts(lambda answer: answer["programs"].update(ens11=None)), "A2")
    assert (found.verdict, found.subject) == ("UNKNOWN", "ens11")


def test_devices_that_are_down_new_or_slaves_need_no_program() -> None:
    def add(found: list[dict[str, Any]]) -> None:
        found.append({"ifname": "eth7", "ifindex": 71, "mtu": 1500, "flags": []})
        slave = {"info_kind": "", "info_slave_kind": "bond"}
        up = {"mtu": 1500, "flags": ["UP"]}
        found.append({"ifname": "eth8", "ifindex": 72, "master": "bond0", "linkinfo": slave, **up})
        found.append({"ifname": "eth6", "ifindex": 75, "operstate": "DOWN", **up})
        found.append({"ifname": "eth5", "ifindex": 76, "mtu": 1, "flags": ["UP", "NO-CARRIER"]})
        found.append({"ifname": "tunl0", "ifindex": 74, "linkinfo": {"info_kind": "ipip"}, **up})

    seen = {"eth7": 71, "eth8": 72, "eth9": 73, "tunl0": 74, "eth6": 75, "eth5": 76}
    evidence = counts(lambda answer: answer["links"].update(seen))
    evidence = changed(evidence, {("links", "node-1"): links(add)})
    assert on(evidence, "A2").verdict == "OK"
    bare = changed(
        evidence,
        {("links", "node-1"): links(lambda f: (add(f), f[-5].update(flags=["UP"])) and None)},
    )
    assert on(bare, "A2").subject == "eth7"


def test_many_bare_workload_devices_are_said_in_few_sentences() -> None:
    names = [f"cali{number:011x}" for number in range(30)]

    def add(found: list[dict[str, Any]]) -> None:
        found += [
            {"ifname": name, "ifindex": 100 + at, "mtu": 1500, "flags": ["UP"]}
            for at, name in enumerate(names)
        ]

    def seen(answer: dict[str, Any]) -> None:
        answer["links"].update({name: 100 + at for at, name in enumerate(names)})
        answer["programs"].update({name: {} for name in names})

    found = outcomes(changed(counts(seen), {("links", "node-1"): links(add)}), "A2")["node-1"]
    assert [each.verdict for each in found] == ["FAIL"] * 6
    assert "25 more" in found[-1].what


def test_netkit_devices_whose_programs_cannot_be_seen_are_unknown() -> None:
    def netkit(found: list[dict[str, Any]]) -> None:
        next(each for each in found if each["ifname"].startswith("cali"))["linkinfo"] = {
            "info_kind": "netkit"
        }

    bare = counts(lambda answer: answer["programs"].update(cali0761ccbeace={}))
    found = on(changed(bare, {("links", "node-1"): links(netkit)}), "A2")
    assert found.verdict == "UNKNOWN"


@pytest.mark.parametrize(("release", "word"), [("v3.26.1", "Boot"), ("v3.32.1", "bpf cleanup")])
def test_leftovers_are_a_warning_with_a_remedy_of_the_release(release: str, word: str) -> None:
    asked = {("felixconfigurations", ""): felix(BASE, {"bpfEnabled": False})}
    found = on(changed(counts(no_programs), asked, release=release), "A2")
    assert found.verdict == "WARN"
    assert "14 pinned maps" in found.what
    assert word in found.remedy
    none = {**asked, ("pins", "node-1"): "/sys/fs/bpf:\n"}
    assert on(changed(counts(no_programs), none), "A2").verdict == "N/A"


# -------------------------------------------------------------------------------- A3, A9


@pytest.mark.parametrize(
    ("kernel", "release", "verdict"),
    [
        ("5.2.21", "v3.16.1", "FAIL"),
        ("5.3.0-42-generic", "v3.16.1", "OK"),
        ("5.3.0-42-generic", "v3.30.2", "OK"),
        ("5.3.0-42-generic", "v3.31.0", "WARN"),
        ("5.9.16", "v3.32.1", "WARN"),
        ("5.10.0", "v3.32.1", "OK"),
        ("6.18.44-fc-v657", "v3.32.1", "OK"),
        ("4.18.0-147.el8.x86_64", "v3.16.1", "FAIL"),
        ("4.18.0-193.el8.x86_64", "v3.16.1", "OK"),
        ("4.18.0-193.14.3.el8_2.x86_64", "v3.31.1", "WARN"),
        ("4.18.0-305.el8.x86_64", "v3.31.1", "OK"),
        ("3.10.0-1160.el7.x86_64", "v3.26.1", "FAIL"),
        ("4.18.0-305.generic", "v3.26.1", "FAIL"),
        ("5.14.0-70.el9.x86_64", "v3.32.1", "OK"),
        ("newest", "v3.26.1", "UNKNOWN"),
        ("5.4.0", "of my own", "UNKNOWN"),
        ("4.4.0", "of my own", "FAIL"),
    ],
)
def test_the_least_kernel_is_that_of_the_release_and_of_red_hat(
    kernel: str, release: str, verdict: str
) -> None:
    evidence = changed(BASE, {("kernel", "node-1"): f"{kernel} x86_64\n"}, release=release)
    found = on(evidence, "A3")
    assert found.verdict == verdict
    assert bool(found.remedy) is (verdict in ("FAIL", "WARN"))
    assert bool(found.corrected) is (verdict == "WARN")


@pytest.mark.parametrize(
    ("machine", "release", "verdict"),
    [
        ("x86_64", "v3.16.1", "OK"),
        ("aarch64", "v3.16.1", "WARN"),
        ("aarch64", "v3.32.1", "OK"),
        ("s390x", "v3.32.1", "FAIL"),
        ("ppc64", "v3.26.1", "FAIL"),
        ("ppc64le", "v3.26.1", "WARN"),
    ],
)
def test_big_endian_fails(machine: str, release: str, verdict: str) -> None:
    evidence = changed(BASE, {("kernel", "node-1"): f"6.1.0 {machine}\n"}, release=release)
    assert on(evidence, "A9").verdict == verdict


# ------------------------------------------------------------------------------------ A4


@pytest.mark.parametrize(
    ("answer", "status", "verdict"),
    [
        ("bpf\n", 0, "OK"),
        ("tmpfs\nbpf\n", 0, "OK"),
        ("tmpfs\n", 0, "FAIL"),
        ("", 1, "FAIL"),
        ("findmnt: permission denied", 1, "UNKNOWN"),
        ("sh: findmnt: not found", 127, "UNKNOWN"),
    ],
)
def test_bpffs_must_be_mounted(answer: str, status: int, verdict: str) -> None:
    place = ("bpffs", "node-1")
    assert on(changed(BASE, {place: answer}, statuses={place: status}), "A4").verdict == verdict


# ------------------------------------------------------------------------------------ A5


def environment(**variables: str) -> str:
    lines = "".join(f"{name}={value}\n" for name, value in variables.items())
    return f"==> environment <==\n{lines}==> file <==\n"


def of_a5(answers: dict[tuple[str, str], str], release: str | None = None) -> dict[str, str]:
    return verdicts(changed(BASE, answers, release=release), "A5")


def test_an_environment_that_beats_the_resource_is_a_warning_with_both_values() -> None:
    place = ("felix-process", "node-2")
    evidence = changed(BASE, {place: environment(FELIX_BPFENABLED="false")})
    assert verdicts(evidence, "A5") == {"node-1": "OK", "node-2": "WARN"}
    found = on(evidence, "A5", "node-2")
    assert found.subject == "bpfEnabled"
    assert "false by FELIX_BPFENABLED" in found.what
    assert "FelixConfiguration default says true" in found.what
    assert [(each.source, each.excerpt) for each in found.shown] == [
        ("felix-process", "FELIX_BPFENABLED: false"),
        ("felixconfigurations", "FelixConfiguration default: bpfEnabled true"),
    ]
    assert of_a5({place: environment(FELIX_BPFENABLED="true")}) == dict.fromkeys(NODES, "OK")


def test_any_field_that_the_environment_or_file_beats_is_named() -> None:
    dsr = felix(BASE, {"bpfExternalServiceMode": "Tunnel"})
    process = ("felix-process", "node-1")
    answers = {
        ("felixconfigurations", ""): dsr,
        process: environment(FELIX_BPFEXTERNALSERVICEMODE="DSR"),
    }
    assert on(changed(BASE, answers), "A5").subject == "bpfExternalServiceMode"
    answers[process] = "==> environment <==\n==> file <==\nBPFExternalServiceMode = DSR\n"
    assert "/etc/calico/felix.cfg" in on(changed(BASE, answers), "A5").what
    # A variable for a field that no resource sets beats nothing.
    assert of_a5({process: environment(FELIX_BPFEXTERNALSERVICEMODE="DSR")})["node-1"] == "OK"


def test_resources_that_disagree_about_the_mode_are_a_warning() -> None:
    own = {("felixconfigurations", ""): felix(BASE, {"bpfEnabled": False}, "node.node-1")}
    assert of_a5(own) == {"node-1": "WARN", "node-2": "OK"}
    level = felix(BASE, {"bpfLogLevel": "Info"}, "node.node-1")
    assert of_a5({("felixconfigurations", ""): level}) == dict.fromkeys(NODES, "OK")


def installation(dataplane: str | None, *, computed: str = "") -> dict[tuple[str, str], str]:
    network = {} if dataplane is None else {"linuxDataplane": dataplane}
    one: dict[str, Any] = {"metadata": {"name": "default"}, "spec": {"calicoNetwork": network}}
    if computed:
        one["status"] = {"computed": {"calicoNetwork": {"linuxDataplane": computed}}}
    return {("installations", ""): json.dumps([one])}


@pytest.mark.parametrize(
    ("dataplane", "bpf", "verdict"),
    [
        ("BPF", True, "OK"),
        ("Iptables", True, "FAIL"),
        ("Nftables", True, "FAIL"),
        (None, True, "FAIL"),
        ("BPF", False, "FAIL"),
        ("BPF", None, "FAIL"),
        ("Iptables", False, "N/A"),
    ],
)
def test_the_operator_must_be_told_the_same(
    dataplane: str | None, bpf: bool | None, verdict: str
) -> None:
    answers = installation(dataplane)
    answers["felixconfigurations", ""] = felix(BASE, {"bpfEnabled": bpf})
    found = of_a5(answers)
    assert set(found.values()) == {verdict}


def test_what_the_operator_computed_of_all_installations_counts() -> None:
    assert set(of_a5(installation("Iptables", computed="BPF")).values()) == {"OK"}


def test_an_installation_that_cannot_be_read_is_unknown_and_not_agreement() -> None:
    def by_the_operator(pods: list[Any]) -> None:
        for pod in pods:
            if pod["metadata"]["name"].startswith("calico-node"):
                pod["metadata"]["namespace"] = "calico-system"

    item = replace(BASE.items["installations", ""], error="forbidden")
    evidence = replace(BASE, items={**BASE.items, ("installations", ""): item})
    # Where calico-node is in kube-system there is no operator, which has a place of its own.
    assert verdicts(evidence, "A5") == {"node-1": "OK", "node-2": "OK"}
    placed = {("pods", ""): objects(BASE, "pods", by_the_operator)}
    operated = changed(evidence, placed)
    assert verdicts(operated, "A5") == {"node-1": "OK", "node-2": "OK", "": "UNKNOWN"}
    no_pods = changed(evidence, without=[("pods", "")])
    assert verdicts(no_pods, "A5")[""] == "UNKNOWN"


def test_an_environment_that_only_the_pod_shows_is_shown_there() -> None:
    def variable(pods: list[Any]) -> None:
        for pod in pods:
            if pod["spec"]["nodeName"] == "node-1":
                for container in pod["spec"]["containers"]:
                    container["env"] = [{"name": "FELIX_BPFENABLED", "value": "false"}]

    found = on(changed(BASE, {("pods", ""): objects(BASE, "pods", variable)}), "A5")
    assert (found.verdict, found.shown[0].source, found.shown[0].node) == ("WARN", "pods", "")


def test_a_value_from_a_configmap_is_unknown() -> None:
    def hidden(pods: list[Any]) -> None:
        for pod in pods:
            for container in pod["spec"]["containers"]:
                if container["name"] == "calico-node":
                    source = {"configMapKeyRef": {"name": "own", "key": "bpf"}}
                    container["env"] = [{"name": "FELIX_BPFENABLED", "valueFrom": source}]

    evidence = changed(BASE, {("pods", ""): objects(BASE, "pods", hidden)})
    assert set(verdicts(evidence, "A5").values()) == {"UNKNOWN"}


def test_fields_that_the_release_ignores_are_said_once() -> None:
    stray = {("felixconfigurations", ""): felix(BASE, {"bpfEnabeld": True})}
    found = outcomes(changed(BASE, stray), "A5")
    assert [each.verdict for each in found[""]] == ["WARN"]
    assert "bpfEnabled" in found[""][0].what
    late = {("felixconfigurations", ""): felix(BASE, {"bpfAttachType": "TCX"})}
    assert of_a5(late, "v3.26.1")[""] == "WARN"
    assert "" not in of_a5(late, "v3.32.1")
    process = {("felix-process", "node-2"): environment(FELIX_BPFENABELD="1")}
    assert of_a5(process) == {"node-1": "OK", "node-2": "WARN"}


# ------------------------------------------------------------------------------------ A6


def test_a_node_that_does_not_forward_as_the_others_fails_by_name() -> None:
    evidence = changed(BASE, {("log", "node-2"): FALLBACK})
    assert verdicts(evidence, "A6") == {"node-2": "FAIL"}
    found = on(evidence, "A6", "node-2")
    assert "node-1 does" in found.what
    assert found.shown[0].excerpt.splitlines()[0].startswith("node-1: on")
    own = felix(BASE, {"bpfEnabled": False}, "node.node-1")
    answers = {("felixconfigurations", ""): own, ("log", "node-1"): NO_WORDS}
    assert verdicts(changed(counts(no_programs), answers), "A6") == {"node-1": "FAIL"}


def test_where_no_node_forwards_by_ebpf_nothing_is_mixed() -> None:
    logs = {("log", node): FALLBACK for node in NODES}
    assert verdicts(changed(BASE, logs), "A6") == {"": "N/A"}
    nothing = [(source, node) for source in ("log", "counts", "counts/later") for node in NODES]
    assert verdicts(changed(BASE, without=nothing), "A6") == {"": "UNKNOWN"}


def test_a_node_of_which_nothing_is_known_is_unknown() -> None:
    gone = [(source, "node-2") for source in ("log", "counts", "counts/later")]
    assert verdicts(changed(BASE, without=gone), "A6") == {"node-2": "UNKNOWN"}


def test_nodes_that_were_not_asked_and_windows_count() -> None:
    only = replace(BASE, nodes=("node-1",))
    assert verdicts(only, "A6") == {"": "OK"}
    own = {("felixconfigurations", ""): felix(BASE, {"bpfEnabled": False}, "node.node-2")}
    assert verdicts(changed(only, own), "A6") == {"node-2": "FAIL"}

    def windows(nodes: list[Any]) -> None:
        nodes.append({"metadata": {"name": "win-1", "labels": {"kubernetes.io/os": "windows"}}})

    evidence = changed(BASE, {("nodes", ""): objects(BASE, "nodes", windows)})
    assert verdicts(evidence, "A6") == {"win-1": "FAIL"}


# ------------------------------------------------------------------------------------ A7


def stamp(ago_s: float) -> str:
    """A time of the log, so long before it was read."""
    return f"{TAKEN - timedelta(seconds=ago_s):%Y-%m-%d %H:%M:%S.%f}"[:-3]


WORKLOAD = next(d for d in json.loads(text("counts"))["links"] if d.startswith("cali"))


def dirty(ago_s: float, device: str = WORKLOAD, pid: str = PID) -> str:
    return (
        f"{stamp(ago_s)} [WARNING][{pid}] felix/bpf_ep_mgr.go 1234: Failed to apply policy to "
        f'endpoint, leaving it dirty error="loading program: permission denied" name="{device}" '
        f"wepID=<nil>\n"
    )


def later(ago_s: float, message: str = "Finished applying.") -> str:
    return f"{stamp(ago_s)} [INFO][{PID}] felix/int_dataplane.go 1: {message}\n"


def log(*lines: str) -> Evidence:
    """The recorded log with more lines."""
    return changed(BASE, {("log", "node-1"): text("log") + "".join(lines)})


@pytest.mark.parametrize(
    ("ago_s", "pid", "verdict"),
    [(0, PID, "FAIL"), (300, PID, "FAIL"), (300.001, PID, "WARN"), (1, "1", "WARN")],
)
def test_a_dirty_endpoint_fails_for_five_minutes(ago_s: float, pid: str, verdict: str) -> None:
    evidence = log(dirty(ago_s, pid=pid), later(0))
    assert verdicts(evidence, "A7") == {"node-1": verdict, "node-2": "OK"}
    found = on(evidence, "A7")
    assert found.subject == WORKLOAD
    assert "permission denied" in found.what
    assert found.shown[0].excerpt == dirty(ago_s, pid=pid).strip()


def test_a_device_that_got_its_programs_since_is_a_warning() -> None:
    def again(device: str) -> str:
        message = "Adding workload interface to iptables allow list."
        return later(5, f'{message} id=x iface="{device}"')

    found = on(log(dirty(10), again(WORKLOAD)), "A7")
    assert found.verdict == "WARN"
    assert stamp(5)[11:19] in found.what
    assert on(log(dirty(10), again("cali124")), "A7").verdict == "FAIL"
    assert on(log(dirty(10), again(WORKLOAD), dirty(1)), "A7").verdict == "FAIL"


def test_a_device_that_is_gone_is_a_warning_and_in_time_nothing() -> None:
    found = on(log(dirty(10, "cali123")), "A7")
    assert found.verdict == "WARN"
    assert "the device is gone" in found.what
    past = on(log(dirty(1000, "cali123"), dirty(900, "cali124")), "A7")
    assert past.verdict == "OK"
    assert "2 devices" in past.what
    assert on(log(dirty(1000)), "A7").verdict == "WARN"


def test_each_dirty_device_is_named_and_many_are_counted() -> None:
    lines = [dirty(1, f"cali{number}") for number in range(9)]

    def add(found: list[dict[str, Any]]) -> None:
        found += [{"ifname": f"cali{at}", "ifindex": 50 + at, "mtu": 1500} for at in range(9)]

    evidence = changed(log(*lines), {("links", "node-1"): links(add)})
    found = outcomes(evidence, "A7")["node-1"]
    assert [each.subject for each in found] == [*(f"cali{number}" for number in range(5)), ""]
    assert "4 more" in found[-1].what


def test_a_program_that_the_kernel_refused_has_the_time_of_the_line_before() -> None:
    refusal = "libbpf: prog 'cali_tc_main': failed to load: -13\n-- END PROG LOAD LOG --\n"
    assert on(log(refusal), "A7").verdict == "FAIL"
    old = changed(BASE, {("log", "node-1"): later(4000) + refusal})
    assert on(old, "A7").verdict == "WARN"


def test_a_node_whose_clock_is_ahead_is_judged_by_its_own() -> None:
    assert on(log(dirty(0), later(-7200)), "A7").verdict == "WARN"
    assert on(log(dirty(-7100), later(-7200)), "A7").verdict == "FAIL"


def test_a_calico_node_that_is_not_ready_is_a_warning_with_its_reason() -> None:
    def unready(pods: list[Any]) -> None:
        for pod in pods:
            if pod["spec"].get("nodeName") == "node-2" and "calico" in pod["metadata"]["name"]:
                for condition in pod["status"]["conditions"]:
                    if condition["type"] == "Ready":
                        condition.update(status="False", message="calico/node is not ready")

    evidence = changed(BASE, {("pods", ""): objects(BASE, "pods", unready)})
    assert verdicts(evidence, "A7") == {"node-1": "OK", "node-2": "WARN"}
    assert "calico/node is not ready" in on(evidence, "A7", "node-2").what


def test_no_log_is_unknown_and_a_fallback_has_no_endpoints() -> None:
    assert on(changed(BASE, without=[("log", "node-1")]), "A7").verdict == "UNKNOWN"
    assert on(changed(BASE, {("log", "node-1"): "bird: Started\n"}), "A7").verdict == "UNKNOWN"
    assert on(changed(BASE, {("log", "node-1"): FALLBACK}), "A7").verdict == "N/A"


# ------------------------------------------------------------------------------------ A8


def renamed(name: str, **more: Any) -> dict[tuple[str, str], str]:
    """Links and routes of node-1 whose NIC has another name."""
    routes = text("routes").replace('"ens11"', f'"{name}"')

    def change(found: list[dict[str, Any]]) -> None:
        nic = next(each for each in found if each["ifname"] == "ens11")
        nic.update(ifname=name, **more)

    return {("links", "node-1"): links(change), ("routes", "node-1"): routes}


@pytest.mark.parametrize(
    ("name", "release", "verdict"),
    [
        ("ens192", "v3.13.1", "OK"),
        ("wlan0", "v3.16.1", "FAIL"),
        ("wlan0", "v3.17.0", "OK"),
        ("enP3p1s0", "v3.26.1", "OK"),
        ("enP3p1s0", "v3.20.0", "FAIL"),
        ("enP3p1s0", "v3.23.0", "UNKNOWN"),
        ("eth0.100", "v3.23.0", "OK"),
        ("vlan100", "v3.32.1", "FAIL"),
        ("team0", "v3.32.1", "FAIL"),
        ("bond0", "v3.28.0", "FAIL"),
        ("bond0", "v3.29.0", "UNKNOWN"),
        ("bond0", "v3.30.1", "OK"),
    ],
)
def test_the_default_pattern_is_that_of_the_release(name: str, release: str, verdict: str) -> None:
    evidence = changed(BASE, renamed(name), release=release)
    assert verdicts(evidence, "A8") == {"node-1": verdict, "node-2": "OK"}
    if verdict != "OK":
        found = on(evidence, "A8")
        assert found.subject == name
        assert "198.18.0.11" in found.what


@pytest.mark.parametrize(("release", "tunnels"), [("v3.26.1", True), ("v3.32.1", False)])
def test_the_remedy_keeps_tunnels_where_the_release_wants_them(release: str, tunnels: bool) -> None:
    found = on(changed(BASE, renamed("team0"), release=release), "A8")
    assert "team0" in found.remedy
    assert ("vxlan.calico" in found.remedy) is tunnels


@pytest.mark.parametrize(
    ("pattern", "verdict"),
    [
        ("^ens11$", "OK"),
        ("s1", "OK"),
        ("^mgmt", "FAIL"),
        ("^(?!cali).*", "UNKNOWN"),
        ("^[[:alpha:]]+11", "UNKNOWN"),
        ("^\\Qens11\\E", "UNKNOWN"),
        ("(", "UNKNOWN"),
    ],
)
def test_a_pattern_is_read_as_go_does_or_not_at_all(pattern: str, verdict: str) -> None:
    asked = {("felixconfigurations", ""): felix(BASE, {"bpfDataIfacePattern": pattern})}
    assert on(changed(BASE, asked), "A8").verdict == verdict


def test_a_default_route_by_another_device_is_a_warning() -> None:
    routes = json.loads(text("routes"))
    routes.append({"dst": "default", "gateway": "10.0.0.1", "dev": "mgmt0"})
    other = {"ifname": "mgmt0", "ifindex": 90, "mtu": 1500, "flags": ["UP"]}
    answers = {
        ("routes", "node-1"): json.dumps(routes),
        ("links", "node-1"): links(lambda found: found.append(other)),
    }
    found = on(changed(BASE, answers), "A8")
    assert (found.verdict, found.subject) == ("WARN", "mgmt0")
    # Of other tables, and of IPv6, it is another question.
    routes[-1].update(table="100")
    answers["routes", "node-1"] = json.dumps(routes)
    assert on(changed(BASE, answers), "A8").verdict == "OK"
    routes[-1] = {"dst": "default", "gateway": "fe80::1", "dev": "mgmt0", "pref": "medium"}
    answers["routes", "node-1"] = json.dumps(routes)
    assert on(changed(BASE, answers), "A8").verdict == "OK"


def test_an_address_on_the_loopback_leaves_it_to_the_default_route() -> None:
    def move(found: list[dict[str, Any]]) -> None:
        nic = next(each for each in found if each["ifname"] == "ens11")
        found[0]["addr_info"] += [nic["addr_info"].pop(0)]

    answers = {("links", "node-1"): links(move)}
    assert on(changed(BASE, answers), "A8").verdict == "UNKNOWN"
    routes = json.loads(text("routes"))
    ways = [{"gateway": "198.18.0.1", "dev": "ens11"}, {"gateway": "198.18.1.1", "dev": "ens11"}]
    routes.append({"dst": "default", "nexthops": ways})
    answers["routes", "node-1"] = json.dumps(routes)
    assert on(changed(BASE, answers), "A8").verdict == "OK"


def test_a_bond_and_a_vlan_say_on_what_they_stand() -> None:
    rows = [
        {"ifname": "eth0", "master": "bond0", "linkinfo": {"info_slave_kind": "bond"}},
        {"ifname": "bond0", "linkinfo": {"info_kind": "bond"}},
        {"ifname": "vlan7", "link": "bond0", "linkinfo": {"info_kind": "vlan"}},
        {"ifname": "cali1", "link": "eth9", "linkinfo": {"info_kind": "veth"}},
    ]
    devices = parse_devices(json.dumps(rows))
    assert below(devices, "bond0") == ["eth0"]
    assert below(devices, "vlan7") == ["bond0"]
    assert below(devices, "cali1") == []
    with_slaves = renamed("vlan7", link="eth0", linkinfo={"info_kind": "vlan"})
    assert "(a vlan on eth0)" in on(changed(BASE, with_slaves), "A8").what


def test_where_a_default_was_not_read_off_its_neighbours_must_agree() -> None:
    unread = patterns("UNKNOWN: not read off for this release", "v3.23.1")
    assert len(unread) == 2
    assert matches(unread, "eth0") is True
    assert matches(unread, "mgmt0") is False
    assert matches(unread, "enP1") is None
    assert patterns("UNKNOWN: of a ConfigMap", "v3.23.1") == ()
    assert re.search("bond", patterns("^bond", "v3.26.1")[0])
