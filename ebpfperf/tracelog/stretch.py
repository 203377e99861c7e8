"""The parts of many lines that share a layout, cut out as columns of bytes and read at once.

Parts with few different values (process, processor, tag, beginning of the text) are read by the
rules (``grammar``) once a value; times and durations are added up digit by digit, all lines at a
time. What a layout does not explain is left to the rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ebpfperf.tracelog.columns import NONE, Outcome, Pools, tag_of_line
from ebpfperf.tracelog.grammar import (
    ALL_KINDS,
    PREFIX,
    RESULT,
    UNTAGGED,
    UNTAGGED_SIX,
    Line,
    kind_of,
    line_of,
    tag_of,
)
from ebpfperf.tracelog.words import Rows, numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Index = NDArray[np.int64]
    Mask = NDArray[np.bool_]

# Of a row of a line, and of one of a result's text. The text begins within the first _LATEST bytes
# and a tag, so that a line that begins SPARE bytes before the end has both rows.
WIDTH, _LATEST, _RESULT_WIDTH = 112, 80, 64
SPARE = WIDTH + _RESULT_WIDTH
KIND = {name: number for number, name in enumerate(ALL_KINDS)}
_RESULT, _OTHER = KIND["result"], KIND["other"]
_PID = re.compile(r"(\d{1,10}) +(?:\( *(?:\d+|-+)\) +)?", re.ASCII)
_PLACE = re.compile(r"\[(\d{3,4})\](?: +([^\s:]{4,5}))?", re.ASCII)
_SECONDS = re.compile(r" +(\d{1,10})", re.ASCII)
_BEFORE_CODE = len("Final result=")
_BEFORE_TIME = "Program execution time: "
_REST = 11
_LONGEST_TASK = 16
_BAD = -2
# Length of a tag → what stands where in it; the most frequent first. Where the first that fits is
# wrong, reading it shows that.
_TAG_MARKS: tuple[tuple[int, tuple[tuple[int, bytes], ...]], ...] = (
    (19, ((15, b"-"), (17, b": "))),
    (12, ((8, b"-"), (10, b": "))),
    (24, ((0, b"IPv6 "), (20, b"-"), (22, b": "))),
    (17, ((0, b"IPv6 "), (13, b"-"), (15, b": "))),
    (18, ((16, b": "),)),
    (5, ((0, UNTAGGED_SIX.encode()),)),
    (8, ((0, b"CALI-C: "),)),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a line are, in bytes from its beginning; ``text`` is Calico's part."""

    dash: int
    bracket: int
    seconds: int
    dot: int
    function: str
    text: int

    @classmethod
    def of(cls, line: str) -> Layout | None:
        """The layout of a line; None where it has none that many could share."""
        match = PREFIX.match(line) if line.isascii() else None
        if match is None or match.end() > _LATEST or not match[0].endswith(" "):
            return None
        seconds = match.end("flags") if match["flags"] else match.end("cpu") + 1
        dot = match.start("time") + match["time"].index(".")
        return cls(
            dash=match.end("task"),
            bracket=match.start("cpu") - 1,
            seconds=seconds,
            dot=dot,
            function=match["function"],
            text=match.end(),
        )


@dataclass(slots=True)
class Found:
    """Columns while they are filled; see ``Table``."""

    kind: NDArray[np.int8]
    task: NDArray[np.int32]
    pid: NDArray[np.int64]
    cpu: NDArray[np.int16]
    flags: NDArray[np.int32]
    time_us: NDArray[np.int64]
    function: NDArray[np.int32]
    tag: NDArray[np.int32]
    outcome: NDArray[np.int32]
    duration_ns: NDArray[np.int64]
    lost: NDArray[np.int64]
    begin: NDArray[np.int64]

    @classmethod
    def empty(cls, size: int) -> Found:
        """Columns for so many lines, with nothing in them."""
        wide = ("pid", "time_us", "duration_ns", "lost", "begin")
        kinds: dict[str, Any] = dict.fromkeys(cls.__slots__, np.int32)
        kinds |= dict.fromkeys(wide, np.int64) | {"kind": np.int8, "cpu": np.int16}
        return cls(**{name: np.full(size, NONE, dtype=kind) for name, kind in kinds.items()})


@dataclass(frozen=True, slots=True)
class Stretch:
    """Lines that are being read: where each begins and ends in ``data``."""

    data: bytes
    buffer: NDArray[np.uint8]
    starts: Index
    ends: Index
    found: Found
    pools: Pools

    def line(self, number: int) -> str:
        """One line without its newline."""
        return self.data[self.starts[number] : self.ends[number]].decode()

    def by_layout(self, layout: Layout, todo: Index, rows: Rows) -> Mask:
        """Which of the lines ``todo`` (with ``rows``) fit; those are read."""
        fits: Mask = rows.byte(layout.dash) == ord("-")
        fits &= rows.byte(layout.bracket) == ord("[")
        fits &= rows.byte(layout.dot) == ord(".")
        fits &= rows.is_text(layout.dot + 7, f": {layout.function}: ".encode())
        fits &= self.ends[todo] - self.starts[todo] >= layout.text
        if not fits.any():
            return fits
        whole = bool(fits.all())
        at = todo if whole else todo[fits]
        some = rows if whole else rows.take(fits)
        micros, good = numbers(some.word(layout.dot + 1), 6)
        who, heads = some.distinct(0, layout.seconds)
        heads_read = np.array([self._head(head, layout) for head in heads], dtype=np.int64)
        codes, values = some.distinct(layout.seconds, layout.dot - layout.seconds)
        seconds = np.array([_seconds(value) for value in values], dtype=np.int64)
        good &= (heads_read[:, 0] != _BAD)[who] & (seconds != _BAD)[codes]
        tag, begin, tag_good = self._tags(some, layout.text)
        good &= tag_good & (self.starts[at] + begin <= self.ends[at])
        time_us = seconds[codes] * 1_000_000 + micros
        if not good.all():
            at, some, who = at[good], some.take(good), who[good]
            time_us, tag, begin = time_us[good], tag[good], begin[good]
        found, place = self.found, _place(at)
        task, pid, cpu, flags = np.ascontiguousarray(heads_read.T)
        found.task[place], found.pid[place], found.cpu[place] = task[who], pid[who], cpu[who]
        found.flags[place], found.time_us[place] = flags[who], time_us
        found.function[place] = self.pools.function.code(layout.function)
        found.tag[place], found.begin[place] = tag, self.starts[place] + begin
        # One length of tag in the whole stretch is the rule.
        offsets = begin[:1] if (begin == begin[:1]).all() else np.unique(begin)
        for offset in offsets:
            same = begin == offset
            part = some if len(offsets) == 1 else some.take(same)
            self._texts(part, at if len(offsets) == 1 else at[same], int(offset))
        if whole and len(at) == len(todo):
            return fits
        done = np.zeros(len(todo), dtype=bool)
        done[fits] = good
        return done

    def _tags(self, rows: Rows, at: int) -> tuple[NDArray[np.int32], Index, Mask]:
        """(number of the tag, where the text begins, whether that is sure) of each row."""
        tags = np.zeros(len(rows), dtype=np.int32)
        begin = np.full(len(rows), at, dtype=np.int64)
        sure = np.ones(len(rows), dtype=bool)
        left = np.ones(len(rows), dtype=bool)
        for length, marks in _TAG_MARKS:
            those = left.copy()
            for offset, mark in marks:
                those &= rows.is_text(at + offset, mark)
            if not those.any():
                continue
            whole = bool(those.all())
            some = rows if whole else rows.take(those)
            codes, values = some.distinct(at, max(length, len(UNTAGGED_SIX)))
            read = [tag_of(value.decode("utf-8", "replace")) for value in values]
            # What only looks so is left to the rules.
            sure[those] = np.array([tag.length == length for tag in read])[codes]
            pool = np.array([self.pools.tag.code(tag._replace(length=0)) for tag in read])
            tags[those], begin[those] = pool[codes], at + length
            if whole:
                break
            left &= ~those
        return tags, begin, sure

    def _texts(self, rows: Rows, at: Index, offset: int) -> None:
        """Read the kind of texts that begin at one place, and of results all that they say."""
        codes, values = rows.distinct(offset, 8)
        kinds = np.array([KIND[kind_of(v.decode("utf-8", "replace"))] for v in values], np.int8)
        kind = kinds[codes]
        results = kind == _RESULT
        untagged = self.pools.tag.values.index(UNTAGGED)
        place = _place(at)
        kind[(self.found.tag[place] == untagged) & ~results] = _OTHER
        self.found.kind[place] = kind
        if results.any():
            for number in at[results][~self._results(at[results])]:
                self.by_rules(int(number))

    def _results(self, at: Index) -> Mask:
        """Which of these results were read; the others are left to the rules."""
        begins, ends = self.found.begin[at], self.ends[at]
        rows = Rows.of(self.buffer, begins, width=_RESULT_WIDTH)
        codes, values = rows.distinct(_BEFORE_CODE, 32)
        wide = np.array([bool(tag.wide) for tag in self.pools.tag.values])[self.found.tag[at]]
        heads = [
            value.split(b"\n")[0].removesuffix(b"\r").decode("utf-8", "replace") for value in values
        ]
        read = [RESULT.match(f"Final result={head}") for head in heads]
        ends_read = np.array([m.end() - len(m["rest"]) if m else 0 for m in read])
        after = ends_read[codes]
        good = rows.is_text(0, b"Final result=") & (after > 0)
        pool = np.full((2, len(values)), NONE, dtype=np.int32)
        for number, match in enumerate(read):
            if match is not None and (match["verdict"] == "DENY" or _decimal(match)):
                for size in (0, 1):
                    outcome = _outcome(match, wide=bool(size))
                    pool[size, number] = self.pools.outcome.code(outcome)
        outcome_code = pool[wide.astype(int), codes]
        good &= outcome_code >= 0
        timed = np.array([m is not None and m["rest"].startswith("Program ex") for m in read])[
            codes
        ]
        duration = np.full(len(rows), NONE, dtype=np.int64)
        for where in np.unique(ends_read[ends_read > 0]):
            those = timed & good & (after == where)
            if not those.any():
                continue
            part = rows if those.all() else rows.take(those)
            digits_at = int(where) + len(_BEFORE_TIME)
            last = ends[those]
            count = last - begins[those] - digits_at - len("ns")
            fine = part.is_text(int(where), _BEFORE_TIME.encode())
            fine &= (count >= 1) & (count <= 8)
            fine &= (self.buffer[last - 2] == ord("n")) & (self.buffer[last - 1] == ord("s"))
            value, digits = numbers(part.word(digits_at), np.clip(count, 1, 8).astype(np.uint64))
            duration[those] = value
            good[those] &= fine & digits
        self.found.outcome[at[good]] = outcome_code[good]
        self.found.duration_ns[at[good]] = duration[good]
        return good

    def by_rules(self, number: int) -> None:
        """Read one line by the rules."""
        text = self.line(number)
        line = line_of(text)
        found, pools = self.found, self.pools
        if line is None:
            found.kind[number] = NONE
            return
        found.kind[number] = KIND[line.kind]
        found.task[number] = NONE if line.task is None else pools.task.code(line.task)
        found.pid[number] = NONE if line.pid is None else line.pid
        found.cpu[number] = NONE if line.cpu is None else min(line.cpu, np.iinfo(np.int16).max)
        found.flags[number] = NONE if line.flags is None else pools.flags.code(line.flags)
        found.time_us[number] = _micros(line)
        found.function[number] = (
            NONE if line.function is None else pools.function.code(line.function)
        )
        found.tag[number] = pools.tag.code(tag_of_line(line))
        if line.verdict is not None:
            match = RESULT.match(line.text)
            assert match is not None
            outcome = _outcome(match, wide=bool(line.wide))
            found.outcome[number] = pools.outcome.code(outcome)
        found.duration_ns[number] = NONE if line.duration_ns is None else line.duration_ns
        found.lost[number] = NONE if line.lost is None else line.lost
        found.begin[number] = self.ends[number] - len(line.text.encode())

    def _head(self, head: bytes, layout: Layout) -> tuple[int, int, int, int]:
        """(task, pid, processor, flags) of what stands before the time; _BAD where it is other."""
        task = head[: layout.dash].decode("utf-8", "replace")
        pid = _PID.fullmatch(head[layout.dash + 1 : layout.bracket].decode("utf-8", "replace"))
        place = _PLACE.fullmatch(head[layout.bracket :].decode("utf-8", "replace"))
        if pid is None or place is None or len(task.lstrip(" ")) > _LONGEST_TASK:
            return _BAD, _BAD, _BAD, _BAD
        pools = self.pools
        return (
            pools.task.code(task.strip()) if task.strip() else NONE,
            int(pid[1]),
            int(place[1]),
            pools.flags.code(place[2]) if place[2] else NONE,
        )


def _place(at: Index) -> Index | slice:
    """The same lines as a slice, where they follow each other."""
    if len(at) and at[-1] - at[0] == len(at) - 1:
        return slice(int(at[0]), int(at[-1]) + 1)
    return at


def _seconds(value: bytes) -> int:
    match = _SECONDS.fullmatch(value.decode("utf-8", "replace"))
    return int(match[1]) if match else _BAD


def _micros(line: Line) -> int:
    return NONE if line.timestamp_s is None else round(line.timestamp_s * 1_000_000)


def _decimal(match: re.Match[str]) -> bool:
    return (match["code"] or match["rc"]).lstrip("-").isdigit()


def _outcome(match: re.Match[str], *, wide: bool) -> Outcome:
    rest = match["rest"][:_REST]
    after_rc = match["rc"] is not None
    return Outcome(match["verdict"], match["code"] or match["rc"], rest, after_rc, wide)
