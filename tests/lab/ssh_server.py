"""A real sshd on loopback, with keys and configuration of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

SSHD = "/usr/sbin/sshd"
# For what comes to pass soon on a machine that has time.
LIMIT_S = 60.0
# SetEnv SHLVL: bash would take a session for a login from rsh and read ~/.bashrc.
CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {dir}/host_key
AuthorizedKeysFile {dir}/authorized_keys
PidFile none
UsePAM no
UseDNS no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv SHLVL=2 TMPDIR={dir}/tmp {env}
"""


def keygen(path: Path) -> str:
    """The public half of a new key, ``type base64``."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)],
        check=True,
        timeout=30,
    )
    return path.with_suffix(".pub").read_text().strip()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class Server:
    """A running sshd, and the files a client needs for it."""

    dir: Path
    port: int
    host_key: str
    process: subprocess.Popen[bytes]
    hosts: dict[str, str] = field(default_factory=dict)

    def config(self, name: str = "node-1", *, more: str = "", hosts: str | None = None) -> Path:
        """An ssh_config in which ``name`` is this server."""
        known = self.dir / f"known_hosts-{name}"
        entry = f"[127.0.0.1]:{self.port} {self.host_key}\n"
        known.write_text(entry if hosts is None else hosts)
        path = self.dir / f"config-{name}"
        path.write_text(
            f"Host {name}\n HostName 127.0.0.1\n Port {self.port}\n"
            f" User {getpass.getuser()}\n IdentitiesOnly yes\n"
            f" IdentityFile {self.dir}/user_key\n UserKnownHostsFile {known}\n"
            f" GlobalKnownHostsFile none\n{more}"
        )
        return path

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def serve(directory: Path, *, env: str = "", prefix: tuple[str, ...] = ()) -> Server:
    directory.mkdir(parents=True, exist_ok=True)
    host_key = keygen(directory / "host_key")
    (directory / "authorized_keys").write_text(keygen(directory / "user_key") + "\n")
    (directory / "tmp").mkdir()
    (directory / "tmp").chmod(0o1777)
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd's empty directory for privilege separation
    port = free_port()
    config = directory / "sshd_config"
    config.write_text(CONFIG.format(port=port, dir=directory, env=env))
    with (directory / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            [*prefix, SSHD, "-D", "-e", "-f", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    until(lambda: b"Server listening" in (directory / "sshd.log").read_bytes())
    return Server(directory, port, host_key, process)


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < deadline, "did not come to pass in time"
        time.sleep(0.02)


def processes(marker: str) -> list[int]:
    """Processes with ``marker`` as one of their arguments or in their environment's place."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def stubborn(marker: str, ready: Path) -> list[str]:
    """Ignores TERM and HUP, has a child and a grandchild that do too, and says when it stands."""
    script = textwrap.dedent(
        """
        import os, signal, sys, time
        for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(s, signal.SIG_IGN)
        os.fork(); os.fork()
        open(sys.argv[2], "a").write("x")
        time.sleep(120)
        """
    )
    return [sys.executable, "-c", script, marker, str(ready)]


def stands(ready: Path) -> bool:
    return ready.exists() and len(ready.read_text()) == 4
