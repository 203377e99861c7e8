"""Flows through a Service: what is made, what is dialled, what is watched, what is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ebpfperf import loads, plan, services
from ebpfperf.errors import KubeError, PlanError, SettleError
from ebpfperf.fronts import node_front, ready_addresses, serves, service_front
from ebpfperf.journal import Journal
from ebpfperf.loads import answering
from ebpfperf.loads.iperf3 import Tcp, Udp
from ebpfperf.loads.sockperf import RequestResponse
from ebpfperf.model import (
    Campaign,
    ClusterRef,
    Direction,
    Endpoint,
    Flow,
    Front,
    Overlay,
    Treatment,
    Workload,
    WorkloadKind,
)
from ebpfperf.model import Path as FlowPath
from ebpfperf.mutations import (
    LABELS,
    SERVICE,
    Mutation,
    create_pod,
    create_service,
    describe,
    is_ours,
    pair_node_ports,
    plan_mutations,
    plan_restore,
    pod_workloads,
)
from ebpfperf.placement import place_outside
from ebpfperf.probes.ends import ANY, end
from ebpfperf.records import campaign_from, campaign_record
from ebpfperf.restoration import differences, restoration

REF = ClusterRef(namespace="perf", client_node="node-1", server_node="node-2")
BY_SERVICE = (FlowPath.POD_SERVICE, FlowPath.NODEPORT_LOCAL, FlowPath.NODEPORT_REMOTE)
SERVER = Endpoint(
    Workload(SERVICE, "node-2", WorkloadKind.POD, "perf"),
    "198.19.0.66", 7, "eth0", "cali0", 1450,
)  # fmt: skip
CLIENT = replace(SERVER, workload=Workload("c", "node-1", WorkloadKind.POD, "perf"),
                 address="198.19.0.2")  # fmt: skip
OUTSIDE = Endpoint(
    Workload("client-1", "client-1", WorkloadKind.HOST), "198.18.0.200", None, "ens9", "ens9", 1500
)
CLUSTER_IP = Front("198.18.240.7", ((5201, 5201), (5202, 5202), (11111, 11111)))
NODE_PORT = Front("198.18.0.11", ((5201, 31999), (5202, 30007), (11111, 30500)), "node-1")


def flow(path: FlowPath = FlowPath.POD_SERVICE, load: str = "tcp", **more: Any) -> Flow:
    return Flow("f", path, load, **more)


def through(front: Front) -> Endpoint:
    return replace(SERVER, front=front)


# ------------------------------------------------------------------ the file

GOOD = """\
campaign: good
baseline: none
treatments: [none, vxlan]
cluster:
  client_node: node-1
  external_client: client-1
flows:
  - {name: a, path: pod-service, load: tcp}
  - {name: b, path: nodeport-local, load: udp, rate_bits_per_s: 10M}
  - {name: c, path: nodeport-remote, load: request-response}
"""


def test_the_paths_are_read_and_survive_the_store(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(GOOD)
    campaign = plan.load(file)
    assert tuple(flow.path for flow in campaign.flows) == BY_SERVICE
    assert campaign.cluster.external_client == "client-1"
    record = campaign_record(campaign)
    assert campaign_from(record) == campaign
    del record["cluster"]["external_client"]
    assert campaign_from(record).cluster.external_client is None, "a record of before"


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("  external_client: client-1\n", "", 8, "cluster.external_client"),
        ("client_node: node-1", "client_node: client-1", 6, "no Kubernetes node"),
        ("client_node: node-1", "server_node: client-1", 6, "no Kubernetes node"),
        ("external_client: client-1", "external_client: 7", 6, "text"),
        ("external_client", "outside_client", 6, "Did you mean"),
    ],
)
def test_a_client_outside_is_needed_and_is_no_node(
    tmp_path: Path, old: str, new: str, line: int, words: str
) -> None:
    file = tmp_path / "c.yaml"
    assert GOOD.count(old) == 1
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(PlanError) as caught:
        plan.load(file)
    assert (caught.value.fields["line"], words in str(caught.value)) == (line, True)


# ------------------------------------------------------------------ the Service


def test_it_has_the_ports_that_the_flows_need_and_no_more() -> None:
    tcp = loads.service_ports([flow()])
    assert {protocol for _, protocol in tcp} == {"TCP"}
    assert [port for port, _ in tcp] == list(loads.PORTS["tcp"][: loads.SERVICE_PORTS])
    udp = loads.service_ports([flow(load="udp")])
    assert set(udp) == {(port, p) for port, _ in tcp for p in ("TCP", "UDP")}
    rr = loads.service_ports([flow(load="request-response", transport="udp")])
    assert {port for port, _ in rr}.isdisjoint({port for port, _ in tcp})
    assert {protocol for _, protocol in rr} == {"TCP", "UDP"}
    both = [flow(load="request-response"), flow()]
    assert {protocol for _, protocol in loads.service_ports(both)} == {"TCP"}


def test_it_selects_the_servers_pod_alone() -> None:
    body = dict(create_service(REF, [flow()]).body or {})
    assert is_ours(body)
    pods = pod_workloads(REF, "node-1", "node-2")
    selected = {
        role
        for role, pod in pods.items()
        if body["spec"]["selector"].items()
        <= (create_pod(pod, REF).body or {})["metadata"]["labels"].items()
    }
    assert selected == {"server"}


@pytest.mark.parametrize(
    ("paths", "kind"),
    [
        ((FlowPath.POD_SERVICE, FlowPath.POD_POD), "ClusterIP"),
        ((FlowPath.POD_SERVICE, FlowPath.NODEPORT_LOCAL), "NodePort"),
        ((FlowPath.NODEPORT_REMOTE,), "NodePort"),
    ],
)
def test_it_has_node_ports_only_where_one_is_dialled(paths: Sequence[FlowPath], kind: str) -> None:
    call = create_service(REF, [flow(path) for path in paths])
    assert call.body is not None
    assert call.body["spec"]["type"] == kind
    assert describe(call).startswith(f"create Service perf/{SERVICE}: {kind} for 5201, ")


def test_a_flow_past_the_service_opens_no_port_in_it() -> None:
    call = create_service(REF, [flow(), flow(FlowPath.POD_POD, "request-response")])
    assert call.body is not None
    assert {port["port"] for port in call.body["spec"]["ports"]}.isdisjoint(
        loads.PORTS["request-response"]
    )


def served(node_ports: Mapping[tuple[int, str], int] | None = None) -> dict[str, Any]:
    """The Service as a cluster gives it back."""
    path = FlowPath.POD_SERVICE if node_ports is None else FlowPath.NODEPORT_LOCAL
    call = create_service(REF, [flow(path, "udp")])
    service = json.loads(json.dumps(call.body))
    service["spec"]["clusterIP"] = CLUSTER_IP.address
    for port in service["spec"]["ports"]:
        if node_ports is not None:
            port["nodePort"] = node_ports[port["port"], port["protocol"]]
    return dict(service)


def numbered(*, apart: bool) -> dict[tuple[int, str], int]:
    ports = loads.service_ports([flow(load="udp")])
    return {
        (port, protocol): 30000 + port - 5000 + (1000 if apart and protocol == "UDP" else 0)
        for port, protocol in ports
    }


def test_udp_gets_the_node_port_of_tcp() -> None:
    assert pair_node_ports(served()) is None
    assert pair_node_ports(served(numbered(apart=False))) is None
    call = pair_node_ports(served(numbered(apart=True)))
    assert call is not None
    assert call.body is not None
    paired = {(p["port"], p["protocol"]): p["nodePort"] for p in call.body["spec"]["ports"]}
    assert paired == numbered(apart=False)
    assert describe(call).startswith(f"patch Service perf/{SERVICE}: node port for 5201")


def test_fronts_say_what_to_dial() -> None:
    own = service_front(served())
    assert (own.address, own.node) == (CLUSTER_IP.address, "")
    assert all(there == here for here, there in own.ports)
    node = node_front(served(numbered(apart=False)), node="node-1", address="198.18.0.11")
    assert dict(node.ports)[5203] == numbered(apart=False)[5203, "TCP"]
    assert len(node.ports) == loads.SERVICE_PORTS


def test_a_service_of_other_flows_is_not_the_one_that_is_needed() -> None:
    wanted = create_service(REF, [flow(load="udp")]).body or {}
    assert serves(served(), wanted)
    assert not serves(served(), create_service(REF, [flow()]).body or {})
    assert not serves(served(numbered(apart=False)), wanted)
    foreign = served()
    foreign["spec"]["selector"] = {"app": "theirs"}
    assert not serves(foreign, wanted)


def test_only_ready_endpoints_count() -> None:
    slices: list[dict[str, Any]] = [
        {"endpoints": [{"addresses": ["a"], "conditions": {"ready": True}},
                       {"addresses": ["b"], "conditions": {"ready": False}}]},
        {"endpoints": [{"addresses": ["c"]}, {"addresses": ["d"], "conditions": {}}]},
        {"endpoints": None},
    ]  # fmt: skip
    assert ready_addresses(slices) == {"a", "c", "d"}


# ------------------------------------------------------------------ making it


class FakeKube:
    """An API that holds one Service, and says in which order it was asked and changed."""

    def __init__(self, journal: Journal, service: dict[str, Any] | None = None) -> None:
        self.journal, self.service = journal, service
        self.calls: list[str] = []
        self.slices: Callable[[], list[dict[str, Any]]] = list

    def get(self, kind: str, name: str, namespace: str = "") -> dict[str, Any] | None:
        assert (kind, name, namespace) == ("Service", SERVICE, "perf")
        return self.service

    def apply(self, call: Mutation) -> dict[str, Any]:
        assert self.journal.knows("Service", SERVICE, "perf"), "changed before it was on disk"
        self.calls.append(call.verb)
        if call.verb == "delete":
            self.service = None
            return {}
        if call.verb == "create":
            self.service = served(numbered(apart=True))
        elif self.service is not None and call.body is not None:
            self.service["spec"] |= call.body["spec"]
        return self.service or {}

    def wait_gone(self, *_: Any, **__: Any) -> None:
        assert self.service is None

    def endpoint_slices(self, namespace: str, service: str) -> list[dict[str, Any]]:
        assert (namespace, service) == ("perf", SERVICE)
        return self.slices()


@pytest.fixture
def kube(tmp_path: Path) -> Any:
    return FakeKube(Journal(tmp_path / "journal.json", REF, cluster_uid="u"))


NODE_FLOWS = [flow(FlowPath.NODEPORT_LOCAL, "udp")]


def test_it_is_made_once_and_kept(kube: Any) -> None:
    service = services.ensure_service(kube, kube.journal, REF, NODE_FLOWS)
    assert kube.calls == ["create", "patch"]
    assert pair_node_ports(service) is None
    assert services.ensure_service(kube, kube.journal, REF, NODE_FLOWS) == service
    assert kube.calls == ["create", "patch"]


def test_one_of_other_flows_is_made_anew(kube: Any) -> None:
    kube.service = served()
    services.ensure_service(kube, kube.journal, REF, NODE_FLOWS)
    assert kube.calls == ["delete", "create", "patch"]


def test_somebody_elses_is_left_alone(kube: Any) -> None:
    kube.service = served()
    kube.service["metadata"]["labels"] = {}
    with pytest.raises(SettleError, match="not the kit's"):
        services.ensure_service(kube, kube.journal, REF, NODE_FLOWS)
    assert kube.calls == []
    assert kube.journal.objects() == ()


def test_the_old_pod_must_be_off_the_list(kube: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = [["old"], ["new", "old"], [], ["new"], ["old"]]
    kube.slices = lambda: [{"endpoints": [{"addresses": [a]} for a in scenes.pop(0)]}]
    monkeypatch.setattr(time, "sleep", lambda _: None)
    services.await_listed(kube, REF, "new")
    assert scenes == [["old"]]
    monkeypatch.setattr(services, "LISTED_S", 0.0)
    with pytest.raises(SettleError, match="leads to old and not to new"):
        services.await_listed(kube, REF, "new")


def test_a_cluster_without_endpoint_slices_is_asked_no_further(kube: Any) -> None:
    def answer(status: int) -> Callable[[], list[dict[str, Any]]]:
        def refuse() -> list[dict[str, Any]]:
            raise KubeError("no.", "Look.", status=status)

        return refuse

    kube.slices = answer(404)
    services.await_listed(kube, REF, "new")
    kube.slices = answer(403)
    with pytest.raises(KubeError):
        services.await_listed(kube, REF, "new")


def test_restore_takes_it_away_and_says_when_it_is_left(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.json", REF, cluster_uid="u")
    for kind, name, space in (
        ("Namespace", "perf", ""),
        ("Pod", SERVICE, "perf"),
        ("Service", SERVICE, "perf"),
    ):
        journal.remember(kind, name, space, original=None)
    entries = journal.objects()
    live: dict[Any, Any] = {entry.key: {"metadata": {"labels": LABELS}} for entry in entries}
    made = restoration(entries, live)
    assert {call.kind for call in made.mutations} == {"Pod", "Service", "Namespace"}
    assert made.mutations[-1].kind == "Namespace"
    assert {call.verb for call in made.mutations} == {"delete"}
    assert any(SERVICE in left for left in differences(entries, live))
    live["Service", "perf", SERVICE] = {"metadata": {}}
    assert "Service" not in {call.kind for call in restoration(entries, live).mutations}


def test_the_dry_run_shows_it_once_and_its_end() -> None:
    campaign = Campaign(
        name="c",
        seed=1,
        blocks=1,
        baseline="none",
        treatments=(Treatment("none", Overlay.NONE), Treatment("vxlan", Overlay.VXLAN)),
        flows=(flow(FlowPath.NODEPORT_REMOTE),),
        cluster=REF,
    )
    made = [
        call for _, calls in plan_mutations(campaign, plan.schedule(campaign)) for call in calls
    ]
    assert [call.verb for call in made if call.kind == "Service"] == ["create"]
    assert sum(call.kind == "Pod" and call.verb == "create" for call in made) == 4
    assert [call.verb for call in plan_restore(campaign) if call.kind == "Service"] == ["delete"]
    past = replace(campaign, flows=(flow(FlowPath.POD_POD),))
    assert "Service" not in {call.kind for call in plan_restore(past)}


# ------------------------------------------------------------------ dialling


def test_the_bulk_client_dials_the_front_from_its_own_address() -> None:
    def words(load: Tcp | Udp, front: Front, client: Endpoint) -> list[str]:
        argv = load.client_argv(
            flow(load=load.name, rate_bits_per_s=1e6), client, through(front), port=5202
        )
        return [argv[argv.index(option) + 1] for option in ("-c", "-p", "-B")]

    assert words(Tcp(), CLUSTER_IP, CLIENT) == ["198.18.240.7", "5202", "198.19.0.2"]
    for load in (Tcp(), Udp()):
        assert words(load, NODE_PORT, OUTSIDE) == ["198.18.0.11", "30007", "198.18.0.200"]


def test_the_request_client_dials_the_front_from_its_own_address() -> None:
    asked = flow(load="request-response")
    argv = RequestResponse().client_argv(asked, OUTSIDE, through(NODE_PORT), port=11111)
    words = [argv[argv.index(option) + 1] for option in ("-i", "-p", "--client_ip")]
    assert words == ["198.18.0.11", "30500", "198.18.0.200"]


def test_a_server_listens_only_where_it_can_be_dialled() -> None:
    assert through(NODE_PORT).reachable(loads.PORTS["tcp"]) == (5201, 5202)
    assert SERVER.reachable(range(5201, 5204)) == (5201, 5202, 5203)
    with pytest.raises(KeyError):
        through(NODE_PORT).dialled_port(5203)


def test_what_is_dialled_is_said() -> None:
    assert SERVER.dialling(5201) == "198.19.0.66:5201"
    assert through(CLUSTER_IP).dialling(5201) == "service 198.18.240.7:5201 → 198.19.0.66:5201"
    assert through(NODE_PORT).dialling(5201) == (
        "node port of node-1 198.18.0.11:31999 → 198.19.0.66:5201 on node-2"
    )


def test_the_fact_says_what_was_dialled() -> None:
    said = through(CLUSTER_IP).dialling(5201)
    run = json.dumps({"argv": [], "status": 0, "mtu_bytes": 1450, "dialled": said}).encode()
    for load, name in ((Tcp(), "iperf3.run"), (RequestResponse(), "sockperf.run")):
        facts = {
            fact.name: fact.value for fact in load.parse(flow(load=load.name), {name: run}).facts
        }
        assert facts["dialled"] == said


# ------------------------------------------------------------------ answering


class Answers:
    """A client whose connections end with these statuses, and a server that listens."""

    name = "client-1"

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.asked: list[list[str]] = []

    def run(self, argv: list[str], **_: Any) -> Any:
        self.asked.append(argv)
        said = b"bash: line 1: /dev/tcp/a/1: Connection refused\n"
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return SimpleNamespace(status=status, stderr=b"" if status == 0 else said)


class Listening:
    """A load whose server listens on 5202."""

    def __init__(self) -> None:
        self.flows: list[Flow] = []

    def serve(self, asked: Flow, server: Endpoint, nodes: Any) -> Listening:
        self.flows.append(asked)
        return self

    def __enter__(self) -> Any:
        return SimpleNamespace(port=5202)

    def __exit__(self, *_: object) -> None:
        return None


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Listening:
    load = Listening()
    monkeypatch.setattr(loads, "load", lambda name: load)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    return load


def answer(client: Answers) -> Any:
    asked = flow(FlowPath.NODEPORT_REMOTE, "request-response", transport="udp")
    return answering.await_answer(asked, OUTSIDE, through(NODE_PORT), {"client-1": client})  # type: ignore[dict-item]


def test_a_path_is_dialled_until_it_answers(listening: Listening) -> None:
    client = Answers(1, 124, 0)
    fact = answer(client)
    assert (fact.name, fact.value) == (
        "nodeport_remote_answers",
        through(NODE_PORT).dialling(5202),
    )
    assert len(client.asked) == 3
    assert client.asked[0][-2:] == ["198.18.0.11", "30007"]
    assert [asked.transport for asked in listening.flows] == ["tcp"], "a connection can be seen"


def test_a_path_that_never_answers_says_what_the_client_was_told(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "ANSWER_S", 0.0)
    with pytest.raises(
        SettleError, match=r"client-1 dials .*:30007 .* is told: Connection refused"
    ):
        answer(Answers(1))


# ------------------------------------------------------------------ watching


def test_a_client_in_a_pod_may_be_turned_at_connect() -> None:
    asked = end(flow(), "client", here=CLIENT, there=through(CLUSTER_IP))
    assert (asked["local"], asked["remote"], asked["server"]) == (CLIENT.address, ANY, False)
    assert (asked["first_port"], asked["last_port"]) == (5201, 5202)


def test_a_client_outside_sees_the_node_and_its_ports() -> None:
    asked = end(flow(), "client", here=OUTSIDE, there=through(NODE_PORT))
    assert (asked["local"], asked["remote"]) == (OUTSIDE.address, "198.18.0.11")
    assert (asked["first_port"], asked["last_port"]) == (30007, 31999)


@pytest.mark.parametrize("front", [CLUSTER_IP, NODE_PORT])
def test_a_server_behind_a_service_may_see_a_node_as_its_client(front: Front) -> None:
    asked = end(flow(direction=Direction.REVERSE), "server", here=through(front), there=OUTSIDE)
    assert (asked["local"], asked["remote"], asked["server"]) == (SERVER.address, ANY, True)
    assert (asked["first_port"], asked["last_port"]) == (5201, 5202)


# ------------------------------------------------------------------ placing


class Machine:
    """A node that answers ``ip``."""

    name = "client-1"

    def __init__(self, route: bytes) -> None:
        self.route = route

    def run(self, argv: Sequence[str], **_: Any) -> Any:
        if "route" in argv:
            return SimpleNamespace(stdout=self.route, status=0 if self.route else 2)
        link = {"ifname": "ens9", "ifindex": 2, "mtu": 1480, "flags": ["UP"]}
        return SimpleNamespace(stdout=json.dumps([link]).encode(), status=0)


def test_the_client_outside_is_where_its_kernel_would_send_from() -> None:
    route = b'[{"dst":"198.18.0.11","dev":"ens9","prefsrc":"198.18.0.200","flags":[]}]'
    found = place_outside(Machine(route), OUTSIDE.workload, towards="198.18.0.11")  # type: ignore[arg-type]
    assert found == replace(OUTSIDE, mtu_bytes=1480)
    with pytest.raises(SettleError, match="has no route"):
        place_outside(Machine(b""), OUTSIDE.workload, towards="198.18.0.11")  # type: ignore[arg-type]
