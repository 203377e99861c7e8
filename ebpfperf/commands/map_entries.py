"""How commands show entries of Calico's BPF maps: which of them, as a table or as JSON."""

from __future__ import annotations

import ipaddress
import sys
from typing import TYPE_CHECKING, Any

from ebpfperf import printing
from ebpfperf.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from ebpfperf.mapdump.entries import Decoded

_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
# Of which columns an address, a port, a protocol, a state is looked for, as far as they are there.
_ADDRESSES = ("addr_a", "addr_b", "orig_ip", "tun_ip", "addr", "dest", "next_hop", "member",
              "client", "backend_addr")  # fmt: skip
_PORTS = ("port_a", "port_b", "orig_port", "port", "backend_port")
_INTERFACES = ("interface", "name")


class Wanted:
    """What entries must have to be shown."""

    def __init__(
        self,
        address: str | None,
        port: int | None,
        proto: str | None,
        state: str | None,
        interface: str | None,
    ) -> None:
        try:
            self._network = ipaddress.ip_network(address, strict=False) if address else None
        except ValueError as error:
            raise InputError(f"--address: {error}.", "Write 10.65.0.2 or 10.65.0.0/24.") from error
        self._port, self._interface = port, interface
        self._state = state.upper() if state else None
        self._proto: int | None = None
        if proto is not None:
            named = _PROTOCOLS.get(proto.lower(), proto)
            if not str(named).isdecimal():
                raise InputError(
                    f"{proto!r} is no protocol.", f"Write {', '.join(_PROTOCOLS)} or a number."
                )
            self._proto = int(named)

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The entries that have it."""
        import pandas as pd

        keep = pd.Series(True, index=frame.index)
        if self._network is not None:
            keep &= self._any(frame, _ADDRESSES, self._within(frame))
        if self._port is not None:
            keep &= self._any(frame, _PORTS, {self._port})
        if self._proto is not None:
            keep &= self._any(frame, ("proto",), {self._proto})
        if self._state is not None:
            keep &= self._any(frame, ("tcp_state",), {self._state})
        if self._interface is not None:
            wanted = self._interface
            keep &= self._any(frame, _INTERFACES, {wanted}) | self._any(
                frame, ("ifindex", "a_to_b_ifindex", "b_to_a_ifindex"),
                {int(wanted)} if wanted.isdecimal() else set(),
            )  # fmt: skip
        return frame[keep]

    @staticmethod
    def _any(frame: pd.DataFrame, columns: tuple[str, ...], values: set[Any]) -> pd.Series[bool]:
        import pandas as pd

        found = pd.Series(False, index=frame.index)
        for name in columns:
            if name in frame:
                found |= frame[name].isin(values).astype(bool)
        return found

    def _within(self, frame: pd.DataFrame) -> set[str]:
        """Those texts of addresses and networks that overlap the one asked for."""
        assert self._network is not None
        texts: set[str] = set()
        for name in _ADDRESSES:
            if name in frame:
                texts |= set(frame[name].dropna().unique())
        found = set()
        for text in texts:
            network = ipaddress.ip_network(text, strict=False)
            if network.version == self._network.version and network.overlaps(self._network):
                found.add(text)
        return found


def show(
    found: list[tuple[Decoded, int | None]],
    *,
    wanted: Wanted,
    limit: int,
    json: bool,
    node: str = "",
) -> None:
    """Print entries, and on stderr what is to be said of them."""
    from dataclasses import replace

    from ebpfperf.mapdump import objects, summaries

    ids: dict[int, set[int]] = {}
    place = f"{node}: " if node else ""
    # Of one text there may be two frames, and what is said of it is said once.
    remarks = dict.fromkeys(
        f"{place}{'PARTIAL: ' if decoded.partial else ''}{remark}"
        for decoded, _ in found
        for remark in decoded.remarks
    )
    for remark in remarks:
        printing.remark(remark)
    for decoded, max_entries in found:
        name = decoded.version.name if decoded.version else decoded.purpose
        chosen = replace(decoded, frame=_chosen(decoded, wanted, ids))
        if json:
            for entry in objects.of(chosen):
                sys.stdout.write(_line({"node": node, **entry} if node else entry))
            continue
        summary = summaries.of(chosen, max_entries=max_entries)
        printing.table(["what", "value"], summary.to_numpy().tolist(), title=name)
        if limit:
            _table(chosen, limit)


def _line(entry: dict[str, Any]) -> str:
    import json

    import orjson

    try:
        return orjson.dumps(entry).decode() + "\n"
    except orjson.JSONEncodeError:
        # A sum of counters may have more than 64 bits.
        return json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n"


def _chosen(decoded: Decoded, wanted: Wanted, ids: dict[int, set[int]]) -> pd.DataFrame:
    """The entries wanted; of services that are shown, their backends as well.

    ``ids``: by family, those of the services shown so far.
    """
    frame = wanted.of(decoded.frame)
    family = decoded.version.family if decoded.version else 0
    if decoded.purpose == "nat-frontend":
        ids.setdefault(family, set()).update(frame["id"].tolist())
    if decoded.purpose == "nat-backend" and family in ids:
        every = decoded.frame
        if every.empty:
            return every
        return every[every.index.isin(frame.index) | every["id"].isin(ids[family])]
    return frame


def _table(decoded: Decoded, limit: int) -> None:
    from ebpfperf.mapdump import objects

    frame = decoded.frame
    if decoded.purpose == "counters":
        frame = frame[frame["packets"] > 0]
    columns = [name for name in _COLUMNS.get(decoded.purpose, list(frame.columns)) if name in frame]
    head = frame[columns].head(limit)
    rows = [[_cell(cell) for cell in row.values()] for row in objects.rows(head)]
    printing.table([str(name) for name in columns], rows, empty="No entry.")
    if len(frame) > limit:
        printing.sentence(f"{len(frame) - limit} more: --limit, or --json.")


def _cell(value: object) -> object:
    """What a table shows: nothing where nothing is known, or there is no address."""
    if value is None or value in ("0.0.0.0", "::"):
        return ""
    return f"{value:.3f}" if isinstance(value, float) else value


_COLUMNS = {
    "conntrack": [
        *("proto", "initiator_src", "initiator_sport", "initiator_dst", "initiator_dport"),
        *("orig_ip", "orig_port", "type", "tcp_state", "flag_names", "a_to_b_packets"),
        *("b_to_a_packets", "active_ago_s"),
    ],
    "counters": ["interface", "ifindex", "hook", "category", "caption", "packets"],
    "ifstate": ["ifindex", "name", "flag_names", "ingress_v4", "egress_v4"],
}
