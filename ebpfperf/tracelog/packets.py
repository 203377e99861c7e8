"""One row a packet seen by one program at one hook.

A program runs to its end on one processor, so the lines of a packet are those of one tag on one
processor from the packet's first line to its result. What interrupts it has another tag. Columns:

``first_line``, ``last_line``, ``lines`` of the log; ``cpu``; ``iface``, ``iface_truncated``,
``direction``, ``ip_version``; ``start_s``, ``end_s`` by the trace clock; ``verdict`` (``ALLOW``,
``DENY``, missing where the log does not say); ``code``, ``code_name``; ``by_silence``: up to v3.23
a packet that policy drops has no result, and its last line says that policy is asked; ``path`` what
became of it (``redirect``, ``redirect to peer``, ``host stack``, ``bypass``, ``accepted by XDP``,
``dropped``, UNKNOWN); ``why``: of a drop its reason, of what went to the host's stack what the
route lookup said; ``source``, ``source_port``, ``destination``, ``destination_port``, ``protocol``,
``ip_id``, ``to``, ``to_port`` the flow and where DNAT sent it; ``duration_ns``; ``lost_events`` of
its processor beside it: up to its result, or without one up to the hook's next packet, and where
its first line is not there, from the hook's packet before; ``whole`` whether its first line and its
end are there and nothing was lost between.

``start_s``, ``end_s`` and ``duration_ns`` are distorted by the logging itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ebpfperf.tracelog import codes
from ebpfperf.tracelog.columns import NONE, Table, joined
from ebpfperf.tracelog.flow_columns import flow_columns
from ebpfperf.tracelog.flows import Flow
from ebpfperf.tracelog.grammar import ALL_KINDS, CLEANER, CONNECT
from ebpfperf.tracelog.line_frames import integers, seconds
from ebpfperf.tracelog.reading import STRETCH_BYTES, Reading
from ebpfperf.units import UNKNOWN

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KIND = {name: number for number, name in enumerate(ALL_KINDS)}
_RESULT = _KIND["result"]
# What a packet's lines begin with; at bpfLogLevel Info there is no other than the last two.
_BEGINNINGS = [_KIND[name] for name in ("start", "ip", "bypass", "rpf", "result")]
_LONGEST = 1000

# uapi/linux/bpf.h, BPF_FIB_LKUP_RET_*.
FIB_PROBLEMS = {
    1: "blackhole", 2: "unreachable", 3: "prohibited", 4: "not forwarded",
    5: "forwarding disabled on the interface", 6: "unsupported encapsulation", 7: "no neighbour",
    8: "fragmentation needed", 9: "no source address",
}  # fmt: skip
_FIB = re.compile(r"FIB lookup failed \((bad input|FIB problem)\): (-?\d+)")

COLUMNS = (
    "first_line", "last_line", "lines", "cpu", "iface", "iface_truncated", "direction",
    "ip_version", "start_s", "end_s", "verdict", "code", "code_name", "by_silence", "path", "why",
    *Flow._fields, "duration_ns", "lost_events", "whole",
)  # fmt: skip


@dataclass(slots=True)
class Assembler:
    """Makes packets of tables of lines that follow each other; keeps what is not over yet."""

    reading: Reading
    _carry: Table | None = None
    _lost: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    _ends: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, table: Table, *, last: bool = False) -> pd.DataFrame:
        """The packets that are over with this table; with ``last`` also those that are not."""
        self._note_losses(table)
        tags = self.reading.pools.tag.values
        hooked = np.array([tag.direction not in (None, CONNECT, CLEANER) for tag in tags])
        mine = hooked[table.tag] | (table.kind == _RESULT)
        lines = table if mine.all() else table.take(mine)
        if self._carry is not None:
            lines, self._carry = joined([self._carry, lines]), None
        if not len(lines):
            return pd.DataFrame([], columns=list(COLUMNS))
        tag = _effective_tags(lines)
        key = lines.cpu.astype(np.int64) * len(tags) + tag
        order = np.argsort(key, kind="stable")
        lines, tag, key = lines.take(order), tag[order], key[order]
        first = np.flatnonzero(_starts(lines.kind, key))
        after = np.append(first[1:], len(key))
        followed = np.append(key[first][1:] == key[first][:-1], False)
        ended = lines.kind[after - 1] == _RESULT
        over = ended | followed | (after - first > _LONGEST) | last
        if not over.all():
            held = np.repeat(~over, after - first)
            rest = lines.take(held)
            self._carry = rest.take(np.argsort(rest.number, kind="stable"))
        parts = _Parts(lines, tag, first, after, followed)
        found: pd.DataFrame = self._frame(parts).loc[over]
        for packet in np.flatnonzero(over & ~followed):
            self._ends[parts.hook(packet)] = int(lines.number[after[packet] - 1])
        return found.sort_values("first_line", kind="stable", ignore_index=True)

    def _note_losses(self, table: Table) -> None:
        for row in np.flatnonzero(table.kind == _KIND["lost"]):
            losses = self._lost.setdefault(int(table.cpu[row]), [])
            # A line without a number stands for at least one event.
            losses.append((int(table.number[row]), max(1, int(table.lost[row]))))

    def _frame(self, parts: _Parts) -> pd.DataFrame:
        lines, first, final = parts.lines, parts.first, parts.after - 1
        pools = self.reading.pools
        tags = [pools.tag.values[number] for number in parts.tag[first]]
        begun = np.isin(lines.kind[first], _BEGINNINGS)
        lost = self._losses(parts, begun=begun)
        outcome = np.where(lines.kind[final] == _RESULT, lines.outcome[final], NONE)
        names = [*self.reading.codes(), (None, None)]
        verdict = np.array([o.verdict for o in pools.outcome.values] + [None], dtype=object)
        columns: dict[str, Any] = {
            "first_line": lines.number[first],
            "last_line": lines.number[final],
            "lines": parts.after - first,
            "cpu": integers(lines.cpu[first]),
            "iface": _texts([tag.iface for tag in tags]),
            "iface_truncated": pd.array([tag.truncated for tag in tags], dtype="boolean"),
            "direction": _texts([tag.direction for tag in tags]),
            "ip_version": pd.array([tag.ip_version for tag in tags], dtype="Int64"),
            "start_s": seconds(lines.time_us[first]),
            "end_s": seconds(lines.time_us[final]),
            "verdict": _texts(verdict[outcome]),
            "code": pd.array([names[number][0] for number in outcome], dtype="Int64"),
            "code_name": _texts(np.array([name for _, name in names], dtype=object)[outcome]),
            **flow_columns(lines, first, tags=pools.tag.values),
            "duration_ns": integers(np.where(outcome >= 0, lines.duration_ns[final], NONE)),
            "lost_events": lost,
            "whole": begun & ((outcome >= 0) | parts.followed) & (lost == 0),
        }
        found = pd.DataFrame(columns, copy=False)
        self._judge_silence(found, parts)
        _tell(found, parts)
        return found[list(COLUMNS)]

    def _losses(self, parts: _Parts, *, begun: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Events lost on each packet's processor between what came before and after it."""
        number, cpu = parts.lines.number, parts.lines.cpu[parts.first]
        upper = number[parts.after - 1].copy()
        # Without a result a packet may go on, unseen, until the next one.
        open_ = parts.followed & (parts.lines.kind[parts.after - 1] != _RESULT)
        upper[open_] = number[parts.first[1:][open_[:-1]]]
        # Of a packet that begins in the middle, from the last line of the hook's packet before.
        before = np.append(0, number[parts.after[:-1] - 1])
        for packet in np.flatnonzero(~np.append(False, parts.followed[:-1])):
            before[packet] = self._ends.get(parts.hook(packet), 0)
        lower = np.where(begun, number[parts.first], before)
        found = np.zeros(len(cpu), dtype=np.int64)
        for which, losses in self._lost.items():
            at = np.array([line for line, _ in losses])
            total = np.append(0, np.cumsum([count for _, count in losses]))
            those = cpu == which
            ends = total[np.searchsorted(at, upper[those])]
            found[those] = ends - total[np.searchsorted(at, lower[those])]
        return found

    def _judge_silence(self, found: pd.DataFrame, parts: _Parts) -> None:
        """Say of packets without a result that they were dropped, where silence means that."""
        release = self.reading.release
        kind = parts.lines.kind[parts.after - 1]
        narrow = np.array([tag.wide is False for tag in self.reading.pools.tag.values])
        silent = parts.followed & (found["lost_events"] == 0).to_numpy() & (kind != _RESULT)
        silent &= (found["direction"] != "xdp").to_numpy()
        asked = silent & (kind == _KIND["asked"]) & narrow[parts.tag[parts.first]]
        if release is not None and release >= codes.COUNTERS_FROM:
            asked[:] = False
        refused = silent & (kind == _KIND["refused"])
        found["by_silence"] = asked | refused
        found.loc[asked | refused, "verdict"] = "DENY"
        found.loc[asked, "code_name"] = codes.POLICY
        found.loc[refused, "code_name"] = codes.BEFORE_COUNTERS[6]


def packets_of(
    reading: Reading,
    file: IO[bytes],
    *,
    lines: Callable[[Table], None] | None = None,
    stretch_bytes: int = STRETCH_BYTES,
) -> Iterator[pd.DataFrame]:
    """The packets of a log, a frame a stretch; ``lines`` is shown each table of lines before."""
    assembler, last = Assembler(reading), None
    for table in reading.tables(file, stretch_bytes=stretch_bytes):
        if lines is not None:
            lines(table)
        yield assembler.add(table)
        last = table
    if last is not None:
        yield assembler.add(last.take(np.zeros(0, dtype=np.int64)), last=True)


@dataclass(frozen=True, slots=True)
class _Parts:
    """Lines by processor and tag, and which of them make a packet: ``first`` up to ``after``.

    ``followed``: whether another packet with the same processor and tag comes after it.
    """

    lines: Table
    tag: NDArray[np.int32]
    first: NDArray[np.int64]
    after: NDArray[np.int64]
    followed: NDArray[np.bool_]

    def hook(self, packet: np.int64) -> tuple[int, int]:
        """(processor, tag) of a packet."""
        line = self.first[packet]
        return int(self.lines.cpu[line]), int(self.tag[line])


def _effective_tags(lines: Table) -> NDArray[np.int32]:
    """Each line's tag; of a result that was printed without one, that of its packet's lines."""
    order = np.argsort(lines.cpu, kind="stable")
    tag, kind, cpu = lines.tag[order], lines.kind[order], lines.cpu[order]
    before = np.flatnonzero((tag[1:] == 0) & (cpu[1:] == cpu[:-1]) & (kind[:-1] != _RESULT))
    tag[before + 1] = tag[before]
    found = np.empty_like(tag)
    found[order] = tag
    return found


def _starts(kind: NDArray[np.int8], key: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each line, sorted by key, is the first of a packet."""
    new = np.append(True, key[1:] != key[:-1])
    start = kind == _KIND["start"]
    group = np.cumsum(new) - 1
    # Up to v3.17 no line says "New packet": there the header's line is the first, unless a packet
    # out of a tunnel is looked at again.
    told = np.bincount(group, weights=start)[group] > 0
    before = np.append(NONE, kind[:-1])
    header = (kind == _KIND["ip"]) & ~told & (before != _KIND["tunnel"])
    bypass = (kind == _KIND["bypass"]) & ~told
    found: NDArray[np.bool_] = new | (before == _RESULT) | start | header | bypass
    return found


def _tell(found: pd.DataFrame, parts: _Parts) -> None:
    """Add what became of each packet and why: columns ``path`` and ``why``."""
    name = found["code_name"].astype(object).to_numpy()
    verdict = found["verdict"].astype(object).to_numpy()
    allowed = verdict == "ALLOW"
    unseen = allowed & np.isin(name, (codes.BYPASS, codes.XDP))
    redirected = allowed & (found["code"].fillna(NONE).to_numpy() == codes.REDIRECT) & ~unseen
    path = np.full(len(found), UNKNOWN, dtype=object)
    path[allowed], path[redirected], path[unseen] = "host stack", "redirect", name[unseen]
    path[verdict == "DENY"] = "dropped"
    why = name.copy()
    why[verdict != "DENY"] = None
    peer, _ = _saying(parts, "redirect", "Redirect to peer")
    path[peer[redirected[peer]]] = "redirect to peer"
    for packet, text in zip(*_saying(parts, "route", "FIB lookup failed"), strict=True):
        if path[packet] == "host stack":
            why[packet] = route_problem(text)
    for packet, text in zip(*_saying(parts, "rpf", ""), strict=True):
        if path[packet] == "dropped":
            check = "RPF of the host" if text.startswith("Host") else "RPF of the workload"
            why[packet] = f"{name[packet]} ({check})"
    found["path"], found["why"] = _texts(path), _texts(why)


def _texts(values: Any) -> pd.Series[str]:
    """A column of texts; None is missing, also where nothing else is there."""
    return pd.Series(values, dtype="str")


def _saying(parts: _Parts, kind: str, start: str) -> tuple[NDArray[np.int64], list[str]]:
    """(packets, texts) of the lines of a kind that begin so."""
    there = np.flatnonzero(parts.lines.kind == _KIND[kind])
    texts = parts.lines.text.take(pa.array(there))
    if start:
        those = pc.starts_with(texts, start).to_numpy(zero_copy_only=False)
        there, texts = there[those], texts.filter(pa.array(those))
    packets = np.searchsorted(parts.first, there, side="right") - 1
    return packets, texts.to_pylist()


def route_problem(text: str) -> str | None:
    """What a line says of a route lookup that failed; None where it did not."""
    match = _FIB.match(text)
    if match is None:
        return None
    number = int(match[2])
    meaning = f" ({FIB_PROBLEMS[number]})" if number in FIB_PROBLEMS else ""
    return f"route lookup failed: {match[1]} {number}{meaning}"
