"""The lab's own annotations: what users tell it by them, and what it says of itself. Pure."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# On a pod: what its programs drop. On a node: what is broken there, and how soon Felix restarts.
DENY, FAULT = "lab.ebpfperf/deny", "lab.ebpfperf/fault"
RESTART = "lab.ebpfperf/restart-s"
# On a node, written by the lab: that it is no real one, and how it forwards now.
EMULATION, FORWARDING = "lab.ebpfperf/emulation", "lab.ebpfperf/forwarding"
PLAIN, BY_PROGRAMS = "plain kernel routing", "the lab's own eBPF programs"
UNSUPPORTED = "kernel-unsupported"
# As above, and nobody serves Services: no kube-proxy either.
NEITHER = "neither-active"
# What the dataplane lacks of the fault's own Service; an endpoint that gets no program.
BACKEND_MISSING, FRONTEND_MISSING = "nat-backend-missing", "service-without-frontend"
DIRTY = "dirty-endpoint"
# The sweeper leaves what it finds.
STALE, FULL = "stale-conntrack", "conntrack-nearly-full"
FAULTS = (UNSUPPORTED, NEITHER, BACKEND_MISSING, FRONTEND_MISSING, DIRTY, STALE, FULL)
# What Felix finds out when it starts; the others it acts on at once.
AT_START = frozenset({UNSUPPORTED, NEITHER})
FAULT_NAMESPACE = "default"
FELIX_RESTART_S = 2.0
_LONGEST_RESTART_S = 60.0
PROTOCOLS = {"TCP": 6, "UDP": 17, "ICMP": 1, "": 0}


@dataclass(frozen=True, slots=True)
class Denied:
    """One rule of a workload's deny list.

    Attributes
    ----------
    egress
        Whether it is about what the workload sends.
    protocol
        ``TCP``, ``UDP``, ``ICMP`` or empty for all, which goes with no port.
    port
        Destination port; 0 for all.
    """

    egress: bool
    cidr: str
    protocol: str = ""
    port: int = 0


def deny_list(annotations: Mapping[str, str]) -> tuple[Denied, ...]:
    """The deny list that a pod's annotations ask for; empty without one.

    ``lab.ebpfperf/deny`` holds JSON: a list of objects with ``direction`` (``ingress`` or
    ``egress``), ``cidr``, and where wanted ``protocol`` and ``port``.

    Raises
    ------
    ValueError
        It holds something else; says what.
    """
    text = annotations.get(DENY)
    if not text:
        return ()
    try:
        rules = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{DENY} is no JSON: {error}") from None
    if not isinstance(rules, list):
        raise ValueError(f"{DENY} is no list")
    return tuple(_rule(rule) for rule in rules)


def _rule(rule: Any) -> Denied:
    known = {"direction", "cidr", "protocol", "port"}
    if not isinstance(rule, dict) or not {"direction", "cidr"} <= set(rule) <= known:
        raise ValueError(f"{DENY}: a rule has direction, cidr, protocol, port: {rule!r}")
    protocol, port = str(rule.get("protocol", "")).upper(), rule.get("port", 0)
    if rule["direction"] not in ("ingress", "egress") or protocol not in PROTOCOLS:
        raise ValueError(f"{DENY}: unknown direction or protocol: {rule!r}")
    with_ports = protocol in ("TCP", "UDP")
    if not isinstance(port, int) or not 0 <= port <= 65535 or (port and not with_ports):
        raise ValueError(f"{DENY}: a port is 1 to 65535, of TCP or UDP: {rule!r}")
    try:
        network = ipaddress.IPv4Network(str(rule["cidr"]), strict=False)
    except ValueError as error:
        raise ValueError(f"{DENY}: {error}") from None
    return Denied(rule["direction"] == "egress", str(network), protocol, port)


def faults(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """The faults of a node that the lab's own parts make: names, separated by commas.

    Raises
    ------
    ValueError
        One of them is none.
    """
    found = [name.strip() for name in annotations.get(FAULT, "").split(",") if name.strip()]
    for name in found:
        if name not in FAULTS:
            raise ValueError(f"{FAULT} is {name!r}, and not one of: {', '.join(FAULTS)}")
    return tuple(found)


def owned(fault: str, node: str) -> str:
    """Name of the Service or pod that a fault of a node has for itself."""
    return f"fault-{fault}-{node}"


def restart_s(annotations: Mapping[str, str]) -> float:
    """Seconds that a node's Felix waits before it leaves for a change: 2, as Felix, or those asked.

    Raises
    ------
    ValueError
        ``lab.ebpfperf/restart-s`` holds no number of 0 to 60.
    """
    text = annotations.get(RESTART)
    if not text:
        return FELIX_RESTART_S
    try:
        asked = float(text)
    except ValueError:
        asked = -1.0
    if not 0 <= asked <= _LONGEST_RESTART_S:
        raise ValueError(f"{RESTART} is {text!r}, and no number of seconds from 0 to 60")
    return asked


def problem(kind: str, annotations: Mapping[str, str]) -> str | None:
    """What is wrong with what an object of that plural asks of the lab; None where nothing is."""
    reads: dict[str, tuple[Callable[[Mapping[str, str]], object], ...]] = {
        "pods": (deny_list,),
        "nodes": (faults, restart_s),
    }
    try:
        for read in reads.get(kind, ()):
            read(annotations)
    except ValueError as error:
        return str(error)
    return None
