"""All that watches a campaign: the nodes' counters, the flow's first packets, the probes.

Attached once, armed and read per trial. A probe that cannot run does not end the campaign: the
trial carries the reason as a warning.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ebpfperf import probes, wire
from ebpfperf.errors import NodeError, ProbeError
from ebpfperf.model import ALWAYS_ON, Endpoint, Fact, Flow, Reading, Status, Trial
from ebpfperf.probes.host_counters import HostCounters
from ebpfperf.probes.observers import Observers

if TYPE_CHECKING:
    from ebpfperf.cluster import Cluster
    from ebpfperf.network_view import NodeView
    from ebpfperf.remote import Node

(COUNTERS,) = ALWAYS_ON


class Seen:
    """What was seen of one trial."""

    def __init__(self, counters: HostCounters, warnings: Iterable[str]) -> None:
        self._counters = counters
        self._warnings = list(warnings)
        self._collected: dict[str, Mapping[str, bytes]] = {}
        self.facts: tuple[Fact, ...] = ()

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
            if name == wire.SEEN:
                continue
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
        self._capture = wire.Capture()
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
    def armed(
        self,
        trial: Trial,
        client: Endpoint,
        server: Endpoint,
        *,
        views: Mapping[str, NodeView] | None = None,
    ) -> Iterator[Seen]:
        """The probes live inside the block; ``Seen`` is filled when it ends without an error.

        ``views``: node → what it shows, which tells its NIC.
        """
        wanted = [name for name in self._names if name in trial.probes]
        refused = ((name, self._refused[name]) for name in wanted if name in self._refused)
        seen = Seen(self._counters, (f"probe {name}: {why}" for name, why in refused))
        live = [name for name in wanted if name not in self._refused]
        nics = {name: view.nic.name for name, view in (views or {}).items() if view.nic}
        with self._captured(seen, trial, client, server, views or {}) as listening:
            live = self._arm_probes(seen, trial.flow, client, server, live)
            listening()
            # Last armed, first read: the counters see the least besides the traffic.
            counted = self._arm_counters(seen, trial.flow, client, server, nics)
            self._flow, self._live, self._counted = trial.flow, bool(live), counted
            try:
                yield seen
            finally:
                self._flow = None
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

    @contextlib.contextmanager
    def _captured(
        self,
        seen: Seen,
        trial: Trial,
        client: Endpoint,
        server: Endpoint,
        views: Mapping[str, NodeView],
    ) -> Iterator[Callable[[], None]]:
        """The flow's first packets, captured; the function waits until that has begun."""
        expected = wire.expected(trial.treatment, client, server, views)
        view = views.get(client.node)
        if view is None or view.nic is None or not wire.looks_at(client, server):
            seen.facts += tuple(wire.facts(None, expected, client=client, server=server))
            yield lambda: None
            return
        ends = wire.Ends(client.address, server.address)
        node, nic = self._nodes[client.node], view.nic.name
        with self._capture.during(node, nic, trial.flow, ends) as (caught, listening):
            yield listening
        seen.facts += tuple(wire.facts(caught, expected, client=client, server=server))
        if caught.printed:
            seen.add({wire.SEEN: {wire.FILE: caught.printed}})

    def _arm_probes(
        self, seen: Seen, flow: Flow, client: Endpoint, server: Endpoint, live: list[str]
    ) -> list[str]:
        """Those of the probes that watch."""
        try:
            if live:
                found = self._observers.arm(live, flow, client, server)
                for name, why in found.items():
                    seen.warn(name, why)
            elif self._names:
                self._observers.rest()
        except (ProbeError, NodeError) as error:
            seen.warn(", ".join(live) or "all", error)
            return []
        return live

    def _arm_counters(
        self, seen: Seen, flow: Flow, client: Endpoint, server: Endpoint, nics: Mapping[str, str]
    ) -> bool:
        """Whether the counters were read."""
        try:
            self._counters.arm(flow, client, server, nics=nics)
        except (ProbeError, NodeError) as error:
            seen.warn(COUNTERS, error)
            return False
        return True

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
