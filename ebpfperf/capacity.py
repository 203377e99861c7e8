"""Demand and trials to headroom: how much of a demand each treatment carries, on how many cores.

Two things limit bulk traffic here: what the measured flow carried with the streams it had, and the
cores it may spend. CPU seconds per gigabit times gigabits per second are cores, of sender and
receiver together. Each is a centre with its interval over the blocks (``stats``); the smaller one
is the capacity, and its bounds are the smaller of the two lower and of the two upper bounds. A
demand *fits* when the whole interval is above it, *does not fit* when the whole interval is below,
and is *undecided* between.

Where the nodes share a kernel, sender and receiver take each other's cores: nothing absolute can be
said, so the verdict is *relative only*.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ebpfperf import compare, intervals, metrics, stats, tables, units
from ebpfperf.compare import baseline_first
from ebpfperf.errors import ParameterError
from ebpfperf.findings import Sentences
from ebpfperf.model import Campaign, Flow, Path, Status

COLUMNS: dict[str, str] = {
    "treatment": "str", "overlay": "str", "flow": "str", "n_blocks": "int64",
    "carried_bits_per_s": "float64", "carried_low": "float64", "carried_high": "float64",
    "cores": "float64", "cores_low": "float64", "cores_high": "float64",
    "headroom": "float64", "headroom_low": "float64", "headroom_high": "float64",
    "limit": "str", "verdict": "str", "reason": "str",
}  # fmt: skip
REQUEST_COLUMNS: dict[str, str] = {
    "treatment": "str", "overlay": "str", "flow": "str", "n_blocks": "int64",
    "per_connection": "float64", "per_connection_low": "float64", "per_connection_high": "float64",
    "connections": "float64", "cores": "float64", "cores_low": "float64", "cores_high": "float64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Demand:
    """What has to be carried, and what it may cost.

    Attributes
    ----------
    bits_per_s
        Payload between two pods on different nodes.
    cores
        Cores that sender and receiver together may spend on it.
    requests_per_s
        Requests between the same pods; 0 when there are none.
    """

    bits_per_s: float
    cores: float
    requests_per_s: float = 0.0


def demand(*, gbit_per_s: float, cores: float, requests_per_s: float = 0.0) -> Demand:
    """The demand in the units that people use.

    Raises
    ------
    ParameterError
        A number is not positive and finite (requests may be zero).
    """
    given = {"gbit_per_s": gbit_per_s, "cores": cores}
    for name, value in given.items():
        if not (math.isfinite(value) and value > 0):
            raise ParameterError(f"{name} is {value}.", "Give a number above zero.", name=name)
    if not (math.isfinite(requests_per_s) and requests_per_s >= 0):
        raise ParameterError(
            f"requests_per_s is {requests_per_s}.", "Give zero or a number above it."
        )
    return Demand(gbit_per_s * units.BITS_PER_GBIT, cores, requests_per_s)


def headroom(
    trials: pd.DataFrame, facts: pd.DataFrame, campaign: Campaign, *, wanted: Demand
) -> pd.DataFrame:
    """Capacity over demand for every treatment and unpaced bulk flow between pods, baseline first.

    Returns
    -------
    DataFrame
        ``COLUMNS``. ``headroom`` is capacity over demand: 1 means exactly enough. ``cores`` are
        those needed at the demand. ``limit`` names what runs out first. Bounds are NaN and the
        verdict is void below six blocks.
    """
    shared = compare.shared_kernel(facts)
    rows = []
    for flow in _bulk(campaign):
        for treatment in baseline_first(campaign):
            carried = _centre(trials, campaign, flow=flow, treatment=treatment, metric=_CARRIED)
            cost = _centre(trials, campaign, flow=flow, treatment=treatment, metric=_COST)
            rows.append(_headroom(campaign, flow, treatment, carried, cost, wanted, shared))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def requests(trials: pd.DataFrame, campaign: Campaign, *, wanted: Demand) -> pd.DataFrame:
    """Connections and cores needed for the demanded requests, by treatment; empty for no demand.

    One connection sends its next request when the last is answered (closed loop), so the demand
    over what one connection did is how many must be in flight at least.
    """
    rows: list[dict[str, object]] = []
    for flow in campaign.flows if wanted.requests_per_s else ():
        if flow.load != "request-response" or flow.path is not Path.POD_POD:
            continue
        for treatment in baseline_first(campaign):
            rate = _centre(
                trials, campaign, flow=flow, treatment=treatment, metric="requests_per_s"
            )
            cost = _centre(
                trials, campaign, flow=flow, treatment=treatment, metric="rr_cpu_us_per_request"
            )
            cores = wanted.requests_per_s / 1e6
            rows.append(
                {
                    "treatment": treatment,
                    "overlay": campaign.treatment(treatment).overlay_name,
                    "flow": flow.name,
                    "n_blocks": rate.n,
                    "per_connection": rate.estimate,
                    "per_connection_low": rate.low,
                    "per_connection_high": rate.high,
                    "connections": np.ceil(wanted.requests_per_s / rate.estimate),
                    "cores": cost.estimate * cores,
                    "cores_low": cost.low * cores,
                    "cores_high": cost.high * cores,
                }
            )
    return pd.DataFrame(rows, columns=list(REQUEST_COLUMNS)).astype(REQUEST_COLUMNS)


def sentences(found: pd.DataFrame, facts: pd.DataFrame, *, wanted: Demand) -> Sentences:
    """One sentence per treatment: headroom, what limits, cores, and the verdict."""
    said = []
    if compare.shared_kernel(facts):
        said.append(
            "No absolute verdict: the nodes share one kernel and its cores, so what a real pair of "
            "nodes carries is not known from this campaign. Read the rows against each other."
        )
    said += [_sentence(row, wanted) for row in found.to_dict("records")]
    return Sentences(tuple(said) or ("This campaign has no bulk flow between pods.",), "headline")


def table(found: pd.DataFrame, *, wanted: Demand) -> tables.Table:
    """The headroom frame as a reader wants it."""
    rows = [
        {
            "treatment": row["treatment"],
            "flow": row["flow"],
            "carried": tables.estimated(
                row["carried_bits_per_s"],
                row["carried_low"],
                row["carried_high"],
                show=units.bits_per_s,
            ),
            "cores for the demand": _cores(row),
            "capacity over demand": tables.estimated(
                row["headroom"], row["headroom_low"], row["headroom_high"], show=_times
            ),
            "limit": row["limit"],
            "verdict": _judged(row),
        }
        for row in found.to_dict("records")
    ]
    caption = (
        f"Demand {units.bits_per_s(wanted.bits_per_s)} on {units.number(wanted.cores)} cores "
        "(sender and receiver together)"
    )
    numeric = ("carried", "cores for the demand", "capacity over demand")
    return tables.Table(caption, pd.DataFrame(rows), numeric=numeric)


def request_table(found: pd.DataFrame, *, wanted: Demand) -> tables.Table:
    """The requests frame as a reader wants it."""
    rows = [
        {
            "treatment": row["treatment"],
            "flow": row["flow"],
            "one connection": tables.estimated(
                row["per_connection"],
                row["per_connection_low"],
                row["per_connection_high"],
                show=metrics.metric("requests_per_s").show,
            ),
            "connections in flight": units.number(row["connections"]),
            "cores for the demand": _cores(row),
        }
        for row in found.to_dict("records")
    ]
    caption = f"Demand {units.number(wanted.requests_per_s)} requests/s"
    numeric = ("one connection", "connections in flight", "cores for the demand")
    return tables.Table(caption, pd.DataFrame(rows), numeric=numeric)


_CARRIED, _COST = "received_bits_per_s", "cpu_s_per_gbit"


def _bulk(campaign: Campaign) -> list[Flow]:
    """Flows that went as fast as they could: a paced one says nothing about capacity."""
    return [
        flow
        for flow in campaign.flows
        if flow.load == "tcp" and flow.path is Path.POD_POD and flow.rate_bits_per_s is None
    ]


def _centre(
    trials: pd.DataFrame, campaign: Campaign, *, flow: Flow, treatment: str, metric: str
) -> stats.Interval:
    """Centre of a treatment's good trials with its interval; NaN bounds below six blocks."""
    nan = math.nan
    if metric not in trials:
        return stats.Interval(nan, nan, nan, nan, 0)
    trials = compare.watched(trials, campaign)
    usable = trials[
        trials["flow"].eq(flow.name)
        & trials["treatment"].eq(treatment)
        & trials["status"].eq(Status.OK.value)
        & trials[metric].gt(0)
    ]
    logs = np.log(usable[metric].to_numpy(dtype=float))
    found = intervals.paired_interval(logs, level=campaign.level)
    if found is None or logs.size < compare.FEWEST_BLOCKS:
        centre = math.exp(stats.hodges_lehmann(logs)) if logs.size else nan
        return stats.Interval(centre, nan, nan, nan, logs.size)
    return stats.Interval(
        math.exp(found.estimate), math.exp(found.low), math.exp(found.high), found.level, found.n
    )


def _headroom(
    campaign: Campaign,
    flow: Flow,
    treatment: str,
    carried: stats.Interval,
    cost: stats.Interval,
    wanted: Demand,
    shared: bool,
) -> dict[str, object]:
    gbit = units.gbit(wanted.bits_per_s)
    by_flow = [carried.estimate, carried.low, carried.high]
    # Dear traffic has the lower capacity: the bounds change places.
    by_cores = [
        wanted.cores * units.BITS_PER_GBIT / c for c in (cost.estimate, cost.high, cost.low)
    ]
    capacity, low, high = (min(pair) for pair in zip(by_flow, by_cores, strict=True))
    if math.isnan(cost.estimate):
        capacity, low, high = by_flow
    over = [value / wanted.bits_per_s for value in (capacity, low, high)]
    n_blocks = carried.n if math.isnan(cost.estimate) else min(carried.n, cost.n)
    verdict, reason = _verdict(over, n_blocks, shared)
    if verdict == "fits" and math.isnan(cost.estimate):
        verdict, reason = "undecided", "CPU was not measured"
    return {
        "treatment": treatment,
        "overlay": campaign.treatment(treatment).overlay_name,
        "flow": flow.name,
        "n_blocks": n_blocks,
        "carried_bits_per_s": carried.estimate,
        "carried_low": carried.low,
        "carried_high": carried.high,
        "cores": cost.estimate * gbit,
        "cores_low": cost.low * gbit,
        "cores_high": cost.high * gbit,
        "headroom": over[0],
        "headroom_low": over[1],
        "headroom_high": over[2],
        "limit": "cores" if by_cores[0] < by_flow[0] else _streams(flow),
        "verdict": verdict,
        "reason": reason,
    }


def _verdict(over: list[float], n_blocks: int, shared: bool) -> tuple[str, str]:
    if n_blocks < compare.FEWEST_BLOCKS or math.isnan(over[1]):
        return "void", f"too few blocks: {n_blocks} of {compare.FEWEST_BLOCKS}"
    if shared:
        return "relative only", ""
    if over[1] >= 1:
        return "fits", ""
    return ("does not fit", "") if over[2] < 1 else ("undecided", "")


def _streams(flow: Flow) -> str:
    return "one stream" if flow.streams == 1 else f"{flow.streams} streams"


def _sentence(row: Mapping[Hashable, Any], wanted: Demand) -> str:
    over = tables.estimated(row["headroom"], row["headroom_low"], row["headroom_high"], show=_times)
    return (
        f"{row['treatment']} ({row['flow']}) carries {over} the demand of "
        f"{units.bits_per_s(wanted.bits_per_s)}, limited by {row['limit']}, and needs "
        f"{_cores(row)} of {units.number(wanted.cores)} cores for it: {_judged(row)}."
    )


def _judged(row: Mapping[Hashable, Any]) -> str:
    return f"{row['verdict']}: {row['reason']}" if row["reason"] else str(row["verdict"])


def _times(value: float) -> str:
    return units.UNKNOWN if math.isnan(value) else f"{units.number(value)}×"


def _cores(row: Mapping[Hashable, Any]) -> str:
    return tables.estimated(row["cores"], row["cores_low"], row["cores_high"], show=units.number)
