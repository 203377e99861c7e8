"""``ebpfperf lab``: the embedded cluster from the command line."""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import Annotated

import typer

from ebpfperf.calico.releases import FULL_VERSIONS, minor

app = typer.Typer(help="An embedded Calico-shaped cluster on this machine.", no_args_is_help=True)

Name = Annotated[str, typer.Option("--name", help="Name of the lab: a-z, 0-9, -.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def up(
    name: Name = "lab",
    nodes: Annotated[int, typer.Option(help="Number of nodes.")] = 2,
    release: Annotated[
        str, typer.Option(help=f"Calico release to present: {', '.join(FULL_VERSIONS)}.")
    ] = "v3.26",
    mtu: Annotated[int, typer.Option(help="MTU of the underlay, bytes.")] = 1500,
    subnets: Annotated[
        int, typer.Option(help="Subnets of the underlay, nodes dealt out in turn.")
    ] = 1,
    ebpf: Annotated[bool, typer.Option("--ebpf", help="Set bpfEnabled, and wait for it.")] = False,
) -> None:
    """Bring a lab up; nothing when it is up already."""
    from ebpfperf.lab import lifecycle
    from ebpfperf.lab.state import Shape

    lab, fresh = lifecycle.up(Shape(name, nodes, release, mtu, subnets))
    if ebpf:
        from ebpfperf.lab import ebpf_mode

        ebpf_mode.switch_on(lab)
    state = "is up" if fresh else "was up already"
    typer.echo(f"Lab {name} {state}: {nodes} nodes, presents Calico {release}.")
    typer.echo(f'For your shell: eval "$(ebpfperf lab env --name {name})"')
    typer.echo(f"A node:         ssh -F {lab.ssh_config} node-1")


@app.command()
def down(
    name: Name = "lab",
    everything: Annotated[bool, typer.Option("--all", help="Every lab on this machine.")] = False,
) -> None:
    """Take a lab down, whatever state it is in; nothing of it is left."""
    from ebpfperf.lab import lifecycle

    for one in lifecycle.every_name() if everything else [name]:
        found = lifecycle.down(one)
        typer.echo(f"Lab {one} is down." if found else f"There was no lab {one}.")


@app.command()
def status(name: Name = "lab", as_json: Json = False) -> None:
    """Show the lab's nodes, pods and encapsulation, as the nodes have them."""
    from ebpfperf.lab import running
    from ebpfperf.lab.inspection import describe

    document = describe(running.the(name))
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    title = f"Lab {name}: presents Calico {document['release']}; it is not Calico"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    columns = {
        "node": "name",
        "ssh": "ssh",
        "underlay": "underlay_ip",
        "nic": "nic",
        "pods": "pods",
        "dataplane": "dataplane",
        "encapsulation": "encapsulation",
        "ipip driver": "ipip_driver",
    }
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in document["nodes"]:
        table.add_row(*(str(row[key]) for key in columns.values()))
    # Nothing is cut off in a pipe.
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    for row in document["nodes"]:
        console.print(f"{row['name']} felix: {row['felix']}", markup=False, highlight=False)
    client = document["client"]
    console.print(
        f"Outside the cluster: {client['name']}, ssh {client['ssh']}, underlay "
        f"{client['underlay_ip']}, nic {client['nic']}",
        highlight=False,
    )
    console.print(f"API: {document['api']}", highlight=False)


@app.command()
def fault(
    fault: Annotated[
        str | None, typer.Argument(help="A fault; else they are listed.", metavar="FAULT")
    ] = None,
    node: Annotated[
        str | None, typer.Option(help="The node that gets it; else the first.", metavar="NODE")
    ] = None,
    name: Name = "lab",
    as_json: Json = False,
) -> None:
    """Give the lab a fault, or list the faults that there are and those that it has."""
    from ebpfperf.lab import running
    from ebpfperf.lab.faults import standing

    if fault is not None:
        made = standing.put(running.the(name), standing.named(fault), node)
        where = made.node if made.fault.of_node else "the cluster"
        typer.echo(f"{made.fault.name} on {where}: {made.fault.symptom}")
        typer.echo(f"Take it back: ebpfperf lab heal {made.fault.name} --name {name}")
        return
    lab = running.find(name)
    on: dict[str, list[str]] = {}
    for each in standing.standing(lab) if lab else []:
        on.setdefault(each.fault.name, []).append(each.node if each.fault.of_node else "cluster")
    rows = [
        {
            "fault": each.name,
            "of": "node" if each.of_node else "cluster",
            "symptom": each.symptom,
            "checks": list(each.checks),
            "real": each.real,
            "on": on.get(each.name, []),
        }
        for each in standing.FAULTS
        if lab is None or each.applies(minor(lab.shape.release))
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("fault", "of", "on", "what users see", "checks"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(
            str(row["fault"]), str(row["of"]), ", ".join(on.get(str(row["fault"]), [])),
            str(row["symptom"]), ", ".join(each for each in row["checks"]),
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@app.command()
def heal(
    fault: Annotated[str | None, typer.Argument(help="A fault; else all.", metavar="FAULT")] = None,
    node: Annotated[str | None, typer.Option(help="Of this node alone.", metavar="NODE")] = None,
    name: Name = "lab",
) -> None:
    """Take faults of the lab back."""
    from ebpfperf.lab import running
    from ebpfperf.lab.faults import standing

    healed = False
    for each in standing.heal(running.the(name), fault, node):
        where = each.node if each.fault.of_node else "the cluster"
        typer.echo(f"{each.fault.name} of {where} is healed.")
        healed = True
    if not healed:
        typer.echo("There was nothing to heal.")


@app.command()
def shell(
    node: Annotated[str, typer.Argument(help="A node, or the client outside: client-1.")],
    name: Name = "lab",
) -> None:
    """Open a shell on a node, by SSH."""
    from ebpfperf.lab import running

    lab = running.the(name)
    lab.node(node)
    os.execvp("ssh", ["ssh", "-F", str(lab.ssh_config), node])


@app.command()
def env(name: Name = "lab", as_json: Json = False) -> None:
    """Print KUBECONFIG and the SSH configuration, for ``eval``."""
    from ebpfperf.lab import running

    lab = running.the(name)
    values = {"KUBECONFIG": str(lab.kubeconfig), "EBPFPERF_SSH_CONFIG": str(lab.ssh_config)}
    if as_json:
        typer.echo(json.dumps(values, indent=2))
        return
    for key, value in values.items():
        typer.echo(f"export {key}={shlex.quote(value)}")
