"""How kernels of several versions mark a task that was preempted, and how a task is named."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import ebpfperf.probes

FLAGS = '__print_flags(REC->prev_state & {mask}, "|", {{ 0x01, "S" }}, {{ 0x02, "D" }}) : "R"'
PREFIX = 'print fmt: "prev_comm=%s prev_state=%s%s", REC->prev_comm, '
AFTER = ", REC->next_comm"
# The masks as the tracepoint's format prints them, and the bit that they come to.
LINUX_4_4 = ("(1024-1)", "1024", 1024)
LINUX_4_14 = ("0xff", "0x100", 256)
LINUX_5_10 = (
    "((((0x0000 | 0x0001 | 0x0002 | 0x0040) + 1) << 1) - 1)",
    "(((0x0000 | 0x0001 | 0x0002 | 0x0040) + 1) << 1)",
    ((0x43 + 1) << 1),
)


@pytest.fixture(scope="module")
def runqueue() -> Iterator[ModuleType]:
    """The node script, which imports its neighbours by their bare names."""
    place = str(Path(ebpfperf.probes.__file__).parent / "node")
    before = set(sys.modules)
    sys.path.insert(0, place)
    try:
        import runqueue  # type: ignore[import-not-found]

        yield runqueue
    finally:
        sys.path.remove(place)
        for name in (set(sys.modules) - before) & {"runqueue", "counting", "ground"}:
            del sys.modules[name]


@pytest.mark.parametrize(("mask", "bit", "value"), [LINUX_4_4, LINUX_4_14, LINUX_5_10])
def test_the_bit_of_a_preempted_task_is_the_one_printed_as_a_plus(
    runqueue: ModuleType, mask: str, bit: str, value: int
) -> None:
    states = f"(REC->prev_state & {mask}) ? {FLAGS.format(mask=mask)}, "
    layout = f'{PREFIX}{states}REC->prev_state & {bit} ? "+" : ""{AFTER}'
    found = runqueue.preempted(layout)
    assert found == bit
    assert eval(found) == value


def test_a_kernel_that_prints_no_plus_is_refused(runqueue: ModuleType) -> None:
    with pytest.raises(Exception, match="preempted") as caught:
        runqueue.preempted('print fmt: "prev_state=%ld", REC->prev_state')
    assert caught.value.reason == "no_tracepoint"


@pytest.mark.parametrize(
    "rest", [b"\0" * 9, b"\0thon3\0\0\0", b"\0\xff\xff\xff\xff\xff\xff\xff\xff"]
)
@pytest.mark.parametrize(
    ("name", "task", "same"),
    [
        ("iperf3", b"iperf3", True),
        ("iperf3", b"iperf", False),
        ("iperf3", b"iperf3x", False),
        ("sockperf", b"sockper", False),
    ],
)
def test_a_task_is_told_by_its_name_up_to_its_end(
    runqueue: ModuleType, name: str, task: bytes, same: bool, rest: bytes
) -> None:
    packed = runqueue.pack_name(name)
    wanted, mask = packed[:16], packed[16:]
    comm = (task + rest).ljust(16, b"\0")[:16]
    masked = bytes(byte & keep for byte, keep in zip(comm, mask, strict=True))
    assert (masked == wanted) is same


def test_a_long_name_is_cut_as_the_kernel_cuts_it(runqueue: ModuleType) -> None:
    packed = runqueue.pack_name("a-very-long-program-name")
    assert packed == b"a-very-long-pro\0" + b"\xff" * 16
    assert runqueue.pack_name(None) == bytes(32)
