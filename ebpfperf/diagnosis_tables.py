"""A diagnosis as a notebook shows it: verdict, whether to believe it, findings, evidence. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import pandas as pd

from ebpfperf import tables, units
from ebpfperf.diagnosis import WORST, Diagnosis, Result, Shown, Verdict
from ebpfperf.diagnosis_groups import (
    Group,
    circumstances,
    clock,
    doubts,
    grouped,
    headline,
    printable,
    told_apart,
)
from ebpfperf.findings import Commands, Sentences
from ebpfperf.tables import Table

LETTERS = {
    Verdict.FAIL: "F", Verdict.WARN: "W", Verdict.UNKNOWN: "U", Verdict.OK: "·",
    Verdict.NOT_APPLICABLE: "–",
}  # fmt: skip
_LEGEND = (
    "F fails, W warns, U is UNKNOWN, · is OK, – does not apply; empty: not asked of one node, but "
    "of the cluster."
)
NODES_SHOWN = 16


def verdict(found: Diagnosis) -> Sentences:
    """The verdict in one sentence."""
    return Sentences((headline(found),), "headline")


def validity(found: Diagnosis, *, now: datetime | None = None) -> Sentences:
    """Whether to believe it: of when it is, what could not be read, what UNKNOWN means."""
    said = [*doubts(found), *circumstances(found)]
    if old := _age(found, now or datetime.now(UTC)):
        said.append(old)
    unknown = [result for result in found.results if result.verdict is Verdict.UNKNOWN]
    if unknown:
        listed = ", ".join(f"{result.id} {result.name}" for result in unknown)
        said.append(
            f"UNKNOWN is not OK: {len(unknown)} of {len(found.results)} checks could not tell "
            f"({listed})."
        )
    elif found.results:
        said.append("Every check had the evidence that it needs.")
    said.append("Each finding is of one moment: what comes and goes may have been away.")
    return Sentences(tuple(said))


def findings(found: Diagnosis) -> Table:
    """What is wrong or cannot be told, worst first, and what to do."""
    notes: list[str] = []
    rows = []
    for group in told_apart(found, grouped(found)):
        mark = ""
        if group.corrected:
            notes += [group.corrected] if group.corrected not in notes else []
            mark = f" ({tables.letter(notes.index(group.corrected))})"
        rows.append(
            {
                "check": group.check,
                "verdict": f"{group.verdict}: {group.where(found.nodes)}",
                "what": " ".join(map(printable, group.said())),
                "what to do": f"{printable(group.remedy) or '–'}{mark}",
            }
        )
    return Table("What is wrong, and what to do", pd.DataFrame(rows), notes=tuple(notes))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the nodes and the API answered, for each finding, to be opened one by one."""

    groups: tuple[Group, ...]
    nodes: tuple[str, ...]

    def _repr_html_(self) -> str:
        if not self.groups:
            return "<p>Nothing is wrong, so that there is nothing to show.</p>"
        return "\n".join(map(self._details, self.groups))

    def __str__(self) -> str:
        return "\n\n".join(
            f"{self._title(group)}\n"
            + "\n".join(
                f"{_by(shown)}: {_command(shown)}\n{_excerpt(shown)}" for shown in _shown(group)
            )
            for group in self.groups
        )

    def _title(self, group: Group) -> str:
        return f"{group.verdict} {group.check}, {group.where(self.nodes)}"

    def _details(self, group: Group) -> str:
        result = group.result
        said = escape(" ".join(map(printable, group.said())))
        words = "".join(
            f"<p>{label}: {escape(text)}</p>"
            for label, text in (
                ("Symptom", result.symptom), ("Rule", result.rule), ("From", result.source)
            )
        )  # fmt: skip
        seen = "".join(
            f"<p>{escape(_by(shown))}: <code>{escape(_command(shown))}</code></p>"
            f"<pre><code>{escape(_excerpt(shown))}</code></pre>"
            for shown in _shown(group)
        )
        return (
            f"<details><summary>{escape(self._title(group))}</summary>\n"
            f"<p>{said}</p>{words}{seen or '<p>No answer to show.</p>'}</details>"
        )


def evidence(found: Diagnosis) -> Evidence:
    """The evidence of each finding."""
    return Evidence(told_apart(found, grouped(found)), found.nodes)


def matrix(found: Diagnosis) -> Table:
    """Every check on every node, a letter each: the worst that it says there."""
    nodes = _nodes_shown(found)
    rows = []
    for result in found.results:
        row = {"check": f"{result.id} {result.name}", "cluster": _letter(result, "")}
        rows.append({**row, **{node: _letter(result, node) for node in nodes}})
    left = len(found.nodes) - len(nodes)
    more = (f"{left} more nodes, of which no check says worse, are left out.",) if left else ()
    return Table("Checks by node", pd.DataFrame(rows), notes=(_LEGEND, *more))


def checks(found: Diagnosis) -> Table:
    """What each check asks, what it says, by which rule, and where that comes from."""
    rows = [
        {
            "check": f"{result.id} {result.name}",
            "verdict": result.verdict.value,
            "asks": result.title,
            "what users see": result.symptom,
            "rule": result.rule,
            "from": result.source,
        }
        for result in found.results
    ]
    return Table("The checks and their rules", pd.DataFrame(rows), folded=True)


def repeat(found: Diagnosis, file: str | Path = "") -> Commands:
    """The commands that look again: the same checks, and the first that is wrong in detail."""
    counting = f" --for {found.seconds:.0f}s" if found.seconds >= 1 else ""
    bad = grouped(found)
    lines = [f"ebpfperf doctor{counting} --report doctor.html"]
    if bad:
        nodes = [name for name in dict.fromkeys(o.node for o in bad[0].outcomes) if name]
        only = f" --node {shlex.quote(nodes[0])}" if nodes else ""
        lines.append(f"ebpfperf doctor --check {bad[0].result.id}{only}")
    if found.from_bundle:
        lines = ["ebpfperf doctor --bundle FILE.tar.gz --report doctor.html"]
    if str(file):
        lines.append(f"ebpfperf.diagnosing.opened({str(file)!r})  # in Python")
    return Commands(tuple(lines))


def _nodes_shown(found: Diagnosis) -> tuple[str, ...]:
    """The nodes, or of many those of which the worst is said."""
    worst = {name: len(WORST) for name in found.nodes}
    for _, each in found.outcomes():
        if each.node in worst:
            worst[each.node] = min(worst[each.node], WORST.index(each.verdict))
    kept = set(sorted(found.nodes, key=lambda name: worst[name])[:NODES_SHOWN])
    return tuple(name for name in found.nodes if name in kept)


def _letter(result: Result, node: str) -> str:
    said = [each.verdict for each in result.outcomes if each.node == node]
    return LETTERS[min(said, key=WORST.index)] if said else ""


def _shown(group: Group) -> tuple[Shown, ...]:
    return tuple(dict.fromkeys(shown for each in group.outcomes for shown in each.shown))


def _by(shown: Shown) -> str:
    when = f", {clock(shown.taken_utc)}" if shown.taken_utc else ""
    return f"{shown.node or 'API'}{when}"


def _command(shown: Shown) -> str:
    return printable(" ".join(shown.asked.split()) or shown.source)


def _excerpt(shown: Shown) -> str:
    return "\n".join(map(printable, shown.excerpt.splitlines()))


def _age(found: Diagnosis, now: datetime) -> str:
    try:
        taken = datetime.fromisoformat(found.taken_utc)
    except ValueError:
        return "When the evidence was taken is not known."
    seconds = (now - taken).total_seconds()
    if seconds < 0:
        return "By the clock here the evidence is of the future: clocks differ."
    return f"The evidence was {_long(seconds)} old when this was made."


def _long(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3_600, "hours")):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return units.duration_s(seconds)
