"""Effects held against expectations: the judgement, what the facts decide, and what is shown."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import FLAGS_CAMPAIGN, facts_frame, results, trials_frame, write_store

from ebpfperf import charts, compare, expectations, findings, report, tables
from ebpfperf.calico.expectation import Expectation, Kind
from ebpfperf.metrics import Better
from ebpfperf.model import Campaign, Fact, Treatment

DEBUG, IPIP, BOTH = "ipip-false-debug", "ipip-true-log-off", "ipip-true-debug"
FACTS = (
    Fact("", "calico_release", "v3.26.1"),
    Fact("", "felix_spec", "{}"),
    Fact("", "ippool_default_ipv4_ippool", '{"cidr":"198.19.0.0/16","ipipMode":"Never"}'),
    Fact("node-1", "nic_mtu", "1500", "bytes"),
)


def judge(
    facts: Sequence[Fact] = FACTS,
    campaign: Campaign = FLAGS_CAMPAIGN,
    more: Sequence[tuple[str, str, Fact]] = (),
) -> pd.DataFrame:
    """The expectations frame of made-up results; ``more`` are facts of a treatment's flow."""
    found = trials_frame(results(campaign), campaign)
    frame = facts_frame(facts).assign(trial_id=None)
    for treatment, flow, fact in more:
        ran = found[found["treatment"].eq(treatment) & found["flow"].eq(flow)]
        frame = pd.concat([frame, facts_frame([fact]).assign(trial_id=ran["trial_id"].iloc[0])])
    effects = compare.effects(found, campaign, facts=frame)
    return expectations.judged(effects, found, facts=frame, campaign=campaign)


def one(
    frame: pd.DataFrame, treatment: str, flow: str = "tcp", metric: str = "received_bits_per_s"
) -> pd.Series:
    (row,) = frame[
        frame["treatment"].eq(treatment) & frame["flow"].eq(flow) & frame["metric"].eq(metric)
    ].iloc
    return row


# Intervals of a ratio, higher is better, margin 5 %.
INSIDE, INSIDE_WORSE, INSIDE_BETTER = (0.98, 1.03), (0.96, 0.99), (1.01, 1.03)
WORSE, BETTER, PERHAPS_WORSE, WIDE = (0.7, 0.9), (1.1, 1.3), (0.9, 0.98), (0.8, 1.2)


@pytest.mark.parametrize(
    ("kind", "interval", "small", "expected"),
    [
        (Kind.NONE, INSIDE, False, "as expected"),
        (Kind.NONE, INSIDE_WORSE, False, "as expected"),
        (Kind.NONE, PERHAPS_WORSE, False, "undecided"),
        (Kind.NONE, WIDE, False, "undecided"),
        (Kind.NONE, WORSE, False, "contradicts"),
        (Kind.NONE, BETTER, False, "contradicts"),
        (Kind.SLOWER, WORSE, False, "as expected"),
        (Kind.SLOWER, PERHAPS_WORSE, False, "as expected"),
        (Kind.SLOWER, INSIDE_WORSE, False, "as expected"),
        (Kind.SLOWER, WIDE, False, "undecided"),
        (Kind.SLOWER, INSIDE, False, "contradicts"),
        (Kind.SLOWER, INSIDE, True, "undecided"),
        (Kind.SLOWER, INSIDE_BETTER, False, "contradicts"),
        (Kind.SLOWER, INSIDE_BETTER, True, "undecided"),
        (Kind.SLOWER, INSIDE_WORSE, True, "as expected"),
        (Kind.SLOWER, BETTER, False, "contradicts"),
        (Kind.SLOWER, BETTER, True, "contradicts"),
        (Kind.FASTER, BETTER, False, "as expected"),
        (Kind.FASTER, WORSE, False, "contradicts"),
        (Kind.SOME, WORSE, False, "as expected"),
        (Kind.SOME, BETTER, False, "as expected"),
        (Kind.SOME, INSIDE, False, "contradicts"),
        (Kind.SOME, INSIDE, True, "undecided"),
        (Kind.UNKNOWN, WORSE, False, "no expectation"),
        (Kind.VOID, WORSE, False, "no expectation"),
        (Kind.SLOWER, (math.nan, math.nan), False, "undecided"),
    ],
)
def test_agreement(kind: Kind, interval: tuple[float, float], small: bool, expected: str) -> None:
    low, high = interval
    told = Expectation(kind, "because", small=small)
    found = expectations.agreement(told, low=low, high=high, margin_pct=5, better=Better.HIGHER)
    assert found == expected


RATIOS = st.floats(0.2, 5)


@given(st.sampled_from(list(Kind)), RATIOS, RATIOS, st.booleans())
def test_agreement_does_not_depend_on_which_way_is_better(
    kind: Kind, one: float, other: float, small: bool
) -> None:
    low, high = sorted((one, other))
    told = Expectation(kind, "because", small=small)
    higher = expectations.agreement(told, low=low, high=high, margin_pct=5, better=Better.HIGHER)
    lower = expectations.agreement(
        told, low=1 / high, high=1 / low, margin_pct=5, better=Better.LOWER
    )
    near = any(abs(x - y) < 1e-9 for x in (low, high) for y in (1, 1.05, 1 / 1.05))
    assert near or higher == lower


def test_the_frame_keeps_its_contract_and_the_order_of_the_effects() -> None:
    found = judge()
    assert {name: str(kind) for name, kind in found.dtypes.items()} == expectations.COLUMNS
    effects = compare.effects(trials_frame(results(FLAGS_CAMPAIGN)), FLAGS_CAMPAIGN)
    assert list(found["treatment"]) == list(effects["treatment"])
    assert found["ratio"].tolist() == effects["ratio"].tolist()
    assert expectations.judged(
        effects.iloc[:0], trials_frame([]), facts=facts_frame([]), campaign=FLAGS_CAMPAIGN
    ).empty


def test_made_up_losses_are_as_expected_where_the_release_promises_them() -> None:
    found = judge()
    for treatment in (DEBUG, IPIP, BOTH):
        row = one(found, treatment)
        assert (row["expected"], row["agreement"]) == ("slower", "as expected")
        assert row["source"]
        assert one(found, treatment, "rr", "rr_p50_ns")["agreement"] == "as expected"
    assert one(found, IPIP, "host-tcp")["agreement"] == "as expected"
    assert one(found, DEBUG, "host-tcp")["agreement"] == "no expectation"


def test_the_same_numbers_contradict_a_release_that_promises_no_loss() -> None:
    facts = (Fact("", "calico_release", "v3.32.1"), *FACTS[1:])
    found = judge(facts)
    assert one(found, IPIP, "rr", "rr_p50_ns")["agreement"] == "contradicts"
    said = findings.agreement(found).items
    (told,) = [text for text in said if "Round trip, median of rr under ipip-true-log-off" in text]
    assert told.startswith("Contradicts: ")
    assert "expected to be the same" in told
    assert "worse, beyond the margin" in told
    assert "v3.32 and later" in told


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (FACTS[1:], "which release"),
        ((Fact("", "calico_release", "UNKNOWN: not said"), *FACTS[1:]), "which release"),
        ((Fact("", "calico_release", "nightly"), *FACTS[1:]), "which release"),
        ((*FACTS, Fact("n", "calico_release", "v3.30.2")), "which release"),
    ],
)
def test_without_a_release_nothing_is_expected(facts: Sequence[Fact], words: str) -> None:
    found = judge(facts)
    assert set(found["expected"]) == {"unknown"}
    assert set(found["agreement"]) == {"no expectation"}
    assert found["why"].str.contains(words).all()
    assert expectations.release_of(facts_frame(facts)) is None


def undecided_dataplane() -> Campaign:
    treatments = tuple(replace(one, dataplane=None) for one in FLAGS_CAMPAIGN.treatments)
    return replace(FLAGS_CAMPAIGN, treatments=treatments)


def test_the_dataplane_is_as_found_where_a_treatment_leaves_it() -> None:
    standard = judge(campaign=undecided_dataplane())
    assert one(standard, DEBUG)["expected"] == "none"
    ebpf = (FACTS[0], Fact("", "felix_spec", '{"bpfEnabled":true}'), *FACTS[2:])
    assert one(judge(ebpf, undecided_dataplane()), DEBUG)["expected"] == "slower"
    unsaid = judge((FACTS[0], *FACTS[2:]), undecided_dataplane())
    assert one(unsaid, DEBUG)["expected"] == "unknown"
    assert "which dataplane" in one(unsaid, DEBUG)["why"]
    absent = judge((FACTS[0], Fact("", "felix_spec", "absent"), *FACTS[2:]), undecided_dataplane())
    assert one(absent, DEBUG)["expected"] == "none"


def test_other_pools_of_the_cluster_keep_a_tunnel() -> None:
    campaign = replace(
        FLAGS_CAMPAIGN,
        treatments=tuple(
            replace(one, felix=tuple((k, v or None) for k, v in one.felix))
            for one in FLAGS_CAMPAIGN.treatments
        ),
    )
    other = Fact("", "ippool_second", '{"cidr":"198.18.64.0/20","ipipMode":"Always"}')
    assert one(judge((*FACTS, other), campaign), IPIP)["expected"] == "none"
    assert one(judge(campaign=campaign), IPIP)["expected"] == "slower"


@pytest.mark.parametrize(
    ("value", "void"),
    [("plain kernel routing", True), ("BPF programs on every device", False)],
)
def test_nodes_that_forward_otherwise_make_it_void(value: str, void: bool) -> None:
    found = judge((*FACTS, Fact("node-1", "lab_forwarding", value)))
    assert (one(found, IPIP)["expected"] == "void") is void
    assert one(found, IPIP, "host-tcp")["expected"] == "none"
    if void:
        assert "plain kernel routing" in one(found, IPIP)["why"]
        assert one(found, IPIP)["agreement"] == "no expectation"
        assert any("plain kernel routing" in text for text in findings.agreement(found).items)


def test_what_a_trial_saw_counts_more_than_what_held_before_the_campaign() -> None:
    before = (*FACTS, Fact("node-1", "lab_forwarding", "plain kernel routing"))
    seen = [
        (treatment.name, "tcp", Fact("node-1", "lab_forwarding", "BPF programs"))
        for treatment in FLAGS_CAMPAIGN.treatments
    ]
    assert one(judge(before, more=seen), IPIP)["expected"] == "slower"


def test_a_kernel_that_felix_refuses_makes_it_void() -> None:
    refused = Fact("node-2", "felix_dataplane", "unsupported")
    found = judge(more=[(IPIP, "tcp", refused)])
    assert one(found, IPIP)["expected"] == "void"
    assert "node-2" in one(found, IPIP)["why"]
    assert one(found, DEBUG)["expected"] == "slower"
    # A log that says nothing is no evidence.
    unsaid = Fact("node-2", "felix_dataplane", "unsaid")
    assert one(judge(more=[(IPIP, "tcp", unsaid)]), IPIP)["expected"] == "slower"


def test_a_paced_flow_shows_nothing_by_its_rate_but_by_its_cost() -> None:
    flows = tuple(replace(flow, rate_bits_per_s=1e9) for flow in FLAGS_CAMPAIGN.flows)
    found = judge(campaign=replace(FLAGS_CAMPAIGN, flows=flows))
    assert one(found, IPIP)["expected"] == "unknown"
    assert one(found, IPIP)["why"].startswith("the flow is paced")
    assert one(found, IPIP, metric="cpu_s_per_gbit")["expected"] == "slower"


def vxlan_for_nothing() -> Campaign:
    off, on = (
        Treatment(f"vxlan-{str(value).lower()}", base.overlay, base.scope,
                  (("vxlanEnabled", value),), base.dataplane)
        for base, value in zip(FLAGS_CAMPAIGN.treatments, (False, True), strict=False)
    )  # fmt: skip
    return replace(FLAGS_CAMPAIGN, treatments=(off, on), baseline=off.name)


@pytest.mark.parametrize(
    ("flow", "changes", "expected"),
    [
        ("tcp", {}, "slower"),
        ("tcp", {"mss_bytes": 1000}, "none"),
        ("rr", {}, "none"),
        ("rr", {"message_bytes": 16_384}, "slower"),
    ],
)
def test_mtu_counts_for_flows_that_fill_it(
    flow: str, changes: dict[str, int], expected: str
) -> None:
    campaign = vxlan_for_nothing()
    flows = tuple(
        replace(each, **changes) if each.name == flow else each  # type: ignore[arg-type]
        for each in campaign.flows
    )
    found = judge(campaign=replace(campaign, flows=flows))
    rows = found[found["flow"].eq(flow)]
    assert set(rows["expected"]) == {expected}
    assert rows["why"].str.contains("50 bytes of MTU less").all()
    assert rows["why"].str.contains("leaves the FIB short-cut alone").all()


def test_the_table_and_the_charts_show_it_in_words() -> None:
    found = judge()
    shown = tables.expectations(found, FLAGS_CAMPAIGN)
    first = shown.frame.iloc[0]
    assert (first["expected"], first["agreement"], first["because"]) == (
        "slower",
        "as expected",
        "a",
    )
    assert shown.notes[0].startswith("bpfLogLevel Debug instead of Off")
    assert "Source: felix/" in shown.notes[0]
    trials = trials_frame(results(FLAGS_CAMPAIGN))
    drawn = charts.expectations(trials, found, FLAGS_CAMPAIGN)
    assert len(drawn) == 5
    for chart in drawn:
        assert "expected slower: as expected" in chart.alt
        assert "nan" not in chart.alt
        assert chart.png().startswith(b"\x89PNG")
    assert "no expectation (unknown)" in drawn[0].alt
    words = [text.get_text() for text in drawn[0].figure.axes[0].texts]
    assert any("expected slower: as expected" in text for text in words)


def test_a_chart_draws_nothing_that_was_not_measured() -> None:
    found = judge()
    trials = trials_frame(results(FLAGS_CAMPAIGN))
    empty = charts.expected(trials, found.iloc[:0], FLAGS_CAMPAIGN, metric="rr_p50_ns")
    assert "Nothing yet" in empty.alt
    assert empty.png().startswith(b"\x89PNG")


def test_no_trials_leave_one_sentence() -> None:
    assert len(findings.agreement(judge().iloc[:0]).items) == 1


def test_the_table_of_flags_is_that_of_the_release() -> None:
    flags = list(tables.rules("v3.26.1").frame["flag"])
    assert sorted(flags) == sorted(set(flags))
    row = tables.rules("v3.26.1").frame.set_index("flag").loc["ipipEnabled"]
    assert row["ends the FIB short-cut"] == "true does"
    assert len(tables.rules(None).frame) > len(flags)


def test_the_notebook_renders_expected_against_measured(tmp_path: Path) -> None:
    write_store(tmp_path / "flags", FLAGS_CAMPAIGN)
    made = report.render("felix-flags", campaign=tmp_path / "flags")
    html = made.html.read_text()
    assert "expected slower: as expected" in html
    assert "What the flags do in eBPF mode: Calico v3.26.1" in html
    assert "Traceback" not in html
    executed = nbformat.read(made.executed, as_version=4)
    assert all(
        output.output_type != "error"
        for cell in executed.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert json.loads(made.executed.read_text())["metadata"]["ebpfperf"]["fingerprint"]
