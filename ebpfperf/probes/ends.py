"""A flow's ends as the probes on the nodes look for them, and the seconds that count. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ebpfperf.loads import PORTS, WARMUP_S
from ebpfperf.model import Direction, Endpoint, Flow
from ebpfperf.units import NS_PER_S

ANY = "0.0.0.0"
CLIENT, SERVER = "client", "server"
PROGRAMS = {"tcp": "iperf3", "udp": "iperf3", "request-response": "sockperf"}


@dataclass(frozen=True, slots=True)
class Window:
    """Which seconds count, from when the traffic begins.

    Attributes
    ----------
    opens
        What the traffic begins with: ``connection`` (the flow's first TCP connection), ``data``
        (its first segment received), ``traffic`` (its first datagrams) or ``now`` (when the probes
        are armed).
    share
        Part of the time for which each probe that costs something is on, 0 to 1.
    """

    opens: str
    omit_ns: int
    length_ns: int
    share: float

    def asked(self) -> dict[str, Any]:
        """As the nodes are told."""
        return {
            "opens": self.opens,
            "omit_ns": self.omit_ns,
            "length_ns": self.length_ns,
            "share": self.share,
        }


def window(flow: Flow, *, share: float) -> Window:
    """The steady window of ``flow``: after its warm-up, for as long as it is measured."""
    opens = "connection"
    if flow.load == "request-response":
        opens = "traffic" if flow.transport == "udp" else "data"
    omit_s = max(float(flow.omit_s), WARMUP_S[flow.load])
    return Window(opens, round(omit_s * NS_PER_S), flow.duration_s * NS_PER_S, share)


def not_tcp(flow: Flow) -> str:
    """Why ``flow`` has no TCP to look at; empty when it has."""
    udp = flow.load == "udp" or (flow.load == "request-response" and flow.transport == "udp")
    return "the flow is UDP, which acknowledges nothing" if udp else ""


def senders(flow: Flow) -> tuple[str, ...]:
    """The ends that send the bulk, or the requests."""
    return {
        Direction.FORWARD: (CLIENT,),
        Direction.REVERSE: (SERVER,),
        Direction.BIDIR: (CLIENT, SERVER),
    }[flow.direction]


def end(flow: Flow, which: str, *, here: Endpoint, there: Endpoint) -> dict[str, Any]:
    """One end as the nodes are told: addresses, the server's ports, devices, who sends.

    Through a Service each end sees what its own socket sees. The server: its own address and port,
    and a peer that may be a node (masquerade). The client in a pod: the Service's address, or the
    server's where the connection is turned at connect(2), and in both cases the server's port. The
    client outside: the node's address and a node port. Peers that may be either are ``ANY``.
    """
    ports: Sequence[int] = PORTS[flow.load]
    server = there if which == CLIENT else here
    remote = there.address
    if server.front is not None:
        ports = server.reachable(ports)
        remote = ANY
        if which == CLIENT and server.front.node:
            ports = sorted(map(server.dialled_port, ports))
            remote = server.front.address
    return {
        "end": which,
        "node": here.node,
        "local": here.address,
        "remote": remote,
        "first_port": ports[0],
        "last_port": ports[-1],
        "server": which == SERVER,
        "sends": which in senders(flow),
        "peer_sends": len(senders(flow)) == 2 or which not in senders(flow),
        # A bulk sender gets bare ACKs; data arrives on connections that it does not send on (its
        # control connection, the other direction), whose round trip is an old one. In an exchange
        # the ACK rides on the answer.
        "pure": flow.load == "tcp",
        "answers": flow.load == "request-response",
        "udp": bool(not_tcp(flow)),
        "program": PROGRAMS[flow.load],
        "netns_pid": here.netns_pid,
        "device": here.device,
        "host_device": here.host_device,
    }


def both(flow: Flow, client: Endpoint, server: Endpoint) -> tuple[dict[str, Any], ...]:
    """The client's end and the server's."""
    return (
        end(flow, CLIENT, here=client, there=server),
        end(flow, SERVER, here=server, there=client),
    )
