"""How a diagnosis is told: the verdict first, the same said once, evidence below, exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import doctor_document
import pytest
from typer.testing import CliRunner

from ebpfperf import gathering, reach
from ebpfperf.cli import app
from ebpfperf.commands import doctor_text
from ebpfperf.diagnosis import Diagnosis, Outcome, Result, Shown, Verdict, from_json
from ebpfperf.diagnosis_groups import doubts, grouped, headline, named, where
from ebpfperf.doctor import judge, listing
from ebpfperf.doctor.case import Case
from ebpfperf.doctor.declaration import Check
from ebpfperf.errors import InputError
from ebpfperf.evidence import Evidence, Item
from ebpfperf.evidence_sources import LATER

TAKEN = "2026-01-31T09:05:33Z"
NODES = tuple(f"node-{number}" for number in range(1, 8))


def shown(node: str, excerpt: str = "ext4") -> Shown:
    return Shown("bpffs", node, "findmnt -n /sys/fs/bpf", TAKEN, excerpt)


def result(name: str, *outcomes: Outcome) -> Result:
    return Result(name, "checked", "Is it so?", "Slow.", "If so.", "felix", outcomes)


def diagnosis(*results: Result, nodes: tuple[str, ...] = NODES) -> Diagnosis:
    return Diagnosis(TAKEN, "v3.26.1", nodes, results, {}, "0.1.0", seconds=5.0)


def fails(node: str, what: str = "It is ext4.", **more: Any) -> Outcome:
    return Outcome(Verdict.FAIL, what, (shown(node),), node=node, remedy="Mount it.", **more)


def told(found: Diagnosis, **how: Any) -> str:
    return "\n".join(doctor_text.text(found, **how))


# ------------------------------------------------------------------------------- headline


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ("FAIL WARN OK", "FAIL: 1 of 3 checks fails (node-1); 1 warns."),
        ("FAIL FAIL UNKNOWN", "FAIL: 2 of 3 checks fail (node-1); 1 cannot tell (UNKNOWN)."),
        ("WARN OK", "WARN: 1 of 2 checks warns (node-1); none fails."),
        (
            "WARN WARN UNKNOWN",
            "WARN: 2 of 3 checks warn (node-1); 1 cannot tell (UNKNOWN); none fails.",
        ),
        (
            "UNKNOWN OK",
            "UNKNOWN: none of 2 checks fails or warns, but 1 cannot tell (UNKNOWN).",
        ),
        ("OK OK N/A", "OK: 2 checks found nothing wrong; 1 does not apply here."),
    ],
)
def test_the_verdict_is_one_sentence(verdicts: str, said: str) -> None:
    outcomes = [Outcome(Verdict(word), "x", node="node-1") for word in verdicts.split()]
    results = [result(f"X{number}", each) for number, each in enumerate(outcomes)]
    assert headline(diagnosis(*results)) == said


def test_where_it_fails_is_all_nodes_some_or_the_cluster() -> None:
    assert where(NODES, NODES) == "all 7 nodes"
    assert where(["node-1"], ["node-1"]) == "node-1"
    assert where(["node-2", "node-2", "node-4"], NODES) == "node-2, node-4"
    assert where(NODES[:6], NODES) == "node-1, node-2, node-3 and 3 more"
    assert where(["", "node-1"], NODES) == "cluster"
    assert named(["a", "b", "c", "d"]) == "a, b, c, d"
    both = result("X1", fails("node-1"), replace(fails(""), node=""))
    assert headline(diagnosis(both)).endswith("(node-1 and the cluster).")
    assert headline(diagnosis(result("X1", fails("")))).endswith("fails (cluster).")


# ---------------------------------------------------------------------------------- groups


def test_the_same_of_many_nodes_is_one_group_and_one_sentence() -> None:
    (group,) = grouped(diagnosis(result("X1", *(fails(name) for name in NODES))))
    assert (group.verdict, group.check, group.where(NODES)) == ("FAIL", "X1 checked", "all 7 nodes")
    assert group.said() == ("It is ext4.",)


def test_sentences_that_differ_in_numbers_and_names_are_one_group_with_each_said() -> None:
    outcomes = [fails(name, f"{name} drops {number}.5 % on 10.0.0.{number}:80.")
                for number, name in enumerate(NODES)]  # fmt: skip
    (group,) = grouped(diagnosis(result("X1", *outcomes)))
    assert group.said() == (
        "node-1: node-1 drops 0.5 % on 10.0.0.0:80.",
        "node-2: node-2 drops 1.5 % on 10.0.0.1:80.",
        "node-3: node-3 drops 2.5 % on 10.0.0.2:80.",
        "and 4 more like these.",
    )
    assert len(group.said(7)) == 7


def test_pairs_of_nodes_are_one_group_whichever_comes_first() -> None:
    outcomes = [fails("node-1", "From node-2 to node-1: lost."),
                fails("node-2", "From node-1 to node-2: lost."),
                fails("alpha", "From node-1 to alpha: lost.")]  # fmt: skip
    (group,) = grouped(diagnosis(result("X1", *outcomes)))
    assert len(group.outcomes) == 3


def test_subjects_of_the_same_sentence_are_listed_and_shortened() -> None:
    outcomes = [fails("node-1", "has no program.", subject=f"cali{n}") for n in range(9)]
    (group,) = grouped(diagnosis(result("X1", *outcomes)))
    assert group.said() == ("cali0, cali1, cali2 and 6 more: has no program.",)
    named = fails("node-1", "The pod at cali7 has MTU 1500.", subject="cali7")
    (group,) = grouped(diagnosis(result("X1", named)))
    assert group.said() == ("The pod at cali7 has MTU 1500.",)


@pytest.mark.parametrize(
    "other",
    [
        fails("node-2", "It is xfs."),
        replace(fails("node-2"), remedy="Reboot."),
        replace(fails("node-2"), corrected="No longer."),
        replace(fails("node-2"), verdict=Verdict.WARN),
    ],
)
def test_what_differs_in_words_remedy_correction_or_verdict_stays_apart(other: Outcome) -> None:
    found = grouped(diagnosis(result("X1", fails("node-1"), other)))
    assert [group.outcomes for group in found] == [(fails("node-1"),), (other,)]


def test_groups_are_worst_first_and_then_in_the_order_of_the_checks() -> None:
    warns = Outcome(Verdict.WARN, "x", node="node-1")
    unknown = Outcome(Verdict.UNKNOWN, "y", node="node-1")
    found = diagnosis(result("X1", unknown), result("X2", warns), result("X3", fails("node-1")))
    assert [group.result.id for group in grouped(found)] == ["X3", "X2", "X1"]
    assert [group.result.id for group in grouped(found, (Verdict.WARN,))] == ["X2"]


def test_what_stands_against_a_diagnosis_is_said() -> None:
    found = diagnosis(result("X1", fails("node-1")))
    assert doubts(found) == ()
    every = replace(
        found, lost={"node-3": "No route."}, emulated=True, from_bundle=True, pseudonyms=True,
        release="",
    )  # fmt: skip
    said = "\n".join(doubts(every))
    for words in (
        "node-3 was not reached", "No route.", "embedded lab", "pseudonyms", "which release",
        "from a bundle of 2026-01-31 09:05:33 UTC",
    ):  # fmt: skip
        assert words in said


def test_where_nobody_asks_for_ebpf_mode_ok_is_not_left_alone() -> None:
    off = [Outcome(Verdict.NOT_APPLICABLE, "Off.", node=name) for name in NODES[:2]]
    on = Outcome(Verdict.OK, "On.", node=NODES[2])
    (said,) = doubts(diagnosis(result("A1", *off, on)))
    assert said.startswith("eBPF mode is not asked for (node-1, node-2): most checks do not apply")
    (said,) = doubts(diagnosis(result("A1", *off), nodes=NODES[:2]))
    assert "(both nodes)" in said
    assert doubts(diagnosis(result("A1", on))) == ()


# ---------------------------------------------------------------------------------- text


def test_evidence_follows_what_fails_with_command_node_time_and_excerpt() -> None:
    found = diagnosis(result("X1", replace(fails("node-2"), corrected="In v3.32 not.")))
    assert told(found).splitlines() == [
        "FAIL: 1 of 1 check fails (node-2).",
        "Calico v3.26.1, 7 nodes, evidence of 2026-01-31 09:05:33 UTC, counted for 5.0 s.",
        "",
        "FAIL     X1 checked, node-2: Is it so?",
        "         It is ext4.",
        "         What to do: Mount it.",
        "         Documentation: In v3.32 not.",
        "         Evidence: node-2, 2026-01-31 09:05:33 UTC: findmnt -n /sys/fs/bpf",
        "         | ext4",
        "",
        "1 check: 1 FAIL, 0 WARN, 0 UNKNOWN, 0 OK, 0 N/A.",
    ]


def test_of_many_nodes_the_first_ones_evidence_is_shown_and_in_detail_all() -> None:
    found = diagnosis(result("X1", *(fails(name) for name in NODES)))
    assert told(found).count("Evidence:") == 1
    assert "All the evidence, of 7 findings like it: --check X1" in told(found)
    detail = told(found, detail=True)
    assert detail.count("Evidence:") == 7
    for words in ("Symptom: Slow.", "Rule: If so.", "Source: felix"):
        assert words in detail
        assert words not in told(found)


def test_what_is_ok_or_does_not_apply_is_shown_on_demand_without_evidence() -> None:
    ok = Outcome(Verdict.OK, "All is well.", (shown("node-1"),), node="node-1")
    found = diagnosis(result("X1", ok), result("X2", Outcome(Verdict.NOT_APPLICABLE, "Gone.")))
    assert "All is well" not in told(found)
    every = told(found, every=True)
    assert "OK       X1 checked, node-1: Is it so?\n         All is well." in every
    assert "N/A      X2 checked, cluster: Is it so?\n         Gone." in every
    assert "Evidence" not in every


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_lost(width: int) -> None:
    long = fails("node-1", "word " * 60 + "end.")
    wide = replace(long, shown=(shown("node-1", "x" * 500 + "\n  indented"),))
    lines = told(diagnosis(result("X1", wide)), width=width).splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(line.strip() for line in lines)
    assert text.count("word ") == 60
    assert sum(line.count("x") for line in lines if line.startswith("         | x")) == 500
    assert "         |   indented" in lines


def test_a_pipe_gets_a_sentence_a_line() -> None:
    what = "word " * 100 + "end."
    assert f"         {what}" in told(diagnosis(result("X1", fails("node-1", what)))).splitlines()


def test_what_would_steer_a_terminal_is_written_out() -> None:
    evil = fails("node-1", "name \x1b[2J\x07 here")
    found = diagnosis(result("X1", replace(evil, shown=(shown("n\x1b]0;", "a\x1b[31m\tb"),))))
    text = told(found)
    assert "\x1b" not in text
    assert "name \\x1b[2J\\x07 here" in text
    assert "| a\\x1b[31m" in text


def test_a_long_command_is_cut_and_in_detail_whole() -> None:
    script = "sh -c 'for d in /proc/[0-9]*; do\n  echo \"$d\"\ndone'"
    seen = replace(shown("node-1"), asked=script)
    assert doctor_text.asked(seen).endswith("do …")
    assert doctor_text.asked(seen, whole=True).endswith("done'")


# ------------------------------------------------------------------------------- command


class FakeKube:
    def close(self) -> None:
        pass


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A cluster of two nodes on which /sys/fs/bpf is what ``answers`` says."""
    answers: dict[str, Any] = {"node-1": "bpf", "node-2": "bpf", "lost": {}}

    def gather(kube: Any, names: Any, **how: Any) -> Evidence:
        answers["how"] = how
        items = [
            Item("bpffs", name, "findmnt -n", TAKEN, answers[name].encode(), 0)
            for name in names
            if name not in answers["lost"]
        ]
        return Evidence.of(
            items, nodes=names, release="v3.26.1", taken_utc=TAKEN, lost=answers["lost"]
        )

    monkeypatch.setattr(reach, "connect", lambda kubeconfig, context: FakeKube())
    monkeypatch.setattr(reach, "node_names", lambda kube, wanted: wanted or ["node-1", "node-2"])
    monkeypatch.setattr(gathering, "gather", gather)
    return answers


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["doctor", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit | InputError)
    if isinstance(done.exception, InputError):
        return done.exception.exit_status, str(done.exception)
    return done.exit_code, done.stdout


@pytest.mark.parametrize(
    ("kind", "status", "begins"),
    [("bpf", 0, "OK: 1 check"), ("ext4", 1, "FAIL: 1 of 1 check fails (node-2)")],
)
def test_the_exit_status_is_that_of_the_verdict(
    cluster: dict[str, Any], kind: str, status: int, begins: str
) -> None:
    cluster["node-2"] = kind
    code, said = run("--check", "A4")
    assert (code, said.startswith(begins)) == (status, True), said


def test_a_node_that_is_not_reached_is_said_first_and_unknown(cluster: dict[str, Any]) -> None:
    cluster["lost"] = {"node-2": "node-2 refused the connection."}
    code, said = run("--check", "bpffs")
    assert code == 3
    assert "node-2 refused the connection. 1 check of it could not be asked." in said
    assert said.startswith("UNKNOWN: none of 1 check")
    assert said.index("node-2 was not reached") < said.index("UNKNOWN  A4 bpffs, node-2")


def test_what_a_lost_node_leaves_unknown_is_said_once_and_in_detail_with_each_check() -> None:
    lost = Outcome(Verdict.UNKNOWN, "The node was not reached: No route.", node="node-3")
    found = replace(
        diagnosis(result("X1", lost), result("X2", lost, fails("node-1"))),
        lost={"node-3": "No route."},
    )
    assert "node-3 was not reached: No route. 2 checks of it could not be asked." in told(found)
    assert told(found).count("No route.") == 1
    assert "FAIL     X2 checked, node-1" in told(found)
    assert told(found, detail=True).count("The node was not reached: No route.") == 2


def test_strict_makes_a_warning_the_status_of_a_failure() -> None:
    warns = diagnosis(result("X1", Outcome(Verdict.WARN, "x", node="node-1")))
    unknown = diagnosis(result("X1", Outcome(Verdict.UNKNOWN, "x", node="node-1")))
    assert [judge.exit_status(warns), judge.exit_status(warns, strict=True)] == [0, 1]
    assert [judge.exit_status(unknown), judge.exit_status(unknown, strict=True)] == [3, 3]


def test_json_and_output_are_the_same_document(cluster: dict[str, Any], tmp_path: Path) -> None:
    cluster["node-1"] = ""
    file = tmp_path / "out.json"
    code, said = run("--check", "A4", "--json", "--output", str(file))
    assert code == 1
    assert json.loads(said) == json.loads(file.read_text())
    found = from_json(json.loads(said))
    assert [(o.node, o.verdict) for _, o in found.outcomes()] == [
        ("node-1", "FAIL"), ("node-2", "OK")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--check", "Z9"), "There is no check Z9"),
        (("--release", "v3.26"), "--release goes with --list"),
        (("--list", "--release", "new"), "new is no release"),
        (("--output", "nowhere/at/all.json"), "no directory nowhere/at"),
        (("--output", "."), ". is a directory"),
        (("--report", "x.pdf"), "is no HTML file"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    cluster: dict[str, Any], arguments: tuple[str, ...], words: str
) -> None:
    code, said = run(*arguments)
    assert (code, words in said) == (2, True), said
    assert "how" not in cluster


def test_a_document_that_cannot_be_written_is_no_check_that_fails(cluster: dict[str, Any]) -> None:
    code, said = run("--check", "A4", "--output", "/dev/full")
    assert (code, "/dev/full cannot be written: No space left" in said) == (2, True), said


# ---------------------------------------------------------------------------------- list


def check(**more: Any) -> Check:
    def nothing(case: Case) -> Iterator[Outcome]:
        yield from ()

    return Check("X1", "x", "Is it?", "Slow.", ("bpffs",), "r", "s", of_cluster=nothing, **more)


@pytest.mark.parametrize(
    ("since", "before", "said", "of"),
    [
        (None, None, "all", (True, True, True)),
        ((3, 27), None, "v3.27 and later", (False, False, True)),
        (None, (3, 23), "up to v3.22", (True, False, False)),
        ((3, 23), (3, 32), "v3.23 to v3.31", (False, True, True)),
        ((3, 23), (3, 24), "v3.23", (False, True, False)),
    ],
)
def test_which_releases_a_check_is_for(
    since: Any, before: Any, said: str, of: tuple[bool, ...]
) -> None:
    made = check(since=since, before=before)
    assert listing.releases(made) == said
    assert tuple(listing.applies(made, (3, minor)) for minor in (22, 23, 31)) == of


def test_the_list_needs_no_cluster_and_is_the_checks() -> None:
    rows = json.loads(run("--list", "--json")[1])
    assert [row["id"] for row in rows] == [check.id for check in judge.CHECKS]
    assert set(rows[0]) == {"id", "name", "question", "releases", "reads", "source"}
    older = json.loads(run("--list", "--release", "v3.13", "--json")[1])
    assert [row["id"] for row in older] == [
        check.id for check in judge.CHECKS if listing.applies(check, (3, 13))
    ]


def test_the_documentation_lists_the_checks_and_sources_that_there_are() -> None:
    text = doctor_document.DOCUMENT.read_text(encoding="utf-8")
    assert text == doctor_document.filled(text), "run .venv/bin/python tests/doctor_document.py"
    for each in judge.CHECKS:
        assert f"| {each.id} `{each.name}` | {each.title} |" in text


def test_checks_read_what_is_gathered() -> None:
    known = {name for name, _, _ in listing.sources()}
    for each in judge.CHECKS:
        assert {name.removesuffix(LATER) for name in each.reads} <= known, each.id
