"""Counting in the kernel: the C that all probes share, and the reading of what it counted.

One per-CPU hash holds every histogram and every tally of all probes on this kernel. A probe owns a
number of rows, from ``<NAME>_ROW`` on; a row has log-linear bins (numbered as in
ebpfperf/histograms.py with bits=3 over nanoseconds, so at most 12.5 % wide) and one tally. Only
cells that were touched exist, so that reading is quick.
"""

import ctypes
import socket
import struct

ENDS = 2
END_LAYOUT = "=IIHHII"  # struct flow_end
MOMENT_LAYOUT = "=QQQQQ"  # struct moment
ALWAYS = (1 << 64) - 1
ROW_SHIFT, TALLY = 9, 511
ROW_LIMIT = 1024

SOURCE = r"""
#include <uapi/linux/ptrace.h>
struct flow_end {
    u32 local, remote;          /* IPv4, network byte order; remote 0: any */
    u16 first, last;            /* the server's ports, host byte order */
    u32 server;                 /* 1: the server's port is the local one */
    u32 armed;
};
struct moment { u64 opened, omit, length, slice, until; };
BPF_ARRAY(flow_ends, struct flow_end, ENDS);
BPF_ARRAY(moments, struct moment, 1);
BPF_TABLE("percpu_hash", u32, u64, cells, 16384);

static __always_inline u32 bin_of(u64 value)
{
    u64 rest = value;
    u32 top = 0;
    if (rest >> 32) { rest >>= 32; top += 32; }
    if (rest >> 16) { rest >>= 16; top += 16; }
    if (rest >> 8) { rest >>= 8; top += 8; }
    if (rest >> 4) { rest >>= 4; top += 4; }
    if (rest >> 2) { rest >>= 2; top += 2; }
    if (rest >> 1) { top += 1; }
    u32 shift = top > 3 ? top - 3 : 0;
    return (shift << 3) + (value >> shift);
}

static __always_inline void cell_add(u32 key, u64 number)
{
    u64 *cell = cells.lookup(&key);
    if (!cell) {
        /* Refused where another CPU, or an interrupt of this one, was first: no count is lost. */
        u64 zero = 0;
        cells.insert(&key, &zero);
        cell = cells.lookup(&key);
    }
    if (cell)
        __sync_fetch_and_add(cell, number);
}

/* Add one observation of so many nanoseconds to a row. */
static __always_inline void observe(u32 row, u64 ns)
{
    cell_add(row << 9 | bin_of(ns), 1);
}

/* Add a number to a row's tally. */
static __always_inline void tally(u32 row, u64 number)
{
    cell_add(row << 9 | 511, number);
}

/* Whether the traffic's steady window is open. */
static __always_inline int counting(u64 now)
{
    u32 zero = 0;
    struct moment *m = moments.lookup(&zero);
    return m && m->opened && now - m->opened >= m->omit && now - m->opened - m->omit < m->length;
}

/* Whether it is also the turn of this hot probe. Its hooks are there for longer: they come and go
   one after the other. */
static __always_inline int in_slice(u64 now)
{
    u32 zero = 0;
    struct moment *m = moments.lookup(&zero);
    return m && now >= m->slice && now < m->until && counting(now);
}

/* When the probe's present slice of time began: what is older was begun before it was watched. */
static __always_inline u64 slice_began(void)
{
    u32 zero = 0;
    struct moment *m = moments.lookup(&zero);
    return m ? m->slice : 0;
}

/* Place (0, 1) of the flow's end that these addresses and ports are seen at, or -1. */
static __always_inline int end_of(u32 local, u32 remote, u16 local_port, u16 remote_port)
{
    #pragma unroll
    for (u32 place = 0; place < ENDS; place++) {
        u32 key = place;
        struct flow_end *end = flow_ends.lookup(&key);
        if (!end || !end->armed || end->local != local || (end->remote && end->remote != remote))
            continue;
        u16 port = end->server ? local_port : remote_port;
        if (port >= end->first && port <= end->last)
            return place;
    }
    return -1;
}

/* Place of the flow's end that a tcp_probe event is seen at, or -1. saddr and daddr hold a struct
   sockaddr_in, or a sockaddr_in6 with an IPv4-mapped address. volatile: merged loads would compute
   an address from ctx, which the verifier refuses. */
#define END_OF_SEGMENT(args) ({                                                         \
    u16 family = *(u16 *)&(args)->saddr[0];                                             \
    u32 local = *(volatile u32 *)&(args)->saddr[4];                                     \
    u32 remote = *(volatile u32 *)&(args)->daddr[4];                                    \
    u32 prefix = *(volatile u32 *)&(args)->saddr[16];                                   \
    u32 mapped = *(volatile u32 *)&(args)->saddr[20];                                   \
    u32 far = *(volatile u32 *)&(args)->daddr[20];                                      \
    u16 local_port = (args)->sport, remote_port = (args)->dport;                        \
    if (family == 10 && prefix == bpf_htonl(0xffff)) {                                  \
        local = mapped;                                                                 \
        remote = far;                                                                   \
        family = 2;                                                                     \
    }                                                                                   \
    family == 2 ? end_of(local, remote, local_port, remote_port) : -1;                  \
})

/* The window opens with the first segment of the flow that is received. */
int opening_data(struct tracepoint__tcp__tcp_probe *args)
{
    if (END_OF_SEGMENT(args) < 0)
        return 0;
    u32 zero = 0;
    struct moment *m = moments.lookup(&zero);
    if (m && !m->opened)
        m->opened = bpf_ktime_get_ns();
    return 0;
}

/* The window opens with the flow's first connection. */
int opening_connection(struct tracepoint__sock__inet_sock_set_state *args)
{
    if (args->newstate != 1)
        return 0;
    /* volatile: merged loads would compute an address from ctx, which the verifier refuses. */
    u32 local = *(volatile u32 *)&args->saddr[0], remote = *(volatile u32 *)&args->daddr[0];
    u16 local_port = args->sport, remote_port = args->dport;
    if (end_of(local, remote, local_port, remote_port) < 0)
        return 0;
    u32 zero = 0;
    struct moment *m = moments.lookup(&zero);
    if (m && !m->opened)
        m->opened = bpf_ktime_get_ns();
    return 0;
}
"""
# What the window opens with -> the hook that sees it.
OPENINGS = {
    "connection": ("tracepoint", "sock:inet_sock_set_state", "opening_connection"),
    "data": ("tracepoint", "tcp:tcp_probe", "opening_data"),
}


class Row:
    """One row: (bin number, count) pairs in order, and the tally."""

    def __init__(self):
        self.bins = []
        self.tally = 0

    @property
    def events(self):
        """Number of observations."""
        return sum(count for _, count in self.bins)


def rows_of(bpf):
    """Row number -> Row of all that was counted, summed over the CPUs."""
    found = {}
    for key, values in bpf["cells"].items():
        row = found.setdefault(key.value >> ROW_SHIFT, Row())
        number = sum(values)
        if key.value & TALLY == TALLY:
            row.tally = number
        elif number:
            row.bins.append([key.value & TALLY, number])
    for row in found.values():
        row.bins.sort()
    return found


def put(table, key, packed):
    """Write one element of a map from its bytes."""
    leaf = table.Leaf.from_buffer_copy(packed)
    table[table.Key(key) if issubclass(table.Key, ctypes._SimpleCData) else key] = leaf


def pack_end(end):
    """An end of the flow as struct flow_end; None is an empty place."""
    if end is None:
        return struct.pack(END_LAYOUT, *[0] * 6)
    local, remote = (
        struct.unpack("=I", socket.inet_pton(socket.AF_INET, end[side]))[0]
        for side in ("local", "remote")
    )
    ports = end["first_port"], end["last_port"]
    return struct.pack(END_LAYOUT, local, remote, ports[0], ports[1], int(end["server"]), 1)
