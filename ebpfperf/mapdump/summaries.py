"""What a map says on the whole: states, services, ages, drops. Frame in, frame out.

Each has the columns ``what``, ``value`` and ``of``: a sentence's worth a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ebpfperf.mapdump.entries import Decoded

TOP = 10
# Above this share of SYN-SENT among TCP's connections, servers do not answer.
SYN_SENT_PCT = 20.0
FULL_PCT, NEARLY_FULL_PCT = 90.0, 85.0
_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
_NS = 1e-9


def of(decoded: Decoded, *, max_entries: int | None = None) -> pd.DataFrame:
    """What is to be said of a map in a few rows.

    Parameters
    ----------
    max_entries
        How many entries it may have; None where that is not known.
    """
    frame = decoded.frame
    entries = len(frame)
    if decoded.purpose == "counters":
        # A row is one number of an entry.
        entries = len(frame[["interface", "ifindex", "hook"]].drop_duplicates())
    found: list[tuple[str, str]] = [("entries", str(entries))]
    if max_entries:
        pct = 100 * entries / max_entries
        word = "nearly full" if pct > NEARLY_FULL_PCT else "room is left"
        word = "full" if pct > FULL_PCT else word
        found.append(("of at most", f"{max_entries} ({pct:.1f} %: {word})"))
    if not frame.empty:
        found += {
            "conntrack": _conntrack,
            "nat-frontend": _frontends,
            "nat-backend": _backends,
            "routes": _words,
            "ifstate": _words,
            "counters": _drops,
        }.get(decoded.purpose, _nothing)(frame)
    return pd.DataFrame(found, columns=["what", "value"])


def syn_sent_pct(frame: pd.DataFrame) -> float | None:
    """Share of SYN-SENT among the TCP connections whose state is known; None without any."""
    states = frame["tcp_state"].dropna()
    return None if states.empty else 100.0 * float((states == "SYN-SENT").mean())


def top_services(frame: pd.DataFrame, top: int = TOP) -> pd.DataFrame:
    """The services with most connections: ``service``, ``connections``, ``bytes``, ``syn_sent``.

    ``bytes`` is missing where the map does not count them (before v3.24).
    """
    through = frame[frame["type"] == "nat-reverse"]
    columns = ["service", "connections", "bytes", "syn_sent"]
    if through.empty:
        return pd.DataFrame(columns=columns)
    # Legs that no count is of are missing, and so is their sum.
    table = pd.DataFrame(
        {
            "proto": through["proto"],
            "addr": through["orig_ip"].astype(object),
            "port": through["orig_port"],
            "bytes": _number(through["a_to_b_bytes"]) + _number(through["b_to_a_bytes"]),
            "syn_sent": through["tcp_state"] == "SYN-SENT",
        }
    )
    groups = table.groupby(["proto", "addr", "port"], observed=True, dropna=False)
    found = groups.agg(
        connections=("syn_sent", "size"),
        bytes=("bytes", lambda of: of.sum(min_count=1)),
        syn_sent=("syn_sent", "sum"),
    ).reset_index()
    found["service"] = [
        f"{_protocol(proto)} {joined(addr, port)}"
        for proto, addr, port in zip(found["proto"], found["addr"], found["port"], strict=True)
    ]
    ordered = found.sort_values(["connections", "service"], ascending=[False, True])
    return ordered[columns].head(top).reset_index(drop=True)


def ages(frame: pd.DataFrame) -> tuple[str, pd.Series[Any]]:
    """How long ago each connection was active, seconds, and since when that is counted.

    Without the node's clock it is counted from the latest packet in the dump: at least so long.
    """
    if "active_ago_s" in frame and frame["active_ago_s"].notna().any():
        return "now", frame["active_ago_s"].dropna().astype(float)
    seen = frame["last_seen_ns"].dropna()
    if seen.empty:
        return "now", pd.Series(dtype=float)
    latest = seen.max()
    return "the latest packet of the dump", (latest - seen).astype(float) * _NS


def _conntrack(frame: pd.DataFrame) -> list[tuple[str, str]]:
    found = [("type", _counts(frame["type"]))]
    found.append(("protocol", _counts(frame["proto"].map(_protocol))))
    share = syn_sent_pct(frame)
    if share is not None:
        found.append(("TCP state", _counts(frame["tcp_state"])))
        said = " (many servers do not answer)" if share > SYN_SENT_PCT else ""
        found.append(("SYN-SENT", f"{share:.1f} % of TCP{said}"))
    since, old = ages(frame)
    if len(old):
        middle, most, oldest = np.quantile(old, [0.5, 0.9, 1.0])
        found.append(
            (
                "active ago",
                f"half within {middle:.3g} s, 90 % within {most:.3g} s, all within {oldest:.3g} s "
                f"(before {since})",
            )
        )
    for row in top_services(frame).to_dict("records"):
        counted = "" if pd.isna(row["bytes"]) else f", {row['bytes']} bytes"
        found.append((f"service {row['service']}", f"{row['connections']} connections{counted}"))
    return found


def _frontends(frame: pd.DataFrame) -> list[tuple[str, str]]:
    live = frame[~frame["blackhole"].astype(bool)]
    return [
        ("services", str(frame["id"].nunique())),
        ("without backend", str(int((live["count"] == 0).sum()))),
        ("that drop other sources", str(int(frame["blackhole"].sum()))),
    ]


def _backends(frame: pd.DataFrame) -> list[tuple[str, str]]:
    addresses = frame[["addr", "port"]].astype(object).drop_duplicates()
    return [("services", str(frame["id"].nunique())), ("backends", str(len(addresses)))]


def _words(frame: pd.DataFrame) -> list[tuple[str, str]]:
    words = frame["flag_names"].astype(object)
    counts = words.value_counts().sort_values(ascending=False, kind="stable")
    return [(str(word) or "no flag", str(count)) for word, count in counts.items()]


def _drops(frame: pd.DataFrame) -> list[tuple[str, str]]:
    dropped = frame[(frame["category"] == "Dropped") & (frame["packets"] > 0)]
    if dropped.empty:
        return [("dropped", "0 packets")]
    places = dropped["interface"].astype(object)
    places = places.where(places.notna(), "ifindex " + dropped["ifindex"].astype(str))
    return [
        (f"dropped on {place} {hook}", f"{packets} packets: {caption}")
        for place, hook, packets, caption in zip(
            places, dropped["hook"], dropped["packets"], dropped["caption"], strict=True
        )
    ]


def _number(column: pd.Series[Any]) -> pd.Series[Any]:
    """The column as numbers, also where the dump said none at all."""
    return column.astype("Int64") if column.dtype == object else column


def _nothing(frame: pd.DataFrame) -> list[tuple[str, str]]:
    return []


def _counts(column: pd.Series[Any]) -> str:
    counts = column.astype(object).value_counts()
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def _protocol(number: Any) -> str:
    return "unknown" if pd.isna(number) else _PROTOCOLS.get(int(number), f"protocol {number}")


def joined(address: Any, port: Any) -> str:
    """``10.96.0.10:53``, or with brackets where the address has colons."""
    return f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"
