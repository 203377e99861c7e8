"""Student's t against SciPy; the bootstrap against resamples drawn and jackknife made by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from ebpfperf import bootstrap, student
from ebpfperf.stats import hodges_lehmann

samples = st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=10, max_size=14)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 9, 10, 38, 119])
def test_student_is_the_one_of_scipy(df: int) -> None:
    for t in (-30.0, -4.3, -1.0, -0.1, 0.0, 0.5, 2.0, 8.0):
        assert student.probability(t, df) == pytest.approx(scipy_stats.t.cdf(t, df), abs=1e-13)
    for share in (1e-5, 0.00125, 0.025, 0.3, 0.5, 0.9, 0.999):
        expected = scipy_stats.t.ppf(share, df)
        assert student.quantile(share, df) == pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5])
def test_no_quantile_outside(share: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        student.quantile(share, 5)


def naive_shift(first: Sequence[float], second: Sequence[float]) -> float:
    return float(np.median([b - a for a, b in itertools.product(first, second)]))


def naive_acceleration(*influences: np.ndarray) -> float:
    """DiCiccio and Efron 1996: sums of n^-3 L^3 over six times (sums of n^-2 L^2)^(3/2)."""
    cubes = sum(np.sum(part**3) / part.size**3 for part in influences)
    squares = sum(np.sum(part**2) / part.size**2 for part in influences)
    return float(cubes / (6 * squares**1.5))


def test_a_resample_is_the_estimate_of_what_was_drawn() -> None:
    random = np.random.default_rng(7)
    data = np.sort(random.gamma(2.0, size=11))
    counts = bootstrap._counts(11, 3, stream=0, pairs=66)
    assert counts.shape == (bootstrap.RESAMPLES, 11)
    assert set(counts.sum(axis=1)) == {11}
    naive = sorted(hodges_lehmann(np.repeat(data, row)) for row in counts)
    assert bootstrap.paired(data, seed=3).values == pytest.approx(naive)


@pytest.mark.parametrize(("n", "m"), [(10, 10), (11, 13), (13, 11)])
def test_a_resampled_shift_is_that_of_what_was_drawn(n: int, m: int) -> None:
    random = np.random.default_rng(7)
    first, second = random.normal(size=n), random.gamma(2.0, size=m)
    small, large = (first, second) if n <= m else (-second, -first)
    counts = bootstrap._two_counts(small.size, large.size, 3)
    one, other = np.sort(small), np.sort(large)
    naive = [
        naive_shift(np.repeat(one, a), np.repeat(other, b)) for a, b in zip(*counts, strict=True)
    ]
    found = bootstrap.shift(first, second, seed=3)
    assert found.values == pytest.approx(sorted(naive))
    assert found.estimate == pytest.approx(naive_shift(first, second))
    parts = []
    for sample, estimate in (
        (one, lambda rest: naive_shift(rest, other)),
        (other, lambda rest: naive_shift(one, rest)),
    ):
        left = np.array([estimate(np.delete(sample, k)) for k in range(sample.size)])
        parts.append((sample.size - 1) * (left.mean() - left))
    assert found.acceleration == pytest.approx(naive_acceleration(*parts))


def test_bias_and_acceleration_are_those_made_by_hand() -> None:
    data = np.random.default_rng(8).lognormal(sigma=1.0, size=12)
    found = bootstrap.paired(data)
    left = np.array([hodges_lehmann(np.delete(data, k)) for k in range(12)])
    assert found.acceleration == pytest.approx(naive_acceleration(11 * (left.mean() - left)))
    assert found.acceleration > 0
    share = np.mean(found.values < found.estimate - 1e-9)
    share += np.mean(np.abs(found.values - found.estimate) <= 1e-9) / 2
    assert found.bias == pytest.approx(scipy_stats.norm.ppf(share))
    # Efron 1987, equation 6.9, with Student's quantile times sqrt(n / (n - 1)) for the normal one.
    z = scipy_stats.t.ppf([0.05, 0.95], 11) * math.sqrt(12 / 11)
    moved = found.bias + z
    shares = scipy_stats.norm.cdf(found.bias + moved / (1 - found.acceleration * moved))
    naive = np.quantile(found.values, shares, method="hazen")
    assert bootstrap.bounds(found, level=0.9) == pytest.approx(tuple(naive))


@given(samples, st.randoms(use_true_random=False))
def test_the_order_does_not_matter_and_minus_mirrors(values: list[float], random: object) -> None:
    low, high = bootstrap.bounds(bootstrap.paired(values), level=0.95)
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert bootstrap.bounds(bootstrap.paired(shuffled), level=0.95) == (low, high)
    mirrored = bootstrap.bounds(bootstrap.paired([-value for value in values]), level=0.95)
    assert mirrored == pytest.approx((-high, -low), abs=1e-6)


@settings(max_examples=50)
@given(samples, samples)
def test_exchanging_the_samples_mirrors(first: list[float], second: list[float]) -> None:
    low, high = bootstrap.bounds(bootstrap.shift(first, second), level=0.95)
    mirrored = bootstrap.bounds(bootstrap.shift(second, first), level=0.95)
    assert mirrored == pytest.approx((-high, -low), abs=1e-6)


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.floats(-1.5, 1.5), st.sampled_from([10, 13, 20]))
def test_p_is_one_less_the_highest_level_that_excludes_zero(
    seed: int, effect: float, n: int
) -> None:
    data = np.random.default_rng(seed).lognormal(sigma=0.7, size=n) - 1 + effect
    found = bootstrap.paired(data)
    p = bootstrap.p_value(found)
    for level in (0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 1 - p - 1e-7, 1 - p + 1e-7):
        # Narrower ones need not hold their estimate: BCa moves them.
        if 0.5 <= level < 1:
            low, high = bootstrap.bounds(found, level=level)
            assert (not low <= 0 <= high) == (p < 1 - level), level


def test_large_samples_are_done_in_parts_with_the_same_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = np.random.default_rng(9).normal(size=15)
    other = np.random.default_rng(10).normal(size=12)
    paired, shift = bootstrap.paired(data).values, bootstrap.shift(data, other).values
    monkeypatch.setattr(bootstrap, "_KEPT", 50_000)
    # Or it would be remembered.
    bootstrap._paired.cache_clear()
    bootstrap._shift.cache_clear()
    assert bootstrap.paired(data).values.tolist() == paired.tolist()
    assert bootstrap.shift(data, other).values.tolist() == shift.tolist()


def test_observations_all_alike_have_an_interval_of_no_width() -> None:
    found = bootstrap.paired([0.25] * 10)
    assert bootstrap.bounds(found, level=0.95) == (0.25, 0.25)
    assert bootstrap.p_value(found) == 0.0
    assert bootstrap.p_value(bootstrap.paired([0.0] * 10)) == 1.0
