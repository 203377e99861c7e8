"""The faults that a lab has now: written down before they are made, so that all can be healed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from ebpfperf.errors import LabError
from ebpfperf.lab.faults import (
    configuration,
    dropping,
    felix_alone,
    machine,
    maps,
    services,
    underlay,
    vxlan_port,
)
from ebpfperf.lab.faults.declaration import Fault, Record
from ebpfperf.lab.faults.place import Place
from ebpfperf.lab.files import write_private
from ebpfperf.lab.running import Lab

FAULTS: tuple[Fault, ...] = (
    *felix_alone.FAULTS,
    *configuration.FAULTS,
    *services.FAULTS,
    *maps.FAULTS,
    *underlay.FAULTS,
    *machine.FAULTS,
    *dropping.FAULTS,
    *vxlan_port.FAULTS,
)
_FILE = "faults.json"


@dataclass(frozen=True, slots=True)
class Standing:
    """A fault that was put on a node (or, by way of its first node, on the cluster)."""

    fault: Fault
    node: str
    record: Record


def named(name: str) -> Fault:
    """The fault of that name; LabError with the nearest one."""
    for fault in FAULTS:
        if fault.name == name:
            return fault
    nearest = get_close_matches(name, [fault.name for fault in FAULTS], n=1)
    hint = f"Did you mean {nearest[0]}?" if nearest else "List them: ebpfperf lab fault."
    raise LabError(f"There is no fault {name}.", hint)


def standing(lab: Lab) -> list[Standing]:
    """The faults that the lab has, oldest first."""
    try:
        rows = json.loads(_path(lab).read_text())
    except OSError:
        return []
    return [Standing(named(row["name"]), row["node"], row["record"]) for row in rows]


def put(lab: Lab, fault: Fault, node: str | None = None) -> Standing:
    """Make a fault on a node, or the first one; nothing where it stands already.

    Raises
    ------
    LabError
        There is no such node, the release cannot have it, or it could not be made: then it is
        taken back.
    """
    place = Place(lab, lab.node(node) if node else lab.nodes[0])
    if node and not fault.of_node:
        raise LabError(f"{fault.name} is a fault of the cluster.", "Leave --node out.")
    if place.node not in lab.nodes:
        raise LabError(f"{node} is outside the cluster.", "Give one of its nodes.")
    if not fault.applies(place.release):
        raise LabError(
            f"{fault.name} does not apply to Calico {lab.shape.release}.",
            "List the faults that do: ebpfperf lab fault.",
        )
    found = standing(lab)
    for each in found:
        if (each.fault.name, each.node) == (fault.name, place.node.name):
            return each
    made = Standing(fault, place.node.name, fault.before(place))
    _write(lab, [*found, made])
    try:
        fault.put(place, made.record)
    except BaseException:
        fault.take(place, made.record)
        _write(lab, found)
        raise
    # What ``put`` noted in the record, such as a process, is kept as well.
    _write(lab, [*found, made])
    return made


def heal(lab: Lab, name: str | None = None, node: str | None = None) -> Iterator[Standing]:
    """Take faults back, the newest first: all, those of a name, those of a node."""
    if name:
        named(name)
    if node:
        lab.node(node)
    for each in reversed(standing(lab)):
        if name in (None, each.fault.name) and node in (None, each.node):
            each.fault.take(Place(lab, lab.node(each.node)), each.record)
            rest = [
                other
                for other in standing(lab)
                if (other.fault.name, other.node) != (each.fault.name, each.node)
            ]
            _write(lab, rest)
            yield each


def _path(lab: Lab) -> Path:
    return lab.directory / _FILE


def _write(lab: Lab, found: list[Standing]) -> None:
    rows = [{"name": e.fault.name, "node": e.node, "record": e.record} for e in found]
    write_private(_path(lab), json.dumps(rows).encode())
