"""Faults of what a node's maps hold: services that lead nowhere, connections that stay."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ebpfperf.calico.maps import map_for
from ebpfperf.lab import bpfmaps, mapbytes
from ebpfperf.lab.bpfmaps import Map
from ebpfperf.lab.faults import entries, pods
from ebpfperf.lab.faults.acting import Asked, collection, follow, needs_ebpf
from ebpfperf.lab.faults.declaration import Fault, Record
from ebpfperf.lab.faults.place import Place
from ebpfperf.lab.own_annotations import (
    BACKEND_MISSING,
    FAULT_NAMESPACE,
    FRONTEND_MISSING,
    FULL,
    STALE,
    owned,
)
from ebpfperf.lab.services import SERVICE_LABEL, ServicePort, service_ports

_SERVICES = collection("services", FAULT_NAMESPACE)
_PORT, _TARGET = 80, 8080
# Of TEST-NET-3 (RFC 5737): an address that is nobody's.
_GONE = ("203.0.113.10", _TARGET)
_STALE_COUNT = 8
# Entries of the small map, where the release lets a map be small, and how full it is made.
_SMALL, _FULL_PCT = 10_000, 94
_SIZE, _SCALING = "bpfMapSizeConntrack", "bpfMapSizeConntrackScaling"
_SCALING_FROM = (3, 30)
_PORTS_EACH = 60_000
_CLIENTS = "203.0.113"


def _lacking(fault: str, holds: Callable[[Place, ServicePort], bool]) -> Fault:
    """The row of a fault whose own Service lacks something in the node's NAT maps."""

    def put(place: Place, _: Record) -> None:
        place.annotate(fault, on=True)
        _serve(place, fault)
        place.wait(f"{fault} in the maps", lambda: holds(place, _served(place, fault)))
        for each in place.everywhere():
            if each.node != place.node and each.forwards_by_programs():
                each.wait("the whole service", lambda: _whole(each, _served(place, fault)))  # noqa: B023

    def take(place: Place, _: Record) -> None:
        place.annotate(fault, on=False)
        _unserve(place, fault)

    what, how = {
        BACKEND_MISSING: ("Some connections to one service fail.", "last backend"),
        FRONTEND_MISSING: ("One service does not answer.", "frontend"),
    }[fault]
    return Fault(
        fault,
        f"{what} Elsewhere in the cluster it works.",
        ("B2",),
        f"The fault's own Service, with pods; the lab's Felix leaves its {how} out of the node's "
        "real map, however often it writes it.",
        _ready,
        put,
        take,
    )


def _ready(place: Place) -> Record:
    needs_ebpf(place)
    return {}


def _serve(place: Place, fault: str) -> None:
    """A Service of the fault's own with a pod on every node, of which all are ready."""
    name = owned(fault, place.node.name)
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": FAULT_NAMESPACE},
        "spec": {"selector": {"app": name}, "ports": [{"port": _PORT, "targetPort": _TARGET}]},
    }
    place.create(_SERVICES, body)
    every = place.everywhere()
    for each in every:
        pods.make(each, f"{name}-{each.node.index}", labels={"app": name})
    place.wait(f"backends of {name}", lambda: len(_served(place, fault).backends) == len(every))


def _unserve(place: Place, fault: str) -> None:
    name = owned(fault, place.node.name)
    place.delete(f"{_SERVICES}/{name}")
    pods.remove(place, *(f"{name}-{each.node.index}" for each in place.everywhere()))
    place.wait(f"the end of who is behind {name}", lambda: not _behind(place, name))


def _behind(place: Place, name: str) -> bool:
    """Whether the API still says who is behind a Service: of one that is gone, for a moment."""
    asked = Asked(place)
    slices = asked.list("endpointslices", FAULT_NAMESPACE)
    named = [(each["metadata"].get("labels") or {}).get(SERVICE_LABEL) for each in slices]
    named += [each["metadata"]["name"] for each in asked.list("endpoints", FAULT_NAMESPACE)]
    return name in named


def _served(place: Place, fault: str) -> ServicePort:
    """The fault's own Service, with the backends that the API has of it now."""
    name = f"{FAULT_NAMESPACE}/{owned(fault, place.node.name)}"
    return next(port for port in service_ports(Asked(place)) if port.name == name)


@contextmanager
def _map(place: Place, purpose: str) -> Iterator[Map | None]:
    """The node's map of that purpose; None where it has none now."""
    spec = map_for(purpose, place.lab.shape.release)
    path = Path(f"/proc/{place.node.holder_pid}/root{spec.pin}")
    try:
        handle = bpfmaps.open_pinned(path)
    except OSError:
        yield None
        return
    found = Map(handle, key_bytes=spec.key_bytes, value_bytes=spec.value_bytes, per_cpu=False)
    try:
        yield found
    finally:
        found.close()


def _frontend(place: Place, port: ServicePort) -> bytes | None:
    with _map(place, "nat-frontend") as found:
        key = mapbytes.frontend_key(port.cluster_ip, port.port, port.protocol)
        return found.get(key) if found else None


def _backends(place: Place, port: ServicePort) -> list[bytes | None]:
    """The node's backends of a Service, as many as the API has of it; empty while it is not so."""
    value = _frontend(place, port)
    if value is None:
        return []
    number, count = (int.from_bytes(value[at : at + 4], "little") for at in (0, 4))
    with _map(place, "nat-backend") as found:
        if found is None or count != len(port.backends):
            return []
        return [found.get(mapbytes.backend_key(number, each)) for each in range(count)]


def _whole(place: Place, port: ServicePort) -> bool:
    there = _backends(place, port)
    return bool(there) and None not in there


def _backend_lacks(place: Place, port: ServicePort) -> bool:
    there = _backends(place, port)
    return bool(there) and there[-1] is None and None not in there[:-1]


def _frontend_lacks(place: Place, port: ServicePort) -> bool:
    return bool(port.backends) and _frontend(place, port) is None


# -------------------------------------------------------------------------- connections


def _write_stale(place: Place, _: Record) -> None:
    place.annotate(STALE, on=True)
    _serve(place, STALE)
    service = _served(place, STALE)
    clients = [backend.address for backend in service.backends if backend.node == place.node.name]
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    found: dict[bytes, bytes] = {}
    for number in range(_STALE_COUNT):
        client, place_of = (clients[0], 41_000 + number), (service.cluster_ip, service.port)
        found |= entries.translated(client, place_of, _GONE, place.lab.shape.release, now)
    with _map(place, "conntrack") as conntrack:
        if conntrack:
            conntrack.put_many(found)


def _take_stale(place: Place, _: Record) -> None:
    place.annotate(STALE, on=False)
    backend = b"".join(bytes([int(octet)]) for octet in _GONE[0].split("."))
    with _map(place, "conntrack") as conntrack:
        if conntrack:
            behind = [key for key in conntrack.keys() if backend in (key[4:8], key[8:12])]
            ways = [
                key
                for key, value in conntrack.items()
                if value[24:40] in behind and key not in behind
            ]
            conntrack.delete_many([*behind, *ways])
    _unserve(place, STALE)


def _fields(place: Place) -> Record:
    needs_ebpf(place)
    spec = place.felix_spec()
    return {"fields": {name: spec.get(name) for name in _size_fields(place)}}


def _size_fields(place: Place) -> dict[str, object]:
    if not map_for("conntrack", place.lab.shape.release).size_field:
        return {}
    # Later releases make a full map larger by themselves.
    scaling = {_SCALING: "Disabled"} if place.release >= _SCALING_FROM else {}
    return {_SIZE: _SMALL, **scaling}


def _flood(place: Place) -> dict[bytes, bytes]:
    """Connections of clients that are nobody to the node's own address, as many as are wanted."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    server, count = (place.node.underlay_ip, 443), _count(place)
    found: dict[bytes, bytes] = {}
    for number, start in enumerate(range(0, count, _PORTS_EACH)):
        ports = range(2_000, 2_000 + min(_PORTS_EACH, count - start))
        client = f"{_CLIENTS}.{100 + number}"
        found |= entries.established(client, ports, server, place.lab.shape.release, now)
    return found


def _count(place: Place) -> int:
    spec = map_for("conntrack", place.lab.shape.release)
    return (_SMALL if spec.size_field else spec.max_entries) * _FULL_PCT // 100


def _fill(place: Place, _: Record) -> None:
    place.annotate(FULL, on=True)
    if fields := _size_fields(place):
        follow(place, lambda: place.set_felix(fields))
    with _map(place, "conntrack") as conntrack:
        if conntrack:
            conntrack.put_many(_flood(place))


def _empty(place: Place, record: Record) -> None:
    with _map(place, "conntrack") as conntrack:
        if conntrack:
            conntrack.delete_many(list(_flood(place)))
    place.annotate(FULL, on=False)
    if record["fields"]:
        follow(place, lambda: place.set_felix(record["fields"]))


FAULTS: tuple[Fault, ...] = (
    _lacking(BACKEND_MISSING, _backend_lacks),
    _lacking(FRONTEND_MISSING, _frontend_lacks),
    Fault(
        STALE,
        "Old connections to a service hang since a pod of it went away.",
        ("D7",),
        "Entries as programs make them, in the node's real map: no connection made them. The "
        "lab's sweeper leaves them.",
        _ready,
        _write_stale,
        _take_stale,
    ),
    Fault(
        FULL,
        "New connections fail at times; with few more they all will.",
        ("C8",),
        "Entries as programs make them, in the node's real map, until it is 94 % full; it is made "
        "small first where the release has bpfMapSizeConntrack. The lab's sweeper leaves them.",
        _fields,
        _fill,
        _empty,
    ),
)
