"""Settle, place and restore on an embedded cluster: what the nodes show, what the API holds."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ebpfperf.cluster import Cluster, restore_from_journal
from ebpfperf.errors import InputError, KubeError, RestoreError, SettleError
from ebpfperf.journal import Journal
from ebpfperf.kube import Kube
from ebpfperf.model import (
    ClusterRef,
    Dataplane,
    Endpoint,
    Flow,
    Overlay,
    Scope,
    Treatment,
    Workload,
    WorkloadKind,
)
from ebpfperf.model import Path as FlowPath
from ebpfperf.mutations import (
    Mutation,
    canonical,
    create_felix,
    create_namespace,
    delete,
    patch_spec,
    pod_workloads,
)

pytestmark = pytest.mark.lab

POOL = "default-ipv4-ippool"
FLOWS = (Flow("tcp", FlowPath.POD_POD, "tcp"), Flow("host", FlowPath.HOST_HOST, "tcp"))
VXLAN = Treatment("vxlan", Overlay.VXLAN)
NONE = Treatment("none", Overlay.NONE)


PRIME = 10007
SERVE = f"""
import socket
s = socket.create_server(("", 5999))
print("ready", flush=True)
s.accept()[0].sendall(b"x" * {PRIME})
"""
FETCH = """
import shutil, socket, sys
with socket.create_connection((sys.argv[1], 5999), 30) as s, s.makefile("rb") as f:
    shutil.copyfileobj(f, sys.stdout.buffer)
"""


@pytest.fixture
def ref(lab: Any) -> ClusterRef:
    return ClusterRef(kubeconfig=str(lab.kubeconfig), ssh_config=str(lab.ssh_config))


@pytest.fixture
def kube(ref: ClusterRef) -> Iterator[Kube]:
    kube = Kube.connect(ref.kubeconfig)
    yield kube
    kube.close()


@pytest.fixture(autouse=True)
def unchanged(kube: Kube, ref: ClusterRef) -> Iterator[None]:
    """Whatever a test does, the cluster's specs are byte-equal after it."""
    before = specs(kube)
    yield
    assert specs(kube) == before
    assert kube.get("Namespace", ref.namespace) is None


def specs(kube: Kube) -> str:
    felix = kube.felix_configuration()
    return canonical(
        {
            "felix": None if felix is None else felix["spec"],
            "pools": {pool["metadata"]["name"]: pool["spec"] for pool in kube.ippools()},
        }
    )


def mode(kube: Kube) -> tuple[str, str]:
    (pool,) = [p for p in kube.ippools() if p["metadata"]["name"] == POOL]
    return pool["spec"]["ipipMode"], pool["spec"]["vxlanMode"]


def route_device(cluster: Cluster, endpoint: Endpoint, there: Endpoint) -> str:
    """Asked inside the client pod's node, of the kernel itself."""
    argv = ["ip", "-j", "route", "get", there.address]
    (route,) = json.loads(cluster.nodes[endpoint.node].run(argv).stdout)
    return str(route["dev"])


@pytest.mark.parametrize(
    ("treatment", "mtu", "device", "modes"),
    [
        (NONE, 1500, "ens11", ("Never", "Never")),
        (VXLAN, 1450, "vxlan.calico", ("Never", "Always")),
        (Treatment("ipip", Overlay.IPIP), 1480, "tunl0", ("Always", "Never")),
        (
            Treatment("cs", Overlay.VXLAN, Scope.CROSS_SUBNET, (("vxlanMTU", 1413),)),
            1413,
            "ens11",
            ("Never", "CrossSubnet"),
        ),
        (
            Treatment("device-only", Overlay.NONE, felix=(("vxlanEnabled", True),)),
            1450,
            "ens11",
            ("Never", "Never"),
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Treatment) else "",
)
def test_the_nodes_show_each_treatment(
    ref: ClusterRef,
    kube: Kube,
    tmp_path: Path,
    treatment: Treatment,
    mtu: int,
    device: str,
    modes: tuple[str, str],
) -> None:
    with Cluster.connect(ref, journal=tmp_path / "journal.json") as cluster:
        settled = cluster.settle(treatment, FLOWS)
        client = settled.endpoints["pod-pod", "client"]
        server = settled.endpoints["pod-pod", "server"]
        assert (client.mtu_bytes, server.mtu_bytes) == (mtu, mtu)
        assert route_device(cluster, client, server) == device
        assert mode(kube) == modes
        host = settled.endpoints["host-host", "server"]
        assert (host.address, host.device, host.mtu_bytes) == ("198.18.0.12", "ens12", 1500)
        facts = {(fact.node, fact.name): fact.value for fact in settled.facts}
        assert device in facts["node-1", "pod_pod_route"]
        assert set(settled.raw) >= {"settle.node-1.addr.json", "settle.node-2.route.json"}
        again = cluster.settle(treatment, FLOWS)
        assert not again.changed
        assert again.endpoints == settled.endpoints, "the same pods, not new ones"


def test_a_pod_can_be_entered_and_reaches_its_peer(ref: ClusterRef, tmp_path: Path) -> None:
    with Cluster.connect(ref, journal=tmp_path / "journal.json") as cluster:
        ends = cluster.settle(VXLAN, FLOWS[:1]).endpoints
        client, server = ends["pod-pod", "client"], ends["pod-pod", "server"]
        serve = server.within(["/usr/bin/python3", "-c", SERVE])
        fetch = client.within(["/usr/bin/python3", "-c", FETCH, server.address])
        with cluster.nodes[server.node].stream(serve) as serving:
            assert serving.read_line(timeout_s=30) == b"ready"
            assert cluster.nodes[client.node].run(fetch, timeout_s=60).stdout == b"x" * PRIME
        assert client.host_device.startswith("cali")
        links = json.loads(cluster.nodes[client.node].run(["ip", "-j", "link"]).stdout)
        assert client.host_device in {link["ifname"] for link in links}


def test_fields_return_when_the_campaign_moves_on(
    ref: ClusterRef, kube: Kube, tmp_path: Path
) -> None:
    def felix() -> dict[str, Any]:
        found = kube.felix_configuration()
        assert found is not None
        return dict(found["spec"])

    before = felix()
    first = Treatment("a", Overlay.NONE, felix=(("vxlanMTU", 1400), ("bpfLogLevel", None)))
    with Cluster.connect(ref, journal=tmp_path / "journal.json") as cluster:
        settled = cluster.settle(first, FLOWS[1:])
        assert felix()["vxlanMTU"] == 1400
        assert "bpfLogLevel" not in felix()
        values = {fact.name: fact.value for fact in settled.facts if fact.node == "node-1"}
        assert "restarted" in values["felix_process"]
        cluster.settle(NONE, FLOWS[1:])
        assert felix() == before


def test_restore_says_what_it_did_and_is_idempotent(ref: ClusterRef, tmp_path: Path) -> None:
    journal = tmp_path / "journal.json"
    with Cluster.connect(ref, journal=journal) as cluster:
        assert cluster.restore() == ()
        assert not journal.exists(), "nothing changed, nothing to remember"
        cluster.settle(VXLAN, FLOWS[:1])
        said = cluster.restore()
        assert any("to the byte" in sentence for sentence in said)
        assert cluster.restore() == ()
        # The same connection may go on: it begins a new journal.
        cluster.settle(VXLAN, FLOWS[1:])
        book = Journal.load(journal)
        assert book is not None
        assert book.is_open
    assert "was put back" in restore_from_journal(journal)[0]
    assert "does not exist" in restore_from_journal(tmp_path / "other.json")[0]


SETTLE_AND_HANG = """
import sys, time
from pathlib import Path
from ebpfperf.cluster import Cluster
from ebpfperf.model import ClusterRef, Flow, Overlay, Path as P, Treatment
cluster = Cluster.connect(
    ClusterRef(kubeconfig=sys.argv[1], ssh_config=sys.argv[2]), journal=Path(sys.argv[3])
)
flags = Treatment("v", Overlay.VXLAN, felix=(("vxlanMTU", 1400),))
cluster.settle(flags, [Flow("t", P.POD_POD, "tcp")])
print("settled", flush=True)
time.sleep(60)
"""


def test_kill_9_and_restore_gives_byte_equal_specs(
    ref: ClusterRef, kube: Kube, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.json"
    before = specs(kube)
    argv = [sys.executable, "-c", SETTLE_AND_HANG, ref.kubeconfig, ref.ssh_config, str(journal)]
    with subprocess.Popen([str(word) for word in argv], stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"settled\n"
        assert specs(kube) != before
        os.kill(victim.pid, signal.SIGKILL)
    # A run that resumes takes the journal's word for what was, not the cluster's.
    cluster = Cluster.connect(ref, journal=journal)
    try:
        cluster.settle(NONE, FLOWS[1:])
    finally:
        cluster.close()
    restore_from_journal(journal)
    assert specs(kube) == before


def test_restore_alone_after_kill_9(ref: ClusterRef, kube: Kube, tmp_path: Path) -> None:
    journal = tmp_path / "journal.json"
    before = specs(kube)
    cluster = Cluster.connect(ref, journal=journal)
    cluster.settle(Treatment("ipip", Overlay.IPIP), FLOWS)
    # Closed without restore, as by kill -9.
    cluster.close()
    assert specs(kube) != before
    said = restore_from_journal(journal)
    assert specs(kube) == before
    assert any("Namespace" in sentence for sentence in said)


def test_a_run_left_unrestored_is_not_built_upon(ref: ClusterRef, tmp_path: Path) -> None:
    left = tmp_path / "left" / "journal.json"
    cluster = Cluster.connect(ref, journal=left)
    cluster.settle(VXLAN, FLOWS[:1])
    cluster.close()
    with pytest.raises(InputError, match="left it unrestored") as caught:
        Cluster.connect(ref, journal=tmp_path / "new" / "journal.json")
    assert str(caught.value.fields["journal"]).endswith(str(left))
    restore_from_journal(left)
    Cluster.connect(ref, journal=tmp_path / "new" / "journal.json").close()


def test_somebody_else_s_change_is_a_conflict(ref: ClusterRef, kube: Kube, tmp_path: Path) -> None:
    cluster = Cluster.connect(ref, journal=tmp_path / "journal.json")
    try:
        cluster.settle(VXLAN, FLOWS[1:])
        kube.apply(patch_spec("IPPool", POOL, {"vxlanMode": "CrossSubnet"}, why="somebody"))
        with pytest.raises(RestoreError, match="neither what it was") as caught:
            cluster.restore()
        assert caught.value.fields["journal"] == str(tmp_path / "journal.json")
        assert mode(kube)[1] == "CrossSubnet"
        cluster.restore(overwrite=True)
    finally:
        cluster.close()


def test_an_absent_felix_configuration_is_absent_again(
    ref: ClusterRef, kube: Kube, tmp_path: Path
) -> None:
    original = kube.felix_configuration()
    assert original is not None
    kube.apply(delete("FelixConfiguration", "default", why="test"))
    try:
        with Cluster.connect(ref, journal=tmp_path / "journal.json") as cluster:
            flags = Treatment("t", Overlay.NONE, felix=(("vxlanMTU", 1400), ("ipipMTU", None)))
            cluster.settle(flags, FLOWS[1:])
            created = kube.felix_configuration()
            assert created is not None
            assert created["spec"]["vxlanMTU"] == 1400
        assert kube.felix_configuration() is None
    finally:
        kube.apply(create_felix(original["spec"], why="test"))


def test_a_namespace_and_pods_of_others_are_left(
    ref: ClusterRef, kube: Kube, tmp_path: Path
) -> None:
    mine = replace(ref, namespace="somebody")
    theirs = create_namespace("somebody")
    assert theirs.body is not None
    body = {"metadata": {"name": "somebody"}}
    kube.apply(replace(theirs, body=body))
    pod = pod_workloads(mine, "node-1", "node-2")["client"]
    spec = {"nodeName": "node-1", "containers": [{"name": "c", "image": "i"}]}
    meta = {"name": pod.name, "namespace": "somebody"}
    kube.apply(
        Mutation("create", "Pod", pod.name, "somebody", {"metadata": meta, "spec": spec}, "t")
    )
    try:
        with (
            Cluster.connect(mine, journal=tmp_path / "journal.json") as cluster,
            pytest.raises(SettleError, match="is not the kit's"),
        ):
            cluster.settle(NONE, FLOWS[:1])
        assert kube.get("Pod", pod.name, "somebody") is not None
        assert kube.get("Namespace", "somebody") is not None
    finally:
        kube.apply(delete("Pod", pod.name, "somebody", why="test"))
        kube.wait_gone("Pod", pod.name, "somebody", timeout_s=30)
        kube.apply(delete("Namespace", "somebody", why="test"))
        kube.wait_gone("Namespace", "somebody", timeout_s=30)


def test_a_node_s_own_setting_that_beats_the_treatment_is_refused(
    ref: ClusterRef, kube: Kube, tmp_path: Path
) -> None:
    body = {"metadata": {"name": "node.node-2"}, "spec": {"vxlanMTU": 1390}}
    kube.apply(Mutation("create", "FelixConfiguration", "node.node-2", body=body))
    try:
        flags = Treatment("t", Overlay.VXLAN, felix=(("vxlanMTU", 1400),))
        with (
            Cluster.connect(ref, journal=tmp_path / "journal.json") as cluster,
            pytest.raises(SettleError, match=r"node\.node-2 beats"),
        ):
            cluster.settle(flags, FLOWS[1:])
    finally:
        kube.apply(delete("FelixConfiguration", "node.node-2", why="test"))


def test_ebpf_that_falls_back_is_refused_at_once(
    ref: ClusterRef, kube: Kube, tmp_path: Path
) -> None:
    def fault(value: str | None) -> Mutation:
        annotations = {"lab.ebpfperf/fault": value}
        return Mutation("patch", "Node", "node-2", body={"metadata": {"annotations": annotations}})

    ebpf = Treatment("e", Overlay.NONE, dataplane=Dataplane.EBPF)
    kube.apply(fault("kernel-unsupported"))
    try:
        with (
            Cluster.connect(ref, journal=tmp_path / "journal.json") as cluster,
            pytest.raises(SettleError, match=r"on node-2 .* does not support the eBPF dataplane"),
        ):
            cluster.settle(ebpf, FLOWS[1:])
    finally:
        kube.apply(fault(None))


def test_what_cannot_be_measured_changes_nothing(ref: ClusterRef, tmp_path: Path) -> None:
    journal = tmp_path / "journal.json"
    for wrong, match in (
        (replace(ref, ippools=("nope",)), "no IPPool nope"),
        (replace(ref, client_node="node-9"), "no ready node node-9"),
    ):
        with pytest.raises(InputError, match=match):
            Cluster.connect(wrong, journal=journal)
    assert not journal.exists()


def test_a_journal_of_another_cluster_is_refused(ref: ClusterRef, tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    journal = Journal(path, ref, cluster_uid="another")
    journal.remember("IPPool", POOL, original={"spec": {}})
    with pytest.raises(RestoreError, match="another cluster"):
        Cluster.connect(ref, journal=path)
    with pytest.raises(RestoreError, match="another cluster"):
        restore_from_journal(path)


def test_a_wrong_token_and_a_dead_api_are_sentences(ref: ClusterRef, tmp_path: Path) -> None:
    text = Path(str(ref.kubeconfig)).read_text()
    wrong = tmp_path / "kubeconfig"
    wrong.write_text(re.sub(r'(token"?: *)"?[\w-]+"?', r'\1"wrong"', text))
    assert wrong.read_text() != text
    with (
        contextlib.closing(Kube.connect(str(wrong))) as kube,
        pytest.raises(KubeError, match="does not accept") as caught,
    ):
        kube.ippools()
    assert caught.value.fields["status"] == 401
    wrong.write_text(re.sub(r"(https://127\.0\.0\.1):\d+", r"\1:1", text))
    with (
        contextlib.closing(Kube.connect(str(wrong))) as kube,
        pytest.raises(KubeError, match="cannot be reached"),
    ):
        kube.ippools()


def test_a_missing_pod_is_a_sentence(ref: ClusterRef, tmp_path: Path) -> None:
    with Cluster.connect(ref, journal=tmp_path / "journal.json") as cluster:
        ghost = Workload("ghost", "node-1", WorkloadKind.POD, "ebpfperf")
        with pytest.raises(SettleError, match="does not exist"):
            cluster.place(ghost)
        with pytest.raises(KubeError, match="there is no such pod"):
            cluster.kube.wait_pod_ready("default", "ghost", timeout_s=0.2)
