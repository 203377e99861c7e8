"""An emulated machine with Debian 12's stock kernel and this machine's file system, read-only."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

BOOT = Path("/boot")
PROJECT = Path(__file__).parents[2]
PREPARE = Path(__file__).with_name("prepare.sh")
# Its name for SSH.
NAME = "there"
_STOCK = re.compile(r"vmlinuz-(6\.1\.0-(\d+)-amd64)")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Command that is needed → Debian package that has it.
_COMMANDS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "clang": "clang",
    "bpftool": "bpftool",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "iperf3": "iperf3",
    "sockperf": "sockperf",
}
_ADDRESS = "10.0.2.15"
_ONCE_MORE = "/mnt"
# Emulated, a clock other than the processor's own costs more than what it times, and guards against
# what real processors do cost much and guard nothing.
_KERNEL = (
    "tsc=reliable clocksource=tsc no5lvl mitigations=off nosmap nosmep init_on_alloc=0 "
    "lsm=capability"
)
# SetEnv SHLVL: bash would take a session for a login from rsh and read ~/.bashrc, 8 s a command.
_SSHD = """\
ListenAddress {address}
HostKey {dir}/host_key
AuthorizedKeysFile {dir}/key.pub
StrictModes no
PidFile none
UsePAM no
UseDNS no
MaxSessions 100
SetEnv SHLVL=2
Subsystem sftp internal-sftp
"""
_SSH = """\
Host {name}
  HostName 127.0.0.1
  Port {port}
  User root
  IdentityFile {dir}/key
  IdentitiesOnly yes
  UserKnownHostsFile {dir}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  KexAlgorithms curve25519-sha256
  ControlPath {dir}/master
"""


class NotRunning(Exception):
    """The machine does not run; with the last that it said."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that runs.

    Attributes
    ----------
    directory
        What it sees of a directory that is written while it runs, under the same path, read-only.
    ssh_config
        How to reach it as ``NAME``.
    log
        What it says, and what commands on it complain of.
    """

    directory: Path
    ssh_config: Path
    log: Path
    _process: subprocess.Popen[bytes]

    def run(self, argv: Sequence[str], *, limit_s: float) -> str:
        """What a command prints, run there as root.

        Raises
        ------
        NotRunning
            It fails, or does not end in time; with what it said instead.
        """
        with open(self.log, "ab") as errors:
            try:
                done = subprocess.run(
                    [*self.ssh(), NAME, shlex.join(argv)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    errors="replace",
                    timeout=limit_s,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise NotRunning(f"{argv} did not end within {limit_s} s.\n{self.said}") from None
        if done.returncode != 0:
            raise NotRunning(f"{argv} ended with {done.returncode}.\n{done.stdout}{self.said}")
        return done.stdout

    def forward(self, port: int) -> int:
        """A port on this machine's loopback that leads to ``port`` on that one's until it ends."""
        here = _free_port()
        leads = ["-O", "forward", "-L", f"127.0.0.1:{here}:127.0.0.1:{port}", NAME]
        subprocess.run([*self.ssh(), *leads], check=True, capture_output=True)
        return here

    def ssh(self) -> list[str]:
        """The command that logs in by SSH, without whom to reach."""
        return ["ssh", "-F", str(self.ssh_config)]

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def said(self) -> str:
        """The last that the machine and the commands on it said."""
        return self.log.read_text(errors="replace")[-3000:]


@contextlib.contextmanager
def running(image: Path, *, limit_s: int) -> Iterator[Machine]:
    """A machine that boots ``image`` and can be logged in to; all of it is ended on return.

    Parameters
    ----------
    limit_s
        Seconds after which it ends, whatever it does.

    Raises
    ------
    NotRunning
        Nobody could log in before it ended.
    """
    with tempfile.TemporaryDirectory() as own, tempfile.TemporaryDirectory() as name:
        directory, port = Path(name), _free_port()
        ssh_config = _credentials(directory, port)
        sshd_config = directory / "sshd_config"
        sshd_config.write_text(_SSHD.format(address=_ADDRESS, dir=directory))
        door = f"user,id=door,restrict=on,hostfwd=tcp:127.0.0.1:{port}-{_ADDRESS}:22"
        # That /dev/kvm can be opened does not mean that a machine comes up with it.
        how = ["--disable-kvm", "--cpus", "2", "--memory", "3G", "--user", "root"]
        how += ["--append", _KERNEL, f"--rodir={_ONCE_MORE}=/", f"--rodir={directory}"]
        how.append(f"--qemu-opts=-netdev {door} -device virtio-net-pci,netdev=door")
        prepare = ["sh", str(PREPARE), _ONCE_MORE, str(PROJECT), str(sshd_config)]
        said = Path(own) / "said"
        with open(said, "ab") as output:
            process = subprocess.Popen(
                [
                    # Ends the whole group in time, even where this process does not live to see it.
                    *("timeout", "--signal=KILL", str(limit_s)),
                    *(str(_vng()), "--run", str(image), *how, "--", *prepare),
                ],
                cwd="/",
                env={"PATH": f"{_vng().parent}:{_PATH}", "HOME": own, "TMPDIR": own},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        with _ended(process):
            machine = Machine(directory, ssh_config, said, process)
            with _logged_in(machine):
                yield machine


def stock_image(boot: Path = BOOT) -> Path | None:
    """The newest of Debian 12's kernel images, None where there is none."""
    found = {
        int(match[2]): path
        for path in boot.glob("vmlinuz-*")
        if (match := _STOCK.fullmatch(path.name))
    }
    return found[max(found)] if found else None


def release_of(image: Path) -> str:
    """What ``uname -r`` says once it runs."""
    return image.name.removeprefix("vmlinuz-")


def lacking() -> str | None:
    """Why this machine cannot boot it, or None when it can."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "cannot: the second kernel is Debian 12's for x86-64"
    for command, package in _COMMANDS.items():
        if shutil.which(command, path=_PATH) is None:
            return _missing(command, package)
    image = stock_image()
    if image is None:
        return _missing("a kernel image of Linux 6.1 in /boot", "linux-image-amd64", "6.1.")
    if not Path(f"/lib/modules/{release_of(image)}/build/Makefile").exists():
        return _missing("the headers of that kernel", "linux-headers-amd64", "6.1.")
    if not _vng().exists():
        return "missing: vng (Python package virtme-ng; scripts/setup installs it)"
    return None


def _credentials(directory: Path, port: int) -> Path:
    """The keys of the machine and of who logs in; the SSH configuration that uses them."""
    for name in ("key", "host_key"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
        subprocess.run(keygen, check=True)
    host_key = (directory / "host_key.pub").read_text()
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    config = directory / "ssh_config"
    config.write_text(_SSH.format(name=NAME, port=port, dir=directory))
    return config


@contextlib.contextmanager
def _logged_in(machine: Machine) -> Iterator[None]:
    """One connection inside the block, which all else goes through: a login takes seconds there."""
    with open(machine.log, "ab") as errors:
        # In the background as soon as it is logged in, holding nothing of this process open.
        login = [*machine.ssh(), "-f", "-N", "-M", NAME]
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": errors}
        while subprocess.run(login, **how, check=False).returncode != 0:
            if not machine.alive:
                raise NotRunning(f"Nobody could log in before it ended.\n{machine.said}")
            time.sleep(1)
    try:
        yield
    finally:
        subprocess.run([*machine.ssh(), "-O", "exit", NAME], capture_output=True, check=False)


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """The process inside the block; afterwards it has ended, with its group where it leads one."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _missing(what: str, package: str, version: str = "") -> str:
    offered = _offered(package)
    if offered and offered.startswith(version):
        return f"missing: {what} (Debian package {package})"
    return f"cannot: {what} is missing, and apt offers no {package} with it"


def _offered(package: str) -> str:
    """The version that apt would install; empty without apt, or where it knows none."""
    if shutil.which("apt-cache") is None:
        return ""
    said = subprocess.run(
        ["apt-cache", "policy", package],
        env={"PATH": _PATH, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    candidate = re.search(r"Candidate: (\d\S*)", said)
    return candidate[1] if candidate else ""


def _vng() -> Path:
    return Path(sys.executable).with_name("vng")
