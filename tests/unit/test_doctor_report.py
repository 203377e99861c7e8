"""A diagnosis as a notebook and as a page: nothing left out, nothing from the network."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from pathlib import Path

import pytest
from evidence_made import changed, healthy

from ebpfperf import diagnosing, report, templates
from ebpfperf import diagnosis_tables as shown
from ebpfperf.diagnosis import Diagnosis, Outcome, Result, Shown, Verdict, from_json
from ebpfperf.doctor import judge
from ebpfperf.errors import InputError, ParameterError

TAKEN = "2026-01-31T09:05:33Z"
SEEN = Shown("bpffs", "node-2", "findmnt -n\n -o FSTYPE", TAKEN, "<ext4> & \x1b[2J")
OK = Outcome(Verdict.OK, "Well.", node="node-1")
BAD = Outcome(
    Verdict.FAIL, "It is <ext4>.", (SEEN,), node="node-2", remedy="Mount it.", corrected="Not now."
)
OFF = Outcome(Verdict.NOT_APPLICABLE, "Gone.")
UNKNOWN = Outcome(Verdict.UNKNOWN, "Not read.", node="node-1")


def result(name: str, *outcomes: Outcome) -> Result:
    return Result(name, "checked", "Is it so?", "Slow.", "If <so>.", "felix", outcomes)


def made(*results: Result, nodes: tuple[str, ...] = ("node-1", "node-2")) -> Diagnosis:
    return Diagnosis(TAKEN, "v3.26.1", nodes, results, {}, "0.1.0", seconds=5.0)


FOUND = made(result("X1", OK, BAD), result("X2", OFF), result("X3", UNKNOWN))


def text(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", html))


def test_the_verdict_leads_and_doubts_are_said() -> None:
    assert str(shown.verdict(FOUND)) == (
        "FAIL: 1 of 3 checks fails (node-2); 1 cannot tell (UNKNOWN)."
    )
    said = str(shown.validity(replace(FOUND, emulated=True, lost={"node-9": "Gone."})))
    assert "an emulation, not Calico" in said
    assert "node-9 was not reached" in said
    assert "UNKNOWN is not OK: 1 of 3 checks could not tell (X3 checked)." in said
    assert "Every check had the evidence" in str(shown.validity(made(result("X1", OK))))


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ("2026-01-31T09:06:33Z", "The evidence was 1 min 00 s old"),
        ("2026-01-31T14:05:33Z", "The evidence was 5 hours old"),
        ("2026-02-03T10:05:33Z", "The evidence was 3 days old"),
        ("2026-01-31T09:05:30Z", "clocks differ"),
    ],
)
def test_how_old_the_evidence_is(now: str, said: str) -> None:
    assert said in str(shown.validity(FOUND, now=datetime.fromisoformat(now)))
    odd = replace(FOUND, taken_utc="yesterday")
    assert "is not known" in str(shown.validity(odd, now=datetime.now(UTC)))


def test_findings_have_remedies_and_corrections_as_notes() -> None:
    table = shown.findings(FOUND)
    assert table.frame.to_dict("records") == [
        {"check": "X1 checked", "verdict": "FAIL: node-2", "what": "It is <ext4>.",
         "what to do": "Mount it. (a)"},
        {"check": "X3 checked", "verdict": "UNKNOWN: node-1", "what": "Not read.",
         "what to do": "–"},
    ]  # fmt: skip
    assert table.notes == ("Not now.",)
    assert "nothing to show" in shown.findings(made(result("X1", OK)))._repr_html_()


def test_evidence_opens_by_finding_and_is_escaped() -> None:
    html = shown.evidence(FOUND)._repr_html_()
    assert html.count("<details>") == 2
    assert "<ext4>" not in html
    assert "&lt;ext4&gt; &amp; \\x1b[2J" in html
    assert "node-2, 2026-01-31 09:05:33 UTC: <code>findmnt -n -o FSTYPE</code>" in html
    assert "Rule: If &lt;so&gt;." in html
    assert "\x1b" not in str(shown.evidence(FOUND))
    assert "Nothing is wrong" in shown.evidence(made(result("X1", OK)))._repr_html_()


def test_the_matrix_has_a_letter_for_every_check_and_node() -> None:
    table = shown.matrix(FOUND)
    assert table.frame.to_dict("records") == [
        {"check": "X1 checked", "cluster": "", "node-1": "·", "node-2": "F"},
        {"check": "X2 checked", "cluster": "–", "node-1": "", "node-2": ""},
        {"check": "X3 checked", "cluster": "", "node-1": "U", "node-2": ""},
    ]
    assert table.notes[0].startswith("F fails, W warns, U is UNKNOWN")


def test_of_many_nodes_the_worst_are_shown_and_the_rest_is_counted() -> None:
    names = tuple(f"node-{number:02}" for number in range(40))
    outcomes = [replace(OK, node=name) for name in names[:39]]
    found = made(result("X1", *outcomes, replace(BAD, node="node-39")), nodes=names)
    table = shown.matrix(found)
    assert len(table.frame.columns) == 2 + shown.NODES_SHOWN
    assert table.frame["node-39"].tolist() == ["F"]
    assert table.notes[1].startswith("24 more nodes")


def test_how_to_look_again_names_what_is_wrong() -> None:
    assert shown.repeat(FOUND, "d.json").lines == (
        "ebpfperf doctor --for 5s --report doctor.html",
        "ebpfperf doctor --check X1 --node node-2",
        "ebpfperf.diagnosing.opened('d.json')  # in Python",
    )
    assert "--bundle" in str(shown.repeat(replace(FOUND, from_bundle=True)))


def test_a_file_is_read_back_and_another_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "d.json"
    file.write_text(json.dumps(FOUND.as_json()))
    assert diagnosing.opened(file) == FOUND
    for content, words in (("{", "cannot be read"), ("{}", "no diagnosis"), ("[]", "no diagnosis"),
                           ('{"schema": 99}', "has schema 99")):  # fmt: skip
        file.write_text(content)
        with pytest.raises(InputError, match=words):
            diagnosing.opened(file)
    with pytest.raises(InputError, match="cannot be read"):
        diagnosing.opened(tmp_path / "none.json")


def test_it_is_no_report_of_a_campaign(tmp_path: Path) -> None:
    names = [templates.name_of(template) for template in templates.reports()]
    assert "troubleshooting" not in names
    assert "overlay-comparison" in names
    assert templates.subject(templates.find("troubleshooting")) == "diagnosis"
    with pytest.raises(ParameterError, match="no report of a campaign"):
        report.render("troubleshooting", campaign=tmp_path)
    with pytest.raises(ParameterError, match="no parameter 'diagnosis'"):
        templates.check("troubleshooting", {"diagnosis": "x"})


def test_the_page_says_all_of_it_offline(tmp_path: Path) -> None:
    evidence = changed(healthy(), {("bpffs", "node-2"): ""})
    found = judge.diagnose(evidence)
    file, html = tmp_path / "d.json", tmp_path / "out" / "d.html"
    file.write_text(json.dumps(found.as_json()))
    done = report.render_file("troubleshooting", file, html, stamp="A cluster")
    assert (done.html, done.executed.exists()) == (html, True)
    page = html.read_text()
    for word in ("http:", "https:", "<script", "@import", "url("):
        assert word not in page
    said = " ".join(text(page).split())
    assert "A cluster" in said
    assert "FAIL: node-2 /sys/fs/bpf is not mounted" in said
    assert "Mount it at boot" in said
    assert "node-2, " in said
    assert "findmnt -n -o FSTYPE /sys/fs/bpf" in said
    for check in judge.CHECKS:
        assert f"{check.id} {check.name}" in said
    assert page.count("<h1") == 1
    assert re.findall(r"<h2[^>]*>([^<]+)", page) == [
        "1 Headline", "2 Validity", "3 Findings", "4 Evidence", "5 Every check", "6 Appendix",
    ]  # fmt: skip
    assert from_json(json.loads(file.read_text())) == found
