"""How long softirqs wait and run on the CPUs of the ends' machines (``node/softirq.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ebpfperf.histograms import merge, quantile
from ebpfperf.model import Fact, Flow, HistogramBin, Reading
from ebpfperf.probes import answers
from ebpfperf.units import NS_PER_S

WAIT, RUN = "softirq_wait_ns", "softirq_run_ns"
RECEIVE = "NET_RX"


class Softirq:
    """The ``softirq`` probe; docs/probes.md says what it measures."""

    name: ClassVar[str] = "softirq"
    per_node: ClassVar[bool] = False

    def skip(self, flow: Flow) -> str:
        """Nothing is left out: every flow has softirqs."""
        return ""

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        """Columns ``softirq_wait_p99_ns``, ``softirq_run_p50_ns``, ``softirq_share_pct``.

        The first two are of ``NET_RX`` on all machines together, and missing where none ran. The
        share is run time of all softirqs per CPU time of the watched seconds; missing where nothing
        was watched. Histograms ``softirq_wait_ns:<VECTOR>`` and ``softirq_run_ns:<VECTOR>`` count
        what was seen in the watched seconds, per machine.
        """
        try:
            found = answers.read(self.name, raw)
            histograms: list[HistogramBin] = []
            facts = list(found.facts(self.name))
            run_ns = cpu_ns = 0
            for answer in found.of:
                unseen = 0
                for vector, counted in answer.seen["vectors"].items():
                    for metric, pairs in ((WAIT, counted["wait"]), (RUN, counted["run"])):
                        histograms += answers.bins(
                            pairs,
                            probe=self.name,
                            endpoint=answer.endpoint,
                            metric=f"{metric}:{vector}",
                        )
                    run_ns += int(counted["run_ns"])
                    unseen += int(counted["unseen"])
                watched = answer.watched_ns
                cpus = int(answer.seen["cpus"])
                cpu_ns += cpus * (flow.duration_s * NS_PER_S if watched is None else watched)
                facts.append(Fact(answer.node, "softirq_raise_unseen", str(unseen), "1"))
        except answers.DAMAGE as error:
            return answers.damaged(error)
        metrics = {"softirq_share_pct": 100 * run_ns / cpu_ns} if cpu_ns else {}
        for name, metric, q in (
            ("softirq_wait_p99_ns", WAIT, 0.99),
            ("softirq_run_p50_ns", RUN, 0.5),
        ):
            of = [row for row in histograms if row.metric == f"{metric}:{RECEIVE}"]
            if at := quantile(merge(of), q):
                metrics[name] = at.value_ns
        return Reading(metrics=metrics, histograms=tuple(histograms), facts=tuple(facts))
