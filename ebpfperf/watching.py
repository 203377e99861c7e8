"""All that watches a campaign: the nodes' own counters, and the probes in their kernels.

Attached once, armed and read per trial. A probe that cannot run does not end the campaign: the
trial carries the reason as a warning.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ebpfperf import probes
from ebpfperf.errors import NodeError, ProbeError
from ebpfperf.model import ALWAYS_ON, Endpoint, Fact, Flow, Reading, Status, Trial
from ebpfperf.probes.host_counters import HostCounters
from ebpfperf.probes.observers import Observers

if TYPE_CHECKING:
    from ebpfperf.cluster import Cluster
    from ebpfperf.remote import Node

(COUNTERS,) = ALWAYS_ON


class Seen:
    """What was seen of one trial."""

    def __init__(self, counters: HostCounters, warnings: Iterable[str]) -> None:
        self._counters = counters
        self._warnings = list(warnings)
        self._collected: dict[str, Mapping[str, bytes]] = {}

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
            if name == COUNTERS:
                reading = self._counters.parse(trial.flow, files)
            else:
                reading = probes.probe(name).parse(trial.flow, files)
            if reading.status is Status.OK:
                readings[name] = reading
            else:
                self.warn(name, reading.reason)
        return readings

    def warn(self, name: str, why: object) -> None:
        """Note why a probe has nothing to say."""
        self._warnings.append(f"probe {name}: {why}")

    def add(self, collected: Mapping[str, Mapping[str, bytes]]) -> None:
        """Keep what probes brought back: name → their files."""
        self._collected |= collected


class Watch:
    """The probes, attached inside the block; detached at its end.

    Parameters
    ----------
    share_pct
        Percent of the time for which each probe that costs something is on.
    """

    def __init__(
        self, names: Iterable[str], nodes: Mapping[str, Node], *, share_pct: float
    ) -> None:
        self._nodes = nodes
        self._names = tuple(name for name in dict.fromkeys(names) if name not in ALWAYS_ON)
        self._counters = HostCounters()
        self._observers = Observers(map(probes.probe, self._names), share=share_pct / 100)
        # Probe → why it runs nowhere.
        self._refused: dict[str, str] = {}
        # The trial in hand: its flow, and whether probes and counters watch it.
        self._flow: Flow | None = None
        self._live = self._counted = False
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
        wanted = [name for name in self._names if name in trial.probes]
        refused = ((name, self._refused[name]) for name in wanted if name in self._refused)
        seen = Seen(self._counters, (f"probe {name}: {why}" for name, why in refused))
        live = [name for name in wanted if name not in self._refused]
        try:
            if live:
                found = self._observers.arm(live, trial.flow, client, server)
                for name, why in found.items():
                    seen.warn(name, why)
            elif self._names:
                self._observers.rest()
        except (ProbeError, NodeError) as error:
            seen.warn(", ".join(live) or "all", error)
            live = []
        counted = True
        try:
            self._counters.arm(trial.flow, client, server)
        except (ProbeError, NodeError) as error:
            seen.warn(COUNTERS, error)
            counted = False
        self._flow, self._live, self._counted = trial.flow, bool(live), counted
        try:
            yield seen
        finally:
            self._flow = None
        # Last armed, first read: the counters armed last saw the least besides the traffic.
        if counted:
            try:
                seen.add({COUNTERS: self._counters.collect()})
            except (ProbeError, NodeError) as error:
                seen.warn(COUNTERS, error)
        if live:
            try:
                seen.add(self._observers.collect())
            except (ProbeError, NodeError) as error:
                seen.warn(", ".join(live), error)

    def look(self) -> dict[str, Reading]:
        """Probe name → what it saw of the trial in hand until now; empty between trials.

        Reading costs the nodes some milliseconds of processor time, which the trial feels.
        ProbeError, NodeError.
        """
        flow = self._flow
        if flow is None:
            return {}
        readings = {}
        if self._live:
            for name, files in self._observers.collect(last=False).items():
                readings[name] = probes.probe(name).parse(flow, files)
        if self._counted:
            readings[COUNTERS] = self._counters.parse(flow, self._counters.collect())
        return readings

    def _attach(self) -> None:
        self.facts += self._counters.attach(self._nodes)
        try:
            self.facts += self._observers.attach(self._nodes)
            self._refused = self._observers.refused()
        except (ProbeError, NodeError) as error:
            self._refused = dict.fromkeys(self._names, str(error))

    def _detach(self) -> None:
        self._counters.detach()
        self._observers.detach()
