"""How long the load's tasks wait for a CPU: woken, or preempted while runnable, until they run."""

import re
import struct

from counting import put
from ground import Probe as Base
from ground import Unavailable

WAKEUP, NEW, SWITCH = "sched:sched_wakeup", "sched:sched_wakeup_new", "sched:sched_switch"
NAMES, NAME_BYTES = 2, 16

SOURCE = r"""
/* A task's name and, since what follows its end is undefined, which of its bytes count. */
struct runqueue_name { u64 low, high, low_mask, high_mask; };
BPF_ARRAY(runqueue_names, struct runqueue_name, RUNQUEUE_NAMES);
BPF_HASH(runqueue_since, u32, u64, 4096);

static __always_inline int runqueue_watched(u64 low, u64 high)
{
    #pragma unroll
    for (u32 place = 0; place < RUNQUEUE_NAMES; place++) {
        u32 key = place;
        struct runqueue_name *name = runqueue_names.lookup(&key);
        if (name && name->low_mask && (low & name->low_mask) == name->low
            && (high & name->high_mask) == name->high)
            return 1;
    }
    return 0;
}

static __always_inline int runqueue_woken(u64 low, u64 high, u32 pid)
{
    if (!runqueue_watched(low, high))
        return 0;
    u64 now = bpf_ktime_get_ns(), *since = runqueue_since.lookup(&pid);
    /* Woken while it waits already: it waits since the first time. */
    if (!since || *since < slice_began())
        runqueue_since.update(&pid, &now);
    return 0;
}

/* volatile: merged loads would compute an address from ctx, which the verifier refuses. */
#define RUNQUEUE_NAME_OF(field) \
    *(volatile u64 *)&args->field[0], *(volatile u64 *)&args->field[8]

int runqueue_wakeup(struct tracepoint__sched__sched_wakeup *args)
{
    return runqueue_woken(RUNQUEUE_NAME_OF(comm), args->pid);
}

int runqueue_wakeup_new(struct tracepoint__sched__sched_wakeup_new *args)
{
    return runqueue_woken(RUNQUEUE_NAME_OF(comm), args->pid);
}

int runqueue_switch(struct tracepoint__sched__sched_switch *args)
{
    u64 now = bpf_ktime_get_ns();
    if (runqueue_watched(RUNQUEUE_NAME_OF(prev_comm))) {
        u32 pid = args->prev_pid;
        u64 state = args->prev_state;
        if (!state || state & RUNQUEUE_PREEMPTED)
            runqueue_since.update(&pid, &now);
        else
            /* It was woken while it still ran: it did not wait. */
            runqueue_since.delete(&pid);
    }
    if (runqueue_watched(RUNQUEUE_NAME_OF(next_comm))) {
        u32 pid = args->next_pid;
        u64 *since = runqueue_since.lookup(&pid);
        u64 began = since ? *since : 0;
        if (since)
            runqueue_since.delete(&pid);
        if (!in_slice(now))
            return 0;
        if (began && began >= slice_began())
            observe(RUNQUEUE_ROW, now - began);
        else
            tally(RUNQUEUE_ROW, 1);
    }
    return 0;
}
"""


class Probe(Base):
    """The ``runqueue`` probe."""

    name = "runqueue"
    source = SOURCE
    hooks = (
        ("tracepoint", WAKEUP, "runqueue_wakeup"),
        ("tracepoint", NEW, "runqueue_wakeup_new"),
        ("tracepoint", SWITCH, "runqueue_switch"),
    )
    rows = 1
    hot = True

    def __init__(self, ground, options):
        names = [ground.fields(event, ("comm", "pid"))["comm"] for event in (WAKEUP, NEW)]
        needed = ("prev_comm", "prev_pid", "prev_state", "next_comm", "next_pid")
        fields = ground.fields(SWITCH, needed)
        for _, offset, length in [*names, fields["prev_comm"], fields["next_comm"]]:
            if offset % 8 or length != NAME_BYTES:
                message = "This kernel lays out the names of tasks in another way."
                raise Unavailable("no_tracepoint", message)
        self.preempted = preempted(ground.layout(SWITCH))
        self.flags = [
            "-DRUNQUEUE_NAMES=%d" % NAMES,
            "-DRUNQUEUE_PREEMPTED=(%s)" % self.preempted,
        ]
        self.watched = []

    def facts(self):
        """Which tracepoints it reads, and how this kernel marks a preempted task."""
        return {
            "variant": "tracepoints %s, sched_wakeup_new, sched_switch" % WAKEUP,
            "preempted": self.preempted,
        }

    def arm(self, maps, ends):
        """Watch the programs of the ends, and forget what is under way."""
        self.watched = sorted({end["program"] for end in ends})
        for place in range(NAMES):
            name = self.watched[place] if place < len(self.watched) else None
            put(maps["runqueue_names"], place, pack_name(name))
        maps["runqueue_since"].clear()

    def read(self, maps, rows):
        """Bins of the waits, and runs whose waiting began unseen."""
        row = rows[0]
        return {
            "programs": self.watched,
            "bins": row.bins if row else [],
            "unseen": row.tally if row else 0,
        }


def preempted(layout):
    """C expression of the state bit of a task that was switched off a CPU while it could run.

    It is another bit in almost every version; sched_switch prints a plus sign for it.
    """
    found = re.search(r'REC->prev_state & ([0-9a-fx()|+<> -]+) \? "\+"', layout)
    if not found:
        message = "This kernel's sched_switch does not tell which tasks were preempted."
        raise Unavailable("no_tracepoint", message)
    return found.group(1)


def pack_name(name):
    """A task's name as struct runqueue_name, cut as the kernel cuts it; None matches nothing."""
    if name is None:
        return struct.pack("=4Q", 0, 0, 0, 0)
    text = name.encode()[: NAME_BYTES - 1]
    mask = b"\xff" * (len(text) + 1)
    return text.ljust(NAME_BYTES, b"\0") + mask.ljust(NAME_BYTES, b"\0")
