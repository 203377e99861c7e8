"""Which conditions on a node follow of what a treatment sets, and so are no confounder.

Names of conditions are those of docs/conditions.md. Sources, in projectcalico/calico:
felix/dataplane/linux/int_dataplane.go (devices, MTUs; kernel settings of the eBPF dataplane),
felix/dataplane/linux/bpf_ep_mgr.go (programs; ``syncIfaceProperties`` switches ``rx-gro`` off where
``bpfDisableGROForIfaces`` matches), felix/dataplane/linux/vxlan_mgr.go (checksum offload of the
tunnel device, by ``featureDetectOverride``), felix/config/config_params.go (the fields).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ebpfperf.calico.encapsulation import Enabled, enabled
from ebpfperf.calico.mtu import ipip_mtu_bytes, pod_mtu_bytes, vxlan_mtu_bytes
from ebpfperf.calico.releases import AUTO_MTU_FROM, minor

_PROGRAMS = ("programs:*", "bpf_log_level")
_HARDENING = "sysctl:net.core.bpf_jit_harden"
_UNPRIVILEGED = "sysctl:kernel.unprivileged_bpf_disabled"
_REVERSE_PATH = "sysctl:net.ipv4.conf.all.rp_filter"
# Felix field → the conditions that it changes by itself. Any field bpf… may change the programs.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "bpfEnabled": (
        "felix_dataplane",
        "lab_forwarding",
        _HARDENING,
        _UNPRIVILEGED,
        _REVERSE_PATH,
    ),
    "bpfDisableGROForIfaces": ("offloads:*",),
    "bpfDisableUnprivileged": (_UNPRIVILEGED,),
    "bpfEnforceRPF": (_REVERSE_PATH,),
    "bpfJITHardening": (_HARDENING,),
    "featureDetectOverride": ("offloads:vxlan", "offloads:ipip"),
}
# Of another tunnel: programs are compiled or configured for it.
_OF_TUNNELS = (*_PROGRAMS, "ipip_driver", "lab_forwarding")


@dataclass(frozen=True, slots=True)
class Arm:
    """What Felix acts on under one treatment.

    Attributes
    ----------
    felix
        Effective FelixConfiguration ``spec``.
    pools
        ``spec`` of every pool.
    """

    felix: Mapping[str, Any]
    pools: tuple[Mapping[str, Any], ...]
    release: str

    @property
    def tunnels(self) -> Enabled:
        """Which tunnels Felix maintains."""
        return enabled(self.felix, self.pools, self.release)

    @property
    def devices(self) -> frozenset[str]:
        """Roles of the devices that Felix makes."""
        wanted = {
            "ipip": self.tunnels.ipip,
            "vxlan": self.tunnels.vxlan,
            "bpfin": bool(self.felix.get("bpfEnabled")),
            "bpfout": bool(self.felix.get("bpfEnabled")),
            "wireguard": bool(self.felix.get("wireguardEnabled")),
        }
        return frozenset(role for role, needed in wanted.items() if needed)

    def mtu_bytes(self, role: str, nic_mtu_bytes: int) -> int | None:
        """MTU that Calico gives a device of that role; None where no rule says.

        ``role`` is ``vxlan``, ``ipip``, or ends in ``pod`` or ``pod-host``. Before v3.17 there was
        no rule for pods: the CNI configuration held a number.
        """
        if role == "vxlan":
            return vxlan_mtu_bytes(self.felix, nic_mtu_bytes, self.release)
        if role == "ipip":
            return ipip_mtu_bytes(self.felix, nic_mtu_bytes, self.release)
        if not role.endswith(("pod", "pod-host")) or minor(self.release) < AUTO_MTU_FROM:
            return None
        return pod_mtu_bytes(self.felix, self.tunnels, nic_mtu_bytes, self.release)


def devices_that_differ(one: Arm, other: Arm) -> frozenset[str]:
    """Roles of the devices that one of two treatments makes and the other does not.

    In eBPF mode Felix keeps a VXLAN device for node ports, whatever the overlay is.
    """
    ours, theirs = one.devices, other.devices
    node_ports = {"vxlan"} if "bpfin" in ours ^ theirs else set()
    return (ours ^ theirs) | node_ports


def belongs(name: str, one: Arm, other: Arm) -> bool:
    """Whether a condition may differ between two treatments because they do.

    MTUs are not asked here but held against the rule (``Arm.mtu_bytes``); nor is ``devices``.
    """
    fields = {
        field
        for field in {*one.felix, *other.felix}
        if one.felix.get(field) != other.felix.get(field)
    }
    patterns = [pattern for field in fields for pattern in FIELDS.get(field, ())]
    if any(field.startswith("bpf") for field in fields):
        patterns += _PROGRAMS
    if one.pools != other.pools or one.tunnels != other.tunnels:
        patterns += _OF_TUNNELS
    patterns += [f"*:{role}" for role in devices_that_differ(one, other)]
    return any(fnmatchcase(name, pattern) for pattern in patterns)
