"""How long packets wait in the queueing disciplines of the path's devices (``node/qdisc.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ebpfperf.histograms import merge, quantile, total
from ebpfperf.model import Fact, Flow, HistogramBin, Reading
from ebpfperf.probes import answers

NO_QUEUE = "none: no device of the ends has a queue"


class Qdisc:
    """The ``qdisc`` probe; docs/probes.md says what it measures."""

    name: ClassVar[str] = "qdisc"
    per_node: ClassVar[bool] = False

    def skip(self, flow: Flow) -> str:
        """Nothing is left out: every flow sends packets."""
        return ""

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        """``qdisc_p50_ns``, ``qdisc_p99_ns``, ``qdisc_packets`` and histograms.

        Packets are those that left a queue in the watched seconds, of all devices together; a
        histogram ``qdisc_ns:<device>`` per device with a queue and end. Without any the count is
        zero, there are no percentiles, and the fact ``qdisc_queues`` says whether there is a queue.
        """
        try:
            found = answers.read(self.name, raw)
            histograms: list[HistogramBin] = []
            facts = list(found.facts(self.name))
            for answer in found.of:
                queues = []
                unseen = 0
                for device in answer.seen["devices"]:
                    histograms += answers.bins(
                        device["bins"],
                        probe=self.name,
                        endpoint="+".join(device["ends"]),
                        metric=f"qdisc_ns:{device['device']}",
                    )
                    unseen += int(device["unseen"])
                    ends = "+".join(device["ends"])
                    queues.append(f"{ends} {device['device']} {device['discipline']}")
                facts.append(Fact(answer.node, "qdisc_queues", ", ".join(queues) or NO_QUEUE))
                facts.append(Fact(answer.node, "qdisc_enqueue_unseen", str(unseen), "1"))
        except answers.DAMAGE as error:
            return answers.damaged(error)
        if found.skipped:
            return Reading(facts=tuple(facts))
        merged = merge(histograms)
        metrics = {"qdisc_packets": float(total(merged))}
        for name, q in (("qdisc_p50_ns", 0.5), ("qdisc_p99_ns", 0.99)):
            if at := quantile(merged, q):
                metrics[name] = at.value_ns
        return Reading(metrics=metrics, histograms=tuple(histograms), facts=tuple(facts))
