"""Where a fault is made: a running lab, one of its nodes, its API and its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebpfperf.calico.releases import minor
from ebpfperf.errors import LabError
from ebpfperf.lab import cgroups, processes, underlay
from ebpfperf.lab.nodes import LabNode, marked_environment, run
from ebpfperf.lab.own_annotations import BY_PROGRAMS, FAULT, FORWARDING, faults
from ebpfperf.lab.running import Lab

CALICO = "/apis/projectcalico.org/v3"
FELIX = f"{CALICO}/felixconfigurations"
LIMIT_S = 60.0
_POLL_S = 0.1
_TCX_FROM = (3, 31)


@dataclass(frozen=True, slots=True)
class Place:
    """A lab, and the node that a fault is for (the first one for a fault of the cluster)."""

    lab: Lab
    node: LabNode

    @property
    def release(self) -> tuple[int, int]:
        """The release that the lab presents."""
        return minor(self.lab.shape.release)

    def everywhere(self) -> tuple[Place, ...]:
        """The same lab, at each of its nodes in turn."""
        return tuple(Place(self.lab, node) for node in self.lab.nodes)

    # ------------------------------------------------------------------- API

    def get(self, path: str) -> dict[str, Any] | None:
        """The object or list at a path; None where there is none."""
        return self.lab.api.ask("GET", path)

    def patch(self, path: str, body: Mapping[str, Any]) -> None:
        """Merge into the object at a path; LabError when it is refused."""
        self.lab.api.ask("PATCH", path, body)

    def create(self, path: str, body: Mapping[str, Any]) -> None:
        """Make an object in the collection at a path; one that is there stays."""
        self.lab.api.ask("POST", path, body)

    def delete(self, path: str) -> None:
        """Delete the object at a path; one that is not there is no matter."""
        self.lab.api.ask("DELETE", path)

    def felix_spec(self, name: str = "default") -> dict[str, Any]:
        """``spec`` of a FelixConfiguration; empty without one."""
        return ((self.get(f"{FELIX}/{name}") or {}).get("spec")) or {}

    def set_felix(self, fields: Mapping[str, Any], name: str = "default") -> None:
        """Set fields of a FelixConfiguration that is there; None takes a field out."""
        self.patch(f"{FELIX}/{name}", {"spec": dict(fields)})

    def annotate(self, name: str, *, on: bool) -> None:
        """Put a fault that the lab's own daemon makes on the node, or take it off."""
        path = f"/api/v1/nodes/{self.node.name}"
        meta = (self.get(path) or {}).get("metadata", {})
        standing = set(faults(meta.get("annotations") or {}))
        wanted = standing | {name} if on else standing - {name}
        text = ",".join(sorted(wanted)) or None
        self.patch(path, {"metadata": {"annotations": {FAULT: text}}})

    def forwards_by_programs(self) -> bool:
        """Whether the lab says that the node forwards by eBPF."""
        meta = (self.get(f"/api/v1/nodes/{self.node.name}") or {}).get("metadata", {})
        return (meta.get("annotations") or {}).get(FORWARDING) == BY_PROGRAMS

    # -------------------------------------------------------------- commands

    def run(self, argv: Sequence[str], *, check: bool = True, input: str | None = None) -> str:
        """What a command prints on the node, its files included; LabError."""
        return run(self.node.enter(argv), check=check, input=input)

    def in_switch(
        self, argv: Sequence[str], *, check: bool = True, input: str | None = None
    ) -> str:
        """What a command prints in the network between the nodes; LabError."""
        space = f"--net=/proc/{underlay.switch_pid(self.lab.name)}/ns/net"
        return run(["nsenter", space, "--", *argv], check=check, input=input)

    def program(self, device: str) -> int:
        """Id of Calico's program where packets enter by a device of the node; 0 without one."""
        if self.release >= _TCX_FROM:
            pin = f"/sys/fs/bpf/tcx/{device.replace('.', '')}_ingress"
            said = self.run(["bpftool", "-j", "link", "show", "pinned", pin], check=False)
            return int(json.loads(said).get("prog_id", 0)) if said else 0
        said = self.run(["tc", "-j", "filter", "show", "dev", device, "ingress"], check=False)
        found = [row["options"]["prog"]["id"] for row in json.loads(said or "[]")
                 if "prog" in row.get("options", {})]  # fmt: skip
        return int(found[0]) if found else 0

    def start(self, name: str, argv: Sequence[str], *, inside: int | None = None) -> int:
        """Pid of a process of the lab that runs on the node under ``name`` (as ps shows it).

        It ends with the lab, and one of that name that is there already ends now. ``inside`` is a
        process whose network it shares instead of the node's. ``argv`` is what the shell that is
        called so executes line by line.
        """
        self.stop(name)
        script = self.node.dir / name
        script.write_text("#!/bin/sh\n" + "\n".join(argv) + "\n")
        script.chmod(0o755)
        entered = self.node.enter([str(script)])
        if inside is not None:
            entered = ["nsenter", "-t", str(inside), "-n", "--", *entered[: entered.index("-n")],
                       "-m", "-u", "-C", "--", str(script)]  # fmt: skip
        process = subprocess.Popen(
            cgroups.joining(self.node.cgroup, entered),
            env=marked_environment(self.lab.name),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.wait(f"a process {name}", lambda: _comm(process.pid) == name[:15])
        return process.pid

    def stop(self, name: str) -> None:
        """End what ``start`` made under that name, recorded or not."""
        script = self.node.dir / name
        for pid in processes.marked(self.lab.name):
            if str(script).encode() in _arguments(pid):
                self.end(pid)
        script.unlink(missing_ok=True)

    def end(self, pid: int | None) -> None:
        """End a process that ``start`` made, and its session; a stranger of that pid is left."""
        if pid is None or not processes.carries(pid, self.lab.name):
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(pid, number)
            except ProcessLookupError:
                return
            deadline = time.monotonic() + 1.0
            while processes.alive(pid) and time.monotonic() < deadline:
                time.sleep(0.02)

    def wait(self, what: str, seen: Callable[[], bool], *, limit_s: float = LIMIT_S) -> None:
        """Return once it is seen; LabError says what did not come."""
        deadline = time.monotonic() + limit_s
        while not seen():
            if time.monotonic() > deadline:
                raise LabError(
                    f"{self.node.name}: {what} did not come within {limit_s:g} s.",
                    f"See {self.lab.directory}/daemon.log; take the fault back: ebpfperf lab heal.",
                )
            time.sleep(_POLL_S)

    @staticmethod
    def pause(seconds: float) -> None:
        """Let time pass, to see what comes of it."""
        time.sleep(seconds)

    def log(self) -> str:
        """What the node's calico-node has logged."""
        return Path(f"/proc/{self.node.holder_pid}/root/var/log/calico/felix.log").read_text()


def _arguments(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
