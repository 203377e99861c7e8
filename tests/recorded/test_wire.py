"""Real packets as tcpdump printed them, bare and encapsulated, and what damage makes of them."""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from ebpfperf import wire
from ebpfperf.model import Flow, Overlay
from ebpfperf.model import Path as FlowPath

HERE = Path(__file__).parent / "wire"
ENDS = wire.Ends("198.19.0.0", "198.19.0.64")
# The others are of pods with the addresses above.
OTHERS = {"vxlan-flow-based": wire.Ends("198.19.0.1", "198.19.0.65")}
# Outer header, and what VXLAN has besides.
BEFORE_INNER = {"none": 14, "ipip": 14 + 20, "vxlan": 14 + 20 + 8 + 8 + 14}


def printed(case: str) -> bytes:
    return (HERE / f"{case}.txt").read_bytes()


def mode(case: str) -> str:
    return case.partition("-")[0]


def ends(case: str) -> wire.Ends:
    return OTHERS.get(case, ENDS)


CASES = sorted(path.stem for path in HERE.iterdir())


@pytest.mark.parametrize("case", CASES)
def test_packets_say_what_they_are_wrapped_in(case: str) -> None:
    assert wire.parse(printed(case), ends(case)) == mode(case)
    assert {"none", "ipip", "vxlan"} <= {mode(each) for each in CASES}


@pytest.mark.parametrize("case", CASES)
def test_every_packet_is_read_whole(case: str) -> None:
    frames = list(wire.packets(printed(case)))
    assert len(frames) == wire.PACKETS
    # The last offset that was printed, and the digits after it.
    sizes = []
    for block in re.split(r"^(?=IP )", printed(case).decode(), flags=re.M):
        lines = re.findall(r"^\t0x([0-9a-f]+):  (.*)$", block, re.M)
        if lines:
            sizes.append(int(lines[-1][0], 16) + len(lines[-1][1].replace(" ", "")) // 2)
    assert [len(frame) for frame in frames] == sizes


@pytest.mark.parametrize("case", CASES)
def test_both_directions_are_there(case: str) -> None:
    at = BEFORE_INNER[mode(case)] + 12
    sources = {frame[at : at + 4] for frame in wire.packets(printed(case))}
    assert sources == {
        IPv4Address(address).packed for address in (ends(case).client, ends(case).server)
    }


@pytest.mark.parametrize("case", CASES)
def test_packets_of_other_addresses_are_none_of_the_flow(case: str) -> None:
    others = wire.Ends("198.19.0.2", ends(case).server)
    assert all(wire.overlay_of(frame, others) is None for frame in wire.packets(printed(case)))
    assert wire.parse(printed(case), others).startswith("UNKNOWN: no packet of the flow")


def test_the_nodes_own_addresses_see_a_tunnel_as_no_traffic_of_theirs() -> None:
    """The outer header of IPIP is between the nodes, but carries no TCP or UDP of theirs."""
    nodes = wire.Ends("198.18.0.11", "198.18.0.12")
    assert wire.parse(printed("ipip"), nodes).startswith("UNKNOWN")


def test_each_way_another_encapsulation_is_mixed() -> None:
    assert wire.parse(printed("ipip") + printed("vxlan"), ENDS) == "mixed"
    assert wire.parse(printed("none") + printed("ipip"), ENDS) == "mixed"


@pytest.mark.parametrize("case", CASES)
def test_output_cut_anywhere_says_the_same_or_nothing(case: str) -> None:
    whole = printed(case)
    for size in range(0, len(whole), 13):
        found = wire.parse(whole[:size], ends(case))
        assert found == mode(case) or found.startswith("UNKNOWN"), size
    assert wire.parse(b"", ENDS) == "UNKNOWN: tcpdump did not begin"


def test_the_filter_names_the_flow_in_all_three_forms() -> None:
    flow = Flow("f", FlowPath.POD_POD, "tcp")
    text = wire.packet_filter(flow, ENDS)
    assert "portrange 5201-5216" in text
    # The addresses as words, in both orders, for each of the two encapsulations.
    assert text.count("0xc6130000") == text.count("0xc6130040") == 4
    assert "(ip[32:4]=0xc6130000 and ip[36:4]=0xc6130040)" in text
    assert "(udp[42:4]=0xc6130040 and udp[46:4]=0xc6130000)" in text


def test_overlay_modes_are_those_of_the_model() -> None:
    assert {mode(case) for case in CASES} == {overlay.value for overlay in Overlay}
