"""A node of the lab: a holder process in its own network, mount, UTS and cgroup namespace.

Nothing of it is on the host but its state directory: mounts are private to the namespace, devices
vanish with it.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ebpfperf.errors import LabError
from ebpfperf.lab.state import MARKER

# Runs inside the new namespaces. $1 hostname, $2 the node's state directory.
_SETUP = """\
set -e
hostname "$1"
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null || true
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null || true
mount --bind "$2" /mnt
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/sshd /run/calico "$2"
mount --move /mnt "$2"
mount -t tmpfs -o mode=1777 tmpfs /tmp
case $(grep '^root:' /etc/shadow) in
  root:!*) # A locked root cannot log in, key or not: this node has its own copy, unlocked.
    sed 's/^root:[^:]*:/root:*:/' /etc/shadow >/run/shadow
    chmod 600 /run/shadow
    mount --bind /run/shadow /etc/shadow ;;
esac
for name in all default; do
  echo 0 >/proc/sys/net/ipv4/conf/$name/rp_filter
  echo 0 >/proc/sys/net/ipv4/conf/$name/send_redirects
done
echo 1 >/proc/sys/net/ipv4/ip_forward
ip link set lo up
echo ready
exec sleep infinity >/dev/null 2>&1
"""


@dataclass(frozen=True, slots=True)
class LabNode:
    """A running node.

    Attributes
    ----------
    index
        Counts from 1.
    nic
        Name of its only NIC. The nodes share a kernel, so names are distinct: a trace of the
        machine can tell them apart.
    cgroup
        Root of its cgroup2 subtree, as the host sees it.
    """

    name: str
    index: int
    holder_pid: int
    nic: str
    underlay_ip: str
    ssh_address: str
    ssh_port: int
    cgroup: Path
    dir: Path

    def enter(self, argv: list[str] | tuple[str, ...]) -> list[str]:
        """``argv`` as the host must run it to execute on the node."""
        return ["nsenter", "-t", str(self.holder_pid), "-n", "-m", "-u", "-C", "--", *argv]

    def in_network(self, argv: list[str] | tuple[str, ...]) -> list[str]:
        """``argv`` run in the node's network but with the host's files."""
        return ["nsenter", f"--net=/proc/{self.holder_pid}/ns/net", "--", *argv]

    def run(self, argv: list[str], *, check: bool = True, input: str | None = None) -> str:
        """What the command prints, run in the node's network; LabError when it fails."""
        return run(self.in_network(argv), check=check, input=input)


def run(argv: list[str], *, check: bool = True, input: str | None = None) -> str:
    """What a command of the lab prints; LabError when it fails and ``check``."""
    done = subprocess.run(
        argv, capture_output=True, text=True, input=input, timeout=30, check=False
    )
    if check and done.returncode != 0:
        raise LabError(
            f"{' '.join(argv)} failed: {done.stderr.strip() or f'status {done.returncode}'}.",
            "Take the lab down and up again; if it stays, the kernel lacks something.",
        )
    return done.stdout


def marked_environment(lab: str) -> dict[str, str]:
    """The environment of the lab's processes: theirs to be found by."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {MARKER: lab, "PATH": path, "HOME": "/root", "LANG": "C.UTF-8"}


def cgroup_root() -> Path:
    """Where the host mounts cgroup v2.

    Raises
    ------
    LabError
        Nowhere.
    """
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise LabError(
        "No cgroup v2 hierarchy is mounted.",
        "Mount one: mount -t cgroup2 none /sys/fs/cgroup (or another directory).",
    )


def start_node(
    lab: str,
    index: int,
    *,
    directory: Path,
    ssh: tuple[str, int],
    underlay_ip: str,
) -> LabNode:
    """A node with an empty network.

    Raises
    ------
    LabError
        The kernel refuses a namespace or a mount.
    """
    name = f"node-{index}"
    directory.mkdir(parents=True, exist_ok=True)
    cgroup = cgroup_root() / f"ebpfperf-lab-{lab}" / name
    cgroup.mkdir(parents=True, exist_ok=True)
    holder = _start_holder(
        lab,
        ["--net", "--mount", "--uts", "--cgroup", "--propagation", "private"],
        ["sh", "-c", _SETUP, "setup", name, str(directory)],
        cgroup=cgroup,
    )
    return LabNode(
        name=name,
        index=index,
        holder_pid=holder,
        nic=f"ens{10 + index}",
        underlay_ip=underlay_ip,
        ssh_address=ssh[0],
        ssh_port=ssh[1],
        cgroup=cgroup,
        dir=directory,
    )


def start_switch(lab: str) -> int:
    """Pid of the process that holds the network between the nodes."""
    cgroup = cgroup_root() / f"ebpfperf-lab-{lab}" / "switch"
    cgroup.mkdir(parents=True, exist_ok=True)
    script = "ip link set lo up && echo ready && exec sleep infinity >/dev/null 2>&1"
    return _start_holder(lab, ["--net"], ["sh", "-c", script], cgroup=cgroup)


def _start_holder(lab: str, namespaces: list[str], argv: list[str], *, cgroup: Path) -> int:
    join = 'echo $$ >"$0/cgroup.procs" && exec unshare "$@"'
    process = subprocess.Popen(
        ["sh", "-c", join, str(cgroup), *namespaces, "--", *argv],
        env=marked_environment(lab),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    if process.stdout.readline() != "ready\n":
        process.kill()
        message = process.communicate()[1].strip()
        raise LabError(
            f"A node's namespaces cannot be made: {message or 'unshare failed'}.",
            "The lab needs root and a kernel with net, mount, UTS and cgroup namespaces.",
        )
    process.stdout.close()
    process.stderr.close()
    return process.pid


def link_nodes(switch_pid: int, nodes: list[LabNode], *, mtu_bytes: int) -> None:
    """Connect the nodes: a bridge in the switch's namespace, a veth to each NIC.

    Neighbours are permanent, so that no ARP falls into a measurement.
    """
    net = f"/proc/{switch_pid}/ns/net"
    batch = [f"link add br0 mtu {mtu_bytes} type bridge", "link set br0 up"]
    for node in nodes:
        batch += [
            f"link add port{node.index} type veth peer name {node.nic} netns {node.holder_pid}",
            f"link set port{node.index} mtu {mtu_bytes} master br0 up",
        ]
    run(["nsenter", f"--net={net}", "--", "ip", "-batch", "-"], input="\n".join(batch))
    for node in nodes:
        batch = [
            f"link set {node.nic} address {mac(node)} mtu {mtu_bytes} up",
            f"addr add {node.underlay_ip}/24 dev {node.nic}",
        ]
        batch += [
            f"neigh replace {other.underlay_ip} lladdr {mac(other)} dev {node.nic} nud permanent"
            for other in nodes
            if other is not node
        ]
        node.run(["ip", "-batch", "-"], input="\n".join(batch))


def mac(node: LabNode) -> str:
    """The MAC address of a node's NIC: locally administered, from its underlay address."""
    octets = [int(part) for part in node.underlay_ip.split(".")]
    return "02:00:" + ":".join(f"{octet:02x}" for octet in octets)


def remove_cgroups(lab: str) -> None:
    """Remove the lab's cgroup subtree; its processes must be gone."""
    root = cgroup_root() / f"ebpfperf-lab-{lab}"
    for path, _, _ in os.walk(root, topdown=False):
        Path(path).rmdir()
