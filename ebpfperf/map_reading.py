"""Calico's BPF maps of live nodes: read whole by one process a node, decoded here.

``probes/node/maps.py`` runs there under the node's own Python. It opens maps for reading alone;
nothing is written on a node and nothing changed.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd

from ebpfperf.calico.maps import DIRECTORY, MapVersion, version_named, versions_of
from ebpfperf.errors import CommandError, InputError, NodeError
from ebpfperf.mapdump import formats, reading
from ebpfperf.mapdump.entries import Decoded, Entries
from ebpfperf.remote import Node

TIMEOUT_S = 60.0
MOST_ENTRIES = 4_000_000
MOST_BYTES = 512_000_000
_NOT_FOUND = 127
_DIGITS = "0123456789"
_SCRIPTS = ("bpf_call", "maps")
_BOOT = """\
import json, sys, types
told = json.loads(sys.stdin.read())
for name, text in told["sources"]:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name + ".py", "exec"), module.__dict__)
sys.modules["maps"].main(told["asked"])
"""
COMMAND = ("/usr/bin/python3", "-I", "-S", "-c", _BOOT)


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


def read(
    node: Node, kinds: Sequence[str], *, release: str | None = None, directory: str = DIRECTORY
) -> NodeMaps:
    """The node's maps of these kinds (``reading.KINDS``), the newest version of each.

    Parameters
    ----------
    release
        Calico's, where it is known: what flags and the first word of connections mean.

    Raises
    ------
    NodeError
        The node cannot be reached, has no Python, or does not answer in time.
    """
    purposes = list(dict.fromkeys(p for kind in kinds for p in reading.KINDS[kind]))
    groups = [
        list(dict.fromkeys(each.name for each in versions_of(purpose) if each.family == family))
        for purpose in purposes
        for family in (4, 6, 0)
    ]
    asked = {
        "directory": directory,
        "groups": [group for group in groups if group],
        "most_entries": MOST_ENTRIES,
    }
    told = json.dumps({"sources": sources(), "asked": asked}).encode()
    done = node.run(COMMAND, input=told, timeout_s=TIMEOUT_S, check=False, limit_bytes=MOST_BYTES)
    if done.status:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        if done.status == _NOT_FOUND:
            said = f"{COMMAND[0]} is not installed"
        raise CommandError(
            f"The maps of {node.name} cannot be read: {said or f'status {done.status}'}.",
            "Dump them there with bpftool, and read the file with: ebpfperf maps decode.",
            node=node.name,
            status=done.status,
        )
    return parse(node.name, done.stdout, purposes, release=release)


def parse(
    node: str, answer: bytes, purposes: Sequence[str], *, release: str | None = None
) -> NodeMaps:
    """What the script printed. NodeError where it is none of its answers."""
    line, _, packed = answer.partition(b"\n")
    try:
        head = json.loads(line)
        content = zlib.decompress(packed)
    except (ValueError, zlib.error) as error:
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


@cache
def sources() -> tuple[tuple[str, str], ...]:
    """Names and texts of the scripts that a node runs, each after those it needs."""
    place = files("ebpfperf.probes").joinpath("node")
    return tuple((name, place.joinpath(f"{name}.py").read_text("utf-8")) for name in _SCRIPTS)


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
