"""A node's maps against the API: services, backends and routes that are missing or stale. Pure.

What the maps must hold follows of felix/bpf/proxy/syncer.go (services) and
felix/dataplane/linux/bpf_route_mgr.go (routes); ``map_wanted`` has what the API says of them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd

from ebpfperf.map_wanted import Api, Service
from ebpfperf.mapdump import summaries
from ebpfperf.mapdump.nat import BLACKHOLE, NAT_EXCLUDE
from ebpfperf.mapdump.routes import HOST, LOCAL, WORKLOAD
from ebpfperf.mapdump.summaries import joined

FAIL, WARN, UNKNOWN = "FAIL", "WARN", "UNKNOWN"
# So many backends are named in one sentence.
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that the maps and the API disagree about, or that the maps alone show.

    Attributes
    ----------
    check
        ``service-missing``, ``service-empty``, ``backend-missing``, ``backend-stale``,
        ``backend-unknown``, ``route-missing``, ``route-wrong``, ``connection-stale``,
        ``syn-sent``, ``conntrack-full``, or ``not-read``: there was nothing to compare.
    severity
        ``FAIL``, ``WARN`` or ``UNKNOWN``.
    """

    check: str
    severity: str
    subject: str
    what: str


def services(
    api: Api,
    frontends: pd.DataFrame,
    backends: pd.DataFrame,
    *,
    families: Collection[int] = (4, 6),
) -> tuple[Problem, ...]:
    """Services that the maps lack, that lead nowhere, or to where nobody is.

    ``families``: those whose maps were read.
    """
    rows: Iterable[Any] = frontends.itertuples()
    known = {
        (str(row.addr), int(row.port), int(row.proto)): row
        for row in rows
        if row.src_cidr in ("0.0.0.0/0", "::/0")
    }
    behind: dict[int, dict[int, tuple[str, int]]] = {}
    ends: Iterable[Any] = backends.itertuples()
    for row in ends:
        behind.setdefault(int(row.id), {})[int(row.ordinal)] = (str(row.addr), int(row.port))
    return tuple(
        problem
        for service in api.services
        if _family(service.place[0]) in families
        for problem in _service(service, known.get(service.place), behind)
    )


def routes(
    api: Api, node: str, table: pd.DataFrame, *, families: Collection[int] = (4, 6)
) -> tuple[Problem, ...]:
    """Pods and nodes that the routes map does not lead to, seen from one node.

    ``families``: those whose maps were read.
    """
    found: list[Problem] = []
    by_length = _by_length(table)
    for name, addresses in api.node_addresses.items():
        for family in families:
            own = [each for each in addresses if _family(each) == family]
            rows = {each: _lookup(by_length, each) for each in own}
            hosts = {each: row for each, row in rows.items() if _flags(row) & HOST}
            # Of several addresses Calico uses one.
            if own and not hosts:
                what = f"{own[0]} of node {name} has no host route in the map."
                found.append(Problem("route-missing", FAIL, name, what))
            for address, row in hosts.items():
                if bool(_flags(row) & LOCAL) != (name == node):
                    side = "this" if _flags(row) & LOCAL else "another"
                    what = f"{address} of node {name} is a host of {side} node in the map."
                    found.append(Problem("route-wrong", FAIL, name, what))
    right: set[tuple[int, str]] = set()  # A block's row is that of all pods in it.
    for pod, where, address in api.routed(node):
        if _family(address) not in families:
            continue
        row = _lookup(by_length, address)
        if (id(row), where) in right:
            continue
        problems = list(_pod_route(api, node, pod, where, address, row))
        if not problems:
            right.add((id(row), where))
        found += problems
    return tuple(found)


def connections(
    frame: pd.DataFrame, backends: pd.DataFrame | None = None, *, max_entries: int | None = None
) -> tuple[Problem, ...]:
    """What connections show: backends that are gone, servers that do not answer, a full map."""
    found: list[Problem] = []
    if max_entries:
        pct = 100 * len(frame) / max_entries
        if pct > summaries.NEARLY_FULL_PCT:
            severity = FAIL if pct > summaries.FULL_PCT else WARN
            what = f"{len(frame)} of at most {max_entries} connections ({pct:.1f} %)."
            found.append(Problem("conntrack-full", severity, "conntrack", what))
    share = summaries.syn_sent_pct(frame)
    if share is not None and share > summaries.SYN_SENT_PCT:
        what = f"{share:.1f} % of TCP's connections are SYN-SENT: many servers do not answer."
        found.append(Problem("syn-sent", WARN, "conntrack", what))
    if backends is not None and not frame.empty:
        found += _stale(frame, backends)
    return tuple(found)


# ------------------------------------------------------------------------------- services


def _service(
    service: Service, row: Any, behind: Mapping[int, Mapping[int, tuple[str, int]]]
) -> Iterator[Problem]:
    address, port, protocol = service.place
    where = f"{service.name} ({joined(address, port)}, protocol {protocol})"
    if row is None:
        yield Problem("service-missing", FAIL, service.name, f"{where} is not in the NAT map.")
        return
    count = int(row.count)
    if count == BLACKHOLE or _excluded(row):
        return
    if count == 0:
        if service.endpoints:
            what = f"{where} has no backend in the map, and {len(service.endpoints)} in the API."
            yield Problem("service-empty", FAIL, service.name, what)
        else:
            what = f"{where} has no ready endpoint, in the API neither."
            yield Problem("service-empty", WARN, service.name, what)
        return
    own = behind.get(int(row.id), {})
    lacking = [ordinal for ordinal in range(min(count, len(own) + 1)) if ordinal not in own]
    if lacking or len(own) < count:
        what = f"{where} has {count} backends, and {count - len(own)} of them are not in the map."
        yield Problem("backend-missing", FAIL, service.name, what)
    there = {own[ordinal] for ordinal in own if ordinal < count}
    if stale := there - service.endpoints - service.ending:
        what = f"{where} leads to {_listed(stale)}: no ready endpoint of it."
        yield Problem("backend-stale", FAIL, service.name, what)
    if not lacking and not service.hinted and (unknown := service.endpoints - there):
        what = f"{where} does not lead to {_listed(unknown)}, which is ready."
        yield Problem("backend-unknown", FAIL, service.name, what)


def _excluded(row: Any) -> bool:
    flags = getattr(row, "flags", 0)
    return not pd.isna(flags) and bool(int(flags) & NAT_EXCLUDE)


def _listed(ends: Iterable[tuple[str, int]]) -> str:
    texts = [joined(*end) for end in sorted(ends)]
    more = len(texts) - _NAMED
    return ", ".join(texts[:_NAMED]) + (f" and {more} more" if more > 0 else "")


# --------------------------------------------------------------------------------- routes


def _by_length(table: pd.DataFrame) -> dict[int, dict[int, dict[int, Any]]]:
    """Family → bits, most first → network → row."""
    found: dict[int, dict[int, dict[int, Any]]] = {}
    for row in table.itertuples():
        network = ipaddress.ip_network(str(row.dest), strict=False)
        lengths = found.setdefault(network.version, {})
        lengths.setdefault(network.prefixlen, {})[int(network.network_address)] = row
    return {
        family: dict(sorted(lengths.items(), reverse=True)) for family, lengths in found.items()
    }


@lru_cache(maxsize=1 << 18)
def _number(address: str) -> tuple[int, int, int]:
    """Family, bits, and the address as a number: asked of every node again."""
    own = ipaddress.ip_address(address)
    return own.version, own.max_prefixlen, int(own)


def _family(address: str) -> int:
    return 6 if ":" in address else 4


def _lookup(tables: Mapping[int, Mapping[int, Mapping[int, Any]]], address: str) -> Any:
    """The row of the longest prefix that the address is in."""
    family, width, number = _number(address)
    for bits, rows in tables.get(family, {}).items():
        network = number >> (width - bits) << (width - bits)
        if network in rows:
            return rows[network]
    return None


def _flags(row: Any) -> int:
    return 0 if row is None else int(row.flags)


def _pod_route(
    api: Api, node: str, pod: str, where: str, address: str, row: Any
) -> Iterator[Problem]:
    flags = _flags(row)
    if not flags & WORKLOAD:
        what = f"{address} of pod {pod} on {where} has no workload route in the map."
        yield Problem("route-missing", FAIL, pod, what)
    elif bool(flags & LOCAL) != (where == node):
        said = "a workload of this node" if flags & LOCAL else "a workload of another node"
        what = f"{address} of pod {pod} is on {where}, and {said} in the map ({row.dest})."
        yield Problem("route-wrong", FAIL, pod, what)
    elif not flags & LOCAL:
        hop = None if pd.isna(row.next_hop) else str(row.next_hop)
        expected = api.node_addresses.get(where, ())
        if expected and hop not in expected:
            what = f"{address} of pod {pod} is on {where}, and the map's next hop is {hop}."
            yield Problem("route-wrong", FAIL, pod, what)


# ---------------------------------------------------------------------------- connections


def _stale(frame: pd.DataFrame, backends: pd.DataFrame) -> Iterator[Problem]:
    through = frame[(frame["type"] == "nat-reverse") & frame["initiator_dst"].notna()]
    if through.empty:
        return
    there = {
        (str(address), int(port))
        for address, port in zip(backends["addr"], backends["port"], strict=True)
    }
    ends = zip(
        through["initiator_dst"], through["initiator_dport"], through["orig_ip"],
        through["orig_port"], strict=True,
    )  # fmt: skip
    gone: dict[tuple[str, int, str], int] = {}
    for address, port, service, service_port in ends:
        end = str(address), int(port)
        if end not in there:
            key = (*end, joined(service, service_port))
            gone[key] = gone.get(key, 0) + 1
    for (address, port, service), count in sorted(gone.items()):
        what = (
            f"{count} connections to {service} go to {joined(address, port)}, which no service has."
        )
        yield Problem("connection-stale", WARN, service, what)
