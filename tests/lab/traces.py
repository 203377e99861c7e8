"""What of a lab can be seen on the machine: taken while it is up, looked for when it is down."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ebpfperf.lab import cgroups, processes, state
from ebpfperf.lab.running import Lab

KINDS = ("net", "mnt", "uts", "cgroup")


@dataclass(frozen=True)
class Traces:
    """Ids of what one lab has in the kernel."""

    name: str
    pids: frozenset[int]
    namespaces: frozenset[str]
    programs: frozenset[int]
    maps: frozenset[int]


def namespaces_of(pid: int) -> set[str]:
    """``net:[4026532345]``, … of a process; empty when it is gone."""
    found = set()
    for kind in KINDS:
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
        except OSError:
            continue
    return found


def held_namespaces(name: str) -> set[str]:
    """All namespaces that a process is in, or keeps open, or that a mount keeps.

    Not by processes of labs of other names: the number of a namespace that is gone is given to the
    next one.
    """
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if _of_another_lab(pid, name):
            continue
        found |= namespaces_of(int(pid))
        try:
            for handle in os.listdir(f"/proc/{pid}/fd"):
                found.add(os.readlink(f"/proc/{pid}/fd/{handle}"))
        except OSError:
            continue
    return found | {line.split()[3] for line in mounts()}


def _of_another_lab(pid: str, name: str) -> bool:
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    marks = [each for each in environ if each.startswith(f"{state.MARKER}=".encode())]
    return bool(marks) and f"{state.MARKER}={name}".encode() not in marks


def mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def host_links() -> set[str]:
    return set(os.listdir("/sys/class/net"))


def host_places() -> set[str]:
    """Where the host has something mounted, and what stands in its BPF file system.

    tc makes both where it finds neither, and neither bears a lab's name.
    """
    pinned = {f"/sys/fs/bpf/{name}" for name in os.listdir("/sys/fs/bpf")}
    return {line.split()[4] for line in mounts()} | pinned


def bpftool(*arguments: str, within: list[str] | None = None) -> list[dict]:
    done = subprocess.run(
        [*(within or []), "bpftool", "-j", *arguments],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return json.loads(done.stdout or b"[]")


def programs_of(lab: Lab) -> set[int]:
    """Ids of the programs attached to devices of its nodes."""
    found = set()
    for node in lab.nodes:
        for kind in bpftool("net", "show", within=node.in_network([])):
            found |= {entry["id"] for entry in kind.get("tc", ()) if "id" in entry}
    return found


def take(lab: Lab) -> Traces:
    """What the lab has now."""
    own = namespaces_of(os.getpid()) | namespaces_of(1)
    pids = processes.of_lab(lab.name)
    programs = programs_of(lab)
    maps = {
        number
        for entry in bpftool("prog", "show")
        if entry["id"] in programs
        for number in entry.get("map_ids", ())
    }
    return Traces(
        lab.name,
        frozenset(pids),
        frozenset(set().union(*map(namespaces_of, pids)) - own),
        frozenset(programs),
        frozenset(maps),
    )


def left(traces: Traces) -> dict[str, object]:
    """What is still there of it; empty when nothing is."""
    name = traces.name
    found = {
        "processes": {pid for pid in traces.pids if processes.alive(pid)},
        "marked": processes.of_lab(name),
        "namespaces": traces.namespaces & held_namespaces(name),
        "mounts": [line for line in mounts() if f"/{name}/" in line or f"/{name} " in line],
        "programs": traces.programs & {entry["id"] for entry in bpftool("prog", "show")},
        "maps": traces.maps & {entry["id"] for entry in bpftool("map", "show")},
        "cgroup": cgroups.lab_cgroup(name).exists(),
        "directory": state.directory(name).exists(),
        "lock": (state.ROOT / f".{name}.lock").exists(),
    }
    return {key: value for key, value in found.items() if value}


def wait_for(condition: Callable[[], object], *, timeout_s: float = 30.0) -> None:
    """Return when the condition holds; AssertionError when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def nothing_left(traces: Traces) -> None:
    """AssertionError with what is left of a lab that is down."""
    deadline = time.monotonic() + 30.0
    # The kernel frees namespaces and programs a moment after their last user.
    while (found := left(traces)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found == {}
