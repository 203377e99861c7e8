"""The journal and the way back: at every point where a crash can fall, on a simulated cluster."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebpfperf.errors import RestoreError
from ebpfperf.journal import Journal, Key
from ebpfperf.model import ClusterRef, Overlay, Treatment
from ebpfperf.mutations import LABELS, Mutation, canonical, treatment_mutations
from ebpfperf.restoration import byte_equal, differences, restoration

POOL = ("IPPool", "", "default-ipv4-ippool")
FELIX = ("FelixConfiguration", "", "default")
REF = ClusterRef(kubeconfig="/k", context="c", client_node="node-1", server_node="node-2")

World = dict[Key, Any]


def world(felix: dict[str, Any] | None) -> World:
    made: World = {POOL: {"metadata": {"name": POOL[2]}, "spec": {"cidr": "198.19.0.0/16"}}}
    made[FELIX] = None if felix is None else {"metadata": {"name": "default"}, "spec": felix}
    return made


def send(cluster: World, call: Mutation) -> None:
    key = (call.kind, call.namespace, call.name)
    if call.verb == "delete":
        cluster[key] = None
    elif call.verb == "create":
        assert cluster[key] is None
        cluster[key] = copy.deepcopy(dict(call.body or {}))
    else:
        spec = {**cluster[key]["spec"], **call.fields}
        cluster[key]["spec"] = {k: v for k, v in spec.items() if v is not None}


def spec_of(cluster: World, key: Key) -> Any:
    return None if cluster[key] is None else cluster[key]["spec"]


def switch(cluster: World, journal: Journal, treatment: Treatment, *, crash_after: int) -> int:
    """What ``Cluster`` does, stopped after so many steps; the steps left."""
    originals: dict[str, Any] = {}
    if journal.knows("FelixConfiguration", "default"):
        entry = journal.remembered("FelixConfiguration", "default")
        originals = {name: (entry.spec or {}).get(name) for name in entry.touched}
    calls = treatment_mutations(
        treatment,
        {POOL[2]: cluster[POOL]["spec"]},
        felix=spec_of(cluster, FELIX),
        originals=originals,
    )
    steps: list[Any] = []
    for call in calls:
        key = (call.kind, call.namespace, call.name)
        original = copy.deepcopy(cluster[key])
        steps.append(
            lambda call=call, original=original: journal.remember(
                call.kind, call.name, original=original
            )
        )
    if calls:
        steps.append(lambda: journal.intend(*calls))
    steps += [lambda call=call: send(cluster, call) for call in calls]
    for step in steps:
        if crash_after == 0:
            return 0
        step()
        crash_after -= 1
    return crash_after


def put_back(cluster: World, journal: Journal, **more: Any) -> Any:
    plan = restoration(journal.objects(), cluster, **more)
    for call in plan.mutations:
        send(cluster, call)
    return plan


values = st.booleans() | st.integers(1400, 1500) | st.just("Debug")
fields = st.sampled_from(["ipipEnabled", "vxlanEnabled", "vxlanMTU", "bpfLogLevel"])
treatments = st.builds(
    Treatment,
    name=st.just("t"),
    overlay=st.sampled_from(Overlay),
    felix=st.dictionaries(fields, st.none() | values, max_size=3).map(
        lambda d: tuple(sorted(d.items()))
    ),
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=60,
)
@given(
    felix=st.none() | st.dictionaries(fields, values),
    runs=st.lists(
        st.tuples(st.lists(treatments, min_size=1, max_size=3), st.integers(0, 12)),
        min_size=1,
        max_size=3,
    ),
)
def test_whenever_it_dies_the_specs_come_back_byte_equal(
    tmp_path: Path, felix: dict[str, Any] | None, runs: list[tuple[list[Treatment], int]]
) -> None:
    path = tmp_path / "journal.json"
    path.unlink(missing_ok=True)
    cluster = world(felix)
    before = canonical([spec_of(cluster, key) for key in (POOL, FELIX)])
    # Every run resumes the journal that the one before left open when it died.
    for order, crash_after in runs:
        journal = Journal.load(path) or Journal(path, REF, cluster_uid="u")
        for treatment in order:
            crash_after = switch(cluster, journal, treatment, crash_after=crash_after)
    journal = Journal.load(path) or Journal(path, REF, cluster_uid="u")
    plan = put_back(cluster, journal)
    assert plan.conflicts == plan.notes == ()
    assert canonical([spec_of(cluster, key) for key in (POOL, FELIX)]) == before
    assert differences(journal.objects(), cluster) == ()
    assert all(byte_equal(entry, cluster[entry.key]) for entry in journal.objects())
    assert put_back(cluster, journal).mutations == (), "restoring twice changes nothing"


def changed(tmp_path: Path, felix: dict[str, Any] | None = None) -> tuple[World, Journal]:
    cluster = world({"bpfLogLevel": ""} if felix is None else felix)
    journal = Journal(tmp_path / "journal.json", REF, cluster_uid="u")
    treatment = Treatment("t", Overlay.VXLAN, felix=(("vxlanMTU", 1400),))
    switch(cluster, journal, treatment, crash_after=99)
    return cluster, journal


def test_what_others_changed_elsewhere_stays_and_is_said(tmp_path: Path) -> None:
    cluster, journal = changed(tmp_path)
    cluster[FELIX]["spec"]["bpfLogLevel"] = "Debug"
    plan = put_back(cluster, journal)
    assert plan.conflicts == ()
    (note,) = plan.notes
    assert "bpfLogLevel" in note
    assert "Debug" in note
    assert cluster[FELIX]["spec"] == {"bpfLogLevel": "Debug"}
    assert differences(journal.objects(), cluster) == ()


def test_what_both_changed_is_a_conflict_and_the_rest_is_put_back(tmp_path: Path) -> None:
    cluster, journal = changed(tmp_path)
    cluster[FELIX]["spec"]["vxlanMTU"] = 1337
    plan = put_back(cluster, journal)
    (conflict,) = plan.conflicts
    assert "1337" in conflict
    assert cluster[FELIX]["spec"]["vxlanMTU"] == 1337
    assert cluster[POOL]["spec"] == {"cidr": "198.19.0.0/16"}
    assert put_back(cluster, journal, overwrite=True).conflicts == ()
    assert cluster[FELIX]["spec"] == {"bpfLogLevel": ""}


def test_a_deleted_object_is_a_conflict_and_overwrite_makes_it_again(tmp_path: Path) -> None:
    cluster, journal = changed(tmp_path)
    cluster[POOL] = None
    assert len(put_back(cluster, journal).conflicts) == 1
    assert put_back(cluster, journal, overwrite=True).conflicts == ()
    assert cluster[POOL]["spec"] == {"cidr": "198.19.0.0/16"}


def test_what_the_campaign_created_goes_unless_others_use_it(tmp_path: Path) -> None:
    cluster = world(None)
    journal = Journal(tmp_path / "journal.json", REF, cluster_uid="u")
    treatment = Treatment("t", Overlay.NONE, felix=(("vxlanMTU", 1400),))
    switch(cluster, journal, treatment, crash_after=99)
    theirs = copy.deepcopy(cluster)
    put_back(cluster, journal)
    assert cluster[FELIX] is None
    theirs[FELIX]["spec"]["bpfLogLevel"] = "Debug"
    plan = put_back(theirs, journal)
    assert theirs[FELIX]["spec"] == {"bpfLogLevel": "Debug"}
    assert any("stays" in note for note in plan.notes)


def test_pods_go_first_and_a_used_namespace_stays(tmp_path: Path) -> None:
    cluster, journal = changed(tmp_path)
    ours = {"metadata": {"labels": LABELS}}
    for kind, name, space in (("Namespace", "n", ""), ("Pod", "ebpfperf-client", "n")):
        journal.remember(kind, name, space, original=None)
        cluster[kind, space, name] = ours
    kinds = [c.kind for c in restoration(journal.objects(), cluster).mutations]
    assert kinds[0] == "Pod"
    assert kinds[-1] == "Namespace"
    used = restoration(journal.objects(), cluster, namespace_empty=False)
    assert "Namespace" not in [call.kind for call in used.mutations]
    assert any("other pods" in note for note in used.notes)
    assert len(differences(journal.objects(), cluster)) > 0
    cluster["Pod", "n", "ebpfperf-client"] = {"metadata": {"labels": {}}}
    assert "Pod" not in [c.kind for c in restoration(journal.objects(), cluster).mutations]


def test_it_is_on_disk_whole_and_holds_no_more_than_was_given(tmp_path: Path) -> None:
    _, journal = changed(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["journal.json"]
    loaded = Journal.load(journal.path)
    assert loaded is not None
    assert loaded.objects() == journal.objects()
    assert loaded.ref == REF
    assert loaded.is_open
    loaded.close()
    again = Journal.load(journal.path)
    assert again is not None
    assert not again.is_open


def test_the_first_snapshot_stays_the_truth(tmp_path: Path) -> None:
    _, journal = changed(tmp_path)
    journal.remember("IPPool", POOL[2], original={"spec": {"cidr": "0.0.0.0/0"}})
    assert journal.remembered("IPPool", POOL[2]).spec == {"cidr": "198.19.0.0/16"}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 99}', "\xff"])
def test_an_unreadable_journal_is_never_taken_for_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "journal.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(RestoreError, match="cannot be read as a journal") as caught:
        Journal.load(path)
    assert caught.value.fields["journal"] == str(path)
    assert Journal.load(tmp_path / "none.json") is None


def test_a_full_disk_stops_before_anything_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    cluster = world({})
    journal = Journal(tmp_path / "journal.json", REF, cluster_uid="u")
    with pytest.raises(RestoreError, match="No space left"):
        switch(cluster, journal, Treatment("t", Overlay.VXLAN), crash_after=99)
    assert "vxlanMode" not in cluster[POOL]["spec"]
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_json_with_paths_and_no_secret(tmp_path: Path) -> None:
    _, journal = changed(tmp_path)
    content = json.loads(journal.path.read_text())
    assert set(content["cluster"]) == {
        "kubeconfig",
        "context",
        "ssh_config",
        "client_node",
        "external_client",
        "server_node",
        "namespace",
        "ippools",
        "image",
    }
