"""Effects and costs to rows and lines of text, for a table, Markdown or XML alike. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from ebpfperf import metrics, tables


def said(row: Mapping[Hashable, Any]) -> str:
    """``"worse, beyond the margin"``, or ``"undecided: all 9 pairs positive, …"``."""
    return tables.verdict({**row, "marks": ""})


def lettered(effects: pd.DataFrame) -> tuple[str, ...]:
    """What must be minded beside the rows, marks first: each text once, lettered in this order."""
    texts = [
        text for name in ("marks", "warnings") for cell in effects[name] for text in _split(cell)
    ]
    return tuple(dict.fromkeys(texts))


def letter(number: int) -> str:
    """``a`` for 0, ``z`` for 25, then ``aa``."""
    more, place = divmod(number, 26)
    return ("" if not more else letter(more - 1)) + chr(ord("a") + place)


def effect_rows(effects: pd.DataFrame) -> list[dict[str, str]]:
    """Effects as rows of text, the verdict first; the last column has letters of ``lettered``."""
    notes = lettered(effects)
    return [
        {
            "verdict": said(row),
            "flow": str(row["flow"]),
            "treatment": str(row["treatment"]),
            "metric": metrics.metric(str(row["metric"])).label,
            str(row["baseline"]): _value(row, "baseline_value"),
            _other(row): _value(row, "value"),
            "change": tables.percent(row["ratio"]),
            "interval": tables.interval(row["low"], row["high"]),
            "p": _p(row),
            "detectable": tables.detectable(row["detectable_pct"]),
            "trials": tables.counted(row),
            "notes": ", ".join(
                letter(place) for place, text in enumerate(notes) if text in _texts(row)
            ),
        }
        for row in effects.to_dict("records")
    ]


def cost_rows(costs: pd.DataFrame) -> list[dict[str, str]]:
    """Treatments' costs as rows of text, the verdict first."""
    return [
        {
            "verdict": said(row),
            "flow": str(row["flow"]),
            "treatment": f"{row['treatment']} against {row['baseline']}",
            "metric": metrics.metric(str(row["metric"])).label,
            "before": tables.percent(row["baseline_value"]),
            "after": tables.percent(row["value"]),
            "ratio of ratios": tables.percent(row["ratio"]),
            "interval": tables.interval(row["low"], row["high"]),
            "p": _p(row),
            "detectable": tables.detectable(row["detectable_pct"]),
            "blocks": tables.counted(row),
        }
        for row in costs.to_dict("records")
    ]


def detail(row: Mapping[Hashable, Any]) -> str:
    """An effect in one line."""
    before, after = _value(row, "baseline_value"), _value(row, "value")
    return _line(row, f"{row['treatment']} against {row['baseline']}", f"{before} to {after}")


def cost_detail(row: Mapping[Hashable, Any]) -> str:
    """A treatment's cost, before and after, in one line."""
    before, after = tables.percent(row["baseline_value"]), tables.percent(row["value"])
    return _line(
        row, f"cost of {row['treatment']} against {row['baseline']}", f"{before} to {after}"
    )


def _line(row: Mapping[Hashable, Any], what: str, values: str) -> str:
    parts = [
        f"{row['flow']}, {what}, {metrics.metric(str(row['metric'])).label}: {values}, "
        f"{change(row)}",
        said(row),
        f"p {_p(row)}",
        f"detectable {tables.detectable(row['detectable_pct'])}",
        f"trials {tables.counted(row)}",
        *_texts(row),
    ]
    return "; ".join(part for part in parts if part)


def change(row: Mapping[Hashable, Any]) -> str:
    """``"−20.1 % (−21.0 to −18.9 %)"``."""
    return tables.estimated(row["ratio"], row["low"], row["high"], show=tables.percent)


def _value(row: Mapping[Hashable, Any], name: str) -> str:
    return metrics.metric(str(row["metric"])).show(row[name])


def _p(row: Mapping[Hashable, Any]) -> str:
    """``"0.0012, Holm 0.018 of 15"``; an en dash where there is none."""
    if pd.isna(row["p_value"]):
        return "–"
    alone = f"{row['p_value']:.2g}"
    return alone if row["family"] < 2 else f"{alone}, Holm {row['p_holm']:.2g} of {row['family']}"


def _texts(row: Mapping[Hashable, Any]) -> list[str]:
    return [*_split(row["marks"]), *_split(row["warnings"])]


def _split(cell: str) -> list[str]:
    return [text for text in cell.split("; ") if text]


def _other(row: Mapping[Hashable, Any]) -> str:
    return "after" if row["baseline"] == "before" else "treated"
