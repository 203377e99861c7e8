"""The datagrams by which the underlay is tried out: their bytes, where they go, what is heard."""

from __future__ import annotations

import ipaddress
import json
import socket
import struct
import types
from importlib.resources import files
from typing import Any, cast

import pytest
from evidence_made import changed, felix, healthy

from ebpfperf import underlay_probe
from ebpfperf.errors import CommandError, CommandTimeout, ConnectError
from ebpfperf.remote import Node
from ebpfperf.underlay_probe import COMMAND, VNI, Way, ways

TOKEN = bytes.fromhex("0123456789abcdef")
ADDRESSES = {"node-1": "198.18.0.11", "node-2": "198.18.0.12", "node-3": "198.18.0.13"}
PORTS = dict.fromkeys(ADDRESSES, 4789)


def script() -> Any:
    source = files("ebpfperf.probes").joinpath("node", "datagrams.py").read_text("utf-8")
    module = types.ModuleType("datagrams")
    exec(compile(source, "datagrams.py", "exec"), module.__dict__)
    return module


DATAGRAMS = script()


def made(**other: Any) -> bytes:
    told = {
        "source": "198.18.0.11", "destination": "198.18.0.12", "port": 4789,
        "source_port": 49_153, "vni": VNI, "token": TOKEN, "pair": 258, "number": 5,
    }  # fmt: skip
    return bytes(DATAGRAMS.datagram(**{**told, **other}))


# ---------------------------------------------------------------------------------- bytes


def test_every_byte_of_a_datagram() -> None:
    ip = "4500 0060 0000 0000 4011 ee51 c612000b c612000c"
    udp = "c001 12b5 004c 0000"
    vxlan = "08000000 ebf0f500"
    ethernet = "026562706602 026562706601 88b5"
    inside = "65627066 70657266 0123456789abcdef 0102 0005"
    wanted = bytes.fromhex(ip + udp + vxlan + ethernet + inside)
    found = made()
    # 4500 + 60 + 4011 + 2 × c612 + b + c = 211ac, folded 11ae, its complement ee51.
    assert found[: len(wanted)] == wanted
    assert found[len(wanted) :] == bytes(96 - len(wanted))
    assert len(found) == 96


@pytest.mark.parametrize("source", ["198.18.0.11", "10.255.255.254", "0.0.0.1", "255.255.255.254"])
def test_the_ip_checksum_is_right(source: str) -> None:
    head = made(source=source)[:20]
    # RFC 1071: with the checksum in it, the sum in one's complement is all ones.
    total = sum(struct.unpack("!10H", head)) % 0xFFFF
    assert total == 0
    assert head[12:16] == ipaddress.IPv4Address(source).packed


def test_lengths_in_the_headers_are_those_of_the_packet() -> None:
    found = made()
    assert struct.unpack("!H", found[2:4]) == (len(found),)
    assert struct.unpack("!H", found[24:26]) == (len(found) - 20,)
    assert found[26:28] == b"\0\0", "VXLAN over IPv4 has no UDP checksum"


# --------------------------------------------------------------------------------- filter


def passes(packet: bytes) -> bool:
    """What the kernel would do with the filter: an interpreter of the codes that it has."""
    a = x = at = 0
    rules = DATAGRAMS.rules(VNI)
    while True:
        code, true, false, value = rules[at]
        at += 1
        if code == 0x06:
            return bool(value)
        if code == 0x30:
            a = packet[value]
        elif code == 0x28:
            a = struct.unpack_from("!H", packet, value)[0]
        elif code == 0xB1:
            x = 4 * (packet[value] & 15)
        elif code == 0x40:
            if x + value + 4 > len(packet):
                return False
            a = struct.unpack_from("!I", packet, x + value)[0]
        elif code == 0x54:
            a &= value
        elif code == 0x15:
            at += true if a == value else false
        elif code == 0x45:
            at += true if a & value else false
        else:
            raise AssertionError(hex(code))


def test_the_filter_takes_the_datagrams_and_nothing_else() -> None:
    good = made()
    assert passes(good)
    with_options = bytes([0x47]) + good[1:20] + bytes(8) + good[20:]
    assert passes(with_options)
    others = {
        "IPv6": bytes([0x60]) + good[1:],
        "TCP": good[:9] + b"\x06" + good[10:],
        "a later fragment": good[:6] + b"\x00\x01" + good[8:],
        "no VXLAN flags": good[:28] + bytes(4) + good[32:],
        "node ports' network": made(vni=0xCA11C0),
        "the overlay's network": made(vni=4096),
        "a short packet": good[:30],
    }
    assert {name: passes(packet) for name, packet in others.items()} == dict.fromkeys(others, False)
    assert passes(good[:6] + b"\x20\x00" + good[8:]), "a first fragment is looked into"


def test_each_datagram_counts_once_and_by_its_direction() -> None:
    heard = DATAGRAMS.Heard(TOKEN)
    heard.take(made(number=0), "bond0", outgoing=True)
    heard.take(made(number=0), "eth0", outgoing=True)
    heard.take(made(number=1), "eth0", outgoing=True)
    heard.take(made(number=6), "eth0", outgoing=False)
    heard.take(made(number=2) + made(number=3), "eth0", outgoing=False)
    heard.take(made(number=4), "lo", outgoing=True)
    heard.take(made(token=bytes(8)), "eth0", outgoing=False)
    heard.take(made()[:55], "eth0", outgoing=False)
    assert heard.counts(heard.left) == {258: [2, ["bond0", "eth0"]]}
    assert heard.counts(heard.arrived) == {258: [3, ["eth0"]]}


class Late:
    """A packet socket at which one datagram comes at each look, by a real one to be waited for."""

    def __init__(self, packets: list[bytes]) -> None:
        self.packets, self.looks = packets, 0
        self.near, self.far = socket.socketpair()
        self.far.send(b"x")

    def fileno(self) -> int:
        return self.near.fileno()

    def recvfrom(self, size: int) -> Any:
        self.looks += 1
        if self.looks % 2 == 0 or not self.packets:
            raise BlockingIOError
        return self.packets.pop(0), ("eth0", 0, 0)

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.mark.parametrize("arrive_s", [0.0, 60.0])
def test_it_listens_until_all_has_arrived_or_the_time_is_up(arrive_s: float) -> None:
    heard = DATAGRAMS.Heard(TOKEN)
    ear = Late([made(number=number) for number in range(3)])
    asked = {"count": 3, "expects": [258], "arrive_s": arrive_s}
    try:
        DATAGRAMS.await_all(ear, heard, asked)
    finally:
        ear.close()
    assert heard.missing(258, 3) == (0 if arrive_s else 3)
    assert heard.missing(259, 3) == 3
    DATAGRAMS.await_all(ear, heard, {**asked, "expects": []})


def test_what_the_kernel_refuses_is_not_sent() -> None:
    class Mouth:
        def sendto(self, packet: bytes, place: Any) -> None:
            if place[0] == "198.18.0.13":
                raise PermissionError(1, "Operation not permitted")

    class Ear:
        def recvfrom(self, size: int) -> Any:
            raise BlockingIOError

    sends = [
        {"pair": pair, "to": to, "port": 4789, "source": "198.18.0.11", "source_port": 49_152}
        for pair, to in ((0, "198.18.0.12"), (1, "198.18.0.13"))
    ]
    asked = {"count": 3, "vni": VNI, "token": TOKEN.hex(), "sends": sends}
    sent, errors = DATAGRAMS.send(Mouth(), Ear(), DATAGRAMS.Heard(TOKEN), asked)
    assert sent == {0: 3, 1: 0}
    assert errors == {1: "[Errno 1] Operation not permitted"}


# --------------------------------------------------------------------------------- plans


def test_up_to_six_nodes_every_pair_then_a_ring_both_ways() -> None:
    six = [f"n{at}" for at in range(6)]
    assert len(ways(six, foreign=False)) == 6 * 5
    seven = [f"n{at}" for at in range(7)]
    found = [(way.sender, way.receiver) for way in ways(seven, foreign=False)]
    assert sorted(found) == sorted(
        [(f"n{at}", f"n{(at + 1) % 7}") for at in range(7)]
        + [(f"n{(at + 1) % 7}", f"n{at}") for at in range(7)]
    )
    assert ways(["n0"], foreign=True) == []


def test_a_borrowed_source_is_neither_the_senders_nor_of_three_the_receivers() -> None:
    two = [way for way in ways(["a", "b"], foreign=True) if way.foreign]
    assert [(way.sender, way.owner, way.receiver) for way in two] == [
        ("a", "b", "b"), ("b", "a", "a"),
    ]  # fmt: skip
    three = [way for way in ways(["a", "b", "c"], foreign=True) if way.foreign]
    assert [(way.sender, way.owner, way.receiver) for way in three] == [
        ("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b"),
    ]  # fmt: skip
    assert len({way.pair for way in ways(["a", "b", "c"], foreign=True)}) == 9


# ---------------------------------------------------------------------- the conversation


class FakeStream:
    """A node that says these lines; None: nothing comes in time."""

    def __init__(self, lines: list[Any]) -> None:
        self.lines, self.told, self.stopped = lines, [], False

    def __enter__(self) -> FakeStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped = True

    def write_line(self, line: bytes) -> None:
        self.told.append(line)

    def read_line(self, *, timeout_s: float) -> bytes:
        line = self.lines.pop(0)
        if isinstance(line, Exception):
            raise line
        return line if isinstance(line, bytes) else json.dumps(line).encode()


class FakeNode:
    def __init__(self, name: str, lines: list[Any]) -> None:
        self.name, self.stream_ = name, FakeStream(lines)

    def stream(self, argv: Any, **_: Any) -> FakeStream:
        assert tuple(argv) == COMMAND
        return self.stream_


def said(**heard: Any) -> list[Any]:
    empty: dict[str, Any] = {"sent": {}, "errors": {}, "left": {}, "arrived": {}}
    return [{"event": "ready"}, {"event": "sent"}, {"event": "heard", **empty, **heard}]


def probed(**lines: list[Any]) -> tuple[dict[str, Any], dict[str, FakeNode]]:
    nodes = {name.replace("_", "-"): FakeNode(name.replace("_", "-"), each)
             for name, each in lines.items()}  # fmt: skip
    items = underlay_probe.probe(cast(dict[str, Node], nodes), ADDRESSES, PORTS)
    return {item.node: item for item in items}, nodes


def test_what_nodes_heard_becomes_pairs_of_each_receiver() -> None:
    found, nodes = probed(
        node_1=said(sent={"0": 7}, left={"0": [7, ["eth0"]]}, arrived={"1": [6, ["eth0"]]}),
        node_2=said(sent={"1": 7}, left={"1": [7, ["ens1"]]}),
    )
    assert json.loads(found["node-2"].content) == {
        "port": 4789, "vni": VNI,
        "pairs": [{"from": "node-1", "source": "198.18.0.11", "owner": "node-1", "sent": 7,
                   "left": 7, "out": ["eth0"], "arrived": 0, "in": [], "error": ""}],
    }  # fmt: skip
    (pair,) = json.loads(found["node-1"].content)["pairs"]
    assert (pair["from"], pair["left"], pair["arrived"]) == ("node-2", 7, 6)
    told = [json.loads(node.stream_.told[0])["asked"] for node in nodes.values()]
    assert [node.stream_.told[1:] for node in nodes.values()] == [[b"send", b"stop"]] * 2
    assert told[0]["token"] == told[1]["token"]
    assert [each["to"] for each in told[0]["sends"]] == ["198.18.0.12"]
    assert [each["expects"] for each in told] == [[1], [0]]
    ports = [each["source_port"] for one in told for each in one["sends"]]
    assert len(set(ports)) == 2, "no direction may pass for the answer of the other"
    assert all(node.stream_.stopped for node in nodes.values())


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([CommandTimeout("late", "")], "it did not answer within 10 s"),
        ([CommandError("ended", "", status=127)], "/usr/bin/python3 is not installed"),
        ([CommandError("ended", "", status=1, stderr="Trace\nOSError: x\n")], "OSError: x"),
        ([ConnectError("node-2 is lost.", "")], "node-2 is lost."),
        ([{"event": "error", "message": "[Errno 1] no"}], "it cannot listen or send: [Errno 1] no"),
        ([b"banner"], "its answer is unreadable"),
        ([{"event": "ready"}, CommandTimeout("late", "")], "it did not answer within 10 s"),
    ],
)  # fmt: skip
def test_a_node_that_fails_says_why_and_the_others_are_probed(lines: list[Any], why: str) -> None:
    found, nodes = probed(
        node_1=said(sent={"0": 7, "1": 7}, left={"0": [7, ["e"]], "1": [7, ["e"]]},
                    arrived={"4": [7, ["e"]]}),
        node_2=lines,
        node_3=said(sent={"4": 7, "5": 7}, left={"4": [7, ["e"]]}, arrived={"1": [7, ["e"]]}),
    )  # fmt: skip
    assert found["node-2"].error.startswith(why)
    (one, two) = json.loads(found["node-3"].content)["pairs"]
    assert (one["from"], one["arrived"]) == ("node-1", 7)
    assert (two["from"], two["sent"], two["left"]) == ("node-2", None, None)
    assert two["error"].startswith(why)
    assert nodes["node-2"].stream_.stopped


def test_the_overlays_own_network_is_not_used() -> None:
    nodes = {name: FakeNode(name, said()) for name in ("node-1", "node-2")}
    items = underlay_probe.probe(
        cast(dict[str, Node], nodes), ADDRESSES, PORTS, vni_in_use=VNI, foreign=True
    )
    assert {json.loads(item.content)["vni"] for item in items} == {VNI + 1}
    assert sorted((item.source, item.node) for item in items) == [
        ("source-probe", "node-1"), ("source-probe", "node-2"),
        ("vxlan-probe", "node-1"), ("vxlan-probe", "node-2"),
    ]  # fmt: skip


# ------------------------------------------------------------------- what the evidence says


def measured(evidence: Any) -> tuple[list[Any], dict[str, FakeNode]]:
    nodes = {name: FakeNode(name, said()) for name in ("node-1", "node-2")}
    return underlay_probe.measure(cast(dict[str, Node], nodes), evidence), nodes


def sends(node: FakeNode) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(node.stream_.told[0])["asked"]["sends"]
    return found


def with_fields(release: str, **fields: Any) -> Any:
    base = healthy(release)
    return changed(base, {("felixconfigurations", ""): felix(base, fields)})


def test_nothing_is_sent_where_ebpf_mode_is_not_asked_for() -> None:
    items, nodes = measured(with_fields("v3.26", bpfEnabled=False))
    assert items == []
    assert [node.stream_.told for node in nodes.values()] == [[], []]


def test_borrowed_sources_only_with_dsr_and_the_port_by_release() -> None:
    items, nodes = measured(with_fields("v3.26", vxlanPort=4790))
    assert {item.source for item in items} == {"vxlan-probe"}
    assert [each["port"] for each in sends(nodes["node-1"])] == [4790]
    items, nodes = measured(with_fields("v3.26", bpfExternalServiceMode="DSR"))
    assert {item.source for item in items} == {"vxlan-probe", "source-probe"}
    own, borrowed = sends(nodes["node-1"])
    assert (own["source"], borrowed["source"]) == ("198.18.0.11", "198.18.0.12")
    # Compiled in for node ports.
    _, nodes = measured(with_fields("v3.16", vxlanPort=4790))
    assert [each["port"] for each in sends(nodes["node-1"])] == [4789]


def test_a_way_knows_whether_its_source_is_borrowed() -> None:
    assert not Way(0, "a", "b", "a").foreign
    assert Way(0, "a", "b", "b").foreign


def test_addresses_are_packed_as_the_network_has_them() -> None:
    assert made()[16:20] == socket.inet_aton("198.18.0.12")
