"""Steps add up to the way, belong to a part each, and say of a difference what intervals allow."""

from __future__ import annotations

import ast
import itertools
import math
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
import walks

import ebpfperf
from ebpfperf import (
    anatomy,
    anatomy_chart,
    anatomy_findings,
    distributions,
    findings,
    kernel_chart,
    report,
)
from ebpfperf.chart import Chart
from ebpfperf.model import Fact, Status
from ebpfperf.store import Store

RESULTS = walks.results()
TRIALS = synthetic.trials_frame(RESULTS, walks.CAMPAIGN)
SAMPLES = walks.samples_frame(RESULTS)
HISTOGRAMS = synthetic.histograms_frame(RESULTS, walks.CAMPAIGN)
FACTS = walks.facts_frame(RESULTS, synthetic.facts())
STEPS = anatomy.steps(TRIALS, SAMPLES, HISTOGRAMS, walks.CAMPAIGN)
PARTS = anatomy.parts(STEPS)
DIFFERENCES = anatomy.differences(PARTS, walks.CAMPAIGN)


def difference(part: str, *, treatment: str = "vxlan", flow: str = "rr") -> dict[str, float]:
    rows = DIFFERENCES[
        DIFFERENCES["flow"].eq(flow)
        & DIFFERENCES["sender"].eq("client")
        & DIFFERENCES["treatment"].eq(treatment)
        & DIFFERENCES["part"].eq(part)
    ]
    (row,) = rows.to_dict("records")
    return row


def test_places_are_those_of_the_probe() -> None:
    script = Path(ebpfperf.__file__).parent / "probes" / "node" / "hops.py"
    (places,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(script.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PLACES"
    ]
    assert places == anatomy.PLACES


def test_every_pair_of_places_has_a_part_a_half_and_a_reason() -> None:
    for start, end in itertools.combinations(anatomy.PLACES, 2):
        belongs = anatomy.belonging(start, end)
        assert belongs.part in anatomy.PARTS
        assert belongs.reason.endswith(".")
        assert (belongs.part == anatomy.SOCKET) == (end == "socket-copy")
        assert anatomy.half(start, end) in ("sender", "wire", "receiver")


@pytest.mark.parametrize(
    ("start", "end", "part"),
    [
        ("veth-receive", "nic-xmit", "host stack"),
        ("nic-receive", "pod-receive", "host stack"),
        ("tunnel-queue", "nic-xmit", "overlay"),
        ("nic-rx", "tunnel-receive", "overlay"),
        ("nic-queue", "nic-receive", "NIC and wire"),
        ("veth-queue", "pod-receive", "pod veth"),
        ("veth-queue", "socket-copy", "socket"),
    ],
)
def test_a_step_past_places_belongs_to_what_its_ends_say(start: str, end: str, part: str) -> None:
    assert anatomy.belonging(start, end).part == part


def test_costs_of_walks_that_end_add_up_to_the_mean_of_the_whole() -> None:
    """Against the naive sum over every packet, on random ways with short-cuts."""
    chance = random.Random(5)
    steps: dict[tuple[str, str], list[int]] = {}
    whole = []
    for _ in range(500):
        middle = [place for place in anatomy.PLACES[1:-1] if chance.random() < 0.7]
        way = [anatomy.PLACES[0], *middle, anatomy.PLACES[-1]]
        took = [chance.randrange(1, 10_000) for _ in way[1:]]
        whole.append(sum(took))
        for pair, ns in zip(itertools.pairwise(way), took, strict=True):
            steps.setdefault(pair, []).append(ns)
    shares = anatomy.shares({pair: len(times) for pair, times in steps.items()})
    total = math.fsum(shares[pair] * np.mean(times) for pair, times in steps.items())
    assert total == pytest.approx(np.mean(whole), rel=1e-12)
    assert shares == pytest.approx({pair: len(times) / 500 for pair, times in steps.items()})


def test_walks_given_up_change_no_share() -> None:
    events = Counter({("pod-queue", "veth-rx"): 100, ("veth-rx", "nic-queue"): 30})
    events |= {("veth-rx", "tunnel-queue"): 10, ("tunnel-queue", "nic-queue"): 5}
    assert anatomy.shares(events) == pytest.approx(
        {
            ("pod-queue", "veth-rx"): 1.0,
            ("veth-rx", "nic-queue"): 0.75,
            ("veth-rx", "tunnel-queue"): 0.25,
            ("tunnel-queue", "nic-queue"): 0.25,
        }
    )


def test_without_the_wire_each_half_is_a_way_of_its_own() -> None:
    events = {
        ("pod-queue", "nic-xmit"): 40,
        ("nic-rx", "nic-receive"): 30,
        ("nic-receive", "socket-copy"): 40,
    }
    # A quarter of the receiver's walks began at nic-receive.
    assert anatomy.shares(events) == pytest.approx(
        {
            ("pod-queue", "nic-xmit"): 1.0,
            ("nic-rx", "nic-receive"): 0.75,
            ("nic-receive", "socket-copy"): 1.0,
        }
    )


def test_the_steps_of_a_trial_add_up_to_its_whole_way() -> None:
    told = SAMPLES[SAMPLES["metric"].eq("hop_mean_ns:=end-to-end")]
    whole = told.set_index(["trial_id", "endpoint"])["value"].sort_index()
    found = PARTS[PARTS["part"].eq(anatomy.WHOLE)].set_index(["trial_id", "sender"])["cost_ns"]
    assert len(found) == len(whole) == 2 * len(RESULTS)
    np.testing.assert_allclose(found.sort_index(), whole, rtol=1e-12)
    each = PARTS[PARTS["part"].isin(anatomy.PARTS)].groupby(["trial_id", "sender"])["cost_ns"].sum()
    np.testing.assert_allclose(each, whole, rtol=1e-12)


def test_a_part_without_a_step_is_zero_and_a_socket_nobody_read_is_unknown() -> None:
    none = PARTS[PARTS["treatment"].eq("none")]
    assert none.loc[none["part"].eq(anatomy.OVERLAY), "cost_ns"].eq(0).all()
    unread = anatomy.parts(STEPS[STEPS["part"].ne(anatomy.SOCKET)])
    known = unread.groupby("part")["cost_ns"].count()
    assert known[anatomy.SOCKET] == known[anatomy.WHOLE] == 0
    assert known[anatomy.UNTIL_SOCKET] == 2 * len(RESULTS)
    only = anatomy.differences(unread, walks.CAMPAIGN)
    assert not only["part"].isin([anatomy.SOCKET, anatomy.WHOLE]).any()


def test_differences_are_where_they_were_made() -> None:
    for part, ns in ((anatomy.UNTIL_SOCKET, 2900), (anatomy.OVERLAY, 2100)):
        row = difference(part)
        assert row["low_ns"] <= row["difference_ns"] <= row["high_ns"]
        assert row["difference_ns"] == pytest.approx(ns, rel=0.05)
    assert difference(anatomy.HOST_STACK)["difference_ns"] == pytest.approx(800, rel=0.1)
    for part in (anatomy.POD_VETH, anatomy.NIC_AND_WIRE, anatomy.SOCKET):
        assert anatomy_findings.told(difference(part)) == "cannot be told from zero"


def test_a_campaign_of_one_treatment_has_a_way_and_nothing_to_compare() -> None:
    alone = replace(walks.CAMPAIGN, treatments=walks.CAMPAIGN.treatments[:1])
    steps = STEPS[STEPS["treatment"].eq("none")]
    found = anatomy.differences(anatomy.parts(steps), alone)
    assert found.empty
    assert "no treatment to compare" in str(anatomy_findings.where(found, steps, alone))
    assert len(anatomy.summary(steps, HISTOGRAMS, alone)) == 2 * (10 + 4)


def test_bare_and_failed_trials_are_in_no_step() -> None:
    campaign = replace(walks.CAMPAIGN, probes_off=True)
    found = walks.results(campaign)
    found[0] = replace(found[0], status=Status.FAILED)
    steps = anatomy.steps(
        synthetic.trials_frame(found, campaign), walks.samples_frame(found),
        synthetic.histograms_frame(found, campaign), campaign,
    )  # fmt: skip
    bare = {one.trial.trial_id for one in found if not one.trial.probes}
    assert bare
    assert set(steps["trial_id"]) == {one.trial.trial_id for one in found[1:]} - bare


def test_the_headline_says_where_the_difference_is() -> None:
    said = str(anatomy_findings.where(DIFFERENCES, STEPS, walks.CAMPAIGN))
    assert re.search(
        r"vxlan takes 2\.\d\d µs \([23]\.\d\d to [23]\.\d\d µs\) longer than none until the "
        r"socket, of it overlay \+2\.\d\d µs \(.*?\), host stack \+0\.\d\d µs \(.*?\), "
        r"and in pod veth and NIC and wire nothing that can be told from zero: longer\.",
        said,
    )
    assert re.search(
        r"vxlan, at the socket .* µs\), the whole way .* µs\): cannot be told from zero\.", said
    )
    assert "host-rr" not in said


def test_the_headline_says_where_the_overlay_has_no_step_of_its_own() -> None:
    found = anatomy_findings.where(DIFFERENCES, STEPS, walks.CAMPAIGN)
    assert isinstance(found, findings.Headlines)
    assert "Under ipip no packet was seen at a tunnel device of the sender:" in found.legend
    assert "Under vxlan" not in found.legend


def test_below_six_blocks_nothing_is_said() -> None:
    few = PARTS[PARTS["block"].lt(5)]
    found = anatomy.differences(few, walks.CAMPAIGN)
    assert found["low_ns"].isna().all()
    said = str(anatomy_findings.where(found, STEPS, walks.CAMPAIGN))
    assert "vxlan: what differs cannot be said: void: too few blocks: 5 of 6." in said
    assert "longer" not in said


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(1, 2, "longer"), (-2, -1, "shorter"), (-1, 1, "cannot be told from zero"),
     (0, 1, "cannot be told from zero")],
)  # fmt: skip
def test_a_difference_is_told_by_its_interval_alone(low: float, high: float, word: str) -> None:
    assert anatomy_findings.told({"low_ns": low, "high_ns": high, "n_blocks": 8}) == word


def test_validity_says_how_much_was_watched_followed_and_lost() -> None:
    refused = Fact("node-1", "runqueue_variant", "UNKNOWN: node-1: probe runqueue (no_bcc): None.")
    facts = walks.facts_frame(RESULTS, (*synthetic.facts(), refused))
    said = anatomy_findings.watched(TRIALS, SAMPLES, facts, walks.CAMPAIGN).items
    assert "In slices of each trial's steady time, 0.04 s in all (median): hops." in said
    assert "runqueue did not run on node-1: node-1: probe runqueue (no_bcc): None." in said
    rr = 24 * 2 * walks.PACKETS
    assert f"Flow rr: {rr:,} packets were followed, {rr:,} of them to their reader." in said
    assert f"Events passed over because another program ran on that CPU: hops {len(RESULTS)}." in (
        said
    )
    assert any("the wire is a pair of virtual devices" in sentence for sentence in said)
    apart = walks.facts_frame(RESULTS, synthetic.facts(shared_kernel=False))
    said = anatomy_findings.watched(TRIALS, SAMPLES, apart, walks.CAMPAIGN).items
    assert any("the step over the wire is not known" in sentence for sentence in said)


def test_validity_says_where_most_walks_were_given_up() -> None:
    samples = SAMPLES.copy()
    samples.loc[samples["metric"].eq("hops:finished"), "value"] = 0.0
    said = str(anatomy_findings.watched(TRIALS, samples, FACTS, walks.CAMPAIGN))
    assert "0 of them to their reader; of the others the early steps are counted" in said


def every_chart() -> list[Chart]:
    summary = anatomy.summary(STEPS, HISTOGRAMS, walks.CAMPAIGN)
    shown = [
        *anatomy_chart.waterfalls(STEPS, summary, walks.CAMPAIGN),
        *anatomy_chart.differences(PARTS, DIFFERENCES, walks.CAMPAIGN),
        *anatomy_chart.differences(PARTS, DIFFERENCES, walks.CAMPAIGN, control=True),
        *kernel_chart.softirqs(TRIALS, walks.CAMPAIGN),
        *kernel_chart.programs(TRIALS, SAMPLES, FACTS, walks.CAMPAIGN),
    ]
    return [item for item in shown if isinstance(item, Chart)]


def test_every_chart_has_words_numbers_and_a_picture() -> None:
    drawn = every_chart()
    assert len(drawn) == 4 + 2 + 2 + 1 + 1
    for item in drawn:
        assert any(character.isdigit() for character in item.alt), item.title
        assert "nan" not in item.alt.lower()
        assert not item.frame.empty, item.title
    for item in {item.title.partition(":")[2]: item for item in drawn}.values():
        assert item.png().startswith(b"\x89PNG")


def test_parts_are_told_apart_without_their_colour() -> None:
    fills = anatomy_chart.FILLS
    assert set(fills) == set(anatomy.PARTS)
    assert len({(fill.hatch, fill.shade) for fill in fills.values()}) == len(fills)


def test_a_waterfall_shows_the_socket_on_its_own_axis_alone() -> None:
    summary = anatomy.summary(STEPS, HISTOGRAMS, walks.CAMPAIGN)
    chart = anatomy_chart.waterfalls(STEPS, summary, walks.CAMPAIGN)[0]
    assert isinstance(chart, Chart)
    way, aside = chart.figure.axes[:2]
    # 12 µs until the socket, 30 µs there.
    assert way.get_xlim()[1] < 30 < aside.get_xlim()[1]
    labels = [label.get_text() for label in way.get_yticklabels()]
    assert labels[-2:] == ["until the socket", "whole way"]
    assert labels[0] == "pod-queue › veth-rx, pod veth"


def test_medians_of_steps_are_of_merged_histograms() -> None:
    summary = anatomy.summary(STEPS, HISTOGRAMS, walks.CAMPAIGN)
    of = {"flow": "rr", "sender": "client", "treatment": "vxlan", "end": "socket-copy"}
    row = summary[(summary[list(of)] == pd.Series(of)).all(axis=1)]
    ours = TRIALS[TRIALS["flow"].eq("rr") & TRIALS["treatment"].eq("vxlan")]
    bins = HISTOGRAMS[
        HISTOGRAMS["trial_id"].isin(ours["trial_id"])
        & HISTOGRAMS["endpoint"].eq("client")
        & HISTOGRAMS["metric"].eq("hop_ns:pod-receive>socket-copy")
    ]
    values = np.sort(np.repeat((bins["lower_ns"] + bins["upper_ns"]) / 2, bins["count"]))
    assert row["p50_ns"].item() == values[math.ceil(values.size / 2) - 1]
    assert row["events"].item() == values.size == 8 * walks.PACKETS


def test_hooks_of_pods_are_one_and_those_of_other_devices_stay() -> None:
    assert kernel_chart.hook_name("cali6e2fd49c681 ingress tcx") == "cali… ingress tcx"
    assert kernel_chart.hook_name("vxlan.calico egress filter") == "vxlan.calico egress filter"


def test_programs_say_how_many_there_are_and_leave_chance_out() -> None:
    (chart,) = kernel_chart.programs(TRIALS, SAMPLES, FACTS, walks.CAMPAIGN)
    assert isinstance(chart, Chart)
    assert set(chart.frame["hook"]) == {"client, cali… ingress tcx"}
    assert set(chart.frame["programs"]) == {2}
    assert "fewer than 30 runs, and so not shown: client, ens1 egress filter" in chart.title


def test_no_loss_is_zero_and_no_probe_is_said() -> None:
    table, *missing = kernel_chart.losses(TRIALS, SAMPLES, walks.CAMPAIGN)
    assert isinstance(table, kernel_chart.Table)
    assert set(table.frame["of the flow"]) == {"0"}
    assert set(table.frame["dropped"]) == {"16"}
    assert set(table.frame["why"]) == {"NO_SOCKET in tcp_v4_rcv 16"}
    assert [str(one) for one in missing] == [
        str(anatomy_findings.missing(probe, walks.CAMPAIGN))
        for probe in ("retransmits", "tcp_connect")
    ]


def test_waits_are_of_all_trials_together() -> None:
    table, queue = kernel_chart.waits(TRIALS, HISTOGRAMS, walks.CAMPAIGN)
    assert isinstance(table, kernel_chart.Table)
    # The middle of the bin that holds 3000 ns, of two a power of two split in eight.
    assert set(table.frame["for a CPU"]) == {"2.94 µs / 8.70 µs (24)"}
    assert "probes: [hops, softirq, runqueue, drops, bpf_programs, qdisc]" in str(queue)


def test_distributions_draw_what_is_asked_and_round_trips_by_default() -> None:
    first = distributions.draw(HISTOGRAMS, TRIALS, walks.CAMPAIGN)
    assert [chart.title for chart in first] == [
        f"Round trip of every request: flow {flow}, seen at the client"
        for flow in ("rr", "host-rr")
    ]
    asked = distributions.draw(HISTOGRAMS, TRIALS, walks.CAMPAIGN, names=("runqueue_ns",))
    assert [chart.title for chart in asked] == [
        f"Wait of the load's tasks for a CPU: flow {flow}, client and server together"
        for flow in ("rr", "host-rr")
    ]
    whole = distributions.draw(HISTOGRAMS, TRIALS, walks.CAMPAIGN, names=("softirq_wait_ns",))
    assert len(whole) == 2


def test_a_campaign_without_the_probes_says_how_to_get_them() -> None:
    campaign = synthetic.CAMPAIGN
    results = synthetic.results()
    trials = synthetic.trials_frame(results).reindex(columns=TRIALS.columns)
    samples = walks.samples_frame(results)
    bins = synthetic.histograms_frame(results)
    facts = synthetic.facts_frame(synthetic.facts()).assign(trial_id=None)
    steps = anatomy.steps(trials, samples, bins, campaign)
    parts = anatomy.parts(steps)
    apart = anatomy.differences(parts, campaign)
    summary = anatomy.summary(steps, bins, campaign)
    shown = [
        anatomy_findings.where(apart, steps, campaign),
        *anatomy_chart.waterfalls(steps, summary, campaign),
        *kernel_chart.softirqs(trials, campaign),
        *kernel_chart.waits(trials, bins, campaign),
        *kernel_chart.programs(trials, samples, facts, campaign),
        *kernel_chart.losses(trials, samples, campaign),
    ]
    for one in shown:
        assert isinstance(one, findings.Sentences)
        assert re.search(r"`probes: \[tcp_rtt, \w+\]`", str(one)), one
    assert anatomy_chart.differences(parts, apart, campaign) == ()


def test_the_notebook_becomes_a_page(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "walks", walks.CAMPAIGN)
    store.add_facts(synthetic.facts())
    for result in RESULTS:
        store.append(result)
    made = report.render("latency-anatomy", campaign=tmp_path / "walks")
    assert made.error == ""
    html = made.html.read_text()
    assert "longer than none until the socket, of it overlay +2." in html
    assert "<figcaption>Flow rr, what the client sends: time per packet from step to step" in html


def test_frames_have_their_columns_and_types() -> None:
    for frame, columns in (
        (STEPS, anatomy.COLUMNS),
        (PARTS, anatomy.PART_COLUMNS),
        (DIFFERENCES, anatomy.DIFFERENCE_COLUMNS),
        (anatomy.summary(STEPS, HISTOGRAMS, walks.CAMPAIGN), anatomy.SUMMARY_COLUMNS),
    ):
        assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == columns
        assert isinstance(frame, pd.DataFrame)
