"""All probes of a campaign together: attached once, armed and read per trial.

A probe that cannot run does not end the campaign: the trial carries the reason as a warning.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ebpfperf import probes
from ebpfperf.errors import NodeError, ProbeError
from ebpfperf.model import ALWAYS_ON, Endpoint, Fact, Reading, Status, Trial

if TYPE_CHECKING:
    from ebpfperf.cluster import Cluster
    from ebpfperf.probes import Probe
    from ebpfperf.remote import Node


class Seen:
    """What the probes brought back from one trial."""

    def __init__(self, watch: Mapping[str, Probe], warnings: Iterable[str]) -> None:
        self._probes = watch
        self._warnings = list(warnings)
        self._collected: dict[str, dict[str, bytes]] = {}

    @property
    def raw(self) -> dict[str, bytes]:
        """File name → bytes, of all probes."""
        return {name: data for files in self._collected.values() for name, data in files.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why a probe has nothing to say."""
        return tuple(self._warnings)

    def read(self, trial: Trial) -> dict[str, Reading]:
        """Probe name → its reading; one that failed is a warning."""
        readings = {}
        for name, files in self._collected.items():
            reading = self._probes[name].parse(trial.flow, files)
            if reading.status is Status.OK:
                readings[name] = reading
            else:
                self.warn(name, reading.reason)
        return readings

    def warn(self, name: str, why: object) -> None:
        """Note why a probe has nothing to say."""
        self._warnings.append(f"probe {name}: {why}")

    def collect(self, name: str) -> None:
        """Take what an armed probe saw, or note why it cannot be had."""
        try:
            self._collected[name] = self._probes[name].collect()
        except (ProbeError, NodeError) as error:
            self.warn(name, error)


class Watch:
    """The probes, attached inside the block; detached at its end."""

    def __init__(self, names: Iterable[str], nodes: Mapping[str, Node]) -> None:
        self._names = tuple(names)
        self._nodes = nodes
        self._probes: dict[str, Probe] = {}
        self._refused: dict[str, str] = {}
        self.facts: tuple[Fact, ...] = ()

    def __enter__(self) -> Self:
        self._attach()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._detach()

    def renew(self, cluster: Cluster) -> None:
        """Replace connections that were lost, and attach again what ran over them.

        Raises
        ------
        ConnectError
            A node stays out of reach.
        """
        lost = [name for name, node in cluster.nodes.items() if not getattr(node, "alive", True)]
        if not lost:
            return
        self._detach()
        for name in lost:
            cluster.reconnect(name)
        self._attach()

    @contextlib.contextmanager
    def armed(self, trial: Trial, client: Endpoint, server: Endpoint) -> Iterator[Seen]:
        """The probes live inside the block; ``Seen`` is filled when it ends without an error."""
        wanted = (*ALWAYS_ON, *trial.probes)
        self._keep(wanted)
        refused = ((name, why) for name, why in self._refused.items() if name in wanted)
        seen = Seen(self._probes, (f"probe {name}: {why}" for name, why in refused))
        live = []
        for name, probe in self._probes.items():
            try:
                probe.arm(trial.flow, client, server)
                live.append(name)
            except (ProbeError, NodeError) as error:
                seen.warn(name, error)
        yield seen
        # Last armed, first read: the counters armed last saw the least besides the traffic.
        for name in reversed(live):
            seen.collect(name)

    def _keep(self, wanted: Iterable[str]) -> None:
        """Have the probes of ``wanted`` on the nodes, and no other."""
        # A program that is loaded runs and costs, armed or not.
        for name in set(self._probes) - set(wanted):
            self._probes.pop(name).detach()
        for name in self._names:
            if name in wanted and name not in self._probes and name not in self._refused:
                self._attach_one(name)

    def _attach(self) -> None:
        self._refused = {}
        for name in self._names:
            self._attach_one(name)

    def _attach_one(self, name: str) -> None:
        probe = probes.probe(name)
        try:
            self.facts += probe.attach(self._nodes)
            self._probes[name] = probe
        except (ProbeError, NodeError) as error:
            self._refused[name] = str(error)

    def _detach(self) -> None:
        for probe in self._probes.values():
            probe.detach()
        self._probes = {}
