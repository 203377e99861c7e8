"""The one way from frames to verdicts: what stands against a verdict is said beside it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pandas as pd
import pytest
from judged import AA, factor, judge, with_fact

from ebpfperf import compare, frames, verdicts
from ebpfperf.model import Fact, TrialResult
from ebpfperf.verdicts import Verdicts


@cache
def plain() -> Verdicts:
    return judge()


def of(found: Verdicts, treatment: str, metric: str = "received_bits_per_s") -> pd.Series:
    (row,) = (
        row
        for _, row in found.effects.iterrows()
        if (row.metric, row.flow, row.treatment) == (metric, "tcp", treatment)
    )
    return row


def test_they_are_the_effects_and_percentiles_are_of_all_observations() -> None:
    found = plain()
    assert list(found.effects.columns) == list(compare.COLUMNS)
    assert of(found, "vxlan").verdict == "worse"
    rtts = found.effects[found.effects["metric"].eq("rr_p99_ns")]
    assert (rtts["value_low"] <= rtts["value"]).all()
    assert (rtts["value"] < rtts["value_high"]).all()
    assert not found.effects["value"].isna().any()


def test_the_baseline_against_itself_is_compared_and_nothing_is_marked_when_it_agrees() -> None:
    found = plain()
    assert set(found.aa["treatment"]) == {compare.AGAIN}
    assert set(found.aa["flow"]) == {"tcp", "rr", "host-tcp"}
    assert verdicts.aa_differences(found.aa, level=0.95).empty
    assert not found.effects["marks"].str.contains("A/A").any()


def test_a_baseline_that_differs_from_itself_marks_every_verdict() -> None:
    found = judge(change=factor("received_bits_per_s", 1.06, "-tcp-again"))
    differs = verdicts.aa_differences(found.aa, level=0.95)
    assert set(differs["metric"]) == {"received_bits_per_s"}
    assert found.effects["marks"].str.contains("A/A test differs").all()
    assert "Throughput of tcp is +" in of(found, "vxlan").warnings
    # A mark changes no verdict, and the trials of the A/A test change no effect.
    assert found.effects["verdict"].tolist() == plain().effects["verdict"].tolist()
    assert found.effects["ratio"].tolist() == plain().effects["ratio"].tolist()


def test_a_baseline_that_differs_from_itself_within_the_margin_marks_every_verdict_too() -> None:
    found = judge(change=factor("received_bits_per_s", 1.025, "-tcp-again"))
    row = found.aa[found.aa["metric"].eq("received_bits_per_s") & found.aa["flow"].eq("tcp")].iloc[
        0
    ]
    assert row.verdict == "equivalent"
    assert row.low > 1
    assert found.effects["marks"].str.contains("A/A test differs").all()
    # Two campaigns are comparable nevertheless: what differs is within what was called the same.
    assert verdicts.aa_beyond_the_margin(found.aa).empty


def test_a_condition_that_goes_with_the_arm_confounds_it_by_name() -> None:
    on, off = (Fact("node-1", "sysctl:net.core.rmem_max", value) for value in ("212992", "8388608"))
    found = judge(change=with_fact("vxlan", on, off))
    row = of(found, "vxlan")
    assert row.marks == "confounded by sysctl:net.core.rmem_max"
    assert "212992 against 8388608 on node-1" in row.warnings
    assert not of(found, "ipip").marks


def test_a_trial_on_another_path_takes_no_part_and_is_counted() -> None:
    def change(result: TrialResult) -> TrialResult:
        lost = result.trial.trial_id == "b002-vxlan-tcp"
        told = (
            Fact("", "wire_expected", "vxlan"),
            Fact("", "wire_overlay", "none" if lost else "vxlan"),
        )
        return replace(result, facts=(*result.facts, *told))

    found = judge(change=change)
    gone = found.trials.set_index("trial_id").loc["b002-vxlan-tcp"]
    assert gone.status == "void"
    assert gone.reason.startswith("wrong_path: ")
    row = of(found, "vxlan")
    assert row.n_blocks == 7
    assert "1 of 8 blocks incomplete (wrong_path)" in row.warnings


def test_a_log_level_that_no_treatment_asks_for_marks_all() -> None:
    spec = Fact("", "felix_spec", '{"bpfEnabled": true, "bpfLogLevel": "Debug"}')
    found = judge(told=(spec,))
    assert found.effects["marks"].eq("bpf_log_level").all()
    assert "bpfLogLevel is Debug under vxlan" in of(found, "vxlan").warnings


@pytest.mark.parametrize(("tripped", "marked"), [(4, False), (5, True)])
def test_noise_in_most_trials_of_an_arm_marks_its_comparison(tripped: int, marked: bool) -> None:
    def change(result: TrialResult) -> TrialResult:
        busy = result.trial.treatment.name == "vxlan" and result.trial.block < tripped
        return replace(result, metrics={**result.metrics, "idle_busy_pct": 90.0 if busy else 1.0})

    row = of(judge(change=change), "vxlan")
    assert (row.marks == "idle_load") is marked
    assert ("idle_load in 5 of 8 trials of vxlan" in row.warnings) is marked


def test_a_campaign_without_trials_has_no_verdicts_and_no_errors() -> None:
    empty = {name: frames.empty(name) for name in ("trials", "samples", "histograms", "facts")}
    found = verdicts.of(
        empty["trials"],
        AA,
        samples=empty["samples"],
        histograms=empty["histograms"],
        facts=empty["facts"],
    )
    assert found.effects.empty
    assert found.aa.empty
