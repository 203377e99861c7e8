"""What another campaign of this size and noise would establish, and how many blocks suffice. Pure.

An effect is established when the interval that gives its verdict excludes zero. A true effect of
half that interval's width is established about every other time. The factor to multiply it by,
until it is established as often as wanted, is ``(1 + z(power) / z(0.975)) (a + b / n)``, z being
the normal quantile: the first part would do for many observations of normal noise, the second makes
up for the noise being estimated from n observations and for its long tails. a and b are calibrated
to the worst kind of noise, which is that of real trials: ``benchmarks/verdicts.py --calibrate``
prints what each kind, size and level needs, and ``benchmarks/README.md`` has the power that comes
of it. With normal noise it is more than was asked for.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from ebpfperf import intervals, stats, student

# a and b of the factor.
OF_PAIRS, OF_SAMPLES = (1.14, 3.65), (1.28, 1.3)

_FEWEST = 6
# Beyond, the two quantiles differ by less than a percent.
_STUDENT_UP_TO = 500
_NORMAL = NormalDist()


def factor(n: int, *, power: float = 0.8, paired: bool = True) -> float:
    """By what to multiply half an interval's width to have what is established with ``power``.

    Calibrated for a power of 0.8 and n from 6 to 20 blocks, or from 4 in the smaller of two
    samples, at a level of 0.95; at higher levels it promises a little less than there is.
    """
    of_many, of_few = OF_PAIRS if paired else OF_SAMPLES
    ratio = _NORMAL.inv_cdf(power) / _NORMAL.inv_cdf(0.975)
    return (1 + ratio) * (of_many + of_few / n)


def detectable(
    log_ratios: ArrayLike,
    *,
    level: float,
    power: float = 0.8,
    family: int = 1,
    widening: float = 0.0,
    seed: int = 0,
) -> float:
    """The smallest true effect, a log ratio, that such a campaign establishes with ``power``.

    Parameters
    ----------
    family
        How many effects share the error by Holm's procedure; the worst case for this one is to be
        the first of them.
    widening
        By how much the interval is widened at each end before it gives a verdict.

    Returns
    -------
    float
        On average over campaigns, the noise being known from this one alone; infinity where so few
        blocks cannot establish any effect.
    """
    found = intervals.paired_interval(log_ratios, level=1 - (1 - level) / family, seed=seed)
    return _promised(found, power=power, widening=widening, paired=True)


def detectable_shift(
    first: ArrayLike,
    second: ArrayLike,
    *,
    level: float,
    power: float = 0.8,
    family: int = 1,
    widening: float = 0.0,
    seed: int = 0,
) -> float:
    """As ``detectable``, of two samples that are not paired."""
    found = intervals.shift_interval(first, second, level=1 - (1 - level) / family, seed=seed)
    return _promised(found, power=power, widening=widening, paired=False)


def blocks_needed(
    log_ratios: ArrayLike, *, half_width_pct: float, level: float, family: int = 1
) -> int | None:
    """How many blocks of this noise give an interval that is about so narrow; None for no telling.

    Half the interval's width, as percent of the baseline, shrinks as Student's quantile over
    sqrt(n); how wide it is now is taken from the interval of these ratios, or from their standard
    deviation while they are too few for one. Fewer than two ratios tell nothing. The answer is as
    uncertain as the noise of so few blocks: about every other campaign needs a few blocks more.

    Parameters
    ----------
    family
        How many effects share the error by Holm's procedure; the worst case, as in ``detectable``.

    Raises
    ------
    ValueError
        ``half_width_pct`` is not above zero.
    """
    if half_width_pct <= 0:
        raise ValueError(f"no number of blocks makes half an interval {half_width_pct} % wide")
    data = np.asarray(log_ratios, dtype=np.float64)
    if data.size < 2:
        return None
    wanted, strict = math.log1p(half_width_pct / 100), 1 - (1 - level) / family
    spread = _spread(data, level=strict)
    for n in range(_FEWEST, intervals.BOOTSTRAP_FROM):
        cut = stats.interval_depth(n, level=strict)
        if cut is not None and spread * _reach(n, level=cut[1]) <= wanted:
            return n
    few, many = intervals.BOOTSTRAP_FROM - 1, intervals.BOOTSTRAP_FROM
    while not _enough(many, spread=spread, level=strict, wanted=wanted):
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        if _enough(middle, spread=spread, level=strict, wanted=wanted):
            many = middle
        else:
            few = middle
    return many


def _promised(
    found: stats.Interval | None, *, power: float, widening: float, paired: bool
) -> float:
    if found is None:
        return math.inf
    half = (found.high - found.low) / 2
    return factor(found.n, power=power, paired=paired) * half + widening


def _spread(data: stats.Floats, *, level: float) -> float:
    """What times ``_reach`` is half the width of these observations' interval.

    Of an interval of 95 %, whatever ``level`` is: the ends of a stricter one rest on so few of the
    observations, or resamples, that its own width is chance to a tenth.
    """
    for asked in (0.95, level):
        found = intervals.paired_interval(data, level=asked)
        if found is not None:
            reached = found.level if found.n < intervals.BOOTSTRAP_FROM else asked
            return (found.high - found.low) / 2 / _reach(found.n, level=reached)
    return float(np.std(data, ddof=1))


def _enough(n: int, *, spread: float, level: float, wanted: float) -> bool:
    return intervals.smallest_p(n) <= 1 - level and spread * _reach(n, level=level) <= wanted


def _reach(n: int, *, level: float) -> float:
    share = (1 + level) / 2
    tail = student.quantile(share, n - 1) if n <= _STUDENT_UP_TO else _NORMAL.inv_cdf(share)
    return tail / math.sqrt(n)
