"""Bringing labs up and down: level-triggered, so that any leftover is a valid starting point."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ebpfperf.errors import LabError
from ebpfperf.lab import cgroups, machine, processes, state
from ebpfperf.lab.nodes import marked_environment
from ebpfperf.lab.running import Lab, find
from ebpfperf.lab.state import Shape

# Seconds on a machine of its own; minutes on one that is emulated and has to share.
_UP_S = 240.0
_READY_S, _DOWN_S = 30.0, 15.0
_LOCK_S = 300.0


def up(shape: Shape) -> tuple[Lab, bool]:
    """The running lab of that shape, and whether it was brought up now.

    What a crashed or half-finished lab of that name left is cleaned first.

    Raises
    ------
    LabError
        A lab of that name runs with another shape, or this machine cannot run one.
    """
    machine.check(shape)
    with _locked(shape.name):
        running = find(shape.name)
        if running is not None:
            _refuse_other(running.shape, shape)
            return running, False
        _clean(shape.name)
        try:
            _start(shape)
            lab = _ready(shape.name)
            if lab is None:
                raise LabError(f"The lab {shape.name} ended as soon as it was up.", "Try again.")
        except BaseException:
            _clean(shape.name)
            raise
        return lab, True


def down(name: str) -> bool:
    """Whether anything of that lab was there; afterwards nothing is.

    Raises
    ------
    LabError
        Not root, or a process or cgroup of it cannot be removed.
    """
    state.check_name(name)
    machine.check_root()
    with _locked(name):
        found = state.directory(name).exists() or cgroups.lab_cgroup(name).exists()
        found = found or bool(processes.marked(name))
        if found:
            # Asked before the daemon ends: its nodes' namespaces lead to what is not marked.
            with processes.spaces_held(name) as spaces:
                _stop_daemon(name)
                _end_all(name, spaces)
            _remove(name)
    return found


def every_name() -> list[str]:
    """Names of all labs of which there is a trace: on disk, in the cgroups or a process."""
    names = set(state.names()) | cgroups.lab_names() | processes.lab_names()
    return sorted(name for name in names if state.is_name(name))


def _ready(name: str) -> Lab | None:
    """The lab that has said it is up; None where it ended. A busy machine is asked again."""
    deadline = time.monotonic() + _READY_S
    while (lab := find(name)) is None and time.monotonic() < deadline:
        recorded = state.read_shape(state.directory(name))
        if recorded is None or not processes.carries(recorded[1], name):
            break
        time.sleep(0.05)
    return lab


def _refuse_other(running: Shape, wanted: Shape) -> None:
    differences = [
        f"{field} {getattr(running, field)} and not {getattr(wanted, field)}"
        for field in ("nodes", "release", "mtu_bytes", "subnets")
        if getattr(running, field) != getattr(wanted, field)
    ]
    if differences:
        raise LabError(
            f"A lab named {running.name} runs already, with {', '.join(differences)}.",
            f"Take it down first (ebpfperf lab down --name {running.name}) or choose another name.",
        )


def _start(shape: Shape) -> None:
    """Start the daemon and wait until it says that the lab is up."""
    directory = state.directory(shape.name)
    try:
        directory.mkdir(parents=True, mode=0o700)
        state.write_shape(directory, shape)
        errors = open(directory / "daemon.err", "wb")
    except OSError as error:
        raise _unwritable(error) from error
    cgroup = cgroups.make(cgroups.lab_cgroup(shape.name) / "daemon")
    with errors:
        process = subprocess.Popen(
            cgroups.joining(
                cgroup, [sys.executable, "-m", "ebpfperf.lab.daemon", "--state", str(directory)]
            ),
            env=marked_environment(shape.name),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    said = _first_line(process)
    if said.get("ready"):
        # It lives on: this is no child to be waited for.
        process.returncode = 0
        return
    processes.end({process.pid})
    process.wait()
    if "error" in said:
        raise LabError(said["error"], said.get("remedy", ""))
    tail = (directory / "daemon.err").read_text(errors="replace").strip().splitlines()
    reason = tail[-1] if tail else f"its process ended with status {process.returncode}"
    raise LabError(f"The lab {shape.name} did not come up: {reason}.", "This is a defect.")


def _first_line(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What the daemon says, as JSON; empty when it ends in silence."""
    assert process.stdout is not None
    deadline = time.monotonic() + _UP_S
    data = b""
    with process.stdout as pipe:
        while b"\n" not in data:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return {
                    "error": f"The lab did not come up within {_UP_S:g} s.",
                    "remedy": "Is the machine very busy? Try again.",
                }
            chunk = os.read(pipe.fileno(), 65536)
            if not chunk:
                return {}
            data += chunk
    found: dict[str, Any] = json.loads(data.split(b"\n")[0])
    return found


def _unwritable(error: OSError) -> LabError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return LabError(
        f"{error.filename or state.ROOT} cannot be written: {error.strerror}.",
        "Free space there." if full else "The lab keeps its state below /run, which root writes.",
    )


def _stop_daemon(name: str) -> None:
    """Let the daemon put its things away, if there is one that can."""
    recorded = state.read_shape(state.directory(name))
    if recorded is None or not processes.carries(recorded[1], name):
        return
    pid = recorded[1]
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _DOWN_S
    while processes.alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)


def _clean(name: str) -> None:
    """End what runs of the lab and remove what it has on disk; whatever state it is in."""
    with processes.spaces_held(name) as spaces:
        _end_all(name, spaces)
    _remove(name)


def _end_all(name: str, spaces: Collection[int]) -> None:
    for _ in range(5):
        # Again: a process can have been started by one that was just being ended.
        left = processes.of_lab(name, spaces=spaces)
        if not left:
            break
        processes.end(left)
    if left := processes.of_lab(name, spaces=spaces):
        raise LabError(
            f"Processes of the lab {name} cannot be ended: {', '.join(map(str, sorted(left)))}.",
            f"See what holds them: ps -o pid,stat,wchan,args -p {','.join(map(str, sorted(left)))}",
        )


def _remove(name: str) -> None:
    cgroup = cgroups.lab_cgroup(name)
    if not cgroups.remove(cgroup):
        raise LabError(f"The cgroup {cgroup} cannot be removed.", f"Try: rmdir {cgroup}")
    directory = state.directory(name)
    if directory.exists():
        try:
            shutil.rmtree(directory)
        except OSError as error:
            raise LabError(
                f"{error.filename} cannot be removed: {error.strerror}.",
                f"Remove {directory} yourself.",
            ) from error


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    """One ``up`` or ``down`` of a lab at a time; the lock's file is gone when no lab is left."""
    path = state.ROOT / f".{name}.lock"
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = open(path, "w")
        except FileNotFoundError:
            continue  # another lab's ``down`` has just removed the directory
        except OSError as error:
            raise _unwritable(error) from error
        with lock:
            _wait_for(lock.fileno(), name, deadline)
            # Whoever held it may have removed the file: then this lock is nobody else's.
            if not _is_file(lock.fileno(), path):
                continue
            try:
                yield
            finally:
                if not state.directory(name).exists():
                    path.unlink(missing_ok=True)
                    state.remove_empty_roots()
            return


def _wait_for(handle: int, name: str, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LabError(
                    f"Another up or down of the lab {name} has not ended within {_LOCK_S:g} s.",
                    "Wait for it, or end it.",
                ) from None
            time.sleep(0.05)


def _is_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
