"""The grammar of the debug log, by release, from a description of Calico's; and reading it."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

from lab.ebpf import Trace

TIMED = r"\. Program execution time: \d+ns"


def tag(release: str, device: str, letter: str) -> str:
    """What a line begins with: v3.16 has room for 8 characters, v3.25 and later for 15."""
    width = 8 if release == "v3.16" else 15
    return f"{device[:width].ljust(width, '-')}-{letter}"


@dataclass(frozen=True)
class Words:
    """What lines of a release say, by its tables; patterns of the whole text after the tag."""

    release: str

    @property
    def old(self) -> bool:
        """Whether addresses are bare hexadecimal and protocols are numbers."""
        return self.release in ("v3.16", "v3.26")

    def address(self, dotted: str) -> str:
        return f"{int.from_bytes(socket.inet_aton(dotted)):x}" if self.old else re.escape(dotted)

    @property
    def conntrack(self) -> str:
        return "CT-17" if self.old else "CT:"

    def start(self, mark: str = "[0-9a-f]+") -> list[str]:
        """How a packet begins, where its program looks at it."""
        if self.release == "v3.16":
            return [r"IP id=\d+ s=[0-9a-f]{1,8} d=[0-9a-f]{1,8}"]
        return [rf"New packet at ifindex=\d+; mark={mark}"]

    def lookup(self, source: tuple[str, int], destination: tuple[str, int]) -> list[str]:
        (here, port), (there, other) = source, destination
        return [
            rf"{self.conntrack} lookup from {self.address(here)}:{port}",
            rf"{self.conntrack} lookup to   {self.address(there)}:{other}",
        ]

    def no_service(self, destination: tuple[str, int]) -> list[str]:
        address, port = destination
        end = r"protocol=17\." if self.old else "udp"
        return [
            rf"NAT: 1st level lookup addr={self.address(address)} port={port} {end}",
            r"NAT: Miss\.",
        ]

    @property
    def asks_policy(self) -> list[str]:
        if self.release == "v3.16":
            return [
                r"About to jump to policy program; "
                r"lack of further logs means policy dropped the packet\.\.\."
            ]
        return []

    @property
    def allowed(self) -> list[str]:
        normal = "normal " if self.old else ""
        return [*self.asks_policy, f"Allowed by {normal}policy: ACCEPT"]

    @property
    def denied(self) -> list[str]:
        """v3.16 says nothing more once it has asked."""
        if self.release == "v3.16":
            return self.asks_policy
        return ["DENY due to policy", r"Final result=DENY \(4\)" + TIMED]

    def mark(self, name: str) -> str:
        old = {"seen": "c1000000", "bypass": "c3000000"}
        new = {"seen": "1000000", "bypass": "3000000"}
        return (old if self.release == "v3.16" else new)[name]

    def towards_host(self, mark: str) -> list[str]:
        prefix = "" if self.old else "0x"
        return [f"Traffic is towards host namespace, marking with {prefix}{self.mark(mark)}\\."]

    def redirected(self, gateway: str, ifindex: int) -> list[str]:
        end = "" if self.old else f" - gw {re.escape(gateway)}"
        return [
            f"FIB lookup succeeded{end}",
            rf"Got Linux FIB hit, redirecting to iface {ifindex}\.",
            self.final(7),
        ]

    def into_pod(self, address: str, ifindex: int) -> list[str]:
        """How a packet of a settled flow gets from a NIC into a pod."""
        if self.old:
            return self.redirected(address, ifindex)
        return [rf"Redirect to peer interface \({ifindex}\) succeeded\.", self.final(7)]

    def final(self, action: int) -> str:
        return (rf"Final result=ALLOW \({action}\)" if self.old
                else f"Final result=ALLOW rc {action}") + TIMED  # fmt: skip

    @property
    def bypassed(self) -> list[str]:
        """All that is said of a packet that another hook has allowed already."""
        if self.release == "v3.16":
            return [r"Packet pre-approved by another hook, allow\.", self.final(-1)]
        return [r"Final result=ALLOW \(3\)\. Bypass mark set\."]

    @property
    def hit(self) -> list[str]:
        return [rf"{self.conntrack} Hit! NORMAL entry\."]

    @property
    def new(self) -> tuple[list[str], list[str]]:
        """Before and after the service and the policy were asked for."""
        return [rf"{self.conntrack} Miss\."], [rf"{self.conntrack} result: NEW\."]


Packet = tuple[str, list[str]]


def packets(trace: Trace, release: str, number: int = 0) -> list[Packet]:
    """(tag, texts) of each packet that the log tells of, in its order.

    ARP, which the programs pass on unseen, and what others send by IPv6 are left out.

    Parameters
    ----------
    number
        So many texts at least are waited for.
    """

    def are_enough(lines: list[str]) -> bool:
        return sum(len(texts) for _, texts in _packets(lines, release)) >= number

    return _packets(trace.enough(f"{number} lines", are_enough), release)


def _packets(lines: list[str], release: str) -> list[Packet]:
    found: list[Packet] = []
    open_: dict[str, list[str]] = {}
    starts = ("IP id=", "New packet at")
    for line in lines:
        start, text = line.split(": ", 1)
        if start not in open_ or text.startswith(starts):
            open_[start] = []
            found.append((start, open_[start]))
        open_[start].append(text)
        if text.startswith("Final result="):
            del open_[start]
    unseen = 2 if release != "v3.16" else 1
    return [
        (start, texts)
        for start, texts in found
        if len(texts) > unseen or "Bypass" in texts[-1] or "DENY" in texts[-1]
    ]


def matches(seen: list[Packet], expected: list[Packet]) -> None:
    """AssertionError with the first line that differs."""
    assert [start for start, _ in seen] == [start for start, _ in expected]
    for (start, texts), (_, patterns) in zip(seen, expected, strict=True):
        assert len(texts) == len(patterns), (start, texts, patterns)
        for text, pattern in zip(texts, patterns, strict=True):
            assert re.fullmatch(pattern, text), (start, text, pattern)
