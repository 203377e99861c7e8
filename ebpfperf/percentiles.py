"""Percentiles of all observations of an arm: histograms are added, percentiles never averaged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ebpfperf import metrics


@dataclass(frozen=True, slots=True)
class Arm:
    """Trials whose histograms are added: those of one flow under one treatment."""

    flow: str
    treatment: str


@dataclass(frozen=True, slots=True)
class Merged:
    """A percentile of added histograms, known to within its bin.

    Attributes
    ----------
    value
        The middle of the bin, in the histograms' unit (nanoseconds).
    lower, upper
        The bin's bounds: the percentile is in ``[lower, upper)``.
    count
        Of how many observations it is.
    """

    value: float
    lower: float
    upper: float
    count: int


UNKNOWN = Merged(np.nan, np.nan, np.nan, 0)


class Percentiles:
    """The percentiles of every arm of a campaign.

    Parameters
    ----------
    histograms, trials
        The store's frames; only histograms of the trials given are added, so leave out what is not
        to count.
    """

    def __init__(self, histograms: pd.DataFrame, trials: pd.DataFrame) -> None:
        ours = trials[["trial_id", "flow", "treatment"]]
        rows = histograms.merge(ours, on="trial_id", validate="many_to_one")
        bins = ["metric", "endpoint", "flow", "treatment", "lower_ns", "upper_ns"]
        self._rows = rows.groupby(bins, as_index=False)["count"].sum()

    def of(self, metric: metrics.Metric, arm: Arm) -> Merged:
        """The metric's percentile by nearest rank (as ``histograms.quantile``), or ``UNKNOWN``.

        Raises
        ------
        ValueError
            The metric is no percentile.
        """
        wanted = metric.percentile
        if wanted is None:
            raise ValueError(f"{metric.name} is no percentile")
        rows = self._rows
        names = rows["metric"]
        of_metric = (
            names.str.startswith(wanted.histogram)
            if wanted.histogram.endswith(":")
            else names.eq(wanted.histogram)
        )
        kept = of_metric & rows["flow"].eq(arm.flow) & rows["treatment"].eq(arm.treatment)
        if wanted.endpoint:
            kept &= rows["endpoint"].eq(wanted.endpoint)
        counts = rows[kept].groupby(["lower_ns", "upper_ns"])["count"].sum()
        total = int(counts.sum())
        if not total:
            return UNKNOWN
        rank = max(1, int(np.ceil(wanted.quantile * total - 1e-9)))
        place = int(np.searchsorted(counts.cumsum().to_numpy(), rank))
        lower, upper = counts.index[place]
        return Merged((lower + upper) / 2, float(lower), float(upper), total)
