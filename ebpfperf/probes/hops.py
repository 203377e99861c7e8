"""What each step on a packet's way costs, from device to device (``node/hops.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ebpfperf.histograms import merge, quantile
from ebpfperf.model import Fact, Flow, HistogramBin, Reading, Sample
from ebpfperf.probes import answers

METRIC = "hop_ns"
# Row of the same place twice: the whole of the sender's half, the receiver's, and both.
_TOTALS = {
    ("nic-xmit", "nic-xmit"): "sender",
    ("socket-copy", "socket-copy"): "receiver",
    # Datagrams, whose reading cannot be seen: until they are handed to the socket's stack.
    ("pod-receive", "pod-receive"): "receiver",
    ("nic-receive", "nic-receive"): "receiver",
    ("pod-queue", "pod-queue"): "end-to-end",
}


class Hops:
    """The ``hops`` probe; docs/probes.md says what it measures."""

    name: ClassVar[str] = "hops"
    per_node: ClassVar[bool] = False

    def skip(self, flow: Flow) -> str:
        """Every flow has packets."""
        return ""

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        """A histogram a step, named ``hop_ns:FROM>TO``, at the end that sent the packet.

        ``hop_ns:=sender``, ``=receiver`` and ``=end-to-end`` are whole ways, counted packet by
        packet. Samples ``hop_mean_ns:…`` are exact means, and ``hops:started`` and its like say
        what became of the packets that were followed. ``hops_packets`` is how many completed.
        ``hop_sender_p50_ns`` and ``hop_receiver_p50_ns`` are of what the flow's sender sends (the
        client in an exchange). Counts are of the watched time alone.
        """
        try:
            found = answers.read(self.name, raw)
            steps = [
                (sender, step)
                for answer in found.of
                for sender, listed in answer.seen["steps"].items()
                for step in listed
            ]
            histograms: dict[tuple[str, str], tuple[HistogramBin, ...]] = {}
            sums: dict[tuple[str, str], tuple[int, int]] = {}
            for sender, step in steps:
                key = (sender, label(step))
                more = answers.bins(
                    step["bins"], probe=self.name, endpoint=sender, metric=f"{METRIC}:{key[1]}"
                )
                histograms[key] = merge(histograms.get(key, ()), more)
                events, total = sums.get(key, (0, 0))
                sums[key] = events + int(step["events"]), total + int(step["sum_ns"])
            walks: dict[str, int] = {}
            for answer in found.of:
                for what, count in answer.seen["walks"].items():
                    walks[what] = walks.get(what, 0) + int(count)
        except answers.DAMAGE as error:
            return answers.damaged(error)
        if found.skipped:
            return Reading(facts=found.facts(self.name))
        sender = "server" if flow.direction == "reverse" else "client"
        metrics = {"hops_packets": float(sum(_packets(histograms, end) for end in ENDS))}
        for half in ("sender", "receiver"):
            at = quantile(histograms.get((sender, f"={half}"), ()), 0.5)
            if at is not None:
                metrics[f"hop_{half}_p50_ns"] = at.value_ns
        samples = [
            Sample(self.name, end, f"hop_mean_ns:{what}", "ns", 0.0, total / events)
            for (end, what), (events, total) in sorted(sums.items())
        ]
        samples += [
            Sample(self.name, "", f"hops:{what}", "1", 0.0, float(count))
            for what, count in walks.items()
        ]
        return Reading(
            metrics=metrics,
            samples=tuple(samples),
            histograms=tuple(row for rows in histograms.values() for row in rows),
            facts=(*found.facts(self.name), *_lost(walks)),
        )


ENDS = ("client", "server")


def label(step: Mapping[str, Any]) -> str:
    """``pod-queue>veth-rx``, or ``=sender`` for the whole of a half."""
    pair = str(step["from"]), str(step["to"])
    return f"={_TOTALS[pair]}" if pair in _TOTALS else ">".join(pair)


def _packets(histograms: Mapping[tuple[str, str], tuple[HistogramBin, ...]], end: str) -> int:
    """How many packets of an end completed the longest way that was watched."""
    counts = [
        sum(row.count for row in histograms.get((end, way), ()))
        for way in ("=end-to-end", "=receiver", "=sender")
    ]
    return next((count for count in counts if count), 0)


def _lost(walks: Mapping[str, int]) -> tuple[Fact, ...]:
    """Walks that were given up because the buffer held another packet by then."""
    given_up = sum(walks.get(what, 0) for what in ("unfinished", "stale", "foreign"))
    return (Fact("", "hops_given_up", str(given_up), "1"),) if walks else ()
