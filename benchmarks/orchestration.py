"""What orchestration costs: wall time of a trial beyond its traffic seconds, three ways.

    .venv/bin/python benchmarks/orchestration.py [--rounds N] [--seconds S] [--json FILE]

Brings up an embedded cluster of its own (root needed), puts one treatment on it once, and then runs
the same trial over and over, the ways taking turns in random order within each round:

- ``ebpfperf``: SSHNode, one connection per node for the whole campaign;
- ``master``: OpenSSH with ControlMaster, one shared connection per node, an ``ssh`` process per
  command; the probe is held by a background ``ssh``, as a careful script would;
- ``plain``: OpenSSH, one ``ssh`` and one login per command. A connection per command cannot hold a
  probe from trial to trial, so the probe is loaded for every trial (BCC compiles each time).

Every trial is the same job by the same code and the same commands on the nodes: counters before,
probe armed, server started, client run, probe read, counters after, what was printed parsed and
written to a file. The ways differ in ``Node`` alone. Each is measured with the probes and without,
so that what the probe costs the plain loop is not mistaken for what its connections cost.
``ebpfperf run, whole`` is a trial of ``ebpfperf run``, with the probes: on top of the above it asks
the API and the nodes whether the treatment still stands and the pods are there, and syncs a record
to the disk.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path as File

from openssh_node import OpenSSHNode

from ebpfperf import loads, probes, runner
from ebpfperf.cluster import Cluster
from ebpfperf.intervals import paired_interval
from ebpfperf.lab import lifecycle
from ebpfperf.lab.running import Lab
from ebpfperf.lab.state import Shape
from ebpfperf.model import (
    Campaign,
    ClusterRef,
    Endpoint,
    Flow,
    Overlay,
    Path,
    Status,
    Treatment,
    TrialResult,
)
from ebpfperf.probes.host_counters import HostCounters
from ebpfperf.probes.observers import Observers
from ebpfperf.remote import Node
from ebpfperf.stats import Interval
from ebpfperf.store import Store

LAB = "orchestration"
TRACED, COUNTERS = PROBES = ("tcp_rtt", "host_counters")
TREATMENT = Treatment("none", Overlay.NONE)
RUNNER = "ebpfperf run, whole"
COMPARED = (
    ("ebpfperf with probes", "plain with probes"),
    ("ebpfperf bare", "plain bare"),
    ("ebpfperf with probes", "master with probes"),
    ("ebpfperf bare", "master bare"),
    (RUNNER, "plain with probes"),
    (RUNNER, "master with probes"),
)


@dataclass
class Way:
    """One way to run a trial.

    Attributes
    ----------
    probed
        Whether its trials are watched.
    held
        What it keeps loaded from trial to trial; None: it loads it for every trial.
    """

    name: str
    nodes: Mapping[str, Node]
    probed: bool
    held: Observers | None

    def trial(self, flow: Flow, ends: tuple[Endpoint, Endpoint], out: File) -> float:
        """Seconds beyond the traffic that one trial took."""
        begun = time.monotonic()
        load = loads.load(flow.load)
        with ExitStack() as stack:
            watch: Callable[[], dict[str, Mapping[str, bytes]]] = dict
            if self.probed:
                observers = self.held or attached(self.nodes, stack)
                watch = armed(observers, self.nodes, flow, ends)
            raw = load.drive(flow, *ends, self.nodes)
            readings = [load.parse(flow, raw)]
            for name, files in watch().items():
                parse = HostCounters().parse if name == COUNTERS else probes.probe(name).parse
                readings.append(parse(flow, files))
                raw |= files
        out.mkdir(exist_ok=True)
        for name, content in raw.items():
            (out / name).write_bytes(content)
        took_s = time.monotonic() - begun
        for reading in readings:
            if reading.status is not Status.OK:
                raise SystemExit(f"{self.name}: a trial failed: {reading.reason}")
        return took_s - load.traffic_s(flow)


def attached(nodes: Mapping[str, Node], stack: ExitStack) -> Observers:
    """The probes, loaded on the nodes until the stack is left."""
    observers = Observers([probes.probe(TRACED)])
    stack.callback(observers.detach)
    observers.attach(nodes)
    if refused := observers.refused():
        raise SystemExit(f"A probe cannot run here: {refused}")
    return observers


def armed(
    observers: Observers, nodes: Mapping[str, Node], flow: Flow, ends: tuple[Endpoint, Endpoint]
) -> Callable[[], dict[str, Mapping[str, bytes]]]:
    """Have all probes watch; what comes back reads them, as probe → its files."""
    if warnings := observers.arm([TRACED], flow, *ends):
        raise SystemExit(f"A probe cannot be armed: {warnings}")
    counters = HostCounters()
    counters.attach(nodes)
    counters.arm(flow, *ends)
    return lambda: {COUNTERS: counters.collect(), **observers.collect()}


def ways(cluster: Cluster, ssh_config: File, stack: ExitStack) -> list[Way]:
    """Every way, connected, with and without probes."""
    found = []
    # Not in the campaign's directory: a socket's path has 107 bytes at most.
    control = File(stack.enter_context(tempfile.TemporaryDirectory(prefix="ssh-", dir="/tmp")))
    for name in ("ebpfperf", "master", "plain"):
        nodes: Mapping[str, Node] = cluster.nodes
        if name != "ebpfperf":
            nodes = {
                node: OpenSSHNode(
                    node, ssh_config=ssh_config, control=control if name == "master" else None
                )
                for node in cluster.nodes
            }
            for node in nodes.values():
                node.run(["true"])
                stack.callback(node.close)
        held = attached(nodes, stack) if name != "plain" else None
        found.append(Way(f"{name} with probes", nodes, True, held))
        found.append(Way(f"{name} bare", nodes, False, None))
    return found


def rounds(
    cluster: Cluster, campaign: Campaign, all_ways: list[Way], *, directory: File, warm_up: int
) -> Iterator[dict[str, float]]:
    """Way → seconds beyond the traffic, for each round; the first ``warm_up`` are left out."""
    (flow,) = campaign.flows
    store = Store.create(directory / "campaign", campaign)
    results = runner.run(store, connect=lambda ref, journal: cluster)
    order = random.Random(campaign.seed)
    with closing(results):
        # Puts the treatment on, loads the runner's own probes: nothing to time.
        _checked(next(results))
        settled = cluster.settle(TREATMENT, campaign.flows)
        ends = (settled.endpoints[flow.path, "client"], settled.endpoints[flow.path, "server"])

        def whole() -> float:
            begun = time.monotonic()
            result = _checked(next(results))
            return time.monotonic() - begun - loads.load(result.trial.flow.load).traffic_s(flow)

        turns: dict[str, Callable[[], float]] = {RUNNER: whole}
        turns |= {
            way.name: partial(way.trial, flow, ends, directory / way.name) for way in all_ways
        }
        for number in range(campaign.blocks - 1):
            took = {name: turns[name]() for name in order.sample(list(turns), len(turns))}
            if number >= warm_up:
                yield took


def _checked(result: TrialResult) -> TrialResult:
    if result.status is not Status.OK or result.warnings:
        raise SystemExit(f"runner: {result.trial.trial_id}: {result.reason} {result.warnings}")
    return result


def ratio(table: Sequence[Mapping[str, float]], way: str, base: str) -> Interval | None:
    """How many times as long ``base`` takes as ``way``, paired by round; None for few rounds."""
    found = paired_interval([math.log(row[base] / row[way]) for row in table], level=0.95)
    if found is None:
        return None
    low, middle, high = (math.exp(x) for x in (found.low, found.estimate, found.high))
    return Interval(middle, low, high, found.level, found.n)


def report(table: Sequence[Mapping[str, float]]) -> str:
    """The numbers as a table, whatever they are, and what they say of the aims."""
    lines = [f"{'beyond the traffic, per trial':32} {'ms':>7}  95 % interval   {len(table)} rounds"]
    for name in sorted(table[0], key=lambda name: statistics.median(r[name] for r in table)):
        found = paired_interval([row[name] * 1e3 for row in table], level=0.95)
        middle = statistics.median(row[name] for row in table) * 1e3
        interval = f"{found.low:.0f} to {found.high:.0f}" if found else "too few rounds"
        lines.append(f"{name:32} {found.estimate if found else middle:7.0f}  {interval}")
    lines.append("")
    lines.append(f"{'times as long, paired by round':46} {'ratio':>7}  95 % interval")
    for way, base in COMPARED:
        found = ratio(table, way, base)
        middle = statistics.median(row[base] / row[way] for row in table)
        interval = f"{found.low:.2f} to {found.high:.2f}" if found else "too few rounds"
        lines.append(
            f"{base + ' / ' + way:46} {found.estimate if found else middle:7.2f}  {interval}"
        )
    return "\n".join(lines)


def measure(
    lab: Lab, directory: File, *, count: int, seconds: int, warm_up: int = 1
) -> list[dict[str, float]]:
    """Seconds beyond the traffic of every way in every round; what was printed is in files."""
    ref = ClusterRef(kubeconfig=str(lab.kubeconfig), ssh_config=str(lab.ssh_config))
    campaign = Campaign(
        name=LAB,
        seed=20261125,
        blocks=count + warm_up + 1,
        baseline=TREATMENT.name,
        treatments=(TREATMENT,),
        flows=(Flow("tcp", Path.POD_POD, "tcp", duration_s=seconds, omit_s=0),),
        probes=PROBES,
        cluster=ref,
    )
    table = []
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster.connect(ref, journal=directory / "journal.json"))
        all_ways = ways(cluster, File(lab.ssh_config), stack)
        for took in rounds(cluster, campaign, all_ways, directory=directory, warm_up=warm_up):
            table.append(took)
            shown = ", ".join(f"{name} {value * 1e3:.0f}" for name, value in took.items())
            print(f"round {len(table)} of {count} (ms): {shown}", file=sys.stderr, flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10, help="rounds that count (default 10)")
    parser.add_argument("--seconds", type=int, default=1, help="traffic of a trial (default 1)")
    parser.add_argument("--json", type=File, help="write the seconds of every round here")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    try:
        lab, _ = lifecycle.up(Shape(LAB))
        with tempfile.TemporaryDirectory(prefix="orchestration-") as name:
            table = measure(lab, File(name), count=arguments.rounds, seconds=arguments.seconds)
    finally:
        lifecycle.down(LAB)
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n")
    print(report(table))
    print(
        f"\n{os.cpu_count()} cores, all of it on one machine; load average {load:.1f} at the start,"
        f" {os.getloadavg()[0]:.1f} at the end. No network delay: over a real one, the plain loop's"
        " logins and everybody's questions take their round trips on top."
    )


if __name__ == "__main__":
    main()
