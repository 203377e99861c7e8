"""Which encapsulation a cluster's objects ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ebpfperf.calico.releases import derives_encapsulation
from ebpfperf.model import Dataplane, FelixValue, Overlay, Scope, Treatment

NEVER = "Never"
_SCOPES = {Scope.ALWAYS: "Always", Scope.CROSS_SUBNET: "CrossSubnet"}


@dataclass(frozen=True, slots=True)
class Enabled:
    """Which tunnels Felix maintains, whatever the pools then use."""

    ipip: bool
    vxlan: bool


def enabled(
    felix_spec: Mapping[str, Any], pool_specs: Iterable[Mapping[str, Any]], version: str
) -> Enabled:
    """Which tunnels Felix maintains.

    A flag that is set wins. An unset one is false up to v3.22, and from v3.23 on true if any pool
    asks for that encapsulation; a disabled one, too: pods may have addresses of it.

    Source: projectcalico/calico felix/calc/encapsulation_resolver.go (EncapsulationCalculator,
    handleAPIPool and updatePool look at the modes alone).
    """
    specs = list(pool_specs)
    derive = derives_encapsulation(version)

    def flag(name: str, mode: str) -> bool:
        value = felix_spec.get(name)
        if value is not None:
            return bool(value)
        return derive and any(spec.get(mode, NEVER) not in ("", NEVER) for spec in specs)

    return Enabled(flag("ipipEnabled", "ipipMode"), flag("vxlanEnabled", "vxlanMode"))


def felix_fields(treatment: Treatment, *, release: str | None = None) -> dict[str, FelixValue]:
    """The FelixConfiguration fields a treatment sets; None removes a field.

    Before v3.23 an unset flag meant *off*, and creating a pool of a mode set the flag for good.
    There the two flags are set to what v3.23 derives from the pool, so that a treatment means the
    same in every release; a flag that the treatment names itself keeps its value.
    """
    fields: dict[str, FelixValue] = {}
    if release is not None and not derives_encapsulation(release):
        fields["ipipEnabled"] = treatment.overlay is Overlay.IPIP
        fields["vxlanEnabled"] = treatment.overlay is Overlay.VXLAN
    if treatment.dataplane is not None:
        fields["bpfEnabled"] = treatment.dataplane is Dataplane.EBPF
    return fields | dict(treatment.felix)


def pool_modes(overlay: Overlay, scope: Scope) -> dict[str, str]:
    """The IPPool ``spec`` fields of an overlay mode: ``{"ipipMode": …, "vxlanMode": …}``."""
    mode = _SCOPES[scope]
    return {
        "ipipMode": mode if overlay is Overlay.IPIP else NEVER,
        "vxlanMode": mode if overlay is Overlay.VXLAN else NEVER,
    }


def pool_overlay(spec: Mapping[str, Any]) -> tuple[Overlay, Scope]:
    """The overlay mode and scope that an IPPool ``spec`` asks for."""
    for overlay, name in ((Overlay.IPIP, "ipipMode"), (Overlay.VXLAN, "vxlanMode")):
        mode = spec.get(name) or NEVER
        if mode != NEVER:
            cross = str(mode).lower() == "crosssubnet"
            return overlay, Scope.CROSS_SUBNET if cross else Scope.ALWAYS
    return Overlay.NONE, Scope.ALWAYS
