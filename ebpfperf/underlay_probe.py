"""Whether VXLAN, and packets with another node's source, pass between the nodes: tried out.

What is sent: from each node to each other (beyond six nodes: to its neighbours in a ring, both
ways) seven UDP datagrams of 96 bytes to the port that node ports use (``vxlanPort``), each with a
VXLAN header of a network that Calico does not use and a harmless Ethernet frame in it; the bytes
are in ``probes/node/datagrams.py``. Every pair has a source port of its own, so that no firewall
takes one direction for the answer of the other. Where DSR is in effect, seven more from each node
with the *next* node's address as their source. All are some kilobytes in all, within a second.

Each node listens on packet sockets at once: for what leaves it (after all BPF programs and rules)
and for what arrives (before them). So a pair **arrives**, or **leaves and does not arrive** (it is
the underlay), or **does not leave** (it is the sender). Nothing is changed on a node. A receiving
node's programs, or its kernel, drop the datagrams after they were seen: they carry no network that
anybody knows. An underlay that lets only certain VXLAN networks pass may treat them otherwise than
those of Calico's node ports (network 0xCA11C0).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from ebpfperf.doctor.case import UNREADABLE, Case, Missing
from ebpfperf.doctor.underlay_pairs import node_port_vxlan
from ebpfperf.errors import CommandError, CommandTimeout, NodeError
from ebpfperf.evidence import Evidence, Item
from ebpfperf.evidence_sources import SOURCE_PROBE, VXLAN_PROBE
from ebpfperf.remote import Node, Stream

COUNT = 7
EVERY_PAIR_UP_TO = 6
VNI = 0xEBF0F5
_CALICO_VNIS = frozenset({0xCA11C0, 4096})
_FIRST_PORT = 49_152
# How long the last datagrams may be on their way; nobody waits where all have arrived.
_ANSWER_S, _ARRIVE_S = 10.0, 1.0
_AT_ONCE, _LIMIT_BYTES, _NOT_FOUND = 16, 1_000_000, 127
_BOOT = """\
import json, sys, types
told = json.loads(sys.stdin.readline())
module = types.ModuleType("datagrams")
exec(compile(told["source"], "datagrams.py", "exec"), module.__dict__)
module.main(told["asked"])
"""
COMMAND = ("/usr/bin/python3", "-I", "-S", "-c", _BOOT)


@dataclass(frozen=True, slots=True)
class Way:
    """Datagrams from one node to another.

    Attributes
    ----------
    pair
        Its number in this run.
    owner
        The node whose address is the source; the sender's own, or a borrowed one.
    """

    pair: int
    sender: str
    receiver: str
    owner: str

    @property
    def foreign(self) -> bool:
        """Whether the source is not the sender's."""
        return self.owner != self.sender


def ways(names: Sequence[str], *, foreign: bool) -> list[Way]:
    """From where to where, and with whose source; nothing for fewer than two nodes.

    ``foreign``: also with the next node's source, to the one after it (of two: back to it).
    """
    several = len(names)
    found = [
        (sender, receiver, sender)
        for at, sender in enumerate(names)
        for other, receiver in enumerate(names)
        if other != at
        and (several <= EVERY_PAIR_UP_TO or (other - at) % several in (1, several - 1))
    ]
    if foreign and several > 1:
        found += [
            (
                names[at],
                names[(at + (2 if several > 2 else 1)) % several],
                names[(at + 1) % several],
            )
            for at in range(several)
        ]
    return [Way(pair, *ends) for pair, ends in enumerate(found)]


def measure(nodes: Mapping[str, Node], evidence: Evidence) -> list[Item]:
    """The items of ``probe`` between these nodes, as far as the evidence says where to and how.

    Nothing is sent where no node is to forward by eBPF.
    """
    case = Case(evidence)
    addresses, ports = {}, {}
    wanted = foreign = False
    vni = None
    for name in nodes:
        try:
            addresses[name] = case.address(name)
            ports[name] = node_port_vxlan(case, name)
            wanted = wanted or case.wants_ebpf(name)
            foreign = foreign or case.value(name, "bpfExternalServiceMode").value == "DSR"
            vni = case.value(name, "vxlanVNI").value
        except (Missing, *UNREADABLE):
            # Without address or port it takes no part; what decides on its Felix may be missing.
            continue
    taking_part = {name: nodes[name] for name in nodes if name in ports}
    if not wanted:
        return []
    return probe(taking_part, addresses, ports, vni_in_use=vni, foreign=foreign)


def probe(
    nodes: Mapping[str, Node],
    addresses: Mapping[str, str],
    ports: Mapping[str, int],
    *,
    vni_in_use: int | None = None,
    foreign: bool = False,
) -> list[Item]:
    """Per receiving node an item ``vxlan-probe``, and where ``foreign`` also ``source-probe``.

    Parameters
    ----------
    addresses, ports
        IPv4 address and VXLAN port of each node; those without an address take no part.
    vni_in_use
        The overlay's network, if it is not the usual one.
    """
    names = [name for name in nodes if name in addresses]
    plan = ways(names, foreign=foreign)
    if not plan:
        return []
    vni = next(each for each in (VNI, VNI + 1) if each not in {*_CALICO_VNIS, vni_in_use})
    taken = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    token = secrets.token_hex(8)
    told = {
        name: {
            "vni": vni, "token": token, "count": COUNT, "arrive_s": _ARRIVE_S,
            "expects": [way.pair for way in plan if way.receiver == name],
            "sends": [
                {
                    "pair": way.pair,
                    "to": addresses[way.receiver],
                    "port": ports[way.receiver],
                    "source": addresses[way.owner],
                    "source_port": _FIRST_PORT + way.pair % (1 << 14),
                }
                for way in plan
                if way.sender == name
            ],
        }
        for name in names
    }  # fmt: skip
    heard, failed = _converse({name: nodes[name] for name in names}, told)
    return items(plan, heard, failed, addresses=addresses, ports=ports, vni=vni, taken_utc=taken)


def items(
    plan: Iterable[Way],
    heard: Mapping[str, Mapping[str, Any]],
    failed: Mapping[str, str],
    *,
    addresses: Mapping[str, str],
    ports: Mapping[str, int],
    vni: int,
    taken_utc: str,
) -> list[Item]:
    """What the nodes heard as evidence: of each receiver a JSON object with its ``pairs``.

    A pair: ``from``, ``source`` (the address) and its ``owner``; ``sent``, ``left``, ``arrived``
    (numbers of datagrams; None where that node did not say), ``out`` and ``in`` (devices), and
    ``error``, why less was sent.
    """
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for way in plan:
        row = _pair(way, heard, failed, addresses)
        source = SOURCE_PROBE if way.foreign else VXLAN_PROBE
        rows.setdefault((source, way.receiver), []).append(row)
    found = []
    for (source, receiver), pairs in rows.items():
        port = ports[receiver]
        whose = "with another node's source " if source == SOURCE_PROBE else ""
        asked = (
            f"{COUNT} UDP datagrams {whose}from {', '.join(p['from'] for p in pairs)} to "
            f"{addresses[receiver]}:{port} (VXLAN, network {vni:#x}); packet sockets at both ends"
        )
        if receiver in failed:
            item = Item(source, receiver, asked, taken_utc, error=failed[receiver])
        else:
            content = {"port": port, "vni": vni, "pairs": pairs}
            item = Item(source, receiver, asked, taken_utc, json.dumps(content).encode())
        found.append(item)
    return found


def _pair(
    way: Way,
    heard: Mapping[str, Mapping[str, Any]],
    failed: Mapping[str, str],
    addresses: Mapping[str, str],
) -> dict[str, Any]:
    key = str(way.pair)
    row: dict[str, Any] = {
        "from": way.sender, "source": addresses[way.owner], "owner": way.owner,
        "sent": None, "left": None, "out": [], "arrived": None, "in": [],
        "error": failed.get(way.sender, ""),
    }  # fmt: skip
    if (sender := heard.get(way.sender)) is not None:
        row["sent"] = sender["sent"].get(key, 0)
        row["error"] = sender["errors"].get(key, "")
        row["left"], row["out"] = sender["left"].get(key, [0, []])
    if (receiver := heard.get(way.receiver)) is not None:
        row["arrived"], row["in"] = receiver["arrived"].get(key, [0, []])
    return row


# -------------------------------------------------------------------------- the conversation


def _converse(
    nodes: Mapping[str, Node], told: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Node → what it heard, and node → why it took no part. All listen before one sends."""
    failed: dict[str, str] = {}
    streams: dict[str, Stream] = {}

    def everybody(line: bytes, expected: str) -> dict[str, dict[str, Any]]:
        # To all before the first answer is awaited.
        taking_part = [name for name in streams if name not in failed]
        for name in taking_part:
            try:
                streams[name].write_line(line)
            except NodeError as error:
                failed[name] = error.what
        found = zip(
            taking_part,
            pool.map(lambda name: _answer(name, streams[name], expected, failed), taking_part),
            strict=True,
        )
        return {name: each for name, each in found if each is not None}

    with ExitStack() as stack, ThreadPoolExecutor(min(_AT_ONCE, len(nodes))) as pool:
        opened = pool.map(lambda name: _open(nodes[name], failed), nodes)
        for name, stream in zip(nodes, opened, strict=True):
            if stream is not None:
                streams[name] = stack.enter_context(stream)
        for name in list(streams):
            try:
                line = json.dumps({"source": _source(), "asked": told[name]})
                streams[name].write_line(line.encode())
            except NodeError as error:
                failed[name] = error.what
        started = [name for name in streams if name not in failed]
        list(pool.map(lambda name: _answer(name, streams[name], "ready", failed), started))
        everybody(b"send", "sent")
        heard = everybody(b"stop", "heard")
    return heard, failed


def _open(node: Node, failed: dict[str, str]) -> Stream | None:
    try:
        return node.stream(COMMAND, limit_bytes=_LIMIT_BYTES)
    except NodeError as error:
        failed[node.name] = error.what
        return None


def _answer(
    name: str, stream: Stream, expected: str, failed: dict[str, str]
) -> dict[str, Any] | None:
    """The node's next line; None, and the reason in ``failed``, where it is another or none."""
    if name in failed:
        return None
    try:
        found: dict[str, Any] = json.loads(stream.read_line(timeout_s=_ANSWER_S))
        if found["event"] == expected:
            return found
        failed[name] = f"it cannot listen or send: {found.get('message', found['event'])}"
    except CommandTimeout:
        failed[name] = f"it did not answer within {_ANSWER_S:g} s"
    except CommandError as error:
        said = str(error.fields.get("stderr", "")).strip().rpartition("\n")[2]
        missing = error.fields.get("status") == _NOT_FOUND
        failed[name] = f"{COMMAND[0]} is not installed" if missing else said or error.what
    except NodeError as error:
        failed[name] = error.what
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        failed[name] = f"its answer is unreadable: {error!r}"
    return None


@cache
def _source() -> str:
    return files("ebpfperf.probes").joinpath("node", "datagrams.py").read_text("utf-8")
