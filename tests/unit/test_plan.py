"""Campaign files: a good one, and many kinds of bad ones, each with its line and its remedy."""

from __future__ import annotations

import itertools
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebpfperf import mutations, plan
from ebpfperf.errors import PlanError
from ebpfperf.model import Campaign, Flow, Overlay, Role, Scope, Treatment
from ebpfperf.model import Path as FlowPath

ROOT = Path(__file__).resolve().parents[2]

GOOD = """\
campaign: good
seed: 7
blocks: 6
baseline: none
margin_pct: 5
treatments:
  - none
  - {name: vx, overlay: vxlan, scope: cross-subnet, felix: {ipipEnabled: null, vxlanEnabled: true}}
flows:
  - {name: tcp, path: pod-pod, load: tcp, duration_s: 2}
  - name: udp
    load: udp
    rate_bits_per_s: 500M
    message_bytes: 1K
probes: [tcp_rtt]
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "campaign.yaml"
    path.write_text(text)
    return path


def test_a_good_file_is_read_as_meant(tmp_path: Path) -> None:
    campaign = plan.load(write(tmp_path, GOOD))
    none, vxlan = campaign.treatments
    assert none == Treatment("none", Overlay.NONE)
    assert vxlan.scope is Scope.CROSS_SUBNET
    assert vxlan.felix == (("ipipEnabled", None), ("vxlanEnabled", True))
    tcp, udp = campaign.flows
    assert (tcp.path, tcp.duration_s, tcp.omit_s) == (FlowPath.POD_POD, 2, 1)
    assert (udp.rate_bits_per_s, udp.message_bytes) == (500e6, 1024)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "campaigns").glob("*.yaml")))
def test_the_shipped_campaigns_load(path: Path) -> None:
    assert plan.schedule(plan.load(path))


# name → (what is replaced, by what, line of the complaint, words of it or of the remedy)
BAD = {
    "unknown top key": ("seed: 7", "sede: 7", 2, "Did you mean seed?"),
    "unknown flow key": ("duration_s: 2", "duration: 2", 10, "Did you mean duration_s?"),
    "unknown treatment key": ("scope: cross", "scoop: cross", 8, "Did you mean scope?"),
    "unknown overlay": ("  - none", "  - nome", 7, "Did you mean none?"),
    "unknown scope": ("cross-subnet", "cross-subnets", 8, "Did you mean cross-subnet?"),
    "unknown load": ("load: tcp", "load: tpc", 10, "Did you mean tcp?"),
    "unknown path": ("pod-pod", "pod-pot", 10, "Did you mean pod-pod?"),
    "unknown probe": ("[tcp_rtt]", "[tcp_rrt]", 15, "Did you mean tcp_rtt?"),
    "probe twice": ("[tcp_rtt]", "[tcp_rtt, tcp_rtt]", 15, "twice"),
    "baseline is no treatment": ("baseline: none", "baseline: vxlan", 4, "not a treatment"),
    "no baseline": ("baseline: none\n", "", 1, "lacks the key baseline"),
    "no blocks": ("blocks: 6", "blocks: 0", 3, "at least 1"),
    "blocks is text": ("blocks: 6", "blocks: six", 3, "a whole number"),
    "seed is a fraction": ("seed: 7", "seed: 7.5", 2, "a whole number"),
    "name with a capital": ("campaign: good", "campaign: Good", 1, "cannot be a name"),
    "name with braces": ("campaign: good", "campaign: '{x}'", 1, "cannot be a name"),
    "one treatment": ("  - {name: vx", "  # {name: vx", 6, "at least 2"),
    "two of a name": ("{name: vx, ", "{name: none, ", 8, "used twice"),
    "two flows of a name": ("name: udp", "name: tcp", 11, "used twice"),
    "udp without a rate": ("    rate_bits_per_s: 500M\n", "", 11, "set rate_bits_per_s"),
    "rate is no rate": ("500M", "fast", 13, "500M or 1.5G"),
    "size is no size": ("1K", "big", 14, "64, 128K or 1M"),
    "negative duration": ("duration_s: 2", "duration_s: -2", 10, "at least 1"),
    "duplicate key": ("seed: 7", "seed: 7\nseed: 8", 3, "Keep one of the two"),
    "a tab": ("  - none", "\t- none", 7, "never with tabs"),
    "unclosed brace": ("duration_s: 2}", "duration_s: 2", 11, "YAML syntax"),
    "margin of nothing": ("margin_pct: 5", "margin_pct: 0", 5, "more than 0"),
    "flows is no list": ("probes: [tcp_rtt]", "probes: tcp_rtt", 15, "a list"),
    "null for none": ("  - none", "  - null", 7, "the word none"),
    "felix field is no name": ("ipipEnabled: null", "ipip-on: true", 8, "as in vxlanEnabled"),
    "dataplane set twice": (
        "felix: {ipipEnabled: null",
        "dataplane: ebpf, felix: {bpfEnabled: true",
        8,
        "Keep one",
    ),
    "client and server on one node": (
        "probes: [tcp_rtt]",
        "cluster: {client_node: a, server_node: a}",
        15,
        "Name two nodes",
    ),
    "probes off and none to be off": (
        "probes: [tcp_rtt]",
        "probes: [host_counters]\nprobes_off: true",
        16,
        "Name the probes that are to be off",
    ),
    "share beyond all": ("probes: [tcp_rtt]", "probe_share_pct: 101", 15, "100"),
    "probes off is a word": ("probes: [tcp_rtt]", "probes_off: sometimes", 15, "true or false"),
    "felix value is a list": ("ipipEnabled: null", "ipipEnabled: [1]", 8, "felix"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_file_says_line_and_remedy(tmp_path: Path, name: str) -> None:
    old, new, line, words = BAD[name]
    assert GOOD.count(old) >= 1
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(PlanError) as caught:
        plan.load(path)
    said = str(caught.value)
    assert words in said, said
    assert caught.value.fields["line"] == line, said
    assert f"{path}, line {line}:" in said
    assert caught.value.remedy
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Begin it with"),
        (b"- a\n- b\n", "Begin it with"),
        (b"campaign: \xff\n", "UTF-8"),
        (b"campaign: a\x00b\n", "YAML"),
        (b"[" * 3000, "nested too deeply"),
    ],
)
def test_what_is_no_campaign_says_so(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "campaign.yaml"
    path.write_bytes(content)
    with pytest.raises(PlanError, match=words):
        plan.load(path)


def test_names_that_make_one_id_of_two_trials_are_refused(tmp_path: Path) -> None:
    text = GOOD.replace("  - none\n", "  - none\n  - {name: vx-a, overlay: ipip}\n")
    text = text.replace("name: tcp,", "name: a-udp,")
    with pytest.raises(PlanError, match="Rename the flow") as caught:
        plan.load(write(tmp_path, text))
    assert caught.value.fields["place"].endswith(".name")


@pytest.mark.parametrize(
    ("treatment", "flow"), [("none", "tcp-bare"), ("none-tcp", "bare")], ids=["flow", "both"]
)
def test_a_name_that_a_bare_trial_has_is_refused(tmp_path: Path, treatment: str, flow: str) -> None:
    text = GOOD.replace("name: vx,", f"name: {treatment},") if treatment != "none" else GOOD
    text = text.replace("name: udp", f"name: {flow}")
    assert plan.load(write(tmp_path, text)).flows[1].name == flow
    with pytest.raises(PlanError, match="Rename the flow") as caught:
        plan.load(write(tmp_path, text + "probes_off: true\n"))
    assert "without probes" in str(caught.value)


def test_a_missing_file_and_a_directory_say_so(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot be read"):
        plan.load(tmp_path / "none.yaml")
    with pytest.raises(PlanError, match="is a directory"):
        plan.load(tmp_path)


def campaign(seed: int, blocks: int, treatments: int, flows: int) -> Campaign:
    return Campaign(
        name="c",
        seed=seed,
        blocks=blocks,
        baseline="t0",
        treatments=tuple(Treatment(f"t{i}", Overlay.NONE) for i in range(treatments)),
        flows=tuple(Flow(f"f{i}", FlowPath.POD_POD, "tcp") for i in range(flows)),
    )


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(2, 5), st.integers(1, 4))
def test_every_block_holds_every_flow_under_every_treatment_once(
    seed: int, blocks: int, treatments: int, flows: int
) -> None:
    made = campaign(seed, blocks, treatments, flows)
    trials = plan.schedule(made)
    assert trials == plan.schedule(made)
    assert [trial.order for trial in trials] == list(range(blocks * treatments * flows))
    assert len({trial.trial_id for trial in trials}) == len(trials)
    for block in range(blocks):
        pairs = [(t.treatment.name, t.flow.name) for t in trials if t.block == block]
        assert len(pairs) == len(set(pairs)) == treatments * flows
        # A treatment's trials stand together: it is put on once per block.
        names = [name for name, _ in pairs]
        assert sum(a != b for a, b in itertools.pairwise(names)) == treatments - 1


@settings(deadline=None)
@given(st.integers(0, 2**31), st.booleans())
def test_more_blocks_leave_the_earlier_ones_as_they_were(seed: int, probes_off: bool) -> None:
    short, long = (
        plan.schedule(replace(campaign(seed, blocks, 3, 2), probes_off=probes_off))
        for blocks in (3, 7)
    )
    assert long[: len(short)] == short


def test_the_order_of_a_campaign_is_what_it_has_always_been() -> None:
    ran = [trial.trial_id for trial in plan.schedule(campaign(7, 2, 3, 2))]
    assert ran == ORDER_OF_SEED_7


ORDER_OF_SEED_7 = [
    "b000-t2-f1", "b000-t2-f0", "b000-t0-f1", "b000-t0-f0", "b000-t1-f0", "b000-t1-f1",
    "b001-t0-f1", "b001-t0-f0", "b001-t2-f1", "b001-t2-f0", "b001-t1-f0", "b001-t1-f1",
]  # fmt: skip


@settings(deadline=None)
@given(st.integers(0, 2**31), st.booleans())
def test_the_aa_test_is_the_baseline_once_more_and_leaves_the_others_order(
    seed: int, probes_off: bool
) -> None:
    without = replace(
        campaign(seed, 3, 3, 2), probes=("tcp_rtt", "host_counters"), probes_off=probes_off
    )
    made = replace(without, aa_test=True)
    trials = plan.schedule(made)
    assert len(trials) == made.blocks * made.trials_per_block
    assert [trial.order for trial in trials] == list(range(len(trials)))
    others = [trial.trial_id for trial in trials if trial.role is not Role.AGAIN]
    assert others == [trial.trial_id for trial in plan.schedule(without)]
    for block in range(3):
        ours = [trial for trial in trials if trial.block == block]
        again = [trial for trial in ours if trial.role is Role.AGAIN]
        assert sorted(trial.trial_id for trial in again) == [
            f"b{block:03d}-t0-{flow.name}-again" for flow in made.flows
        ]
        assert all(trial.probes == made.probes for trial in again)
        # It stands together, and splits no other treatment's trials.
        arms = [(trial.treatment.name, trial.role is Role.AGAIN) for trial in ours]
        assert sum(a != b for a, b in itertools.pairwise(arms)) == 3


def test_the_aa_test_is_anywhere_in_the_order() -> None:
    made = replace(campaign(3, 60, 2, 1), aa_test=True)
    places = [trial.order % 3 for trial in plan.schedule(made) if trial.role is Role.AGAIN]
    assert all(10 < places.count(place) < 30 for place in range(3))


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_bare_trials_are_one_of_each_flow_under_the_baseline_in_every_block(seed: int) -> None:
    made = replace(campaign(seed, 4, 3, 2), probes=("tcp_rtt", "host_counters"), probes_off=True)
    trials = plan.schedule(made)
    assert len(trials) == made.blocks * made.trials_per_block
    assert len({trial.trial_id for trial in trials}) == len(trials)
    assert [trial.order for trial in trials] == list(range(len(trials)))
    for block in range(4):
        ours = [trial for trial in trials if trial.block == block]
        bare = [trial for trial in ours if not trial.probes]
        assert sorted(trial.trial_id for trial in bare) == [
            f"b{block:03d}-t0-{flow.name}-bare" for flow in made.flows
        ]
        assert all(trial.probes == made.probes for trial in ours if trial not in bare)
        # The baseline is put on once, and the probes are taken off once.
        names = [trial.treatment.name for trial in ours]
        assert sum(a != b for a, b in itertools.pairwise(names)) == 2
        kinds = [trial in bare for trial in ours if trial.treatment.name == "t0"]
        assert sum(a != b for a, b in itertools.pairwise(kinds)) == 1


def test_bare_trials_are_before_the_others_in_some_blocks_and_after_them_in_others() -> None:
    made = replace(campaign(3, 40, 2, 1), probes=("tcp_rtt",), probes_off=True)
    kinds = [t.probes for t in plan.schedule(made) if t.treatment.name == "t0"]
    assert 10 < kinds[::2].count(()) < 30


@pytest.mark.parametrize(
    ("load", "blocks", "said"),
    [
        ("tcp", 5, "5 blocks give no verdict: at least 6 do."),
        ("tcp", 6, "6 blocks cannot establish a change over all metrics that lead a question: "
         "at least 7 do."),
        ("tcp", 7, ""),
        ("request-response", 6, "6 blocks cannot establish a change over all metrics that lead a "
         "question: at least 7 do."),
        ("request-response", 7, ""),
    ],
)  # fmt: skip
def test_a_plan_says_whether_its_blocks_can_decide(load: str, blocks: int, said: str) -> None:
    made = campaign(3, blocks, 2, 1)
    made = replace(made, flows=tuple(replace(flow, load=load) for flow in made.flows))
    about = [note for note in plan.notes(made) if " blocks " in note]
    assert about == ([said] if said else [])


def test_a_plan_with_bare_trials_says_so() -> None:
    made = replace(campaign(3, 6, 2, 1), probes=("tcp_rtt", "host_counters"), probes_off=True)
    assert any("-bare run t0 without the probes tcp_rtt:" in note for note in plan.notes(made))


def test_the_seed_makes_the_order() -> None:
    orders = {
        tuple(t.trial_id for t in plan.schedule(campaign(seed, 4, 3, 2))) for seed in range(20)
    }
    assert len(orders) > 10


def test_planning_opens_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("planning opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    made = plan.load(write(tmp_path, GOOD))
    trials = plan.schedule(made)
    assert len(mutations.plan_mutations(made, trials)) == len(trials)
    assert plan.estimate_s(trials) > sum(t.flow.duration_s for t in trials)


SHIPPED = sorted((ROOT / "benchmarks/campaigns").glob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_campaign_is_one_and_named_like_its_file(file: Path) -> None:
    campaign = plan.load(file)
    assert campaign.name == file.stem
    trials = plan.schedule(campaign)
    arms = len(campaign.treatments) + campaign.probes_off + campaign.aa_test
    assert len(trials) == campaign.blocks * arms * len(campaign.flows)
    # Fewer blocks cannot decide anything: three metrics of a question share its level.
    assert campaign.blocks >= 7
    assert campaign.aa_test


def test_every_flag_of_the_table_is_a_factor_of_some_shipped_campaign() -> None:
    campaigns = [plan.load(file) for file in SHIPPED]
    varied = {
        field
        for campaign in campaigns
        for field in {name for treatment in campaign.treatments for name, _ in treatment.felix}
        if len({dict(treatment.felix).get(field) for treatment in campaign.treatments}) > 1
    }
    assert {"ipipEnabled", "vxlanEnabled", "bpfLogLevel", "bpfExternalServiceMode"} <= varied
    dataplanes = {t.dataplane for campaign in campaigns for t in campaign.treatments}
    assert {"ebpf", "standard"} <= dataplanes
