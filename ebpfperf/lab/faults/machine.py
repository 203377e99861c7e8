"""Faults of a node as a machine: its NIC, its mounts, what its kernel is set to."""

from __future__ import annotations

from collections.abc import Mapping

from ebpfperf.lab.faults import acting
from ebpfperf.lab.faults.declaration import Fault, Record
from ebpfperf.lab.faults.place import Place

_PATTERN = "bpfDataIfacePattern"
_OTHER_NICS = "^mgmt[0-9]+$"
_BPFFS, _ASIDE = "/sys/fs/bpf", "/run/.fault-bpffs"
_HARDEN, _LAID_OVER = "/proc/sys/net/core/bpf_jit_harden", "/run/.fault-bpf-jit-harden"
# Feature as ethtool sets it → as ethtool prints it.
_OFFLOADS: Mapping[str, str] = {
    "gro": "generic-receive-offload",
    "gso": "generic-segmentation-offload",
    "tso": "tcp-segmentation-offload",
}


def _pattern(place: Place) -> Record:
    return {"fields": {_PATTERN: place.felix_spec().get(_PATTERN)}}


def _uncover(place: Place, _: Record) -> None:
    acting.tell(place, {_PATTERN: _OTHER_NICS})


def _cover(place: Place, record: Record) -> None:
    acting.tell(place, record["fields"])


def _nothing(_: Place) -> Record:
    return {}


def _mounted(place: Place, path: str) -> bool:
    said = place.run(["findmnt", "-n", "-o", "FSTYPE", "--mountpoint", path], check=False)
    return said.strip() == "bpf"


def _unmount_bpffs(place: Place, _: Record) -> None:
    if _mounted(place, _BPFFS):
        place.run(["mkdir", "-p", _ASIDE])
        place.run(["mount", "-n", "--move", _BPFFS, _ASIDE])


def _mount_bpffs(place: Place, _: Record) -> None:
    if not _mounted(place, _ASIDE):
        return
    # What was mounted there meanwhile would hide the pins that come back.
    while _mounted(place, _BPFFS):
        place.run(["umount", "-n", _BPFFS])
    place.run(["mount", "-n", "--move", _ASIDE, _BPFFS])
    place.run(["rmdir", _ASIDE])


def _covered(place: Place) -> bool:
    return _LAID_OVER.removeprefix("/run") in place.run(["cat", "/proc/self/mountinfo"])


def _harden(place: Place, _: Record) -> None:
    if not _covered(place):
        place.run(["tee", _LAID_OVER], input="2\n")
        place.run(["mount", "-n", "--bind", "-o", "ro", _LAID_OVER, _HARDEN])


def _soften(place: Place, _: Record) -> None:
    while _covered(place):
        place.run(["umount", "-n", _HARDEN])
    place.run(["rm", "-f", _LAID_OVER])


def _offloads(place: Place) -> Record:
    said = place.node.run(["ethtool", "-k", place.node.nic])
    states = dict(line.strip().split(": ", 1) for line in said.splitlines()[1:] if ": " in line)
    return {feature: states[printed].split()[0] for feature, printed in _OFFLOADS.items()}


def _switch_off(place: Place, record: Record) -> None:
    _set_offloads(place, dict.fromkeys(record, "off"))


def _set_offloads(place: Place, states: Record) -> None:
    words = [word for feature in states for word in (feature, states[feature])]
    # It ends with 1 where nothing had to be changed or something cannot be.
    place.node.run(["ethtool", "-K", place.node.nic, *words], check=False)
    place.wait(f"{' '.join(words)} of {place.node.nic}", lambda: _offloads(place) == states)


FAULTS: tuple[Fault, ...] = (
    Fault(
        "nic-not-covered",
        "Node ports and traffic between nodes fail; on one node all is well.",
        ("A8",),
        f"{_PATTERN} matches no NIC of the nodes: no program is attached to one.",
        _pattern,
        _uncover,
        _cover,
        of_node=False,
    ),
    Fault(
        "bpffs-missing",
        "Pods lose packets for seconds whenever calico-node restarts.",
        ("A4",),
        f"The node's mount of {_BPFFS} is moved away and later back; what is pinned lives on.",
        _nothing,
        _unmount_bpffs,
        _mount_bpffs,
    ),
    Fault(
        "jit-hardened",
        "Every packet costs more in programs than it should.",
        ("C7",),
        "The node shows 2 for net.core.bpf_jit_harden, by a file that is laid over it; the "
        "kernel's own value, which is the machine's, is not changed, and nothing costs more.",
        _nothing,
        _harden,
        _soften,
    ),
    Fault(
        "offload-off",
        "Throughput is low and processors are busy: each packet is handled singly.",
        ("E8",),
        "GRO, GSO and TSO of the NIC are switched off by ethtool.",
        _offloads,
        _switch_off,
        _set_offloads,
    ),
)
