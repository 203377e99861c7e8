"""Brings a lab up, runs a campaign on it, takes it down; on a kernel that has just been booted.

    campaign_there.py CAMPAIGN_FILE DIRECTORY

Prints what it is at, with the seconds since it began. DIRECTORY gets ``run`` (the campaign's
store) and ``seen.json``: what each trial left on the devices' counters and hooks, the kernel's
ipip devices, and what differs between before the lab and after it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Optional to pandas, needed by nothing here, and the longest of all imports under emulation.
sys.modules["pyarrow"] = None  # type: ignore[assignment]

from ebpfperf import plan, runner
from ebpfperf.lab import lifecycle
from ebpfperf.lab.nodes import LabNode
from ebpfperf.lab.running import Lab
from ebpfperf.lab.state import ROOT, Shape
from ebpfperf.model import Trial
from ebpfperf.store import Store

LAB = "there"
# What the lab has the kernel load: loaded first, it is no trace of the lab.
MODULES = ("ipip", "vxlan", "veth", "bridge", "sch_ingress", "cls_bpf")
GONE_S = 10.0
_BEGUN = time.monotonic()


def main(file: Path, directory: Path) -> None:
    """Run it all; whatever happens, what was seen until then is in ``directory``."""
    seen: dict[str, Any] = {"kernel": os.uname().release, "trials": {}}
    for module in MODULES:
        subprocess.run(["modprobe", module], check=True)
    before = traces()
    store = Store.create("/run/there", plan.load(file))
    try:
        say("lab up")
        lab = lifecycle.up(Shape(LAB))[0]
        try:
            seen["ipip"] = inside(lab.nodes[0], ["ip", "-d", "link", "show", "type", "ipip"])
            campaign(lab, store, seen)
        finally:
            shutil.copy(lab.directory / "daemon.log", directory)
            say("lab down")
            lifecycle.down(LAB)
        seen["left"] = left(before)
    finally:
        (directory / "seen.json").write_text(json.dumps(seen))
        shutil.copytree(store.path, directory / "run")
        say("end")


def campaign(lab: Lab, store: Store, seen: dict[str, Any]) -> None:
    """Run the trials, with a look at the nodes before and after each."""
    os.environ["KUBECONFIG"] = str(lab.kubeconfig)
    os.environ["EBPFPERF_SSH_CONFIG"] = str(lab.ssh_config)
    trials = seen["trials"]

    def on_start(trial: Trial) -> None:
        say(f"trial {trial.trial_id}")
        trials[trial.trial_id] = {"before": look(lab)}

    for result in runner.run(store, on_start=on_start):
        trials[result.trial.trial_id]["after"] = look(lab)
        say(f"{result.status} {result.reason}")
        for warning in result.warnings:
            say(warning)


def look(lab: Lab) -> dict[str, Any]:
    """Node → its links with their counters, and the BPF programs on them."""
    return {
        node.name: {
            "links": json.loads(inside(node, ["ip", "-j", "-d", "-s", "link", "show"])),
            "tc": json.loads(inside(node, ["bpftool", "-j", "net", "show"]))[0]["tc"],
        }
        for node in lab.nodes
    }


def traces() -> dict[str, list[str]]:
    """Kind → what there is of it on this machine."""
    processes = [pid for pid in os.listdir("/proc") if pid.isdigit() and command(pid)]
    return {
        "processes": [f"{pid} {command(pid)}" for pid in processes],
        "namespaces": [line for line in said("lsns", "-n", "-r", "-o", "NS,TYPE").splitlines()],
        "mounts": Path("/proc/self/mountinfo").read_text().splitlines(),
        "devices": said("ip", "-br", "link", "show").splitlines(),
        "bpf programs": said("bpftool", "prog", "show").splitlines(),
        "bpf maps": said("bpftool", "map", "show").splitlines(),
        "cgroups": [str(path) for path in Path("/sys/fs/cgroup").rglob("*/")],
        "files": [str(path) for path in ROOT.parent.rglob("*")],
    }


def left(before: dict[str, list[str]]) -> dict[str, list[str]]:
    """Kind → what was not there before. The kernel has a while to free what nobody holds."""
    deadline = time.monotonic() + GONE_S
    while True:
        now = traces()
        more = {kind: sorted({*now[kind]} - {*before[kind]}) for kind in now}
        if not any(more.values()) or time.monotonic() > deadline:
            return more
        time.sleep(0.5)


def command(pid: str) -> str:
    """Its command line; empty for the kernel's threads and for what has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def inside(node: LabNode, argv: list[str]) -> str:
    """What a command prints on the node."""
    return said(*node.enter(argv))


def said(*argv: str) -> str:
    """What a command prints."""
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def say(what: str) -> None:
    """Print it with the time."""
    print(f"{time.monotonic() - _BEGUN:6.1f} s  {what}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
