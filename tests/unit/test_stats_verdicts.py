"""The interval and the p of a verdict, families, power, and looks at a running campaign."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebpfperf import bootstrap, intervals, power, rank_sum, sequential, stats

LEVELS = (0.9, 0.95, 1 - 0.05 / 6, 0.99)


def noise(seed: int, n: int, *, effect: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, size=n) - 1.7 + effect


def test_fewer_than_ten_are_left_to_the_exact_test() -> None:
    for n in (6, 9):
        data = noise(1, n)
        assert intervals.paired_interval(data, level=0.95) == stats.signed_rank_interval(data)
        found = intervals.shift_interval(data, noise(2, n + 8), level=0.95)
        assert found == rank_sum.rank_sum_interval(data, noise(2, n + 8), level=0.95)
    assert intervals.paired_interval(noise(1, 5), level=0.95) is None
    assert intervals.shift_interval([1, 2, 3], [4, 5, 6], level=0.95) is None
    assert intervals.paired_interval([], level=0.95) is None


@pytest.mark.parametrize("n", [10, 13, 20])
@pytest.mark.parametrize("level", LEVELS)
def test_from_ten_the_interval_holds_both(n: int, level: float) -> None:
    data, other = noise(n, n), noise(n + 1, n + 2)
    for found, exact, replicates in (
        (
            intervals.paired_interval(data, level=level),
            stats.signed_rank_interval(data, level=level),
            bootstrap.paired(data),
        ),
        (
            intervals.shift_interval(data, other, level=level),
            rank_sum.rank_sum_interval(data, other, level=level),
            bootstrap.shift(data, other),
        ),
    ):
        assert found is not None
        assert exact is not None
        low, high = bootstrap.bounds(replicates, level=level)
        assert (found.low, found.high) == (min(low, exact.low), max(high, exact.high))
        assert (found.estimate, found.level, found.n) == (exact.estimate, exact.level, n)


@settings(max_examples=80)
@given(st.integers(0, 10**6), st.sampled_from([6, 8, 10, 12, 17]), st.floats(-3, 3))
def test_p_and_interval_say_the_same(seed: int, n: int, effect: float) -> None:
    # Rounded, so that ties and zeros come.
    data = np.round(noise(seed, n, effect=effect), 1)
    other = np.round(noise(seed + 1, n + 1), 1)
    p, shift_p = intervals.paired_p(data), intervals.shift_p(other, data)
    for level in LEVELS:
        found = intervals.paired_interval(data, level=level)
        excluded = found is not None and not found.low <= 0 <= found.high
        assert excluded == (p <= 1 - level)
        found = intervals.shift_interval(other, data, level=level)
        excluded = found is not None and not found.low <= 0 <= found.high
        assert excluded == (shift_p <= 1 - level)


@given(st.lists(st.integers(-(10**6), 10**6).filter(bool), min_size=1, max_size=9, unique_by=abs))
def test_p_of_few_without_ties_is_the_one_of_the_exact_tests(values: list[int]) -> None:
    assert intervals.paired_p(values) == pytest.approx(stats.signed_rank_p(values))
    others = [2 * value + 0.5 for value in values]
    if not set(others) & set(values):
        expected = rank_sum.rank_sum_p(values, others)
        assert intervals.shift_p(values, others) == pytest.approx(expected)


@settings(max_examples=40)
@given(st.lists(st.floats(-9, 9), min_size=6, max_size=14), st.floats(0.1, 10))
def test_exchanging_the_arms_mirrors_and_units_do_not_matter(
    values: list[float], unit: float
) -> None:
    here = intervals.paired_interval(values, level=0.95)
    turned = intervals.paired_interval([-value for value in values[::-1]], level=0.95)
    scaled = intervals.paired_interval([value * unit for value in values], level=0.95)
    assert here is not None
    assert turned is not None
    assert scaled is not None
    assert (-turned.high, -turned.low) == pytest.approx((here.low, here.high), abs=1e-8)
    assert (scaled.low / unit, scaled.high / unit) == pytest.approx((here.low, here.high), abs=1e-8)


def test_the_smallest_p_of_so_many() -> None:
    assert intervals.smallest_p(5) == 0.0625
    assert intervals.smallest_p(6) == 0.03125
    assert intervals.smallest_p(3, 3) == pytest.approx(0.1)
    assert intervals.smallest_p(1, 1) == 1.0
    assert intervals.paired_p([1.0] * 6) == intervals.smallest_p(6)
    assert intervals.shift_p([1, 2, 3], [4, 5, 6, 7]) == intervals.smallest_p(3, 4)


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=12))
def test_holm_by_its_definition(p_values: list[float]) -> None:
    known = sorted(p for p in p_values if not math.isnan(p))
    m = len(known)
    adjusted = stats.holm(p_values)
    for p, found in zip(p_values, adjusted, strict=True):
        if math.isnan(p):
            assert math.isnan(found)
            continue
        # Holm 1979, as R's p.adjust: the largest (m - k + 1) p_k up to this one, 1 at most.
        expected = max((m - k) * q for k, q in enumerate(known) if q <= p)
        assert found == pytest.approx(min(1.0, expected))


def test_holm_rejects_step_by_step() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([]).size == 0


def test_detectable_is_wider_than_half_the_interval_and_grows_with_the_family() -> None:
    data = noise(4, 12)
    found = intervals.paired_interval(data, level=0.95)
    assert found is not None
    half = (found.high - found.low) / 2
    alone = power.detectable(data, level=0.95)
    assert alone == pytest.approx(power.factor(12) * half)
    assert power.detectable(data, level=0.95, widening=0.1) == pytest.approx(alone + 0.1)
    assert alone < power.detectable(data, level=0.95, family=3) < math.inf
    assert power.detectable(data, level=0.95, power=0.9) > alone
    # Six blocks give no p below 2/64: with one more effect in the family nothing is established.
    assert power.detectable(data[:6], level=0.95) < math.inf
    assert power.detectable(data[:6], level=0.95, family=2) == math.inf
    assert power.detectable_shift(data[:3], data[3:6], level=0.95) == math.inf
    shift = intervals.shift_interval(data[:5], data[5:], level=0.95)
    assert shift is not None
    expected = power.factor(5, paired=False) * (shift.high - shift.low) / 2
    assert power.detectable_shift(data[:5], data[5:], level=0.95) == pytest.approx(expected)


@pytest.mark.parametrize("n", [6, 8, 12])
def test_what_is_detectable_is_detected(n: int) -> None:
    random = np.random.default_rng(n)
    pilots, again = random.normal(size=(2, 400, n))
    effects = [power.detectable(pilot, level=0.95) for pilot in pilots]
    found = np.mean(
        [
            intervals.paired_p(row + effect) <= 0.05
            for row, effect in zip(again, effects, strict=True)
        ]
    )
    # Four standard errors beside the 0.8 that is promised and the 0.92 that would be too much.
    assert 0.8 - 4 * 0.02 < found < 0.92 + 4 * 0.014


def test_so_many_blocks_give_so_narrow_an_interval() -> None:
    random = np.random.default_rng(11)
    pilot = random.normal(size=30) * 0.05
    asked = [power.blocks_needed(pilot, half_width_pct=width, level=0.95) for width in (8, 4, 2, 1)]
    assert asked == sorted(asked)
    n = asked[2]
    assert n is not None
    widths = [
        stats.half_width_pct(*np.exp([found.low, found.high]))
        for row in random.normal(size=(60, n)) * 0.05
        if (found := intervals.paired_interval(row, level=0.95))
    ]
    assert np.median(widths) == pytest.approx(2, rel=0.3)
    # A hundredth of the width takes ten thousand times the blocks, and no time.
    many = power.blocks_needed(pilot, half_width_pct=0.02, level=0.95)
    assert many is not None
    assert many / n == pytest.approx(10_000, rel=0.25)


def test_blocks_needed_at_the_ends() -> None:
    assert power.blocks_needed([0.1], half_width_pct=3, level=0.95) is None
    assert power.blocks_needed([0.1] * 6, half_width_pct=3, level=0.95) == 6
    # Levels that six to eight blocks cannot reach, whatever the noise.
    assert power.blocks_needed([0.1] * 6, half_width_pct=3, level=0.95, family=10) == 9
    assert power.blocks_needed([-0.02, 0.02], half_width_pct=3, level=0.95) is not None
    with pytest.raises(ValueError, match="0 %"):
        power.blocks_needed([0.1, 0.2], half_width_pct=0, level=0.95)


@pytest.mark.parametrize("blocks", [*range(1, 41), 60, 100, 250])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_looks_spend_what_there_is_and_each_can_be_reached(blocks: int, level: float) -> None:
    looks = sequential.looks(blocks, level=level)
    assert looks[-1] == blocks
    assert all(a < b for a, b in pairwise(looks))
    assert all(look >= sequential.FIRST for look in looks[:-1])
    levels = [sequential.spent_level(look, looks, level=level) for look in looks]
    assert sum(1 - one for one in levels) == pytest.approx(1 - level)
    for look, one in zip(looks[:-1], levels, strict=False):
        assert intervals.smallest_p(look) <= 1 - one
    if len(looks) > 1:
        assert all(one >= level for one in levels)
        assert intervals.smallest_p(blocks) <= 1 - levels[-1]


def test_looks_of_twenty_blocks() -> None:
    looks = sequential.looks(20)
    assert looks == (8, 12, 16, 20)
    # Lan and DeMets 1983: 0.05 ln(1 + (e - 1) t) at t = 0.4 is 0.0262.
    assert 1 - sequential.spent_level(8, looks, level=0.95) == pytest.approx(0.0262, abs=5e-5)
    assert sequential.looks(8) == (8,)
    assert sequential.looks(7) == (7,)
    assert sequential.spent_level(7, (7,), level=0.95) == pytest.approx(0.95)
    with pytest.raises(ValueError, match="after 9 blocks"):
        sequential.spent_level(9, looks, level=0.95)
