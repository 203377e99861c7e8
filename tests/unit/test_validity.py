"""Whether to believe it, in sentences and tables: nothing against a number is left out."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pandas as pd
import pytest
from judged import AA, factor, judge, with_fact
from synthetic import CAMPAIGN, facts, facts_frame, failed

from ebpfperf import gates, validity, validity_tables
from ebpfperf.findings import Sentences
from ebpfperf.model import Design, Fact, Status
from ebpfperf.verdicts import Verdicts

FACTS = facts_frame(facts()).assign(trial_id=None)
# As conditions are: a fact of every trial.
ASKED = Fact("node-1", "sysctl:net.core.rmem_max", "212992")
READ = Fact("node-1", "conditions", "read")


@cache
def plain() -> Verdicts:
    return judge(change=with_fact("vxlan", ASKED, ASKED))


def told(found: Verdicts, *conditions: Fact) -> pd.DataFrame:
    rows = [(fact.node, fact.name, fact.value, fact.unit, "b000-none-tcp") for fact in conditions]
    columns = ["node", "name", "value", "unit", "trial_id"]
    return pd.concat([FACTS, pd.DataFrame(rows, columns=columns)])


def said(found: Verdicts, *conditions: Fact) -> str:
    return str(validity.belief(found, told(found, *conditions)))


def test_a_campaign_that_nothing_speaks_against_says_so() -> None:
    text = said(plain(), READ, ASKED, replace(ASKED, name="x", value="UNKNOWN: not there"))
    assert "96 of 96 planned trials are good; 8 of 8 blocks are complete" in text
    assert "hold at 95% over the 2 or 3 metrics" in text
    assert "The A/A test holds: of 7 comparisons of the baseline with itself none" in text
    assert "Nothing but the treatments themselves differed between the arms, of 2 facts" in text


def test_a_baseline_that_differs_from_itself_is_the_first_thing_said_of_it() -> None:
    text = said(judge(change=factor("received_bits_per_s", 1.06, "-tcp-again")))
    assert "The A/A test fails" in text
    assert "Throughput of tcp +" in text
    assert "one question in 20" in text


def test_an_aa_test_that_could_not_have_failed_does_not_hold() -> None:
    """Over two metrics six blocks can establish no difference, however large."""
    text = said(judge(replace(AA, blocks=6)))
    assert "The A/A test has too few blocks to show anything yet." in text
    assert "The A/A test holds" not in text
    assert "The A/A test holds" in said(judge(replace(AA, blocks=7)))


def test_what_was_not_recorded_is_unknown_and_not_equal() -> None:
    text = said(judge(replace(CAMPAIGN, aa_test=False)), ASKED)
    assert "No A/A test" in text
    assert "whether something besides the treatments differed is unknown" in text


def test_a_confounder_is_named_with_the_arms_that_have_it() -> None:
    found = judge(change=with_fact("vxlan", ASKED, replace(ASKED, value="8388608")))
    text = said(found, ASKED)
    assert "Confounded by sysctl:net.core.rmem_max: 212992 against 8388608 on node-1" in text
    assert "vxlan (tcp), vxlan (rr), vxlan (host-tcp) against none" in text


def test_gates_that_tripped_and_those_that_nobody_could_ask_are_told_apart() -> None:
    busy = judge(
        change=lambda result: replace(
            result, metrics={**result.metrics, "idle_busy_pct": 90.0 * (result.trial.block == 3)}
        )
    )
    text = said(busy)
    assert f"of {len(gates.GATES)} validity gates passed everywhere" in text
    assert "idle_load (12 of 96 trials)" in text
    assert "Not checked everywhere, which is not the same as passed:" in text
    assert "wrong_path" in text.partition("Not checked")[2]


def test_every_gate_that_tripped_has_its_first_example_and_what_to_do() -> None:
    busy = judge(
        change=lambda result: replace(
            result, metrics={**result.metrics, "idle_busy_pct": 90.0 * (result.trial.block == 3)}
        )
    )
    told = {text.split()[1].rstrip(",:"): text for text in validity.advice(busy).items}
    tripped = {*gates.tripped(busy.gates)["gate"], *gates.tripped(busy.comparison_gates)["gate"]}
    assert told.keys() == tripped
    assert told["idle_load"] == (
        "Gate idle_load, for example: A node was 90 % busy before the trial. "
        + gates.GATES["idle_load"].advice
    )


def test_gates_of_no_trial_have_not_passed() -> None:
    text = said(judge(change=lambda result: failed(result, reason="timeout: x")))
    # The versions of the nodes are known without any trial.
    assert f"1 of {len(gates.GATES)} validity gates passed everywhere" in text
    assert "idle_load" in text.partition("Not checked everywhere")[2]


def test_what_a_gate_left_out_is_counted() -> None:
    found = judge()
    lost = found.trials["trial_id"].eq("b002-vxlan-tcp")
    trials = found.trials.assign(
        status=found.trials["status"].mask(lost, Status.VOID.value),
        reason=found.trials["reason"].mask(lost, "wrong_path: seen as none"),
    )
    text = said(replace(found, trials=trials))
    assert "1 trial(s) left out by a gate: wrong_path." in text
    assert "95 of 96 planned trials are good; 7 of 8 blocks are complete" in text


def test_imported_trials_are_not_called_planned() -> None:
    apart = judge(replace(CAMPAIGN, design=Design.INDEPENDENT, source="iperf3"))
    text = said(apart)
    assert "72 of 72 imported trials are good; they are not paired" in text
    assert "is what the import was told, not observed" in text


def test_a_campaign_that_ended_early_says_at_which_level_it_is_judged() -> None:
    early = judge(replace(AA, blocks=24, until_pct=3.0, ended_after=8))
    text = said(early)
    assert "ended after 8 of 24 blocks, when its intervals were within ±3 %" in text
    assert "97.7" in text


@pytest.mark.parametrize("name", ["Validity gates", "A/A test", "What differed"])
def test_the_tables_show_what_the_sentences_count(name: str) -> None:
    found = judge(change=with_fact("vxlan", ASKED, replace(ASKED, value="8388608")))
    (table,) = (one for one in validity_tables.shown(found) if one.caption.startswith(name))
    assert table.folded
    assert "<table" in table._repr_html_()
    if name == "Validity gates":
        assert table.frame["gate"].tolist() == list(gates.GATES)


def test_what_limited_each_flow_has_a_row_for_every_treatment() -> None:
    sentences, table = validity_tables.limiters(plain())
    assert isinstance(sentences, Sentences)
    assert len(table.frame) == 9
    assert set(table.frame["why"]) <= {chr(ord("a") + n) for n in range(len(table.notes))}
    assert "nan" not in table._repr_html_().replace("nano", "")
