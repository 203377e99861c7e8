"""Bringing labs up and down: level-triggered, so that any leftover is a valid starting point."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebpfperf.calico.releases import FULL_VERSIONS
from ebpfperf.errors import LabError
from ebpfperf.lab import processes, state
from ebpfperf.lab.nodes import cgroup_root, marked_environment, remove_cgroups
from ebpfperf.lab.state import Shape

_NEEDED = (
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("sshd", "openssh-server"),
    ("ssh-keygen", "openssh-client"),
)
_UP_S = 60.0
_DOWN_S = 15.0
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab that runs, and how to reach it."""

    shape: Shape
    directory: Path
    daemon_pid: int

    @property
    def kubeconfig(self) -> Path:
        """For KUBECONFIG."""
        return self.directory / "kubeconfig"

    @property
    def ssh_config(self) -> Path:
        """For ``ssh -F``."""
        return self.directory / "ssh_config"

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """name, ssh, underlay_ip, nic, holder_pid of each node."""
        found: list[dict[str, Any]] = json.loads((self.directory / "nodes.json").read_text())
        return found


def up(shape: Shape) -> tuple[Lab, bool]:
    """The running lab of that shape, and whether it was brought up now.

    What a crashed or half-finished lab of that name left is cleaned first.

    Raises
    ------
    LabError
        A lab of that name runs with another shape, or this machine cannot run one.
    """
    check_machine(shape)
    with _locked(shape.name):
        running = find(shape.name)
        if running is not None:
            if running.shape != shape:
                raise LabError(
                    f"A lab named {shape.name} runs already, with {running.shape}.",
                    f"Take it down (ebpfperf lab down --name {shape.name}) or choose another name.",
                )
            return running, False
        _clean(shape.name)
        try:
            _start(shape)
        except BaseException:
            _clean(shape.name)
            raise
        lab = find(shape.name)
        if lab is None:
            _clean(shape.name)
            raise LabError(f"The lab {shape.name} ended as soon as it was up.", "Try again.")
        return lab, True


def down(name: str) -> bool:
    """Whether anything of that lab was there; afterwards nothing is."""
    state.check_name(name)
    _check_root()
    if not state.directory(name).exists() and not processes.marked(name):
        return False
    with _locked(name):
        lab = find(name)
        if lab is not None:
            os.kill(lab.daemon_pid, signal.SIGTERM)
            deadline = time.monotonic() + _DOWN_S
            while processes.alive(lab.daemon_pid) and time.monotonic() < deadline:
                time.sleep(0.02)
        _clean(name)
    _remove_lock(name)
    return True


def find(name: str) -> Lab | None:
    """The lab of that name if it is healthy: its daemon lives and its files are there."""
    directory = state.directory(name)
    found = state.read_shape(directory)
    if found is None:
        return None
    shape, pid = found
    if not processes.alive(pid) or pid not in processes.marked(name):
        return None
    lab = Lab(shape, directory, pid)
    if not lab.kubeconfig.is_file() or not (directory / "nodes.json").is_file():
        return None
    if not all(processes.alive(node["holder_pid"]) for node in lab.nodes):
        return None
    return lab


def the(name: str) -> Lab:
    """The running lab of that name; LabError with what runs instead."""
    lab = find(name)
    if lab is None:
        others = [other for other in state.names() if find(other) is not None]
        raise LabError(
            f"No lab named {name} is running.",
            f"Running: {', '.join(others)}."
            if others
            else f"Bring it up: ebpfperf lab up --name {name}",
        )
    return lab


def check_machine(shape: Shape) -> None:
    """Nothing, or the LabError that says why this machine cannot run that lab."""
    state.check_name(shape.name)
    if platform.system() != "Linux":
        raise LabError(
            "The lab needs Linux: it is made of network namespaces.",
            "What works here: ebpfperf report --all --campaign examples/demo",
        )
    _check_root()
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
    for binary, package in _NEEDED:
        if shutil.which(binary, path=_SYSTEM_PATH) is None:
            raise LabError(f"{binary} is missing.", f"Install it: apt-get install {package}")
    cgroup_root()


def _check_root() -> None:
    if os.geteuid() != 0:
        raise LabError(
            "The lab needs root: it makes network namespaces.",
            "Run it with sudo. What works without: ebpfperf report --all --campaign examples/demo",
        )


def _start(shape: Shape) -> None:
    directory = state.directory(shape.name)
    try:
        directory.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise LabError(
            f"{directory} cannot be made: {error.strerror}.", "Free space in /run."
        ) from error
    argv = [sys.executable, "-m", "ebpfperf.lab.daemon", str(directory)]
    argv += [shape.name, str(shape.nodes), shape.release, str(shape.mtu_bytes)]
    with open(directory / "daemon.err", "wb") as errors:
        process = subprocess.Popen(
            argv,
            env=marked_environment(shape.name),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    assert process.stdout is not None
    said = _first_line(process, _UP_S)
    process.stdout.close()
    if said.get("ready"):
        return
    processes.end({process.pid})
    tail = (directory / "daemon.err").read_text(errors="replace").strip().splitlines()
    raise LabError(
        str(said.get("error") or f"The lab did not come up: {tail[-1] if tail else 'no reason'}."),
        "" if said.get("error") else f"See {directory}/daemon.log.",
    )


def _first_line(process: subprocess.Popen[bytes], timeout_s: float) -> dict[str, Any]:
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    data = b""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        data += process.stdout.read() or b""
        if b"\n" in data:
            found: dict[str, Any] = json.loads(data.split(b"\n")[0])
            return found
        if process.poll() is not None:
            return {}
        time.sleep(0.01)
    return {"error": f"The lab did not come up within {timeout_s:g} s."}


def _clean(name: str) -> None:
    """End what runs of the lab and remove what it has on disk; whatever state it is in."""
    left = processes.end(processes.of_lab(name))
    # A process started by one that was just ended can have been missed.
    left |= processes.end(processes.of_lab(name))
    if left:
        raise LabError(
            f"Processes of the lab {name} cannot be ended: {sorted(left)}.", "Look at them with ps."
        )
    for _ in range(100):
        try:
            remove_cgroups(name)
            break
        except OSError:
            time.sleep(0.02)  # the kernel empties a cgroup in its own time
    shutil.rmtree(state.directory(name), ignore_errors=True)


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    """One ``up`` or ``down`` of a lab at a time."""
    path = _lock_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_lock(name: str) -> None:
    _lock_path(name).unlink(missing_ok=True)
    state.remove_empty_roots()


def _lock_path(name: str) -> Path:
    return state.ROOT / f".{name}.lock"
