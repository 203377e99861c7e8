"""A whole log, a stretch at a time, so that its size does not matter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from ebpfperf.tracelog.columns import Outcome, Pools, Table
from ebpfperf.tracelog.grammar import named
from ebpfperf.tracelog.scan import Scanner

STRETCH_BYTES = 4 << 20
# The kernel's longest line is 8 KiB; what is longer is no line of a log, and is cut.
LONGEST_BYTES = 1 << 20


@dataclass(slots=True)
class Reading:
    """One log being read: ``tables`` gives its lines, the rest says what was met.

    Attributes
    ----------
    release
        (3, 26) where the release is known: it decides what the numbers of results mean.
    cut_lines
        Lines longer than a MiB, of which only that much is kept.
    """

    release: tuple[int, int] | None = None
    cut_lines: int = 0
    scanner: Scanner = field(default_factory=Scanner)

    @property
    def lines(self) -> int:
        """Lines read until now, blank ones counted."""
        return self.scanner.lines

    @property
    def pools(self) -> Pools:
        """What the numbers in the tables stand for."""
        return self.scanner.pools

    def tables(self, file: IO[bytes], *, stretch_bytes: int = STRETCH_BYTES) -> Iterator[Table]:
        """The lines of a file opened in binary mode, in tables of about so many bytes."""
        for data, cut in _whole_lines(file, stretch_bytes):
            self.cut_lines += cut
            yield self.scanner.scan(data)

    def codes(self) -> list[tuple[int | None, str]]:
        """(number, name) of each outcome in the pool, by what is known of the release by now."""
        return [self._code(outcome) for outcome in self.pools.outcome.values]

    def _code(self, outcome: Outcome) -> tuple[int | None, str]:
        notations = self.scanner.notations
        return named(
            outcome.verdict,
            outcome.code,
            outcome.rest,
            wide=outcome.wide,
            release=self.release,
            decimal=("decimal" in notations) if len(notations) == 1 else None,
        )


def _whole_lines(file: IO[bytes], size: int) -> Iterator[tuple[bytes, int]]:
    """(lines, how many of them were cut) with about ``size`` bytes at once."""
    rest = b""
    while chunk := file.read(size):
        end = chunk.rfind(b"\n") + 1
        if end:
            yield b"".join([rest, memoryview(chunk)[:end]]), 0
            rest = chunk[end:]
        elif len(rest) + len(chunk) > LONGEST_BYTES:
            yield (rest + chunk)[:LONGEST_BYTES] + b"\n", 1
            rest = _after_newline(file, size)
        else:
            rest += chunk
    if rest:
        yield rest, 0


def _after_newline(file: IO[bytes], size: int) -> bytes:
    while chunk := file.read(size):
        _, newline, rest = chunk.partition(b"\n")
        if newline:
            return rest
    return b""
