"""Every change the kit ever makes to a cluster, as data. Pure: nothing here opens a connection.

A reader who wants to know what a campaign may do to a cluster reads this file and ``restoration``,
which decides on the way back and builds with what is here. ``Kube.apply`` is the only place that
sends a ``Mutation``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebpfperf import loads
from ebpfperf.calico.encapsulation import felix_fields, pool_modes
from ebpfperf.model import (
    Campaign,
    ClusterRef,
    Flow,
    Path,
    Treatment,
    Trial,
    Workload,
    WorkloadKind,
)

Spec = Mapping[str, Any]

FELIX = ("FelixConfiguration", "default")
MODE_FIELDS = ("ipipMode", "vxlanMode")
FLAG_FIELDS = ("ipipEnabled", "vxlanEnabled")
LABELS = {"app.kubernetes.io/managed-by": "ebpfperf"}
NAME_LABEL = "app.kubernetes.io/name"
SERVICE = "ebpfperf-server"
JOURNAL_ANNOTATION = "ebpfperf/journal"
AS_IT_WAS = "(as it was)"

# A pause container ends at once on SIGTERM; the default of 30 s would only wait.
GRACE_S = 1


@dataclass(frozen=True, slots=True)
class Mutation:
    """One call that changes the cluster.

    Attributes
    ----------
    verb
        ``create``, ``patch`` (a JSON merge patch: null removes a field) or ``delete``.
    kind, name, namespace
        ``namespace`` is empty for what has none.
    body
        The object, the merge patch, or None for a delete.
    why
        Half a sentence for the reader of a dry run.
    """

    verb: str
    kind: str
    name: str
    namespace: str = ""
    body: Mapping[str, Any] | None = None
    why: str = ""

    @property
    def fields(self) -> Mapping[str, Any]:
        """The ``spec`` fields it sets (None: removes)."""
        return dict((self.body or {}).get("spec", {})) if self.kind in ("IPPool", FELIX[0]) else {}


def canonical(value: object) -> str:
    """JSON text that is equal for equal values: sorted keys, no spaces, ``1`` is not ``true``."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def treatment_mutations(
    treatment: Treatment,
    pools: Mapping[str, Spec],
    *,
    felix: Spec | None,
    originals: Mapping[str, Any] | None = None,
    release: str | None = None,
) -> tuple[Mutation, ...]:
    """The calls that bring a cluster from what it is to a treatment: the difference only.

    Parameters
    ----------
    pools
        Pool name → its ``spec`` as it is now.
    felix
        ``spec`` of FelixConfiguration ``default`` as it is now; None where there is no such object.
    originals
        Felix fields that an earlier treatment changed → the value they had before the campaign
        (None: absent). Those that this treatment does not name return to it.
    release
        Calico's release (``v3.26.1``) where known.
    """
    wanted = dict(originals or {}) | felix_fields(treatment, release=release)
    live = felix or {}
    delta = {f: v for f, v in sorted(wanted.items()) if canonical(live.get(f)) != canonical(v)}
    calls: list[Mutation] = []
    why = f"treatment {treatment.name}"
    if felix is None:
        present = {field: value for field, value in delta.items() if value is not None}
        if present:
            calls.append(create_felix(present, why=why))
    elif delta:
        calls.append(patch_spec(*FELIX, delta, why=why))
    for name, spec in pools.items():
        modes = pool_modes(treatment.applied_overlay, treatment.scope)
        # An absent mode is Never: nothing to write, and nothing to put back later.
        changed = {f: v for f, v in modes.items() if (spec.get(f) or "Never") != v}
        if changed:
            calls.append(patch_spec("IPPool", name, changed, why=why))
    return tuple(calls)


def patch_spec(kind: str, name: str, fields: Mapping[str, Any], *, why: str) -> Mutation:
    """A merge patch of ``spec`` fields; a value of None removes the field."""
    return Mutation("patch", kind, name, body={"spec": dict(fields)}, why=why)


def create_felix(fields: Mapping[str, Any], *, why: str, name: str = FELIX[1]) -> Mutation:
    """A FelixConfiguration where the cluster has none of that name."""
    body = {"metadata": {"name": name}, "spec": dict(fields)}
    return Mutation("create", FELIX[0], name, body=body, why=why)


def set_log_level(name: str, live: Mapping[str, Any] | None, level: str) -> Mutation | None:
    """What gives a FelixConfiguration that ``bpfLogLevel``; None where it has it.

    ``live`` is the object as it is now, None where there is none.
    """
    fields, why = {"bpfLogLevel": level}, "the debug log, for some seconds"
    if live is None:
        return create_felix(fields, why=why, name=name)
    if str((live.get("spec") or {}).get("bpfLogLevel", "")).lower() == level.lower():
        return None
    return patch_spec(FELIX[0], name, fields, why=why)


def create_again(kind: str, original: Mapping[str, Any], *, why: str) -> Mutation:
    """An object that somebody deleted, from its snapshot; the server's own fields left out."""
    meta = original["metadata"]
    kept = {f: meta[f] for f in ("name", "labels", "annotations") if f in meta}
    body = {"metadata": kept, "spec": original.get("spec", {})}
    return Mutation("create", kind, meta["name"], body=body, why=why)


def delete(kind: str, name: str, namespace: str = "", *, why: str) -> Mutation:
    """A delete of an object that the kit created."""
    return Mutation("delete", kind, name, namespace, why=why)


def create_namespace(name: str) -> Mutation:
    """The namespace of the kit's pods, labelled as the kit's own."""
    body = {"metadata": {"name": name, "labels": dict(LABELS)}}
    return Mutation("create", "Namespace", name, body=body, why="a place for the kit's pods")


def create_pod(workload: Workload, ref: ClusterRef, *, journal: str = "") -> Mutation:
    """A pod that sleeps, bound to its node, with an address from the pools that are changed.

    The address pools are asked for by Calico's annotation ``cni.projectcalico.org/ipv4pools``:
    a pod from another pool would not travel by the treatment's overlay mode. ``journal`` is left
    on it as an annotation: where to look for what the cluster was, should nobody put it back.
    """
    annotations = {"cni.projectcalico.org/ipv4pools": json.dumps(list(ref.ippools))}
    if journal:
        annotations[JOURNAL_ANNOTATION] = journal
    body = {
        "metadata": {
            "name": workload.name,
            "namespace": workload.namespace,
            "labels": {**LABELS, NAME_LABEL: workload.name},
            "annotations": annotations,
        },
        "spec": {
            "nodeName": workload.node,
            "containers": [{"name": "pause", "image": ref.image}],
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": GRACE_S,
            "tolerations": [{"operator": "Exists"}],
        },
    }
    return Mutation(
        "create", "Pod", workload.name, workload.namespace, body, why="MTU is fixed at creation"
    )


def create_service(ref: ClusterRef, flows: Iterable[Flow]) -> Mutation:
    """A Service in front of the server's pod, with the ports that the flows' loads need.

    Of type NodePort only where a flow dials one. The node ports' numbers are the cluster's choice.
    """
    through = [flow for flow in flows if flow.path.by_service]
    body = {
        "metadata": {
            "name": SERVICE,
            "namespace": ref.namespace,
            "labels": {**LABELS, NAME_LABEL: SERVICE},
        },
        "spec": {
            "type": "NodePort" if any(f.path.by_node_port for f in through) else "ClusterIP",
            "selector": {**LABELS, NAME_LABEL: SERVICE},
            "ipFamilyPolicy": "SingleStack",
            "ipFamilies": ["IPv4"],
            "ports": [
                {
                    "name": f"{protocol.lower()}-{port}",
                    "protocol": protocol,
                    "port": port,
                    "targetPort": port,
                }
                for port, protocol in loads.service_ports(through)
            ],
        },
    }
    why = "the server, by Service"
    return Mutation("create", "Service", SERVICE, ref.namespace, body=body, why=why)


def pair_node_ports(service: Mapping[str, Any]) -> Mutation | None:
    """What gives UDP the node port that TCP has for the same port; None where they are equal.

    iperf3 is told one number for its control connection (TCP) and its data (UDP).
    """
    ports = service["spec"]["ports"]
    tcp = {port["port"]: port.get("nodePort") for port in ports if port["protocol"] == "TCP"}
    paired = [
        {**port, "nodePort": tcp[port["port"]]} if tcp.get(port["port"]) else port for port in ports
    ]
    if paired == ports:
        return None
    meta = service["metadata"]
    body = {"spec": {"ports": paired}}
    why = "one node port for TCP and UDP"
    return Mutation("patch", "Service", meta["name"], meta["namespace"], body=body, why=why)


def pod_workloads(ref: ClusterRef, client_node: str, server_node: str) -> dict[str, Workload]:
    """``client`` and ``server`` → the kit's pods."""
    nodes = {"client": client_node, "server": server_node}
    return {
        role: Workload(f"ebpfperf-{role}", node, WorkloadKind.POD, ref.namespace)
        for role, node in nodes.items()
    }


def host_workloads(client_node: str, server_node: str) -> dict[str, Workload]:
    """``client`` and ``server`` → the nodes themselves."""
    nodes = {"client": client_node, "server": server_node}
    return {role: Workload(node, node, WorkloadKind.HOST) for role, node in nodes.items()}


def is_ours(obj: Mapping[str, Any]) -> bool:
    """Whether the kit created this object (its label says so)."""
    labels = obj.get("metadata", {}).get("labels") or {}
    return all(labels.get(key) == value for key, value in LABELS.items())


def describe(mutation: Mutation) -> str:
    """One line: ``patch IPPool default-ipv4-ippool: vxlanMode=Always (treatment vxlan)``."""
    where = f"{mutation.namespace}/{mutation.name}" if mutation.namespace else mutation.name
    line = f"{mutation.verb} {mutation.kind} {where}"
    if mutation.fields:
        line += ": " + ", ".join(_assignment(f, v) for f, v in sorted(mutation.fields.items()))
    elif mutation.kind == "Pod" and mutation.body is not None:
        line += f" on {mutation.body['spec']['nodeName']}"
    elif mutation.kind == "Service" and mutation.body is not None:
        spec = mutation.body["spec"]
        ports = dict.fromkeys(str(port["port"]) for port in spec["ports"])
        line += f": {spec.get('type', 'node port')} for {', '.join(ports)}"
    return f"{line} ({mutation.why})" if mutation.why else line


def plan_mutations(
    campaign: Campaign, order: Iterable[Trial]
) -> list[tuple[Trial, tuple[Mutation, ...]]]:
    """Each trial with the calls its treatment switch would make, without asking any cluster.

    What the cluster is now is not known: the first switch shows every field it may write, though
    the run writes only those that differ, and a field returning to its former value reads
    ``(as it was)``. A Calico older than v3.23 gets its two flags written too.
    """
    ref = campaign.cluster
    named = {field for t in campaign.treatments for field in felix_fields(t)}
    felix: dict[str, Any] = dict.fromkeys(named, AS_IT_WAS)
    pools: dict[str, dict[str, Any]] = {
        name: dict.fromkeys(MODE_FIELDS, AS_IT_WAS) for name in ref.ippools
    }
    originals = dict(felix)
    current: Treatment | None = None
    plan: list[tuple[Trial, tuple[Mutation, ...]]] = []
    for trial in order:
        calls: tuple[Mutation, ...] = ()
        if trial.treatment != current:
            calls = treatment_mutations(trial.treatment, pools, felix=felix, originals=originals)
            for call in calls:
                (felix if call.kind == FELIX[0] else pools[call.name]).update(call.fields)
            calls += _pod_calls(campaign, first=current is None)
            current = trial.treatment
        plan.append((trial, calls))
    return plan


def plan_restore(campaign: Campaign) -> tuple[Mutation, ...]:
    """The calls that end a campaign, as far as they can be known without asking the cluster."""
    why = "restore"
    named = sorted({field for t in campaign.treatments for field in felix_fields(t)})
    calls: list[Mutation] = []
    if _has_pods(campaign):
        pods = pod_workloads(campaign.cluster, "", "").values()
        calls += [delete("Pod", pod.name, pod.namespace, why=why) for pod in pods]
        if any(flow.path.by_service for flow in campaign.flows):
            calls.append(delete("Service", SERVICE, campaign.cluster.namespace, why=why))
        calls.append(delete("Namespace", campaign.cluster.namespace, why="if it was not there"))
    if named:
        calls.append(patch_spec(*FELIX, dict.fromkeys(named, AS_IT_WAS), why=why))
    modes = dict.fromkeys(MODE_FIELDS, AS_IT_WAS)
    calls += [patch_spec("IPPool", name, modes, why=why) for name in campaign.cluster.ippools]
    return tuple(calls)


def _has_pods(campaign: Campaign) -> bool:
    return any(flow.path is not Path.HOST_HOST for flow in campaign.flows)


def _pod_calls(campaign: Campaign, *, first: bool) -> tuple[Mutation, ...]:
    if not _has_pods(campaign):
        return ()
    ref = campaign.cluster
    pods: Sequence[Workload] = tuple(
        pod_workloads(
            ref, ref.client_node or "(first ready node)", ref.server_node or "(second ready node)"
        ).values()
    )
    gone: tuple[Mutation, ...] = tuple(
        delete("Pod", pod.name, pod.namespace, why="MTU is fixed at creation") for pod in pods
    )
    before = (create_namespace(ref.namespace),) if first else gone
    service: tuple[Mutation, ...] = ()
    if first and any(flow.path.by_service for flow in campaign.flows):
        service = (create_service(ref, campaign.flows),)
    return before + tuple(create_pod(pod, ref) for pod in pods) + service


def _assignment(field: str, value: object) -> str:
    if value is None:
        return f"{field} removed"
    return f"{field}={value if isinstance(value, str) else json.dumps(value)}"
