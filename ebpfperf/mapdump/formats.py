"""Dumps of a map as bytes: bpftool's JSON, bpftool's plain text, and raw keys and values.

A dump that ends in the middle gives the entries before its end, marked as partial.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from typing import Any

import numpy as np
import orjson

from ebpfperf.errors import InputError
from ebpfperf.mapdump.entries import Bytes, Entries

# The octet of two hexadecimal digits, by both characters as one little-endian number; above 255
# for what is none.
_NO_DIGITS = 256
_OCTETS = np.full(1 << 16, _NO_DIGITS, np.uint16)
for _octet in range(256):
    for _text in {f"{_octet:02x}", f"{_octet:02X}"}:
        _OCTETS[int.from_bytes(_text.encode(), "little")] = _octet
# So many entries at once, so that all of them stay in the processor's cache.
_ROWS = 512

# What is left of dumps that follow each other, without their entries.
_LISTS = re.compile(r"(?:\s*\[[\s,]*\])*\s*")
_EMPTY = re.compile(rb"\s*\[\s*\]\s*")
_HEX_LINE = re.compile(r"(?:[0-9a-f]{2}\s+)*[0-9a-f]{2}")
_LABEL = re.compile(r"(key|value(?: \(CPU \d+\))?):\s*")
_AGAIN = "Dump it again with: bpftool -j map dump pinned PATH."


def is_bytes(data: bytes) -> bool:
    """Whether a dump is raw bytes: no text has a zero among them."""
    return b"\0" in data


def is_gzip(data: bytes) -> bool:
    """Whether a dump is packed; keys of a map that only begin so are not."""
    try:
        return data[:3] == b"\x1f\x8b\x08" and bool(zlib.decompressobj(31).decompress(data, 16))
    except zlib.error:
        return False


def is_json(data: bytes) -> bool:
    """Whether a text is bpftool's JSON (or an error that it printed as JSON)."""
    return data.lstrip()[:1] in (b"[", b"{")


def is_hex_text(data: bytes) -> bool:
    """Whether a text is what bpftool prints without ``-j``."""
    return data.lstrip()[:4] in (b"key:", b"Foun")


def raw(data: bytes, *, key_bytes: int, value_bytes: int, cpus: int = 0) -> Entries:
    """Entries of keys and values one after the other: key, value, key, value.

    Parameters
    ----------
    cpus
        Values of each entry, for maps that have one for every processor; 0: there is one.

    Raises
    ------
    InputError
        There is not one whole entry.
    """
    size = key_bytes + value_bytes * max(cpus, 1)
    count, left = divmod(len(data), size)
    if data and not count:
        raise InputError(
            f"The dump has {len(data)} bytes, and one entry is {size}.",
            "Give the map's name with --map, or its release with --release.",
        )
    table = np.frombuffer(data, np.uint8, count * size).reshape(count, size)
    values = table[:, key_bytes:]
    if cpus:
        values = values.reshape(count, cpus, value_bytes)
    entries = Entries(table[:, :key_bytes], values)
    if left:
        return entries.saying(
            f"The dump is torn: {left} bytes after entry {count} are less than an entry of {size}.",
            partial=True,
        )
    return entries


def bpftool_json(data: bytes) -> Entries:
    """Entries of ``bpftool -j map dump``.

    Raises
    ------
    InputError
        It is an error of bpftool's, or there is no entry that can be read.
    """
    text = data.strip()
    if _EMPTY.fullmatch(text):
        return Entries(np.empty((0, 0), np.uint8), np.empty((0, 0), np.uint8))
    quick = _regular(text)
    if quick is not None:
        return quick
    try:
        found: Any = orjson.loads(text)
        torn = ""
    except orjson.JSONDecodeError as error:
        found, whole = _one_by_one(text)
        torn = "" if whole else str(error).splitlines()[0]
    if isinstance(found, dict):
        said = found.get("error")
        raise InputError(
            f"bpftool could not dump the map: {said}." if said else "The JSON is no map's dump.",
            _AGAIN,
        )
    rows = [one for one in map(_entry, found) if one is not None]
    errors = [said for said in map(_error, found) if said]
    unread = len(found) - len(rows) - len(errors)
    why = "; ".join([*dict.fromkeys(errors), *([torn] if torn else [])])
    if not rows:
        raise InputError(
            f"The JSON has no entry that can be read{f' ({why})' if why else ''}.", _AGAIN
        )
    remarks = []
    if torn:
        remarks.append(f"The dump is torn after entry {len(found)}: the rest is no JSON ({torn}).")
    for said, count in Counter(errors).items():
        remarks.append(f"bpftool could not read {count}: {said}.")
    if unread:
        remarks.append(f"{unread} of {len(found)} entries have no key and value of bytes.")
    return _same_size(rows, remarks)


def bpftool_text(data: bytes) -> Entries:
    """Entries of ``bpftool map dump``, in hexadecimal text.

    Raises
    ------
    InputError
        There is no entry that can be read.
    """
    rows: list[tuple[bytes, list[bytes]]] = []
    key, values = "", [""]
    filling = ""

    def finish() -> None:
        if key and any(values):
            rows.append((bytes.fromhex(key), [bytes.fromhex(text) for text in values if text]))

    broken: list[str] = []
    for line in data.decode("ascii", "replace").splitlines():
        for piece in re.split(r"(?=value:)", line) if "key:" in line else [line]:
            rest = piece.strip()
            if label := _LABEL.match(rest):
                filling = label[1]
                rest = rest[label.end() :]
                if filling == "key":
                    finish()
                    key, values = "", []
                else:
                    values.append("")
            if not rest or rest.startswith("Found "):
                continue
            if not _HEX_LINE.fullmatch(rest):
                broken.append(rest)
            elif filling == "key":
                key += rest
            elif values:
                values[-1] += rest
    finish()
    if not rows:
        if data.lstrip().startswith(b"Found 0"):
            return Entries(np.empty((0, 0), np.uint8), np.empty((0, 0), np.uint8))
        raise InputError("The text has no entry that can be read.", _AGAIN)
    remarks = [f"{len(broken)} lines are no bytes: {broken[0][:80]!r}."] if broken else []
    return _same_size(rows, remarks)


# ------------------------------------------------------------------------------ bpftool's JSON


def _regular(text: bytes) -> Entries | None:
    """Entries of a dump whose entries are all written alike; None where they are not.

    bpftool writes every byte as four characters, so that every entry of a map is as long as the
    first; the digits then are columns of a table.
    """
    first_end = text.find(b"}") + 1
    first = text[1:first_end]
    if not text.startswith(b'[{"key":["0x') or b'],"value":["0x' not in first:
        return None
    size = len(first) + 1
    count, left = divmod(len(text) - 1, size)
    if left or not text.endswith(b"}]"):
        return None
    table = np.frombuffer(text, np.uint8, count * size, offset=1).reshape(count, size)
    # A byte is written "0x0a": its digits stand two and three after the zero.
    row = table[0]
    starts = np.flatnonzero((row[:-1] == ord("0")) & (row[1:] == ord("x"))) + 2
    digits = np.stack([starts, starts + 1], axis=1).reshape(-1)
    fixed = np.full(size, 0xFF, np.uint8)
    fixed[digits] = fixed[-1] = 0
    key_bytes = int((starts < first.index(b'],"value":')).sum())
    if not 0 < key_bytes < len(starts) or (table[:-1, -1] != ord(",")).any():
        return None
    octets = np.empty((count, len(starts)), np.uint8)
    for begin in range(0, count, _ROWS):
        rows = table[begin : begin + _ROWS]
        if ((rows ^ row) & fixed).any():
            return None
        found = _OCTETS.take(rows.take(digits, axis=1).view("<u2"))
        if (found >= _NO_DIGITS).any():
            return None
        octets[begin : begin + _ROWS] = found
    return Entries(octets[:, :key_bytes], octets[:, key_bytes:])


def _one_by_one(text: bytes) -> tuple[list[Any], bool]:
    """The entries that are whole, of what is no single document; whether it is whole ones."""
    document = text.decode("utf-8", "replace")
    decoder = json.JSONDecoder()
    found: list[Any] = []
    between, end = "", 0
    while (at := document.find("{", end)) >= 0:
        try:
            one, after = decoder.raw_decode(document, at)
        except ValueError:
            break
        found.append(one)
        between, end = between + document[end:at], after
    return found, bool(_LISTS.fullmatch(between + document[end:]))


def _error(found: Any) -> str | None:
    """What bpftool says in place of an entry, or of its value, that it could not read."""
    value = found.get("value") if isinstance(found, dict) else None
    says = next((one for one in (found, value) if isinstance(one, dict) and "error" in one), None)
    return None if says is None or _entry(found) else str(says["error"])


def _entry(found: Any) -> tuple[bytes, list[bytes]] | None:
    """Key and values of an entry; None where it has none."""
    try:
        key = _octets(found["key"])
        if "values" in found:
            values = [_octets(one["value"]) for one in found["values"]]
        else:
            values = [_octets(found["value"])]
    except (KeyError, TypeError, ValueError):
        return None
    return (key, values) if key and values else None


def _octets(texts: Any) -> bytes:
    return bytes(one if isinstance(one, int) else int(one, 16) for one in texts)


def _same_size(rows: list[tuple[bytes, list[bytes]]], remarks: list[str]) -> Entries:
    """The entries whose sizes are those of most, as arrays."""
    shapes = Counter((len(key), len(values), len(values[0])) for key, values in rows)
    (shape, _), *_ = shapes.most_common(1)
    good = [
        (key, b"".join(values))
        for key, values in rows
        if len(key) == shape[0]
        and len(values) == shape[1]
        and all(len(value) == shape[2] for value in values)
    ]
    if len(good) < len(rows):
        remarks = [
            *remarks,
            f"{len(rows) - len(good)} of {len(rows)} entries are of another size than the others "
            f"(key {shape[0]}, value {shape[2]} bytes).",
        ]
    keys: Bytes = np.frombuffer(b"".join(key for key, _ in good), np.uint8)
    values_: Bytes = np.frombuffer(b"".join(value for _, value in good), np.uint8)
    values_ = values_.reshape(len(good), shape[1], shape[2])
    return Entries(
        keys.reshape(len(good), shape[0]),
        values_ if shape[1] > 1 else values_[:, 0, :],
        tuple(remarks),
        bool(remarks),
    )
