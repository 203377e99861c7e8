"""What a node printed of its BPF maps, decoded. Pure.

``probes/node/maps.py`` prints it: a line of JSON, then all keys and values, compressed.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ebpfperf.calico.maps import MapVersion, version_named, versions_of
from ebpfperf.errors import InputError, NodeError
from ebpfperf.mapdump import formats, reading
from ebpfperf.mapdump.entries import Decoded, Entries

_DIGITS = "0123456789"
MOST_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True)
class PinnedMap:
    """One map of one node, read at one time.

    Attributes
    ----------
    name
        The pin's.
    others
        Older versions of it that are pinned as well.
    max_entries
        How many it may have.
    how
        By which call it was read.
    content
        Keys and values as they were, one entry after the other (a raw dump).
    """

    name: str
    others: tuple[str, ...]
    kind: str
    max_entries: int
    cpus: int
    how: str
    entries: Entries
    decoded: Decoded

    def content(self) -> bytes:
        """The raw dump: every key followed by its value (or its values, one a processor)."""
        keys, values = self.entries.keys, self.entries.values
        return bytes(np.hstack([keys, values.reshape(len(keys), -1)]).tobytes())


@dataclass(frozen=True, slots=True)
class NodeMaps:
    """The maps of one node.

    Attributes
    ----------
    now_ns
        The node's monotonic clock when reading began: what ``last_seen_ns`` counts from.
    interfaces
        ifindex → name.
    missing
        What was asked for and is not there, or could not be read: a sentence each.
    """

    node: str
    now_ns: int
    interfaces: Mapping[int, str]
    maps: tuple[PinnedMap, ...]
    missing: tuple[str, ...]

    def of(self, purpose: str) -> tuple[PinnedMap, ...]:
        """Its maps of that purpose, IPv4 first."""
        return tuple(each for each in self.maps if each.decoded.purpose == purpose)


def parse(
    node: str, answer: bytes, purposes: Sequence[str], *, release: str | None = None
) -> NodeMaps:
    """What the script printed. NodeError where it is none of its answers."""
    try:
        head, content = unpacked(answer)
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise NodeError(
            f"What {node} printed of its maps is unreadable: {error}.", "Try again.", node=node
        ) from error
    interfaces = {int(number): str(name) for number, name in head["interfaces"].items()}
    found: list[PinnedMap] = []
    missing = [str(head["reason"])] if head["reason"] else []
    at = 0
    for told in head["maps"]:
        first, second = told["sizes"]
        keys, values = content[at : at + first], content[at + first : at + first + second]
        at += first + second
        if told["error"]:
            missing.append(f"{told['name']}: {told['error']}")
            continue
        version = version_named(told["name"], told["value_bytes"])
        try:
            entries = _entries(told, keys, values)
            decoded = reading.decode_entries(
                _kind(version), entries, release=release, version=version
            )
        except InputError as error:
            missing.append(f"{told['name']}: {error.what}")
            continue
        decoded = _placed(decoded, int(head["now_ns"]), interfaces)
        found.append(
            PinnedMap(
                told["name"],
                tuple(told["others"]),
                told["kind"],
                told["max_entries"],
                told["cpus"],
                told["how"],
                entries,
                decoded,
            )
        )
    named = [version_named(told["name"]) for told in head["maps"]]
    unknown = _unknown(head["pinned"], purposes)
    missing += [f"{name} is pinned, a version that is not known here." for name in unknown]
    tried = {version.purpose for version in named if version} | set(unknown.values())
    if not head["reason"]:
        missing += [f"No map of {one} is pinned." for one in purposes if one not in tried]
    return NodeMaps(node, int(head["now_ns"]), interfaces, tuple(found), tuple(missing))


def cuts(answer: bytes) -> tuple[str, ...]:
    """Of what the script printed: maps of which not every entry was read, a sentence each."""
    try:
        maps = json.loads(answer.partition(b"\n")[0])["maps"]
        return tuple(
            f"{told['name']}: only {told['sizes'][0] // told['key_bytes']} entries were read"
            for told in maps
            if told.get("cut")
        )
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        return ()


def unpacked(answer: bytes) -> tuple[dict[str, Any], bytes]:
    """The first line, and keys and values: no more than it says that there are."""
    line, _, packed = answer.partition(b"\n")
    head = json.loads(line)
    size = sum(int(bytes_) for told in head["maps"] for bytes_ in told["sizes"])
    if not 0 <= size <= MOST_BYTES:
        raise ValueError(f"its maps have {size} bytes")
    unpacker = zlib.decompressobj()
    # One more than there must be, so that the end is seen.
    content = unpacker.decompress(packed, size + 1)
    if len(content) != size or not unpacker.eof:
        raise ValueError("its maps are not as long as it says")
    return head, content


def _unknown(pinned: Sequence[str], purposes: Sequence[str]) -> dict[str, str]:
    """Pins that are called like a map of these purposes, but for the version → its purpose."""
    bases = {
        each.name.rstrip(_DIGITS): purpose for purpose in purposes for each in versions_of(purpose)
    }
    return {
        name: bases[name.rstrip(_DIGITS)]
        for name in pinned
        if name.rstrip(_DIGITS) in bases and version_named(name) is None
    }


def _kind(version: MapVersion | None) -> str:
    purpose = version.purpose if version else ""
    return next(kind for kind, purposes in reading.KINDS.items() if purpose in purposes)


def _entries(told: Mapping[str, Any], keys: bytes, values: bytes) -> Entries:
    if told.get("dump") == "bpftool":
        return formats.bpftool_json(keys)
    entries = Entries(
        np.frombuffer(keys, np.uint8).reshape(-1, told["key_bytes"]),
        np.frombuffer(values, np.uint8).reshape(-1, told["value_bytes"]),
    ) if not told["cpus"] else Entries(
        np.frombuffer(keys, np.uint8).reshape(-1, told["key_bytes"]),
        np.frombuffer(values, np.uint8).reshape(
            -1, told["cpus"], (told["value_bytes"] + 7) // 8 * 8
        ),
    )  # fmt: skip
    if told["cut"]:
        return entries.saying(f"Only the first {len(entries)} entries were read.", partial=True)
    return entries


def _placed(decoded: Decoded, now_ns: int, interfaces: Mapping[int, str]) -> Decoded:
    """With ages by the node's clock, and interfaces by name."""
    frame = decoded.frame
    if decoded.purpose == "conntrack":
        # Signed: a packet may have come after the clock was read.
        ago = (now_ns - frame["last_seen_ns"].astype("int64")) * 1e-9
        frame = frame.assign(active_ago_s=ago)
    if decoded.purpose == "counters":
        names = frame["ifindex"].map(lambda at: interfaces.get(at, pd.NA))
        frame = frame.assign(interface=names.astype("str"))
    return replace(decoded, frame=frame)
