"""What nodes printed of settings, processes and routes, parsed. Pure.

``evidence_sources`` has the commands.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ebpfperf.network_view import Route


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the node's network.

    Attributes
    ----------
    busy_s
        Processor seconds that it has used, user and kernel.
    """

    name: str
    pid: int
    busy_s: float


@dataclass(frozen=True, slots=True)
class Processes:
    """calico-node, kube-proxy and iperf3 of one node at one time.

    Attributes
    ----------
    at_s
        The boot's age.
    """

    at_s: float
    found: tuple[Process, ...]

    def named(self, name: str) -> tuple[Process, ...]:
        """Those of a name."""
        return tuple(each for each in self.found if each.name == name)


def parse_settings(text: str) -> dict[str, str]:
    """Sysctl → value of lines ``net/ipv4/ip_forward:1``, dots for slashes."""
    lines = (line.partition(":") for line in text.splitlines())
    found: dict[str, str] = {}
    for path, colon, value in lines:
        if colon:
            found.setdefault(path.replace("/", "."), value.strip())
    return found


def parse_processes(text: str) -> Processes:
    """What the script printed: ticks a second and the boot's age; then name, pid, two counts.

    Raises
    ------
    ValueError
        It is no such answer.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines or len(lines[0]) != 2:
        raise ValueError("the list of processes has no first line")
    ticks, at_s = float(lines[0][0]), float(lines[0][1])
    if not ticks > 0:
        raise ValueError("the list of processes has no ticks")
    return Processes(
        at_s,
        tuple(
            Process(line[0], int(line[1]), (int(line[2]) + int(line[3])) / ticks)
            for line in lines[1:]
            if len(line) == 4
        ),
    )


def parse_routes(text: str, *, main: bool = False) -> tuple[Route, ...]:
    """IPv4 routes of ``ip -j route show table all`` without the table ``local``.

    ``main``: those of the main table alone.

    One with several next hops is several routes.

    Raises
    ------
    ValueError
        Not iproute2's JSON.
    """
    entries = json.loads(text) if text.strip() else []
    if not isinstance(entries, list):
        raise ValueError("ip -j printed no list")
    return tuple(
        Route(
            str(entry["dst"]),
            str(entry.get("type", "unicast")),
            str(way.get("gateway", "")),
            str(way.get("dev", "")),
            str(entry.get("protocol", "")),
        )
        for entry in entries
        if isinstance(entry, dict) and entry.get("dst") and _ipv4(entry)
        if not main or entry.get("table", "main") == "main"
        for way in _ways(entry)
    )


def _ipv4(entry: dict[str, Any]) -> bool:
    # Only IPv6 routes have a preference; their default has no colon.
    words = (str(entry.get(key, "")) for key in ("dst", "gateway", "prefsrc"))
    return entry.get("table") != "local" and "pref" not in entry and ":" not in "".join(words)


def _ways(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    several = entry.get("nexthops")
    if isinstance(several, list) and several and not entry.get("dev"):
        yield from (way for way in several if isinstance(way, dict))
    else:
        yield entry
