"""BCa bootstrap intervals of the Hodges-Lehmann estimates, blocks resampled whole. Pure.

The bias-corrected and accelerated interval (Efron, *Better bootstrap confidence intervals*, 1987).
From few observations its bootstrap distribution is too narrow by sqrt((n - 1) / n), and the
normal's tail too short; both are put right as in Hesterberg, *What teachers should know about the
bootstrap*, 2015, section 4.5 ("expanded percentile"), by which the normal quantile gives way to
Student's times sqrt(n / (n - 1)).

The resamples are the same for every data set of the same size and seed, and are closed under
reversal; observations are sorted first. So the interval depends on no order of the blocks, and
exchanging the arms mirrors it, to the rounding of floating point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ebpfperf import student
from ebpfperf.stats import Floats, hodges_lehmann

RESAMPLES = 2000

# Matrices of up to so many numbers are kept from call to call; larger ones are made in parts.
_KEPT = 2_000_000
_NORMAL = NormalDist()

Counts = NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, slots=True)
class Replicates:
    """The bootstrap distribution of an estimate, and what BCa makes of it.

    Attributes
    ----------
    values
        The estimates of the resamples, ascending.
    bias
        z0: the normal quantile of the share of resamples below the estimate.
    acceleration
        From the jackknife: how the spread grows with the estimate.
    df, stretch
        The degrees of freedom of the tail, and by how much the distribution is too narrow.
    """

    estimate: float
    values: Floats
    bias: float
    acceleration: float
    df: int
    stretch: float


def paired(values: ArrayLike, *, seed: int = 0) -> Replicates:
    """Resamples of the Hodges-Lehmann estimate of one sample of two or more observations."""
    return _paired(np.sort(np.asarray(values, dtype=np.float64)).tobytes(), seed)


# A verdict asks three times: for the interval, the p, and what is detectable.
@lru_cache(maxsize=128)
def _paired(ascending: bytes, seed: int) -> Replicates:
    data = np.frombuffer(ascending)
    n = data.size
    rows, columns = np.triu_indices(n)
    averages = (data[rows] + data[columns]) / 2
    order = np.argsort(averages, kind="stable")
    middles = _paired_medians(averages[order], order, n=n, seed=seed)
    without: Counts = (1 - np.eye(n)).astype(_whole(averages.size))
    jackknife = _weighted_medians(averages[order], _walsh_weights(without)[order])
    return _replicates(
        hodges_lehmann(data),
        middles,
        influences=((jackknife.mean() - jackknife) * (n - 1),),
        df=n - 1,
        stretch=math.sqrt(n / (n - 1)),
    )


def shift(first: ArrayLike, second: ArrayLike, *, seed: int = 0) -> Replicates:
    """Resamples of the shift ``second`` less ``first``, each sample resampled by itself.

    Two or more observations each. The smaller sample decides how far the distribution is too
    narrow.
    """
    one, other = (np.sort(np.asarray(values, dtype=np.float64)) for values in (first, second))
    if one.size > other.size:
        return shift(-other, -one, seed=seed)
    return _shift(one.tobytes(), other.tobytes(), seed)


@lru_cache(maxsize=128)
def _shift(first: bytes, second: bytes, seed: int) -> Replicates:
    one, other = np.frombuffer(first), np.frombuffer(second)
    n, m = one.size, other.size
    found = (other[None, :] - one[:, None]).ravel()
    order = np.argsort(found, kind="stable")
    middles = _shift_medians(found[order], order, n=n, m=m, seed=seed)
    influences = []
    for size, left_out in ((n, 0), (m, 1)):
        parts: list[Counts] = [np.ones((size, length), _whole(n * m)) for length in (n, m)]
        parts[left_out] -= np.eye(size, dtype=_whole(n * m))
        jackknife = _weighted_medians(found[order], _pair_weights(*parts)[order])
        influences.append((jackknife.mean() - jackknife) * (size - 1))
    return _replicates(
        float(np.median(found)),
        middles,
        influences=tuple(influences),
        df=n + m - 2,
        stretch=math.sqrt(n / (n - 1)),
    )


def bounds(replicates: Replicates, *, level: float) -> tuple[float, float]:
    """The expanded BCa interval at that level, 0 to 1."""
    tail = (1 - level) / 2
    reach = -student.quantile(tail, replicates.df) * replicates.stretch
    values = replicates.values
    # Hazen's positions: the k-th smallest is the (k - 1/2) / B quantile; symmetric.
    places = (np.arange(values.size) + 0.5) / values.size
    low, high = (
        float(np.interp(_accelerated(replicates, z), places, values)) for z in (-reach, reach)
    )
    return low, high


def p_value(replicates: Replicates) -> float:
    """One less the highest level at which the interval excludes zero; 1.0 where none does."""
    values = replicates.values
    if replicates.estimate == 0:
        return 1.0
    if replicates.estimate < 0:
        values = -values[::-1]
    bias = math.copysign(1, replicates.estimate) * replicates.bias
    acceleration = math.copysign(1, replicates.estimate) * replicates.acceleration
    # The highest share whose quantile is not above zero.
    at = int(np.searchsorted(values, 0.0, side="right"))
    if at == 0:
        return 0.0
    if at == values.size:
        return 1.0
    below, above = float(values[at - 1]), float(values[at])
    share = (at - 0.5 + (0.0 - below) / (above - below)) / values.size
    beyond = _NORMAL.inv_cdf(share) - bias
    if 1 + acceleration * beyond <= 0:
        return 0.0
    z = beyond / (1 + acceleration * beyond) - bias
    return min(1.0, 2 * student.probability(z / replicates.stretch, replicates.df))


def _accelerated(replicates: Replicates, z: float) -> float:
    """The share of the bootstrap distribution at which the bound for ``z`` is read."""
    moved = replicates.bias + z
    slack = 1 - replicates.acceleration * moved
    if slack <= 0:
        return 1.0 if moved > 0 else 0.0
    return _NORMAL.cdf(replicates.bias + moved / slack)


def _replicates(
    estimate: float,
    middles: Floats,
    *,
    influences: tuple[Floats, ...],
    df: int,
    stretch: float,
) -> Replicates:
    values = np.sort(middles)
    values.setflags(write=False)
    size = values.size
    # Resamples that hit the estimate lie half below it, whatever their last bits are.
    near = 1e-12 * max(abs(float(values[0])), abs(float(values[-1])))
    below = np.searchsorted(values, estimate - near, side="left")
    not_above = np.searchsorted(values, estimate + near, side="right")
    share = float(below + not_above) / 2 / size
    share = min(max(share, 0.5 / size), 1 - 0.5 / size)
    acceleration = _acceleration(influences, near=near)
    return Replicates(estimate, values, _NORMAL.inv_cdf(share), acceleration, df, stretch)


def _acceleration(influences: tuple[Floats, ...], *, near: float) -> float:
    """From the jackknife; 0.0 where no observation moves the estimate beyond rounding."""
    largest = max(float(np.max(np.abs(one))) for one in influences)
    if largest <= near:
        return 0.0
    # It has no unit; without one of the data's, no power of them is too small to be told from zero.
    cubes = sum(float(np.sum((one / largest) ** 3)) / one.size**3 for one in influences)
    squares = sum(float(np.sum((one / largest) ** 2)) / one.size**2 for one in influences)
    return float(cubes / (6 * squares**1.5))


def _weighted_medians(ascending: Floats, weights: Counts) -> Floats:
    """Medians of the values repeated as each column of ``weights`` says; columns add up alike."""
    counted = np.cumsum(weights, axis=0, dtype=weights.dtype)
    total = int(counted[-1, 0])
    low = (counted <= (total - 1) // 2).sum(axis=0, dtype=weights.dtype)
    high = low if total % 2 else (counted <= total // 2).sum(axis=0, dtype=weights.dtype)
    middles: Floats = (ascending[low] + ascending[high]) / 2
    return middles


def _walsh_weights(counts: Counts) -> Counts:
    """How often each pair ``i <= j`` comes in resamples with those counts; a column each."""
    turned = counts.T
    rows, columns = np.triu_indices(turned.shape[0])
    weights: Counts = turned[rows] * turned[columns]
    same = rows == columns
    weights[same] = (weights[same] + turned) // 2
    return weights


def _pair_weights(first: Counts, second: Counts) -> Counts:
    """How often each pair of one of ``first`` and one of ``second`` comes; a column each."""
    product: Counts = first.T[:, None, :] * second.T[None, :, :]
    return product.reshape(-1, first.shape[0])


def _whole(pairs: int) -> np.dtype[np.signedinteger[Any]]:
    """The smallest integers that count so many pairs."""
    return np.dtype(np.int16 if pairs <= np.iinfo(np.int16).max else np.int32)


@lru_cache(maxsize=64)
def _counts(n: int, seed: int, *, stream: int, pairs: int) -> Counts:
    """How often each observation is drawn: a resample a row; the second half mirrors the first."""
    random = np.random.default_rng([seed, n, stream])
    half = random.multinomial(n, np.full(n, 1 / n), size=RESAMPLES // 2).astype(_whole(pairs))
    return np.concatenate([half, half[:, ::-1]])


def _two_counts(n: int, m: int, seed: int) -> tuple[Counts, Counts]:
    """Counts of both samples; for equal sizes closed under exchange of the samples, too."""
    first, second = (
        _counts(size, seed, stream=at, pairs=n * m) for at, size in enumerate((n, m), 1)
    )
    if n != m:
        return first, second
    # Exchanged and mirrored: what an exchange of the samples makes of the first half.
    half = RESAMPLES // 4
    one, two = first[:half], second[:half]
    return (
        np.concatenate([one, one[:, ::-1], two, two[:, ::-1]]),
        np.concatenate([two, two[:, ::-1], one, one[:, ::-1]]),
    )


@lru_cache(maxsize=16)
def _kept_paired(n: int, seed: int) -> Counts:
    return _walsh_weights(_counts(n, seed, stream=0, pairs=n * (n + 1) // 2))


@lru_cache(maxsize=16)
def _kept_shift(n: int, m: int, seed: int) -> Counts:
    return _pair_weights(*_two_counts(n, m, seed))


def _paired_medians(ascending: Floats, order: NDArray[np.intp], *, n: int, seed: int) -> Floats:
    if order.size * RESAMPLES <= _KEPT:
        return _weighted_medians(ascending, _kept_paired(n, seed)[order])
    counts = _counts(n, seed, stream=0, pairs=order.size)
    return np.concatenate(
        [
            _weighted_medians(ascending, _walsh_weights(counts[part])[order])
            for part in _parts(order.size)
        ]
    )


def _shift_medians(
    ascending: Floats, order: NDArray[np.intp], *, n: int, m: int, seed: int
) -> Floats:
    if order.size * RESAMPLES <= _KEPT:
        return _weighted_medians(ascending, _kept_shift(n, m, seed)[order])
    first, second = _two_counts(n, m, seed)
    return np.concatenate(
        [
            _weighted_medians(ascending, _pair_weights(first[part], second[part])[order])
            for part in _parts(order.size)
        ]
    )


def _parts(pairs: int) -> list[slice]:
    step = max(1, _KEPT // pairs)
    return [slice(at, at + step) for at in range(0, RESAMPLES, step)]
