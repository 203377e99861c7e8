"""Capacity: known answers, honest bounds, and no absolute word where the nodes share a kernel."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic import CAMPAIGN, facts, facts_frame, results, trials_frame

from ebpfperf import capacity, headroom_chart
from ebpfperf.errors import ParameterError

TRIALS = trials_frame(results())
APART = facts_frame(facts(lab=False, shared_kernel=False))
TOGETHER = facts_frame(facts())


def row(found: pd.DataFrame, treatment: str) -> pd.Series:
    return found[found["treatment"].eq(treatment)].iloc[0]


def rows_of(gbit: float, cores: float, facts: pd.DataFrame = APART) -> pd.DataFrame:
    wanted = capacity.demand(gbit_per_s=gbit, cores=cores)
    return capacity.headroom(TRIALS, facts, CAMPAIGN, wanted=wanted)


def test_known_capacity_limited_by_the_stream() -> None:
    found = rows_of(10.0, 64.0)
    assert list(found.columns) == list(capacity.COLUMNS)
    assert found["treatment"].tolist() == ["none", "ipip", "vxlan"]
    none = row(found, "none")
    assert none.headroom == pytest.approx(1.5, rel=0.06)
    assert none.headroom_low < none.headroom < none.headroom_high
    assert (none.limit, none.verdict) == ("one stream", "fits")
    # 0.11 CPU seconds per gigabit at 10 Gbit/s are 1.1 cores.
    assert none.cores == pytest.approx(1.1, rel=0.06)


def test_too_few_cores_become_the_limit() -> None:
    none = row(rows_of(10.0, 0.55), "none")
    assert (none.limit, none.verdict) == ("cores", "does not fit")
    assert none.headroom == pytest.approx(0.5, rel=0.06)


def test_a_demand_inside_the_interval_is_undecided() -> None:
    found = rows_of(10.0, 64.0)
    inside = row(found, "none").headroom * 10.0
    assert row(rows_of(inside, 64.0), "none").verdict == "undecided"


def test_dear_traffic_bounds_the_capacity_from_below() -> None:
    none = row(rows_of(10.0, 0.55), "none")
    assert none.headroom_low == pytest.approx(0.55 / none.cores_high)
    assert none.headroom_high == pytest.approx(0.55 / none.cores_low)


def test_shared_kernel_refuses_an_absolute_verdict() -> None:
    wanted = capacity.demand(gbit_per_s=10.0, cores=64.0)
    found = capacity.headroom(TRIALS, TOGETHER, CAMPAIGN, wanted=wanted)
    assert set(found["verdict"]) == {"relative only"}
    said = capacity.sentences(found, TOGETHER, wanted=wanted)
    assert said.items[0].startswith("No absolute verdict")
    assert "fits" not in str(said)


def test_few_blocks_are_void() -> None:
    few = TRIALS[TRIALS["block"] < 5]
    wanted = capacity.demand(gbit_per_s=1.0, cores=4.0)
    none = row(capacity.headroom(few, APART, CAMPAIGN, wanted=wanted), "none")
    assert (none.verdict, none.reason) == ("void", "too few blocks: 5 of 6")
    assert math.isnan(none.headroom_low)


def test_without_cpu_numbers_the_cores_are_unknown_and_said_so() -> None:
    blind = TRIALS.assign(cpu_s_per_gbit=np.nan)
    wanted = capacity.demand(gbit_per_s=10.0, cores=1.0)
    found = capacity.headroom(blind, APART, CAMPAIGN, wanted=wanted)
    none = row(found, "none")
    assert math.isnan(none.cores)
    assert none.headroom == pytest.approx(1.5, rel=0.06)
    assert (none.verdict, none.limit) == ("undecided", "one stream")
    assert "UNKNOWN" in str(capacity.sentences(found, APART, wanted=wanted))


def test_a_paced_or_host_flow_says_nothing_about_capacity() -> None:
    tcp, rr, host = CAMPAIGN.flows
    paced = replace(CAMPAIGN, flows=(replace(tcp, rate_bits_per_s=1e9), rr, host))
    wanted = capacity.demand(gbit_per_s=1.0, cores=1.0)
    found = capacity.headroom(TRIALS, APART, paced, wanted=wanted)
    assert found.empty
    assert "no bulk flow" in str(capacity.sentences(found, APART, wanted=wanted))
    assert headroom_chart.draw(found, paced, wanted=wanted)._repr_html_()


def test_requests_need_connections_and_cores() -> None:
    wanted = capacity.demand(gbit_per_s=1.0, cores=4.0, requests_per_s=10_000)
    found = capacity.requests(TRIALS, CAMPAIGN, wanted=wanted)
    none = row(found, "none")
    assert none.connections == math.ceil(10_000 / 4001)
    # 22 microseconds each, ten thousand a second: 0.22 cores.
    assert none.cores == pytest.approx(0.22, rel=0.06)
    assert "10,000" in capacity.request_table(found, wanted=wanted).caption
    none_wanted = capacity.demand(gbit_per_s=1.0, cores=4.0)
    assert capacity.requests(TRIALS, CAMPAIGN, wanted=none_wanted).empty


@pytest.mark.parametrize(
    ("gbit", "cores", "requests"),
    [(0, 1, 0), (-1, 1, 0), (math.nan, 1, 0), (1, 0, 0), (1, math.inf, 0), (1, 1, -5)],
)
def test_demands_that_make_no_sense_are_refused(gbit: float, cores: float, requests: float) -> None:
    with pytest.raises(ParameterError):
        capacity.demand(gbit_per_s=gbit, cores=cores, requests_per_s=requests)


def test_the_chart_and_the_table_show_the_same_numbers() -> None:
    wanted = capacity.demand(gbit_per_s=10.0, cores=2.0)
    found = rows_of(10.0, 2.0)
    drawn = headroom_chart.draw(found, CAMPAIGN, wanted=wanted)
    assert drawn.frame["cores"].tolist() == found["cores"].tolist()
    assert "none carries" in drawn.alt
    assert capacity.table(found, wanted=wanted)._repr_html_().count("<tr>") == 4
