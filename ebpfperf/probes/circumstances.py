"""Under which conditions a trial ran, as two readings of its nodes' counters tell. Pure.

Between the readings lie the traffic, its warm-up included, and some tenths of a second in which
programs start and end. Processor time in use is therefore given as percent of the *traffic's*
seconds, at most 100: exact where the nodes are idle but for the traffic, too high by what else ran
meanwhile. Stolen time is percent of the seconds between the readings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebpfperf.model import Fact, Flow
from ebpfperf.probes.host_text import CLOCKSOURCE, GOVERNOR, LIMIT, NODE_DEVICES, Snapshot
from ebpfperf.units import BITS_PER_BYTE

Pair = Sequence[Snapshot]
_NOT_BUSY = ("idle", "iowait", "steal")
_TUNNELS = ("tunl0", "vxlan.calico", "bpfin.cali", "bpfout.cali")
# What a frame on the NIC may have that the pod's device did not count, as it saw a large segment
# where the NIC sent many frames: Ethernet 14 and its checksum 4, IP 20, TCP with timestamps 32; and
# VXLAN's 50 around it.
_FRAME_BYTES, _LARGEST_ENCAPSULATION_BYTES = 70, 50


@dataclass(frozen=True, slots=True)
class Place:
    """Where an end is: its node, devices and network namespace.

    Attributes
    ----------
    device
        In the end's namespace.
    host_device
        The node's side of it; empty in recordings that do not say.
    nic
        The node's NIC; empty where it is not known.
    files
        ``net/dev`` of the end's namespace.
    """

    node: str
    device: str
    host_device: str
    nic: str
    files: str

    @classmethod
    def of(cls, told: Mapping[str, Any], files: str) -> Place:
        """The place of an end as it was recorded."""
        nic, host = str(told.get("nic") or ""), str(told.get("host_device") or "")
        return cls(str(told["node"]), str(told.get("device") or ""), host, nic, files)


def traffic_share(flow: Flow, window_s: float) -> float:
    """Seconds of traffic for each second between the readings: above 0, at most 1."""
    traffic_s = flow.omit_s + flow.duration_s
    return min(1.0, traffic_s / window_s) if window_s > 0 and traffic_s > 0 else 1.0


def metrics(
    flow: Flow, ends: Mapping[str, Place], pairs: Mapping[str, Pair]
) -> Iterator[tuple[str, float]]:
    """Columns of the trials frame; one that cannot be known is not there.

    ``busy_pct`` all processors of the busier node; ``client_busiest_core_pct`` and
    ``server_busiest_core_pct`` the busiest one of that end's; ``steal_pct`` of the node that lost
    most; ``other_nic_bits_per_s`` what crossed a NIC besides the flow, both ways added, of the node
    with most of it; ``clock_step_s`` by how much the wall clock surely jumped against the time
    since boot; ``clsact_drops`` packets that programs dropped on the path's devices.
    """
    busy, stolen = [], []
    for before, after in pairs.values():
        window_s = after.uptime_s - before.uptime_s
        if window_s <= 0:
            continue
        share = traffic_share(flow, window_s)
        spent = _spent(before.cpu_s, after.cpu_s)
        whole = sum(spent.values())
        if whole > 0:
            busy.append(_pct(_busy(spent), whole * share))
            stolen.append(_pct(spent["steal"], whole))
    if busy:
        yield "busy_pct", max(busy)
        yield "steal_pct", max(stolen)
    for end, place in ends.items():
        if (core := busiest_core_pct(flow, pairs[place.node])) is not None:
            yield f"{end}_busiest_core_pct", core
    others = [_other_bits_per_s(place, pairs[place.node]) for place in ends.values()]
    if known := [found for found in others if found is not None]:
        yield "other_nic_bits_per_s", max(known)
    steps = [_clock_step_s(pair) for pair in pairs.values()]
    if stepped := [found for found in steps if found is not None]:
        yield "clock_step_s", max(stepped)
    if (dropped := clsact_drops(ends, pairs)) is not None:
        yield "clsact_drops", float(sum(dropped.values()))


def busiest_core_pct(flow: Flow, pair: Pair) -> float | None:
    """The busiest processor, percent of the traffic's seconds; None where none is listed."""
    before, after = pair
    share = traffic_share(flow, after.uptime_s - before.uptime_s)
    found = []
    for core, now in after.cores.items():
        if core in before.cores:
            spent = _spent(before.cores[core], now)
            if (whole := sum(spent.values())) > 0:
                found.append(_pct(_busy(spent), whole * share))
    return max(found, default=None)


def clsact_drops(ends: Mapping[str, Place], pairs: Mapping[str, Pair]) -> dict[str, int] | None:
    """``client cali1234`` → packets that programs there dropped meanwhile; None where none count.

    Of a node without a clsact qdisc on the path, all devices together by Calico's own counters.
    A qdisc that was made anew counts from nought.
    """
    found: dict[str, int] = {}
    for end, place in ends.items():
        before, after = pairs[place.node]
        path = (place.host_device, place.nic, *_TUNNELS)
        grown = {
            device: _grown((before.clsact or {}).get(device, 0), count)
            for device, count in (after.clsact or {}).items()
            if device in path
        }
        if not grown and before.calico_drops is not None and after.calico_drops is not None:
            grown = {"all": _grown(before.calico_drops, after.calico_drops)}
        found |= {f"{end} {device}": count for device, count in grown.items()}
    return found or None


def facts(pairs: Mapping[str, Pair]) -> Iterator[Fact]:
    """Per node what must not change meanwhile: ``tsc``, or ``tsc → hpet`` where it did."""
    names = ((CLOCKSOURCE, "clocksource"), (GOVERNOR, "cpu_governor"), (LIMIT, "cpu_limit_khz"))
    for node, (before, after) in pairs.items():
        for path, name in names:
            was, now = (s.texts.get(path, "").strip() for s in (before, after))
            if was and now:
                yield Fact(node, name, now if was == now else f"{was} → {now}")
        if before.throttled is not None and after.throttled is not None:
            grown = _grown(before.throttled, after.throttled)
            yield Fact(node, "cpu_throttled", str(grown), "1")


def _other_bits_per_s(place: Place, pair: Pair) -> float | None:
    """What crossed the NIC beyond what crossed the end's device and frames may add to it.

    None for an end that is the node itself: there is nothing to tell its bytes by.
    """
    before, after = pair
    window_s = after.uptime_s - before.uptime_s
    if not place.nic or place.files == NODE_DEVICES or window_s <= 0:
        return None
    if any(NODE_DEVICES not in snapshot.texts for snapshot in pair):
        return None
    nics = [snapshot.devices(NODE_DEVICES).get(place.nic) for snapshot in pair]
    if nics[0] is None or nics[1] is None:
        return None
    nic = {name: nics[1][name] - nics[0][name] for name in nics[1]}
    ours = [snapshot.devices(place.files)[place.device] for snapshot in pair]
    own = {name: ours[1][name] - ours[0][name] for name in ours[1]}
    frames = nic["rx_packets"] + nic["tx_packets"]
    around = frames * (_FRAME_BYTES + _LARGEST_ENCAPSULATION_BYTES)
    crossed = nic["rx_bytes"] + nic["tx_bytes"] - own["rx_bytes"] - own["tx_bytes"]
    return max(0, crossed - around) * BITS_PER_BYTE / window_s


def _clock_step_s(pair: Pair) -> float | None:
    """Seconds between the two spans in which the boot lies by the wall clock; 0 if they meet."""
    before, after = (snapshot.boot_utc_s for snapshot in pair)
    if before is None or after is None:
        return None
    return max(0.0, after[0] - before[1], before[0] - after[1])


def _spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {mode: max(0.0, end_s - before[mode]) for mode, end_s in after.items()}


def _busy(spent: Mapping[str, float]) -> float:
    return sum(seconds for mode, seconds in spent.items() if mode not in _NOT_BUSY)


def _pct(part: float, whole: float) -> float:
    return min(100.0, 100 * part / whole)


def _grown(before: int, after: int) -> int:
    return after - before if after >= before else after
