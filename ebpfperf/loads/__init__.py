"""Loads: what makes traffic. ``load(name)`` gives one; the modules are imported on first use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from ebpfperf.loads.serving import Server
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
# Seconds that the load's program leaves out by itself, whatever it is asked.
WARMUP_S: Mapping[str, float] = {"tcp": 0.0, "udp": 0.0, "request-response": 0.4}
# The first ports of each are enough in a pod of the kit's own, where nothing else listens. More
# than one, because a port whose last connections are still in TIME_WAIT may refuse a server.
SERVICE_PORTS = 4


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

    def serve(
        self, flow: Flow, server: Endpoint, nodes: Mapping[str, Node]
    ) -> AbstractContextManager[Server]:
        """The flow's server, listening at ``server`` for the length of the block.

        Raises
        ------
        LoadError, NodeError
            As ``drive``.
        """
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


def service_ports(flows: Iterable[Flow]) -> tuple[tuple[int, str], ...]:
    """(port, ``TCP`` or ``UDP``) that a Service in front of these flows' servers must have.

    TCP always: iperf3 controls by it, and a connection is how a path is seen to be served.
    """
    found: set[tuple[int, str]] = set()
    for flow in flows:
        udp = flow.load == "udp" or (flow.load != "tcp" and flow.transport == "udp")
        for port in PORTS[flow.load][:SERVICE_PORTS]:
            found |= {(port, "TCP"), *([(port, "UDP")] if udp else [])}
    return tuple(sorted(found))


def load(name: str) -> Load:
    """The load of that name; KeyError when there is none (``NAMES`` lists them)."""
    module, kind = _HOMES[name]
    return cast("Load", getattr(import_module(f"ebpfperf.loads.{module}"), kind)())
