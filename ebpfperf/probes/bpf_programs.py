"""Runs, and their time, of the BPF programs on the path's devices (``node/bpf_programs.py``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ebpfperf.model import Fact, Flow, Reading, Sample
from ebpfperf.probes import answers
from ebpfperf.probes.answers import Answer


@dataclass(frozen=True, slots=True)
class _Hook:
    """One hook of one node's device: its programs' names, and their runs and nanoseconds, added."""

    node: str
    endpoint: str
    name: str
    programs: tuple[str, ...]
    runs: int
    ns: int

    def samples(self) -> tuple[Sample, ...]:
        """Its runs, and the time of one where there was any."""
        runs = self._sample("bpf_runs", "1", float(self.runs))
        if not self.runs:
            return (runs,)
        return runs, self._sample("bpf_ns_per_run", "ns", self.ns / self.runs)

    def _sample(self, metric: str, unit: str, value: float) -> Sample:
        name = f"{metric}:{self.name}"
        return Sample(BpfPrograms.name, self.endpoint, name, unit, 0.0, value)


class BpfPrograms:
    """The ``bpf_programs`` probe; docs/probes.md says what it measures."""

    name: ClassVar[str] = "bpf_programs"
    per_node: ClassVar[bool] = True

    def skip(self, flow: Flow) -> str:
        """Why there is nothing to watch; empty when there is."""
        return ""

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        """``bpf_runs`` in the watched time, ``bpf_ns_per_run``, and a sample of each per hook.

        Both are of all hooks of both nodes together. Without a run, or a program, the number of
        runs is zero and there is no time. Hooks that changed while watched are facts.
        """
        try:
            found = answers.read(self.name, raw)
            hooks = [hook for answer in found.of for hook in _hooks(answer)]
            facts = [*found.facts(self.name), *_facts(found.of)]
        except answers.DAMAGE as error:
            return answers.damaged(error)
        facts += [
            Fact(hook.node, f"{self.name}_on:{hook.name}", ", ".join(hook.programs))
            for hook in hooks
        ]
        if not found.of:
            return Reading(facts=tuple(facts))
        runs = sum(hook.runs for hook in hooks)
        metrics = {"bpf_runs": float(runs)}
        if runs:
            metrics["bpf_ns_per_run"] = sum(hook.ns for hook in hooks) / runs
        samples = tuple(sample for hook in hooks for sample in hook.samples())
        return Reading(metrics=metrics, samples=samples, facts=tuple(facts))


def _hooks(answer: Answer) -> tuple[_Hook, ...]:
    """The hooks of one node, in order."""
    programs: dict[str, list[Mapping[str, Any]]] = {}
    for program in answer.seen["programs"]:
        programs.setdefault(str(program["hook"]), []).append(program)
    endpoint = "+".join(answer.seen["ends"])
    return tuple(
        _Hook(
            answer.node,
            endpoint,
            name,
            tuple(str(program["name"]) or "UNKNOWN: it was gone" for program in there),
            sum(int(program["runs"]) for program in there),
            sum(int(program["ns"]) for program in there),
        )
        for name, there in programs.items()
    )


def _facts(found: Iterable[Answer]) -> tuple[Fact, ...]:
    """Hooks whose programs were replaced while watched: their numbers are of a part of it."""
    return tuple(
        Fact(answer.node, f"{BpfPrograms.name}_changed", ", ".join(map(str, changed)))
        for answer in found
        if (changed := answer.seen["changed"])
    )
