"""Faults of cluster, services and maps: seen where they are, and undone without a trace."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.calico_bytes import bpftool, connections, dump
from lab.namespaces import socket_in

from ebpfperf.errors import LabError
from ebpfperf.lab import ebpf_mode, lifecycle, processes
from ebpfperf.lab.faults import pods, standing
from ebpfperf.lab.faults.acting import Asked
from ebpfperf.lab.faults.place import Place
from ebpfperf.lab.own_annotations import FORWARDING, PLAIN, owned
from ebpfperf.lab.state import Shape

pytestmark = pytest.mark.lab
RELEASE = "v3.26"
RESOURCES = ("nodes", "pods", "configmaps", "services", "endpointslices", "endpoints",
             "daemonsets", "felixconfigurations", "ippools")  # fmt: skip
# What an object that was made anew, or written and written back, has another of.
VERSIONS = ("uid", "resourceVersion", "generation", "creationTimestamp")


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """The second node of a lab in eBPF mode whose Felixes restart at once."""
    name = f"t-maps-{os.getpid()}"
    try:
        lab, _ = lifecycle.up(Shape(name, release=RELEASE))
        found = Place(lab, lab.nodes[1])
        with pytest.raises(LabError, match="does not forward by eBPF"):
            standing.put(lab, standing.named("stale-conntrack"))
        ebpf_mode.switch_on(lab, restart_s=0)
        yield found
    finally:
        lifecycle.down(name)


def _objects(place: Place) -> dict[tuple[str, str], Any]:
    found = {}
    for resource in RESOURCES:
        for each in Asked(place).list(resource):
            meta = {k: v for k, v in each["metadata"].items() if k not in VERSIONS}
            told = meta.get("annotations") or {}
            # How the lab says that it forwards follows a moment later.
            meta["annotations"] = {k: v for k, v in told.items() if k != FORWARDING}
            rest = {k: v for k, v in each.items() if k not in ("metadata", "status")}
            found[resource, f"{meta.get('namespace')}/{meta['name']}"] = (meta, rest)
    return found


def _other(place: Place) -> Place:
    return place.everywhere()[0]


def _proxies(place: Place) -> list[int]:
    """Processes called kube-proxy in the node's network, as the doctor finds them.

    A shell has its own name's children for a moment, until they execute a program; they lead no
    session.
    """
    space = processes.netns(place.node.holder_pid)
    assert space is not None
    found = []
    for pid in processes.inside({space}):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() == "kube-proxy\n" and os.getsid(pid) == pid:
                found.append(pid)
    return found


def _rules(place: Place) -> int:
    return place.run(["iptables-save", "-t", "nat"]).count("KUBE-S")


def _fought_over(place: Place) -> bool:
    """The rules come back after they were gone, and go again."""
    place.wait("rules", lambda: _rules(place) > 10)
    place.wait("no rules", lambda: _rules(place) == 0)
    _other(place).wait("no rules", lambda: _rules(_other(place)) == 0)
    daemonset = Asked(place).get("daemonsets", "kube-proxy", "kube-system")
    assert daemonset["status"]["desiredNumberScheduled"] == 1
    return len(_proxies(place)) == 1


def _left_alone(place: Place) -> bool:
    # Longer than where Felix removes them.
    time.sleep(1.2)
    return _rules(place) > 10 and len(_proxies(place)) == 1


def _nobody_serves(place: Place) -> bool:
    meta = (place.get(f"/api/v1/nodes/{place.node.name}") or {})["metadata"]
    said = place.log().count("not supported by the kernel.  Disabling BPF mode.")
    none = _rules(place) == 0 and place.program(place.node.nic) == 0 and not _proxies(place)
    return none and meta["annotations"][FORWARDING] == PLAIN and said > 0


def _reaches(place: Place, address: str) -> bool:
    """Whether a TCP port where nobody listens refuses, rather than that nothing comes back."""
    with socket_in(place.node.holder_pid, socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(0.3)
        try:
            client.connect((address, 9))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return True


def _without_program(place: Place) -> bool:
    name = owned("dirty-endpoint", place.node.name)
    pod = pods.make(place, name)
    text = bpftool(place.node, "net", "show")
    programs = [each["devname"] for each in text[0]["tc"]]
    assert place.node.nic in programs
    return pod.device not in programs and not _reaches(place, pod.address)


def _backend_missing(place: Place) -> bool:
    behind = [len(dump(each.node, "cali_v4_nat_be")) for each in place.everywhere()]
    fronts = [len(dump(each.node, "cali_v4_nat_fe3")) for each in place.everywhere()]
    return behind == [2, 1] and fronts == [1, 1]


def _stale(place: Place) -> bool:
    found = connections(place.node, RELEASE).values()
    through = [each for each in found if each["type"] == 2]
    return len(through) == 8 and connections(_other(place).node, RELEASE) == {}


def _nearly_full(place: Place) -> bool:
    shown = bpftool(place.node, "map", "show", "pinned", "/sys/fs/bpf/tc/globals/cali_v4_ct3")
    return (len(dump(place.node, "cali_v4_ct3")), shown["max_entries"]) == (9_400, 10_000)


def _overridden(place: Place) -> bool:
    pods = [each for each in Asked(place).list("pods") if each["spec"].get("nodeName")]
    told = {each["spec"]["nodeName"]: each["spec"]["containers"][0].get("env") for each in pods}
    assert place.felix_spec()["bpfExternalServiceMode"] == "Tunnel"
    value = [{"name": "FELIX_BPFEXTERNALSERVICEMODE", "value": "DSR"}]
    return told == {place.node.name: value, _other(place).node.name: None}


SEEN: dict[str, Callable[[Place], bool]] = {
    "kube-proxy-fighting": _fought_over,
    "cleanup-off": _left_alone,
    "neither-active": _nobody_serves,
    "dirty-endpoint": _without_program,
    "nat-backend-missing": _backend_missing,
    "stale-conntrack": _stale,
    "conntrack-nearly-full": _nearly_full,
    "env-override": _overridden,
}


@pytest.mark.parametrize("name", SEEN)
def test_a_fault_is_seen_and_undone(place: Place, name: str) -> None:
    fault, objects = standing.named(name), _objects(place)
    standing.put(place.lab, fault, place.node.name if fault.of_node else None)
    assert SEEN[name](place)
    (healed,) = standing.heal(place.lab)
    assert healed.fault is fault
    assert _objects(place) == objects
    assert all(_rules(each) == 0 for each in place.everywhere())
    assert not _proxies(place)
    assert connections(place.node, RELEASE) == {}


def test_taking_back_what_was_not_made_changes_nothing(place: Place) -> None:
    objects = _objects(place)
    for name in ("kube-proxy-fighting", "stale-conntrack", "conntrack-nearly-full"):
        fault = standing.named(name)
        fault.take(place, fault.before(place))
    assert _objects(place) == objects
