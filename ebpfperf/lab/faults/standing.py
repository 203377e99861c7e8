"""The faults that a lab has now: written down before they are made, so that all can be healed."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
_FILE, _LOCK = "faults.json", ".faults.lock"
_LOCK_S = 180.0


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
        taken back. Or another one is being made or healed for minutes.
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
    # What one reads off the lab before, another must not be changing.
    with _alone(lab):
        return _put(lab, fault, place)


def _put(lab: Lab, fault: Fault, place: Place) -> Standing:
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
    """Take faults back, the newest first: all, those of a name, those of a node.

    Raises
    ------
    LabError
        There is none of that name, or no such node. Or one that stays was made after one of them
        and remembers its values as what to put back.
    """
    if name:
        named(name)
    if node:
        lab.node(node)
    while True:
        with _alone(lab):
            found = standing(lab)
            each = next(
                (one for one in reversed(found)
                 if name in (None, one.fault.name) and node in (None, one.node)), None,
            )  # fmt: skip
            if each is None:
                return
            _refuse_beneath(each, found[found.index(each) + 1 :])
            each.fault.take(Place(lab, lab.node(each.node)), each.record)
            _write(lab, [other for other in found if other is not each])
        yield each


def _refuse_beneath(one: Standing, later: list[Standing]) -> None:
    for other in later:
        if common := remembered(one) & remembered(other):
            raise LabError(
                f"{other.fault.name} ({other.node}) was made after {one.fault.name}, and remembers "
                f"{', '.join(sorted(common))} as it is now.",
                f"Heal it first: ebpfperf lab heal {other.fault.name}; or all: ebpfperf lab heal.",
            )


def remembered(fault: Standing) -> set[str]:
    """What a fault puts back that another one may have changed before or since."""
    record, own = fault.record, f" of {fault.node}" if "own" in fault.record else ""
    found = {f"{name}{own}" for name in record.get("fields") or ()}
    found |= {"the pools"} if {"pool", "pools"} & set(record) else set()
    return found | ({f"calico-node of {fault.node}"} if "pod" in record else set())


@contextmanager
def _alone(lab: Lab) -> Iterator[None]:
    """One fault of a lab is made or healed at a time; the kernel frees the lock of who ends."""
    deadline = time.monotonic() + _LOCK_S
    with open(lab.directory / _LOCK, "w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LabError(
                        f"Another fault of lab {lab.name} is being made or healed.",
                        "Wait for that command, or end it.",
                    ) from None
                time.sleep(0.1)
        yield


def _path(lab: Lab) -> Path:
    return lab.directory / _FILE


def _write(lab: Lab, found: list[Standing]) -> None:
    rows = [{"name": e.fault.name, "node": e.node, "record": e.record} for e in found]
    write_private(_path(lab), json.dumps(rows).encode())
