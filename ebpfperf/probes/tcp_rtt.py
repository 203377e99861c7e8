"""Smoothed TCP round-trip times of a flow, counted in the kernel of the sending node by BCC.

``node/tcp_rtt.py`` runs on each node under the node's own Python; see there and docs/probes.md.
It is loaded once (BCC compiles for a second), then armed and read per trial over its stdin and
stdout. The script travels as the first line of its stdin: no file is written on the node.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.resources import files
from typing import TYPE_CHECKING, Any, ClassVar

from ebpfperf.errors import CommandError, CommandTimeout, NodeError, ProbeError
from ebpfperf.histograms import KERNEL_US, merge, quantile, total
from ebpfperf.loads import PORTS
from ebpfperf.model import Direction, Endpoint, Fact, Flow, HistogramBin, Reading, Status
from ebpfperf.units import NS_PER_S

if TYPE_CHECKING:
    from ebpfperf.remote import Node, Stream

RAW = "tcp_rtt.json"
ANY = "0.0.0.0"
# A line that is JSON text of the script, then the script's own conversation.
_BOOT = "import json, sys; exec(compile(json.loads(sys.stdin.readline()), 'tcp_rtt.py', 'exec'))"
_COMMAND = ("/usr/bin/python3", "-u", "-c", _BOOT)
_LOAD_S, _ANSWER_S = 60.0, 10.0
_LIMIT_BYTES = 64_000_000
_NOT_FOUND = 127

_REMEDIES = {
    "no_bcc": "Install it there: apt-get install python3-bpfcc.",
    "no_python": "Install it there: apt-get install python3 python3-bpfcc.",
    "no_headers": "Install it there: apt-get install linux-headers-$(uname -r).",
    "no_permission": "Log in as root, or let the user sudo without a password.",
    "no_tracefs": "Mount it there: mount -t tracefs tracefs /sys/kernel/tracing.",
}


class TcpRtt:
    """The ``tcp_rtt`` probe; see the module."""

    name: ClassVar[str] = "tcp_rtt"
    needs_root: ClassVar[bool] = True

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}
        # Node → the ends whose filter stands in its slots, for the trial in hand.
        self._armed: dict[str, tuple[str, ...]] = {}
        self._refused: dict[str, ProbeError] = {}
        self._skipped = ""

    def attach(self, nodes: Mapping[str, Node]) -> tuple[Fact, ...]:
        """BCC, headers, kernel and tracepoint of each node, as facts named ``tcp_rtt_…``.

        A node that cannot run it has one fact with the reason; it matters where that node sends.

        Raises
        ------
        ProbeError
            No node can run it.
        """
        self.detach()
        try:
            with ThreadPoolExecutor(max_workers=len(nodes) or 1) as pool:
                loaded = list(pool.map(self._try, nodes.values()))
        except NodeError:
            self.detach()
            raise
        if nodes and len(self._refused) == len(nodes):
            raise next(iter(self._refused.values()))
        return tuple(fact for facts in loaded for fact in facts)

    def arm(self, flow: Flow, client: Endpoint, server: Endpoint) -> None:
        """Count, at every end that sends, the flow's ACKs that arrive after its warm-up."""
        self._armed, self._skipped = {}, not_tcp(flow)
        if self._skipped:
            return
        wanted: dict[str, dict[str, dict[str, Any]]] = {}
        for end in senders(flow):
            here, there = (client, server) if end == "client" else (server, client)
            asked = filter_of(flow, end, here=here, there=there)
            wanted.setdefault(here.node, {})[end] = asked
        for node, filters in wanted.items():
            self._ask(node, {"do": "arm", "filters": list(filters.values())}, expect="armed")
            self._armed[node] = tuple(filters)

    def collect(self) -> dict[str, bytes]:
        """One JSON document: per end, bins and counters; or why nothing was armed."""
        found: dict[str, Any] = {"skipped": self._skipped, "ends": {}, "nodes": {}}
        for node, ends in self._armed.items():
            answer = self._ask(node, {"do": "read"}, expect="histogram")
            for end, slot in zip(ends, answer["slots"], strict=False):
                found["ends"][end] = {**slot, "node": node}
            found["nodes"][node] = {"lost": answer["lost"], "program": answer["program"]}
        self._armed = {}
        return {RAW: json.dumps(found).encode()}

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        """``srtt_p50_ns``, ``srtt_p99_ns``, ``srtt_events`` and a histogram per sending end.

        Percentiles are of all ends together, each the middle of its bin (at most 12.5 % wide).
        With no event the count is zero and there are no percentiles. A UDP flow has neither.
        """
        try:
            found = json.loads(raw[RAW])
            ends = {end: _bins(end, slot["bins"]) for end, slot in found["ends"].items()}
            lost = [state["lost"] for state in found["nodes"].values()]
            skipped = str(found["skipped"])
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            return Reading(Status.FAILED, f"unreadable: The probe's answer is damaged. ({error!r})")
        if skipped:
            return Reading(facts=(Fact("", "tcp_rtt_skipped", skipped),))
        bins = merge(*ends.values())
        metrics = {"srtt_events": float(total(bins))}
        for name, q in (("srtt_p50_ns", 0.5), ("srtt_p99_ns", 0.99)):
            found_at = quantile(bins, q)
            if found_at is not None:
                metrics[name] = found_at.value_ns
        unknown = None in lost
        counted = sum(count for count in lost if count is not None)
        value = "UNKNOWN: the kernel does not count it" if unknown else str(counted)
        return Reading(
            metrics=metrics,
            histograms=tuple(row for rows in ends.values() for row in rows),
            facts=(Fact("", "tcp_rtt_lost_events", value, "1"),),
        )

    def detach(self) -> None:
        """End the probe on every node."""
        for stream in self._streams.values():
            with suppress(NodeError):
                stream.stop()
        self._streams.clear()
        self._armed, self._refused = {}, {}

    def _try(self, node: Node) -> tuple[Fact, ...]:
        try:
            return self._load(node)
        except ProbeError as error:
            self._refused[node.name] = error
            if stream := self._streams.pop(node.name, None):
                with suppress(NodeError):
                    stream.stop()
            return (Fact(node.name, "tcp_rtt_bcc", f"UNKNOWN: {error.what}"),)

    def _load(self, node: Node) -> tuple[Fact, ...]:
        script = files("ebpfperf.probes").joinpath("node/tcp_rtt.py").read_text("utf-8")
        stream = node.stream(_COMMAND, limit_bytes=_LIMIT_BYTES)
        self._streams[node.name] = stream
        try:
            stream.write_line(json.dumps(script).encode())
            answer = json.loads(stream.read_line(timeout_s=_LOAD_S))
        except CommandTimeout as error:
            raise _failed(
                node.name, "timeout", f"The program was not loaded within {_LOAD_S:g} s."
            ) from error
        except CommandError as error:
            missing = error.fields.get("status") == _NOT_FOUND
            reason = "no_python" if missing else "ended"
            raise _failed(node.name, reason, str(error.fields.get("stderr", ""))) from error
        except ValueError as error:
            raise _failed(node.name, "unreadable", f"Its answer is no JSON: {error}.") from error
        if answer["event"] != "ready":
            raise _failed(node.name, answer["reason"], answer["message"])
        return tuple(
            Fact(node.name, f"tcp_rtt_{name}", value) for name, value in answer["facts"].items()
        )

    def _ask(self, node: str, question: Mapping[str, Any], *, expect: str) -> dict[str, Any]:
        stream = self._streams.get(node)
        if refused := self._refused.get(node):
            raise refused
        if stream is None:
            raise _failed(node, "not_attached", "The probe is not loaded on this node.")
        try:
            stream.write_line(json.dumps(question).encode())
            answer: dict[str, Any] = json.loads(stream.read_line(timeout_s=_ANSWER_S))
        except (CommandError, CommandTimeout, ValueError) as error:
            raise _failed(node, "ended", f"It does not answer: {error}") from error
        if answer["event"] != expect:
            raise _failed(node, answer.get("reason", "unreadable"), answer.get("message", ""))
        return answer


def not_tcp(flow: Flow) -> str:
    """Why ``flow`` has no TCP round trips to count; empty when it has."""
    udp = flow.load == "udp" or (flow.load == "request-response" and flow.transport == "udp")
    return "the flow is UDP, which acknowledges nothing" if udp else ""


def senders(flow: Flow) -> tuple[str, ...]:
    """The ends whose data is acknowledged, so that their round trips are smoothed anew."""
    return {
        Direction.FORWARD: ("client",),
        Direction.REVERSE: ("server",),
        Direction.BIDIR: ("client", "server"),
    }[flow.direction]


def filter_of(flow: Flow, end: str, *, here: Endpoint, there: Endpoint) -> dict[str, Any]:
    """What the node script counts for one end: addresses, the server's ports, the warm-up, ACKs.

    Through a Service each end sees what its own socket sees. The server: its own address and port,
    and a peer that may be a node (masquerade). The client in a pod: the Service's address, or the
    server's where the connection is turned at connect(2), and in both cases the server's port. The
    client outside: the node's address and a node port. Peers that may be either are ``ANY``.
    """
    ports: Sequence[int] = PORTS[flow.load]
    server = there if end == "client" else here
    remote = there.address
    if server.front is not None:
        ports = server.reachable(ports)
        remote = ANY
        if end == "client" and server.front.node:
            ports = sorted(map(server.dialled_port, ports))
            remote = server.front.address
    return {
        "local": here.address,
        "remote": remote,
        "first_port": ports[0],
        "last_port": ports[-1],
        "server": end == "server",
        "omit_ns": flow.omit_s * NS_PER_S,
        # A bulk sender gets bare ACKs; data arrives on connections that it does not send on (its
        # control connection, the other direction), whose round trip is an old one. In an exchange
        # the ACK rides on the answer.
        "pure": flow.load == "tcp",
    }


def _bins(end: str, counts: list[tuple[int, int]]) -> tuple[HistogramBin, ...]:
    pairs = [(int(index), int(count)) for index, count in counts]
    return KERNEL_US.bins(pairs, probe=TcpRtt.name, endpoint=end, metric="srtt_ns")


def _failed(node: str, reason: str, message: str) -> ProbeError:
    return ProbeError(
        f"{node}: probe tcp_rtt ({reason}): {message}".rstrip(),
        _REMEDIES.get(reason, "Leave the probe out, or look at the node."),
        reason=reason,
        node=node,
    )
