"""One campaign against another: known changes are found, and nothing is found where nothing is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path as FilePath

import numpy as np
import pandas as pd
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from ebpfperf import between, between_findings, compare, gates, intervals, judging, metrics
from ebpfperf.between import Pair, Side
from ebpfperf.errors import InputError
from ebpfperf.model import Campaign, Design, Fact, Path, TrialResult

RULES = {"margin_pct": 5.0, "level": 0.95}
ALL = tuple(Pair(name, name) for name in ("none", "ipip", "vxlan"))
# What moves with the rate, and what moves against it.
_RATES, _COSTS = ("received_bits_per_s", "sent_bits_per_s"), ("cpu_s_per_gbit",)


def changed(found: list[TrialResult], factors: dict[tuple[str, Path], float]) -> list[TrialResult]:
    """The results with the rate of a treatment on a path multiplied, and its CPU divided."""

    def one(result: TrialResult) -> TrialResult:
        trial = result.trial
        factor = factors.get((trial.treatment.name, trial.flow.path), 1.0)
        moved = {
            name: value * (factor if name in _RATES else 1 / factor if name in _COSTS else 1.0)
            for name, value in result.metrics.items()
        }
        return replace(result, metrics=moved)

    return [one(result) for result in found]


def side(
    name: str,
    *,
    seed: int = 7,
    blocks: int = 8,
    factors: dict[tuple[str, Path], float] | None = None,
    facts: tuple[Fact, ...] | None = None,
    campaign: Campaign = synthetic.CAMPAIGN,
) -> Side:
    ours = replace(campaign, seed=seed, blocks=blocks)
    found = changed(synthetic.results(ours), factors or {})
    frame = synthetic.facts_frame(synthetic.facts() if facts is None else facts)
    return Side(
        name,
        ours,
        synthetic.trials_frame(found, ours),
        frame.assign(trial_id=None),
        synthetic.histograms_frame(found, ours),
    )


def one(effects: pd.DataFrame, metric: str, flow: str, treatment: str) -> pd.Series:
    (row,) = (
        row
        for _, row in effects.iterrows()
        if (row.metric, row.flow, row.treatment) == (metric, flow, treatment)
    )
    return row


def test_a_treatment_that_became_slower_is_worse_and_the_others_are_not() -> None:
    before = side("before")
    after = side("after", factors={("vxlan", Path.POD_POD): 0.7})
    found = between.effects(before, after, paired=ALL, **RULES)
    row = one(found, "received_bits_per_s", "tcp", "vxlan")
    assert row.ratio == pytest.approx(0.7)
    assert row.low < 0.7 < row.high
    assert (row.verdict, row["size"]) == ("worse", "beyond the margin")
    assert row.value == pytest.approx(0.7 * row.baseline_value)
    assert (row.n_blocks, row.n_baseline, row.baseline) == (8, 8, "before")
    assert one(found, "cpu_s_per_gbit", "tcp", "vxlan").verdict == "worse"
    others = found[found["treatment"].ne("vxlan")]
    assert set(others["verdict"]) <= {"equivalent", "undecided"}
    faster = between.effects(after, before, paired=ALL, **RULES)
    assert one(faster, "received_bits_per_s", "tcp", "vxlan").verdict == "better"


def test_the_numbers_are_those_of_the_naive_calculation() -> None:
    before, after = side("before"), side("after", seed=13, factors={("none", Path.POD_POD): 0.9})
    row = one(
        between.effects(before, after, paired=ALL, **RULES), "received_bits_per_s", "tcp", "none"
    )
    logs = []
    for frame in (before.trials, after.trials):
        ours = frame[frame["flow"].eq("tcp") & frame["treatment"].eq("none")]
        logs.append(np.log(ours["received_bits_per_s"].to_numpy()))
    pairs = [b - a for a in logs[0] for b in logs[1]]
    assert row.ratio == pytest.approx(math.exp(float(np.median(pairs))))
    interval = intervals.shift_interval(logs[0], logs[1], level=0.95)
    assert interval is not None
    assert (row.low, row.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    assert row.p_value == intervals.shift_p(logs[0], logs[1])


def test_a_campaign_against_itself_is_never_a_regression() -> None:
    before = side("before")
    found = between.effects(before, side("copy"), paired=ALL, **RULES)
    assert set(found["verdict"]) <= {"equivalent", "undecided"}
    assert found["ratio"].to_numpy() == pytest.approx(1.0)
    costs = between.costs(before, side("copy"), paired=ALL, **RULES)
    assert set(costs["verdict"]) <= {"equivalent", "undecided"}
    said = between_findings.sentences(before, side("copy"), found, paired=ALL)
    assert said[0].startswith("72 of the 72 good trials before are trials of the campaign after")
    other = between_findings.sentences(before, side("other", seed=8), found, paired=ALL)
    assert not any("compared with themselves" in text for text in other)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 10_000), st.integers(1, 10_000), st.floats(0.5, 2.0), st.integers(3, 9))
def test_exchanging_the_campaigns_mirrors_every_row(
    seed: int, other: int, factor: float, blocks: int
) -> None:
    small = replace(
        synthetic.CAMPAIGN,
        treatments=synthetic.CAMPAIGN.treatments[:2],
        flows=synthetic.CAMPAIGN.flows[:1],
    )
    one_side = side("one", seed=seed, blocks=8, campaign=small)
    moved = {("ipip", Path.POD_POD): factor}
    other_side = side("other", seed=other, blocks=blocks, factors=moved, campaign=small)
    mirror = {"better": "worse", "worse": "better"}
    for compared in (between.effects, between.costs):
        there = compared(one_side, other_side, paired=ALL[:2], **RULES)
        back = compared(other_side, one_side, paired=ALL[:2], **RULES)
        key = ["metric", "flow", "treatment"]
        assert there[key].equals(back[key])
        for name in ("ratio", "low", "high"):
            turned = 1 / back[{"low": "high", "high": "low"}.get(name, name)]
            assert there[name].to_numpy() == pytest.approx(turned.to_numpy(), nan_ok=True)
        for name in ("p_value", "p_holm", "detectable_pct"):
            assert there[name].to_numpy() == pytest.approx(back[name].to_numpy(), nan_ok=True)
        assert [mirror.get(word, word) for word in back["verdict"]] == list(there["verdict"])


def test_too_few_trials_say_what_they_show_and_decide_nothing() -> None:
    after = side("after", blocks=3, factors={("vxlan", Path.POD_POD): 1.29})
    found = between.effects(side("before", blocks=3), after, paired=ALL, **RULES)
    row = one(found, "received_bits_per_s", "tcp", "vxlan")
    assert row.verdict == "undecided"
    assert row.reason.startswith("all 9 pairs positive, p 0.10 is the smallest that 3+3 can give")
    assert math.isnan(row.low)
    assert row.ratio > 1.2
    assert not set(found["verdict"]) & set(judging.ESTABLISHED)


def test_a_side_without_the_number_is_void_and_lost_trials_are_counted() -> None:
    before, after = side("before"), side("after")
    gone = after.trials["treatment"].eq("ipip") & after.trials["flow"].eq("tcp")
    lost = after.trials.copy()
    lost.loc[gone, ["status", "reason"]] = ["failed", "refused: nobody answered"]
    found = between.effects(before, replace(after, trials=lost), paired=ALL, **RULES)
    row = one(found, "received_bits_per_s", "tcp", "ipip")
    assert (row.verdict, row.n_blocks, row.n_baseline) == ("void", 0, 8)
    assert "8 of 8 trials after lost (refused)" in row.warnings
    costs = between.costs(before, replace(after, trials=lost), paired=ALL, **RULES)
    told = one(costs, "received_bits_per_s", "tcp", "ipip")
    assert (told.verdict, told.reason) == ("void", "no complete block after has this number")


def test_every_primary_row_is_of_one_family_and_the_control_is_of_its_own() -> None:
    found = between.effects(side("before"), side("after", seed=8), paired=ALL, **RULES)
    primary = found[found["primary"]]
    assert set(primary["family"]) == {len(primary)}
    assert set(primary["path"]) == {"pod-pod"}
    assert set(primary["metric"]) <= set(metrics.HEADLINE)
    control = found[found["path"].eq("host-host") & found["metric"].isin(metrics.HEADLINE)]
    assert set(control["family"]) == {len(control)}
    smallest = primary["p_value"].min()
    assert primary["p_holm"].min() == pytest.approx(min(1.0, smallest * len(primary)))
    hosts = replace(synthetic.CAMPAIGN, flows=(synthetic.CAMPAIGN.flows[2],), name="hosts-alone")
    alone = between.effects(
        side("before", campaign=hosts), side("after", campaign=hosts), paired=ALL, **RULES
    )
    assert alone["primary"].any()


def test_a_slower_cluster_moves_everything_but_not_the_costs() -> None:
    slower = {(name, path): 0.7 for name in ("none", "ipip", "vxlan") for path in Path}
    before, after = side("before"), side("after", factors=slower)
    found = between.effects(before, after, paired=ALL, **RULES)
    throughput = found[found["metric"].eq("received_bits_per_s")]
    assert set(throughput["verdict"]) == {"worse"}
    costs = between.costs(before, after, paired=ALL, **RULES)
    row = one(costs, "received_bits_per_s", "tcp", "vxlan")
    assert row.ratio == pytest.approx(1.0)
    assert row.verdict == "equivalent"
    # The synthetic campaign's VXLAN carries 0.80.
    assert row.baseline_value == pytest.approx(0.80, abs=0.02)
    said = " ".join(between_findings.sentences(before, after, found, paired=ALL))
    assert "Between hosts, where no overlay is in the way, it moved, too: Throughput" in said
    assert "not at Calico" in said
    for frame, marks in ((found, {"underlay moved"}), (costs, {""})):
        marked = between_findings.marked(frame, before, after, paired=ALL)
        assert set(marked["marks"]) == marks


def test_a_treatment_that_costs_less_than_before_is_better_against_the_baseline() -> None:
    after = side("after", seed=8, factors={("vxlan", Path.POD_POD): 0.88 / 0.80})
    row = one(
        between.costs(side("before"), after, paired=ALL, **RULES),
        "received_bits_per_s",
        "tcp",
        "vxlan",
    )
    assert (row.baseline, row.verdict) == ("none", "better")
    assert row.low < 1.1 < row.high
    assert (row.baseline_value, row.value) == pytest.approx((0.80, 0.88), abs=0.02)


def test_costs_need_blocks_and_baselines_that_are_compared() -> None:
    before, after = side("before"), side("after", seed=8)
    assert between.costs(before, after, paired=ALL[1:], **RULES).empty
    apart = replace(after, campaign=replace(after.campaign, design=Design.INDEPENDENT))
    found = between.costs(before, apart, paired=ALL, **RULES)
    assert found.empty
    assert list(found.columns) == list(compare.COLUMNS)
    said = " ".join(
        between_findings.sentences(
            before, after, between.effects(before, after, paired=ALL[1:], **RULES), paired=ALL[1:]
        )
    )
    assert "The baselines are not compared with each other" in said


def test_treatments_are_paired_by_name_or_as_told() -> None:
    ours = synthetic.CAMPAIGN
    theirs = replace(
        ours, treatments=tuple(replace(one, name=f"new-{one.name}") for one in ours.treatments)
    )
    assert between.pairs(ours, ours) == ALL
    assert between.pairs(ours, theirs) == ()
    told = between.pairs(ours, theirs, renamed={"vxlan": "new-vxlan", "none": "new-none"})
    assert told == (Pair("none", "new-none"), Pair("vxlan", "new-vxlan"))
    assert [pair.name for pair in told] == ["none=new-none", "vxlan=new-vxlan"]
    # A treatment that another one is compared with is not compared with its own name as well.
    crossed = between.pairs(ours, ours, renamed={"ipip": "vxlan"})
    assert crossed == (Pair("none", "none"), Pair("ipip", "vxlan"))
    assert between.left_out(ours, ours, paired=crossed) == (
        "Not compared: only the campaign before has treatment vxlan.",
        "Not compared: only the campaign after has treatment ipip.",
    )
    for renamed in ({"geneve": "none"}, {"none": "geneve"}, {"none": "ipip", "vxlan": "ipip"}):
        with pytest.raises(InputError):
            between.pairs(ours, theirs if renamed == {"none": "geneve"} else ours, renamed=renamed)


def test_what_differs_besides_is_listed_and_what_is_expected_to_is_marked() -> None:
    newer = tuple(
        replace(fact, value={"calico_release": "v3.30.0", "cpus": "4"}.get(fact.name, fact.value))
        for fact in synthetic.facts()
    )
    before, after = side("before"), side("after", facts=newer)
    found = between_findings.conditions(
        before, after, paired=ALL, expected=("calico_release", "kernel")
    )
    told = {(row.name, row.before, row.after, row.expected) for row in found}
    assert told == {
        ("cpus", "2", "4", False),
        ("calico_release", "v3.26.1", "v3.30.0", True),
    }
    assert between_findings.unmet(("calico_release", "kernel"), found) == (
        "kernel was expected to differ, and the facts show no difference of that name.",
    )
    marks = between_findings.marks(
        accepted="it; is late", unexpected=[row.name for row in found if not row.expected]
    )
    assert marks == ("accepted: it, is late", "differs besides: cpus")
    effects = between.effects(before, after, paired=ALL, **RULES)
    marked = between_findings.marked(effects, before, after, paired=ALL, marks=marks)
    assert set(marked["marks"]) == {"accepted: it, is late; differs besides: cpus"}
    bare = between_findings.marked(effects, before, after, paired=ALL)
    pd.testing.assert_frame_equal(bare, effects)


def test_nodes_of_other_names_stand_for_each_other_by_their_end() -> None:
    def renamed(one: Side, names: dict[str, str]) -> Side:
        placed = pd.DataFrame(
            [
                ("b000-none-tcp", "", "placement:client", "node-1", ""),
                ("b000-none-tcp", "", "placement:server", "node-2", ""),
            ],
            columns=["trial_id", "node", "name", "value", "unit"],
        )
        facts = pd.concat([one.facts, placed], ignore_index=True)
        return replace(
            one,
            facts=facts.assign(
                node=facts["node"].replace(names), value=facts["value"].replace(names)
            ),
        )

    newer = tuple(
        replace(fact, value="6.19.0") if (fact.node, fact.name) == ("node-2", "kernel") else fact
        for fact in synthetic.facts()
    )
    other = renamed(side("after", facts=newer), {"node-1": "worker-a", "node-2": "worker-b"})
    (found,) = between_findings.conditions(renamed(side("before"), {}), other, paired=ALL)
    assert (found.name, found.node, found.before, found.after) == (
        "kernel",
        "server",
        "6.18.0",
        "6.19.0",
    )


def test_ends_on_other_nodes_of_the_same_names_are_a_difference() -> None:
    def placed(one: Side, client: str, server: str) -> Side:
        rows = pd.DataFrame(
            [
                ("b000-none-tcp", "", "placement:client", client, ""),
                ("b000-none-tcp", "", "placement:server", server, ""),
                ("b000-none-tcp", "", "imported_from", f"{client}.json", ""),
            ],
            columns=["trial_id", "node", "name", "value", "unit"],
        )
        return replace(one, facts=pd.concat([one.facts, rows], ignore_index=True))

    before = placed(side("before"), "node-1", "node-2")
    assert not between_findings.conditions(
        before, placed(side("after"), "node-1", "node-2"), paired=ALL
    )
    swapped = placed(side("after"), "node-2", "node-1")
    found = between_findings.conditions(before, swapped, paired=ALL)
    assert [(row.name, row.before, row.after) for row in found] == [
        ("placement:client", "node-1", "node-2"),
        ("placement:server", "node-2", "node-1"),
    ]


def test_noise_in_most_trials_of_a_side_marks_what_it_is_compared_in() -> None:
    before, after = side("before"), side("after")
    ours = after.trials[after.trials["treatment"].eq("ipip") & after.trials["flow"].eq("tcp")]
    found = [
        {
            "trial_id": trial_id,
            "gate": "idle_load",
            "severity": gates.Severity.DOUBT.value,
            "evidence": "busy",
            "advice": "wait",
        }
        for trial_id in ours["trial_id"].iloc[:5]
    ]
    noisy = replace(after, gates=pd.DataFrame(found))
    effects = between.effects(before, noisy, paired=ALL, **RULES)
    marked = between_findings.marked(effects, before, noisy, paired=ALL)
    hit = marked["treatment"].eq("ipip") & marked["flow"].eq("tcp")
    assert set(marked.loc[hit, "marks"]) == {"idle_load"}
    assert marked.loc[hit, "warnings"].str.contains("idle_load in 5 of 8 trials after").all()
    assert set(marked.loc[~hit, "marks"]) == {""}


def test_facts_of_trials_that_are_not_compared_do_not_differ() -> None:
    before, after = side("before"), side("after")
    extra = pd.DataFrame(
        [
            ("b000-ipip-tcp", "node-1", "sysctl:net.core.rmem_max", "1", ""),
            ("b000-vxlan-tcp", "node-1", "sysctl:net.core.wmem_max", "2", ""),
            ("b000-vxlan-tcp", "node-1", "irq:nic", "0", ""),
        ],
        columns=["trial_id", "node", "name", "value", "unit"],
    )
    other = extra.iloc[1:2].assign(name="sysctl:net.core.somaxconn")
    odd = replace(before, facts=pd.concat([before.facts, extra], ignore_index=True))
    even = replace(after, facts=pd.concat([after.facts, other], ignore_index=True))
    kept = (ALL[0], ALL[2])
    found = between_findings.conditions(odd, even, paired=kept)
    assert [row.name for row in found] == ["sysctl:net.core.somaxconn", "sysctl:net.core.wmem_max"]
    # Of a kind that one side was never asked for nothing is known, and no difference either.
    (said,) = between_findings.not_compared(odd, even, paired=kept)
    assert said.startswith("Known of one side only, and not compared: irq.")
    assert between_findings.not_compared(even, even, paired=kept) == ()


def test_stores_give_the_same_as_frames(tmp_path: FilePath) -> None:
    store = synthetic.write_store(tmp_path / "c")
    frames = {name: store.frame(name) for name in ("trials", "facts", "histograms")}
    stored = Side("c", store.campaign, **frames)
    found = between.effects(stored, stored, paired=ALL, **RULES)
    made = between.effects(side("c"), side("c"), paired=ALL, **RULES)
    key = ["metric", "flow", "treatment", "ratio", "low", "high", "verdict", "value"]
    pd.testing.assert_frame_equal(found[key], made[key])
