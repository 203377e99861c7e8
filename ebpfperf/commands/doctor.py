"""Command doctor: the troubleshooting checks over a cluster. It changes nothing."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebpfperf import printing
from ebpfperf.commands import times
from ebpfperf.commands.gathered import FOR, LONGEST_S, For, Probes
from ebpfperf.commands.options import Context, Json, Kubeconfig, SshConfig
from ebpfperf.errors import InputError

if TYPE_CHECKING:
    from ebpfperf.diagnosis import Diagnosis
    from ebpfperf.doctor.declaration import Check
    from ebpfperf.evidence import Evidence

TRAFFIC_S = 60.0


def doctor(
    node: Annotated[
        list[str] | None, typer.Option(help="A node, also repeatedly; else all.", metavar="NODE")
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(
            help="A check by id or name, also repeatedly, in detail; else all.", metavar="CHECK"
        ),
    ] = None,
    duration: For = FOR,
    traffic: Annotated[
        str | None,
        typer.Option(
            help="Also send as much as goes between two nodes, twice so long, such as 5s (E5).",
            metavar="TIME",
        ),
    ] = None,
    probes: Probes = True,
    campaign: Annotated[
        Path | None,
        typer.Option(help="A campaign that measured pods and hosts (check E6).", metavar="DIR"),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Also what is OK or does not apply.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 for WARN, too.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Also write the JSON there.", metavar="FILE.json")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Also write an HTML page there; beside it the JSON and the notebook.",
            metavar="FILE.html",
        ),
    ] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="Print the checks that there are; ask no cluster.")
    ] = False,
    release: Annotated[
        str | None,
        typer.Option(help="With --list: those for this release, such as v3.26.", metavar="RELEASE"),
    ] = None,
    from_file: Annotated[
        Path | None,
        typer.Option("--bundle", help="Judge a bundle; ask no cluster.", metavar="FILE.tar.gz"),
    ] = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Check whether eBPF mode is on, set up right and undisturbed, and say what to do.

    Exit status: 0 nothing is wrong; 1 a check fails (--strict: or warns);
    3 neither, but something is UNKNOWN; 2 no such cluster, node or check.
    """
    from ebpfperf import gathering
    from ebpfperf.doctor import judge
    from ebpfperf.reach import connect, node_names

    checks = judge.chosen(check or [])
    if listing:
        _list(checks, release, json=json)
        return
    if release is not None:
        raise InputError("--release goes with --list.", "A cluster says its release itself.")
    _writable(output, report)
    seconds = times.seconds(duration, "--for", most_s=LONGEST_S, nought=True)
    traffic_s = times.seconds(traffic, "--traffic", most_s=TRAFFIC_S) if traffic else 0.0
    if from_file is not None and traffic_s:
        raise InputError("--traffic and --bundle exclude each other.", "Leave one of them out.")
    if from_file is not None:
        evidence = _of_bundle(from_file, node or [])
    else:
        kube = connect(kubeconfig, context)
        try:
            names = node_names(kube, list(dict.fromkeys(node or [])))
            config = Path(ssh_config).expanduser() if ssh_config else None
            with _saying() as say:
                evidence = gathering.gather(
                    kube,
                    names,
                    ssh_config=config,
                    seconds=seconds,
                    traffic_s=traffic_s,
                    probes=probes,
                    say=say,
                )
        finally:
            kube.close()
    if campaign is not None:
        from ebpfperf import pod_gap

        evidence = evidence.with_item(pod_gap.measured(campaign))
    found = judge.diagnose(evidence, checks, from_bundle=from_file is not None)
    document = output or (None if report is None else report.with_suffix(".json"))
    if document is not None:
        text = jsonlib.dumps(found.as_json(), indent=1, ensure_ascii=False, allow_nan=False)
        try:
            document.write_text(f"{text}\n", encoding="utf-8")
        except OSError as error:
            # Not status 1: that is what a check that fails ends with.
            raise InputError(f"{document} cannot be written: {error.strerror}.") from error
    if json:
        printing.as_json(found.as_json())
    else:
        from ebpfperf.commands import doctor_text

        doctor_text.show(found, every=every, detail=bool(check))
    if document is not None and report is not None:
        _render(found, document, report)
    raise typer.Exit(judge.exit_status(found, strict=strict))


def _of_bundle(path: Path, names: Collection[str]) -> Evidence:
    """The evidence of a bundle, of all its nodes or of these."""
    from ebpfperf import bundle

    evidence = bundle.read(path)
    for name in names:
        if name not in evidence.nodes:
            raise InputError(
                f"The bundle has no node {name}.", f"It has {', '.join(evidence.nodes)}.", node=name
            )
    return replace(evidence, nodes=tuple(dict.fromkeys(names)) or evidence.nodes)


@contextmanager
def _saying() -> Iterator[Callable[[str], None]]:
    """Says on stderr what is done now, where that is a terminal; gone at the end."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status("connecting") as shown:
        yield shown.update


def _list(checks: Collection[Check], release: str | None, *, json: bool) -> None:
    from ebpfperf.calico.releases import minor
    from ebpfperf.doctor import listing

    try:
        wanted = None if release is None else minor(release)
    except ValueError:
        raise InputError(f"{release} is no release.", "Write for example v3.26.") from None
    rows = listing.rows(checks, wanted)
    if json:
        printing.as_json(rows)
    else:
        printing.table(list(listing.Row.__annotations__), [list(row.values()) for row in rows])


def _writable(output: Path | None, report: Path | None) -> None:
    """Before minutes are spent: where nothing can be written later is said now."""
    if report is not None and report.suffix != ".html":
        raise InputError(f"--report {report} is no HTML file.", "Write for example doctor.html.")
    for path in (output, report):
        if path is None:
            continue
        if path.is_dir():
            raise InputError(f"{path} is a directory.", "Name a file.", path=str(path))
        if not path.absolute().parent.is_dir():
            raise InputError(f"There is no directory {path.parent}.", "Make it first.")


def _render(found: Diagnosis, document: Path, report: Path) -> None:
    from ebpfperf.diagnosis_groups import circumstances
    from ebpfperf.report import render_file

    render_file("troubleshooting", document, report, stamp=" ".join(circumstances(found)))
    printing.remark(f"{report} is the report, {document} the JSON that it was made of.")
