"""What Felix's flags change in the eBPF dataplane, release by release.

Source of the short-cut's table: projectcalico/calico felix/dataplane/linux/int_dataplane.go at
v3.13.0, v3.16.1, v3.17.4 (either tunnel switches it off), v3.18.0, v3.22.0, v3.31.0 (IPIP alone
does: felix#2669, commit 254e080b3) and v3.32.0 (neither does: calico#11230, commit d993149f60).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ebpfperf.calico.encapsulation import enabled
from ebpfperf.calico.releases import minor

# First release from which VXLAN, and then IPIP too, leaves the short-cut alone.
VXLAN_HARMLESS_FROM = (3, 18)
IPIP_HARMLESS_FROM = (3, 32)


def fib_shortcut(spec: Mapping[str, Any], pools: Sequence[Mapping[str, Any]], version: str) -> bool:
    """Whether eBPF programs look up the route themselves and redirect, past the host's IP stack.

    It answers for the eBPF dataplane, which alone has such a short-cut. ``spec`` is the effective
    FelixConfiguration ``spec``, ``pools`` the IPPool ``spec`` of every pool.

    Raises
    ------
    ValueError
        ``version`` is no version.
    """
    release = minor(version)
    if release >= IPIP_HARMLESS_FROM:
        return True
    tunnels = enabled(spec, pools, version)
    if release >= VXLAN_HARMLESS_FROM:
        return not tunnels.ipip
    return not (tunnels.ipip or tunnels.vxlan)
