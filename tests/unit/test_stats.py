"""Statistics against naive two-line expressions, published exact tables, and simulated coverage."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from ebpfperf import stats

numbers = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=12)


def naive_walsh(values: list[float]) -> list[float]:
    pairs = itertools.combinations_with_replacement(values, 2)
    return sorted((a + b) / 2 for a, b in pairs)


def naive_signed_ranks(n: int) -> list[int]:
    patterns = itertools.product((0, 1), repeat=n)
    return [sum(rank * sign for rank, sign in enumerate(signs, 1)) for signs in patterns]


@given(numbers)
def test_walsh_averages_are_all_pair_means(values: list[float]) -> None:
    assert stats.walsh_averages(values).tolist() == naive_walsh(values)
    assert stats.hodges_lehmann(values) == pytest.approx(statistics.median(naive_walsh(values)))


@pytest.mark.parametrize("n", range(1, 11))
def test_signed_rank_counts_are_those_of_every_sign_pattern(n: int) -> None:
    sums = naive_signed_ranks(n)
    assert list(stats.signed_rank_counts(n)) == [sums.count(t) for t in range(n * (n + 1) // 2 + 1)]


# Hollander, Wolfe & Chicken, table A.4: P(T+ >= x) at the 0.95-ish points, as 1 - 2 P of the cut.
@pytest.mark.parametrize(
    ("n", "cut", "achieved"),
    [
        (6, 0, 1 - 2 * 1 / 64),  # 96.9 %
        (7, 2, 1 - 2 * 3 / 128),  # 95.3 %
        (8, 3, 1 - 2 * 5 / 256),  # 96.1 %
        (9, 5, 1 - 2 * 10 / 512),  # 96.1 %
        (10, 8, 1 - 2 * 25 / 1024),  # 95.1 %
        (12, 13, 1 - 2 * 87 / 4096),  # 95.8 %
    ],
)
def test_interval_depth_matches_the_published_table(n: int, cut: int, achieved: float) -> None:
    assert stats.interval_depth(n, level=0.95) == (cut, pytest.approx(achieved, abs=1e-12))


def test_five_observations_cannot_reach_95_percent() -> None:
    assert stats.signed_rank_interval([1.0, 2.0, 3.0, 4.0, 5.0], level=0.95) is None
    reached = stats.signed_rank_interval([1.0, 2.0, 3.0, 4.0, 5.0], level=0.9)
    assert reached is not None
    assert (reached.low, reached.high, reached.level) == (1.0, 5.0, 0.9375)


def test_no_observation_is_no_interval() -> None:
    assert stats.signed_rank_interval([]) is None
    assert math.isnan(stats.hodges_lehmann([]))


def test_six_observations_give_the_extremes() -> None:
    interval = stats.signed_rank_interval([3.0, 1.0, 2.0, 6.0, 5.0, 4.0])
    assert interval == stats.Interval(estimate=3.5, low=1.0, high=6.0, level=0.96875, n=6)


@given(st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=15), st.floats(-100, 100))
def test_interval_moves_with_the_data_and_holds_its_estimate(
    values: list[float], by: float
) -> None:
    here = stats.signed_rank_interval(values)
    there = stats.signed_rank_interval([value + by for value in values])
    assert here is not None
    assert there is not None
    assert here.low <= here.estimate <= here.high
    assert there.low == pytest.approx(here.low + by, abs=1e-6)
    assert there.high == pytest.approx(here.high + by, abs=1e-6)
    mirrored = stats.signed_rank_interval([-value for value in values])
    assert mirrored is not None
    assert mirrored.low == pytest.approx(-here.high)


@given(st.sets(st.integers(-1000, 1000).filter(bool), min_size=1, max_size=12))
def test_p_equals_the_one_of_scipy_without_ties(values: set[int]) -> None:
    distinct = [value for value in values if -value not in values or value > 0]
    expected = scipy_stats.wilcoxon(distinct, method="exact").pvalue
    assert stats.signed_rank_p(distinct) == pytest.approx(expected)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_p_with_ties_counts_every_sign_pattern(values: list[int]) -> None:
    kept = [value for value in values if value]
    ranks = scipy_stats.rankdata([abs(value) for value in kept]) if kept else np.array([])
    observed = sum(rank for rank, value in zip(ranks, kept, strict=True) if value > 0)
    middle = ranks.sum() / 2
    sums = [ranks @ np.array(signs) for signs in itertools.product((0, 1), repeat=len(kept))]
    expected = np.mean([abs(s - middle) >= abs(observed - middle) - 1e-9 for s in sums])
    assert stats.signed_rank_p(values) == pytest.approx(expected if kept else 1.0)


@settings(max_examples=30)
@given(st.lists(st.integers(-(10**6), 10**6).filter(bool), min_size=6, max_size=10, unique_by=abs))
def test_interval_excludes_zero_exactly_when_the_test_rejects(values: list[int]) -> None:
    interval = stats.signed_rank_interval(values)
    assert interval is not None
    excluded = not interval.low <= 0 <= interval.high
    assert excluded == (stats.signed_rank_p(values) <= 1 - interval.level + 1e-12)


@pytest.mark.parametrize("n", [6, 8, 13])
@pytest.mark.parametrize("shape", ["normal", "laplace", "uniform"])
def test_simulated_coverage_is_the_level_said(n: int, shape: str) -> None:
    random = np.random.default_rng(20261125)
    draws = 4000
    data = getattr(random, shape)(size=(draws, n))
    centre = 0.5 if shape == "uniform" else 0.0
    found = [stats.signed_rank_interval(row) for row in data]
    level = found[0].level if found[0] else 0.0
    held = sum(i is not None and i.low <= centre <= i.high for i in found) / draws
    # Four standard errors of a proportion: a right implementation fails here once in 16 000.
    assert held == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / draws))


def test_half_width_is_percent_of_the_baseline() -> None:
    assert stats.half_width_pct(0.9, 1.1) == pytest.approx(100 * (math.sqrt(1.1 / 0.9) - 1))


def test_spread_is_the_coefficient_of_variation() -> None:
    assert stats.spread_pct([9.0, 10.0, 11.0]) == pytest.approx(10.0)
    assert math.isnan(stats.spread_pct([1.0]))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 50)), min_size=1, max_size=20))
def test_cumulative_is_the_share_below_each_bound(bins: list[tuple[int, int]]) -> None:
    upper, count = zip(*bins, strict=True)
    bounds, below = stats.cumulative(upper, count)
    everything = [u for u, c in bins for _ in range(c)]
    naive = [sum(u <= b for u in everything) / len(everything) for b in sorted(set(upper))]
    assert bounds.tolist() == sorted(set(upper))
    assert below == pytest.approx(naive)


def test_cumulative_of_nothing() -> None:
    bounds, below = stats.cumulative([], [])
    assert bounds.size == below.size == 0
