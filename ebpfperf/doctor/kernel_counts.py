"""What a kernel counts of packets that it drops itself, and what grew between two readings. Pure.

The text is that of the source ``statistics``: ``/proc/net/softnet_stat`` (hexadecimal; a line a
processor), ``ip -s -j link``, ``/proc/net/{snmp,netstat}`` (pairs of lines).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

Key = tuple[str, str]
"""(device, counter); the device is empty for what is the whole node's."""
SQUEEZED: Final = "softnet squeezed"
SQUEEZED_PER_S = 10.0
"""So many squeezes a second and fewer are common under load."""
_DROPPED: Final = "softnet dropped"
_HEADER = re.compile(r"^==> (\S+) <==$", re.M)
_LINK = ("dropped", "errors")
_SOCKETS = "Its readers are too slow: look at the programs, and at net.core.rmem_max."
_LISTENERS = "A server accepts too slowly, or its backlog (net.core.somaxconn) is short."
_MEMORY = "TCP is short of memory, or its reader is too slow: net.ipv4.tcp_mem, tcp_rmem."
_RATES: Mapping[str, str] = {
    "Ip.InDiscards": "Look at the kernel's log and at memory.",
    "Ip.OutDiscards": "Look at queues of the devices (tc -s qdisc) and at memory.",
    "Ip.ReasmFails": "Fragments are lost or come too late: look at the path's MTU.",
    "Ip.FragFails": "Packets are too long and must not be fragmented: look at MTUs (E7).",
    "Udp.RcvbufErrors": _SOCKETS,
    "Udp.SndbufErrors": "Senders are too fast for the device: look at its queue.",
    "Udp.MemErrors": "UDP is short of memory: net.ipv4.udp_mem.",
    "TcpExt.ListenOverflows": _LISTENERS,
    "TcpExt.ListenDrops": _LISTENERS,
    "TcpExt.TCPReqQFullDrop": _LISTENERS,
    "TcpExt.TCPBacklogDrop": _MEMORY,
    "TcpExt.TCPRcvQDrop": _MEMORY,
    "TcpExt.RcvPruned": _MEMORY,
    "TcpExt.OfoPruned": _MEMORY,
    "TcpExt.PFMemallocDrop": _MEMORY,
    "TcpExt.IPReversePathFilter": "The kernel's own check of the way back dropped them: "
    "net.ipv4.conf.*.rp_filter.",
}


@dataclass(frozen=True, slots=True)
class Grown:
    """A counter that grew.

    Attributes
    ----------
    what
        The counter's name; of a device ``rx dropped``.
    sentence
        The beginning of a sentence, up to how often.
    """

    device: str
    what: str
    count: int
    sentence: str
    remedy: str


def parse(text: str) -> dict[Key, int]:
    """(device, counter) → count, of the counters that are looked at.

    Raises
    ------
    KeyError, TypeError, ValueError
        It is no such text.
    """
    pieces = _HEADER.split(text)
    parts = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    found: dict[Key, int] = {}
    for line in parts.get("softnet", "").splitlines():
        words = line.split()
        if len(words) > 2:
            for name, word in ((_DROPPED, words[1]), (SQUEEZED, words[2])):
                found["", name] = found.get(("", name), 0) + int(word, 16)
    links = parts.get("links", "").strip()
    for link in json.loads(links) if links else []:
        for side, counts in (link.get("stats64") or {}).items():
            for name in _LINK:
                if name in counts:
                    found[str(link["ifname"]), f"{side} {name}"] = int(counts[name])
    lines = parts.get("snmp", "").splitlines()
    for names, numbers in pairwise(lines):
        kind, _, listed = names.partition(":")
        same, _, counts_text = numbers.partition(":")
        if kind != same or not listed.split()[0].isidentifier():
            continue
        for name, number in zip(listed.split(), counts_text.split(), strict=False):
            if f"{kind}.{name}" in _RATES:
                found["", f"{kind}.{name}"] = int(number)
    return found


def grown(before: Mapping[Key, int], after: Mapping[Key, int]) -> list[Grown]:
    """What grew, most first; a counter that was not there before, or shrank, is left out."""
    found = [
        _grown(device, name, count - before[device, name])
        for (device, name), count in after.items()
        if (device, name) in before and count > before[device, name]
    ]
    return sorted(found, key=lambda each: (-each.count, each.device, each.what))


def _grown(device: str, name: str, count: int) -> Grown:
    if device:
        side, _, what = name.partition(" ")
        way = "receiving" if side == "rx" else "sending"
        remedy = "Look at ethtool -S there: rings, and the processors that serve them."
        if (side, what) == ("rx", "dropped"):
            remedy += " Frames of a protocol that nobody handles (LLDP) count, too."
        return Grown(device, name, count, f"{device} counted {what} while {way},", remedy)
    if name == _DROPPED:
        remedy = "Processors do not keep up: net.core.netdev_max_backlog, more queues (RSS, RPS)."
        return Grown("", name, count, "A processor's queue of received packets was full", remedy)
    if name == SQUEEZED:
        remedy = "Processors do not keep up: net.core.netdev_budget, more queues (RSS, RPS)."
        sentence = "A processor's time to receive was over before its work was done"
        return Grown("", name, count, sentence, remedy)
    return Grown("", name, count, f"The kernel counted {name}", _RATES[name])
