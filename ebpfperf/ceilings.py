"""What headers leave of a link: payload over bytes on the wire, byte by byte.

Every frame costs a preamble with its start delimiter, an Ethernet header, a check sequence and a
gap (IEEE 802.3, clauses 3 and 4.4.2; a VLAN tag is four bytes more, IEEE 802.1Q). In it are the
overlay's headers: one IPv4 header for IPIP (RFC 2003); IPv4, UDP, VXLAN and the inner Ethernet
header for VXLAN (RFC 7348). Then IPv4 (RFC 791), TCP (RFC 793) with timestamps (RFC 7323), or UDP
(RFC 768).

Segmentation offload (TSO, GSO, GRO) changes what a processor does for a segment, not what crosses
the wire. Acknowledgements go the other way and cost a link that is full duplex nothing here, so
that each number is what no flow can exceed, not what one must reach.
"""

from __future__ import annotations

from dataclasses import dataclass

from ebpfperf.calico.mtu import (
    IPIP_OVERHEAD_BYTES,
    IPV4_TCP_HEADERS_BYTES,
    TCP_TIMESTAMPS_BYTES,
    VXLAN_OVERHEAD_BYTES,
    mss_bytes,
)
from ebpfperf.model import Overlay

PREAMBLE_BYTES = 8
ETHERNET_BYTES = 14
CHECK_SEQUENCE_BYTES = 4
GAP_BYTES = 12
FRAMING_BYTES = PREAMBLE_BYTES + ETHERNET_BYTES + CHECK_SEQUENCE_BYTES + GAP_BYTES
VLAN_TAG_BYTES = 4
SHORTEST_PACKET_BYTES = 46  # a frame is padded to 64 bytes, without preamble and gap
IPV4_BYTES = 20
UDP_BYTES = 8
_FRAGMENT_UNIT_BYTES = 8  # RFC 791: fragments begin at multiples of it

OVERLAY_BYTES = {
    Overlay.NONE: 0,
    Overlay.IPIP: IPIP_OVERHEAD_BYTES,
    Overlay.VXLAN: VXLAN_OVERHEAD_BYTES,
}
"""What encapsulation adds to a packet (and nothing where it is not known, for a ceiling)."""


@dataclass(frozen=True, slots=True)
class OnWire:
    """A segment or datagram as it crosses a link, all its frames together.

    Attributes
    ----------
    payload_bytes
        What the application gave.
    wire_bytes
        What the link is busy with: headers, framing, padding and gaps included.
    """

    payload_bytes: int
    wire_bytes: int

    @property
    def part(self) -> float:
        """Payload over bytes on the wire, 0 to 1."""
        return self.payload_bytes / self.wire_bytes

    def goodput_bits_per_s(self, link_bits_per_s: float) -> float:
        """Payload that a link of that speed carries at most, one way."""
        return link_bits_per_s * self.part


def tcp_segment(
    payload_bytes: int, *, overlay: Overlay, timestamps: bool = True, vlan_tags: int = 0
) -> OnWire:
    """A TCP segment with that much payload; ``mss_bytes`` of the trials frame is a full one's.

    Raises
    ------
    ValueError
        The payload is not above zero.
    """
    headers = IPV4_TCP_HEADERS_BYTES + (TCP_TIMESTAMPS_BYTES if timestamps else 0)
    packet = _positive(payload_bytes) + headers
    return OnWire(payload_bytes, _frame(packet, overlay=overlay, vlan_tags=vlan_tags))


def full_segment(
    nic_mtu_bytes: int, *, overlay: Overlay, timestamps: bool = True, vlan_tags: int = 0
) -> OnWire:
    """The largest TCP segment where pods have the MTU that Calico's automatic rule gives them.

    Raises
    ------
    ValueError
        The MTU leaves no payload.
    """
    payload = mss_bytes(nic_mtu_bytes - OVERLAY_BYTES[overlay], timestamps=timestamps)
    return tcp_segment(payload, overlay=overlay, timestamps=timestamps, vlan_tags=vlan_tags)


def udp_datagram(
    payload_bytes: int, *, mtu_bytes: int, overlay: Overlay, vlan_tags: int = 0
) -> OnWire:
    """A UDP datagram with that much payload, in fragments where its sender's MTU needs them.

    Raises
    ------
    ValueError
        The payload is not above zero, or the MTU holds no fragment.
    """
    most = mtu_bytes - IPV4_BYTES
    room = most // _FRAGMENT_UNIT_BYTES * _FRAGMENT_UNIT_BYTES
    if room <= 0:
        raise ValueError(f"an MTU of {mtu_bytes} bytes holds no fragment")
    left = _positive(payload_bytes) + UDP_BYTES
    # The last one alone may fill the MTU: the others end at a multiple of the unit.
    whole = max(0, -((most - left) // room))
    wire = whole * _frame(IPV4_BYTES + room, overlay=overlay, vlan_tags=vlan_tags)
    wire += _frame(IPV4_BYTES + left - whole * room, overlay=overlay, vlan_tags=vlan_tags)
    return OnWire(payload_bytes, wire)


def headers_ratio(ours: OnWire, baseline: OnWire) -> float:
    """The ratio of two rates that headers alone explain, on one link that both fill."""
    return ours.part / baseline.part


def _frame(packet_bytes: int, *, overlay: Overlay, vlan_tags: int) -> int:
    carried = max(packet_bytes + OVERLAY_BYTES[overlay], SHORTEST_PACKET_BYTES)
    return carried + FRAMING_BYTES + vlan_tags * VLAN_TAG_BYTES


def _positive(payload_bytes: int) -> int:
    if payload_bytes <= 0:
        raise ValueError(f"a payload of {payload_bytes} bytes is none")
    return payload_bytes
