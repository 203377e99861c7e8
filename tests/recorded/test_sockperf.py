"""Real logs of sockperf 3.7: every request counted, percentiles against the sorted log."""

from __future__ import annotations

import csv
import gzip
import math
from pathlib import Path
from typing import Any

import pytest

from ebpfperf.histograms import total
from ebpfperf.loads import load
from ebpfperf.loads.sockperf import LOG, TEXT
from ebpfperf.model import Flow, Status
from ebpfperf.model import Path as FlowPath

HERE = Path(__file__).parent / "sockperf"
LOAD = load("request-response")


def flow(**fields: Any) -> Flow:
    given = {"duration_s": 1, "omit_s": 1, "message_bytes": 64, **fields}
    return Flow("rr", FlowPath.POD_POD, "request-response", **given)


def raw(case: str) -> dict[str, bytes]:
    return {name: (HERE / case / name).read_bytes() for name in (LOG, TEXT)}


def log_rows() -> list[list[str]]:
    lines = gzip.decompress(raw("tcp")[LOG]).decode().splitlines()
    first = lines.index("packet, txTime(sec), rxTime(sec), latency(usec)") + 1
    return [row for row in csv.reader(lines[first:]) if len(row) == 4]


def relogged(rows: list[list[str]], *, counted: int | None = None) -> bytes:
    """The recorded log with other rows (and, unless said, their number in its head)."""
    lines = gzip.decompress(raw("tcp")[LOG]).decode().splitlines()
    first = lines.index("packet, txTime(sec), rxTime(sec), latency(usec)") + 1
    head = "\n".join(lines[:first])
    number = len(rows) if counted is None else counted
    before = f"ReceivedMessages={len(log_rows())}"
    assert before in head
    head = head.replace(before, f"ReceivedMessages={number}")
    body = "\n".join(", ".join(cell.strip() for cell in row) for row in rows)
    return gzip.compress(f"{head}\n{body}\n------------------------------\n".encode())


def measured(rows: list[list[str]], *, omit_s: float, duration_s: float) -> list[int]:
    begin = float(rows[0][1]) + max(0.0, omit_s - 0.4)
    kept = [row for row in rows if begin <= float(row[1]) < begin + duration_s]
    return sorted(round((float(row[2]) - float(row[1])) * 1e9) for row in kept)


@pytest.mark.parametrize(("omit_s", "duration_s"), [(1, 1), (0, 1)])
def test_every_request_after_the_warmup_is_counted(omit_s: int, duration_s: int) -> None:
    truth = measured(log_rows(), omit_s=omit_s, duration_s=duration_s)
    reading = LOAD.parse(flow(omit_s=omit_s, duration_s=duration_s), raw("tcp"))
    assert reading.status is Status.OK, reading.reason
    assert reading.metrics["requests"] == len(truth) > 1000
    assert total(reading.histograms) == len(truth)
    assert reading.metrics["rr_max_ns"] == truth[-1]


@pytest.mark.parametrize(
    ("name", "q"), [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)]
)
def test_percentiles_are_those_of_the_sorted_log(name: str, q: float) -> None:
    truth = measured(log_rows(), omit_s=1, duration_s=1)
    observed = truth[math.ceil(q * len(truth)) - 1]
    reading = LOAD.parse(flow(), raw("tcp"))
    assert reading.metrics[f"rr_{name}_ns"] == pytest.approx(observed, rel=0.0079)


def test_the_round_trip_is_twice_what_sockperf_calls_latency() -> None:
    first_s = float(log_rows()[0][1])
    rows = [row for row in log_rows() if float(row[1]) < first_s + 1]
    halves = sorted(float(row[3]) for row in rows)
    reading = LOAD.parse(flow(omit_s=0), raw("tcp"))
    middle_ns = 2000 * halves[math.ceil(len(halves) / 2) - 1]
    assert reading.metrics["rr_p50_ns"] == pytest.approx(middle_ns, rel=0.01)


def test_a_prime_number_of_requests_is_counted_exactly() -> None:
    prime = 1009
    rows = log_rows()
    second = [row for row in rows if float(row[1]) < float(rows[0][1]) + 1]
    step = (len(second) - 1) / (prime - 1)
    picked = [second[math.floor(place * step)] for place in range(prime)]
    reading = LOAD.parse(flow(omit_s=0), raw("tcp") | {LOG: relogged(picked)})
    assert reading.metrics["requests"] == prime
    assert total(reading.histograms) == prime


@pytest.mark.parametrize(("case", "reason"), [("refused", "refused"), ("no_server", "no_traffic")])
def test_a_failed_client_says_why(case: str, reason: str) -> None:
    reading = LOAD.parse(flow(), raw(case))
    assert reading.status is Status.FAILED
    assert reading.reason.startswith(f"{reason}: ")
    assert reading.metrics == {}


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_log_is_never_ok(part: float) -> None:
    whole = raw("tcp")[LOG]
    reading = LOAD.parse(flow(), raw("tcp") | {LOG: whole[: int(len(whole) * part)]})
    assert reading.status is Status.FAILED
    assert reading.reason.split(":")[0] in {"truncated", "empty"}


def test_rows_that_are_missing_are_seen() -> None:
    rows = log_rows()
    short = relogged(rows[:100] + rows[101:], counted=len(rows))
    reading = LOAD.parse(flow(), raw("tcp") | {LOG: short})
    assert reading.reason.startswith("inconsistent: ")


@pytest.mark.parametrize(("transport", "reason"), [("udp", "stalled"), ("tcp", "short")])
def test_an_exchange_that_stood_still_is_not_a_result(transport: str, reason: str) -> None:
    log = relogged(log_rows()[:800])
    reading = LOAD.parse(flow(transport=transport), raw("tcp") | {LOG: log})
    assert reading.reason.startswith(f"{reason}: ")


def test_a_client_held_up_at_the_end_of_the_seconds_has_lasted_them() -> None:
    rows = log_rows()
    first_s = float(rows[0][1])
    kept = [row for row in rows if not 0.7 <= float(row[1]) - first_s < 1.1]
    counted = sum(float(row[1]) - first_s < 0.7 for row in kept)
    assert counted < len(kept)
    reading = LOAD.parse(flow(omit_s=0), raw("tcp") | {LOG: relogged(kept)})
    assert reading.status is Status.OK, reading.reason
    assert reading.metrics["requests"] == reading.metrics["requests_per_s"] == counted


def test_times_that_run_backwards_are_refused() -> None:
    rows = log_rows()
    rows[50] = [rows[50][0], rows[50][2], rows[50][1], rows[50][3]]
    reading = LOAD.parse(flow(), raw("tcp") | {LOG: relogged(rows)})
    assert reading.reason.startswith("inconsistent: ")


@pytest.mark.parametrize(
    "found", [{}, {LOG: b""}, {LOG: b"\x1f\x8b"}, {LOG: b"no gzip", TEXT: b"\xff"}]
)
def test_any_bytes_give_a_reason(found: dict[str, bytes]) -> None:
    assert LOAD.parse(flow(), found).status is Status.FAILED
