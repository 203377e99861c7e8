"""A campaign's frames to its verdicts, and everything that says whether to believe them. Pure.

The one way from numbers to verdicts: the command line, notebooks and reports all go it.

1. Gates judge every trial by what it was; what a gate voids takes no part in any comparison.
2. Treatments are compared to the baseline, the baseline to itself, and the baseline with probes to
   the baseline without.
3. Gates judge the comparisons, and conditions that went with an arm confound it.
4. What stands against a verdict is its ``marks``, in a few words, and its ``warnings``, in
   sentences. A mark does not change a verdict: it says that the verdict alone is not to be relied
   on. Only a gate that voids a comparison takes its verdict away.
5. What limited each trial says what the numbers are of.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from ebpfperf import compare, confounders, diagnosis, gates, judging, limits, metrics, tables
from ebpfperf.diagnosis import Diagnosis
from ebpfperf.model import Campaign, Status
from ebpfperf.store import Store

AA_DIFFERS = "A/A test differs"
# Doubts about a trial that are noise, and mark a comparison when most of its trials have them. The
# others say what limited it, which is no fault.
_NOISE = ("idle_load", "other_traffic", "steal", "softnet_drops", "clock", "retransmit_storm",
          "not_steady", "clsact_drops")  # fmt: skip
_MOST = 0.5


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a campaign shows.

    Attributes
    ----------
    trials
        The trials frame; a trial that a gate has voided has status ``void`` and the gate as reason.
    effects
        ``compare.effects`` with ``marks`` and their warnings.
    aa
        ``compare.aa_test``.
    overhead
        ``compare.probe_overhead``.
    gates, comparison_gates
        ``gates.of_trials`` and ``gates.of_comparisons``.
    differences
        ``confounders.differences``.
    limits, arms
        ``limits.of_trials`` and ``limits.of_arms``.
    preflights
        What was found wrong with the cluster before each run of the campaign; none where nobody
        looked.
    """

    campaign: Campaign
    trials: pd.DataFrame
    effects: pd.DataFrame
    aa: pd.DataFrame
    overhead: pd.DataFrame
    gates: pd.DataFrame
    comparison_gates: pd.DataFrame
    differences: pd.DataFrame
    limits: pd.DataFrame
    arms: pd.DataFrame
    preflights: tuple[Diagnosis, ...] = ()


def trials_of_store(store: Store) -> pd.DataFrame:
    """The trials frame of a campaign directory, those that gates void without being good."""
    trials, samples, facts = map(store.frame, ("trials", "samples", "facts"))
    return without(trials, gates.of_trials(trials, samples, facts, store.campaign))


def of_store(store: Store) -> Verdicts:
    """The verdicts of a campaign directory."""
    names = ("trials", "samples", "histograms", "facts")
    trials, samples, histograms, facts = map(store.frame, names)
    found = of(trials, store.campaign, samples=samples, histograms=histograms, facts=facts)
    return replace(found, preflights=tuple(map(diagnosis.from_json, store.preflights())))


def of(
    trials: pd.DataFrame,
    campaign: Campaign,
    *,
    samples: pd.DataFrame,
    histograms: pd.DataFrame,
    facts: pd.DataFrame,
) -> Verdicts:
    """The verdicts of a campaign's frames, as the store gives them."""
    of_trials = gates.of_trials(trials, samples, facts, campaign)
    kept = without(trials, of_trials)
    effects, aa, overhead = (
        compared(kept, campaign, facts=facts, histograms=histograms)
        for compared in (compare.effects, compare.aa_test, compare.probe_overhead)
    )
    of_comparisons = gates.of_comparisons(
        trials, facts, campaign, found=of_trials, overhead=overhead
    )
    differences = confounders.differences(facts, kept, campaign)
    limited = limits.of_trials(kept, samples, facts, campaign)
    return Verdicts(
        campaign=campaign,
        trials=kept,
        effects=marked(
            effects,
            kept,
            campaign,
            aa=aa,
            trial_gates=of_trials,
            comparison_gates=of_comparisons,
            differences=differences,
        ),
        aa=aa,
        overhead=overhead,
        gates=of_trials,
        comparison_gates=of_comparisons,
        differences=differences,
        limits=limited,
        arms=limits.of_arms(limited, kept, campaign, effects=effects),
    )


def without(trials: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The trials frame in which those that a gate has voided say so, and are good no more.

    ``found`` is the frame of ``gates.of_trials``.
    """
    voided = found[found["severity"].eq(gates.Severity.VOID.value)]
    reasons = {
        str(row["trial_id"]): f"{row['gate']}: {row['evidence']}"
        for row in voided.to_dict("records")
    }
    lost = trials["trial_id"].isin(list(reasons)) & trials["status"].eq(Status.OK.value)
    changed = trials.copy()
    changed.loc[lost, "status"] = Status.VOID.value
    changed.loc[lost, "reason"] = trials.loc[lost, "trial_id"].map(reasons)
    return changed


def aa_differences(aa: pd.DataFrame, *, level: float) -> pd.DataFrame:
    """Rows of the A/A test in which the baseline differs from itself: primary metrics alone.

    A difference within the margin is one, too: nothing was changed, and effects of its size may be
    of the same making. At a ``level`` of 95 % one question in twenty differs by chance; that is
    allowed for by its family (Holm), as in any other comparison.
    """
    apart = aa["low"].gt(1) | aa["high"].lt(1)
    return aa[aa["primary"] & apart & aa["p_holm"].le(1 - level + 1e-12)]


def aa_beyond_the_margin(aa: pd.DataFrame) -> pd.DataFrame:
    """Rows of the A/A test whose difference the margin does not hold: primary metrics alone."""
    return aa[aa["primary"] & aa["verdict"].isin(judging.ESTABLISHED)]


def marked(
    effects: pd.DataFrame,
    trials: pd.DataFrame,
    campaign: Campaign,
    *,
    aa: pd.DataFrame,
    trial_gates: pd.DataFrame,
    comparison_gates: pd.DataFrame,
    differences: pd.DataFrame,
) -> pd.DataFrame:
    """The effects with what stands against each: ``marks``, ``warnings``, or no verdict at all."""
    differs = aa_differences(aa, level=compare.level(campaign))
    itself = [_itself(row) for row in differs.to_dict("records")]
    confounded = confounders.marks(differences)
    against = gates.tripped(comparison_gates).to_dict("records")
    noise = noisy(trials, trial_gates, campaign)
    rows = []
    for row in effects.to_dict("records"):
        key = (str(row["treatment"]), str(row["flow"]))
        marks = [AA_DIFFERS] if itself else []
        said = list(itself)
        for sentence in confounded.get(key, ()):
            marks.append(sentence.partition(": ")[0])
            said.append(sentence)
        for told in (one for one in against if _about(one, row)):
            said.append(f"{told['gate']}: {told['evidence']}")
            if told["severity"] == gates.Severity.VOID.value:
                row |= {"verdict": judging.VOID, "size": "", "reason": str(told["evidence"])}
            else:
                marks.append(str(told["gate"]))
        for name in (str(row["baseline"]), key[0]):
            for gate, count, n in noise.get((name, key[1]), ()):
                marks.append(gate)
                said.append(f"{gate} in {count} of {n} trials of {name}")
        warnings = [text for text in str(row["warnings"]).split("; ") if text]
        said = [text.replace("; ", ", ") for text in said]
        row |= {
            "marks": "; ".join(dict.fromkeys(marks)),
            "warnings": "; ".join(dict.fromkeys([*said, *warnings])),
        }
        rows.append(row)
    return pd.DataFrame(rows, columns=list(compare.COLUMNS)).astype(compare.COLUMNS)


def _itself(row: Mapping[Hashable, Any]) -> str:
    label = metrics.metric(str(row["metric"])).label
    change = tables.estimated(row["ratio"], row["low"], row["high"], show=tables.percent)
    return f"{AA_DIFFERS}: {label} of {row['flow']} is {change} when nothing was changed"


def _about(gate: Mapping[Hashable, Any], row: Mapping[Hashable, Any]) -> bool:
    """Whether a comparison's gate is about an effect: an empty name means all of them."""
    treatment = gate["treatment"] in ("", row["treatment"], row["baseline"])
    return treatment and gate["flow"] in ("", row["flow"]) and gate["metric"] in ("", row["metric"])


def noisy(
    trials: pd.DataFrame, found: pd.DataFrame, campaign: Campaign
) -> dict[tuple[str, str], list[tuple[str, int, int]]]:
    """(treatment, flow) → gates that most of its good trials have tripped, with the counts."""
    doubts = found[found["severity"].eq(gates.Severity.DOUBT.value) & found["gate"].isin(_NOISE)]
    good = compare.watched(trials[trials["status"].eq(Status.OK.value)], campaign)
    good = good[["trial_id", "treatment", "flow"]]
    sizes = good.groupby(["treatment", "flow"]).size()
    joined = doubts.drop_duplicates(["trial_id", "gate"]).merge(good, on="trial_id")
    most: dict[tuple[str, str], list[tuple[str, int, int]]] = {}
    for row in joined.value_counts(["treatment", "flow", "gate"]).reset_index().to_dict("records"):
        key = (str(row["treatment"]), str(row["flow"]))
        count, n = int(row["count"]), int(sizes[key])
        if count > _MOST * n:
            most.setdefault(key, []).append((str(row["gate"]), count, n))
    return most
