"""What people do now, on the same noise: how often each way sees a difference where none is. Pure.

Two arms of equal configuration are measured and compared. Noise is as between the trials of a
campaign (``simulated``); within a trial, one-second rates are autocorrelated, and such that runs
differ from each other by about three times what the intervals of one run make believe: 2.3 to 6.4
times was found in published 60-second runs (data of InfraBuilder/benchmark-k8s-cni-2024-01).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from simulated import noise

from ebpfperf import student

Floats = NDArray[np.float64]
Alarms = NDArray[np.bool_]

INTERVALS = 60
NOISE_PCT = 5.0
"""Standard deviation from trial to trial that "5 % apart" is held against."""

_WITHIN_CORRELATION = 0.5
# Standard deviation of one-second rates, in units of that between trials.
_WITHIN = math.sqrt(INTERVALS) / 3


def one_run_each(kind: str, random: np.random.Generator, *, campaigns: int) -> Alarms:
    """One run of A, one run of B; more than the noise's 5 % apart is a difference."""
    series = noise(kind, random, campaigns=campaigns, trials=2)
    apart: Alarms = np.abs(series[:, 1] - series[:, 0]) > 1
    return apart


def welch_on_intervals(kind: str, random: np.random.Generator, *, campaigns: int) -> Alarms:
    """One run each, Welch's t on its one-second intervals."""
    series = noise(kind, random, campaigns=campaigns, trials=2)
    a, b = (series[:, [arm]] + within(random, campaigns=campaigns) for arm in (0, 1))
    return _welch(a, b)


def three_by_eye(kind: str, random: np.random.Generator, *, campaigns: int) -> Alarms:
    """Three runs of A, then three of B; a difference where the ranges do not meet."""
    a, b = _one_after_the_other(kind, random, campaigns=campaigns, runs=3)
    apart: Alarms = (a.max(axis=1) < b.min(axis=1)) | (b.max(axis=1) < a.min(axis=1))
    return apart


def three_by_means(kind: str, random: np.random.Generator, *, campaigns: int) -> Alarms:
    """Three runs of A, then three of B; means more than 5 % of noise apart are a difference."""
    a, b = _one_after_the_other(kind, random, campaigns=campaigns, runs=3)
    apart: Alarms = np.abs(a.mean(axis=1) - b.mean(axis=1)) > 1
    return apart


def three_by_t(kind: str, random: np.random.Generator, *, campaigns: int) -> Alarms:
    """Three runs of A, then three of B; Welch's t."""
    return _welch(*_one_after_the_other(kind, random, campaigns=campaigns, runs=3))


def ten_by_t(kind: str, random: np.random.Generator, *, campaigns: int) -> Alarms:
    """Ten runs of A, then ten of B; Welch's t."""
    return _welch(*_one_after_the_other(kind, random, campaigns=campaigns, runs=10))


WAYS: dict[str, Callable[..., Alarms]] = {
    "one run each, more than 5 % apart": one_run_each,
    "one run each, Welch's t on one-second intervals": welch_on_intervals,
    "three runs each, arm after arm: means 5 % apart": three_by_means,
    "three runs each, arm after arm: ranges do not meet": three_by_eye,
    "three runs each, arm after arm: Welch's t": three_by_t,
    "ten runs each, arm after arm: Welch's t": ten_by_t,
}


def within(random: np.random.Generator, *, campaigns: int) -> Floats:
    """What one-second rates add to their trial's noise: AR(1), by campaign and interval."""
    fresh = random.normal(size=(campaigns, INTERVALS))
    found = fresh.copy()
    new = math.sqrt(1 - _WITHIN_CORRELATION**2)
    for at in range(1, INTERVALS):
        found[:, at] = _WITHIN_CORRELATION * found[:, at - 1] + new * fresh[:, at]
    return _WITHIN * found


def _one_after_the_other(
    kind: str, random: np.random.Generator, *, campaigns: int, runs: int
) -> tuple[Floats, Floats]:
    series = noise(kind, random, campaigns=campaigns, trials=2 * runs)
    return series[:, :runs], series[:, runs:]


def _welch(a: Floats, b: Floats) -> Alarms:
    """Whether Welch's two-sided test rejects at 5 %, row by row."""
    errors = [np.var(one, axis=1, ddof=1) / one.shape[1] for one in (a, b)]
    t = (b.mean(axis=1) - a.mean(axis=1)) / np.sqrt(errors[0] + errors[1])
    size = a.shape[1] - 1
    df = (errors[0] + errors[1]) ** 2 / ((errors[0] ** 2 + errors[1] ** 2) / size)
    # Whole degrees of freedom, rounded down, as in printed tables: never an alarm too many.
    limits = np.array([student.quantile(0.975, max(1, int(one))) for one in df])
    rejected: Alarms = np.abs(t) > limits
    return rejected
