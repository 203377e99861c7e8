"""The kernel's own call, bpf(2), for what BCC does not offer: program statistics, links, trials.

Source: include/uapi/linux/bpf.h.
"""

import ctypes
import os
import platform
import struct

CALLS = {"x86_64": 321, "aarch64": 280, "s390x": 351, "ppc64le": 361, "riscv64": 280}
PROG_LOAD, PROG_NEXT_ID, PROG_BY_ID, INFO_BY_FD = 5, 11, 13, 15
PROG_QUERY, RAW_TRACEPOINT_OPEN, ENABLE_STATS = 16, 17, 32
RUN_TIME = 0
TRACING, KINDS = 26, {"fentry": 24, "fexit": 25}
INFO_BYTES, NAME_AT, TIMES_AT = 208, 64, 192
LIMIT = 64  # programs on one hook

libc = ctypes.CDLL(None, use_errno=True)


def call(command, attributes):
    """What bpf(2) returns; OSError with the kernel's reason where it refuses."""
    number = CALLS.get(platform.machine())
    if number is None:
        raise OSError("the number of bpf(2) on %s is not known" % platform.machine())
    done = libc.syscall(number, command, attributes, len(attributes))
    if done < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return done


def buffer(packed):
    """Bytes that the kernel may write into."""
    return ctypes.create_string_buffer(packed, len(packed))


def enable_statistics():
    """A descriptor: while it is open the kernel counts runs of programs (Linux 5.8); OSError."""
    return call(ENABLE_STATS, buffer(struct.pack("=I", RUN_TIME)))


def statistics(number):
    """(name, nanoseconds, runs) of the program of that id; None when it is gone; OSError."""
    try:
        handle = call(PROG_BY_ID, buffer(struct.pack("=III", number, 0, 0)))
    except FileNotFoundError:
        return None
    try:
        info = ctypes.create_string_buffer(INFO_BYTES)
        call(INFO_BY_FD, buffer(struct.pack("=IIQ", handle, INFO_BYTES, ctypes.addressof(info))))
    finally:
        os.close(handle)
    name = info.raw[NAME_AT : NAME_AT + 16].split(b"\0")[0].decode("ascii", "replace")
    nanoseconds, runs = struct.unpack_from("=QQ", info.raw, TIMES_AT)
    return name, nanoseconds, runs


def on_device(ifindex, kind):
    """Ids of the programs in a device's hook of that attach type, of this thread's namespace.

    Empty where the kernel has no such hook (TCX: Linux 6.6).
    """
    ids = (ctypes.c_uint32 * LIMIT)()
    asked = struct.pack("=IIIIQII", ifindex, kind, 0, 0, ctypes.addressof(ids), LIMIT, 0)
    attributes = buffer(asked + bytes(32))
    try:
        call(PROG_QUERY, attributes)
    except OSError:
        return []
    (count,) = struct.unpack_from("=I", attributes.raw, 24)
    return list(ids)[:count]


def load_tracing(code, type_id, kind):
    """A descriptor of a program for a function of the kernel; OSError with the verifier's reason.

    ``type_id`` is the function's number in the kernel's BTF, ``kind`` is ``fentry`` or ``fexit``.
    """
    code, licence = buffer(code), buffer(b"GPL\0")
    places = ctypes.addressof(code), ctypes.addressof(licence)
    attributes = struct.pack("=IIQQ", TRACING, len(code) // 8, *places)
    attributes += struct.pack("=IIQII", 0, 0, 0, 0, 0)  # no log; any version; no flags
    attributes += struct.pack("=16sIIIIQIIQII", b"", 0, KINDS[kind], 0, 0, 0, 0, 0, 0, 0, type_id)
    return call(PROG_LOAD, buffer(attributes))


def attach_tracing(program):
    """A descriptor: while it is open the program runs; OSError."""
    return call(RAW_TRACEPOINT_OPEN, buffer(struct.pack("=QII", 0, program, 0)))
