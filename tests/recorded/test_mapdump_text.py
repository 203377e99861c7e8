"""What calico-bpf printed, read into the same frames as the maps themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ebpfperf.errors import InputError
from ebpfperf.mapdump import objects, reading, tool_conntrack

RECORDED = Path(__file__).parent / "maps"


def entries(kind: str, name: str, *, partial: bool = False) -> list[dict[str, Any]]:
    found = reading.decode(kind, (RECORDED / name).read_bytes())
    assert {each.partial for each in found} == {partial}
    return [entry for each in found for entry in objects.of(each)]


def test_services_with_flags() -> None:
    found = entries("nat", "nat__flags.txt")
    frontends = [one for one in found if "src_cidr" in one]
    backends = [one for one in found if "ordinal" in one]
    assert len(frontends) == 5
    assert frontends[2] == {
        "proto": 6,
        "addr": "192.168.101.101",
        "port": 32252,
        "src_cidr": "0.0.0.0/0",
        "id": 55,
        "count": 1,
        "local": 0,
        "affinity_timeout_s": None,
        "flags": 3,
        "flag_names": ["external-local", "internal-local"],
        "blackhole": False,
    }
    assert frontends[3]["count"] == 0
    # A service's backends are printed under each of its addresses, and are one.
    assert [(one["id"], one["ordinal"]) for one in backends] == [
        (52, 0), (52, 1), (17, 0), (45, 0), (45, 1), (55, 0),
    ]  # fmt: skip
    assert backends[1] == {"id": 52, "ordinal": 1, "addr": "10.200.130.163", "port": 3000}


def test_services_through_grep() -> None:
    found = entries("nat", "nat__stale_backend.txt")
    assert {"id": 0, "ordinal": 0, "addr": "172.30.26.146", "port": 6789} in found
    (local,) = [one for one in found if one.get("flag_names")]
    assert local["flag_names"] == ["external-local"]


def test_blackholes_missing_backends_and_sources() -> None:
    text = (
        "10.96.0.9 port 80 proto 6 id 3 count -1 local 0 flags external-local, \n"
        "10.96.0.9 port 80 proto 6 id 3 count 2 local 1 flags nat-exclude,  src 10.0.0.0/8\n"
        "\t3:0\t 10.65.0.2:8080\n\t3:1\t is missing\n"
        "fd00::a port 53 proto 17 id 4 count 1 local 0\n\t4:0\t [fd00::b]:5353\n"
        "10.96.0.9 port 81 proto 6 id 5 count 4294967295 local 0\n"
    )
    frontends, backends = reading.decode("nat", text.encode())
    assert frontends.frame["blackhole"].tolist() == [True, False, False, True]
    assert frontends.frame["src_cidr"].tolist() == [
        "0.0.0.0/0", "10.0.0.0/8", "::/0", "0.0.0.0/0",
    ]  # fmt: skip
    assert frontends.frame["flag_names"].tolist() == ["external-local", "nat-exclude", "", ""]
    assert backends.frame["addr"].tolist() == ["10.65.0.2", "fd00::b"]
    assert backends.remarks == ("1 backends are missing.",)


def test_routes() -> None:
    found = entries("routes", "routes__no_next_hop.txt")
    assert len(found) == 8
    assert found[0] == {
        "dest": "10.80.78.10/32",
        "flags": 0x18,
        "flag_names": ["local", "host"],
        "ifindex": None,
        "next_hop": None,
    }
    assert found[3]["flag_names"] == ["in-pool"]
    assert found[4]["ifindex"] == 4
    (hop,) = reading.decode(
        "routes",
        b"   10.65.2.0/26: remote workload in-pool nat-out tunneled nh 172.16.0.12\n"
        b"      fd00::/64: unknown type (64)\n",
    )
    assert hop.frame["flags"].tolist() == [0x47, 0x40]
    assert hop.frame["next_hop"].tolist()[0] == "172.16.0.12"


def test_connections_as_printed_without_raw() -> None:
    found = entries("conntrack", "conntrack__pretty.txt")
    assert [one["type"] for one in found] == [
        "normal",
        "nat-reverse",
        *3 * ["normal"],
        "nat-reverse",
    ]
    assert [one["tcp_state"] for one in found] == [
        None, "SYN-SENT", None, None, "ESTABLISHED", "SYN-SENT",
    ]  # fmt: skip
    through = found[-1]
    assert through["initiator"] == {
        "src": "172.18.0.9", "sport": 57162, "dst": "10.65.0.2", "dport": 8055,
    }  # fmt: skip
    assert (through["orig_ip"], through["orig_port"]) == ("172.18.0.6", 30333)
    assert through["tun_ip"] == "172.18.0.6"
    # A has the smaller last octet.
    assert (through["addr_a"], through["addr_b"]) == ("10.65.0.2", "172.18.0.9")
    assert through["active_ago_s"] == pytest.approx(0.988204797)
    assert through["a_to_b"] is through["flags"] is through["rev_key"] is None


RAW = {
    "v3.16": (
        "ConntrackKey{proto=6 10.65.0.2:43210 <-> 10.65.1.7:80} -> Entry{Type:0, "
        "Created:1000000000000, LastSeen:1000500000000, Flags: nat-out fwd-dsr Data: "
        "{A2B:{Seqno:287454020 SynSeen:true AckSeen:true FinSeen:false RstSeen:false "
        "Whitelisted:true Opener:true Ifindex:17} B2A:{Seqno:1432778632 SynSeen:true AckSeen:true "
        "FinSeen:false RstSeen:false Whitelisted:true Opener:false Ifindex:18} OrigDst:0.0.0.0 "
        "OrigPort:0 TunIP:0.0.0.0}} Age: 4.486606371s Active ago 3.986606371s ESTABLISHED"
    ),
    "v3.26": (
        "ConntrackKey{proto=6 10.65.0.2:43210 <-> 10.65.1.7:80} -> Entry{Type:0, "
        "Created:1000000000000, LastSeen:1000500000000, Flags: 0x3 nat-out fwd-dsr Data: "
        "{A2B:{Bytes:3456 Packets:12 Seqno:287454020 SynSeen:true AckSeen:true FinSeen:false "
        "RstSeen:false Approved:true Opener:true Ifindex:17} B2A:{Bytes:98765 Packets:10 "
        "Seqno:1432778632 SynSeen:true AckSeen:true FinSeen:false RstSeen:false Approved:true "
        "Opener:false Ifindex:18} OrigDst:0.0.0.0 OrigSrc:0.0.0.0 OrigPort:0 OrigSPort:0 "
        "TunIP:0.0.0.0}} Age: 4.486606371s Active ago 3.986606371s ESTABLISHED"
    ),
}


@pytest.mark.parametrize("release", RAW)
def test_connections_as_printed_with_raw(release: str) -> None:
    (found,) = reading.decode("conntrack", RAW[release].encode() + b"\n")
    (one,) = objects.of(found)
    counted = release == "v3.26"
    leg = {"syn_seen": True, "ack_seen": True, "fin_seen": False, "rst_seen": False,
           "approved": True, "workload": None}  # fmt: skip
    a = {"bytes": 3456, "packets": 12, "seqno": 0x11223344, "opener": True, "ifindex": 17}
    b = {"bytes": 98765, "packets": 10, "seqno": 0x55667788, "opener": False, "ifindex": 18}
    for end in (a, b):
        end |= leg | ({} if counted else {"bytes": None, "packets": None})
    assert one == {
        "proto": 6, "addr_a": "10.65.0.2", "port_a": 43210, "addr_b": "10.65.1.7", "port_b": 80,
        "type": "normal", "created_ns": 10**12, "last_seen_ns": 1000500000000, "flags": 3,
        "flag_names": ["nat-out", "fwd-dsr"], "a_to_b": a, "b_to_a": b, "orig_ip": "0.0.0.0",
        "orig_port": 0, "orig_sport": 0 if counted else None, "tun_ip": "0.0.0.0", "rev_key": None,
        "nat_sport": None, "tcp_state": "ESTABLISHED",
        "initiator": {"src": "10.65.0.2", "sport": 43210, "dst": "10.65.1.7", "dport": 80},
        "active_ago_s": pytest.approx(3.986606371),
    }  # fmt: skip


def test_the_number_of_flags_counts_where_words_are_wrong() -> None:
    text = RAW["v3.26"].replace("0x3 nat-out fwd-dsr", "0x1100 B-A np-remote no-dsr")
    (found,) = reading.decode("conntrack", text.encode())
    (one,) = objects.of(found)
    assert one["flag_names"] == ["B-A", "np-remote"]
    assert one["initiator"]["src"] == "10.65.1.7"


def test_nat_forward_entries_of_the_raw_text() -> None:
    key = "ConntrackKey{proto=17 203.0.113.9:50000 <-> 172.16.0.11:53}"
    rev = "ConntrackKey{proto=17 10.65.2.3:5353 <-> 203.0.113.9:50000}"
    for label, port in (("REVKey :", ""), ("REVKey:", " NATSPort: 4711")):
        entry = f"Entry{{Type:1, LastSeen:7, Flags: <none> {label} {rev}{port}}}"
        (found,) = reading.decode("conntrack", f"{key} -> {entry} Active ago -3ns\n".encode())
        (one,) = objects.of(found)
        assert one["type"] == "nat-forward"
        assert one["rev_key"] == {
            "proto": 17, "addr_a": "10.65.2.3", "port_a": 5353, "addr_b": "203.0.113.9",
            "port_b": 50000,
        }  # fmt: skip
        assert one["nat_sport"] == (4711 if port else None)
        assert one["active_ago_s"] == pytest.approx(-3e-9)
        assert one["tcp_state"] is one["a_to_b"] is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("4.486606371s", 4.486606371), ("1m15.987585857s", 75.987585857), ("-3ns", -3e-9),
     ("493.47131ms", 0.49347131), ("1h2m3s", 3723.0), ("12µs", 12e-6), ("0s", 0.0), ("x", None)],
)  # fmt: skip
def test_durations_of_go(text: str, seconds: float | None) -> None:
    assert tool_conntrack.seconds(text) == (
        None if seconds is None else pytest.approx(seconds, abs=1e-15)
    )


def test_interfaces() -> None:
    found = entries("ifstate", "ifstate__ready.txt")
    assert [(one["ifindex"], one["name"], one["flags"]) for one in found] == [
        (30, "cali5a113a54339", 3), (20, "cali94be36c4e32", 3), (8, "vxlan.calico", 2),
        (55, "cali473574a4023", 3), (2, "eth0", 2),
    ]  # fmt: skip
    (newer,) = reading.decode(
        "ifstate",
        b"    9 : {flags: workload,v4Ready, XDPPolicyV4: -1, IngressPolicyV4: 4, EgressPolicyV4: 5,"
        b" XDPPolicyV6: -1, IngressPolicyV6: -1, EgressPolicyV6: -1, IngressFilter: -1,"
        b" EgressFilter: 0, name: cali1}\n",
    )
    (one,) = objects.of(newer)
    assert one["flag_names"] == ["workload", "v4Ready"]
    assert (one["ingress_v4"], one["egress_v4"], one["egress_filter"]) == (4, 5, 0)
    assert one["xdp_v4"] is one["ingress_filter"] is None


def test_counters_with_captions_in_two_lines() -> None:
    ingress, egress = _by_hook(entries("counters", "counters__wrapped.txt"))
    assert ingress["Total packets"] == 37
    assert egress["Total packets"] == 22
    assert ingress["Dropped packets hitting blackhole route"] == 0
    assert ingress["Dropped packets with unsupported IP options"] == 0
    assert len(ingress) == 6


def _by_hook(found: list[dict[str, Any]]) -> list[dict[str, int]]:
    merged: dict[str, dict[str, int]] = {}
    for one in found:
        assert one["interface"] == "calid8be076e5f7"
        merged.setdefault(one["hook"], {}).update(one["counters"])
    assert list(merged) == ["ingress", "egress"]
    return list(merged.values())


def test_ip_sets_and_neighbours() -> None:
    (sets,) = reading.decode(
        "ipsets",
        b"IP set 0x303904ae5eae5418\n   10.65.0.0/26\n   10.65.0.3:8080 (proto 6)\n\n",
    )
    assert list(objects.of(sets)) == [
        {"set_id": "0x303904ae5eae5418", "member": "10.65.0.0/26", "port": None, "proto": None},
        {"set_id": "0x303904ae5eae5418", "member": "10.65.0.3/32", "port": 8080, "proto": 6},
    ]
    (none,) = reading.decode("ipsets", b"No IP sets found.\n")
    assert none.frame.empty
    (arp,) = reading.decode(
        "arp", b"dev    5:       10.0.0.1 : 02:00:00:00:00:01 -> 02:00:00:00:00:02\n"
    )
    assert list(objects.of(arp)) == [
        {"addr": "10.0.0.1", "ifindex": 5, "src_mac": "02:00:00:00:00:01",
         "dst_mac": "02:00:00:00:00:02"}
    ]  # fmt: skip


def test_a_line_that_is_none_makes_it_partial() -> None:
    (found,) = reading.decode("routes", b" 10.80.78.10/32: local host\n10.80.78.1")
    assert found.partial
    assert found.remarks == ("1 lines are none that the tool prints of routes.",)


def test_what_the_tool_says_of_its_failure_is_passed_on() -> None:
    text = b'ERRO[0000] Failed to dump routes map. error="failed to open map"\n'
    with pytest.raises(InputError, match="Failed to dump routes map"):
        reading.decode("routes", text)


def test_text_without_a_time_of_creation_has_the_column_of_its_release() -> None:
    raw = RAW["v3.26"].replace("Created:1000000000000, ", "").replace("Age: 4.486606371s ", "")
    pretty = "TCP 10.0.0.1:43210 -> 10.0.0.2:80  Active ago 1.2s ESTABLISHED"
    for text, release, name in (
        (raw, None, "rst_seen_ns"),
        (raw, "v3.30", "rst_seen_ns"),
        (pretty, "v3.30", "rst_seen_ns"),
        (pretty, "v3.29", "created_ns"),
    ):
        (found,) = reading.decode("conntrack", text.encode(), release=release)
        (one,) = objects.of(found)
        assert list(one)[6:8] == [name, "last_seen_ns"]
        assert one[name] is None


def test_flags_of_services_are_missing_where_the_release_has_none() -> None:
    text = b"10.96.0.10 port 53 proto 17 id 6 count 1 local 1\n\t6:0\t 10.65.1.2:53\n"
    for release, flags, names in (("v3.16", None, None), ("v3.26", 0, []), (None, 0, [])):
        frontends, _ = reading.decode("nat", text, release=release)
        (one,) = objects.of(frontends)
        assert (one["flags"], one["flag_names"]) == (flags, names)


def test_an_error_of_bpftools_is_said() -> None:
    with pytest.raises(InputError, match=r"The tool failed: Error: bpf obj get: No such file\."):
        reading.decode("conntrack", b"Error: bpf obj get: No such file\n")
