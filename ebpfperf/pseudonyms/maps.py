"""BPF maps with other addresses: the same bytes but for addresses, MACs and devices' names. Pure.

What a node printed of its maps comes back in the same form, for the same readers. A map whose
layout is not known is left out, because what is in it cannot be told from an address.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ebpfperf.calico.maps import MapVersion, version_named
from ebpfperf.errors import InputError
from ebpfperf.map_answers import unpacked
from ebpfperf.mapdump import formats
from ebpfperf.mapdump.addresses import BYTES
from ebpfperf.mapdump.conntrack import FORWARD, REVERSE
from ebpfperf.mapdump.conntrack_layout import layout
from ebpfperf.mapdump.routes import LOCAL, WORKLOAD
from ebpfperf.pseudonyms.addresses import Addresses

Bytes = npt.NDArray[np.uint8]
Keep = npt.NDArray[np.bool_]
LEFT_OUT = "left out of a bundle with pseudonyms"
_CONNTRACK_HEAD = 24
_SET_BITS = 64
_NAME_AT, _NAME_BYTES = 4, 16


def rewritten(answer: bytes, addresses: Addresses, text: Callable[[str], str]) -> bytes:
    """What ``probes/node/maps.py`` printed, with pseudonyms.

    ``text`` gives the pseudonyms of what the first line says, and of devices.

    Raises
    ------
    ValueError, KeyError, TypeError, zlib.error
        It is no such answer.
    """
    head, content = unpacked(answer)
    contents, at = [], 0
    for told in head["maps"]:
        first, second = told["sizes"]
        keys, values = content[at : at + first], content[at + first : at + first + second]
        at += first + second
        try:
            keys, values = _map(told, keys, values, addresses, text)
        except (InputError, ValueError, KeyError, TypeError, IndexError, StopIteration):
            told["error"] = told["error"] or LEFT_OUT
            keys = values = b""
        told["sizes"] = [len(keys), len(values)]
        contents += [keys, values]
    line = text(json.dumps(head)).encode()
    return line + b"\n" + zlib.compress(b"".join(contents), 6)


def _map(
    told: dict[str, Any],
    keys: bytes,
    values: bytes,
    addresses: Addresses,
    text: Callable[[str], str],
) -> tuple[bytes, bytes]:
    if told["error"]:
        return b"", b""
    version = version_named(told["name"], told["value_bytes"])
    if version is None:
        raise ValueError("the map is not known")
    if version.purpose == "counters":
        if told.get("dump"):
            raise ValueError("it has values of several processors")
        return keys, values
    if told.get("dump") == "bpftool":
        entries = formats.bpftool_json(keys)
        keys, values = entries.keys.tobytes(), entries.values.tobytes()
        del told["dump"]
    key = np.frombuffer(keys, np.uint8).reshape(-1, version.key_bytes).copy()
    value = np.frombuffer(values, np.uint8).reshape(-1, version.value_bytes).copy()
    if len(key) != len(value) or told["cpus"]:
        raise ValueError("it is of another shape")
    _Rewriting(addresses, version.family, text).of(version, key, value)
    return key.tobytes(), value.tobytes()


class _Rewriting:
    """Puts pseudonyms into keys and values of one map."""

    def __init__(self, addresses: Addresses, family: int, text: Callable[[str], str]) -> None:
        self._addresses, self._family, self._text = addresses, family, text
        self._wide = BYTES.get(family, 0)

    def of(self, version: MapVersion, key: Bytes, value: Bytes) -> None:
        """All that its layout says are addresses; KeyError for a purpose that is not known."""
        wide = self._wide
        match version.purpose:
            case "conntrack":
                self._conntrack(version, key, value)
            case "nat-frontend":
                trie = key.shape[1] > 8
                self._put(key, 4 if trie else 0)
                if trie:
                    bits = _words(key, 0).astype(np.int64) - 8 * (wide + 3)
                    self._put(key, 4 + wide + 3, bits=bits)
            case "nat-backend":
                self._put(value, 0)
            case "nat-affinity":
                self._put(key, 0)
                self._put(key, wide + 4)
                self._put(value, 0)
            case "routes":
                self._put(key, 4, bits=_words(key, 0).astype(np.int64))
                flags = _words(value, 0)
                remote = (flags & WORKLOAD != 0) & (flags & LOCAL == 0)
                self._put(value, 4, keep=remote)
            case "ip-sets":
                port = key[:, 14 + wide] != 0
                bits = _words(key, 0).astype(np.int64) - _SET_BITS
                self._put(key, 12, bits=np.where(port, 8 * wide, bits))
            case "arp":
                self._put(key, 0)
                self._macs(value)
            case "ifstate":
                self._names(value)
            case other:
                raise KeyError(other)

    def _conntrack(self, version: MapVersion, key: Bytes, value: Bytes) -> None:
        number = int(version.name[-1]) if version.name[-1].isdigit() else 1
        how = layout(number, self._family, None, first_word="created_ns")
        kind = value[:, 16]
        value[kind > REVERSE, _CONNTRACK_HEAD:] = 0
        for name in ("addr_a", "addr_b"):
            self._put(key, _offset(how.key, name))
        legs = (kind <= REVERSE) & (kind != FORWARD)
        for name in ("orig_ip", "orig_sip", "tun_ip"):
            if name in (how.value.names or ()):
                self._put(value, _offset(how.value, name), keep=legs)
        for name in ("rev_addr_a", "rev_addr_b"):
            self._put(value, _offset(how.forward, name), keep=kind == FORWARD)

    def _put(
        self,
        table: Bytes,
        at: int,
        *,
        keep: Keep | None = None,
        bits: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Pseudonyms of a column of addresses; ``bits``: they are networks of that length."""
        wide, rows = self._wide, np.arange(len(table)) if keep is None else np.flatnonzero(keep)
        if not len(rows):
            return
        column = np.ascontiguousarray(table[rows, at : at + wide])
        if bits is not None:
            lengths = bits[rows].clip(0, 8 * wide).astype(np.uint8)
            column = np.hstack([column, lengths[:, None]])
        singles, places = np.unique(column, axis=0, return_inverse=True)
        mapped = [self._one(each.tobytes()) for each in singles]
        octets = np.frombuffer(b"".join(mapped), np.uint8).reshape(-1, wide)
        table[rows, at : at + wide] = octets[places.reshape(-1)]

    def _one(self, found: bytes) -> bytes:
        number = int.from_bytes(found[: self._wide], "big")
        if len(found) > self._wide:
            mapped = self._addresses.network(self._family, number, found[self._wide])
        else:
            mapped = self._addresses.number(self._family, number)
        return mapped.to_bytes(self._wide, "big")

    def _macs(self, value: Bytes) -> None:
        for row in value:
            for at in (0, 6):
                mac = self._addresses.mac(row[at : at + 6].tobytes().hex(":"))
                row[at : at + 6] = np.frombuffer(bytes.fromhex(mac.replace(":", "")), np.uint8)

    def _names(self, value: Bytes) -> None:
        if value.shape[1] < _NAME_AT + _NAME_BYTES:
            return
        for row in value:
            name = row[_NAME_AT : _NAME_AT + _NAME_BYTES].tobytes().rstrip(b"\0")
            other = self._text(name.decode("utf-8", "replace")).encode()[:_NAME_BYTES]
            padded = other.ljust(_NAME_BYTES, b"\0")
            row[_NAME_AT : _NAME_AT + _NAME_BYTES] = np.frombuffer(padded, np.uint8)


def _words(table: Bytes, at: int) -> npt.NDArray[np.uint32]:
    found = np.ascontiguousarray(table[:, at : at + 4]).view("<u4").reshape(-1)
    return found.astype(np.uint32)


def _offset(kind: np.dtype[Any], name: str) -> int:
    assert kind.fields is not None
    return int(kind.fields[name][1])
