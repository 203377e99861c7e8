"""JSON objects of a frame, one an entry: what ``ebpfperf maps … --json`` prints.

Missing is null. docs/maps.md lists the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd

from ebpfperf.mapdump.conntrack import LEG_BITS
from ebpfperf.mapdump.entries import Decoded

Row = Mapping[str, Any]
_LEG = ("bytes", "packets", "seqno", *LEG_BITS, "ifindex")
_KEY = ("proto", "addr_a", "port_a", "addr_b", "port_b")
_INITIATOR = ("src", "sport", "dst", "dport")
# Present only where the reader knew them: the age, and the interface's name.
_OPTIONAL = ("active_ago_s",)


def of(decoded: Decoded) -> Iterator[dict[str, Any]]:
    """An object for each entry, in the frame's order."""
    if decoded.purpose == "counters":
        return _counters(decoded.frame)
    make: Callable[[Row], dict[str, Any]] = {
        "conntrack": _connection,
    }.get(decoded.purpose, _words_as_list)
    return (make(row) for row in rows(decoded.frame))


def rows(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows as plain Python, with None where something is missing."""
    columns = {}
    for name in frame.columns:
        column = frame[name]
        values = column.astype(object).tolist()
        if column.hasnans or column.dtype == object:
            values = [None if value is None or value is pd.NA or value != value else value
                      for value in values]  # fmt: skip
        columns[str(name)] = values
    names = list(columns)
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(names, row, strict=True))


def _words_as_list(row: Row) -> dict[str, Any]:
    found = dict(row)
    if "flag_names" in found:
        found["flag_names"] = _words(row["flag_names"])
    return found


def _words(text: str | None) -> list[str] | None:
    return None if text is None else text.split()


def _connection(row: Row) -> dict[str, Any]:
    first = "created_ns" if "created_ns" in row else "rst_seen_ns"
    found: dict[str, Any] = {name: row[name] for name in _KEY}
    found |= {"type": row["type"], first: row[first], "last_seen_ns": row["last_seen_ns"]}
    found |= {"flags": row["flags"], "flag_names": _words(row["flag_names"])}
    for way in ("a_to_b", "b_to_a"):
        leg = {name: row[f"{way}_{name}"] for name in _LEG}
        found[way] = None if all(value is None for value in leg.values()) else leg
    found |= {name: row[name] for name in ("orig_ip", "orig_port", "orig_sport", "tun_ip")}
    reverse = {name: row[f"rev_{name}"] for name in _KEY}
    found["rev_key"] = None if reverse["addr_a"] is None else reverse
    found |= {name: row[name] for name in ("nat_sport", "tcp_state")}
    initiator = {name: row[f"initiator_{name}"] for name in _INITIATOR}
    found["initiator"] = None if initiator["src"] is None else initiator
    return found | {name: row[name] for name in _OPTIONAL if row.get(name) is not None}


def _counters(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """An object for each interface and hook, its counters by name."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    number = 0
    for row in rows(frame):
        place: tuple[Any, ...] = (row["interface"], row["ifindex"], row["hook"])
        if row["hook"] is None:
            # Nothing tells entries apart but that each begins with the first counter.
            number += row["counter"] == 0
            place = (*place, number)
        entry = found.setdefault(
            place,
            {
                "interface": row["interface"],
                "ifindex": row["ifindex"],
                "hook": row["hook"],
                "counters": {},
                "dropped_packets": 0,
            },
        )
        entry["counters"][f"{row['category']} {row['caption']}"] = row["packets"]
        if row["category"] == "Dropped":
            entry["dropped_packets"] += row["packets"]
    return iter(found.values())
