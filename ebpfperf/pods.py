"""The kit's two pods: made anew for every treatment, because a pod's MTU is fixed at creation."""

from __future__ import annotations

import socket
import time
from collections.abc import Collection

from ebpfperf.errors import InputError, KubeError, SettleError
from ebpfperf.journal import Journal
from ebpfperf.kube import Kube
from ebpfperf.model import ClusterRef, Workload
from ebpfperf.mutations import (
    JOURNAL_ANNOTATION,
    LABELS,
    Mutation,
    create_namespace,
    create_pod,
    delete,
    is_ours,
)

READY_S = 60.0
GONE_S = 60.0
ACCOUNT_S = 15.0


def recreate_pods(
    kube: Kube, journal: Journal, workloads: Collection[Workload], ref: ClusterRef
) -> None:
    """Returns when fresh pods of those names are Ready; their namespace is made where absent.

    Raises
    ------
    SettleError
        A pod of that name exists and is not the kit's.
    KubeError
        A pod does not go or does not become ready in 60 s; says what it waits for.
    """
    _ensure_namespace(kube, journal, ref.namespace)
    for workload in workloads:
        _remove(kube, journal, workload)
    for workload in workloads:
        kube.wait_gone("Pod", workload.name, workload.namespace, timeout_s=GONE_S)
    for workload in workloads:
        _create(kube, create_pod(workload, ref, journal=whereabouts(journal)))
    for workload in workloads:
        kube.wait_pod_ready(workload.namespace, workload.name, timeout_s=READY_S)


def refuse_another_run(kube: Kube, journal: Journal, ref: ClusterRef) -> None:
    """Returns when no other run uses this cluster, or left it without putting it back.

    Such a run has changed the pools: what they are now would be taken for what they were.

    Raises
    ------
    InputError
        Pods of the kit are there which this journal does not know.
    """
    for pod in kube.pods(ref.namespace, LABELS):
        meta = pod["metadata"]
        ending = meta.get("deletionTimestamp")
        if ending or journal.knows("Pod", meta["name"], ref.namespace):
            continue
        where = (meta.get("annotations") or {}).get(JOURNAL_ANNOTATION, "an unknown place")
        raise InputError(
            f"Another run uses this cluster or left it unrestored: pod {ref.namespace}/"
            f"{meta['name']} is there, and its journal is {where}.",
            "Let it end, or put the cluster back with ebpfperf restore and that directory.",
            journal=where,
        )


def whereabouts(journal: Journal) -> str:
    """``host:/path`` of the journal, for whoever finds the pods."""
    return f"{socket.gethostname()}:{journal.path.absolute()}"


def _ensure_namespace(kube: Kube, journal: Journal, name: str) -> None:
    namespace = kube.get("Namespace", name)
    if namespace is not None and namespace["metadata"].get("deletionTimestamp"):
        kube.wait_gone("Namespace", name, timeout_s=GONE_S)
        namespace = None
    if namespace is None:
        call = create_namespace(name)
        journal.remember(call.kind, call.name, original=None)
        kube.apply(call)


def _remove(kube: Kube, journal: Journal, workload: Workload) -> None:
    pod = kube.get("Pod", workload.name, workload.namespace)
    if pod is not None and not is_ours(pod):
        raise SettleError(
            f"Pod {workload.namespace}/{workload.name} exists and is not the kit's.",
            "Choose another cluster.namespace in the campaign file.",
        )
    journal.remember("Pod", workload.name, workload.namespace, original=None)
    if pod is not None:
        why = "MTU is fixed at creation"
        kube.apply(delete("Pod", workload.name, workload.namespace, why=why))


def _create(kube: Kube, call: Mutation) -> None:
    """Create; a new namespace has no service account yet for a moment, and refuses pods."""
    deadline = time.monotonic() + ACCOUNT_S
    while True:
        try:
            kube.apply(call)
            return
        except KubeError as error:
            early = error.fields.get("status") == 403 and "serviceaccount" in error.what.lower()
            if not early or time.monotonic() > deadline:
                raise
        time.sleep(0.2)
