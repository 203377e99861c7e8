"""Loads: what makes traffic. ``load(name)`` gives one; the modules are imported on first use."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from ebpfperf.model import Endpoint, Flow, Reading
    from ebpfperf.remote import Node

# Name → module and class.
_HOMES = {
    "tcp": ("iperf3", "Tcp"),
    "udp": ("iperf3", "Udp"),
    "request-response": ("sockperf", "RequestResponse"),
}
NAMES: tuple[str, ...] = tuple(_HOMES)

# Where each load's server may listen: the first free port of these. Probes filter on them.
PORTS: Mapping[str, range] = {
    "tcp": range(5201, 5217),
    "udp": range(5201, 5217),
    "request-response": range(11111, 11127),
}


class Load(Protocol):
    """Drives one flow with programs on the nodes, and reads what they printed."""

    @property
    def name(self) -> str:
        """Name in campaign files."""
        ...

    @property
    def binaries(self) -> tuple[str, ...]:
        """Programs that both nodes need."""
        ...

    def traffic_s(self, flow: Flow) -> float:
        """Seconds that driving ``flow`` takes by itself, warm-up included."""
        ...

    def check(self, flow: Flow) -> str | None:
        """A sentence when this load cannot drive ``flow``; None when it can."""
        ...

    def drive(
        self, flow: Flow, client: Endpoint, server: Endpoint, nodes: Mapping[str, Node]
    ) -> dict[str, bytes]:
        """File name → bytes of what the programs printed; nothing is left running.

        Raises
        ------
        LoadError
            The flow could not be driven; field ``reason`` is one of ``reasons.Reason``.
        NodeError
            A node could not be reached.
        """
        ...

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        """The numbers in recorded bytes, or why there are none. Pure."""
        ...


def load(name: str) -> Load:
    """The load of that name; KeyError when there is none (``NAMES`` lists them)."""
    module, kind = _HOMES[name]
    return cast("Load", getattr(import_module(f"ebpfperf.loads.{module}"), kind)())
