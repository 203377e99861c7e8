"""An emulated machine with Debian 12's stock kernel and this machine's file system, read-only."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

BOOT = Path("/boot")
_STOCK = re.compile(r"vmlinuz-(6\.1\.0-(\d+)-amd64)")
PROJECT = Path(__file__).parents[2]
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Command that is needed → Debian package that has it.
_COMMANDS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "clang": "clang",
    "bpftool": "bpftool",
}
# Emulated, a clock other than the processor's own costs more than what it times.
_KERNEL = "tsc=reliable clocksource=tsc mitigations=off no5lvl"
PREPARE = Path(__file__).with_name("prepare.sh")
_ONCE_MORE = "/mnt"


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
    if stock_image() is None:
        return _missing("a kernel image of Linux 6.1 in /boot", "linux-image-amd64", "6.1.")
    if not _vng().exists():
        return "missing: vng (Python package virtme-ng; scripts/setup installs it)"
    return None


def boot(
    image: Path, argv: Sequence[str], *, shared: Path, limit_s: int, writable: bool = False
) -> str:
    """What ``argv`` prints, run as root on that kernel, which sees ``shared`` under its own path.

    Also what was printed until then when it does not end in time. All is ended on return.

    Parameters
    ----------
    writable
        Whether the machine may write to ``shared``; it can write nowhere else of this one's files.
    """
    with tempfile.TemporaryDirectory() as own:
        # That /dev/kvm can be opened does not mean that a machine comes up with it.
        how = ["--disable-kvm", "--cpus", "2", "--memory", "3G", "--user", "root"]
        how += ["--append", _KERNEL, f"--rodir={_ONCE_MORE}=/"]
        how.append(f"--rwdir={shared}" if writable else f"--rodir={shared}")
        command = ["sh", str(PREPARE), _ONCE_MORE, str(PROJECT), *argv]
        machine = subprocess.Popen(
            [
                # Ends the whole group in time, even where this process does not live to see it.
                *("timeout", "--signal=KILL", str(limit_s)),
                *(str(_vng()), "--run", str(image), *how, "--", *command),
            ],
            cwd="/",
            env={"PATH": f"{_vng().parent}:{_PATH}", "HOME": own, "TMPDIR": own},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            return machine.communicate()[0]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(machine.pid, signal.SIGKILL)
            machine.wait()


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
