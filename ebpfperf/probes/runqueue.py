"""How long the tasks of a flow's load wait for a CPU (``node/runqueue.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ebpfperf.histograms import merge, quantile, total
from ebpfperf.model import Fact, Flow, HistogramBin, Reading
from ebpfperf.probes import answers


class Runqueue:
    """The ``runqueue`` probe; docs/probes.md says what it measures."""

    name: ClassVar[str] = "runqueue"
    per_node: ClassVar[bool] = False

    def skip(self, flow: Flow) -> str:
        """Nothing is left out: every load has tasks."""
        return ""

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        """``runqueue_p50_ns``, ``runqueue_p99_ns``, ``runqueue_events`` and histograms.

        Events are waits that ended in the watched seconds, of all ends together; a histogram
        ``runqueue_ns`` per machine. With no event the count is zero and there are no percentiles.
        """
        try:
            found = answers.read(self.name, raw)
            histograms: list[HistogramBin] = []
            facts = list(found.facts(self.name))
            for answer in found.of:
                histograms += answers.bins(
                    answer.seen["bins"],
                    probe=self.name,
                    endpoint=answer.endpoint,
                    metric="runqueue_ns",
                )
                unseen = int(answer.seen["unseen"])
                facts.append(Fact(answer.node, "runqueue_wakeup_unseen", str(unseen), "1"))
        except answers.DAMAGE as error:
            return answers.damaged(error)
        if found.skipped:
            return Reading(facts=tuple(facts))
        merged = merge(histograms)
        metrics = {"runqueue_events": float(total(merged))}
        for name, q in (("runqueue_p50_ns", 0.5), ("runqueue_p99_ns", 0.99)):
            if at := quantile(merged, q):
                metrics[name] = at.value_ns
        return Reading(metrics=metrics, histograms=tuple(histograms), facts=tuple(facts))
