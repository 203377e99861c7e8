"""A diagnosis in a terminal or a pipe: the verdict, then what is wrong, what to do and why."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator

from ebpfperf.diagnosis import Diagnosis, Shown, Verdict
from ebpfperf.diagnosis_groups import (
    BAD,
    NAMED,
    Group,
    checks,
    circumstances,
    clock,
    doubts,
    grouped,
    headline,
    printable,
    told_apart,
)

WIDEST = 120
_INDENT = " " * 9
_COLOURS = {
    Verdict.FAIL: "bold red",
    Verdict.WARN: "bold yellow",
    Verdict.UNKNOWN: "bold magenta",
    Verdict.OK: "green",
}
_COMMAND_CHARACTERS = 100


def show(diagnosis: Diagnosis, *, every: bool = False, detail: bool = False) -> None:
    """Print it on stdout; wrapped at the terminal's width, in a pipe a sentence a line.

    Parameters
    ----------
    every
        Also what is OK or does not apply.
    detail
        With rule, source and all of the evidence.
    """
    tty = sys.stdout.isatty()
    width = min(WIDEST, shutil.get_terminal_size().columns) if tty else None
    lines = list(text(diagnosis, every=every, detail=detail, width=width))
    if not tty:
        print("\n".join(lines))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line in lines:
        drawn = Text(line)
        for verdict, style in _COLOURS.items():
            if line.startswith((f"{verdict} ", f"{verdict}:")):
                drawn.stylize(style, 0, len(verdict))
        console.print(drawn, soft_wrap=True)


def text(
    diagnosis: Diagnosis, *, every: bool = False, detail: bool = False, width: int | None = None
) -> Iterator[str]:
    """The lines of it; ``width`` None: none is wrapped."""
    for sentence in (headline(diagnosis), *circumstances(diagnosis), *doubts(diagnosis)):
        yield from _wrapped(sentence, "", width)
    shown = grouped(diagnosis, tuple(Verdict) if every or detail else BAD)
    shown = shown if detail else told_apart(diagnosis, shown)
    for number, group in enumerate(shown):
        # What is not wrong stands close.
        if detail or not number or group.verdict in BAD or shown[number - 1].verdict in BAD:
            yield ""
        yield from _group(group, diagnosis, detail=detail, width=width)
    yield ""
    counts = ", ".join(f"{number} {verdict}" for verdict, number in diagnosis.counts().items())
    yield from _wrapped(f"{checks(len(diagnosis.results))}: {counts}.", "", width)


def _group(group: Group, diagnosis: Diagnosis, *, detail: bool, width: int | None) -> Iterator[str]:
    place, result = group.where(diagnosis.nodes), group.result
    yield from _wrapped(
        f"{group.verdict:<8} {group.check}, {place}: {result.title}", _INDENT, width, first=""
    )
    for sentence in group.said(len(group.outcomes) if detail else NAMED):
        yield from _wrapped(sentence, _INDENT, width)
    if group.remedy:
        yield from _wrapped(f"What to do: {group.remedy}", _INDENT, width)
    if group.corrected:
        yield from _wrapped(f"Documentation: {group.corrected}", _INDENT, width)
    if detail:
        for label, words in (
            ("Symptom", result.symptom), ("Rule", result.rule), ("Source", result.source)
        ):  # fmt: skip
            yield from _wrapped(f"{label}: {words}", _INDENT, width)
    elif group.verdict not in (Verdict.FAIL, Verdict.WARN):
        return
    yield from _evidence(group, detail=detail, width=width)


def _evidence(group: Group, *, detail: bool, width: int | None) -> Iterator[str]:
    seen = [shown for each in group.outcomes for shown in each.shown]
    wanted = seen if detail else list(group.outcomes[0].shown)
    for shown in dict.fromkeys(wanted):
        yield from _wrapped(f"Evidence: {asked(shown, whole=detail)}", _INDENT, width)
        for line in shown.excerpt.splitlines():
            yield from _folded(printable(line), f"{_INDENT}| ", width)
    if len(group.outcomes) > 1 and not detail:
        yield (
            f"{_INDENT}All the evidence, of {len(group.outcomes)} findings like it: "
            f"--check {group.result.id}"
        )


def asked(shown: Shown, *, whole: bool = False) -> str:
    """Who was asked what, and when: ``node-2, 2026-01-31 09:05:33 UTC: uname -rm``."""
    first, *rest = shown.asked.splitlines() or [shown.source]
    command = " ".join((first, *rest)) if whole else first
    if not whole and (rest or len(command) > _COMMAND_CHARACTERS):
        command = f"{command[:_COMMAND_CHARACTERS].rstrip()} …"
    when = f", {clock(shown.taken_utc)}" if shown.taken_utc else ""
    return f"{shown.node or 'API'}{when}: {command}"


def _wrapped(
    sentence: str, indent: str, width: int | None, *, first: str | None = None
) -> Iterator[str]:
    sentence, begin = printable(sentence), indent if first is None else first
    if width is None:
        yield begin + sentence
        return
    yield from textwrap.wrap(
        sentence,
        width,
        initial_indent=begin,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=True,
    )


def _folded(line: str, indent: str, width: int | None) -> Iterator[str]:
    """A line of output as it is: broken where the terminal would, never between its spaces."""
    room = len(line) if width is None else max(20, width - len(indent))
    for start in range(0, max(1, len(line)), max(1, room)):
        yield indent + line[start : start + room]
