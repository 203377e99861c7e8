"""Comparisons: known effects are found, and nothing is claimed that the blocks do not carry."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import (
    CAMPAIGN,
    CARRIES,
    facts,
    facts_frame,
    failed,
    histograms_frame,
    results,
    trials_frame,
)

from ebpfperf import compare, histograms, judging, metrics
from ebpfperf.metrics import Better
from ebpfperf.model import Design

ratios = st.floats(0.2, 5.0)


def one(effects: pd.DataFrame, metric: str, flow: str, treatment: str) -> pd.Series:
    found = effects.query("metric == @metric and flow == @flow and treatment == @treatment")
    assert len(found) == 1
    return found.iloc[0]


def test_known_effects_are_found_through_the_drift_of_the_blocks() -> None:
    effects = compare.effects(trials_frame(results()), CAMPAIGN)
    assert list(effects.columns) == list(compare.COLUMNS)
    for treatment in ("ipip", "vxlan"):
        row = one(effects, "received_bits_per_s", "tcp", treatment)
        assert row.low <= CARRIES[treatment] <= row.high
        assert row.ratio == pytest.approx(CARRIES[treatment], abs=0.02)
        assert (row.n_blocks, row.planned_blocks) == (8, 8)
        assert row.level == pytest.approx(1 - 2 * 5 / 256)
    assert one(effects, "received_bits_per_s", "tcp", "vxlan").verdict == "worse"
    assert one(effects, "received_bits_per_s", "tcp", "vxlan")["size"] == "beyond the margin"
    assert one(effects, "received_bits_per_s", "host-tcp", "vxlan").verdict == "equivalent"
    assert one(effects, "rr_p50_ns", "rr", "vxlan").verdict == "worse"


def test_the_estimate_is_the_median_of_pairwise_geometric_means() -> None:
    trials = trials_frame(results())
    table = trials[trials.flow == "tcp"].pivot(
        index="block", columns="treatment", values="received_bits_per_s"
    )
    ratio = table["vxlan"] / table["none"]
    pairs = itertools.combinations_with_replacement(ratio, 2)
    naive = np.median([math.log(math.sqrt(a * b)) for a, b in pairs])
    row = one(compare.effects(trials, CAMPAIGN), "received_bits_per_s", "tcp", "vxlan")
    assert row.ratio == pytest.approx(math.exp(naive))


def test_row_order_does_not_matter() -> None:
    trials = trials_frame(results())
    shuffled = trials.sample(frac=1.0, random_state=3)
    pd.testing.assert_frame_equal(
        compare.effects(trials, CAMPAIGN), compare.effects(shuffled, CAMPAIGN)
    )


def test_failed_trials_drop_their_block_and_are_counted() -> None:
    found = [
        failed(result, reason="refused: the server refused the connection")
        if result.trial.trial_id == "b003-vxlan-tcp"
        else result
        for result in results()
    ]
    effects = compare.effects(trials_frame(found), CAMPAIGN)
    row = one(effects, "received_bits_per_s", "tcp", "vxlan")
    assert row.n_blocks == 7
    assert "1 of 8 blocks incomplete (refused)" in row.warnings
    assert one(effects, "received_bits_per_s", "tcp", "ipip").n_blocks == 8


def test_fewer_than_six_blocks_decide_nothing_at_any_level() -> None:
    few = [result for result in results() if result.trial.block < 4]
    for level in (0.8, 0.95):
        effects = compare.effects(trials_frame(few), replace(CAMPAIGN, level=level))
        row = one(effects, "received_bits_per_s", "tcp", "vxlan")
        fewest = "all 4 blocks negative, p 0.12 is the smallest that 4 can give (fewest: 6 blocks)"
        assert (row.verdict, row.reason) == ("undecided", fewest)
        assert math.isnan(row.low)
        assert math.isnan(row.p_value)
        assert row.ratio == pytest.approx(0.8, abs=0.03)


def test_a_level_that_six_blocks_cannot_reach_names_the_blocks_needed() -> None:
    six = [result for result in results() if result.trial.block < 6]
    effects = compare.effects(trials_frame(six), replace(CAMPAIGN, level=0.99))
    row = one(effects, "received_bits_per_s", "tcp", "vxlan")
    fewest = "all 6 blocks negative, p 0.03 is the smallest that 6 can give (fewest: 8 blocks)"
    assert (row.verdict, row.reason) == ("undecided", fewest)


def test_no_trials_at_all_is_an_empty_frame_with_its_columns() -> None:
    empty = trials_frame(results()).iloc[:0]
    effects = compare.effects(empty, CAMPAIGN)
    assert effects.empty
    assert list(effects.columns) == list(compare.COLUMNS)


def test_a_metric_measured_for_one_treatment_only_is_void() -> None:
    trials = trials_frame(results())
    trials.loc[trials.treatment.eq("none"), "srtt_p50_ns"] = np.nan
    row = one(compare.effects(trials, CAMPAIGN), "srtt_p50_ns", "tcp", "vxlan")
    assert (row.verdict, row.n_blocks) == ("void", 0)
    assert math.isnan(row.ratio)


def test_two_trials_in_one_place_are_refused() -> None:
    trials = trials_frame(results())
    with pytest.raises(ValueError, match="two trials"):
        compare.effects(pd.concat([trials, trials.iloc[:1]]), CAMPAIGN)


def test_mtu_and_binning_are_said_beside_the_number() -> None:
    effects = compare.effects(trials_frame(results()), CAMPAIGN, facts=facts_frame(facts()))
    row = one(effects, "received_bits_per_s", "tcp", "vxlan")
    assert "MTU 1450 against 1500: belongs to the treatment" in row.warnings
    assert "bins of 12.5 %" in one(effects, "srtt_p50_ns", "tcp", "vxlan").warnings
    assert "one kernel" in one(effects, "cpu_s_per_gbit", "tcp", "vxlan").warnings
    apart = facts_frame(facts(shared_kernel=False))
    effects = compare.effects(trials_frame(results()), CAMPAIGN, facts=apart)
    assert "kernel" not in one(effects, "cpu_s_per_gbit", "tcp", "vxlan").warnings


def test_equal_bins_in_every_block_are_not_taken_for_perfect_equality() -> None:
    trials = trials_frame(results())
    trials["srtt_p50_ns"] = trials["srtt_p50_ns"].where(trials["srtt_p50_ns"].isna(), 160_000.0)
    row = one(compare.effects(trials, CAMPAIGN), "srtt_p50_ns", "tcp", "vxlan")
    assert row.verdict == "undecided"
    assert row.detectable_pct == pytest.approx(12.5)


@pytest.mark.parametrize(
    ("low", "high", "better", "verdict", "size"),
    [
        (0.80, 0.90, Better.HIGHER, "worse", "beyond the margin"),
        (0.80, 0.90, Better.LOWER, "better", "beyond the margin"),
        (0.90, 0.98, Better.HIGHER, "worse", "perhaps within the margin"),
        (1.10, 1.20, Better.HIGHER, "better", "beyond the margin"),
        (1.10, 1.20, Better.LOWER, "worse", "beyond the margin"),
        (0.97, 1.03, Better.HIGHER, "equivalent", ""),
        (1.01, 1.03, Better.HIGHER, "equivalent", "a change within the margin"),
        (0.90, 1.10, Better.HIGHER, "undecided", ""),
        (0.99, 1.20, Better.LOWER, "undecided", ""),
        (1 / 1.05, 1.05, Better.LOWER, "equivalent", ""),
    ],
)
def test_verdicts(low: float, high: float, better: Better, verdict: str, size: str) -> None:
    assert judging.judge(low, high, margin_pct=5.0, better=better) == judging.Judgement(
        verdict, size
    )


@given(ratios, ratios, st.floats(0.5, 20), st.sampled_from(list(Better)))
def test_exchanging_baseline_and_treatment_mirrors_the_verdict(
    first: float, second: float, margin_pct: float, better: Better
) -> None:
    low, high = sorted((first, second))
    mirror = {"better": "worse", "worse": "better"}
    here = judging.judge(low, high, margin_pct=margin_pct, better=better)
    there = judging.judge(1 / high, 1 / low, margin_pct=margin_pct, better=better)
    assert there == judging.Judgement(mirror.get(here.verdict, here.verdict), here.size)


def test_the_catalogue_is_whole() -> None:
    names = [metric.name for metric in metrics.CATALOGUE]
    assert len(set(names)) == len(names)
    assert set(metrics.HEADLINE) <= set(names)
    for metric in metrics.CATALOGUE:
        assert "UNKNOWN" in metric.show(math.nan)
        assert any(character.isdigit() for character in metric.show(1234.5))


def test_a_metric_is_compared_only_for_the_loads_it_is_about() -> None:
    trials = trials_frame(results()).assign(cpu_s_per_gbit=60.0, srtt_p50_ns=23_000.0)
    effects = compare.effects(trials, CAMPAIGN)
    assert "rr" not in set(effects.loc[effects.metric.eq("cpu_s_per_gbit"), "flow"])
    assert "rr" not in set(effects.loc[effects.metric.eq("srtt_p50_ns"), "flow"])


def test_a_percentile_is_of_all_requests_together_and_known_to_within_its_bin() -> None:
    made = results()
    found = compare.effects(trials_frame(made), CAMPAIGN, histograms=histograms_frame(made))
    row = one(found, "rr_p99_ns", "rr", "vxlan")
    merged = histograms.merge(
        *(
            result.histograms
            for result in made
            if result.trial.treatment.name == "vxlan" and result.trial.flow.name == "rr"
        )
    )
    whole = histograms.quantile(merged, 0.99)
    assert whole is not None
    assert (row.value, row.value_low, row.value_high) == (
        whole.value_ns,
        whole.lower_ns,
        whole.upper_ns,
    )
    own = [result.metrics["rr_p99_ns"] for result in made if "rr_p99_ns" in result.metrics]
    assert row.value != np.mean(own)
    # Without the histograms nobody knows: a mean of percentiles would be none.
    bare = one(compare.effects(trials_frame(made), CAMPAIGN), "rr_p99_ns", "rr", "vxlan")
    assert math.isnan(bare.value)
    assert bare.ratio == row.ratio


def test_the_metrics_of_a_question_share_its_error() -> None:
    found = compare.effects(trials_frame(results()), CAMPAIGN)
    for (_, _), rows in found[found["primary"]].groupby(["flow", "treatment"]):
        assert set(rows["family"]) == {len(rows)}
        ranked = rows.sort_values("p_value")
        naive, so_far = [], 0.0
        for place, p_value in enumerate(ranked["p_value"]):
            so_far = max(so_far, min(1.0, (len(rows) - place) * p_value))
            naive.append(so_far)
        assert ranked["p_holm"].tolist() == pytest.approx(naive)
    others = found[~found["primary"]]
    assert (others["family"] == 1).all()
    assert others["p_holm"].tolist() == others["p_value"].tolist()


def test_what_only_one_metric_shows_is_not_established_over_the_question() -> None:
    # Six blocks: p is 0.031 for the rate alone, 0.0625 with the CPU beside it.
    six = trials_frame([result for result in results() if result.trial.block < 6])
    row = one(compare.effects(six, CAMPAIGN), "received_bits_per_s", "tcp", "vxlan")
    assert row.verdict == "undecided"
    assert row.reason == (
        "worse if it were the only metric, not over the 2 of this question (Holm p 0.062)"
    )
    assert row.high < 1
    assert math.isinf(row.detectable_pct)
    alone = six.drop(columns=["cpu_s_per_gbit"])
    row = one(compare.effects(alone, CAMPAIGN), "received_bits_per_s", "tcp", "vxlan")
    assert (row.verdict, row.reason) == ("worse", "")


def test_samples_that_are_not_paired_are_compared_by_all_their_pairs() -> None:
    apart = replace(CAMPAIGN, design=Design.INDEPENDENT, flows=CAMPAIGN.flows[:1])
    trials = trials_frame([r for r in results() if r.trial.flow.name == "tcp"])
    # One arm has five trials, the other three: blocks mean nothing.
    kept = trials[
        (trials["treatment"].eq("none") & trials["block"].lt(5))
        | (trials["treatment"].eq("vxlan") & trials["block"].ge(5))
    ]
    row = one(compare.effects(kept, apart), "received_bits_per_s", "tcp", "vxlan")
    arms = [kept.loc[kept["treatment"].eq(t), "received_bits_per_s"] for t in ("none", "vxlan")]
    pairs = np.log(np.divide.outer(arms[1].to_numpy(), arms[0].to_numpy()))
    assert row.ratio == pytest.approx(math.exp(np.median(pairs)))
    assert (row.n_baseline, row.n_blocks, row.planned_blocks) == (5, 3, 0)
    assert row.verdict == "undecided"
    assert row.reason == (
        "all 15 pairs negative, p 0.04 is the smallest that 5+3 can give (fewest: 4+4)"
    )
    row = one(compare.effects(trials, apart), "received_bits_per_s", "tcp", "vxlan")
    assert (row.n_baseline, row.n_blocks, row.verdict) == (8, 8, "worse")
    assert row.low < 0.8 < row.high
