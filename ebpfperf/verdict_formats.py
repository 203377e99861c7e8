"""Verdicts for pipelines: JUnit XML, Markdown, JSON, and an exit status. Pure.

JUnit's elements and attributes are those that the common readers share (testsuites, testsuite,
properties, testcase, failure, skipped, system-out), as described by
https://github.com/testmoapp/junitxml. No time is written: a verdict has none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from ebpfperf import judging, metrics, verdict_rows

FINE, REGRESSION, NOT_DECIDED = 0, 1, 3
"""Exit statuses; 2 is bad input, as everywhere."""

_WORST_FIRST = (
    judging.WORSE, judging.VOID, judging.UNDECIDED, judging.BETTER, judging.EQUIVALENT
)  # fmt: skip
# What XML 1.0 cannot hold, escaped or not (section 2.2, Char).
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Condition:
    """Something of a node that was not the same.

    Attributes
    ----------
    expected
        Whether it is the subject of the comparison.
    """

    name: str
    node: str
    before: str
    after: str
    expected: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """Why two campaigns were compared nevertheless, and what spoke against it; maybe nothing."""

    reason: str
    problems: tuple[str, ...]

    @property
    def heading(self) -> str:
        """What is said before the reason."""
        return (
            "Compared nevertheless"
            if self.problems
            else "Accepted, though nothing speaks against comparing"
        )


@dataclass(frozen=True, slots=True)
class Statement:
    """What a comparison says, in whatever format.

    Attributes
    ----------
    properties
        Name and value of what the verdicts rest on: directories, margin, level.
    effects
        ``compare.COLUMNS``.
    costs
        ``between.COST_COLUMNS``; None within one campaign.
    sentences
        What is to be minded when reading it.
    """

    title: str
    properties: tuple[tuple[str, str | float], ...]
    effects: pd.DataFrame
    costs: pd.DataFrame | None = None
    conditions: tuple[Condition, ...] = ()
    sentences: tuple[str, ...] = ()
    accepted: Accepted | None = None


def status(effects: pd.DataFrame) -> int:
    """The exit status: 1 for a primary metric that is worse, 3 for one undecided or void, else 0.

    It is 3, too, where there is no primary metric at all: nothing was decided.
    """
    verdicts = set(effects.loc[effects["primary"], "verdict"])
    if judging.WORSE in verdicts:
        return REGRESSION
    if not verdicts or verdicts & {judging.UNDECIDED, judging.VOID}:
        return NOT_DECIDED
    return FINE


def summary(effects: pd.DataFrame) -> str:
    """How many verdicts there are of each kind: ``"Of 6 primary verdicts: 1 worse, 5 better."``."""
    primary = effects[effects["primary"]]
    if primary.empty:
        return "No primary metric was measured on both sides: nothing is decided."
    counts = primary["verdict"].value_counts()
    each = [f"{counts[word]} {word}" for word in _WORST_FIRST if counts.get(word)]
    return f"Of {len(primary)} primary verdicts: {', '.join(each)}."


def leading(effects: pd.DataFrame, *, everything: bool = False) -> pd.DataFrame:
    """The primary rows, or all of them; as they come."""
    return effects if everything else effects[effects["primary"]]


def junit(statement: Statement, *, everything: bool = False) -> str:
    """A JUnit XML document: one testcase a verdict.

    A primary metric that is worse is a failure; one that is undecided or void is skipped, with the
    reason; better and equivalent succeed. Of metrics that are not primary (``everything``), worse
    is skipped, too: they decide nothing. Treatments' costs are told in ``system-out``.
    """
    shown = leading(statement.effects, everything=everything)
    root = ElementTree.Element("testsuites", {"name": "ebpfperf compare"})
    holder = ElementTree.SubElement(root, "testsuite", {"name": _xml(statement.title)})
    listed = ElementTree.SubElement(holder, "properties")
    for name, value in _properties(statement):
        ElementTree.SubElement(listed, "property", {"name": _xml(name), "value": _xml(value)})
    counts = {"tests": len(shown), "failures": 0, "errors": 0, "skipped": 0}
    for row in shown.to_dict("records"):
        label = metrics.metric(str(row["metric"])).label
        case = ElementTree.SubElement(
            holder,
            "testcase",
            {"classname": _xml(row["flow"]), "name": _xml(f"{row['treatment']} {label}")},
        )
        message = {"message": _xml(f"{verdict_rows.change(row)}: {verdict_rows.said(row)}")}
        if row["verdict"] == judging.WORSE and row["primary"]:
            counts["failures"] += 1
            failure = ElementTree.SubElement(case, "failure", message | {"type": judging.WORSE})
            failure.text = _xml(verdict_rows.detail(row))
        elif row["verdict"] in (judging.WORSE, judging.UNDECIDED, judging.VOID):
            counts["skipped"] += 1
            ElementTree.SubElement(case, "skipped", message)
        ElementTree.SubElement(case, "system-out").text = _xml(verdict_rows.detail(row))
    lines = [
        *_warned(statement),
        *(verdict_rows.cost_detail(row) for row in _records(statement.costs)),
    ]
    ElementTree.SubElement(holder, "system-out").text = _xml("\n".join(lines))
    holder.attrib.update({name: str(count) for name, count in counts.items()})
    # The schema that Jenkins' xUnit plugin holds reports against has no "skipped" at the root.
    root.attrib.update({name: str(count) for name, count in counts.items() if name != "skipped"})
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def markdown(statement: Statement, *, everything: bool = False) -> str:
    """A document for a pull request's comment: what came out, then a table, the worst first."""
    found = leading(statement.effects, everything=everything)
    outcome = {
        FINE: "nothing is worse",
        REGRESSION: "worse",
        NOT_DECIDED: "undecided",
    }[status(statement.effects)]
    lines = [
        f"### {_cell(statement.title)}: {outcome}",
        "",
        _cell(summary(statement.effects)),
        "",
        *_table(verdict_rows.effect_rows(_worst_first(found))),
        *_notes(_worst_first(found)),
    ]
    if statement.accepted is not None:
        accepted = statement.accepted
        lines += ["", f"**{accepted.heading}**: {_cell(accepted.reason)}", ""]
        lines += [f"- {_cell(problem)}" for problem in statement.accepted.problems]
    if statement.costs is not None and len(statement.costs):
        costs = leading(statement.costs, everything=everything)
        lines += ["", "What treatments cost against the baseline:", ""]
        lines += _table(verdict_rows.cost_rows(_worst_first(costs)))
    if statement.conditions:
        lines += ["", "What differs besides:", ""]
        lines += _table([condition_row(one) for one in statement.conditions])
    lines += ["", *(f"- {_cell(text)}" for text in statement.sentences)]
    rests = ", ".join(f"{name} {told(value)}" for name, value in statement.properties)
    return "\n".join(lines).rstrip() + f"\n\n<sub>ebpfperf compare: {_cell(rests)}</sub>\n"


def document(statement: Statement) -> dict[str, Any]:
    """What JSON holds of a comparison of two campaigns: every row, unknown numbers as null."""
    accepted = statement.accepted
    return {
        "title": statement.title,
        "exit_status": status(statement.effects),
        "summary": summary(statement.effects),
        **dict(statement.properties),
        "accepted": None if accepted is None else asdict(accepted),
        "conditions": [asdict(one) for one in statement.conditions],
        "sentences": list(statement.sentences),
        "effects": [plain(row) for row in _records(statement.effects)],
        "costs": [plain(row) for row in _records(statement.costs)],
    }


def told(value: str | float) -> str:
    """The value of a property as text."""
    return value if isinstance(value, str) else f"{value:g}"


def plain(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    """A row that JSON can hold: no number (NaN, infinity, NA) is None."""
    return {
        str(name): None
        if value is pd.NA or (isinstance(value, float) and not math.isfinite(value))
        else value
        for name, value in row.items()
    }


def condition_row(condition: Condition) -> dict[str, str]:
    """A condition as a row of text."""
    return {
        "condition": condition.name,
        "node": condition.node or "all",
        "before": condition.before,
        "after": condition.after,
        "expected": "yes" if condition.expected else "",
    }


def _properties(statement: Statement) -> list[tuple[str, str]]:
    """Everything that decides how the verdicts are to be read, as name and value."""
    found = [(name, told(value)) for name, value in statement.properties]
    if statement.accepted is not None:
        found.append(("accepted", statement.accepted.reason))
        found += [
            (f"accepted problem {number}", problem)
            for number, problem in enumerate(statement.accepted.problems, start=1)
        ]
    found += [
        (
            f"{'expected' if one.expected else 'differs'}: {one.name}"
            + (f" on {one.node}" if one.node else ""),
            f"{one.before} → {one.after}",
        )
        for one in statement.conditions
    ]
    marks = [mark for cell in statement.effects["marks"] for mark in cell.split("; ") if mark]
    return found + [
        (f"mark {number}", mark) for number, mark in enumerate(dict.fromkeys(marks), start=1)
    ]


def _warned(statement: Statement) -> list[str]:
    return [summary(statement.effects), *statement.sentences]


def _worst_first(effects: pd.DataFrame) -> pd.DataFrame:
    ranks = effects["verdict"].map({word: rank for rank, word in enumerate(_WORST_FIRST)})
    return effects.loc[ranks.sort_values(kind="stable").index]


def _records(frame: pd.DataFrame | None) -> list[dict[Hashable, Any]]:
    return [] if frame is None else frame.to_dict("records")


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    if not rows:
        return ["Nothing to show."]
    names = list(rows[0])
    return [
        f"| {' | '.join(map(_cell, names))} |",
        f"|{' --- |' * len(names)}",
        *(f"| {' | '.join(_cell(row[name]) for name in names)} |" for row in rows),
    ]


def _notes(effects: pd.DataFrame) -> list[str]:
    found = verdict_rows.lettered(effects)
    return ["", *(f"- ({verdict_rows.letter(n)}) {_cell(text)}" for n, text in enumerate(found))]


def _cell(text: str) -> str:
    """Text that means itself in Markdown, on one line."""
    flat = " ".join(text.split())
    escaped = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", escaped)


def _xml(text: object) -> str:
    return _NO_XML.sub("�", str(text))
