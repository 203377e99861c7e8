"""Options of the commands that gather a cluster's evidence."""

from __future__ import annotations

from typing import Annotated

import typer

FOR, LONGEST_S = "5s", 3_600.0

For = Annotated[
    str,
    typer.Option("--for", help="How long is counted, such as 5s; 0: only once.", metavar="TIME"),
]
Probes = Annotated[
    bool,
    typer.Option(
        "--probes/--no-probes",
        help="Try by a few datagrams between nodes what the underlay lets pass (B3, B8).",
    ),
]
