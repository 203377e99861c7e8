"""What a node counts of drops by BPF programs, read once: clsact qdiscs and Calico's own counters.

No probe: one process that reads and ends. ``ebpfperf/drop_reading.py`` sends it, with ``bpf_call``,
``attached`` and ``conditions``. Neither tc nor bpftool must be there.
Sources: include/uapi/linux/{bpf,gen_stats,pkt_sched,rtnetlink}.h.
"""

import ctypes
import os
import re
import struct
import time

import attached
import bpf_call
import conditions

MAP_LOOKUP, MAP_NEXT_KEY, OBJECT_GET, INFO_BY_FD, READ_ONLY = 1, 4, 7, 15, 8
TYPES = {5: "percpu_hash", 6: "percpu_array"}
INFO_BYTES, KEY_BYTES, WORD_BYTES = 80, 8, 8
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
    return {
        "boot_id": conditions.line("/proc/sys/kernel/random/boot_id"),
        "at_s": at_s,
        "links": links,
        "qdiscs": {names[ifindex]: held for ifindex, held in shown.items() if ifindex in names},
        "programs": programs,
        "program_ids": program_ids(),
        "counters_early": early,
        "counters": counted,
    }


def program_ids():
    """Ids of Calico's programs on devices: others than before were loaded anew."""
    try:
        found = {number for numbers in attached.hooks().values() for number in numbers}
    except OSError:
        return []
    return sorted(number for number in found if CALICO.search(conditions.program(number)))


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
    """The entries of one pinned map; OSError, also where it is no such map."""
    place = bpf_call.buffer(path.encode() + b"\0")
    asked = struct.pack("=QII", ctypes.addressof(place), 0, READ_ONLY)
    handle = bpf_call.call(OBJECT_GET, bpf_call.buffer(asked))
    try:
        kind, key_bytes, value_bytes, most = information(handle)
        if TYPES.get(kind) != "percpu_hash" or key_bytes != KEY_BYTES:
            raise OSError("its keys have %d bytes and its type is %d" % (key_bytes, kind))
        return list(walk(handle, value_bytes, most))
    finally:
        os.close(handle)


def information(handle):
    """(type, bytes of a key, bytes of a value of one processor, most entries)."""
    block = ctypes.create_string_buffer(INFO_BYTES)
    asked = struct.pack("=IIQ", handle, INFO_BYTES, ctypes.addressof(block))
    bpf_call.call(INFO_BY_FD, bpf_call.buffer(asked))
    kind, _, key_bytes, value_bytes, most = struct.unpack_from("=IIIII", block.raw)
    return kind, key_bytes, value_bytes, most


def walk(handle, value_bytes, most):
    """[ifindex, hook, sums] of every entry; one that goes meanwhile is left out."""
    words = (value_bytes + WORD_BYTES - 1) // WORD_BYTES
    processors = possible()
    key = ctypes.create_string_buffer(KEY_BYTES)
    following = ctypes.create_string_buffer(KEY_BYTES)
    values = ctypes.create_string_buffer(WORD_BYTES * words * processors)
    before, seen = 0, set()
    # An entry that goes makes the kernel begin anew: what was seen is not told twice.
    for _ in range(2 * most):
        place = struct.pack("=IIQQQ", handle, 0, before, ctypes.addressof(following), 0)
        try:
            bpf_call.call(MAP_NEXT_KEY, bpf_call.buffer(place))
        except FileNotFoundError:
            return
        key.raw = following.raw
        before = ctypes.addressof(key)
        if key.raw in seen:
            continue
        seen.add(key.raw)
        place = struct.pack("=IIQQQ", handle, 0, before, ctypes.addressof(values), 0)
        try:
            bpf_call.call(MAP_LOOKUP, bpf_call.buffer(place))
        except FileNotFoundError:
            continue
        numbers = struct.unpack("=%dQ" % (words * processors), values.raw)
        ifindex, hook = struct.unpack("=II", key.raw)
        yield [ifindex, hook, [sum(numbers[at::words]) for at in range(words)]]


def possible():
    """How many processors the kernel keeps values for."""
    count = 0
    for part in (conditions.line("/sys/devices/system/cpu/possible") or "0").split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count
