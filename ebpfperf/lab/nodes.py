"""A node of the lab: a holder process in its own network, mount, UTS and cgroup namespace.

Nothing of it is on the host but its state directory: mounts are private to the namespace, devices
vanish with it, and what is written below ``/etc``, ``/root``, ``/var``, ``/run`` and ``/tmp`` goes
to memory. Everything else of the file system is the host's.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ebpfperf.errors import LabError
from ebpfperf.lab import cgroups
from ebpfperf.lab.state import MARKER

# Runs inside the new namespaces. $1 hostname, $2 the node's state directory, $3 /etc/hosts.
# /mnt is borrowed for a moment, to carry the state directory over into the new /run; until that is
# there, -n keeps mount from making /run/mount on the host. An overlay takes owner and mode of its
# root from the upper directory. A locked root cannot log in, key or not: here it is unlocked, in
# the node's own copy. Only the machine's first network namespace has the JIT's sysctls: they are
# laid read-only among the node's own, so that it shows what a real node does. That is staged,
# because a path below /proc/sys/net leads into the network namespace of whoever walks it.
_SETUP = """\
set -e
hostname "$1"
mount -n --bind "$2" /mnt
mount -n -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/sshd /run/calico /run/.disk "$2"
mount --move /mnt "$2"
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null || true
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null || true
chmod 700 /run/.disk
for tree in etc root var; do
  upper=/run/.disk/$tree
  mkdir $upper $upper.work
  chmod --reference=/$tree $upper
  chown --reference=/$tree $upper
  mount -t overlay -o "lowerdir=/$tree,upperdir=$upper,workdir=$upper.work" overlay /$tree
done
mount -t tmpfs -o mode=1777 tmpfs /tmp
[ ! -d /dev/shm ] || mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mkdir -p /var/lib/calico /var/log/calico
echo "$1" >/etc/hostname
printf '%s' "$3" >/etc/hosts
sed -i 's/^root:![^:]*:/root:*:/' /etc/shadow
for name in all default; do
  echo 0 >/proc/sys/net/ipv4/conf/$name/rp_filter
  echo 0 >/proc/sys/net/ipv4/conf/$name/send_redirects
done
echo 1 >/proc/sys/net/ipv4/ip_forward
core=/proc/sys/net/core staged=/run/.core
mkdir $staged
mount -n -t tmpfs -o mode=755 tmpfs $staged
table='for file in '$core'/$0; do
  [ ! -e "$file" ] || { : >"$1/${file##*/}"; echo "$file $1/${file##*/} none $2 0 0"; }
done >/run/.table'
if sh -c "$table" '*' $staged bind && mount -n -a -T /run/.table &&
  nsenter --net=/proc/$PPID/ns/net sh -c "$table && mount -n -a -T /run/.table" \
    'bpf_jit_*' $staged bind,ro; then
  mount -n --move $staged $core
else
  umount -n -R $staged
fi 2>/dev/null
rm -rf /run/.table $staged
ip link set lo up
echo ready
exec sleep infinity >/dev/null 2>&1
"""
_COMMAND_S = 90.0


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
    underlay_ip
        Its address on the underlay, a /24.
    cgroup
        Root of its cgroup2 subtree, as the host sees it.
    dir
        Its state directory, the same path on the host and on the node.
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

    def enter(self, argv: Sequence[str]) -> list[str]:
        """``argv`` as the host must run it to execute on the node."""
        return ["nsenter", "-t", str(self.holder_pid), "-n", "-m", "-u", "-C", "--", *argv]

    def in_network(self, argv: Sequence[str]) -> list[str]:
        """``argv`` run in the node's network but with the host's files."""
        return ["nsenter", f"--net=/proc/{self.holder_pid}/ns/net", "--", *argv]

    def run(self, argv: Sequence[str], *, check: bool = True, input: str | None = None) -> str:
        """What the command prints, run in the node's network; LabError when it fails."""
        return run(self.in_network(argv), check=check, input=input)


@dataclass(frozen=True, slots=True)
class Site:
    """What a node is to be, before it runs; attributes as those of ``LabNode``."""

    name: str
    index: int
    nic: str
    underlay_ip: str
    ssh_address: str
    ssh_port: int
    dir: Path


def run(argv: Sequence[str], *, check: bool = True, input: str | None = None) -> str:
    """What a command of the lab prints; LabError when it fails and ``check``."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, input=input, timeout=_COMMAND_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise LabError(
            f"{' '.join(argv)} did not end within {_COMMAND_S:g} s.",
            "Take the lab down and up again.",
        ) from None
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


def start_node(lab: str, site: Site, *, peers: Sequence[Site]) -> LabNode:
    """A node with an empty network; it knows its ``peers`` by name.

    Raises
    ------
    LabError
        The kernel refuses a namespace or a mount.
    """
    cgroup = cgroups.make(cgroups.lab_cgroup(lab) / site.name)
    hosts = ["127.0.0.1 localhost", "::1 localhost"]
    hosts += [f"{peer.underlay_ip} {peer.name}" for peer in (site, *peers) if peer.underlay_ip]
    holder = start_holder(
        lab,
        ["--net", "--mount", "--uts", "--cgroup", "--propagation", "private"],
        ["sh", "-c", _SETUP, "setup", site.name, str(site.dir), "\n".join([*hosts, ""])],
        cgroup=cgroup,
    )
    return LabNode(
        name=site.name,
        index=site.index,
        holder_pid=holder,
        nic=site.nic,
        underlay_ip=site.underlay_ip,
        ssh_address=site.ssh_address,
        ssh_port=site.ssh_port,
        cgroup=cgroup,
        dir=site.dir,
    )


def start_holder(lab: str, namespaces: list[str], argv: list[str], *, cgroup: Path) -> int:
    """Pid of a process that keeps new namespaces in being: ``argv``, which says ``ready``.

    Raises
    ------
    LabError
        It did not; with what it said instead.
    """
    process = subprocess.Popen(
        cgroups.joining(cgroup, ["unshare", *namespaces, "--", *argv]),
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
        message = process.communicate()[1].strip().replace("\n", "; ")
        raise LabError(
            f"A node's namespaces cannot be made: {message or 'unshare failed'}.",
            "The lab needs root and a kernel with net, mount, UTS and cgroup namespaces, "
            "bpffs and overlayfs.",
        )
    process.stdout.close()
    process.stderr.close()
    return process.pid
