"""What is compared, as logarithms: ratios paired by block, or two samples; and what they give."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ebpfperf import intervals, power, stats
from ebpfperf.model import Campaign, Design, Status

FEWEST_BLOCKS, FEWEST_TRIALS = 6, 4


def paired(trials: pd.DataFrame, *, flow: str, metric: str) -> pd.DataFrame:
    """Values by block (rows) and treatment (columns), ok trials with a positive value only."""
    usable = trials[
        trials["flow"].eq(flow) & trials["status"].eq(Status.OK.value) & trials[metric].gt(0)
    ]
    if usable.duplicated(["block", "treatment"]).any():
        raise ValueError(f"flow {flow!r} has two trials of one treatment in one block")
    return usable.pivot(index="block", columns="treatment", values=metric)


@dataclass(frozen=True, slots=True)
class Logs:
    """Logarithms of one metric of one flow: paired ratios, or two samples."""

    baseline: stats.Floats
    treated: stats.Floats
    paired: bool

    @property
    def ratios(self) -> stats.Floats:
        """One per block, or one per pair of trials."""
        if self.paired:
            return self.treated - self.baseline
        return np.subtract.outer(self.treated, self.baseline).ravel()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of blocks, or of trials of both arms, the baseline's first."""
        return (self.treated.size,) if self.paired else (self.baseline.size, self.treated.size)

    @property
    def estimate(self) -> float:
        """The Hodges-Lehmann log ratio; NaN for no data."""
        if self.paired:
            return stats.hodges_lehmann(self.ratios)
        return float(np.median(self.ratios)) if self.ratios.size else math.nan

    def enough(self, level: float) -> bool:
        """Whether there is an interval of that level, and as many observations as we ask for."""
        fewest = FEWEST_BLOCKS if self.paired else FEWEST_TRIALS
        return min(self.sizes) >= fewest and self.smallest_p <= 1 - level + 1e-12

    @property
    def smallest_p(self) -> float:
        """The smallest p that so many can give, 0 to 1."""
        return intervals.smallest_p(*self.sizes) if min(self.sizes) else 1.0

    def interval(self, level: float) -> stats.Interval | None:
        """The log ratio with its interval; None where the level is out of reach."""
        if self.paired:
            return intervals.paired_interval(self.ratios, level=level)
        return intervals.shift_interval(self.baseline, self.treated, level=level)

    @property
    def p_value(self) -> float:
        """One less the highest level at which the interval excludes no change."""
        if self.paired:
            return intervals.paired_p(self.ratios)
        return intervals.shift_p(self.baseline, self.treated)

    def detectable(self, level: float, *, family: int, widening: float) -> float:
        """The smallest log ratio that such a campaign establishes (``power.detectable``)."""
        if self.paired:
            return power.detectable(self.ratios, level=level, family=family, widening=widening)
        return power.detectable_shift(
            self.baseline, self.treated, level=level, family=family, widening=widening
        )


def logs(table: pd.DataFrame, campaign: Campaign, treatment: str) -> Logs:
    """What of a table of ``paired`` is compared: blocks that have both arms, or all trials."""
    both = table.reindex(columns=[campaign.baseline, treatment])
    blocks = campaign.design is Design.BLOCKS
    if blocks:
        both = both.dropna()
    one, other = (np.log(both[name].dropna().to_numpy()) for name in both)
    return Logs(one, other, blocks)


def fewest(level: float, *, paired: bool) -> str:
    """The fewest observations that decide anything at that level, in words."""
    least = FEWEST_BLOCKS if paired else FEWEST_TRIALS
    for n in range(least, 64):
        if intervals.smallest_p(n, None if paired else n) <= 1 - level + 1e-12:
            return f"{n} blocks" if paired else f"{n}+{n}"
    raise ValueError(f"no number of blocks reaches a level of {level}")
