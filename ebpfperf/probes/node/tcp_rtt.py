#!/usr/bin/python3
"""Counts the smoothed TCP round-trip time of one flow into a histogram in the kernel.

Runs on a node under its own Python (3.6 and up) with the standard library and bcc alone; as root.
Speaks JSON, one object a line. First line out: ``ready`` with facts, or ``failed`` with a reason.
Then: ``arm`` -> ``armed``, ``read`` -> ``histogram``; ``quit`` or the end of input ends it.
Nothing on the node is changed: mounts are made in a mount namespace of this process alone.
"""

import ctypes
import glob
import json
import os
import platform
import re
import socket
import struct
import sys

SLOTS = 2
LAYOUT = "=IIHHIQII"  # struct filter
BINS = 240
COUNTERS = ("events", "warmup", "data")
EVENT = "events/tcp/tcp_probe/format"
NEEDED = ("saddr", "daddr", "sport", "dport", "srtt")
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18

# Counters: what went into the histogram; what came during the warm-up; segments with payload.
# One histogram and one set of counters per slot (an end of the flow). Log-linear bins over
# microseconds: 8 per power of two, numbered as in ebpfperf/histograms.py with bits=3.
PROGRAM = r"""
#include <uapi/linux/ptrace.h>
struct filter {
    u32 local, remote;              /* IPv4, network byte order; remote 0: any */
    u16 first, last;                /* the server's ports, host byte order */
    u32 server;                     /* 1: the server's port is the local one */
    u64 omit_ns;
    u32 armed;
    u32 pure;                       /* 1: segments without payload alone */
};
BPF_ARRAY(filters, struct filter, SLOTS);
BPF_ARRAY(first_seen, u64, SLOTS);
BPF_PERCPU_ARRAY(histogram, u64, SLOTS * BINS);
BPF_PERCPU_ARRAY(counters, u64, SLOTS * COUNTERS);

static __always_inline u32 bin_of(u32 us)
{
    u32 rest = us, top = 0;
    if (rest >> 16) { rest >>= 16; top += 16; }
    if (rest >> 8) { rest >>= 8; top += 8; }
    if (rest >> 4) { rest >>= 4; top += 4; }
    if (rest >> 2) { rest >>= 2; top += 2; }
    if (rest >> 1) { top += 1; }
    u32 shift = top > 3 ? top - 3 : 0;
    return (shift << 3) + (us >> shift);
}

static __always_inline void count(u32 which)
{
    u64 *seen = counters.lookup(&which);
    if (seen)
        *seen += 1;
}

TRACEPOINT_PROBE(tcp, tcp_probe)
{
    /* saddr and daddr hold a struct sockaddr_in, or sockaddr_in6 with an IPv4-mapped address. */
    u16 family = *(u16 *)&args->saddr[0];
    /* volatile: merged loads would compute an address from ctx, which the verifier refuses. */
    u32 local = *(volatile u32 *)&args->saddr[4], remote = *(volatile u32 *)&args->daddr[4];
    u32 prefix = *(volatile u32 *)&args->saddr[16];
    u32 mapped = *(volatile u32 *)&args->saddr[20], far = *(volatile u32 *)&args->daddr[20];
    if (family == 10 && prefix == bpf_htonl(0xffff)) {
        local = mapped;
        remote = far;
    } else if (family != 2) {
        return 0;
    }
    u16 local_port = args->sport, remote_port = args->dport;

    #pragma unroll
    for (u32 slot = 0; slot < SLOTS; slot++) {
        u32 key = slot;
        struct filter *f = filters.lookup(&key);
        if (!f || !f->armed || f->local != local || (f->remote && f->remote != remote))
            continue;
        u16 port = f->server ? local_port : remote_port;
        if (port < f->first || port > f->last)
            continue;
        u64 now = bpf_ktime_get_ns();
        u64 *begin = first_seen.lookup(&key);
        if (!begin)
            continue;
        if (!*begin)
            *begin = now;
        if (now - *begin < f->omit_ns) {
            count(slot * COUNTERS + 1);
            continue;
        }
        if (DATA_LEN) {
            count(slot * COUNTERS + 2);
            if (f->pure)
                continue;
        }
        count(slot * COUNTERS);
        u32 bin = bin_of(args->srtt);
        if (bin >= BINS)
            continue;
        u32 cell = slot * BINS + bin;
        u64 *cells = histogram.lookup(&cell);
        if (cells)
            *cells += 1;
    }
    return 0;
}
"""


class Unavailable(Exception):
    """Why the probe cannot run on this node: a short reason and a sentence."""

    def __init__(self, reason, message):
        super().__init__(message)
        self.reason = reason
        self.message = message


def say(**fields):
    """Write one JSON object as a line, at once."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


class Mounts:
    """Mounts that only this process sees: the first one gives it a mount namespace of its own."""

    def __init__(self):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.private = False

    def mount(self, kind, target):
        """Mount a file system of ``kind`` on ``target``."""
        if not self.private:
            self.call("unshare", self.libc.unshare(CLONE_NEWNS))
            self.call("mount", self.libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
            self.private = True
        done = self.libc.mount(kind.encode(), target.encode(), kind.encode(), 0, None)
        self.call("mount " + kind, done)

    @staticmethod
    def call(name, status):
        """Raise Unavailable when a libc call failed."""
        if status != 0:
            text = os.strerror(ctypes.get_errno())
            raise Unavailable("no_permission", "%s is refused: %s." % (name, text))


def trace_directory(mounts):
    """Directory of the tracing file system, mounted for this process where it is not."""
    places = ("/sys/kernel/debug/tracing", "/sys/kernel/tracing")
    for place in places:
        if os.path.isdir(os.path.join(place, "events")):
            return place
    if os.path.isdir(places[1]):
        mounts.mount("tracefs", places[1])
        if os.path.isdir(os.path.join(places[1], "events")):
            return places[1]
    raise Unavailable("no_tracefs", "The tracing file system cannot be found or mounted.")


def event_fields(directory):
    """Field name -> declaration of tcp:tcp_probe, as this kernel lays it out."""
    try:
        with open(os.path.join(directory, EVENT)) as stream:
            text = stream.read()
    except OSError:
        raise Unavailable(
            "no_tracepoint",
            "This kernel has no tracepoint tcp:tcp_probe (Linux 4.16 brought it).",
        ) from None
    found = re.findall(r"field:(.+?)\b(\w+)(\[\d+\])?;\s*offset:(\d+)", text)
    fields = {name: kind.strip() + " " + name + (size or "") for kind, name, size, _ in found}
    lacking = [name for name in NEEDED if name not in fields]
    if lacking:
        raise Unavailable("no_tracepoint", "tcp:tcp_probe has no field %s." % ", ".join(lacking))
    return fields


def release_of(directory):
    """Kernel release that a tree of headers was made for, or an empty string."""
    for name in ("include/generated/utsrelease.h", "include/config/kernel.release"):
        try:
            with open(os.path.join(directory, name)) as stream:
                text = stream.read().strip()
        except OSError:
            continue
        quoted = re.search(r'"([^"]+)"', text)
        return quoted.group(1) if quoted else text
    return ""


def kernel_headers(mounts):
    """Words on the headers that BCC will compile with; found, never installed.

    Headers of another kernel do: the program reads tracepoint arguments alone, whose layout BCC
    takes from the running kernel, and no structure of the kernel.
    """
    release = platform.release()
    modules = "/lib/modules/" + release
    built = os.path.join(modules, "build")
    if os.path.isdir(built):
        made_for = release_of(built)
        if made_for in ("", release):
            return "of this kernel"
        return "%s, found as %s" % (made_for, built)
    packed = "/sys/kernel/kheaders.tar.xz"  # BCC finds and unpacks it by itself
    if os.path.exists(packed):
        return "of this kernel, from " + packed
    trees = sorted(glob.glob("/usr/src/linux-headers-*") + glob.glob("/usr/src/kernels/*"))
    for tree in reversed(trees):
        made_for = release_of(tree)
        if not made_for:
            continue
        # Debian splits what is common to all flavours from what is this architecture's.
        split = "/usr/src/linux-headers-%s-common" % made_for.rsplit("-", 1)[0]
        source = split if os.path.isdir(split) else tree
        mounts.mount("tmpfs", "/lib/modules")
        os.mkdir(modules)
        os.symlink(tree, built)
        os.symlink(source, os.path.join(modules, "source"))
        return "%s, from %s" % (made_for, tree)
    raise Unavailable(
        "no_headers",
        "BCC needs kernel headers and finds none for %s nor any other under /usr/src." % release,
    )


class Probe:
    """The loaded program and its maps."""

    def __init__(self):
        if os.geteuid() != 0:
            raise Unavailable("no_permission", "Loading a BPF program needs root.")
        mounts = Mounts()
        fields = event_fields(trace_directory(mounts))
        headers = kernel_headers(mounts)
        try:
            import bcc
        except ImportError:
            raise Unavailable(
                "no_bcc", "This node's %s has no module bcc." % sys.executable
            ) from None
        # Bytes of payload: named "length" by the first kernels that had this tracepoint.
        payload = next(("args->" + name for name in ("data_len", "length") if name in fields), "0")
        flags = ["-DSLOTS=%d" % SLOTS, "-DBINS=%d" % BINS, "-DCOUNTERS=%d" % len(COUNTERS)]
        flags += ["-DDATA_LEN=" + payload, "-w"]
        try:
            self.bpf = bcc.BPF(text=PROGRAM, cflags=flags)
        except Exception as error:  # bcc raises bare Exception for compile and load failures
            raise Unavailable("not_loaded", "BCC cannot load the program: %s." % error) from None
        self.facts = {
            "bcc": getattr(bcc, "__version__", "unknown"),
            "headers": headers,
            "kernel": platform.release(),
            "python": platform.python_version(),
            "tracepoint": "; ".join(fields[name] for name in NEEDED),
        }
        self.missed_before = self.statistics().get("recursion_misses", 0)

    def arm(self, filters):
        """Empty the maps, then count what each filter asks for; a filter's place is its slot."""
        disarmed = struct.pack(LAYOUT, *[0] * 8)
        for slot in range(SLOTS):
            self.put("filters", slot, disarmed)
        for name in ("histogram", "counters", "first_seen"):
            self.bpf[name].clear()
        self.missed_before = self.statistics().get("recursion_misses", 0)
        for slot, wanted in enumerate(filters):
            local, remote = (
                struct.unpack("=I", socket.inet_pton(socket.AF_INET, wanted[side]))[0]
                for side in ("local", "remote")
            )
            packed = struct.pack(
                LAYOUT,
                local,
                remote,
                wanted["first_port"],
                wanted["last_port"],
                1 if wanted["server"] else 0,
                wanted["omit_ns"],
                1,
                1 if wanted["pure"] else 0,
            )
            self.put("filters", slot, packed)

    def put(self, name, slot, packed):
        """Write one element of an array map."""
        table = self.bpf[name]
        leaf = table.Leaf.from_buffer_copy(packed)
        table[table.Key(slot)] = leaf

    def read(self):
        """Histogram and counters per slot, and what the kernel could not count."""
        cells = self.sums("histogram")
        counts = self.sums("counters")
        slots = []
        for slot in range(SLOTS):
            row = cells[slot * BINS : (slot + 1) * BINS]
            first = slot * len(COUNTERS)
            found = {name: counts[first + place] for place, name in enumerate(COUNTERS)}
            found["bins"] = [[index, count] for index, count in enumerate(row) if count]
            slots.append(found)
        statistics = self.statistics()
        missed = statistics.get("recursion_misses")
        lost = None if missed is None else missed - self.missed_before
        return {"slots": slots, "lost": lost, "program": statistics}

    def sums(self, name):
        """Elements of a per-CPU array, each summed over the CPUs."""
        table = self.bpf[name]
        return [sum(table[table.Key(index)]) for index in range(len(table))]

    def statistics(self):
        """Numbers that the kernel keeps of the program: run_time_ns, run_cnt, recursion_misses."""
        (program,) = self.bpf.funcs.values()
        try:
            with open("/proc/self/fdinfo/%d" % program.fd) as stream:
                pairs = (line.split() for line in stream)
                names = ("run_time_ns", "run_cnt", "recursion_misses")
                return {p[0][:-1]: int(p[1]) for p in pairs if p and p[0][:-1] in names}
        except OSError:
            return {}


def main():
    """Load, say so, and answer until the input ends."""
    try:
        probe = Probe()
    except Unavailable as failure:
        say(event="failed", reason=failure.reason, message=failure.message)
        return
    say(event="ready", facts=probe.facts)
    while True:
        line = sys.stdin.readline()
        if not line.strip():
            return
        asked = json.loads(line)
        if asked["do"] == "quit":
            return
        try:
            if asked["do"] == "arm":
                probe.arm(asked["filters"])
                say(event="armed")
            else:
                say(event="histogram", **probe.read())
        except (OSError, KeyError, ValueError, struct.error) as failure:
            say(event="failed", reason="not_read", message="%r" % failure)


main()
