"""Services in the lab: what the API makes of them, who is behind them, kube-proxy's rules."""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ebpfperf.lab import conntrack, tables
from ebpfperf.lab.admission import Admission
from ebpfperf.lab.endpoint_controller import EndpointController
from ebpfperf.lab.endpoints import endpoints_of, slice_name, slice_of
from ebpfperf.lab.kuberules import chain_name, restore_text, rules_of
from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.protobuf import read_object
from ebpfperf.lab.resources import CORE, DISCOVERY, RESOURCES
from ebpfperf.lab.services import NODE_PORTS, SERVICE_CIDR, Backend, ServicePort, service_ports
from ebpfperf.lab.status import Invalid
from ebpfperf.lab.strategic import strategic_merge

Object = dict[str, Any]
PODS = "198.19.0.0/16"


@pytest.fixture
def store() -> ObjectStore:
    store = ObjectStore()
    store.create("namespaces", {"metadata": {"name": "default"}})
    store.create("namespaces", {"metadata": {"name": "other"}})
    return store


def admission(store: ObjectStore) -> Admission:
    return Admission(RESOURCES["services"], CORE, minor=26, services=lambda: store.list("services"))


def create(store: ObjectStore, name: str, namespace: str = "default", **spec: Any) -> Object:
    spec.setdefault("ports", [{"port": 80}])
    obj = {"metadata": {"name": name, "namespace": namespace}, "spec": spec}
    return store.create("services", obj, admit=admission(store))


def patch(store: ObjectStore, name: str, **spec: Any) -> Object:
    return store.patch(
        "services", name, {"spec": spec}, namespace="default", admit=admission(store)
    )


def causes(store: ObjectStore, **spec: Any) -> dict[str, str]:
    with pytest.raises(Invalid) as error:
        create(store, "x", **spec)
    return {field: message for field, _, message in error.value.causes}


# -- admission -----------------------------------------------------------------------------------


def test_a_created_service_has_what_kubernetes_fills_in(store: ObjectStore) -> None:
    made = create(store, "web", sessionAffinity="ClientIP", ports=[{"port": 80}])
    spec = made["spec"]
    assert ipaddress.ip_address(spec["clusterIP"]) in ipaddress.ip_network(SERVICE_CIDR)
    assert spec == {
        "type": "ClusterIP",
        "clusterIP": spec["clusterIP"],
        "clusterIPs": [spec["clusterIP"]],
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
    }
    assert made["status"] == {"loadBalancer": {}}


def test_addresses_and_node_ports_are_never_given_twice(store: ObjectStore) -> None:
    made = [create(store, f"s{n}", type="NodePort")["spec"] for n in range(97)]
    made += [create(store, f"s{n}", "other", type="LoadBalancer")["spec"] for n in range(31)]
    assert len({spec["clusterIP"] for spec in made}) == 128
    ports = {spec["ports"][0]["nodePort"] for spec in made}
    assert len(ports) == 128
    assert ports <= set(NODE_PORTS)


def test_what_a_deleted_service_had_is_free_again(store: ObjectStore) -> None:
    wish: Object = {"type": "NodePort", "clusterIP": "198.18.240.10"}
    wish |= {"ports": [{"port": 80, "nodePort": 30001}]}
    create(store, "first", **wish)
    found = causes(store, **wish)
    assert "provided IP is already allocated" in found["spec.clusterIPs"]
    assert "provided port is already allocated" in found["spec.ports[0].nodePort"]
    store.delete("services", "first", "default")
    assert create(store, "second", **wish)["spec"]["clusterIP"] == "198.18.240.10"


def test_the_last_free_node_port_is_found_and_then_there_is_none(store: ObjectStore) -> None:
    numbers = [number for number in NODE_PORTS if number != 31337]
    ports = [{"name": f"p{n}", "port": n, "nodePort": n} for n in numbers]
    create(store, "greedy", type="NodePort", ports=ports)
    (port,) = create(store, "last", type="NodePort")["spec"]["ports"]
    assert port["nodePort"] == 31337
    assert "range is full" in causes(store, type="NodePort")["spec.ports[0].nodePort"]


def test_one_number_with_two_protocols_gets_one_node_port(store: ObjectStore) -> None:
    ports = [{"name": p.lower(), "port": 53, "protocol": p} for p in ("TCP", "UDP")]
    spec = create(store, "dns", type="NodePort", ports=ports)["spec"]
    assert len({port["nodePort"] for port in spec["ports"]}) == 1


@pytest.mark.parametrize("address", ["10.0.0.1", "198.18.240.0", "198.18.255.255", "one"])
def test_an_address_of_no_use_is_refused(store: ObjectStore, address: str) -> None:
    message = causes(store, clusterIP=address)["spec.clusterIPs"]
    assert f"The range of valid IPs is {SERVICE_CIDR}" in message


@pytest.mark.parametrize("number", [80, 29999, 32768])
def test_a_node_port_outside_the_range_is_refused(store: ObjectStore, number: int) -> None:
    ports = [{"port": 80, "nodePort": number}]
    message = causes(store, type="NodePort", ports=ports)["spec.ports[0].nodePort"]
    assert message.endswith("The range of valid ports is 30000-32767")


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        ({"ports": []}, "spec.ports", "Required value"),
        ({"ports": [{"port": 0, "targetPort": 1}]}, "spec.ports[0].port", "between 1 and 65535"),
        (
            {"ports": [{"port": 65536, "targetPort": 1}]},
            "spec.ports[0].port",
            "between 1 and 65535",
        ),
        ({"ports": [{"port": "80"}]}, "spec.ports[0].port", "of type integer"),
        (
            {"ports": [{"port": 80, "targetPort": 65536}]},
            "spec.ports[0].targetPort",
            "between 1 and 65535",
        ),
        (
            {"ports": [{"port": 80, "targetPort": "http"}]},
            "spec.ports[0].targetPort",
            "must be a number",
        ),
        ({"ports": [{"port": 80}, {"port": 81, "name": "b"}]}, "spec.ports[0].name", "Required"),
        (
            {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]},
            "spec.ports[1].name",
            'Duplicate value: "a"',
        ),
        (
            {"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]},
            "spec.ports[1]",
            "Duplicate value",
        ),
        (
            {
                "type": "NodePort",
                "ports": [
                    {"port": 80, "name": "a", "nodePort": 30001},
                    {"port": 81, "name": "b", "nodePort": 30001},
                ],
            },
            "spec.ports[1].nodePort",
            "Duplicate value: 30001",
        ),
        ({"ports": [{"port": 80, "protocol": "SCTP"}]}, "spec.ports[0].protocol", '"TCP", "UDP"'),
        ({"ports": [{"port": 80, "nodePort": 30001}]}, "spec.ports[0].nodePort", "may not be used"),
        ({"type": "NodePort", "clusterIP": "None"}, "spec.clusterIPs[0]", "may not be set to"),
        ({"type": "ExternalName"}, "spec.type", '"ClusterIP", "LoadBalancer", "NodePort"'),
        ({"externalTrafficPolicy": "Local"}, "spec.externalTrafficPolicy", "may not be used"),
        ({"externalIPs": ["198.18.0.9"]}, "spec.externalIPs", "does not serve"),
        (
            {
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}},
            },
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            "less than 86401",
        ),
    ],
)
def test_what_is_wrong_is_named(store: ObjectStore, spec: Object, field: str, message: str) -> None:
    found = causes(store, **spec)
    assert list(found) == [field]
    assert message in found[field]


def test_a_name_that_begins_with_a_digit_is_none(store: ObjectStore) -> None:
    with pytest.raises(Invalid, match=r"metadata\.name"):
        create(store, "1st")


def test_a_write_keeps_what_it_does_not_repeat(store: ObjectStore) -> None:
    before = create(store, "web", type="NodePort")["spec"]
    ports = [{"port": 80, "name": "a"}, {"port": 443, "name": "b"}]
    obj = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "NodePort", "ports": ports},
    }
    after = store.replace("services", obj, admit=admission(store))["spec"]
    assert after["clusterIP"] == before["clusterIP"]
    assert after["ports"][0]["nodePort"] == before["ports"][0]["nodePort"]
    assert after["ports"][1]["nodePort"] not in (None, before["ports"][0]["nodePort"])


def test_an_address_cannot_change_and_a_type_can(store: ObjectStore) -> None:
    made = create(store, "web", type="NodePort", externalTrafficPolicy="Local")
    with pytest.raises(Invalid, match="may not change once set"):
        patch(store, "web", clusterIP="198.18.240.77")
    with pytest.raises(Invalid, match="may not change once set"):
        patch(store, "web", clusterIP="None", type="ClusterIP")
    inside = patch(store, "web", type="ClusterIP")["spec"]
    assert "nodePort" not in inside["ports"][0]
    assert "externalTrafficPolicy" not in inside
    assert inside["clusterIP"] == made["spec"]["clusterIP"]
    assert patch(store, "web", type="NodePort")["spec"]["ports"][0]["nodePort"] in NODE_PORTS


def test_a_write_that_changes_nothing_changes_nothing(store: ObjectStore) -> None:
    create(store, "web", type="NodePort")
    version = store.version
    patch(store, "web", type="NodePort", ports=[{"port": 80}])
    assert store.version == version


def test_affinity_that_is_switched_off_takes_its_time_along(store: ObjectStore) -> None:
    create(store, "web", sessionAffinity="ClientIP")
    spec = patch(store, "web", sessionAffinity="None")["spec"]
    assert "sessionAffinityConfig" not in spec


def test_ports_of_a_service_merge_by_port_and_those_of_a_slice_do_not() -> None:
    old = {"kind": "Service", "spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81}]}}
    merged = strategic_merge(old, {"spec": {"ports": [{"port": 80, "nodePort": 30001}]}})
    assert merged["spec"]["ports"] == [{"port": 80, "name": "a", "nodePort": 30001}, {"port": 81}]
    gone = strategic_merge(old, {"spec": {"ports": [{"port": 81, "$patch": "delete"}]}})
    assert gone["spec"]["ports"] == [{"port": 80, "name": "a"}]
    found = {"kind": "EndpointSlice", "ports": [{"port": 80}]}
    assert strategic_merge(found, {"ports": [{"port": 81}]})["ports"] == [{"port": 81}]


def test_a_slice_needs_an_address_type_and_addresses() -> None:
    admit = Admission(RESOURCES["endpointslices"], DISCOVERY, minor=26)
    with pytest.raises(Invalid) as error:
        admit({"metadata": {"name": "x"}, "endpoints": [{"nodeName": "node-1"}]}, None)
    fields = {field for field, _, _ in error.value.causes}
    assert fields == {"addressType", "endpoints[0].addresses"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"endpoints": [{"addresses": []}]}, "endpoints[0].addresses"),
        ({"endpoints": [{"addresses": ["198.19.0.1", "x"]}]}, "endpoints[0].addresses[1]"),
        ({"addressType": "IPv6"}, "endpoints[0].addresses[0]"),
        ({"ports": [{"port": 65536}]}, "ports[0].port"),
    ],
)
def test_a_slice_that_no_node_could_serve_is_refused(change: Object, field: str) -> None:
    admit = Admission(RESOURCES["endpointslices"], DISCOVERY, minor=26)
    fine = {
        "metadata": {"name": "x"},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["198.19.0.1"]}],
        "ports": [{"port": 65535}],
    }
    assert admit(fine, None) == fine
    with pytest.raises(Invalid) as error:
        admit(fine | change, None)
    assert [found for found, _, _ in error.value.causes] == [field]


def test_a_service_in_kubectls_protobuf_is_read() -> None:
    def field(number: int, value: bytes | int) -> bytes:
        if isinstance(value, int):
            low = bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
            return bytes((number << 3,)) + low
        return bytes((number << 3 | 2, len(value))) + value

    target = field(1, 1) + field(3, b"http")
    port = field(1, b"80-8080") + field(2, b"UDP") + field(3, 80) + field(5, 30080)
    spec = field(1, port + field(4, field(1, 0) + field(2, 8080)))
    spec += field(1, field(1, b"named") + field(3, 81) + field(4, target))
    spec += field(2, field(1, b"app") + field(2, b"web")) + field(4, b"NodePort")
    service = field(1, field(1, b"web")) + field(2, spec)
    types = field(1, b"v1") + field(2, b"Service")
    read = read_object(b"k8s\x00" + field(1, types) + field(2, service))
    numbered = {"name": "80-8080", "protocol": "UDP", "port": 80, "nodePort": 30080}
    assert read["spec"] == {
        "type": "NodePort",
        "selector": {"app": "web"},
        "ports": [
            numbered | {"targetPort": 8080},
            {"name": "named", "port": 81, "targetPort": "http"},
        ],
    }


# -- who is behind a service -----------------------------------------------------------------------


def pod(
    name: str, address: str = "", node: str = "node-1", *, ready: bool = True, **labels: str
) -> Object:
    status: Object = {"phase": "Running"}
    if address:
        status["podIP"] = address
    status["conditions"] = [{"type": "Ready", "status": str(ready)}]
    return {
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": labels},
        "spec": {"nodeName": node, "containers": []},
        "status": status,
    }


def service(**spec: Any) -> Object:
    ports = [{"name": "web", "port": 80, "targetPort": 8080, "protocol": "TCP"}]
    meta = {"name": "s", "namespace": "default", "uid": "1"}
    return {"metadata": meta, "spec": {"selector": {"app": "web"}, "ports": ports} | spec}


def test_a_slice_has_the_selected_pods_and_whether_each_is_ready() -> None:
    going = pod("going", "198.19.0.9", app="web")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    done = pod("done", "198.19.0.8", app="web")
    done["status"]["phase"] = "Succeeded"
    elsewhere = pod("elsewhere", "198.19.0.7", app="web")
    elsewhere["metadata"]["namespace"] = "other"
    pods = [
        pod("ten", "198.19.0.10", app="web", tier="x"),
        pod("two", "198.19.0.2", "node-2", ready=False, app="web"),
        pod("waiting", app="web"),
        pod("another", "198.19.0.3", app="db"),
        going,
        done,
        elsewhere,
    ]
    made = slice_of(service(), pods)
    found = [(e["addresses"], e["conditions"]["ready"], e["nodeName"]) for e in made["endpoints"]]
    assert found == [(["198.19.0.2"], False, "node-2"), (["198.19.0.10"], True, "node-1")]
    assert made["ports"] == [{"name": "web", "port": 8080, "protocol": "TCP"}]
    (subset,) = endpoints_of(service(), pods)["subsets"]
    assert [a["ip"] for a in subset["addresses"]] == ["198.19.0.10"]
    assert [a["ip"] for a in subset["notReadyAddresses"]] == ["198.19.0.2"]
    early = slice_of(service(publishNotReadyAddresses=True), pods)
    assert all(e["conditions"]["ready"] for e in early["endpoints"])


def test_a_successor_of_a_service_has_a_slice_of_its_own() -> None:
    successor = service()
    successor["metadata"]["uid"] = "2"
    assert slice_name(service()) != slice_name(successor)


@pytest.fixture
def controlled(store: ObjectStore) -> Iterator[ObjectStore]:
    controller = EndpointController(store)
    controller.start()
    yield store
    controller.stop()


def settled(store: ObjectStore, wanted: Sequence[Backend], service: str = "web") -> None:
    """Wait until the service's only port has these backends."""
    deadline = time.monotonic() + 10
    while True:
        (port,) = [p for p in service_ports(store) if p.name == f"default/{service}"]
        if port.backends == tuple(wanted):
            return
        assert time.monotonic() < deadline, port
        time.sleep(0.01)


def test_backends_follow_the_pods(controlled: ObjectStore) -> None:
    store = controlled
    create(store, "web", selector={"app": "web"}, ports=[{"port": 80, "targetPort": 8080}])
    settled(store, [])
    store.create("pods", pod("b", "198.19.0.2", app="web"))
    store.create("pods", pod("a", "198.19.0.1", "node-2", app="web"))
    both = [Backend("198.19.0.1", 8080, "node-2"), Backend("198.19.0.2", 8080, "node-1")]
    settled(store, both)
    store.update_status("pods", "a", pod("a", "198.19.0.1", ready=False)["status"], "default")
    settled(store, both[1:])
    # Bound to a node, so it stays until its kubelet lets go; it is no backend from now on.
    store.delete("pods", "b", "default")
    settled(store, [])
    assert store.get("pods", "b", "default")["metadata"]["deletionTimestamp"]


def test_what_the_controller_wrote_goes_with_the_service_and_nothing_else(
    controlled: ObjectStore,
) -> None:
    store = controlled
    mine = {"name": "mine", "labels": {"kubernetes.io/service-name": "web"}}
    store.create("endpointslices", {"metadata": mine, "addressType": "IPv4", "endpoints": []})
    create(store, "web", selector={"app": "web"})
    store.create("pods", pod("a", "198.19.0.1", app="web"))
    settled(store, [Backend("198.19.0.1", 80, "node-1")])
    # It writes the slice first.
    deadline = time.monotonic() + 10
    while not any(each.get("subsets") for each in store.list("endpoints")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    version = store.version
    time.sleep(0.2)
    assert store.version == version, "a controller that is done comes to rest"
    store.delete("services", "web", "default")
    deadline = time.monotonic() + 10
    while store.list("endpoints") or len(store.list("endpointslices")) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [s["metadata"]["name"] for s in store.list("endpointslices")] == ["mine"]


def test_what_a_node_serves_is_read_from_services_and_slices(store: ObjectStore) -> None:
    ports = [
        {"name": "t", "port": 80, "targetPort": 8080},
        {"name": "u", "port": 80, "protocol": "UDP"},
    ]
    made = create(
        store,
        "web",
        type="NodePort",
        ports=ports,
        sessionAffinity="ClientIP",
        externalTrafficPolicy="Local",
    )["spec"]
    create(store, "headless", clusterIP="None")
    labels = {"kubernetes.io/service-name": "web"}
    for name, kind, addresses in (
        ("one", "IPv4", ["198.19.0.2", "198.19.0.1"]),
        ("again", "IPv4", ["198.19.0.1"]),
        ("six", "IPv6", ["fd00::1"]),
    ):
        endpoints: list[Object] = [{"addresses": [a], "nodeName": "node-1"} for a in addresses]
        endpoints.append({"addresses": ["198.19.0.99"], "conditions": {"ready": False}})
        store.create(
            "endpointslices",
            {
                "metadata": {"name": name, "labels": labels},
                "addressType": kind,
                "endpoints": endpoints,
                "ports": [{"name": "t", "port": 8080, "protocol": "TCP"}],
            },
        )
    first, second = service_ports(store)
    assert first == ServicePort(
        name="default/web:t",
        cluster_ip=made["clusterIP"],
        protocol="TCP",
        port=80,
        node_port=made["ports"][0]["nodePort"],
        affinity_s=10800,
        external_local=True,
        internal_local=False,
        backends=(Backend("198.19.0.1", 8080, "node-1"), Backend("198.19.0.2", 8080, "node-1")),
    )
    assert (second.name, second.protocol, second.backends) == ("default/web:u", "UDP", ())


def test_tables_show_what_kubectl_shows() -> None:
    service = {
        "metadata": {"name": "web"},
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": "198.18.240.1",
            "selector": {"b": "2", "a": "1"},
            "ports": [{"port": 80, "nodePort": 30001, "protocol": "UDP"}, {"port": 443}],
        },
    }
    found = tables.table("services", [service], version="1", include="None")["rows"][0]["cells"]
    assert found[1:5] == ["LoadBalancer", "198.18.240.1", "<pending>", "80:30001/UDP,443/TCP"]
    assert found[6] == "a=1,b=2"
    endpoints = [{"addresses": [f"198.19.0.{n}"]} for n in range(5)]
    made = {"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": endpoints, "ports": []}
    cells = tables.table("endpointslices", [made], version="1", include="None")["rows"][0]["cells"]
    assert cells[2] == "<unset>"
    assert cells[3] == "198.19.0.0,198.19.0.1,198.19.0.2 + 2 more..."


# -- kube-proxy's rules ----------------------------------------------------------------------------


HERE, THERE = Backend("198.19.0.1", 8080, "node-1"), Backend("198.19.0.65", 8080, "node-2")
THIRD = Backend("198.19.0.66", 8080, "node-2")


def port(*backends: Backend, **changes: Any) -> ServicePort:
    values: Object = {
        "name": "default/web",
        "cluster_ip": "198.18.240.1",
        "protocol": "TCP",
        "port": 80,
        "node_port": 30080,
        "affinity_s": 0,
        "external_local": False,
        "internal_local": False,
        "backends": backends,
    }
    return ServicePort(**(values | changes))


def rules(*ports: ServicePort) -> dict[str, list[str]]:
    """Chain (``nat/KUBE-SVC``: of hashed names without the hash) → its rules, names likewise."""
    found: dict[str, list[str]] = {}
    for table, part in rules_of(ports, "node-1", cluster_cidr=PODS).items():
        for rule in part.rules:
            chain, _, rest = re.sub(r"(KUBE-(?:SVC|SVL|EXT|SEP))-\w{16}", r"\1", rule).partition(
                " "
            )
            found.setdefault(f"{table}/{chain}", []).append(rest)
    return found


@pytest.mark.parametrize(
    ("name", "protocol", "chain"),
    [
        ("default/kubernetes:https", "tcp", "KUBE-SVC-NPX46M4PTMTKRN6Y"),
        ("kube-system/kube-dns:dns", "udp", "KUBE-SVC-TCOU7JCQXEZGVUNU"),
        ("kube-system/kube-dns:dns-tcp", "tcp", "KUBE-SVC-ERIFXISQEP7F7OF4"),
    ],
)
def test_chains_have_the_names_that_every_cluster_shows(
    name: str, protocol: str, chain: str
) -> None:
    assert chain_name("KUBE-SVC-", name, protocol) == chain


def test_each_backend_has_the_same_chance() -> None:
    chosen = rules(port(HERE, THERE, THIRD))["nat/KUBE-SVC"]
    left, shares = 1.0, []
    for rule in chosen[1:]:
        match = re.search(r"--probability (\S+)", rule)
        chance = float(match[1]) if match else 1.0
        shares.append(left * chance)
        left *= 1 - chance
    assert shares == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert left == 0


def test_affinity_is_looked_up_first_and_noted_last() -> None:
    found = rules(port(HERE, THERE, affinity_s=10800))
    looks = [" -m recent " in f" {rule}" for rule in found["nat/KUBE-SVC"]]
    assert looks == [False, True, True, False, False]
    assert all("--rcheck --seconds 10800 --reap" in r for r in found["nat/KUBE-SVC"][1:3])
    notes = [rule for rule in found["nat/KUBE-SEP"] if "DNAT" in rule]
    assert len(notes) == 2
    assert all("--set" in rule for rule in notes)


def test_traffic_from_outside_is_masqueraded_unless_local() -> None:
    assert rules(port(HERE, THERE))["nat/KUBE-EXT"] == ["-j KUBE-MARK-MASQ", "-j KUBE-SVC"]
    local = rules(port(HERE, THERE, external_local=True))
    assert local["nat/KUBE-EXT"] == [
        f"-s {PODS} -j KUBE-SVC",
        "-m addrtype --src-type LOCAL -j KUBE-MARK-MASQ",
        "-m addrtype --src-type LOCAL -j KUBE-SVC",
        "-j KUBE-SVL",
    ]
    assert local["nat/KUBE-SVL"] == ["-j KUBE-SEP"]


def test_what_nobody_serves_is_refused_and_what_nobody_here_serves_is_dropped() -> None:
    nobody = rules(port())
    assert nobody["filter/KUBE-SERVICES"][0].endswith(
        "-d 198.18.240.1/32 -p tcp -m tcp --dport 80 -j REJECT"
    )
    assert nobody["filter/KUBE-EXTERNAL-SERVICES"][0].endswith("--dport 30080 -j REJECT")
    assert "nat/KUBE-SVC" not in nobody
    away = rules(port(THERE, external_local=True, internal_local=True))
    assert [r[-7:] for r in away["filter/KUBE-SERVICES"]] == ["-j DROP"]
    assert [r[-7:] for r in away["filter/KUBE-EXTERNAL-SERVICES"]] == ["-j DROP"]
    assert not any("--dport 80 " in rule for rule in away["nat/KUBE-SERVICES"])
    served = rules(port(HERE))
    assert "filter/KUBE-SERVICES" not in served
    assert "filter/KUBE-EXTERNAL-SERVICES" not in served


@pytest.mark.parametrize("backends", [(), (HERE,), (THERE,), (HERE, THERE)])
@pytest.mark.parametrize("external", [True, False])
@pytest.mark.parametrize("internal", [True, False])
@pytest.mark.parametrize("node_port", [None, 30080])
def test_no_rule_leads_to_a_chain_that_is_not_there_and_no_chain_is_idle(
    backends: tuple[Backend, ...], external: bool, internal: bool, node_port: int | None
) -> None:
    one = port(*backends, external_local=external, internal_local=internal, node_port=node_port)
    for table in rules_of([one], "node-1", cluster_cidr=PODS).values():
        lines = [*table.jumps, *table.rules]
        reached = set(re.findall(r"-j (KUBE-\S+)", "\n".join(lines)))
        assert len(set(table.chains)) == len(table.chains)
        assert {rule.split()[0] for rule in table.rules} <= set(table.chains)
        assert reached <= set(table.chains)
        own = {chain for chain in table.chains if re.search(r"-\w{16}$", chain)}
        assert own <= reached


def test_a_restore_leads_from_what_is_saved_and_touches_nothing_else() -> None:
    wanted = rules_of([port(HERE)], "node-1", cluster_cidr=PODS)
    saved = (
        "*nat\n:PREROUTING ACCEPT [0:0]\n:MINE - [0:0]\n:KUBE-SVC-OLD - [3:180]\n"
        '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES\n'
        "-A PREROUTING -j MINE\n-A KUBE-SVC-OLD -j RETURN\nCOMMIT\n"
    )
    lines = restore_text(wanted, saved).splitlines()
    nat = lines[lines.index("*nat") :]
    assert ":KUBE-SVC-OLD - [0:0]" in nat
    assert nat[-2:] == ["-X KUBE-SVC-OLD", "COMMIT"]
    gone = [line for line in nat if line.startswith("-D ")]
    assert gone == ['-D PREROUTING -m comment --comment "kubernetes service portals" '
                    "-j KUBE-SERVICES"]  # fmt: skip
    assert not any("MINE" in line for line in nat)
    assert nat.index(gone[0]) < min(i for i, line in enumerate(nat) if line.startswith("-I "))


def test_a_connection_of_the_kernels_is_read() -> None:
    # Recorded on 6.18: 127.0.0.1:4001 sent to 127.0.0.5:4003, and was sent on to 127.0.0.1:4002.
    recorded = bytes.fromhex(
        "a400000000012200000000006f2d0000020000003400018014000180080001007f00000108000200"
        "7f0000051c0002800500010011000000060002000fa10000060003000fa300003400028014000180"
        "080001007f000001080002007f0000011c0002800500010011000000060002000fa2000006000300"
        "0fa1000008000300000001a8080008000000000008000c004fa325bb08000b000000000108000700"
        "0000001d"
    )
    end = bytes.fromhex("1400000003000200000000006f2d000000000000")
    (entry,) = conntrack.entries(recorded + end)
    assert (entry.protocol, entry.destination, entry.answers) == (
        17,
        "127.0.0.5:4003",
        "127.0.0.1:4002",
    )
    assert entry.original in recorded


def test_nothing_wanted_and_nothing_there_is_nothing_to_do() -> None:
    assert restore_text({}, "") == ""
    assert restore_text({}, "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j MINE\nCOMMIT\n") == ""
