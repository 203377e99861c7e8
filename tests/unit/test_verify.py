"""The verdict on what nodes show, and the commands' outputs it is drawn from."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ebpfperf.calico import felixenv
from ebpfperf.model import Dataplane, Overlay, Scope, Treatment
from ebpfperf.network_view import (
    Link,
    NodeView,
    Route,
    ipip_driver,
    link_of,
    parse_links,
    parse_programs,
    parse_routes,
)
from ebpfperf.placement import parse_namespaces, parse_processes, processes_argv
from ebpfperf.verify import (
    Wanted,
    blocks,
    peer_routes,
    problems,
    wanted_device,
    wanted_pod_mtu,
)

CIDR = "198.19.0.0/16"


def link(name: str, mtu: int, *addresses: str, kind: str = "", up: bool = True) -> Link:
    return Link(name, 1, mtu, kind, up, addresses, None, None)


def route(destination: str, device: str, kind: str = "unicast") -> Route:
    return Route(destination, kind, "", device, "bird")


def view(index: int, *links: Link, by: str = "", mtu_file: int | None = None) -> NodeView:
    """Node ``index`` with its own block, and a route to the other's by a device."""
    other = 3 - index
    nic = link(f"ens1{index}", 1500, f"198.18.0.1{index}/24")
    return NodeView(
        f"node-{index}",
        f"198.18.0.1{index}",
        (link("lo", 65536, "127.0.0.1/8"), nic, *links),
        (
            route(f"198.19.{index}.0/26", "", "blackhole"),
            route(f"198.19.{other}.0/26", by or nic.name),
        ),
        mtu_file,
    )


def want(overlay: Overlay, scope: Scope = Scope.ALWAYS, **felix: Any) -> Wanted:
    mode = "Always" if scope is Scope.ALWAYS else "CrossSubnet"
    pool = {
        "cidr": CIDR,
        "ipipMode": mode if overlay is Overlay.IPIP else "Never",
        "vxlanMode": mode if overlay is Overlay.VXLAN else "Never",
    }
    return Wanted(Treatment("t", overlay, scope), felix, (pool,), (CIDR,))


VXLAN = link("vxlan.calico", 1450, kind="vxlan")
TUNL = link("tunl0", 1480, kind="ipip")


def test_each_overlay_mode_as_it_should_be() -> None:
    assert problems(view(1), view(2), want(Overlay.NONE)) == ()
    shown = view(1, VXLAN, by="vxlan.calico")
    assert problems(shown, view(2), want(Overlay.VXLAN)) == ()
    shown = view(1, TUNL, by="tunl0")
    assert problems(shown, view(2), want(Overlay.IPIP)) == ()


def test_the_mode_before_is_seen_and_named() -> None:
    shown = view(1, VXLAN, by="vxlan.calico")
    text = "; ".join(problems(shown, view(2), want(Overlay.NONE)))
    assert "still has vxlan.calico" in text
    assert "sends 198.19.2.0/26 by vxlan.calico, not ens11" in text
    text = "; ".join(problems(shown, view(2), want(Overlay.IPIP)))
    assert "has no tunl0" in text
    # tunl0 is the kernel's: it may stay.
    assert problems(view(1, TUNL), view(2), want(Overlay.NONE)) == ()


def test_a_device_must_be_up_and_of_the_rule_s_mtu() -> None:
    down = replace(VXLAN, up=False)
    text = "; ".join(problems(view(1, down, by="vxlan.calico"), view(2), want(Overlay.VXLAN)))
    assert "no vxlan.calico that is up" in text
    small = replace(VXLAN, mtu_bytes=1400)
    shown = view(1, small, by="vxlan.calico")
    assert "MTU 1400, not 1450" in problems(shown, view(2), want(Overlay.VXLAN))[0]
    assert problems(shown, view(2), want(Overlay.VXLAN, vxlanMTU=1400)) == ()
    unknown = replace(want(Overlay.VXLAN), unknown_fields=frozenset({"vxlanMTU"}))
    assert problems(shown, view(2), unknown) == ()


def test_cross_subnet_encapsulates_only_what_crosses() -> None:
    wanted = want(Overlay.VXLAN, Scope.CROSS_SUBNET)
    assert wanted_device(view(1), view(2), wanted) == "ens11"
    far = replace(view(2), address="198.18.1.12")
    assert wanted_device(view(1), far, wanted) == "vxlan.calico"
    assert wanted_device(view(1), far, want(Overlay.NONE)) == "ens11"


def test_a_missing_route_is_a_problem_and_no_block_is_none() -> None:
    lost = replace(view(1), routes=())
    assert "no route to 198.19.2.0/26" in problems(lost, view(2), want(Overlay.NONE))[0]
    fresh = replace(view(2), routes=())
    assert problems(lost, fresh, want(Overlay.NONE)) == ()
    assert peer_routes(view(1), fresh, [CIDR]) == ()


def test_blocks_outside_the_campaign_s_pools_are_not_looked_at() -> None:
    other = replace(view(2), routes=(route("203.0.113.0/26", "", "blackhole"),))
    assert blocks(other, [CIDR]) == ()
    assert blocks(other, ["2001:db8::/64", "203.0.113.0/24"]) != ()


def test_felix_s_mtu_file_must_follow() -> None:
    stale = view(1, mtu_file=1450)
    assert "gives pods MTU 1450, not 1500" in problems(stale, view(2), want(Overlay.NONE))[0]


@pytest.mark.parametrize(
    ("overlay", "felix", "mtu"),
    [
        (Overlay.NONE, {}, 1500),
        (Overlay.IPIP, {}, 1480),
        (Overlay.VXLAN, {}, 1450),
        (Overlay.NONE, {"vxlanEnabled": True}, 1450),
        (Overlay.VXLAN, {"vxlanMTU": 1400}, 1400),
        (Overlay.NONE, {"mtuIfacePattern": "^nothing$"}, 1460),
        (Overlay.NONE, {"mtuIfacePattern": "(?i"}, 1500),
    ],
)
def test_pod_mtu_by_calico_s_rule(overlay: Overlay, felix: dict[str, Any], mtu: int) -> None:
    assert wanted_pod_mtu(view(1), want(overlay, **felix)) == mtu


def test_pod_mtu_is_unknown_where_there_is_no_rule() -> None:
    assert wanted_pod_mtu(view(1), replace(want(Overlay.NONE), release="v3.16.1")) is None
    hidden = replace(want(Overlay.VXLAN), unknown_fields=frozenset({"vxlanMTU"}))
    assert wanted_pod_mtu(view(1), hidden) is None


def test_another_pool_may_keep_a_tunnel() -> None:
    wanted = want(Overlay.NONE)
    wanted = replace(wanted, pools=(*wanted.pools, {"cidr": "x", "vxlanMode": "Always"}))
    assert problems(view(1, VXLAN), view(2), wanted) == ()
    assert wanted_pod_mtu(view(1), wanted) == 1450


def test_environment_beats_the_node_beats_the_default() -> None:
    env = [
        {"name": "FELIX_IPINIPMTU", "valueFrom": {"configMapKeyRef": {"name": "calico-config"}}},
        {"name": "felix_vxlanenabled", "value": "true"},
        {"name": "FELIX_HEALTHENABLED", "value": "true"},
        {"name": "FELIX_VXLANMTU", "value": "1400"},
    ]
    pod = {"spec": {"containers": [{"name": "calico-node", "env": env}, {"name": "other"}]}}
    found = felixenv.environment(pod, felixenv.TUNNEL_FIELDS)
    assert found == {"ipipMTU": None, "vxlanEnabled": "true", "vxlanMTU": "1400"}
    fields = felixenv.effective(
        {"ipipMTU": 1480, "vxlanMTU": 1, "bpfEnabled": False}, {"bpfEnabled": True}, found
    )
    assert fields == {"vxlanMTU": 1400, "vxlanEnabled": True, "bpfEnabled": True}
    assert felixenv.environment({}, ["x"]) == {}
    assert felixenv.variable("ipipEnabled") == "FELIX_IPINIPENABLED"


def test_links_keep_what_is_asked_of_them() -> None:
    text = json.dumps(
        [
            {"ifindex": 1, "ifname": "lo", "flags": ["UP"], "mtu": 65536},
            {},
            {
                "ifindex": 2,
                "link_index": 7,
                "ifname": "eth0",
                "flags": ["UP"],
                "mtu": 1450,
                "linkinfo": {"info_kind": "veth"},
                "addr_info": [
                    {"family": "inet6", "local": "fe80::1", "prefixlen": 64},
                    {"family": "inet", "local": "198.19.0.1", "prefixlen": 32},
                    {},
                ],
            },
            {
                "ifindex": 3,
                "ifname": "vxlan.calico",
                "flags": [],
                "mtu": 1450,
                "linkinfo": {"info_kind": "vxlan", "info_data": {"id": 4096}},
            },
        ]
    ).encode()
    _, eth0, vxlan = links = parse_links(text)
    assert (eth0.peer_index, eth0.addresses, eth0.kind) == (7, ("198.19.0.1/32",), "veth")
    assert (vxlan.vni, vxlan.up) == (4096, False)
    assert link_of(links, "198.19.0.1") is eth0
    assert link_of(links, "198.19.0.2") is None


def test_routes_in_iproute2_s_spelling() -> None:
    text = (
        b'[{"dst":"default","gateway":"198.18.0.1","dev":"ens11","flags":[]},'
        b'{"type":"blackhole","dst":"198.19.0.0/26","protocol":"bird","flags":[]},'
        b'{"dst":"198.19.0.3","dev":"cali1","scope":"link","flags":[]}]'
    )
    default, hole, pod = parse_routes(text)
    assert default.network is None
    assert str(hole) == "blackhole 198.19.0.0/26"
    assert str(pod.network) == "198.19.0.3/32"
    assert parse_routes(b"") == parse_routes(b"[ ]") == ()
    with pytest.raises(ValueError, match="no list"):
        parse_routes(b"{}")


def test_ipip_driver_in_words() -> None:
    assert ipip_driver(None) == "not in use"
    assert ipip_driver(TUNL) == "kernel ipip device"
    assert "BPF" in ipip_driver(replace(TUNL, kind="tun"))


UID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
SYSTEMD = f"kubepods-besteffort-pod{UID.replace('-', '_')}.slice"


@pytest.mark.parametrize(
    "path",
    [
        f"/sys/fs/cgroup/kubepods.slice/kubepods-besteffort.slice/{SYSTEMD}/cri-containerd-ab.scope",
        f"/sys/fs/cgroup/kubepods/besteffort/pod{UID}/abc",
        f"/sys/fs/cgroup/memory/kubepods/pod{UID}/abc",
        f"/sys/fs/cgroup/systemd/kubepods.slice/{SYSTEMD}/crio-ab.scope",
    ],
)
def test_a_pod_s_cgroup_by_either_driver_and_version(path: str) -> None:
    from fnmatch import fnmatchcase

    argv = processes_argv(UID)
    patterns = [argv[i + 1] for i, word in enumerate(argv) if word == "-path"]
    assert any(fnmatchcase(f"{path}/cgroup.procs", pattern) for pattern in patterns)
    assert parse_processes(f"{path}/cgroup.procs:4242\n{path}/cgroup.procs:77\n") == (77, 4242)


def test_processes_are_met_once_and_foreign_ones_left_out() -> None:
    assert parse_processes("/a/cgroup.procs:7\n/b/cgroup.procs:7\n/b/cgroup.procs:0\n\n") == (7,)


def test_namespaces_as_stat_prints_them() -> None:
    text = (
        "'/proc/self/ns/net' -> 'net:[4026531833]'\n"
        "'/proc/12/ns/net' -> 'net:[4026532000]'\n"
        "stat: cannot stat '/proc/13/ns/net'"
    )
    assert parse_namespaces(text) == {"self": "4026531833", "12": "4026532000"}


# What tc of iproute2 6.1 printed on nodes that present v3.16, v3.26 and v3.30.
FILTERS = """\
filter protocol all pref 1 bpf chain 0
filter protocol all pref 1 bpf chain 0 handle 0x1 {name} direct-action not_in_hw id 3228 \
name calico_from_hos tag 3f19230516366614 jited
filter protocol all pref 2 bpf chain 0
filter protocol all pref 2 bpf chain 0 handle 0x1 other.o:[tc/decap] direct-action not_in_hw \
id 3105 name other_decap tag 6093f95fd004638b jited
"""


@pytest.mark.parametrize(
    "name",
    [
        "from_hep_fib_no_log.o:[calico_from_host_ep]",
        "calico_from_hos:[3228]",
        "cali_tc_preambl:[6113]",
    ],
)
def test_programs_are_told_by_the_filters_name(name: str) -> None:
    assert parse_programs(FILTERS.format(name=name), "", "ens11") == (name,)
    assert parse_programs(FILTERS.format(name="other.o:[x]"), "", "ens11") == ()


def test_programs_attached_by_tcx_are_told_by_their_pins() -> None:
    pins = "cali0123456789a_ingress\nens11_egress\nens11_ingress\nens110_ingress\n"
    assert parse_programs("", pins, "ens11") == ("TCX link ens11_ingress",)
    assert parse_programs("", pins, "ens12") == ()
    # A BPF file system takes no dots in names: Calico leaves them out.
    assert parse_programs("", "bond0100_ingress", "bond0.100") == ("TCX link bond0100_ingress",)


@pytest.mark.parametrize(
    ("dataplane", "programs", "said"),
    [
        (Dataplane.EBPF, (), "ens11 of node-1 has no eBPF program of Calico's"),
        (Dataplane.STANDARD, ("cali_tc_preambl:[7]",), "ens11 of node-1 still has cali_tc_preambl"),
        (Dataplane.EBPF, ("cali_tc_preambl:[7]",), ""),
        (Dataplane.STANDARD, (), ""),
        (Dataplane.EBPF, None, ""),
        (None, (), ""),
    ],
)
def test_a_dataplane_is_shown_by_the_programs_on_the_nic(
    dataplane: Dataplane | None, programs: tuple[str, ...] | None, said: str
) -> None:
    wanted = want(Overlay.NONE)
    wanted = replace(wanted, treatment=replace(wanted.treatment, dataplane=dataplane))
    found = "; ".join(problems(replace(view(1), programs=programs), view(2), wanted))
    assert found.startswith(said) if said else found == ""
