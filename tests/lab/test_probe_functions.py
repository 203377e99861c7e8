"""Time inside kernel functions: counted where the kernel allows it, refused in words where not."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from lab.namespaces import socket_in
from two_pods import TwoPods

from ebpfperf.model import Flow, Status
from ebpfperf.model import Path as FlowPath
from ebpfperf.probes import probe
from ebpfperf.probes.answers import file
from ebpfperf.probes.observers import Observers

pytestmark = pytest.mark.lab

PRIME, PORT = 1009, 9009
PROBE = probe("functions")
FLOW = Flow("f", FlowPath.POD_POD, "request-response", duration_s=2, omit_s=0)
KPROBES = Path("/sys/kernel/tracing/kprobe_events")


def attached(pods: TwoPods, **options: Any) -> Observers:
    """With another probe beside it."""
    beside = probe("tcp_rtt")
    made = Observers([PROBE, beside], share=1.0, whole=True, options={PROBE.name: options})
    made.attach(pods.nodes)
    if beside.name in made.refused():
        why = made.refused()[beside.name]
        made.detach()
        pytest.skip(f"missing: {why}")
    return made


def send(pods: TwoPods, number: int) -> None:
    """So many datagrams, each taken before the next one is sent."""
    source, target = pods.holders()
    kind = socket.AF_INET, socket.SOCK_DGRAM
    with socket_in(target, *kind) as far, socket_in(source, *kind) as near:
        far.bind((pods.server.address, PORT))
        for _ in range(number):
            near.sendto(b"datagram", (pods.server.address, PORT))
            assert far.recv(100) == b"datagram"


def test_a_kernel_without_the_functions_says_so_and_the_other_probes_go_on(pods: TwoPods) -> None:
    made = attached(pods, functions=["no_such_function"])
    try:
        assert "(no_functions)" in made.refused()[PROBE.name]
        assert "no_such_function" in made.refused()[PROBE.name]
        warnings = made.arm([PROBE.name, "tcp_rtt"], FLOW, pods.client, pods.server)
        assert set(warnings) == {PROBE.name}
        assert set(made.collect()) == {"tcp_rtt"}
    finally:
        made.detach()


@pytest.mark.parametrize("variant", ["fentry", "kprobe"])
def test_every_call_of_a_function_is_counted(pods: TwoPods, variant: str) -> None:
    made = attached(pods, functions=["udp_queue_rcv_skb"], variant=variant)
    try:
        warnings = made.arm([PROBE.name, "tcp_rtt"], FLOW, pods.client, pods.server)
        why = warnings.pop(PROBE.name, "")
        assert warnings == {}
        if why:
            assert "(no_kprobes)" in why
            assert variant == "fentry" or not KPROBES.exists()
            assert "fentry is refused" in why or "built without kprobes" in why
            assert set(made.collect()) == {"tcp_rtt"}
            pytest.skip(f"cannot: {why}")
        send(pods, PRIME)
        raw = made.collect()[PROBE.name]
    finally:
        made.detach()
    reading = PROBE.parse(FLOW, raw)
    assert reading.status is Status.OK
    (kernel,) = json.loads(raw[file(PROBE.name)])["kernels"]
    lost = kernel["answer"]["program"].get("recursion_misses", 0)
    (calls,) = reading.samples
    # Of the whole machine: others may send datagrams as well.
    assert calls.metric == "function_calls:udp_queue_rcv_skb"
    assert calls.value >= PRIME - lost
    assert sum(row.count for row in reading.histograms) == calls.value


def test_without_being_asked_for_a_variant_it_takes_what_there_is(pods: TwoPods) -> None:
    made = attached(pods)
    try:
        why = made.refused().get(PROBE.name, "")
        # Whatever it was, it is said of all that was tried.
        assert ("fentry" in why and "kprobes" in why) or not why
        assert os.path.exists(KPROBES) <= (not why)
    finally:
        made.detach()
