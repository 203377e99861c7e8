"""Commands about the debug log of Calico's eBPF programs: trace parse, trace capture."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from ebpfperf import printing
from ebpfperf.commands import times
from ebpfperf.commands.options import Context, Json, Kubeconfig, SshConfig
from ebpfperf.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from ebpfperf.tracelog.reading import Reading

app = typer.Typer(
    help="Read the debug log of Calico's eBPF programs (bpfLogLevel).", no_args_is_help=True
)
_LONGEST_S = 600.0
_STORIES = 5
_MOST_PACKETS = 20_000

Release = Annotated[
    str | None,
    typer.Option(
        help="Calico's release, such as v3.26: decides what the numbers of results mean. Default: "
        "what the log itself shows.",
        metavar="VERSION",
    ),
]
Story = Annotated[
    str | None,
    typer.Option(
        help="Follow packets from or to this address over programs and devices.",
        metavar="ADDRESS[:PORT]",
    ),
]
Top = Annotated[int, typer.Option(help="How many talkers to show.", min=1)]


@app.command()
def parse(
    files: Annotated[list[str], typer.Argument(help="Logs; - is standard input.", metavar="FILE…")],
    release: Release = None,
    story: Story = None,
    top: Top = 10,
    json: Json = False,
) -> None:
    """Read logs: what became of packets and why, who talks, one packet's story; or JSON lines."""
    from ebpfperf.tracelog.packed import TORN, torn

    for name in files:
        if len(files) > 1 and not json:
            printing.sentence(f"{name}:")
        with _opened(name, rewind=story is not None) as file:
            if json:
                _print_lines(file, release)
            elif story is not None:
                _print_stories(file, story, release)
            else:
                _print_summary(file, release, top)
            if torn(file):
                printing.remark(f"{name}: {TORN}")


@app.command()
def capture(
    node: Annotated[
        list[str] | None, typer.Option(help="Node to read; may be repeated. Default: all.")
    ] = None,
    for_: Annotated[
        str, typer.Option("--for", help="How long, such as 5s or 500ms.", metavar="TIME")
    ] = "5s",
    out: Annotated[
        Path | None,
        typer.Option(help="File for the raw log; with several kernels a file each, by node."),
    ] = None,
    top: Top = 10,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    ssh_config: SshConfig = None,
    json: Json = False,
) -> None:
    """Read the debug log off nodes for some seconds, keep it raw, and say what is in it.

    It is taken from the kernel's trace pipe, so that other readers miss it. bpfLogLevel stays.
    """
    from datetime import UTC, datetime

    from ebpfperf.trace_capture import capture as read
    from ebpfperf.trace_capture import file_part, level_sentences, older_bytes, unpacked
    from ebpfperf.trace_nodes import opened, seen

    for_s = times.seconds(for_, "--for", most_s=_LONGEST_S)
    base = out or Path(f"trace-{datetime.now(UTC):%Y%m%d-%H%M%S}.log")
    _may_write(base)
    cluster = seen(kubeconfig, context, names=node)
    for sentence in level_sentences(cluster.levels):
        printing.remark(sentence)
    config = Path(ssh_config).expanduser() if ssh_config else None
    with opened(cluster.nodes, ssh_config=config) as nodes:
        captured = read(nodes, for_s=for_s)
    several = len(captured) > 1
    rows: list[dict[str, object]] = []
    for one in captured:
        raw = unpacked(one)
        older = older_bytes(raw, one.mark)
        said: dict[str, object] = {"nodes": list(one.nodes), "file": None, "bytes": one.raw_bytes}
        said |= {"older_bytes": older, "full": one.full, "problem": one.problem or None}
        rows.append(said)
        if one.problem:
            printing.remark(f"error: {one.problem}")
            continue
        name = f"{base.stem}-{file_part(one.nodes)}{base.suffix}" if several else base.name
        path = base.with_name(name)
        path = _write(path, raw)
        said["file"] = str(path)
        if json:
            continue
        shared = " (they share one kernel, whose log this is)" if len(one.nodes) > 1 else ""
        printing.sentence(f"{', '.join(one.nodes)}{shared}: {one.raw_bytes} bytes in {path}.")
        if one.full:
            printing.sentence(
                "Reading ended before its time, at its bound of bytes: there was more to read."
            )
        printing.sentence(_older(older))
        with path.open("rb") as file:
            file.seek(older or 0)
            _print_summary(file, cluster.release, top)
    if json:
        printing.as_json(rows)
    if all(one.problem for one in captured):
        raise typer.Exit(1)


def _older(older_bytes: int | None) -> str:
    if older_bytes is None:
        return (
            "Where reading began is not marked in it, so that lines of before may be counted too."
        )
    return (
        f"The first {older_bytes} bytes were in the kernel's buffer before: they are in the file, "
        "and not counted here."
    )


def _may_write(path: Path) -> None:
    """InputError, before anything is read, where the log could not be kept."""
    if path.exists():
        raise InputError(f"{path} exists already.", "Name another file with --out.", path=str(path))
    if not path.absolute().parent.is_dir():
        raise InputError(
            f"There is no directory {path.absolute().parent}.", "Make it first.", path=str(path)
        )


def _write(path: Path, data: bytes) -> Path:
    """Where it was written: there, or under the next number where something stands there."""
    for number in count(1):
        place = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        try:
            with place.open("xb") as file:
                file.write(data)
        except FileExistsError:
            continue
        return place
    raise AssertionError("numbers do not end")


def _reading(release: str | None) -> Reading:
    from ebpfperf.calico.releases import minor
    from ebpfperf.tracelog.reading import Reading

    try:
        return Reading(release=minor(release) if release else None)
    except ValueError as error:
        raise InputError(f"{error}.", "Give --release as in v3.26.", release=release) from error


@contextmanager
def _opened(name: str, *, rewind: bool) -> Iterator[IO[bytes]]:
    from ebpfperf.tracelog.packed import unpacked

    if name == "-":
        if not rewind:
            yield unpacked(sys.stdin.buffer)
            return
        with tempfile.TemporaryFile() as spool:
            shutil.copyfileobj(sys.stdin.buffer, spool)
            spool.seek(0)
            yield unpacked(spool)
        return
    try:
        with Path(name).open("rb") as file:
            yield unpacked(file)
    except IsADirectoryError as error:
        raise InputError(f"{name} is a directory.", "Name the log itself.", path=name) from error
    except FileNotFoundError as error:
        raise InputError(
            f"There is no file {name}.", "Name a log, or - for standard input.", path=name
        ) from error


def _print_lines(file: IO[bytes], release: str | None) -> None:
    import orjson

    from ebpfperf.tracelog.line_frames import objects

    reading = _reading(release)
    try:
        for table in reading.tables(file):
            lines = [orjson.dumps(one) for one in objects(table, reading)]
            if lines:
                sys.stdout.buffer.write(b"\n".join(lines) + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Whoever reads, such as head, has enough; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


def _print_summary(file: IO[bytes], release: str | None, top: int) -> None:
    from ebpfperf.tracelog.packets import packets_of
    from ebpfperf.tracelog.summaries import Summary

    reading, summary = _reading(release), Summary()
    for packets in packets_of(reading, file, lines=summary.add_lines):
        summary.add_packets(packets)
    printing.sentence(f"{reading.lines} lines, {summary.packets} packets at hooks.")
    if summary.packets:
        _print_frame(summary.fates(), "What became of packets, by hook")
        talkers = summary.talkers(most=top)
        if len(talkers):
            _print_frame(talkers, "Who was seen most (a packet is seen at every hook it passes)")
    for sentence in summary.sentences(reading):
        printing.sentence(sentence)


def _print_stories(file: IO[bytes], wanted: str, release: str | None) -> None:
    from ebpfperf.tracelog.packets import packets_of
    from ebpfperf.tracelog.stories import Following, about, chapters, spelled, told
    from ebpfperf.tracelog.summaries import DISTORTED

    wanted = spelled(wanted)
    reading, following = _reading(release), Following(wanted)
    found: list[pd.DataFrame] = []
    for packets in packets_of(reading, file):
        some = following.of(packets)
        if len(some):
            found.append(some)
        if sum(map(len, found)) >= _MOST_PACKETS:
            printing.remark(f"Only the first {_MOST_PACKETS} packets at hooks are looked at.")
            break
    if not found:
        printing.sentence(f"The log has no packet from or to {wanted}.")
        return
    import pandas as pd

    stories = told(pd.concat(found, ignore_index=True))
    stories = stories[stories["story"].isin(about(stories, wanted)["story"])]
    stories = stories.assign(story=stories["story"].rank(method="dense").astype(int))
    count = stories["story"].nunique()
    shown = stories[stories["story"] <= _STORIES]
    printing.sentence(f"{count} packets from or to {wanted}; the first {min(count, _STORIES)}:")
    file.seek(0)
    for sentence in chapters(shown, _reading(release), file):
        printing.sentence(sentence)
    printing.sentence(DISTORTED)


def _print_frame(frame: pd.DataFrame, title: str) -> None:
    columns = list(frame.columns)
    numeric = [name for name in columns if frame[name].dtype.kind in "if"]
    rows: Sequence[Sequence[object]] = [
        ["" if value is None or value != value else _cell(value) for value in row]
        for row in frame.itertuples(index=False)
    ]
    printing.table(columns, rows, title=title, numeric=numeric)


def _cell(value: object) -> object:
    return f"{value:.0f}" if isinstance(value, float) else value
