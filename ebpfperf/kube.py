"""The Kubernetes API: raw objects in and out, one sentence when it refuses."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import httpx2
import lightkube
import stamina
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.core.exceptions import ConfigError
from lightkube.generic_resource import (
    GenericGlobalResource,
    GenericNamespacedResource,
    create_api_info,
)
from lightkube.resources.core_v1 import PodLog
from lightkube.types import PatchType
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ebpfperf.errors import KubeError
from ebpfperf.kube_errors import kube_error, worth_another_try
from ebpfperf.kube_objects import Object, pod_ready, pod_state
from ebpfperf.mutations import GRACE_S, Mutation

T = TypeVar("T")

CALICO_GROUPS = (("projectcalico.org", "v3"), ("crd.projectcalico.org", "v1"))
CALICO_KINDS = {
    "FelixConfiguration": "felixconfigurations",
    "IPPool": "ippools",
    "ClusterInformation": "clusterinformations",
}
CALICO_NODE_NAMESPACES = ("kube-system", "calico-system")
TIMEOUT_S = 10.0
POLL_S = 0.1
# Of a list that is read in parts: so many objects come in one answer.
_PART = 500
_FORBIDDEN = 403
Kept = Callable[[Any], Object]

# Retries are for whoever configures logging, not for the terminal of a notebook.
logging.getLogger("stamina").addHandler(logging.NullHandler())


class _Node(GenericGlobalResource):
    _api_info = create_api_info("", "v1", "Node", "nodes")


class _Namespace(GenericGlobalResource):
    _api_info = create_api_info("", "v1", "Namespace", "namespaces")


class _Pod(GenericNamespacedResource):
    _api_info = create_api_info("", "v1", "Pod", "pods")


class _Service(GenericNamespacedResource):
    _api_info = create_api_info("", "v1", "Service", "services")


class _EndpointSlice(GenericNamespacedResource):
    _api_info = create_api_info("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")


class _DaemonSet(GenericNamespacedResource):
    _api_info = create_api_info("apps", "v1", "DaemonSet", "daemonsets")


class _ConfigMap(GenericNamespacedResource):
    _api_info = create_api_info("", "v1", "ConfigMap", "configmaps")


class _Installation(GenericGlobalResource):
    _api_info = create_api_info("operator.tigera.io", "v1", "Installation", "installations")


def _calico_class(group: str, version: str, kind: str) -> Any:
    info = create_api_info(group, version, kind, CALICO_KINDS[kind])
    return type(kind, (GenericGlobalResource,), {"_api_info": info})


class Kube:
    """A cluster's API. Objects are plain dicts in the API's own spelling.

    Every method raises ``KubeError`` with fields ``status`` and ``reason`` where the API gave
    them. Reading is tried three times when the connection fails; a change is sent once.
    """

    def __init__(self, client: lightkube.Client, *, kubeconfig: str | None, context: str) -> None:
        self._client = client
        self.kubeconfig = kubeconfig
        self.context = context
        self.server: str = client.config.cluster.server
        self._calico_group: tuple[str, str] | None = None
        self._classes: dict[str, Any] = {
            "Node": _Node,
            "Namespace": _Namespace,
            "Pod": _Pod,
            "Service": _Service,
            "EndpointSlice": _EndpointSlice,
            "DaemonSet": _DaemonSet,
            "ConfigMap": _ConfigMap,
            "Installation": _Installation,
        }

    @classmethod
    def connect(cls, kubeconfig: str | None = None, context: str | None = None) -> Kube:
        """A client for the context; nothing is sent yet.

        None for ``kubeconfig`` means the first file that exists of ``$KUBECONFIG``, then
        ``~/.kube/config``, then the pod's own service account.
        """
        path = _kubeconfig_path(kubeconfig)
        try:
            config = _read_config(path) if path else KubeConfig.from_service_account()
            single = config.get(context)
            if single is None or single.user is None:
                raise ConfigError(f"context {context or config.current_context!r} names no user")
            client = _client(single)
        except (ConfigError, KeyError, TypeError, ValueError, OSError, YAMLError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            what = f"The kubeconfig {path} cannot be used: {why}."
            if path is None:
                what = "No kubeconfig was found: KUBECONFIG is not set, ~/.kube/config not there."
            elif not path.exists():
                what = f"There is no kubeconfig {path}."
            raise KubeError(
                what,
                "Give --kubeconfig and --context, or set KUBECONFIG.",
                kubeconfig=str(path or kubeconfig or ""),
            ) from error
        absolute = str(path.absolute()) if path else None
        return cls(client, kubeconfig=absolute, context=single.context_name)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # ---------------------------------------------------------------- reading

    def get(self, kind: str, name: str, namespace: str = "") -> Object | None:
        """The object, or None where there is none of that name."""
        try:
            return self._read(
                f"get {kind} {name}",
                lambda: dict(self._client.get(self._class(kind), name, **_scope(namespace))),
            )
        except KubeError as error:
            if error.fields.get("status") == 404:
                return None
            raise

    def felix_configuration(self, name: str = "default") -> Object | None:
        """FelixConfiguration of that name, or None."""
        return self.get("FelixConfiguration", name)

    def felix_configurations(self) -> list[Object]:
        """All FelixConfigurations by name."""
        return self._list("FelixConfiguration")

    def ippools(self) -> list[Object]:
        """All IPPools by name."""
        return self._list("IPPool")

    def cluster_information(self) -> Object | None:
        """ClusterInformation ``default``, or None."""
        return self.get("ClusterInformation", "default")

    def release(self) -> str | None:
        """Calico's release, ``v3.26.1``; None where the cluster does not say."""
        information = self.cluster_information() or {}
        return cast("str | None", information.get("spec", {}).get("calicoVersion"))

    def nodes(self) -> list[Object]:
        """All Nodes by name."""
        return self._list("Node")

    def pods(self, namespace: str, labels: Mapping[str, str] | None = None) -> list[Object]:
        """The pods of a namespace by name, or those with these labels."""
        return self._list("Pod", namespace=namespace, labels=labels)

    def endpoint_slices(self, namespace: str, service: str) -> list[Object]:
        """The EndpointSlices of a Service by name."""
        labels = {"kubernetes.io/service-name": service}
        return self._list("EndpointSlice", namespace=namespace, labels=labels)

    def everywhere(self, kind: str, *, named: str | None = None, kept: Kept = dict) -> list[Object]:
        """All objects of a kind in every namespace, by name; or those of one name.

        ``kept`` makes of each what is kept of it, before the next is read.
        """
        fields = {"metadata.name": named} if named else None
        return self._list(kind, namespace="*", fields=fields, kept=kept)

    def cluster_wide(self, kind: str, *, kept: Kept = dict) -> list[Object]:
        """All objects of a kind that has no namespaces, by name; ``kept`` as above."""
        return self._list(kind, kept=kept)

    def cluster_uid(self) -> str | None:
        """An identity that survives everything but a new cluster: the uid of kube-system."""
        namespace = self.get("Namespace", "kube-system")
        return None if namespace is None else cast(str, namespace["metadata"]["uid"])

    def calico_node_pod(self, node: str) -> Object | None:
        """The calico-node pod of a node, or None (its newest, where one is just ending)."""
        for namespace in CALICO_NODE_NAMESPACES:
            if (pod := self._calico_node_pods(namespace).get(node)) is not None:
                return pod
        return None

    def calico_node_pods(self) -> dict[str, Object]:
        """Node → its calico-node pod (its newest, where one is just ending)."""
        found: dict[str, Object] = {}
        for namespace in reversed(CALICO_NODE_NAMESPACES):
            found |= self._calico_node_pods(namespace)
        return found

    def _calico_node_pods(self, namespace: str) -> dict[str, Object]:
        pods = self.pods(namespace, {"k8s-app": "calico-node"})
        pods.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
        return {str(pod.get("spec", {}).get("nodeName")): pod for pod in pods}

    def logs(
        self,
        namespace: str,
        pod: str,
        *,
        tail_lines: int | None = None,
        since_seconds: int | None = None,
        container: str | None = None,
        previous: bool = False,
    ) -> str:
        """The log text of a pod's container; or of the one before its last restart."""
        if previous:
            return self._read(
                f"get the earlier log of pod {namespace}/{pod}",
                lambda: self._earlier_log(namespace, pod, tail_lines, container),
            )
        lines = self._read(
            f"get the log of pod {namespace}/{pod}",
            lambda: list(
                self._client.log(
                    pod,
                    namespace=namespace,
                    container=container,
                    since=since_seconds,
                    tail_lines=tail_lines,
                )
            ),
        )
        return "".join(lines)

    def wait_pod_ready(self, namespace: str, name: str, *, timeout_s: float = 60.0) -> Object:
        """The pod once it is Ready and has an address; KubeError says what it waits for."""
        deadline = time.monotonic() + timeout_s
        while True:
            pod = self.get("Pod", name, namespace)
            if pod is not None and pod_ready(pod) and pod.get("status", {}).get("podIP"):
                return pod
            if time.monotonic() > deadline:
                raise KubeError(
                    f"Pod {namespace}/{name} is not ready after {timeout_s:g} s: {pod_state(pod)}.",
                    f"See kubectl -n {namespace} describe pod {name}.",
                    reason="pod-not-ready",
                    pod=name,
                )
            time.sleep(POLL_S)

    def wait_gone(self, kind: str, name: str, namespace: str = "", *, timeout_s: float) -> None:
        """Returns when there is no such object; KubeError after the timeout."""
        deadline = time.monotonic() + timeout_s
        while self.get(kind, name, namespace) is not None:
            if time.monotonic() > deadline:
                raise KubeError(
                    f"{kind} {name} is still there {timeout_s:g} s after it was deleted.",
                    "See whether its node is up and what finalizer it waits for.",
                    reason="not-gone",
                )
            time.sleep(POLL_S)

    # --------------------------------------------------------------- changing

    def apply(self, mutation: Mutation) -> Object:
        """The object after the change; ``{}`` after a delete, also of what was not there."""
        cls, doing = self._class(mutation.kind), f"{mutation.verb} {mutation.kind} {mutation.name}"
        scope = _scope(mutation.namespace)
        if mutation.verb == "create":
            return self._send(
                doing, lambda: dict(self._client.create(cls(mutation.body or {}), **scope))
            )
        if mutation.verb == "patch":
            body = cast(Any, mutation.body)
            return self._send(
                doing,
                lambda: dict(
                    self._client.patch(
                        cls, mutation.name, body, patch_type=PatchType.MERGE, **scope
                    )
                ),
            )
        grace = GRACE_S if mutation.kind == "Pod" else None
        try:
            self._send(
                doing,
                lambda: self._client.delete(cls, mutation.name, grace_period=grace, **scope),
            )
        except KubeError as error:
            if error.fields.get("status") != 404:
                raise
        return {}

    # ---------------------------------------------------------------- inside

    def _class(self, kind: str) -> Any:
        if kind in CALICO_KINDS and kind not in self._classes:
            group, version = self._group()
            self._classes[kind] = _calico_class(group, version, kind)
        return self._classes[kind]

    def _group(self) -> tuple[str, str]:
        """The group that serves Calico's kinds: its API server or native v3, else the CRDs."""
        if self._calico_group is None:
            refused: KubeError | None = None
            for group, version in CALICO_GROUPS:
                self._classes["IPPool"] = _calico_class(group, version, "IPPool")
                try:
                    self.ippools()
                except KubeError as error:
                    # 503: the aggregated API is registered but its server is down. Who may not
                    # read a group is told so (403) even where the cluster does not have it.
                    if error.fields.get("status") not in (403, 404, 503):
                        raise
                    refused = refused or (error if error.fields["status"] == 403 else None)
                    continue
                self._calico_group = (group, version)
                break
            else:
                del self._classes["IPPool"]
                if refused is not None:
                    raise refused
                raise KubeError(
                    f"The API at {self.server} serves no Calico resources.",
                    "Is this a Calico cluster? Check the kubeconfig and its context.",
                    status=404,
                    reason="no-calico",
                )
        return self._calico_group

    def _list(
        self,
        kind: str,
        *,
        namespace: str = "",
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        kept: Kept = dict,
    ) -> list[Object]:
        selector: Any = {"labels": dict(labels)} if labels else {}
        selector |= {"fields": dict(fields)} if fields else {}
        cls = self._class(kind)
        found = self._read(
            f"list {kind}",
            lambda: [
                kept(found)
                for found in self._client.list(
                    cls, chunk_size=_PART, **_scope(namespace), **selector
                )
            ],
        )
        return sorted(found, key=lambda obj: str(obj["metadata"]["name"]))

    def _earlier_log(
        self, namespace: str, pod: str, tail_lines: int | None, container: str | None
    ) -> str:
        # lightkube's log() has no such parameter.
        inner: Any = self._client._client
        told = {"tailLines": tail_lines, "container": container, "previous": True}
        asked = inner.prepare_request("get", PodLog, name=pod, namespace=namespace, params=told)
        answer = inner.send(inner.build_adapter_request(asked))
        inner.raise_for_status(answer)
        return str(answer.text)

    def _read(self, doing: str, call: Callable[[], T]) -> T:
        try:
            for attempt in stamina.retry_context(
                on=worth_another_try, attempts=3, timeout=5.0, wait_initial=0.1, wait_jitter=0.1
            ):
                with attempt:
                    return call()
        except (httpx2.HTTPError, ConfigError) as error:
            raise kube_error(error, doing, self.server, self.kubeconfig) from error
        raise AssertionError("unreachable")

    def _send(self, doing: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except (httpx2.HTTPError, ConfigError) as error:
            raise kube_error(error, doing, self.server, self.kubeconfig) from error


def _scope(namespace: str) -> Any:
    return {"namespace": namespace} if namespace else {}


def _kubeconfig_path(given: str | None) -> Path | None:
    if given:
        return Path(given).expanduser()
    named = [Path(p).expanduser() for p in os.environ.get("KUBECONFIG", "").split(":") if p]
    if named:
        return next((path for path in named if path.is_file()), named[0])
    default = Path("~/.kube/config").expanduser()
    return default if default.is_file() else None


def _read_config(path: Path) -> KubeConfig:
    content = YAML(typ="safe", pure=True).load(path.read_text())
    if not isinstance(content, dict):
        raise ConfigError("it is not a kubeconfig")
    return KubeConfig.from_dict(content, fname=path)


def _client(single: SingleConfig) -> lightkube.Client:
    host = urlsplit(single.cluster.server).hostname or ""
    # Unlike kubectl, httpx sends even loopback requests to $HTTPS_PROXY.
    local = host == "localhost" or host.startswith("127.") or host == "::1"
    return lightkube.Client(
        config=single, timeout=httpx2.Timeout(TIMEOUT_S), trust_env=not local, lazy=False
    )
