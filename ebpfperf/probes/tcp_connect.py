"""How long a flow's TCP connections took to make (``node/tcp_connect.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ebpfperf.histograms import merge, quantile, total
from ebpfperf.model import Flow, Reading, Sample
from ebpfperf.probes import answers
from ebpfperf.probes.ends import not_tcp

_APART = ("failed", "waiting", "missed")


class TcpConnect:
    """The ``tcp_connect`` probe; docs/probes.md says what it measures."""

    name: ClassVar[str] = "tcp_connect"
    per_node: ClassVar[bool] = False

    def skip(self, flow: Flow) -> str:
        """Why there is nothing to watch; empty when there is."""
        return not_tcp(flow)

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        """``connects``, ``connect_p50_ns``, ``connect_p99_ns`` and a histogram (``connect_ns``).

        Of all connections that were made since the probe was armed, the warm-up's included; each
        percentile is the middle of its bin (at most 12.5 % wide), and there is none of no
        connection. Samples ``connects_failed`` (refused, or given up), ``connects_waiting`` (for an
        answer, until the reading) and ``connects_missed`` (not timed for want of room).
        """
        try:
            found = answers.read(self.name, raw, windowed=False)
            ends: dict[str, Mapping[str, Any]] = {
                end: slot for answer in found.of for end, slot in answer.seen["ends"].items()
            }
            rows = merge(
                *(
                    answers.bins(slot["bins"], probe=self.name, endpoint=end, metric="connect_ns")
                    for end, slot in ends.items()
                )
            )
            samples = tuple(
                Sample(self.name, end, f"connects_{name}", "1", 0.0, float(slot[name]))
                for end, slot in ends.items()
                for name in _APART
            )
        except answers.DAMAGE as error:
            return answers.damaged(error)
        facts = found.facts(self.name)
        if found.skipped or not ends:
            return Reading(facts=facts)
        metrics = {"connects": float(total(rows))}
        for name, q in (("connect_p50_ns", 0.5), ("connect_p99_ns", 0.99)):
            at = quantile(rows, q)
            if at is not None:
                metrics[name] = at.value_ns
        return Reading(metrics=metrics, samples=samples, histograms=rows, facts=facts)
