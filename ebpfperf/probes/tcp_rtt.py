"""Smoothed TCP round-trip times of a flow, at every end that sends (``node/tcp_rtt.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ebpfperf.histograms import merge, quantile, total
from ebpfperf.model import Flow, Reading
from ebpfperf.probes import answers
from ebpfperf.probes.ends import not_tcp


class TcpRtt:
    """The ``tcp_rtt`` probe; docs/probes.md says what it measures."""

    name: ClassVar[str] = "tcp_rtt"
    per_node: ClassVar[bool] = False

    def skip(self, flow: Flow) -> str:
        """Why there is nothing to watch; empty when there is."""
        return not_tcp(flow)

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        """``srtt_p50_ns``, ``srtt_p99_ns``, ``srtt_events`` and a histogram per sending end.

        Percentiles are of all ends together, each the middle of its bin (at most 12.5 % wide).
        With no event the count is zero and there are no percentiles. A UDP flow has neither.
        """
        try:
            found = answers.read(self.name, raw)
            ends = {
                end: answers.bins(slot["bins"], probe=self.name, endpoint=end, metric="srtt_ns")
                for answer in found.of
                for end, slot in answer.seen["ends"].items()
            }
        except answers.DAMAGE as error:
            return answers.damaged(error)
        facts = found.facts(self.name)
        if found.skipped:
            return Reading(facts=facts)
        merged = merge(*ends.values())
        metrics = {"srtt_events": float(total(merged))}
        for name, q in (("srtt_p50_ns", 0.5), ("srtt_p99_ns", 0.99)):
            at = quantile(merged, q)
            if at is not None:
                metrics[name] = at.value_ns
        histograms = tuple(row for rows in ends.values() for row in rows)
        return Reading(metrics=metrics, histograms=histograms, facts=facts)
