"""A fault of the overlay: something else holds the UDP port that ``vxlan.calico`` needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ebpfperf.calico.encapsulation import NEVER
from ebpfperf.lab.dataplane import DEFAULT_PORT, VXLAN_DEVICE
from ebpfperf.lab.faults import acting
from ebpfperf.lab.faults.declaration import Fault, Record
from ebpfperf.lab.faults.place import CALICO, Place

_POOLS = f"{CALICO}/ippools"
_PROCESS = "fault-holding"
_HOLD = (
    "import socket, time\n"
    "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "s.bind(('', {port}))\n"
    "time.sleep(1e9)\n"
)
_WORDS = "address already in use"


def _before(place: Place) -> Record:
    spec = place.felix_spec()
    pools = (place.get(_POOLS) or {}).get("items", [])
    return {
        "port": int(spec.get("vxlanPort") or DEFAULT_PORT),
        "fields": {"vxlanEnabled": spec.get("vxlanEnabled")},
        "pools": {
            pool["metadata"]["name"]: {
                field: pool["spec"].get(field) for field in ("ipipMode", "vxlanMode")
            }
            for pool in pools
            if ":" not in pool["spec"]["cidr"]
        },
    }


def _put(place: Place, record: Record) -> None:
    if _held(place, record) and _is_down(place):
        return
    # A device that is up holds the port itself.
    if _state(place) is not None:
        _set(place, {"vxlanEnabled": False}, dict.fromkeys(record["pools"], _modes(NEVER)))
        place.wait(f"the end of {VXLAN_DEVICE}", lambda: _state(place) is None)
    source = _HOLD.format(port=record["port"])
    lines = ["/usr/bin/python3 -I -S - <<'END'", source + "END"]
    place.start(_PROCESS, lines)
    place.wait(f"a holder of UDP {record['port']}", lambda: _held(place, record))
    _set(place, {"vxlanEnabled": True}, dict.fromkeys(record["pools"], _modes("Always")))
    place.wait(f"a {VXLAN_DEVICE} that is down", lambda: _is_down(place))
    place.wait("a Felix that says so", lambda: _WORDS in place.log())
    for other in place.everywhere():
        if other.node != place.node:
            other.wait(f"a {VXLAN_DEVICE} that is up", lambda other=other: _is_up(other))  # type: ignore[misc]


def _take(place: Place, record: Record) -> None:
    place.stop(_PROCESS)
    _set(place, record["fields"], record["pools"])
    overlay = any(modes["vxlanMode"] not in (None, NEVER) for modes in record["pools"].values())
    for other in place.everywhere():
        if overlay:
            other.wait(f"a {VXLAN_DEVICE} that is up", lambda other=other: _is_up(other))  # type: ignore[misc]
        elif not record["fields"]["vxlanEnabled"]:
            other.wait(f"the end of {VXLAN_DEVICE}", lambda other=other: _state(other) is None)  # type: ignore[misc]
    # Up to v3.22 a pool that was VXLAN a moment ago may have switched the field on since.
    place.set_felix(record["fields"])


def _modes(vxlan: str) -> Mapping[str, Any]:
    return {"ipipMode": NEVER, "vxlanMode": vxlan}


def _set(place: Place, fields: Mapping[str, Any], pools: Mapping[str, Mapping[str, Any]]) -> None:
    def act() -> None:
        for name, modes in pools.items():
            place.patch(f"{_POOLS}/{name}", {"spec": dict(modes)})
        place.set_felix(fields)

    acting.follow(place, act)


def _held(place: Place, record: Record) -> bool:
    return "users:" in place.run(["ss", "-Hulnp", f"sport = :{record['port']}"])


def _state(place: Place) -> str | None:
    """``up`` or ``down``; None where the node has no such device."""
    said = place.node.run(["ip", "-j", "link", "show", "dev", VXLAN_DEVICE], check=False).strip()
    if not said:
        return None
    return "up" if "UP" in json.loads(said)[0]["flags"] else "down"


def _is_up(place: Place) -> bool:
    return _state(place) == "up"


def _is_down(place: Place) -> bool:
    return _state(place) == "down"


FAULTS: tuple[Fault, ...] = (
    Fault(
        "vxlan-port-taken",
        "Pods of a node reach no pod of another node, and are not reached.",
        ("B11",),
        f"A process of the node holds vxlanPort when the pools become VXLAN: the kernel itself "
        f"refuses to set {VXLAN_DEVICE} up.",
        _before,
        _put,
        _take,
    ),
)
