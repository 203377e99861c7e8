"""What limited each trial and each arm, with the evidence; and when the bottleneck moves. Pure.

Two rates can be told apart and still not be of the same thing: of a link, of a sender's core, of a
receiver's. The rules and their grounds are in ``limits_rules``, and in docs/limits.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ebpfperf import compare, tables, units
from ebpfperf.limits_reading import read
from ebpfperf.limits_rules import RULES, Limiter, judge
from ebpfperf.model import Campaign, Status

__all__ = [
    "ARM_COLUMNS", "COLUMNS", "Limiter", "beside", "of_arms", "of_trials", "rules", "sentences",
]  # fmt: skip

COLUMNS: dict[str, str] = {
    "trial_id": "str", "limiter": "str", "evidence": "str", "sure": "bool", "also": "str",
    "payload_part": "float64", "ceiling_bits_per_s": "float64", "of_ceiling_pct": "float64",
}  # fmt: skip
ARM_COLUMNS: dict[str, str] = {
    "flow": "str", "load": "str", "treatment": "str", "baseline": "str", "n_trials": "int64",
    "limiter": "str", "n_limited": "int64", "n_sure": "int64", "others": "str", "evidence": "str",
    "rate_bits_per_s": "float64", "requests_per_s": "float64", "payload_part": "float64",
    "ceiling_bits_per_s": "float64", "of_ceiling_pct": "float64",
    "measured_ratio": "float64", "headers_ratio": "float64",
}  # fmt: skip

_RATE, _REQUESTS = "received_bits_per_s", "requests_per_s"
_RATE_OF_ARM = "rate_bits_per_s"
_WORTH_SAYING = 0.0005  # what a percentage with one digit shows
_WORDS = {
    Limiter.PACED: "the flow's own pace",
    Limiter.LINK: "the link",
    Limiter.SHARED_CPU: "the processors that the nodes share",
    Limiter.LATENCY: "the round trip",
    Limiter.SENDER_CORE: "the sender's core",
    Limiter.RECEIVER_CORE: "the receiver's core",
    Limiter.LOSS: "loss",
    Limiter.CAP: "a provider's cap",
    Limiter.WINDOW: "the window",
    Limiter.HEADERS: "the size of segments",
}
_NO_ROOM = {
    Limiter.LINK: "no room to differ: compare CPU per Gbit instead",
    Limiter.PACED: "only the pace that was asked for: compare loss and CPU instead",
}


def of_trials(
    trials: pd.DataFrame, samples: pd.DataFrame, facts: pd.DataFrame, campaign: Campaign
) -> pd.DataFrame:
    """What limited each trial of the frame, whatever its role: one row each, in its order.

    Parameters
    ----------
    trials, samples, facts
        The store's frames; a metric's column that is not there is not known.

    Returns
    -------
    DataFrame
        ``COLUMNS``: ``limiter`` is a ``Limiter``, ``evidence`` a sentence with its numbers,
        ``sure`` whether they show it (or only suggest it), ``also`` the sentences of the other
        rules that hold. ``payload_part`` is payload over bytes on the wire of a full segment or
        datagram, ``ceiling_bits_per_s`` what that leaves of the link; NaN where not known.
    """
    rows = []
    for one in read(trials, samples, facts, campaign):
        first, *rest = judge(one.seen)
        rows.append(
            {
                "trial_id": one.trial_id,
                "limiter": first.limiter.value,
                "evidence": first.sentence,
                "sure": first.sure,
                "also": "; ".join(held.sentence for held in rest),
                "payload_part": one.packet.part if one.packet else float("nan"),
                "ceiling_bits_per_s": one.seen.ceiling_bits_per_s,
                "of_ceiling_pct": one.seen.of_ceiling_pct,
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def of_arms(
    found: pd.DataFrame,
    trials: pd.DataFrame,
    campaign: Campaign,
    *,
    effects: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """What limited most trials of each flow under each treatment, the baseline first.

    Parameters
    ----------
    found
        The frame of ``of_trials``.
    effects
        Effects frame of ``compare``, whose ratios are then ``measured_ratio``; without it that is
        the ratio of the medians.

    Returns
    -------
    DataFrame
        ``ARM_COLUMNS``, of the good trials that are compared. ``n_limited`` of ``n_trials`` had the
        limiter, ``n_sure`` of them surely; ``evidence`` is that of the one nearest the median rate;
        ``others`` counts the other limiters. Rates, ceiling and parts are medians;
        ``headers_ratio`` is the ratio to the baseline that headers alone explain on a full link,
        NaN for a paced flow.
    """
    ours = compare.watched(trials, campaign)
    ours = ours[ours["status"].eq(Status.OK.value)].merge(found, on="trial_id")
    for column in (_RATE, _REQUESTS):
        numbers = ours[column] if column in ours else pd.Series(float("nan"), index=ours.index)
        ours = ours.assign(**{column: numbers.where(np.isfinite(numbers))})
    rows = []
    for flow in campaign.flows:
        base: Mapping[str, Any] | None = None
        for treatment in compare.baseline_first(campaign):
            arm = ours[ours["flow"].eq(flow.name) & ours["treatment"].eq(treatment)]
            row = {
                "flow": flow.name,
                "load": flow.load,
                "treatment": treatment,
                "baseline": campaign.baseline,
                **_arm(arm),
            }
            base = base or row
            ratio = _measured(effects, flow=flow.name, treatment=treatment)
            row["measured_ratio"] = _ratio(row, base, _RATE_OF_ARM) if ratio is None else ratio
            if flow.rate_bits_per_s is None:
                row["headers_ratio"] = _ratio(row, base, "payload_part")
            rows.append(row)
    return pd.DataFrame(rows, columns=list(ARM_COLUMNS)).astype(ARM_COLUMNS)


def beside(effects: pd.DataFrame, arms: pd.DataFrame) -> pd.DataFrame:
    """The effects with what limited both arms, and what headers leave of the link: four columns.

    ``limiter`` and ``baseline_limiter`` are those of most of an arm's trials;
    ``ceiling_bits_per_s`` and ``baseline_ceiling_bits_per_s`` are NaN where not known.
    """
    told = arms[["flow", "treatment", "limiter", "ceiling_bits_per_s"]]
    base = told.rename(
        columns={
            "treatment": "baseline",
            "limiter": "baseline_limiter",
            "ceiling_bits_per_s": "baseline_ceiling_bits_per_s",
        }
    )
    both = effects.merge(told, how="left", on=["flow", "treatment"])
    return both.merge(base, how="left", on=["flow", "baseline"])


def sentences(arms: pd.DataFrame) -> tuple[str, ...]:
    """What limited each flow, whether that moved between treatments, and what headers explain.

    ``arms`` is the frame of ``of_arms``.
    """
    said: list[str] = []
    for _, rows in arms.groupby("flow", sort=False):
        ours = [row for row in rows.to_dict("records") if row["n_trials"]]
        if ours:
            said += [_limits(ours), *_headers(ours)]
    return tuple(said)


def rules() -> pd.DataFrame:
    """The rules in their order: limiter, condition, limit, ground."""
    return pd.DataFrame(
        [(rule.limiter.value, rule.condition, rule.limit, rule.ground) for rule in RULES],
        columns=["limiter", "condition", "limit", "ground"],
    )


def _arm(arm: pd.DataFrame) -> dict[str, Any]:
    counts = Counter(arm["limiter"])
    order = [limiter.value for limiter in Limiter]
    ranked = sorted(counts, key=lambda name: (-counts[name], order.index(name)))
    limiter = ranked[0] if ranked else Limiter.UNKNOWN.value
    limited = arm[arm["limiter"].eq(limiter)]
    return {
        "n_trials": len(arm),
        "limiter": limiter,
        "n_limited": counts[limiter],
        "n_sure": int(limited["sure"].sum()),
        "others": ", ".join(f"{name} {counts[name]}" for name in ranked[1:]),
        "evidence": _typical(limited),
        "rate_bits_per_s": arm[_RATE].median(),
        "requests_per_s": arm[_REQUESTS].median(),
        "payload_part": arm["payload_part"].median(),
        "ceiling_bits_per_s": arm["ceiling_bits_per_s"].median(),
        "of_ceiling_pct": arm["of_ceiling_pct"].median(),
    }


def _typical(limited: pd.DataFrame) -> str:
    """The evidence of the trial whose rate is nearest the median; the first where none has one."""
    if limited.empty:
        return f"{Limiter.UNKNOWN}: no trial's numbers may be used"
    rates = limited[_RATE].fillna(limited[_REQUESTS])
    apart = (rates - rates.median()).abs().fillna(float("inf")).to_numpy()
    return str(limited["evidence"].iloc[int(apart.argmin())])


def _ratio(row: Mapping[str, Any], base: Mapping[str, Any], column: str) -> float:
    return row[column] / base[column] if base[column] > 0 else float("nan")


def _measured(effects: pd.DataFrame | None, *, flow: str, treatment: str) -> float | None:
    if effects is None:
        return None
    ours = effects[
        effects["flow"].eq(flow) & effects["treatment"].eq(treatment) & effects["metric"].eq(_RATE)
    ]
    return float(ours["ratio"].iloc[0]) if len(ours) else None


def _limits(ours: Sequence[Mapping[Hashable, Any]]) -> str:
    """What limited a flow under each treatment, and what that means for comparing its rates."""
    groups: dict[str, list[Mapping[Hashable, Any]]] = {}
    for row in ours:
        groups.setdefault(str(row["limiter"]), []).append(row)
    said = "; ".join(_group(Limiter(limiter), rows) for limiter, rows in groups.items())
    found = [f"Flow {ours[0]['flow']}: {said}."]
    base, *others = ours
    known = _most(base) if base["treatment"] == base["baseline"] else None
    same = [row["treatment"] for row in others if _most(row) is known]
    if known in _NO_ROOM and same:
        found.append(f"Between {_and([base['treatment'], *same])} there is {_NO_ROOM[known]}.")
    moved = [row["treatment"] for row in others if _most(row) not in (known, None)]
    if known is not None and moved:
        rates = "the two rates are" if len(moved) == 1 else "their rates are"
        found.append(
            f"Between {base['treatment']} and {_and(moved)} the bottleneck moved: {rates} of "
            "different bottlenecks."
        )
    return " ".join(found)


def _group(limiter: Limiter, rows: Sequence[Mapping[Hashable, Any]]) -> str:
    """``"under none and ipip the sender's core limited 7 of 8 and 8 of 8 trials"``."""
    under = f"under {_and([row['treatment'] for row in rows])}"
    counted = _and([f"{row['n_limited']} of {row['n_trials']}" for row in rows]) + " trials"
    if limiter is Limiter.UNKNOWN:
        lacking = str(rows[0]["evidence"]).partition("not known: ")[2]
        why = f" (not known: {lacking})" if lacking else ""
        return f"{under} what limited {counted} is {units.UNKNOWN}{why}"
    doubt = "" if any(row["n_sure"] for row in rows) else ", as it seems"
    others = [f"{row['treatment']}: {row['others']}" for row in rows if row["others"]]
    rest = f" (others under {'; '.join(others)})" if others else ""
    return f"{under} {_WORDS[limiter]} limited {counted}{doubt}{rest}"


def _most(row: Mapping[Hashable, Any]) -> Limiter | None:
    """The limiter of more than half of the trials; None where there is none, or none is known."""
    limiter = Limiter(row["limiter"])
    if limiter is Limiter.UNKNOWN or 2 * row["n_limited"] <= row["n_trials"]:
        return None
    return limiter


def _headers(ours: Sequence[Mapping[Hashable, Any]]) -> list[str]:
    """What headers explain of the ratios to the baseline: one sentence, or none."""
    parts = []
    for row in ours:
        headers, measured = row["headers_ratio"], row["measured_ratio"]
        if pd.isna(measured) or not abs(headers - 1) >= _WORTH_SAYING:
            continue
        whole, part = tables.percent(measured), tables.percent(headers)
        alike = (measured < 1) is (headers < 1)
        link = "of which headers make at most" if alike else "where headers alone make"
        parts.append(f"{row['treatment']} {whole}, {link} {part}")
    if not parts:
        return []
    return [f"Flow {ours[0]['flow']} against {ours[0]['baseline']}: {'; '.join(parts)}."]


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
