"""What the underlay carries between two nodes' own addresses: iperf3 with one stream and with many.

The server listens to the node's address for as long as a test takes, and is always ended. Nothing
of the cluster is changed; both nodes carry as much traffic as they can for some seconds.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from ebpfperf.errors import EbpfperfError, NodeError
from ebpfperf.evidence import API, Item
from ebpfperf.evidence_sources import TRAFFIC
from ebpfperf.loads import load
from ebpfperf.model import Endpoint, Flow, Path, Workload, WorkloadKind
from ebpfperf.network_view import LINKS_ARGV, Link, link_of, parse_links
from ebpfperf.probes import circumstances
from ebpfperf.probes.host_text import Snapshot, parse_snapshot, read_argv
from ebpfperf.remote import Node

STREAMS = (1, 8)
_WARM_FROM_S = 5
_TIMEOUT_S = 20.0
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def measure(
    nodes: Mapping[str, Node],
    addresses: Mapping[str, str],
    *,
    seconds: float,
    taken_utc: str,
    say: Callable[[str], None] = lambda text: None,
) -> Item:
    """What was carried from the first to the second node that was reached.

    The content is JSON: ``client`` and ``server`` (``node``, ``address``, ``nic``, ``kind``,
    ``mtu_bytes``, ``speed_mbit_per_s``, ``boot_id``), and ``runs``, one for each number of streams:
    ``streams``, ``seconds``, ``received_bits_per_s``, ``retransmits``, ``variation_pct`` of the
    rates of intervals, ``cores_pct`` (client, server: the busiest processor) and ``process_pct``
    (iperf3 itself, percent of one core), or ``failed`` with the reason.

    Parameters
    ----------
    addresses
        Node → its InternalIP.
    seconds
        Of each test.
    """
    ends = [name for name in nodes if name in addresses][:2]
    asked = f"iperf3 -c ADDRESS -t {whole_s(seconds)} -P 1; … -P {STREAMS[-1]}"
    if len(ends) < len(STREAMS):
        why = "traffic needs two nodes that SSH reaches and that have an IPv4 InternalIP"
        return Item(TRAFFIC, API, asked, taken_utc, error=why)
    client, server = ends
    asked = f"iperf3 from {client}: {asked.replace('ADDRESS', addresses[server])}"
    try:
        places = {name: _place(nodes[name], addresses[name]) for name in ends}
        told: dict[str, Any] = {
            word: _told(nodes[name], places[name])
            for word, name in (("client", client), ("server", server))
        }
        runs = []
        for streams in STREAMS:
            say(f"traffic from {client} to {server}, streams: {streams}")
            flow = _flow(streams, seconds)
            runs.append(_run(flow, places[client], places[server], nodes))
    except EbpfperfError as error:
        return Item(TRAFFIC, API, asked, taken_utc, error=error.what)
    except ValueError as error:
        return Item(TRAFFIC, API, asked, taken_utc, error=f"no devices can be read: {error}")
    content = json.dumps({**told, "runs": runs}, indent=1).encode()
    return Item(TRAFFIC, API, asked, taken_utc, content, 0)


def whole_s(seconds: float) -> int:
    """Seconds as iperf3 takes them: whole, at least one."""
    return max(1, round(seconds))


def _flow(streams: int, seconds: float) -> Flow:
    whole = whole_s(seconds)
    omit_s = 1 if whole >= _WARM_FROM_S else 0
    return Flow("underlay", Path.HOST_HOST, "tcp", streams=streams, duration_s=whole, omit_s=omit_s)


def _run(
    flow: Flow, client: Endpoint, server: Endpoint, nodes: Mapping[str, Node]
) -> dict[str, Any]:
    found: dict[str, Any] = {"streams": flow.streams, "seconds": flow.duration_s}
    tcp = load("tcp")
    try:
        before = [_counters(nodes[end.node], first=False) for end in (client, server)]
        raw = tcp.drive(flow, client, server, nodes)
        after = [_counters(nodes[end.node], first=True) for end in (client, server)]
    except NodeError:
        raise
    except (KeyError, ValueError) as error:
        return {**found, "failed": f"the nodes' counters cannot be read: {error!r}"}
    except EbpfperfError as error:
        return {**found, "failed": f"{error.what} {error.remedy}".strip()}
    reading = tcp.parse(flow, raw)
    if "received_bits_per_s" not in reading.metrics:
        return {**found, "failed": reading.reason or "iperf3 gave no numbers"}
    rates = [
        sample.value
        for sample in reading.samples
        if sample.phase == "measure" and sample.metric == "sent_bits_per_s"
    ]
    pairs = list(zip(before, after, strict=True))
    return {
        **found,
        "received_bits_per_s": reading.metrics["received_bits_per_s"],
        "retransmits": reading.metrics.get("retransmits"),
        "variation_pct": variation_pct(rates),
        "cores_pct": [circumstances.busiest_core_pct(flow, pair) for pair in pairs],
        "process_pct": [
            reading.metrics.get(name) for name in ("sender_cpu_pct", "receiver_cpu_pct")
        ],
    }


def variation_pct(rates: list[float]) -> float | None:
    """Standard deviation of rates, percent of their mean; None of fewer than three."""
    if len(rates) < 3 or not (mean := statistics.fmean(rates)):
        return None
    return 100 * statistics.stdev(rates) / mean


def _counters(node: Node, *, first: bool) -> Snapshot:
    argv = read_argv((), counters_first=first)
    return parse_snapshot(node.run(argv, timeout_s=_TIMEOUT_S).stdout)


def _place(node: Node, address: str) -> Endpoint:
    nic = _nic(node, address)
    workload = Workload(node.name, node.name, WorkloadKind.HOST)
    return Endpoint(workload, address, None, nic.name, nic.name, nic.mtu_bytes)


def _nic(node: Node, address: str) -> Link:
    found = link_of(parse_links(node.run(LINKS_ARGV, timeout_s=_TIMEOUT_S).stdout), address)
    if found is None:
        raise NodeError(
            f"{node.name}: no device carries {address}.",
            "Compare the Node's InternalIP with what ip addr shows there.",
            node=node.name,
        )
    return found


def _told(node: Node, place: Endpoint) -> dict[str, Any]:
    speed_file = str(PurePosixPath("/sys/class/net") / place.device / "speed")
    done = node.run(["cat", _BOOT_ID, speed_file], check=False, timeout_s=_TIMEOUT_S)
    words = done.text.split()
    return {
        "node": node.name,
        "address": place.address,
        "nic": place.device,
        "kind": _nic(node, place.address).kind,
        "mtu_bytes": place.mtu_bytes,
        "speed_mbit_per_s": int(words[1]) if len(words) > 1 and words[1].isdigit() else None,
        "boot_id": words[0] if words else "",
    }
