"""JSON objects of a frame, one an entry: what ``ebpfperf maps … --json`` prints.

Missing is null. docs/maps.md lists the keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from ebpfperf.mapdump.conntrack import LEG_BITS
from ebpfperf.mapdump.entries import Decoded

_LEG = ("bytes", "packets", "seqno", *LEG_BITS, "ifindex")
_KEY = ("proto", "addr_a", "port_a", "addr_b", "port_b")
_INITIATOR = ("src", "sport", "dst", "dport")
# Present only where the reader knew them: the age, and the interface's name.
_OPTIONAL = ("active_ago_s",)


def of(decoded: Decoded) -> Iterator[dict[str, Any]]:
    """An object for each entry, in the frame's order."""
    if decoded.purpose == "counters":
        return _counters(decoded.frame)
    columns = _columns(decoded.frame)
    if decoded.purpose == "conntrack":
        columns = _connections(columns)
    return _rows(columns)


def rows(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows as plain Python, with None where something is missing."""
    return _rows({str(name): _plain(frame[name]) for name in frame.columns})


def _rows(columns: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    names = list(columns)
    return (dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Plain Python by column; words of flags as lists."""
    found = {str(name): _plain(frame[name]) for name in frame.columns}
    if "flag_names" in found:
        found["flag_names"] = [
            None if text is None else text.split() for text in found["flag_names"]
        ]
    return found


def _plain(column: pd.Series[Any]) -> list[Any]:
    values: list[Any] = column.astype(object).tolist()
    if not (column.hasnans or column.dtype == object):
        return values
    return [None if value is pd.NA or value != value else value for value in values]


def _connections(columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The columns of objects: legs, keys and initiators in one each."""
    first = "created_ns" if "created_ns" in columns else "rst_seen_ns"
    names = (*_KEY, "type", first, "last_seen_ns", "flags", "flag_names")
    found = {name: columns[name] for name in names}
    for way in ("a_to_b", "b_to_a"):
        found[way] = _together(columns, _LEG, f"{way}_", unless_missing="seqno")
    found |= {name: columns[name] for name in ("orig_ip", "orig_port", "orig_sport", "tun_ip")}
    found["rev_key"] = _together(columns, _KEY, "rev_", unless_missing="addr_a")
    found |= {name: columns[name] for name in ("nat_sport", "tcp_state")}
    found["initiator"] = _together(columns, _INITIATOR, "initiator_", unless_missing="src")
    return found | {name: columns[name] for name in _OPTIONAL if name in columns}


def _together(
    columns: Mapping[str, list[Any]], names: tuple[str, ...], prefix: str, *, unless_missing: str
) -> list[dict[str, Any] | None]:
    """An object of these columns for each row; None where the one named is missing."""
    at = names.index(unless_missing)
    every = zip(*(columns[prefix + name] for name in names), strict=True)
    return [None if row[at] is None else dict(zip(names, row, strict=True)) for row in every]


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
