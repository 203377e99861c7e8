"""Probes: what watches a trial. ``probe(name)`` makes one; modules are imported on first use."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from ebpfperf.model import Endpoint, Fact, Flow, Reading
    from ebpfperf.remote import Node

# Name → module and class.
_HOMES = {
    "tcp_rtt": ("tcp_rtt", "TcpRtt"),
    "host_counters": ("host_counters", "HostCounters"),
}
NAMES: tuple[str, ...] = tuple(_HOMES)


class Probe(Protocol):
    """Watches the nodes during each trial: attached once, then armed and collected per trial."""

    @property
    def name(self) -> str:
        """Name in campaign files, and of its histograms and samples."""
        ...

    @property
    def needs_root(self) -> bool:
        """Whether it needs root on the nodes."""
        ...

    def attach(self, nodes: Mapping[str, Node]) -> tuple[Fact, ...]:
        """Facts of what was loaded on each node; once per campaign.

        Raises
        ------
        ProbeError
            A node cannot run it; field ``reason`` is a short code. Nothing is left behind.
        NodeError
            A node could not be reached.
        """
        ...

    def arm(self, flow: Flow, client: Endpoint, server: Endpoint) -> None:
        """Begin watching ``flow``; returns when live. ProbeError, NodeError."""
        ...

    def collect(self) -> dict[str, bytes]:
        """File name → bytes of what was seen since ``arm``. ProbeError, NodeError."""
        ...

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        """The numbers in recorded bytes, or why there are none. Pure."""
        ...

    def detach(self) -> None:
        """End whatever runs on the nodes. Idempotent; raises nothing."""
        ...


def probe(name: str) -> Probe:
    """A new probe of that name; KeyError when there is none (``NAMES`` lists them)."""
    module, kind = _HOMES[name]
    return cast("Probe", getattr(import_module(f"ebpfperf.probes.{module}"), kind)())
