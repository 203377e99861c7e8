"""Reading the trace pipe on nodes: one reader a kernel, bounded, and never against another."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from lab.namespaces import eventually
from typer.testing import CliRunner

from ebpfperf.lab.running import Lab
from ebpfperf.remote import SSHNode
from ebpfperf.trace_capture import Captured, capture, recent, unpacked

pytestmark = pytest.mark.lab

PRIME = 23
MARKER = "/sys/kernel/tracing/trace_marker"


def mark(lab: Lab, text: str, count: int = 1) -> None:
    """Write so many lines into the kernel's log."""
    command = f'for n in $(seq {count}); do echo "{text}" >{MARKER}; done'
    subprocess.run(lab.nodes[0].enter(["sh", "-c", command]), check=True, timeout=10)


def readers() -> set[str]:
    """The processes that read the kernel's log."""
    found = set()
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(handle).endswith("/trace_pipe"):
                found.add(handle.parts[2])
    return found


def undisturbed(nodes: dict[str, SSHNode], limit_bytes: int = 1 << 22) -> Captured:
    """What is read once nobody else of this machine reads."""
    deadline = time.monotonic() + 60
    while True:
        (one,) = capture(nodes, for_s=1.2, limit_bytes=limit_bytes)
        if "already" not in one.problem or time.monotonic() > deadline:
            return one


def with_marks(lab: Lab, nodes: dict[str, SSHNode], text: str) -> Captured:
    """What is read while a prime number of lines is written, once that took no longer."""
    for number in range(5):
        in_time: list[bool] = []

        def write(line: str = f"{text}-{number}", in_time: list[bool] = in_time) -> None:
            reading = eventually("somebody reads", readers)
            mark(lab, line, PRIME)
            in_time.append(reading <= readers())

        writer = threading.Thread(target=write)
        writer.start()
        one = undisturbed(nodes)
        writer.join()
        if in_time == [True]:
            assert recent(one).count(f"{text}-{number}".encode()) == PRIME
            return one
    pytest.fail("each time reading had ended before all was written")


def test_one_log_of_a_shared_kernel_whole_or_up_to_its_bound(lab: Lab) -> None:
    text, before = f"mark-{time.monotonic_ns()}", f"before-{time.monotonic_ns()}"
    names = [node.name for node in lab.nodes]
    nodes = {n: SSHNode.connect(n, ssh_config=lab.ssh_config) for n in names}
    try:
        mark(lab, before)
        one = with_marks(lab, nodes, text)
        assert one.problem == ""
        assert (one.nodes, one.full) == (tuple(names), False)
        raw = unpacked(one)
        assert len(raw) == one.raw_bytes
        # What was written before reading began is told apart.
        assert before.encode() not in recent(one)
        assert raw.endswith(recent(one))
        mark(lab, before)
        short = undisturbed(nodes, limit_bytes=101)
        assert (short.full, short.raw_bytes) == (True, 101)
    finally:
        for node in nodes.values():
            node.close()


def test_nobody_is_read_against(lab: Lab, tmp_path: Path) -> None:
    node = lab.nodes[0]
    reader = subprocess.Popen(
        node.enter(["cat", "/sys/kernel/tracing/trace_pipe"]), stdout=subprocess.DEVNULL
    )
    try:
        eventually("it reads", lambda: str(reader.pid) in readers())
        from ebpfperf.cli import app

        done = CliRunner().invoke(
            app,
            ["trace", "capture", "--node", node.name, "--for", "500ms", "--json",
             "--out", str(tmp_path / "log"), "--kubeconfig", str(lab.kubeconfig),
             "--ssh-config", str(lab.ssh_config)],
        )  # fmt: skip
    finally:
        reader.kill()
        reader.wait(timeout=5)
    assert done.exit_code == 1
    (row,) = json.loads(done.stdout)
    assert "reads the trace pipe already" in row["problem"]
    assert "bpfLogLevel is Off" in done.stderr
    assert list(tmp_path.iterdir()) == []
