"""One reading of what a node counts of dropped packets, from its answer. Pure.

Names of hooks are those of the device: what comes from a pod is *ingress* of its ``cali…``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ebpfperf.calico.counters import HOOKS, PIN

Counters = Mapping[tuple[int, str], tuple[int, ...]]
"""(ifindex, hook) → Calico's numbers, added over processors."""
_TCX = "tcx:"
_CALICO = re.compile(r"cali|^(from|to)_(wep|hep|tnl|wg)_")


@dataclass(frozen=True, slots=True)
class NodeCounts:
    """One reading of a node.

    Attributes
    ----------
    at_s
        Seconds since some moment of this boot.
    links
        Ifindex → device.
    qdiscs
        Device → (packets, packets dropped) of its clsact qdisc.
    programs
        Device → hook → names of its programs; None where the kernel does not tell.
    counters
        (ifindex, hook) → Calico's counters, added over processors; None where none are pinned.
    counters_early
        The same, read just before the qdiscs; ``counters`` were read just after them.
    counters_map
        The map's name; or, where it could not be read, the reason.
    program_ids
        Of Calico's programs on devices: a program that is loaded anew has another.
    """

    node: str
    boot_id: str
    at_s: float
    links: Mapping[int, str]
    qdiscs: Mapping[str, tuple[int, int]]
    programs: Mapping[str, Mapping[str, tuple[str, ...]] | None]
    counters: Counters | None
    counters_early: Counters | None = None
    counters_map: str = ""
    program_ids: frozenset[int] = frozenset()

    @property
    def calico_devices(self) -> list[str]:
        """Devices that have programs of Calico's."""
        return [
            device
            for device, hooks in self.programs.items()
            if any(of_calico(name) for names in (hooks or {}).values() for name in names)
        ]

    @property
    def tcx_devices(self) -> list[str]:
        """Devices whose programs are attached as TCX links."""
        return [
            device
            for device, hooks in self.programs.items()
            if any(name.startswith(_TCX) for names in (hooks or {}).values() for name in names)
        ]

    @property
    def has_bpf(self) -> bool:
        """Whether anything there counts, or any program of Calico's is on a device."""
        return self.counters is not None or bool(self.calico_devices)


def of_calico(program: str) -> bool:
    """Whether a program of that name on a device is Calico's."""
    return _CALICO.search(program) is not None


def parse(node: str, answer: Mapping[str, Any]) -> NodeCounts:
    """A reading from the node script's answer.

    Raises
    ------
    KeyError, TypeError, ValueError, AttributeError
        It is no such answer.
    """
    name, entries, reason = _newest(answer["counters"])
    _, early, _ = _newest(answer["counters_early"])
    return NodeCounts(
        node=node,
        boot_id=str(answer["boot_id"]),
        at_s=float(answer["at_s"]),
        links={int(ifindex): str(device) for device, ifindex in answer["links"].items()},
        qdiscs={
            device: (int(seen), int(lost)) for device, (seen, lost) in answer["qdiscs"].items()
        },
        programs={
            device: None if hooks is None else {hook: tuple(names) for hook, names in hooks.items()}
            for device, hooks in answer["programs"].items()
        },
        counters=_by_hook(entries),
        counters_early=_by_hook(early),
        counters_map=name if entries is not None else reason,
        program_ids=frozenset(answer.get("program_ids", ())),
    )


def _by_hook(
    entries: Iterable[tuple[int, int, list[int]]] | None,
) -> Counters | None:
    if entries is None:
        return None
    return {
        (int(ifindex), HOOKS[hook] if hook < len(HOOKS) else str(hook)): tuple(numbers)
        for ifindex, hook, numbers in entries
    }


def _newest(
    maps: Mapping[str, Any],
) -> tuple[str, Iterable[tuple[int, int, list[int]]] | None, str]:
    """Name and entries of the map with the highest number; an upgrade leaves older ones behind."""
    for name in sorted(maps, key=_version, reverse=True):
        if isinstance(maps[name], str):
            return name, None, f"{name}: {maps[name]}"
        return name, maps[name], ""
    return "", None, ""


def _version(name: str) -> int:
    digits = name.removeprefix(PIN)
    return int(digits) if digits.isdigit() else 1
