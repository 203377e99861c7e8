"""What else differed between arms: made-up campaigns in which the right answer is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import CAMPAIGN, failed, results, trials_frame

from ebpfperf import confounders
from ebpfperf.model import (
    Campaign,
    Dataplane,
    FelixValue,
    Overlay,
    Role,
    Status,
    Treatment,
    Trial,
    TrialResult,
)
from ebpfperf.separation import goes_with_the_arm, separation_p

Told = Mapping[tuple[str, str], str | None]
Say = Callable[[Trial], Told]

FLOW = CAMPAIGN.flows[0]
POD_MTU = {"none": "1500", "ipip": "1480", "vxlan": "1450"}
DEVICES = {"none": "nic pod", "ipip": "ipip nic pod", "vxlan": "nic pod vxlan"}


def campaign(*treatments: Treatment, blocks: int = 8) -> Campaign:
    none = Treatment("none", Overlay.NONE)
    others = treatments or (Treatment("vxlan", Overlay.VXLAN),)
    return replace(CAMPAIGN, blocks=blocks, treatments=(none, *others), flows=(FLOW,))


def usual(trial: Trial) -> dict[tuple[str, str], str | None]:
    """What two nodes show when nothing but the treatment differs."""
    found: dict[tuple[str, str], str | None] = {}
    overlay = trial.treatment.overlay_name
    for node in ("node-1", "node-2"):
        found |= {
            (node, "conditions"): "read",
            (node, "kernel"): "6.18.0",
            (node, "devices"): DEVICES[overlay],
            (node, "mtu:nic"): "1500",
            (node, "mtu:pod"): POD_MTU[overlay],
            (node, "offloads:pod"): "rx-gro tx-checksum-ip-generic",
            (node, "pod_sysctl:net.ipv4.tcp_rmem"): "4096 131072 6291456",
            (node, "programs:nic"): "none",
            (node, "felix_process"): str(1000 + trial.order),
        }
        if overlay == "vxlan":
            found |= {(node, "mtu:vxlan"): "1450", (node, "offloads:vxlan"): "rx-gro"}
        if overlay == "ipip":
            found |= {(node, "mtu:ipip"): "1480"}
    return found


def frames(
    told: Campaign,
    say: Say = lambda trial: {},
    *,
    edit: Callable[[list[TrialResult]], list[TrialResult]] = lambda found: found,
) -> tuple[pd.DataFrame, pd.DataFrame, Campaign]:
    """Facts and trials of a campaign; ``say`` overrides the usual facts, None takes one out."""
    found = edit(results(told))
    rows = [
        (told.name, result.trial.trial_id, node, name, value, "")
        for result in found
        for (node, name), value in {**usual(result.trial), **say(result.trial)}.items()
        if value is not None
    ]
    rows += [(told.name, None, "", "calico_release", "v3.26.1", "")]
    columns = ["campaign", "trial_id", "node", "name", "value", "unit"]
    return pd.DataFrame(rows, columns=columns), trials_frame(found, told), told


def kernel(release: Callable[[Trial], str]) -> Say:
    """Nothing unusual but the kernel of one node."""
    return lambda trial: {("node-1", "kernel"): release(trial)}


def kinds(found: pd.DataFrame) -> dict[tuple[str, str], str]:
    return {(row["node"], row["name"]): row["kind"] for row in found.to_dict("records")}


def test_only_what_the_treatment_makes_differs() -> None:
    found = confounders.differences(*frames(campaign()))
    expected = {
        (n, f): "of the treatment" for n in ("node-1", "node-2") for f in ("devices", "mtu:pod")
    }
    assert kinds(found) == expected | {("", "mss"): "of the treatment"}
    assert confounders.marks(found) == {}
    rows = found.set_index(["node", "name"])["sentence"]
    assert rows["node-1", "devices"] == (
        "devices belongs to the treatment: vxlan against without vxlan on node-1"
    )
    assert rows["node-2", "mtu:pod"] == (
        "mtu:pod belongs to the treatment: 1450 against 1500 on node-2"
    )


def test_equal_arms_say_nothing() -> None:
    same = campaign(Treatment("again", Overlay.NONE))
    assert confounders.differences(*frames(same)).empty


def test_a_setting_that_goes_with_the_arm_confounds() -> None:
    def say(trial: Trial) -> Told:
        wide = trial.treatment.name == "vxlan"
        value = "4096 131072 33554432" if wide else "4096 131072 6291456"
        return {(node, "pod_sysctl:net.ipv4.tcp_rmem"): value for node in ("node-1", "node-2")}

    found = confounders.differences(*frames(campaign(), say))
    assert kinds(found)["node-1", "pod_sysctl:net.ipv4.tcp_rmem"] == "confounded"
    assert found["kind"].iloc[0] == "confounded"
    assert confounders.marks(found) == {
        ("vxlan", "tcp"): (
            "confounded by pod_sysctl:net.ipv4.tcp_rmem: 4096 131072 33554432 against "
            "4096 131072 6291456 on node-1, node-2",
        )
    }


@pytest.mark.parametrize("blocks", [1, 2, 3, 8])
def test_disjoint_values_confound_at_any_number_of_blocks(blocks: int) -> None:
    told = campaign(blocks=blocks)
    say = kernel(lambda trial: "6.1" if trial.treatment.name == "vxlan" else "6.18")
    found = confounders.differences(*frames(told, say))
    assert kinds(found)["node-1", "kernel"] == "confounded"


def test_a_change_in_the_middle_drifts_and_one_that_follows_the_arm_confounds() -> None:
    def middle(trial: Trial) -> Told:
        return {("node-1", "kernel"): "6.1" if trial.block < 4 else "6.18"}

    found = confounders.differences(*frames(campaign(), middle))
    row = found[found["name"].eq("kernel")].iloc[0]
    assert row["kind"] == "drifted"
    assert row["sentence"] == (
        "kernel changed during the campaign, under both alike: 6.1, 6.18 on node-1"
    )
    assert row["values"] == row["baseline_values"] == "6.1 (4 of 8) | 6.18 (4 of 8)"

    def within_a_block(trial: Trial) -> Told:
        return {("node-1", "kernel"): "6.1" if trial.order < 9 else "6.18"}

    drifted = confounders.differences(*frames(campaign(), within_a_block))
    assert kinds(drifted)["node-1", "kernel"] == "drifted"

    def mostly(trial: Trial) -> Told:
        other = trial.treatment.name == "vxlan" and trial.block != 3
        return {("node-1", "kernel"): "6.1" if other else "6.18"}

    found = confounders.differences(*frames(campaign(), mostly))
    row = found[found["name"].eq("kernel")].iloc[0]
    assert row["kind"] == "confounded"
    assert "6.1 (7 of 8) | 6.18 (1 of 8) against 6.18 on node-1" in row["sentence"]


def test_values_new_at_every_trial_drift() -> None:
    say = kernel(lambda trial: f"6.18.{trial.order}")
    found = confounders.differences(*frames(campaign(), say))
    assert kinds(found)["node-1", "kernel"] == "drifted"
    assert (
        "changed during the campaign, and not with the arm: "
        in (found.set_index("name").loc["kernel", "sentence"])
    )


@pytest.mark.parametrize(
    ("blocks", "kind"),
    [(1, "drifted"), (2, "perhaps confounded"), (5, "perhaps confounded"), (6, "confounded")],
)
@pytest.mark.parametrize("arm", ["none", "vxlan"])
def test_what_one_arm_alone_had_in_some_trials_is_not_of_both_alike(
    arm: str, blocks: int, kind: str
) -> None:
    def say(trial: Trial) -> Told:
        slow = trial.treatment.name == arm and trial.block < blocks
        return {("node-1", "frequency_governor"): "powersave" if slow else "performance"}

    found = confounders.differences(*frames(campaign(), say))
    assert kinds(found)["node-1", "frequency_governor"] == kind
    (sentence,) = found.loc[found["name"].eq("frequency_governor"), "sentence"]
    assert "alike" not in sentence
    marks = confounders.marks(found).get(("vxlan", "tcp"), ())
    assert [mark.partition(": ")[0] for mark in marks] == (
        [] if kind == "drifted" else [f"{kind} by frequency_governor"]
    )


def test_an_idle_device_that_one_arm_found_now_and_then_is_the_treatments() -> None:
    """Once a tunnel's device was made it may stay: the baseline then has it in later blocks."""

    def say(trial: Trial) -> Told:
        stays = trial.treatment.name == "none" and 2 < trial.block < 7
        found = {"devices": "nic pod vxlan", "mtu:vxlan": "1450", "offloads:vxlan": "rx-gro"}
        return {("node-1", name): value for name, value in found.items()} if stays else {}

    found = confounders.differences(*frames(campaign(), say))
    assert kinds(found)["node-1", "devices"] == "drifted"
    assert confounders.marks(found) == {}


def test_offloads_are_said_by_what_differs() -> None:
    def say(trial: Trial) -> Told:
        off = trial.treatment.name == "vxlan"
        return {
            ("node-2", "offloads:pod"): "tx-checksum-ip-generic"
            if off
            else "rx-gro tx-checksum-ip-generic"
        }

    found = confounders.differences(*frames(campaign(), say))
    assert confounders.marks(found) == {
        ("vxlan", "tcp"): ("confounded by offloads:pod: without rx-gro against rx-gro on node-2",)
    }


def test_unknown_in_one_arm_is_said_and_no_difference() -> None:
    def say(trial: Trial) -> Told:
        lost = trial.treatment.name == "vxlan"
        return {("node-1", "kernel"): "UNKNOWN: not to be read" if lost else "6.18.0"}

    found = confounders.differences(*frames(campaign(), say))
    row = found[found["name"].eq("kernel")].iloc[0]
    assert (row["kind"], row["sentence"]) == (
        "unknown",
        "kernel on node-1 is UNKNOWN under vxlan (not to be read): it was not compared",
    )
    assert confounders.marks(found) == {}
    both = confounders.differences(
        *frames(campaign(), lambda t: {("node-1", "kernel"): "UNKNOWN: x"})
    )
    assert ("node-1", "kernel") not in kinds(both)
    # Unknown now and then: the other blocks are compared.
    some = kernel(lambda t: "UNKNOWN: x" if t.block < 2 and t.order % 2 else "6.18.0")
    assert ("node-1", "kernel") not in kinds(confounders.differences(*frames(campaign(), some)))


def test_unknown_of_what_the_treatment_sets_is_not_said() -> None:
    def say(trial: Trial) -> Told:
        ours = trial.treatment.name == "other"
        return {("node-1", "bpf_log_level"): "UNKNOWN: not shown" if ours else None}

    programs = replace(felix(), dataplane=Dataplane.EBPF)
    told = kinds(confounders.differences(*frames(campaign(programs), say)))
    assert ("node-1", "bpf_log_level") not in told
    told = kinds(confounders.differences(*frames(campaign(felix()), say)))
    assert told["node-1", "bpf_log_level"] == "unknown"


def test_a_node_that_could_not_say_is_unknown_in_all() -> None:
    def say(trial: Trial) -> Told:
        if trial.treatment.name != "vxlan":
            return {}
        mine = {key: None for key in usual(trial) if key[0] == "node-1"}
        return {**mine, ("node-1", "conditions"): "UNKNOWN: no Python"}

    found = confounders.differences(*frames(campaign(), say))
    told = kinds(found)
    assert told["node-1", "kernel"] == "unknown"
    assert "confounded" not in told.values()


def test_a_fact_that_one_arm_lacks_is_a_difference() -> None:
    def say(trial: Trial) -> Told:
        new = trial.treatment.name == "vxlan"
        return {("node-1", "sysctl:net.core.busy_poll"): "50" if new else None}

    found = confounders.differences(*frames(campaign(), say))
    row = found[found["name"].eq("sysctl:net.core.busy_poll")].iloc[0]
    assert (row["kind"], row["values"], row["baseline_values"]) == ("confounded", "50", "not there")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mtu:pod", "1410"),
        ("mtu:nic", "9000"),
        ("mtu:vxlan", None),
        ("devices", "nic nic/eth1 pod vxlan"),
    ],
)
def test_what_no_rule_explains_confounds(name: str, value: str | None) -> None:
    def say(trial: Trial) -> Told:
        return {("node-1", name): value} if trial.treatment.name == "vxlan" else {}

    told = kinds(confounders.differences(*frames(campaign(), say)))
    if value is None:
        # The device alone says so already.
        assert ("node-1", name) not in told
    else:
        assert told["node-1", name] == "confounded"


def felix(*fields: tuple[str, FelixValue], overlay: Overlay = Overlay.NONE) -> Treatment:
    return Treatment("other", overlay, felix=fields)


@pytest.mark.parametrize(
    ("treatment", "name", "kind"),
    [
        (felix(("bpfLogLevel", "Debug")), "programs:nic", "of the treatment"),
        (felix(("bpfLogLevel", "Debug")), "bpf_log_level", "of the treatment"),
        (felix(("bpfLogLevel", "Debug")), "sysctl:net.core.bpf_jit_harden", "confounded"),
        (felix(("bpfJITHardening", "Auto")), "sysctl:net.core.bpf_jit_harden", "of the treatment"),
        (felix(("bpfDisableGROForIfaces", "eth0")), "offloads:nic", "of the treatment"),
        (felix(("featureDetectOverride", "x=y")), "offloads:nic", "confounded"),
        (felix(), "programs:nic", "confounded"),
        (felix(), "lab_fault", "confounded"),
        (replace(felix(), dataplane=Dataplane.EBPF), "felix_dataplane", "of the treatment"),
        (replace(felix(), dataplane=Dataplane.EBPF), "offloads:bpfin", "of the treatment"),
        (replace(felix(), dataplane=Dataplane.EBPF), "offloads:pod", "confounded"),
        (replace(felix(), dataplane=Dataplane.EBPF), "kernel", "confounded"),
    ],
)  # fmt: skip
def test_what_fields_of_felix_change(treatment: Treatment, name: str, kind: str) -> None:
    def say(trial: Trial) -> Told:
        other = trial.treatment.name == "other"
        found: dict[tuple[str, str], str | None] = {("node-1", name): "a" if other else "b"}
        if name == "offloads:bpfin":
            found["node-1", "devices"] = "bpfin nic pod"
        return found

    told = kinds(confounders.differences(*frames(campaign(treatment), say)))
    assert told["node-1", name] == kind


def test_a_device_that_another_treatment_left_is_no_difference() -> None:
    """The kernel's tunl0 stays: once IPIP was there, idle ones are seen under any treatment."""
    told = campaign(Treatment("vxlan", Overlay.VXLAN), Treatment("ipip", Overlay.IPIP))

    def say(trial: Trial) -> Told:
        if trial.treatment.name != "vxlan":
            return {}
        return {("node-1", "devices"): "ipip nic pod vxlan", ("node-1", "mtu:ipip"): "1480"}

    found = confounders.differences(*frames(told, say))
    ours = found[found["treatment"].eq("vxlan")]
    assert kinds(ours) == kinds(confounders.differences(*frames(campaign())))


def test_only_good_trials_of_blocks_that_both_have_count() -> None:
    def say(trial: Trial) -> Told:
        return {("node-1", "kernel"): "6.1" if trial.block == 5 else "6.18.0"}

    def edit(found: list[TrialResult]) -> list[TrialResult]:
        return [
            failed(result, reason="timeout: x")
            if result.trial.block == 5 and result.trial.treatment.name == "none"
            else result
            for result in found
        ]

    found = frames(campaign(), say, edit=edit)
    assert ("node-1", "kernel") not in kinds(confounders.differences(*found))
    lone = frames(campaign(), say, edit=lambda rows: [replace(r, status=Status.VOID) for r in rows])
    assert confounders.differences(*lone).empty


def test_bare_trials_and_those_of_the_aa_test_are_not_compared() -> None:
    told = replace(campaign(), probes_off=True, aa_test=True)
    say = kernel(lambda trial: "6.18.0" if trial.role is Role.COMPARED else "6.1")
    assert ("node-1", "kernel") not in kinds(confounders.differences(*frames(told, say)))


def test_campaigns_without_facts_per_trial() -> None:
    facts, trials, told = frames(campaign())
    for without in (
        facts.iloc[:0],
        facts.drop(columns="trial_id"),
        facts[facts["trial_id"].isna()],
    ):
        found = confounders.differences(without, trials, told)
        assert set(found["name"]) <= {"mss"}
        assert list(found.columns) == list(confounders.COLUMNS)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=8))
def test_exchanging_the_arms_mirrors(pairs: list[tuple[str, str]]) -> None:
    told = campaign(Treatment("other", Overlay.NONE), blocks=len(pairs))

    def say(trial: Trial) -> Told:
        side = trial.treatment.name == "other"
        return {("node-1", "kernel"): pairs[trial.block][side]}

    facts, trials, _ = frames(told, say)
    one = confounders.differences(facts, trials, told)
    exchanged = replace(told, baseline="other")
    other = confounders.differences(facts, trials, exchanged)
    assert list(one["kind"]) == list(other["kind"])
    assert list(one["values"]) == list(other["baseline_values"])
    assert list(one["baseline_values"]) == list(other["values"])


def naive_p(pairs: list[tuple[str, str]]) -> float:
    """All exchanges, one by one."""

    def apart(some: list[tuple[str, str]]) -> int:
        values = {value for pair in some for value in pair}
        counts = [[pair[side] for pair in some] for side in (0, 1)]
        return sum(abs(counts[0].count(v) - counts[1].count(v)) for v in values)

    unequal = [pair for pair in pairs if pair[0] != pair[1]]
    seen = [
        apart([pair[::-1] if turn else pair for pair, turn in zip(unequal, turns, strict=True)])
        for turns in itertools.product((False, True), repeat=len(unequal))
    ]
    return sum(one >= apart(unequal) for one in seen) / len(seen)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), max_size=7))
def test_separation_is_what_counting_gives(pairs: list[tuple[str, str]]) -> None:
    p = separation_p(pairs)
    assert p == pytest.approx(naive_p(pairs))
    assert separation_p([pair[::-1] for pair in pairs]) == p


def test_separation_of_known_pairs() -> None:
    assert separation_p([("a", "b")] * 5) == 2 / 32
    assert separation_p([("a", "b"), ("b", "a")]) == 1.0
    assert separation_p([("a", "a")] * 9) == 1.0
    assert separation_p([(str(n), str(n + 100)) for n in range(6)]) == 1.0
    assert separation_p([("a", "b")] * 20) == pytest.approx(1 / 8192)
    assert not goes_with_the_arm([("a", "b")] * 5 + [("a", "a"), ("b", "b")])
    assert goes_with_the_arm([("a", "b")] * 6 + [("a", "a"), ("b", "b")])


def between_frame(rows: list[tuple[str | None, str, str, str]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["trial_id", "node", "name", "value"])
    return frame.assign(campaign="c", unit="")


def test_between_campaigns() -> None:
    before = [
        (None, "alpha", "boot_id", "1"),
        (None, "alpha", "kernel", "6.1"),
        (None, "", "felix_spec", '{"bpfEnabled":true,"ipipEnabled":true}'),
        ("b0", "alpha", "mtu:pod", "1500"),
        ("b0", "alpha", "felix_process", "17"),
        ("b0", "", "placement:client", "alpha"),
        ("b0", "", "placement:server", "beta"),
        ("b0", "beta", "microcode", "0x1"),
    ]
    after = [
        (None, "one", "boot_id", "2"),
        (None, "one", "kernel", "6.18"),
        (None, "", "felix_spec", '{"bpfEnabled":true,"bpfLogLevel":"Debug"}'),
        ("b0", "one", "mtu:pod", "1450"),
        ("b1", "one", "mtu:pod", "1500"),
        ("b0", "one", "felix_process", "19"),
        ("b0", "", "placement:client", "one"),
        ("b0", "", "placement:server", "two"),
        ("b0", "two", "microcode", "0x1"),
    ]
    frames = between_frame(before), between_frame(after)
    named = [confounders.roles(frame) for frame in frames]
    assert named == [{"alpha": "client", "beta": "server"}, {"one": "client", "two": "server"}]
    found = confounders.between(*frames, roles_before=named[0], roles_after=named[1])
    assert sorted(found.itertuples(index=False, name=None)) == [
        ("felix_spec.bpfLogLevel", "", "not there", '"Debug"'),
        ("felix_spec.ipipEnabled", "", "true", "not there"),
        ("kernel", "client", "6.1", "6.18"),
        ("mtu:pod", "client", "1500", "1450 | 1500"),
    ]
    assert confounders.between(frames[0], frames[0]).empty
    swapped = confounders.between(frames[1], frames[0], roles_before=named[1], roles_after=named[0])
    assert sorted(zip(swapped["after"], swapped["before"], strict=True)) == sorted(
        zip(found["before"], found["after"], strict=True)
    )
