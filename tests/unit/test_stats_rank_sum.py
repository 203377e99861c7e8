"""Shifts of two samples against every split of the ranks, all pairs, and SciPy."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from ebpfperf import intervals, rank_sum, stats

values = st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=1, max_size=9)
sizes = pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 4), (3, 3), (4, 2), (5, 4), (5, 6)])


def naive_splits(n: int, m: int) -> list[int]:
    """Of every split of n + m ranks, how many pairs have the first sample's rank the higher."""
    found = []
    for first in itertools.combinations(range(n + m), n):
        second = [rank for rank in range(n + m) if rank not in first]
        found.append(sum(a > b for a in first for b in second))
    return found


@sizes
def test_counts_are_those_of_every_split(n: int, m: int) -> None:
    splits = naive_splits(n, m)
    expected = [splits.count(u) for u in range(n * m + 1)]
    assert list(rank_sum.rank_sum_counts(n, m)) == expected


def test_counts_of_large_samples_add_up_to_all_splits() -> None:
    assert sum(rank_sum.rank_sum_counts(23, 31)) == math.comb(54, 23)


@given(values, values)
def test_the_shift_is_the_median_of_all_pairs(first: list[float], second: list[float]) -> None:
    naive = sorted(b - a for a in first for b in second)
    assert rank_sum.differences(first, second).tolist() == naive
    assert rank_sum.shift(first, second) == pytest.approx(statistics.median(naive))


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=5),
    st.lists(st.integers(-3, 3), min_size=1, max_size=5),
)
def test_p_with_ties_counts_every_split_of_the_very_ranks(
    first: list[int], second: list[int]
) -> None:
    ranks = scipy_stats.rankdata([*first, *second])
    seen = ranks[: len(first)].sum()
    sums = [sum(chosen) for chosen in itertools.combinations(ranks, len(first))]
    below = np.mean([s <= seen + 1e-9 for s in sums])
    above = np.mean([s >= seen - 1e-9 for s in sums])
    expected = min(1.0, 2 * min(below, above))
    assert rank_sum.rank_sum_p(first, second) == pytest.approx(expected)


@settings(max_examples=40)
@given(st.sets(st.integers(-(10**4), 10**4), min_size=8, max_size=30), st.integers(1, 7))
def test_p_equals_the_one_of_scipy_without_ties(all_values: set[int], size: int) -> None:
    first, second = sorted(all_values, key=hash)[:size], sorted(all_values, key=hash)[size:]
    expected = scipy_stats.mannwhitneyu(first, second, method="exact").pvalue
    assert rank_sum.rank_sum_p(first, second) == pytest.approx(expected)


def test_three_and_three_reach_90_percent_and_not_95() -> None:
    # 40 Gbit/s, one stream, three runs each: every pair agrees, and that is all that three can say.
    iptables, ebpf = np.log([19.3, 19.6, 20.3]), np.log([25.0, 25.4, 27.2])
    assert rank_sum.rank_sum_p(iptables, ebpf) == pytest.approx(0.1)
    assert rank_sum.rank_sum_interval(iptables, ebpf, level=0.95) is None
    found = rank_sum.rank_sum_interval(iptables, ebpf, level=0.9)
    assert found is not None
    assert (found.level, found.n) == (pytest.approx(0.9), 3)
    assert found.low == pytest.approx(math.log(25.0 / 20.3))
    assert found.high == pytest.approx(math.log(27.2 / 19.3))
    assert math.exp(found.estimate) == pytest.approx(1.30, abs=0.02)
    four = rank_sum.rank_sum_interval([1, 2, 3, 4], [5, 6, 7, 8], level=0.95)
    assert four == stats.Interval(4.0, 1.0, 7.0, 1 - 2 / 70, 4)


# Hollander, Wolfe & Chicken, table A.6 holds these tails; here as what may be cut at each end.
@pytest.mark.parametrize(
    ("n", "m", "cut", "below"), [(4, 4, 0, 1), (5, 5, 2, 4), (6, 6, 5, 19), (8, 8, 13, 321)]
)
def test_depths_are_those_of_the_tails(n: int, m: int, cut: int, below: int) -> None:
    expected = 1 - 2 * below / math.comb(n + m, n)
    assert rank_sum.rank_sum_depth(n, m, level=0.95) == (cut, pytest.approx(expected))
    assert sum(u <= cut for u in naive_splits(n, m)) == below


@given(
    st.lists(st.floats(-100, 100), min_size=4, max_size=9),
    st.lists(st.floats(-100, 100), min_size=4, max_size=9),
    st.floats(-50, 50),
)
def test_exchanging_the_samples_mirrors_and_shifting_one_shifts(
    first: list[float], second: list[float], by: float
) -> None:
    here = rank_sum.rank_sum_interval(first, second, level=0.9)
    turned = rank_sum.rank_sum_interval(second, first, level=0.9)
    moved = rank_sum.rank_sum_interval(first, [value + by for value in second], level=0.9)
    assert here is not None
    assert turned is not None
    assert moved is not None
    assert (turned.low, turned.high) == (-here.high, -here.low)
    assert turned.estimate == pytest.approx(-here.estimate, abs=1e-12)
    assert moved.low == pytest.approx(here.low + by, abs=1e-9)
    assert moved.high == pytest.approx(here.high + by, abs=1e-9)


def test_nothing_is_no_shift() -> None:
    assert rank_sum.rank_sum_interval([], [1.0], level=0.5) is None
    assert math.isnan(rank_sum.shift([], [1.0]))
    assert rank_sum.rank_sum_p([], [1.0]) == 1.0
    assert intervals.shift_p([], [1.0]) == 1.0
