"""Faults of the cluster's configuration: what somebody told Felix or the pools wrongly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ebpfperf.calico.releases import derives_encapsulation
from ebpfperf.lab.faults import pods
from ebpfperf.lab.faults.acting import collection, follow, tell
from ebpfperf.lab.faults.declaration import Fault, Record
from ebpfperf.lab.faults.place import Place
from ebpfperf.lab.seed import POOL

_POOL = f"{collection('ippools')}/{POOL}"
_FLAGS = ("ipipEnabled", "vxlanEnabled")
_MODES = ("ipipMode", "vxlanMode")
_IPIP_POD = "fault-ipip-pool"

Before = Callable[[Place], Record]
Put = Callable[[Place, Record], None]


# ------------------------------------------------------------------------------------ fields


def _fields(fields: Mapping[str, Any]) -> tuple[Before, Put]:
    """``before`` and ``put`` of a fault that sets fields of FelixConfiguration default."""

    def before(place: Place) -> Record:
        spec = place.felix_spec()
        return {"fields": {name: spec.get(name) for name in fields}}

    def put(place: Place, _: Record) -> None:
        tell(place, fields)

    return before, put


def _put_back(place: Place, record: Record) -> None:
    tell(place, record["fields"])


# ------------------------------------------------------------------------------------- pools


def _pool_and_flags(place: Place) -> Record:
    spec, pool = place.felix_spec(), (place.get(_POOL) or {}).get("spec", {})
    return {
        "fields": {name: spec.get(name) for name in _FLAGS},
        "pool": {name: pool.get(name) for name in _MODES},
    }


def _set_pool(place: Place, modes: Mapping[str, Any]) -> None:
    """Set the pool's modes; up to v3.22 one that it takes up has its flag on a moment later."""
    old = (place.get(_POOL) or {}).get("spec", {})
    place.patch(_POOL, {"spec": dict(modes)})
    if derives_encapsulation(place.lab.shape.release):
        return
    for mode, flag in zip(_MODES, _FLAGS, strict=True):
        if _on(modes.get(mode)) and not _on(old.get(mode)):
            place.wait(flag, lambda: place.felix_spec().get(flag) is True)  # noqa: B023


def _on(mode: object) -> bool:
    return mode not in (None, "", "Never")


def _flags_off(place: Place, _: Record) -> None:
    def act() -> None:
        _set_pool(place, {"ipipMode": "Never", "vxlanMode": "Always"})

    if derives_encapsulation(place.lab.shape.release):
        act()
    else:
        # In between the flag is on, and Felix goes that way first.
        follow(place, act)
    tell(place, {"vxlanEnabled": False})


def _ipip(place: Place, _: Record) -> None:
    follow(place, lambda: _set_pool(place, {"ipipMode": "Always", "vxlanMode": "Never"}))
    # Somebody who uses the pool, made after it: with the MTU that goes with it.
    pods.make(place, _IPIP_POD)


def _pool_back(place: Place, record: Record) -> None:
    def act() -> None:
        _set_pool(place, record["pool"])
        place.set_felix(record["fields"])

    pods.remove(place, _IPIP_POD)
    follow(place, act)


_DEBUG_BEFORE, _DEBUG_PUT = _fields({"bpfLogLevel": "Debug"})
_PROFILING_BEFORE, _PROFILING_PUT = _fields({"bpfProfiling": "Enabled"})


def _flags_on(place: Place, _: Record) -> None:
    def act() -> None:
        _set_pool(place, dict.fromkeys(_MODES, "Never"))
        place.set_felix(dict.fromkeys(_FLAGS, True))

    follow(place, act)


FAULTS: tuple[Fault, ...] = (
    Fault(
        "flags-on-without-overlay",
        "Pods are slower than they could be, or have a smaller MTU.",
        ("E2",),
        "ipipEnabled and vxlanEnabled are true, and no pool has an overlay.",
        _pool_and_flags,
        _flags_on,
        _pool_back,
        of_node=False,
    ),
    Fault(
        "flags-off-with-overlay",
        "Pods of different nodes do not reach each other.",
        ("E3",),
        "A pool with vxlanMode Always, and vxlanEnabled false.",
        _pool_and_flags,
        _flags_off,
        _pool_back,
        of_node=False,
    ),
    Fault(
        "ipip-pool",
        "Traffic between nodes is slower than it could be.",
        ("E1",),
        "A pool with ipipMode Always, and a pod in it.",
        _pool_and_flags,
        _ipip,
        _pool_back,
        of_node=False,
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
    Fault(
        "profiling-on",
        "Every packet costs a little more.",
        ("C6",),
        "bpfProfiling Enabled; the lab's programs do not measure themselves.",
        _PROFILING_BEFORE,
        _PROFILING_PUT,
        _put_back,
        of_node=False,
        since=(3, 30),
    ),
)
