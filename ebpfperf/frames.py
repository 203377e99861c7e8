"""The column contracts: name → dtype of every frame that the store gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

METRICS: tuple[str, ...] = (
    "received_bits_per_s",
    "sent_bits_per_s",
    "retransmits",
    "lost_pct",
    "requests",
    "requests_per_s",
    "rr_p50_ns",
    "rr_p90_ns",
    "rr_p99_ns",
    "rr_p999_ns",
    "rr_max_ns",
    "srtt_p50_ns",
    "srtt_p99_ns",
    "srtt_events",
    "cpu_s",
    "cpu_s_per_gbit",
    "softirq_s",
    "rr_cpu_us_per_request",
    "mss_bytes",
    "mtu_bytes",
    "snd_cwnd_max_bytes",
    "tcpext_retransmits",
    "softnet_dropped",
    "hops_packets",
    "hop_sender_p50_ns",
    "hop_receiver_p50_ns",
    "softirq_wait_p99_ns",
    "softirq_run_p50_ns",
    "softirq_share_pct",
    "runqueue_p50_ns",
    "runqueue_p99_ns",
    "runqueue_events",
    "qdisc_p50_ns",
    "qdisc_p99_ns",
    "qdisc_packets",
    "bpf_runs",
    "bpf_ns_per_run",
    "connects",
    "connect_p50_ns",
    "connect_p99_ns",
    "dropped_packets",
    "flow_dropped_packets",
    "retransmitted_segments",
    "sender_cpu_pct",
    "receiver_cpu_pct",
    "rtt_mean_ns",
    "snd_wnd_max_bytes",
    "client_busiest_core_pct",
    "server_busiest_core_pct",
    "busy_pct",
    "steal_pct",
    "idle_busy_pct",
    "idle_nic_bits_per_s",
    "waited_s",
    "other_nic_bits_per_s",
    "clock_step_s",
    "clsact_drops",
)
"""Columns of the trials frame that a load or a probe fills; NaN where it did not."""

UTC = "datetime64[us, UTC]"

COLUMNS: Mapping[str, Mapping[str, str]] = {
    "trials": {
        "campaign": "str",
        "trial_id": "str",
        "block": "int64",
        "order": "int64",
        "treatment": "str",
        "overlay": "str",
        "scope": "str",
        "dataplane": "str",
        "felix": "str",
        "flow": "str",
        "path": "str",
        "load": "str",
        "transport": "str",
        "direction": "str",
        "streams": "int64",
        "message_bytes": "Int64",
        "rate_bits_per_s": "float64",
        "probes": "str",
        "role": "str",
        "status": "str",
        "reason": "str",
        "start_utc": UTC,
        "duration_s": "float64",
        "overhead_s": "float64",
        "warnings": "str",
        **dict.fromkeys(METRICS, "float64"),
    },
    "samples": {
        "campaign": "str",
        "trial_id": "str",
        "source": "str",
        "endpoint": "str",
        "metric": "str",
        "unit": "str",
        "t_s": "float64",
        "value": "float64",
        "phase": "str",
    },
    "histograms": {
        "campaign": "str",
        "trial_id": "str",
        "probe": "str",
        "endpoint": "str",
        "metric": "str",
        "lower_ns": "int64",
        "upper_ns": "int64",
        "count": "int64",
    },
    "facts": {
        "campaign": "str",
        "trial_id": "str",
        "node": "str",
        "name": "str",
        "value": "str",
        "unit": "str",
    },
}
"""``dataplane`` and the ``trial_id`` of facts may be missing (NA); no other text may."""

NULLABLE = {("trials", "dataplane"), ("facts", "trial_id")}


def build(name: str, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The frame ``name`` of those rows, with its columns and dtypes; empty of no rows."""
    columns = COLUMNS[name]
    frame = pd.DataFrame(list(rows), columns=list(columns))
    for column, dtype in columns.items():
        if dtype == UTC:
            frame[column] = pd.to_datetime(frame[column], utc=True, format="ISO8601")
    # One call with a mapping: its overload takes any dtype name.
    return frame.astype(dict(columns))


def empty(name: str) -> pd.DataFrame:
    """The frame ``name`` without rows."""
    return build(name, ())


def check(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """``frame``, when it keeps the contract of ``name``.

    Raises
    ------
    pandera.errors.SchemaError
        A column is missing, unknown, of another dtype, or holds NA where it must not.
    """
    import pandera.pandas as pa

    schema = pa.DataFrameSchema(
        {
            column: pa.Column(
                dtype, nullable=dtype in ("float64", "Int64") or (name, column) in NULLABLE
            )
            for column, dtype in COLUMNS[name].items()
        },
        strict=True,
        ordered=True,
    )
    return schema.validate(frame)
