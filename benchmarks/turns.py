"""Turns of arms in shared connections → ratios with intervals, and what they say as text. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ebpfperf.intervals import paired_interval
from ebpfperf.stats import Interval, hodges_lehmann

BASE, AGAIN, ALL = "none", "none, again", "all"
MET, NOT_MET, UNDECIDED = "met", "not met", "undecided"


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured column: its heading, the load that it is of, and which way is better."""

    name: str
    label: str
    load: str
    more_is_better: bool = False


METRICS = (
    Metric("bits_per_s", "throughput", "tcp", more_is_better=True),
    Metric("rr_p50_ns", "p50", "request-response"),
    # Slices of a fraction of the time move no median, but the mean they do.
    Metric("rr_mean_ns", "mean", "request-response"),
    Metric("rr_p99_ns", "p99", "request-response"),
    Metric("cpu_s_per_gbit", "CPU per Gbit", "tcp"),
    Metric("rr_cpu_us_per_request", "CPU per request", "request-response"),
)
# What all probes together may leave of throughput, and make of the median round trip.
AIMS = {"bits_per_s": 0.98, "rr_p50_ns": 1.03}
_WIDTH = 22

# Arm → (block, log of a ratio).
Ratios = Mapping[str, Sequence[tuple[int, float]]]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one arm's turn gave.

    Attributes
    ----------
    connection
        Number of the connection in the whole run.
    place
        Its place in the connection's order, from 0.
    window_s
        Seconds between the two readings of the counters.
    events_per_s
        What its watcher counted, by the seconds it watched; None where nothing counts.
    values
        Of the metrics of that load.
    """

    block: int
    connection: int
    place: int
    arm: str
    load: str
    window_s: float
    events_per_s: float | None
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two arms that ask the same question.

    Attributes
    ----------
    aimed
        Whether ``probe`` is to cost less than ``other``: it watches as shipped.
    """

    probe: str
    other: str
    aimed: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What a run gave.

    Attributes
    ----------
    arms
        All arms that took turns, in the order of the table.
    cannot
        Arm → why it does not run here.
    headers
        Words on the kernel headers that BCC compiles with.
    """

    turns: tuple[Turn, ...]
    arms: tuple[str, ...]
    cannot: Mapping[str, str]
    pairs: tuple[Pair, ...]
    headers: str = ""


def log_ratios(turns: Iterable[Turn], metric: Metric) -> dict[str, list[tuple[int, float]]]:
    """Arm → (block, log of its ratio to ``none`` of the same connection).

    ``none, again`` is held against the other; all others against the mean of both.
    """
    connections: dict[int, dict[str, Turn]] = {}
    for turn in turns:
        if turn.load == metric.load:
            connections.setdefault(turn.connection, {})[turn.arm] = turn
    found: dict[str, list[tuple[int, float]]] = {}
    for _, arms in sorted(connections.items()):
        logs = {arm: math.log(turn.values[metric.name]) for arm, turn in arms.items()}
        if BASE not in logs:
            continue
        rest = statistics.fmean(logs[arm] for arm in (BASE, AGAIN) if arm in logs)
        for arm, turn in arms.items():
            if arm != BASE:
                base = logs[BASE] if arm == AGAIN else rest
                found.setdefault(arm, []).append((turn.block, logs[arm] - base))
    return found


def paired(ratios: Ratios, first: str, second: str) -> list[float]:
    """Logs of ``first`` / ``second``, one a block in which both came."""
    blocks = [
        {
            block: statistics.fmean(value for at, value in ratios.get(arm, ()) if at == block)
            for block, _ in ratios.get(arm, ())
        }
        for arm in (first, second)
    ]
    return [blocks[0][block] - blocks[1][block] for block in sorted(blocks[0].keys() & blocks[1])]


def interval(logs: Sequence[float]) -> Interval | None:
    """The ratio with its interval; None for too few."""
    found = paired_interval(logs, level=0.95)
    if found is None:
        return None
    low, middle, high = (math.exp(x) for x in (found.low, found.estimate, found.high))
    return Interval(middle, low, high, found.level, found.n)


def verdict(found: Interval | None, *, limit: float, more_is_better: bool) -> str:
    """Whether the ratio is on the better side of ``limit``, as far as its interval tells."""
    if found is None or found.low <= limit <= found.high:
        return UNDECIDED
    return MET if (found.low > limit) == more_is_better else NOT_MET


def shown(logs: Sequence[float]) -> str:
    """``0.981 (0.962-1.003)``, the middle alone for too few, or nothing for none."""
    if not logs:
        return ""
    found = interval(logs)
    if found is None:
        return f"{math.exp(hodges_lehmann(logs)):.3f}"
    return f"{found.estimate:.3f} ({found.low:.3f}–{found.high:.3f})"


def report(found: Found) -> str:
    """All tables, whatever they say, what does not run here and the aims."""
    ratios = {metric.name: log_ratios(found.turns, metric) for metric in METRICS}
    blocks = len({turn.block for turn in found.turns})
    connections = len({turn.connection for turn in found.turns})
    lines = [f"times none of the same connection; {blocks} blocks, {connections} connections"]
    rows = [
        (arm, {name: [log for _, log in of.get(arm, ())] for name, of in ratios.items()})
        for arm in found.arms
        if arm != BASE
    ]
    lines += _table(rows, events=_events(found.turns))
    rows = [
        (
            f"{pair.probe} / {pair.other}",
            {name: paired(of, pair.probe, pair.other) for name, of in ratios.items()},
        )
        for pair in found.pairs
    ]
    if rows:
        lines += ["", "the same question, paired by block", *_table(rows)]
    lines += ["", "does not run here"] if found.cannot else []
    lines += [f"  {arm}: {why}" for arm, why in found.cannot.items()]
    if not found.headers.startswith("of this kernel"):
        lines += [
            "",
            f"BCC compiles with headers of another kernel ({found.headers}). Tools that read",
        ]
        lines += ["structures by those (runqlat) cost what they cost and print nonsense."]
    return "\n".join([*lines, "", *_aims(ratios, found.pairs)])


def _aims(ratios: Mapping[str, Ratios], pairs: Iterable[Pair]) -> list[str]:
    """The aims, and whether each was met."""
    aimed = [metric for metric in METRICS if metric.name in AIMS]
    lines = ["aims"]
    for metric in aimed:
        limit = AIMS[metric.name]
        logs = [log for _, log in ratios[metric.name].get(ALL, ())]
        said = verdict(interval(logs), limit=limit, more_is_better=metric.more_is_better)
        way = "above" if metric.more_is_better else "below"
        lines.append(f"  {said:9}  {ALL}: {metric.label} {way} {limit} times none: {shown(logs)}")
    for metric in aimed:
        for pair in pairs:
            if pair.aimed:
                logs = paired(ratios[metric.name], pair.probe, pair.other)
                said = verdict(interval(logs), limit=1.0, more_is_better=metric.more_is_better)
                what = f"{pair.probe} costs less {metric.label} than {pair.other}"
                lines.append(f"  {said:9}  {what}: {shown(logs)}")
    return lines


def _table(
    rows: Sequence[tuple[str, Mapping[str, Sequence[float]]]],
    *,
    events: Mapping[str, str] | None = None,
) -> list[str]:
    width = max(len(name) for name, _ in rows)
    head = "".join(f"{metric.label + ' ×':{_WIDTH}}" for metric in METRICS)
    lines = [f"  {'':{width}}  {head}{'events/s, tcp and rr' if events else ''}".rstrip()]
    for name, logs in rows:
        cells = "".join(f"{shown(logs[metric.name]):{_WIDTH}}" for metric in METRICS)
        lines.append(f"  {name:{width}}  {cells}{(events or {}).get(name, '')}".rstrip())
    return lines


def _events(turns: Iterable[Turn]) -> dict[str, str]:
    """Arm → events a second with each load, middle of its turns."""
    seen: dict[str, dict[str, list[float]]] = {}
    for turn in turns:
        if turn.events_per_s is not None:
            seen.setdefault(turn.arm, {}).setdefault(turn.load, []).append(turn.events_per_s)
    loads = dict.fromkeys(metric.load for metric in METRICS)
    return {
        arm: ", ".join(
            f"{statistics.median(of[load]):,.0f}" if load in of else "-" for load in loads
        )
        for arm, of in seen.items()
    }
