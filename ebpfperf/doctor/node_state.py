"""Whether a node forwards by eBPF, from its log, its programs and what was asked for. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ebpfperf.calico.nodelog import LoggedDataplane


class Mode(StrEnum):
    """How a node forwards."""

    ON = "on"
    FALLBACK = "fallback"
    OFF = "off"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class NodeState:
    """How a node forwards, and why that is said.

    Attributes
    ----------
    why
        The reason as half a sentence.
    sources
        Names of the evidence sources that decided.
    """

    mode: Mode
    why: str
    sources: tuple[str, ...]

    @property
    def on(self) -> bool:
        """Whether it forwards by eBPF."""
        return self.mode is Mode.ON


@dataclass(frozen=True, slots=True)
class Clues:
    """What tells it; None where something was not gathered.

    Attributes
    ----------
    asked
        Whether eBPF mode is asked for.
    devices
        Devices with programs of Calico's.
    """

    logged: LoggedDataplane | None
    asked: bool | None
    devices: tuple[str, ...] | None


def state(clues: Clues, *, log: str, counts: str, resources: str) -> NodeState:
    """How the node forwards; the three words name the sources of the clues.

    The newest Felix's own words come first. Logs rotate: where it is silent, programs on devices
    decide.
    """
    if clues.logged is LoggedDataplane.UNSUPPORTED:
        why = "Felix logged that the kernel does not support eBPF mode"
        return NodeState(Mode.FALLBACK, why, (log,))
    if clues.logged is LoggedDataplane.EBPF:
        return NodeState(Mode.ON, "Felix logged that it starts its eBPF dataplane", (log,))
    silent = "its log is missing" if clues.logged is None else "its log does not say"
    if clues.asked is False:
        if clues.devices:
            why = (
                f"bpfEnabled is off and {silent}, but Calico's programs are on "
                f"{_named(clues.devices)}"
            )
            return NodeState(Mode.UNKNOWN, why, (resources, counts))
        return NodeState(Mode.OFF, "bpfEnabled is off", (resources,))
    if clues.devices is None:
        why = f"{silent}, and its programs were not read"
        return NodeState(Mode.UNKNOWN, why, (log, counts))
    if clues.devices:
        why = f"{silent}; Calico's programs are on {_named(clues.devices)}"
        return NodeState(Mode.ON, why, (counts,))
    return NodeState(Mode.OFF, f"{silent}; no program of Calico's is on a device", (counts,))


def _named(devices: tuple[str, ...]) -> str:
    more = f" and {len(devices) - 3} more" if len(devices) > 3 else ""
    return ", ".join(devices[:3]) + more
