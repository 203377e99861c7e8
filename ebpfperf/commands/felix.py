"""Commands about Felix's configuration: felix show, felix explain. They change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebpfperf import printing
from ebpfperf.commands.options import Context, Json, Kubeconfig, SshConfig
from ebpfperf.commands.remarks import grouped
from ebpfperf.errors import InputError

if TYPE_CHECKING:
    from ebpfperf.felix_values import Effective, Evidence

app = typer.Typer(help="What Felix acts on, and what its fields do.", no_args_is_help=True)
ALL_NODES = "all"
Release = Annotated[
    str | None,
    typer.Option(help="Release of Calico, such as v3.26; else the cluster's.", metavar="VERSION"),
]


@app.callback()
def _felix() -> None:
    """What Felix acts on, and what its fields do."""


@app.command()
def show(
    node: Annotated[str | None, typer.Option(help="One node; else all.", metavar="NODE")] = None,
    field: Annotated[
        str | None,
        typer.Option(help="One field, by its name or FELIX_… name; else all.", metavar="FIELD"),
    ] = None,
    only_set: Annotated[
        bool, typer.Option("--set", help="Only what somebody set or pools decide.")
    ] = False,
    release: Release = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Show the values that Felix acts on, where each comes from, and what it beats."""
    from ebpfperf import felix_reading, felix_values
    from ebpfperf.calico import felix_fields

    wanted = felix_fields.field(field) if field else None
    if release:
        _version(release)
    config = Path(ssh_config).expanduser() if ssh_config else None
    evidence = felix_reading.read(
        kubeconfig, context, ssh_config=config, node=node, release=release
    )
    values = [
        value
        for each in evidence
        for value in (
            [felix_values.value_of(each, wanted)] if wanted else felix_values.effective(each)
        )
        if not only_set or value.origin is not felix_values.Origin.RELEASE or value.shadowed
    ]
    remarks = _remarks(evidence)
    if json:
        printing.as_json(
            {
                "release": evidence[0].release if evidence else None,
                "values": [_json(value) for value in values],
                "remarks": remarks,
            }
        )
        return
    columns = ("node", "field", "value", "from", "beats", "note")
    rows = _rows(values, len(evidence))
    printing.table(columns, rows, empty="Nobody set a field: all are the release's defaults.")
    for text in remarks:
        printing.remark(text)


@app.command()
def explain(
    flag: Annotated[str, typer.Argument(help="A field of FelixConfiguration.", metavar="FLAG")],
    release: Release = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    json: Json = False,
) -> None:
    """Say what a field does in a release, its default, its traps, and where that is written."""
    from ebpfperf import felix_explained
    from ebpfperf.calico import felix_fields

    found = felix_fields.field(flag)
    version = _version(release) if release else _cluster_release(kubeconfig, context)
    told = felix_explained.explain(found, version)
    if json:
        printing.as_json(told.as_json())
        return
    printing.table(("", ""), list(told.rows()))


def _version(release: str) -> str:
    from ebpfperf.calico.flags import FIRST_EBPF
    from ebpfperf.calico.releases import minor

    try:
        found = minor(release)
    except ValueError as error:
        raise InputError(f"--release: {error}.", "Write for example v3.26.") from error
    if found < FIRST_EBPF:
        raise InputError(
            f"Calico {release} has no eBPF mode.", "Its first release with one is v3.13."
        )
    return release if release.startswith("v") else f"v{release}"


def _cluster_release(kubeconfig: str | None, context: str | None) -> str:
    from ebpfperf.reach import connect, release_of

    try:
        kube = connect(kubeconfig, context)
    except InputError as error:
        raise InputError(
            f"No release was given, and no cluster could be asked for its own. {error.what}",
            "Give --release v3.26, or a kubeconfig.",
        ) from error
    try:
        return release_of(kube)
    finally:
        kube.close()


def _remarks(evidence: Iterable[Evidence]) -> list[str]:
    """What could not be read, and what is set in vain."""
    from ebpfperf.felix_values import strays

    return grouped({each.node: (*each.remarks, *strays(each)) for each in evidence})


def _rows(values: Iterable[Effective], nodes: int) -> list[list[str]]:
    """A row where all nodes agree, else one for each group of nodes; in the fields' order."""
    groups: dict[tuple[str, ...], list[str]] = {}
    order: dict[str, None] = {}
    for value in values:
        order[value.field] = None
        groups.setdefault(_cells(value), []).append(value.node)
    rows = []
    for name in order:
        for cells, found in groups.items():
            if cells[0] == name:
                whose = ALL_NODES if len(found) == nodes > 1 else ", ".join(found)
                rows.append([whose, *cells])
    return rows


def _cells(value: Effective) -> tuple[str, ...]:
    from ebpfperf.felix_values import Origin, shown

    where = {
        Origin.RELEASE: f"default of {value.where}",
        Origin.DERIVED: f"derived from {value.where}",
    }.get(value.origin, value.where)
    beats = "; ".join(f"{given.where}: {shown(given.value)}" for given in value.shadowed)
    return value.field, shown(value.value), where, beats, "; ".join(value.notes)


def _json(value: Effective) -> Mapping[str, Any]:
    return {
        "node": value.node,
        "field": value.field,
        "value": value.value,
        "origin": value.origin.value,
        "where": value.where,
        "shadowed": [
            {
                "origin": given.origin.value,
                "where": given.where,
                "value": given.value,
                "invalid": given.invalid or None,
            }
            for given in value.shadowed
        ],
        "notes": list(value.notes),
    }
