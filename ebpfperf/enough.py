"""When a campaign has measured enough: its intervals are as narrow as was asked for. Pure but once.

A campaign with ``until_pct`` is looked at after some of its blocks (``sequential``), each time at a
level of confidence that leaves the campaign's own to all looks together. It ends at the first look
at which half of every interval that counts is no wider than was asked. Whether an interval is
narrow says nothing of where it lies, so nobody stops because a result is to his taste.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ebpfperf import compare, estimates, metrics, power, sequential, stats, tables, verdicts
from ebpfperf.model import Campaign
from ebpfperf.store import Store


@dataclass(frozen=True, slots=True)
class Width:
    """Half the interval of one effect, percent of the baseline; infinite where there is none."""

    metric: str
    flow: str
    treatment: str
    half_pct: float

    def __str__(self) -> str:
        label = metrics.metric(self.metric).label
        return f"{label} of {self.flow} under {self.treatment} {tables.detectable(self.half_pct)}"


def looks(campaign: Campaign) -> tuple[int, ...]:
    """After how many blocks a campaign may end; the last is its number of blocks."""
    return sequential.looks(campaign.blocks, level=campaign.level)


def widths(trials: pd.DataFrame, campaign: Campaign) -> tuple[Width, ...]:
    """Half of each interval that counts, as of now: between pods where the campaign has such flows.

    Counted are the metrics that a report leads with, or the campaign's ``until_metric``.
    """
    found = compare.effects(trials, campaign)
    counted = [campaign.until_metric] if campaign.until_metric else list(metrics.HEADLINE)
    kept = found[found["metric"].isin(counted) & found["flow"].isin(campaign.asked_flows)]
    return tuple(
        Width(
            row["metric"],
            row["flow"],
            row["treatment"],
            np.inf if pd.isna(row["low"]) else stats.half_width_pct(row["low"], row["high"]),
        )
        for row in kept.to_dict("records")
    )


def too_wide(trials: pd.DataFrame, campaign: Campaign) -> tuple[Width, ...]:
    """The intervals wider than the campaign asks for, as of now; ValueError where it asks none."""
    if campaign.until_pct is None:
        raise ValueError(f"campaign {campaign.name} has no until_pct")
    found = widths(trials, campaign)
    return tuple(width for width in found if not width.half_pct <= campaign.until_pct)


class Ending:
    """Asked before every trial whether the campaign ends here: stopped, or enough measured.

    Parameters
    ----------
    stop
        Whether somebody wants it to end in any case.
    say
        Told in a sentence what a look has shown.
    """

    def __init__(
        self,
        store: Store,
        *,
        stop: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._store, self._stop, self._say = store, stop, say
        self._looked: set[int] = set()

    def __call__(self) -> bool:
        """Whether to end now; looks at what was measured where a look is due."""
        if self._stop():
            return True
        campaign = self._store.campaign
        if campaign.until_pct is None:
            return False
        blocks, part = divmod(len(self._store.completed()), campaign.trials_per_block)
        due = not part and blocks in looks(campaign)[:-1] and blocks not in self._looked
        if not due:
            return False
        self._looked.add(blocks)
        # What gates void takes no part in a verdict, and so narrows none.
        trials = verdicts.trials_of_store(self._store)
        seen = replace(campaign, ended_after=blocks)
        wide = too_wide(trials, seen)
        if not wide and widths(trials, seen):
            self._store.end_after(blocks)
            self._say(
                f"Ended after {blocks} of {campaign.blocks} blocks: every interval is within "
                f"±{campaign.until_pct:g} %."
            )
            return True
        widest = max(wide, key=lambda width: width.half_pct, default=None)
        self._say(
            f"After {blocks} of {campaign.blocks} blocks {len(wide)} intervals are wider than "
            f"±{campaign.until_pct:g} %; the widest: {widest or UNSEEN}."
        )
        return False


UNSEEN = "none has a number yet"


def asked_for(trials: pd.DataFrame, ran: Campaign, campaign: Campaign) -> tuple[str, ...]:
    """How many blocks a campaign needs at the noise of one that ran, in sentences by metric.

    Parameters
    ----------
    trials, ran
        The trials frame and campaign that tell the noise.
    campaign
        What is planned: its flows and treatments of the same names are looked at, for intervals as
        narrow as its ``until_pct``, or else as its margin. One that may end early is told the first
        look at which they are, at the level of that look; if none of its own is, those of a longer
        campaign are asked.
    """
    half_pct = campaign.until_pct or campaign.margin_pct
    watched = compare.watched(trials, ran)
    said = []
    for name in [campaign.until_metric] if campaign.until_metric else metrics.HEADLINE:
        metric, needed = metrics.metric(name), dict[str, int]()
        # What is left for the noise: an interval is widened by a bin at each end.
        left_pct = 100 * ((1 + half_pct / 100) / (1 + metric.resolution_pct / 100) - 1)
        for flow in campaign.flows:
            if flow.name not in campaign.asked_flows or name not in watched:
                continue
            if not metric.of(flow.load):
                continue
            table = estimates.paired(watched, flow=flow.name, metric=name)
            for treatment in campaign.treatments:
                if treatment.name == campaign.baseline or treatment.name not in table:
                    continue
                if campaign.baseline not in table:
                    continue
                logs = estimates.logs(table, replace(campaign, design=ran.design), treatment.name)
                if not logs.paired or not logs.ratios.size:
                    continue
                found = _blocks(logs.ratios, campaign, left_pct) if left_pct > 0 else MANY_BLOCKS
                if found is not None:
                    needed[flow.name] = max(found, needed.get(flow.name, 0))
        said += [
            f"{metric.label} of {flow}: {_amount(count, metric, half_pct, left_pct)}"
            for flow, count in needed.items()
        ]
    return tuple(said)


def _amount(count: int, metric: metrics.Metric, half_pct: float, left_pct: float) -> str:
    within = f"intervals within ±{half_pct:g} %"
    if left_pct <= 0:
        bins = f"bins of {metric.resolution_pct:.1f} %"
        return f"no number of blocks gives {within}: it is read from {bins}."
    if count > MANY_BLOCKS:
        instead = "lengthen its trials or quieten the nodes first"
        return f"more than {MANY_BLOCKS} blocks for {within}; {instead}."
    return f"about {count} blocks for {within}."


MANY_BLOCKS = 200


def _blocks(ratios: stats.Floats, campaign: Campaign, half_width_pct: float) -> int | None:
    """After how many blocks of this noise intervals are so narrow; None where nothing tells.

    Of a campaign that may end early it is the first of its looks, each at its own level, that is
    late enough; or else how long the campaign has to be for its last one to be.
    """
    if campaign.until_pct is None:
        return power.blocks_needed(ratios, half_width_pct=half_width_pct, level=campaign.level)
    blocks = campaign.blocks
    while True:
        planned = sequential.looks(blocks, level=campaign.level)
        for look in planned if blocks == campaign.blocks else planned[-1:]:
            level = sequential.spent_level(look, planned, level=campaign.level)
            needed = power.blocks_needed(ratios, half_width_pct=half_width_pct, level=level)
            if needed is None or needed <= look:
                return None if needed is None else look
        # The last look needs more than there are.
        if needed is None or needed > MANY_BLOCKS:
            return needed
        blocks = needed
