"""Bare trials: what the probes cost is read from them, and nothing else is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic import (
    CAMPAIGN,
    WATCHED_CARRIES,
    facts,
    facts_frame,
    failed,
    histograms_frame,
    results,
    trials_frame,
)

from ebpfperf import (
    capacity,
    charts,
    compare,
    distributions,
    expectations,
    tables,
    validity,
)
from ebpfperf.model import Campaign, TrialResult

BARE = replace(CAMPAIGN, probes_off=True)
RESULTS = results(BARE)
TRIALS = trials_frame(RESULTS)
OTHERS = TRIALS[~TRIALS["trial_id"].str.endswith("-bare")].reset_index(drop=True)
FACTS = facts_frame(facts()).assign(trial_id=None)
WANTED = capacity.demand(gbit_per_s=5, cores=2, requests_per_s=1000)


def spoiled(trials: pd.DataFrame) -> pd.DataFrame:
    """Bare trials with numbers that would show in whatever counted them."""
    bare = trials["trial_id"].str.endswith("-bare")
    numbers = trials.select_dtypes("float").columns
    changed = trials.copy()
    changed.loc[bare, numbers] = trials.loc[bare, numbers] * 100
    return changed


def expected(trials: pd.DataFrame, campaign: Campaign) -> pd.DataFrame:
    effects = compare.effects(trials, campaign, facts=FACTS)
    return expectations.judged(effects, trials, facts=FACTS, campaign=campaign)


METRIC = "received_bits_per_s"
COMPARISONS: dict[str, Callable[[pd.DataFrame, Campaign], pd.DataFrame]] = {
    "effects": lambda trials, made: compare.effects(trials, made, facts=FACTS),
    "expectations": expected,
    "comparison": lambda trials, made: (
        charts.comparison(trials, compare.effects(trials, made), made, metric=METRIC).frame
    ),
    "expected": lambda trials, made: (
        charts.expected(trials, expected(trials, made), made, metric=METRIC).frame
    ),
    "drift": lambda trials, made: charts.drift(trials, made, metric=METRIC).frame,
    "headroom": lambda trials, made: capacity.headroom(trials, FACTS, made, wanted=WANTED),
    "requests": lambda trials, made: capacity.requests(trials, made, wanted=WANTED),
    "counters": lambda trials, made: tables.counters(trials, made).frame,
    "distributions": lambda trials, made: pd.concat(
        chart.frame for chart in distributions.draw(histograms_frame(RESULTS), trials, made)
    ),
}


@pytest.mark.parametrize("name", COMPARISONS)
def test_treatments_compare_as_if_there_were_no_bare_trials(name: str) -> None:
    with_them = COMPARISONS[name](spoiled(TRIALS), BARE)
    assert not with_them.empty
    pd.testing.assert_frame_equal(with_them, COMPARISONS[name](OTHERS, CAMPAIGN))


def test_what_ran_shows_them() -> None:
    ran = tables.order(TRIALS).frame
    assert len(ran) == BARE.blocks * BARE.trials_per_block
    assert ran.set_index("trial")["probes"].to_dict() == {
        name: "none" if name.endswith("-bare") else "tcp_rtt" for name in TRIALS["trial_id"]
    }
    said = validity.of_trials(TRIALS, FACTS, BARE).items[0]
    assert said.startswith("96 of 96 planned trials are good; 8 of 8 blocks are complete")


def test_a_bare_trial_that_failed_leaves_its_block_complete() -> None:
    found = [spoil(result, at="b003-none-tcp-bare") for result in RESULTS]
    said = validity.of_trials(trials_frame(found), FACTS, BARE).items[0]
    assert said.startswith("95 of 96 planned trials are good; 8 of 8 blocks are complete")


def spoil(result: TrialResult, *, at: str) -> TrialResult:
    """The result, failed where it is that of trial ``at``."""
    return failed(result, reason="refused: no") if result.trial.trial_id == at else result


def overhead(trials: pd.DataFrame = TRIALS) -> pd.DataFrame:
    return compare.probe_overhead(trials, BARE, facts=FACTS)


def one(found: pd.DataFrame, metric: str, flow: str) -> pd.Series:
    (row,) = (row for _, row in found.query("metric == @metric and flow == @flow").iterrows())
    return row


def test_the_probes_cost_is_the_naive_estimate_of_the_ratios_by_block() -> None:
    table = TRIALS[TRIALS["flow"].eq("tcp") & TRIALS["treatment"].eq("none")]
    table = table.pivot(index="block", columns="probes", values=METRIC)
    pairs = itertools.combinations_with_replacement(table["tcp_rtt"] / table[""], 2)
    naive = np.median([math.log(math.sqrt(a * b)) for a, b in pairs])
    row = one(overhead(), METRIC, "tcp")
    assert row.ratio == pytest.approx(math.exp(naive))
    assert row.low <= WATCHED_CARRIES <= row.high < 1
    assert (row.treatment, row.baseline) == ("probes on", "probes off")
    assert (row.verdict, row["size"]) == ("equivalent", "a change within the margin")
    assert (row.n_blocks, row.planned_blocks) == (8, 8)
    assert row.detectable_pct > 0


def test_it_has_the_columns_of_effects_for_every_flow_and_none_of_what_probes_measure() -> None:
    found = overhead()
    assert list(found.columns) == list(compare.COLUMNS)
    assert set(found["flow"]) == {flow.name for flow in BARE.flows}
    assert not found["metric"].str.startswith("srtt").any()
    assert found["metric"].isin(["cpu_s_per_gbit", "rr_cpu_us_per_request"]).any()
    pd.testing.assert_frame_equal(found.dtypes.to_frame(), effects_dtypes())


def effects_dtypes() -> pd.DataFrame:
    return compare.effects(TRIALS, BARE).dtypes.to_frame()


def test_too_few_blocks_decide_nothing_there_either() -> None:
    row = one(overhead(TRIALS[TRIALS["block"].lt(4)]), METRIC, "tcp")
    assert row.verdict == "undecided"
    assert row.reason.endswith("is the smallest that 4 can give (fewest: 6 blocks)")
    assert math.isnan(row.low)


def test_a_block_whose_bare_trial_failed_is_not_compared() -> None:
    found = trials_frame([spoil(result, at="b003-none-tcp-bare") for result in RESULTS])
    row = one(overhead(found), METRIC, "tcp")
    assert row.n_blocks == 7
    assert "1 of 8 blocks incomplete (refused)" in row.warnings
    assert one(overhead(found), METRIC, "host-tcp").n_blocks == 8


def test_no_good_bare_trial_is_void_and_said_to_be_unknown() -> None:
    bare = TRIALS["trial_id"].str.endswith("-bare")
    found = overhead(TRIALS.assign(status=np.where(bare, "failed", "ok")))
    assert one(found, METRIC, "tcp").verdict == "void"
    said = str(validity.overhead(found, BARE))
    assert "Throughput UNKNOWN, void: no complete block has this number" in said
    assert "nan" not in said


def test_the_sentences_name_probes_flows_and_what_it_is_the_cost_of() -> None:
    said = validity.overhead(overhead(), BARE).items
    assert [text.partition(":")[0] for text in said[:3]] == [
        f"The probes (tcp_rtt) changed flow {flow} by" for flow in ("tcp", "host-tcp", "rr")
    ]
    assert "Throughput −1.9 % (−2.7 to −0.8 %)" in said[0]
    assert "equivalent" in said[0]
    assert "under the baseline none" in said[3]
    assert len(said) == 4


def test_probes_that_did_not_run_are_not_said_to_cost_nothing() -> None:
    warned = TRIALS.assign(warnings=np.where(TRIALS["probes"].ne(""), "probe tcp_rtt: no bcc", ""))
    assert "Not every probe watched" in str(validity.overhead(overhead(warned), BARE))


def test_without_the_arm_the_cost_is_unknown_and_how_to_have_it_is_said() -> None:
    found = compare.probe_overhead(OTHERS, CAMPAIGN)
    assert found.empty
    assert list(found.columns) == list(compare.COLUMNS)
    assert tables.overhead(found, CAMPAIGN) == ()
    (said,) = validity.overhead(found, CAMPAIGN).items
    assert "is unknown; `probes_off: true` adds one." in said
    (said,) = validity.overhead(found, replace(CAMPAIGN, probes=("host_counters",))).items
    assert said == "No probe watched but those that are always on."


def test_the_table_has_both_sides() -> None:
    (table,) = tables.overhead(overhead(), BARE)
    assert "Probes on against probes off, both under none" in table.caption
    assert list(table.frame.columns[:4]) == ["flow", "metric", "probes off", "probes on"]
    assert len(table.frame) == len(overhead())


def test_before_any_trial_nothing_is_claimed() -> None:
    said = str(validity.overhead(overhead(TRIALS.iloc[:0]), BARE))
    assert said == "No trial has given a number to tell the probes' cost by yet."
