"""Packets taken apart and put together, as their standards say and not as anybody's code does."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class IPv4:
    protocol: int
    source: str
    destination: str
    ttl: int
    length: int
    payload: bytes


def ipv4(packet: bytes) -> IPv4:
    header = packet[:20]
    assert header[0] == 0x45
    assert ones_sum(header) == 0xFFFF, "the header's checksum is wrong"
    (length,) = struct.unpack("!2xH", header[:4])
    source, destination = (socket.inet_ntoa(header[at : at + 4]) for at in (12, 16))
    return IPv4(header[9], source, destination, header[8], length, packet[20:length])


def ones_sum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def udp_packet(
    source: tuple[str, int], destination: tuple[str, int], payload: bytes, *, ttl: int = 64
) -> bytes:
    """An IPv4 packet; its UDP checksum is none."""
    udp = struct.pack("!HHHH", source[1], destination[1], 8 + len(payload), 0) + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, ttl, 17, 0)
    header += socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    check = 0xFFFF - ones_sum(header)
    return header[:10] + struct.pack("!H", check) + header[12:] + udp


def mac(octets: bytes) -> str:
    return octets.hex(":")


@dataclass(frozen=True)
class Wrapped:
    outer: IPv4
    ports: tuple[int, int]
    checksum: int
    flags: int
    vni: int
    ethernet: bytes
    inner: IPv4


def wrapped(frame: bytes) -> Wrapped:
    """A frame with VXLAN in it, by RFC 7348."""
    assert frame[12:14] == b"\x08\x00"
    outer = ipv4(frame[14:])
    assert outer.protocol == socket.IPPROTO_UDP
    source, destination, length, checksum = struct.unpack("!HHHH", outer.payload[:8])
    assert length == len(outer.payload)
    flags, vni = struct.unpack("!II", outer.payload[8:16])
    assert vni & 0xFF == 0
    return Wrapped(
        outer,
        (source, destination),
        checksum,
        flags,
        vni >> 8,
        outer.payload[16:30],
        ipv4(outer.payload[30:]),
    )
