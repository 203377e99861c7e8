"""The command line: ``ebpfperf NOUN`` or ``VERB``; every table also as ``--json``.

Modules are imported inside the commands: ``ebpfperf --help`` must not wait for pandas or paramiko.
"""

from __future__ import annotations

import os
import sys

import typer

from ebpfperf import printing
from ebpfperf.commands import (
    bundle,
    campaigns,
    clusters,
    comparisons,
    doctor,
    drops,
    felix,
    imports,
    maps,
    reports,
    trace,
)
from ebpfperf.errors import EbpfperfError
from ebpfperf.lab.cli import app as lab

app = typer.Typer(
    name="ebpfperf",
    help="Measure, compare and explain the networking modes of Calico clusters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(lab, name="lab")
app.add_typer(imports.app, name="import")
app.add_typer(trace.app, name="trace")
app.add_typer(maps.app, name="maps")
app.add_typer(felix.app, name="felix")
for command in (
    campaigns.plan,
    campaigns.run,
    campaigns.status,
    campaigns.restore,
    clusters.nodes,
    clusters.facts,
    comparisons.compare,
    doctor.doctor,
    bundle.bundle,
    drops.drops,
    reports.report,
):
    app.command()(command)


def main() -> None:
    """Run the command line; an error of ours is one sentence and an exit status."""
    try:
        app()
    except EbpfperfError as raised:
        if os.environ.get("EBPFPERF_DEBUG"):
            raise
        printing.error(raised)
        sys.exit(raised.exit_status)
    except OSError as raised:
        if os.environ.get("EBPFPERF_DEBUG"):
            raise
        printing.error(raised)
        sys.exit(1)


if __name__ == "__main__":
    main()
