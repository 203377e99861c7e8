"""Packets that BPF programs dropped between two readings of a node, by device, hook and reason.

Pure. Two sources, in this order: Calico's own counters (v3.26 and later; a reason for each), and
the clsact qdisc, whose count is of both directions and of every program there, without a reason.
Programs attached as TCX links have no qdisc: where no counters are pinned either, what they drop
is not seen, and that is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from ebpfperf.calico.counters import CAPTIONS, COUNTED_FROM, DROPS, ONE_MAP_FROM, PIN, TOTAL
from ebpfperf.calico.releases import minor
from ebpfperf.drop_counts import Counters, NodeCounts
from ebpfperf.units import UNKNOWN

BOTH = "both"
NONE = "none"
UNCOUNTED = "no reason of Calico's: an endpoint that is not ready, or another program"
_POD = re.compile(r"^(cali|eni|gke|azv)")


class Source(StrEnum):
    """What counted."""

    COUNTERS = "counters"
    CLSACT = "clsact"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Drop:
    """Packets dropped at one hook of a device for one reason.

    Attributes
    ----------
    hook
        ``ingress``, ``egress``, ``xdp`` or ``both``.
    way
        Whose packets: ``from the pod``, ``into the node``, ….
    reason
        In the words of ``calico-bpf``; ``none`` where nothing was dropped.
    packets
        None where nothing counts them.
    seen
        All packets there meanwhile; None where they are not counted.
    """

    node: str
    device: str
    hook: str
    way: str
    reason: str
    source: Source
    packets: int | None
    per_s: float | None
    seen: int | None

    @property
    def share_pct(self) -> float | None:
        """Percent of the packets there; None where none were, or not counted."""
        if self.packets is None or not self.seen:
            return None
        return 100 * self.packets / self.seen


@dataclass(frozen=True, slots=True)
class NodeDrops:
    """What one node dropped between two readings, and sentences on how that is known.

    The sentences do not have the node's name.
    """

    node: str
    seconds: float
    source: Source
    counters_map: str
    drops: tuple[Drop, ...]
    remarks: tuple[str, ...]

    @property
    def packets(self) -> int:
        """All that were counted."""
        return sum(drop.packets or 0 for drop in self.drops)

    @property
    def devices(self) -> int:
        """On how many devices something was looked at."""
        return len({drop.device for drop in self.drops})


def between(before: NodeCounts, after: NodeCounts, *, release: str | None = None) -> NodeDrops:
    """What was dropped from one reading of a node to the next.

    Every device with programs or counters has at least one row. ``release`` is Calico's, for the
    sentences alone.
    """
    seconds = after.at_s - before.at_s
    if before.boot_id != after.boot_id or seconds <= 0:
        remark = "the node was started anew between the readings: nothing can be compared."
        return NodeDrops(after.node, 0.0, Source.NOTHING, "", (), (remark,))
    drops = [
        *_counted(before, after, before.counters, seconds),
        *_by_qdisc(before, after, seconds),
    ]
    known = {drop.device for drop in drops}
    drops += [
        Drop(after.node, device, BOTH, "", f"{UNKNOWN}: nothing counts there", Source.NOTHING,
             None, None, None)
        for device in after.calico_devices
        if device not in known
    ]  # fmt: skip
    source = Source.NOTHING
    if after.counters is not None:
        source = Source.COUNTERS
    elif after.qdiscs:
        source = Source.CLSACT
    return NodeDrops(
        after.node,
        seconds,
        source,
        after.counters_map if after.counters is not None else "",
        tuple(sorted(drops, key=lambda drop: (-(drop.packets or 0), drop.device, drop.hook))),
        tuple(_remarks(before, after, source, release)),
    )


def _counted(
    before: NodeCounts, after: NodeCounts, counted_before: Counters | None, seconds: float
) -> Iterator[Drop]:
    """By Calico's counters; of an entry that was not there before, all."""
    for (ifindex, hook), now in (after.counters or {}).items():
        device = after.links.get(ifindex)
        if device is None:
            continue
        was = (counted_before or {}).get((ifindex, hook), ())
        # An index that another device had before, or a map made anew, counts from nought.
        if before.links.get(ifindex) != device or _less(now, was):
            was = ()
        grown = [count - (was[at] if at < len(was) else 0) for at, count in enumerate(now)]
        rows = [(number, grown[number]) for number in DROPS if number < len(grown)]
        found = [(CAPTIONS[number][1], packets) for number, packets in rows if packets]
        for reason, packets in found or [(NONE, 0)]:
            yield Drop(
                after.node, device, hook, way(device, hook), reason, Source.COUNTERS,
                packets, packets / seconds, grown[TOTAL],
            )  # fmt: skip


def _by_qdisc(before: NodeCounts, after: NodeCounts, seconds: float) -> Iterator[Drop]:
    """By the clsact qdisc: all of it, or what Calico's counters do not know of."""
    by_device: dict[str, int] = {}
    # From before the qdiscs' time to after it: a packet that both count is never taken for more.
    for drop in _counted(before, after, before.counters_early, seconds):
        if drop.hook != "xdp":
            by_device[drop.device] = by_device.get(drop.device, 0) + (drop.packets or 0)
    for device, (seen, lost) in after.qdiscs.items():
        seen_was, lost_was = before.qdiscs.get(device, (0, 0))
        if seen < seen_was or lost < lost_was:
            seen_was = lost_was = 0
        packets = lost - lost_was
        reason = f"{UNKNOWN}: a qdisc counts no reasons" if packets else NONE
        if device in by_device:
            packets -= by_device[device]
            reason = UNCOUNTED
            if packets <= 0:
                continue
        yield Drop(
            after.node, device, BOTH, "", reason, Source.CLSACT,
            packets, packets / seconds, seen - seen_was,
        )  # fmt: skip


def way(device: str, hook: str) -> str:
    """Whose packets a hook of a device sees."""
    pod = _POD.match(device) is not None
    if hook == "egress":
        return "to the pod" if pod else "out of the node"
    if hook in ("ingress", "xdp"):
        return "from the pod" if pod else "into the node"
    return ""


def _remarks(
    before: NodeCounts, after: NodeCounts, source: Source, release: str | None
) -> Iterator[str]:
    tcx = after.tcx_devices
    if not after.has_bpf:
        yield (
            "there is neither a BPF program of Calico's nor a counter: the node does not forward "
            "by eBPF."
        )
        return
    if after.counters is None and after.counters_map:
        yield f"Calico's counters cannot be read: {after.counters_map}."
    if source is Source.CLSACT:
        yield (
            f"counted by the clsact qdiscs, both directions together and without reasons, "
            f"drops of other programs included{_why_no_counters(release)}."
        )
    if after.counters is not None and not after.calico_devices:
        yield "counters are pinned, but no program of Calico's hangs on a device."
    if tcx and after.counters is not None:
        yield (
            f"programs hang as TCX links on {_some(tcx)}, where tc -s qdisc counts "
            f"nothing: only Calico's own {after.counters_map} counts, and leaves out endpoints "
            "that are not ready."
        )
    elif tcx:
        yield (
            f"programs hang as TCX links on {_some(tcx)}, where tc -s qdisc counts "
            "nothing, and no counters map is pinned: what they drop is UNKNOWN. The debug log "
            "(bpfLogLevel Debug) would tell."
        )
    anew = [
        device
        for device, (seen, lost) in after.qdiscs.items()
        if device in before.qdiscs
        and (seen < before.qdiscs[device][0] or lost < before.qdiscs[device][1])
    ]
    if anew:
        yield f"the qdisc of {_some(anew)} was made anew meanwhile: counted from then on."
    if any(hooks is None for hooks in after.programs.values()):
        yield "the kernel does not say which programs hang on its devices."


def _why_no_counters(release: str | None) -> str:
    if release is None:
        return ""
    found = minor(release)
    if found < COUNTED_FROM:
        return f" ({release} has no counters; v3.24 is the first with some)"
    if found < ONE_MAP_FROM:
        return f" ({release} pins its counters for each device apart, which is not read here)"
    return f" (no map {PIN}… of {release} is pinned)"


def _less(now: tuple[int, ...], was: tuple[int, ...]) -> bool:
    return any(one < other for one, other in zip(now, was, strict=False))


def _some(devices: list[str]) -> str:
    head = ", ".join(devices[:3])
    return head if len(devices) <= 3 else f"{head} and {len(devices) - 3} more"
