"""Trials as the gates see them: numbers, facts, intervals and drops of each together. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from ebpfperf.model import Campaign, Flow, Quiet, Status
from ebpfperf.units import UNKNOWN

Interval = tuple[float, float, str]
"""End in seconds, bit/s, ``measure`` or ``warmup``."""


@dataclass(frozen=True, slots=True)
class Case:
    """One trial as the gates see it.

    Attributes
    ----------
    facts
        (node, name, value) of this trial.
    intervals
        Way (``sent`` or ``received``) → the client's intervals.
    drops
        ``client cali1234`` → packets that programs there dropped.
    """

    trial_id: str
    row: Mapping[str, object]
    flow: Flow
    quiet: Quiet
    shared: bool | None
    facts: Sequence[tuple[str, str, str]] = ()
    intervals: Mapping[str, Sequence[Interval]] = field(default_factory=dict)
    drops: Mapping[str, float] = field(default_factory=dict)

    def number(self, column: str) -> float:
        """A number of the trial; NaN where it has none."""
        value = self.row.get(column)
        return float(value) if isinstance(value, int | float) else math.nan

    def fact(self, name: str) -> str | None:
        """Its fact of that name, of whatever node comes first; None where there is none."""
        return next((value for _, found, value in self.facts if found == name), None)


def cases(
    trials: pd.DataFrame, samples: pd.DataFrame, facts: pd.DataFrame, campaign: Campaign
) -> Iterator[Case]:
    """The trials with numbers, each with its own facts and intervals."""
    flows = {flow.name: flow for flow in campaign.flows}
    of_facts: dict[str, list[tuple[str, str, str]]] = {}
    if "trial_id" in facts:
        own = facts[facts["trial_id"].notna()]
        for trial_id, *fact in own[["trial_id", "node", "name", "value"]].itertuples(index=False):
            of_facts.setdefault(trial_id, []).append((fact[0], fact[1], fact[2]))
    intervals, drops = _samples(samples)
    shared = shared_kernel(facts)
    good = trials[trials["status"].eq(Status.OK.value) & trials["flow"].isin(list(flows))]
    for row in good.to_dict("records"):
        trial_id = str(row["trial_id"])
        yield Case(
            trial_id,
            {str(name): value for name, value in row.items()},
            flows[row["flow"]],
            campaign.quiet or Quiet(),
            shared,
            of_facts.get(trial_id, ()),
            intervals.get(trial_id, {}),
            drops.get(trial_id, {}),
        )


def shared_kernel(facts: pd.DataFrame) -> bool | None:
    """Whether two nodes have shown the same boot_id; None where nobody has shown one."""
    boots = facts[facts["name"].eq("boot_id") & ~facts["value"].str.startswith(UNKNOWN)]
    latest = boots.groupby("node")["value"].last()
    return bool(latest.duplicated().any()) if len(latest) else None


def _samples(
    samples: pd.DataFrame,
) -> tuple[
    dict[str, dict[str, list[Interval]]],
    dict[str, dict[str, float]],
]:
    intervals: dict[str, dict[str, list[Interval]]] = {}
    drops: dict[str, dict[str, float]] = {}
    names = ["trial_id", "endpoint", "metric", "t_s", "value", "phase"]
    if not set(names) <= set(samples):
        return intervals, drops
    rates = samples["endpoint"].eq("client") & samples["metric"].isin(
        ["sent_bits_per_s", "received_bits_per_s"]
    )
    for trial_id, _, metric, t_s, value, phase in samples.loc[rates, names].itertuples(index=False):
        way = metric.partition("_")[0]
        intervals.setdefault(trial_id, {}).setdefault(way, []).append((t_s, value, phase))
    dropped = samples[samples["metric"].str.startswith("clsact_drops:")]
    for trial_id, end, metric, _, value, _ in dropped[names].itertuples(index=False):
        drops.setdefault(trial_id, {})[f"{end} {metric.partition(':')[2]}"] = value
    return intervals, drops
