"""Sentences: what a reader who reads nothing else is told."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from synthetic import CAMPAIGN, facts, facts_frame, failed, results, trials_frame

from ebpfperf import compare, findings, metrics, tables, validity
from ebpfperf.model import Fact

TRIALS = trials_frame(results())
EFFECTS = compare.effects(TRIALS, CAMPAIGN)
LAB = facts_frame(facts())
REAL = facts_frame(
    [
        *(fact for fact in facts(lab=False, shared_kernel=False) if fact.name != "ipip_driver"),
        Fact("node-1", "ipip_driver", "kernel ipip device"),
    ]
)


def test_a_lab_is_called_a_lab_first() -> None:
    said = findings.notice(LAB).items
    assert said[0].startswith("Lab: ")
    assert "not Calico" in said[0]
    assert "share one kernel" in said[1]
    assert "BPF programs, not by the kernel's ipip device" in said[2]


def test_real_machines_are_not() -> None:
    assert findings.notice(REAL).items == ()
    assert findings.notice(REAL)._repr_html_() == ""
    assert not findings.emulated(REAL)
    assert "IPIP carried by: kernel ipip device." in findings.conditions(REAL).items


def test_how_a_lab_forwarded_before_the_campaign_changed_it_is_no_condition() -> None:
    told = facts_frame(
        [Fact("node-1", "lab_forwarding", how) for how in ("as before", "as told", "as told")]
        + [Fact("node-1", "lab_emulation", "not Calico")]
    ).assign(trial_id=[None, "b000-a-tcp", "b000-b-tcp", None])
    said = findings.conditions(told).items
    assert said == ("Lab, forwarding: as told.", "Lab, emulation: not Calico.")


def test_an_unread_boot_id_is_no_shared_kernel() -> None:
    unknown = [Fact(node, "boot_id", "UNKNOWN: not readable") for node in ("a", "b")]
    assert not compare.shared_kernel(facts_frame(unknown))


def test_every_headline_has_value_interval_and_verdict() -> None:
    said = findings.headlines(EFFECTS, CAMPAIGN)
    assert len(said.items) == 5
    first = said.items[0]
    assert first.lead == "Throughput (flow tcp, higher is better). Baseline none: 14.9 Gbit/s."
    changes = dict(first.changes)
    (vxlan,) = [change for change in changes if change.startswith("vxlan")]
    assert vxlan.count("%") == 2
    assert changes[vxlan] == "worse, beyond the margin"
    assert "host" not in str(said)
    assert str(said).count("\n") == 4


def test_undecided_says_what_would_have_been_seen() -> None:
    noisy = compare.effects(trials_frame(results(noise=0.2)), CAMPAIGN)
    said = str(findings.headlines(noisy, CAMPAIGN))
    assert re.search(r"detectable (±|×)[0-9.]+( %)?: undecided", said)
    advice = str(validity.of_trials(trials_frame(results(noise=0.15)), LAB, CAMPAIGN))
    assert re.search(r" is undecided: at this noise about [0-9]+ blocks", advice)
    wild = str(validity.of_trials(trials_frame(results(noise=1.5)), LAB, CAMPAIGN))
    assert "more blocks alone will not do" in wild


def test_the_bin_of_a_percentile_does_not_narrow_with_more_blocks() -> None:
    noisy = trials_frame(results(noise=0.15))
    said = str(validity.of_trials(noisy, LAB, CAMPAIGN))
    found = re.search(r"Round trip, median is undecided: at this noise about (\d+) blocks", said)
    assert found is not None
    effects = compare.effects(noisy, CAMPAIGN)
    rows = effects[effects["metric"].eq("rr_p50_ns") & effects["verdict"].eq("undecided")]
    of_noise = np.log(rows["high"] / rows["low"]).max() / 2 - np.log1p(1 / 64)
    assert int(found[1]) == math.ceil(8 * (of_noise / (np.log(1.05) - np.log1p(1 / 64))) ** 2)


def test_void_says_why_and_shows_no_interval() -> None:
    few = compare.effects(TRIALS[TRIALS["block"] < 2], CAMPAIGN)
    said = str(findings.headlines(few, CAMPAIGN))
    assert "undecided: all 2 blocks negative, p 0.50 is the smallest that 2 can give" in said
    assert " to " not in said


def test_nothing_measured_is_said() -> None:
    said = findings.headlines(compare.effects(TRIALS.iloc[:0], CAMPAIGN), CAMPAIGN)
    assert "No trial" in said._repr_html_()


def test_validity_counts_trials_blocks_failures_and_warnings() -> None:
    found = [
        failed(result, reason="refused: the server refused the connection")
        if result.trial.block == 2 and result.trial.flow.name == "tcp"
        else result
        for result in results()
    ]
    trials = trials_frame(found).assign(warnings="tcp_rtt could not run")
    said = validity.of_trials(trials, LAB, CAMPAIGN).items
    assert said[0].startswith("69 of 72 planned trials are good; 7 of 8 blocks are complete")
    assert "3 trial(s) failed: refused." in said
    assert "tcp_rtt could not run (72 of 72 trials)." in said
    assert any("no difference was established (detectable ±" in item for item in said)


def test_a_difference_between_hosts_casts_doubt_on_the_rest() -> None:
    spoiled = TRIALS.copy()
    away = spoiled["flow"].eq("host-tcp") & spoiled["treatment"].eq("vxlan")
    spoiled.loc[away, "received_bits_per_s"] *= 0.7
    said = str(validity.of_trials(spoiled, LAB, CAMPAIGN))
    assert "treatments differ all the same: vxlan −30" in said
    assert "prove nothing" in said


def test_html_is_escaped() -> None:
    trials = TRIALS.assign(warnings="<b>bold</b>")
    html = validity.of_trials(trials, LAB, CAMPAIGN)._repr_html_()
    assert "<b>" not in html
    assert "&lt;b&gt;bold" in html


def test_tables_have_a_caption_scoped_headers_and_lettered_notes() -> None:
    table = tables.effects(EFFECTS, CAMPAIGN, metric="received_bits_per_s")
    html = table._repr_html_()
    assert html.count('scope="col"') == len(table.frame.columns)
    assert html.count('scope="row"') == len(table.frame)
    assert ">Throughput: each treatment against none" in html
    assert table.notes == (
        "MTU 1480 against 1500: belongs to the treatment",
        "MTU 1450 against 1500: belongs to the treatment",
    )
    assert table.frame["notes"].tolist() == ["a", "b", "", ""]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(0.9, 1.1, "−10.0 to +10.0 %"), (np.nan, np.nan, "–"), (0.958, 0.97, "−4.2 to −3.0 %")],
)
def test_intervals_read_well(low: float, high: float, text: str) -> None:
    assert tables.interval(low, high) == text


def test_facts_stand_side_by_side() -> None:
    frame = facts_frame([*facts(), Fact("", "felix_spec", "absent")])
    table = tables.facts(frame)
    assert list(table.frame.columns) == ["fact", "cluster", "node-1", "node-2"]
    assert table.frame.set_index("fact").loc["nic_mtu", "node-1"] == "1500 bytes"
    assert table.frame.set_index("fact").loc["felix_spec", "cluster"] == "absent"


def test_counters_show_sizes_and_losses_and_hide_what_was_never_counted() -> None:
    table = tables.counters(TRIALS, CAMPAIGN)
    rows = table.frame.set_index(["flow", "treatment"])
    assert rows.loc[("tcp", "vxlan"), "MTU, bytes"] == "1,450"
    assert rows.loc[("tcp", "vxlan"), "MSS, bytes"] == "1,398"
    assert rows.loc[("rr", "none"), "flow retransmits"] == "–"
    assert "softnet drops" not in table.frame
    assert tables.counters(TRIALS.iloc[:0], CAMPAIGN).frame["trials"].eq(0).all()


def test_cpu_cost_is_shown_with_enough_digits() -> None:
    metric = metrics.metric("cpu_s_per_gbit")
    assert metric.show(0.1134) == "113 ms/Gbit"
    assert metric.show(None) == "UNKNOWN"
