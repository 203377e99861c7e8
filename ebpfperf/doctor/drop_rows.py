"""What programs dropped between two readings of a node, in the words of the checks. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ebpfperf.doctor.case import Case, Missing
from ebpfperf.drop_counts import NodeCounts
from ebpfperf.drop_differences import Drop, NodeDrops, Source, between
from ebpfperf.evidence_sources import COUNTS, LATER

POLICY, LIMITED = "by policy", "QoS control limit"
ASKED_FOR = (POLICY, LIMITED)
"""Reasons that somebody asked for."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Two readings of a node, and what was dropped in between."""

    after: NodeCounts
    drops: NodeDrops

    def of(self, source: Source) -> list[Drop]:
        """What one source saw dropped, most first."""
        return [each for each in self.drops.drops if each.source is source and each.packets]


def counted(case: Case, node: str) -> Counted:
    """What was dropped between the readings; Missing where there are not two."""
    if not case.evidence.seconds:
        raise Missing("drops were counted only once: ask for seconds to count in")
    before, after = case.counts(node, later=False), case.counts(node)
    found = between(before, after, release=case.release or None)
    if not found.seconds > 0:
        raise Missing("; ".join(found.remarks).rstrip("."), case.show(COUNTS + LATER, node))
    return Counted(after, found)


def how_many(row: Drop, seconds: float) -> str:
    """``7 of 1009 packets in 2.0 s (3.5/s, 0.694 %)``."""
    seen = f" of {row.seen}" if row.seen else ""
    share = "" if row.share_pct is None else f", {row.share_pct:.3g} %"
    return f"{row.packets}{seen} packets in {seconds:.1f} s ({row.per_s or 0.0:.1f}/s{share})"


def line_of(row: Drop) -> str:
    """``eth0 both clsact: 7 of 1009``, with the reason where there is one: for the evidence."""
    what = f" {row.reason}" if row.reason else ""
    return f"{row.device} {row.hook} {row.source.value}: {row.packets} of {row.seen}{what}"


def some(devices: list[str]) -> str:
    """Up to three of them by name."""
    more = f" and {len(devices) - 3} more" if len(devices) > 3 else ""
    return ", ".join(devices[:3]) + more
