"""Command doctor: the troubleshooting checks over a cluster. It changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebpfperf import printing
from ebpfperf.commands.options import Context, Json, Kubeconfig, SshConfig

if TYPE_CHECKING:
    from ebpfperf.diagnosis import Diagnosis, Outcome, Result

FOR_S = 5.0


def doctor(
    node: Annotated[
        list[str] | None, typer.Option(help="A node, also repeatedly; else all.", metavar="NODE")
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(help="A check by id or name, also repeatedly; else all.", metavar="CHECK"),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--for", help="How long is counted, seconds.", metavar="SECONDS")
    ] = FOR_S,
    every: Annotated[
        bool, typer.Option("--all", help="Also what is OK or does not apply, with evidence.")
    ] = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Check whether eBPF mode is on, set up right and undisturbed, and say what to do.

    Exit status: 0 nothing is wrong, 1 a check fails, 3 none fails but something is UNKNOWN.
    """
    from ebpfperf import gathering
    from ebpfperf.doctor import judge
    from ebpfperf.reach import connect, node_names

    checks = judge.chosen(check or [])
    kube = connect(kubeconfig, context)
    try:
        names = node_names(kube, list(dict.fromkeys(node or [])))
        config = Path(ssh_config).expanduser() if ssh_config else None
        evidence = gathering.gather(kube, names, ssh_config=config, seconds=seconds)
    finally:
        kube.close()
    found = judge.diagnose(evidence, checks)
    if json:
        printing.as_json(found.as_json())
    else:
        _show(found, every=every)
    raise typer.Exit(judge.exit_status(found))


def _show(found: Diagnosis, *, every: bool) -> None:
    from ebpfperf.diagnosis import Verdict

    quiet = () if every else (Verdict.OK, Verdict.NOT_APPLICABLE)
    rows = [_row(*pair) for pair in found.outcomes() if pair[1].verdict not in quiet]
    columns = ("verdict", "check", "node", "about", "what", "what to do")
    printing.table(columns, rows, empty="Nothing is wrong.")
    counts = ", ".join(f"{number} {verdict}" for verdict, number in found.counts().items())
    printing.sentence(f"{len(found.results)} checks of {len(found.nodes)} nodes: {counts}.")


def _row(result: Result, outcome: Outcome) -> list[str]:
    advice = " ".join(text for text in (outcome.remedy, outcome.corrected) if text)
    return [
        outcome.verdict.value, f"{result.id} {result.name}", outcome.node or "cluster",
        outcome.subject, outcome.what, advice,
    ]  # fmt: skip
