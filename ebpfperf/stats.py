"""Arrays to estimates and intervals. Pure; nothing here knows what the numbers mean.

Paired differences are summarised by the Hodges-Lehmann estimate, the median of their Walsh
averages, and by the interval that inverts the exact Wilcoxon signed-rank test (Hollander, Wolfe and
Chicken, *Nonparametric Statistical Methods*, 3rd ed., sections 3.2 and 3.3). Nothing is assumed but
that the differences are independent and each symmetric about one centre. With few differences only
some confidence levels can be reached; the level that was is part of the answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval, in the units of the data.

    Attributes
    ----------
    level
        The level achieved, 0 to 1: at least the one asked for, never interpolated.
    n
        How many observations it rests on.
    """

    estimate: float
    low: float
    high: float
    level: float
    n: int


def walsh_averages(values: ArrayLike) -> Floats:
    """Averages of every pair ``i <= j``, an observation with itself included, ascending."""
    data = np.asarray(values, dtype=np.float64)
    first, second = np.triu_indices(data.size)
    return np.sort((data[first] + data[second]) / 2)


def hodges_lehmann(values: ArrayLike) -> float:
    """Median of the Walsh averages, in the units of the data; NaN for no data."""
    averages = walsh_averages(values)
    return float(np.median(averages)) if averages.size else float("nan")


@cache
def signed_rank_counts(n: int) -> tuple[int, ...]:
    """How many of the ``2**n`` sign patterns give each signed-rank sum 0 … n(n+1)/2; exact."""
    counts = [1]
    for rank in range(1, n + 1):
        longer = counts + [0] * rank
        for total, count in enumerate(counts):
            longer[total + rank] += count
        counts = longer
    return tuple(counts)


def interval_depth(n: int, *, level: float) -> tuple[int, float] | None:
    """How many Walsh averages to cut at each end, and the level that this gives; None for too few.

    Cutting none gives the widest interval there is, of level ``1 - 2 / 2**n``.
    """
    total = 2**n
    depth, achieved, below = None, 0.0, 0
    for cut, count in enumerate(signed_rank_counts(n)):
        below += count
        coverage = 1 - 2 * below / total
        if coverage < level:
            break
        depth, achieved = cut, coverage
    return None if depth is None else (depth, achieved)


def signed_rank_interval(values: ArrayLike, *, level: float = 0.95) -> Interval | None:
    """Centre of symmetry of ``values`` with its exact interval; None if ``level`` is unreachable.

    Fewer than six observations cannot reach 0.95. With ties the interval is at least as wide as it
    must be.
    """
    averages = walsh_averages(values)
    n = np.asarray(values).size
    cut = interval_depth(n, level=level) if n else None
    if cut is None:
        return None
    depth, achieved = cut
    return Interval(
        estimate=float(np.median(averages)),
        low=float(averages[depth]),
        high=float(averages[averages.size - 1 - depth]),
        level=achieved,
        n=n,
    )


def signed_rank_p(values: ArrayLike) -> float:
    """Two-sided exact p of "symmetric about zero", 0 to 1, by all sign patterns of the ranks.

    Zeros are left out and ties share their mean rank, as Wilcoxon did; 1.0 when nothing is left.
    """
    data = np.asarray(values, dtype=np.float64)
    data = data[data != 0]
    if not data.size:
        return 1.0
    magnitudes = np.abs(data)
    # Twice the mean rank is a whole number: one count for those below, one for those not above.
    doubled = [
        int(np.sum(magnitudes < value) + np.sum(magnitudes <= value) + 1) for value in magnitudes
    ]
    counts = {0: 1}
    for rank in doubled:
        moved = {total + rank: count for total, count in counts.items()}
        counts = {
            total: counts.get(total, 0) + moved.get(total, 0) for total in counts.keys() | moved
        }
    positive = sum(rank for rank, value in zip(doubled, data, strict=True) if value > 0)
    tail = min(positive, sum(doubled) - positive)
    extreme = sum(count for total, count in counts.items() if total <= tail)
    return float(min(1.0, 2 * extreme / 2**data.size))


def holm(p_values: ArrayLike) -> Floats:
    """Each p adjusted for being one of a family (Holm 1979), 0 to 1, in the order given.

    A NaN stays NaN and does not count as one of the family. Those adjusted to at most alpha are the
    ones that Holm's step-down procedure rejects, whose chance of a single false rejection is alpha,
    however the tests depend on each other.
    """
    raw = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(raw.shape, np.nan)
    known = np.flatnonzero(~np.isnan(raw))
    order = known[np.argsort(raw[known], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(raw[order] * factors))
    return adjusted


def half_width_pct(low: float, high: float) -> float:
    """Half the interval of a ratio, as percent of the baseline: ``100 (sqrt(high / low) - 1)``.

    A true change of this size is told from none about every other time; ``power.detectable`` says
    what size is told with a stated probability.
    """
    return 100 * (math.sqrt(high / low) - 1)


def spread_pct(values: ArrayLike) -> float:
    """Standard deviation (n - 1) over the mean, percent; NaN for fewer than two values."""
    data = np.asarray(values, dtype=np.float64)
    if data.size < 2:
        return float("nan")
    return float(100 * np.std(data, ddof=1) / np.mean(data))


def cumulative(upper: ArrayLike, count: ArrayLike) -> tuple[Floats, Floats]:
    """Upper bin bounds in ascending order, and the fraction of observations below each.

    Exact at the bounds whatever the width of the bins. Equal bounds are added together.
    """
    bounds, where = np.unique(np.asarray(upper, dtype=np.float64), return_inverse=True)
    counts = np.zeros(bounds.size)
    np.add.at(counts, where, np.asarray(count, dtype=np.float64))
    total = counts.sum()
    return bounds, np.cumsum(counts) / total if total else counts
