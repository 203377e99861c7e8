"""The questions of the probes, asked by bpftrace and by BCC's own tools; and how those are run.

A tool's filter is as near to the probe's as the tool allows. Those that look at every task, softirq
or dropped packet of the machine have none.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as File

from ebpfperf.loads import PORTS
from ebpfperf.model import Endpoint, Flow
from ebpfperf.probes import ends
from ebpfperf.probes.node import bpf_call

BPFTRACE = "bpftrace"
_NODE_SCRIPTS = File(bpf_call.__file__).parent
# Mounts in a namespace of its own what tools look for: the tracing file system, kernel headers.
_ON_GROUND = """\
import os, sys
sys.path.insert(0, sys.argv[1])
import ground
ground.Ground()
os.execvp(sys.argv[2], sys.argv[2:])
"""
SAMPLE = 4
"""Of how many packets one is followed, as by ``hops``."""
_READY_S, _END_S = 60.0, 20.0
_LOOK_S, _LOOKS = 0.01, 3
# Where in the kernel a process waits for events, or for its user.
_WAITS = ("nanosleep", "epoll", "poll_schedule")

# One block an event: of two, bpftrace 0.17 loads one twice, or none.
SCRIPTS = {
    "tcp_rtt": """
tracepoint:tcp:tcp_probe /args->dport >= {first} && args->dport <= {last}/ {{
    @srtt_us = hist(args->srtt);
}}""",
    "tcp_connect": """
tracepoint:sock:inet_sock_set_state /args->dport >= {first} && args->dport <= {last}/ {{
    if (args->newstate == 2) {{ @begun[args->skaddr] = nsecs; }}
    if (args->newstate == 1 && @begun[args->skaddr]) {{
        @connect_ns = hist(nsecs - @begun[args->skaddr]);
        delete(@begun[args->skaddr]);
    }}
}}
END {{ clear(@begun); }}""",
    "softirq": """
tracepoint:irq:softirq_raise /!@raised[cpu, args->vec]/ {{ @raised[cpu, args->vec] = nsecs; }}
tracepoint:irq:softirq_entry {{
    if (@raised[cpu, args->vec]) {{
        @wait_ns[args->vec] = hist(nsecs - @raised[cpu, args->vec]);
        delete(@raised[cpu, args->vec]);
    }}
    @entered[cpu, args->vec] = nsecs;
}}
tracepoint:irq:softirq_exit /@entered[cpu, args->vec]/ {{
    @run_ns[args->vec] = hist(nsecs - @entered[cpu, args->vec]);
    delete(@entered[cpu, args->vec]);
}}
END {{ clear(@raised); clear(@entered); }}""",
    "runqueue": """
tracepoint:sched:sched_wakeup, tracepoint:sched:sched_wakeup_new /args->comm == "{program}"/ {{
    @since[args->pid] = nsecs;
}}
tracepoint:sched:sched_switch {{
    if (args->prev_state == 0 && args->prev_comm == "{program}") {{
        @since[args->prev_pid] = nsecs;
    }}
    if (args->next_comm == "{program}" && @since[args->next_pid]) {{
        @wait_ns = hist(nsecs - @since[args->next_pid]);
        delete(@since[args->next_pid]);
    }}
}}
END {{ clear(@since); }}""",
    "qdisc": """
tracepoint:qdisc:qdisc_enqueue {{ @queued[args->skbaddr] = nsecs; }}
tracepoint:qdisc:qdisc_dequeue /@queued[args->skbaddr]/ {{
    @wait_ns[args->ifindex] = hist(nsecs - @queued[args->skbaddr]);
    delete(@queued[args->skbaddr]);
}}
END {{ clear(@queued); }}""",
    "drops": """
tracepoint:skb:kfree_skb {{ @dropped[args->reason, args->location, args->protocol] = count(); }}""",
    "retransmits": """
tracepoint:tcp:tcp_retransmit_skb /(args->dport >= {first} && args->dport <= {last}) ||
    (args->sport >= {first} && args->sport <= {last})/ {{ @again[args->state] = count(); }}""",
    "hops": """
tracepoint:net:net_dev_queue {{
    if (@last[args->skbaddr]) {{
        @step_ns[probe, str(args->name)] = hist(nsecs - @last[args->skbaddr]);
        @last[args->skbaddr] = nsecs;
    }} else {{
        if (rand % {sample} == 0 && str(args->name) == "{device}") {{
            @last[args->skbaddr] = nsecs;
        }}
    }}
}}
tracepoint:net:net_dev_start_xmit, tracepoint:net:netif_rx,
tracepoint:net:napi_gro_receive_entry, tracepoint:net:netif_receive_skb /@last[args->skbaddr]/ {{
    @step_ns[probe, str(args->name)] = hist(nsecs - @last[args->skbaddr]);
    @last[args->skbaddr] = nsecs;
}}
tracepoint:skb:skb_copy_datagram_iovec /@last[args->skbaddr]/ {{
    @read_ns = hist(nsecs - @last[args->skbaddr]);
    delete(@last[args->skbaddr]);
}}
END {{ clear(@last); clear(@step_ns); }}""",
}
# The probe's question → BCC's tool for it and its options.
BCC = {
    "tcp_rtt": ("tcprtt", ("-a", "{client}", "-A", "{server}")),
    "tcp_connect": ("tcpconnlat", ()),
    "softirq": ("softirqs", ("-d",)),
    "runqueue": ("runqlat", ()),
    "drops": ("tcpdrop", ()),
    "retransmits": ("tcpretrans", ()),
}


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that asks a probe's question.

    Attributes
    ----------
    name
        ``bpftrace tcp_rtt``, ``softirqs``: its row in the table.
    probe
        The probe whose question it is.
    command
        As it is typed; what is in braces is the flow's.
    """

    name: str
    probe: str
    command: tuple[str, ...]

    def argv(self, flow: Flow, client: Endpoint, server: Endpoint) -> list[str]:
        """The command for that flow."""
        ports = PORTS[flow.load]
        told = {
            "first": ports[0],
            "last": ports[-1],
            "program": ends.PROGRAMS[flow.load],
            "device": client.device,
            "sample": SAMPLE,
            "client": client.address,
            "server": server.address,
        }
        return [word.format(**told) for word in self.command]


class Unusable(Exception):
    """Why a tool does not run here."""


def tools() -> tuple[Tool, ...]:
    """All of them, whether they are there or not."""
    scripts = [
        Tool(f"{BPFTRACE} {probe}", probe, (BPFTRACE, "-e", script))
        for probe, script in SCRIPTS.items()
    ]
    stock = [
        Tool(name, probe, (f"{name}-bpfcc", *options)) for probe, (name, options) in BCC.items()
    ]
    return (*scripts, *stock)


@dataclass(slots=True)
class Output:
    """What a tool has printed; None until it has ended, and where it had to be killed."""

    text: str | None = None


@contextlib.contextmanager
def running(argv: Sequence[str]) -> Iterator[Output]:
    """The tool, watching inside the block; ended as a user ends it, by Ctrl-C.

    Raises
    ------
    Unusable
        It is not installed, ended by itself, or was not ready in a minute.
    """
    if shutil.which(argv[0]) is None:
        raise Unusable(f"{argv[0]} is not installed.")
    launcher = ["/usr/bin/python3", "-c", _ON_GROUND, str(_NODE_SCRIPTS), *argv]
    output = Output()
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            launcher,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=errors,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            if not _idle(process):
                raise Unusable(_reason(_text(errors)) or "It was not ready within a minute.")
            yield output
        finally:
            if _end(process):
                output.text = _text(printed)


def _text(stream: tempfile._TemporaryFileWrapper[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode("utf-8", "replace")


def _idle(process: subprocess.Popen[bytes]) -> bool:
    """Wait until it only waits: it has compiled and attached. False where it ended instead.

    No tool says when it is ready in a way that the others do.
    """
    place = File(f"/proc/{process.pid}/wchan")
    deadline, looks = time.monotonic() + _READY_S, 0
    while process.poll() is None and time.monotonic() < deadline:
        waits = any(wait in place.read_text() for wait in _WAITS)
        looks = looks + 1 if waits else 0
        if looks == _LOOKS:
            return True
        time.sleep(_LOOK_S)
    return False


def _end(process: subprocess.Popen[bytes]) -> bool:
    """End it. Whether it ended as asked, so that it has printed all it saw."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False
    return True


def _reason(said: str) -> str:
    """The line of what a tool said that tells why it ended."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    compiler = [line for line in lines if re.search(r"\berror: ", line)]
    if compiler:
        return "does not compile: " + compiler[0].partition("error: ")[2]
    return lines[-1] if lines else ""


_BINS = re.compile(r"^(?:[\[(].*[\])]|\s*\d+ -> \d+\s+:)\s+(\d+)\s+\|", re.M)
_COUNTS = re.compile(r"^@\w*(?:\[.*\])?: (\d+)$", re.M)
_LINES = re.compile(r"^(?:\d\d:\d\d:\d\d|\d+ +\S+ +[46]) ", re.M)


def events(printed: str) -> int:
    """How many events a tool has printed: its bins and counters added, or its lines."""
    counted = [*_BINS.findall(printed), *_COUNTS.findall(printed)]
    return sum(map(int, counted)) if counted else len(_LINES.findall(printed))


@contextlib.contextmanager
def program_statistics() -> Iterator[None]:
    """The kernel counts runs of BPF programs inside the block (BPF_ENABLE_STATS); OSError."""
    handle = bpf_call.enable_statistics()
    try:
        yield
    finally:
        os.close(handle)
