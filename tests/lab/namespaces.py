"""Sockets and processes in the namespaces of a lab, and waiting for what it comes to."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from ebpfperf.kube import Kube
from ebpfperf.lab import ebpf_mode, lifecycle
from ebpfperf.lab.nodes import LabNode
from ebpfperf.lab.running import Lab
from ebpfperf.lab.state import Shape
from ebpfperf.mutations import Mutation

T = TypeVar("T")

# Costs nothing where it is not needed: a busy machine takes ten times as long.
LIMIT_S = 60.0
RESTART = "lab.ebpfperf/restart-s"
RESTART_S = 0.5
_CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def lab_in_ebpf_mode(name: str, *, restart_s: float = 0.0) -> Iterator[Lab]:
    """A lab of its own in eBPF mode with nothing wrong, whose Felixes restart soon; then gone."""
    try:
        lab, _ = lifecycle.up(Shape(name))
        ebpf_mode.switch_on(lab, restart_s=restart_s)
        yield lab
    finally:
        lifecycle.down(name)


def restart_after(kube: Kube, lab: Lab, wait_s: float | None = RESTART_S) -> None:
    """Have the nodes' Felix wait so long before they restart; None is as long as Felix does."""
    value = None if wait_s is None else str(wait_s)
    for node in lab.nodes:
        body = {"metadata": {"annotations": {RESTART: value}}}
        kube.apply(Mutation("patch", "Node", node.name, body=body))


def pause(node: LabNode, uid: str) -> int:
    """Pid of the only process of a pod, found where kubelet puts it."""
    (file,) = node.cgroup.glob(
        f"kubepods.slice/kubepods-besteffort.slice/*pod{uid.replace('-', '_')}.slice/*/cgroup.procs"
    )
    (pid,) = file.read_text().split()
    return int(pid)


def eventually(what: str, condition: Callable[[], T]) -> T:
    """What ``condition`` gives as soon as it gives something."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        if found := condition():
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"not within {LIMIT_S:g} s: {what}")
        time.sleep(0.05)


@contextlib.contextmanager
def one_processor() -> Iterator[None]:
    """Meanwhile this thread sends from one processor, so that packets keep their order.

    Each processor has a queue of its own to a veth's other end: who moves on may overtake itself.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def socket_in(pid: int, *arguments: int) -> socket.socket:
    """A socket that lives in the network namespace of a process."""
    made: list[socket.socket | OSError] = []

    def make() -> None:
        try:
            with open(f"/proc/{pid}/ns/net") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.socket(*arguments))
        except OSError as error:
            made.append(error)

    # setns moves only the calling thread, which then ends.
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    (outcome,) = made
    if isinstance(outcome, OSError):
        raise outcome
    outcome.settimeout(LIMIT_S)
    outcome.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return outcome


def inside(pid: int, *argv: str) -> str:
    """What a command prints in the network namespace of a process."""
    entered = ["nsenter", f"--net=/proc/{pid}/ns/net", "--", *argv]
    return subprocess.run(
        entered, check=True, capture_output=True, text=True, timeout=LIMIT_S
    ).stdout
