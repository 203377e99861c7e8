"""How long each CPU's softirqs wait and run, by vector: raise to entry, entry to exit."""

import os
import platform

from ground import Probe as Base
from ground import Unavailable

EVENTS = ("softirq_raise", "softirq_entry", "softirq_exit")
VECTORS = 10
RAW_SINCE = (4, 17)

SOURCE = r"""
#ifdef SOFTIRQ_RAW
#define SOFTIRQ_ARGUMENTS(event) struct bpf_raw_tracepoint_args *args
#define SOFTIRQ_VECTOR ((u32)args->args[0])
#else
#define SOFTIRQ_ARGUMENTS(event) struct tracepoint__irq__##event *args
#define SOFTIRQ_VECTOR (args->vec)
#endif

struct softirq_time { u64 raised, entered; };
BPF_PERCPU_ARRAY(softirq_times, struct softirq_time, SOFTIRQ_VECTORS);

int softirq_raise(SOFTIRQ_ARGUMENTS(softirq_raise))
{
    u32 vector = SOFTIRQ_VECTOR;
    struct softirq_time *time = softirq_times.lookup(&vector);
    /* Raised again before it ran: it waits since the first time. */
    if (time && (!time->raised || time->raised < slice_began()))
        time->raised = bpf_ktime_get_ns();
    return 0;
}

int softirq_entry(SOFTIRQ_ARGUMENTS(softirq_entry))
{
    u32 vector = SOFTIRQ_VECTOR;
    struct softirq_time *time = softirq_times.lookup(&vector);
    if (!time)
        return 0;
    u64 now = bpf_ktime_get_ns(), raised = time->raised;
    time->raised = 0;
    time->entered = now;
    if (!in_slice(now))
        return 0;
    if (raised && raised >= slice_began())
        observe(SOFTIRQ_ROW + vector, now - raised);
    else
        tally(SOFTIRQ_ROW + vector, 1);
    return 0;
}

int softirq_exit(SOFTIRQ_ARGUMENTS(softirq_exit))
{
    u32 vector = SOFTIRQ_VECTOR;
    struct softirq_time *time = softirq_times.lookup(&vector);
    if (!time)
        return 0;
    u64 now = bpf_ktime_get_ns(), entered = time->entered;
    time->entered = 0;
    if (!entered || entered < slice_began() || !in_slice(now))
        return 0;
    observe(SOFTIRQ_ROW + SOFTIRQ_VECTORS + vector, now - entered);
    tally(SOFTIRQ_ROW + SOFTIRQ_VECTORS + vector, now - entered);
    return 0;
}
"""


class Probe(Base):
    """The ``softirq`` probe."""

    name = "softirq"
    source = SOURCE
    rows = 2 * VECTORS
    hot = True

    def __init__(self, ground, options):
        self.vectors = ground.symbols("irq:softirq_entry", "vec")
        for event in EVENTS:
            ground.fields("irq:" + event, ("vec",))
        if not self.vectors or max(self.vectors) >= VECTORS:
            raise Unavailable("no_tracepoint", "This kernel names no softirqs that are known.")
        # Raw ones cost less and are not passed over while another probe's tracepoint runs.
        self.raw = options.get("raw", release() >= RAW_SINCE)
        self.flags = ["-DSOFTIRQ_VECTORS=%d" % VECTORS] + (["-DSOFTIRQ_RAW"] if self.raw else [])
        self.hooks = tuple(
            ("raw", event, event) if self.raw else ("tracepoint", "irq:" + event, event)
            for event in EVENTS
        )

    def facts(self):
        """Which tracepoints it reads."""
        return {"variant": "%s tracepoints irq:softirq_*" % ("raw" if self.raw else "classic")}

    def arm(self, maps, ends):
        """Forget what is under way."""
        maps["softirq_times"].clear()

    def read(self, maps, rows):
        """Per vector: bins of waits and of runs, ns run in all, entries whose raise was unseen."""
        found = {}
        for number, name in sorted(self.vectors.items()):
            wait, run = rows[number], rows[VECTORS + number]
            found[name] = {
                "wait": wait.bins if wait else [],
                "unseen": wait.tally if wait else 0,
                "run": run.bins if run else [],
                "run_ns": run.tally if run else 0,
            }
        return {"vectors": found, "cpus": os.sysconf("SC_NPROCESSORS_ONLN")}


def release():
    """The running kernel's version as two numbers."""
    major, minor = platform.release().split(".")[:2]
    return int(major), int("".join(digit for digit in minor if digit.isdigit()))
