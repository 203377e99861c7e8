"""Services in the lab: ClusterIPs and node ports that answer, stick, refuse and let go."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab.namespaces import LIMIT_S, eventually, pause, restart_after, socket_in

from ebpfperf.kube import Kube
from ebpfperf.lab import lifecycle
from ebpfperf.lab.kubeproxy import KubeProxy
from ebpfperf.lab.nodes import LabNode
from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.running import Lab
from ebpfperf.lab.state import Shape

pytestmark = pytest.mark.lab

KUBECTL = os.environ.get("EBPFPERF_KUBECTL") or shutil.which("kubectl")
PORT, TARGET = 80, 8080
PRIME = 101
MODES = {
    "none": {"ipipMode": "Never", "vxlanMode": "Never"},
    "ipip": {"ipipMode": "Always", "vxlanMode": "Never"},
    "vxlan": {"ipipMode": "Never", "vxlanMode": "Always"},
}


@dataclass(frozen=True)
class Pod:
    name: str
    address: str
    pid: int


class Cluster:
    """A lab through kubectl, as its users have it."""

    def __init__(self, lab: Lab, home: Path) -> None:
        self.lab = lab
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "KUBECONFIG": str(lab.kubeconfig),
        }
        with contextlib.closing(Kube.connect(str(lab.kubeconfig))) as kube:
            restart_after(kube, lab)

    def kubectl(self, *argv: str, document: Any = None) -> subprocess.CompletedProcess[str]:
        assert KUBECTL is not None
        return subprocess.run(
            [KUBECTL, *argv],
            input=json.dumps(document),
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def do(self, *argv: str, document: Any = None) -> str:
        done = self.kubectl(*argv, document=document)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, *argv: str) -> Any:
        return json.loads(self.do("get", *argv, "-o", "json"))

    def service(self, name: str, **spec: Any) -> Service:
        """A NodePort service for TCP and UDP."""
        ports = [
            {"name": protocol.lower(), "protocol": protocol, "port": PORT, "targetPort": TARGET}
            for protocol in ("TCP", "UDP")
        ]
        body = {"type": "NodePort", "selector": {"behind": name}, "ports": ports} | spec
        document = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": body,
        }
        self.do("apply", "-f", "-", document=document)
        got = self.get("service", name)["spec"]
        return Service(name, got["clusterIP"], got["ports"][0]["nodePort"])

    def pod(self, name: str, node: str, **labels: str) -> Pod:
        document = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": "pause"}],
            },
        }
        self.do("apply", "-f", "-", document=document)
        self.do("wait", "pod", name, "--for", "condition=Ready", "--timeout", f"{LIMIT_S:g}s")
        got = self.get("pod", name)
        for other in self.lab.nodes:
            # Its block may be new, and then every node's Felix has to hear of it.
            way = ["ip", "-j", "route", "show", "match", got["status"]["podIP"]]
            eventually("a way to it", lambda n=other, w=way: json.loads(n.run(w)))
        holder = self.lab.node(node)
        return Pod(name, got["status"]["podIP"], pause(holder, got["metadata"]["uid"]))

    def rules(self, node: str) -> str:
        return self.lab.node(node).run(["iptables-save"])

    def wait_for(self, service: Service, *backends: Pod) -> None:
        """Until both nodes have exactly these backends of the service."""
        wanted = {f"{pod.address}:{TARGET}" for pod in backends}

        def there() -> bool:
            return all(self.backends(node, service) == wanted for node in ("node-1", "node-2"))

        eventually(f"{service.name} has {wanted}", there)

    def backends(self, node: str, service: Service) -> set[str]:
        rules = self.rules(node)
        assert "*nat" in rules
        lines = [line.split() for line in rules.splitlines() if line.startswith("-A ")]
        entry = {line[-1] for line in lines if service.address + "/32" in line and "-j" in line}
        chains = {line[-1] for line in lines if line[1] in entry}
        return {line[-1] for line in lines if line[1] in chains and "--to-destination" in line}


@dataclass(frozen=True)
class Service:
    name: str
    address: str
    node_port: int


class Backend:
    """Answers in a pod, by TCP and UDP, with the pod's name and the client's address."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.datagrams = 0
        self.clients: list[str] = []
        self._sockets = [
            socket_in(pod.pid, socket.AF_INET, kind)
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        ]
        for each in self._sockets:
            each.bind(("0.0.0.0", TARGET))
            each.settimeout(0.1)
        self._sockets[0].listen(64)
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=serve, daemon=True)
            for serve in (self._streams, self._datagrams)
        ]

    def __enter__(self) -> Backend:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _streams(self) -> None:
        while not self._stopped.is_set():
            # Who asked may be gone, or out of reach: that is for who asked to say.
            with contextlib.suppress(OSError):
                connection, (address, _) = self._sockets[0].accept()
                self.clients.append(address)
                with connection:
                    connection.sendall(self.pod.name.encode())

    def _datagrams(self) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(OSError):
                data, client = self._sockets[1].recvfrom(2048)
                self.datagrams += 1
                self._sockets[1].sendto(data + self.pod.name.encode(), client)


def asked(pid: int, address: str, port: int, *, timeout_s: float = LIMIT_S) -> str:
    """What a connection from the process's network is told."""
    with socket_in(pid, socket.AF_INET, socket.SOCK_STREAM) as stream:
        stream.settimeout(timeout_s)
        stream.connect((address, port))
        with stream.makefile() as answer:
            return str(answer.read())


def exchanged(pid: int, address: str, port: int, count: int) -> list[str]:
    """The answers to ``count`` datagrams of one socket, each awaited."""
    answers = []
    with socket_in(pid, socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.connect((address, port))
        for number in range(count):
            datagrams.send(f"{number} ".encode())
            answers.append(datagrams.recv(2048).decode())
    return answers


def refused(pid: int, address: str, port: int) -> bool:
    """Whether both protocols are refused, rather than left without an answer."""
    try:
        asked(pid, address, port)
    except ConnectionRefusedError:
        pass
    else:
        return False
    with socket_in(pid, socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.connect((address, port))
        datagrams.settimeout(1.0)
        # The kernel sends so many errors a second and no more, and nobody asks again by UDP.
        for _ in range(20):
            try:
                datagrams.send(b"?")
                datagrams.recv(2048)
            except TimeoutError:
                continue
            except ConnectionRefusedError:
                return True
            return False
    return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if KUBECTL is None:
        pytest.skip("missing: kubectl (Debian package kubernetes-client)")
    name = f"svc{os.getpid()}"
    try:
        yield Cluster(lifecycle.up(Shape(name))[0], tmp_path_factory.mktemp("home"))
    finally:
        lifecycle.down(name)


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Pod:
    return cluster.pod("client", "node-1")


@pytest.fixture
def one(cluster: Cluster) -> Iterator[tuple[Service, Backend]]:
    """A service with its only backend on node-2."""
    service = cluster.service("one")
    pod = cluster.pod("one-2", "node-2", behind="one")
    cluster.wait_for(service, pod)
    with Backend(pod) as backend:
        yield service, backend
    cluster.do("delete", "service/one", "pod/one-2", "--ignore-not-found")


@pytest.fixture(scope="module")
def two(cluster: Cluster) -> Iterator[tuple[Backend, Backend]]:
    """A backend on each node, for services that select ``behind: two``."""
    pods = [cluster.pod(f"two-{n}", f"node-{n}", behind="two") for n in (1, 2)]
    with Backend(pods[0]) as first, Backend(pods[1]) as second:
        yield first, second


def test_a_cluster_ip_answers_pods_and_nodes(
    cluster: Cluster, client: Pod, one: tuple[Service, Backend]
) -> None:
    service, backend = one
    nodes = {node.name: node for node in cluster.lab.nodes}
    for pid in (client.pid, nodes["node-1"].holder_pid, nodes["node-2"].holder_pid):
        assert asked(pid, service.address, PORT) == "one-2"
    assert asked(backend.pod.pid, service.address, PORT) == "one-2", "a pod reaches itself"
    pod, first, second, itself = backend.clients
    assert pod == client.address, "a pod is seen as itself"
    assert first == nodes["node-1"].underlay_ip
    assert second == nodes["node-2"].underlay_ip
    assert itself == nodes["node-2"].underlay_ip


def test_every_datagram_to_a_cluster_ip_arrives_and_is_answered(
    client: Pod, one: tuple[Service, Backend]
) -> None:
    service, backend = one
    answers = exchanged(client.pid, service.address, PORT, PRIME)
    assert answers == [f"{number} one-2" for number in range(PRIME)]
    assert backend.datagrams == PRIME


@pytest.mark.parametrize("mode", list(MODES))
def test_a_node_port_answers_outside_through_either_node(
    cluster: Cluster, one: tuple[Service, Backend], mode: str
) -> None:
    service, backend = one
    outside = cluster.lab.client
    patch = json.dumps({"spec": MODES[mode]})
    cluster.do("patch", "ippool", "default-ipv4-ippool", "--type", "merge", "-p", patch)
    tunnels = {"ipip": "tunl0", "vxlan": "vxlan.calico"}
    node_1, node_2 = cluster.lab.nodes
    # There, and back to the address that node-1 asks from: its tunnel's, where there is one.
    eventually("the way to the backend", lambda: ways(node_1) == {tunnels.get(mode, node_1.nic)})
    eventually("the way back", lambda: mode == "none" or ways(node_2) == {tunnels[mode]})
    for node in (node_1, node_2):
        before = backend.datagrams
        assert asked(outside.holder_pid, node.underlay_ip, service.node_port) == "one-2"
        # Whoever answers through another node must have been asked by that node.
        assert backend.clients.pop() != outside.underlay_ip
        answers = exchanged(outside.holder_pid, node.underlay_ip, service.node_port, PRIME)
        assert answers == [f"{number} one-2" for number in range(PRIME)]
        assert backend.datagrams == before + PRIME


def ways(node: LabNode) -> set[str]:
    """The devices by which a node leads to others' blocks of pods."""
    found = json.loads(node.run(["ip", "-j", "route", "show"]))
    return {route["dev"] for route in found if route["dst"].endswith("/26") and "dev" in route}


def test_local_keeps_the_address_of_the_outside_and_drops_where_there_is_no_backend(
    cluster: Cluster, client: Pod
) -> None:
    service = cluster.service("one", externalTrafficPolicy="Local")
    pod = cluster.pod("one-2", "node-2", behind="one")
    cluster.wait_for(service, pod)
    outside = cluster.lab.client
    node_1, node_2 = cluster.lab.nodes
    with Backend(pod) as backend:
        assert asked(outside.holder_pid, node_2.underlay_ip, service.node_port) == "one-2"
        assert backend.clients == [outside.underlay_ip]
        with pytest.raises(TimeoutError):
            asked(outside.holder_pid, node_1.underlay_ip, service.node_port, timeout_s=1.5)
        # Pods are not outside.
        assert asked(client.pid, node_1.underlay_ip, service.node_port) == "one-2"
        assert backend.clients == [outside.underlay_ip, client.address]
    cluster.do("delete", "service/one", "pod/one-2")


def test_what_has_no_backend_is_refused(cluster: Cluster, client: Pod) -> None:
    service = cluster.service("nobody")
    outside, node = cluster.lab.client, cluster.lab.nodes[0]
    eventually(
        "the rules", lambda: '"default/nobody:udp has no endpoints"' in cluster.rules("node-1")
    )
    assert refused(client.pid, service.address, PORT)
    with pytest.raises(ConnectionRefusedError):
        asked(node.holder_pid, service.address, PORT)
    assert refused(outside.holder_pid, node.underlay_ip, service.node_port)
    cluster.do("delete", "service", "nobody")
    eventually("no rules", lambda: "nobody" not in cluster.rules("node-1"))


def test_a_backend_that_goes_is_asked_no_more(
    cluster: Cluster, client: Pod, one: tuple[Service, Backend]
) -> None:
    service, _ = one
    assert asked(client.pid, service.address, PORT) == "one-2"
    cluster.do("delete", "pod", "one-2")
    # What is asked before would be sent to where nobody is, again and again.
    cluster.wait_for(service)
    assert refused(client.pid, service.address, PORT)
    # They are written after the slices, which the rules are made of.
    eventually("no endpoints", lambda: not cluster.get("endpoints", "one").get("subsets"))
    (found,) = cluster.get("endpointslices", "-l", "kubernetes.io/service-name=one")["items"]
    assert found["endpoints"] == []
    # One that comes instead is found.
    pod = cluster.pod("one-2", "node-1", behind="one")
    with Backend(pod):
        cluster.wait_for(service, pod)
        assert asked(client.pid, service.address, PORT) == "one-2"


def test_a_sender_that_goes_on_is_taken_to_the_new_backend(
    cluster: Cluster, client: Pod, one: tuple[Service, Backend]
) -> None:
    service, _ = one
    with socket_in(client.pid, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((service.address, PORT))
        sender.send(b"to ")
        assert sender.recv(2048) == b"to one-2"
        pod = cluster.pod("one-1", "node-1", behind="one")
        cluster.do("delete", "pod", "one-2")
        with Backend(pod):
            cluster.wait_for(service, pod)
            sender.settimeout(0.2)

            def answered() -> bytes:
                with contextlib.suppress(OSError):
                    sender.send(b"to ")
                    return sender.recv(2048)
                return b""

            assert eventually("an answer", answered) == b"to one-1"
    cluster.do("delete", "pod", "one-1")


def test_with_affinity_a_client_stays_with_its_backend(
    cluster: Cluster, client: Pod, two: tuple[Backend, Backend]
) -> None:
    service = cluster.service("sticky", selector={"behind": "two"}, sessionAffinity="ClientIP")
    cluster.wait_for(service, *(backend.pod for backend in two))
    outside, node = cluster.lab.client, cluster.lab.nodes[0]
    inside = Counter(asked(client.pid, service.address, PORT) for _ in range(31))
    assert list(inside.values()) == [31]
    external = Counter(
        asked(outside.holder_pid, node.underlay_ip, service.node_port) for _ in range(31)
    )
    assert list(external.values()) == [31]
    cluster.do("delete", "service", "sticky")


def test_without_affinity_both_backends_are_used(
    cluster: Cluster, client: Pod, two: tuple[Backend, Backend]
) -> None:
    service = cluster.service("any", selector={"behind": "two"})
    cluster.wait_for(service, *(backend.pod for backend in two))
    # That one backend gets all of them happens once in 2 ** 30.
    found = Counter(asked(client.pid, service.address, PORT) for _ in range(31))
    assert set(found) == {"two-1", "two-2"}
    assert found.total() == 31
    before = sum(backend.datagrams for backend in two)
    for _ in range(PRIME):
        exchanged(client.pid, service.address, PORT, 1)
    assert sum(backend.datagrams for backend in two) - before == PRIME
    cluster.do("delete", "service", "any")


def test_a_service_without_selector_has_the_backends_that_its_user_writes(
    cluster: Cluster, client: Pod, two: tuple[Backend, Backend]
) -> None:
    service = cluster.service("written", selector={})
    first, _ = two
    document = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "mine", "labels": {"kubernetes.io/service-name": "written"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [first.pod.address], "nodeName": "node-1"}],
        "ports": [{"name": "tcp", "port": TARGET, "protocol": "TCP"}],
    }
    cluster.do("apply", "-f", "-", document=document)
    eventually("the backend", lambda: cluster.backends("node-1", service))
    assert asked(client.pid, service.address, PORT) == "two-1"
    cluster.do("delete", "service/written", "endpointslice/mine")


def test_kubectl_shows_services_and_who_is_behind_them(
    cluster: Cluster, one: tuple[Service, Backend]
) -> None:
    service, backend = one
    # Written last of all that is shown.
    eventually("the endpoints", lambda: (
        f"{backend.pod.address}:{TARGET}" in cluster.do("get", "endpoints", "one")
    ))  # fmt: skip
    head, *rows = cluster.do("get", "svc", "-o", "wide").splitlines()
    assert head.split() == "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR".split()
    (row,) = [row.split() for row in rows if row.startswith("one ")]
    ports = f"{PORT}:{service.node_port}/TCP,{PORT}:{service.node_port}/UDP"
    assert row[1:5] == ["NodePort", service.address, "<none>", ports]
    assert row[6] == "behind=one"
    slices = cluster.do("get", "endpointslices")
    assert f"{TARGET},{TARGET}" in slices
    assert backend.pod.address in slices
    described = cluster.do("describe", "service", "one")
    assert f"{backend.pod.address}:{TARGET}" in described
    assert "service/one" in cluster.do("get", "all")


def test_a_service_is_changed_and_refused_as_kubernetes_does(cluster: Cluster) -> None:
    service = cluster.service("changing")
    again = cluster.service("changing")
    assert again == service, "addresses stay with what is applied again"
    patch = {"spec": {"ports": [{"port": PORT, "protocol": "TCP", "targetPort": 8081}]}}
    cluster.do("patch", "service", "changing", "-p", json.dumps(patch))
    targets = [port["targetPort"] for port in cluster.get("service", "changing")["spec"]["ports"]]
    assert targets == [8081, TARGET]
    for spec, message in (
        ({"clusterIP": "198.18.240.99"}, "may not change once set"),
        ({"type": "ClusterIP", "clusterIP": "10.0.0.1"}, "may not change once set"),
        ({"sessionAffinity": "Sometimes"}, 'supported values: "ClientIP", "None"'),
    ):
        done = cluster.kubectl(
            "patch", "service", "changing", "--type", "merge", "-p", json.dumps({"spec": spec})
        )
        assert done.returncode == 1
        assert message in done.stderr
    taken = cluster.kubectl(
        "create", "service", "nodeport", "other", "--tcp=80", f"--node-port={service.node_port}"
    )
    assert "provided port is already allocated" in taken.stderr
    cluster.do("delete", "service", "changing")
    cluster.do("create", "service", "nodeport", "other", "--tcp=80",
               f"--node-port={service.node_port}")  # fmt: skip
    cluster.do("delete", "service", "other")
    eventually("its slices are gone", lambda: not [
        s for s in cluster.get("endpointslices")["items"]
        if s["metadata"]["labels"]["kubernetes.io/service-name"] in ("changing", "other")
    ])  # fmt: skip


def test_the_ebpf_dataplane_finds_no_rule_of_kube_proxy(
    cluster: Cluster, client: Pod, one: tuple[Service, Backend]
) -> None:
    service, backend = one

    def switch(on: bool) -> None:
        patch = json.dumps({"spec": {"bpfEnabled": on}})
        kind = "felixconfigurations.projectcalico.org"
        cluster.do("patch", kind, "default", "--type", "merge", "-p", patch)

    def ours(node: str) -> list[str]:
        return [line for line in cluster.rules(node).splitlines() if "KUBE-" in line]

    assert ours("node-1")
    switch(True)
    for node in ("node-1", "node-2"):
        eventually(f"no rules on {node}", lambda n=node: ours(n) == [])
    switch(False)
    cluster.wait_for(service, backend.pod)
    # Rules come before BPF programs have gone: what is asked in between may be refused.
    answers = []

    def answered() -> bool:
        with contextlib.suppress(OSError):
            answers.append(asked(client.pid, service.address, PORT, timeout_s=1.0))
        return bool(answers)

    eventually("an answer", answered)
    assert answers == ["one-2"]


def test_the_client_stands_outside_the_cluster(cluster: Cluster) -> None:
    lab = cluster.lab
    kube = Kube.connect(str(lab.kubeconfig))
    names = {node["metadata"]["name"] for node in kube.nodes()}
    kube.close()
    assert lab.client.name == "client-1"
    assert names == {node.name for node in lab.nodes} == {"node-1", "node-2"}
    said = subprocess.run(
        ["ssh", "-F", str(lab.ssh_config), "client-1", "hostname; getent hosts node-2"],
        capture_output=True, text=True, timeout=LIMIT_S, check=True,
    ).stdout  # fmt: skip
    assert said.split() == ["client-1", lab.nodes[1].underlay_ip, "node-2"]
    # Permanent on both sides, so that no ARP falls into a measurement.
    for one, other in [(lab.client, node) for node in lab.nodes]:
        for here, there in ((one, other), (other, one)):
            show = ["ip", "-j", "neigh", "show", there.underlay_ip, "dev", here.nic]
            (found,) = json.loads(here.run(show))
            assert found["state"] == ["PERMANENT"]


def test_the_client_reaches_the_nodes_of_every_subnet(lab_name: Callable[[str], str]) -> None:
    lab, _ = lifecycle.up(Shape(lab_name("far"), subnets=2))
    for node in lab.nodes:
        for here, there in ((lab.client, node), (node, lab.client)):
            # Refused, by a machine that was reached: nobody listens there.
            with pytest.raises(ConnectionRefusedError):
                asked(here.holder_pid, there.underlay_ip, TARGET)


# ----------------------------------------------------------- kube-proxy in a network of its own


@pytest.fixture
def bare_node(tmp_path: Path) -> Iterator[LabNode]:
    """Namespaces without a lab, as far as kube-proxy needs a node."""
    hold = "mount -n -t tmpfs tmpfs /run && echo ready && exec sleep 600"
    process = subprocess.Popen(
        ["unshare", "--net", "--mount", "--uts", "--cgroup", "sh", "-c", hold],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield LabNode("node-1", 1, process.pid, "lo", "", "", 0, tmp_path, tmp_path)
    process.kill()
    process.communicate()


def test_kube_proxy_takes_away_all_that_it_wrote_and_nothing_else(bare_node: LabNode) -> None:
    store = ObjectStore()
    store.create("namespaces", {"metadata": {"name": "default"}})
    port = {"port": 80, "protocol": "TCP", "nodePort": 30080}
    spec = {"clusterIP": "198.18.240.7", "ports": [port], "externalTrafficPolicy": "Local"}
    affinity = {"clientIP": {"timeoutSeconds": 60}}
    store.create(
        "services",
        {
            "metadata": {"name": "web"},
            "spec": {
                **spec,
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": affinity,
            },
        },
    )
    store.create(
        "endpointslices",
        {
            "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["198.19.0.1"], "nodeName": "node-1"},
                {"addresses": ["198.19.0.2"], "nodeName": "node-2"},
            ],
            "ports": [{"port": 8080, "protocol": "TCP"}],
        },
    )

    def rules() -> list[str]:
        saved = bare_node.run(["iptables-save"])
        return [line for line in saved.splitlines() if "KUBE-" in line]

    foreign = ["-I", "FORWARD", "-s", "198.18.9.9/32", "-j", "DROP"]
    bare_node.run(["iptables", "--wait", *foreign])
    active, cleanup = threading.Event(), threading.Event()
    cleanup.set()
    proxy = KubeProxy(bare_node, store, active=active.is_set, cleanup=cleanup.is_set)
    proxy.start()
    try:
        active.set()
        eventually("both backends", lambda: sum("DNAT" in rule for rule in rules()) == 2)
        written = rules()
        store.delete("endpointslices", "web")
        eventually("no backend", lambda: not any("DNAT" in rule for rule in rules()))
        assert not any("KUBE-SEP-" in rule for rule in rules())
        assert len(rules()) < len(written)
        active.clear()
        eventually("nothing", lambda: rules() == [])
        assert "-s 198.18.9.9/32" in bare_node.run(["iptables-save"])
        active.set()
        eventually("rules again", rules)
        cleanup.clear()
        active.clear()
        time.sleep(1.1)
        assert rules(), "nobody is to remove them"
        cleanup.set()
        eventually("nothing again", lambda: rules() == [])
    finally:
        proxy.stop()
