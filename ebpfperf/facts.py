"""What a node is while it is measured: commands, and pure parsers of what they print.

A fact that cannot be read has the value ``UNKNOWN: <reason>``; nothing here changes a node.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ebpfperf.errors import CommandError, CommandTimeout, OutputLimitError
from ebpfperf.model import Fact
from ebpfperf.mutations import canonical
from ebpfperf.network_view import LINKS_ARGV, Link, ipip_driver, link_of, parse_links
from ebpfperf.remote import Node
from ebpfperf.units import UNKNOWN

Named = dict[str, str]
"""Fact name → value."""

TIMEOUT_S = 10.0
NOT_FOUND = 127
LAB_PREFIX = "lab.ebpfperf/"
OFFLOADS = (
    "tcp-segmentation-offload",
    "generic-segmentation-offload",
    "generic-receive-offload",
    "large-receive-offload",
    "rx-checksumming",
    "tx-checksumming",
)
UNITS = {"nic_mtu": "bytes", "nic_speed": "Mbit/s", "clock_offset": "s", "clock_offset_bound": "s"}

# One grep reads many one-line files and names each; a file that is not there is only left out.
FILES = {
    "/proc/sys/kernel/random/boot_id": "boot_id",
    "/proc/sys/kernel/hostname": "hostname",
    "/proc/sys/kernel/osrelease": "kernel",
    "/proc/sys/kernel/unprivileged_bpf_disabled": "unprivileged_bpf_disabled",
    "/proc/sys/net/core/bpf_jit_enable": "bpf_jit_enable",
    "/proc/sys/net/core/bpf_jit_harden": "bpf_jit_harden",
    "/proc/sys/net/core/default_qdisc": "default_qdisc",
    "/proc/sys/net/core/rmem_max": "rmem_max",
    "/proc/sys/net/core/wmem_max": "wmem_max",
    "/proc/sys/net/ipv4/tcp_congestion_control": "tcp_congestion_control",
    "/proc/sys/net/ipv4/tcp_timestamps": "tcp_timestamps",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "cpu_governor",
    "/sys/devices/system/cpu/smt/active": "smt_active",
    "/sys/devices/system/clocksource/clocksource0/current_clocksource": "clocksource",
}
FILES_ARGV = ("grep", "-sH", ".", *FILES)


@dataclass(frozen=True, slots=True)
class Query:
    """A command that only reads, the facts it yields, and the parser of its output."""

    argv: tuple[str, ...]
    names: tuple[str, ...]
    parse: Callable[[str], Named]


def parse_files(text: str) -> Named:
    """Facts of ``FILES`` from ``grep -sH .``; those not printed are unknown."""
    found: Named = {}
    for line in text.splitlines():
        path, _, value = line.partition(":")
        if name := FILES.get(path):
            found.setdefault(name, value.strip())
    return found | {
        name: f"{UNKNOWN}: {path} is not there" for path, name in FILES.items() if name not in found
    }


def parse_cpuinfo(text: str) -> Named:
    """``cpu_model``, ``cpus`` and ``virtualized`` from /proc/cpuinfo (x86; Arm names no model)."""
    first: Named = {}
    count = 0
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        first.setdefault(key, value)
        count += key == "processor"
    model = first.get("model name") or first.get("CPU part") or f"{UNKNOWN}: not named"
    flags = first.get("flags")
    virtualized = f"{UNKNOWN}: no flags"
    if flags is not None:
        virtualized = "yes" if "hypervisor" in flags.split() else "no"
    return {"cpu_model": model, "cpus": str(count), "virtualized": virtualized}


def parse_os_release(text: str) -> Named:
    """``os`` from /etc/os-release."""
    match = re.search(r'^PRETTY_NAME="?(?P<name>[^"\n]+)"?$', text, re.MULTILINE)
    return {"os": match["name"] if match else f"{UNKNOWN}: no PRETTY_NAME"}


def parse_offloads(text: str) -> Named:
    """``nic_tcp_segmentation_offload`` and its like, ``on`` or ``off``, from ``ethtool -k``."""
    states = dict(re.findall(r"^([a-z-]+): (on|off)\b", text, re.MULTILINE))
    return {
        f"nic_{name.replace('-', '_')}": states.get(name, f"{UNKNOWN}: not printed")
        for name in OFFLOADS
    }


def version_parser(name: str, pattern: str) -> Callable[[str], Named]:
    """A parser that yields one fact: the first group of ``pattern``."""

    def parse(text: str) -> Named:
        match = re.search(pattern, text)
        return {name: match[1] if match else f"{UNKNOWN}: {_first_line(text)!r}"}

    return parse


QUERIES: tuple[Query, ...] = (
    Query(FILES_ARGV, tuple(FILES.values()), parse_files),
    Query(("cat", "/proc/cpuinfo"), ("cpu_model", "cpus", "virtualized"), parse_cpuinfo),
    Query(("cat", "/etc/os-release"), ("os",), parse_os_release),
    *(
        Query(argv, (name,), version_parser(name, pattern))
        for name, argv, pattern in (
            ("iperf3_version", ("iperf3", "--version"), r"iperf (\S+)"),
            ("sockperf_version", ("sockperf", "--version"), r"version ([\w.]+)"),
            ("python_version", ("/usr/bin/python3", "--version"), r"Python (\S+)"),
            (
                "bcc_version",
                ("/usr/bin/python3", "-c", "import bcc; print('bcc', bcc.__version__)"),
                r"bcc (\S+)",
            ),
            ("iproute2_version", ("tc", "-V"), r"iproute2-([\w.]+)"),
            ("bpftool_version", ("bpftool", "version"), r"bpftool v([\w.]+)"),
        )
    ),
)


def node_facts(node: Node, *, address: str | None = None) -> tuple[Fact, ...]:
    """Facts of one node, by name.

    Parameters
    ----------
    address
        The node's InternalIP, which tells its NIC; None takes the first device with a global
        address that is no tunnel.

    Raises
    ------
    ConnectError
        The connection is lost; a command that fails is an unknown fact instead.
    """
    found: Named = {}
    for query in QUERIES:
        found |= _ask(node, query)
    found |= _nic(node, address)
    found |= _clock(node)
    return tuple(
        Fact(node.name, name, value, UNITS.get(name, "")) for name, value in sorted(found.items())
    )


def nodes_facts(
    nodes: Mapping[str, Node], addresses: Mapping[str, str] | None = None
) -> tuple[Fact, ...]:
    """Facts of several nodes, asked at once, and of what they share."""
    with ThreadPoolExecutor(max_workers=max(1, len(nodes))) as pool:
        each = pool.map(
            lambda item: node_facts(item[1], address=(addresses or {}).get(item[0])), nodes.items()
        )
        facts = tuple(fact for found in each for fact in found)
    return (*facts, shared_kernel(facts))


def shared_kernel(facts: Iterable[Fact]) -> Fact:
    """Whether nodes run on one kernel, as their boot_id shows: then no CPU cost is one node's."""
    by_boot: dict[str, list[str]] = {}
    for fact in facts:
        if fact.name == "boot_id" and not fact.value.startswith(UNKNOWN):
            by_boot.setdefault(fact.value, []).append(fact.node)
    shared = [", ".join(sorted(names)) for names in by_boot.values() if len(names) > 1]
    if not by_boot:
        return Fact("", "shared_kernel", f"{UNKNOWN}: no boot_id was read")
    return Fact("", "shared_kernel", f"yes: {'; '.join(shared)}" if shared else "no")


def cluster_facts(
    *,
    information: Mapping[str, Any] | None,
    felix: Mapping[str, Any] | None,
    pools: Sequence[Mapping[str, Any]],
    nodes: Sequence[Mapping[str, Any]],
) -> tuple[Fact, ...]:
    """Facts of the API's objects: releases, Felix's fields, pools, what an emulation says it is."""
    facts = [
        release_fact(information),
        Fact("", "felix_spec", canonical((felix or {}).get("spec", {})) if felix else "absent"),
    ]
    for pool in pools:
        name = re.sub(r"\W", "_", pool["metadata"]["name"])
        facts.append(Fact("", f"ippool_{name}", canonical(pool["spec"])))
    for node in nodes:
        name = node["metadata"]["name"]
        info = node.get("status", {}).get("nodeInfo", {})
        facts.append(Fact(name, "kubelet_version", info.get("kubeletVersion") or UNKNOWN))
    return (*facts, *emulation_facts(nodes))


def release_fact(information: Mapping[str, Any] | None) -> Fact:
    """Calico's release, as ClusterInformation ``default`` says it."""
    spec = (information or {}).get("spec", {})
    return Fact("", "calico_release", spec.get("calicoVersion") or f"{UNKNOWN}: not said")


def emulation_facts(nodes: Iterable[Mapping[str, Any]]) -> tuple[Fact, ...]:
    """What an emulation says of itself now; empty for a real cluster.

    It does so in labels and annotations of Node objects that begin with ``lab.ebpfperf/``.
    """
    return tuple(
        Fact(node["metadata"]["name"], _emulated(key), str(value))
        for node in nodes
        for key, value in sorted(_marks(node["metadata"]).items())
        if key.startswith(LAB_PREFIX)
    )


def _marks(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {**(meta.get("labels") or {}), **(meta.get("annotations") or {})}


def _emulated(key: str) -> str:
    return "lab_" + re.sub(r"\W", "_", key.removeprefix(LAB_PREFIX))


def _ask(node: Node, query: Query) -> Named:
    try:
        done = node.run(query.argv, timeout_s=TIMEOUT_S, check=False)
    except (CommandError, CommandTimeout, OutputLimitError) as error:
        return dict.fromkeys(query.names, f"{UNKNOWN}: {error.what}")
    if done.status == NOT_FOUND:
        return dict.fromkeys(query.names, f"{UNKNOWN}: {query.argv[0]} is not installed")
    if done.status != 0 and not done.stdout:
        said = _first_line(done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2])
        reason = said or f"{query.argv[0]} ended with status {done.status}"
        return dict.fromkeys(query.names, f"{UNKNOWN}: {reason}")
    return query.parse(done.text)


def _nic(node: Node, address: str | None) -> Named:
    """The NIC: name, MTU, speed, driver's offloads; and how IPIP is done where it is."""
    try:
        links = parse_links(node.run(LINKS_ARGV, timeout_s=TIMEOUT_S).stdout)
    except (CommandError, CommandTimeout, ValueError) as error:
        return {"nic": f"{UNKNOWN}: {error}"}
    tunnel = next((link for link in links if link.name == "tunl0"), None)
    found = {"ipip_driver": ipip_driver(tunnel)}
    nic = link_of(links, address) if address else _likely_nic(links)
    if nic is None:
        return found | {"nic": f"{UNKNOWN}: no device carries {address or 'a global address'}"}
    found |= {"nic": nic.name, "nic_mtu": str(nic.mtu_bytes), "nic_kind": nic.kind or "physical"}
    names = tuple(f"nic_{name.replace('-', '_')}" for name in OFFLOADS)
    found |= _ask(node, Query(("ethtool", "-k", nic.name), names, parse_offloads))
    speed = Query(("cat", f"/sys/class/net/{nic.name}/speed"), ("nic_speed",), _parse_speed)
    return found | _ask(node, speed)


def _parse_speed(text: str) -> Named:
    value = text.strip()
    return {"nic_speed": value if value.isdigit() else f"{UNKNOWN}: the driver gives none"}


def _likely_nic(links: Sequence[Link]) -> Link | None:
    tunnels = ("vxlan", "ipip", "tun", "wireguard", "bridge", "dummy")
    for link in links:
        if link.addresses and link.name != "lo" and link.kind not in tunnels:
            return link
    return None


def _clock(node: Node) -> Named:
    """Seconds by which the node's clock is ahead of ours, and half the round trip as its bound."""
    before = time.time()
    try:
        done = node.run(["date", "+%s.%N"], timeout_s=TIMEOUT_S)
        there = float(done.text)
    except (CommandError, CommandTimeout, ValueError) as error:
        return {"clock_offset": f"{UNKNOWN}: {error}"}
    after = time.time()
    return {
        "clock_offset": f"{there - (before + after) / 2:.4f}",
        "clock_offset_bound": f"{(after - before) / 2:.4f}",
    }


def _first_line(text: str) -> str:
    return text.splitlines()[0][:120] if text else ""
