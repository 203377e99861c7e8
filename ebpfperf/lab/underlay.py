"""The network between the nodes: a bridge in a namespace of its own, a veth to each NIC.

Beside the nodes stands one machine that is not of the cluster, the client.

One subnet, 198.18.0.0/24; or several (198.18.S.0/24, nodes dealt out in turn) with the bridge as
their router, .1 in each, which knows the nodes and nothing of their pods.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ebpfperf.errors import LabError
from ebpfperf.lab import cgroups
from ebpfperf.lab.nodes import LabNode, run, start_holder
from ebpfperf.lab.services import SERVICE_CIDR

_PREFIX = "198.18"
# On the first node's subnet, and beyond the last node's address.
CLIENT_ADDRESS = f"{_PREFIX}.0.200"
_ROUTER_MAC = "02:00:c6:12:ff:01"
_SWITCH = """\
set -e
ip link set lo up
for name in all default; do
  echo 0 >/proc/sys/net/ipv4/conf/$name/rp_filter
  echo 0 >/proc/sys/net/ipv4/conf/$name/send_redirects
done
echo 1 >/proc/sys/net/ipv4/ip_forward
echo ready
exec sleep infinity >/dev/null 2>&1
"""


def address(index: int, *, subnets: int) -> str:
    """Underlay address of the node ``index`` (from 1): 198.18.S.(10 + index)."""
    return f"{_PREFIX}.{(index - 1) % subnets}.{10 + index}"


def router(underlay_ip: str) -> str:
    """The router of the address's subnet; there only where the lab has several."""
    return underlay_ip.rpartition(".")[0] + ".1"


def mac(underlay_ip: str) -> str:
    """The MAC address of a NIC: locally administered, from its underlay address."""
    octets = [int(part) for part in underlay_ip.split(".")]
    return "02:00:" + ":".join(f"{octet:02x}" for octet in octets)


def start_switch(lab: str) -> int:
    """Pid of the process that holds the network between the nodes."""
    return start_holder(lab, ["--net"], ["sh", "-c", _SWITCH], cgroup=cgroups.make(_cgroup(lab)))


def switch_pid(lab: str) -> int:
    """Pid of the process that ``start_switch`` made for a lab; LabError when it is gone."""
    found = cgroups.members(_cgroup(lab))
    if not found:
        raise LabError(f"The lab {lab} has no underlay any more.", "Take it down and up again.")
    return min(found)


def _cgroup(lab: str) -> Path:
    return cgroups.lab_cgroup(lab) / "switch"


def link(switch_pid: int, nodes: Sequence[LabNode], client: LabNode, *, mtu_bytes: int) -> None:
    """Connect the nodes and the client. Neighbours are permanent: no ARP falls into a measurement.

    Raises
    ------
    LabError
        The kernel refuses a device or a route.
    """
    routers = sorted({router(node.underlay_ip) for node in nodes})
    batch = [
        f"link add br0 address {_ROUTER_MAC} mtu {mtu_bytes} type bridge mcast_snooping 0",
        "link set br0 up",
    ]
    machines = [*nodes, client]
    for node in machines:
        batch += [
            f"link add port{node.index} type veth peer name {node.nic} netns {node.holder_pid}",
            f"link set port{node.index} mtu {mtu_bytes} master br0 up",
        ]
    if len(routers) > 1:
        batch += [f"addr add {one}/24 dev br0" for one in routers]
        batch += [_neighbour(node.underlay_ip, mac(node.underlay_ip), "br0") for node in machines]
    net = f"--net=/proc/{switch_pid}/ns/net"
    run(["nsenter", net, "--", "ip", "-batch", "-"], input="\n".join(batch))
    for node in machines:
        batch = _nic(node, machines, routers, mtu_bytes)
        if node is not client:
            # A real node has a default route. Netfilter and BPF see a packet to a service's
            # address only where some route leads there.
            batch.append(f"route add {SERVICE_CIDR} dev {node.nic}")
        node.run(["ip", "-batch", "-"], input="\n".join(batch))


def _nic(
    node: LabNode, machines: Sequence[LabNode], routers: Sequence[str], mtu_bytes: int
) -> list[str]:
    own = router(node.underlay_ip)
    batch = [
        f"link set {node.nic} address {mac(node.underlay_ip)} mtu {mtu_bytes} up",
        f"addr add {node.underlay_ip}/24 dev {node.nic}",
    ]
    batch += [
        _neighbour(other.underlay_ip, mac(other.underlay_ip), node.nic)
        for other in machines
        if other is not node and router(other.underlay_ip) == own
    ]
    if len(routers) > 1:
        batch.append(_neighbour(own, _ROUTER_MAC, node.nic))
        batch += [
            f"route add {other.rpartition('.')[0]}.0/24 via {own} dev {node.nic}"
            for other in routers
            if other != own
        ]
    return batch


def _neighbour(underlay_ip: str, address: str, device: str) -> str:
    return f"neigh replace {underlay_ip} lladdr {address} dev {device} nud permanent"
