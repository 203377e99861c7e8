"""The kinds the lab's API serves: names, scope and the group versions each is seen under."""

from __future__ import annotations

from dataclasses import dataclass

CORE = ("", "v1")
APPS = ("apps", "v1")
DISCOVERY = ("discovery.k8s.io", "v1")
CRD = ("crd.projectcalico.org", "v1")
CALICO = ("projectcalico.org", "v3")


@dataclass(frozen=True, slots=True)
class ResourceType:
    """One kind of object.

    Attributes
    ----------
    views
        (group, version) pairs the object is served under. The first is the one it is stored
        with, so controllers see one spelling whichever way a client wrote it.
    has_status
        Whether status is a subresource: a write to the object leaves the status alone, a write
        to ``/status`` leaves the rest alone.
    counts_generation
        Whether ``metadata.generation`` counts changes outside metadata and status.
    """

    plural: str
    singular: str
    kind: str
    namespaced: bool
    views: tuple[tuple[str, str], ...]
    short_names: tuple[str, ...] = ()
    has_status: bool = False
    counts_generation: bool = False

    @property
    def group(self) -> str:
        """Group of the stored view; empty for core."""
        return self.views[0][0]

    @property
    def api_version(self) -> str:
        """``apiVersion`` of the stored view."""
        return api_version(self.views[0])

    @property
    def qualified(self) -> str:
        """``pods`` or ``ippools.projectcalico.org``, as messages spell it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


def api_version(view: tuple[str, str]) -> str:
    """``v1`` for core, ``group/version`` otherwise."""
    group, version = view
    return f"{group}/{version}" if group else version


RESOURCES: dict[str, ResourceType] = {
    item.plural: item
    for item in (
        ResourceType("namespaces", "namespace", "Namespace", False, (CORE,), ("ns",), True),
        ResourceType("nodes", "node", "Node", False, (CORE,), ("no",), True),
        ResourceType("pods", "pod", "Pod", True, (CORE,), ("po",), True),
        ResourceType("events", "event", "Event", True, (CORE,), ("ev",)),
        ResourceType("serviceaccounts", "serviceaccount", "ServiceAccount", True, (CORE,), ("sa",)),
        ResourceType("configmaps", "configmap", "ConfigMap", True, (CORE,), ("cm",)),
        ResourceType("services", "service", "Service", True, (CORE,), ("svc",), True),
        ResourceType("endpoints", "endpoints", "Endpoints", True, (CORE,), ("ep",)),
        ResourceType(
            "endpointslices",
            "endpointslice",
            "EndpointSlice",
            True,
            (DISCOVERY,),
            counts_generation=True,
        ),
        ResourceType("daemonsets", "daemonset", "DaemonSet", True, (APPS,), ("ds",), True, True),
        ResourceType(
            "felixconfigurations",
            "felixconfiguration",
            "FelixConfiguration",
            False,
            (CALICO, CRD),
            counts_generation=True,
        ),
        ResourceType("ippools", "ippool", "IPPool", False, (CALICO, CRD), counts_generation=True),
        ResourceType(
            "clusterinformations",
            "clusterinformation",
            "ClusterInformation",
            False,
            (CALICO, CRD),
            counts_generation=True,
        ),
        ResourceType("ipamblocks", "ipamblock", "IPAMBlock", False, (CRD,), counts_generation=True),
        ResourceType(
            "blockaffinities",
            "blockaffinity",
            "BlockAffinity",
            False,
            (CRD,),
            counts_generation=True,
        ),
    )
}
