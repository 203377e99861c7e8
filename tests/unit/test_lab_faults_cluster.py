"""Faults of the cluster, as far as no lab is needed: entries, what Felix reads, what it leaves."""

from __future__ import annotations

import ipaddress
import itertools
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from lab.calico_bytes import (
    ACK,
    APPROVED,
    OPENER,
    RELEASES,
    SYN,
    End,
    connection,
    connection_key,
    forward,
    key_of,
    tracked,
)
from unit.test_lab_felix import a_node

from ebpfperf.calico.encapsulation import Enabled
from ebpfperf.calico.nodelog import parse
from ebpfperf.lab import bpfplan, felixconfig, felixlog, mapbytes, own_annotations, schema, sweeper
from ebpfperf.lab.bpfplan import Cluster, LocalPod
from ebpfperf.lab.ebpf import Wanted
from ebpfperf.lab.faults import churn, entries, services
from ebpfperf.lab.nodes import LabNode
from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.services import Backend, ServicePort
from ebpfperf.lab.sweeper import timeout_s, timeouts_of

TCP, NOW = 6, 1_000_500_000_000
STANDS = SYN | ACK | APPROVED
# Of the two clients one is A of its connections, the other B.
CLIENTS = ("198.19.0.2", "203.0.113.250")
SERVER, SERVICE, GONE = ("198.18.0.11", 443), ("198.18.240.9", 80), ("203.0.113.10", 8080)
NODE, PEER = a_node(1, "198.18.0.11"), a_node(2, "198.18.0.12")


# --------------------------------------------------------------------------------- entries


def _times(release: str) -> dict[str, int]:
    return {"word0": NOW if release in ("v3.16", "v3.26") else 0, "last_seen": NOW}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_connection_that_stands_is_as_programs_write_it(release: str, client: str) -> None:
    made = entries.established(client, range(40_000, 40_003), SERVER, release, NOW)
    ends = [(End(client, port, STANDS | OPENER), End(*SERVER, STANDS)) for port in
            range(40_000, 40_003)]  # fmt: skip
    found = [(connection_key(key), connection(value, release)) for key, value in made.items()]
    assert found == [
        (key_of(TCP, *each), tracked(release, *each) | _times(release)) for each in ends
    ]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_translated_connection_has_an_entry_for_each_address(release: str, client: str) -> None:
    made = entries.translated((client, 40_000), SERVICE, GONE, release, NOW)
    found = [(connection_key(key), connection(value, release)) for key, value in made.items()]
    opener, service, backend = End(client, 40_000, STANDS | OPENER), End(*SERVICE), End(*GONE)
    ahead = forward(TCP, opener, backend)
    if release != "v3.16" and key_of(TCP, opener, service)["addr_b"] == client:
        ahead["flags"] = 0x100
    behind = tracked(release, opener, End(*GONE, STANDS), service=service)
    assert found == [
        (key_of(TCP, opener, service), ahead | _times(release)),
        (key_of(TCP, opener, backend), behind | _times(release)),
    ]


@pytest.mark.parametrize("release", ["v3.13", "v3.24", "v3.25", "v3.26", "v3.31", "v3.32"])
def test_the_sweeper_knows_such_a_connection_as_established(release: str) -> None:
    ((key, value),) = entries.established(CLIENTS[0], range(9, 10), SERVER, release, NOW).items()
    found = sweeper.read(key, value)
    assert (found.protocol, found.last_seen_ns) == (TCP, NOW)
    assert timeout_s(found, timeouts_of({}, release)) == 3600


# ------------------------------------------------------------------------ what is left out


def _port(name: str, address: str, *backends: Backend) -> ServicePort:
    return ServicePort(f"default/{name}", address, "TCP", 80, None, 0, False, False, backends)


def _planned(*faults: str, node: LabNode = NODE) -> Wanted:
    here, there = (Backend(f"198.19.0.{n}", 8080, f"node-{n}") for n in (1, 2))
    ports = (
        _port("fault-nat-backend-missing-node-1", "198.18.240.1", here, there),
        _port("fault-service-without-frontend-node-1", "198.18.240.2", here, there),
        _port("web", "198.18.240.3", here, there),
    )
    cluster = Cluster(
        [{"cidr": "198.19.0.0/16", "ipipMode": "Never", "vxlanMode": "Never"}],
        [(ipaddress.IPv4Network("198.19.0.64/26"), "node-2")],
        [],
        ports,
        mapbytes.numbered(ports, {}, itertools.count(1)),
    )
    pods = [
        LocalPod("cali1", 7, "198.19.0.3"),
        LocalPod("cali2", 8, "198.19.0.4", dirty="dirty-endpoint" in faults),
    ]
    return bpfplan.plan(
        *(node, [PEER if node is NODE else NODE], cluster, pods),
        spec={}, tunnels=Enabled(False, False), links={node.nic: 2, "cali1": 7, "cali2": 8},
        host_mtu=1500, release="v3.26.1", faults=faults,
    )  # fmt: skip


def _lost(purpose: str, *faults: str, node: LabNode = NODE) -> dict[bytes, bytes]:
    whole = _planned(node=node).entries[purpose]
    left = _planned(*faults, node=node).entries[purpose]
    assert left.items() <= whole.items()
    return {key: value for key, value in whole.items() if key not in left}


def test_the_last_backend_of_the_faults_service_is_not_in_the_nodes_map() -> None:
    (lost,) = _lost("nat-backend", "nat-backend-missing").items()
    place = socket.inet_aton("198.19.0.2") + struct.pack("<HH", 8080, 0)
    assert lost == (struct.pack("<II", 1, 1), place)
    assert _lost("nat-frontend", "nat-backend-missing") == {}
    assert _lost("nat-backend", "nat-backend-missing", node=PEER) == {}, "it is another node's"


def test_the_frontend_of_the_faults_service_is_not_in_the_nodes_map() -> None:
    (key,) = _lost("nat-frontend", "service-without-frontend")
    assert key == mapbytes.frontend_key("198.18.240.2", 80, "TCP")
    assert _lost("nat-backend", "service-without-frontend") == {}
    assert _lost("nat-frontend", "service-without-frontend", node=PEER) == {}


def test_an_endpoint_that_is_dirty_gets_no_program_and_keeps_its_route() -> None:
    names = [device.name for device in _planned("dirty-endpoint").devices]
    assert names == ["cali1", "ens11"]
    assert len(_planned().devices) == 3
    assert len(_lost("ifstate", "dirty-endpoint")) == 1
    assert _lost("routes", "dirty-endpoint") == {}


# ------------------------------------------------------------------------ what Felix reads


def _store(*env: dict[str, Any], annotations: dict[str, str] | None = None) -> ObjectStore:
    store = ObjectStore()
    for name in ("default", "kube-system"):
        store.create("namespaces", {"metadata": {"name": name}})
    store.create("nodes", {"metadata": {"name": "node-1", "annotations": annotations or {}}})
    spec = {"bpfEnabled": True, "bpfExternalServiceMode": "Tunnel"}
    store.create("felixconfigurations", {"metadata": {"name": "default"}, "spec": spec})
    for node, given in (("node-1", list(env)), ("node-2", [])):
        container = {"name": "calico-node", "image": "x", "env": given}
        meta = {
            "name": f"calico-{node}",
            "namespace": "kube-system",
            "labels": {"k8s-app": "calico-node"},
        }
        pod = {"metadata": meta, "spec": {"nodeName": node, "containers": [container]}}
        store.create("pods", pod)
    return store


DSR = {"name": "FELIX_BPFEXTERNALSERVICEMODE", "value": "DSR"}


def test_the_environment_of_a_nodes_own_pod_beats_the_resource() -> None:
    store = _store(DSR)
    one, other = (felixconfig.read(store, f"node-{n}", "v3.26.1") for n in (1, 2))
    assert (one.spec["bpfExternalServiceMode"], one.bpf) == ("DSR", True)
    assert other.spec["bpfExternalServiceMode"] == "Tunnel"
    assert one.pod != other.pod


def test_a_variable_of_a_field_that_the_release_lacks_has_no_effect() -> None:
    store = _store({"name": "FELIX_BPFPROFILING", "value": "Enabled"})
    assert "bpfProfiling" not in felixconfig.read(store, "node-1", "v3.26.1").spec
    assert felixconfig.read(store, "node-1", "v3.30.1").spec["bpfProfiling"] == "Enabled"


def test_a_felix_goes_on_while_its_pod_is_made_anew() -> None:
    store = _store(DSR)
    before = felixconfig.read(store, "node-1", "v3.26.1")
    store.delete("pods", "calico-node-1", "kube-system")
    store.finalize_delete("pods", "calico-node-1", "kube-system")
    assert felixconfig.read(store, "node-1", "v3.26.1", before) == before
    gone = felixconfig.read(store, "node-1", "v3.26.1")
    assert (gone.spec["bpfExternalServiceMode"], gone.pod) == ("Tunnel", "")


@pytest.mark.parametrize(
    ("fault", "bpf", "kube_proxy"),
    [("", True, False), ("kernel-unsupported", False, True), ("neither-active", False, False),
     ("stale-conntrack", True, False)],
)  # fmt: skip
def test_who_serves_follows_of_the_nodes_faults(fault: str, bpf: bool, kube_proxy: bool) -> None:
    store = _store(annotations={own_annotations.FAULT: fault})
    found = felixconfig.read(store, "node-1", "v3.26.1")
    assert (found.bpf, found.kube_proxy_serves) == (bpf, kube_proxy)
    assert found.removes_rules


@pytest.mark.parametrize(
    ("fields", "removes"),
    [
        ({"bpfEnabled": True}, True),
        ({"bpfEnabled": True, "bpfKubeProxyIptablesCleanupEnabled": True}, True),
        ({"bpfEnabled": True, "bpfKubeProxyIptablesCleanupEnabled": False}, False),
        ({"bpfEnabled": False, "bpfKubeProxyIptablesCleanupEnabled": False}, True),
    ],
)
def test_rules_stay_only_where_felix_is_told_to_leave_them(
    fields: dict[str, Any], removes: bool
) -> None:
    store = _store()
    store.patch("felixconfigurations", "default", {"spec": fields})
    assert felixconfig.read(store, "node-1", "v3.26.1").removes_rules is removes


def test_what_felix_has_applied_is_told_from_what_it_would_now_read(tmp_path: Path) -> None:
    store = _store()
    assert felixconfig.applied(tmp_path) == ""
    first = felixconfig.read(store, "node-1", "v3.26.1")
    first.leave(tmp_path)
    assert felixconfig.applied(tmp_path) == first.text
    store.patch("felixconfigurations", "default", {"spec": {"vxlanEnabled": True}})
    between = felixconfig.read(store, "node-1", "v3.26.1")
    between.leave(tmp_path)
    assert felixconfig.applied(tmp_path) == between.text != first.text
    annotations = {"metadata": {"annotations": {own_annotations.FAULT: own_annotations.NEITHER}}}
    store.patch("nodes", "node-1", annotations)
    assert felixconfig.read(store, "node-1", "v3.26.1").text != between.text


# ------------------------------------------------------------------------------- the words


@pytest.mark.parametrize("version", ["v3.16.1", "v3.20.0"])
def test_tc_says_nothing_of_a_program_that_was_refused(version: str) -> None:
    assert felixlog.rejected(version) == []


@pytest.mark.parametrize("version", ["v3.21.0", "v3.26.1", "v3.32.1"])
def test_libbpf_says_that_a_program_was_refused(version: str) -> None:
    text = "\n".join(felixlog.rejected(version))
    assert "-- BEGIN PROG LOAD LOG --" in text
    assert "-- END PROG LOAD LOG --" in text
    assert text.endswith("failed to load: -13")


def test_an_endpoint_that_is_left_dirty_is_named_in_a_warning() -> None:
    level, file, number, message = felixlog.left_dirty("cali0123456789a", "v3.26.1")
    (found,) = parse(felixlog.line(level, 101, file, number, message))
    assert found.level == "WARNING"
    assert "Failed to apply policy to endpoint, leaving it dirty" in found.message
    assert 'name="cali0123456789a"' in message


# -------------------------------------------------------------------------------- the rest


def test_the_rules_come_back_only_after_they_were_seen_to_be_gone() -> None:
    text = "\n".join(services.proxy_script("/run/x/rules"))
    guarded = text[text.index("if ! iptables-save") : text.index("fi")]
    assert "iptables-restore --noflush --wait <'/run/x/rules'" in guarded
    assert text.count("iptables-restore") == 1


def test_a_slice_changes_with_every_turn() -> None:
    turns = [churn.endpoints(turn) for turn in range(40)]
    assert all(one != next_ for one, next_ in itertools.pairwise(turns))
    every = {each["addresses"][0] for turn in turns for each in turn}
    network = ipaddress.IPv4Network("203.0.113.0/24")
    assert len(every) == 20
    assert all(ipaddress.IPv4Address(address) in network for address in every)


def test_a_config_map_holds_texts() -> None:
    kept = schema.schema_of("configmaps", 26)["properties"]
    assert kept["data"] == {"type": "object", "additionalProperties": {"type": "string"}}
    assert "spec" not in kept
