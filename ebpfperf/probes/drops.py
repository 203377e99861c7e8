"""Packets that the kernels of a flow's ends dropped, and why (``node/drops.py``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from ebpfperf.model import Fact, Flow, Reading, Sample
from ebpfperf.probes import answers

# include/uapi/linux/if_ether.h
_PROTOCOLS = {0x0800: "IPv4", 0x0806: "ARP", 0x86DD: "IPv6"}


class Drops:
    """The ``drops`` probe; docs/probes.md says what it measures."""

    name: ClassVar[str] = "drops"
    per_node: ClassVar[bool] = False

    def skip(self, flow: Flow) -> str:
        """Nothing: every flow has packets that may be dropped."""
        return ""

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        """``dropped_packets`` of the ends' whole kernels in the window; zero where none was.

        ``flow_dropped_packets`` are those among them that are the flow's own, encapsulated or not;
        there is no such number where a kernel does not describe its types. Samples per kernel:
        ``dropped:<REASON>@<function>``, ``flow_dropped:…``, ``dropped_protocol:<protocol>``, and
        ``freed:…`` for what was freed with a reason that is no loss.
        """
        try:
            found = answers.read(self.name, raw)
            kernels = [(answer.endpoint, _counted(answer.seen["drops"])) for answer in found.of]
            missed = sum(int(answer.seen["missed"]) for answer in found.of)
            of_flow = all(answer.seen["of_flow"] for answer in found.of)
        except answers.DAMAGE as error:
            return answers.damaged(error)
        facts = found.facts(self.name)
        if found.skipped:
            return Reading(facts=facts)
        if missed:
            facts += (Fact("", "drops_without_room", str(missed), "1"),)
        metrics = {"dropped_packets": float(_total(kernels, "dropped:"))}
        if of_flow:
            metrics["flow_dropped_packets"] = float(_total(kernels, "flow_dropped:"))
        samples = tuple(
            Sample(self.name, endpoint, metric, "1", 0.0, float(number))
            for endpoint, counts in kernels
            for metric, number in sorted(counts.items())
        )
        return Reading(metrics=metrics, samples=samples, facts=facts)


def _counted(drops: list[Mapping[str, Any]]) -> Counter[str]:
    """Sample name → number, of one kernel."""
    counts: Counter[str] = Counter()
    for drop in drops:
        for name in _names(drop):
            counts[name] += int(drop["count"])
    return counts


def _names(drop: Mapping[str, Any]) -> Iterator[str]:
    where = f"{drop['reason']}@{drop['place']}"
    if not drop["loss"]:
        yield f"freed:{where}"
        return
    yield f"dropped:{where}"
    if drop["flow"]:
        yield f"flow_dropped:{where}"
    protocol = int(drop["protocol"])
    yield f"dropped_protocol:{_PROTOCOLS.get(protocol, f'0x{protocol:04x}')}"


def _total(kernels: list[tuple[str, Counter[str]]], kind: str) -> int:
    return sum(
        number for _, counts in kernels for name, number in counts.items() if name.startswith(kind)
    )
