"""Calico's BPF maps as a notebook shows them: of a bundle, or of dumps in files.

``map_answers`` and ``mapdump`` decode them; here are sentences and tables over nodes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ebpfperf import bundle
from ebpfperf.calico.maps import VERSIONS
from ebpfperf.errors import EbpfperfError, InputError
from ebpfperf.evidence import Evidence
from ebpfperf.evidence_sources import MAP_KINDS, MAPS
from ebpfperf.findings import Sentences
from ebpfperf.map_answers import parse
from ebpfperf.mapdump import reading, summaries
from ebpfperf.mapdump.entries import Decoded
from ebpfperf.tables import Table

NO_MAPS = "No maps were given: set the parameter maps."
EMULATED = "The maps are of the embedded lab: an emulation, not Calico."
MOST_ROWS = 200
_LAB = '"lab.ebpfperf/emulation"'
_GZIP = b"\x1f\x8b"
_NAMES = re.compile("|".join(sorted({each.name for each in VERSIONS}, key=len, reverse=True)))


@dataclass(frozen=True, slots=True)
class NodeMap:
    """One map of one node; of a file the node is as the file's name says it, or empty."""

    node: str
    decoded: Decoded
    max_entries: int | None = None


@dataclass(frozen=True, slots=True)
class Maps:
    """Maps that were read.

    Attributes
    ----------
    taken_utc
        When, where that is known.
    doubts
        What could not be read, and what else must be known, a sentence each.
    services
        ``10.96.0.10:53``, or a node port, → the name of the Service, where objects came with the
        maps.
    emulated
        Whether they are of the embedded lab.
    """

    path: str
    taken_utc: str = ""
    release: str = ""
    maps: tuple[NodeMap, ...] = ()
    doubts: tuple[str, ...] = ()
    services: Mapping[str, str] | None = None
    emulated: bool = False

    def service(self, place: str) -> str:
        """The name of the Service at ``ADDRESS:PORT``, a node port included; empty: not known."""
        known = self.services or {}
        return known.get(place) or known.get(place.rpartition(":")[2], "")

    def frame(self, purpose: str) -> pd.DataFrame:
        """The entries of all maps of that purpose (``conntrack``, ``routes``, …), with ``node``."""
        frames = [
            each.decoded.frame.assign(node=each.node)
            for each in self.maps
            if each.decoded.purpose == purpose and not each.decoded.frame.empty
        ]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"node": []})

    def of(self, purpose: str) -> tuple[NodeMap, ...]:
        """The maps of that purpose."""
        return tuple(each for each in self.maps if each.decoded.purpose == purpose)


def opened(path: str, *, release: str = "", kind: str = "", node: str = "") -> Maps:
    """The maps of a bundle, of one dump, or of all dumps in a directory; without a path none.

    Parameters
    ----------
    release
        Calico's; empty: as the bundle says, or the map's name and sizes tell.
    kind
        What a dump is of (``reading.KINDS``), where its file's name has no map's name.
    node
        Only this node's maps; empty: all.

    Raises
    ------
    InputError
        There is no such file, or nothing in it is known.
    """
    if not path:
        return Maps("")
    place = Path(path).expanduser()
    if place.is_dir():
        files = sorted(each for each in place.iterdir() if _NAMES.search(each.name))
        if not files:
            raise InputError(
                f"No file in {path} is called after a map.",
                "Write them with: ebpfperf maps nat --raw.",
            )
        return _of_dumps(path, files, release, kind, node)
    try:
        packed = place.read_bytes()[:2] == _GZIP
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}.", "Name a bundle or a dump.", path=path
        ) from error
    if not packed:
        return _of_dumps(path, [place], release, kind, node)
    return _of_bundle(path, bundle.read(place), release, node)


def notice(found: Maps) -> Sentences:
    """What to mind before reading on."""
    return Sentences((EMULATED,) if found.emulated else (), "notice")


def headline(found: Maps) -> Sentences:
    """How many connections, services and routes each node has, and what stands out."""
    if not found.path:
        return Sentences((NO_MAPS,), "headline")
    said = []
    for node in dict.fromkeys(each.node for each in found.maps):
        own = [each for each in found.maps if each.node == node]
        parts = [text for each in own if (text := _part(each))]
        said.append(f"{node + ': ' if node else ''}{'; '.join(parts)}.")
    return Sentences(tuple(said) or ("No map could be read.",), "headline")


def validity(found: Maps) -> Sentences:
    """Of when the maps are, and what of them could not be read."""
    if not found.path:
        return Sentences(())
    said = list(found.doubts)
    if found.taken_utc:
        said.insert(0, f"The maps are of {found.taken_utc}, Calico {found.release or 'unknown'}.")
    if found.of("conntrack"):
        said.append(
            "A connection between two nodes is in the map of both, and one through a Service has "
            "two entries: the one that leads to the other is left out below."
        )
    return Sentences(tuple(said))


def services(found: Maps, *, top: int = 10) -> Table:
    """The services with most connections, by node."""
    rows = []
    for each in found.of("conntrack"):
        for row in summaries.top_services(each.decoded.frame, top).to_dict("records"):
            place = str(row["service"]).partition(" ")[2]
            rows.append(
                {
                    "service": row["service"],
                    "name": found.service(place),
                    "node": each.node,
                    "connections": row["connections"],
                    "SYN-SENT": row["syn_sent"],
                    "bytes": "–" if pd.isna(row["bytes"]) else f"{int(row['bytes']):,}",
                }
            )
    rows.sort(key=lambda row: (-int(row["connections"]), str(row["service"]), str(row["node"])))
    caption = f"Services with most connections (at most {top} a node)"
    return Table(caption, pd.DataFrame(rows), numeric=("connections", "SYN-SENT", "bytes"))


def unanswered(found: Maps, *, top: int = 10) -> Table:
    """Where connections stay in SYN-SENT: servers that do not answer, or are kept from it."""
    frame = found.frame("conntrack")
    caption = "Where connections wait for an answer (SYN-SENT)"
    if "tcp_state" not in frame:
        return Table(caption, pd.DataFrame())
    waiting = frame[frame["tcp_state"].eq("SYN-SENT") & frame["initiator_dst"].notna()]
    to = [
        summaries.joined(address, port)
        for address, port in zip(waiting["initiator_dst"], waiting["initiator_dport"], strict=True)
    ]
    counts = waiting.assign(to=to).groupby(["to", "node"], observed=True).size()
    ordered = counts.sort_values(ascending=False, kind="stable").head(top)
    shown = ordered.rename("connections").reset_index()
    return Table(caption, shown.rename(columns={"to": "server"}), numeric=("connections",))


def frontends(found: Maps) -> Table:
    """Services as the maps have them, and how many backends each leads to."""
    frame = found.frame("nat-frontend")
    caption = "Services in the NAT maps"
    if "addr" not in frame:
        return Table(caption, pd.DataFrame())
    place = [
        summaries.joined(address, port)
        for address, port in zip(frame["addr"], frame["port"], strict=True)
    ]
    shown = pd.DataFrame(
        {
            "frontend": place,
            "protocol": frame["proto"].map({6: "tcp", 17: "udp", 132: "sctp"}).fillna("other"),
            "name": [found.service(each) for each in place],
            "node": frame["node"],
            "backends": [
                "drops" if blackhole else str(count)
                for blackhole, count in zip(frame["blackhole"], frame["count"], strict=True)
            ],
            "on this node": frame["local"].astype(str),
            "flags": frame["flag_names"].astype(object).fillna(""),
        }
    )
    return _table(caption, shown, numeric=("backends", "on this node"))


def routes(found: Maps) -> Table:
    """Routes as the maps have them."""
    frame = found.frame("routes")
    caption = "Routes in the maps"
    if "dest" not in frame:
        return Table(caption, pd.DataFrame())
    hop = frame["next_hop"].astype(object).where(frame["next_hop"].notna(), "")
    shown = pd.DataFrame(
        {
            "destination": frame["dest"],
            "node": frame["node"],
            "flags": frame["flag_names"].astype(object),
            "next hop": hop,
            "ifindex": ["" if pd.isna(each) else str(each) for each in frame["ifindex"]],
        }
    )
    return _table(caption, shown, numeric=("ifindex",))


# -------------------------------------------------------------------------------------- inside


def _of_bundle(path: str, evidence: Evidence, release: str, node: str) -> Maps:
    known = release or evidence.release
    if node and node not in evidence.nodes:
        raise InputError(
            f"The bundle has no node {node}.", f"It has {', '.join(evidence.nodes)}.", node=node
        )
    purposes = [one for kind in MAP_KINDS for one in reading.KINDS[kind]]
    maps: list[NodeMap] = []
    doubts: list[str] = []
    for name in evidence.nodes:
        if node and name != node:
            continue
        item = evidence.item(MAPS, name)
        if item is None or item.error:
            why = item.error if item else evidence.lost.get(name, "its maps were not read")
            doubts.append(f"{name}: {why}")
            continue
        try:
            read = parse(name, item.content, purposes, release=known or None)
        except EbpfperfError as error:
            doubts.append(f"{name}: {error.what}")
            continue
        doubts += [f"{name}: {sentence}" for sentence in read.missing]
        for each in read.maps:
            doubts += [f"{name}, {each.name}: {remark}" for remark in each.decoded.remarks]
            maps.append(NodeMap(name, each.decoded, each.max_entries))
    if evidence.pseudonyms:
        doubts.append("Names and addresses are pseudonyms.")
    return Maps(
        path,
        evidence.taken_utc,
        known,
        tuple(maps),
        tuple(doubts),
        dict(_services(evidence)),
        _LAB in (item.text if (item := evidence.item("nodes")) else ""),
    )


def _of_dumps(path: str, files: list[Path], release: str, kind: str, node: str) -> Maps:
    maps: list[NodeMap] = []
    doubts: list[str] = []
    for file in files:
        named = _NAMES.search(file.name)
        own = file.name.partition("__")[0] if "__" in file.name else ""
        if node and own != node:
            continue
        purpose = next((each.purpose for each in VERSIONS if named and each.name == named[0]), kind)
        if not purpose:
            raise InputError(
                f"What {file.name} is a dump of is not known.",
                "Name it after its map, such as cali_v4_ct3.json, or give maps_view.opened a kind: "
                f"{', '.join(reading.KINDS)}.",
            )
        as_kind = "ipsets" if purpose == "ip-sets" else purpose
        found = reading.decode(
            as_kind,
            file.read_bytes(),
            release=release or None,
            map_name=named[0] if named else None,
        )
        for decoded in found:
            doubts += [f"{file.name}: {remark}" for remark in decoded.remarks]
            maps.append(NodeMap(own, decoded))
    return Maps(path, "", release, tuple(maps), tuple(doubts))


def _services(evidence: Evidence) -> Iterator[tuple[str, str]]:
    item = evidence.item("services")
    try:
        found = json.loads(item.content) if item and item.content else []
        for each in found:
            meta, spec = each["metadata"], each.get("spec") or {}
            for address in spec.get("clusterIPs") or [spec.get("clusterIP")]:
                for port in spec.get("ports") or []:
                    name = f"{meta.get('namespace', '')}/{meta['name']}"
                    yield summaries.joined(address, port["port"]), name
            for port in spec.get("ports") or []:
                if port.get("nodePort"):
                    yield str(port["nodePort"]), f"{meta.get('namespace', '')}/{meta['name']}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return


def _part(each: NodeMap) -> str:
    frame = each.decoded.frame
    match each.decoded.purpose:
        case "conntrack":
            own = frame[~frame["type"].eq("nat-forward")]
            room = ""
            if each.max_entries:
                room = f", {100 * len(frame) / each.max_entries:.1f} % of the map's room"
            share = summaries.syn_sent_pct(frame)
            waiting = "" if share is None else f", {share:.0f} % of TCP's in SYN-SENT"
            return f"{len(own):,} connections{waiting}{room}"
        case "nat-frontend":
            live = frame[~frame["blackhole"].astype(bool)]
            empty = int((live["count"] == 0).sum())
            return f"{len(frame):,} frontends of services, {empty} without a backend"
        case "routes":
            return f"{len(frame):,} routes"
        case _:
            return ""


def _table(caption: str, shown: pd.DataFrame, *, numeric: tuple[str, ...]) -> Table:
    more = len(shown) - MOST_ROWS
    notes = (f"{more:,} more are not shown.",) if more > 0 else ()
    return Table(caption, shown.head(MOST_ROWS), numeric=numeric, notes=notes)
