"""Many lines of the debug log at once.

Lines of one log look alike: the same columns at the same place. So one line is read by the rules
(``grammar``), which tells the places of all its parts; every other line is held against these
places, and where it fits its parts are cut out as columns of bytes (``stretch``), with no loop over
lines. Lines that fit no such layout are read by the rules one by one, so that speed depends on the
layout and the result does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ebpfperf.tracelog.columns import NONE, Pools, Table
from ebpfperf.tracelog.stretch import KIND, SPARE, WIDTH, Found, Layout, Stretch
from ebpfperf.tracelog.words import Rows

_LEAST = 24
_MOST_LAYOUTS = 24
_TRIES = 16
_GOLDEN = 0.618
_ADDRESS = re.compile(r"lookup (?:from|to  ) (?:([\d.]+\.[\d.]+|\[)|[0-9a-f]+):")
_SEARCHED = 64


@dataclass(slots=True)
class Scanner:
    """Reads stretches of whole lines of one log; what it learns of one helps with the next.

    Attributes
    ----------
    notations
        Of DENY's numbers, as other lines tell it: ``decimal``, ``hexadecimal``.
    lines, slow_lines
        Lines until now, blank ones counted; those that were read one by one.
    """

    pools: Pools = field(default_factory=Pools)
    notations: set[str] = field(default_factory=set)
    lines: int = 0
    slow_lines: int = 0
    _layouts: list[Layout] = field(default_factory=list)

    def scan(self, data: bytes) -> Table:
        """The lines of ``data``, blank ones left out. Never raises for what stands in them.

        Bytes that are not UTF-8 become U+FFFD.
        """
        first = self.lines + 1
        if not data.isascii():
            data = data.decode("utf-8", "replace").encode()
        if data and not data.endswith(b"\n"):
            data += b"\n"
        buffer = np.frombuffer(data, dtype=np.uint8)
        ends = _newlines(buffer)
        self.lines += len(ends)
        starts = np.empty_like(ends)
        starts[:1], starts[1:] = 0, ends[:-1] + 1
        if b"\r" in data:
            # A CR before the newline belongs to it, as in a log that went through a terminal.
            ends = ends - ((ends > starts) & (buffer[ends - 1] == ord("\r")))
        full = np.flatnonzero(ends > starts)
        if len(full) < len(ends):
            starts, ends = starts[full], ends[full]
        found = Found.empty(len(full))
        one = Stretch(data, buffer, starts, ends, found, self.pools)
        self._fill(one)
        self._notice(one)
        return _table(one, full + first)

    def _fill(self, one: Stretch) -> None:
        # The last lines have no whole row.
        whole = int(np.searchsorted(one.starts, len(one.data) - SPARE, side="right"))
        todo = np.arange(whole)
        rows = Rows.of(one.buffer, one.starts[:whole], width=WIDTH)
        hits: dict[Layout, int] = {}
        known, tries = list(self._layouts), 0
        while len(todo) >= _LEAST or (known and len(todo)):
            layout = known.pop(0) if known else None
            if layout is None:
                if len(hits) >= _MOST_LAYOUTS or tries >= _TRIES:
                    break
                # Anywhere in the middle: the first lines are often of another kind.
                place = int(len(todo) * (0.5 + _GOLDEN * tries)) % len(todo)
                layout = Layout.of(one.line(int(todo[place])))
                if layout is None or layout in hits:
                    tries += 1
                    continue
            fits = one.by_layout(layout, todo, rows)
            hits[layout] = int(fits.sum())
            if hits[layout]:
                rows, todo = rows.take(~fits), todo[~fits]
        self._layouts = sorted((la for la in hits if hits[la]), key=lambda la: -hits[la])
        self._layouts = self._layouts[:_MOST_LAYOUTS]
        for number in (*todo, *range(whole, len(one.starts))):
            one.by_rules(int(number))
            self.slow_lines += 1

    def _notice(self, one: Stretch) -> None:
        """Learn from lines with a wide tag which notation DENY's numbers are in."""
        if len(self.notations) > 1:
            return
        for outcome in self.pools.outcome.values:
            if outcome.wide and outcome.rc:
                self.notations.add("decimal")
        wide = np.array([bool(tag.wide) for tag in self.pools.tag.values])
        lookups = (one.found.kind == KIND["conntrack"]) & wide[one.found.tag]
        for number in np.flatnonzero(lookups)[:_SEARCHED]:
            said = one.data[one.found.begin[number] : one.ends[number]].decode()
            if match := _ADDRESS.search(said):
                self.notations.add("decimal" if match[1] else "hexadecimal")


def _newlines(buffer: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, Any]:
    """Where newlines are. Eight bytes at a time first: most hold none, and few hold two."""
    is_newline = buffer == ord("\n")
    even = len(buffer) // 8 * 8
    words = is_newline[:even].view("<u8")
    eights = np.flatnonzero(words != 0)
    marks = words[eights]
    if (marks & (marks - np.uint64(1))).any():
        near = np.flatnonzero(is_newline[:even].reshape(-1, 8)[eights])
        found = eights[near >> 3] * 8 + (near & 7)
    else:
        # A power of two: the exponent of the floating-point number says which byte it is.
        exponent = marks.astype(np.float64).view(np.int64) >> 52
        found = eights * 8 + ((exponent - 1023) >> 3)
    rest = np.flatnonzero(is_newline[even:]) + even
    return np.concatenate([found, rest])


def _table(one: Stretch, number: np.ndarray[Any, np.dtype[np.int64]]) -> Table:
    found = one.found
    said = np.flatnonzero(found.kind != NONE)
    # Texts and what lies between them take turns, so that they are one Arrow array; the texts are
    # every other element of it.
    turns = np.empty(2 * len(said) + 1, dtype=np.int64)
    turns[0:-1:2], turns[1::2] = found.begin[said], one.ends[said]
    turns[-1] = turns[-2] if len(said) else 0
    buffers = [None, pa.py_buffer(turns), pa.py_buffer(one.data)]
    both = pa.LargeStringArray.from_buffers(2 * len(said), buffers[1], buffers[2])
    text = both.take(pa.array(np.arange(0, 2 * len(said), 2)))
    columns = {name: getattr(found, name) for name in Table.__slots__ if hasattr(found, name)}
    if len(said) < len(number):
        number = number[said]
        columns = {name: column[said] for name, column in columns.items()}
    return Table(number=number, text=text, **columns)
