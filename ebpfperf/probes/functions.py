"""Time inside kernel functions on the way of a packet (``node/functions.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ebpfperf.model import Fact, Flow, HistogramBin, Reading, Sample
from ebpfperf.probes import answers
from ebpfperf.probes.answers import Answer


class Functions:
    """The ``functions`` probe; docs/probes.md says what it measures."""

    name: ClassVar[str] = "functions"
    per_node: ClassVar[bool] = False

    def skip(self, flow: Flow) -> str:
        """Why there is nothing to watch; empty when there is."""
        return ""

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        """Per kernel and function a histogram ``function_ns:<name>`` and ``function_calls:<name>``.

        Calls are of the watched time, of the whole kernel, and those whose beginning and end were
        both seen; the number of the others is a fact. Never called is zero.
        """
        try:
            found = answers.read(self.name, raw)
            histograms = [row for answer in found.of for row in _histograms(answer)]
            samples = [sample for answer in found.of for sample in _samples(answer)]
            facts = [*found.facts(self.name), *(_unmatched(answer) for answer in found.of)]
        except answers.DAMAGE as error:
            return answers.damaged(error)
        return Reading(samples=tuple(samples), histograms=tuple(histograms), facts=tuple(facts))


def _histograms(answer: Answer) -> tuple[HistogramBin, ...]:
    return tuple(
        row
        for name, slot in answer.seen["functions"].items()
        for row in answers.bins(
            slot["bins"],
            probe=Functions.name,
            endpoint=answer.endpoint,
            metric=f"function_ns:{name}",
        )
    )


def _samples(answer: Answer) -> tuple[Sample, ...]:
    return tuple(
        Sample(
            Functions.name,
            answer.endpoint,
            f"function_calls:{name}",
            "1",
            0.0,
            float(slot["events"]),
        )
        for name, slot in answer.seen["functions"].items()
    )


def _unmatched(answer: Answer) -> Fact:
    """Calls that were left out: entered or left unseen, or nested too deep."""
    count = sum(int(slot["unmatched"]) for slot in answer.seen["functions"].values())
    count += int(answer.seen["too_deep"])
    return Fact(answer.node, f"{Functions.name}_unmatched", str(count), "1")
