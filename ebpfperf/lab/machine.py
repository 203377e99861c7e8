"""Whether this machine can carry a lab, in one sentence when it cannot."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from ebpfperf.calico.releases import FULL_VERSIONS
from ebpfperf.errors import LabError
from ebpfperf.lab import state
from ebpfperf.lab.cgroups import cgroup_root
from ebpfperf.lab.state import Shape

_ELSEWHERE = "What works here: ebpfperf report --all --campaign examples/demo"
_NEEDED = (
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("bridge", "iproute2"),
    ("bpftool", "bpftool"),
    ("iptables-restore", "iptables"),
    ("sysctl", "procps"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
)
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NEEDED_FILESYSTEMS = {"bpf": "BPF", "cgroup2": "cgroup v2"}
_NEEDED_NAMESPACES = ("net", "mnt", "uts", "cgroup")


def check(shape: Shape) -> None:
    """Nothing, or the LabError that says why this machine cannot run that lab."""
    check_shape(shape)
    check_root()
    for binary, package in _NEEDED:
        if shutil.which(binary, path=_SYSTEM_PATH) is None:
            raise LabError(f"{binary} is missing.", f"Install it: apt-get install {package}")
    for namespace in _NEEDED_NAMESPACES:
        if not Path(f"/proc/self/ns/{namespace}").exists():
            raise LabError(f"This kernel has no {namespace} namespaces.", _ELSEWHERE)
    known = Path("/proc/filesystems").read_text().split()
    for filesystem, feature in _NEEDED_FILESYSTEMS.items():
        if filesystem not in known:
            raise LabError(f"This kernel has no {feature}.", _ELSEWHERE)
    cgroup_root()


def check_shape(shape: Shape) -> None:
    """Nothing, or the LabError that says what no lab can be."""
    state.check_name(shape.name)
    if shape.release not in FULL_VERSIONS:
        raise LabError(
            f"The lab cannot present Calico {shape.release}.",
            f"Choose one of {', '.join(FULL_VERSIONS)}.",
        )
    if not 2 <= shape.nodes <= 20:
        raise LabError(f"A lab has 2 to 20 nodes, not {shape.nodes}.", "Give --nodes 2 or more.")
    if not 1280 <= shape.mtu_bytes <= 9216:
        raise LabError(
            f"An underlay MTU of {shape.mtu_bytes} bytes is not useful.", "Choose 1280 to 9216."
        )
    if not 1 <= shape.subnets <= shape.nodes:
        raise LabError(
            f"{shape.nodes} nodes cannot be in {shape.subnets} subnets.",
            "Give --subnets 1, or at most one a node.",
        )


def check_root() -> None:
    """Nothing, or the LabError that says whom or what the lab needs."""
    if platform.system() != "Linux":
        raise LabError("The lab needs Linux: it is made of network namespaces.", _ELSEWHERE)
    if os.geteuid() != 0:
        raise LabError(
            "The lab needs root: it makes network namespaces.",
            f"Run it with sudo. {_ELSEWHERE}",
        )
