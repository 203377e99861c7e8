"""Commands about a cluster as it is: nodes, facts. They change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ebpfperf import printing
from ebpfperf.commands.options import (
    ClientNode,
    Context,
    Json,
    Kubeconfig,
    ServerNode,
    SshConfig,
)


def nodes(
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Show the cluster's nodes, whether SSH reaches them, and what they have installed."""
    from ebpfperf.node_list import node_list

    config = Path(ssh_config).expanduser() if ssh_config else None
    rows = node_list(kubeconfig, context, ssh_config=config)
    if json:
        printing.as_json(rows)
        return
    columns = list(rows[0]) if rows else []
    printing.table(columns, [list(row.values()) for row in rows], empty="The cluster has no node.")


def facts(
    directory: Annotated[
        Path | None,
        typer.Argument(help="Campaign directory; default: the cluster now.", metavar="DIRECTORY"),
    ] = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    ssh_config: SshConfig = None,
    client_node: ClientNode = None,
    server_node: ServerNode = None,
    json: Json = False,
) -> None:
    """Show what the two measured nodes and the cluster are; changes nothing."""
    from dataclasses import asdict

    from ebpfperf.model import ClusterRef

    if directory is not None:
        from ebpfperf.store import Store

        found = Store.open(directory).facts()
    else:
        from tempfile import TemporaryDirectory

        from ebpfperf.cluster import Cluster

        ref = ClusterRef(kubeconfig, context, ssh_config, client_node, server_node, ippools=())
        # Reading changes nothing, so that the journal is never written.
        with (
            TemporaryDirectory(prefix="ebpfperf-") as scratch,
            Cluster.connect(ref, journal=Path(scratch) / "journal.json") as cluster,
        ):
            found = cluster.facts()
    if json:
        printing.as_json([asdict(fact) for fact in found])
        return
    names = sorted({fact.node for fact in found})
    values = {(f.name, f.node): f"{f.value} {f.unit}".strip() for f in found}
    rows = [
        [name, *(values.get((name, node), "") for node in names)]
        for name in dict.fromkeys(fact.name for fact in sorted(found, key=lambda f: f.name))
    ]
    printing.table(["fact", *(name or "cluster" for name in names)], rows)
