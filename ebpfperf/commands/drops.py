"""Command drops: packets that BPF programs drop on the nodes, as differences and rates."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebpfperf import printing
from ebpfperf.commands import times
from ebpfperf.commands.options import Context, Json, Kubeconfig, SshConfig
from ebpfperf.commands.remarks import grouped
from ebpfperf.errors import InputError

if TYPE_CHECKING:
    from ebpfperf.drop_causes import Causes as Logged
    from ebpfperf.drop_differences import Drop, NodeDrops

FOR, LONGEST_S = "10s", 86_400.0
_COLUMNS = ("node", "device", "hook", "whose packets", "reason", "packets", "per second",
            "% of packets there", "counted by")  # fmt: skip
_NUMBERS = ("packets", "per second", "% of packets there")


def drops(
    node: Annotated[
        list[str] | None, typer.Option(help="A node, also repeatedly; else all.", metavar="NODE")
    ] = None,
    duration: Annotated[
        str, typer.Option("--for", help="How long is counted, such as 10s or 1m.", metavar="TIME")
    ] = FOR,
    watch: Annotated[
        bool, typer.Option("--watch", help="Again and again, until it is interrupted.")
    ] = False,
    log_for: Annotated[
        str | None,
        typer.Option(
            "--log-for",
            help="Afterwards, who and why: sets bpfLogLevel to Debug for so long, such as 5s.",
            metavar="TIME",
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Also devices on which nothing was dropped.")
    ] = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Count what BPF programs drop on the nodes, by device, hook and reason.

    It changes nothing, but with --log-for: then Felix restarts and every packet is logged, which
    costs much, until bpfLogLevel is put back (after kill -9: ebpfperf restore runs/log-level).
    With --watch and --json each interval is one line.
    """
    seconds = times.seconds(duration, "--for", most_s=LONGEST_S)
    log_s = None if log_for is None else times.seconds(log_for, "--log-for", most_s=LONGEST_S)
    if watch and log_s is not None:
        raise InputError("--watch and --log-for exclude each other.", "Leave one of them out.")
    from ebpfperf.drop_reading import Watched
    from ebpfperf.reach import connect, node_names

    kube = connect(kubeconfig, context)
    try:
        names = node_names(kube, list(dict.fromkeys(node or [])))
        release = kube.release()
    finally:
        kube.close()
    config = Path(ssh_config).expanduser() if ssh_config else None
    with Watched.connect(names, ssh_config=config, release=release) as watched:
        told: set[str] = set()
        try:
            for found in watched.follow(seconds):
                document = _document(found, watched.lost)
                if not json:
                    _show(found, document, watch=watch, every=every, told=told)
                if log_s is not None:
                    from ebpfperf import drop_log

                    told_by = drop_log.read(
                        watched, log_s, kubeconfig=kubeconfig, context=context,
                        ssh_config=config, everywhere=not node, say=printing.remark,
                    )  # fmt: skip
                    document["log"] = _log(told_by, log_s)
                    if not json:
                        _show_log(document["log"])
                if json:
                    _print(document, one_line=watch)
                if not watch:
                    return
        except KeyboardInterrupt:
            if not watch:
                raise


def _document(found: Sequence[NodeDrops], lost: Mapping[str, str]) -> dict[str, Any]:
    told: dict[str, tuple[str, ...]] = {name: (text,) for name, text in lost.items()}
    told |= {each.node: each.remarks for each in found}
    at_utc = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    nodes = [_node(each) for each in found]
    return {"at_utc": at_utc, "nodes": nodes, "remarks": grouped(told)}


def _log(told: Logged, log_s: float) -> dict[str, Any]:
    from ebpfperf.drop_causes import COLUMNS

    drops = [dict(zip(COLUMNS, (*row, packets), strict=True)) for row, packets in told.rows]
    return {
        "seconds": log_s,
        "packets_seen": told.seen,
        "drops": drops,
        "remarks": list(told.sentences),
    }


def _print(document: Mapping[str, Any], *, one_line: bool) -> None:
    if one_line:
        print(jsonlib.dumps(document, ensure_ascii=False, allow_nan=False), flush=True)
    else:
        printing.as_json(document)


def _show(
    found: Sequence[NodeDrops],
    document: Mapping[str, Any],
    *,
    watch: bool,
    every: bool,
    told: set[str],
) -> None:
    """Print one interval; a remark that was made before is not made again."""
    rows = [
        _row(drop)
        for each in found
        for drop in each.drops
        if every or drop.packets is None or drop.packets
    ]
    if rows:
        printing.table(_COLUMNS, rows, numeric=_NUMBERS)
    for each in found:
        printing.sentence(f"{document['at_utc']} {_sum(each)}" if watch else _sum(each))
    for text in document["remarks"]:
        if text not in told:
            printing.remark(text)
            told.add(text)


def _show_log(log: Mapping[str, Any]) -> None:
    from ebpfperf.drop_causes import COLUMNS

    rows = [list(row.values()) for row in log["drops"]]
    seen = f"{log['packets_seen']} sights of packets in {log['seconds']:g} s"
    printing.table(
        COLUMNS, rows, numeric=("packets",), empty=f"The debug log has no drop among {seen}."
    )
    for text in log["remarks"]:
        printing.remark(text)


def _sum(each: NodeDrops) -> str:
    from ebpfperf.drop_differences import Source

    by = {
        Source.COUNTERS: f"by {each.counters_map}",
        Source.CLSACT: "by clsact qdiscs",
    }.get(each.source)
    if by is None and not each.drops:
        return f"{each.node}: nothing to count."
    if by is None:
        return f"{each.node}: UNKNOWN what was dropped in {each.seconds:.1f} s: nothing counts."
    blind = sum(drop.packets is None for drop in each.drops)
    unseen = f"; UNKNOWN on {blind} of them" if blind else ""
    return (
        f"{each.node}: {each.packets} packets dropped in {each.seconds:.1f} s on {each.devices} "
        f"{'device' if each.devices == 1 else 'devices'}, counted {by}{unseen}."
    )


def _row(drop: Drop) -> list[object]:
    share = drop.share_pct
    return [
        drop.node,
        drop.device,
        drop.hook,
        drop.way,
        drop.reason,
        "UNKNOWN" if drop.packets is None else drop.packets,
        "UNKNOWN" if drop.per_s is None else f"{drop.per_s:.1f}",
        "" if share is None else f"{share:.2f}",
        drop.source.value,
    ]


def _node(each: NodeDrops) -> dict[str, Any]:
    from ebpfperf.drop_differences import Source

    return {
        "node": each.node,
        "seconds": round(each.seconds, 3),
        "source": each.source.value,
        "counters_map": each.counters_map or None,
        "packets": None if each.source is Source.NOTHING else each.packets,
        "drops": [_drop(drop) for drop in each.drops],
    }


def _drop(drop: Drop) -> dict[str, Any]:
    return {
        "device": drop.device,
        "hook": drop.hook,
        "way": drop.way or None,
        "reason": drop.reason,
        "source": drop.source.value,
        "packets": drop.packets,
        "per_s": drop.per_s,
        "packets_seen": drop.seen,
        "share_pct": drop.share_pct,
    }
