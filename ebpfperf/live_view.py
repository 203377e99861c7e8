"""A run as a notebook's cell shows it: the trial in hand, and what is finished. Pure.

The picture is SVG text, because a figure of matplotlib takes some sixty milliseconds of processor
each time: where nodes and notebook share a machine, the traffic would feel it.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import pandas as pd

from ebpfperf import metrics, tables, units
from ebpfperf.chart import FAINT, INK, looks
from ebpfperf.histograms import merge, quantile, total
from ebpfperf.model import Campaign, Direction, Flow, HistogramBin, Reading, Trial, TrialResult

COUNTERS = "host_counters"


@dataclass(frozen=True, slots=True)
class Bar:
    """One duration as a bar; bars of a group share a scale."""

    group: str
    label: str
    ns: float


@dataclass(frozen=True, slots=True)
class Point:
    """What the flow's receiver had got (bits, or packets of an exchange) at a time."""

    t_s: float
    got: float


@dataclass(frozen=True, slots=True)
class Now:
    """The trial in hand, as HTML: where the run is, what the probes saw, what was said.

    Attributes
    ----------
    place
        ``Trial 7 of 54, 2 min 05 s left``, or how it ended.
    trial
        None before the first and after the last.
    readings
        Probe → what it saw of the trial until the last look.
    points
        One per look.
    said
        Sentences of this run, oldest first.
    """

    campaign: Campaign
    place: str
    trial: Trial | None = None
    readings: Mapping[str, Reading] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    said: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join(
            [f"{self.place}.", *([_what(self.trial)] if self.trial else []), *self.said]
        )

    def _repr_html_(self) -> str:
        parts = [f"<p><strong>{escape(self.place)}.</strong></p>"]
        if self.trial:
            parts.append(f"<p>{escape(_what(self.trial))}</p>")
            parts.append(_figure(self, self.trial))
        parts += [f"<p>{escape(text)}</p>" for text in self.said]
        return f'<div class="ebpfperf-now">{"".join(parts)}</div>'


def point(flow: Flow, reading: Reading | None) -> Point | None:
    """What the receiver's device had got since the counters were armed; None where they are silent.

    Bits for bulk flows, both ends' together where both receive; packets at the client for an
    exchange, whose answers they are.
    """
    exchange = flow.load == "request-response"
    ends = {Direction.FORWARD: ("server",), Direction.REVERSE: ("client",)}
    receivers = ("client",) if exchange else ends.get(flow.direction, ("client", "server"))
    name = "device_rx_packets" if exchange else "device_rx_bytes"
    found = [
        sample
        for sample in (reading.samples if reading else ())
        if sample.metric == name and sample.endpoint in receivers
    ]
    if len(found) != len(receivers):
        return None
    factor = 1 if exchange else units.BITS_PER_BYTE
    return Point(found[0].t_s, factor * sum(sample.value for sample in found))


def rates(points: Sequence[Point]) -> tuple[tuple[float, float], ...]:
    """(seconds, per second) between each two points that follow each other."""
    return tuple(
        (after.t_s, (after.got - before.got) / (after.t_s - before.t_s))
        for before, after in itertools.pairwise(points)
        if after.t_s > before.t_s
    )


def bars(readings: Mapping[str, Reading]) -> tuple[Bar, ...]:
    """What took how long so far: round trips, the steps of the way (medians), and waits (p99)."""
    found = [
        Bar(group, label, readings[probe].metrics[name])
        for group, label, probe, name in _BARS
        if probe in readings and name in readings[probe].metrics
    ]
    return (*found, *_steps(readings["hops"].histograms if "hops" in readings else ()))


def counts(readings: Mapping[str, Reading]) -> tables.Table:
    """Per probe how much it has seen so far, or why it has nothing to say."""
    rows = [
        {"probe": name, "seen": _seen(reading), "note": _note(name, reading)}
        for name, reading in readings.items()
        if name != COUNTERS
    ]
    return tables.Table("Seen so far", pd.DataFrame(rows), numeric=("seen",))


def finished(results: Iterable[TrialResult]) -> tables.Table:
    """The trials of this run that have ended, newest first, with their headline numbers."""
    done = tuple(results)[::-1]
    shown = [name for name in metrics.HEADLINE if any(name in one.metrics for one in done)]
    rows = [
        {
            "trial": one.trial.trial_id,
            "status": str(one.status),
            **{
                metrics.metric(name).label: metrics.metric(name).show(one.metrics[name])
                if name in one.metrics
                else "–"
                for name in shown
            },
            "reason": one.reason,
        }
        for one in done
    ]
    labels = tuple(metrics.metric(name).label for name in shown)
    return tables.Table("Finished, newest first", pd.DataFrame(rows), numeric=labels)


_BARS = (
    ("Round trips", "TCP smoothed RTT, median", "tcp_rtt", "srtt_p50_ns"),
    ("Round trips", "TCP smoothed RTT, p99", "tcp_rtt", "srtt_p99_ns"),
    ("Round trips", "connect, median", "tcp_connect", "connect_p50_ns"),
    ("Waits", "softirq, p99", "softirq", "softirq_wait_p99_ns"),
    ("Waits", "run queue, p99", "runqueue", "runqueue_p99_ns"),
    ("Waits", "queueing discipline, p99", "qdisc", "qdisc_p99_ns"),
)
# What a probe without histograms counts.
_COUNTED = ("bpf_runs", "dropped_packets", "retransmitted_segments")


def _steps(rows: Iterable[HistogramBin]) -> Iterable[Bar]:
    ways: dict[tuple[str, str], list[HistogramBin]] = {}
    for row in rows:
        ways.setdefault((row.endpoint, row.metric.partition(":")[2]), []).append(row)
    for (end, way), own in ways.items():
        at = quantile(merge(own), 0.5)
        if at is None or way.startswith("="):
            continue
        # The last step ends when a program reads, which may take a thousand times the others.
        group = "Until it is read" if way.endswith(">socket-copy") else "Step by step"
        yield Bar(f"{group}, sent by the {end}, medians", way.replace(">", " → "), at.value_ns)


def _seen(reading: Reading) -> str:
    if reading.histograms:
        return units.number(float(total(reading.histograms)))
    counted = [reading.metrics[name] for name in _COUNTED if name in reading.metrics]
    return units.number(counted[0]) if counted else "–"


def _note(name: str, reading: Reading) -> str:
    # In the record it is over without the probe's turn; in a look that may still come.
    if reading.reason.startswith("not_watched:"):
        return "nothing yet"
    skipped = [fact.value for fact in reading.facts if fact.name == f"{name}_skipped"]
    return reading.reason or "".join(skipped)


def _what(trial: Trial) -> str:
    flow, treatment = trial.flow, trial.treatment
    felix = ", ".join(f"{name}: {value}" for name, value in treatment.felix)
    streams = f", {flow.streams} streams" if flow.streams > 1 else ""
    return (
        f"{trial.trial_id}: treatment {treatment.name} (overlay mode {treatment.overlay}, "
        f"{treatment.scope}{f', {felix}' if felix else ''}); flow {flow.name} ({flow.load}, "
        f"{flow.path}, {flow.direction}{streams}, {units.duration_s(flow.duration_s)})"
    )


def _received(flow: Flow, per_s: Sequence[float]) -> str:
    """``Received 3.05 Gbit/s, at most 3.21 Gbit/s``; an exchange's are packets at the client."""
    exchange = flow.load == "request-response"
    who = "Client received" if exchange else "Received"
    if not per_s:
        return f"{who} {units.UNKNOWN} so far"
    last, most = (
        f"{units.number(rate)} packets/s" if exchange else units.bits_per_s(rate)
        for rate in (per_s[-1], max(per_s))
    )
    return f"{who} {last}, at most {most}"


def _figure(now: Now, trial: Trial) -> str:
    if not now.readings:
        return "<p>The treatment is being put on the cluster, or the traffic is about to begin.</p>"
    over_time, durations = rates(now.points), bars(now.readings)
    colour = looks(now.campaign)[trial.treatment.name].colour
    heading = _received(trial.flow, [rate for _, rate in over_time])
    said = [
        heading,
        *(f"{bar.group}, {bar.label}: {units.duration_ns(bar.ns)}" for bar in durations),
    ]
    drawn = _svg(durations, over_time, heading, colour=colour)
    data = base64.b64encode(drawn.encode()).decode("ascii")
    alt = f"Trial {trial.trial_id} so far. {'. '.join(said)}."
    return (
        f'<figure style="margin:0"><img src="data:image/svg+xml;base64,{data}" '
        f'alt="{escape(alt)}" style="max-width:100%;height:auto"></figure>'
        f"{counts(now.readings)._repr_html_()}"
    )


_WIDTH, _ROW, _LABELS, _BARS_END, _CURVE = 760, 19, 210, 400, 480


def _svg(
    durations: Sequence[Bar], over_time: Sequence[tuple[float, float]], heading: str, *, colour: str
) -> str:
    """The bars at the left, each with its number; the rate over time at the right."""
    left, y = [], 0
    for group in dict.fromkeys(bar.group for bar in durations):
        own = [bar for bar in durations if bar.group == group]
        longest = max(bar.ns for bar in own) or 1.0
        y += _ROW
        left.append(_text(0, y, group, bold=True))
        for bar in own:
            y += _ROW
            length = (_BARS_END - _LABELS) * bar.ns / longest
            left.append(_text(_LABELS - 6, y, bar.label, anchor="end"))
            left.append(
                f'<rect x="{_LABELS}" y="{y - 11}" width="{length:.1f}" height="12" '
                f'fill="{colour}"/>'
            )
            left.append(_text(_LABELS + length + 5, y, units.duration_ns(bar.ns)))
    height = max(y + 8, 150)
    right = [_text(_CURVE, _ROW, heading, bold=True), *_curve(over_time, height, colour)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f"{''.join(left)}{''.join(right)}</svg>"
    )


def _curve(over_time: Sequence[tuple[float, float]], height: int, colour: str) -> list[str]:
    if not over_time:
        return []
    top, bottom, right = _ROW + 14, height - 22, _WIDTH - 12
    end_s, highest = over_time[-1][0], max(rate for _, rate in over_time) or 1.0
    places = [
        (_CURVE + (right - _CURVE) * t_s / end_s, bottom - (bottom - top) * rate / highest)
        for t_s, rate in over_time
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    marks = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in places]
    return [
        f'<path d="M{_CURVE} {top}V{bottom}H{right}" fill="none" stroke="{FAINT}"/>',
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *marks,
        _text(_CURVE, bottom + 15, "0 s"),
        _text(right, bottom + 15, units.duration_s(end_s), anchor="end"),
    ]


def _text(x: float, y: float, words: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" fill="{INK}"{weight}>'
        f"{escape(words)}</text>"
    )
