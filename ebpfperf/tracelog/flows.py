"""Which flow a line of the log speaks of: addresses, ports, protocol, the IP header's id.

Notations (felix bpf-gpl): up to v3.29 an IPv4 address is the host-order number in hexadecimal
without leading zeros, from v3.30 on it is dotted; an IPv6 address is its last 32 bits up to v3.29
and whole, in brackets, from v3.30 on.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from numbers import Integral
from typing import NamedTuple

from ebpfperf.units import UNKNOWN

# Before what is left of an IPv6 address that was printed cut.
CUT = "…"
PROTOCOLS = {"1": "icmp", "6": "tcp", "17": "udp", "58": "icmp6"}

_ADDRESS = r"(\[[0-9a-fA-F:]+\]|[0-9a-f.]+)"
_LOOKUP = re.compile(rf"CT(?:-(\w+)|:) lookup (from|to  ) {_ADDRESS}:(\d+)")
_NAT = re.compile(rf"NAT: 1st level lookup addr={_ADDRESS} port=(\d+) (?:protocol=)?(\w+)")
_CHANGED = re.compile(rf"(?:CT(?:-\w+|:) DNAT to|NAT: backend selected) {_ADDRESS}:(\d+)")
_IP = re.compile(rf"IP (?:id=(\d+))?.*?(?:s={_ADDRESS} d={_ADDRESS})?$")
_PORTS = re.compile(r"(TCP|UDP); ports: s=(\d+) d=(\d+)")
_POLICY = re.compile(rf"policy \w+ +proto (\d+) src {_ADDRESS}:(\d+) dest {_ADDRESS}:(\d+)")


class Flow(NamedTuple):
    """Who sent a packet to whom, as it came to a program; None is not said.

    ``to`` and ``to_port`` are where it goes on to, where the program changed that (DNAT).
    """

    source: str | None = None
    source_port: int | None = None
    destination: str | None = None
    destination_port: int | None = None
    protocol: str | None = None
    ip_id: int | None = None
    to: str | None = None
    to_port: int | None = None


@lru_cache(maxsize=65536)
def address(text: str, *, ip_version: int | None = 4) -> str:
    """A printed address as people write it; of IPv6 cut to 32 bits what is left of it."""
    if text.startswith("["):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            return text
    if "." in text:
        return text
    if ip_version == 6:
        return f"{CUT}:{text}"
    try:
        return str(ipaddress.IPv4Address(int(text, 16)))
    except ValueError:
        return UNKNOWN


def flow_in(text: str, *, ip_version: int | None = 4) -> Flow:
    """What one line says of its packet's flow; an empty ``Flow`` where it says nothing."""

    def plain(printed: str | None) -> str | None:
        return None if printed is None else address(printed, ip_version=ip_version)

    if match := _LOOKUP.match(text):
        protocol = _protocol(match[1])
        if match[2] == "from":
            return Flow(plain(match[3]), int(match[4]), protocol=protocol)
        return Flow(None, None, plain(match[3]), int(match[4]), protocol)
    if match := _NAT.match(text):
        return Flow(None, None, plain(match[1]), int(match[2]), _protocol(match[3]))
    if match := _CHANGED.match(text):
        return Flow(to=plain(match[1]), to_port=int(match[2]))
    if match := _PORTS.match(text):
        return Flow(None, int(match[2]), None, int(match[3]), match[1].lower())
    if match := _POLICY.match(text):
        here, there = plain(match[2]), plain(match[4])
        return Flow(here, int(match[3]), there, int(match[5]), _protocol(match[1]))
    if match := _IP.match(text):
        number = int(match[1]) if match[1] else None
        return Flow(plain(match[2]), None, plain(match[3]), ip_id=number)
    return Flow()


def _protocol(printed: str | None) -> str | None:
    return PROTOCOLS.get(printed, printed.lower()) if printed else None


def side(address: object, port: object) -> str:
    """``10.65.0.2:80``, or as much of it as is known; UNKNOWN where nothing is.

    What is missing may be None, NaN or NA, as in frames.
    """
    if not isinstance(address, str):
        return UNKNOWN
    name = f"[{address}]" if ":" in address else address
    return f"{name}:{int(port)}" if isinstance(port, Integral) else name
