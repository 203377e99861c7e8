"""SSH into the nodes: a listener on loopback that starts a real ``sshd -i`` inside the node."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import threading
from pathlib import Path
from typing import BinaryIO

from ebpfperf.errors import LabError
from ebpfperf.lab import cgroups, processes
from ebpfperf.lab.files import write_private
from ebpfperf.lab.nodes import LabNode, marked_environment

PORT = 2222
_LAST_ADDRESS = 250
_log = logging.getLogger(__name__)

# SetEnv SHLVL: bash would take a session for a login from rsh and read ~/.bashrc, 0.1 s a command.
_CONFIG = """\
HostKey {dir}/host_key
AuthorizedKeysFile {dir}/authorized_keys
PidFile none
UsePAM no
UseDNS no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
PubkeyAuthentication yes
AllowUsers root
LoginGraceTime 120
X11Forwarding no
PrintMotd no
PrintLastLog no
MaxSessions 200
MaxStartups 200
SetEnv SHLVL=2
Subsystem sftp internal-sftp
"""


def reserve(count: int, *, first: int = 1) -> list[socket.socket]:
    """Listening sockets on ``count`` free addresses 127.0.10.N, port 2222, N from ``first`` up.

    Raises
    ------
    LabError
        Too few addresses are free.
    """
    found: list[socket.socket] = []
    for number in range(first, _LAST_ADDRESS + 1):
        if len(found) == count:
            return found
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((f"127.0.10.{number}", PORT))
            sock.listen(64)
        except OSError:
            sock.close()
            continue
        found.append(sock)
    if len(found) == count:
        return found
    for sock in found:
        sock.close()
    raise LabError(
        f"Port {PORT} is taken on all of 127.0.10.{first} to 127.0.10.{_LAST_ADDRESS}.",
        "Find who listens there: ss -ltnp 'sport = :2222'. A lab with --name may be running twice.",
    )


def make_keys(state_dir: Path, node_dirs: list[Path]) -> None:
    """A user key, and for each node a host key and the list of keys it lets in."""
    _keygen(state_dir / "id_ed25519", "ebpfperf-lab")
    public = (state_dir / "id_ed25519.pub").read_bytes()
    for directory in node_dirs:
        _keygen(directory / "host_key", "lab host key")
        write_private(directory / "authorized_keys", public)
        write_private(directory / "sshd_config", _CONFIG.format(dir=directory).encode())


def write_client_files(state_dir: Path, machines: list[LabNode]) -> None:
    """``ssh_config`` and ``known_hosts``, so that ``ssh -F ssh_config node-1`` works strictly."""
    hosts, config = [], []
    for node in machines:
        kind, key, *_ = (node.dir / "host_key.pub").read_text().split()
        hosts.append(f"[{node.ssh_address}]:{node.ssh_port} {kind} {key}\n")
        config.append(
            f"Host {node.name}\n"
            f"  HostName {node.ssh_address}\n"
            f"  Port {node.ssh_port}\n"
            "  User root\n"
            f"  IdentityFile {state_dir}/id_ed25519\n"
            "  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {state_dir}/known_hosts\n"
            "  GlobalKnownHostsFile /dev/null\n"
            "  StrictHostKeyChecking yes\n"
        )
    write_private(state_dir / "known_hosts", "".join(hosts).encode())
    write_private(state_dir / "ssh_config", "".join(config).encode())


def _keygen(path: Path, comment: str) -> None:
    for old in (path, path.with_suffix(".pub")):
        old.unlink(missing_ok=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
    )


class SshDoor:
    """Answers one node's address: every connection gets an ``sshd -i`` inside the node."""

    def __init__(self, lab: str, node: LabNode, listener: socket.socket) -> None:
        self._lab = lab
        self._node = node
        self._listener = listener
        # In the cgroup of a real node's sshd: what users start over SSH is found and ended by it.
        self._cgroup = node.cgroup / "system.slice" / "ssh.service"
        self._children: list[subprocess.Popen[bytes]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=f"ssh-{node.name}", daemon=True)

    def start(self) -> None:
        """Begin to answer; LabError when the node's cgroup cannot be made."""
        cgroups.make(self._cgroup)
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and end the sessions, with what they run."""
        self._stopped.set()
        # shutdown, not close alone: a blocked accept() would not notice.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(2.0)
        processes.end(cgroups.members(self._cgroup))
        for child in self._children:
            child.kill()
            child.wait()

    def _serve(self) -> None:
        sshd = ["/usr/sbin/sshd", "-i", "-e", "-f", str(self._node.dir / "sshd_config")]
        argv = cgroups.joining(self._cgroup, self._node.enter(sshd))
        with open(self._node.dir / "sshd.log", "ab") as log:
            while not self._stopped.is_set():
                try:
                    connection, _ = self._listener.accept()
                    with connection:
                        self._answer(connection, argv, log)
                except OSError as error:
                    if not self._stopped.wait(0.2):
                        _log.warning("ssh to %s: %s", self._node.name, error)

    def _answer(self, connection: socket.socket, argv: list[str], log: BinaryIO) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._children = [child for child in self._children if child.poll() is None]
        self._children.append(
            subprocess.Popen(
                argv,
                stdin=connection.fileno(),
                stdout=connection.fileno(),
                stderr=log,
                env=marked_environment(self._lab),
                start_new_session=True,
            )
        )
