"""Packets out of lines: verdicts, silence, losses, flows; stories; summaries."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pandas as pd
import pytest

from ebpfperf.tracelog.flows import address, flow_in, side
from ebpfperf.tracelog.packets import COLUMNS, packets_of, route_problem
from ebpfperf.tracelog.reading import Reading
from ebpfperf.tracelog.stories import Following, about, chapters, told
from ebpfperf.tracelog.summaries import DISTORTED, Summary
from ebpfperf.units import UNKNOWN

PRIME = 13
CLIENT, SERVER = "198.18.1.2:40000", "198.18.2.3:8080"


class Log:
    """Writes lines as a kernel does: each a microsecond after the last."""

    def __init__(self, *, wide: bool = True) -> None:
        self.lines: list[str] = []
        self.wide = wide

    def say(self, iface: str, letter: str, texts: Iterable[str], *, cpu: int = 0) -> None:
        width = 15 if self.wide else 8
        for text in texts:
            time = f"1000.{len(self.lines):06d}"
            tag = f"{iface[:width].ljust(width, '-')}-{letter}: " if iface else ""
            self.lines.append(
                f"          <idle>-0       [{cpu:03d}] ..s2.  {time}: bpf_trace_printk: {tag}{text}"
            )

    def raw(self, line: str) -> None:
        self.lines.append(line)

    @property
    def data(self) -> bytes:
        return "".join(line + "\n" for line in self.lines).encode()

    def packets(
        self, *, size: int = 1 << 20, release: tuple[int, int] | None = None
    ) -> pd.DataFrame:
        frames = packets_of(Reading(release=release), io.BytesIO(self.data), stretch_bytes=size)
        found = pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
        return found.sort_values("first_line", ignore_index=True)


def new(source: str = CLIENT, destination: str = SERVER, ip_id: int = 5) -> list[str]:
    return [
        "New packet at ifindex=3; mark=0",
        f"IP id={ip_id} len=60",
        f"CT: lookup from {source}",
        f"CT: lookup to   {destination}",
        "CT: Miss.",
    ]


def end(action: int, ns: int = 700) -> str:
    return f"Final result=ALLOW rc {action}. Program execution time: {ns}ns"


DENIED = "Final result=DENY (4). Program execution time: 900ns"
REDIRECTED = ["FIB lookup succeeded", "Got Linux FIB hit, redirecting to iface 2.", end(7)]


def test_a_packet_is_its_lines_of_one_hook_on_one_processor() -> None:
    log = Log()
    one, two = [*new(), *REDIRECTED], [*new(ip_id=6), DENIED]
    # Two processors, and an interruption by another hook, in the middle of it.
    log.say("cali1", "E", one[:3], cpu=0)
    log.say("cali1", "E", two[:4], cpu=1)
    log.say("eth0", "I", [end(0)], cpu=0)
    log.say("cali1", "E", one[3:], cpu=0)
    log.say("cali1", "E", two[4:], cpu=1)
    found = log.packets()
    assert list(found.columns) == list(COLUMNS)
    assert list(found["lines"]) == [len(one), len(two), 1]
    assert list(found["path"]) == ["redirect", "dropped", "host stack"]
    assert list(found["why"].fillna("")) == ["", "policy", ""]
    assert list(found["cpu"]) == [0, 1, 0]
    assert list(found["ip_id"].dropna()) == [5, 6]
    assert list(found["source"].fillna("")) == ["198.18.1.2", "198.18.1.2", ""]
    assert list(found["destination_port"].dropna()) == [8080, 8080]
    assert list(found["duration_ns"]) == [700, 900, 700]
    assert found["whole"].all()


@pytest.mark.parametrize("size", [200, 1000, 5000])
def test_stretches_change_no_packet(size: int) -> None:
    log = Log()
    for number in range(PRIME):
        log.say("cali1", "E", [*new(ip_id=number), *REDIRECTED], cpu=number % 3)
        log.say("eth0", "E", ["Final result=ALLOW (3). Bypass mark set."], cpu=number % 3)
    whole, cut = log.packets(), log.packets(size=size)
    assert len(whole) == 2 * PRIME
    pd.testing.assert_frame_equal(whole, cut, check_dtype=False)


def silent(log: Log, count: int) -> None:
    for number in range(count):
        log.say(
            "cali1234", "E", [f"IP id={number} s=c6120102 d=c6120203",
                              "CT-17 lookup from c6120102:40000",
                              "About to jump to policy program; lack of further logs means policy "
                              "dropped the packet..."],
        )  # fmt: skip


def test_silence_after_policy_is_a_drop_up_to_v3_23() -> None:
    log = Log(wide=False)
    silent(log, PRIME)
    found = log.packets()
    # Nothing follows the last: the log may just end there.
    assert list(found["by_silence"]) == [True] * (PRIME - 1) + [False]
    assert list(found["code_name"][:-1]) == ["policy"] * (PRIME - 1)
    assert set(found["path"][:-1]) == {"dropped"}
    assert found["path"].iloc[-1] == UNKNOWN
    assert set(found["protocol"]) == {"udp"}
    assert set(found["source"]) == {"198.18.1.2"}
    assert list(found["ip_id"]) == list(range(PRIME))


def test_silence_means_nothing_where_events_were_lost_or_results_are_printed() -> None:
    log = Log(wide=False)
    silent(log, 1)
    log.raw("CPU:0 [LOST 7 EVENTS]")
    silent(log, 1)
    found = log.packets()
    assert list(found["by_silence"]) == [False, False]
    assert list(found["lost_events"]) == [7, 0]
    assert not found["whole"].any()
    log = Log(wide=False)
    silent(log, 2)
    assert not log.packets(release=(3, 24))["by_silence"].any()
    wide = Log(wide=True)
    silent(wide, 2)
    assert not wide.packets()["by_silence"].any()


def test_losses_are_of_one_processor() -> None:
    log = Log()
    log.say("eth0", "I", new()[:2], cpu=0)
    log.say("eth0", "I", new()[:2], cpu=1)
    log.raw("CPU:1 [LOST 11 EVENTS]")
    log.say("eth0", "I", [end(0)], cpu=0)
    log.say("eth0", "I", [end(0)], cpu=1)
    found = log.packets()
    assert list(found["lost_events"]) == [0, 11]
    assert list(found["whole"]) == [True, False]


@pytest.mark.parametrize("size", [100, 1 << 20])
def test_a_loss_of_long_ago_is_not_near(size: int) -> None:
    """A packet of which only the end is there is beside the loss that took its beginning."""
    log = Log()
    log.raw("CPU:0 [LOST 100 EVENTS]")
    for _ in range(2):
        log.say("eth0", "I", [*new(), end(0)])
    log.raw("CPU:0 [LOST 11 EVENTS]")
    log.say("eth0", "I", ["CT: Miss.", end(0)])
    log.say("eth0", "I", ["CT: Miss.", end(0)])
    found = log.packets(size=size)
    assert list(found["lost_events"]) == [0, 0, 11, 0]
    assert list(found["whole"]) == [True, True, False, False]


def test_a_result_without_a_tag_ends_the_packet_before_it() -> None:
    log = Log()
    log.say("eth0", "I", new()[:2])
    log.say("", "", ["Final result=ALLOW (17). Accepted by XDP."])
    log.say("", "", ["Final result=ALLOW (3). Bypass mark set at bpfnat local WL"])
    found = log.packets()
    assert list(found["iface"].fillna("")) == ["eth0", ""]
    assert list(found["path"]) == ["accepted by XDP", "bypass"]


def test_xdp_programs_print_no_result_and_are_not_called_dropping() -> None:
    log = Log(wide=False)
    for number in range(3):
        log.say("eth0", "X", [f"IP id={number} s=1 d=2", "About to jump to policy program."])
    found = log.packets()
    assert list(found["path"]) == [UNKNOWN] * 3
    assert not found["by_silence"].any()


def test_why_a_packet_took_the_stack_or_fell() -> None:
    log = Log()
    log.say("cali1", "E", [*new(), "FIB lookup failed (FIB problem): 7.", end(0)])
    log.say("cali1", "E", [*new(), "Workload RPF fail: missing route.",
                           "Final result=DENY (11). Program execution time: 9ns"])  # fmt: skip
    log.say("eth0", "I", [*new(), "Redirect to peer interface (9) succeeded.", end(7)])
    found = log.packets()
    assert list(found["path"]) == ["host stack", "dropped", "redirect to peer"]
    assert found["why"][0] == "route lookup failed: FIB problem 7 (no neighbour)"
    assert found["why"][1] == "unknown source (RPF of the workload)"
    assert pd.isna(found["why"][2])
    assert (
        route_problem("FIB lookup failed (bad input): -22.") == "route lookup failed: bad input -22"
    )
    assert route_problem("FIB lookup succeeded") is None


def test_a_flow_is_put_together_of_what_the_lines_say() -> None:
    """Up to v3.29 ids, addresses and ports stand in lines of their own."""
    log = Log()
    log.say("eth0", "I", ["New packet at ifindex=2; mark=0", "No metadata is shared by XDP",
                          "IP id=4541 len=60", "IP s=c6120001 d=c6120102", "IP ihl=20 bytes",
                          "TCP; ports: s=43896 d=80", "CT: Miss for TCP SYN, NEW flow.",
                          "CT: DNAT to c6120203:8080", "Final result=ALLOW (7). "
                          "Program execution time: 16040ns"])  # fmt: skip
    (one,) = log.packets().to_dict("records")
    assert (one["source"], one["source_port"]) == ("198.18.0.1", 43896)
    assert (one["destination"], one["destination_port"]) == ("198.18.1.2", 80)
    assert (one["to"], one["to_port"]) == ("198.18.2.3", 8080)
    assert (one["protocol"], one["ip_id"], one["path"]) == ("tcp", 4541, "redirect")


def test_addresses_in_every_notation() -> None:
    assert address("a410002") == "10.65.0.2"
    assert address("c6120001") == "198.18.0.1"
    assert address("198.18.0.1") == "198.18.0.1"
    assert address("[fd00:0000:0000:0000:0000:0000:0000:0001]") == "fd00::1"
    assert address("1", ip_version=6) == "…:1"
    assert address("123456789") == UNKNOWN
    assert side("fd00::1", 80) == "[fd00::1]:80"
    assert flow_in("IP id=7 s=a410002 d=a410107")[::2] == ("10.65.0.2", "10.65.1.7", None, None)
    assert flow_in("IP s=a410002 d=a410107").destination == "10.65.1.7"
    assert flow_in("TCP; ports: s=43210 d=80")[:5] == (None, 43210, None, 80, "tcp")
    assert flow_in("NAT: 1st level lookup addr=a60000a port=53 protocol=17.").protocol == "udp"
    assert flow_in("CT-6 DNAT to a410107:8080")[-2:] == ("10.65.1.7", 8080)
    denied = flow_in("policy DENIED  proto 6 src 10.65.0.2:43553 dest 10.65.0.3:8055")
    assert denied[:5] == ("10.65.0.2", 43553, "10.65.0.3", 8055, "tcp")
    assert flow_in("IP ihl=20 bytes") == flow_in("CT: Miss.") == flow_in("anything")


def service_log() -> Log:
    """Two packets through a service, from pod to pod over two nodes, and the answer to one."""
    log = Log()
    front = "198.18.99.1:80"
    for ip_id in (21, 22):
        log.say("cali1", "E", [*new(destination=front, ip_id=ip_id), f"CT: DNAT to {SERVER}",
                               *REDIRECTED])  # fmt: skip
    for ip_id in (21, 22):
        log.say("eth0", "E", [*new(ip_id=ip_id)[:4], end(-1)], cpu=1)
        log.say("eth1", "I", [*new(ip_id=ip_id)[:4], end(7)], cpu=1)
    log.say("cali2", "I", [*new(ip_id=21)[:4], end(-1)], cpu=1)
    log.say("cali2", "E", [*new(SERVER, CLIENT, 77), *REDIRECTED], cpu=1)
    log.say("cali3", "E", [*new("198.18.7.7:1", "198.18.8.8:2", 5), DENIED], cpu=1)
    return log


def test_a_story_goes_through_hooks_in_order() -> None:
    found = told(service_log().packets())
    hooks = found.groupby("story").apply(
        lambda sights: [
            f"{a}-{b}" for a, b in zip(sights["iface"], sights["direction"], strict=True)
        ]
    )
    assert list(hooks) == [
        ["cali1-egress", "eth0-egress", "eth1-ingress", "cali2-ingress"],
        ["cali1-egress", "eth0-egress", "eth1-ingress"],
        ["cali2-egress"],
        ["cali3-egress"],
    ]
    for _, sights in found.groupby("story"):
        assert sights["ip_id"].nunique() == 1


def test_a_story_is_told_with_its_lines() -> None:
    log = service_log()
    some = about(log.packets(), "198.18.99.1:80")
    assert len(some) == 2
    assert len(about(log.packets(), "198.18.1.2")) == 8
    assert about(log.packets(), "198.18.1.20").empty
    sentences = list(chapters(told(some), Reading(), io.BytesIO(log.data)))
    assert sentences[0] == f"Packet 1: {CLIENT} to 198.18.99.1:80"
    assert sentences[1] == (f"  +0 µs, processor 0: cali1 egress: redirect, on to {SERVER}")
    assert [text.strip() for text in sentences[2:11]] == [
        *new(destination="198.18.99.1:80", ip_id=21), f"CT: DNAT to {SERVER}", *REDIRECTED
    ]  # fmt: skip


@pytest.mark.parametrize("size", [1 << 20, 700])
def test_a_story_of_a_service_goes_on_to_its_backend(size: int) -> None:
    log = service_log()
    following = Following("198.18.99.1:80")
    frames = packets_of(Reading(), io.BytesIO(log.data), stretch_bytes=size)
    some = pd.concat([following.of(one) for one in frames if len(one)], ignore_index=True)
    # Seven sights of two packets; neither the answer nor the other flow.
    assert len(some) == 7
    assert told(some)["story"].value_counts().to_dict() == {1: 4, 2: 3}


def test_a_talkers_port_is_there_where_another_packet_has_none() -> None:
    log = service_log()
    log.say("cali4", "E", ["New packet at ifindex=3; mark=0", "IP id=9 s=a000001 d=a000002",
                           *REDIRECTED])  # fmt: skip
    summary = Summary()
    summary.add_packets(log.packets())
    talkers = summary.talkers()
    assert talkers["destination"].tolist()[:2] == [SERVER, "198.18.99.1:80"]
    assert "10.0.0.2" in talkers["destination"].tolist()


def test_the_protocol_of_a_flow_is_said_once_and_holds_for_its_other_sights() -> None:
    log, service = Log(), "198.18.99.1:80"
    asked = "NAT: 1st level lookup addr=198.18.99.1 port=80 tcp"
    log.say("cali1", "E", [*new(destination=service), asked, f"CT: DNAT to {SERVER}", *REDIRECTED])
    log.say("cali1", "E", [*new(destination=service), *REDIRECTED])
    log.say("eth0", "E", [*new(), *REDIRECTED])
    log.say("eth0", "I", [*new(SERVER, CLIENT), *REDIRECTED])
    # Another flow of the same two: nothing says what it is.
    log.say("eth0", "E", [*new("198.18.1.2:40001"), DENIED])
    summary = Summary()
    summary.add_packets(log.packets())
    told_of = summary.talkers()[["destination", "protocol", "sights", "denied"]]
    assert set(told_of.itertuples(index=False, name=None)) == {
        (service, "tcp", 2, 0),
        (CLIENT, "tcp", 1, 0),
        (SERVER, UNKNOWN, 1, 1),
        (SERVER, "tcp", 1, 0),
    }


def test_a_summary_counts_every_packet_once() -> None:
    log = service_log()
    log.raw("CPU:1 [LOST EVENTS]")
    log.raw("CPU:1 [LOST 3 EVENTS]")
    log.raw("no line of a trace")
    reading, summary = Reading(), Summary()
    for packets in packets_of(
        reading, io.BytesIO(log.data), lines=summary.add_lines, stretch_bytes=700
    ):
        summary.add_packets(packets)
    fates = summary.fates()
    assert fates["packets"].sum() == summary.packets == 9
    (dropped,) = fates.loc[fates["path"] == "dropped"].to_dict("records")
    assert (dropped["iface"], dropped["direction"], dropped["why"]) == ("cali3", "egress", "policy")
    assert dropped["mean_program_ns"] == 900
    talkers = summary.talkers(most=2)
    assert list(talkers["sights"]) == [5, 2]
    assert talkers["destination"][0] == SERVER
    said = " ".join(summary.sentences(reading))
    assert DISTORTED in said
    assert "3 or more events were lost" in said
    assert "1 of" in said


def test_a_log_of_others_has_no_packet() -> None:
    summary = Summary()
    reading = Reading()
    for packets in packets_of(reading, io.BytesIO(b"# tracer: nop\n"), lines=summary.add_lines):
        summary.add_packets(packets)
    assert summary.packets == 0
    assert summary.fates().empty
    assert summary.talkers().empty
    assert summary.sentences(reading) == []
