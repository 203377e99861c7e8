"""Bulk traffic by iperf3: TCP and UDP.

The server is one ``iperf3 -s -1`` per trial, so that no trial meets another's server; the client
prints one JSON document, which ``iperf3_document`` judges.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

from ebpfperf.loads import PORTS, iperf3_document
from ebpfperf.loads.iperf3_document import Interval, Outcome, Totals
from ebpfperf.loads.reasons import Reason, sentence
from ebpfperf.loads.serving import NOT_FOUND, Server, connected, missing, run_client, serving
from ebpfperf.model import Direction, Fact, Flow, Reading, Sample, Status
from ebpfperf.units import NS_PER_US

if TYPE_CHECKING:
    from ebpfperf.model import Endpoint
    from ebpfperf.remote import Node

DOCUMENT, ERRORS, SERVER, RUN = "iperf3.json", "iperf3.stderr", "iperf3-server.txt", "iperf3.run"
_PACKAGE = "iperf3"
_CONNECT_MS = 5_000
_GRACE_S = 15.0
_FINE_INTERVAL_S, _INTERVAL_S, _MANY_S = 0.5, 1.0, 5


class _Iperf3(ABC):
    """What TCP and UDP have in common."""

    name: ClassVar[str]
    protocol: ClassVar[str]
    binaries: ClassVar[tuple[str, ...]] = ("iperf3",)

    def traffic_s(self, flow: Flow) -> float:
        """Warm-up and measured seconds."""
        return float(flow.omit_s + flow.duration_s)

    def check(self, flow: Flow) -> str | None:
        """What iperf3 cannot do for this flow, as a sentence."""
        if flow.duration_s < 1:
            return "iperf3 measures whole seconds: duration_s is at least 1."
        if not 0 <= flow.omit_s <= 600:
            return "iperf3 leaves out at most 600 seconds: omit_s is 0 to 600."
        if not 1 <= flow.streams <= 128:
            return "iperf3 drives 1 to 128 streams."
        return None

    def serve(
        self, flow: Flow, server: Endpoint, nodes: Mapping[str, Node]
    ) -> AbstractContextManager[Server]:
        """One ``iperf3 -s -1``: it ends after one test, or one connection that is none."""

        def command(port: int) -> list[str]:
            bound = ["-B", server.address, "-p", str(port)]
            return ["iperf3", "-s", "-1", "--forceflush", *bound]

        return serving(
            connected(nodes, server),
            server,
            command=command,
            ports=server.reachable(PORTS[self.name]),
            ready=b"Server listening",
            package=_PACKAGE,
        )

    def drive(
        self, flow: Flow, client: Endpoint, server: Endpoint, nodes: Mapping[str, Node]
    ) -> dict[str, bytes]:
        """The client's document, its errors and exit status, and the server's words."""
        sender = connected(nodes, client)
        with self.serve(flow, server, nodes) as running:
            argv = self.client_argv(flow, client, server, port=running.port)
            done = run_client(
                sender,
                client.within(argv),
                endpoint=client,
                timeout_s=self.traffic_s(flow) + _GRACE_S,
            )
            said = running.stop()
        if done.status == NOT_FOUND and not done.stdout:
            raise missing(sender.name, _PACKAGE)
        run = {
            "argv": argv,
            "status": done.status,
            "mtu_bytes": client.mtu_bytes,
            "dialled": server.dialling(running.port),
        }
        return {
            DOCUMENT: done.stdout,
            ERRORS: done.stderr,
            SERVER: said,
            RUN: json.dumps(run).encode(),
        }

    def client_argv(
        self, flow: Flow, client: Endpoint, server: Endpoint, *, port: int
    ) -> list[str]:
        """The client's command, network namespace left out; ``port`` is the server's own."""
        interval_s = _INTERVAL_S if flow.duration_s >= _MANY_S else _FINE_INTERVAL_S
        argv = ["iperf3", "-J", "-c", server.dialled_address, "-p", str(server.dialled_port(port))]
        argv += ["-B", client.address]
        argv += ["-t", str(flow.duration_s), "-O", str(flow.omit_s), "-i", f"{interval_s:g}"]
        argv += ["-P", str(flow.streams), "--connect-timeout", str(_CONNECT_MS)]
        if flow.direction is Direction.REVERSE:
            argv += ["-R"]
        elif flow.direction is Direction.BIDIR:
            argv += ["--bidir"]
        if flow.message_bytes is not None:
            argv += ["-l", str(flow.message_bytes)]
        return [*argv, *self._own_options(flow)]

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        """Throughput, loss or retransmits, windows and round trips; or the reason for none.

        In ``bidir``, sent and received bits and retransmits of both directions are added, and
        ``lost_pct`` is of all datagrams together. ``sender_cpu_pct`` and ``receiver_cpu_pct`` are
        of the iperf3 processes, percent of one core; in ``bidir`` of the client's and the server's.
        """
        run = json.loads(raw.get(RUN) or b"{}")
        outcome = iperf3_document.read(
            raw.get(DOCUMENT, b""),
            stderr=raw.get(ERRORS, b"").decode("utf-8", "replace").strip(),
            status=int(run.get("status", 0)),
        )
        reason, detail = outcome.reason, outcome.detail
        if reason is None and (other := self._mismatch(flow, outcome)):
            reason, detail = Reason.MISMATCH, other
        said = {"iperf3_version": outcome.version, "dialled": run.get("dialled")}
        facts = tuple(Fact("", name, str(value)) for name, value in said.items() if value)
        if reason is not None:
            return Reading(Status.FAILED, sentence(reason, detail), facts=facts)
        return Reading(
            metrics={**metrics(outcome), **_mtu(run)},
            samples=tuple(samples(outcome)),
            facts=facts,
        )

    @abstractmethod
    def _own_options(self, flow: Flow) -> list[str]:
        """Options of the transport alone."""

    def _mismatch(self, flow: Flow, outcome: Outcome) -> str:
        """How the document's test differs from the one asked for; empty when it does not."""
        wanted = {
            Direction.FORWARD: (True, False),
            Direction.REVERSE: (False, True),
            Direction.BIDIR: (True, True),
        }[flow.direction]
        if outcome.protocol != self.protocol:
            return f"protocol {outcome.protocol}, not {self.protocol}"
        if (outcome.forward is not None, outcome.backward is not None) != wanted:
            return f"not of direction {flow.direction}"
        if outcome.streams != flow.streams:
            return f"{outcome.streams} streams, not {flow.streams}"
        return ""


class Tcp(_Iperf3):
    """Bulk TCP: throughput as received, retransmits, congestion windows."""

    name: ClassVar[str] = "tcp"
    protocol: ClassVar[str] = "TCP"

    def check(self, flow: Flow) -> str | None:
        """What iperf3 cannot do for this flow, as a sentence."""
        if flow.mss_bytes is not None and not 88 <= flow.mss_bytes <= 9216:
            return "iperf3 takes a segment size (mss_bytes) of 88 to 9216 bytes."
        return super().check(flow)

    def _own_options(self, flow: Flow) -> list[str]:
        options: list[str] = []
        if flow.rate_bits_per_s is not None:
            # Per stream in iperf3; the flow's pace is of all streams together.
            options += ["-b", str(math.ceil(flow.rate_bits_per_s / flow.streams))]
        if flow.congestion is not None:
            options += ["-C", flow.congestion]
        if flow.mss_bytes is not None:
            options += ["-M", str(flow.mss_bytes)]
        return options


class Udp(_Iperf3):
    """Paced UDP: throughput as received and the loss, which belong together."""

    name: ClassVar[str] = "udp"
    protocol: ClassVar[str] = "UDP"

    def check(self, flow: Flow) -> str | None:
        """What iperf3 cannot do for this flow, as a sentence."""
        if not flow.rate_bits_per_s:
            return "UDP needs a pace: set rate_bits_per_s, for example 500M."
        if flow.message_bytes is not None and not 16 <= flow.message_bytes <= 65507:
            return "iperf3 sends datagrams of 16 to 65507 bytes."
        return super().check(flow)

    def _own_options(self, flow: Flow) -> list[str]:
        return ["-u", "-b", str(math.ceil((flow.rate_bits_per_s or 0) / flow.streams))]


def metrics(outcome: Outcome) -> dict[str, float]:
    """Columns of the trials frame that a document fills; ``parse`` says what they hold."""
    ways = [way for way in (outcome.forward, outcome.backward) if way is not None]
    found: dict[str, float | None] = {
        "received_bits_per_s": _added([way.received_bits_per_s for way in ways]),
        "sent_bits_per_s": _added([way.sent_bits_per_s for way in ways]),
        "lost_pct": _lost_pct(ways),
        "retransmits": _added([way.retransmits for way in ways]),
        "mss_bytes": outcome.mss_bytes,
        "snd_cwnd_max_bytes": outcome.snd_cwnd_max_bytes,
        "snd_wnd_max_bytes": outcome.snd_wnd_max_bytes,
        **_cpu(outcome),
    }
    if outcome.rtt_mean_us is not None:
        found["rtt_mean_ns"] = outcome.rtt_mean_us * NS_PER_US
    return {name: float(value) for name, value in found.items() if value is not None}


def _added(values: Sequence[float | None]) -> float | None:
    """The sum over directions; None where one of them is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _cpu(outcome: Outcome) -> dict[str, float | None]:
    client, server = outcome.host_cpu_pct, outcome.remote_cpu_pct
    if outcome.server:
        client, server = server, client
    ends = (server, client) if outcome.reverse else (client, server)
    return dict(zip(("sender_cpu_pct", "receiver_cpu_pct"), ends, strict=True))


def _lost_pct(ways: list[Totals]) -> float | None:
    if any(way.lost_pct is None for way in ways):
        return None
    if len(ways) == 1:
        return ways[0].lost_pct
    sent = sum(way.sent_bytes or 0 for way in ways)
    return (
        sum((way.lost_pct or 0.0) * (way.sent_bytes or 0) for way in ways) / sent if sent else None
    )


def _mtu(run: Mapping[str, object]) -> dict[str, float]:
    mtu_bytes = run.get("mtu_bytes")
    return {"mtu_bytes": float(mtu_bytes)} if isinstance(mtu_bytes, int) else {}


def samples(outcome: Outcome) -> Iterator[Sample]:
    """Rows of the intervals of the end that printed them; ``t_s`` is the end of the interval."""
    endpoint = "server" if outcome.server else "client"
    for interval in outcome.intervals:
        at_s = interval.end_s + (0 if interval.omitted else outcome.omit_s)
        phase = "warmup" if interval.omitted else "measure"
        for metric, unit, value in _numbers(interval):
            yield Sample("iperf3", endpoint, metric, unit, at_s, float(value), phase)


def _numbers(interval: Interval) -> Iterator[tuple[str, str, float]]:
    way = "sent" if interval.sender else "received"
    yield f"{way}_bits_per_s", "bit/s", interval.bits_per_s
    if interval.retransmits is not None:
        yield "retransmits", "1", interval.retransmits
    if interval.lost_packets is not None:
        yield "lost_packets", "1", interval.lost_packets
    if interval.snd_cwnd_bytes is not None:
        yield "snd_cwnd_bytes", "B", interval.snd_cwnd_bytes
    if interval.rtt_us is not None:
        yield "srtt_ns", "ns", interval.rtt_us * NS_PER_US
