"""Two campaigns to effects: what each treatment did after against before. Pure.

The trials of two campaigns are not paired: each flow and treatment is two independent samples of
trials, compared as imported results are (``compare``, ``estimates``). "Did it get worse?" is one
question, whatever it is asked of, so that all primary rows share the error by Holm's procedure.

A treatment's **cost** is its ratio to the baseline, paired by block. What changed for the whole
cluster (other machines, a slower underlay) moves treatment and baseline alike and cancels in it;
the cost after over the cost before is a ratio of ratios.

An interval covers how trials differ within a campaign, not how a campaign differs from its own
repetition on another day: ``docs/between-campaigns.md`` says how to see that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ebpfperf import compare, estimates, judging, metrics, stats
from ebpfperf.errors import InputError
from ebpfperf.estimates import Logs
from ebpfperf.model import Campaign, Design, Flow, Path, Status

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two campaigns, and the frames of its store.

    Attributes
    ----------
    name
        What a reader knows it by: its directory.
    histograms
        None leaves the values of percentiles unknown, not their ratios.
    aa, gates
        Its A/A test and what gates found of its trials (``verdicts``); None where nobody looked.
    """

    name: str
    campaign: Campaign
    trials: pd.DataFrame
    facts: pd.DataFrame
    histograms: pd.DataFrame | None = None
    aa: pd.DataFrame | None = None
    gates: pd.DataFrame | None = None

    @property
    def watched(self) -> pd.DataFrame:
        """The trials by which treatments are compared, whatever their status."""
        return compare.watched(self.trials, self.campaign)

    @property
    def good(self) -> pd.DataFrame:
        """Those of them whose numbers may be used."""
        return self.watched[self.watched["status"].eq(Status.OK.value)]


@dataclass(frozen=True, slots=True)
class Pair:
    """A treatment before, and the one after that it is compared with."""

    before: str
    after: str

    @property
    def name(self) -> str:
        """What frames call it: by the one name, or ``ipip=vxlan``."""
        return self.after if self.before == self.after else f"{self.before}={self.after}"


def pairs(
    before: Campaign, after: Campaign, *, renamed: Mapping[str, str] | None = None
) -> tuple[Pair, ...]:
    """The treatments that both campaigns have, in the order of the one before.

    Parameters
    ----------
    renamed
        Name before → name after, where they differ.

    Raises
    ------
    InputError
        A name is no treatment's, or two are to be compared with the same one.
    """
    given = dict(renamed or {})
    ours = [one.name for one in before.treatments]
    theirs = [one.name for one in after.treatments]
    for side, asked, names in ((BEFORE, given, ours), (AFTER, given.values(), theirs)):
        for name in asked:
            if name not in names:
                raise InputError(
                    f"The campaign {side} has no treatment {name!r}.", f"It has {_listed(names)}."
                )
    taken = set(given.values())
    if len(taken) < len(given):
        raise InputError(
            "Two treatments before would be compared with the same one after.",
            "Give each name after once.",
        )
    found = {name: name for name in ours if name in theirs and name not in taken} | given
    return tuple(Pair(name, found[name]) for name in ours if name in found)


def common_flows(before: Campaign, after: Campaign) -> tuple[Flow, ...]:
    """The flows whose names both campaigns have, as they are after."""
    names = {flow.name for flow in before.flows}
    return tuple(flow for flow in after.flows if flow.name in names)


def left_out(before: Campaign, after: Campaign, *, paired: Sequence[Pair]) -> tuple[str, ...]:
    """Sentences on the treatments and flows that one campaign alone has."""
    common = {flow.name for flow in common_flows(before, after)}
    said = []
    for side, campaign in ((BEFORE, before), (AFTER, after)):
        known = {pair.before if side == BEFORE else pair.after for pair in paired}
        alone = [one.name for one in campaign.treatments if one.name not in known]
        if alone:
            said.append(f"Not compared: only the campaign {side} has treatment {_listed(alone)}.")
        alone = [flow.name for flow in campaign.flows if flow.name not in common]
        if alone:
            said.append(f"Not compared: only the campaign {side} has flow {_listed(alone)}.")
    return tuple(said)


def effects(
    before: Side, after: Side, *, paired: Sequence[Pair], margin_pct: float, level: float
) -> pd.DataFrame:
    """Every metric, flow and pair of treatments, after against before: one row each.

    Returns
    -------
    DataFrame
        ``compare.COLUMNS``, with ``baseline`` "before": ``ratio`` is after over before;
        ``n_blocks`` and ``n_baseline`` count trials after and before. ``family`` is the number of
        primary rows that have a p. A path that no overlay touches is a control: its rows are not
        primary while there are others, and share an error of their own. A row is void where a side
        has no trial with its number.
    """
    common = common_flows(before.campaign, after.campaign)
    asked = {flow.name for flow in common if flow.path is not Path.HOST_HOST}
    asked = asked or {flow.name for flow in common}
    shared = after if compare.shared_kernel(after.facts) else before
    found: list[tuple[dict[str, Any], Logs]] = []
    for pair in paired:
        arms = replace(
            after.campaign,
            treatments=(
                replace(before.campaign.treatment(pair.before), name=BEFORE),
                replace(after.campaign.treatment(pair.after), name=AFTER),
            ),
            baseline=BEFORE,
            flows=common,
            margin_pct=margin_pct,
            level=level,
            until_pct=None,
            design=Design.INDEPENDENT,
        )
        trials, histograms = _together(before, after, pair)
        described = compare.effects(trials, arms, facts=shared.facts, histograms=histograms)
        for row in described.to_dict("records"):
            table = estimates.paired(trials, flow=row["flow"], metric=row["metric"])
            more = {
                "treatment": pair.name,
                "primary": bool(row["primary"]) and row["flow"] in asked,
                "warnings": "; ".join(
                    [*_lost(before, after, pair, flow=row["flow"]), *_given(row["warnings"])]
                ),
            }
            found.append(
                ({str(k): v for k, v in row.items()} | more, estimates.logs(table, arms, AFTER))
            )
    # By metric, then flow, then treatment, as in a comparison within one campaign.
    order = {metric.name: place for place, metric in enumerate(metrics.CATALOGUE)}
    flows = {flow.name: place for place, flow in enumerate(common)}
    found.sort(key=lambda one: (order[one[0]["metric"]], flows[one[0]["flow"]]))
    return _answered(found, compare.COLUMNS, margin_pct=margin_pct, level=level, bins=1)


COST_COLUMNS: dict[str, str] = dict(compare.COLUMNS)
"""As ``compare.COLUMNS``; ``value`` and ``baseline_value`` are the costs after and before."""


def costs(
    before: Side, after: Side, *, paired: Sequence[Pair], margin_pct: float, level: float
) -> pd.DataFrame:
    """What each treatment did to its campaign's baseline, after against before: one row each.

    Returns
    -------
    DataFrame
        ``COST_COLUMNS``: ``baseline_value`` is the treatment's ratio to the baseline before,
        ``value`` the one after (each the Hodges-Lehmann ratio over blocks) and ``ratio`` the second
        over the first; ``better`` is said of a treatment that costs less than it did. Counts are of
        blocks. ``family`` is over these rows. Empty where the baselines are not compared with each
        other, or where a campaign's trials are not paired by block.
    """
    bases = Pair(before.campaign.baseline, after.campaign.baseline)
    designs = {before.campaign.design, after.campaign.design}
    found: list[tuple[dict[str, Any], Logs]] = []
    if bases in paired and designs == {Design.BLOCKS}:
        for metric in metrics.CATALOGUE:
            for flow in common_flows(before.campaign, after.campaign):
                if flow.path is Path.HOST_HOST or not metric.of(flow.load):
                    continue
                for pair in paired:
                    logs = Logs(
                        _ratios(before, flow.name, metric.name, pair.before),
                        _ratios(after, flow.name, metric.name, pair.after),
                        paired=False,
                    )
                    if pair != bases and max(logs.sizes):
                        row = _cost(metric, flow, pair, logs, level=level)
                        treatment = after.campaign.treatment(pair.after)
                        more = {"baseline": bases.name, "overlay": treatment.overlay_name}
                        found.append((row | more, logs))
    return _answered(found, COST_COLUMNS, margin_pct=margin_pct, level=level, bins=2)


def _together(before: Side, after: Side, pair: Pair) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The trials of a pair as those of two arms, and their histograms."""
    trials, bins = [], []
    for name, side, treatment in ((BEFORE, before, pair.before), (AFTER, after, pair.after)):
        ours = side.watched[side.watched["treatment"].eq(treatment)]
        # Without MTU: how it may differ is another question than between treatments.
        ours = ours.drop(columns="mtu_bytes", errors="ignore")
        trials.append(ours.assign(treatment=name, trial_id=f"{name}:" + ours["trial_id"]))
        if side.histograms is not None:
            bins.append(side.histograms.assign(trial_id=f"{name}:" + side.histograms["trial_id"]))
    one = pd.concat(trials, ignore_index=True)
    return one, pd.concat(bins, ignore_index=True) if len(bins) == 2 else None


def _lost(before: Side, after: Side, pair: Pair, *, flow: str) -> list[str]:
    """How many trials each side lost, and of what."""
    said = []
    for name, side, treatment in ((BEFORE, before, pair.before), (AFTER, after, pair.after)):
        ours = side.watched[side.watched["flow"].eq(flow) & side.watched["treatment"].eq(treatment)]
        lost = ours[ours["status"].ne(Status.OK.value)]
        if len(lost):
            causes = sorted({str(reason).split(":")[0] for reason in lost["reason"] if reason})
            why = f" ({_listed(causes)})" if causes else ""
            said.append(f"{len(lost)} of {len(ours)} trials {name} lost{why}")
    return said


def _ratios(side: Side, flow: str, metric: str, treatment: str) -> stats.Floats:
    """Log ratios of the treatment to the campaign's baseline, one per block that has both."""
    if metric not in side.trials:
        return np.array([])
    table = estimates.paired(side.good, flow=flow, metric=metric)
    return estimates.logs(table, side.campaign, treatment).ratios


def _cost(
    metric: metrics.Metric, flow: Flow, pair: Pair, logs: Logs, *, level: float
) -> dict[str, Any]:
    """A row of ``costs`` without what is said over all of them."""
    one, other = (
        math.exp(stats.hodges_lehmann(values)) for values in (logs.baseline, logs.treated)
    )
    row: dict[str, Any] = dict.fromkeys(
        (name for name, dtype in COST_COLUMNS.items() if dtype == "float64"), math.nan
    ) | {
        "metric": metric.name,
        "flow": flow.name,
        "path": flow.path.value,
        "treatment": pair.name,
        "n_blocks": logs.treated.size,
        "n_baseline": logs.baseline.size,
        "planned_blocks": 0,
        "primary": metric.name in metrics.HEADLINE,
        "family": 1,
        "ratio": math.exp(logs.estimate),
        "baseline_value": one,
        "value": other,
        "verdict": judging.UNDECIDED,
        "size": "",
        "reason": "",
        "warnings": "",
        "marks": "",
    }
    if not min(logs.sizes):
        side = AFTER if logs.baseline.size else BEFORE
        return row | {
            "verdict": judging.VOID, "reason": f"no complete block {side} has this number"
        }  # fmt: skip
    found = logs.interval(level) if logs.enough(level) else None
    if found is None:
        return row | {
            "reason": judging.too_few(
                logs.ratios.tolist(),
                sizes=logs.sizes,
                smallest_p=logs.smallest_p,
                fewest=estimates.fewest(level, paired=False),
            )
        }
    # Each of the two ratios may be off by a bin.
    widening = 2 * math.log1p(metric.resolution_pct / 100)
    return row | {
        "low": math.exp(found.low - widening),
        "high": math.exp(found.high + widening),
        "level": found.level,
        "p_value": logs.p_value,
        "p_holm": logs.p_value,
    }


def _answered(
    found: Sequence[tuple[dict[str, Any], Logs]],
    columns: Mapping[str, str],
    *,
    margin_pct: float,
    level: float,
    bins: int,
) -> pd.DataFrame:
    """The rows with their verdicts once all primary ones share the error, and the control's."""
    judging.families(
        [row for row, _ in found],
        question=lambda row: row["primary"] if row["metric"] in metrics.HEADLINE else None,
    )
    for row, logs in found:
        if math.isnan(row["low"]):
            continue
        metric = metrics.metric(row["metric"])
        alone = judging.judge(row["low"], row["high"], margin_pct=margin_pct, better=metric.better)
        judgement, reason = judging.over_the_question(
            alone, p_holm=row["p_holm"], family=row["family"], level=level
        )
        widening = bins * math.log1p(metric.resolution_pct / 100)
        seen = logs.detectable(level, family=row["family"], widening=widening)
        row |= {
            "verdict": judgement.verdict,
            "size": judgement.size,
            "reason": reason,
            "detectable_pct": 100 * math.expm1(seen),
        }
    rows = [row for row, _ in found]
    return pd.DataFrame(rows, columns=list(columns)).astype(dict(columns))


def _given(texts: str) -> list[str]:
    return [text for text in texts.split("; ") if text]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
