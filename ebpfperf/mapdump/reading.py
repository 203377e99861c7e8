"""From a dump's bytes to frames: which map of which release it is, and what it says."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from ebpfperf.calico.maps import (
    NEWEST,
    OLDEST,
    VERSIONS,
    MapVersion,
    version_for,
    version_named,
    versions_of,
)
from ebpfperf.calico.releases import minor
from ebpfperf.errors import InputError
from ebpfperf.mapdump import (
    conntrack,
    conntrack_layout,
    counters,
    formats,
    nat,
    routes,
    tool_text,
)
from ebpfperf.mapdump.entries import Decoded, Entries

# What a user asks for → the purposes of the maps it means.
KINDS: Mapping[str, tuple[str, ...]] = {
    "conntrack": ("conntrack",),
    "nat": ("nat-frontend", "nat-backend", "nat-affinity"),
    "nat-frontend": ("nat-frontend",),
    "nat-backend": ("nat-backend",),
    "nat-affinity": ("nat-affinity",),
    "routes": ("routes",),
    "counters": ("counters",),
    "ipsets": ("ip-sets",),
    "arp": ("arp",),
    "ifstate": ("ifstate",),
}
_CONNTRACK_VERSIONS = {"ct": 1, "ct2": 2, "ct3": 3, "ct4": 4}
_READY_BY_FAMILY_SINCE = (3, 27)


def decode(
    kind: str,
    data: bytes,
    *,
    release: str | None = None,
    map_name: str | None = None,
    cpus: int = 0,
) -> tuple[Decoded, ...]:
    """What a dump says; more than one only of text about services (frontends, backends).

    Parameters
    ----------
    kind
        One of ``KINDS``.
    release
        Calico's, such as ``v3.26``; None: as far as name and sizes tell.
    map_name
        The map's name, such as ``cali_v4_ct3``; decides which version it is.
    cpus
        For raw bytes of a map with a value for every processor: how many values there are.

    Raises
    ------
    InputError
        Nothing in it can be decoded; the sentence says why.
    """
    if kind not in KINDS:
        raise InputError(
            f"{kind!r} is no kind of map that is decoded.", f"Write one of {', '.join(KINDS)}."
        )
    if release is not None:
        check_release(release, named=map_name is not None)
    version = _named(kind, map_name) if map_name else None
    data = data.removeprefix(codecs.BOM_UTF8)
    if formats.is_gzip(data):
        raise InputError(
            "The dump is packed with gzip.",
            f"Unpack it: zcat FILE | ebpfperf maps decode {kind} -.",
        )
    if not data.strip():
        raise InputError("The dump is empty.", "Look at what the program that made it said.")
    if formats.is_bytes(data):
        entries = _raw(kind, data, release, version, cpus)
    elif formats.is_json(data):
        entries = formats.bpftool_json(data)
    elif formats.is_hex_text(data):
        entries = formats.bpftool_text(data)
    else:
        return tool_text.decode(kind, data.decode("utf-8", "replace"), release=release)
    return (decode_entries(kind, entries, release=release, version=version),)


def decode_entries(
    kind: str, entries: Entries, *, release: str | None = None, version: MapVersion | None = None
) -> Decoded:
    """What entries say. InputError where their sizes are of no known map of that kind."""
    chosen = _choose(kind, entries, release, version)
    if entries.per_cpu and chosen.purpose != "counters":
        raise InputError(
            f"The dump has values of several processors, and {chosen.name} has not.",
            "Look whether it is a dump of another map.",
        )
    if not len(entries):
        size = chosen.key_bytes, chosen.value_bytes
        entries = replace(Entries.of(b"", b"", key_bytes=size[0], value_bytes=size[1]))
    remarks = list(entries.remarks)
    if version is None and len(entries) and (others := _alike(kind, chosen, release)):
        remarks.append(f"Read as {chosen.name}; {others} is of the same size: give --map if it is.")
    if release and not chosen.has(release):
        remarks.append(f"{chosen.name} is of {chosen.releases}, not of {release}.")
        release = None
    frame, doubts = _frame(chosen, entries, release)
    partial = entries.partial
    if chosen.purpose == "conntrack" and len(frame):
        unknown = int((frame["type"].isna() | (frame["proto"] > 255)).sum())
        if unknown == len(frame):
            raise InputError(
                f"None of {unknown} entries is of a type and protocol that {chosen.name} has.",
                "Look whether it is a dump of that map, and whole.",
            )
        partial = partial or unknown > 0
    return Decoded(chosen.purpose, frame, chosen, (*remarks, *doubts), partial)


def check_release(release: str, *, named: bool = False) -> None:
    """InputError unless that is a release whose maps are known.

    ``named``: the map's name is given, so that a release newer than any known does no harm.
    """
    try:
        found = minor(release)
    except ValueError as error:
        raise InputError(f"{error}.", "Write for example --release v3.26.") from error
    if OLDEST <= found and (found <= NEWEST or named):
        return
    known = f"v{OLDEST[0]}.{OLDEST[1]} to v{NEWEST[0]}.{NEWEST[1]}"
    raise InputError(
        f"The layouts of Calico {release} are not known here: those of {known} are.",
        "Name the map with --map, so that it is read as that version of it.",
        release=release,
    )


def _named(kind: str, name: str) -> MapVersion:
    name = name.rpartition("/")[2]
    found = version_named(name)
    purposes = KINDS[kind]
    if found is None:
        known = [each.name for purpose in purposes for each in versions_of(purpose)]
        raise InputError(
            f"{name} is no map, or no version of one, that is known here.",
            f"Of {kind} there are {', '.join(dict.fromkeys(known))}.",
            map=name,
        )
    if found.purpose not in purposes:
        asked = next(key for key, value in KINDS.items() if found.purpose in value)
        raise InputError(
            f"{name} is no map of {kind}.", f"Write: ebpfperf maps decode {asked}.", map=name
        )
    return found


def _choose(
    kind: str, entries: Entries, release: str | None, version: MapVersion | None
) -> MapVersion:
    """The version that the entries are of, by name, then by release, and always by size."""
    candidates = _candidates(kind, release, version)
    if not len(entries):
        return candidates[0]
    sizes = entries.key_bytes, entries.value_bytes
    fitting = [each for each in candidates if (each.key_bytes, each.value_bytes) == sizes]
    if fitting:
        return fitting[0]
    wanted = candidates[0]
    others = [
        each
        for purpose in KINDS[kind]
        for each in versions_of(purpose)
        if (each.key_bytes, each.value_bytes) == sizes
    ]
    have = " or ".join(f"--map {each.name} ({each.releases})" for each in others)
    hint = (
        f"Such entries have other versions: give {have}."
        if others
        else "Look whether it is a dump of another map, or of another release."
    )
    of_whom = f" of {release}" if release and version is None else ""
    raise InputError(
        f"The dump has keys of {sizes[0]} and values of {sizes[1]} bytes; {wanted.name}{of_whom} "
        f"has {wanted.key_bytes} and {wanted.value_bytes}.",
        hint,
        key_bytes=sizes[0],
        value_bytes=sizes[1],
    )


def _candidates(kind: str, release: str | None, version: MapVersion | None) -> Sequence[MapVersion]:
    purposes = KINDS[kind]
    if version is not None:
        # One name has had several sizes, as long as nobody read the map from outside.
        return [version, *(each for each in VERSIONS if each.name == version.name)]
    every = [each for purpose in purposes for each in versions_of(purpose)]
    if release is None:
        return every
    found = [each for each in every if each.has(release)]
    if not found:
        first = min(every, key=lambda each: each.since)
        raise InputError(
            f"Calico {release} has no map of {kind}: it came with "
            f"v{first.since[0]}.{first.since[1]}.",
            "Give the release that the dump is of.",
            release=release,
        )
    ipv4 = [version_for(purpose, release) for purpose in purposes]
    return [*(each for each in ipv4 if each is not None), *found]


def _alike(kind: str, chosen: MapVersion, release: str | None) -> str:
    """The name of another map that such entries could be of, the release not told."""
    sizes = chosen.key_bytes, chosen.value_bytes
    return next(
        (
            each.name
            for each in _candidates(kind, None, None)
            if release is None
            and each.purpose != chosen.purpose
            and (each.key_bytes, each.value_bytes) == sizes
        ),
        "",
    )


def _raw(
    kind: str, data: bytes, release: str | None, version: MapVersion | None, cpus: int
) -> Entries:
    """Entries of raw bytes; sizes come from the map's name, or the release's first map."""
    if version is None and release is None:
        raise InputError(
            "These are bytes, and nothing says of which map.", "Give --map or --release."
        )
    candidates = _candidates(kind, release, version)
    several = len({(each.key_bytes, each.value_bytes) for each in candidates}) > 1
    likely = [each for each in candidates if _likely(each, data)] if several else []
    whole = [each for each in likely if not len(data) % (each.key_bytes + each.value_bytes)]
    of = (whole or likely or candidates)[0]
    if of.purpose == "counters":
        of = candidates[0]
        if not cpus:
            raise InputError(
                f"{of.name} has a value for every processor.",
                "Say with --cpus how many there are (/sys/devices/system/cpu/possible).",
            )
    cpus = cpus if of.purpose == "counters" else 0
    entries = formats.raw(data, key_bytes=of.key_bytes, value_bytes=of.value_bytes, cpus=cpus)
    others = dict.fromkeys(each.name for each in whole if each.name != of.name)
    if others and version is None and of.purpose != "counters":
        return entries.saying(
            f"Read as {of.name}; the length is also one of {', '.join(others)}: give --map."
        )
    return entries


def _likely(version: MapVersion, data: bytes) -> bool:
    """Whether raw bytes can be connections of that version; of other maps nothing tells."""
    size = version.key_bytes + version.value_bytes
    if version.purpose != "conntrack" or len(data) < size:
        return True
    entries = formats.raw(data, key_bytes=version.key_bytes, value_bytes=version.value_bytes)
    return conntrack.likely(entries)


def _frame(
    version: MapVersion, entries: Entries, release: str | None
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    family = version.family
    match version.purpose:
        case "conntrack":
            number = _CONNTRACK_VERSIONS[version.name.rpartition("_")[2]]
            seen = conntrack_layout.first_word_seen(entries)
            how = conntrack_layout.layout(number, family, release, first_word=seen)
            found, doubts = conntrack.decode(entries, how)
            if number == 3 and release and how.first_word != seen and len(entries):
                doubts = (*doubts, f"{release} has {how.first_word}; it looks like {seen}.")
            return found, doubts
        case "nat-frontend":
            return nat.frontends(entries, family)
        case "nat-backend":
            return nat.backends(entries, family)
        case "nat-affinity":
            return nat.affinities(entries, family)
        case "routes":
            return routes.routes(entries, family)
        case "ip-sets":
            return routes.ip_sets(entries, family)
        case "arp":
            return routes.neighbours(entries, family)
        case "counters":
            return counters.decode(entries)
    return routes.interfaces(entries, new_words=version.since >= _READY_BY_FAMILY_SINCE)
