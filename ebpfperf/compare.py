"""Trials to effects: each treatment against the baseline, block by block, with a verdict.

Within a block every treatment ran close in time, so a slow machine slows them all; the ratio of the
two trials of one block cancels it. One ratio per block is one observation. The logarithms of the
ratios are summarised (``intervals``), and the interval, not the estimate, gives the verdict
(``judging`` has the rules). Below six blocks there is no interval and nothing is decided; what
could have been detected stands beside every verdict (``power``).

Imported results have no blocks in which trials were close in time (``Design.INDEPENDENT``): there
every trial of one arm may stand beside any of the other, and at least four of each are needed.

Trials of the baseline that are there for another purpose are left out of every comparison of
treatments: ``watched`` does that. ``probe_overhead`` compares bare trials, which ran without the
campaign's probes, to the baseline's others, and ``aa_test`` the baseline to itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ebpfperf import judging, metrics, sequential, stats
from ebpfperf.estimates import FEWEST_BLOCKS, Logs, fewest, paired
from ebpfperf.estimates import logs as logs_of
from ebpfperf.model import Campaign, Design, Flow, Role, Status, Treatment
from ebpfperf.percentiles import UNKNOWN, Arm, Merged, Percentiles

__all__ = [
    "AGAIN", "COLUMNS", "FEWEST_BLOCKS", "ONCE", "PROBES_OFF", "PROBES_ON", "aa_test",
    "baseline_first", "effects", "empty", "level", "paired", "probe_overhead", "shared_kernel",
    "watched",
]  # fmt: skip

PROBES_ON, PROBES_OFF = "probes on", "probes off"
ONCE, AGAIN = "baseline", "baseline again"

COLUMNS: dict[str, str] = {
    "metric": "str", "flow": "str", "treatment": "str", "baseline": "str",
    "ratio": "float64", "low": "float64", "high": "float64", "level": "float64",
    "n_blocks": "int64", "detectable_pct": "float64", "verdict": "str", "warnings": "str",
    "p_value": "float64", "size": "str", "reason": "str", "planned_blocks": "int64",
    "value": "float64", "baseline_value": "float64", "overlay": "str", "path": "str",
    "value_low": "float64", "value_high": "float64",
    "baseline_value_low": "float64", "baseline_value_high": "float64",
    "n_baseline": "int64", "primary": "bool", "family": "int64", "p_holm": "float64",
    "marks": "str",
}  # fmt: skip


def effects(
    trials: pd.DataFrame,
    campaign: Campaign,
    *,
    facts: pd.DataFrame | None = None,
    histograms: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Every metric, flow and treatment against the baseline: one row each, with a verdict.

    Parameters
    ----------
    trials
        Trials frame; only rows of status ``ok`` are compared, and only those of role ``compared``.
        Blocks lacking either side are dropped and counted in ``warnings``.
    facts
        Facts frame; adds the warnings that only the nodes' facts can give.
    histograms
        Histograms frame; percentiles are read from it, and unknown without it.

    Returns
    -------
    DataFrame
        ``COLUMNS``. ``ratio`` is the Hodges-Lehmann ratio to the baseline, ``low`` and ``high`` its
        interval at ``level`` (the level achieved, at least the campaign's), widened by the width of
        the bins a metric was read from. ``value`` and ``baseline_value`` are medians over the
        trials compared; of a percentile, that of all their observations together, with its bin's
        bounds in ``value_low`` and ``value_high``. The ratio of a percentile is that of the trials'
        own percentiles. ``p_holm`` is ``p_value`` among the ``family`` metrics of the question;
        ``detectable_pct`` is the smallest change that such a campaign establishes four times out of
        five, infinite where there is none. ``reason`` says why nothing is decided; ``marks``, why a
        verdict is not to be relied on, is empty here (``verdicts`` fills it).

    Raises
    ------
    ValueError
        Two trials claim the same block, treatment and flow.
    """
    trials = watched(trials, campaign)
    good = trials[trials["status"].eq(Status.OK.value)]
    merged = None if histograms is None else Percentiles(histograms, good)
    rows = [
        _estimate(
            trials,
            campaign,
            flow=flow,
            treatment=treatment,
            metric=metric,
            facts=facts,
            merged=merged,
        )
        for metric in metrics.CATALOGUE
        for flow in campaign.flows
        if _measured(trials, flow, metric.name)
        for treatment in campaign.treatments
        if treatment.name != campaign.baseline
    ]
    judging.families([row for row, _ in rows])
    judged = [_judged(row, logs, campaign) for row, logs in rows]
    return pd.DataFrame(judged, columns=list(COLUMNS)).astype(COLUMNS)


def watched(trials: pd.DataFrame, campaign: Campaign) -> pd.DataFrame:
    """The trials by which treatments are compared: not bare ones, nor those of the A/A test."""
    # Frames written before schema 3 have no roles, nor has one without rows.
    return trials[trials["role"].eq(Role.COMPARED.value)] if "role" in trials else trials


def probe_overhead(
    trials: pd.DataFrame,
    campaign: Campaign,
    *,
    facts: pd.DataFrame | None = None,
    histograms: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """What the probes did to the baseline: its trials with them against its bare ones.

    Estimated, paired by block and judged as in ``effects``; what only the probes measure has
    nothing to be compared to, and no row.

    Returns
    -------
    DataFrame
        ``COLUMNS``, with treatment ``PROBES_ON`` and baseline ``PROBES_OFF``; empty for a campaign
        without bare trials.
    """
    if not campaign.probes_off:
        return empty()
    ours = _baseline_twice(trials, campaign, {Role.BARE: PROBES_OFF, Role.COMPARED: PROBES_ON})
    bare = ours[ours["treatment"].eq(PROBES_OFF) & ours["status"].eq(Status.OK.value)]
    of_probes = [
        metric.name
        for metric in metrics.CATALOGUE
        if metric.name in ours and len(bare) and bare[metric.name].isna().all()
    ]
    arms = _two_arms(campaign, PROBES_OFF, PROBES_ON)
    return effects(ours.drop(columns=of_probes), arms, facts=facts, histograms=histograms)


def aa_test(
    trials: pd.DataFrame,
    campaign: Campaign,
    *,
    facts: pd.DataFrame | None = None,
    histograms: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The baseline against itself, run as if it were two treatments: no effect is what is true.

    Returns
    -------
    DataFrame
        ``COLUMNS``, with treatment ``AGAIN`` and baseline ``ONCE``; empty for a campaign without an
        A/A test.
    """
    if not campaign.aa_test:
        return empty()
    ours = _baseline_twice(trials, campaign, {Role.COMPARED: ONCE, Role.AGAIN: AGAIN})
    return effects(ours, _two_arms(campaign, ONCE, AGAIN), facts=facts, histograms=histograms)


def empty() -> pd.DataFrame:
    """The effects frame without rows."""
    return pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)


def _baseline_twice(
    trials: pd.DataFrame, campaign: Campaign, names: dict[Role, str]
) -> pd.DataFrame:
    """The baseline's trials of two roles, as two treatments of those names."""
    roles = {role.value: name for role, name in names.items()}
    ours = trials[trials["treatment"].eq(campaign.baseline) & trials["role"].isin(list(roles))]
    return ours.assign(treatment=ours["role"].map(roles), role=Role.COMPARED.value)


def _two_arms(campaign: Campaign, baseline: str, other: str) -> Campaign:
    """The campaign as if it compared the baseline to itself, under two names."""
    under = campaign.treatment(campaign.baseline)
    return replace(
        campaign,
        treatments=(replace(under, name=baseline), replace(under, name=other)),
        baseline=baseline,
        probes_off=False,
        aa_test=False,
    )


def level(campaign: Campaign) -> float:
    """The confidence level of each interval, 0 to 1: of a campaign that may end early, its look's.

    While such a campaign runs, its numbers are at the level of the last look that it may have.
    """
    if campaign.until_pct is None:
        return campaign.level
    planned = sequential.looks(campaign.blocks, level=campaign.level)
    return sequential.spent_level(campaign.run_blocks, planned, level=campaign.level)


def baseline_first(campaign: Campaign) -> list[str]:
    """Names of the treatments, the baseline first, the others as in the campaign file."""
    others = [one.name for one in campaign.treatments if one.name != campaign.baseline]
    return [campaign.baseline, *others]


def shared_kernel(facts: pd.DataFrame) -> bool:
    """Whether two nodes have shown the same boot_id: they share kernel and cores."""
    boots = facts.loc[facts["name"].eq("boot_id") & ~facts["value"].str.startswith("UNKNOWN")]
    latest = boots.groupby("node")["value"].last()
    return bool(latest.duplicated().any())


def _measured(trials: pd.DataFrame, flow: Flow, metric: str) -> bool:
    if metric not in trials or not metrics.metric(metric).of(flow.load):
        return False
    good = trials["flow"].eq(flow.name) & trials["status"].eq(Status.OK.value)
    return bool(trials.loc[good, metric].gt(0).any())


def _estimate(
    trials: pd.DataFrame,
    campaign: Campaign,
    *,
    flow: Flow,
    treatment: Treatment,
    metric: metrics.Metric,
    facts: pd.DataFrame | None,
    merged: Percentiles | None,
) -> tuple[dict[str, Any], Logs]:
    """An effect without its verdict, and what it is of."""
    table = paired(trials, flow=flow.name, metric=metric.name)
    logs = logs_of(table, campaign, treatment.name)
    treated = _value(logs.treated, metric, merged, Arm(flow.name, treatment.name))
    before = _value(logs.baseline, metric, merged, Arm(flow.name, campaign.baseline))
    estimate = logs.estimate
    row: dict[str, Any] = {
        "metric": metric.name,
        "flow": flow.name,
        "path": flow.path.value,
        "treatment": treatment.name,
        "overlay": treatment.overlay_name,
        "baseline": campaign.baseline,
        "n_blocks": logs.treated.size,
        "n_baseline": logs.baseline.size,
        # Where blocks mean nothing, none were planned.
        "planned_blocks": campaign.run_blocks if logs.paired else 0,
        "ratio": math.nan if math.isnan(estimate) else math.exp(estimate),
        "value": treated.value,
        "value_low": treated.lower,
        "value_high": treated.upper,
        "baseline_value": before.value,
        "baseline_value_low": before.lower,
        "baseline_value_high": before.upper,
        "primary": metric.name in metrics.HEADLINE,
        "p_value": logs.p_value if logs.enough(level(campaign)) else math.nan,
        "warnings": "; ".join(
            _warnings(
                trials, campaign, flow=flow, treatment=treatment.name, n_blocks=min(logs.sizes)
            )
            + _binned(metric, campaign)
            + _sharing(metric, facts)
        ),
        "size": "",
        "reason": "",
        "marks": "",
    }
    return row, logs


def _value(
    logs: stats.Floats, metric: metrics.Metric, merged: Percentiles | None, arm: Arm
) -> Merged:
    """What an arm did: the percentile of all its observations, or the median of its trials."""
    if metric.percentile is not None:
        return UNKNOWN if merged is None else merged.of(metric, arm)
    if not logs.size:
        return UNKNOWN
    middle = float(np.median(np.exp(logs)))
    return Merged(middle, middle, middle, logs.size)


def _judged(row: dict[str, Any], logs: Logs, campaign: Campaign) -> dict[str, Any]:
    """The effect with its interval and verdict."""
    metric, asked = metrics.metric(row["metric"]), level(campaign)
    if not min(logs.sizes):
        what = "complete block" if logs.paired else "trial of both arms"
        return row | {"verdict": judging.VOID, "reason": f"no {what} has this number"}
    found = logs.interval(asked) if logs.enough(asked) else None
    if found is None:
        few = judging.too_few(
            logs.ratios.tolist(),
            sizes=logs.sizes,
            smallest_p=logs.smallest_p,
            fewest=fewest(asked, paired=logs.paired),
        )
        return row | {"verdict": judging.UNDECIDED, "reason": few}
    widening = math.log1p(metric.resolution_pct / 100)
    low, high = math.exp(found.low - widening), math.exp(found.high + widening)
    alone = judging.judge(low, high, margin_pct=campaign.margin_pct, better=metric.better)
    judgement, reason = judging.over_the_question(
        alone, p_holm=row["p_holm"], family=row["family"], level=asked
    )
    detectable = logs.detectable(asked, family=row["family"], widening=widening)
    return row | {
        "low": low,
        "high": high,
        "level": found.level,
        "detectable_pct": 100 * math.expm1(detectable),
        "verdict": judgement.verdict,
        "size": judgement.size,
        "reason": reason,
    }


def _warnings(
    trials: pd.DataFrame, campaign: Campaign, *, flow: Flow, treatment: str, n_blocks: int
) -> list[str]:
    """Sentences on what this pair of treatments lost, and on what else differs between them."""
    ours = trials[trials["flow"].eq(flow.name)]
    ours = ours[ours["treatment"].isin([treatment, campaign.baseline])]
    found = []
    if n_blocks < campaign.run_blocks and campaign.design is Design.BLOCKS:
        lost = ours[ours["status"].ne(Status.OK.value)]
        causes = sorted({str(reason).split(":")[0] for reason in lost["reason"] if reason})
        found.append(
            f"{campaign.run_blocks - n_blocks} of {campaign.run_blocks} blocks incomplete"
            + (f" ({', '.join(causes)})" if causes else "")
        )
    sizes = [_sizes(ours, name) for name in (treatment, campaign.baseline)]
    if all(sizes) and sizes[0] != sizes[1]:
        found.append(
            f"MTU {_listed(sizes[0])} against {_listed(sizes[1])}: belongs to the treatment"
        )
    for size, name in zip(sizes, (treatment, campaign.baseline), strict=True):
        if len(size) > 1:
            found.append(f"MTU of {name} changed during the campaign ({_listed(size)})")
    said = Counter(text for cell in ours["warnings"] for text in cell.split("; ") if text)
    found += [f"{text} ({count} of {len(ours)} trials)" for text, count in said.most_common()]
    return found


def _sizes(trials: pd.DataFrame, treatment: str) -> list[int]:
    if "mtu_bytes" not in trials:
        return []
    sizes = trials.loc[trials["treatment"].eq(treatment), "mtu_bytes"].dropna()
    return sorted({int(size) for size in sizes})


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _binned(metric: metrics.Metric, campaign: Campaign) -> list[str]:
    if metric.resolution_pct <= campaign.margin_pct:
        return []
    return [f"read from bins of {metric.resolution_pct:.1f} %, wider than the margin"]


def _sharing(metric: metrics.Metric, facts: pd.DataFrame | None) -> list[str]:
    if facts is None or "cpu" not in metric.name or not shared_kernel(facts):
        return []
    return ["the nodes share one kernel: CPU of both ends is counted together"]
