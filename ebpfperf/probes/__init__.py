"""Probes: what watches a trial. ``probe(name)`` gives one; modules are imported on first use."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from ebpfperf.model import ALWAYS_ON

if TYPE_CHECKING:
    from ebpfperf.model import Flow, Reading

# Name → module and class.
_HOMES = {
    "tcp_rtt": ("tcp_rtt", "TcpRtt"),
    "hops": ("hops", "Hops"),
    "softirq": ("softirq", "Softirq"),
    "runqueue": ("runqueue", "Runqueue"),
    "qdisc": ("qdisc", "Qdisc"),
    "bpf_programs": ("bpf_programs", "BpfPrograms"),
    "functions": ("functions", "Functions"),
    "tcp_connect": ("tcp_connect", "TcpConnect"),
    "drops": ("drops", "Drops"),
    "retransmits": ("retransmits", "Retransmits"),
}
NAMES: tuple[str, ...] = (*_HOMES, *ALWAYS_ON)


class Probe(Protocol):
    """What is asked of the nodes for one probe, and what its answers mean. Pure.

    Its node script is ``probes/node/<name>.py``; ``observers`` holds it there.
    """

    @property
    def name(self) -> str:
        """Name in campaign files, of its node script, and of its histograms and samples."""
        ...

    @property
    def per_node(self) -> bool:
        """Whether it runs once a node, also where nodes share a kernel."""
        ...

    def skip(self, flow: Flow) -> str:
        """Why there is nothing of ``flow`` to watch; empty when there is."""
        ...

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        """The numbers in recorded bytes (``answers.file(name)``), or why there are none."""
        ...


def probe(name: str) -> Probe:
    """The probe of that name; KeyError when there is none (``NAMES`` lists them)."""
    module, kind = _HOMES[name]
    return cast("Probe", getattr(import_module(f"ebpfperf.probes.{module}"), kind)())
