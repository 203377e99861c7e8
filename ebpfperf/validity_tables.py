"""Tables that show whether to believe a campaign's verdicts, and what its numbers are of. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from ebpfperf import compare, gates, limits, tables, units
from ebpfperf.findings import Sentences
from ebpfperf.tables import Table
from ebpfperf.verdicts import Verdicts


def shown(found: Verdicts) -> tuple[Table, ...]:
    """The A/A test, the gates, and what differed between the arms: tables to open."""
    made = (_aa_table(found), _gate_table(found), _differences_table(found))
    return tuple(table for table in made if len(table.frame))


def limiters(found: Verdicts) -> tuple[Sentences, Table]:
    """What limited each flow under each treatment: in sentences, and as a table."""
    said = Sentences(limits.sentences(found.arms))
    notes: list[str] = []
    rows = []
    for row in found.arms.to_dict("records"):
        if not row["n_trials"]:
            continue
        why = str(row["evidence"])
        notes += [why] if why not in notes else []
        limited = f"{row['limiter']} {row['n_limited']} of {row['n_trials']}"
        rows.append(
            {
                "flow": row["flow"],
                "treatment": row["treatment"],
                "limited by": f"{limited}, {row['others']}" if row["others"] else limited,
                "why": tables.letter(notes.index(why)),
                "measured": _rate(row),
                "headers allow": _bits(row["ceiling_bits_per_s"]),
                "reached": _reached(row["of_ceiling_pct"]),
                "payload": _share(row["payload_part"]),
            }
        )
    return said, Table(
        "What limited each flow (of how many trials), and what headers leave of the link",
        pd.DataFrame(rows),
        numeric=("measured", "headers allow", "reached", "payload"),
        notes=tuple(notes),
    )


def _rate(row: Mapping[Hashable, Any]) -> str:
    if not pd.isna(row["rate_bits_per_s"]):
        return units.bits_per_s(row["rate_bits_per_s"])
    if not pd.isna(row["requests_per_s"]):
        return f"{units.number(row['requests_per_s'])} requests/s"
    return "–"


def _bits(value: float) -> str:
    """UNKNOWN where the link's speed is: a virtual device announces none that limits."""
    return units.UNKNOWN if pd.isna(value) else units.bits_per_s(value)


def _reached(pct: float) -> str:
    """What part of the ceiling was carried; beyond it, the announced speed is no limit."""
    if pd.isna(pct):
        return "–"
    return (
        f"{pct:.0f} %" if pct <= _MOST_PCT else f"{pct:.0f} %, so the announced speed is no limit"
    )


_MOST_PCT = 102.0


def _share(value: float) -> str:
    return "–" if pd.isna(value) else f"{100 * value:.1f} %"


def _aa_table(found: Verdicts) -> Table:
    kept = found.aa[found.aa["primary"]]
    frame, notes = tables.compared(kept)
    if len(frame):
        frame = frame.drop(columns="treatment").rename(columns={"treated": compare.AGAIN})
    return Table(
        f"A/A test: {found.campaign.baseline} against itself, run as if it were two treatments",
        frame,
        numeric=(compare.ONCE, compare.AGAIN, *tables.COMPARED_NUMERIC),
        notes=notes,
        folded=True,
    )


def _gate_table(found: Verdicts) -> Table:
    summary = gates.summary(found.gates, found.trials, comparisons=found.comparison_gates)
    rows = []
    for row in summary.to_dict("records"):
        gate = gates.GATES[row["gate"]]
        of = found.gates if row["scope"] == "trial" else found.comparison_gates
        ours = gates.tripped(of[of["gate"].eq(row["gate"])])
        first = "" if ours.empty else str(ours["evidence"].iloc[0])
        rows.append(
            {
                "gate": row["gate"],
                "asks whether": gate.asks,
                "checked": row["checked"],
                "tripped": row["tripped"],
                "left out": row["void"],
                "for example": first or row["reason"] or "–",
                "what to do": gate.advice if len(ours) else "–",
            }
        )
    return Table(
        "Validity gates",
        pd.DataFrame(rows),
        numeric=("checked", "tripped", "left out"),
        folded=True,
    )


def _differences_table(found: Verdicts) -> Table:
    rows = [
        {
            "what": row["name"],
            "node": row["node"] or "cluster",
            "flow": row["flow"],
            "treatment": row["treatment"],
            f"under {found.campaign.baseline}": row["baseline_values"],
            "under the treatment": row["values"],
            "kind": row["kind"],
        }
        for row in found.differences.to_dict("records")
    ]
    return Table(
        "What differed between the arms besides what was asked for",
        pd.DataFrame(rows),
        folded=True,
    )
