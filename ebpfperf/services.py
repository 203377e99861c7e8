"""The kit's Service in front of the server's pod: made once, seen to lead to that pod."""

from __future__ import annotations

import time
from collections.abc import Collection

from ebpfperf.errors import KubeError, SettleError
from ebpfperf.fronts import ready_addresses, serves
from ebpfperf.journal import Journal
from ebpfperf.kube import Kube
from ebpfperf.kube_objects import Object
from ebpfperf.model import ClusterRef, Flow
from ebpfperf.mutations import SERVICE, create_service, delete, is_ours, pair_node_ports

GONE_S = 30.0
LISTED_S = 30.0
POLL_S = 0.1


def ensure_service(
    kube: Kube, journal: Journal, ref: ClusterRef, flows: Collection[Flow]
) -> Object:
    """The Service as the flows need it; one that is there and right already is kept.

    Raises
    ------
    SettleError
        A Service of that name exists and is not the kit's.
    KubeError, RestoreError
        The API refused, or the journal cannot be written.
    """
    call = create_service(ref, flows)
    found = kube.get("Service", SERVICE, ref.namespace)
    if found is not None and not is_ours(found):
        raise SettleError(
            f"Service {ref.namespace}/{SERVICE} exists and is not the kit's.",
            "Choose another cluster.namespace in the campaign file.",
        )
    journal.remember("Service", SERVICE, ref.namespace, original=None)
    if found is not None and not serves(found, call.body or {}):
        kube.apply(delete("Service", SERVICE, ref.namespace, why="of other flows"))
        kube.wait_gone("Service", SERVICE, ref.namespace, timeout_s=GONE_S)
        found = None
    service = kube.apply(call) if found is None else found
    pairing = pair_node_ports(service)
    return service if pairing is None else kube.apply(pairing)


def await_listed(kube: Kube, ref: ClusterRef, address: str) -> None:
    """Returns when the Service leads to that address and no other.

    Raises
    ------
    SettleError
        Not within 30 s; says what it leads to.
    """
    deadline = time.monotonic() + LISTED_S
    while True:
        try:
            ready = ready_addresses(kube.endpoint_slices(ref.namespace, SERVICE))
        except KubeError as error:
            # Kubernetes before v1.21 has no such API; whether the path answers is seen anyway.
            if error.fields.get("status") == 404:
                return
            raise
        if ready == {address}:
            return
        if time.monotonic() > deadline:
            raise SettleError(
                f"Service {ref.namespace}/{SERVICE} leads to {', '.join(sorted(ready)) or 'no pod'}"
                f" and not to {address} after {LISTED_S:g} s.",
                f"See kubectl -n {ref.namespace} get endpointslices, and whether "
                "kube-controller-manager runs.",
            )
        time.sleep(POLL_S)
