"""Faults of configuration: what somebody told Felix, the pools or the kernel wrongly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ebpfperf.lab.faults.declaration import Fault, Record
from ebpfperf.lab.faults.place import Place
from ebpfperf.lab.own_annotations import UNSUPPORTED


def _fields(
    fields: Mapping[str, Any],
) -> tuple[Callable[[Place], Record], Callable[[Place, Record], None]]:
    """``before`` and ``put`` of a fault that sets fields of FelixConfiguration default."""

    def before(place: Place) -> Record:
        spec = place.felix_spec()
        return {"fields": {name: spec.get(name) for name in fields}}

    def put(place: Place, _: Record) -> None:
        place.set_felix(fields)

    return before, put


def _put_back(place: Place, record: Record) -> None:
    place.set_felix(record["fields"])


def _nothing(_: Place) -> Record:
    return {}


def _unsupported(place: Place, _: Record) -> None:
    place.annotate(UNSUPPORTED, on=True)


def _supported(place: Place, _: Record) -> None:
    place.annotate(UNSUPPORTED, on=False)


_DEBUG_BEFORE, _DEBUG_PUT = _fields({"bpfLogLevel": "Debug"})

FAULTS: tuple[Fault, ...] = (
    Fault(
        "kernel-fallback",
        "Felix finds the kernel too old and forwards without eBPF; services may be dead.",
        ("A1", "A6"),
        "The lab's Felix behaves and logs as Calico's does; the kernel is what it was.",
        _nothing,
        _unsupported,
        _supported,
    ),
    Fault(
        "debug-log",
        "Everything is slow: each packet is logged.",
        ("C5",),
        "bpfLogLevel Debug: the lab's programs print each packet's way.",
        _DEBUG_BEFORE,
        _DEBUG_PUT,
        _put_back,
        of_node=False,
    ),
)
