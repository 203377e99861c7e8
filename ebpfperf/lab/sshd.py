"""SSH into the nodes: a listener on loopback that starts a real ``sshd -i`` inside the node."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import threading
from pathlib import Path

from ebpfperf.errors import LabError
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
StrictModes no
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


def write_client_files(state_dir: Path, nodes: list[LabNode]) -> None:
    """``ssh_config`` and ``known_hosts``, so that ``ssh -F ssh_config node-1`` works strictly."""
    hosts, config = [], []
    for node in nodes:
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
        self._children: list[subprocess.Popen[bytes]] = []
        self._thread = threading.Thread(target=self._serve, name=f"ssh-{node.name}", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and end the sessions."""
        # shutdown, not close alone: a blocked accept() would not notice.
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        self._thread.join(2.0)
        for child in self._children:
            child.kill()
            child.wait()

    def _serve(self) -> None:
        argv = self._node.enter(
            ["/usr/sbin/sshd", "-i", "-e", "-f", str(self._node.dir / "sshd_config")]
        )
        with open(self._node.dir / "sshd.log", "ab") as log:
            while True:
                try:
                    connection, _ = self._listener.accept()
                except OSError:
                    return
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._children = [child for child in self._children if child.poll() is None]
                try:
                    child = subprocess.Popen(
                        argv,
                        stdin=connection.fileno(),
                        stdout=connection.fileno(),
                        stderr=log,
                        env=marked_environment(self._lab),
                        start_new_session=True,
                    )
                    self._children.append(child)
                except OSError as error:
                    _log.warning("sshd for %s: %s", self._node.name, error)
                finally:
                    connection.close()


def available() -> bool:
    """Whether this machine has a real sshd."""
    return os.access("/usr/sbin/sshd", os.X_OK)
