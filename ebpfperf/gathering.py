"""Gathers everything that a diagnosis is made of: the API's lists, and of each node its answers.

Nodes are asked at once, each over one connection. Nothing is changed; the two probes of the
underlay send a few datagrams between nodes.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ebpfperf import (
    conditions,
    drop_reading,
    gathering_api,
    map_reading,
    reach,
    traffic_probe,
    underlay_probe,
)
from ebpfperf.errors import EbpfperfError, NodeError
from ebpfperf.evidence import Evidence, Item
from ebpfperf.evidence_sources import (
    API_SOURCES,
    COUNTS,
    LATER,
    LOG,
    MACHINE,
    MAP_KINDS,
    MAPS,
    NODE_SOURCES,
    SUPPORT_SOURCES,
    NodeSource,
)
from ebpfperf.gathering_api import now_utc
from ebpfperf.kube import Kube
from ebpfperf.reach import AT_ONCE
from ebpfperf.remote import Node

TIMEOUT_S = 20.0
# A node's conntrack map has room for 512 000 connections where nobody changed that.
_MOST_OF_A_NODE, _MOST_OF_ALL, _FEWEST_ENTRIES = 600_000, 3_000_000, 20_000


def gather(
    kube: Kube,
    names: Sequence[str],
    *,
    ssh_config: Path | None,
    seconds: float,
    maps: bool = True,
    only: Collection[str] | None = None,
    connected: Mapping[str, Node] | None = None,
    support: bool = False,
    most_entries: int = map_reading.MOST_ENTRIES,
    traffic_s: float = 0.0,
    probes: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Evidence:
    """The evidence of these nodes and of the cluster.

    Parameters
    ----------
    seconds
        Between the two readings of what is counted; 0: one reading alone.
    maps
        Whether BPF maps are read as well.
    only
        Names of the sources that are gathered; None: all.
    connected
        Nodes that are connected already and stay so; None: they are connected here.
    support
        Whether also what no check reads and people ask for: ``SUPPORT_SOURCES``, and calico-node's
        log from before its last restart.
    most_entries
        How many entries of each map are read.
    traffic_s
        Of each of two tests between two nodes, after everything else; 0: no traffic.
    probes
        Whether a few datagrams are sent between the nodes (``underlay_probe``), where all sources
        are gathered.
    say
        Told what is done now, in a few words.

    Raises
    ------
    KubeError
        The API cannot be reached at all; what it refuses of single lists, or does not answer in
        time, is in their items.
    """
    begun = now_utc()
    say("asking the API")
    asked = [source for source in API_SOURCES if only is None or source.name in only]
    items = [gathering_api.listed(kube, each, first=each is asked[0]) for each in asked]
    release = gathering_api.release_of(kube, items)
    others = gathering_api.windows(items)
    asked_of = [name for name in names if name not in others]
    if only is None or LOG in only:
        items += gathering_api.logs(kube, asked_of, before=support)
    say(f"asking {len(asked_of)} nodes")
    nodes, refused = (
        reach.log_in(asked_of, ssh_config=ssh_config) if connected is None else (connected, {})
    )
    try:
        with ThreadPoolExecutor(max_workers=min(AT_ONCE, len(nodes) or 1)) as pool:
            begun_at = time.monotonic()
            for found in pool.map(lambda node: _first(node, only), nodes.values()):
                items += found
            if only is None or MACHINE in only:
                known = gathering_api.addresses_of(items)
                items += pool.map(lambda node: _machine(node, known), nodes.values())
            if maps:
                items += pool.map(lambda node: _maps(node, most_entries), nodes.values())
            if support:
                for found in pool.map(_support, nodes.values()):
                    items += found
            passed_s = 0.0
            if seconds:
                say("counting")
                time.sleep(max(0.0, seconds - (time.monotonic() - begun_at)))
                passed_s = time.monotonic() - begun_at
                for found in pool.map(_later, nodes.values()):
                    items += found
                items += [
                    gathering_api.listed(kube, each, LATER) for each in API_SOURCES if each.twice
                ]
            # Last: what was counted before is without what follows.
            if probes and only is None:
                say("trying the underlay")
                items += underlay_probe.measure(nodes, _so_far(items, asked_of, release))
            if traffic_s:
                items.append(
                    traffic_probe.measure(
                        nodes,
                        gathering_api.addresses_of(items),
                        seconds=traffic_s,
                        taken_utc=now_utc(),
                        say=say,
                    )
                )
    finally:
        for node in nodes.values() if connected is None else ():
            node.close()
    return Evidence.of(
        items,
        nodes=asked_of,
        release=release,
        taken_utc=begun,
        seconds=passed_s,
        lost={name: error.what for name, error in refused.items()},
    )


def _so_far(items: Iterable[Item], names: Sequence[str], release: str) -> Evidence:
    return Evidence.of(items, nodes=names, release=release, taken_utc=now_utc())


def entries_of_each(nodes: int) -> int:
    """How many entries of each map are read of so many nodes, for an archive of bounded size."""
    return max(_FEWEST_ENTRIES, min(_MOST_OF_A_NODE, _MOST_OF_ALL // max(nodes, 1)))


# ---------------------------------------------------------------------------------- nodes


def _first(node: Node, only: Collection[str] | None) -> list[Item]:
    # What is read twice first: the time between its readings is the longest that there is.
    ordered = sorted(NODE_SOURCES, key=lambda source: not source.twice)
    asked = [source for source in ordered if only is None or source.name in only]
    counted = [_counts(node, "")] if only is None or COUNTS in only else []
    return [*counted, *(_command(node, source, "") for source in asked)]


def _later(node: Node) -> list[Item]:
    twice = [source for source in NODE_SOURCES if source.twice]
    return [_counts(node, LATER), *(_command(node, source, LATER) for source in twice)]


def _command(node: Node, source: NodeSource, ending: str) -> Item:
    taken, asked = now_utc(), shlex.join(source.argv)
    name = source.name + ending
    try:
        done = node.run(source.argv, timeout_s=TIMEOUT_S, check=False)
    except NodeError as error:
        return Item(name, node.name, asked, taken, error=error.what)
    content = done.stdout if done.stdout or not done.status else done.stderr
    return Item(name, node.name, asked, taken, content, done.status)


def _counts(node: Node, ending: str) -> Item:
    asked = "tc -s qdisc show; tc filter show; bpftool map dump (Calico's counters)"
    told = drop_reading.question()
    return _script(node, COUNTS + ending, asked, told, what="what its programs count")


def _machine(node: Node, addresses: Mapping[str, str]) -> Item:
    asked = "ethtool -k NIC; cat /proc/irq/*/smp_affinity_list …"
    told = conditions.machine_question(addresses.get(node.name))
    return _script(node, MACHINE, asked, told, what="its NIC and processors")


def _script(node: Node, name: str, asked: str, told: bytes, *, what: str) -> Item:
    """The item of a script of ours that the node's Python runs."""
    taken = now_utc()
    try:
        done = node.run(conditions.COMMAND, input=told, timeout_s=TIMEOUT_S, check=False)
    except NodeError as error:
        return Item(name, node.name, asked, taken, error=error.what)
    if done.status:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        why = f"{what} cannot be read: {said or f'status {done.status}'}"
        return Item(name, node.name, asked, taken, status=done.status, error=why)
    return Item(name, node.name, asked, taken, done.stdout, done.status)


def _support(node: Node) -> list[Item]:
    return [_command(node, source, "") for source in SUPPORT_SOURCES]


def _maps(node: Node, most_entries: int) -> Item:
    taken, asked = now_utc(), f"bpftool map dump (Calico's {', '.join(MAP_KINDS)})"
    try:
        content = map_reading.answer(node, MAP_KINDS, most_entries=most_entries)
    except EbpfperfError as error:
        return Item(MAPS, node.name, asked, taken, error=error.what)
    return Item(MAPS, node.name, asked, taken, content, 0)
