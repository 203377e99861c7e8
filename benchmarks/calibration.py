"""Simulated campaigns through the functions that give verdicts: how often they are right. Pure."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import simulated
from numpy.typing import NDArray
from simulated import AGAIN, BASELINE, CHANGED

from ebpfperf import bootstrap, intervals, power, sequential, stats
from ebpfperf.stats import Interval

Floats = NDArray[np.float64]
Bounds = tuple[Floats, Floats]
Rule = Callable[[Floats], Interval | None]

LEVEL = 0.95
SIZES = (6, 7, 8, 10, 12, 16, 20)
SHIFT_SIZES = ((4, 4), (6, 6), (8, 8), (10, 10), (12, 12), (8, 20), (20, 20))
UNTIL_BLOCKS, UNTIL_PCT = 20, 4.0

# Standard deviation from trial to trial, the treatment's effect, and the margin; all logs.
NOISE, EFFECT, MARGIN = 0.05, math.log(1.1), math.log(1.05)


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something happened in so many campaigns."""

    hits: int
    campaigns: int

    @classmethod
    def of(cls, happened: Sequence[bool] | NDArray[np.bool_]) -> Rate:
        """The rate of a truth value a campaign."""
        return cls(int(np.sum(happened)), len(happened))

    @property
    def pct(self) -> float:
        """Percent of the campaigns."""
        return 100 * self.hits / self.campaigns

    def wilson_pct(self) -> tuple[float, float]:
        """The 95 % interval for the rate, percent (Wilson 1927): what so many leave open."""
        z, n, p = 1.959964, self.campaigns, self.hits / self.campaigns
        centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        low, high = ((centre + sign * half) / (1 + z * z / n) for sign in (-1, 1))
        return 100 * max(0.0, low), 100 * min(1.0, high)

    def shown(self) -> str:
        """``4.1 (3.5–4.8)``."""
        low, high = self.wilson_pct()
        return f"{self.pct:.1f} ({low:.1f}–{high:.1f})"


def verdict_rates(kind: str, n: int, *, campaigns: int) -> dict[str, Rate]:
    """What ``intervals`` and ``power`` make of campaigns of ``n`` blocks.

    ``power`` is that of a second campaign at the effect which the first said to be detectable;
    ``power at half the interval`` at half the width of its interval. ``false equivalent`` is
    at a true effect just beyond the margin, under the least favourable of several sizes of noise.
    """
    logs = NOISE * simulated.arms(kind, campaigns=campaigns, blocks=n)
    aa = logs[..., AGAIN] - logs[..., BASELINE]
    changed = logs[..., CHANGED] - logs[..., BASELINE] + EFFECT
    rule = partial(intervals.paired_interval, level=LEVEL)
    ((low, high),) = _bounds(aa, rule)
    ((changed_low, changed_high),) = _bounds(changed, rule)
    stated = np.array([power.detectable(row, level=LEVEL) for row in changed])
    return {
        "false alarms": Rate.of((low > 0) | (high < 0)),
        "coverage": Rate.of((changed_low <= EFFECT) & (changed_high >= EFFECT)),
        "power": _detected(low, stated),
        "power at half the interval": _detected(low, (changed_high - changed_low) / 2),
        "false equivalent": _false_equivalent(changed_low - EFFECT, changed_high - EFFECT),
    }


def level_rates(kind: str, sizes: tuple[int, int], *, campaigns: int) -> dict[str, Rate]:
    """As ``verdict_rates``, of the trials of one arm in two campaigns, one after the other.

    Successive trials stand in one sample here: noise that lasts from trial to trial makes them
    alike, and no order cancels it.
    """
    # Not Python's hash, which differs from process to process.
    random = np.random.default_rng([2, zlib.crc32(kind.encode()), *sizes])
    return _of_two_samples(
        *(NOISE * simulated.noise(kind, random, campaigns=campaigns, trials=n) for n in sizes)
    )


def cost_rates(kind: str, sizes: tuple[int, int], *, campaigns: int) -> dict[str, Rate]:
    """As ``verdict_rates``, of what a treatment costs in two campaigns: ratios, paired by block."""
    ratios = []
    for seed, blocks in enumerate(sizes, 8):
        logs = NOISE * simulated.arms(kind, campaigns=campaigns, blocks=blocks, seed=seed)
        ratios.append(logs[..., CHANGED] - logs[..., BASELINE])
    return _of_two_samples(*ratios)


def sequential_rates(kind: str, *, campaigns: int) -> dict[str, Rate]:
    """Campaigns of up to ``UNTIL_BLOCKS`` that stop when the interval is ``UNTIL_PCT`` or less.

    ``any look`` is the rate at which the interval of some look misses: the worst that a rule for
    stopping could make of it. ``any look, unspent`` is what looking at 95 % each time would do.
    """
    logs = NOISE * simulated.arms(kind, campaigns=campaigns, blocks=UNTIL_BLOCKS, seed=1)
    aa = logs[..., AGAIN] - logs[..., BASELINE]
    changed = logs[..., CHANGED] - logs[..., BASELINE]
    looks = sequential.looks(UNTIL_BLOCKS, level=LEVEL)
    found: dict[str, list[Bounds]] = {"aa": [], "changed": [], "unspent": []}
    for n in looks:
        spent = partial(
            intervals.paired_interval, level=sequential.spent_level(n, looks, level=LEVEL)
        )
        unspent = partial(intervals.paired_interval, level=LEVEL)
        for names, rows, rules in (
            (("aa", "unspent"), aa, (spent, unspent)),
            (("changed",), changed, (spent,)),
        ):
            for name, bounds in zip(names, _bounds(rows[:, :n], *rules), strict=True):
                found[name].append(bounds)
    low, high = (np.array(side) for side in zip(*found["aa"], strict=True))
    narrow = np.expm1((high - low) / 2) <= UNTIL_PCT / 100
    narrow[-1] = True
    stopped = np.argmax(narrow, axis=0)
    missed = {
        name: np.array([(one > 0) | (other < 0) for one, other in bounds])
        for name, bounds in found.items()
    }
    every = np.arange(campaigns)
    return {
        "stopped early": Rate.of(stopped < len(looks) - 1),
        "false alarms": Rate.of(missed["aa"][stopped, every]),
        "coverage": Rate.of(~missed["changed"][stopped, every]),
        "any look": Rate.of(missed["aa"].any(axis=0)),
        "any look, unspent": Rate.of(missed["unspent"].any(axis=0)),
    }


def rule_rates(kind: str, n: int, *, campaigns: int) -> dict[str, Rate]:
    """How often other rules miss, and find, with ``n`` blocks from ten up: why the rule is so.

    What is to be found is an effect of three standard errors of normal noise.

    ``lopsided`` noise is normal under the baseline and skewed under the treatment, so that the
    treatment does not move all observations alike; what should be covered is then the median of
    the mean of two differences.
    """
    random = np.random.default_rng([4, zlib.crc32(kind.encode()), n])
    if kind == "lopsided":
        rows, truth = _lopsided(random, (campaigns, n)), _lopsided_truth()
    else:
        logs = simulated.arms(kind, campaigns=campaigns, blocks=n, seed=2)
        rows, truth = logs[..., CHANGED] - logs[..., BASELINE], 0.0

    def plain(row: Floats) -> Interval:
        # So many degrees of freedom are the normal's.
        of = replace(bootstrap.paired(row), df=2000, stretch=1.0)
        return Interval(of.estimate, *bootstrap.bounds(of, level=LEVEL), LEVEL, n)

    def expanded(row: Floats) -> Interval:
        of = bootstrap.paired(row)
        return Interval(of.estimate, *bootstrap.bounds(of, level=LEVEL), LEVEL, n)

    rules: dict[str, Rule] = {
        "exact ranks": lambda row: stats.signed_rank_interval(row, level=LEVEL),
        "BCa, plain": plain,
        "BCa, expanded": expanded,
        "both (the rule)": lambda row: intervals.paired_interval(row, level=LEVEL),
    }
    effect = 3 * math.sqrt(2 / n)
    rates = {}
    for name, (low, high) in zip(rules, _bounds(rows, *rules.values()), strict=True):
        rates[f"{name}, misses"] = Rate.of((low > truth) | (high < truth))
        rates[f"{name}, finds"] = Rate.of(low - truth + effect > 0)
    return rates


def needed_factor(kind: str, sizes: tuple[int, ...], *, level: float, campaigns: int) -> float:
    """What to multiply half an interval's width by for a power of exactly 0.8; NaN out of reach.

    ``sizes`` is one number of blocks, or those of two samples; of the latter the noise is that of
    independent trials, whatever else the kind is.
    """
    random = np.random.default_rng([3, zlib.crc32(kind.encode()), *sizes])
    if intervals.smallest_p(*sizes) > 1 - level:
        return math.nan
    if len(sizes) == 1:
        logs = simulated.arms(kind, campaigns=campaigns, blocks=sizes[0], seed=3)
        rows = logs[..., AGAIN] - logs[..., BASELINE]
        ((low, high),) = _bounds(rows, partial(intervals.paired_interval, level=level))
    else:
        pooled = simulated.noise(kind, random, campaigns=campaigns, trials=sum(sizes))
        pooled = random.permuted(pooled, axis=1)
        ((low, high),) = _bounds(
            pooled,
            lambda row: intervals.shift_interval(row[: sizes[0]], row[sizes[0] :], level=level),
        )
    return float(np.quantile(-np.roll(low, -1) / ((high - low) / 2), 0.8))


def _bounds(rows: Floats, *rules: Rule) -> list[Bounds]:
    """Low and high ends of the interval of every row, by each rule."""
    # Rules inside: those of one row share its bootstrap distribution.
    ends = np.empty((len(rules), 2, len(rows)))
    for at, row in enumerate(rows):
        for number, rule in enumerate(rules):
            found = rule(row)
            assert found is not None
            ends[number, :, at] = found.low, found.high
    return [(low, high) for low, high in ends]


def _of_two_samples(first: Floats, second: Floats) -> dict[str, Rate]:
    pairs = list(zip(first, second, strict=True))
    found = [intervals.shift_interval(one, other, level=LEVEL) for one, other in pairs]
    low, high = np.array([(one.low, one.high) for one in found if one is not None]).T
    stated = [power.detectable_shift(one, other, level=LEVEL) for one, other in pairs]
    return {
        "false alarms": Rate.of((low > 0) | (high < 0)),
        "power": _detected(low, np.array(stated)),
        "power at half the interval": _detected(low, (high - low) / 2),
    }


def _detected(low: Floats, effects: Floats) -> Rate:
    """How often another campaign, the next one, establishes each effect; intervals move with it."""
    return Rate.of(np.roll(low, -1) + effects > 0)


def _false_equivalent(low: Floats, high: Floats) -> Rate:
    """At an effect just beyond the margin; the bounds are about no effect."""
    effect = MARGIN * 1.001
    rates = [
        Rate.of((scale * low + effect >= -MARGIN) & (scale * high + effect <= MARGIN))
        for scale in (0.1, 0.2, 0.5, 1.0)
    ]
    return max(rates, key=lambda rate: rate.hits)


def _lopsided(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    skewed: Floats = np.exp(0.8 * random.normal(size=shape)) - random.normal(size=shape) / 4
    return skewed


def _lopsided_truth() -> float:
    one, other = _lopsided(np.random.default_rng(5), (2, 1_000_000))
    return float(np.median((one + other) / 2))
