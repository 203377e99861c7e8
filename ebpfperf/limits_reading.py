"""Frames to the numbers that tell what limited each trial. Pure.

The overlay whose headers count is the one seen on the wire (fact ``wire_overlay``); without it the
treatment's, for flows between pods where every pair of nodes is encapsulated. Elsewhere none is
assumed: a ceiling is then at most as much too high as the overlay's headers.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ebpfperf import ceilings, compare, units
from ebpfperf.calico.mtu import IPV4_TCP_HEADERS_BYTES, TCP_TIMESTAMPS_BYTES
from ebpfperf.ceilings import OVERLAY_BYTES, OnWire
from ebpfperf.limits_seen import NAN, End, Seen, percent
from ebpfperf.model import Campaign, Direction, Flow, Overlay, Path, Scope, Status

Row = Mapping[Hashable, Any]
Places = dict[str, str]
"""Node → value of one fact."""

_WANTED = ("nic_speed", "nic_mtu", "nic_kind", "iperf3_version", "tcp_timestamps", "wire_overlay")
# Devices of the kernel alone: what they announce (veth: 10 Gbit/s) limits nothing.
_VIRTUAL = {"veth", "dummy", "tun", "bridge", "ipvlan", "netkit"}
_THREADED = (3, 16)
_LARGEST_BYTES = 65_535  # RFC 791: what a packet can hold


@dataclass(frozen=True, slots=True)
class Read:
    """A trial as the rules see it, and its full segment or datagram; None where not known."""

    trial_id: str
    seen: Seen
    packet: OnWire | None


def read(
    trials: pd.DataFrame, samples: pd.DataFrame, facts: pd.DataFrame, campaign: Campaign
) -> Iterator[Read]:
    """Every trial in the order of its frame."""
    flows = {flow.name: flow for flow in campaign.flows}
    rows: list[dict[Hashable, Any]] = trials.to_dict("records")
    context = _Context(
        campaign,
        _Facts(facts),
        shared_kernel=compare.shared_kernel(facts),
        steadiness=_steadiness(samples, trials),
        base_rtt_ns=_base_rtts(rows, flows),
    )
    for row in rows:
        yield _read(row, flows[str(row["flow"])], context)


class _Facts:
    """The facts that limits need, by trial, name and node; the last one of a name counts."""

    def __init__(self, facts: pd.DataFrame) -> None:
        known = facts["name"].isin(_WANTED) & ~facts["value"].str.startswith(units.UNKNOWN)
        self._found: dict[tuple[str, str], Places] = {}
        for row in facts[known].to_dict("records"):
            trial = row.get("trial_id")
            key = ("" if trial is None or pd.isna(trial) else str(trial), str(row["name"]))
            self._found.setdefault(key, {})[str(row["node"])] = str(row["value"])

    def of(self, trial_id: str, name: str, nodes: tuple[str | None, ...]) -> list[str]:
        """Values under a trial at these nodes (a trial's own first); at all where one is None."""
        places = {**self._found.get(("", name), {}), **self._found.get((trial_id, name), {})}
        named = [value for node, value in places.items() if node in nodes or not node]
        return list(places.values()) if None in nodes or not named else named


@dataclass(frozen=True, slots=True)
class _Context:
    """What is asked once for all trials."""

    campaign: Campaign
    facts: _Facts
    shared_kernel: bool
    steadiness: Mapping[tuple[str, str], tuple[float, int]]
    base_rtt_ns: Mapping[tuple[str, str], float]


def number(row: Row, column: str) -> float:
    """A finite number that is not below zero; NaN for anything else, or no such column."""
    value = row.get(column)
    try:
        found = float(value) if value is not None and not pd.isna(value) else NAN
    except (TypeError, ValueError):
        return NAN
    return found if math.isfinite(found) and found >= 0 else NAN


def _read(row: Row, flow: Flow, context: _Context) -> Read:
    trial = str(row["trial_id"])
    nodes = _nodes(flow, context.campaign)
    kinds = context.facts.of(trial, "nic_kind", nodes)
    overlay = _overlay(row, flow, context, nodes)
    stamped = _timestamps(row, context.facts.of(trial, "tcp_timestamps", nodes))
    headers = IPV4_TCP_HEADERS_BYTES + (TCP_TIMESTAMPS_BYTES if stamped else 0)
    nic_mtus = _numbers(context.facts.of(trial, "nic_mtu", nodes))
    path_mtu = min(nic_mtus, default=NAN) - OVERLAY_BYTES[overlay]
    segment = _segment(row, flow, path_mtu, headers)
    packet = _packet(
        row, flow, segment, overlay=overlay, timestamps=stamped, tags=int("vlan" in kinds)
    )
    ways = 2 if flow.direction is Direction.BIDIR else 1
    virtual = context.shared_kernel or bool(kinds and set(kinds) <= _VIRTUAL)
    speeds = [] if virtual else _numbers(context.facts.of(trial, "nic_speed", nodes))
    link = units.parse_bits_per_s(f"{min(speeds)}M") if speeds else NAN
    threads, release = _threads(flow, ways, context.facts.of(trial, "iperf3_version", nodes))
    sender, receiver = _ends(row, flow, nodes)
    way = "received_bits_per_s" if flow.direction is Direction.REVERSE else "sent_bits_per_s"
    variation, intervals = context.steadiness.get((trial, way), (NAN, 0))
    seen = Seen(
        load=flow.load,
        sender=sender,
        receiver=receiver,
        transport=_transport(flow),
        streams=flow.streams,
        ways=ways,
        usable=str(row.get("status", Status.OK.value)) == Status.OK.value,
        reason=str(row.get("reason", "")).partition(":")[0],
        received_bits_per_s=number(row, "received_bits_per_s"),
        pace_bits_per_s=(flow.rate_bits_per_s or NAN) * ways,
        link_bits_per_s=link,
        ceiling_bits_per_s=packet.goodput_bits_per_s(link) * ways if packet else NAN,
        link_is_virtual=virtual,
        threads=threads,
        iperf3=release,
        busy_pct=number(row, "busy_pct"),
        shared_kernel=context.shared_kernel,
        retransmitted_pct=_retransmitted_pct(row, flow, segment),
        lost_pct=number(row, "lost_pct"),
        segment_bytes=segment,
        packet_bytes=segment + headers,
        path_mtu_bytes=path_mtu,
        cwnd_bytes=number(row, "snd_cwnd_max_bytes"),
        peer_window_bytes=number(row, "snd_wnd_max_bytes"),
        rtt_ns=_first(number(row, "rtt_mean_ns"), number(row, "srtt_p50_ns")),
        base_rtt_ns=context.base_rtt_ns.get((str(row["treatment"]), flow.path.value), NAN),
        variation_pct=variation,
        intervals=intervals,
        requests_per_s=number(row, "requests_per_s"),
        request_rtt_ns=number(row, "rr_p50_ns"),
    )
    return Read(trial, seen, packet)


def _nodes(flow: Flow, campaign: Campaign) -> tuple[str | None, str | None]:
    """Names of the client's and the server's node; None where the campaign leaves them open."""
    cluster = campaign.cluster
    client = cluster.external_client if flow.path.by_node_port else cluster.client_node
    return client, cluster.server_node


def _ends(row: Row, flow: Flow, nodes: tuple[str | None, str | None]) -> tuple[End, End]:
    """The sender and the receiver of the bulk; of both directions, the client counts as sender."""
    words = ("client", "server") if flow.direction is Direction.BIDIR else ("sender", "receiver")
    places = [("client", nodes[0]), ("server", nodes[1])]
    if flow.direction is Direction.REVERSE:
        places.reverse()
    sender, receiver = (
        End(
            f"the {word}",
            node or f"the {word}'s node",
            number(row, f"{side}_cpu_pct"),
            number(row, f"{end}_busiest_core_pct"),
        )
        for word, side, (end, node) in zip(words, ("sender", "receiver"), places, strict=True)
    )
    return sender, receiver


def _transport(flow: Flow) -> str:
    return "udp" if flow.load == "udp" else "tcp" if flow.load == "tcp" else flow.transport


def _overlay(
    row: Row, flow: Flow, context: _Context, nodes: tuple[str | None, str | None]
) -> Overlay:
    captured = context.facts.of(str(row["trial_id"]), "wire_overlay", nodes)
    if captured and captured[-1] in set(Overlay):
        return Overlay(captured[-1])
    treatment = context.campaign.treatment(str(row["treatment"]))
    between_pods = flow.path in (Path.POD_POD, Path.POD_SERVICE)
    if not between_pods or treatment.scope is not Scope.ALWAYS or treatment.overlay is None:
        return Overlay.NONE
    return treatment.overlay


def _timestamps(row: Row, said: list[str]) -> bool:
    """Whether segments carry timestamps: the sysctl says, or MTU and segment size do."""
    gap = number(row, "mtu_bytes") - number(row, "mss_bytes")
    return not (said and set(said) == {"0"}) and gap != IPV4_TCP_HEADERS_BYTES


def _segment(row: Row, flow: Flow, path_mtu: float, headers: int) -> float:
    """Payload of a full TCP segment: as read, or what the MTU leaves, or what the flow asks for."""
    read_off = (
        number(row, "mss_bytes"),
        number(row, "mtu_bytes") - headers,
        path_mtu - headers,
    )
    found = _first(*(size if 0 < size <= _LARGEST_BYTES else NAN for size in read_off))
    if flow.load == "tcp" and flow.mss_bytes is not None:
        # The size asked for has room for the options in it.
        asked = float(flow.mss_bytes - (headers - IPV4_TCP_HEADERS_BYTES))
        return asked if math.isnan(found) else min(found, asked)
    return found


def _packet(
    row: Row, flow: Flow, segment: float, *, overlay: Overlay, timestamps: bool, tags: int
) -> OnWire | None:
    if flow.load == "tcp" and segment >= 1:
        return ceilings.tcp_segment(
            int(segment), overlay=overlay, timestamps=timestamps, vlan_tags=tags
        )
    if flow.load != "udp":
        return None
    # iperf3's own choice is the segment size of its control connection.
    size = float(flow.message_bytes) if flow.message_bytes else segment
    mtu = number(row, "mtu_bytes")
    if not size >= 1:
        return None
    room = int(mtu) if mtu >= ceilings.SHORTEST_PACKET_BYTES else int(size) + 28
    return ceilings.udp_datagram(int(size), mtu_bytes=room, overlay=overlay, vlan_tags=tags)


def _retransmitted_pct(row: Row, flow: Flow, segment: float) -> float:
    again = _first(number(row, "retransmits"), number(row, "tcpext_retransmits"))
    sent_bytes = number(row, "sent_bits_per_s") * flow.duration_s / units.BITS_PER_BYTE
    return percent(again, sent_bytes / segment) if segment > 0 else NAN


def _threads(flow: Flow, ways: int, said: list[str]) -> tuple[int | None, str]:
    """With how many threads iperf3 moves data, and its release where all ends have one."""
    releases = {found[0]: (int(found[1]), int(found[2])) for text in said
                if (found := re.search(r"(\d+)\.(\d+)[\w.+-]*", text))}  # fmt: skip
    name = next(iter(releases)) if len(releases) == 1 else ""
    threaded = {release >= _THREADED for release in releases.values()}
    most = flow.streams * ways
    if most == 1:
        return 1, name
    return (None if len(threaded) != 1 else most if True in threaded else 1), name


def _steadiness(
    samples: pd.DataFrame, trials: pd.DataFrame
) -> dict[tuple[str, str], tuple[float, int]]:
    """Trial and metric → standard deviation in percent of the mean, and how many intervals."""
    rates = samples[
        samples["source"].eq("iperf3")
        & samples["phase"].eq("measure")
        & samples["endpoint"].eq("client")
        & samples["metric"].isin(["sent_bits_per_s", "received_bits_per_s"])
        & samples["trial_id"].isin(trials["trial_id"])
        & np.isfinite(samples["value"].astype(float))
    ]
    found = rates.groupby(["trial_id", "metric"])["value"].agg(["mean", "std", "count"])
    return {
        (str(trial), str(metric)): (percent(row["std"], row["mean"]), int(row["count"]))
        for (trial, metric), row in zip(found.index, found.to_dict("records"), strict=True)
    }


def _base_rtts(rows: list[dict[Hashable, Any]], flows: Mapping[str, Flow]) -> dict[Any, float]:
    """Treatment and path → median round trip of its request-response trials.

    That of the trial in the middle, the lower of two: no percentile is averaged with another.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        flow = flows[str(row["flow"])]
        value = number(row, "rr_p50_ns")
        if flow.load == "request-response" and value > 0:
            found.setdefault((str(row["treatment"]), flow.path.value), []).append(value)
    return {key: statistics.median_low(values) for key, values in found.items()}


def _numbers(said: list[str]) -> list[float]:
    found = [number({"value": text}, "value") for text in said]
    return [value for value in found if value > 0]


def _first(*values: float) -> float:
    """The first that is known; NaN where none is."""
    return next((value for value in values if not math.isnan(value)), NAN)
