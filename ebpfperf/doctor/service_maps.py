"""Services of the API beside rows of the NAT maps: what is compared, what is shown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from ebpfperf import map_checks, map_wanted
from ebpfperf.diagnosis import Shown
from ebpfperf.doctor.case import Case, Missing
from ebpfperf.kube_objects import Object
from ebpfperf.map_checks import Problem
from ebpfperf.map_wanted import SERVICE_LABEL, Service
from ebpfperf.mapdump.summaries import joined

MOST = 5
"""So many problems of a node are told one by one."""
# Another proxy than Calico's, or kube-proxy, serves these.
OTHER_PROXY = "service.kubernetes.io/service-proxy-name"


def ports(case: Case) -> tuple[Service, ...]:
    """Every address and port of every Service that Calico serves; Missing."""
    return case.kept(("service-ports", False), lambda: _ports(case.services(), case.slices()))


def ports_later(case: Case) -> tuple[Service, ...] | None:
    """The same with the endpoints of the later reading; None where there is none."""
    try:
        return case.kept(
            ("service-ports", True), lambda: _ports(case.services(), case.slices(later=True))
        )
    except Missing:
        return None


def changing(case: Case) -> frozenset[str]:
    """``namespace/name`` of Services whose EndpointSlices differ between the two readings.

    Felix writes what changed within bpfKubeProxyMinSyncPeriod: its maps may hold either.
    """
    try:
        first, later = (_generations(case.slices(later=late)) for late in (False, True))
    except Missing:
        return frozenset()
    return frozenset(name for name in {*first, *later} if first.get(name) != later.get(name))


def _generations(slices: Iterable[Object]) -> dict[str, set[tuple[str, int]]]:
    found: dict[str, set[tuple[str, int]]] = {}
    for each in slices:
        meta = each["metadata"]
        name = f"{meta.get('namespace')}/{(meta.get('labels') or {}).get(SERVICE_LABEL)}"
        told = str(meta.get("uid") or meta["name"]), int(meta.get("generation") or 0)
        found.setdefault(name, set()).add(told)
    return found


def _ports(services: Iterable[Object], slices: Iterable[Object]) -> tuple[Service, ...]:
    own: dict[tuple[Any, Any], list[Object]] = {}
    for each in slices:
        meta = each["metadata"]
        name = (meta.get("labels") or {}).get(SERVICE_LABEL)
        own.setdefault((meta.get("namespace"), name), []).append(each)
    return tuple(
        port
        for service in services
        if OTHER_PROXY not in (service["metadata"].get("labels") or {})
        for port in map_wanted.api(
            [service],
            own.get((service["metadata"].get("namespace"), service["metadata"]["name"]), ()),
            (),
            (),
        ).services
    )


def family(address: str) -> int:
    """4 or 6."""
    return 6 if ":" in address else 4


def rows(
    subject: str, services: Iterable[Service], front: pd.DataFrame, back: pd.DataFrame
) -> Iterator[str]:
    """What the maps hold of a service, as lines."""
    for service in services:
        if service.name != subject:
            continue
        address, port, protocol = service.place
        where = f"frontend {joined(address, port)} protocol {protocol}"
        own = front[
            (front["addr"] == address) & (front["port"] == port) & (front["proto"] == protocol)
        ]
        if own.empty:
            yield f"{where}: not in the map"
        ours: Iterable[Any] = own.itertuples()
        for row in ours:
            yield f"{where}: id {row.id}, count {row.count}"
            ends: Iterable[Any] = back[back["id"] == row.id].sort_values("ordinal").itertuples()
            for end in ends:
                yield f"backend {end.id}:{end.ordinal} {joined(str(end.addr), int(end.port))}"


def api_shown(case: Case, subject: str, services: Iterable[Service]) -> Shown:
    """What the API has of a service's ready endpoints."""
    lines = [
        f"{each.name} {joined(*each.place[:2])}: ready "
        f"{', '.join(joined(*end) for end in sorted(each.endpoints)) or 'none'}"
        for each in services
        if each.name == subject
    ]
    return case.show("endpointslices", excerpt=lines)


def remedy(problem: Problem, node: str) -> str:
    """What to do about one of ``map_checks.services``."""
    if problem.severity == map_checks.WARN:
        namespace, _, name = problem.subject.partition(":")[0].partition("/")
        return (
            "See why no pod of it is ready: "
            f"kubectl get endpointslice -n {namespace} -l {SERVICE_LABEL}={name} -o wide."
        )
    return (
        f"See calico-node's log on {node} for errors of its services part and of the API; "
        "restart calico-node there: it then writes what its maps lack."
    )
