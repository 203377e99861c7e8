"""Check of which pools use an overlay; pools and flags as other checks need them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from ebpfperf.calico.encapsulation import pool_overlay
from ebpfperf.calico.mtu import IPIP_OVERHEAD_BYTES, VXLAN_OVERHEAD_BYTES
from ebpfperf.calico.releases import AUTO_MTU_FROM, DERIVES_ENCAPSULATION_FROM
from ebpfperf.diagnosis import Outcome, Shown, Verdict
from ebpfperf.doctor.case import Case, Missing
from ebpfperf.felix_values import Effective, Origin, shown
from ebpfperf.kube_objects import Object
from ebpfperf.model import Overlay, Scope

FLAGS: Mapping[str, tuple[Overlay, int]] = {
    "ipipEnabled": (Overlay.IPIP, IPIP_OVERHEAD_BYTES),
    "vxlanEnabled": (Overlay.VXLAN, VXLAN_OVERHEAD_BYTES),
}
MODES = {Overlay.IPIP: "ipipMode", Overlay.VXLAN: "vxlanMode"}
NO_IPIP_SHORTCUT_BEFORE = (3, 32)
_FINISHED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class PoolUse:
    """An IPv4 or IPv6 pool and who has an address of it.

    Attributes
    ----------
    pods
        How many pods with an address of it run; None where pods were not gathered.
    """

    name: str
    spec: Mapping[str, Any]
    overlay: Overlay
    scope: Scope
    pods: int | None

    @property
    def disabled(self) -> bool:
        """Whether new pods get no address of it."""
        return bool(self.spec.get("disabled"))

    @property
    def in_use(self) -> bool:
        """Whether pods have addresses of it, or may get them."""
        return not self.disabled or self.pods != 0

    @property
    def mode(self) -> str:
        """``ipipMode Always``."""
        if self.overlay is Overlay.NONE:
            return "no overlay"
        name = MODES[self.overlay]
        return f"{name} {self.spec.get(name)}"


def pools(case: Case) -> list[PoolUse]:
    """Every pool; Missing."""
    return case.kept(("pools-in-use",), lambda: _pools(case))


def _pools(case: Case) -> list[PoolUse]:
    addresses: list[Any] | None
    try:
        addresses = [
            ip_address(address) for pod in case.objects("pods") for address in pod_addresses(pod)
        ]
    except Missing:
        addresses = None
    found = []
    for name, spec in case.pools().items():
        network = ip_network(str(spec["cidr"]), strict=False)
        count = None if addresses is None else sum(each in network for each in addresses)
        found.append(PoolUse(name, spec, *pool_overlay(spec), count))
    return found


def pod_addresses(pod: Object) -> tuple[str, ...]:
    """The addresses of a pod with a network of its own that has not ended."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    if spec.get("hostNetwork") or status.get("phase") in _FINISHED:
        return ()
    listed = [each.get("ip") for each in status.get("podIPs") or ()] or [status.get("podIP")]
    return tuple(str(each) for each in listed if each)


def pod_prefixes(case: Case, node: str) -> tuple[str, ...]:
    """How the node's ends of its pods' devices begin; Missing."""
    text = str(case.value(node, "interfacePrefix").value)
    return tuple(word.strip() for word in text.split(",") if word.strip())


def show_pools(case: Case, found: Sequence[PoolUse]) -> Shown:
    """The pools as evidence."""
    lines = [
        f"{pool.name} {pool.spec.get('cidr')}: {pool.mode}"
        f"{', disabled' if pool.disabled else ''}"
        + ("" if pool.pods is None else f"; pods with an address of it: {pool.pods}")
        for pool in found
    ]
    return case.show("ippools", excerpt=lines or "there is no pool")


def show_value(case: Case, value: Effective) -> Shown:
    """Where an effective value comes from, as evidence."""
    says = f"{value.where}: {value.field} {shown(value.value)}"
    if value.origin in (Origin.ENVIRONMENT, Origin.FILE):
        return case.show("felix-process", value.node, says)
    if value.origin is Origin.DERIVED:
        return case.show("ippools", excerpt=says)
    if value.origin is Origin.RELEASE:
        says = f"{value.field} is set nowhere: {shown(value.value)} by default in {value.where}"
    return case.show("felixconfigurations", excerpt=says)


# ------------------------------------------------------------------------------------ E1


def overlay(case: Case) -> Iterator[Outcome]:
    """Which pools wrap packets between nodes, and how."""
    known = pools(case)
    wrapping = [pool for pool in known if pool.overlay is not Overlay.NONE and pool.in_use]
    evidence = (show_pools(case, known),)
    if not wrapping:
        said = "No pool with pods uses an overlay." if known else "There is no IP pool."
        yield Outcome(Verdict.OK, said, evidence)
    for pool in wrapping:
        yield _wrapping(case, pool, evidence)


def _wrapping(case: Case, pool: PoolUse, evidence: tuple[Shown, ...]) -> Outcome:
    pods = "an unknown number of pods have" if pool.pods is None else f"{pool.pods} pods have"
    said = f"Pool {pool.name} has {pool.mode}, and {pods} an address of it"
    if pool.overlay is Overlay.IPIP:
        cost = "IPIP is the slowest overlay in eBPF mode"
        if case.minor < NO_IPIP_SHORTCUT_BEFORE:
            cost += ", and while Felix keeps its tunnel the FIB short-cut is off for all packets"
        verdict = Verdict.WARN if pool.pods == 0 else Verdict.FAIL
        return Outcome(
            verdict, f"{said}: {cost}.", evidence, subject=pool.name,
            remedy=_change(case, pool, "VXLANCrossSubnet"),
        )  # fmt: skip
    if pool.scope is Scope.CROSS_SUBNET:
        return Outcome(
            Verdict.OK,
            f"{said}: packets are wrapped only between nodes of different subnets, at "
            f"{VXLAN_OVERHEAD_BYTES} bytes each.",
            evidence,
            subject=pool.name,
        )
    return Outcome(
        Verdict.WARN,
        f"{said}: all packets between nodes are wrapped, which costs {VXLAN_OVERHEAD_BYTES} bytes "
        "and processor time each.",
        evidence,
        subject=pool.name,
        remedy=_change(case, pool, "VXLANCrossSubnet"),
    )


def _change(case: Case, pool: PoolUse, encapsulation: str) -> str:
    """How to take a better encapsulation: none where the underlay can route pods, else VXLAN."""
    best = "Take no overlay where the underlay routes pods' addresses (BGP, cloud routes), else "
    flags_too = ""
    if case.minor < DERIVES_ENCAPSULATION_FROM:
        flags_too = " and set vxlanEnabled to true and ipipEnabled to false in FelixConfiguration"
    if _operator(case):
        how = (
            f"encapsulation {encapsulation} in Installation default, "
            "spec.calicoNetwork.ipPools (the operator may put the pool itself back)"
        )
    else:
        how = (
            f"VXLAN: kubectl patch ippool {pool.name} --type merge -p "
            '\'{"spec":{"ipipMode":"Never","vxlanMode":"CrossSubnet"}}\''
        )
    if case.minor < AUTO_MTU_FROM:
        how += (
            f", veth_mtu of ConfigMap calico-config at most the NIC's less {VXLAN_OVERHEAD_BYTES}"
        )
    return f"{best}{how}{flags_too}; then make the pods anew, for their MTU."


def _operator(case: Case) -> bool:
    try:
        return bool(case.objects("installations"))
    except Missing:
        return False
