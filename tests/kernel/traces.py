"""Prints as JSON: kind → what there is of it on this machine, one line each.

Nothing but the standard library: it is run by whichever Python 3 is there.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path


def said(*argv: str) -> list[str]:
    """The lines that a command prints."""
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


def command(pid: str) -> str:
    """Its command line; empty for the kernel's threads and for what has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def namespaces(pid: str) -> list[str]:
    """The namespaces of a process; none where it has just ended."""
    kinds = ("net", "mnt", "uts", "cgroup", "pid")
    try:
        return [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds]
    except OSError:
        return []


def main() -> None:
    """Print it."""
    # This command's own session goes with it.
    own = os.getsid(0)
    pids = [int(pid) for pid in os.listdir("/proc") if pid.isdigit()]
    others = [str(pid) for pid in pids if session(pid) not in (own, None)]
    found = {
        "processes": [f"{pid} {line}" for pid in others if (line := command(pid))],
        "namespaces": sorted({name for pid in others for name in namespaces(pid)}),
        "mounts": Path("/proc/self/mountinfo").read_text().splitlines(),
        "devices": said("ip", "-o", "link", "show"),
        "programs": said("bpftool", "-j", "prog", "show"),
        "maps": said("bpftool", "-j", "map", "show"),
        "cgroups": [path for path, _, _ in os.walk("/sys/fs/cgroup")],
        "files": [str(path) for path in Path("/run/ebpfperf").rglob("*")],
    }
    print(json.dumps(found))


def session(pid: int) -> int | None:
    """Its session; None where it has just ended."""
    try:
        return os.getsid(pid)
    except OSError:
        return None


if __name__ == "__main__":
    main()
