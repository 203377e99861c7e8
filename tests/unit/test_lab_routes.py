"""Whatever is sent, the API answers with a document or a Status, never with a defect."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.requests import Request, Response, Stream
from ebpfperf.lab.resources import RESOURCES
from ebpfperf.lab.routes import Routes
from ebpfperf.lab.status import (
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    MethodNotAllowed,
    NotFound,
    StatusError,
)

KEYS = st.sampled_from(
    [
        "apiVersion", "kind", "metadata", "spec", "status", "name", "namespace", "labels", "uid",
        "resourceVersion", "annotations", "cidr", "blockSize", "ipipMode", "vxlanMode", "vxlanMTU",
        "containers", "image", "nodeName", "op", "path", "value", "from", "$patch", "env",
        "conditions", "routeTableRange", "preconditions", "gracePeriodSeconds", "dryRun",
    ]
)  # fmt: skip
VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        [
            "",
            "default",
            "v1",
            "Pod",
            "Always",
            "198.19.0.0/16",
            "fd00::/48",
            "add",
            "remove",
            "replace",
            "test",
            "move",
            "/spec",
            "/metadata/name",
            "",
            "delete",
            "x",
        ]
    )
)
BODIES = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
PATHS = st.sampled_from(
    [
        f"/{'api' if view == ('', 'v1') else 'apis/' + view[0]}/{view[1]}"
        f"/{'namespaces/default/' if kind.namespaced else ''}{kind.plural}{end}"
        for kind in RESOURCES.values()
        for view in kind.views
        for end in ("", "/x", "/x/status", "/x/log")
    ]
)
QUERY = st.dictionaries(
    st.sampled_from(
        [
            "labelSelector",
            "fieldSelector",
            "dryRun",
            "fieldValidation",
            "resourceVersion",
            "tailLines",
            "sinceSeconds",
            "gracePeriodSeconds",
            "includeObject",
            "limit",
        ]
    ),
    st.sampled_from(["", "1", "a=b", "metadata.name=x", "All", "Strict", "-1", "!", "²"]),
    max_size=3,
)
MEDIA = st.sampled_from(
    ["application/json", "application/merge-patch+json", "application/json-patch+json",
     "application/strategic-merge-patch+json", "application/yaml"]
)  # fmt: skip
ACCEPT = st.sampled_from(
    ["", "*/*", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "text/html"]
)


def seeded() -> ObjectStore:
    store = ObjectStore()
    store.create("namespaces", {"metadata": {"name": "default"}})
    for resource, kind in RESOURCES.items():
        spec = {"cidr": "198.19.0.0/16", "containers": [{"name": "c", "image": "i"}]}
        meta = {"name": "x"} | ({"namespace": "default"} if kind.namespaced else {})
        store.create(resource, {"metadata": meta, "spec": spec})
    return store


@pytest.fixture
def routes() -> Routes:
    return Routes(seeded(), logs=lambda node: [], stopped=lambda: True)


def ask(routes: Routes, method: str, target: str, body: Any = None, media: str = "") -> Any:
    headers = {"Content-Type": media or "application/json"}
    data = b"" if body is None else json.dumps(body).encode()
    answer = routes.answer(Request.of(method, target, headers, data))
    assert isinstance(answer, Response)
    return json.loads(answer.body)


@settings(max_examples=400, deadline=None)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"]),
    path=PATHS,
    query=QUERY,
    body=st.none() | BODIES,
    media=MEDIA,
    accept=ACCEPT,
)
def test_no_request_is_a_defect(
    method: str, path: str, query: dict[str, str], body: Any, media: str, accept: str
) -> None:
    store = seeded()
    routes = Routes(store, logs=lambda node: [], stopped=lambda: True)
    target = f"{path}?" + "&".join(f"{key}={quote(value)}" for key, value in query.items())
    data = b"" if body is None else json.dumps(body).encode()
    request = Request.of(method, target, {"Content-Type": media, "Accept": accept}, data)
    before = store.version
    refusal = None
    try:
        answer = routes.answer(request)
    except StatusError as error:
        refusal = error
    else:
        assert isinstance(answer, (Response, Stream))
    if refusal is not None:
        assert 400 <= refusal.code < 500
        assert json.loads(json.dumps(refusal.to_status()))["code"] == refusal.code
        assert store.version == before
    # What was stored can be read by the next one.
    for resource in RESOURCES:
        for obj in store.list(resource):
            assert isinstance(obj["metadata"]["name"], str)
            assert obj["kind"] == RESOURCES[resource].kind
    for kind in RESOURCES.values():
        head = "api/v1" if not kind.group else f"apis/{kind.group}/{kind.views[0][1]}"
        form = "application/json;as=Table;v=v1;g=meta.k8s.io"
        routes.answer(Request.of("GET", f"/{head}/{kind.plural}", {"Accept": form}, b""))


def test_a_pool_written_in_one_spelling_is_read_in_the_other(routes: Routes) -> None:
    path = "/apis/{}/ippools"
    body = {"metadata": {"name": "p"}, "spec": {"cidr": "198.19.128.0/17"}}
    made = ask(routes, "POST", path.format("projectcalico.org/v3"), body)
    assert made["spec"]["blockSize"] == 26
    read = ask(routes, "GET", path.format("crd.projectcalico.org/v1") + "/p")
    assert read == made | {"apiVersion": "crd.projectcalico.org/v1"}
    listed = ask(routes, "GET", path.format("crd.projectcalico.org/v1"))
    assert {item["apiVersion"] for item in listed["items"]} == {"crd.projectcalico.org/v1"}


def test_the_release_decides_which_fields_exist(routes: Routes) -> None:
    path = "/apis/crd.projectcalico.org/v1/felixconfigurations/x?fieldValidation=Strict"
    media = "application/merge-patch+json"
    store = routes._store
    store.patch("felixconfigurations", "x", {"spec": None})
    ask(routes, "PATCH", path, {"spec": {"programClusterRoutes": "Enabled"}}, media)
    store.patch("clusterinformations", "x", {"spec": None})
    store.create(
        "clusterinformations",
        {"metadata": {"name": "default"}, "spec": {"calicoVersion": "v3.16.1"}},
    )
    with pytest.raises(StatusError, match="programClusterRoutes"):
        ask(routes, "PATCH", path, {"spec": {"vxlanMTU": 1400}}, media)


def test_a_watch_is_refused_before_it_begins(routes: Routes) -> None:
    def watch(query: str) -> None:
        routes.answer(Request.of("GET", f"/api/v1/pods?watch=true&{query}", {}, b""))

    with pytest.raises(Gone):
        watch("resourceVersion=99999")
    with pytest.raises(Invalid, match="sendInitialEvents"):
        watch("sendInitialEvents=true")
    watch("resourceVersion=0")


def test_a_delete_honours_its_preconditions(routes: Routes) -> None:
    path = "/apis/crd.projectcalico.org/v1/ippools/x"
    with pytest.raises(Conflict):
        ask(routes, "DELETE", path, {"preconditions": {"uid": "other"}})
    assert ask(routes, "DELETE", path, {"dryRun": ["All"]})["status"] == "Success"
    done = ask(routes, "DELETE", path)
    assert (done["kind"], done["details"]["kind"]) == ("Status", "ippools")


def test_the_log_of_a_pod_on_a_node_that_is_not_there_is_not_found(routes: Routes) -> None:
    labels = {"k8s-app": "calico-node"}
    spec = {"nodeName": "ghost", "containers": [{"name": "c", "image": "i"}]}
    body = {"metadata": {"name": "p", "labels": labels}, "spec": spec}
    ask(routes, "POST", "/api/v1/namespaces/default/pods", body)
    with pytest.raises(NotFound, match="ghost"):
        ask(routes, "GET", "/api/v1/namespaces/default/pods/p/log")


def test_the_namespaces_every_cluster_has_stay(routes: Routes) -> None:
    with pytest.raises(Forbidden):
        ask(routes, "DELETE", "/api/v1/namespaces/default")
    with pytest.raises(MethodNotAllowed):
        ask(routes, "DELETE", "/api/v1/namespaces")
