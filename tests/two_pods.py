"""Two network namespaces joined by a veth, on a node that a real sshd serves: a flow's two ends.

Not a cluster: what loads and probes need of one, and no more. Everything is in namespaces of its
own and on loopback, and gone afterwards.
"""

from __future__ import annotations

import contextlib
import getpass
import itertools
import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ebpfperf.model import Endpoint, Workload, WorkloadKind
from ebpfperf.remote import SSHNode

SSHD_CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {dir}/host_key
AuthorizedKeysFile {dir}/user_key.pub
PidFile none
UsePAM no
UseDNS no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv SHLVL=2 TWO_PODS={dir}
"""

_MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
_numbers = itertools.count(os.getpid() % 200)


@dataclass(frozen=True)
class TwoPods:
    """Two endpoints that reach each other, and the connections to their nodes."""

    client: Endpoint
    server: Endpoint
    nodes: dict[str, SSHNode]
    directory: Path

    def owns(self, pid: int) -> bool:
        """Whether a process runs over these connections: sshd gave it the directory's name."""
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False
        return f"TWO_PODS={self.directory}".encode() in environ

    def holders(self) -> tuple[int, int]:
        assert self.client.netns_pid is not None
        assert self.server.netns_pid is not None
        return self.client.netns_pid, self.server.netns_pid


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, timeout=20, capture_output=True)


@contextlib.contextmanager
def _holder() -> Iterator[int]:
    """A process that keeps a new network namespace; ready when the namespace is there."""
    with subprocess.Popen(
        ["unshare", "-n", "sh", "-c", "ip link set lo up; echo up; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 20)
        assert ready
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


@contextlib.contextmanager
def _sshd(directory: Path) -> Iterator[Path]:
    """An ssh_config whose node-1 and node-2 are a real sshd on loopback."""
    for name in ("host_key", "user_key"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(directory / name))
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    config = directory / "sshd_config"
    config.write_text(SSHD_CONFIG.format(port=port, dir=directory))
    Path("/run/sshd").mkdir(exist_ok=True)
    sshd = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/bin")
    assert sshd is not None
    public = (directory / "host_key.pub").read_text().strip()
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}\n")
    client = directory / "ssh_config"
    client.write_text(
        f"Host node-1 node-2\n HostName 127.0.0.1\n Port {port}\n User {getpass.getuser()}\n"
        f" IdentitiesOnly yes\n IdentityFile {directory}/user_key\n"
        f" UserKnownHostsFile {directory}/known_hosts\n GlobalKnownHostsFile none\n"
    )
    with (directory / "sshd.log").open("wb") as log:
        process = subprocess.Popen([sshd, "-D", "-e", "-f", str(config)], stderr=log)
    try:
        deadline = time.monotonic() + 20
        while b"Server listening" not in (directory / "sshd.log").read_bytes():
            assert time.monotonic() < deadline, (directory / "sshd.log").read_text()
            time.sleep(0.02)
        yield client
    finally:
        process.terminate()
        process.wait(10)


def _endpoint(name: str, node: str, address: str, pid: int) -> Endpoint:
    workload = Workload(name, node, WorkloadKind.POD, "ebpfperf")
    return Endpoint(workload, address, pid, "eth0", "eth0", 1500)


@contextlib.contextmanager
def two_pods(directory: Path) -> Iterator[TwoPods]:
    """Two ends in 198.18.128.0/17, each block of tests in a subnet of its own."""
    third = 128 + next(_numbers) % 100
    addresses = (f"198.18.{third}.1", f"198.18.{third}.2")
    with contextlib.ExitStack() as stack:
        pids = [stack.enter_context(_holder()) for _ in addresses]
        # Made inside the first namespace, so that the host's never sees a device.
        first = ["nsenter", f"--net=/proc/{pids[0]}/ns/net", "--"]
        own = ["link", "add", "eth0", "address", _MACS[0]]
        peer = ["peer", "name", "eth0", "address", _MACS[1], "netns", str(pids[1])]
        _run(*first, "ip", *own, "type", "veth", *peer)
        for pid, address, other, mac in zip(
            pids, addresses, reversed(addresses), reversed(_MACS), strict=True
        ):
            # Nothing but what a test sends: no IPv6, and nobody to be asked for.
            inside = ["nsenter", f"--net=/proc/{pid}/ns/net", "--"]
            _run(*inside, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
            _run(*inside, "ip", "address", "add", f"{address}/24", "dev", "eth0")
            _run(*inside, "ip", "link", "set", "eth0", "up")
            _run(*inside, "ip", "neighbour", "replace", other, "lladdr", mac, "dev", "eth0")
        config = stack.enter_context(_sshd(directory))
        nodes = {name: SSHNode.connect(name, ssh_config=config) for name in ("node-1", "node-2")}
        for node in nodes.values():
            stack.callback(node.close)
        yield TwoPods(
            _endpoint("ebpfperf-client", "node-1", addresses[0], pids[0]),
            _endpoint("ebpfperf-server", "node-2", addresses[1], pids[1]),
            nodes,
            directory,
        )
