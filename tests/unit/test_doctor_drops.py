"""Checks of drops: by qdisc, by reason, by policy, on the way back, in the kernel; connections."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from evidence_made import changed, felix, healthy, outcomes, verdicts

from ebpfperf.calico.counters import CAPTIONS, DROPS
from ebpfperf.diagnosis import Outcome
from ebpfperf.doctor import kernel_counts
from ebpfperf.evidence import Evidence

NODE, OTHER = "node-1", "node-2"
POD, NIC = "cali0123456789a", "eth0"
LINKS = {POD: 17, NIC: 2, "lo": 1}
POLICY, ROUTE, SOURCE, QOS, SHORT = 4, 12, 11, 23, 5
COUNTED = ("v3.26.1", "v3.30.2", "v3.31.0", "v3.32.1")
UNCOUNTED = ("v3.13.5", "v3.16.1", "v3.22.0", "v3.24.0", "v3.25.2")
FILTERS = {"ingress": ["cali_tc_preambl"], "egress": ["cali_tc_preambl"]}
TCX = {"ingress": ["tcx:cali_tc_preambl"], "egress": ["tcx:cali_tc_preambl"]}
Rows = Mapping[tuple[str, int], Mapping[int, int]]


def reading(
    at_s: float,
    *,
    counted: Rows | None = None,
    qdiscs: Mapping[str, tuple[int, int]] | None = None,
    hooks: Mapping[str, list[str]] = FILTERS,
    boot: str = "b",
) -> str:
    maps: dict[str, Any] = {}
    if counted is not None:
        maps["cali_counters6"] = [
            [LINKS[device], hook, [held.get(at, 0) for at in range(27)]]
            for (device, hook), held in counted.items()
        ]
    return json.dumps(
        {
            "boot_id": boot,
            "at_s": at_s,
            "links": LINKS,
            "qdiscs": qdiscs or {},
            "programs": {POD: hooks, NIC: hooks, "lo": {}},
            "counters": maps,
            "counters_early": maps,
        }
    )


def between(first: str, later: str, release: str = "v3.26.1") -> Evidence:
    answers = {("counts", NODE): first, ("counts/later", NODE): later}
    return changed(healthy(), answers, release=release)


def qdisc(seen: int, lost: int, release: str = "v3.16.1", **of: Any) -> Evidence:
    """So many packets more on the NIC, of which so many were dropped, in 2 s."""
    return between(
        reading(100.0, qdiscs={NIC: (1000, 31)}, **of),
        reading(102.0, qdiscs={NIC: (1000 + seen, 31 + lost)}, **of),
        release,
    )


def counted(
    grown: Mapping[int, int], release: str = "v3.26.1", hook: int = 0, **of: Any
) -> Evidence:
    """Calico's counters of the pod's device grew so in 2 s."""
    return between(
        reading(100.0, counted={(POD, hook): {0: 5000, POLICY: 97}}, **of),
        reading(
            102.0,
            counted={(POD, hook): {0: 5000, POLICY: 97, **{
                at: count + {0: 5000, POLICY: 97}.get(at, 0) for at, count in grown.items()}}},
            **of,
        ),
        release,
    )  # fmt: skip


def of(evidence: Evidence, check: str, node: str = NODE) -> Outcome:
    every = outcomes(evidence, check)
    (found,) = every.get(node) or every[""]
    return found


# -------------------------------------------------------------------------------------- D1


@pytest.mark.parametrize(
    ("seen", "lost", "expected"),
    [(7000, 0, "OK"), (7000, 7, "WARN"), (6999, 7, "FAIL"), (13, 13, "FAIL"), (0, 0, "OK")],
)
def test_drops_of_a_qdisc_by_their_share(seen: int, lost: int, expected: str) -> None:
    found = of(qdisc(seen, lost), "D1")
    assert found.verdict == expected
    if lost:
        assert found.subject == NIC
        assert f"dropped {lost} of {seen} packets in 2.0 s ({lost / 2:.1f}/s" in found.what
        assert f"{NIC} both clsact: {lost} of {seen}" in found.shown[0].excerpt
    assert verdicts(qdisc(seen, lost), "D1")[OTHER] == "OK"


def test_drops_that_policy_asked_for_are_no_failure() -> None:
    def evidence(policy: int, short: int) -> Evidence:
        first = reading(100.0, counted={(POD, 0): {0: 10}}, qdiscs={POD: (10, 0)})
        held = {(POD, 0): {0: 110, POLICY: policy, SHORT: short}}
        return between(first, reading(102.0, counted=held, qdiscs={POD: (110, 17)}))

    found = of(evidence(17, 0), "D1")
    assert (found.verdict, "as policy asks" in found.what) == ("WARN", True)
    found = of(evidence(13, 4), "D1")
    assert (found.verdict, "as policy asks" in found.what) == ("FAIL", False)


def test_tcx_links_have_no_such_count() -> None:
    with_counters = counted({0: 10}, "v3.31.0", hooks=TCX)
    found = of(with_counters, "D1")
    assert (found.verdict, "D2 reads Calico's own counters" in found.what) == ("N/A", True)
    assert "With TCX" in found.corrected
    line = f"{POD}: ingress tcx:cali_tc_preambl; egress tcx:cali_tc_preambl"
    assert line in found.shown[0].excerpt
    without = between(reading(100.0, hooks=TCX), reading(102.0, hooks=TCX), "v3.31.0")
    found = of(without, "D1")
    assert (found.verdict, "what they drop is not known" in found.what) == ("UNKNOWN", True)
    assert "--log-for 5s" in found.remedy


def test_what_cannot_be_compared_is_unknown() -> None:
    once = replace(qdisc(10, 1), seconds=0.0)
    assert of(once, "D1").verdict == "UNKNOWN"
    assert "counted only once" in of(once, "D1").what
    anew = between(reading(100.0), reading(102.0, boot="c"))
    assert "started anew" in of(anew, "D1").what
    nothing = between(reading(100.0, hooks={}), reading(102.0, hooks={}))
    assert "no program of Calico's" in of(nothing, "D1").what
    lost = changed(healthy(), without=[("counts/later", NODE)])
    assert of(lost, "D1").verdict == "UNKNOWN"


# -------------------------------------------------------------------------------------- D2


# IP options, malformed, blackhole route, three of fragments, Maglev without backends.
OF_SENDERS = (7, 8, 13, 20, 21, 22, 25)


def test_each_reason_but_policy_and_a_limit_is_raised() -> None:
    for number in DROPS:
        found = of(counted({0: 100, number: 1}), "D2")
        wanted = "FAIL"
        if number in (POLICY, QOS):
            wanted = "OK"
        elif number in OF_SENDERS:
            wanted = "WARN"
        assert (found.verdict, CAPTIONS[number][1]) == (wanted, CAPTIONS[number][1])
        if wanted != "OK":
            assert f"({CAPTIONS[number][1]})" in found.what
            assert found.remedy


@pytest.mark.parametrize(("packets", "expected"), [(0, "OK"), (10, "OK"), (11, "WARN")])
def test_policy_is_worth_a_look_above_one_percent(packets: int, expected: str) -> None:
    found = of(counted({0: 1000, POLICY: packets}), "D2")
    assert found.verdict == expected
    if packets == 10:
        assert "dropped 10 packets, as policy or a limit asks" in found.what
    if expected == "WARN":
        assert f"Packets from the pod at {POD} were dropped by policy: 11 of 1000" in found.what
        assert "(5.5/s, 1.1 %)" in found.what
        assert f"policy dump {POD} all" in found.remedy


def test_reasons_are_told_by_device_and_direction() -> None:
    before = {(POD, 0): {0: 100}, (POD, 1): {0: 100}, (NIC, 0): {0: 1000}}
    after = {(POD, 0): {0: 117, ROUTE: 7}, (POD, 1): {0: 113, ROUTE: 3}, (NIC, 0): {0: 1011}}
    found = outcomes(between(reading(1.0, counted=before), reading(3.0, counted=after)), "D2")
    assert [each.what.partition(":")[0] for each in found[NODE]] == [
        f"Packets from the pod at {POD} were dropped (packets with unknown route)",
        f"Packets to the pod at {POD} were dropped (packets with unknown route)",
    ]
    assert "7 of 17" in found[NODE][0].what
    assert "3 of 13" in found[NODE][1].what


@pytest.mark.parametrize("release", UNCOUNTED)
def test_releases_without_such_counters_are_left_to_d1(release: str) -> None:
    for check in ("D2", "D4"):
        found = of(qdisc(100, 1, release), check)
        assert (found.verdict, "D1 counts without reasons" in found.what) == ("N/A", True)


def test_counters_that_are_not_there_are_unknown() -> None:
    for check in ("D2", "D4"):
        assert of(qdisc(100, 0, "v3.26.1"), check).verdict == "UNKNOWN"


# --------------------------------------------------------------------------------- D3 and D4


def test_which_packets_is_for_the_debug_log_to_say() -> None:
    found = of(qdisc(100, 0), "D3")
    assert (found.verdict, found.remedy) == ("N/A", "")
    found = of(qdisc(100, 1), "D3")
    assert (found.verdict, "--log-for 5s" in found.remedy) == ("N/A", True)
    assert "it costs: Felix restarts twice" in found.remedy
    assert "a silence after policy" in found.remedy
    found = of(counted({0: 9, SHORT: 1}, "v3.27.0"), "D3")
    assert "bpfLogFilters" in found.remedy
    once = of(replace(qdisc(10, 1), seconds=0.0), "D3")
    assert (once.verdict, "counted only once" in once.what) == ("N/A", True)


def test_policy_and_where_its_rules_are_shown() -> None:
    found = of(counted({0: 1000}), "D4")
    assert (found.verdict, "dropped nothing in 2.0 s" in found.what) == ("OK", True)
    found = of(counted({0: 1000, POLICY: 10}, hook=1), "D4")
    assert (found.verdict, "to the pod" in found.what) == ("OK", True)
    found = of(counted({0: 1000, POLICY: 11}), "D4")
    assert found.verdict == "WARN"
    assert f"calico-node -bpf policy dump {POD} all" in found.remedy
    assert "Since v3.18" in found.corrected
    other = of(counted({0: 1000, ROUTE: 500}), "D4")
    assert other.verdict == "OK"


# -------------------------------------------------------------------------------------- D5


def routes(*rows: tuple[str, int, int | str], interfaces: Mapping[str, str] | None = None) -> bytes:
    """Map ``cali_v4_routes`` of (address/bits, flags, ifindex or next hop)."""
    keys = values = b""
    for place, flags, last in rows:
        address, bits = place.split("/")
        keys += struct.pack("<I", int(bits)) + bytes(map(int, address.split(".")))
        hop = bytes(map(int, last.split("."))) if isinstance(last, str) else struct.pack("<I", last)
        values += struct.pack("<I", flags) + hop
    told = {
        "name": "cali_v4_routes", "others": [], "kind": "lpm_trie", "key_bytes": 8,
        "value_bytes": 8, "cpus": 0, "max_entries": 1000, "how": "", "cut": False, "error": "",
        "sizes": [len(keys), len(values)],
    }  # fmt: skip
    head = {
        "maps": [told], "reason": "", "pinned": ["cali_v4_routes"], "now_ns": 1,
        "interfaces": interfaces or {"17": POD},
    }  # fmt: skip
    return json.dumps(head).encode() + b"\n" + zlib.compress(keys + values)


HOST, LOCAL_HOST, POD_HERE, POD_THERE = 0x10, 0x18, 0x0C, 0x04


def routed(content: bytes) -> Evidence:
    """The map of node-1, where one pod is on each node: 198.19.0.7 here, 198.19.0.77 there."""
    nodes = [
        {"metadata": {"name": name, "labels": {}},
         "status": {"addresses": [{"type": "InternalIP", "address": f"198.18.0.{last}"}]}}
        for name, last in ((NODE, 11), (OTHER, 12))
    ]  # fmt: skip
    pods = [
        {"metadata": {"name": name, "namespace": "default"}, "spec": {"nodeName": node},
         "status": {"phase": "Running", "podIP": address}}
        for name, node, address in
        (("here", NODE, "198.19.0.7"), ("there", OTHER, "198.19.0.77"))
    ]  # fmt: skip
    answers = {("nodes", ""): json.dumps(nodes), ("pods", ""): json.dumps(pods)}
    return changed(healthy(), {**answers, ("maps", NODE): content})


WHOLE: tuple[tuple[str, int, int | str], ...] = (
    ("198.18.0.11/32", LOCAL_HOST, 0), ("198.18.0.12/32", HOST, 0),
    ("198.19.0.7/32", POD_HERE, 17), ("198.19.0.64/26", POD_THERE, "198.18.0.12"),
)  # fmt: skip


def test_a_map_that_leads_everywhere_is_ok() -> None:
    found = of(routed(routes(*WHOLE)), "D5")
    assert (found.verdict, "2 nodes and 2 pods" in found.what) == ("OK", True)


def test_routes_that_are_missing_or_wrong_are_failures() -> None:
    lacking = of(routed(routes(*WHOLE[:2], WHOLE[3])), "D5")
    assert (lacking.verdict, lacking.subject) == ("FAIL", "default/here")
    assert "fail the check of their way back" in lacking.what
    unknown = of(routed(routes(WHOLE[0], *WHOLE[2:])), "D5")
    assert (unknown.verdict, unknown.subject) == ("FAIL", OTHER)
    gone = of(routed(routes(*WHOLE, interfaces={"18": "cali9"})), "D5")
    assert (gone.verdict, gone.subject) == ("FAIL", "198.19.0.7/32")
    assert "interface 17, which is not there" in gone.what


def test_many_wrong_routes_are_counted() -> None:
    stray = [(f"198.19.0.{last}/32", POD_HERE, 90) for last in range(8, 21)]
    found = outcomes(routed(routes(*WHOLE, *stray)), "D5")[NODE]
    # 13 of which 8 are named.
    assert (len(found), "5 more routes" in found[-1].what) == (9, True)


def test_drops_for_a_source_or_route_are_failures() -> None:
    for number in (SOURCE, ROUTE):
        found = outcomes(counted({0: 100, number: 3}), "D5")[NODE]
        assert [each.verdict for each in found] == ["FAIL", "OK"]
        assert "bpfEnforceRPF is Loose" in found[0].remedy
    strict = {("felixconfigurations", ""): felix(healthy(), {"bpfEnforceRPF": "Strict"})}
    found = outcomes(changed(counted({0: 100, SOURCE: 3}), strict), "D5")[NODE]
    assert "bpfEnforceRPF: Loose in FelixConfiguration default" in found[0].remedy


def test_drops_without_a_counted_reason_may_be_of_the_way_back() -> None:
    held = {(POD, 0): {0: 10}}
    first = reading(100.0, counted=held, qdiscs={POD: (10, 0)})
    later = reading(102.0, counted=held, qdiscs={POD: (30, 19)})
    found = outcomes(between(first, later), "D5")[NODE]
    assert (found[0].verdict, found[0].subject) == ("WARN", POD)
    assert "19 packets" in found[0].what
    assert "lines with RPF" in found[0].remedy


def test_maps_that_were_not_read_leave_the_way_back_unknown() -> None:
    assert of(changed(healthy(), without=[("maps", NODE)]), "D5").verdict == "UNKNOWN"
    conntrack = {("maps", NODE): table([])}
    assert of(changed(healthy(), conntrack), "D5").verdict == "UNKNOWN"


# -------------------------------------------------------------------------------------- D6


def statistics(
    *,
    softnet: tuple[int, int] = (0, 0),
    nic: Mapping[str, int] | None = None,
    overlay: Mapping[str, int] | None = None,
    **counts: int,
) -> str:
    own = {"dropped": 0, "errors": 0, "bytes": 1, "packets": 1}
    links = [
        {"ifname": "vxlan.calico", "stats64": {"tx": {**own, **(overlay or {})}}},
        {"ifname": NIC, "stats64": {"rx": {**own, **(nic or {})}, "tx": own}},
        {"ifname": "lo", "stats64": {"rx": own, "tx": own}},
    ]
    udp, tcp = counts.get("RcvbufErrors", 0), counts.get("ListenOverflows", 0)
    return (
        "==> softnet <==\n"
        f"00000fff {softnet[0]:08x} {softnet[1]:08x} 00000000\n"
        "00000001 00000010 00000020 00000000\n"
        f"==> links <==\n{json.dumps(links)}\n"
        "==> snmp <==\n"
        "Ip: Forwarding InDiscards\nIp: 1 0\n"
        f"Udp: InDatagrams RcvbufErrors\nUdp: 100 {udp}\n"
        f"UdpLite: InDatagrams RcvbufErrors\nUdpLite: 0 {7 * udp}\n"
        f"TcpExt: SyncookiesSent ListenOverflows\nTcpExt: 5 {tcp}\n"
        "==> stat <==\ncpu 1 2 3\n"
    )


def grown(seconds: float = 2.0, **of: Any) -> Evidence:
    answers = {("statistics", NODE): statistics(), ("statistics/later", NODE): statistics(**of)}
    return replace(changed(healthy(), answers), seconds=seconds)


def test_counters_are_read_of_processors_devices_and_protocols() -> None:
    read = kernel_counts.parse(statistics(softnet=(0x1F, 3), nic={"dropped": 13}, RcvbufErrors=11))
    assert read["", "softnet dropped"] == 0x1F + 0x10
    assert read["", "softnet squeezed"] == 3 + 0x20
    assert (read[NIC, "rx dropped"], read[NIC, "tx errors"]) == (13, 0)
    assert read["", "Udp.RcvbufErrors"] == 11
    assert ("", "Udp.InDatagrams") not in read


def test_a_kernel_that_drops_nothing_is_ok() -> None:
    found = of(grown(), "D6")
    assert (found.verdict, "15 counters" in found.what) == ("OK", True)


@pytest.mark.parametrize(
    ("changes", "subject", "said"),
    [
        ({"nic": {"dropped": 17}}, NIC, "17 times in 2.0 s (8.5/s)"),
        ({"nic": {"errors": 3}}, NIC, "errors while receiving"),
        ({"softnet": (19, 0)}, "", "queue of received packets was full 19 times"),
        ({"RcvbufErrors": 23}, "", "Udp.RcvbufErrors 23 times"),
        ({"ListenOverflows": 5}, "", "TcpExt.ListenOverflows 5 times"),
    ],
)
def test_what_grew_is_warned_of(changes: dict[str, Any], subject: str, said: str) -> None:
    found = of(grown(**changes), "D6")
    assert (found.verdict, found.subject, said in found.what) == ("WARN", subject, True)
    assert found.remedy


def test_few_squeezes_are_common() -> None:
    assert of(grown(softnet=(0, 20)), "D6").verdict == "OK"
    found = of(grown(softnet=(0, 21)), "D6")
    assert (found.verdict, "(10.5/s)" in found.what) == ("WARN", True)


def test_an_overlays_device_drops_its_own_multicast() -> None:
    """The kernel's, that nobody is to get: ten in two seconds; not eleven, and not errors."""
    assert of(grown(overlay={"dropped": 10}), "D6").verdict == "OK"
    assert (
        "vxlan.calico tx dropped +10" in of(grown(overlay={"dropped": 10}), "D6").shown[0].excerpt
    )
    assert of(grown(overlay={"dropped": 11}), "D6").verdict == "WARN"


def test_an_overlay_of_ipv6_does_so_too() -> None:
    """As a VXLAN device of another CNI plugin does not: nobody here knows what it is for."""
    for device, verdict in (("vxlan-v6.calico", "OK"), ("flannel.1", "WARN")):
        texts = [
            statistics(overlay={"dropped": count}).replace("vxlan.calico", device)
            for count in (0, 3)
        ]
        evidence = changed(
            healthy(), {("statistics", NODE): texts[0], ("statistics/later", NODE): texts[1]}
        )
        assert of(evidence, "D6").verdict == verdict
    assert of(grown(overlay={"errors": 1}), "D6").verdict == "WARN"


def test_a_counter_that_shrank_was_made_anew() -> None:
    answers = {
        ("statistics", NODE): statistics(nic={"dropped": 100}),
        ("statistics/later", NODE): statistics(nic={"dropped": 3}),
    }
    assert of(changed(healthy(), answers), "D6").verdict == "OK"


def test_kernel_counts_that_cannot_be_read_are_unknown() -> None:
    for text in ("", "no such text", "==> links <==\n{"):
        answers = {("statistics", NODE): text, ("statistics/later", NODE): text}
        assert of(changed(healthy(), answers), "D6").verdict == "UNKNOWN"
    assert of(replace(grown(), seconds=0.0), "D6").verdict == "UNKNOWN"


# -------------------------------------------------------------------------------------- D7


def table(states: list[str]) -> bytes:
    """A connection table of TCP connections in these states, as v3.26 has it."""
    both = 0x3  # SYN and ACK seen.
    keys = values = b""
    for at, state in enumerate(states):
        keys += struct.pack("<I4s4sHH", 6, b"\x0a\x41\x00\x02", b"\x0a\x41\x01\x07", at, 80)
        legs = [0x1, 0] if state == "SYN-SENT" else [both, both]
        values += struct.pack("<QQ", 1, 1) + bytes(8)
        values += b"".join(struct.pack("<QIIII", 0, 0, 0, bits, 0) for bits in legs) + bytes(16)
    told = {
        "name": "cali_v4_ct3", "others": [], "kind": "hash", "key_bytes": 16, "value_bytes": 88,
        "cpus": 0, "max_entries": 1000, "how": "", "cut": False, "error": "",
        "sizes": [len(keys), len(values)],
    }  # fmt: skip
    backends = {
        **told, "name": "cali_v4_nat_be", "key_bytes": 8, "value_bytes": 8, "sizes": [8, 8],
    }  # fmt: skip
    head = {
        "maps": [told, backends], "reason": "", "pinned": [], "now_ns": 1, "interfaces": {},
    }  # fmt: skip
    return json.dumps(head).encode() + b"\n" + zlib.compress(keys + values + bytes(16))


def held(waiting: int, answered: int) -> Evidence:
    content = table(["SYN-SENT"] * waiting + ["ESTABLISHED"] * answered)
    return changed(healthy(), {("maps", NODE): content})


@pytest.mark.parametrize(
    ("waiting", "answered", "expected"),
    [(0, 0, "OK"), (5, 20, "OK"), (5, 19, "WARN"), (4, 0, "OK"), (13, 3, "WARN")],
)
def test_connections_without_an_answer(waiting: int, answered: int, expected: str) -> None:
    found = of(held(waiting, answered), "D7")
    assert found.verdict == expected
    if expected == "WARN":
        assert f"{100 * waiting / (waiting + answered):.1f} %" in found.what


def test_connections_to_a_backend_that_is_gone() -> None:
    # A NAT entry: service 10.96.0.10:53 before, 10.65.1.7:80 behind it; backends: 0.0.0.0:0.
    def nat(count: int) -> Evidence:
        content = table(["ESTABLISHED"] * count)
        line, packed = content.split(b"\n", 1)
        raw = bytearray(zlib.decompress(packed))
        for at in range(count):
            value = 16 * count + 88 * at
            raw[value + 16] = 2
            # The initiator is A: its leg has the opener bit.
            struct.pack_into("<I", raw, value + 24 + 16, 0x23)
            raw[value + 76 : value + 80] = bytes([10, 96, 0, 10])
            struct.pack_into("<H", raw, value + 80, 53)
        return changed(healthy(), {("maps", NODE): line + b"\n" + zlib.compress(bytes(raw))})

    found = of(nat(7), "D7")
    assert (found.verdict, found.subject) == ("WARN", "10.96.0.10:53")
    assert "7 connections to 10.96.0.10:53 go to 10.65.1.7:80" in found.what
    assert "calico-node -bpf conntrack remove" in found.remedy
    old = of(changed(nat(7), release="v3.16.1"), "D7")
    assert "calico-bpf conntrack remove" in old.remedy


def test_connections_that_were_not_read_are_unknown() -> None:
    assert of(changed(healthy(), without=[("maps", NODE)]), "D7").verdict == "UNKNOWN"
    found = of(routed(routes(*WHOLE)), "D7")
    assert (found.verdict, "was not read" in found.what) == ("UNKNOWN", True)


# ------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("release", [*UNCOUNTED, *COUNTED])
def test_a_healthy_cluster_raises_nothing_in_any_release(release: str) -> None:
    base = changed(healthy(), release=release)
    for check in ("D1", "D2", "D3", "D4", "D5", "D6", "D7"):
        assert set(verdicts(base, check).values()) <= {"OK", "N/A"}, check


def test_a_node_that_was_not_reached_is_unknown() -> None:
    base = changed(healthy(), without=[where for where in healthy().items if where[1] == NODE])
    base = replace(base, lost={NODE: "connection refused"})
    for check in ("D1", "D2", "D5", "D6", "D7"):
        found = outcomes(base, check)
        assert {each.verdict for each in found[NODE]} == {"UNKNOWN"}, check
        assert "connection refused" in found[NODE][0].what
        assert {each.verdict for each in found[OTHER]} == {"OK"}, check


@pytest.mark.parametrize("check", ["C1", "C2", "C8", "D1", "D2", "D3", "D4", "D5", "D7"])
def test_a_node_that_fell_back_is_said_once_and_by_a1(check: str) -> None:
    log = (
        "2026-11-29 18:20:25.534 [ERROR][212] felix/daemon.go 337: BPF dataplane mode enabled but "
        "not supported by the kernel.  Disabling BPF mode.\n"
    )
    kube_proxy = "100 10.0\nkube-proxy 7 1 1\n"
    answers = {
        ("log", NODE): log,
        ("processes", NODE): kube_proxy,
        ("processes/later", NODE): kube_proxy,
        ("rules", NODE): "1.0 iptables 13 nft 0\n" * 5,
    }
    found = of(changed(healthy(), answers), check)
    assert (found.verdict, "does not forward by eBPF" in found.what) == ("N/A", True)
    assert found.shown[0].source == "log"
    assert {each.verdict for each in outcomes(changed(healthy(), answers), check)[OTHER]} <= {
        "OK", "N/A",
    }  # fmt: skip
