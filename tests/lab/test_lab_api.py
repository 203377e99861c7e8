"""The lab's API, used by the clients people use: kubectl, lightkube, and bare HTTP."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import queue
import shutil
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightkube
import pytest
from lightkube.config.kubeconfig import KubeConfig
from lightkube.core.exceptions import ApiError
from lightkube.generic_resource import create_global_resource
from lightkube.models.core_v1 import Container, PodSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Namespace, Node, Pod
from lightkube.types import PatchType
from ruamel.yaml import YAML

from ebpfperf.lab.api import BODY_LIMIT_BYTES, ApiServer
from ebpfperf.lab.objects import ObjectStore

pytestmark = [pytest.mark.lab, pytest.mark.beside]

LIMIT_S = 60

FelixV3 = create_global_resource(
    "projectcalico.org", "v3", "FelixConfiguration", "felixconfigurations"
)
FelixV1 = create_global_resource(
    "crd.projectcalico.org", "v1", "FelixConfiguration", "felixconfigurations"
)
PoolV1 = create_global_resource("crd.projectcalico.org", "v1", "IPPool", "ippools")


class Lab:
    """A started API over a small seeded cluster, and a kubelet that only lets pods go."""

    def __init__(self, state_dir: Path) -> None:
        self.store = ObjectStore()
        self.log: deque[str] = deque(
            [f"2021-01-31 09:00:0{i}.000 [INFO][42] line {i}" for i in range(5)], maxlen=100
        )
        for name in ("default", "kube-system"):
            self.store.create(
                "namespaces", {"metadata": {"name": name}, "status": {"phase": "Active"}}
            )
        for name in ("node-1", "node-2"):
            status = {"conditions": [{"type": "Ready", "status": "True"}]}
            self.store.create("nodes", {"metadata": {"name": name}, "status": status})
        self.store.create(
            "clusterinformations",
            {"metadata": {"name": "default"}, "spec": {"calicoVersion": "v3.26.1"}},
        )
        self.store.create(
            "felixconfigurations", {"metadata": {"name": "default"}, "spec": {"bpfLogLevel": ""}}
        )
        self.store.create(
            "ippools",
            {
                "metadata": {"name": "default-ipv4-ippool"},
                "spec": {"cidr": "198.19.0.0/16", "vxlanMode": "Always", "natOutgoing": True},
            },
        )
        self.store.create(
            "pods",
            {
                "metadata": {
                    "name": "calico-node-1",
                    "namespace": "kube-system",
                    "labels": {"k8s-app": "calico-node"},
                },
                "spec": {
                    "nodeName": "node-1",
                    "containers": [{"name": "calico-node", "image": "calico/node"}],
                },
                "status": {"phase": "Running"},
            },
        )
        self.server = ApiServer(
            self.store,
            state_dir=state_dir,
            logs=lambda node: list(self.log) if node == "node-1" else [],
        )
        self._stopped = threading.Event()
        self._kubelet = threading.Thread(target=self._let_go, daemon=True)

    def start(self) -> None:
        self.server.start()
        self._kubelet.start()

    def stop(self) -> None:
        self._stopped.set()
        self.server.stop()
        self._kubelet.join(LIMIT_S)

    def _let_go(self) -> None:
        version = 0
        while not self._stopped.is_set():
            for pod in self.store.list("pods"):
                meta = pod["metadata"]
                if meta.get("deletionTimestamp"):
                    self.store.finalize_delete("pods", meta["name"], meta["namespace"])
            version = self.store.changed(version, 0.5)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    state_dir = tmp_path / "demo"
    state_dir.mkdir()
    lab = Lab(state_dir)
    lab.start()
    yield lab
    lab.stop()


@pytest.fixture
def client(lab: Lab) -> Iterator[lightkube.Client]:
    with lightkube.Client(KubeConfig.from_file(str(lab.server.kubeconfig))) as client:
        yield client


# -- kubectl -----------------------------------------------------------------------------------

KUBECTL = os.environ.get("EBPFPERF_KUBECTL") or shutil.which("kubectl")


class Running:
    """A command that goes on, and the lines it has printed."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self.lines: queue.Queue[str] = queue.Queue()
        self._process = subprocess.Popen(
            argv, env=environment, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def line(self) -> str:
        return self.lines.get(timeout=LIMIT_S)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.lines.put(line.rstrip("\n"))


class Kubectl:
    """kubectl with a home and a kubeconfig of its own."""

    def __init__(self, kubeconfig: Path, home: Path) -> None:
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "KUBECONFIG": str(kubeconfig),
        }

    def run(self, *argv: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        assert KUBECTL is not None
        return subprocess.run(
            [KUBECTL, *argv],
            input=text,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def __call__(self, *argv: str, text: str | None = None) -> str:
        done = self.run(*argv, text=text)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *argv: str, text: str | None = None) -> str:
        done = self.run(*argv, text=text)
        assert done.returncode == 1, done.stdout
        return done.stderr

    def json(self, *argv: str) -> Any:
        return json.loads(self("get", *argv, "-o", "json"))

    def start(self, *argv: str) -> Running:
        assert KUBECTL is not None
        return Running([KUBECTL, *argv], self.environment)


@pytest.fixture
def kubectl(lab: Lab, tmp_path: Path) -> Kubectl:
    if KUBECTL is None:
        pytest.skip("missing: kubectl (Debian package kubernetes-client)")
    return Kubectl(lab.server.kubeconfig, tmp_path)


def test_kubectl_gets_one_object_in_both_spellings(lab: Lab, kubectl: Kubectl) -> None:
    new = kubectl.json("felixconfigurations.projectcalico.org", "default")
    old = kubectl.json("felixconfigurations.crd.projectcalico.org", "default")
    assert new.pop("apiVersion") == "projectcalico.org/v3"
    assert old.pop("apiVersion") == "crd.projectcalico.org/v1"
    assert new == old
    text = kubectl("get", "felixconfiguration", "default", "-o", "yaml")
    assert YAML(typ="safe").load(text)["spec"] == {"bpfLogLevel": ""}
    assert kubectl.json("nodes")["items"][1]["metadata"]["name"] == "node-2"
    assert kubectl.json("nodes")["kind"] == "List"


def test_kubectl_merge_patch_with_null_removes_a_field(lab: Lab, kubectl: Kubectl) -> None:
    before = kubectl.json("felixconfiguration", "default")["spec"]
    for value, expected in ((False, before | {"vxlanEnabled": False}), (None, before)):
        patch = json.dumps({"spec": {"vxlanEnabled": value}})
        out = kubectl("patch", "felixconfiguration", "default", "--type", "merge", "-p", patch)
        assert "patched" in out
        assert kubectl.json("felixconfiguration", "default")["spec"] == expected
    again = kubectl("patch", "felixconfiguration", "default", "--type", "merge", "-p", patch)
    assert "no change" in again


def test_kubectl_json_patch_switches_a_pool(lab: Lab, kubectl: Kubectl) -> None:
    pool = ("ippool", "default-ipv4-ippool")
    switch = [
        {"op": "test", "path": "/spec/vxlanMode", "value": "Always"},
        {"op": "add", "path": "/spec/ipipMode", "value": "Always"},
        {"op": "replace", "path": "/spec/vxlanMode", "value": "Never"},
    ]
    kubectl("patch", *pool, "--type", "json", "-p", json.dumps(switch))
    spec = kubectl.json(*pool)["spec"]
    assert (spec["ipipMode"], spec["vxlanMode"]) == ("Always", "Never")
    error = kubectl.refused("patch", *pool, "--type", "json", "-p", json.dumps(switch))
    assert "test of '/spec/vxlanMode' failed" in error


@pytest.mark.parametrize(
    ("target", "patch", "message"),
    [
        (("felixconfiguration", "default"), {"spec": {"vxlanMTU": "big"}}, "spec.vxlanMTU"),
        (("felixconfiguration", "default"), {"spec": {"bpfLogLevel": "x"}}, "should match"),
        (("ippool", "default-ipv4-ippool"), {"spec": {"ipipMode": "Always"}}, "both be enabled"),
        (("ippool", "default-ipv4-ippool"), {"spec": {"cidr": "10.0.0.0/8"}}, "immutable"),
        (("felixconfiguration", "nobody"), {"spec": {}}, '"nobody" not found'),
    ],
)
def test_kubectl_shows_why_a_patch_is_refused(
    lab: Lab, kubectl: Kubectl, target: tuple[str, str], patch: Any, message: str
) -> None:
    version = lab.store.version
    error = kubectl.refused("patch", *target, "--type", "merge", "-p", json.dumps(patch))
    assert message in error
    assert lab.store.version == version


MANIFEST = """
apiVersion: v1
kind: Namespace
metadata: {name: bench}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: bench, labels: {app: "first"}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: pause}]
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: second}
spec: {cidr: 198.19.128.0/17, vxlanMode: CrossSubnet}
"""


def test_kubectl_applies_changes_and_deletes_a_manifest(lab: Lab, kubectl: Kubectl) -> None:
    assert kubectl("apply", "-f", "-", text=MANIFEST).count("created") == 3
    assert kubectl("apply", "-f", "-", text=MANIFEST).count("unchanged") == 3
    pod = kubectl.json("pod", "web", "-n", "bench")
    changed = MANIFEST.replace("first", "second-time").replace("CrossSubnet", "Always")
    out = kubectl("apply", "-f", "-", text=changed)
    assert (out.count("configured"), out.count("unchanged")) == (2, 1)
    after = kubectl.json("pod", "web", "-n", "bench")
    assert after["metadata"]["labels"] == {"app": "second-time"}
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    assert kubectl.json("ippool", "second")["spec"]["vxlanMode"] == "Always"
    # A field that leaves the manifest leaves the object.
    kubectl("apply", "-f", "-", text=changed.replace(", vxlanMode: Always", ""))
    assert "vxlanMode" not in kubectl.json("ippool", "second")["spec"]
    kubectl("delete", "-f", "-", text="\n---\n".join(reversed(MANIFEST.split("\n---\n"))))
    names = [n["metadata"]["name"] for n in kubectl.json("namespaces")["items"]]
    assert names == ["default", "kube-system"]
    assert lab.store.list("pods", "bench") == []


def test_kubectl_is_told_of_a_field_that_the_release_has_not(lab: Lab, kubectl: Kubectl) -> None:
    patch = json.dumps({"spec": {"ipInIpEnabled": True}})
    done = kubectl.run("patch", "felixconfiguration", "default", "--type", "merge", "-p", patch)
    assert 'unknown field "spec.ipInIpEnabled"' in done.stderr
    assert kubectl.json("felixconfiguration", "default")["spec"] == {"bpfLogLevel": ""}
    manifest = MANIFEST.split("---")[2].replace("vxlanMode", "vxlanMod")
    done = kubectl.run("apply", "-f", "-", text=manifest)
    assert 'unknown field "spec.vxlanMod"' in done.stderr


def test_kubectl_creates_and_deletes_by_name(lab: Lab, kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "bench")
    assert "already exists" in kubectl.refused("create", "namespace", "bench")
    kubectl("run", "web", "-n", "bench", "--image", "pause")
    deadline = time.monotonic() + LIMIT_S
    while not (bound := kubectl.json("pod", "web", "-n", "bench")["spec"].get("nodeName")):
        assert time.monotonic() < deadline
    assert bound in ("node-1", "node-2")
    kubectl("delete", "pod", "web", "-n", "bench")
    kubectl("delete", "namespace", "bench")
    assert '"bench" not found' in kubectl.refused("get", "namespace", "bench")


def test_kubectl_tables_and_selectors(lab: Lab, kubectl: Kubectl) -> None:
    heads = {
        "nodes": ["NAME", "STATUS", "ROLES", "AGE", "VERSION"],
        "ippools": ["NAME", "CIDR", "VXLAN", "IPIP", "NAT", "AGE"],
        "felixconfigurations": ["NAME", "AGE"],
        "clusterinformations": ["NAME", "VERSION", "AGE"],
    }
    for resource, head in heads.items():
        assert kubectl("get", resource).split("\n")[0].split() == head
    row = kubectl("get", "ippools", "--no-headers").split()
    assert row[:5] == ["default-ipv4-ippool", "198.19.0.0/16", "Always", "Never", "true"]
    wide = kubectl("get", "pods", "-A", "-o", "wide", "-l", "k8s-app=calico-node")
    assert wide.split("\n")[1].split()[-1] == "node-1"
    one = kubectl("get", "pods", "-A", "--field-selector", "spec.nodeName=node-1", "-o", "name")
    assert one.split() == ["pod/calico-node-1"]
    none = kubectl.run("get", "pods", "-A", "--field-selector", "spec.nodeName=node-2")
    assert "No resources found" in none.stderr


def test_kubectl_logs(lab: Lab, kubectl: Kubectl) -> None:
    name = ("-n", "kube-system", "calico-node-1")
    assert kubectl("logs", *name).splitlines() == list(lab.log)
    assert kubectl("logs", *name, "--tail=2").splitlines() == list(lab.log)[-2:]
    assert kubectl("logs", *name, "--since=10s") == ""
    assert "not valid" in kubectl.refused("logs", *name, "-c", "other")


def test_kubectl_follows_a_log_until_it_leaves(lab: Lab, kubectl: Kubectl) -> None:
    following = kubectl.start("logs", "-f", "--tail=1", "-n", "kube-system", "calico-node-1")
    try:
        assert following.line() == "2021-01-31 09:00:04.000 [INFO][42] line 4"
        lab.log.append("2021-01-31 09:00:05.000 [INFO][42] line 5")
        assert following.line() == "2021-01-31 09:00:05.000 [INFO][42] line 5"
    finally:
        following.stop()


def test_kubectl_watches(lab: Lab, kubectl: Kubectl) -> None:
    watching = kubectl.start("get", "ippools", "-w", "-o", "name")
    rows = kubectl.start("get", "ippools", "--watch-only")
    name = "default-ipv4-ippool"
    try:
        assert watching.line() == f"ippool.crd.projectcalico.org/{name}"
        # Until its first row, nothing tells that the second watch has begun.
        deadline = time.monotonic() + LIMIT_S
        while rows.lines.empty():
            assert time.monotonic() < deadline
            flip = not lab.store.get("ippools", name)["spec"]["natOutgoing"]
            lab.store.patch("ippools", name, {"spec": {"natOutgoing": flip}})
            time.sleep(0.1)
        assert rows.line().split()[:2] == ["NAME", "CIDR"]
        assert rows.line().split()[:2] == [name, "198.19.0.0/16"]
        assert watching.line() == f"ippool.crd.projectcalico.org/{name}"
    finally:
        watching.stop()
        rows.stop()


def test_kubectl_waits_for_a_condition(lab: Lab, kubectl: Kubectl) -> None:
    lab.store.create(
        "pods",
        {
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "pause"}]},
        },
    )
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    later = threading.Timer(0.3, lambda: lab.store.update_status("pods", "web", ready, "default"))
    later.start()
    assert "met" in kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=15s")
    later.join()


# -- lightkube ---------------------------------------------------------------------------------


def test_lightkube_lists_and_gets(client: lightkube.Client) -> None:
    assert [node.metadata.name for node in client.list(Node)] == ["node-1", "node-2"]
    assert client.get(FelixV3, "default").spec == {"bpfLogLevel": ""}
    assert client.get(PoolV1, "default-ipv4-ippool").spec["cidr"] == "198.19.0.0/16"
    pods = client.list(Pod, namespace="*", labels={"k8s-app": "calico-node"})
    assert [pod.metadata.name for pod in pods] == ["calico-node-1"]
    chosen = client.list(Pod, namespace="*", fields={"spec.nodeName": "node-2"})
    assert list(chosen) == []


def test_lightkube_patches_through_either_spelling(client: lightkube.Client) -> None:
    client.patch(FelixV3, "default", {"spec": {"vxlanMTU": 1400}}, patch_type=PatchType.MERGE)
    assert client.get(FelixV1, "default").spec == {"bpfLogLevel": "", "vxlanMTU": 1400}
    removed = client.patch(
        FelixV1,
        "default",
        [{"op": "remove", "path": "/spec/vxlanMTU"}],
        patch_type=PatchType.JSON,
    )
    assert removed.spec == {"bpfLogLevel": ""}


def test_lightkube_meets_a_conflict_on_a_stale_replace(client: lightkube.Client) -> None:
    mine, theirs = (client.get(FelixV1, "default") for _ in range(2))
    theirs.spec["vxlanMTU"] = 1400
    client.replace(theirs)
    mine.spec["vxlanMTU"] = 1300
    with pytest.raises(ApiError) as error:
        client.replace(mine)
    assert (error.value.status.code, error.value.status.reason) == (409, "Conflict")
    assert client.get(FelixV1, "default").spec["vxlanMTU"] == 1400


def test_lightkube_is_told_every_wrong_field(client: lightkube.Client) -> None:
    wrong = {"spec": {"vxlanMTU": "a", "vxlanPort": "b"}}
    with pytest.raises(ApiError) as error:
        client.patch(FelixV1, "default", wrong, patch_type=PatchType.MERGE)
    status = error.value.status
    assert (status.code, status.reason, status.details.kind) == (
        422,
        "Invalid",
        "FelixConfiguration",
    )
    assert {cause.field for cause in status.details.causes} == {"spec.vxlanMTU", "spec.vxlanPort"}


def test_lightkube_creates_and_deletes(client: lightkube.Client, lab: Lab) -> None:
    client.create(Namespace(metadata=ObjectMeta(name="bench")))
    pod = Pod(
        metadata=ObjectMeta(name="web", namespace="bench"),
        spec=PodSpec(nodeName="node-2", containers=[Container(name="c", image="pause")]),
    )
    assert client.create(pod).status.phase == "Pending"
    with pytest.raises(ApiError) as error:
        client.create(pod)
    assert error.value.status.reason == "AlreadyExists"
    client.delete(Pod, "web", namespace="bench", grace_period=0)
    client.delete(Namespace, "bench")
    deadline = time.monotonic() + LIMIT_S
    while lab.store.list("pods", "bench") or len(lab.store.list("namespaces")) > 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_lightkube_watches_a_prime_number_of_changes(client: lightkube.Client, lab: Lab) -> None:
    start = lab.store.version
    count = 101
    writer = threading.Thread(
        target=lambda: [
            lab.store.patch("felixconfigurations", "default", {"spec": {"vxlanMTU": 1300 + i}})
            for i in range(count)
        ]
    )
    writer.start()
    seen = []
    for kind, obj in client.watch(FelixV3, resource_version=str(start), server_timeout=LIMIT_S):
        assert kind == "MODIFIED"
        seen.append(obj.spec["vxlanMTU"])
        if len(seen) == count:
            break
    writer.join(LIMIT_S)
    assert seen == [1300 + i for i in range(count)]


def test_a_dry_run_by_lightkube_changes_nothing(client: lightkube.Client, lab: Lab) -> None:
    version = lab.store.version
    seen = client.patch(
        FelixV1, "default", {"spec": {"vxlanMTU": 1}}, patch_type=PatchType.MERGE, dry_run=True
    )
    assert seen.spec["vxlanMTU"] == 1
    assert lab.store.version == version


# -- bare HTTP ---------------------------------------------------------------------------------


@pytest.fixture
def token(lab: Lab) -> str:
    config = json.loads(lab.server.kubeconfig.read_text())
    token = config["users"][0]["user"]["token"]
    assert isinstance(token, str)
    return token


@pytest.fixture
def connection(lab: Lab) -> Iterator[http.client.HTTPSConnection]:
    config = json.loads(lab.server.kubeconfig.read_text())
    authority = base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"])
    context = ssl.create_default_context(cadata=authority.decode())
    port = int(lab.server.url.rpartition(":")[2])
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=LIMIT_S)
    yield connection
    connection.close()


@pytest.fixture
def call(connection: http.client.HTTPSConnection, token: str) -> Callable[..., tuple[int, Any]]:
    def call(
        method: str,
        path: str,
        body: Any = None,
        *,
        media: str = "application/json",
        authorization: str | None = f"Bearer {token}",
        accept: str = "application/json",
    ) -> tuple[int, Any]:
        headers = {"Content-Type": media, "Accept": accept}
        if authorization is not None:
            headers["Authorization"] = authorization
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, sent, headers)
        response = connection.getresponse()
        data = response.read()
        is_json = response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(data) if is_json else data

    return call


FELIX = "/apis/projectcalico.org/v3/felixconfigurations"


def test_the_kubeconfig_is_its_owners_and_goes_with_the_server(lab: Lab) -> None:
    path = lab.server.kubeconfig
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["current-context"] == "ebpfperf-demo"
    assert os.listdir(path.parent) == ["kubeconfig"]
    lab.server.stop()
    assert not path.exists()


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer wrong", "Basic Zm9v"])
def test_nobody_gets_in_without_the_token(call: Any, authorization: str | None) -> None:
    status, body = call("GET", "/api/v1/nodes", authorization=authorization)
    assert (status, body["reason"], body["kind"]) == (401, "Unauthorized", "Status")
    assert call("GET", "/readyz", authorization=authorization) == (200, b"ok")


def test_a_client_that_does_not_know_the_authority_refuses(lab: Lab) -> None:
    port = int(lab.server.url.rpartition(":")[2])
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=LIMIT_S)
    with pytest.raises(ssl.SSLCertVerificationError):
        connection.request("GET", "/version")
    connection.close()


@pytest.mark.parametrize(
    ("method", "path", "body", "media", "code", "reason"),
    [
        ("GET", "/nothing", None, "", 404, "NotFound"),
        ("GET", "/apis/projectcalico.org/v3/widgets", None, "", 404, "NotFound"),
        ("GET", f"{FELIX}/nobody", None, "", 404, "NotFound"),
        ("POST", FELIX, b"{", "application/json", 400, "BadRequest"),
        ("POST", FELIX, b"[]", "application/json", 400, "BadRequest"),
        ("POST", FELIX, {"kind": "IPPool"}, "application/json", 400, "BadRequest"),
        ("POST", FELIX, {"apiVersion": "v9"}, "application/json", 400, "BadRequest"),
        ("POST", FELIX, {"metadata": []}, "application/json", 400, "BadRequest"),
        ("POST", FELIX, {"metadata": {}}, "application/json", 422, "Invalid"),
        ("POST", FELIX, b"x", "text/plain", 415, "UnsupportedMediaType"),
        ("POST", f"{FELIX}/default", {}, "application/json", 405, "MethodNotAllowed"),
        ("PUT", FELIX, {}, "application/json", 405, "MethodNotAllowed"),
        ("PUT", f"{FELIX}/default", {"metadata": {"name": "x"}}, "", 400, "BadRequest"),
        ("PATCH", f"{FELIX}/default", {}, "application/json", 415, "UnsupportedMediaType"),
        ("PATCH", f"{FELIX}/default", b"", "application/apply-patch+yaml", 415, None),
        ("PATCH", f"{FELIX}/default", {}, "application/json-patch+json", 400, "BadRequest"),
        ("POST", "/api/v1/pods", {}, "application/json", 405, "MethodNotAllowed"),
        ("POST", "/api/v1/namespaces/default/pods/x/exec", {}, "", 405, "MethodNotAllowed"),
        ("GET", "/api/v1/nodes?labelSelector=a%3Db%3Dc", None, "", 400, "BadRequest"),
        ("GET", "/api/v1/nodes?fieldSelector=spec.x%3Db", None, "", 400, "BadRequest"),
        ("GET", "/api/v1/nodes?watch=1&resourceVersion=99999", None, "", 410, "Expired"),
        ("GET", "/api/v1/nodes?watch=1&resourceVersion=x", None, "", 400, "BadRequest"),
        ("POST", f"{FELIX}?dryRun=Some", {"metadata": {"name": "x"}}, "", 400, "BadRequest"),
        ("POST", "/version", {}, "application/json", 405, "MethodNotAllowed"),
    ],
)
def test_a_bad_request_is_answered_with_a_status(
    call: Any, method: str, path: str, body: Any, media: str, code: int, reason: str | None
) -> None:
    status, document = call(method, path, body, media=media or "application/json")
    assert (status, document["kind"], document["code"]) == (code, "Status", code)
    assert reason is None or document["reason"] == reason
    # The connection is still good.
    assert call("GET", "/version")[0] == 200


def test_only_json_is_served(call: Any) -> None:
    status, body = call("GET", "/api/v1/nodes", accept="application/vnd.kubernetes.protobuf")
    assert (status, body["reason"]) == (406, "NotAcceptable")
    mixed = "application/vnd.kubernetes.protobuf;q=1,application/json"
    assert call("GET", "/api/v1/nodes", accept=mixed)[0] == 200


def test_a_body_too_large_is_refused(call: Any) -> None:
    status, body = call("POST", FELIX, b" " * (BODY_LIMIT_BYTES + 1))
    assert (status, body["reason"]) == (413, "RequestEntityTooLarge")


def test_a_strict_write_with_an_unknown_field_is_refused(call: Any) -> None:
    path = f"{FELIX}/default?fieldValidation=Strict"
    patch = {"spec": {"nonsense": 1}}
    status, body = call("PATCH", path, patch, media="application/merge-patch+json")
    assert status == 400
    assert 'unknown field "spec.nonsense"' in body["message"]


def test_a_collection_is_deleted_by_selector(call: Any, lab: Lab) -> None:
    for name, mark in (("a", "x"), ("b", "x"), ("c", "y")):
        lab.store.create(
            "ippools",
            {
                "metadata": {"name": name, "labels": {"mark": mark}},
                "spec": {"cidr": "198.19.0.0/24"},
            },
        )
    status, gone = call("DELETE", "/apis/crd.projectcalico.org/v1/ippools?labelSelector=mark%3Dx")
    assert status == 200
    assert [obj["metadata"]["name"] for obj in gone["items"]] == ["a", "b"]
    left = [obj["metadata"]["name"] for obj in lab.store.list("ippools")]
    assert left == ["c", "default-ipv4-ippool"]


def test_a_status_is_written_by_its_subresource_only(call: Any) -> None:
    path = "/api/v1/nodes/node-1"
    media = "application/merge-patch+json"
    patch = {"metadata": {"labels": {"a": "b"}}, "status": {"phase": "New"}}
    assert "phase" not in call("PATCH", path, patch, media=media)[1]["status"]
    assert call("PATCH", f"{path}/status", patch, media=media)[1]["status"]["phase"] == "New"


def test_every_advertised_resource_can_be_listed(call: Any) -> None:
    paths = ["/api/v1"]
    for group in call("GET", "/apis")[1]["groups"]:
        paths += [f"/apis/{version['groupVersion']}" for version in group["versions"]]
    seen = 0
    for path in paths:
        index = call("GET", f"/openapi/v3{path}")[1]
        assert index["openapi"].startswith("3.")
        for resource in call("GET", path)[1]["resources"]:
            if "/" not in resource["name"]:
                status, body = call("GET", f"{path}/{resource['name']}")
                assert (status, body["kind"]) == (200, f"{resource['kind']}List")
                seen += 1
    assert seen == 18


def test_silent_and_broken_connections_hold_nobody_up(lab: Lab, call: Any) -> None:
    port = int(lab.server.url.rpartition(":")[2])
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
    silent[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
    silent[1].sendall(os.urandom(64))
    silent[2].close()
    try:
        assert call("GET", "/version")[0] == 200
    finally:
        for connection in silent:
            connection.close()


def test_stop_ends_every_stream_at_once(lab: Lab, connection: Any, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    connection.request("GET", "/api/v1/nodes?watch=true", headers=headers)
    stream = connection.getresponse()
    assert json.loads(stream.readline())["object"]["metadata"]["name"] == "node-1"
    assert json.loads(stream.readline())["object"]["metadata"]["name"] == "node-2"
    lab.server.stop()
    lab.server.stop()
    with contextlib.suppress(http.client.IncompleteRead, OSError):
        assert stream.read() == b""
    names = {thread.name for thread in threading.enumerate()}
    assert not names & {"lab-api", "lab-scheduler"}
