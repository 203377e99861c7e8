"""What a treatment should do to a flow, by what Calico's source says its settings change.

A direction, never a size: nobody has published how much these settings cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ebpfperf.calico.encapsulation import enabled
from ebpfperf.calico.flags import LEVELS, fib_shortcut, level, rule
from ebpfperf.calico.mtu import (
    IPIP_OVERHEAD_BYTES,
    VXLAN_OVERHEAD_BYTES,
    pod_mtu_bytes,
)
from ebpfperf.calico.releases import AUTO_MTU_FROM, minor
from ebpfperf.model import Overlay, Scope

HOST_HOST = "host-host"
# The one path on which a node forwards to another a packet that came for a service.
FORWARDED_SERVICE = "nodeport-remote"

_MTU_RULE = "felix/dataplane/linux/int_dataplane.go, determinePodMTU"
_TUNNELS = (("ipipEnabled", "ipip"), ("vxlanEnabled", "vxlan"))
_HEADERS = {Overlay.IPIP: IPIP_OVERHEAD_BYTES, Overlay.VXLAN: VXLAN_OVERHEAD_BYTES}


class Kind(StrEnum):
    """Which way a flow is expected to change against the baseline."""

    NONE = "none"
    SLOWER = "slower"
    FASTER = "faster"
    SOME = "some"
    UNKNOWN = "unknown"
    VOID = "void"


@dataclass(frozen=True, slots=True)
class Expectation:
    """A direction, why, and where Calico says so.

    Attributes
    ----------
    kind
        ``some`` promises no direction; ``void`` could have been one, had the nodes forwarded so.
    small
        Whether the effect may be smaller than any margin, so that finding none proves nothing.
    """

    kind: Kind
    why: str
    source: str = ""
    small: bool = False


@dataclass(frozen=True, slots=True)
class Effective:
    """What Felix acts on under a treatment.

    Attributes
    ----------
    felix
        FelixConfiguration ``spec`` after the treatment is applied.
    pools
        ``spec`` of every IP pool, likewise.
    """

    overlay: Overlay
    scope: Scope
    felix: Mapping[str, Any]
    pools: tuple[Mapping[str, Any], ...]

    def value(self, field: str) -> Any:
        """A field's value as Calico spells it; None where it is unset (or empty text)."""
        given = self.felix.get(field)
        if given in (None, ""):
            return None
        try:
            return level(field, given)
        except ValueError:
            return given

    @property
    def ebpf(self) -> bool:
        """Whether Felix is told to forward by eBPF."""
        return bool(self.felix.get("bpfEnabled"))


def expected_effect(
    baseline: Effective,
    treatment: Effective,
    *,
    release: str,
    path: str,
    fills_mtu: bool,
    host_mtu_bytes: int = 1500,
) -> Expectation:
    """What ``treatment`` is expected to do to a flow, compared with ``baseline``.

    Parameters
    ----------
    release
        Calico's release, such as ``v3.26.1``.
    path
        A path's value, such as ``pod-pod``; the nodes of all paths are two different ones.
    fills_mtu
        Whether the flow sends packets as large as the MTU allows.
    host_mtu_bytes
        MTU of the nodes' NIC.

    Raises
    ------
    ValueError
        ``release`` is no version.
    """
    minor(release)
    if path == HOST_HOST:
        return _between_hosts(baseline, treatment)
    parts = [
        *_dataplane(baseline, treatment),
        *_overlay(baseline, treatment),
        *_tunnels(baseline, treatment, release),
        *_log_level(baseline, treatment),
        *_service_mode(baseline, treatment, path),
        *_mtu(baseline, treatment, release=release, fills=fills_mtu, host=host_mtu_bytes),
        *_others(baseline, treatment),
    ]
    return _together(parts)


def _together(parts: Iterable[Expectation]) -> Expectation:
    """All parts as one: those that expect nothing give way, opposite ones leave no direction."""
    found = list(parts)
    if not found:
        return Expectation(Kind.NONE, "it differs from the baseline in nothing that Felix acts on")
    acting = [part for part in found if part.kind is not Kind.NONE]
    kinds = {part.kind for part in acting}
    kind = Kind.SOME
    if Kind.UNKNOWN in kinds:
        kind = Kind.UNKNOWN
    elif len(kinds) <= 1:
        kind = next(iter(kinds), Kind.NONE)
    sources = dict.fromkeys(part.source for part in found if part.source)
    return Expectation(
        kind,
        "; ".join(dict.fromkeys(part.why for part in acting + found)),
        "; ".join(sources),
        bool(acting) and all(part.small for part in acting),
    )


def _between_hosts(baseline: Effective, treatment: Effective) -> Expectation:
    """Hosts' packets are neither wrapped nor forwarded, but the NIC's programs do see them."""
    logged = _level(baseline) != _level(treatment) and (baseline.ebpf or treatment.ebpf)
    if baseline.ebpf != treatment.ebpf or logged:
        return Expectation(
            Kind.UNKNOWN,
            "the path between hosts has neither overlay nor forwarding, but eBPF programs on the "
            "NIC see its packets too; what that costs is not promised",
        )
    return Expectation(Kind.NONE, "no overlay and no flag is in the way between hosts")


def _dataplane(baseline: Effective, treatment: Effective) -> list[Expectation]:
    if baseline.ebpf == treatment.ebpf:
        return []
    names = ("the standard dataplane", "eBPF")
    why = f"{names[treatment.ebpf]} forwards instead of {names[baseline.ebpf]}"
    return [Expectation(Kind.SOME, f"{why}: no direction is promised", _source("bpfEnabled"))]


def _overlay(baseline: Effective, treatment: Effective) -> list[Expectation]:
    before = (baseline.overlay, baseline.scope)
    after = (treatment.overlay, treatment.scope)
    if before == after or {before[0], after[0]} == {Overlay.NONE}:
        return []
    if Scope.CROSS_SUBNET in {scope for overlay, scope in (before, after) if overlay in _HEADERS}:
        why = "whether these two nodes are in different subnets decides on encapsulation"
        return [Expectation(Kind.UNKNOWN, why)]
    if Overlay.NONE in (before[0], after[0]):
        wrapped = after[0] if before[0] is Overlay.NONE else before[0]
        kind = Kind.SLOWER if wrapped is after[0] else Kind.FASTER
        why = f"{wrapped.value} wraps every packet into {_HEADERS[wrapped]} bytes of headers more"
        if kind is Kind.FASTER:
            why = f"no longer: {why}"
        return [Expectation(kind, why, small=True)]
    why = f"{after[0].value} wraps packets instead of {before[0].value}: no direction is promised"
    return [Expectation(Kind.SOME, why, small=True)]


def _tunnels(baseline: Effective, treatment: Effective, release: str) -> list[Expectation]:
    """What the two tunnel flags, set or derived, do to the FIB short-cut."""
    named = [flag for flag, _ in _TUNNELS if baseline.value(flag) != treatment.value(flag)]
    before = enabled(baseline.felix, baseline.pools, release)
    after = enabled(treatment.felix, treatment.pools, release)
    changed = [flag for flag, name in _TUNNELS if getattr(before, name) != getattr(after, name)]
    found = [
        Expectation(
            Kind.NONE,
            f"{flag} {_said(treatment.value(flag))} means what {_said(baseline.value(flag))} "
            f"does: {'on' if getattr(after, name) else 'off'}",
            _source(flag, release),
        )
        for flag, name in _TUNNELS
        if flag in named and flag not in changed
    ]
    if not changed or baseline.ebpf != treatment.ebpf:
        return found
    if not treatment.ebpf:
        set_here = " and ".join(flag for flag in changed if flag in named)
        why = f"{set_here}: only eBPF has a FIB short-cut, and the standard dataplane forwards"
        return [*found, Expectation(Kind.NONE, why)] if set_here else found
    had = fib_shortcut(baseline.felix, baseline.pools, release)
    has = fib_shortcut(treatment.felix, treatment.pools, release)
    for flag, name in _TUNNELS:
        row = rule(flag, release)
        if flag not in changed or row is None:
            continue
        now = "on" if getattr(after, name) else "off"
        head = f"{flag} is {now} in effect"
        if not row.ends_shortcut:
            why = f"{head}, which in {row.releases} leaves the FIB short-cut alone"
            found.append(Expectation(Kind.NONE, why, row.source))
        elif had == has:
            why = f"{head}, but the FIB short-cut is {'on' if has else 'off'} either way"
            found.append(Expectation(Kind.NONE, why, row.source))
        else:
            turned = "on again" if has else "off, so packets take the host's IP stack"
            why = f"{head}, which in {row.releases} switches the FIB short-cut {turned}"
            kind = Kind.FASTER if has else Kind.SLOWER
            found.append(Expectation(kind, why, row.source))
    return found


def _log_level(baseline: Effective, treatment: Effective) -> list[Expectation]:
    before, after = _level(baseline), _level(treatment)
    if before == after or baseline.ebpf != treatment.ebpf:
        return []
    head = f"bpfLogLevel {after} instead of {before}"
    if not treatment.ebpf:
        return [Expectation(Kind.NONE, f"{head}: only eBPF programs write such lines")]
    ranks = LEVELS["bpfLogLevel"]
    more = ranks.index(after) > ranks.index(before)
    why = f"{head}: programs write {'more' if more else 'fewer'} trace lines for each packet"
    return [Expectation(Kind.SLOWER if more else Kind.FASTER, why, _source("bpfLogLevel"))]


def _service_mode(baseline: Effective, treatment: Effective, path: str) -> list[Expectation]:
    flag = "bpfExternalServiceMode"
    before, after = baseline.value(flag) or "Tunnel", treatment.value(flag) or "Tunnel"
    if before == after or baseline.ebpf != treatment.ebpf:
        return []
    head = f"{flag} {after} instead of {before}"
    if not treatment.ebpf:
        return [Expectation(Kind.NONE, f"{head}: only eBPF reads it")]
    if path != FORWARDED_SERVICE:
        why = f"{head}: only NodePorts whose backend is on another node are answered otherwise"
        return [Expectation(Kind.NONE, why, _source(flag))]
    direct = after == "DSR"
    way = "at once" if direct else "by the node that was asked"
    kind = Kind.FASTER if direct else Kind.SLOWER
    # Only answers take the shorter way, and those of a bulk flow are small.
    return [Expectation(kind, f"{head}: the backend answers {way}", _source(flag), small=True)]


def _mtu(
    baseline: Effective, treatment: Effective, *, release: str, fills: bool, host: int
) -> list[Expectation]:
    """Pods' MTU follows the tunnels that are kept, whether a pool uses them or not."""
    if minor(release) < AUTO_MTU_FROM:
        return []
    before, after = (
        pod_mtu_bytes(one.felix, enabled(one.felix, one.pools, release), host, release)
        for one in (baseline, treatment)
    )
    if before == after:
        return []
    more = "less" if after < before else "more"
    why = f"new pods get {abs(after - before)} bytes of MTU {more} ({after} instead of {before})"
    if not fills:
        return [Expectation(Kind.NONE, f"{why}, which its messages do not fill", _MTU_RULE)]
    kind = Kind.SLOWER if after < before else Kind.FASTER
    packets = "more" if after < before else "fewer"
    why = f"{why}, so as many bytes take {packets} packets"
    return [Expectation(kind, why, _MTU_RULE, small=True)]


def _others(baseline: Effective, treatment: Effective) -> list[Expectation]:
    known = {*LEVELS, "ipipMTU", "vxlanMTU"}
    fields = sorted({*baseline.felix, *treatment.felix} - known)
    return [
        Expectation(Kind.UNKNOWN, f"what {field} does to a flow is not in the table of flags")
        for field in fields
        if baseline.value(field) != treatment.value(field)
    ]


def _level(effective: Effective) -> str:
    """The level that counts: Felix takes its default for a word it does not know."""
    given = effective.value("bpfLogLevel")
    return str(given) if given in LEVELS["bpfLogLevel"] else "Off"


def _said(value: object) -> str:
    return "unset" if value is None else str(value).lower()


def _source(flag: str, release: str = "v3.32") -> str:
    row = rule(flag, release)
    return row.source if row else ""
