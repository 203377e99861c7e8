"""Commands about results: report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ebpfperf import printing
from ebpfperf.commands.options import Json
from ebpfperf.errors import InputError


def report(
    notebook: Annotated[
        str | None, typer.Argument(help="Notebook, such as overlay-comparison.")
    ] = None,
    campaign: Annotated[
        Path | None, typer.Option(help="Campaign directory.", metavar="DIRECTORY")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every notebook, and an index.")
    ] = False,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE (JSON or text).")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to: a directory, default DIRECTORY/reports; of files an HTML page, default "
            "NOTEBOOK.html."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Render even if nothing changed.")] = False,
    json: Json = False,
) -> None:
    """Render a notebook over a campaign: the executed notebook and one offline HTML page.

    packets-and-maps is of files: -p log=FILE, -p maps=BUNDLE, or both.
    """
    if (notebook is None) != everything:
        raise InputError("Say which report.", "Name a notebook, or give --all.")
    if everything and parameter:
        raise InputError("--all takes no parameters.", "Render one notebook to give it parameters.")
    from ebpfperf import report as reporting

    reports: tuple[Any, ...]
    if campaign is None:
        reports = (_of_files(notebook, parameter or [], out),)
    elif notebook is None:
        reports = reporting.render_all(campaign, out_dir=out, force=force)
    else:
        given = _parameters(parameter or [])
        reports = (
            reporting.render(notebook, campaign=campaign, params=given, out_dir=out, force=force),
        )
    if json:
        printing.as_json(
            [
                {
                    "notebook": one.notebook,
                    "title": one.title,
                    "html": str(one.html),
                    "executed": str(one.executed),
                    "rendered": one.rendered,
                    "error": one.error,
                }
                for one in reports
            ]
        )
    else:
        for one in reports:
            state = "" if one.rendered else " (unchanged)"
            printing.sentence(f"{one.html}{f' (incomplete: {one.error})' if one.error else state}")
        if everything and reports:
            printing.sentence(f"{reports[0].html.parent / 'index.html'}")
    if any(one.error for one in reports):
        raise typer.Exit(1)


def _of_files(notebook: str | None, texts: list[str], out: Path | None) -> Any:
    """The report of a notebook whose parameters name files."""
    from ebpfperf import report as reporting
    from ebpfperf import templates

    template = templates.find(notebook) if notebook else None
    if template is None or templates.subject(template) == templates.CAMPAIGN:
        raise InputError("Say which campaign.", "Give --campaign DIRECTORY.")
    given = _parameters(texts)
    html = out or Path(f"{templates.name_of(template)}.html")
    if html.suffix != ".html":
        raise InputError(f"--out {html} is no HTML file.", "Write for example report.html.")
    names = [Path(value).name for value in given.values() if _is_file(value)]
    subject = given.pop(templates.subject(template), None)
    # The notebook runs where its page is written.
    folder = html.absolute().parent
    given = {
        name: os.path.relpath(value, folder) if _is_file(value) else value
        for name, value in given.items()
    }
    if not names:
        raise InputError("There is no file to report of.", "Give one, such as -p log=debug.log.")
    file = Path(str(subject)) if subject else None
    return reporting.render_file(template, file, html, stamp=", ".join(names), params=given)


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and value != "" and Path(value).exists()


def _parameters(texts: list[str]) -> dict[str, Any]:
    """``name=value`` pairs; a value that is JSON is read so, any other is text."""
    from json import loads

    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{text!r} is no parameter.", "Write NAME=VALUE.")
        try:
            found[name] = loads(value)
        except ValueError:
            found[name] = value
    return found
