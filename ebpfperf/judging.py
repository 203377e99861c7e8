"""Intervals to verdicts: what may be said of an effect, alone and with its question's others. Pure.

- *equivalent*: the whole interval lies within the margin fixed in the campaign file;
- *better*, *worse*: the interval excludes no change, and so it does over the question's metrics;
- *undecided*: none of these; the detectable effect or a reason says why.

A question is one flow under one treatment. Its primary metrics (``metrics.HEADLINE``) share the
error by Holm's procedure (Holm, *A simple sequentially rejective multiple test procedure*, 1979);
the others are looked at one by one, and what they show is a lead, not a result.

The margin is symmetric in the logarithm (5 % means 1/1.05 to 1.05), so that exchanging baseline and
treatment turns a verdict into its mirror image.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ebpfperf import metrics, stats

BETTER, WORSE = "better", "worse"
EQUIVALENT, UNDECIDED, VOID = "equivalent", "undecided", "void"
ESTABLISHED = (BETTER, WORSE)


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
        return Judgement(EQUIVALENT, "a change within the margin" if changed else "")
    if not changed:
        return Judgement(UNDECIDED)
    higher = low > 1
    good = higher is (better is metrics.Better.HIGHER)
    beyond = low > margin or high < 1 / margin
    return Judgement(
        BETTER if good else WORSE,
        "beyond the margin" if beyond else "perhaps within the margin",
    )


def question(row: Mapping[str, Any]) -> Hashable:
    """The flow and treatment that a primary metric is asked of; None for any other metric."""
    return (row["flow"], row["treatment"]) if row["primary"] else None


def families(
    rows: Sequence[dict[str, Any]],
    *,
    question: Callable[[Mapping[str, Any]], Hashable] = question,
) -> None:
    """Add ``p_holm`` and ``family`` to rows that have a ``p_value``.

    Rows of one ``question`` share the error. ``family`` is how many of it have a p; of a row
    without a question (None) it is 1, and its p stays as it is.
    """
    questions: dict[Hashable, list[dict[str, Any]]] = {}
    for row in rows:
        row |= {"family": 1, "p_holm": row["p_value"]}
        asked = question(row)
        if asked is not None and not np.isnan(row["p_value"]):
            questions.setdefault(asked, []).append(row)
    for family in questions.values():
        adjusted = stats.holm([row["p_value"] for row in family])
        for row, p_holm in zip(family, adjusted, strict=True):
            row |= {"family": len(family), "p_holm": float(p_holm)}


def over_the_question(
    alone: Judgement, *, p_holm: float, family: int, level: float
) -> tuple[Judgement, str]:
    """The verdict once all metrics of its question are counted, and why where it changed."""
    if alone.verdict not in ESTABLISHED or p_holm <= 1 - level + 1e-12:
        return alone, ""
    return (
        Judgement(UNDECIDED),
        f"{alone.verdict} if it were the only metric, not over the {family} of this question "
        f"(Holm p {p_holm:.2g})",
    )


def too_few(
    log_ratios: Sequence[float], *, sizes: Sequence[int], smallest_p: float, fewest: str
) -> str:
    """Why so few observations cannot decide, and what they show: ``all 9 pairs positive, …``.

    Parameters
    ----------
    log_ratios
        One per block; of two samples that are not paired, one per pair.
    sizes
        One number of blocks, or the sizes of the two samples.
    fewest
        What would do, such as ``6 blocks``.
    """
    ratios = np.asarray(log_ratios)
    unit = "blocks" if len(sizes) == 1 else "pairs"
    positive, n = int((ratios > 0).sum()), ratios.size
    if n and positive in (0, n):
        shown = f"all {n} {unit} {'positive' if positive else 'negative'}"
    else:
        shown = f"{positive} of {n} {unit} positive"
    given = "+".join(map(str, sizes))
    return f"{shown}, p {smallest_p:.2f} is the smallest that {given} can give (fewest: {fewest})"
