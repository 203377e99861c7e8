"""A stretch of the debug log as arrays, one element a line."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from ebpfperf.tracelog.grammar import UNTAGGED, Line, Tag

if TYPE_CHECKING:
    from numpy.typing import NDArray

NONE = -1

T = TypeVar("T", bound=Hashable)


class Pool(Generic[T]):
    """Numbers for values: each value keeps its number as long as the pool lives."""

    def __init__(self, values: Iterable[T] = ()) -> None:
        self.values: list[T] = []
        self._codes: dict[T, int] = {}
        for value in values:
            self.code(value)

    def code(self, value: T) -> int:
        """The number of a value; a new one where it is new."""
        found = self._codes.get(value)
        if found is None:
            found = self._codes[value] = len(self.values)
            self.values.append(value)
        return found


class Outcome(NamedTuple):
    """A result's line but for its duration; ``rest`` is how it goes on, cut.

    ``rc`` says whether the number stands after that word, ``wide`` how wide the line's tag is.
    """

    verdict: str
    code: str
    rest: str
    rc: bool
    wide: bool


@dataclass(frozen=True, slots=True)
class Pools:
    """What the numbers in a table's columns stand for; shared by all tables of one reading."""

    task: Pool[str] = field(default_factory=Pool)
    flags: Pool[str] = field(default_factory=Pool)
    function: Pool[str] = field(default_factory=Pool)
    tag: Pool[Tag] = field(default_factory=lambda: Pool([UNTAGGED]))
    outcome: Pool[Outcome] = field(default_factory=Pool)


@dataclass(frozen=True, slots=True)
class Table:
    """Lines as columns; -1 is none.

    Attributes
    ----------
    number
        Line of the input, from 1, blank lines counted.
    kind
        Index in ``grammar.ALL_KINDS``.
    task, flags, function, tag, outcome
        Number in the pool of that name.
    time_us
        Microseconds by the kernel's trace clock.
    duration_ns
        What a result's line says of its program's time; distorted by the logging.
    lost
        Events that the kernel's buffer lost before this line; 0 where it says no number.
    text
        Arrow strings.
    """

    number: NDArray[np.int64]
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
    text: pa.LargeStringArray

    def __len__(self) -> int:
        return len(self.number)

    def take(self, rows: NDArray[Any]) -> Table:
        """These rows, by number or by mask, in their order."""
        index = np.flatnonzero(rows) if rows.dtype == bool else rows
        columns = [
            value.take(pa.array(index)) if f.name == "text" else value[index]
            for f, value in ((f, getattr(self, f.name)) for f in fields(self))
        ]
        return Table(*columns)


def joined(tables: Sequence[Table]) -> Table:
    """One table after the other."""
    if len(tables) == 1:
        return tables[0]
    columns = []
    for f in fields(Table):
        parts = [getattr(table, f.name) for table in tables]
        columns.append(pa.concat_arrays(parts) if f.name == "text" else np.concatenate(parts))
    return Table(*columns)


def tag_of_line(line: Line) -> Tag:
    """The tag that a line read by the rules had, without its length."""
    return Tag(0, line.iface, line.wide, line.iface_truncated, line.direction, line.ip_version)
