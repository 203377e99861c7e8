"""One node's eBPF dataplane: its maps, and the programs on its devices."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ebpfperf.calico.maps import DIRECTORY, NO_PREALLOC, MapSpec, maps_of
from ebpfperf.calico.releases import minor
from ebpfperf.lab import bpfmaps, programs
from ebpfperf.lab.attach import (
    EGRESS,
    INGRESS,
    Hook,
    attach_filter,
    attach_link,
    detach_filter,
    detach_link,
)
from ebpfperf.lab.bpfmaps import Map
from ebpfperf.lab.mapbytes import counter_key
from ebpfperf.lab.nodes import LabNode
from ebpfperf.lab.programs import Kind, Option, Settings

PRIORITY = 1
# Where Calico pins its TCX links, and where the lab keeps what is its own.
_LINKS, _OWN = "/sys/fs/bpf/tcx", "/sys/fs/bpf/lab"
_TCX_FROM = (3, 31)
_DENY = MapSpec("deny", "lab_deny", "lpm_trie", 16, 4, 4096, NO_PREALLOC)


@dataclass(frozen=True, slots=True)
class Device:
    """A device that programs are attached to, on both sides."""

    name: str
    ifindex: int
    kind: Kind
    deny: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the node must hold: purpose of a map → its entries, beside settings and devices."""

    settings: Settings
    devices: tuple[Device, ...]
    entries: Mapping[str, Mapping[bytes, bytes]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)


class Ebpf:
    """The eBPF dataplane of one node; nothing of it is there before the first ``apply``."""

    def __init__(self, node: LabNode) -> None:
        self._node = node
        self._root = Path(f"/proc/{node.holder_pid}/root")
        self._maps: dict[str, Map] = {}
        # Held while a map is taken out and closed: its handle's number may be another's at once.
        self._closing = threading.Lock()
        self._specs: dict[str, MapSpec] = {}
        # None: its program reads maps that are no longer there.
        self._attached: dict[Hook, tuple[Kind, Settings, Option] | None] = {}
        self._release = ""

    @property
    def active(self) -> bool:
        """Whether its maps are there."""
        return bool(self._maps)

    def opened(self, purpose: str) -> Map | None:
        """The map of that purpose, where there is one, for another thread: to be closed by it."""
        with self._closing:
            found = self._maps.get(purpose)
            return found.again() if found is not None else None

    def apply(self, wanted: Wanted) -> None:
        """Make maps and programs so; idempotent. Maps are filled before programs read them.

        Raises
        ------
        LabError
            The kernel refuses a map or a program.
        """
        self._release = wanted.settings.release
        self._make_maps(wanted)
        # Backends come before the frontends that count on them, and go after these.
        self._maps["nat-backend"].add(wanted.entries["nat-backend"])
        for purpose, entries in wanted.entries.items():
            self._maps[purpose].replace(dict(entries))
        self._follow_counters(wanted)
        hooks = {
            Hook(device.name, device.ifindex, way): device
            for device in wanted.devices
            for way in (INGRESS, EGRESS)
        }
        for hook in [hook for hook in self._attached if hook not in hooks]:
            self._detach(hook)
        for hook, device in hooks.items():
            kind = device.kind | (Kind.TO_HOST if hook.direction == INGRESS else Kind(0))
            options = Option.DENY if device.deny else Option(0)
            wish = (kind, wanted.settings, options)
            if self._attached.get(hook) != wish:
                self._attach(hook, kind, wanted.settings, options)
                self._attached[hook] = wish

    def remove(self) -> None:
        """Take programs, pins and maps away."""
        for hook in list(self._attached):
            self._detach(hook)
        with self._closing:
            for found in self._maps.values():
                found.close()
            self._maps.clear()
        self._specs.clear()
        for directory in (DIRECTORY, _LINKS, _OWN):
            shutil.rmtree(self._at(directory), ignore_errors=True)

    def _at(self, path: str) -> Path:
        """A path of the node as this process reaches it."""
        return self._root / path.lstrip("/")

    def _make_maps(self, wanted: Wanted) -> None:
        for directory in (DIRECTORY, _LINKS, _OWN):
            self._at(directory).mkdir(parents=True, exist_ok=True)
        for spec in (*maps_of(wanted.settings.release), _DENY):
            size = wanted.sizes.get(spec.size_field) or spec.max_entries
            spec = replace(spec, max_entries=size)
            if self._specs.get(spec.purpose) == spec and self._at(_pin(spec)).exists():
                continue
            self._make(spec)

    def _make(self, spec: MapSpec) -> None:
        """Make a map anew; what hung on the old one is attached again."""
        with self._closing:
            old = self._maps.pop(spec.purpose, None)
        new = Map.create(
            spec.name,
            spec.kind,
            key_bytes=spec.key_bytes,
            value_bytes=spec.value_bytes,
            entries=spec.max_entries,
            flags=spec.flags,
        )
        if old is not None:
            # As Calico does when a map grows: connections live on.
            for key, value in old.items():
                try:
                    new.put(key, value)
                except OSError as error:
                    if error.errno != errno.E2BIG:
                        raise
                    break
            old.close()
        pin = self._at(_pin(spec))
        pin.unlink(missing_ok=True)
        new.pin(pin)
        self._maps[spec.purpose], self._specs[spec.purpose] = new, spec
        self._attached = dict.fromkeys(self._attached, None)

    def _follow_counters(self, wanted: Wanted) -> None:
        counters = self._maps.get("counters")
        if counters is None:
            return
        spec = self._specs["counters"]
        keys = {
            counter_key(device.ifindex, egress=egress)
            for device in wanted.devices
            for egress in (False, True)
        }
        present = set(counters.keys())
        for key in present - keys:
            counters.delete(key)
        for key in keys - present:
            counters.put(key, bytes(spec.value_bytes))

    def _attach(self, hook: Hook, kind: Kind, settings: Settings, options: Option) -> None:
        pin = f"{_OWN}/{_file(hook)}"
        at = self._at(pin)
        at.unlink(missing_ok=True)
        maps = {
            name: _pin(self._specs[purpose])
            for name, purpose in programs.MAPS.items()
            if purpose in self._specs
        }
        maps[programs.DENY_MAP] = _pin(_DENY)
        programs.load(
            self._node, hook.device, kind, settings, options=options, maps=maps, pin=Path(pin)
        )
        try:
            if minor(settings.release) >= _TCX_FROM:
                attach_link(self._node, hook, at, pin=self._link(hook))
            else:
                name = programs.filter_name(hook, kind, settings, bpfmaps.program_id(at))
                attach_filter(self._node, hook, at, name=name, priority=PRIORITY)
        finally:
            at.unlink()

    def _detach(self, hook: Hook) -> None:
        """Take a program off; its device may be gone."""
        del self._attached[hook]
        if minor(self._release) >= _TCX_FROM:
            detach_link(self._link(hook))
        else:
            detach_filter(self._node, hook, priority=PRIORITY)

    def _link(self, hook: Hook) -> Path:
        return self._at(f"{_LINKS}/{_file(hook)}")


def _pin(spec: MapSpec) -> str:
    return f"{_OWN}/{spec.name}" if spec.purpose == _DENY.purpose else spec.pin


def _file(hook: Hook) -> str:
    """A hook as the name of Calico's pin: the BPF file system takes no dots."""
    return f"{hook.device.replace('.', '')}_{hook.direction}"
