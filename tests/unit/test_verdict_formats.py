"""Verdicts as JUnit XML, Markdown and JSON say what the frame says, whatever is in it."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from ebpfperf import cli, compare, metrics, verdict_formats, verdict_rows
from ebpfperf.verdict_formats import Accepted, Condition, Statement

# Element → attributes that must be there, that may be, and what may stand in it: the part that is
# used of junit-10.xsd, against which Jenkins' xUnit plugin validates (it refuses a whole report).
JUNIT_10: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {"group", "time", "skipped", "timestamp", "hostname", "id", "package"},
        {"properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, set(), set()),
    "testcase": (
        {"name"},
        {"time", "classname", "group"},
        {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    "failure": (set(), {"type", "message"}, set()),
    "skipped": (set(), {"type", "message"}, set()),
    "system-out": (set(), set(), set()),
}
VERDICTS = ("worse", "better", "equivalent", "undecided", "void")


def row(verdict: str, *, primary: bool = True, **more: Any) -> dict[str, Any]:
    decided = verdict in ("worse", "better", "equivalent")
    numbers = {
        name: math.nan if not decided else 1.0
        for name, dtype in compare.COLUMNS.items()
        if dtype == "float64"
    }
    texts = {name: "" for name, dtype in compare.COLUMNS.items() if dtype == "str"}
    counts = {name: 8 for name, dtype in compare.COLUMNS.items() if dtype == "int64"}
    return {
        **numbers, **texts, **counts,
        "metric": "received_bits_per_s", "flow": "tcp", "treatment": "vxlan",
        "baseline": "before", "ratio": 0.8, "verdict": verdict, "primary": primary,
        "planned_blocks": 0, "reason": "no trial" if verdict == "void" else "", **more,
    }  # fmt: skip


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(compare.COLUMNS)).astype(compare.COLUMNS)


def statement(effects: pd.DataFrame, **more: Any) -> Statement:
    given = {"title": "b against a", "properties": (("before", "a"), ("level", 0.95))} | more
    return Statement(effects=effects, **given)


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        (("better", "equivalent"), 0),
        (("worse", "undecided", "better"), 1),
        (("undecided", "better"), 3),
        (("void", "equivalent"), 3),
        ((), 3),
    ],
)
def test_the_exit_status_is_that_of_the_primary_rows(
    verdicts: tuple[str, ...], status: int
) -> None:
    primary = [row(verdict) for verdict in verdicts]
    others = [row(verdict, primary=False) for verdict in VERDICTS]
    assert verdict_formats.status(frame(*primary)) == status
    assert verdict_formats.status(frame(*primary, *others)) == status


rows = st.builds(
    row,
    st.sampled_from(VERDICTS),
    primary=st.booleans(),
    flow=st.text(min_size=1),
    treatment=st.text(min_size=1),
    marks=st.text(),
    warnings=st.text(),
    reason=st.text(),
    metric=st.sampled_from(metrics.HEADLINE),
)


@given(st.lists(rows, max_size=6), st.text(), st.booleans())
def test_junit_can_be_read_back_and_counts_what_the_frame_holds(
    given_rows: list[dict[str, Any]], title: str, everything: bool
) -> None:
    effects = frame(*given_rows)
    text = verdict_formats.junit(statement(effects, title=title), everything=everything)
    root = ElementTree.fromstring(text)
    kept = effects if everything else effects[effects["primary"]]
    cases = root.findall(".//testcase")
    assert len(cases) == len(kept)
    failures = kept["primary"] & kept["verdict"].eq("worse")
    skipped = kept["verdict"].isin(["worse", "undecided", "void"]) & ~failures
    assert [case.find("failure") is not None for case in cases] == list(failures)
    assert [case.find("skipped") is not None for case in cases] == list(skipped)
    suite = root.find("testsuite")
    assert suite is not None
    counts = {"tests": len(kept), "failures": failures.sum(), "errors": 0}
    for element, more in ((root, {}), (suite, {"skipped": skipped.sum()})):
        found = {name: int(n) for name, n in element.attrib.items() if name != "name"}
        assert found == counts | more
    for element in root.iter():
        required, optional, inside = JUNIT_10[element.tag]
        assert required <= element.attrib.keys() <= required | optional
        assert {child.tag for child in element} <= inside
    assert (verdict_formats.status(effects) == 1) == bool(root.findall(".//failure"))


def test_a_testcase_is_named_by_flow_treatment_and_metric_and_says_why() -> None:
    worse = row("worse", low=0.75, high=0.85, p_value=0.001, p_holm=0.009, family=9)
    few = row("undecided", metric="rr_p50_ns", flow="rr", reason="all 9 pairs positive")
    root = ElementTree.fromstring(verdict_formats.junit(statement(frame(worse, few))))
    first, second = root.findall(".//testcase")
    assert (first.attrib["classname"], first.attrib["name"]) == ("tcp", "vxlan Throughput")
    failure, skip = first.find("failure"), second.find("skipped")
    assert failure is not None
    assert skip is not None
    assert failure.attrib["message"] == "−20.0 % (−25.0 to −15.0 %): worse"
    assert "p 0.001, Holm 0.009 of 9" in (failure.text or "")
    assert skip.attrib["message"] == "−20.0 %: undecided: all 9 pairs positive"


ACCEPTED = Accepted("the kernel | is <the> subject", ("Flow tcp is not the same.", "And probes."))
CONDITIONS = (
    Condition("kernel", "node-1", "6.1", "6.18"),
    Condition("calico_release", "", "v3.26.1", "v3.30.0", expected=True),
)


def test_every_format_keeps_what_was_accepted_and_what_differs() -> None:
    told = statement(frame(row("worse")), accepted=ACCEPTED, conditions=CONDITIONS)
    root = ElementTree.fromstring(verdict_formats.junit(told))
    properties = {one.attrib["name"]: one.attrib["value"] for one in root.iter("property")}
    assert properties["accepted"] == ACCEPTED.reason
    assert properties["accepted problem 2"] == "And probes."
    assert properties["differs: kernel on node-1"] == "6.1 → 6.18"
    assert properties["expected: calico_release"] == "v3.26.1 → v3.30.0"
    assert properties["level"] == "0.95"
    text = verdict_formats.markdown(told)
    assert "**Compared nevertheless**: the kernel \\| is &lt;the&gt; subject" in text
    assert "| kernel | node-1 | 6.1 | 6.18 |  |" in text
    document = json.loads(json.dumps(verdict_formats.document(told), allow_nan=False))
    assert document["accepted"] == {
        "reason": ACCEPTED.reason, "problems": list(ACCEPTED.problems)
    }  # fmt: skip
    assert document["conditions"][1]["expected"] is True
    assert (document["exit_status"], document["level"]) == (1, 0.95)


@given(st.lists(rows, min_size=1, max_size=6))
def test_markdown_is_a_table_of_as_many_cells_as_its_head_worst_first(
    given_rows: list[dict[str, Any]],
) -> None:
    effects = frame(*given_rows)
    lines = verdict_formats.markdown(statement(effects), everything=True).split("\n")
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == len(effects) + 2
    bars = {line.replace("\\|", "").count("|") for line in table}
    assert len(bars) == 1
    order = ["worse", "void", "undecided", "better", "equivalent"]
    ranks = [next(i for i, w in enumerate(order) if line[2:].startswith(w)) for line in table[2:]]
    assert ranks == sorted(ranks)


def test_no_number_is_null_in_json() -> None:
    effects = frame(row("undecided", detectable_pct=math.inf))
    (told,) = verdict_formats.document(statement(effects))["effects"]
    assert told["low"] is None
    assert told["detectable_pct"] is None
    assert told["n_blocks"] == 8


def test_notes_are_lettered_once_each() -> None:
    effects = frame(row("worse", marks="idle_load", warnings="a; b"), row("better", warnings="b"))
    assert verdict_rows.lettered(effects) == ("idle_load", "a", "b")
    assert [one["notes"] for one in verdict_rows.effect_rows(effects)] == ["a, b, c", "c"]
    assert [verdict_rows.letter(number) for number in (0, 25, 26, 52)] == ["a", "z", "aa", "ba"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories: two days of one campaign, one in which all got slower, one of other flows."""
    import shutil
    from dataclasses import replace

    from ebpfperf.model import Treatment
    from ebpfperf.store import Store

    base = tmp_path_factory.mktemp("runs")
    small = replace(
        synthetic.CAMPAIGN,
        flows=synthetic.CAMPAIGN.flows[:1],
        treatments=synthetic.CAMPAIGN.treatments[:2],
    )
    slower = replace(small, seed=8)
    (tcp,) = small.flows
    other = replace(small, flows=(replace(tcp, streams=8),))
    for name, campaign, factor in (
        ("before", small, 1.0), ("slower", slower, 0.5), ("faster", slower, 2.0),
        ("other", other, 0.5),
    ):  # fmt: skip
        store = Store.create(base / name, campaign)
        store.add_facts(synthetic.facts())
        for result in synthetic.results(campaign):
            rates = {
                metric: value * factor if metric.endswith("bits_per_s") else value / factor
                for metric, value in result.metrics.items()
                if metric in ("received_bits_per_s", "sent_bits_per_s", "cpu_s_per_gbit")
            }
            store.append(replace(result, metrics={**result.metrics, **rates}))
    shutil.copytree(base / "before", base / "copy")
    assert isinstance(small.treatments[0], Treatment)
    return base


@pytest.fixture
def run(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The command line, in this process: exit status, stdout, stderr."""

    def called(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(runs)
        monkeypatch.setattr(sys, "argv", ["ebpfperf", "compare", *arguments])
        status: object = 0
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code or 0
        said = capsys.readouterr()
        assert isinstance(status, int)
        return status, said.out, said.err

    return called


def test_exit_statuses(run: Any) -> None:
    assert run("before", "slower")[0] == 1
    assert run("before", "faster")[0] == 0
    status, out, _ = run("before", "copy")
    assert status in (0, 3)
    assert "worse" not in out
    status, out, err = run("before", "other")
    assert (status, out) == (2, "")
    assert "streams 1 before, 8 after" in err
    assert "--accept REASON" in err


def test_within_one_campaign_the_status_is_asked_for(run: Any) -> None:
    status, plain, _ = run("before")
    assert status == 0
    # The made-up IPIP carries 0.95 of the baseline.
    assert "worse" in plain
    assert run("before", "--fail") == (1, plain, "")
    assert "more with --all" in plain
    assert "TCP smoothed RTT" in run("before", "--all")[1]
    status, out, _ = run("before", "--format", "junit")
    assert status == 0
    assert ElementTree.fromstring(out).findall(".//failure")
    assert run("before", "--format", "markdown")[1].startswith("### synthetic")


def test_what_was_accepted_is_in_every_format_and_marks_the_verdicts(run: Any) -> None:
    for kind in verdict_formats_known():
        status, out, _ = run(
            "before", "other", "--accept", "eight streams are the subject", "--format", kind
        )
        assert status == 1
        assert "eight streams are the subject" in out, kind
        assert "streams 1 before, 8 after" in out, kind
    document = json.loads(
        run("before", "other", "--accept", "eight streams are the subject", "--json")[1]
    )
    assert all("accepted: eight streams" in one["marks"] for one in document["effects"])
    # Where nothing speaks against it, it is recorded all the same, but there is nothing to mind.
    kept = json.loads(run("before", "slower", "--accept", "whatever", "--json")[1])
    assert kept["accepted"] == {"reason": "whatever", "problems": []}
    assert not any(one["marks"] for one in kept["effects"])
    for kind in ("text", "markdown", "junit"):
        assert "whatever" in run("before", "slower", "--accept", "whatever", "--format", kind)[1]
    assert json.loads(run("before", "slower", "--json")[1])["accepted"] is None


def test_a_margin_or_level_chosen_afterwards_marks_the_verdicts(run: Any) -> None:
    def marks(*words: str) -> set[str]:
        return {
            one["marks"]
            for one in json.loads(run("before", "slower", "--json", *words)[1])["effects"]
        }

    (sound,) = marks()
    assert marks("--margin", "5%", "--level", "0.95") == {sound}
    assert marks("--margin", "40%") == {
        "; ".join(filter(None, [sound, "margin 40 % instead of 5 % as fixed before the runs"]))
    }
    (both,) = marks("--margin", "1%", "--level", "0.8")
    assert "margin 1 % instead of 5 %" in both
    assert "level 0.8 instead of 0.95" in both


def verdict_formats_known() -> tuple[str, ...]:
    from ebpfperf.commands.comparisons import Format

    return tuple(Format)


def test_the_output_file_is_whole_or_not_there(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "verdicts.xml"
    status, out, _ = run("before", "slower", "--format", "junit", "--output", str(file))
    assert (status, out) == (1, "")
    assert ElementTree.parse(file).getroot().attrib["failures"] != "0"
    kept = file.read_bytes()
    assert run("before", "other", "--format", "junit", "--output", str(file))[0] == 2
    assert file.read_bytes() == kept
    status, _, err = run("before", "slower", "--output", str(tmp_path / "no" / "such" / "place"))
    assert status == 2
    assert "cannot be written" in err
    assert [path.name for path in tmp_path.iterdir()] == ["verdicts.xml"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("before", "--accept", "x"), "two campaigns"),
        (("before", "--expect", "kernel"), "two campaigns"),
        (("before", "slower", "--accept", " "), "gives no reason"),
        (("before", "slower", "--treatment", "none"), "BEFORE=AFTER"),
        (("before", "slower", "--treatment", "geneve=none"), "'geneve'"),
        (("before", "slower", "--margin", "wide"), "no margin"),
        (("before", "slower", "--level", "0.2"), "no level"),
        (("before", "slower", "--json", "--format", "junit"), "contradict"),
        (("before", "nowhere"), "no campaign directory"),
    ],
)
def test_bad_options_are_one_sentence_and_status_2(
    run: Any, arguments: tuple[str, ...], words: str
) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert words in err
