"""TCP segments that a flow's ends sent again (``node/retransmits.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ebpfperf.model import Flow, Reading, Sample
from ebpfperf.probes import answers
from ebpfperf.probes.ends import not_tcp


class Retransmits:
    """The ``retransmits`` probe; docs/probes.md says what it measures."""

    name: ClassVar[str] = "retransmits"
    per_node: ClassVar[bool] = False

    def skip(self, flow: Flow) -> str:
        """Why there is nothing to watch; empty when there is."""
        return not_tcp(flow)

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        """``retransmitted_segments`` of both ends in the window; zero where none was.

        A sample ``retransmitted:<STATE>`` per end and state of the connection that had any.
        """
        try:
            found = answers.read(self.name, raw)
            counts = [
                (str(end), str(state), int(number))
                for answer in found.of
                for end, states in answer.seen["ends"].items()
                for state, number in states.items()
            ]
        except answers.DAMAGE as error:
            return answers.damaged(error)
        facts = found.facts(self.name)
        if found.skipped:
            return Reading(facts=facts)
        samples = tuple(
            Sample(self.name, end, f"retransmitted:{state}", "1", 0.0, float(number))
            for end, state, number in sorted(counts)
        )
        metrics = {"retransmitted_segments": float(sum(number for _, _, number in counts))}
        return Reading(metrics=metrics, samples=samples, facts=facts)
