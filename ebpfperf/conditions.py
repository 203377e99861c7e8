"""What is so on the nodes of a path before a trial: one process a node, all nodes at once.

``probes/node/conditions.py`` runs there under the node's own Python; nothing is written on a node
and nothing changed. ``conditions_text`` makes facts of the answer; docs/conditions.md lists them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files
from typing import Any

from ebpfperf import conditions_text
from ebpfperf.errors import CommandError, CommandTimeout, OutputLimitError
from ebpfperf.model import Endpoint, Fact
from ebpfperf.remote import Node
from ebpfperf.verify import IPIP_DEVICE, VXLAN_DEVICE

TIMEOUT_S = 10.0
_NOT_FOUND = 127
_SCRIPTS = ("bpf_call", "attached", "conditions")
# Modules by name, in the order in which they stand on each other; the last one is asked.
_BOOT = """\
import json, sys, types
told = json.loads(sys.stdin.read())
for name, text in told["sources"]:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name + ".py", "exec"), module.__dict__)
print(json.dumps(sys.modules[name].read(told["asked"])))
"""
# Isolated, and without site-packages: a third of Python's own start.
COMMAND = ("/usr/bin/python3", "-I", "-S", "-c", _BOOT)
TOOLS: Mapping[str, tuple[str, ...]] = {"iperf3": ("iperf3", "--version")}
# sockperf takes a tenth of a second to say its version: it measures the clock first.
BINARIES = ("sockperf",)
DEVICES: Mapping[str, str] = {
    "vxlan": VXLAN_DEVICE,
    "ipip": IPIP_DEVICE,
    "wireguard": "wireguard.cali",
    "bpfin": "bpfin.cali",
    "bpfout": "bpfout.cali",
}
# Setting → why it matters to a measurement. Those that a kernel does not have are left out.
POD_SYSCTLS: Mapping[str, str] = {
    "net.core.somaxconn": "connections that may wait to be accepted",
    "net.ipv4.tcp_rmem": "bounds the receive window, and so the rate over a long path",
    "net.ipv4.tcp_wmem": "bounds what is unacknowledged",
    "net.ipv4.tcp_mem": "beyond it the kernel shrinks windows",
    "net.ipv4.tcp_congestion_control": "paces and backs off",
    "net.ipv4.tcp_timestamps": "12 bytes of each segment, and the round trips measured",
    "net.ipv4.tcp_sack": "what a loss costs",
    "net.ipv4.tcp_window_scaling": "without it a window ends at 64 KiB",
    "net.ipv4.tcp_moderate_rcvbuf": "whether the receive buffer grows by itself",
    "net.ipv4.tcp_adv_win_scale": "which part of the receive buffer is window",
    "net.ipv4.tcp_mtu_probing": "segments may be smaller than the MTU allows",
    "net.ipv4.tcp_base_mss": "where MTU probing begins",
    "net.ipv4.tcp_notsent_lowat": "what may wait unsent, and so the delay",
    "net.ipv4.tcp_slow_start_after_idle": "windows collapse between requests",
    "net.ipv4.tcp_limit_output_bytes": "what a socket may have in the queue below it",
    "net.ipv4.tcp_autocorking": "small writes wait for each other",
    "net.ipv4.tcp_ecn": "marks instead of losses",
    "net.ipv4.tcp_no_metrics_save": "whether a connection begins with what the last one learnt",
    "net.ipv4.tcp_tso_win_divisor": "how large bursts are",
    "net.ipv4.tcp_min_tso_segs": "how small bursts are",
    "net.ipv4.tcp_pacing_ca_ratio": "how far pacing is above the rate",
    "net.ipv4.udp_mem": "beyond it datagrams are dropped",
    "net.ipv4.ip_forward": "whether the node forwards",
    "net.ipv4.conf.all.rp_filter": "packets that come in by the wrong device are dropped",
    "net.ipv4.ip_no_pmtu_disc": "whether the path's MTU is learnt",
    "net.netfilter.nf_conntrack_max": "beyond it new connections are dropped",
}
SYSCTLS: Mapping[str, str] = {
    **POD_SYSCTLS,
    "net.core.rmem_max": "bounds what a program may ask for (iperf3 -w)",
    "net.core.wmem_max": "bounds what a program may ask for (iperf3 -w)",
    "net.core.rmem_default": "a UDP socket's receive buffer",
    "net.core.wmem_default": "a UDP socket's send buffer",
    "net.core.netdev_max_backlog": "a veth's receive queue; beyond it packets are dropped",
    "net.core.netdev_budget": "packets of one softirq run",
    "net.core.netdev_budget_usecs": "time of one softirq run",
    "net.core.dev_weight": "packets of one device in a softirq run",
    "net.core.default_qdisc": "the qdisc of a device made anew",
    "net.core.busy_poll": "polls instead of waiting for interrupts",
    "net.core.busy_read": "polls instead of waiting for interrupts",
    "net.core.rps_sock_flow_entries": "receive flow steering",
    "net.core.gro_normal_batch": "packets handed up at once",
    "net.core.high_order_alloc_disable": "memory for large sends comes in single pages",
    "net.core.optmem_max": "zero-copy sends",
    "net.core.bpf_jit_enable": "0: programs are interpreted",
    "net.core.bpf_jit_harden": "2: programs cost more",
    "net.core.bpf_jit_limit": "beyond it programs are interpreted",
    "kernel.bpf_stats_enabled": "each run of a program is timed",
    "kernel.unprivileged_bpf_disabled": "Felix sets it in eBPF mode",
    "kernel.numa_balancing": "pages move while they are used",
    "kernel.sched_autogroup_enabled": "processor time is shared by session",
    "kernel.sched_energy_aware": "slow cores may be chosen",
    "kernel.sched_latency_ns": "how long a task runs",
    "kernel.sched_min_granularity_ns": "how long a task runs",
    "kernel.sched_wakeup_granularity_ns": "whether a woken task runs at once",
    "kernel.sched_migration_cost_ns": "whether a task changes processors",
    "kernel.sched_rt_runtime_us": "what real-time tasks leave",
    "kernel.sched_schedstats": "scheduling is timed",
    "kernel.timer_migration": "timers move to busy processors",
    "kernel.watchdog": "interrupts each processor now and then",
    "kernel.nmi_watchdog": "holds a performance counter",
    "kernel.perf_event_paranoid": "what probes may read",
    "vm.swappiness": "what is written out under pressure",
}


def read(
    nodes: Mapping[str, Node],
    client: Endpoint,
    server: Endpoint,
    *,
    addresses: Mapping[str, str] | None = None,
) -> tuple[Fact, ...]:
    """The facts of every node of the path, and where its ends are placed.

    A node that cannot say has the one fact ``conditions`` with the reason. One process a node: in
    the lab about 0.1 s (docs/conditions.md).

    Parameters
    ----------
    addresses
        Node → its InternalIP, which tells its NIC. Of a node that is not named it is the device of
        a host workload there, or the first device with a global address that is no tunnel.

    Raises
    ------
    ConnectError
        A node's connection is lost.
    """
    ends = {"client": client, "server": server}
    names = dict.fromkeys(end.node for end in ends.values())
    if server.front is not None and server.front.node:
        names[server.front.node] = None
    asked = {
        name: question(name, client, server, address=(addresses or {}).get(name)) for name in names
    }
    with ThreadPoolExecutor(max_workers=len(asked)) as pool:
        found = pool.map(lambda name: _node(nodes[name], asked[name]), asked)
        facts = [fact for answer in found for fact in answer]
    facts += [Fact("", f"placement:{end}", place.node) for end, place in ends.items()]
    facts += [Fact("", f"address:{end}", place.address) for end, place in ends.items()]
    return tuple(facts)


def question(
    node: str, client: Endpoint, server: Endpoint, *, address: str | None = None
) -> dict[str, Any]:
    """What one node is asked: settings, tools, devices by role, and pods by a process in them."""
    ends = {"client": client, "server": server}
    here = {name: end for name, end in ends.items() if end.node == node}
    pods = {name: end for name, end in here.items() if end.netns_pid is not None}
    hosts = [end.device for end in here.values() if end.netns_pid is None]
    roles = {name: "pod" if len(pods) == 1 else f"{name}-pod" for name in pods}
    devices = dict(DEVICES)
    devices |= {f"{roles[name]}-host": end.host_device for name, end in pods.items()}
    return {
        "address": address,
        "nic": None if address or not hosts else hosts[0],
        "devices": {role: name for role, name in devices.items() if name},
        "pods": {
            roles[name]: {"pid": end.netns_pid, "device": end.device} for name, end in pods.items()
        },
        "files": list(conditions_text.FILES),
        "policy": list(conditions_text.POLICY),
        "sysctls": list(SYSCTLS),
        "pod_sysctls": list(POD_SYSCTLS),
        "tools": TOOLS,
        "binaries": BINARIES,
    }


def machine_question(address: str | None) -> bytes:
    """What ``COMMAND`` is told to answer of a machine's NIC, processors and interrupts alone.

    ``address`` tells the NIC; without it, it is the first likely device with a global address.
    """
    asked: dict[str, Any] = {
        "address": address, "nic": None, "devices": {}, "pods": {}, "files": [],
        "policy": list(conditions_text.POLICY), "sysctls": [], "pod_sysctls": [],
        "tools": {}, "binaries": [],
    }  # fmt: skip
    return json.dumps({"sources": sources(), "asked": asked}).encode()


@cache
def sources(*further: str) -> tuple[tuple[str, str], ...]:
    """Names and texts of the scripts that a node runs, each after those it needs.

    ``further`` stand on these: the last of them is asked instead.
    """
    place = files("ebpfperf.probes").joinpath("node")
    names = (*_SCRIPTS, *further)
    return tuple((name, place.joinpath(f"{name}.py").read_text("utf-8")) for name in names)


def _node(node: Node, asked: Mapping[str, Any]) -> tuple[Fact, ...]:
    told = json.dumps({"sources": sources(), "asked": asked}).encode()
    try:
        done = node.run(COMMAND, input=told, timeout_s=TIMEOUT_S, check=False)
    except (CommandError, CommandTimeout, OutputLimitError) as error:
        return conditions_text.unread(node.name, error.what)
    if done.status == _NOT_FOUND:
        return conditions_text.unread(node.name, f"{COMMAND[0]} is not installed")
    if done.status != 0:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return conditions_text.unread(node.name, said or f"status {done.status}")
    try:
        return conditions_text.parse(node.name, json.loads(done.stdout))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return conditions_text.unread(node.name, f"its answer is unreadable: {error!r}")
