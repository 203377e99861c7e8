"""The shift between two independent samples, and what the rank-sum test says of it. Pure.

The estimate is the median of all differences (Hodges and Lehmann), the interval inverts the exact
Wilcoxon-Mann-Whitney test (Hollander, Wolfe and Chicken, *Nonparametric Statistical Methods*, 3rd
ed., sections 4.1 to 4.3). Nothing is assumed but that the observations are independent and that the
two distributions differ by a shift.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from ebpfperf.stats import Floats, Interval


def differences(first: ArrayLike, second: ArrayLike) -> Floats:
    """Every observation of ``second`` less every one of ``first``, ascending."""
    rows = np.asarray(second, dtype=np.float64)[:, None]
    return np.sort((rows - np.asarray(first, dtype=np.float64)[None, :]).ravel())


def shift(first: ArrayLike, second: ArrayLike) -> float:
    """Median of the differences, ``second`` less ``first``; NaN where either is empty."""
    found = differences(first, second)
    return float(np.median(found)) if found.size else math.nan


@lru_cache(maxsize=256)
def rank_sum_counts(n: int, m: int) -> tuple[int, ...]:
    """How many of the splits of n + m ranks have 0 … nm of the differences negative; exact.

    They are the coefficients of the Gaussian binomial: (1 - q^(m+1)) … (1 - q^(m+n)) divided by
    (1 - q) … (1 - q^n).
    """
    counts = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for power in range(n * m, m + i - 1, -1):
            counts[power] -= counts[power - m - i]
        for power in range(i, n * m + 1):
            counts[power] += counts[power - i]
    return tuple(counts)


def rank_sum_depth(n: int, m: int, *, level: float) -> tuple[int, float] | None:
    """How many differences to cut at each end, and the level that this gives; None for too few."""
    total = math.comb(n + m, n)
    found, below = None, 0
    for cut, count in enumerate(rank_sum_counts(n, m)):
        below += count
        if 1 - 2 * below / total < level:
            break
        found = cut, 1 - 2 * below / total
    return found


def rank_sum_interval(
    first: ArrayLike, second: ArrayLike, *, level: float = 0.95
) -> Interval | None:
    """The shift from ``first`` to ``second`` with its exact interval; None if out of reach.

    Three and three observations reach 0.90 and not 0.95. With ties the interval is at least as wide
    as it must be. ``n`` of what comes back is the size of the smaller sample.
    """
    found = differences(first, second)
    n, m = np.asarray(first).size, np.asarray(second).size
    cut = rank_sum_depth(n, m, level=level) if n and m else None
    if cut is None:
        return None
    depth, achieved = cut
    return Interval(
        estimate=float(np.median(found)),
        low=float(found[depth]),
        high=float(found[found.size - 1 - depth]),
        level=achieved,
        n=min(n, m),
    )


def rank_sum_p(first: ArrayLike, second: ArrayLike) -> float:
    """Two-sided exact p of "no shift", 0 to 1: twice the smaller tail over all splits of the ranks.

    Ties share their mean rank, and every split of the very ranks is counted, to the precision of
    floating point. 1.0 where either is empty.
    """
    one, other = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if not one.size or not other.size:
        return 1.0
    pooled = np.concatenate([one, other])
    # Twice the mean rank is a whole number: one count for those below, one for those not above.
    doubled = (pooled[:, None] > pooled).sum(axis=1) + (pooled[:, None] >= pooled).sum(axis=1) + 1
    # splits[k, s]: how many choices of k of the ranks so far add up to s.
    splits = np.zeros((one.size + 1, int(doubled.sum()) + 1))
    splits[0, 0] = 1
    for rank in doubled:
        splits[1:, rank:] += splits[:-1, :-rank].copy()
    share = np.cumsum(splits[one.size] / math.comb(pooled.size, one.size))
    seen = int(doubled[: one.size].sum())
    above = 1 - (share[seen - 1] if seen else 0.0)
    below = share[seen]
    return float(min(1.0, 2 * min(below, above)))
