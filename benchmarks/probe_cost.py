"""Prints what the tcp_rtt probe costs: nanoseconds of its BPF program per TCP segment received.

Run as root: ``python benchmarks/probe_cost.py``. Two network namespaces joined by a veth, one
iperf3 stream between them; the kernel's own statistics of BPF programs, switched on only for as
long as a descriptor is held. Rounds alternate: armed for another flow, and armed
for this one.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from two_pods import TwoPods, two_pods

from ebpfperf.loads import load
from ebpfperf.model import Flow
from ebpfperf.model import Path as FlowPath
from ebpfperf.probes.tcp_rtt import RAW, TcpRtt

_BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}
_BPF_ENABLE_STATS = 32


@contextlib.contextmanager
def program_statistics() -> Iterator[None]:
    """run_time_ns and run_cnt are counted inside (BPF_ENABLE_STATS, Linux 5.8)."""
    libc = ctypes.CDLL(None, use_errno=True)
    attributes = (ctypes.c_uint32 * 4)(0)
    number = _BPF_SYSCALL[platform.machine()]
    handle = libc.syscall(number, _BPF_ENABLE_STATS, attributes, ctypes.sizeof(attributes))
    if handle < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        yield
    finally:
        os.close(handle)


def program(probe: TcpRtt, flow: Flow, pods: TwoPods) -> dict[str, int]:
    """The kernel's numbers of the program that has just been armed."""
    probe.arm(flow, pods.client, pods.server)
    (state,) = json.loads(probe.collect()[RAW])["nodes"].values()
    return dict(state["program"])


def once(probe: TcpRtt, flow: Flow, pods: TwoPods, *, armed: bool) -> tuple[float, int, float]:
    """Nanoseconds per event, events, and bits per second of one run of traffic."""
    driver = load(flow.load)
    before = program(probe, flow, pods)
    # Armed for another address, the filter refuses every event.
    elsewhere = replace(pods.client, address="198.18.0.1")
    probe.arm(flow, pods.client if armed else elsewhere, pods.server)
    raw = driver.drive(flow, pods.client, pods.server, pods.nodes)
    after = program(probe, flow, pods)
    runs = after["run_cnt"] - before["run_cnt"]
    spent_ns = after["run_time_ns"] - before["run_time_ns"]
    return spent_ns / runs, runs, driver.parse(flow, raw).metrics["received_bits_per_s"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    options = parser.parse_args()
    flow = Flow("cost", FlowPath.POD_POD, "tcp", duration_s=options.seconds, omit_s=0)
    costs: dict[str, list[float]] = {"not counted": [], "counted": []}
    probe = TcpRtt()
    with tempfile.TemporaryDirectory() as place, two_pods(Path(place)) as pods:
        try:
            probe.attach({"node-1": pods.nodes["node-1"]})
            with program_statistics():
                for _ in range(options.rounds):
                    for name, found in costs.items():
                        cost_ns, runs, rate = once(probe, flow, pods, armed=name == "counted")
                        found.append(cost_ns)
                        print(
                            f"{name:12} {cost_ns:7.0f} ns per segment, {runs:9,} segments, "
                            f"{rate / 1e9:.2f} Gbit/s"
                        )
        finally:
            probe.detach()
    for name, found in costs.items():
        print(f"{name}: median {median(found):.0f} ns, {min(found):.0f} to {max(found):.0f} ns")


if __name__ == "__main__":
    main()
