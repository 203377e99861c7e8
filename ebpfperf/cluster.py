"""The cluster under measurement: put a treatment on it, place workloads, put it back.

It changes a cluster only by what ``mutations`` builds, and after the journal has it on disk.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ebpfperf import model, placement
from ebpfperf.calico.encapsulation import enabled
from ebpfperf.errors import InputError, RestoreError, SettleError
from ebpfperf.facts import cluster_facts, emulation_facts, nodes_facts, release_fact
from ebpfperf.fronts import node_front, service_front
from ebpfperf.journal import Journal
from ebpfperf.kube import Kube
from ebpfperf.kube_objects import Object, choose_nodes, internal_ip
from ebpfperf.loads.answering import await_answer
from ebpfperf.model import (
    ClusterRef,
    Endpoint,
    Fact,
    Flow,
    Front,
    Treatment,
    Workload,
    WorkloadKind,
)
from ebpfperf.mutations import (
    FELIX,
    SERVICE,
    Mutation,
    host_workloads,
    pod_workloads,
    treatment_mutations,
)
from ebpfperf.network_view import NodeView
from ebpfperf.pods import recreate_pods, refuse_another_run
from ebpfperf.remote import Node, SSHNode
from ebpfperf.restore import check_cluster, put_back, restore_from_journal
from ebpfperf.routing import check_mtu, check_paths
from ebpfperf.services import await_listed, ensure_service
from ebpfperf.settling import Observer, Shown, await_shown, wanted_on
from ebpfperf.verify import ASSUMED_RELEASE, Wanted

__all__ = ["Cluster", "Settled", "restore_from_journal"]

ROLES = ("client", "server")


@dataclass(frozen=True, slots=True)
class Settled:
    """A treatment that the nodes show.

    Attributes
    ----------
    endpoints
        (path, ``client`` or ``server``) → the endpoint, for the paths of the flows asked for.
    facts
        The evidence in words.
    raw
        File name → what the commands printed, as the evidence.
    switch_s
        Wall seconds that settling took.
    changed
        False where the treatment was already shown: then the evidence is that of the time when
        it was settled.
    views
        Node → what it shows.
    """

    treatment: Treatment
    endpoints: Mapping[tuple[str, str], Endpoint]
    facts: tuple[Fact, ...]
    raw: Mapping[str, bytes]
    switch_s: float
    changed: bool
    views: Mapping[str, NodeView] = field(default_factory=dict)

    @property
    def nics(self) -> dict[str, str]:
        """Node → name of its NIC, where that is known."""
        return {name: view.nic.name for name, view in self.views.items() if view.nic}


@dataclass(frozen=True, slots=True)
class _Objects:
    """Calico's objects as the API gives them now."""

    felix: Object | None
    pools: Mapping[str, Object]

    @property
    def felix_spec(self) -> Mapping[str, Any] | None:
        return None if self.felix is None else self.felix.get("spec") or {}

    def pool_specs(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(pool["spec"] for pool in self.pools.values())


class Cluster:
    """A Calico cluster, reached; a context manager that restores and closes.

    Attributes
    ----------
    client_node, server_node
        Names of the two measured nodes.
    addresses
        Node that is measured → its InternalIP.
    """

    def __init__(
        self, ref: ClusterRef, *, kube: Kube, nodes: Mapping[str, Node], journal: Journal
    ) -> None:
        if ref.client_node is None or ref.server_node is None:
            raise ValueError("the reference must name both nodes")
        self.ref = ref
        self.kube = kube
        self.client_node = ref.client_node
        self.server_node = ref.server_node
        self._connected = dict(nodes)
        self._journal = journal
        self._settled: Settled | None = None
        self.release = kube.release()
        self.addresses = {node: self._address(node) for node in self._measured}

    @classmethod
    def connect(cls, ref: ClusterRef, *, journal: Path) -> Self:
        """The cluster with its API, both nodes and the client outside connected; nothing changed.

        A journal that a crash left open is resumed: what it says the cluster was stays the truth.

        Raises
        ------
        InputError
            The cluster has no two such nodes, lacks a pool, or is in another run's hands; the
            client outside is one of its nodes.
        KubeError, ConnectError, RestoreError
            The API or a node cannot be reached; the journal belongs to another cluster.
        """
        kube = Kube.connect(ref.kubeconfig, ref.context)
        try:
            objects = kube.nodes()
            client, server = choose_nodes(objects, ref)
            outside = ref.external_client
            if outside in {node["metadata"]["name"] for node in objects}:
                raise InputError(
                    f"cluster.external_client {outside} is a node of the cluster.",
                    "Name an SSH host that is no Kubernetes node.",
                )
            missing = set(ref.ippools) - {pool["metadata"]["name"] for pool in kube.ippools()}
            if missing:
                known = ", ".join(pool["metadata"]["name"] for pool in kube.ippools())
                raise InputError(
                    f"The cluster has no IPPool {', '.join(sorted(missing))}.",
                    f"Name its pools in cluster.ippools: it has {known or 'none'}.",
                )
            ssh_config = Path(ref.ssh_config).expanduser().absolute() if ref.ssh_config else None
            resolved = replace(
                ref,
                kubeconfig=kube.kubeconfig,
                context=kube.context,
                ssh_config=str(ssh_config) if ssh_config else None,
                client_node=client,
                server_node=server,
            )
            book = _journal(journal, resolved, kube)
            refuse_another_run(kube, book, resolved)
            names = (client, server, *([outside] if outside else []))
            with ThreadPoolExecutor(max_workers=len(names)) as pool:
                pending = [pool.submit(_login, name, ssh_config) for name in names]
            nodes: dict[str, Node] = {}
            try:
                for name, login in zip(names, pending, strict=True):
                    nodes[name] = login.result()
                return cls(resolved, kube=kube, nodes=nodes, journal=book)
            except BaseException:
                for login in pending:
                    if login.exception() is None:
                        login.result().close()
                raise
        except BaseException:
            kube.close()
            raise

    @property
    def nodes(self) -> Mapping[str, Node]:
        """All that is connected by name: the two nodes, and the client outside where named."""
        return self._connected

    def reconnect(self, name: str) -> None:
        """Replace a node's lost connection by a new one; ConnectError when it stays lost."""
        self._connected[name].close()
        self._connected[name] = _login(
            name, Path(self.ref.ssh_config) if self.ref.ssh_config else None
        )

    def settle(self, treatment: Treatment, flows: Sequence[Flow]) -> Settled:
        """The treatment as the nodes show it, with endpoints for the flows' paths.

        Only what differs is changed; a treatment that is already shown costs a few reads.

        Raises
        ------
        SettleError
            The nodes do not show it; says which node shows what instead of what.
        KubeError, NodeError, RestoreError
            The API refused, a node failed, or the journal cannot be written.
        """
        begun = time.monotonic()
        paths = tuple(sorted({flow.path for flow in flows}))
        objects = self._objects()
        calls = self._calls(treatment, objects)
        last = self._settled
        if not calls and last is not None and last.treatment == treatment:
            known = {path for path, _ in last.endpoints}
            if known >= set(paths) and self._still_there(last.endpoints):
                return replace(last, switch_s=time.monotonic() - begun, changed=False)
        self._settled = None
        if not self._journal.is_open:
            self._journal = Journal(
                self._journal.path, self.ref, cluster_uid=self._journal.cluster_uid
            )
        observer = Observer(self.kube, self._measured, self.addresses)
        before = observer.felix()
        self._change(calls, objects)
        now = self._objects() if calls else objects
        wanted = {name: self._wanted(name, treatment, now) for name in self._measured}
        shown = await_shown(
            observer,
            wanted,
            before=before,
            restart_expected=self._restarts(calls, objects, now),
        )
        endpoints = self._endpoints(flows, shown, wanted)
        facts, raw = check_paths(endpoints, shown.views, wanted, self._connected)
        facts += self._answers(flows, endpoints)
        facts += emulation_facts(self._measured_objects())
        # Of each trial, too: a campaign that is gone on with may find another Calico.
        facts += (release_fact(self.kube.cluster_information()),)
        self._settled = Settled(
            treatment,
            endpoints,
            (*shown.facts, *facts),
            {**shown.raw, **raw},
            time.monotonic() - begun,
            True,
            shown.views,
        )
        return self._settled

    def facts(self) -> tuple[Fact, ...]:
        """Facts of all that is connected and of the cluster's objects, as they are now."""
        objects = self._objects()
        addresses = dict(self.addresses)
        if self.ref.external_client:
            towards = self.addresses[self.server_node]
            addresses[self.ref.external_client] = self._outside(towards).address
        return (
            *nodes_facts(self._connected, addresses),
            *cluster_facts(
                information=self.kube.cluster_information(),
                felix=objects.felix,
                pools=list(objects.pools.values()),
                nodes=self._measured_objects(),
            ),
        )

    def place(self, workload: Workload) -> Endpoint:
        """The workload's endpoint, as its node shows it.

        Raises
        ------
        SettleError
            There is no such pod, it has no address, or its node does not show it.
        """
        node = self._connected[workload.node]
        if workload.kind is WorkloadKind.HOST:
            return placement.place_host(node, workload, self.addresses[workload.node])
        pod = self.kube.get("Pod", workload.name, workload.namespace)
        address = (pod or {}).get("status", {}).get("podIP")
        if pod is None or not address:
            raise SettleError(
                f"Pod {workload.namespace}/{workload.name} "
                + ("has no address." if pod else "does not exist."),
                "Was it deleted meanwhile? Run again.",
            )
        uid = pod["metadata"]["uid"]
        return placement.place_pod(node, workload, uid=uid, address=address)

    def restore(self, *, overwrite: bool = False) -> tuple[str, ...]:
        """Sentences on what was put back; empty when nothing had been changed. Idempotent.

        Raises
        ------
        RestoreError
            Something could not be put back; the journal keeps what the cluster was.
        """
        self._settled = None
        return put_back(self.kube, self._journal, overwrite=overwrite)

    def close(self) -> None:
        """Close the connections; changes nothing on the cluster."""
        for node in self._connected.values():
            node.close()
        self.kube.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.restore()
        finally:
            self.close()

    # ---------------------------------------------------------------- inside

    @property
    def _measured(self) -> dict[str, Node]:
        return {name: self._connected[name] for name in (self.client_node, self.server_node)}

    def _objects(self) -> _Objects:
        pools = {pool["metadata"]["name"]: pool for pool in self.kube.ippools()}
        return _Objects(self.kube.felix_configuration(), pools)

    def _calls(self, treatment: Treatment, objects: _Objects) -> tuple[Mutation, ...]:
        originals: dict[str, Any] = {}
        if self._journal.knows(*FELIX):
            entry = self._journal.remembered(*FELIX)
            originals = {field: (entry.spec or {}).get(field) for field in entry.touched}
        pools = {name: objects.pools[name]["spec"] for name in self.ref.ippools}
        return treatment_mutations(
            treatment,
            pools,
            felix=objects.felix_spec,
            originals=originals,
            release=self.release,
        )

    def _change(self, calls: Sequence[Mutation], objects: _Objects) -> None:
        """Send the calls; what they change is in the journal before the first is sent."""
        for call in calls:
            original = objects.felix if call.kind == FELIX[0] else objects.pools[call.name]
            self._journal.remember(call.kind, call.name, original=original)
        if calls:
            self._journal.intend(*calls)
        for call in calls:
            self.kube.apply(call)

    def _wanted(self, node: str, treatment: Treatment, objects: _Objects) -> Wanted:
        cidrs = tuple(str(objects.pools[name]["spec"]["cidr"]) for name in self.ref.ippools)
        return wanted_on(
            self.kube,
            node,
            treatment,
            felix=objects.felix_spec or {},
            pools=objects.pool_specs(),
            cidrs=cidrs,
            release=self.release,
        )

    def _restarts(self, calls: Sequence[Mutation], before: _Objects, now: _Objects) -> bool:
        """Whether the calls restart Felix.

        Nearly any field of its own does (those that do not are three, and none is for users); a
        pool does where another set of tunnels follows from it.
        """
        if any(call.kind == FELIX[0] for call in calls):
            return True
        release = self.release or ASSUMED_RELEASE
        was, becomes = (enabled(o.felix_spec or {}, o.pool_specs(), release) for o in (before, now))
        return bool(calls) and was != becomes

    def _endpoints(
        self, flows: Sequence[Flow], shown: Shown, wanted: Mapping[str, Wanted]
    ) -> dict[tuple[str, str], Endpoint]:
        paths = sorted({flow.path for flow in flows})
        found: dict[tuple[str, str], Endpoint] = {}
        pods: Mapping[str, Endpoint] = {}
        service: Object = {}
        if any(path is not model.Path.HOST_HOST for path in paths):
            workloads = pod_workloads(self.ref, self.client_node, self.server_node)
            recreate_pods(self.kube, self._journal, workloads.values(), self.ref)
            pods = self._placed(workloads)
            check_mtu(pods.values(), shown.views, wanted)
        if any(path.by_service for path in paths):
            service = ensure_service(self.kube, self._journal, self.ref, flows)
            await_listed(self.kube, self.ref, pods["server"].address)
        for path in paths:
            placed = dict(pods)
            if path is model.Path.HOST_HOST:
                placed = self._placed(host_workloads(self.client_node, self.server_node))
            if path.by_service:
                front = self._front(path, service)
                placed["server"] = replace(pods["server"], front=front)
                if path.by_node_port:
                    placed["client"] = self._outside(front.address)
            found |= {(str(path), role): endpoint for role, endpoint in placed.items()}
        return found

    def _front(self, path: model.Path, service: Object) -> Front:
        """What a client on that path dials."""
        if not path.by_node_port:
            return service_front(service)
        node = self.server_node if path is model.Path.NODEPORT_LOCAL else self.client_node
        return node_front(service, node=node, address=self.addresses[node])

    def _measured_objects(self) -> list[Object]:
        return [n for n in self.kube.nodes() if n["metadata"]["name"] in self._measured]

    def _outside(self, towards: str) -> Endpoint:
        """The client outside the cluster, as it reaches an address."""
        name = self.ref.external_client
        if name is None:
            raise SettleError(
                "A node port is dialled from outside the cluster, and no machine there is named.",
                "Name an SSH host that is no Kubernetes node: cluster.external_client.",
            )
        workload = Workload(name, name, WorkloadKind.HOST)
        return placement.place_outside(self._connected[name], workload, towards=towards)

    def _answers(
        self, flows: Sequence[Flow], endpoints: Mapping[tuple[str, str], Endpoint]
    ) -> tuple[Fact, ...]:
        """What was dialled on every path by Service, each seen to reach the server."""
        first = {flow.path: flow for flow in reversed(flows) if flow.path.by_service}
        return tuple(
            await_answer(flow, endpoints[path, "client"], endpoints[path, "server"], self.nodes)
            for path, flow in sorted(first.items())
        )

    def _placed(self, workloads: Mapping[str, Workload]) -> dict[str, Endpoint]:
        with ThreadPoolExecutor(max_workers=len(workloads)) as pool:
            return dict(zip(workloads, pool.map(self.place, workloads.values()), strict=True))

    def _still_there(self, endpoints: Mapping[tuple[str, str], Endpoint]) -> bool:
        """Whether every end is where it was, and the Service leads there from where it did."""

        def check(endpoint: Endpoint) -> bool:
            return placement.still_there(self._connected[endpoint.node], endpoint)

        fronts = {path: e.front for (path, _), e in endpoints.items() if e.front is not None}
        if fronts:
            service = self.kube.get("Service", SERVICE, self.ref.namespace)
            if service is None or any(
                self._front(model.Path(path), service) != front for path, front in fronts.items()
            ):
                return False
        # A pod stands on several paths; it is asked for once.
        ends = {replace(endpoint, front=None) for endpoint in endpoints.values()}
        with ThreadPoolExecutor(max_workers=4) as pool:
            return all(pool.map(check, ends))

    def _address(self, name: str) -> str:
        node = self.kube.get("Node", name)
        address = internal_ip(node) if node else None
        if address is None:
            raise InputError(
                f"Node {name} has no IPv4 InternalIP.", "This kit measures IPv4 nodes."
            )
        return address


def _login(name: str, ssh_config: Path | None) -> Node:
    return SSHNode.connect(name, ssh_config=ssh_config)


def _journal(path: Path, ref: ClusterRef, kube: Kube) -> Journal:
    """A new journal, or the open one of a run that did not end."""
    book = Journal.load(path)
    if book is None or not book.is_open:
        return Journal(path, ref, cluster_uid=kube.cluster_uid())
    check_cluster(kube, book)
    if book.ref.namespace != ref.namespace:
        raise RestoreError(
            f"{path} is the open journal of a run in namespace {book.ref.namespace}, "
            f"not {ref.namespace}.",
            "Run ebpfperf restore on it first.",
            journal=str(path),
        )
    book.ref = ref
    return book
