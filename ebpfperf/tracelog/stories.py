"""One packet over programs and devices: which rows of a packet frame are the same packet.

Programs do not number packets, so this is put together: the next sight of a packet has the flow
with which the last one let it go (DNAT included), at another hook, soon after, and the same IP
header id where both say it. What leaves a pod begins a story, what enters one ends it. Where a log
has no ids, two packets of one flow that overtake each other may be taken for each other; sights
without addresses (bypass, level Info) belong to no story.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from ebpfperf.errors import InputError
from ebpfperf.tracelog.flows import CUT, side
from ebpfperf.tracelog.reading import Reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

WITHIN_S = 1.0
# Calico's interfacePrefix: what comes out of a pod begins its way there, what goes in ends it.
WORKLOAD = "cali"
_REMEMBERED = 64
_WANTED = re.compile(r"\[(?P<six>.+)\](?::(?P<port>\d+))?|(?P<four>[\d.]+):(?P<at>\d+)")


class _Sight(NamedTuple):
    story: int
    end_s: float
    ip_id: int | None
    protocol: str | None
    hooks: frozenset[tuple[Any, Any]]


def told(packets: pd.DataFrame, *, within_s: float = WITHIN_S) -> pd.DataFrame:
    """The packets by time, with a column ``story`` (from 1) that rows of one packet share.

    Parameters
    ----------
    packets
        As ``packets.Assembler`` makes them.
    within_s
        Longest time from one sight to the next.
    """
    rows = packets.sort_values(["start_s", "first_line"], kind="stable", ignore_index=True)
    rows.insert(0, "story", 0)
    waiting: dict[tuple[Any, ...], list[_Sight]] = {}
    stories: list[int] = []
    count = 0
    for row in rows.astype(object).where(rows.notna(), None).to_dict("records"):
        source = (row["source"], row["source_port"])
        here = (*source, row["destination"], row["destination_port"])
        workload = str(row["iface"]).startswith(WORKLOAD)
        hook = (row["iface"], row["direction"])
        ip_id = row["ip_id"]
        open_ = waiting.get(here, [])
        found = next(
            (
                sight
                for sight in open_
                if hook not in sight.hooks
                and not (workload and row["direction"] == "egress")
                and (None in (row["protocol"], sight.protocol) or row["protocol"] == sight.protocol)
                and row["start_s"] - sight.end_s <= within_s
                and (ip_id is None or sight.ip_id is None or ip_id == sight.ip_id)
            ),
            None,
        )
        if found is None or row["source"] is None:
            count += 1
            sight = _Sight(count, row["end_s"], ip_id, row["protocol"], frozenset({hook}))
        else:
            open_.remove(found)
            known = ip_id if found.ip_id is None else found.ip_id
            protocol = row["protocol"] if found.protocol is None else found.protocol
            sight = _Sight(found.story, row["end_s"], known, protocol, found.hooks | {hook})
        stories.append(sight.story)
        delivered = workload and row["direction"] == "ingress"
        delivered |= row["path"] == "redirect to peer"
        if row["verdict"] == "ALLOW" and row["source"] is not None and not delivered:
            target = here[2:4] if row["to"] is None else (row["to"], row["to_port"])
            queue = waiting.setdefault((*source, *target), [])
            queue.append(sight)
            del queue[:-_REMEMBERED]
    rows["story"] = stories
    return rows


def spelled(wanted: str) -> str:
    """``ADDRESS`` or ``ADDRESS:PORT`` as packets have it; InputError for what is neither."""
    if CUT in wanted:
        return wanted
    at = _WANTED.fullmatch(wanted)
    address, port = (at["six"] or at["four"], at["port"] or at["at"]) if at else (wanted, None)
    try:
        found = str(ipaddress.ip_address(address))
    except ValueError as error:
        raise InputError(
            f"{wanted!r} is no address.", "Write 10.65.1.7, 10.65.1.7:80, fd00::7 or [fd00::7]:80."
        ) from error
    return found if port is None else side(found, int(port))


def about(packets: pd.DataFrame, wanted: str) -> pd.DataFrame:
    """The packets from or to an address, as ``spelled`` has it."""
    return packets.loc[_is_about(packets, wanted)]


@dataclass(slots=True)
class Following:
    """Of packets a frame at a time those about an address, and those that DNAT made of them."""

    wanted: str
    _onward: set[tuple[Any, ...]] = field(default_factory=set)

    def of(self, packets: pd.DataFrame) -> pd.DataFrame:
        """The packets of the next frame."""
        hit = _is_about(packets, self.wanted)
        source = ("source", "source_port")
        changed = packets.loc[hit & packets["to"].notna().to_numpy(dtype=bool)]
        self._onward |= _flows(changed, *source, "to", "to_port").keys()
        for flow, rows in _flows(packets, *source, "destination", "destination_port").items():
            if flow in self._onward:
                hit[rows] = True
        return packets.loc[hit]


def _flows(packets: pd.DataFrame, *names: str) -> dict[tuple[Any, ...], list[int]]:
    """Where each flow is, by row; rows that do not say who sent them are left out."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for row, flow in enumerate(zip(*(packets[name] for name in names), strict=True)):
        if isinstance(flow[0], str):
            found.setdefault(flow, []).append(row)
    return found


def _is_about(packets: pd.DataFrame, wanted: str) -> NDArray[np.bool_]:
    hit = np.zeros(len(packets), dtype=bool)
    for name in ("source", "destination", "to"):
        hit |= (packets[name] == wanted).fillna(False).to_numpy(dtype=bool)
        sides = zip(packets[name], packets[f"{name}_port"], strict=True)
        hit |= np.array([side(address, port) == wanted for address, port in sides], dtype=bool)
    return hit


def chapters(stories: pd.DataFrame, reading: Reading, file: IO[bytes]) -> Iterator[str]:
    """The stories in sentences: each sight with what became of the packet, and its lines.

    Parameters
    ----------
    stories
        As ``told`` makes them.
    reading, file
        A new reading of the same log, from its beginning.
    """
    texts = _lines_of(stories, reading, file)
    for number, sights in stories.groupby("story", sort=True):
        first = sights.iloc[0]
        yield (
            f"Packet {number}: {_end(first, 'source')} to {_end(first, 'destination')} "
            f"{first['protocol'] if isinstance(first['protocol'], str) else ''}".rstrip()
        )
        for place, sight in sights.iterrows():
            after_us = (sight["start_s"] - first["start_s"]) * 1e6
            fate = sight["path"] if pd.isna(sight["why"]) else f"{sight['path']}: {sight['why']}"
            onward = "" if pd.isna(sight["to"]) else f", on to {_end(sight, 'to')}"
            gap = f" ({sight['lost_events']} events lost near)" if sight["lost_events"] else ""
            yield (
                f"  +{after_us:.0f} µs, processor {sight['cpu']}: {sight['iface']} "
                f"{sight['direction']}: {fate}{onward}{gap}"
            )
            yield from (f"      {text}" for text in texts[place])


def _lines_of(stories: pd.DataFrame, reading: Reading, file: IO[bytes]) -> dict[Any, list[str]]:
    found: dict[Any, list[str]] = {place: [] for place in stories.index}
    end = int(stories["last_line"].max())
    for table in reading.tables(file):
        tags = reading.pools.tag.values
        for place, sight in stories.iterrows():
            begin = np.searchsorted(table.number, sight["first_line"])
            stop = np.searchsorted(table.number, sight["last_line"], side="right")
            for row in range(begin, stop):
                tag = tags[table.tag[row]]
                hook = (tag.iface, tag.direction) == (sight["iface"], sight["direction"])
                untagged = tag.iface is None and table.number[row] == sight["last_line"]
                if table.cpu[row] == sight["cpu"] and (hook or untagged):
                    found[place].append(str(table.text[row]))
        if len(table) and int(table.number[-1]) >= end:
            break
    return found


def _end(sight: pd.Series[Any], name: str) -> str:
    return side(sight[name], sight[f"{name}_port"])
