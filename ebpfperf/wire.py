"""Which encapsulation a flow's own packets have on the wire: a few are captured at its start.

Not what the API says, nor the routes, but the packets: tcpdump on the NIC of the client's node
matches this flow's addresses alone, bare or inside IPIP or VXLAN (of any port), and ends itself
after a few.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

from ebpfperf.errors import CommandError, CommandTimeout, OutputLimitError
from ebpfperf.loads import PORTS
from ebpfperf.model import Endpoint, Fact, Flow, Overlay, Treatment, WorkloadKind
from ebpfperf.network_view import NodeView
from ebpfperf.remote import Node, Stream
from ebpfperf.units import UNKNOWN
from ebpfperf.verify import IPIP_DEVICE, VXLAN_DEVICE, Wanted, wanted_device

SEEN, EXPECTED = "wire_overlay", "wire_expected"
FILE = "wire.txt"
MIXED = "mixed"
# A handshake and what follows: both directions, and no more than the warm-up's first moments.
PACKETS = 8
# Ethernet 14, IP 20, UDP 8, VXLAN 8, Ethernet 14, IP 20, with room for options of the outer header.
SNAP_BYTES = 128
READY = b"listening on"
_READY_S = 10.0
# It prints what it has taken and ends by itself: on a busy node a moment after the traffic.
_END_S = 1.0
_LIMIT_BYTES = 200_000
_NOT_FOUND = 127
_IP, _ETHERNET_BYTES, _UDP_BYTES, _VXLAN_BYTES = 0x0800, 14, 8, 8
_IPIP, _TCP, _UDP = 4, 6, 17
_HEX_LINE = re.compile(r"^\s+0x[0-9a-f]+:\s+(?P<hex>[0-9a-f ]+)$")


@dataclass(frozen=True, slots=True)
class Ends:
    """The addresses between which the flow's packets travel once a Service is translated."""

    client: str
    server: str

    def has(self, source: str, destination: str) -> bool:
        """Whether a packet is of this flow, in either direction."""
        return {source, destination} == {self.client, self.server}


@dataclass(slots=True)
class Caught:
    """What was captured; filled when the capture ends."""

    printed: bytes = b""
    unknown: str = ""


def expected(
    treatment: Treatment,
    client: Endpoint,
    server: Endpoint,
    views: Mapping[str, NodeView],
) -> str:
    """What the flow's packets must be in on the wire: ``none``, ``ipip`` or ``vxlan``.

    ``UNKNOWN: reason`` where that is not known.
    """
    if reason := _not_looked_at(client, server):
        return f"{UNKNOWN}: {reason}"
    if client.workload.kind is WorkloadKind.HOST:
        return Overlay.NONE.value
    if treatment.overlay is None:
        return f"{UNKNOWN}: the treatment does not say"
    if client.node not in views or server.node not in views:
        return f"{UNKNOWN}: nobody looked at the nodes' routes"
    wanted = Wanted(treatment, {}, (), ())
    ways = {
        wanted_device(views[here], views[there], wanted)
        for here, there in ((client.node, server.node), (server.node, client.node))
    }
    devices = {IPIP_DEVICE: Overlay.IPIP, VXLAN_DEVICE: Overlay.VXLAN}
    modes = {devices.get(way, Overlay.NONE).value for way in ways}
    return modes.pop() if len(modes) == 1 else MIXED


def capture_argv(nic: str, flow: Flow, ends: Ends) -> list[str]:
    """The command that prints the flow's first packets on a NIC, whatever they are wrapped in."""
    options = ["-p", "-n", "-t", "-K", "-xx", "-l", "--immediate-mode"]
    sizes = ["-c", str(PACKETS), "-s", str(SNAP_BYTES)]
    words = ["tcpdump", *options, *sizes, "-i", nic, packet_filter(flow, ends)]
    # What says that it listens goes to its standard error.
    return ["sh", "-c", 'exec "$@" 2>&1', "capture", *words]


def packet_filter(flow: Flow, ends: Ends) -> str:
    """The flow's packets, bare, in IPIP or in VXLAN, in the language of pcap-filter(7).

    The inner addresses are found behind outer headers without options, as both dataplanes write
    them. VXLAN is told by its flags, so that its port need not be known.
    """
    ports = PORTS[flow.load]
    bare = f"host {ends.client} and host {ends.server} and portrange {ports[0]}-{ports[-1]}"
    words = [f"0x{int(IPv4Address(address)):08x}" for address in (ends.client, ends.server)]

    def inside(source: str, destination: str) -> str:
        ways = (words, words[::-1])
        return " or ".join(f"({source}={a} and {destination}={b})" for a, b in ways)

    ipip = f"ip proto {_IPIP} and ({inside('ip[32:4]', 'ip[36:4]')})"
    vxlan = f"udp and udp[8:4]=0x08000000 and ({inside('udp[42:4]', 'udp[46:4]')})"
    return f"({bare}) or ({ipip}) or ({vxlan})"


def parse(printed: bytes, ends: Ends) -> str:
    """``none``, ``ipip``, ``vxlan`` or ``mixed``, of what tcpdump printed; ``UNKNOWN: reason``."""
    modes = set()
    for packet in packets(printed):
        if (mode := overlay_of(packet, ends)) is not None:
            modes.add(mode.value)
    if not modes:
        return f"{UNKNOWN}: {_why_nothing(printed)}"
    return modes.pop() if len(modes) == 1 else MIXED


def packets(printed: bytes) -> Iterator[bytes]:
    """Frames from ``tcpdump -xx``: its hexadecimal lines, each packet after a line that is none."""
    frame = b""
    for line in printed.decode("utf-8", "replace").splitlines():
        match = _HEX_LINE.match(line)
        if match:
            digits = match["hex"].replace(" ", "")
            # A line that was cut may end in half a byte.
            frame += bytes.fromhex(digits[: len(digits) // 2 * 2])
        elif frame:
            yield frame
            frame = b""
    if frame:
        yield frame


def overlay_of(frame: bytes, ends: Ends) -> Overlay | None:
    """What a flow's packet is wrapped in; None for a frame that is none of the flow's.

    Formats: RFC 791, RFC 2003 (protocol 4), RFC 7348 (VXLAN: flags 0x08, an Ethernet frame).
    """
    packet = _ip_of(frame)
    if packet is None:
        return None
    protocol, source, destination, payload = packet
    if protocol == _IPIP:
        inner = _ip(payload)
        return Overlay.IPIP if inner and ends.has(inner[1], inner[2]) else None
    if protocol == _UDP and payload[_UDP_BYTES : _UDP_BYTES + 4] == b"\x08\0\0\0":
        inner = _ip_of(payload[_UDP_BYTES + _VXLAN_BYTES :])
        if inner and ends.has(inner[1], inner[2]):
            return Overlay.VXLAN
    if protocol in (_TCP, _UDP) and ends.has(source, destination):
        return Overlay.NONE
    return None


class Capture:
    """Captures of flows' first packets, one node at a time; knows which nodes cannot."""

    def __init__(self) -> None:
        self._refused: dict[str, str] = {}

    @contextmanager
    def during(
        self, node: Node, nic: str, flow: Flow, ends: Ends
    ) -> Iterator[tuple[Caught, Callable[[], None]]]:
        """A capture that has begun to start; call the function before the traffic: it waits.

        What it got is in ``Caught`` when the block ends. Nothing here fails a trial but a lost
        connection (ConnectError).
        """
        caught = Caught(unknown=self._refused.get(node.name, ""))
        if caught.unknown:
            yield caught, lambda: None
            return
        argv = capture_argv(nic, flow, ends)
        said = [b""]
        with node.stream(argv, limit_bytes=_LIMIT_BYTES, grace_s=_END_S) as stream:

            def ready() -> None:
                said[0] += self._listening(node.name, stream, caught)

            yield caught, ready
            try:
                done = stream.stop()
                caught.printed = said[0] + done.stdout
            except (CommandError, CommandTimeout, OutputLimitError) as error:
                caught.unknown = caught.unknown or error.what

    def _listening(self, name: str, stream: Stream, caught: Caught) -> bytes:
        said = b""
        try:
            while READY not in said:
                said += stream.read_line(timeout_s=_READY_S) + b"\n"
        except CommandError:
            done = stream.stop()
            words = (said + done.stdout + done.stderr).decode("utf-8", "replace").split("\n")
            why = next((line.strip() for line in words if line.strip()), "it printed nothing")
            missing = done.status == _NOT_FOUND
            caught.unknown = f"tcpdump {'is not installed' if missing else f'ended: {why[:120]}'}"
            # A node without it will not have it in the next trial.
            self._refused[name] = caught.unknown
        except (CommandTimeout, OutputLimitError) as error:
            caught.unknown = error.what
        return said


def facts(
    caught: Caught | None, wanted: str, *, client: Endpoint, server: Endpoint
) -> Iterable[Fact]:
    """``wire_overlay`` and ``wire_expected`` of a trial; ``caught`` None where nobody captured."""
    ends = Ends(client.address, server.address)
    if caught is None:
        reason = _not_looked_at(client, server) or "the NIC of the client's node is not known"
        seen = f"{UNKNOWN}: {reason}"
    else:
        seen = f"{UNKNOWN}: {caught.unknown}" if caught.unknown else parse(caught.printed, ends)
    yield Fact("", SEEN, seen)
    yield Fact("", EXPECTED, wanted)


def looks_at(client: Endpoint, server: Endpoint) -> bool:
    """Whether the flow's packets cross the NIC of the client's node between known addresses."""
    return not _not_looked_at(client, server)


def _not_looked_at(client: Endpoint, server: Endpoint) -> str:
    if client.node == server.node:
        return "both ends are on one node"
    if server.front is not None and server.front.node:
        return "by node port the client is outside, and sees its own leg alone"
    return ""


def _why_nothing(printed: bytes) -> str:
    text = printed.decode("utf-8", "replace")
    if READY.decode() not in text:
        return "tcpdump did not begin"
    return "no packet of the flow was seen on the NIC in a form that is known"


def _ip_of(frame: bytes) -> tuple[int, str, str, bytes] | None:
    """The IPv4 packet of an Ethernet frame."""
    if int.from_bytes(frame[12:14], "big") != _IP:
        return None
    return _ip(frame[_ETHERNET_BYTES:])


def _ip(packet: bytes) -> tuple[int, str, str, bytes] | None:
    """Protocol, source, destination and payload."""
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    source, destination = (str(IPv4Address(packet[at : at + 4])) for at in (12, 16))
    return packet[9], source, destination, packet[(packet[0] & 15) * 4 :]
