from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.representations import Representation
from ebpfperf.lab.resources import CRD, RESOURCES
from ebpfperf.lab.scheduler import Scheduler, choose_node
from ebpfperf.lab.status import (
    AlreadyExists,
    BadRequest,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
)
from ebpfperf.lab.watches import watch


@pytest.fixture
def store() -> ObjectStore:
    store = ObjectStore()
    store.create("namespaces", {"metadata": {"name": "default"}})
    return store


def felix(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "default"}, "spec": spec}


def pod(name: str, node: str | None = None, namespace: str = "default") -> dict[str, Any]:
    spec = {"nodeName": node} if node else {}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def ready_node(name: str, *, labels: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }


def test_a_created_object_has_what_the_server_adds(store: ObjectStore) -> None:
    made = store.create("felixconfigurations", felix(vxlanEnabled=True))
    meta = made["metadata"]
    assert made["apiVersion"] == "projectcalico.org/v3"
    assert made["kind"] == "FelixConfiguration"
    assert int(meta["resourceVersion"]) == store.version
    assert meta["generation"] == 1
    assert len(meta["uid"]) == 36
    assert store.get("felixconfigurations", "default") == made


def test_what_is_read_is_a_copy(store: ObjectStore) -> None:
    store.create("felixconfigurations", felix(vxlanEnabled=True))
    store.get("felixconfigurations", "default")["spec"]["vxlanEnabled"] = False
    store.list("felixconfigurations")[0]["spec"].clear()
    assert store.get("felixconfigurations", "default")["spec"] == {"vxlanEnabled": True}


def test_null_in_a_merge_patch_restores_absence(store: ObjectStore) -> None:
    before = store.create("felixconfigurations", felix(bpfLogLevel=""))["spec"]
    store.patch("felixconfigurations", "default", {"spec": {"vxlanEnabled": True}})
    after = store.patch("felixconfigurations", "default", {"spec": {"vxlanEnabled": None}})
    assert after["spec"] == before
    assert after["metadata"]["generation"] == 3


def test_a_write_that_changes_nothing_is_no_change(store: ObjectStore) -> None:
    store.create("felixconfigurations", felix(vxlanMTU=1450))
    version = store.version
    same = store.patch("felixconfigurations", "default", {"spec": {"vxlanMTU": 1450}})
    store.replace("felixconfigurations", same)
    assert store.version == version
    assert store.changed(version, 0.01) == version


def test_a_stale_replace_is_a_conflict(store: ObjectStore) -> None:
    first = store.create("felixconfigurations", felix(vxlanMTU=1450))
    store.patch("felixconfigurations", "default", {"spec": {"vxlanMTU": 1400}})
    with pytest.raises(Conflict, match="has been modified"):
        store.replace("felixconfigurations", {**first, "spec": {"vxlanMTU": 1}})
    stale = {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}}
    with pytest.raises(Conflict):
        store.patch("felixconfigurations", "default", stale)
    assert store.get("felixconfigurations", "default")["spec"] == {"vxlanMTU": 1400}


def test_no_update_is_lost_between_threads(store: ObjectStore) -> None:
    store.create("felixconfigurations", felix(vxlanPort=0))
    threads, each, lost = 4, 53, []

    def count() -> None:
        for _ in range(each):
            while True:
                mine = store.get("felixconfigurations", "default")
                mine["spec"]["vxlanPort"] += 1
                try:
                    store.replace("felixconfigurations", mine)
                except Conflict:
                    lost.append(1)
                    continue
                break

    workers = [threading.Thread(target=count) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert store.get("felixconfigurations", "default")["spec"]["vxlanPort"] == threads * each


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"metadata": {"name": "other"}}, Invalid),
        ({"metadata": {"uid": "0"}}, Conflict),
        ({"metadata": None}, BadRequest),
        (None, BadRequest),
    ],
)
def test_identity_cannot_be_patched(
    store: ObjectStore, change: Any, error: type[Exception]
) -> None:
    store.create("felixconfigurations", felix())
    with pytest.raises(error):
        store.patch("felixconfigurations", "default", change)


def test_identity_survives_a_replace_that_does_not_repeat_it(store: ObjectStore) -> None:
    made = store.create("felixconfigurations", felix())["metadata"]
    after = store.replace("felixconfigurations", felix(vxlanMTU=1400))["metadata"]
    assert {k: after[k] for k in ("uid", "creationTimestamp", "name")} == {
        k: made[k] for k in ("uid", "creationTimestamp", "name")
    }
    assert after["generation"] == 2


def test_what_is_missing_or_there_already_is_refused(store: ObjectStore) -> None:
    store.create("nodes", {"metadata": {"name": "node-1"}})
    with pytest.raises(AlreadyExists):
        store.create("nodes", {"metadata": {"name": "node-1"}})
    for read in (
        lambda: store.get("nodes", "node-2"),
        lambda: store.delete("nodes", "node-2"),
        lambda: store.patch("nodes", "node-2", {}),
        lambda: store.list("widgets"),
        lambda: store.create("pods", pod("a", namespace="nowhere")),
    ):
        with pytest.raises(NotFound):
            read()
    with pytest.raises(Invalid):
        store.create("nodes", {"metadata": {}})
    with pytest.raises(BadRequest):
        store.create("nodes", {"metadata": {"name": "x", "resourceVersion": "3"}})


def test_a_dry_run_changes_nothing(store: ObjectStore) -> None:
    store.create("felixconfigurations", felix(vxlanMTU=1450))
    version = store.version
    seen = store.patch("felixconfigurations", "default", {"spec": {"vxlanMTU": 1}}, dry_run=True)
    store.create("nodes", {"metadata": {"name": "n"}}, dry_run=True)
    store.delete("felixconfigurations", "default", dry_run=True)
    assert seen["spec"] == {"vxlanMTU": 1}
    assert store.version == version
    assert store.get("felixconfigurations", "default")["spec"] == {"vxlanMTU": 1450}


def test_status_and_spec_are_written_apart(store: ObjectStore) -> None:
    store.create("pods", pod("a", "node-1"))
    store.update_status("pods", "a", {"phase": "Running"}, "default")
    store.update_status("pods", "a", {"phase": "Running", "podIP": "198.19.0.1"}, "default")
    assert store.get("pods", "a", "default")["status"]["podIP"] == "198.19.0.1"
    assert store.get("pods", "a")["spec"] == {"nodeName": "node-1"}


def test_a_pod_on_a_node_waits_for_its_kubelet(store: ObjectStore) -> None:
    store.create("pods", pod("a", "node-1"))
    for grace_s in (5, 0):
        deleted = store.delete("pods", "a", "default", grace_s=grace_s)
        assert deleted["metadata"]["deletionGracePeriodSeconds"] == 5
    with pytest.raises(AlreadyExists):
        store.create("pods", pod("a", "node-2"))
    store.finalize_delete("pods", "a", "default")
    store.finalize_delete("pods", "a", "default")
    assert store.list("pods") == []


def test_finalizing_what_nobody_deleted_does_nothing(store: ObjectStore) -> None:
    store.create("pods", pod("a", "node-1"))
    store.finalize_delete("pods", "a", "default")
    assert len(store.list("pods")) == 1


def test_a_pod_on_no_node_goes_at_once(store: ObjectStore) -> None:
    store.create("pods", pod("a"))
    store.delete("pods", "a", "default")
    assert store.list("pods") == []


def test_a_delete_with_a_wrong_precondition_is_a_conflict(store: ObjectStore) -> None:
    made = store.create("felixconfigurations", felix())["metadata"]
    with pytest.raises(Conflict, match="uid"):
        store.delete("felixconfigurations", "default", uid="another")
    with pytest.raises(Conflict, match="resourceVersion"):
        store.delete("felixconfigurations", "default", version="1")
    store.delete("felixconfigurations", "default", uid=made["uid"], version=made["resourceVersion"])


def test_a_namespace_goes_after_its_pods(store: ObjectStore) -> None:
    store.create("namespaces", {"metadata": {"name": "bench"}})
    store.create("pods", pod("bound", "node-1", "bench"))
    store.create("pods", pod("free", None, "bench"))
    store.create("pods", pod("other", "node-1"))
    assert store.delete("namespaces", "bench")["status"]["phase"] == "Terminating"
    assert [p["metadata"]["name"] for p in store.list("pods", "bench")] == ["bound"]
    with pytest.raises(Forbidden):
        store.create("pods", pod("late", None, "bench"))
    store.finalize_delete("pods", "bound", "bench")
    with pytest.raises(NotFound):
        store.get("namespaces", "bench")
    assert [p["metadata"]["name"] for p in store.list("pods")] == ["other"]


def test_changed_returns_on_a_change_on_a_wake_and_in_the_end(store: ObjectStore) -> None:
    version = store.version
    later = threading.Timer(0.05, lambda: store.create("nodes", {"metadata": {"name": "n"}}))
    later.start()
    assert store.changed(version, 20) == version + 1
    later.join()
    store.wake()
    assert store.changed(version + 1, 20) == version + 2
    assert store.events(version + 1, 20) == ([], version + 2)
    assert store.changed(version + 2, 0.01) == version + 2


def pods_form() -> Representation:
    return Representation(RESOURCES["pods"], RESOURCES["pods"].views[0])


def lines(pieces: Iterator[bytes]) -> list[tuple[str, str]]:
    """(type, name) of the events that have come, up to the next pause."""

    found = []
    for piece in pieces:
        if not piece:
            break
        event = json.loads(piece)
        found.append((event["type"], event["object"]["metadata"].get("name", "")))
    return found


def test_a_watch_sees_objects_come_into_its_selection_and_leave_it(store: ObjectStore) -> None:
    store.create("pods", pod("a", "node-1"))
    pieces = watch(
        store,
        pods_form(),
        fits=lambda p: p.get("status", {}).get("phase") == "Running",
        since=None,
        timeout_s=30,
    )
    assert lines(pieces) == []
    store.update_status("pods", "a", {"phase": "Running"}, "default")
    store.patch("pods", "a", {"metadata": {"labels": {"x": "y"}}}, namespace="default")
    store.update_status("pods", "a", {"phase": "Failed"}, "default")
    store.create("nodes", {"metadata": {"name": "n"}})
    assert lines(pieces) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    store.delete("pods", "a", "default")
    store.finalize_delete("pods", "a", "default")
    assert lines(pieces) == []


def test_a_watch_from_a_version_misses_nothing_and_repeats_nothing(store: ObjectStore) -> None:
    _, version = store.list_at("pods")
    names = [f"p{i}" for i in range(17)]
    for name in names:
        store.create("pods", pod(name))
    pieces = watch(store, pods_form(), fits=lambda _: True, since=version, timeout_s=30)
    assert lines(pieces) == []
    assert lines(pieces) == [("ADDED", name) for name in names]
    store.create("pods", pod("last"))
    assert lines(pieces) == [("ADDED", "last")]


def test_a_watch_from_forgotten_times_is_gone() -> None:
    store = ObjectStore(history=3)
    for index in range(5):
        store.create("nodes", {"metadata": {"name": f"n{index}"}})
    assert [e.object["metadata"]["name"] for e in store.events(3, 0)[0]] == ["n2", "n3", "n4"]
    for since in (2, 99):
        with pytest.raises(Gone):
            next(watch(store, pods_form(), fits=lambda _: True, since=since))


def test_a_watch_that_falls_behind_says_gone_and_ends() -> None:

    store = ObjectStore(history=2)
    pieces = watch(store, pods_form(), fits=lambda _: True, since=store.version, timeout_s=30)
    assert next(pieces) == b""
    for index in range(5):
        store.create("nodes", {"metadata": {"name": f"n{index}"}})
    assert json.loads(next(pieces))["object"]["code"] == 410
    assert list(pieces) == []


def test_a_watch_ends_with_a_bookmark_when_asked(store: ObjectStore) -> None:

    kind = RESOURCES["ippools"]
    pieces = watch(
        store,
        Representation(kind, CRD),
        fits=lambda _: True,
        since=store.version,
        timeout_s=0,
        bookmarks=True,
    )
    last = json.loads(list(pieces)[-1])
    assert last["type"] == "BOOKMARK"
    assert last["object"]["metadata"]["resourceVersion"] == str(store.version)
    assert last["object"]["apiVersion"] == "crd.projectcalico.org/v1"


def test_the_node_with_the_fewest_pods_is_chosen() -> None:
    nodes = [ready_node("a"), ready_node("b", labels={"disk": "ssd"}), {"metadata": {"name": "c"}}]
    assert choose_node(pod("x"), nodes, [pod("y", "a")]) == "b"
    assert choose_node(pod("x"), nodes, [pod("y", "a"), pod("z", "b")]) == "a"
    picky = pod("x")
    picky["spec"]["nodeSelector"] = {"disk": "ssd"}
    assert choose_node(picky, nodes, [pod("y", "b")]) == "b"
    assert choose_node(pod("x"), nodes[2:], []) is None


def test_the_scheduler_binds_a_pod_once_a_node_is_ready(store: ObjectStore) -> None:
    scheduler = Scheduler(store)
    scheduler.start()
    try:
        store.create("pods", pod("a"))
        store.create("nodes", ready_node("node-1"))
        deadline = time.monotonic() + 10
        version = 0
        while not store.get("pods", "a")["spec"].get("nodeName"):
            assert time.monotonic() < deadline
            version = store.changed(version, 1)
    finally:
        scheduler.stop()
        scheduler.join()
    assert store.get("pods", "a")["spec"]["nodeName"] == "node-1"
