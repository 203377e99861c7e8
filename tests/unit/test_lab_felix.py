"""What the lab's Felix decides, before the kernel is asked: routes, flags, words."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest

from ebpfperf.calico.encapsulation import Enabled
from ebpfperf.calico.nodelog import felix_state, parse
from ebpfperf.calico.releases import FULL_VERSIONS
from ebpfperf.lab import felixlog
from ebpfperf.lab.dataplane import Route, plan_routes, vtep_mac
from ebpfperf.lab.kubelet import device_name
from ebpfperf.lab.nodes import LabNode
from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.poolflags import PoolFlags

OWN, PEERS, FAR = "198.19.0.0/26", "198.19.0.64/26", "198.19.0.128/26"


def a_node(index: int, underlay_ip: str) -> LabNode:
    name = f"node-{index}"
    return LabNode(
        name=name,
        index=index,
        holder_pid=0,
        nic=f"ens{10 + index}",
        underlay_ip=underlay_ip,
        ssh_address="127.0.10.1",
        ssh_port=2222,
        cgroup=Path("/nowhere"),
        dir=Path("/nowhere"),
    )


NODE, PEER = a_node(1, "198.18.0.11"), a_node(2, "198.18.0.12")
FAR_PEER = a_node(3, "198.18.1.13")
BLOCKS = [
    (ipaddress.IPv4Network(block), node.name)
    for block, node in ((OWN, NODE), (PEERS, PEER), (FAR, FAR_PEER))
]
VTEPS = {"node-1": "198.19.0.0", "node-2": "198.19.0.64", "node-3": "198.19.0.128"}


def routes(pool: dict[str, Any], tunnels: Enabled) -> dict[str, str]:
    planned = plan_routes(
        NODE,
        [PEER, FAR_PEER],
        [{"cidr": "198.19.0.0/16", **pool}],
        BLOCKS,
        tunnels=tunnels,
        vteps=VTEPS,
    )
    return {route.block: route.words() for route in planned}


def test_without_overlay_routes_go_by_the_nic() -> None:
    assert routes({}, Enabled(False, False)) == {
        OWN: f"blackhole {OWN} proto 12",
        PEERS: f"{PEERS} via 198.18.0.12 dev ens11 proto 12",
        FAR: f"{FAR} via 198.18.0.1 dev ens11 proto 12",
    }


def test_ipip_routes_go_by_tunl0_to_the_nodes_address() -> None:
    found = routes({"ipipMode": "Always"}, Enabled(True, False))
    assert found[PEERS] == f"{PEERS} via 198.18.0.12 dev tunl0 proto 12 onlink"
    assert found[OWN] == f"blackhole {OWN} proto 12"


def test_vxlan_routes_go_to_the_vtep() -> None:
    found = routes({"vxlanMode": "Always"}, Enabled(False, True))
    assert found[PEERS] == f"{PEERS} via 198.19.0.64 dev vxlan.calico proto 3 onlink"
    assert found[OWN] == f"blackhole {OWN} proto 80"


@pytest.mark.parametrize(
    ("pool", "near", "far"),
    [
        ({"vxlanMode": "CrossSubnet"}, "ens11 proto 80", "vxlan.calico"),
        ({"ipipMode": "CrossSubnet"}, "ens11 proto 12", "tunl0"),
    ],
)
def test_cross_subnet_tunnels_only_to_other_subnets(pool, near: str, far: str) -> None:
    found = routes(pool, Enabled(True, True))
    assert found[PEERS] == f"{PEERS} via 198.18.0.12 dev {near}"
    assert f"dev {far} " in found[FAR]


@pytest.mark.parametrize("pool", [{"ipipMode": "Always"}, {"vxlanMode": "Always"}])
def test_an_encapsulation_switched_off_leaves_peers_without_a_route(pool) -> None:
    assert set(routes(pool, Enabled(False, False))) == {OWN}


def test_blocks_outside_every_pool_get_no_route() -> None:
    planned = plan_routes(
        NODE, [PEER], [{"cidr": "10.0.0.0/8"}], BLOCKS, tunnels=Enabled(True, True), vteps=VTEPS
    )
    assert planned == ()


def test_a_route_is_a_value() -> None:
    assert Route(OWN, 12) == Route(OWN, 12)
    assert vtep_mac("node-1").startswith("66:")
    assert vtep_mac("node-1") != vtep_mac("node-2")


def test_a_pods_device_is_named_as_calicos_cni_names_it() -> None:
    # printf default.web | sha1sum
    assert device_name("default", "web") == "cali68caf03a5f4"
    assert len(device_name("a" * 63, "b" * 63)) == 15


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("ipipEnabled", "IpInIpEnabled"),
        ("ipipMTU", "IpInIpMtu"),
        ("vxlanEnabled", "VXLANEnabled"),
        ("bpfLogLevel", "BPFLogLevel"),
        ("mtuIfacePattern", "MTUIfacePattern"),
        ("natPortRange", "NATPortRange"),
        ("ipv6Support", "IPv6Support"),
        ("wireguardEnabled", "WireguardEnabled"),
    ],
)
def test_felix_logs_its_own_names(field: str, name: str) -> None:
    assert felixlog.internal_name(field) == name


def test_a_change_is_worded_as_the_release_words_it() -> None:
    old, new = {"vxlanMTU": 1410, "same": 1}, {"ipipEnabled": True, "same": 1}
    assert felixlog.config_change(old, new, "v3.16.1") == [
        (
            "WARNING",
            "daemon.go",
            1084,
            'Config change requires restart key="IpInIpEnabled" new="true" old=""',
        ),
        (
            "WARNING",
            "daemon.go",
            1084,
            'Config change requires restart key="VXLANMTU" new="" old="1410"',
        ),
    ]
    (level, *_, message), _ = felixlog.config_change(old, new, "v3.26.1")
    assert level == "INFO"
    assert message.startswith("Configuration value changed; change DOES require Felix to restart.")


@pytest.mark.parametrize("version", FULL_VERSIONS.values())
def test_the_kits_own_reader_understands_every_line(version: str) -> None:
    words = [
        *felixlog.config_change({"a": 1}, {"a": 2}, version),
        felixlog.encapsulation_change(version),
    ]
    for level, file, number, message in words:
        (line,) = parse(felixlog.line(level, 101, file, number, message))
        assert (line.level, line.pid, line.component) == (level, 101, "felix")
        assert felix_state([line]).leaving == message


def a_store(version_spec: dict[str, Any]) -> ObjectStore:
    store = ObjectStore()
    store.create("felixconfigurations", {"metadata": {"name": "default"}, "spec": version_spec})
    store.create("ippools", {"metadata": {"name": "pool"}, "spec": {"cidr": "198.19.0.0/16"}})
    return store


def flags_of(store: ObjectStore) -> dict[str, Any]:
    return dict(store.get("felixconfigurations", "default")["spec"])


def test_up_to_v322_a_pools_mode_raises_the_flag_and_nothing_lowers_it() -> None:
    off = {"ipipEnabled": False, "vxlanEnabled": False}
    store = a_store(off)
    flags = PoolFlags(store, "v3.16.1")
    flags.follow()
    assert flags_of(store) == off
    store.patch("ippools", "pool", {"spec": {"vxlanMode": "Always"}})
    flags.follow()
    assert flags_of(store) == {"ipipEnabled": False, "vxlanEnabled": True}
    store.patch("ippools", "pool", {"spec": {"vxlanMode": "Never"}})
    flags.follow()
    assert flags_of(store)["vxlanEnabled"] is True


def test_a_flag_that_somebody_lowers_stays_lowered() -> None:
    store = a_store({"ipipEnabled": False})
    flags = PoolFlags(store, "v3.16.1")
    store.patch("ippools", "pool", {"spec": {"ipipMode": "Always"}})
    flags.follow()
    store.patch("felixconfigurations", "default", {"spec": {"ipipEnabled": False}})
    flags.follow()
    assert flags_of(store) == {"ipipEnabled": False}


def test_from_v323_pools_leave_the_flags_alone() -> None:
    store = a_store({})
    store.patch("ippools", "pool", {"spec": {"ipipMode": "Always"}})
    PoolFlags(store, "v3.26.1").follow()
    assert flags_of(store) == {}
