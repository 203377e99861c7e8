"""Where a workload lives on its node: a process in its network namespace, its devices, its MTU.

A pod is found by its UID in the node's cgroup tree, as kubelet names it: ``pod<uid>`` (cgroupfs
driver) or ``…-pod<uid with _>.slice`` (systemd driver), in cgroup v1 and v2 alike. No runtime's
command line is needed. Everything sent to a node here only reads.
"""

from __future__ import annotations

import re

from ebpfperf.errors import SettleError
from ebpfperf.model import Endpoint, Workload
from ebpfperf.network_view import LINKS_ARGV, Link, link_of, parse_links, parse_source
from ebpfperf.remote import Node

CGROUP_ROOT = "/sys/fs/cgroup"
_NETNS = re.compile(r"/proc/(?P<pid>\d+|self)/ns/net' -> 'net:\[(?P<inode>\d+)\]'")


def place_host(node: Node, workload: Workload, address: str) -> Endpoint:
    """The node itself: its InternalIP and the device that carries it.

    Raises
    ------
    SettleError
        No device of the node carries the address.
    """
    link = link_of(node_links(node), address)
    if link is None:
        raise SettleError(
            f"No device of node {node.name} carries its InternalIP {address}.",
            "Is the SSH host of that name the node of that name?",
            evidence=f"{node.name}: ip addr",
        )
    return Endpoint(workload, address, None, link.name, link.name, link.mtu_bytes)


def place_outside(node: Node, workload: Workload, *, towards: str) -> Endpoint:
    """A machine outside the cluster: the address and device by which it reaches ``towards``.

    Raises
    ------
    SettleError
        It has no way there.
    """
    found = parse_source(node.run(["ip", "-j", "-4", "route", "get", towards], check=False).stdout)
    if found is None:
        raise SettleError(
            f"{node.name} has no route to {towards}.",
            "Name a machine in cluster.external_client that reaches the nodes' InternalIPs.",
            evidence=f"{node.name}: ip route get {towards}",
        )
    address, device = found
    mtu_bytes = next(link.mtu_bytes for link in node_links(node) if link.name == device)
    return Endpoint(workload, address, None, device, device, mtu_bytes)


def place_pod(node: Node, workload: Workload, *, uid: str, address: str) -> Endpoint:
    """A pod's endpoint, every part of it read on the node.

    Raises
    ------
    SettleError
        No live process of the pod is found, or its namespace does not carry ``address``.
    """
    pid = _namespace_pid(node, uid)
    if pid is None:
        raise SettleError(
            f"Node {node.name} shows no process of pod {workload.namespace}/{workload.name} "
            f"(uid {uid}) under {CGROUP_ROOT}.",
            "Is the SSH host of that name the node of that name, and is cgroupfs mounted there?",
            evidence=f"{node.name}: find {CGROUP_ROOT}",
        )
    inside = pod_links(node, pid)
    link = link_of(inside, address)
    if link is None:
        raise SettleError(
            f"The namespace of pod {workload.namespace}/{workload.name} on {node.name} does not "
            f"carry the pod's address {address}.",
            "The pod may just have been replaced; run again.",
            evidence=f"{node.name}: nsenter --net=/proc/{pid}/ns/net ip addr",
        )
    host_device = _host_device(node_links(node), link)
    return Endpoint(workload, address, pid, link.name, host_device, link.mtu_bytes)


def still_there(node: Node, endpoint: Endpoint) -> bool:
    """Whether the endpoint is as it was: same address and MTU in the same process's namespace."""
    if endpoint.netns_pid is None:
        links = node_links(node)
    else:
        done = node.run(endpoint.within(LINKS_ARGV), check=False)
        links = parse_links(done.stdout) if done.status == 0 else ()
    link = link_of(links, endpoint.address)
    return link is not None and (link.name, link.mtu_bytes) == (
        endpoint.device,
        endpoint.mtu_bytes,
    )


def node_links(node: Node) -> tuple[Link, ...]:
    """The node's own devices."""
    return parse_links(node.run(LINKS_ARGV).stdout)


def pod_links(node: Node, pid: int) -> tuple[Link, ...]:
    """The devices in a process's network namespace."""
    return parse_links(node.run(["nsenter", f"--net=/proc/{pid}/ns/net", "--", *LINKS_ARGV]).stdout)


def processes_argv(uid: str) -> list[str]:
    """The command that prints ``cgroup.procs path:pid`` for every process of a pod."""
    names = [f"*pod{uid}*", f"*pod{uid.replace('-', '_')}*"]
    return [
        "find",
        CGROUP_ROOT,
        "(",
        *("-path", names[0], "-o", "-path", names[1]),
        ")",
        *("-name", "cgroup.procs", "-exec", "grep", "-H", ".", "{}", "+"),
    ]


def parse_processes(text: str) -> tuple[int, ...]:
    """PIDs of a pod, each once, smallest first: the pause process before its children."""
    pids = {line.rpartition(":")[2] for line in text.splitlines()}
    # A process of another PID namespace reads as 0.
    return tuple(sorted(int(pid) for pid in pids if pid.isdigit() and pid != "0"))


def parse_namespaces(text: str) -> dict[str, str]:
    """PID (or ``self``) → inode of its network namespace, from ``stat -c %N /proc/…/ns/net``."""
    return {match["pid"]: match["inode"] for match in _NETNS.finditer(text)}


def _namespace_pid(node: Node, uid: str) -> int | None:
    """A live process of the pod that is not in the node's own network namespace."""
    # A process may end between the two commands, and its file with it: statuses mean nothing.
    pids = parse_processes(node.run(processes_argv(uid), check=False).text)
    if not pids:
        return None
    files = [f"/proc/{pid}/ns/net" for pid in ("self", *pids)]
    # C.UTF-8 would print typographic quotes.
    done = node.run(["env", "LC_ALL=C", "stat", "-c", "%N", *files], check=False)
    inodes = parse_namespaces(done.text)
    return next((p for p in pids if inodes.get(str(p)) not in (None, inodes.get("self"))), None)


def _host_device(links: tuple[Link, ...], inner: Link) -> str:
    """The node's side of a pod's device, by interface index; empty where there is none."""
    return next((link.name for link in links if link.index == inner.peer_index), "")
