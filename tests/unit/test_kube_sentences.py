"""What the API's objects and refusals mean in words."""

from __future__ import annotations

from typing import Any, cast

import httpx2
import pytest
from lightkube.core.exceptions import ApiError, ConfigError

from ebpfperf import reach
from ebpfperf.errors import InputError, KubeError
from ebpfperf.kube import Kube
from ebpfperf.kube_errors import kube_error, worth_another_try
from ebpfperf.kube_objects import choose_nodes, internal_ip, pod_ready, pod_state
from ebpfperf.model import ClusterRef

SERVER = "https://127.0.0.1:6443"
REQUEST = httpx2.Request("GET", SERVER)


def refusal(code: int, reason: str, message: str) -> KubeError:
    status = {"kind": "Status", "code": code, "reason": reason, "message": message}
    response = httpx2.Response(code, json=status, request=REQUEST)
    error = ApiError(request=REQUEST, response=response)
    return kube_error(error, "patch IPPool p", SERVER, "/k")


def test_forbidden_names_the_verb_and_the_resource() -> None:
    error = refusal(
        403,
        "Forbidden",
        'ippools.crd.projectcalico.org "p" is forbidden: User "eve" cannot patch resource '
        '"ippools" in API group "crd.projectcalico.org" at the cluster scope',
    )
    assert "User eve may not patch ippools.crd.projectcalico.org" in error.what
    assert "verb patch" in error.remedy
    assert error.fields == {"status": 403, "reason": "Forbidden"}
    assert "Grant" in refusal(403, "Forbidden", "no").remedy


@pytest.mark.parametrize(
    ("code", "word"), [(401, "credentials"), (404, "not found"), (409, "conflict"), (422, "bad")]
)
def test_each_refusal_is_a_sentence(code: int, word: str) -> None:
    error = refusal(code, "R", f"it is {word}.")
    assert word in error.what
    assert error.what.endswith((".", ")."))
    assert ".." not in error.what


def test_connection_failures() -> None:
    refused = kube_error(httpx2.ConnectError("refused"), "list IPPool", SERVER, None)
    assert "cannot be reached" in refused.what
    assert worth_another_try(httpx2.ConnectError("refused"))
    late = kube_error(httpx2.ReadTimeout(""), "list IPPool", SERVER, None)
    assert "did not answer in time" in late.what
    certificate = httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed")
    assert not worth_another_try(certificate)
    assert "did not sign" in kube_error(certificate, "x", SERVER, "/k").what
    page = httpx2.Response(502, text="<html>", request=REQUEST)
    plain = httpx2.HTTPStatusError("x", request=REQUEST, response=page)
    assert "502 without a Kubernetes status" in kube_error(plain, "x", SERVER, "/k").what
    assert "login" in kube_error(ConfigError("exec failed"), "x", SERVER, "/k").remedy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "a: [",
        "clusters: 7\ncontexts: []\n",
        "clusters: []\ncontexts: [{name: x, context: {cluster: 7}}]\ncurrent-context: x\n",
        "clusters: []\ncontexts: []\ncurrent-context: x\n",
        "clusters: []\ncontexts: [{name: x, context: {cluster: y}}]\ncurrent-context: x\n",
    ],
)
def test_a_bad_kubeconfig_is_one_sentence(tmp_path: Any, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(KubeError, match="cannot be used") as caught:
        Kube.connect(str(path))
    assert "--kubeconfig" in caught.value.remedy


def test_no_kubeconfig_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(KubeError, match="No kubeconfig was found") as caught:
        Kube.connect()
    assert "serviceaccount" not in caught.value.what, "that is for pods, of which this is none"
    with pytest.raises(KubeError, match=r"There is no kubeconfig .*/none\."):
        Kube.connect(str(tmp_path / "none"))


def node(name: str, *, ready: bool = True, **spec: Any) -> dict[str, Any]:
    status = {
        "conditions": [{"type": "Ready", "status": str(ready)}],
        "addresses": [
            {"type": "Hostname", "address": name},
            {"type": "InternalIP", "address": "2001:db8::1"},
            {"type": "InternalIP", "address": "198.18.0.11"},
        ],
    }
    return {"metadata": {"name": name}, "spec": spec, "status": status}


def test_the_first_two_ready_ordinary_nodes_are_measured() -> None:
    nodes = [
        node("a", taints=[{"effect": "NoSchedule"}]),
        node("d"),
        node("c"),
        node("b", ready=False),
    ]
    assert choose_nodes(nodes, ClusterRef()) == ("c", "d")
    assert choose_nodes(nodes, ClusterRef(server_node="c")) == ("d", "c")
    assert choose_nodes(nodes[:2], ClusterRef()) == ("d", "a")
    assert choose_nodes(nodes, ClusterRef(client_node="a", server_node="d")) == ("a", "d")


@pytest.mark.parametrize(
    ("ref", "match"),
    [
        (ClusterRef(client_node="b"), "no ready node b"),
        (ClusterRef(client_node="c", server_node="c"), "both on node c"),
    ],
)
def test_nodes_that_cannot_be_measured(ref: ClusterRef, match: str) -> None:
    with pytest.raises(InputError, match=match):
        choose_nodes([node("c"), node("d"), node("b", ready=False)], ref)
    with pytest.raises(InputError, match="Two ready nodes"):
        choose_nodes([node("c")], ClusterRef())


def test_objects_in_words() -> None:
    assert internal_ip(node("a")) == "198.18.0.11"
    assert internal_ip({"status": {}}) is None
    pod: dict[str, Any] = {
        "metadata": {},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    assert pod_ready(pod)
    pod["metadata"]["deletionTimestamp"] = "now"
    assert not pod_ready(pod)
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    pod["status"]["containerStatuses"] = [{"state": {"waiting": waiting}}]
    assert pod_state(pod) == "ImagePullBackOff no such image"
    assert pod_state(None) == "there is no such pod"
    pending = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False"}]}
    assert pod_state({"status": pending}) == "phase Pending, PodScheduled"


class Empty:
    def nodes(self) -> list[dict[str, Any]]:
        return []


def test_a_cluster_without_nodes_is_said_and_nothing_is_asked_of_it() -> None:
    with pytest.raises(InputError, match="The cluster has no nodes"):
        reach.node_names(cast(Kube, Empty()), [])
