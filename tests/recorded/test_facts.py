"""Facts, placement and the verdict from recorded nodes; a new platform is a new file in nodes/."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ebpfperf.errors import CommandTimeout
from ebpfperf.facts import (
    QUERIES,
    cluster_facts,
    node_facts,
    nodes_facts,
    parse_cpuinfo,
    parse_files,
    parse_offloads,
    parse_os_release,
    release_fact,
    shared_kernel,
)
from ebpfperf.model import Fact, Overlay, Treatment, Workload, WorkloadKind
from ebpfperf.network_view import LINKS_ARGV, ROUTES_ARGV, NodeView, parse_links, parse_routes
from ebpfperf.placement import place_host, place_pod, still_there
from ebpfperf.remote import Completed
from ebpfperf.replay import ReplayNode
from ebpfperf.verify import Wanted, problems

NODES = Path(__file__).parent / "nodes"
RECORDINGS = sorted(NODES.glob("*.json"))
ADDRESS = {"node-1": "198.18.0.11", "node-2": "198.18.0.12"}


def debian(index: int) -> ReplayNode:
    return ReplayNode.load(NODES / f"debian12-vxlan-node-{index}.json")


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_every_recorded_node_yields_every_fact(path: Path) -> None:
    node = ReplayNode.load(path)
    facts = node_facts(node, address=ADDRESS.get(node.name))
    names = [fact.name for fact in facts]
    assert len(set(names)) == len(names)
    assert {name for query in QUERIES for name in query.names} <= set(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)
    assert all(fact.value and "\n" not in fact.value for fact in facts)
    assert all(re.fullmatch(r"UNKNOWN: .+", f.value) for f in facts if "UNKNOWN" in f.value)


def test_what_the_recorded_debian_node_is() -> None:
    found = {fact.name: fact.value for fact in node_facts(debian(1), address="198.18.0.11")}
    assert found["os"] == "Debian GNU/Linux 12 (bookworm)"
    assert found["cpus"] == "2"
    assert found["iperf3_version"] == "3.12"
    assert found["sockperf_version"] == "3.7"
    assert (found["nic"], found["nic_mtu"], found["nic_kind"]) == ("ens11", "1500", "veth")
    assert found["nic_tcp_segmentation_offload"] == "on"
    assert found["hostname"] == "node-1"
    assert found["cpu_governor"].startswith("UNKNOWN: ")
    assert found["virtualized"] == "yes"


def test_a_shared_kernel_is_observed() -> None:
    facts = nodes_facts({"node-1": debian(1), "node-2": debian(2)}, ADDRESS)
    (shared,) = [fact for fact in facts if fact.name == "shared_kernel"]
    assert shared == Fact("", "shared_kernel", "yes: node-1, node-2")
    apart = [Fact("a", "boot_id", "1"), Fact("b", "boot_id", "2")]
    assert shared_kernel(apart).value == "no"
    assert shared_kernel([Fact("a", "boot_id", "UNKNOWN: x")]).value.startswith("UNKNOWN: ")


def test_a_recorded_pod_is_placed_by_its_uid() -> None:
    workload = Workload("ebpfperf-client", "node-1", WorkloadKind.POD, "ebpfperf")
    uid = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
    endpoint = place_pod(debian(1), workload, uid=uid, address="198.19.0.0")
    assert endpoint.netns_pid is not None
    assert (endpoint.device, endpoint.mtu_bytes) == ("eth0", 1450)
    assert endpoint.host_device.startswith("cali")
    assert still_there(debian(1), endpoint)
    host = place_host(debian(1), Workload("node-1", "node-1", WorkloadKind.HOST), "198.18.0.11")
    assert (host.device, host.host_device, host.netns_pid) == ("ens11", "ens11", None)


def test_the_recorded_nodes_show_vxlan_and_nothing_else() -> None:
    views = {
        name: NodeView(
            name,
            ADDRESS[name],
            parse_links(node.run(LINKS_ARGV).stdout),
            parse_routes(node.run(ROUTES_ARGV).stdout),
        )
        for name, node in (("node-1", debian(1)), ("node-2", debian(2)))
    }
    cidr = "198.19.0.0/16"

    def found(overlay: Overlay) -> tuple[str, ...]:
        pool = {
            "ipipMode": "Always" if overlay is Overlay.IPIP else "Never",
            "vxlanMode": "Always" if overlay is Overlay.VXLAN else "Never",
        }
        wanted = Wanted(Treatment("t", overlay), {}, (pool,), (cidr,))
        return problems(views["node-1"], views["node-2"], wanted)

    assert found(Overlay.VXLAN) == ()
    assert found(Overlay.NONE) != ()
    assert found(Overlay.IPIP) != ()


class Barren:
    """A node on which nothing is installed, or nothing ends."""

    name = "barren"

    def __init__(self, status: int | None) -> None:
        self.status = status

    def run(self, argv: list[str], **_: object) -> Completed:
        if self.status is None:
            raise CommandTimeout(f"barren: {argv[0]} did not end in 10 s.", node="barren")
        return Completed(tuple(argv), self.status, b"", b"sh: no\n", 0.0)


@pytest.mark.parametrize("status", [127, 1, None])
def test_a_node_without_anything_has_unknown_facts(status: int | None) -> None:
    facts = node_facts(Barren(status))  # type: ignore[arg-type]
    values = {fact.name: fact.value for fact in facts}
    assert values["iperf3_version"].startswith("UNKNOWN: ")
    assert values["nic"].startswith("UNKNOWN: ")
    if status == 127:
        assert values["iperf3_version"] == "UNKNOWN: iperf3 is not installed"


def test_cpuinfo_of_an_arm_machine() -> None:
    text = (
        "processor\t: 0\nBogoMIPS\t: 243.75\nCPU part\t: 0xd0c\n\n"
        "processor\t: 1\nCPU part\t: 0xd0c\n\n"
    )
    found = parse_cpuinfo(text)
    assert (found["cpu_model"], found["cpus"]) == ("0xd0c", "2")
    assert found["virtualized"].startswith("UNKNOWN: ")
    assert parse_cpuinfo("")["cpus"] == "0"


def test_parsers_say_unknown_rather_than_fail() -> None:
    assert parse_os_release("ID=x\n")["os"].startswith("UNKNOWN: ")
    assert parse_os_release("PRETTY_NAME=Alpine\n")["os"] == "Alpine"
    assert all(value.startswith("UNKNOWN: ") for value in parse_files("").values())
    assert parse_offloads("tcp-segmentation-offload: off [fixed]\n")[
        "nic_tcp_segmentation_offload"
    ] == ("off")


def test_the_release_is_what_the_cluster_says_of_itself() -> None:
    said = {"spec": {"calicoVersion": "v3.27.2"}}
    assert release_fact(said) == Fact("", "calico_release", "v3.27.2")
    assert release_fact(said) in cluster_facts(information=said, felix=None, pools=[], nodes=[])
    for silent in (None, {}, {"spec": {}}, {"spec": {"calicoVersion": ""}}):
        assert release_fact(silent).value == "UNKNOWN: not said"


def test_cluster_facts_say_lab_where_the_nodes_do() -> None:
    node = {
        "metadata": {
            "name": "n",
            "annotations": {"lab.ebpfperf/emulation": "not Calico", "other/x": "y"},
        },
        "status": {"nodeInfo": {"kubeletVersion": "v1.30.0"}},
    }
    pool = {"metadata": {"name": "default-ipv4-ippool"}, "spec": {"vxlanMode": "Always"}}
    facts = cluster_facts(information=None, felix=None, pools=[pool], nodes=[node])
    values = {(fact.node, fact.name): fact.value for fact in facts}
    assert values["n", "lab_emulation"] == "not Calico"
    assert values["", "felix_spec"] == "absent"
    assert values["", "calico_release"].startswith("UNKNOWN: ")
    assert values["", "ippool_default_ipv4_ippool"] == '{"vxlanMode":"Always"}'
    assert not any("other" in name for _, name in values)
