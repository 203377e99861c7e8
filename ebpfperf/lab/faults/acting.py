"""Waiting until every Felix of a lab acts on what it was told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ebpfperf.calico.releases import full_version
from ebpfperf.errors import LabError
from ebpfperf.lab import felixconfig
from ebpfperf.lab.faults.place import Place
from ebpfperf.lab.felixconfig import Config
from ebpfperf.lab.resources import CORE, RESOURCES
from ebpfperf.lab.status import no_such

Object = dict[str, Any]
_LIMIT_S = 30.0


class Asked:
    """The lab's objects, asked of its API, as its own parts read them from its store."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def get(self, resource: str, name: str, namespace: str | None = None) -> Object:
        """The object of that name; NotFound."""
        found = self._place.get(f"{collection(resource, namespace)}/{name}")
        if found is None:
            raise no_such(resource, name)
        return found

    def list(self, resource: str, namespace: str | None = None) -> list[Object]:
        """The objects by namespace and name; all namespaces for None."""
        found = self._place.get(collection(resource, namespace)) or {}
        items: list[Object] = found.get("items") or []
        return items


def collection(resource: str, namespace: str | None = None) -> str:
    """The path of a resource's objects."""
    group, version = RESOURCES[resource].views[0]
    top = "/api/v1" if (group, version) == CORE else f"/apis/{group}/{version}"
    return f"{top}/namespaces/{namespace}/{resource}" if namespace else f"{top}/{resource}"


def needs_ebpf(place: Place) -> None:
    """LabError where the node does not forward by eBPF now."""
    if not place.forwards_by_programs():
        raise LabError(
            f"{place.node.name} does not forward by eBPF, which this fault is of.",
            "Turn it on: kubectl patch felixconfiguration default --type merge "
            """-p '{"spec":{"bpfEnabled":true}}'""",
        )


def follow(place: Place, act: Callable[[], None]) -> None:
    """Do it, and return once every Felix whose configuration it changed has applied the new one.

    Raises
    ------
    LabError
        One did not within half a minute.
    """
    before = {each.node.name: _config(each) for each in place.everywhere()}
    act()
    for each in place.everywhere():
        if _config(each) != before[each.node.name]:
            each.wait("Felix's restart", lambda: _applied(each), limit_s=_LIMIT_S)  # noqa: B023


def tell(place: Place, fields: Mapping[str, Any], name: str = "default") -> None:
    """Set fields of a FelixConfiguration that is there, and wait until that is acted on."""
    follow(place, lambda: place.set_felix(fields, name))


def _applied(place: Place) -> bool:
    return felixconfig.applied(place.node.dir) == _config(place).text


def _config(place: Place) -> Config:
    return felixconfig.read(Asked(place), place.node.name, full_version(place.lab.shape.release))
