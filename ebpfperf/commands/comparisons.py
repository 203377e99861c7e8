"""The command that compares: treatments within a campaign, or one campaign with another."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebpfperf import printing
from ebpfperf.commands.options import Folder, Json
from ebpfperf.errors import InputError

if TYPE_CHECKING:
    from ebpfperf.between import Side
    from ebpfperf.store import Store
    from ebpfperf.verdict_formats import Statement


class Format(StrEnum):
    """How a comparison is written."""

    TEXT = "text"
    MARKDOWN = "markdown"
    JSON = "json"
    JUNIT = "junit"


def compare(
    directory: Folder,
    after: Annotated[
        Path | None,
        typer.Argument(help="Campaign directory to compare with the first one.", metavar="AFTER"),
    ] = None,
    treatment: Annotated[
        list[str] | None,
        typer.Option(help="BEFORE=AFTER: treatments of two names that are to be compared."),
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(help="Condition that is to differ, such as calico_release; repeatable."),
    ] = None,
    accept: Annotated[
        str | None,
        typer.Option(help="Why to compare what is not comparable.", metavar="REASON"),
    ] = None,
    margin: Annotated[
        str | None, typer.Option(help="Margin, where the two campaigns' differ, such as 5%.")
    ] = None,
    level: Annotated[
        float | None, typer.Option(help="Confidence level, where the two campaigns' differ.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All metrics, not only the primary ones.")
    ] = False,
    format: Annotated[Format, typer.Option(help="How it is written.")] = Format.TEXT,
    output: Annotated[
        Path | None, typer.Option(help="File to write, whole or not at all.", metavar="FILE")
    ] = None,
    fail: Annotated[
        bool,
        typer.Option("--fail", help="Within one campaign: exit with the verdicts' status, too."),
    ] = False,
    json: Json = False,
) -> None:
    """Compare treatments with their baseline; of two campaigns, after with before.

    Exit status of two campaigns, or of one with --fail:
    0 when no primary metric is worse and all are decided,
    1 when one is worse, 3 when none is but one is undecided or void.
    It is 2 for bad input, and for campaigns that are not comparable.
    """
    if json and format not in (Format.TEXT, Format.JSON):
        raise InputError(f"--json and --format {format} contradict.", "Give one of them.")
    if after is None:
        _refuse_options(
            treatment=treatment, expect=expect, accept=accept, margin=margin, level=level
        )
    kind = Format.JSON if json else format
    with contextlib.redirect_stdout(io.StringIO()) if output else contextlib.nullcontext() as kept:
        if after is None:
            status = _within(directory, kind, everything=everything)
        else:
            status = _between(
                directory,
                after,
                kind,
                renamed=_renamed(treatment or []),
                expected=tuple(expect or ()),
                accepted=_reason(accept),
                margin_pct=_percent(margin),
                level=_level(level),
                everything=everything,
            )
            fail = True
    if output is not None and kept is not None:
        _write(output, kept.getvalue())
    if fail and status:
        raise typer.Exit(status)


def _within(directory: Path, kind: Format, *, everything: bool) -> int:
    """Print each treatment against the baseline; the exit status that the verdicts have."""
    from ebpfperf import compare as comparing
    from ebpfperf import (
        expectations,
        findings,
        limits,
        validity,
        validity_tables,
        verdict_formats,
        verdicts,
    )
    from ebpfperf.store import Store

    store = Store.open(directory)
    facts, judged = store.frame("facts"), verdicts.of_store(store)
    effects = judged.effects
    expected = expectations.judged(effects, judged.trials, facts=facts, campaign=store.campaign)
    status = verdict_formats.status(effects)
    said = (
        *findings.agreement(expected).items,
        *validity.belief(judged, facts).items,
        *validity.advice(judged).items,
        *limits.sentences(judged.arms),
    )
    if kind is Format.JSON:
        added = expected[["expected", "why", "source", "agreement"]]
        both = limits.beside(
            effects.assign(**{str(name): added[name] for name in added}), judged.arms
        )
        printing.as_json([verdict_formats.plain(row) for row in both.to_dict("records")])
    elif kind is Format.TEXT:
        _print_effects(store, effects, facts, everything=everything)
        _print_limits(validity_tables.limiters(judged)[1])
        for text in said:
            printing.sentence(text)
    else:
        campaign = store.campaign
        _print(
            verdict_formats.Statement(
                title=f"{campaign.name}: treatments against {campaign.baseline}",
                properties=(
                    ("campaign", str(directory)),
                    ("margin_pct", campaign.margin_pct),
                    ("level", comparing.level(campaign)),
                ),
                effects=effects,
                sentences=(*findings.notice(facts).items, *said),
            ),
            kind,
            everything=everything,
        )
    return status


def _print_effects(store: Store, effects: Any, facts: Any, *, everything: bool) -> None:
    from ebpfperf import findings, tables, verdict_formats

    for text in findings.notice(facts).items:
        printing.sentence(text)
    leading = verdict_formats.leading(effects, everything=everything)
    shown = tables.effects(leading, store.campaign)
    printing.table(
        [str(name) for name in shown.frame.columns],
        shown.frame.itertuples(index=False, name=None),
        title=shown.caption if everything else shown.caption.replace("All", "Primary", 1),
        numeric=shown.numeric,
        empty="No effects: there are no usable trials of the baseline and a treatment yet.",
    )
    _print_notes(shown.notes)
    if len(leading) < len(effects):
        printing.sentence(f"{len(effects) - len(leading)} more with --all.")


def _print_limits(table: Any) -> None:
    """What limited each flow, beside what was measured and what headers allow."""
    printing.table(
        [str(name) for name in table.frame.columns],
        table.frame.itertuples(index=False, name=None),
        title=table.caption,
        numeric=table.numeric,
        empty="What limited the flows is UNKNOWN: no trial's numbers may be used.",
    )
    _print_notes(table.notes)


def _print_notes(notes: Sequence[str]) -> None:
    from ebpfperf import tables

    for number, note in enumerate(notes):
        printing.sentence(f"({tables.letter(number)}) {note}")


def _between(
    directory: Path,
    after: Path,
    kind: Format,
    *,
    renamed: dict[str, str],
    expected: tuple[str, ...],
    accepted: str | None,
    margin_pct: float | None,
    level: float | None,
    everything: bool,
) -> int:
    """Print the second campaign against the first; the exit status that the verdicts have."""
    from ebpfperf import between, between_findings, comparable, findings, verdict_formats
    from ebpfperf.store import Store

    stores = Store.open(directory), Store.open(after)
    one, other = (_side(store) for store in stores)
    paired = between.pairs(one.campaign, other.campaign, renamed=renamed)
    found = comparable.refusals(
        one,
        other,
        paired=paired,
        renamed=renamed,
        margin_given=margin_pct is not None,
        level_given=level is not None,
        expected=expected,
        units=(_units(stores[0]), _units(stores[1])),
    )
    problems = comparable.check(found, accepted=accepted)
    conditions = between_findings.conditions(one, other, paired=paired, expected=expected)
    rules = {
        "margin_pct": one.campaign.margin_pct if margin_pct is None else margin_pct,
        "level": one.campaign.level if level is None else level,
    }
    marks = between_findings.marks(
        accepted=accepted if problems else None,
        unexpected=[each.name for each in conditions if not each.expected],
    ) + between_findings.chosen(one, other, **rules)
    effects, costs = (
        between_findings.marked(
            compared(one, other, paired=paired, **rules), one, other, paired=paired, marks=marks
        )
        for compared in (between.effects, between.costs)
    )
    statement = verdict_formats.Statement(
        title=f"{other.name} against {one.name}",
        properties=(
            ("before", one.name),
            ("after", other.name),
            *rules.items(),
        ),
        effects=effects,
        costs=costs,
        conditions=conditions,
        sentences=(
            *findings.notice(other.facts).items,
            *between_findings.sentences(one, other, effects, paired=paired),
            *between_findings.unmet(expected, conditions),
            *between_findings.not_compared(one, other, paired=paired),
        ),
        accepted=verdict_formats.Accepted(accepted, problems) if accepted else None,
    )
    _print(statement, kind, everything=everything)
    return verdict_formats.status(effects)


def _side(store: Store) -> Side:
    from ebpfperf import verdicts
    from ebpfperf.between import Side

    judged = verdicts.of_store(store)
    return Side(
        str(store.path),
        store.campaign,
        judged.trials,
        store.frame("facts"),
        histograms=store.frame("histograms"),
        aa=judged.aa,
        gates=judged.gates,
    )


def _units(store: Store) -> dict[str, str]:
    pairs = store.frame("samples")[["metric", "unit"]].drop_duplicates()
    return dict(pairs.itertuples(index=False, name=None))


def _print(statement: Statement, kind: Format, *, everything: bool) -> None:
    from ebpfperf import verdict_formats

    if kind is Format.JSON:
        printing.as_json(verdict_formats.document(statement))
    elif kind is Format.JUNIT:
        print(verdict_formats.junit(statement, everything=everything), end="")
    elif kind is Format.MARKDOWN:
        print(verdict_formats.markdown(statement, everything=everything), end="")
    else:
        _print_text(statement, everything=everything)


def _print_text(statement: Statement, *, everything: bool) -> None:
    from ebpfperf import verdict_formats, verdict_rows

    accepted = statement.accepted
    if accepted is not None:
        printing.sentence(f"{accepted.heading}: {accepted.reason}")
        for problem in accepted.problems:
            printing.sentence(f"  {problem}")
    told = ", ".join(
        f"{name} {verdict_formats.told(value)}" for name, value in statement.properties[2:]
    )
    leading = verdict_formats.leading(statement.effects, everything=everything)
    _table(
        verdict_rows.effect_rows(leading),
        title=f"{statement.title} ({told})",
        empty="No effects: no metric was measured in either campaign.",
    )
    for number, text in enumerate(verdict_rows.lettered(leading)):
        printing.sentence(f"({verdict_rows.letter(number)}) {text}")
    if statement.costs is not None and len(statement.costs):
        costs = verdict_formats.leading(statement.costs, everything=everything)
        _table(verdict_rows.cost_rows(costs), title="What treatments cost against the baseline")
    _table(
        [verdict_formats.condition_row(one) for one in statement.conditions],
        title="What differs besides",
        empty="Nothing else that is known of the nodes differs.",
    )
    printing.sentence(verdict_formats.summary(statement.effects))
    for text in statement.sentences:
        printing.sentence(text)


def _table(rows: Sequence[dict[str, str]], *, title: str, empty: str = "") -> None:
    columns = list(rows[0]) if rows else []
    values = [[row[name] for name in columns] for row in rows]
    printing.table(columns, values, title=title, empty=empty)


def _write(path: Path, text: str) -> None:
    """Write the file whole, or leave what was there."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(
            f"{path} cannot be written: {error.strerror}.", "Choose another --output."
        ) from error


def _refuse_options(**given: object) -> None:
    """Refuse what only two campaigns have."""
    for name, value in given.items():
        if value:
            raise InputError(
                f"--{name} is for comparing two campaigns.", "Name the campaign after, too."
            )


def _renamed(texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        before, equals, after = text.partition("=")
        if not (before and equals and after):
            raise InputError(f"{text!r} names no two treatments.", "Write BEFORE=AFTER.")
        if before in found:
            raise InputError(f"Treatment {before!r} is given twice.", "Give it once.")
        found[before] = after
    return found


def _reason(text: str | None) -> str | None:
    if text is None:
        return None
    flat = " ".join(text.split())
    if not flat:
        raise InputError("--accept gives no reason.", "Say in a few words why to compare.")
    return flat


def _percent(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = 0.0
    if not 0 < value < 100:
        raise InputError(f"{text!r} is no margin.", "Write a percentage such as 5%.")
    return value


def _level(value: float | None) -> float | None:
    if value is not None and not 0.5 <= value < 1:
        raise InputError(f"{value:g} is no level.", "Write one from 0.5 to below 1, such as 0.95.")
    return value
