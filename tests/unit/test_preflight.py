"""What is checked before a campaign: cheap, not of what treatments set, kept, never a refusal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import synthetic
from evidence_made import NODES, changed, healthy
from judged import judge as judged

from ebpfperf import diagnosis, gathering, preflight, validity, verdicts
from ebpfperf.diagnosis import Diagnosis
from ebpfperf.doctor import judge
from ebpfperf.errors import KubeError, StoreError
from ebpfperf.evidence import Evidence
from ebpfperf.evidence_sources import API_SOURCES, COUNTS, LOG, MACHINE, NODE_SOURCES
from ebpfperf.store import Store

CAMPAIGN = replace(synthetic.CAMPAIGN, blocks=2)
FACTS = synthetic.facts_frame(synthetic.facts()).assign(trial_id=None)


@dataclass
class FakeCluster:
    """A cluster that answers as ``evidence`` says, of the sources that it is asked for."""

    evidence: Evidence
    error: Exception | None = None
    client_node: str = NODES[0]
    server_node: str = NODES[1]
    kube: object = None
    asked: dict[str, Any] = field(default_factory=dict)

    @property
    def nodes(self) -> Mapping[str, Any]:
        return {**dict.fromkeys(NODES, object()), "client-1": object()}

    def gather(self, kube: object, names: Collection[str], **how: Any) -> Evidence:
        self.asked = {"names": tuple(names), **how}
        if self.error is not None:
            raise self.error
        kept = {key: item for key, item in self.evidence.items.items() if key[0] in how["only"]}
        return replace(self.evidence, items=kept)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "c", CAMPAIGN)


def run(
    store: Store, monkeypatch: pytest.MonkeyPatch, evidence: Evidence, **more: Any
) -> tuple[FakeCluster, list[str]]:
    cluster, said = FakeCluster(evidence, **more), list[str]()
    monkeypatch.setattr(gathering, "gather", cluster.gather)
    preflight.before(store, cluster, say=said.append)  # type: ignore[arg-type]
    return cluster, said


def verdicts_in(found: Diagnosis) -> list[tuple[str, str, str]]:
    return [(result.id, each.node, each.verdict) for result, each in found.outcomes()]


def test_a_healthy_cluster_is_kept_and_nothing_is_said(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, said = run(store, monkeypatch, healthy())
    assert said == []
    (document,) = store.preflights()
    found = diagnosis.from_json(document)
    assert {result.id for result in found.results} == {
        check.id for check in preflight.checks(CAMPAIGN)
    }
    assert cluster.asked["names"] == NODES
    assert set(cluster.asked["connected"]) == set(NODES)
    assert (cluster.asked["seconds"], cluster.asked["maps"], cluster.asked["probes"]) == (
        0, False, False,
    )  # fmt: skip


def test_what_fails_is_said_in_a_line_and_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, said = run(store, monkeypatch, changed(healthy(), {("bpffs", "node-2"): ""}))
    (line,) = said
    assert line.startswith("FAIL: A4 bpffs (node-2): /sys/fs/bpf is not mounted")
    assert "\n" not in line


def test_a_cluster_that_cannot_be_asked_is_said_and_the_run_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, said = run(store, monkeypatch, healthy(), error=KubeError("The API is gone.", "Wait."))
    assert said == ["Before the first trial nothing could be checked: The API is gone."]
    assert store.preflights() == ()


def test_every_run_of_a_campaign_keeps_its_own_in_order(store: Store) -> None:
    for number in range(12):
        store.add_preflight({"number": number})
    assert [document["number"] for document in store.preflights()] == list(range(12))
    assert (store.path / "preflight-12.json").exists()
    (store.path / "preflight-3.json").write_text("{")
    with pytest.raises(StoreError, match=r"preflight-3\.json cannot be read"):
        store.preflights()


def test_what_treatments_set_is_left_out() -> None:
    plain = {check.id for check in preflight.checks(CAMPAIGN)}
    assert plain.isdisjoint({"E1", "E2", "E3", "E7"})
    assert {"A4", "C5"} <= plain
    first, *rest = CAMPAIGN.treatments
    for level in ("bpfLogLevel", "bpfProfiling"):
        flagged = replace(CAMPAIGN, treatments=(replace(first, felix=((level, "x"),)), *rest))
        left = {check.id for check in preflight.checks(flagged)}
        assert plain - left == {"C5" if level == "bpfLogLevel" else "C6"}


def test_what_it_reads_is_gathered_and_is_cheap() -> None:
    asked = preflight.checks(CAMPAIGN)
    sources = preflight.sources(asked)
    known = {source.name for source in (*NODE_SOURCES, *API_SOURCES)} | {COUNTS, LOG, MACHINE}
    assert sources <= known, "a check of the preflight reads what is not gathered then"
    assert "rules" not in sources, "it takes two seconds"


def test_the_checks_say_the_same_of_what_is_gathered_as_of_everything() -> None:
    asked = preflight.checks(CAMPAIGN)
    sources = preflight.sources(asked)
    items = {key: item for key, item in healthy().items.items() if key[0] in sources}
    few = judge.diagnose(replace(healthy(), items=items), asked)
    every = judge.diagnose(healthy(), asked)
    assert verdicts_in(few) == verdicts_in(every)


def test_the_report_says_what_was_found_before_it_ran(tmp_path: Path) -> None:
    store = synthetic.write_store(tmp_path / "c", CAMPAIGN)
    bad = judge.diagnose(changed(healthy(), {("bpffs", "node-2"): ""}), judge.chosen(["A4"]))
    store.add_preflight(bad.as_json())
    every = judge.diagnose(healthy(), judge.chosen(["A4", "B10"]))
    assert [result.verdict for result in every.results] == ["OK", "N/A"]
    store.add_preflight(every.as_json())
    lost = judge.diagnose(changed(healthy(), without={("bpffs", "node-2")}), judge.chosen(["A4"]))
    store.add_preflight(replace(lost, taken_utc="2026-01-31T09:05:33Z").as_json())
    found = verdicts.of_store(store)
    said = validity.belief(found, FACTS).items
    first = [text for text in said if text.startswith("Before the run")]
    assert len(first) == 3
    assert "FAIL A4 bpffs (node-2): /sys/fs/bpf is not mounted" in first[0]
    assert first[1].endswith("1 check of the cluster found nothing wrong.")
    assert first[2] == (
        "Before the run of 2026-01-31 09:05:33 UTC 1 check of the cluster found nothing wrong, "
        "but 1 of them could not tell."
    )


def test_a_campaign_before_which_nobody_looked_says_nothing_of_it() -> None:
    said = validity.belief(judged(), FACTS).items
    assert [text for text in said if text.startswith("Before the run")] == []
