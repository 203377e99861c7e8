"""Lines of the log as a pandas frame, or as JSON, one object a line.

Columns: ``line`` number in the input, from 1; ``kind`` what it is about (``result``, ``start``,
``ip``, ``header``, ``conntrack``, ``nat``, ``asked``, ``policy``, ``refused``, ``route``,
``redirect``, ``rpf``, ``tunnel``, ``mark``, ``bypass``, ``text`` of Calico's programs; ``other`` of
another program's, ``lost``, ``comment``, ``unparsed``); ``task``, ``pid``, ``cpu``, ``flags``,
``function`` the kernel's part; ``timestamp_s`` by the kernel's trace clock; ``iface`` and
``iface_truncated`` (its name may go on: eight characters were all there was room for);
``direction`` by policy (``ingress`` is towards a pod, or into the host), ``xdp``, ``connect`` (the
connect-time load balancer) or ``cleaner``; ``ip_version``; ``verdict``, ``code``, ``code_name`` of
a result; ``duration_ns`` what it says of its program's time; ``lost_events``; ``text``.

``timestamp_s`` and ``duration_ns`` are distorted: writing the log takes most of the time in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ebpfperf.tracelog.columns import NONE, Table
from ebpfperf.tracelog.grammar import ALL_KINDS
from ebpfperf.tracelog.reading import Reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

JSON_KEYS = (
    "kind", "task", "pid", "cpu", "flags", "timestamp_s", "function", "iface", "iface_truncated",
    "direction", "ip_version", "verdict", "code", "code_name", "duration_ns", "text",
)  # fmt: skip


def frame(table: Table, reading: Reading) -> pd.DataFrame:
    """The lines of a table, one row each; columns as at the top of this module."""
    pools, codes = reading.pools, reading.codes()
    tags, outcomes = pools.tag.values, pools.outcome.values
    columns: dict[str, Any] = {
        "line": table.number,
        "kind": category(table.kind, ALL_KINDS),
        "task": category(table.task, pools.task.values),
        "pid": integers(table.pid),
        "cpu": integers(table.cpu),
        "flags": category(table.flags, pools.flags.values),
        "timestamp_s": seconds(table.time_us),
        "function": category(table.function, pools.function.values),
        "iface": mapped(table.tag, [tag.iface for tag in tags]),
        "iface_truncated": _flags(table.tag, [tag.truncated for tag in tags]),
        "direction": mapped(table.tag, [tag.direction for tag in tags]),
        "ip_version": integers(_numbers(table.tag, [tag.ip_version for tag in tags])),
        "verdict": mapped(table.outcome, [outcome.verdict for outcome in outcomes]),
        "code": _nullable(table.outcome, [number for number, _ in codes]),
        "code_name": mapped(table.outcome, [name for _, name in codes]),
        "duration_ns": integers(table.duration_ns),
        "lost_events": integers(table.lost),
        "text": pd.array(table.text, dtype=pd.StringDtype("pyarrow")),
    }
    return pd.DataFrame(columns, copy=False)


def objects(table: Table, reading: Reading) -> Iterator[dict[str, Any]]:
    """The lines of a table as JSON objects with exactly ``JSON_KEYS``; None where one has none."""
    pools, codes = reading.pools, reading.codes()
    tags = [*((t.iface, t.truncated, t.direction, t.ip_version) for t in pools.tag.values)]
    none = (None, None, None)
    results = [*((o.verdict, *c) for o, c in zip(pools.outcome.values, codes, strict=True)), none]
    tasks, flags, functions = (
        [*pool.values, None] for pool in (pools.task, pools.flags, pools.function)
    )
    rows = zip(
        table.kind.tolist(), table.task.tolist(), table.pid.tolist(), table.cpu.tolist(),
        table.flags.tolist(), table.time_us.tolist(), table.function.tolist(), table.tag.tolist(),
        table.outcome.tolist(), table.duration_ns.tolist(), table.text.to_pylist(),
        strict=True,
    )  # fmt: skip
    for kind, task, pid, cpu, flag, time_us, function, tag, outcome, duration_ns, text in rows:
        # -1 is the last of each list: None.
        values = (
            ALL_KINDS[kind], tasks[task], None if pid == NONE else pid,
            None if cpu == NONE else cpu, flags[flag],
            None if time_us == NONE else time_us / 1_000_000, functions[function],
            *tags[tag], *results[outcome], None if duration_ns == NONE else duration_ns, text,
        )  # fmt: skip
        yield dict(zip(JSON_KEYS, values, strict=True))


def category(codes: NDArray[Any], values: Sequence[str]) -> pd.Categorical:
    """A column of few different values, by their numbers; -1 is missing."""
    dtype = pd.CategoricalDtype(list(values))
    return pd.Categorical.from_codes(codes, dtype=dtype, validate=False)


def mapped(codes: NDArray[Any], values: Sequence[str | None]) -> pd.Categorical:
    """A column of what the numbers stand for; values may repeat, None and -1 are missing."""
    distinct = list(dict.fromkeys(value for value in values if value is not None))
    place = {value: number for number, value in enumerate(distinct)}
    target = np.array([NONE if v is None else place[v] for v in values] + [NONE], dtype=np.int32)
    return category(target[codes], distinct)


def integers(values: NDArray[Any]) -> pd.arrays.IntegerArray:
    """A column of whole numbers; -1 is missing."""
    return pd.arrays.IntegerArray(values, values == NONE)


def seconds(time_us: NDArray[np.int64]) -> NDArray[np.float64]:
    """Seconds; -1 is NaN."""
    found: NDArray[np.float64] = time_us / 1_000_000
    if (time_us == NONE).any():
        found[time_us == NONE] = np.nan
    return found


def _numbers(codes: NDArray[Any], values: Sequence[int | None]) -> NDArray[np.int64]:
    found = np.array([NONE if v is None else v for v in values] + [NONE], dtype=np.int64)
    return found[codes]  # type: ignore[no-any-return]


def _nullable(codes: NDArray[Any], values: Sequence[int | None]) -> pd.arrays.IntegerArray:
    # A code may itself be -1.
    numbers = np.array([0 if v is None else v for v in values] + [0], dtype=np.int64)[codes]
    missing = np.array([v is None for v in values] + [True])[codes]
    return pd.arrays.IntegerArray(numbers, missing)


def _flags(codes: NDArray[Any], values: Sequence[bool | None]) -> pd.arrays.BooleanArray:
    truth = np.array([bool(v) for v in values] + [False])[codes]
    missing = np.array([v is None for v in values] + [True])[codes]
    return pd.arrays.BooleanArray(truth, missing)
