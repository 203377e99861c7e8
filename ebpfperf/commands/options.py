"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ebpfperf.errors import InputError


def _there(context: typer.Context, option: typer.CallbackParam, value: str | None) -> str | None:
    """Refuse a file that is not there; one that the environment names is not always needed."""
    source = context.get_parameter_source(str(option.name))
    typed = source is not None and source.name == "COMMANDLINE"
    if value and typed and not Path(value).expanduser().is_file():
        raise InputError(f"There is no SSH configuration {value}.", "Name a file, or none.")
    return value


File = Annotated[Path, typer.Argument(help="Campaign file (YAML).", metavar="FILE")]
Folder = Annotated[Path, typer.Argument(help="Campaign directory.", metavar="DIRECTORY")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Kubeconfig = Annotated[
    str | None, typer.Option(help="Kubeconfig; else the file's, $KUBECONFIG, ~/.kube/config.")
]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig.")]
SshConfig = Annotated[
    str | None,
    typer.Option(
        envvar="EBPFPERF_SSH_CONFIG",
        help="SSH configuration; else ~/.ssh/config.",
        callback=_there,
    ),
]
ClientNode = Annotated[str | None, typer.Option(help="Node of the client.")]
ServerNode = Annotated[str | None, typer.Option(help="Node of the server.")]
Blocks = Annotated[int | None, typer.Option(help="Blocks, instead of the file's number.")]
Until = Annotated[
    str | None,
    typer.Option(
        help="End once every interval is within so many percent, such as 3%; looked at after some "
        "blocks, so that its level holds.",
        metavar="PERCENT",
    ),
]
UntilMetric = Annotated[
    str | None, typer.Option(help="The metric whose intervals --until is about; else all primary.")
]
