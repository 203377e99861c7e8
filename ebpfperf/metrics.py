"""The metric catalogue: what each number of a trial is called, its unit, and which way is better.

The one place that says it; tables, charts, comparisons and sentences read it here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from ebpfperf import units


class Better(StrEnum):
    """Which way of a metric is the good one."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Percentile:
    """Which histograms a percentile is of: those of all trials of an arm are added for it.

    Attributes
    ----------
    histogram
        Metric of the histograms frame; one that ends in a colon stands for all that begin with it.
    quantile
        0 to 1.
    endpoint
        Only that endpoint's; empty for all of them together.
    """

    histogram: str
    quantile: float
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """What a column of the trials frame means.

    Attributes
    ----------
    name
        Column of the trials frame; its suffix is the unit.
    label
        Words for a reader, capitalised, without the unit.
    axis
        Unit on a chart's axis, and ``per_axis_unit`` of the column's own units make one of it.
    resolution_pct
        Width of the bins it was read from, percent of the value; 0 for one that was not.
    show
        Value with its unit, for tables and sentences.
    loads
        Loads for which it is a question worth asking; empty for all of them.
    percentile
        Of which histograms it is a percentile; None for what is none.
    """

    name: str
    label: str
    better: Better
    axis: str
    per_axis_unit: float
    show: Callable[[float | None], str]
    resolution_pct: float = 0.0
    loads: tuple[str, ...] = ()
    percentile: Percentile | None = None

    def of(self, load: str) -> bool:
        """Whether the metric is compared for flows of that load."""
        return not self.loads or load in self.loads


def _unit(suffix: str) -> Callable[[float | None], str]:
    def show(value: float | None) -> str:
        text = units.number(value)
        return text if text == units.UNKNOWN else f"{text} {suffix}"

    return show


def _cpu_per_gbit(value: float | None) -> str:
    if value is None:
        return units.UNKNOWN
    text = units.duration_ns(value * units.NS_PER_S)
    return text if text == units.UNKNOWN else f"{text}/Gbit"


_BULK = ("tcp", "udp")
# Bins of the two histogram layouts: every request (1/64) and the kernel's smoothed RTT (1/8).
_FINE_PCT, _KERNEL_PCT = 100 / 64, 100 / 8
_GBIT, _US, _MS = float(units.BITS_PER_GBIT), float(units.NS_PER_US), 0.001


def _time(
    name: str,
    label: str,
    percentile: Percentile,
    resolution_pct: float = _KERNEL_PCT,
    loads: tuple[str, ...] = (),
) -> Metric:
    """A percentile of times, of which fewer are better."""
    return Metric(
        name, label, Better.LOWER, "µs", _US, units.duration_ns, resolution_pct, loads, percentile
    )


CATALOGUE: tuple[Metric, ...] = (
    Metric("received_bits_per_s", "Throughput", Better.HIGHER, "Gbit/s", _GBIT, units.bits_per_s),
    Metric(
        "requests_per_s",
        "Requests per second",
        Better.HIGHER,
        "requests/s",
        1.0,
        _unit("requests/s"),
    ),
    _time("rr_p50_ns", "Round trip, median", Percentile("rr_ns", 0.5), _FINE_PCT),
    _time("rr_p90_ns", "Round trip, 90th percentile", Percentile("rr_ns", 0.9), _FINE_PCT),
    _time("rr_p99_ns", "Round trip, 99th percentile", Percentile("rr_ns", 0.99), _FINE_PCT),
    _time("rr_p999_ns", "Round trip, 99.9th percentile", Percentile("rr_ns", 0.999), _FINE_PCT),
    _time("srtt_p50_ns", "TCP smoothed RTT, median", Percentile("srtt_ns", 0.5), loads=("tcp",)),
    _time(
        "srtt_p99_ns",
        "TCP smoothed RTT, 99th percentile",
        Percentile("srtt_ns", 0.99),
        loads=("tcp",),
    ),
    Metric(
        "cpu_s_per_gbit",
        "CPU per gigabit",
        Better.LOWER,
        "CPU ms/Gbit",
        _MS,
        _cpu_per_gbit,
        loads=_BULK,
    ),
    _time(
        "hop_sender_p50_ns",
        "Pod to NIC at the sender, median",
        Percentile("hop_ns:=sender", 0.5, "client"),
        loads=("request-response",),
    ),
    _time(
        "hop_receiver_p50_ns",
        "NIC to socket at the receiver, median",
        Percentile("hop_ns:=receiver", 0.5, "client"),
        loads=("request-response",),
    ),
    _time(
        "connect_p50_ns",
        "TCP connection set-up, median",
        Percentile("connect_ns", 0.5),
        loads=("tcp", "request-response"),
    ),
    _time(
        "softirq_wait_p99_ns",
        "Wait of receive softirqs, 99th percentile",
        Percentile("softirq_wait_ns:NET_RX", 0.99),
    ),
    _time(
        "softirq_run_p50_ns",
        "Run of receive softirqs, median",
        Percentile("softirq_run_ns:NET_RX", 0.5),
    ),
    Metric(
        "softirq_share_pct", "CPU time in softirqs", Better.LOWER, "% of CPU time", 1.0, _unit("%")
    ),
    _time("runqueue_p99_ns", "Wait for a CPU, 99th percentile", Percentile("runqueue_ns", 0.99)),
    _time("qdisc_p99_ns", "Wait in queues, 99th percentile", Percentile("qdisc_ns:", 0.99)),
    Metric("bpf_ns_per_run", "BPF program, one run", Better.LOWER, "ns", 1.0, units.duration_ns),
    Metric("rr_cpu_us_per_request", "CPU per request", Better.LOWER, "CPU µs", 1.0, _unit("µs")),
)

# What a report leads with; the rest of the catalogue is in its tables.
HEADLINE: tuple[str, ...] = (
    "received_bits_per_s",
    "rr_p50_ns",
    "rr_p99_ns",
    "cpu_s_per_gbit",
    "rr_cpu_us_per_request",
)

_BY_NAME = {metric.name: metric for metric in CATALOGUE}


def metric(name: str) -> Metric:
    """The catalogue's entry for a column of the trials frame; KeyError when there is none."""
    return _BY_NAME[name]
