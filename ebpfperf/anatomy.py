"""Frames to steps: where on its way a packet spends its time, and which part a difference is in.

A step is the time from one place to the next at which a followed packet was seen (``hops``). Not
every packet takes every step, so a step's cost is its mean times the share of packets that take it;
costs add up to the mean of the whole way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from ebpfperf import compare, histograms, intervals, stats
from ebpfperf.model import Campaign, HistogramBin, Path, Status

PLACES: tuple[str, ...] = (
    "pod-queue",
    "veth-rx",
    "veth-receive",
    "tunnel-queue",
    "nic-queue",
    "nic-xmit",
    "nic-rx",
    "nic-receive",
    "tunnel-receive",
    "veth-queue",
    "pod-rx",
    "pod-receive",
    "socket-copy",
)
"""Where a packet is seen, in the order of the way; from ``nic-rx`` on it is the receiver's."""

POD_VETH, HOST_STACK, OVERLAY, NIC_AND_WIRE, SOCKET = PARTS = (
    "pod veth",
    "host stack",
    "overlay",
    "NIC and wire",
    "socket",
)
UNTIL_SOCKET, WHOLE = TOTALS = ("until the socket", "whole way")
SENDER, WIRE, RECEIVER = "sender", "wire", "receiver"
ENDS = ("client", "server")


@dataclass(frozen=True, slots=True)
class Belonging:
    """The part of the way to which a step belongs, and why."""

    part: str
    reason: str


STEPS: Mapping[tuple[str, str], Belonging] = {
    ("pod-queue", "veth-rx"): Belonging(
        POD_VETH, "The pod's device hands the packet to its peer in the node."
    ),
    ("veth-rx", "veth-receive"): Belonging(
        POD_VETH, "The peer's packets wait for a softirq of that CPU before the node takes them."
    ),
    ("veth-receive", "tunnel-queue"): Belonging(
        HOST_STACK, "The node decides where to: programs, conntrack, rules and the route."
    ),
    ("veth-receive", "nic-queue"): Belonging(
        HOST_STACK,
        "The node decides where to, and sends without a tunnel device. A program that encapsulates "
        "ahead of the device's queue is in here, and cannot be told apart.",
    ),
    ("tunnel-queue", "nic-queue"): Belonging(
        OVERLAY, "The tunnel device adds its headers and looks up the way to the other node."
    ),
    ("nic-queue", "nic-xmit"): Belonging(
        NIC_AND_WIRE, "The packet waits in the NIC's queue until the driver takes it."
    ),
    ("nic-xmit", "nic-rx"): Belonging(
        NIC_AND_WIRE, "From driver to driver; seen only where both nodes share a kernel."
    ),
    ("nic-rx", "nic-receive"): Belonging(
        NIC_AND_WIRE, "The driver hands over; packets may be merged, or wait for a softirq."
    ),
    ("nic-receive", "tunnel-receive"): Belonging(
        OVERLAY, "The node takes the outer packet in, and the tunnel device takes it apart."
    ),
    ("nic-receive", "veth-queue"): Belonging(
        HOST_STACK, "The node decides where to: programs, conntrack, rules and the route."
    ),
    ("tunnel-receive", "veth-queue"): Belonging(
        HOST_STACK, "The node decides where the inner packet goes."
    ),
    ("veth-queue", "pod-rx"): Belonging(
        POD_VETH, "The node's device hands the packet to its peer in the pod."
    ),
    ("pod-rx", "pod-receive"): Belonging(
        POD_VETH, "The peer's packets wait for a softirq of that CPU before the pod takes them."
    ),
    ("pod-receive", "socket-copy"): Belonging(
        SOCKET,
        "The pod's stack, the socket's queue, and waking the reader until it has the bytes.",
    ),
    ("nic-receive", "socket-copy"): Belonging(
        SOCKET,
        "Between hosts: the node's stack, the socket's queue, and waking the reader.",
    ),
}
"""What each step belongs to; ``belonging`` says it of a pair that passes places by as well."""

COLUMNS: dict[str, str] = {
    "trial_id": "str", "block": "int64", "treatment": "str", "flow": "str", "sender": "str",
    "start": "str", "end": "str", "part": "str", "half": "str",
    "mean_ns": "float64", "events": "int64", "share": "float64", "cost_ns": "float64",
}  # fmt: skip
PART_COLUMNS: dict[str, str] = {
    "trial_id": "str", "block": "int64", "treatment": "str", "flow": "str", "sender": "str",
    "part": "str", "cost_ns": "float64",
}  # fmt: skip
DIFFERENCE_COLUMNS: dict[str, str] = {
    "flow": "str", "sender": "str", "treatment": "str", "baseline": "str", "part": "str",
    "cost_ns": "float64", "baseline_ns": "float64", "difference_ns": "float64",
    "low_ns": "float64", "high_ns": "float64", "level": "float64",
    "n_blocks": "int64", "planned_blocks": "int64",
}  # fmt: skip
SUMMARY_COLUMNS: dict[str, str] = {
    "flow": "str", "sender": "str", "treatment": "str", "start": "str", "end": "str",
    "part": "str", "half": "str", "cost_ns": "float64", "low_ns": "float64", "high_ns": "float64",
    "mean_ns": "float64", "p50_ns": "float64", "p99_ns": "float64", "share": "float64",
    "events": "int64", "n_blocks": "int64",
}  # fmt: skip


def half(start: str, end: str) -> str:
    """``sender``, ``receiver`` or ``wire``: on whose side a step lies."""
    wire = PLACES.index("nic-rx")
    if PLACES.index(end) < wire:
        return SENDER
    return RECEIVER if PLACES.index(start) >= wire else WIRE


def belonging(start: str, end: str) -> Belonging:
    """The part of any step; one over places that were passed by goes by what its ends are."""
    if (start, end) in STEPS:
        return STEPS[start, end]
    if end == "socket-copy":
        return Belonging(SOCKET, "It ends with the reader; what lies before cannot be told apart.")
    if half(start, end) == WIRE:
        return Belonging(NIC_AND_WIRE, "It leaves one node and arrives at the other.")
    devices = start.partition("-")[0], end.partition("-")[0]
    if set(devices) <= {"pod", "veth"}:
        return Belonging(POD_VETH, "Both ends are devices of the pod's pair.")
    if set(devices) == {"nic"}:
        return Belonging(NIC_AND_WIRE, "Both ends are the NIC.")
    if devices in (("tunnel", "nic"), ("nic", "tunnel")):
        return Belonging(OVERLAY, "From the tunnel device to the NIC, or the other way.")
    return Belonging(HOST_STACK, "A short-cut of the node, past the devices in between.")


def shares(events: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], float]:
    """Part of the packets that takes each step, 0 to 1, of events by (start, end).

    Of the packets seen at a place, those that were seen again divide over the steps from there as
    they did; a walk that was given up changes nothing. Where every walk ends, this is the step's
    events over the packets. Without a step over the wire each node's half is a way of its own.
    """
    leaving: Counter[str] = Counter()
    arriving: Counter[str] = Counter()
    for (start, end), count in events.items():
        leaving[start] += count
        arriving[end] += count
    wire = PLACES.index("nic-rx")
    crossed = any(half(*pair) == WIRE for pair in events)
    ways = (PLACES,) if crossed else (PLACES[:wire], PLACES[wire:])
    here = dict.fromkeys(PLACES, 0.0)
    for way in ways:
        began = {place: max(0, leaving[place] - arriving[place]) for place in way}
        total = sum(began.values())
        here |= {place: count / total for place, count in began.items() if total}
    found: dict[tuple[str, str], float] = {}
    for start, end in sorted(events, key=lambda pair: PLACES.index(pair[0])):
        if leaving[start]:
            found[start, end] = here[start] * events[start, end] / leaving[start]
            here[end] += found[start, end]
    return found


def steps(
    trials: pd.DataFrame, samples: pd.DataFrame, found: pd.DataFrame, campaign: Campaign
) -> pd.DataFrame:
    """One row per good trial, sender and step, in the order of the way; nanoseconds.

    ``found`` is the histograms frame, which counts the events. Bare trials are left out.

    Returns
    -------
    DataFrame
        ``COLUMNS``. ``mean_ns`` is exact, of the packets that take the step; ``cost_ns`` is per
        packet: the mean times the share. Empty where no probe followed packets.
    """
    means = _named(samples[samples["source"].eq("hops")], _MEAN)
    means = means[means["step"].str.contains(">", regex=False)]
    counts = _named(found, _BINS).groupby([*_STEP])["count"].sum().rename("events").reset_index()
    seen = means.merge(counts, on=list(_STEP)).merge(_good(trials, campaign), on="trial_id")
    rows = []
    for _, group in seen.groupby(["trial_id", "endpoint"], sort=False):
        by_pair = {_pair(row["step"]): row for row in group.to_dict("records")}
        taken = shares({pair: int(row["events"]) for pair, row in by_pair.items()})
        for pair in sorted(by_pair, key=_on_the_way):
            row = by_pair[pair]
            rows.append(
                {
                    **{name: row[name] for name in ("trial_id", "block", "treatment", "flow")},
                    "sender": row["endpoint"],
                    "start": pair[0],
                    "end": pair[1],
                    "part": belonging(*pair).part,
                    "half": half(*pair),
                    "mean_ns": row["value"],
                    "events": row["events"],
                    "share": taken[pair],
                    "cost_ns": row["value"] * taken[pair],
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def parts(walked: pd.DataFrame) -> pd.DataFrame:
    """Nanoseconds per packet of each part and total, one row per trial, sender and part.

    A part in which no packet was seen is zero: in that trial the way has no such step. Where no
    packet was followed to the socket, its time and the whole are NaN. ``walked`` is the frame of
    ``steps``.
    """
    keys = ["trial_id", "block", "treatment", "flow", "sender"]
    wide = walked.pivot_table(
        index=keys, columns="part", values="cost_ns", aggfunc="sum", fill_value=0.0
    ).reindex(columns=list(PARTS), fill_value=0.0)
    wide[UNTIL_SOCKET] = wide[[part for part in PARTS if part != SOCKET]].sum(axis=1)
    wide[SOCKET] = wide[SOCKET].where(wide[SOCKET].gt(0))
    wide[WHOLE] = wide[UNTIL_SOCKET] + wide[SOCKET]
    long = wide.reset_index().melt(id_vars=keys, var_name="part", value_name="cost_ns")
    return long[list(PART_COLUMNS)].astype(PART_COLUMNS)


def paired(costs: pd.DataFrame, *, flow: str, sender: str, part: str) -> pd.DataFrame:
    """Nanoseconds per packet by block (rows) and treatment (columns), of the frame of ``parts``."""
    ours = costs[costs["flow"].eq(flow) & costs["sender"].eq(sender) & costs["part"].eq(part)]
    return ours.pivot(index="block", columns="treatment", values="cost_ns")


def differences(costs: pd.DataFrame, campaign: Campaign) -> pd.DataFrame:
    """By how much each part differs from the baseline, paired by block: nanoseconds per packet.

    Returns
    -------
    DataFrame
        ``DIFFERENCE_COLUMNS``, one row per flow, sender, treatment and part or total that a packet
        passes in either; ``difference_ns`` is the Hodges-Lehmann estimate, its interval NaN below
        six blocks.
    """
    rows = []
    for flow, sender in senders(costs, campaign):
        for treatment in compare.baseline_first(campaign)[1:]:
            for part in (*TOTALS, *PARTS):
                table = paired(costs, flow=flow, sender=sender, part=part)
                table = table.reindex(columns=[campaign.baseline, treatment]).dropna()
                if table.empty or (part in PARTS and not table.to_numpy().any()):
                    continue
                centre = centred(table[treatment] - table[campaign.baseline], campaign)
                rows.append(
                    {
                        "flow": flow,
                        "sender": sender,
                        "treatment": treatment,
                        "baseline": campaign.baseline,
                        "part": part,
                        "cost_ns": stats.hodges_lehmann(table[treatment]),
                        "baseline_ns": stats.hodges_lehmann(table[campaign.baseline]),
                        "difference_ns": centre.estimate,
                        "low_ns": centre.low,
                        "high_ns": centre.high,
                        "level": centre.level,
                        "n_blocks": len(table),
                        "planned_blocks": campaign.blocks,
                    }
                )
    return pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS)).astype(DIFFERENCE_COLUMNS)


def summary(walked: pd.DataFrame, found: pd.DataFrame, campaign: Campaign) -> pd.DataFrame:
    """Each step of each treatment over its blocks, in the order of the way; nanoseconds.

    Returns
    -------
    DataFrame
        ``SUMMARY_COLUMNS``: centre and interval of the blocks' costs, the mean of those that took
        the step over all events, and quantiles of all its trials' histograms together.
    """
    rows = []
    ours = found[found["metric"].str.startswith(_BINS)]
    for flow, sender in senders(walked, campaign):
        for treatment in compare.baseline_first(campaign):
            table = by_block(walked, flow=flow, sender=sender, treatment=treatment)
            n_blocks = max(map(len, table.values()), default=0)
            for start, end in table:
                one = walked[
                    walked["flow"].eq(flow)
                    & walked["sender"].eq(sender)
                    & walked["treatment"].eq(treatment)
                    & walked["start"].eq(start)
                    & walked["end"].eq(end)
                ]
                bins = ours[
                    ours["trial_id"].isin(one["trial_id"])
                    & ours["endpoint"].eq(sender)
                    & ours["metric"].eq(f"{_BINS}{start}>{end}")
                ]
                centre = centred(table[start, end], campaign)
                events = int(one["events"].sum())
                rows.append(
                    {
                        "flow": flow,
                        "sender": sender,
                        "treatment": treatment,
                        "start": start,
                        "end": end,
                        "part": belonging(start, end).part,
                        "half": half(start, end),
                        "cost_ns": centre.estimate,
                        "low_ns": centre.low,
                        "high_ns": centre.high,
                        "mean_ns": float((one["mean_ns"] * one["events"]).sum()) / events,
                        "p50_ns": quantile_ns(bins, 0.5),
                        "p99_ns": quantile_ns(bins, 0.99),
                        "share": float(one["share"].sum()) / n_blocks,
                        "events": events,
                        "n_blocks": n_blocks,
                    }
                )
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS)).astype(SUMMARY_COLUMNS)


def by_block(
    walked: pd.DataFrame, *, flow: str, sender: str, treatment: str
) -> dict[tuple[str, str], pd.Series[float]]:
    """(Start, end) → cost by block, in the order of the way; nanoseconds per packet.

    Of the frame of ``steps``. Zero where no packet took the step; without a step at the socket no
    walk of that block came to its end, and its time there is left out.
    """
    ours = walked[
        walked["flow"].eq(flow) & walked["sender"].eq(sender) & walked["treatment"].eq(treatment)
    ]
    blocks = sorted(set(ours["block"]))
    read = ours.loc[ours["part"].eq(SOCKET), "block"]
    found = {}
    for start, end in sorted(set(zip(ours["start"], ours["end"], strict=True)), key=_on_the_way):
        one = ours[ours["start"].eq(start) & ours["end"].eq(end)]
        costs = one.set_index("block")["cost_ns"].reindex(blocks, fill_value=0.0)
        if belonging(start, end).part == SOCKET:
            costs = costs.where(costs.index.isin(read))
        found[start, end] = costs
    return found


def senders(
    frame: pd.DataFrame, campaign: Campaign, *, control: bool | None = None
) -> list[tuple[str, str]]:
    """(Flow, sender) of a frame: exchanges first, flows as in the campaign file, clients first.

    Parameters
    ----------
    control
        True for flows between hosts alone, which no overlay touches; False for the others, or for
        those between hosts where there are no others; None for all of them.
    """
    there = frame[["flow", "sender"]].drop_duplicates()
    pairs = set(zip(there["flow"], there["sender"], strict=True))
    flows = sorted(campaign.flows, key=lambda flow: flow.load != "request-response")
    hosts = [flow for flow in flows if flow.path is Path.HOST_HOST]
    others = [flow for flow in flows if flow not in hosts]
    if control is not None:
        of_pods = any((flow.name, end) in pairs for flow in others for end in ENDS)
        flows = others if of_pods and not control else hosts if of_pods or not control else []
    return [(flow.name, end) for flow in flows for end in ENDS if (flow.name, end) in pairs]


def centred(values: pd.Series[float], campaign: Campaign) -> stats.Interval:
    """Hodges-Lehmann centre of the values that are known, with its interval; NaN below six."""
    known = values.dropna().to_numpy(dtype=float)
    found = intervals.paired_interval(known, level=campaign.level)
    if found is None or known.size < compare.FEWEST_BLOCKS:
        estimate = stats.hodges_lehmann(known)
        return stats.Interval(estimate, math.nan, math.nan, math.nan, known.size)
    return found


def quantile_ns(bins: pd.DataFrame, q: float) -> float:
    """The ``q`` quantile of histogram rows added together, nanoseconds; NaN of none."""
    rows = bins[["lower_ns", "upper_ns", "count"]].itertuples(index=False, name=None)
    merged = histograms.merge(HistogramBin("", "", "", *map(int, row)) for row in rows)
    at = histograms.quantile(merged, q)
    return math.nan if at is None else at.value_ns


_MEAN, _BINS = "hop_mean_ns:", "hop_ns:"
_STEP = ("trial_id", "endpoint", "step")


def _named(frame: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """Rows whose metric begins so, with the rest of its name as ``step``."""
    ours = frame[frame["metric"].str.startswith(prefix)]
    return ours.assign(step=ours["metric"].str.removeprefix(prefix))


def _good(trials: pd.DataFrame, campaign: Campaign) -> pd.DataFrame:
    """Trials whose numbers may be used, bare ones left out."""
    ours = compare.watched(trials, campaign)
    ours = ours[ours["status"].eq(Status.OK.value)]
    return ours[["trial_id", "block", "treatment", "flow"]]


def _pair(step: str) -> tuple[str, str]:
    start, _, end = step.partition(">")
    return start, end


def _on_the_way(pair: tuple[str, str]) -> tuple[int, int]:
    return PLACES.index(pair[0]), PLACES.index(pair[1])
