"""Faults of machine and underlay: seen where they are, and undone without a trace."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.namespaces import eventually, lab_in_ebpf_mode, one_processor, socket_in

from ebpfperf.errors import LabError
from ebpfperf.lab import cgroups, lifecycle, processes, state
from ebpfperf.lab.faults import dropping, machine, standing, underlay, vxlan_port
from ebpfperf.lab.faults.declaration import Fault
from ebpfperf.lab.faults.place import FELIX, Place
from ebpfperf.lab.nodes import LabNode
from ebpfperf.lab.own_annotations import FORWARDING
from ebpfperf.lab.running import Lab

pytestmark = pytest.mark.lab
FAULTS = [
    fault
    for module in (underlay, machine, dropping, vxlan_port)
    for fault in module.FAULTS
]  # fmt: skip
# A port that no fault is about, and nobody listens to.
OPEN = 4790
KERNEL_HARDENING = Path("/proc/sys/net/core/bpf_jit_harden")


@pytest.fixture(scope="module")
def own_lab() -> Iterator[Lab]:
    """A lab in eBPF mode whose Felixes restart soon; a test takes it down with faults on."""
    with lab_in_ebpf_mode(f"test-faults-{os.getpid()}") as lab:
        yield lab


@pytest.fixture
def place(own_lab: Lab) -> Place:
    """Its first node."""
    return Place(own_lab, own_lab.nodes[0])


def _objects(place: Place) -> dict[tuple[str, str], Any]:
    """What users would find changed: specs, annotations, pods; not how the lab says it forwards."""
    paths = (
        FELIX,
        FELIX.replace("felixconfigurations", "ippools"),
        "/api/v1/nodes",
        "/api/v1/pods",
    )
    found: dict[tuple[str, str], Any] = {}
    for path in paths:
        for each in (place.get(path) or {})["items"]:
            meta = each["metadata"]
            told = {k: v for k, v in (meta.get("annotations") or {}).items() if k != FORWARDING}
            found[path, meta["name"]] = (each.get("spec"), told)
    return found


def _kernel(place: Place) -> dict[str, str]:
    """What the kernel would show changed, on the node and in the switch."""
    node, inside = place.run, place.in_switch
    links = "ip -o link | sed 's/^[0-9]*: //; s/@if[0-9]*//' | sort"
    return {
        "links": node(["sh", "-c", links]),
        "mounts": re.sub(r"^\d+ \d+ ", "", node(["cat", "/proc/self/mountinfo"]), flags=re.M),
        "offloads": node(["ethtool", "-k", place.node.nic]),
        "ports": inside(["sh", "-c", links]),
        "queues": inside(["sh", "-c", "tc qdisc show"]),
        "rules": "\n".join(re.findall("^-A.*", inside(["ebtables-nft-save"]), flags=re.M)),
    }


def _arrives(place: Place, port: int, *, source: str = "") -> bool:
    """Whether a datagram from the place's node arrives at the other one."""
    if not source:
        return _passes(place.node, place.lab.nodes[1], port)
    place.node.run(["ip", "addr", "add", f"{source}/32", "dev", "lo"])
    try:
        return _passes(place.node, place.lab.nodes[1], port, source=source)
    finally:
        place.node.run(["ip", "addr", "del", f"{source}/32", "dev", "lo"])


def _arrives_back(place: Place, port: int) -> bool:
    return _passes(place.lab.nodes[1], place.node, port)


def _passes(start: LabNode, end: LabNode, port: int, *, source: str = "") -> bool:
    """Whether a datagram passes; one that always does follows it, and is waited for."""
    with contextlib.ExitStack() as stack:

        def datagrams(node: LabNode) -> socket.socket:
            made = socket_in(node.holder_pid, socket.AF_INET, socket.SOCK_DGRAM)
            return stack.enter_context(made)

        ears = {number: datagrams(end) for number in {port, OPEN}}
        for number, ear in ears.items():
            ear.bind(("", number))
        tried, after = datagrams(start), datagrams(start)
        if source:
            tried.bind((source, 0))
        with one_processor():
            tried.sendto(b"tried", (end.underlay_ip, port))
            after.sendto(b"after", (end.underlay_ip, OPEN))
        arrived = [ears[OPEN].recv(9)]
        if arrived == [b"tried"]:
            arrived.append(ears[OPEN].recv(9))
        assert arrived[-1] == b"after"
        return len(arrived) > 1 or bool(select.select([ears[port]], [], [], 0)[0])


def _vxlan_blocked(place: Place) -> bool:
    assert _arrives(place, OPEN), "only the port is blocked"
    return not _arrives(place, 4789) and not _arrives_back(place, 4789)


def _foreign_dropped(place: Place) -> bool:
    assert _arrives(place, OPEN), "the node's own address passes"
    dropped = not _arrives(place, OPEN, source="198.19.255.1")
    return dropped and place.felix_spec().get("bpfExternalServiceMode") == "DSR"


def _capped(place: Place) -> bool:
    """Both ways leave the switch by a bucket of that rate."""
    shown = json.loads(place.in_switch(["tc", "-j", "qdisc", "show"]))
    rates = {each["dev"]: each["options"]["rate"] for each in shown if each["kind"] == "tbf"}
    assert _arrives(place, OPEN), "it is capped, not cut"
    return rates == {"port1": 25_000_000, "cap1": 25_000_000}


def _mtus(place: Place) -> dict[str, int]:
    return {link["ifname"]: link["mtu"] for link in json.loads(place.run(["ip", "-j", "link"]))}


def _mismatched(place: Place) -> bool:
    mtus = _mtus(place)
    of_pods = [mtu for name, mtu in mtus.items() if name.startswith("cali")]
    return mtus["ens11"] == 1400 and of_pods == [1500]


def _uncovered(place: Place) -> bool:
    return all(each.program(each.node.nic) == 0 for each in place.everywhere())


def _no_bpffs(place: Place) -> bool:
    shown = place.run(["findmnt", "-n", "-o", "FSTYPE", "/sys/fs/bpf"], check=False)
    return shown == "" and place.program("ens11") > 0


def _hardened(place: Place) -> bool:
    shown = place.run(["cat", str(KERNEL_HARDENING)])
    other = Place(place.lab, place.lab.nodes[1]).run(["cat", str(KERNEL_HARDENING)])
    assert other == KERNEL_HARDENING.read_text() == "0\n", "the kernel's own is not touched"
    return shown == "2\n"


def _not_offloaded(place: Place) -> bool:
    shown = place.run(["ethtool", "-k", "ens11"])
    names = ("tcp-segmentation-offload", "generic-segmentation-offload", "generic-receive-offload")
    return all(f"{name}: off" in shown for name in names)


def _dropping(place: Place) -> bool:
    def drops() -> int:
        shown = json.loads(place.run(["tc", "-s", "-j", "qdisc", "show"]))
        return sum(each["drops"] for each in shown if each["kind"] == "clsact")

    before = drops()
    eventually("five drops", lambda: drops() >= before + 5)
    names = [_name(pid) for pid in processes.marked(place.lab.name)]
    return names.count("fault-sending") == 1


def _name(pid: int) -> str:
    """What ps calls a process; empty when it is gone, or still what started it."""
    try:
        leads = os.getsid(pid) == pid
        return Path(f"/proc/{pid}/comm").read_text().strip() if leads else ""
    except OSError:
        return ""


def _port_taken(place: Place) -> bool:
    flags = [
        json.loads(each.run(["ip", "-j", "link", "show", "vxlan.calico"]))[0]["flags"]
        for each in place.everywhere()
    ]
    # It is tried again and again.
    said = "Failed to set tunnel device up error=address already in use"
    eventually("a second attempt", lambda: place.log().count(said) > 1)
    return "UP" not in flags[0] and "UP" in flags[1]


SEEN: dict[str, Callable[[Place], bool]] = {
    "vxlan-blocked": _vxlan_blocked,
    "foreign-source-dropped": _foreign_dropped,
    "bandwidth-cap": _capped,
    "mtu-mismatch": _mismatched,
    "nic-not-covered": _uncovered,
    "bpffs-missing": _no_bpffs,
    "jit-hardened": _hardened,
    "offload-off": _not_offloaded,
    "program-dropping": _dropping,
    "vxlan-port-taken": _port_taken,
}


def test_a_node_shows_the_kernels_jit_and_its_own_sysctls(place: Place) -> None:
    names = place.run(["ls", "/proc/sys/net/core"]).split()
    assert {"bpf_jit_enable", "bpf_jit_harden", "somaxconn"} <= set(names)
    place.run(["sysctl", "-qw", "net.core.somaxconn=321"])
    assert place.run(["sysctl", "-n", "net.core.somaxconn"]) == "321\n"
    with pytest.raises(LabError, match="permission denied"):
        place.run(["sysctl", "-w", "net.core.bpf_jit_harden=1"])


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_seen_and_undone(place: Place, fault: Fault) -> None:
    objects, kernel = _objects(place), _kernel(place)
    fault.take(place, fault.before(place))
    assert _objects(place) == objects, "there was nothing to take back"
    made = standing.put(place.lab, fault)
    assert SEEN[fault.name](place)
    # As after a put that was killed before it could note anything.
    fault.put(place, {**made.record})
    assert SEEN[fault.name](place), "asked again while it stands"
    assert [each.fault.name for each in standing.heal(place.lab)] == [fault.name]
    assert _objects(place) == objects
    assert _kernel(place) == kernel
    assert standing.standing(place.lab) == []
    assert not [pid for pid in processes.marked(place.lab.name) if b"/fault-" in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_the_client_outside_gets_no_fault(place: Place) -> None:
    with pytest.raises(LabError, match="outside the cluster"):
        standing.put(place.lab, standing.named("offload-off"), "client-1")


def test_another_lab_that_ends_takes_no_process_of_this_one(place: Place) -> None:
    # The number of a namespace that is gone is given to the next one.
    holder = place.node.holder_pid
    space = processes.netns(holder)
    assert space is not None
    # A process that is just ending bears no name any more.
    eventually("nobody's", lambda: processes.of_lab("gone", spaces={space}) == set())
    assert holder in processes.of_lab(place.lab.name)


def test_down_takes_standing_faults_along(place: Place) -> None:
    # Without a bpf file system the lab's Felix attaches nothing more, so that comes last.
    for name in ("program-dropping", "vxlan-blocked", "bandwidth-cap", "jit-hardened",
                 "mtu-mismatch", "bpffs-missing"):  # fmt: skip
        standing.put(place.lab, standing.named(name))
    name = place.lab.name
    assert len(standing.standing(place.lab)) == 6
    assert lifecycle.down(name)
    assert not processes.marked(name)
    assert not cgroups.lab_cgroup(name).exists()
    assert not state.directory(name).exists()
    assert KERNEL_HARDENING.read_text() == "0\n"
    assert "fault" not in Path("/proc/self/mountinfo").read_text()
