"""Offsets of structure members in the running kernel, read from its BTF.

Format: Documentation/bpf/btf.rst. Only what is needed to find a member by name.
"""

import struct

MAGIC = 0xEB9F
STRUCT, UNION, FUNC = 4, 5, 12
# Bytes that follow the twelve of each kind; a pair: per member of the type as well.
EXTRA = {1: 4, 3: 12, 14: 4, 17: 4}
PER_MEMBER = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}


class Btf:
    """The types of one BTF blob. ValueError where it is none."""

    def __init__(self, data):
        magic, version, _, header = struct.unpack_from("=HBBI", data)
        if magic != MAGIC or version != 1:
            raise ValueError("this is no BTF of version 1")
        types, length, strings, _ = struct.unpack_from("=IIII", data, 8)
        self._data = data
        self._strings = header + strings
        self._places = [0]
        self._structs = {}
        self._functions = {}
        place, end = header + types, header + types + length
        read = struct.Struct("=III").unpack_from
        while place < end:
            name, info, _ = read(data, place)
            kind, members = info >> 24 & 0x1F, info & 0xFFFF
            if kind == STRUCT and name:
                self._structs.setdefault(name, []).append(len(self._places))
            elif kind == FUNC:
                self._functions[name] = len(self._places)
            self._places.append(place)
            place += 12 + EXTRA.get(kind, 0) + PER_MEMBER.get(kind, 0) * members
        self._by_name = {self._string(name): ids[0] for name, ids in self._structs.items()}

    def offset(self, path):
        """Byte offset of ``struct.member`` or ``struct.member.member``; KeyError when unknown."""
        name, _, rest = path.partition(".")
        number, found = self._by_name[name], 0
        for member in rest.split("."):
            place = self._find(number, member)
            if place is None:
                raise KeyError(path)
            found += place[0]
            number = self._plain(place[1])
        return found

    def function(self, name):
        """Number of the type that is the function of that name; KeyError when unknown."""
        place = self._data.find(b"\0" + name.encode() + b"\0", self._strings)
        return self._functions[place + 1 - self._strings]

    def _string(self, offset):
        start = self._strings + offset
        return self._data[start : self._data.index(b"\0", start)].decode()

    def _find(self, number, wanted):
        """Byte offset and type of a member, also within members without a name."""
        place = self._places[number]
        _, info, _ = struct.unpack_from("=III", self._data, place)
        for index in range(info & 0xFFFF):
            name, kind, bits = struct.unpack_from("=III", self._data, place + 12 + 12 * index)
            if info >> 31:  # the upper byte is the size of a bit field
                bits &= 0xFFFFFF
            if name:
                if self._string(name) == wanted:
                    return bits // 8, kind
                continue
            inner = self._plain(kind)
            if self._kind(inner) in (STRUCT, UNION):
                deeper = self._find(inner, wanted)
                if deeper is not None:
                    return bits // 8 + deeper[0], deeper[1]
        return None

    def _kind(self, number):
        return struct.unpack_from("=I", self._data, self._places[number] + 4)[0] >> 24 & 0x1F

    def _plain(self, number):
        """The type behind typedef, const, volatile, restrict and type tags."""
        while self._kind(number) in (8, 9, 10, 11, 18):
            number = struct.unpack_from("=I", self._data, self._places[number] + 8)[0]
        return number
