"""Doing something inside a node's network namespace without a process of its own."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from ebpfperf.lab.nodes import LabNode

_CLONE_NEWNET = 0x40000000
T = TypeVar("T")


def inside(node: LabNode, action: Callable[[], T]) -> T:
    """What ``action`` returns, run in the node's network; what it raises is raised here."""
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            with open(f"/proc/{node.holder_pid}/ns/net") as namespace:
                _setns(namespace.fileno())
            result.append(action())
        except BaseException as error:
            failure.append(error)

    # In a thread of its own: setns moves only the calling thread, which then ends.
    thread = threading.Thread(target=run, name=f"in-{node.name}")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def _setns(handle: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
