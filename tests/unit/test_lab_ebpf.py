"""The lab's eBPF dataplane before it meets a kernel: maps by release, plans, entries, timeouts."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Network
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfperf.calico.encapsulation import Enabled
from ebpfperf.calico.maps import counters_of, map_for, maps_of
from ebpfperf.calico.releases import FULL_VERSIONS
from ebpfperf.lab import bpfplan, mapbytes, own_annotations, sweeper
from ebpfperf.lab.admission import Admission
from ebpfperf.lab.attach import Hook
from ebpfperf.lab.bpfplan import Cluster, LocalPod
from ebpfperf.lab.nodes import LabNode
from ebpfperf.lab.own_annotations import Denied
from ebpfperf.lab.programs import Kind, Option, Settings, filter_name, tag
from ebpfperf.lab.resources import CORE, RESOURCES
from ebpfperf.lab.services import Backend, ServicePort
from ebpfperf.lab.status import Invalid

TO_HOST = Kind.TO_HOST
RELEASES = tuple(FULL_VERSIONS.values())


def node(index: int, subnet: int = 0) -> LabNode:
    here = Path("/nowhere")
    address = f"198.18.{subnet}.1{index}"
    return LabNode(
        f"node-{index}", index, 1, f"ens1{index}", address, "127.0.10.1", 2222, here, here
    )


def settings(release: str, options: Option | None = None, level: str = "off") -> Settings:
    return Settings(release, options or Option(0), level, "198.18.0.11", 1450, 4789, 4096, 0, 0)


# ------------------------------------------------------------------------------ maps and names


@pytest.mark.parametrize(
    ("release", "conntrack", "value_bytes", "frontend", "counters"),
    [
        ("v3.16.1", "cali_v4_ct2", 64, "cali_v4_nat_fe2", 0),
        ("v3.21.0", "cali_v4_ct2", 64, "cali_v4_nat_fe2", 0),
        ("v3.22.0", "cali_v4_ct2", 64, "cali_v4_nat_fe3", 0),
        ("v3.23.0", "cali_v4_ct2", 64, "cali_v4_nat_fe3", 0),
        ("v3.26.1", "cali_v4_ct3", 88, "cali_v4_nat_fe3", 14),
        ("v3.29.0", "cali_v4_ct3", 88, "cali_v4_nat_fe3", 14),
        ("v3.30.2", "cali_v4_ct3", 88, "cali_v4_nat_fe3", 17),
        ("v3.31.7", "cali_v4_ct4", 88, "cali_v4_nat_fe3", 25),
        ("v3.32.1", "cali_v4_ct4", 88, "cali_v4_nat_fe3", 27),
    ],
)
def test_maps_have_the_names_and_sizes_of_the_release(
    release: str, conntrack: str, value_bytes: int, frontend: str, counters: int
) -> None:
    assert map_for("conntrack", release).name == conntrack
    assert map_for("conntrack", release).value_bytes == value_bytes
    assert map_for("nat-frontend", release).name == frontend
    assert counters_of(release) == counters
    purposes = {spec.purpose for spec in maps_of(release)}
    assert ("counters" in purposes) is (counters > 0)
    if counters:
        assert map_for("counters", release).value_bytes == 8 * counters


@pytest.mark.parametrize(
    ("release", "purpose", "name", "entries", "size_field"),
    [
        ("v3.22.0", "conntrack", "cali_v4_ct2", 512000, ""),
        ("v3.23.0", "conntrack", "cali_v4_ct2", 512000, "bpfMapSizeConntrack"),
        ("v3.31.7", "conntrack", "cali_v4_ct4", 512000, "bpfMapSizeConntrack"),
        ("v3.22.0", "nat-frontend", "cali_v4_nat_fe3", 511000, ""),
        ("v3.23.0", "nat-frontend", "cali_v4_nat_fe3", 65536, "bpfMapSizeNATFrontend"),
        ("v3.22.0", "routes", "cali_v4_routes", 1048576, ""),
        ("v3.23.0", "routes", "cali_v4_routes", 262144, "bpfMapSizeRoute"),
        ("v3.18.0", "arp", "cali_v4_arp2", 10000, ""),
        ("v3.19.0", "failsafes", "cali_v4_fsafes2", 65536, ""),
        ("v3.27.0", "ifstate", "cali_iface3", 1000, "bpfMapSizeIfState"),
        ("v3.28.0", "ifstate", "cali_iface4", 1000, "bpfMapSizeIfState"),
        ("v3.29.0", "state", "cali_state4", 2, ""),
        ("v3.30.2", "cleanup-queue", "cali_v4_ccq1", 100000, ""),
        ("v3.31.7", "cleanup-queue", "cali_v4_ccq2", 100000, ""),
        ("v3.31.7", "counters", "cali_counters5", 20000, ""),
    ],
)
def test_a_map_changes_with_its_release(
    release: str, purpose: str, name: str, entries: int, size_field: str
) -> None:
    found = map_for(purpose, release)
    assert (found.name, found.max_entries, found.size_field) == (name, entries, size_field)


@pytest.mark.parametrize(
    ("release", "purpose"),
    [
        ("v3.17.4", "arp"),
        ("v3.17.4", "state"),
        ("v3.18.0", "failsafes"),
        ("v3.23.0", "state"),
        ("v3.23.0", "ifstate"),
        ("v3.29.0", "profiling"),
        ("v3.31.7", "maglev"),
    ],
)
def test_a_map_that_a_release_lacks_or_whose_size_is_not_known_is_not_made(
    release: str, purpose: str
) -> None:
    assert purpose not in {spec.purpose for spec in maps_of(release)}


@pytest.mark.parametrize("release", RELEASES)
def test_a_maps_name_is_one_the_kernel_takes(release: str) -> None:
    names = [spec.name for spec in maps_of(release)]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 15 for name in names)


@pytest.mark.parametrize(
    ("device", "kind", "release", "said"),
    [
        ("ens192", Kind.HOST, "v3.16.1", "ens192---E"),
        ("ens192", Kind.HOST | TO_HOST, "v3.16.1", "ens192---I"),
        ("cali0123456789a", Kind.WORKLOAD | TO_HOST, "v3.16.1", "cali0123-E"),
        ("cali0123456789a", Kind.WORKLOAD, "v3.26.1", "cali0123456789a-I"),
        ("tunl0", Kind.TUNNEL | Kind.L3 | TO_HOST, "v3.26.1", "tunl0-----------I"),
    ],
)
def test_a_log_lines_tag_is_padded_as_the_release_pads_it(
    device: str, kind: Kind, release: str, said: str
) -> None:
    assert tag(device, kind, release) == said


@pytest.mark.parametrize(
    ("kind", "way", "options", "level", "said"),
    [
        (Kind.HOST | TO_HOST, "ingress", Option.FIB, "", "from_hep_fib_no_log.o"),
        (Kind.HOST | TO_HOST, "ingress", Option(0), "Debug", "from_hep_debug.o"),
        (Kind.HOST, "egress", Option.FIB | Option.DSR, "Info", "to_hep_dsr_info.o"),
        (Kind.WORKLOAD, "egress", Option.FIB, "off", "to_wep_no_log.o"),
        (Kind.TUNNEL | TO_HOST, "ingress", Option.FIB, "off", "from_tnl_fib_no_log.o"),
    ],
)
def test_up_to_v320_a_filter_is_named_by_its_object(
    kind: Kind, way: str, options: Option, level: str, said: str
) -> None:
    found = filter_name(Hook("ens11", 2, way), kind, settings("v3.16.1", options, level), 7)
    assert found.startswith(f"{said}:[calico_")


def test_later_a_filter_is_named_by_its_program() -> None:
    hook = Hook("ens11", 2, "ingress")
    kind = Kind.HOST | TO_HOST
    assert (
        filter_name(hook, kind, settings("v3.20.0"), 7) == "from_hep_no_log.o:[calico_from_host_ep]"
    )
    assert filter_name(hook, kind, settings("v3.21.0"), 7) == "calico_from_hos:[7]"
    assert filter_name(hook, kind, settings("v3.26.1"), 7) == "calico_from_hos:[7]"
    assert filter_name(hook, kind, settings("v3.27.0"), 7) == "cali_tc_preambl:[7]"
    assert filter_name(hook, kind, settings("v3.30.2"), 7) == "cali_tc_preambl:[7]"


# ---------------------------------------------------------------------------------- entries


def nat(
    ports: list[ServicePort], node: str, address: str
) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    numbers = mapbytes.numbered(ports, {}, count(1))
    return mapbytes.nat(ports, node, address, "v3.26.1", numbers=numbers)


def test_a_service_keeps_its_number_and_none_inherits_one() -> None:
    a, b, c = (
        ServicePort(f"s{n}", f"10.96.1.{n}", "TCP", 80, None, 0, False, False, ()) for n in range(3)
    )
    free = count(1)
    first = mapbytes.numbered([a, b], {}, free)
    assert list(first.values()) == [1, 2]
    second = mapbytes.numbered([b], first, free)
    assert second == {mapbytes.place(b): 2}
    third = mapbytes.numbered([a, b, c], second, free)
    assert [third[mapbytes.place(port)] for port in (a, b, c)] == [3, 2, 4]


def test_entries_are_the_bytes_of_worked_examples() -> None:
    """Those that a description of Calico's maps gives in hex."""
    route = mapbytes.route(0x447, next_hop="172.16.0.12")
    assert mapbytes.route_key("10.65.2.0/26").hex() == "1a0000000a410200"
    assert route.hex() == "47040000ac10000c"
    assert mapbytes.route_key("10.65.2.3").hex() == "200000000a410203"
    assert mapbytes.route(0xF, ifindex=17).hex() == "0f00000011000000"
    backends = (Backend("10.65.2.3", 53, "node-2"), Backend("10.65.0.9", 53, "node-1"))
    port = ServicePort("dns", "10.96.0.10", "UDP", 53, None, 0, False, False, backends)
    others = [ServicePort(f"s{n}", f"10.96.1.{n}", "TCP", 80, None, 0, False, False, ())
              for n in range(5)]  # fmt: skip
    frontends, found = nat([*others, port], "node-1", "172.16.0.11")
    key = bytes.fromhex("380000000a60000a3500110000000000")
    assert frontends[key].hex() == "0600000002000000010000000000000000000000"
    assert found[bytes.fromhex("0600000001000000")].hex() == "0a41020335000000"


@given(st.sets(st.sampled_from(["node-1", "node-2", "node-3"]), max_size=3), st.booleans())
def test_a_nodes_own_backends_come_first(nodes: set[str], sticky: bool) -> None:
    backends = tuple(
        Backend(f"198.19.{index}.{number}", 80, name)
        for index, name in enumerate(sorted(nodes))
        for number in range(3)
    )
    port = ServicePort("s", "198.18.240.1", "TCP", 80, 30080, 30 * sticky, False, False, backends)
    frontends, found = nat([port], "node-2", "198.18.0.12")
    assert len(frontends) == 3  # the ClusterIP, the node's own address, every other node's
    for value in frontends.values():
        assert struct.unpack_from("<IIII", value) == (
            *(1, len(backends), 3 * ("node-2" in nodes), 30 * sticky),
        )
    own = {backend.address for backend in backends if backend.node == "node-2"}
    ordered = [
        socket.inet_ntoa(found[struct.pack("<II", 1, ordinal)][:4])
        for ordinal in range(len(backends))
    ]
    assert set(ordered[: len(own)]) == own
    assert set(ordered) == {backend.address for backend in backends}


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[1]",
        '[{"direction": "up", "cidr": "10.0.0.0/8"}]',
        '[{"direction": "egress"}]',
        '[{"direction": "egress", "cidr": "10.0.0.0/40"}]',
        '[{"direction": "egress", "cidr": "10.0.0.0/8", "port": 5201}]',
        '[{"direction": "egress", "cidr": "10.0.0.0/8", "protocol": "TCP", "port": 70000}]',
        '[{"direction": "egress", "cidr": "10.0.0.0/8", "protocol": "ICMP", "port": 8}]',
        '[{"direction": "egress", "cidr": "10.0.0.0/8", "ports": []}]',
        "[",
    ],
)
def test_a_deny_list_that_is_none_is_refused(text: str) -> None:
    wrong = {own_annotations.DENY: text}
    with pytest.raises(ValueError, match=r"^lab\.ebpfperf/deny"):
        own_annotations.deny_list(wrong)
    assert own_annotations.problem("pods", wrong)
    assert own_annotations.problem("namespaces", wrong) is None


def test_a_fault_that_is_none_is_refused() -> None:
    assert own_annotations.problem("nodes", {own_annotations.FAULT: "kernel-unsupported"}) is None
    assert own_annotations.problem("nodes", {}) is None
    said = own_annotations.problem("nodes", {own_annotations.FAULT: "kernel-unsuported"})
    assert said is not None
    assert "kernel-unsupported" in said


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "61", "1 s"])
def test_a_wait_before_a_restart_is_two_seconds_or_what_is_asked(text: str) -> None:
    assert own_annotations.restart_s({}) == 2.0
    assert own_annotations.restart_s({own_annotations.RESTART: "0.5"}) == 0.5
    assert own_annotations.problem("nodes", {own_annotations.RESTART: "60"}) is None
    said = own_annotations.problem("nodes", {own_annotations.RESTART: text})
    assert said == f"lab.ebpfperf/restart-s is {text!r}, and no number of seconds from 0 to 60"


def test_the_api_refuses_what_the_lab_could_not_follow() -> None:
    pod = {
        "metadata": {"name": "a", "annotations": {own_annotations.DENY: "[1]"}},
        "spec": {"containers": [{"name": "p", "image": "pause"}]},
    }
    with pytest.raises(Invalid, match=r"lab\.ebpfperf/deny: a rule has direction"):
        Admission(RESOURCES["pods"], CORE, minor=26)(pod, None)


def test_a_deny_lists_key_compares_all_but_the_hosts_bits() -> None:
    text = '[{"direction": "egress", "cidr": "10.1.2.3/16", "protocol": "udp", "port": 5201}]'
    (rule,) = own_annotations.deny_list({own_annotations.DENY: text})
    assert rule == Denied(True, "10.1.0.0/16", "UDP", 5201)
    key = mapbytes.deny_key(9, rule)
    assert key == struct.pack("<IIBBH", 64 + 16, 9, 1, 17, 5201) + bytes([10, 1, 0, 0])
    assert own_annotations.deny_list({}) == ()


# ------------------------------------------------------------------------------------- plans


@pytest.mark.parametrize(
    ("release", "spec", "tunnels", "expected"),
    [
        # v3.16 to v3.19 have no program on the VXLAN device; from v3.30 on tunnels need no pattern.
        ("v3.16.1", {}, Enabled(True, True), ("ens11", "tunl0")),
        ("v3.19.0", {}, Enabled(True, True), ("ens11", "tunl0")),
        ("v3.20.0", {}, Enabled(True, True), ("ens11", "tunl0", "vxlan.calico")),
        ("v3.23.0", {}, Enabled(True, True), ("ens11", "tunl0", "vxlan.calico")),
        ("v3.29.0", {}, Enabled(True, True), ("ens11", "tunl0", "vxlan.calico")),
        ("v3.26.1", {}, Enabled(True, True), ("ens11", "tunl0", "vxlan.calico")),
        ("v3.30.2", {}, Enabled(True, True), ("ens11", "tunl0", "vxlan.calico")),
        ("v3.30.2", {}, Enabled(False, False), ("ens11",)),
        ("v3.26.1", {"bpfDataIfacePattern": "^eth"}, Enabled(True, True), ()),
        ("v3.32.1", {"bpfDataIfacePattern": "^eth"}, Enabled(True, False), ("tunl0",)),
        ("v3.26.1", {"bpfDataIfacePattern": "("}, Enabled(False, False), ("ens11",)),
    ],
)
def test_devices_are_those_that_the_pattern_matches(
    release: str, spec: dict[str, Any], tunnels: Enabled, expected: tuple[str, ...]
) -> None:
    links = {"lo": 1, "ens11": 2, "tunl0": 3, "vxlan.calico": 4}
    assert bpfplan.data_devices(node(1), links, spec, tunnels, release) == expected


def cluster(pool: dict[str, Any], services: tuple[ServicePort, ...] = ()) -> Cluster:
    pool = {"cidr": "198.19.0.0/16", "ipipMode": "Never", "vxlanMode": "Never"} | pool
    blocks = [(IPv4Network("198.19.0.0/26"), "node-1"), (IPv4Network("198.19.0.64/26"), "node-2")]
    numbers = mapbytes.numbered(services, {}, count(1))
    return Cluster([pool], blocks, [("198.19.0.1", "node-1")], services, numbers)


@pytest.mark.parametrize(
    ("release", "pool", "subnet", "flags"),
    [
        ("v3.16.1", {"vxlanMode": "Always"}, 0, 0x25),
        ("v3.22.0", {"vxlanMode": "Always"}, 0, 0x25),
        ("v3.23.0", {"vxlanMode": "Always"}, 0, 0x65),
        ("v3.31.7", {"vxlanMode": "Always"}, 0, 0x465),
        ("v3.26.1", {"vxlanMode": "Always"}, 0, 0x65),
        ("v3.32.1", {"vxlanMode": "Always"}, 0, 0x465),
        ("v3.32.1", {"ipipMode": "Always"}, 0, 0x65),
        ("v3.32.1", {"vxlanMode": "CrossSubnet"}, 0, 0x25),
        ("v3.32.1", {"vxlanMode": "CrossSubnet"}, 1, 0x445),
        ("v3.26.1", {"natOutgoing": True}, 0, 0x27),
    ],
)
def test_a_route_to_another_nodes_pods_says_how_they_are_reached(
    release: str, pool: dict[str, Any], subnet: int, flags: int
) -> None:
    peer = node(2, subnet)
    pods = [LocalPod("cali1", 7, "198.19.0.2")]
    found = bpfplan.routes(node(1), [peer], cluster(pool), pods, release)
    key = mapbytes.route_key("198.19.0.64/26")
    assert found[key] == struct.pack("<I", flags) + socket.inet_aton(peer.underlay_ip)
    local = 0xF if pool.get("natOutgoing") else 0xD
    assert found[mapbytes.route_key("198.19.0.2")] == struct.pack("<II", local, 7)
    assert found[mapbytes.route_key("198.18.0.11")] == struct.pack("<II", 0x18, 0)
    assert found[mapbytes.route_key("198.19.0.1")] == struct.pack("<II", 0x18, 0)
    assert found[mapbytes.route_key(peer.underlay_ip)] == struct.pack("<II", 0x10, 0)
    assert mapbytes.route_key("198.19.0.0/26") not in found


@pytest.mark.parametrize(
    ("release", "spec", "options"),
    [
        ("v3.16.1", {}, Option.FIB),
        ("v3.16.1", {"vxlanEnabled": True}, Option(0)),
        ("v3.17.4", {"vxlanEnabled": True}, Option(0)),
        ("v3.18.0", {"vxlanEnabled": True}, Option.FIB),
        ("v3.28.0", {}, Option.FIB),
        ("v3.29.0", {}, Option.FIB | Option.PEER),
        ("v3.31.7", {"ipipEnabled": True}, Option.PEER),
        ("v3.26.1", {"vxlanEnabled": True}, Option.FIB),
        ("v3.26.1", {"ipipEnabled": True}, Option(0)),
        ("v3.26.1", {"bpfExternalServiceMode": "DSR"}, Option.FIB | Option.DSR),
        ("v3.30.2", {}, Option.FIB | Option.PEER),
        ("v3.30.2", {"bpfRedirectToPeer": "Disabled"}, Option.FIB),
        ("v3.32.1", {"ipipEnabled": True}, Option.FIB | Option.PEER),
    ],
)
def test_programs_may_do_what_release_and_flags_allow(
    release: str, spec: dict[str, Any], options: Option
) -> None:
    wanted = bpfplan.plan(
        *(node(1), [node(2)], cluster({}), []),
        spec=spec, tunnels=Enabled(False, False), links={"ens11": 2}, host_mtu=1500,
        release=release,
    )  # fmt: skip
    assert wanted.settings.options == options
    assert wanted.settings.tunnel_mtu == (1410 if release == "v3.16.1" else 1450)


# ----------------------------------------------------------------------------------- sweeping

SYN, ACK, FIN, RST = 1, 2, 4, 8
TIMEOUTS = sweeper.timeouts_of({}, "v3.26.1")


def entry(protocol: int, one: int = 0, other: int = 0, flags: int = 0) -> sweeper.Entry:
    return sweeper.Entry(protocol, 0, flags, 0, 0, (one, other), b"")


@pytest.mark.parametrize(
    ("found", "seconds"),
    [
        (entry(17), 60),
        (entry(1), 5),
        (entry(132), 600),
        (entry(6, SYN), 20),
        (entry(6, SYN | ACK, SYN), 20),
        (entry(6, SYN | ACK, SYN | ACK), 3600),
        (entry(6, SYN | ACK | FIN, SYN | ACK), 3600),
        (entry(6, SYN | ACK | FIN, SYN | ACK | FIN), 30),
        (entry(6, SYN | ACK | FIN, 0, flags=0x2), 30),
        (entry(6, SYN | ACK, SYN | ACK | RST), 40),
    ],
)
def test_a_connections_state_decides_how_long_it_is_kept(
    found: sweeper.Entry, seconds: float
) -> None:
    assert sweeper.timeout_s(found, TIMEOUTS) == seconds


def test_timeouts_are_a_field_since_v330() -> None:
    spec = {"bpfConntrackTimeouts": {"UDPTimeout": "1m30s", "tcpSynSent": "Auto", "other": "1s"}}
    assert sweeper.timeouts_of(spec, "v3.26.1") == TIMEOUTS
    assert sweeper.timeouts_of(spec, "v3.30.2") == TIMEOUTS | {"udpTimeout": 90.0}


class Conntrack:
    """A map in memory: what the sweeper uses of one."""

    def __init__(self, entries: dict[bytes, bytes]) -> None:
        self.entries = entries

    def items(self) -> list[tuple[bytes, bytes]]:
        return list(self.entries.items())

    def get(self, key: bytes) -> bytes | None:
        return self.entries.get(key)

    def delete(self, key: bytes) -> None:
        del self.entries[key]


def key_of(a: str, b: str, port_a: int, port_b: int) -> bytes:
    head = struct.pack("<I", 17) + socket.inet_aton(a) + socket.inet_aton(b)
    return head + struct.pack("<HH", port_a, port_b)


def value_of(kind: int, seen_ns: int, reverse: bytes = b"") -> bytes:
    return struct.pack("<QQBB6x", 0, seen_ns, kind, 0) + reverse.ljust(64, b"\0")


def test_a_translation_ends_with_its_backend_and_takes_its_pointer_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000_000_000_000
    monkeypatch.setattr(sweeper.time, "clock_gettime_ns", lambda _: now)
    fresh = now - 59_000_000_000
    normal = key_of("10.0.0.1", "10.0.0.2", 1, 2)
    kept, gone = (key_of("10.0.0.1", f"10.0.0.{n}", 1, 53) for n in (5, 6))
    to_kept, to_gone = (key_of("10.0.0.1", "10.96.0.1", n, 53) for n in (1, 2))
    lost = key_of("10.0.0.1", "10.96.0.1", 3, 53)
    table = Conntrack(
        {
            normal: value_of(0, fresh),
            kept: value_of(2, fresh),
            gone: value_of(2, fresh),
            # Its own time does not count: the entry it points to has seen packets.
            to_kept: value_of(1, 0, kept),
            to_gone: value_of(1, fresh, gone),
            lost: value_of(1, fresh, key_of("1.1.1.1", "1.1.1.2", 1, 1)),
        }
    )
    backends = frozenset({(socket.inet_aton("10.0.0.5"), 53)})
    removed = sweeper.sweep(table, {}, "v3.26.1", lambda: backends)  # type: ignore[arg-type]
    assert removed == 3
    assert set(table.entries) == {normal, kept, to_kept}
    monkeypatch.setattr(sweeper.time, "clock_gettime_ns", lambda _: now + 2_000_000_000)
    sweeper.sweep(table, {}, "v3.26.1", lambda: backends)  # type: ignore[arg-type]
    assert table.entries == {}


def test_an_entry_is_kept_while_it_is_new_where_it_says_when_it_was_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000_000_000_000
    monkeypatch.setattr(sweeper.time, "clock_gettime_ns", lambda _: now)
    lost = key_of("10.0.0.1", "10.96.0.1", 3, 53)

    def left(age_s: int, release: str) -> set[bytes]:
        made = struct.pack("<Q", now - age_s * 1_000_000_000)
        table = Conntrack({lost: made + value_of(1, 0, bytes(16))[8:]})
        sweeper.sweep(table, {}, release, frozenset)  # type: ignore[arg-type]
        return set(table.entries)

    assert left(9, "v3.26.1") == {lost}
    assert left(11, "v3.26.1") == set()
    # Since v3.30 the first word is the time of a reset.
    assert left(9, "v3.30.2") == set()


def test_a_connection_that_begins_while_the_map_is_walked_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The walk has passed the place of its entry, and comes to that of the pointer to it."""
    now = 1_000_000_000_000
    monkeypatch.setattr(sweeper.time, "clock_gettime_ns", lambda _: now)
    reverse, forward = key_of("10.0.0.1", "10.0.0.5", 1, 53), key_of("10.0.0.1", "10.96.0.1", 1, 53)
    pair = {reverse: value_of(2, now), forward: value_of(1, now, reverse)}
    backends: set[tuple[bytes, int]] = set()

    class Walked(Conntrack):
        def items(self) -> list[tuple[bytes, bytes]]:
            # Felix has a new backend, and somebody uses it at once.
            backends.add((socket.inet_aton("10.0.0.5"), 53))
            self.entries |= pair
            return [(key, pair[key]) for key in self.seen]

        seen: tuple[bytes, ...] = ()

    for seen in ((forward,), (reverse,), (reverse, forward)):
        backends.clear()
        table = Walked({})
        table.seen = seen
        removed = sweeper.sweep(table, {}, "v3.30.2", lambda: frozenset(backends))  # type: ignore[arg-type]
        assert (removed, table.entries) == (0, pair)
