"""What a node counts of drops by BPF programs, read once: clsact qdiscs and Calico's own counters.

No probe: one process that reads and ends. ``ebpfperf/drop_reading.py`` sends it, with
``conditions`` and ``maps``. Neither tc nor bpftool must be there.
Sources: include/uapi/linux/{bpf,gen_stats,pkt_sched,rtnetlink}.h.
"""

import os
import re
import struct
import time

import attached
import bpf_call
import conditions
import maps

KEY_BYTES, WORD_BYTES = 8, 8
STATS, BASIC, QUEUE, PACKETS = 7, 1, 3, 8
KINDS = ("clsact", "ingress")
CALICO = re.compile(r"cali|^(from|to)_(wep|hep|tnl|wg)_")


def read(asked):
    """All of it, as JSON can hold it.

    The counters are read before and after the qdiscs, so that of two readings the time of the
    qdiscs can be laid within that of the counters: what they dropped more was then not counted.
    """
    sight = conditions.Sight()
    links = {name: found[0] for name, found in sight.links.items()}
    programs = {name: sight.programs(ifindex) for name, ifindex in links.items()}
    early = counters(asked["directory"], asked["pin"])
    shown = qdiscs(sight.wire)
    at_s = time.monotonic()
    counted = counters(asked["directory"], asked["pin"])
    sight.close()
    names = {ifindex: name for name, ifindex in links.items()}
    times = program_times()
    return {
        "boot_id": conditions.line("/proc/sys/kernel/random/boot_id"),
        "at_s": at_s,
        "links": links,
        "qdiscs": {names[ifindex]: held for ifindex, held in shown.items() if ifindex in names},
        "programs": programs,
        "program_ids": sorted(times),
        "program_times": times,
        "counters_early": early,
        "counters": counted,
    }


def program_times():
    """Id -> [hook, name, nanoseconds, runs] of Calico's programs on devices.

    Others than before were loaded anew. Times grow only while the kernel is told to take them.
    """
    found = {}
    try:
        for hook, numbers in attached.hooks().items():
            for number in numbers:
                known = bpf_call.statistics(number)
                if known and CALICO.search(known[0]):
                    found[number] = [hook, *known]
    except OSError:
        return {}
    return found


def qdiscs(wire):
    """Ifindex -> [packets, packets dropped] of the qdiscs that programs hang at."""
    found = {}
    for body in attached.dump(wire, conditions.GETQDISC, struct.pack("=BxxxiIII", 0, 0, 0, 0, 0)):
        (ifindex,) = struct.unpack_from("=i", body, 4)
        parts = attached.attributes(body, 20)
        if attached.text(parts.get(attached.TCA_KIND, b"")) not in KINDS:
            continue
        stats = attached.attributes(parts.get(STATS, b""), 0)
        packets = struct.unpack_from("=I", stats[BASIC], 8)[0] if BASIC in stats else 0
        if PACKETS in stats:
            (packets,) = struct.unpack_from("=Q", stats[PACKETS])
        dropped = struct.unpack_from("=I", stats[QUEUE], 8)[0] if QUEUE in stats else 0
        found[ifindex] = [packets, dropped]
    return found


def counters(directory, pin):
    """Name -> [[ifindex, hook, [sums over processors]]] of the maps pinned so, or why not."""
    found = {}
    for name in conditions.listed(directory):
        if not name.startswith(pin):
            continue
        try:
            found[name] = entries(directory + "/" + name)
        except OSError as error:
            found[name] = str(error)
    return found


def entries(path):
    """The entries of one pinned map; OSError, also where it is no such map.

    One by one: a batch would hold memory for thousands of entries of every processor.
    """
    handle = maps.opened(path)
    try:
        told = maps.information(handle)
        if told["kind"] != "percpu_hash" or told["key_bytes"] != KEY_BYTES:
            raise OSError("it is a %(kind)s with keys of %(key_bytes)d bytes" % told)
        keys, values = maps.one_by_one(handle, told, told["max_entries"])
    finally:
        os.close(handle)
    words = (told["value_bytes"] + WORD_BYTES - 1) // WORD_BYTES
    width = maps.stride(told)
    found = []
    for at in range(len(keys) // KEY_BYTES):
        ifindex, hook = struct.unpack_from("=II", keys, at * KEY_BYTES)
        numbers = struct.unpack_from("=%dQ" % (width // WORD_BYTES), values, at * width)
        found.append([ifindex, hook, [sum(numbers[word::words]) for word in range(words)]])
    return found
