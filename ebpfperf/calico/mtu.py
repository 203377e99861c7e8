"""MTU of pods and tunnels, by Calico's automatic rule.

Source: felix/dataplane/linux/int_dataplane.go, ConfigureDefaultMTUs and determinePodMTU (v3.17 and
later). Overheads: outer IPv4 header 20 bytes; VXLAN adds 8 (UDP) + 8 (VXLAN) + 14 (inner Ethernet).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ebpfperf.calico.encapsulation import Enabled
from ebpfperf.calico.releases import AUTO_MTU_FROM, minor

IPIP_OVERHEAD_BYTES = 20
VXLAN_OVERHEAD_BYTES = 50
IPV4_TCP_HEADERS_BYTES = 40
TCP_TIMESTAMPS_BYTES = 12
FALLBACK_HOST_MTU_BYTES = 1460
V316_IPIP_MTU_BYTES = 1440
V316_VXLAN_MTU_BYTES = 1410

DEFAULT_MTU_IFACE_PATTERN = r"^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)"


def host_mtu_bytes(device_mtus: Mapping[str, int], pattern: str = DEFAULT_MTU_IFACE_PATTERN) -> int:
    """The smallest MTU of the devices that ``mtuIfacePattern`` matches; 1460 if none does."""
    matched = [mtu for name, mtu in device_mtus.items() if re.search(pattern, name)]
    return min(matched, default=FALLBACK_HOST_MTU_BYTES)


def ipip_mtu_bytes(felix_spec: Mapping[str, Any], host_mtu: int, version: str) -> int:
    """MTU of ``tunl0``: the field ``ipipMTU``, or automatic."""
    fixed = felix_spec.get("ipipMTU") or 0
    if minor(version) < AUTO_MTU_FROM:
        return int(fixed or V316_IPIP_MTU_BYTES)
    return int(fixed or host_mtu - IPIP_OVERHEAD_BYTES)


def vxlan_mtu_bytes(felix_spec: Mapping[str, Any], host_mtu: int, version: str) -> int:
    """MTU of ``vxlan.calico``: the field ``vxlanMTU``, or automatic."""
    fixed = felix_spec.get("vxlanMTU") or 0
    if minor(version) < AUTO_MTU_FROM:
        return int(fixed or V316_VXLAN_MTU_BYTES)
    return int(fixed or host_mtu - VXLAN_OVERHEAD_BYTES)


def pod_mtu_bytes(
    felix_spec: Mapping[str, Any], tunnels: Enabled, host_mtu: int, version: str
) -> int:
    """MTU of a new pod: the smallest of the enabled encapsulations' MTUs, else the host's."""
    candidates: Iterable[int] = [
        *([ipip_mtu_bytes(felix_spec, host_mtu, version)] if tunnels.ipip else []),
        *([vxlan_mtu_bytes(felix_spec, host_mtu, version)] if tunnels.vxlan else []),
    ]
    return min(candidates, default=host_mtu)


def mss_bytes(mtu_bytes: int, *, timestamps: bool) -> int:
    """TCP payload of a full IPv4 segment on a device of that MTU."""
    return mtu_bytes - IPV4_TCP_HEADERS_BYTES - (TCP_TIMESTAMPS_BYTES if timestamps else 0)
