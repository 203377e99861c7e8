"""The cluster under measurement: put a treatment on it, place workloads, put it back.

The only module of the measuring side that changes a cluster, and only by what ``mutations`` builds
and after the journal has it on disk.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ebpfperf import model, placement
from ebpfperf.calico.encapsulation import enabled
from ebpfperf.errors import InputError, RestoreError, SettleError
from ebpfperf.facts import cluster_facts, nodes_facts
from ebpfperf.journal import Journal
from ebpfperf.kube import Kube
from ebpfperf.kube_objects import Object, choose_nodes, internal_ip
from ebpfperf.model import ClusterRef, Endpoint, Fact, Flow, Treatment, Workload, WorkloadKind
from ebpfperf.mutations import (
    FELIX,
    Mutation,
    host_workloads,
    pod_workloads,
    treatment_mutations,
)
from ebpfperf.pods import recreate_pods, refuse_another_run
from ebpfperf.remote import Node, SSHNode
from ebpfperf.restore import check_cluster, put_back, restore_from_journal
from ebpfperf.routing import check_mtu, check_paths
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
    """

    treatment: Treatment
    endpoints: Mapping[tuple[str, str], Endpoint]
    facts: tuple[Fact, ...]
    raw: Mapping[str, bytes]
    switch_s: float
    changed: bool


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
        self._nodes = dict(nodes)
        self._journal = journal
        self._settled: Settled | None = None
        self.release = kube.release()
        self._addresses = {node: self._address(node) for node in self._nodes}

    @classmethod
    def connect(cls, ref: ClusterRef, *, journal: Path) -> Self:
        """The cluster with its API and both nodes connected; nothing is changed yet.

        A journal that a crash left open is resumed: what it says the cluster was stays the truth.

        Raises
        ------
        InputError
            The cluster has no two such nodes, lacks a pool, or is in another run's hands.
        KubeError, ConnectError, RestoreError
            The API or a node cannot be reached; the journal belongs to another cluster.
        """
        kube = Kube.connect(ref.kubeconfig, ref.context)
        try:
            client, server = choose_nodes(kube.nodes(), ref)
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
            with ThreadPoolExecutor(max_workers=2) as pool:
                pending = [pool.submit(_login, name, ssh_config) for name in (client, server)]
            nodes: dict[str, Node] = {}
            try:
                for name, login in zip((client, server), pending, strict=True):
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
        """The two nodes by name, connected."""
        return self._nodes

    def reconnect(self, name: str) -> None:
        """Replace a node's lost connection by a new one; ConnectError when it stays lost."""
        self._nodes[name].close()
        self._nodes[name] = _login(name, Path(self.ref.ssh_config) if self.ref.ssh_config else None)

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
            if known >= set(paths) and self._still_there(last.endpoints.values()):
                return replace(last, switch_s=time.monotonic() - begun, changed=False)
        self._settled = None
        if not self._journal.is_open:
            self._journal = Journal(
                self._journal.path, self.ref, cluster_uid=self._journal.cluster_uid
            )
        observer = Observer(self.kube, self._nodes, self._addresses)
        before = observer.felix()
        self._change(calls, objects)
        now = self._objects() if calls else objects
        wanted = {name: self._wanted(name, treatment, now) for name in self._nodes}
        shown = await_shown(
            observer,
            wanted,
            before=before,
            restart_expected=self._restarts(calls, objects, now),
        )
        endpoints = self._endpoints(paths, shown, wanted)
        facts, raw = check_paths(endpoints, shown.views, wanted, self._nodes)
        self._settled = Settled(
            treatment,
            endpoints,
            (*shown.facts, *facts),
            {**shown.raw, **raw},
            time.monotonic() - begun,
            True,
        )
        return self._settled

    def facts(self) -> tuple[Fact, ...]:
        """Facts of both nodes and of the cluster's objects, as they are now."""
        objects = self._objects()
        return (
            *nodes_facts(self._nodes, self._addresses),
            *cluster_facts(
                information=self.kube.cluster_information(),
                felix=objects.felix,
                pools=list(objects.pools.values()),
                nodes=[n for n in self.kube.nodes() if n["metadata"]["name"] in self._nodes],
            ),
        )

    def place(self, workload: Workload) -> Endpoint:
        """The workload's endpoint, as its node shows it.

        Raises
        ------
        SettleError
            There is no such pod, it has no address, or its node does not show it.
        """
        node = self._nodes[workload.node]
        if workload.kind is WorkloadKind.HOST:
            return placement.place_host(node, workload, self._addresses[workload.node])
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
        for node in self._nodes.values():
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
        self, paths: Sequence[model.Path], shown: Shown, wanted: Mapping[str, Wanted]
    ) -> dict[tuple[str, str], Endpoint]:
        found: dict[tuple[str, str], Endpoint] = {}
        for path in paths:
            if path is model.Path.HOST_HOST:
                placed = self._placed(host_workloads(self.client_node, self.server_node))
            else:
                workloads = pod_workloads(self.ref, self.client_node, self.server_node)
                recreate_pods(self.kube, self._journal, workloads.values(), self.ref)
                placed = self._placed(workloads)
                check_mtu(placed.values(), shown.views, wanted)
            found |= {(str(path), role): endpoint for role, endpoint in placed.items()}
        return found

    def _placed(self, workloads: Mapping[str, Workload]) -> dict[str, Endpoint]:
        with ThreadPoolExecutor(max_workers=len(workloads)) as pool:
            return dict(zip(workloads, pool.map(self.place, workloads.values()), strict=True))

    def _still_there(self, endpoints: Sequence[Endpoint] | Any) -> bool:
        def check(endpoint: Endpoint) -> bool:
            return placement.still_there(self._nodes[endpoint.node], endpoint)

        with ThreadPoolExecutor(max_workers=4) as pool:
            return all(pool.map(check, endpoints))

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
