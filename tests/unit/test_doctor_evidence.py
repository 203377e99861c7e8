"""Every check over whole recordings: healthy ones give nothing to do, garbage gives no failure."""

from __future__ import annotations

from typing import Any

import pytest
from evidence_made import NODES, PLACE, changed, felix, healthy, objects
from hypothesis import given, settings
from hypothesis import strategies as st

from ebpfperf.diagnosis import Verdict
from ebpfperf.doctor import judge
from ebpfperf.doctor.case import Case
from ebpfperf.evidence import Evidence
from ebpfperf.evidence_sources import API_SOURCES

RECORDED = sorted(path.name[len("healthy-") : -len(".tar.gz")] for path in PLACE.glob("healthy-*"))
WORDS = (
    "", "\n", "0", "[]", "{}", "null", "[null]", '{"metadata": {}}', '[{"metadata": {}}]', "[[]]",
    '[{"ifname": 1}]', '[{"dst": []}]', "==> environment <==", "-1 -1\na b c d\n", "100 0\n",
    '[{"metadata": {"name": null, "labels": []}, "spec": [], "status": 7}]', "[" * 5000,
    '{"counters": [], "programs": {"ens11": {"ingress": [null]}}}', "1e400 x86_64", "\0",
)  # fmt: skip


def verdicts(evidence: Evidence) -> dict[str, str]:
    """What gives somebody something to do: check → verdict and sentences."""
    return {
        result.id: f"{result.verdict}: {[each.what for each in result.outcomes]}"
        for result in judge.diagnose(evidence).results
        if result.verdict not in (Verdict.OK, Verdict.NOT_APPLICABLE)
    }


@pytest.mark.parametrize("release", RECORDED)
def test_a_healthy_lab_has_no_failure_no_warning_and_nothing_unknown(release: str) -> None:
    assert verdicts(healthy(release)) == {}


def test_every_way_in_which_releases_differ_is_recorded() -> None:
    assert {"v3.16", "v3.26", "v3.30", "v3.32"} <= set(RECORDED)


@pytest.mark.parametrize("word", WORDS)
def test_answers_that_are_none_never_make_a_diagnosis_fail(word: str) -> None:
    base = healthy()
    found = judge.diagnose(changed(base, dict.fromkeys(base.items, word)))
    assert len(found.results) == len(judge.CHECKS)
    assert all(result.outcomes for result in found.results)


def test_one_answer_that_is_none_never_makes_a_diagnosis_fail() -> None:
    base = healthy()
    for place in {(item.source, item.node) for item in base if item.node != "node-2"}:
        found = judge.diagnose(changed(base, {place: '[{"metadata": {"name": []}, "x": null}]'}))
        assert len(found.results) == len(judge.CHECKS), place


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_random_bytes_give_verdicts(data: st.DataObject) -> None:
    base = healthy(data.draw(st.sampled_from(RECORDED)))
    place = data.draw(st.sampled_from(sorted(base.items)))
    content = bytearray(base.items[place].content)
    if content and data.draw(st.booleans()):
        # One place of a true answer, so that parsers get far.
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
    else:
        content = bytearray(data.draw(st.binary(max_size=200)))
    found = judge.diagnose(changed(base, {place: bytes(content)}))
    assert all(result.outcomes for result in found.results)


@pytest.mark.parametrize("source", [each.name for each in API_SOURCES])
def test_a_list_that_the_api_refuses_is_no_health(source: str) -> None:
    """What needs it is UNKNOWN, and nothing becomes a failure of the cluster."""
    found = judge.diagnose(changed(healthy(), without=[(source, "")]))
    assert not [r.id for r in found.results if r.verdict in (Verdict.FAIL, Verdict.WARN)]
    if source in ("felixconfigurations", "nodes", "pods"):
        assert any(result.verdict is Verdict.UNKNOWN for result in found.results)


def test_nothing_at_all_is_unknown_and_not_health() -> None:
    base = healthy()
    found = judge.diagnose(changed(base, without=list(base.items)))
    assert not found.counts()[Verdict.FAIL]
    assert not found.counts()[Verdict.OK]


def test_a_configuration_for_some_nodes_holds_on_those_that_its_selector_chooses() -> None:
    base = healthy("v3.32")
    spec = {"nodeSelector": "kubernetes.io/hostname == 'node-2'", "bpfLogLevel": "Debug"}
    case = Case(changed(base, {("felixconfigurations", ""): felix(base, spec, "some")}))
    found = {node: case.value(node, "bpfLogLevel") for node in NODES}
    assert {node: value.value for node, value in found.items()} == {
        "node-1": "Off",
        "node-2": "Debug",
    }
    assert found["node-2"].where == "FelixConfiguration some"
    blind = Case(changed(case.evidence, without={("nodes", "")}))
    assert str(blind.value("node-1", "bpfLogLevel").value).startswith("UNKNOWN")


def windows(base: Evidence, node: str) -> Evidence:
    """The evidence with one node that runs Windows, and of which nothing was gathered."""

    def change(found: list[Any]) -> None:
        own = next(each for each in found if each["metadata"]["name"] == node)
        own["metadata"]["labels"]["kubernetes.io/os"] = "windows"

    without = [place for place in base.items if place[1] == node]
    return changed(base, {("nodes", ""): objects(base, "nodes", change)}, without=without)


@pytest.mark.parametrize("release", RECORDED)
def test_a_windows_node_is_asked_nothing_and_is_no_evidence_that_is_missing(release: str) -> None:
    found = judge.diagnose(windows(healthy(release), "node-2"))
    of_it = [each for result, each in found.outcomes() if each.node == "node-2"]
    assert {each.verdict for each in of_it} == {Verdict.NOT_APPLICABLE, Verdict.FAIL}
    # That the mixture is not supported is said once.
    assert [result.id for result, each in found.outcomes() if each.verdict is Verdict.FAIL] == [
        "A6"
    ]
    assert not found.counts()[Verdict.UNKNOWN]


# Nobody was asked anything: traffic, a campaign and delays are asked for by options, or elsewhere.
UNASKED = ("E5", "E6", "E9")


def bare(evidence: Evidence) -> list[str]:
    """Findings without evidence, or with some that lacks its command, time or excerpt."""
    gathered = {(item.source, item.node) for item in evidence}
    return [
        f"{result.id} {each.verdict} {each.node}: {each.what}"
        for result, each in judge.diagnose(evidence).outcomes()
        if result.id not in UNASKED
        if not each.shown
        or not all(
            shown.excerpt and ((shown.asked and shown.taken_utc) or
                               (shown.source, shown.node) not in gathered)
            for shown in each.shown
        )
    ]  # fmt: skip


@pytest.mark.parametrize("release", RECORDED)
def test_every_finding_has_its_evidence_whatever_its_verdict(release: str) -> None:
    base = healthy(release)
    assert bare(base) == []
    # Checks of DSR, and those of what is not asked for, apply to other clusters.
    for fields in ({"bpfExternalServiceMode": "DSR"}, {"bpfEnabled": False}):
        assert bare(changed(base, {("felixconfigurations", ""): felix(base, fields)})) == []
    assert bare(windows(base, "node-2")) == []


@pytest.mark.parametrize("release", ["v3.16", "v3.32"])
def test_what_cannot_be_told_has_the_evidence_that_it_cannot(release: str) -> None:
    base = healthy(release)
    for place in [place for place in base.items if place[1] != "node-2"]:
        assert bare(changed(base, without=[place])) == [], place
