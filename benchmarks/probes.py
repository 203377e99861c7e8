"""What each probe costs the traffic it watches, beside others who ask the same.

    .venv/bin/python benchmarks/probes.py [--blocks N] [--seconds S] [--release R] [--vxlan]
                                          [--probe NAME ...] [--json FILE] [--quick]

Brings up an embedded cluster of its own (root needed), puts one treatment on it once, and lets the
kit's own loads run between two pods: a TCP stream, and requests that are answered one at a time. In
each connection arms take turns of ``--seconds`` in random order:

- ``none``: the probes rest, loaded but attached to nothing; ``none, again`` is the same once more,
  which shows what the method finds where there is nothing to find;
- ``all``: every probe as shipped, in its slices;
- some of the others: each probe alone as shipped; each that works in slices always on; the question
  of each asked by a bpftrace script and by BCC's own tool, where that runs here.

In a block every arm comes once with each load, and those three in every connection. All numbers are
ratios to ``none`` of the same connection, because connections differ from each other for as long as
they last. A turn begins when its programs are compiled and attached. No core may halt while
requests are answered. Bulk never lets them.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import math
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path as File

import numpy as np
from dataplane import Cores, machine
from numpy.typing import NDArray
from turns import AGAIN, ALL, BASE, METRICS, Found, Pair, Turn, report
from twins import Output, Tool, Unusable, events, program_statistics, running, tools

from ebpfperf import loads, probes
from ebpfperf.cluster import Cluster
from ebpfperf.lab import lifecycle
from ebpfperf.lab.running import Lab
from ebpfperf.lab.state import Shape
from ebpfperf.loads.sockperf import LOG
from ebpfperf.model import (
    ALWAYS_ON,
    PROBE_SHARE_PCT,
    ClusterRef,
    Dataplane,
    Endpoint,
    Flow,
    Overlay,
    Path,
    Reading,
    Status,
    Treatment,
)
from ebpfperf.probes.host_counters import HostCounters
from ebpfperf.probes.observers import Observers
from ebpfperf.units import BITS_PER_BYTE, NS_PER_S

Floats = NDArray[np.float64]

LAB = "probes"
SEED = 20261128
ALWAYS = (BASE, AGAIN, ALL)
# Kernel functions are watched by those who name them: functions is no default.
NAMES = tuple(name for name in probes.NAMES if name not in (*ALWAYS_ON, "functions"))
# Those that their node scripts call hot.
SLICED = ("tcp_rtt", "hops", "softirq", "runqueue", "qdisc", "bpf_programs")
FLOWS = (
    Flow("tcp", Path.POD_POD, "tcp", omit_s=0),
    Flow("rr", Path.POD_POD, "request-response", omit_s=0, message_bytes=64),
)
# Probe → its count of events; of the others the bins of its histograms are added.
EVENTS = {
    "hops": "hops_packets",
    "bpf_programs": "bpf_runs",
    "tcp_connect": "connects",
    "drops": "dropped_packets",
    "retransmits": "retransmitted_segments",
}
# The slices of a turn begin with it: the window opens after the first of all probes and holds the
# next ones whole. What the turn before left behind is over by then, too.
SETTLE_S = 0.35
RAMP_S = 1.0
# Switching to an arm and from it, and reading counters, where it is not known yet.
SWITCH_S = 0.5
# Between what sockperf's clock says and what ours does.
GUARD_S = 0.02
# Arms in a connection besides those that come in each.
PER_CONNECTION = 10
# How much longer than the last time an arm may take to be ready and to end.
SPARE = 1.3
# More packets than come before a load's traffic does.
_BEGUN = {"tcp": 100, "request-response": 20}
_POLL_S, _BEGIN_S = 0.002, 30.0


@dataclass(frozen=True, slots=True)
class Arm:
    """What watches in a turn.

    Attributes
    ----------
    probes
        Those that are armed, in their slices or ``always``.
    tool
        Another program that watches.
    counting
        Whether the kernel counts the runs of all programs for the whole turn.
    """

    name: str
    probes: tuple[str, ...] = ()
    always: bool = False
    tool: Tool | None = None
    counting: bool = False


def arms_for(names: Sequence[str]) -> tuple[tuple[Arm, ...], tuple[Pair, ...]]:
    """The arms for those probes, and which of them ask alike."""
    arms = [Arm(BASE), Arm(AGAIN), Arm(ALL, tuple(names))]
    alike = []
    for name in names:
        own = [Arm(name, (name,))]
        if name in SLICED and name != "bpf_programs":
            own.append(Arm(f"{name}, always on", (name,), always=True))
        others = [Arm(tool.name, tool=tool) for tool in tools() if tool.probe == name]
        if name == "bpf_programs":
            others.append(Arm("BPF_ENABLE_STATS, always on", counting=True))
        alike += [Pair(arm.name, other.name, not arm.always) for other in others for arm in own]
        arms += [*own, *others]
    return tuple(arms), tuple(alike)


@dataclass(slots=True)
class Watched:
    """How many events an arm's watcher counted, None where nothing does, and for how long."""

    events: int | None = None
    seconds: float = 0.0

    @property
    def rate(self) -> float | None:
        """Events a second."""
        return None if self.events is None else self.events / self.seconds


class Bench:
    """A settled cluster with every probe loaded: switches arms while traffic runs.

    Attributes
    ----------
    headers
        Words on the kernel headers that BCC compiles with.
    took_s
        Arm → how long its last turn was besides its window.
    """

    def __init__(
        self, cluster: Cluster, treatment: Treatment, names: Sequence[str], stack: ExitStack
    ) -> None:
        settled = cluster.settle(treatment, FLOWS)
        path = FLOWS[0].path
        self.client = settled.endpoints[path, "client"]
        self.server = settled.endpoints[path, "server"]
        self.nodes = cluster.nodes
        self.took_s: dict[str, float] = {}
        self.headers = "UNKNOWN: no probe was asked for them"
        self._observers = {}
        for always, wanted, share in ((False, names, PROBE_SHARE_PCT / 100), (True, SLICED, 1.0)):
            of = [probes.probe(name) for name in names if name in wanted]
            observers = Observers(of, share=share, whole=True)
            stack.callback(observers.detach)
            facts = observers.attach(self.nodes)
            if refused := observers.refused():
                raise SystemExit(f"Probes that do not run here: {refused}")
            observers.rest()
            known = (fact.value for fact in facts if fact.name == "probes_headers")
            self.headers = next(known, self.headers)
            self._observers[always] = observers

    def needs_s(self, arm: Arm) -> float:
        """How long a turn of the arm may be besides its window."""
        return SPARE * self.took_s.get(arm.name, SWITCH_S) + SETTLE_S

    @contextlib.contextmanager
    def watching(self, arm: Arm, flow: Flow) -> Iterator[Watched]:
        """That arm watches inside the block and no other; its count is there afterwards."""
        watched = Watched()
        with ExitStack() as stack:
            output = Output()
            if arm.counting:
                stack.enter_context(program_statistics())
            if arm.tool is not None:
                argv = arm.tool.argv(flow, self.client, self.server)
                output = stack.enter_context(running(argv))
            observers = self._observers[arm.always]
            if arm.probes:
                stack.callback(observers.rest)
                if why := observers.arm(arm.probes, flow, self.client, self.server):
                    raise SystemExit(f"{arm.name}: {why}")
            ready = time.monotonic()
            yield watched
            watched.seconds = time.monotonic() - ready
            if arm.probes:
                files = observers.collect()
                readings = {n: probes.probe(n).parse(flow, raw) for n, raw in files.items()}
                watched.events = sum(count(name, seen) for name, seen in readings.items())
        if output.text is not None:
            watched.events = events(output.text)


def count(name: str, seen: Reading) -> int:
    """How many events a probe has seen. SystemExit where it cannot say."""
    if seen.status is not Status.OK:
        raise SystemExit(f"{name}: {seen.reason}")
    if name in EVENTS:
        return int(seen.metrics.get(EVENTS[name], 0))
    return sum(row.count for row in seen.histograms)


@dataclass(frozen=True, slots=True)
class Cut:
    """One arm's part of a connection, as it was measured.

    Attributes
    ----------
    opened, closed
        Its window, in seconds since the traffic began.
    """

    arm: Arm
    opened: float
    closed: float
    counted: Reading
    watched: Watched


def connection(bench: Bench, flow: Flow, order: Sequence[Arm], *, seconds: float) -> list[Turn]:
    """The turns that a connection made for them was long enough for; block and number unset."""
    needed_s = {arm.name: bench.needs_s(arm) + seconds for arm in order}
    length_s = math.ceil(RAMP_S + sum(needed_s.values()))
    long = replace(flow, duration_s=length_s)
    load = loads.load(flow.load)
    cuts: list[Cut] = []
    before = packets(bench.server)
    with ThreadPoolExecutor(max_workers=1) as pool, awake(flow):
        driven = pool.submit(load.drive, long, bench.client, bench.server, bench.nodes)
        begun = begins(bench.server, before + _BEGUN[flow.load], driven)
        time.sleep(RAMP_S)
        for arm in order:
            if driven.done() or time.monotonic() + needed_s[arm.name] > begun + length_s:
                break
            cuts.append(cut(bench, long, arm, begun=begun, seconds=seconds))
        raw = driven.result()
    judged = load.parse(long, raw)
    if judged.status is not Status.OK:
        raise SystemExit(f"{flow.name}: {judged.reason}")
    trips = round_trips(raw[LOG]) if LOG in raw else None
    return [
        Turn(
            block=0,
            connection=0,
            place=place,
            arm=one.arm.name,
            load=flow.load,
            window_s=one.closed - one.opened,
            events_per_s=one.watched.rate,
            values=values(one, flow.load, trips),
        )
        for place, one in enumerate(cuts)
        # A tool may have taken longer than the last time, beyond the end of the traffic.
        if one.closed < length_s
    ]


@contextlib.contextmanager
def awake(flow: Flow) -> Iterator[None]:
    """No core halts inside the block, where ``flow`` would let it."""
    cores = Cores()
    cores.keep_awake(flow.load == "request-response")
    try:
        yield
    finally:
        cores.keep_awake(False)


def cut(bench: Bench, flow: Flow, arm: Arm, *, begun: float, seconds: float) -> Cut:
    """Let an arm watch traffic that began at ``begun`` on the monotonic clock."""
    counters = HostCounters()
    counters.attach(bench.nodes)
    since = time.monotonic()
    with bench.watching(arm, flow) as watched:
        time.sleep(SETTLE_S)
        counters.arm(flow, bench.client, bench.server)
        opened = time.monotonic() - begun
        time.sleep(seconds)
        closed = time.monotonic() - begun
        raw = counters.collect()
    bench.took_s[arm.name] = time.monotonic() - since - SETTLE_S - seconds
    return Cut(arm, opened, closed, counters.parse(flow, raw), watched)


def packets(end: Endpoint) -> int:
    """Packets that the end's device has received until now; its namespace is on this machine."""
    text = File(f"/proc/{end.netns_pid}/net/dev").read_text()
    found = re.search(rf"^\s*{re.escape(end.device)}:\s*\d+\s+(\d+)", text, re.M)
    assert found is not None
    return int(found[1])


def begins(server: Endpoint, received: int, driven: Future[dict[str, bytes]]) -> float:
    """When the server had received so many packets, on the monotonic clock."""
    deadline = time.monotonic() + _BEGIN_S
    while packets(server) < received:
        if driven.done() or time.monotonic() > deadline:
            raise SystemExit(f"No traffic began: {driven.exception() if driven.done() else 'late'}")
        time.sleep(_POLL_S)
    return time.monotonic()


def round_trips(log: bytes) -> tuple[Floats, Floats]:
    """When each request was sent, in seconds since the traffic began, and its nanoseconds.

    Format: sockperf's full log; its first row is of what was sent after its own warm-up.
    """
    rows = gzip.decompress(log).partition(b"latency(usec)")[2].partition(b"-----")[0]
    numbers = np.array(rows.replace(b",", b" ").split(), dtype=np.float64).reshape(-1, 4)
    sent_s, received_s = numbers[:, 1], numbers[:, 2]
    since_s = sent_s - sent_s[0] + loads.WARMUP_S["request-response"]
    return since_s, (received_s - sent_s) * NS_PER_S


def values(cut: Cut, load: str, trips: tuple[Floats, Floats] | None) -> dict[str, float]:
    """The metrics of one turn. SystemExit where a number is missing."""
    if cut.counted.status is not Status.OK:
        raise SystemExit(f"{cut.arm.name}: {cut.counted.reason}")
    found = dict(cut.counted.metrics)
    received = next(
        sample
        for sample in cut.counted.samples
        if (sample.endpoint, sample.metric) == ("server", "device_rx_bytes")
    )
    found["bits_per_s"] = received.value * BITS_PER_BYTE / received.t_s
    if trips is not None:
        since_s, took_ns = trips
        within = (since_s >= cut.opened + GUARD_S) & (since_s < cut.closed - GUARD_S)
        found["rr_mean_ns"] = float(np.mean(took_ns[within]))
        for name, q in (("rr_p50_ns", 0.5), ("rr_p99_ns", 0.99)):
            found[name] = float(np.quantile(took_ns[within], q, method="inverted_cdf"))
    return {metric.name: found[metric.name] for metric in METRICS if metric.load == load}


def usable(bench: Bench, arms: Iterable[Arm]) -> dict[str, str]:
    """Arm → why its tool does not run here; every tool is started once."""
    cannot = {}
    for arm in arms:
        if arm.tool is None:
            continue
        since = time.monotonic()
        try:
            with bench.watching(arm, FLOWS[0]):
                pass
            bench.took_s[arm.name] = time.monotonic() - since
        except Unusable as error:
            cannot[arm.name] = str(error)
    return cannot


def turns(
    bench: Bench, arms: Sequence[Arm], *, blocks: int, seconds: float, seed: int = SEED
) -> Iterator[Turn]:
    """Every turn of every block, connection by connection."""
    order = random.Random(seed)
    always = [arm for arm in arms if arm.name in ALWAYS]
    others = [arm for arm in arms if arm.name not in ALWAYS]
    number = 0
    for block in range(blocks):
        for flow in order.sample(FLOWS, len(FLOWS)):
            left = order.sample(others, len(others))
            while True:
                taken, left = left[:PER_CONNECTION], left[PER_CONNECTION:]
                drawn = order.sample([*always, *taken], len(always) + len(taken))
                found = connection(bench, flow, drawn, seconds=seconds)
                done = {turn.arm for turn in found}
                if BASE in done:
                    yield from (replace(turn, block=block, connection=number) for turn in found)
                    number += 1
                    left += [arm for arm in taken if arm.name not in done]
                else:
                    left += taken
                if not left:
                    break


def measure(
    lab: Lab,
    directory: File,
    *,
    names: Sequence[str],
    blocks: int,
    seconds: float,
    overlay: Overlay,
) -> Found:
    """Put the treatment on that lab, and let the arms for those probes take turns."""
    ref = ClusterRef(kubeconfig=str(lab.kubeconfig), ssh_config=str(lab.ssh_config))
    treatment = Treatment(overlay.value, overlay, dataplane=Dataplane.EBPF)
    arms, alike = arms_for(names)
    found: list[Turn] = []
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster.connect(ref, journal=directory / "journal.json"))
        bench = Bench(cluster, treatment, names, stack)
        cannot = usable(bench, arms)
        for name, why in cannot.items():
            print(f"{name} does not run here: {why}", file=sys.stderr, flush=True)
        arms = tuple(arm for arm in arms if arm.name not in cannot)
        for turn in turns(bench, arms, blocks=blocks, seconds=seconds):
            said = ", ".join(f"{name} {value:.4g}" for name, value in turn.values.items())
            head = f"block {turn.block + 1} of {blocks}, connection {turn.connection + 1}"
            print(f"{head}: {turn.arm}: {said}", file=sys.stderr, flush=True)
            found.append(turn)
    return Found(
        tuple(found),
        tuple(arm.name for arm in arms),
        cannot,
        tuple(pair for pair in alike if pair.other not in cannot),
        bench.headers,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--blocks", type=int, default=6, help="blocks (default 6)")
    parser.add_argument("--seconds", type=float, default=1, help="seconds of a turn (default 1)")
    parser.add_argument("--release", default="v3.26", help="release to present (default v3.26)")
    parser.add_argument("--vxlan", action="store_true", help="with VXLAN; without, no overlay")
    parser.add_argument("--probe", action="append", choices=NAMES, help="only this one; repeatable")
    parser.add_argument("--quick", action="store_true", help="1 block of tcp_rtt: no intervals")
    parser.add_argument("--json", type=File, help="write every turn here")
    arguments = parser.parse_args()
    names, blocks = arguments.probe or NAMES, arguments.blocks
    if arguments.quick:
        names, blocks = ("tcp_rtt",), 1
    overlay = Overlay.VXLAN if arguments.vxlan else Overlay.NONE
    where = machine(arguments.release, let_halt=False)
    try:
        lab, _ = lifecycle.up(Shape(LAB, release=arguments.release))
        with tempfile.TemporaryDirectory(prefix="probes-") as directory:
            found = measure(
                lab,
                File(directory),
                names=names,
                blocks=blocks,
                seconds=arguments.seconds,
                overlay=overlay,
            )
    finally:
        lifecycle.down(LAB)
    if arguments.json:
        document = {"machine": where, "overlay": overlay.value, **asdict(found)}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    print(report(found))
    print(
        f"\n{where['date']}, Linux {where['kernel']}, {where['cpus']} cores for both nodes together"
        f", Calico {arguments.release} as the lab presents it, eBPF, overlay {overlay.value}; each"
        f" probe in slices {PROBE_SHARE_PCT:g} % of the time; load average"
        f" {where['load_average']:.1f} at the start, {os.getloadavg()[0]:.1f} at the end."
    )


if __name__ == "__main__":
    main()
