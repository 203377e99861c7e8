"""Validity: which trials and comparisons may be believed, by named gates. Pure.

``gate_table`` says what the gates are, ``trial_gates`` and ``comparison_gates`` judge. A trial is
excluded by what it was, never by what it measured: only gates that say *void* exclude, and of these
only ``short_trial`` looks at the traffic at all, by its length.
"""

from __future__ import annotations

import pandas as pd

from ebpfperf import comparison_gates, trial_gates
from ebpfperf.gate_table import GATES, Gate, Scope, Severity
from ebpfperf.model import Campaign, Role, Status

__all__ = ["GATES", "Gate", "Scope", "Severity", "excluded", "of_comparisons", "of_trials",
           "summary", "tripped"]  # fmt: skip

TRIAL_COLUMNS = ["trial_id", "gate", "severity", "evidence", "advice", "n"]
COMPARISON_COLUMNS = ["treatment", "flow", "metric", *TRIAL_COLUMNS[1:]]
SUMMARY_COLUMNS = ["gate", "scope", "checked", "tripped", "void", "unchecked", "reason"]


def of_trials(
    trials: pd.DataFrame, samples: pd.DataFrame, facts: pd.DataFrame, campaign: Campaign
) -> pd.DataFrame:
    """What the gates say of each trial that has numbers: a row for each that trips.

    A gate that could not be asked is a row of severity ``unchecked`` for each reason, with
    ``trial_id`` empty, evidence ``not checked: reason`` and ``n`` trials; elsewhere ``n`` is 1.

    Returns
    -------
    DataFrame
        ``TRIAL_COLUMNS``.
    """
    rows: list[dict[str, object]] = [
        {"trial_id": about, "gate": gate, "severity": severity.value, "evidence": said, "n": n}
        for about, gate, severity, said, n in trial_gates.judge(trials, samples, facts, campaign)
    ]
    return _frame(rows, TRIAL_COLUMNS)


def of_comparisons(
    trials: pd.DataFrame,
    facts: pd.DataFrame,
    campaign: Campaign,
    *,
    found: pd.DataFrame | None = None,
    overhead: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """What the gates say of the comparisons with the baseline: a row for each that trips.

    An empty ``treatment``, ``flow`` or ``metric`` means all of them. Gates that could not be asked
    are rows as in ``of_trials``.

    Parameters
    ----------
    found
        What ``of_trials`` said: excluded trials count as lost.
    overhead
        ``compare.probe_overhead``.

    Returns
    -------
    DataFrame
        ``COMPARISON_COLUMNS``.
    """
    lost = excluded(found) if found is not None else set()
    judged = comparison_gates.judge(trials, facts, campaign, lost=lost, overhead=overhead)
    rows: list[dict[str, object]] = [
        {
            "treatment": about.treatment,
            "flow": about.flow,
            "metric": about.metric,
            "gate": gate,
            "severity": severity.value,
            "evidence": said,
            "n": n,
        }
        for about, gate, severity, said, n in judged
    ]
    return _frame(rows, COMPARISON_COLUMNS)


def excluded(found: pd.DataFrame) -> set[str]:
    """Ids of the trials whose numbers take no part."""
    return set(found.loc[found["severity"].eq(Severity.VOID.value), "trial_id"])


def tripped(found: pd.DataFrame) -> pd.DataFrame:
    """The rows that say something against a number, void first."""
    rows = found[found["severity"].ne(Severity.UNCHECKED.value)]
    return rows.sort_values("severity", ascending=False, kind="stable")


def summary(
    found: pd.DataFrame, trials: pd.DataFrame, *, comparisons: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row a gate: of how many it was asked, where it tripped, and why it was not asked.

    Parameters
    ----------
    comparisons
        What ``of_comparisons`` said; without it only the gates of trials have rows.

    Returns
    -------
    DataFrame
        ``SUMMARY_COLUMNS``; the counts are of what ``scope`` says, ``tripped`` holds ``void``.
        ``reason`` joins the reasons of what was not checked.
    """
    rows = []
    for gate in GATES.values():
        said = found if gate.scope is Scope.TRIAL else comparisons
        if said is None:
            continue
        ours = said[said["gate"].eq(gate.name)]
        unchecked = ours[ours["severity"].eq(Severity.UNCHECKED.value)]
        against = ours[ours["severity"].ne(Severity.UNCHECKED.value)]
        # A trial may have several reasons of one gate.
        keys = [name for name in ("trial_id", "treatment", "flow") if name in ours]
        missed = min(int(unchecked["n"].sum()), _total(gate.scope, trials))
        rows.append(
            {
                "gate": gate.name,
                "scope": gate.scope.value,
                "checked": _total(gate.scope, trials) - missed,
                "tripped": len(against.drop_duplicates(keys)),
                "void": len(
                    against[against["severity"].eq(Severity.VOID.value)].drop_duplicates(keys)
                ),
                "unchecked": missed,
                "reason": "; ".join(dict.fromkeys(unchecked["evidence"])),
            }
        )
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def _total(scope: Scope, trials: pd.DataFrame) -> int:
    if scope is Scope.TRIAL:
        return int(trials["status"].eq(Status.OK.value).sum())
    if scope is Scope.CAMPAIGN:
        return 1
    compared = trials[trials["role"].eq(Role.COMPARED.value)] if "role" in trials else trials
    keys = {
        Scope.ARM: ["treatment", "flow"],
        Scope.TREATMENT: ["treatment"],
        Scope.FLOW: ["flow"],
    }[scope]
    return len(compared.drop_duplicates(keys))


def _frame(rows: list[dict[str, object]], columns: list[str]) -> pd.DataFrame:
    found = [{**row, "advice": GATES[str(row["gate"])].advice} for row in rows]
    dtypes = {name: "int64" if name == "n" else "str" for name in columns}
    return pd.DataFrame(found, columns=columns).astype(dtypes)
