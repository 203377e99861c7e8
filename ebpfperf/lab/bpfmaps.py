"""BPF maps by the kernel's own call, bpf(2): made, pinned, read and written from this process.

A node's BPF file system is reached through ``/proc/<pid>/root`` of its holder: a map needs no
namespace, only its pin does.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path

from ebpfperf.errors import LabError

_CALLS = {"x86_64": 321, "aarch64": 280}
_CREATE, _LOOKUP, _UPDATE, _DELETE, _NEXT_KEY, _PIN, _GET = 0, 1, 2, 3, 4, 6, 7
_UPDATE_BATCH, _DELETE_BATCH = 26, 27
_INFO_BY_HANDLE, _LINK_CREATE, _LINK_UPDATE = 15, 28, 29
_KINDS = {
    "hash": 1,
    "array": 2,
    "percpu_hash": 5,
    "percpu_array": 6,
    "lru_hash": 9,
    "lpm_trie": 11,
}
# So many entries are written or removed by one call.
_BATCH = 16_384
_libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attributes: bytes) -> int:
    """What the call returns; OSError with the kernel's reason when it refuses."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    number = _CALLS[platform.machine()]
    result = int(_libc.syscall(number, command, buffer, len(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


class Map:
    """One map, open. Keys and values are bytes; per-CPU maps have one value for each CPU."""

    def __init__(self, handle: int, *, key_bytes: int, value_bytes: int, per_cpu: bool) -> None:
        self._handle = handle
        self._key_bytes = key_bytes
        # The kernel pads a CPU's value to eight bytes, for every possible CPU.
        self._value_bytes = -(-value_bytes // 8) * 8 * possible_cpus() if per_cpu else value_bytes

    @classmethod
    def create(
        cls, name: str, kind: str, *, key_bytes: int, value_bytes: int, entries: int, flags: int
    ) -> Map:
        """A new map; LabError when the kernel refuses it."""
        attributes = struct.pack(
            "<IIIIIII16s",
            *(_KINDS[kind], key_bytes, value_bytes, entries, flags, 0, 0),
            name.encode(),
        )
        try:
            handle = bpf(_CREATE, attributes)
        except OSError as error:
            raise LabError(
                f"The kernel refuses the BPF map {name}: {error.strerror}.",
                "The eBPF dataplane needs root and a kernel with BPF.",
            ) from error
        per_cpu = kind.startswith("percpu")
        return cls(handle, key_bytes=key_bytes, value_bytes=value_bytes, per_cpu=per_cpu)

    def pin(self, path: Path) -> None:
        """Make it findable there; OSError when something is in the way."""
        text = ctypes.create_string_buffer(str(path).encode())
        bpf(_PIN, struct.pack("<QII", ctypes.addressof(text), self._handle, 0))

    def again(self) -> Map:
        """The same map by a handle of its own, which is closed by itself."""
        other = copy(self)
        other._handle = os.dup(self._handle)
        return other

    def close(self) -> None:
        """Let go of it; a pinned map stays."""
        os.close(self._handle)

    def get(self, key: bytes) -> bytes | None:
        """The value, None where there is none."""
        value = ctypes.create_string_buffer(self._value_bytes)
        try:
            self._element(_LOOKUP, key, value)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return value.raw

    def put(self, key: bytes, value: bytes) -> None:
        """Write an entry, new or not; a per-CPU value is written to every CPU."""
        whole = value * (self._value_bytes // len(value)) if value else value
        self._element(_UPDATE, key, ctypes.create_string_buffer(whole, len(whole)))

    def delete(self, key: bytes) -> None:
        """Remove an entry, if it is there."""
        try:
            self._element(_DELETE, key, None)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def keys(self) -> Iterator[bytes]:
        """Each key, as far as the map holds still meanwhile."""
        before: ctypes.Array[ctypes.c_char] | None = None
        after = ctypes.create_string_buffer(self._key_bytes)
        while True:
            start = ctypes.addressof(before) if before is not None else 0
            attributes = struct.pack("<IIQQ", self._handle, 0, start, ctypes.addressof(after))
            try:
                bpf(_NEXT_KEY, attributes)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return
                raise
            yield after.raw
            before = ctypes.create_string_buffer(after.raw, self._key_bytes)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Each key with its value."""
        # A key that is deleted while walking sends the walk to the beginning: keys first.
        for key in list(self.keys()):
            value = self.get(key)
            if value is not None:
                yield key, value

    def replace(self, entries: dict[bytes, bytes]) -> None:
        """Make the map hold exactly these; what stays the same is not touched."""
        for key in list(self.keys()):
            if key not in entries:
                self.delete(key)
        self.add(entries)

    def add(self, entries: Mapping[bytes, bytes]) -> None:
        """Write these beside what the map holds; what stays the same is not touched."""
        for key, value in entries.items():
            if self.get(key) != value:
                self.put(key, value)

    def put_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Write entries, many at once; those of one CPU's value only."""
        pairs = list(entries.items())
        for start in range(0, len(pairs), _BATCH):
            part = pairs[start : start + _BATCH]
            values = b"".join(value for _, value in part)
            self._batch(_UPDATE_BATCH, b"".join(key for key, _ in part), values, len(part))

    def delete_many(self, keys: Sequence[bytes]) -> None:
        """Remove entries, many at once; those that are not there are no matter."""
        start = 0
        while start < len(keys):
            part = keys[start : start + _BATCH]
            done = self._batch(_DELETE_BATCH, b"".join(part), b"", len(part))
            # The kernel stops at a key that is not there.
            start += done + (done < len(part))

    def _batch(self, command: int, keys: bytes, values: bytes, count: int) -> int:
        """How many were done; fewer than ``count`` where one was not there."""
        spaces = [ctypes.create_string_buffer(each, len(each)) for each in (keys, values)]
        attributes = ctypes.create_string_buffer(
            struct.pack(
                "<QQQQIIQQ",
                *(0, 0, *(ctypes.addressof(space) for space in spaces)),
                *(count, self._handle, 0, 0),
            )
        )
        result = int(
            _libc.syscall(_CALLS[platform.machine()], command, attributes, len(attributes) - 1)
        )
        if result < 0 and (code := ctypes.get_errno()) != errno.ENOENT:
            raise OSError(code, os.strerror(code))
        return int(struct.unpack_from("<I", attributes.raw, 32)[0])

    def _element(self, command: int, key: bytes, value: ctypes.Array[ctypes.c_char] | None) -> None:
        text = ctypes.create_string_buffer(key, len(key))
        address = ctypes.addressof(value) if value is not None else 0
        bpf(command, struct.pack("<IIQQQ", self._handle, 0, ctypes.addressof(text), address, 0))


def open_pinned(path: Path) -> int:
    """A handle of the object pinned there, to be closed; OSError where there is none."""
    text = ctypes.create_string_buffer(str(path).encode())
    return bpf(_GET, struct.pack("<QII", ctypes.addressof(text), 0, 0))


def link_create(program: int, ifindex: int, attach_type: int) -> int:
    """A handle of the new link of a program to a device of this thread's namespace."""
    return bpf(_LINK_CREATE, struct.pack("<IIII16x", program, ifindex, attach_type, 0))


def link_update(link: int, program: int) -> None:
    """Put another program in a link's place, without a packet in between."""
    bpf(_LINK_UPDATE, struct.pack("<IIII", link, program, 0, 0))


def pin(handle: int, path: Path) -> None:
    """Make an open program or link findable there."""
    text = ctypes.create_string_buffer(str(path).encode())
    bpf(_PIN, struct.pack("<QII", ctypes.addressof(text), handle, 0))


def possible_cpus() -> int:
    """How many CPUs the kernel keeps values for."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return int(text.replace(",", "-").split("-")[-1]) + 1


def program_id(path: Path) -> int:
    """The kernel's number of the program pinned there."""
    handle = open_pinned(path)
    try:
        info = ctypes.create_string_buffer(8)
        bpf(_INFO_BY_HANDLE, struct.pack("<IIQ", handle, len(info), ctypes.addressof(info)))
        return int(struct.unpack_from("<I", info.raw, 4)[0])
    finally:
        os.close(handle)
