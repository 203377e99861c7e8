"""Pinned BPF maps read whole, by bpf(2): in batches, one by one, or by bpftool.

No probe: one process that reads and ends; it opens maps for reading alone and changes nothing.
``ebpfperf/map_reading.py`` sends it, with ``bpf_call``, and says which pins are wanted. It prints
one line of JSON and then, compressed, for each map all keys and all values (of every processor).
Source: include/uapi/linux/bpf.h.
"""

import ctypes
import errno
import json
import os
import socket
import struct
import subprocess
import sys
import time
import zlib

import bpf_call

LOOKUP, NEXT_KEY, OBJECT_GET, INFO, LOOKUP_BATCH = 1, 4, 7, 15, 24
READ_ONLY = 1 << 3
INFO_BYTES = 88
BATCH = 8192
# include/uapi/linux/bpf.h, enum bpf_map_type.
KINDS = {1: "hash", 2: "array", 5: "percpu_hash", 6: "percpu_array", 9: "lru_hash",
         10: "lru_percpu_hash", 11: "lpm_trie"}  # fmt: skip
PER_CPU = (5, 6, 10)
POSSIBLE = "/sys/devices/system/cpu/possible"
BPFTOOL_S = 60


def main(asked):
    """Prints the maps that are pinned of each group of names: the first that is there."""
    try:
        pinned = sorted(os.listdir(asked["directory"]))
        reason = ""
    except OSError as error:
        pinned, reason = [], "%s: %s" % (asked["directory"], error.strerror)
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    maps, contents = [], []
    for group in asked["groups"]:
        there = [name for name in group if name in pinned]
        if not there:
            continue
        path = os.path.join(asked["directory"], there[0])
        told, keys, values = read(path, asked["most_entries"])
        told.update(name=there[0], others=there[1:], sizes=[len(keys), len(values)])
        maps.append(told)
        contents += [keys, values]
    head = {
        "maps": maps,
        "reason": reason,
        "pinned": pinned,
        "now_ns": int(now * 1e9),
        "interfaces": interfaces(),
    }
    out = sys.stdout.buffer
    out.write(json.dumps(head).encode() + b"\n")
    packer = zlib.compressobj(1)
    for content in contents:
        out.write(packer.compress(content))
    out.write(packer.flush())


def read(path, most):
    """What there is to say of a map, its keys and its values."""
    try:
        handle = opened(path)
    except OSError as error:
        return by_bpftool(path, str(error))
    try:
        told = information(handle)
        try:
            keys, values = by_batch(handle, told, most)
            told["how"] = "bpf(2), in batches"
        except OSError as error:
            # Linux before 5.6, and types of map that have no batches.
            told["how"] = "bpf(2), one by one (no batches: %s)" % error.strerror
            keys, values = one_by_one(handle, told, most)
    except OSError as error:
        return by_bpftool(path, str(error))
    finally:
        os.close(handle)
    return told, keys, values


def opened(path):
    """A descriptor of a pinned map, for reading alone; OSError."""
    name = bpf_call.buffer(path.encode() + b"\0")
    attributes = struct.pack("=QII", ctypes.addressof(name), 0, READ_ONLY)
    return bpf_call.call(OBJECT_GET, bpf_call.buffer(attributes))


def information(handle):
    """Type, sizes and bounds of a map; OSError."""
    info = ctypes.create_string_buffer(INFO_BYTES)
    attributes = struct.pack("=IIQ", handle, INFO_BYTES, ctypes.addressof(info))
    bpf_call.call(INFO, bpf_call.buffer(attributes))
    kind, number, key, value, entries = struct.unpack_from("=IIIII", info.raw)
    return {
        "kind": KINDS.get(kind, "type %d" % kind),
        "id": number,
        "key_bytes": key,
        "value_bytes": value,
        "max_entries": entries,
        "cpus": processors() if kind in PER_CPU else 0,
        "error": "",
        "cut": False,
    }


def stride(told):
    """Bytes of an entry's values: the kernel gives a multiple of eight for each processor."""
    if told["cpus"]:
        return (told["value_bytes"] + 7) // 8 * 8 * told["cpus"]
    return told["value_bytes"]


def by_batch(handle, told, most):
    """All keys and all values; OSError where the kernel or the map has no batches."""
    key, value, size = told["key_bytes"], stride(told), BATCH
    # Where the next batch begins: of a hash a number, of a trie a key.
    places = [ctypes.create_string_buffer(max(key, 8)) for _ in range(2)]
    keys, values, count, first = [], [], 0, True
    while True:
        some_keys = ctypes.create_string_buffer(key * size)
        some_values = ctypes.create_string_buffer(value * size)
        start = 0 if first else ctypes.addressof(places[0])
        fields = (start, ctypes.addressof(places[1]), ctypes.addressof(some_keys),
                  ctypes.addressof(some_values), size, handle, 0, 0)  # fmt: skip
        attributes = bpf_call.buffer(struct.pack("=QQQQIIQQ", *fields))
        ended = False
        try:
            bpf_call.call(LOOKUP_BATCH, attributes)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                # One bucket of the hash has more than a batch holds.
                size *= 2
                continue
            if error.errno != errno.ENOENT:
                raise
            ended = True
        (found,) = struct.unpack_from("=I", attributes.raw, 32)
        keys.append(some_keys.raw[: found * key])
        values.append(some_values.raw[: found * value])
        count += found
        if ended:
            break
        if count >= most:
            told["cut"] = True
            break
        places.reverse()
        first = False
    return b"".join(keys), b"".join(values)


def one_by_one(handle, told, most):
    """All keys and all values; an entry that goes meanwhile is left out."""
    key, value = told["key_bytes"], stride(told)
    here, after = ctypes.create_string_buffer(key), ctypes.create_string_buffer(key)
    content = ctypes.create_string_buffer(value)
    keys, values, seen, first = [], [], set(), True
    while True:
        start = 0 if first else ctypes.addressof(here)
        asked = struct.pack("=IIQQQ", handle, 0, start, ctypes.addressof(after), 0)
        try:
            bpf_call.call(NEXT_KEY, bpf_call.buffer(asked))
        except OSError as error:
            if error.errno == errno.ENOENT:
                break
            raise
        first = False
        here, after = after, here
        # From a key that has gone meanwhile the kernel begins anew.
        if here.raw in seen:
            if len(seen) >= told["max_entries"]:
                break
            told["again"] = told.get("again", 0) + 1
            if told["again"] > told["max_entries"]:
                told["cut"] = True
                break
            continue
        seen.add(here.raw)
        asked = struct.pack("=IIQQQ", handle, 0, ctypes.addressof(here),
                            ctypes.addressof(content), 0)  # fmt: skip
        try:
            bpf_call.call(LOOKUP, bpf_call.buffer(asked))
        except OSError as error:
            if error.errno == errno.ENOENT:
                continue
            raise
        keys.append(here.raw)
        values.append(content.raw)
        if len(keys) >= most:
            told["cut"] = True
            break
    return b"".join(keys), b"".join(values)


def by_bpftool(path, reason):
    """What bpftool prints of a map, as its ``keys``; an error where it is not there either."""
    told = {"how": "bpftool (bpf(2): %s)" % reason, "error": "", "cut": False}
    try:
        shown = tool("show", path)
        told.update(
            kind=shown["type"], id=shown["id"], key_bytes=shown["bytes_key"],
            value_bytes=shown["bytes_value"], max_entries=shown["max_entries"], cpus=0,
        )  # fmt: skip
        text = subprocess.check_output(
            ["bpftool", "-j", "map", "dump", "pinned", path], timeout=BPFTOOL_S
        )
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        told["error"] = "bpf(2): %s; bpftool: %s" % (reason, error)
        return told, b"", b""
    told["dump"] = "bpftool"
    return told, text, b""


def tool(what, path):
    """What bpftool tells of a pinned map."""
    text = subprocess.check_output(
        ["bpftool", "-j", "map", what, "pinned", path], timeout=BPFTOOL_S
    )
    return json.loads(text.decode())


def processors():
    """How many values a map with one for each processor has."""
    with open(POSSIBLE) as found:
        last = found.read().strip().split(",")[-1]
    return int(last.split("-")[-1]) + 1


def interfaces():
    """Number → name, of this network namespace."""
    return dict(socket.if_nameindex())
