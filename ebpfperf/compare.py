"""Trials to effects: each treatment against the baseline, block by block, with a verdict.

Within a block every treatment ran close in time, so a slow machine slows them all; the ratio of the
two trials of one block cancels it. One ratio per block is one observation. The logarithms of the
ratios are summarised (``stats``), and the interval, not the estimate, gives the verdict:

- *void*: fewer than six complete blocks, so that no interval of the asked level exists;
- *equivalent*: the whole interval lies within the margin fixed in the campaign file;
- *better*, *worse*: the interval excludes no change;
- *undecided*: none of these; ``detectable_pct`` says what could have been seen.

The margin is symmetric in the logarithm (5 % means 1/1.05 to 1.05), so that exchanging baseline and
treatment turns a verdict into its mirror image.

Bare trials, which ran without the campaign's probes, are compared to the baseline's others alone:
``watched`` leaves them out of every comparison of treatments, ``probe_overhead`` is theirs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ebpfperf import metrics, stats
from ebpfperf.model import Campaign, Flow, Role, Status

FEWEST_BLOCKS = 6
PROBES_ON, PROBES_OFF = "probes on", "probes off"

COLUMNS: dict[str, str] = {
    "metric": "str", "flow": "str", "treatment": "str", "baseline": "str",
    "ratio": "float64", "low": "float64", "high": "float64", "level": "float64",
    "n_blocks": "int64", "detectable_pct": "float64", "verdict": "str", "warnings": "str",
    "p_value": "float64", "size": "str", "reason": "str", "planned_blocks": "int64",
    "value": "float64", "baseline_value": "float64", "overlay": "str", "path": "str",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and where the interval lies against the margin (``size``, may be empty)."""

    verdict: str
    size: str = ""


def judge(low: float, high: float, *, margin_pct: float, better: metrics.Better) -> Judgement:
    """What an interval of a ratio to the baseline says, given the margin and the good direction."""
    margin = 1 + margin_pct / 100
    changed = not low <= 1 <= high
    if 1 / margin <= low and high <= margin:
        return Judgement("equivalent", "a change within the margin" if changed else "")
    if not changed:
        return Judgement("undecided")
    higher = low > 1
    good = higher is (better is metrics.Better.HIGHER)
    beyond = low > margin or high < 1 / margin
    return Judgement(
        "better" if good else "worse",
        "beyond the margin" if beyond else "perhaps within the margin",
    )


def effects(
    trials: pd.DataFrame, campaign: Campaign, *, facts: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Every metric, flow and treatment against the baseline: one row each, with a verdict.

    Parameters
    ----------
    trials
        Trials frame; only rows of status ``ok`` are compared, and no bare trials. Blocks lacking
        either side are dropped and counted in ``warnings``.
    facts
        Facts frame; adds the warnings that only the nodes' facts can give.

    Returns
    -------
    DataFrame
        ``COLUMNS``; ``ratio`` is the Hodges-Lehmann ratio to the baseline, ``low`` and ``high`` its
        interval at ``level`` (the level achieved, at least the campaign's), widened by the width of
        the bins a metric was read from. ``value`` and ``baseline_value`` are medians over the
        paired blocks. Interval and p are NaN where the verdict is void; ``reason`` says why.

    Raises
    ------
    ValueError
        Two trials claim the same block, treatment and flow.
    """
    trials = watched(trials, campaign)
    rows = [
        _effect(trials, campaign, flow=flow, treatment=treatment.name, metric=metric, facts=facts)
        for metric in metrics.CATALOGUE
        for flow in campaign.flows
        if _measured(trials, flow, metric.name)
        for treatment in campaign.treatments
        if treatment.name != campaign.baseline
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def watched(trials: pd.DataFrame, campaign: Campaign) -> pd.DataFrame:
    """The trials by which treatments are compared: not bare ones, nor those of the A/A test."""
    # Frames written before schema 3 have no roles, nor has one without rows.
    return trials[trials["role"].eq(Role.COMPARED.value)] if "role" in trials else trials


def probe_overhead(
    trials: pd.DataFrame, campaign: Campaign, *, facts: pd.DataFrame | None = None
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
        return pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    under = campaign.treatment(campaign.baseline)
    arms = replace(
        campaign,
        treatments=(replace(under, name=PROBES_OFF), replace(under, name=PROBES_ON)),
        baseline=PROBES_OFF,
        probes_off=False,
    )
    ours = trials[trials["role"].isin([Role.COMPARED.value, Role.BARE.value])]
    ours = ours[ours["treatment"].eq(campaign.baseline)]
    bare = ours["role"].eq(Role.BARE.value)
    good = ours[bare & ours["status"].eq(Status.OK.value)]
    of_probes = [
        metric.name
        for metric in metrics.CATALOGUE
        if metric.name in ours and len(good) and good[metric.name].isna().all()
    ]
    named = ours.assign(treatment=np.where(bare, PROBES_OFF, PROBES_ON), role=Role.COMPARED.value)
    return effects(named.drop(columns=of_probes), arms, facts=facts)


def baseline_first(campaign: Campaign) -> list[str]:
    """Names of the treatments, the baseline first, the others as in the campaign file."""
    others = [one.name for one in campaign.treatments if one.name != campaign.baseline]
    return [campaign.baseline, *others]


def shared_kernel(facts: pd.DataFrame) -> bool:
    """Whether two nodes have shown the same boot_id: they share kernel and cores."""
    boots = facts.loc[facts["name"].eq("boot_id") & ~facts["value"].str.startswith("UNKNOWN")]
    latest = boots.groupby("node")["value"].last()
    return bool(latest.duplicated().any())


def paired(trials: pd.DataFrame, *, flow: str, metric: str) -> pd.DataFrame:
    """Values by block (rows) and treatment (columns), ok trials with a positive value only."""
    usable = trials[
        trials["flow"].eq(flow) & trials["status"].eq(Status.OK.value) & trials[metric].gt(0)
    ]
    if usable.duplicated(["block", "treatment"]).any():
        raise ValueError(f"flow {flow!r} has two trials of one treatment in one block")
    return usable.pivot(index="block", columns="treatment", values=metric)


def _measured(trials: pd.DataFrame, flow: Flow, metric: str) -> bool:
    if metric not in trials or not metrics.metric(metric).of(flow.load):
        return False
    good = trials["flow"].eq(flow.name) & trials["status"].eq(Status.OK.value)
    return bool(trials.loc[good, metric].gt(0).any())


def _effect(
    trials: pd.DataFrame,
    campaign: Campaign,
    *,
    flow: Flow,
    treatment: str,
    metric: metrics.Metric,
    facts: pd.DataFrame | None,
) -> dict[str, object]:
    table = paired(trials, flow=flow.name, metric=metric.name)
    table = table.reindex(columns=[campaign.baseline, treatment]).dropna()
    ratios = np.log(table[treatment].to_numpy() / table[campaign.baseline].to_numpy())
    row: dict[str, object] = {
        "metric": metric.name,
        "flow": flow.name,
        "path": flow.path.value,
        "treatment": treatment,
        "overlay": campaign.treatment(treatment).overlay_name,
        "baseline": campaign.baseline,
        "n_blocks": len(table),
        "planned_blocks": campaign.blocks,
        "ratio": math.exp(stats.hodges_lehmann(ratios)) if len(table) else math.nan,
        "value": float(table[treatment].median()),
        "baseline_value": float(table[campaign.baseline].median()),
        "warnings": "; ".join(
            _warnings(trials, campaign, flow=flow, treatment=treatment, n_blocks=len(table))
            + _binned(metric, campaign)
            + _sharing(metric, facts)
        ),
        "size": "",
        "reason": "",
    }
    interval = stats.signed_rank_interval(ratios, level=campaign.level)
    if len(table) < FEWEST_BLOCKS or interval is None:
        needed = max(FEWEST_BLOCKS, _blocks_needed(campaign.level))
        reason = f"too few blocks: {len(table)} of {needed}"
        return row | {"verdict": "void", "reason": reason}
    widening = math.log1p(metric.resolution_pct / 100)
    widened = stats.Interval(
        interval.estimate,
        interval.low - widening,
        interval.high + widening,
        interval.level,
        interval.n,
    )
    low, high = math.exp(widened.low), math.exp(widened.high)
    judgement = judge(low, high, margin_pct=campaign.margin_pct, better=metric.better)
    return row | {
        "low": low,
        "high": high,
        "level": interval.level,
        "detectable_pct": stats.half_width_pct(widened),
        "p_value": stats.signed_rank_p(ratios),
        "verdict": judgement.verdict,
        "size": judgement.size,
    }


def _blocks_needed(level: float) -> int:
    """The fewest observations whose widest exact interval reaches ``level``."""
    return next(n for n in range(1, 64) if 1 - 2 / 2**n >= level)


def _warnings(
    trials: pd.DataFrame, campaign: Campaign, *, flow: Flow, treatment: str, n_blocks: int
) -> list[str]:
    """Sentences on what this pair of treatments lost, and on what else differs between them."""
    ours = trials[trials["flow"].eq(flow.name)]
    ours = ours[ours["treatment"].isin([treatment, campaign.baseline])]
    found = []
    if n_blocks < campaign.blocks:
        lost = ours[ours["status"].ne(Status.OK.value)]
        causes = sorted({str(reason).split(":")[0] for reason in lost["reason"] if reason})
        found.append(
            f"{campaign.blocks - n_blocks} of {campaign.blocks} blocks incomplete"
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
