"""What the probes of the underlay found, pair by pair. Pure; ``underlay_probe`` has the format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ebpfperf.diagnosis import Shown
from ebpfperf.doctor.case import UNREADABLE, Case, Missing
from ebpfperf.evidence_sources import SOURCE_PROBE, VXLAN_PROBE

# felix/bpf-gpl of v3.16.1: the port of node ports is compiled in; vxlanPort is the overlay's alone.
COMPILED_IN_UNTIL, COMPILED_IN = (3, 16), 4789


def node_port_vxlan(case: Case, node: str) -> int:
    """The UDP port by which node ports are forwarded to that node; Missing, ValueError."""
    if case.minor <= COMPILED_IN_UNTIL:
        return COMPILED_IN
    return int(case.value(node, "vxlanPort").value)


@dataclass(frozen=True, slots=True)
class Pair:
    """Datagrams from one node to another.

    Attributes
    ----------
    source, owner
        Their source address, and the node that it belongs to.
    sent, left, arrived
        How many the kernel took, were seen leaving the sender, were seen by the receiver; None
        where that node did not say.
    out
        The devices by which they left.
    error
        Why the sender sent less.
    """

    sender: str
    receiver: str
    port: int
    source: str
    owner: str
    sent: int | None
    left: int | None
    arrived: int | None
    out: tuple[str, ...]
    error: str

    @property
    def known(self) -> bool:
        """Whether both ends said what they saw, and something was sent or refused."""
        tried = bool(self.sent or self.error)
        return self.left is not None and self.arrived is not None and tried

    @property
    def arrives(self) -> bool:
        """Whether any arrived."""
        return bool(self.arrived)

    @property
    def whole(self) -> bool:
        """Whether all that were sent arrived."""
        return self.known and bool(self.sent) and self.arrived == self.sent

    @property
    def lost(self) -> bool:
        """Whether they left the sender, and none arrived."""
        return self.known and bool(self.left) and not self.arrived

    @property
    def kept_back(self) -> bool:
        """Whether none left the sender, whose kernel took or refused them."""
        return self.known and not self.left and not self.arrived

    def __str__(self) -> str:
        numbers = ["?" if n is None else str(n) for n in (self.sent, self.left, self.arrived)]
        whose = (
            "" if self.owner == self.sender else f" with the source {self.source} ({self.owner})"
        )
        text = f"{self.sender} → {self.receiver} port {self.port}{whose}: {numbers[0]} sent, "
        text += f"{numbers[1]} left by {', '.join(self.out) or 'no device'}, {numbers[2]} arrived"
        return text + (f" ({self.error})" if self.error else "")


def vxlan(case: Case) -> tuple[Pair, ...]:
    """Every pair of the VXLAN probe; Missing where it was not made."""
    return case.kept(("pairs", VXLAN_PROBE), lambda: _pairs(case, VXLAN_PROBE))


def foreign(case: Case) -> tuple[Pair, ...]:
    """Every pair of the probe with other nodes' sources; Missing where it was not made."""
    return case.kept(("pairs", SOURCE_PROBE), lambda: _pairs(case, SOURCE_PROBE))


def shown(case: Case, source: str, pairs: Iterable[Pair]) -> tuple[Shown, ...]:
    """The pairs as evidence, those of each receiver together."""
    by_receiver: dict[str, list[str]] = {}
    for pair in pairs:
        by_receiver.setdefault(pair.receiver, []).append(str(pair))
    return tuple(case.show(source, node, lines) for node, lines in by_receiver.items())


def receivers_without(case: Case, source: str) -> dict[str, str]:
    """Node → why nobody listened there."""
    return {item.node: item.error for item in case.evidence if item.source == source and item.error}


def named(names: Sequence[str], most: int = 4) -> str:
    """``node-1, node-2 and 5 more``."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _why_none(case: Case) -> str:
    try:
        for node in case.nodes:
            case.address(node)
    except Missing as missing:
        return f": they are of IPv4, and of {node} {missing.why}"
    except UNREADABLE:
        pass
    return ""


def _pairs(case: Case, source: str) -> tuple[Pair, ...]:
    items = [item for item in case.evidence if item.source == source]
    if not items:
        raise Missing(f"no datagrams were sent between the nodes{_why_none(case)}")
    found = []
    for item in items:
        if item.error:
            continue
        told = json.loads(item.content)
        for row in told["pairs"]:
            found.append(
                Pair(
                    row["from"], item.node, int(told["port"]), row["source"], row["owner"],
                    row["sent"], row["left"], row["arrived"], tuple(row["out"]), row["error"],
                )
            )  # fmt: skip
    return tuple(found)
