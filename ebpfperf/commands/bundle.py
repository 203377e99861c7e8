"""Command bundle: everything that doctor reads of a cluster, as one file to look at elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebpfperf import printing
from ebpfperf.commands import times
from ebpfperf.commands.gathered import FOR, LONGEST_S, For, Probes
from ebpfperf.commands.options import Context, Kubeconfig, SshConfig
from ebpfperf.errors import InputError

if TYPE_CHECKING:
    from ebpfperf.evidence import Evidence

PARTIAL = 1
_NAMED = 20


def bundle(
    node: Annotated[
        list[str] | None, typer.Option(help="A node, also repeatedly; else all.", metavar="NODE")
    ] = None,
    duration: For = FOR,
    probes: Probes = True,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The archive; else named after the time.", metavar="FILE.tar.gz"
        ),
    ] = None,
    pseudonyms: Annotated[
        bool,
        typer.Option("--pseudonyms", help="Other names and addresses, alike in the whole bundle."),
    ] = False,
    names: Annotated[
        Path | None,
        typer.Option(help="Write which pseudonym is what, for yourself alone.", metavar="FILE"),
    ] = None,
    maps: Annotated[bool, typer.Option(help="Read BPF maps as well.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    ssh_config: SshConfig = None,
) -> None:
    """Gather what doctor reads, and logs, programs and filters, into one archive.

    It changes nothing on the cluster. Read it with: ebpfperf doctor --bundle FILE. Exit status: 0
    all was read, 1 something could not be read (the bundle says what and why), 2 there is none.
    """
    from ebpfperf import bundle as archive
    from ebpfperf import gathering, gathering_api
    from ebpfperf.reach import connect, node_names

    path = output or Path(f"ebpfperf-bundle-{gathering_api.now_utc().replace(':', '')}.tar.gz")
    seconds = times.seconds(duration, "--for", most_s=LONGEST_S, nought=True)
    if names is not None and not pseudonyms:
        raise InputError("--names has nothing to write.", "Give --pseudonyms as well.")
    for place in (path, names):
        if place is not None:
            _check_place(place, force=force)
    kube = connect(kubeconfig, context)
    try:
        chosen = node_names(kube, list(dict.fromkeys(node or [])))
        config = Path(ssh_config).expanduser() if ssh_config else None
        evidence = gathering.gather(
            kube,
            chosen,
            ssh_config=config,
            seconds=seconds,
            maps=maps,
            probes=probes,
            support=True,
            most_entries=gathering.entries_of_each(len(chosen)),
            say=lambda text: printing.remark(f"{text} …"),
        )
    finally:
        kube.close()
    if pseudonyms:
        from ebpfperf.pseudonyms import pseudonymous

        evidence, given = pseudonymous(evidence)
        if names is not None:
            _write_names(given, names, force=force)
    archive.write(evidence, path, force=force)
    raise typer.Exit(_say(evidence, path))


def _write_names(given: Mapping[str, str], path: Path, *, force: bool) -> None:
    """Pseudonym → true name, as JSON, readable by its owner alone."""
    if force:
        path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({other: one for one, other in given.items()}, file, indent=1, sort_keys=True)
    printing.remark(f"{path} says which pseudonym is what: keep it to yourself.")


def _check_place(path: Path, *, force: bool) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a directory.", "Name a file.", path=str(path))
    if not path.absolute().parent.is_dir():
        raise InputError(f"There is no directory {path.parent}.", "Make it.", path=str(path))
    if path.exists() and not force:
        raise InputError(f"{path} exists.", "Name another file, or give --force.", path=str(path))


def _say(evidence: Evidence, path: Path) -> int:
    """Tell what is in the bundle and what is not; the exit status."""
    from ebpfperf import map_answers
    from ebpfperf.evidence_sources import MAPS

    unread = [f"{node}: {why}" for node, why in evidence.lost.items()]
    unread += [
        f"{item.node or 'the API'}, {item.source}: {item.error}" for item in evidence if item.error
    ]
    unread += [
        f"{item.node}, {sentence}"
        for item in evidence
        if item.source == MAPS
        for sentence in map_answers.cuts(item.content)
    ]
    kilobytes = path.stat().st_size / 1000
    printing.sentence(
        f"{path}: {len(evidence.items)} answers of {len(evidence.nodes)} nodes and the API, "
        f"{kilobytes:,.0f} kB."
    )
    for text in unread[:_NAMED]:
        printing.remark(f"not read: {text}")
    if len(unread) > _NAMED:
        printing.remark(f"not read: {len(unread) - _NAMED} more; index.json in it says all.")
    return PARTIAL if unread else 0
