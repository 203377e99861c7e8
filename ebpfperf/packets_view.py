"""A debug log as a notebook shows it: what became of packets, who talks, one packet's way.

``tracelog`` reads the log; here are filters, sentences and tables. Times in such a log are
distorted by the logging itself, which every view with times says.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import IO, Any, cast

import pandas as pd

from ebpfperf.calico.releases import minor
from ebpfperf.errors import InputError
from ebpfperf.findings import Sentences
from ebpfperf.tables import Table
from ebpfperf.tracelog.flows import side
from ebpfperf.tracelog.packed import TORN, torn, unpacked
from ebpfperf.tracelog.packets import COLUMNS, packets_of
from ebpfperf.tracelog.reading import Reading
from ebpfperf.tracelog.stories import about, chapters, spelled, told
from ebpfperf.tracelog.summaries import DISTORTED, Summary

# Stories are put together packet by packet, and a table of more rows is read by nobody.
MOST_TOLD, MOST_ROWS = 20_000, 200
NO_LOG = "No debug log was given: set the parameter log."


@dataclass(frozen=True, slots=True)
class Log:
    """A debug log that was read.

    Attributes
    ----------
    packets
        A row per packet at a hook; ``tracelog.packets`` says the columns.
    doubts
        What must be known of the log before its numbers are believed.
    chosen
        What ``where`` kept, in words; empty: all.
    """

    path: str
    release: tuple[int, int] | None = None
    packets: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS)))
    lines: int = 0
    doubts: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()

    def where(
        self,
        *,
        interface: str = "",
        direction: str = "",
        verdict: str = "",
        path: str = "",
        address: str = "",
    ) -> Log:
        """The log with only the packets that have all of this; empty text asks for nothing.

        Parameters
        ----------
        path
            What became of them, such as ``redirect`` or ``dropped``.
        address
            ``ADDRESS`` or ``ADDRESS:PORT`` that they are from or to.
        """
        asked = {"iface": interface, "direction": direction, "verdict": verdict, "path": path}
        kept, said = self.packets, list(self.chosen)
        for column, value in asked.items():
            if value:
                kept = kept[kept[column].eq(value).fillna(False).to_numpy(dtype=bool)]
                said.append(f"{'interface' if column == 'iface' else column} {value}")
        if address:
            address = spelled(address)
            kept = about(kept, address) if len(kept) else kept
            said.append(f"from or to {address}")
        return replace(self, packets=kept, chosen=tuple(said))


def opened(path: str, *, release: str = "") -> Log:
    """The log of a file (``.gz`` unpacked), read whole; without a path one without packets.

    Raises
    ------
    InputError
        There is no such file, or the release is none.
    """
    if not path:
        return Log("")
    try:
        reading = Reading(release=minor(release) if release else None)
    except ValueError as error:
        raise InputError(f"{error}.", "Write for example v3.26.") from error
    summary = Summary()
    with _file(path) as file:
        found = []
        for packets in packets_of(reading, file, lines=summary.add_lines):
            summary.add_packets(packets)
            found.append(packets)
        doubts = (*summary.sentences(reading), *([TORN] if torn(file) else []))
    filled = [each for each in found if len(each)]
    if not filled:
        return Log(path, reading.release, lines=reading.lines, doubts=doubts)
    whole = pd.concat(filled, ignore_index=True)
    return Log(path, reading.release, whole, reading.lines, doubts)


def notice(log: Log) -> Sentences:
    """What to mind before reading on: that times in a debug log are distorted."""
    return Sentences((DISTORTED,) if log.path else (), "notice")


def headline(log: Log) -> Sentences:
    """What became of the packets, in a sentence or two."""
    if not log.path:
        return Sentences((NO_LOG,), "headline")
    if log.packets.empty:
        said = f"The log has no packet{_of(log)} in {log.lines:,} lines."
        return Sentences((said,), "headline")
    paths = log.packets["path"].value_counts()
    listed = ", ".join(f"{count:,} {_word(str(path))}" for path, count in paths.items())
    sentences = [f"{len(log.packets):,} sights of packets at hooks{_of(log)}: {listed}."]
    lost = log.packets[log.packets["path"].eq("dropped")]
    if len(lost):
        why = lost["why"].fillna("no reason is said").value_counts()
        where = lost["iface"].fillna("?").value_counts()
        sentences.append(
            f"Dropped for {', '.join(f'{name} ({count:,})' for name, count in why.items())}, "
            f"on {', '.join(f'{name} ({count:,})' for name, count in where.head(3).items())}."
        )
    return Sentences(tuple(sentences), "headline")


def validity(log: Log) -> Sentences:
    """Whether to believe it: what was lost, and what a sight is."""
    if not log.path:
        return Sentences(())
    said = [text for text in log.doubts if text != DISTORTED]
    said += ["A packet is seen at every hook that it passes: sights are not packets."]
    if log.chosen:
        said.append(f"Only packets of {', '.join(log.chosen)} are shown.")
    return Sentences(tuple(said))


def fates(log: Log) -> Table:
    """What became of packets, by hook and reason."""
    frame = _summary(log).fates()
    shown = pd.DataFrame(
        {
            "hook": hooks(frame),
            "became": frame["path"].fillna(""),
            "why": frame["why"].fillna(""),
            "sights": frame["packets"],
            "beside lost events": frame["near_loss"],
        }
    )
    return Table("What became of packets, by hook", shown, numeric=("sights", "beside lost events"))


def talkers(log: Log, *, top: int = 10) -> Table:
    """Who was seen most."""
    frame = _summary(log).talkers(most=top)
    numeric = ("sights", "denied")
    return Table(f"Who was seen most (at most {top} pairs)", frame, numeric=numeric)


def rows(log: Log, *, most: int = MOST_ROWS) -> Table:
    """The packets one by one, in the log's order."""
    frame = log.packets.head(most)
    shown = pd.DataFrame(
        {
            "line": frame["first_line"].astype(str),
            "hook": hooks(frame),
            "from": _sides(frame, "source"),
            "to": _sides(frame, "destination"),
            "on to": _sides(frame, "to"),
            "protocol": frame["protocol"].fillna(""),
            "became": frame["path"],
            "why": frame["why"].fillna(""),
        }
    )
    more = len(log.packets) - len(frame)
    notes = (f"{more:,} more are not shown.",) if more > 0 else ()
    return Table(f"Packets at hooks{_of(log)}", shown, numeric=("line",), notes=notes)


def repeat(log: str, maps: str) -> tuple[str, ...]:
    """Commands that write such files, and that say the same in a terminal."""
    lines = ["ebpfperf trace capture --for 5s --out debug.log", "ebpfperf bundle -o bundle.tar.gz"]
    given = {"log": log, "maps": maps}
    asked = " ".join(f"-p {name}={shlex.quote(path)}" for name, path in given.items() if path)
    lines.append(f"ebpfperf report packets-and-maps {asked}".rstrip())
    lines += [f"ebpfperf trace parse {shlex.quote(log)}"] if log else []
    return tuple(lines)


def hooks(frame: pd.DataFrame) -> pd.Series[str]:
    """``cali0761ccbeace egress`` of each packet; ``?`` for what the log does not say."""
    iface, direction = frame["iface"].astype(object), frame["direction"].astype(object)
    return iface.fillna("?").astype(str) + " " + direction.fillna("?").astype(str)


# ----------------------------------------------------------------------------------- one packet


@dataclass(frozen=True, slots=True)
class Story:
    """One packet over programs and devices: a table of its sights, and the log's lines below."""

    table: Table
    lines: tuple[str, ...]

    def _repr_html_(self) -> str:
        if not self.lines:
            return self.table._repr_html_()
        text = escape("\n".join(self.lines))
        return (
            f"{self.table._repr_html_()}<details><summary>The log's lines of this packet</summary>"
            f"<pre><code>{text}</code></pre></details>"
        )

    def __str__(self) -> str:
        return "\n".join([str(self.table), *self.lines])


def story(log: Log, *, address: str = "") -> Story:
    """The way of the packet that was seen at most hooks, of those from or to an address.

    Without an address of all; of several the first. DNAT is followed.
    """
    some = log.packets.head(MOST_TOLD)
    address = spelled(address) if address else ""
    told_of = f" from or to {address}" if address else ""
    if some.empty or some["source"].isna().all():
        return Story(Table(f"The log has no packet{told_of} with addresses", pd.DataFrame()), ())
    stories = told(some)
    wanted = set(about(stories, address)["story"]) if address else set(stories["story"])
    sights = stories[stories["story"].isin(wanted) & stories["source"].notna()]
    if sights.empty:
        return Story(Table(f"The log has no packet{told_of}", pd.DataFrame()), ())
    longest = int(cast(int, sights["story"].value_counts(sort=False).sort_index().idxmax()))
    own = stories[stories["story"].eq(longest)]
    with _file(log.path) as file:
        said = tuple(chapters(own, Reading(release=log.release), file))
    first = own.iloc[0]
    ends = f"{_end(first, 'source')} to {_end(first, 'destination')}"
    shown = pd.DataFrame(
        {
            "after": [f"{(at - first['start_s']) * 1e6:.0f} µs" for at in own["start_s"]],
            "processor": own["cpu"].astype(str),
            "hook": hooks(own),
            "became": own["path"],
            "why": own["why"].fillna(""),
            "on to": _sides(own, "to"),
        }
    )
    return Story(
        Table(
            f"The way of one packet{told_of}: {ends}, one of {len(wanted):,} put together",
            shown,
            numeric=("after", "processor"),
            notes=("Times are distorted by the logging: the order counts, not the distance.",),
        ),
        said,
    )


# -------------------------------------------------------------------------------------- inside


@contextmanager
def _file(path: str) -> Iterator[IO[bytes]]:
    try:
        with Path(path).expanduser().open("rb") as file:
            yield unpacked(file)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(
            f"{path} is no file to read.",
            "Name a log that ebpfperf trace capture wrote.",
            path=path,
        ) from error


def _summary(log: Log) -> Summary:
    found = Summary()
    found.add_packets(log.packets)
    return found


def _of(log: Log) -> str:
    return f" of {', '.join(log.chosen)}" if log.chosen else ""


def _word(path: str) -> str:
    words = {
        "redirect": "redirected past the host's stack",
        "redirect to peer": "redirected into the pod",
        "host stack": "left to the host's stack",
        "bypass": "let through by a program before",
    }
    return words.get(path, path)


def _sides(frame: pd.DataFrame, name: str) -> list[str]:
    pairs = zip(frame[name], frame[f"{name}_port"], strict=True)
    return ["" if pd.isna(address) else side(address, port) for address, port in pairs]


def _end(row: pd.Series[Any], name: str) -> str:
    return side(row[name], row[f"{name}_port"])
