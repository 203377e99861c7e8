"""Simulated campaigns as the trials frames that real ones give, judged by ``compare``. Pure."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import simulated
from calibration import LEVEL, NOISE
from numpy.typing import NDArray
from simulated import AGAIN, BASELINE, CHANGED

from ebpfperf import compare, frames, intervals, judging, metrics, plan, records
from ebpfperf.model import Campaign, Role, Status, TrialResult

_METRIC, _RATE_BITS_PER_S = "received_bits_per_s", 1e9


def trials_frame(campaign: Campaign, logs: NDArray[np.float64]) -> pd.DataFrame:
    """The trials of a campaign of ``simulated``, with rates whose logs are by block and arm."""
    rows = []
    for trial in plan.schedule(campaign):
        again = AGAIN if trial.role is Role.AGAIN else BASELINE
        arm = again if trial.treatment.name == campaign.baseline else CHANGED
        result = TrialResult(
            trial,
            Status.OK,
            "",
            start_utc="2026-01-01T00:00:00Z",
            duration_s=1.0,
            overhead_s=0.1,
            metrics={_METRIC: _RATE_BITS_PER_S * math.exp(logs[trial.block, arm])},
        )
        rows += records.rows(campaign.name, result)["trials"]
    return frames.build("trials", rows)


def alarms_of_compare(kind: str, *, campaigns: int, blocks: int) -> tuple[NDArray[np.bool_], int]:
    """Whether each campaign's A/A test is established by ``compare``, and how many differ.

    Differing are those whose verdict, interval or p is not the one of the logs themselves.
    """
    logs = NOISE * simulated.arms(kind, campaigns=campaigns, blocks=blocks)
    alarms, differing = np.zeros(campaigns, dtype=bool), 0
    for seed in range(campaigns):
        campaign = simulated.campaign(seed, blocks=blocks)
        (row,) = compare.aa_test(trials_frame(campaign, logs[seed]), campaign).to_dict("records")
        alarms[seed] = row["verdict"] in judging.ESTABLISHED
        ratios = logs[seed, :, AGAIN] - logs[seed, :, BASELINE]
        found = intervals.paired_interval(ratios, level=LEVEL)
        assert found is not None
        judged = judging.judge(
            math.exp(found.low),
            math.exp(found.high),
            margin_pct=campaign.margin_pct,
            better=metrics.Better.HIGHER,
        )
        differing += not (
            np.allclose(np.log([row["low"], row["high"]]), [found.low, found.high], atol=1e-9)
            and math.isclose(row["p_value"], intervals.paired_p(ratios), abs_tol=1e-9)
            and row["verdict"] == judged.verdict
        )
    return alarms, differing
