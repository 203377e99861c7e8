"""A campaign that ends when its intervals are narrow: at its looks only, and at their level."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from synthetic import CAMPAIGN, results, trials_frame

from ebpfperf import compare, enough, power, runner, sequential, stats
from ebpfperf.errors import InputError
from ebpfperf.model import Campaign, Fact
from ebpfperf.store import Store

LONG = replace(CAMPAIGN, blocks=24, until_pct=5.0, until_metric="received_bits_per_s", aa_test=True)


def ran(path: Path, campaign: Campaign, *, noise: float) -> tuple[Store, list[str]]:
    """A run as ``runner.run`` does it: asked before every trial, appended after it."""
    said: list[str] = []
    store = Store.create(path, campaign)
    ending = enough.Ending(store, say=said.append)
    for result in results(campaign, noise=noise):
        if ending():
            break
        store.append(result)
    return store, said


def half_widths(store: Store) -> list[float]:
    found = compare.effects(store.frame("trials"), store.campaign)
    found = found[found["metric"].eq("received_bits_per_s") & found["flow"].eq("tcp")]
    return [100 * float(np.sqrt(row.high / row.low) - 1) for row in found.itertuples()]


def test_it_ends_at_the_first_look_at_which_every_interval_is_narrow(tmp_path: Path) -> None:
    store, said = ran(tmp_path / "c", LONG, noise=0.03)
    ended = store.campaign.ended_after
    planned = sequential.looks(24, level=0.95)
    assert ended in planned[:-1]
    assert len(store.completed()) == ended * LONG.trials_per_block
    assert max(half_widths(store)) <= 5.0
    # At every earlier look one was too wide.
    for look in planned[: planned.index(ended)]:
        trials = store.frame("trials")
        early = trials[trials["block"] < look]
        assert enough.too_wide(early, replace(LONG, ended_after=look))
    assert said[-1] == f"Ended after {ended} of 24 blocks: every interval is within ±5 %."
    assert len(said) == planned.index(ended) + 1
    # What was ended is not gone on with, by whoever runs it again.
    again = Store.create(tmp_path / "c", LONG)
    assert again.campaign.ended_after == ended
    assert runner.remaining(again) == ()


def test_its_intervals_have_the_level_of_the_look_at_which_it_ended(tmp_path: Path) -> None:
    store, _ = ran(tmp_path / "c", LONG, noise=0.01)
    assert store.campaign.ended_after == 8
    asked = sequential.spent_level(8, enough.looks(LONG), level=0.95)
    assert compare.level(store.campaign) == asked > 0.95
    found = compare.effects(store.frame("trials"), store.campaign)
    row = found[found["metric"].eq("received_bits_per_s") & found["flow"].eq("tcp")].iloc[0]
    table = compare.paired(
        compare.watched(store.frame("trials"), LONG), flow="tcp", metric="received_bits_per_s"
    )
    ratios = np.log(table[row.treatment] / table["none"])
    exact = stats.signed_rank_interval(ratios, level=asked)
    assert exact is not None
    assert (row.low, row.high) == pytest.approx((np.exp(exact.low), np.exp(exact.high)))


def test_noise_that_never_narrows_runs_to_the_last_block(tmp_path: Path) -> None:
    store, said = ran(tmp_path / "c", LONG, noise=0.5)
    assert store.campaign.ended_after is None
    assert len(store.completed()) == 24 * LONG.trials_per_block
    assert len(said) == len(enough.looks(LONG)) - 1
    assert all("intervals are wider than ±5 %; the widest: Throughput" in text for text in said)
    assert compare.level(store.campaign) > 0.95


def test_a_campaign_that_asks_for_no_width_is_never_ended(tmp_path: Path) -> None:
    plain = replace(LONG, until_pct=None, until_metric="", blocks=9)
    store, said = ran(tmp_path / "c", plain, noise=0.001)
    assert (store.campaign.ended_after, said) == (None, [])


def test_somebody_who_stops_it_is_obeyed_at_once(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "c", LONG)
    assert enough.Ending(store, stop=lambda: True)()


def test_it_cannot_be_made_longer(tmp_path: Path) -> None:
    Store.create(tmp_path / "c", LONG)
    with pytest.raises(InputError, match="more of them would change what its looks may say"):
        Store.create(tmp_path / "c", replace(LONG, blocks=30))


def test_all_metrics_that_lead_count_where_none_is_named_but_not_those_of_the_control() -> None:
    trials = trials_frame(results(replace(CAMPAIGN, blocks=8)))
    found = enough.widths(trials, replace(CAMPAIGN, until_pct=3.0))
    assert {width.flow for width in found} == {"tcp", "rr"}
    assert {width.metric for width in found} == {
        "received_bits_per_s", "cpu_s_per_gbit", "rr_p50_ns", "rr_p99_ns", "rr_cpu_us_per_request",
    }  # fmt: skip


def of_ipip_and_vxlan(trials: pd.DataFrame) -> list[NDArray[np.float64]]:
    table = compare.paired(trials, flow="tcp", metric="received_bits_per_s")
    return [np.log(table[name] / table["none"]).to_numpy() for name in ("ipip", "vxlan")]


def needed(ratios: list[NDArray[np.float64]], *, level: float) -> int:
    found = [power.blocks_needed(one, half_width_pct=3.0, level=level) for one in ratios]
    return max(one for one in found if one is not None)


def test_the_blocks_needed_are_those_of_the_noisiest_treatment() -> None:
    trials = trials_frame(results(CAMPAIGN, noise=0.08))
    wanted = replace(CAMPAIGN, margin_pct=3.0)
    said, *_ = enough.asked_for(trials, CAMPAIGN, wanted)
    blocks = needed(of_ipip_and_vxlan(trials), level=0.95)
    assert blocks > 8
    assert said == f"Throughput of tcp: about {blocks} blocks for intervals within ±3 %."
    loud = trials_frame(results(CAMPAIGN, noise=1.5))
    said, *_ = enough.asked_for(loud, CAMPAIGN, wanted)
    assert said.startswith("Throughput of tcp: more than 200 blocks")


@pytest.mark.parametrize("noise", [0.001, 0.01, 0.02, 0.03, 0.05])
def test_a_campaign_that_may_end_early_needs_what_its_looks_levels_ask_for(noise: float) -> None:
    """Each look is stricter than the campaign's level, and its intervals are wider."""
    ran = replace(CAMPAIGN, blocks=20)
    trials = trials_frame(results(ran, noise=noise))
    ratios = of_ipip_and_vxlan(trials)
    wanted = replace(ran, until_pct=3.0, until_metric="received_bits_per_s")
    (said,) = enough.asked_for(trials, ran, wanted)
    blocks = int(said.removeprefix("Throughput of tcp: about ").partition(" ")[0])
    planned = sequential.looks(20)
    asked = {n: needed(ratios, level=sequential.spent_level(n, planned, level=0.95))
             for n in planned}  # fmt: skip
    if early := [n for n in planned if asked[n] <= n]:
        assert blocks == early[0]
        return
    assert blocks > 20
    longer = sequential.looks(blocks)
    last = sequential.spent_level(blocks, longer, level=0.95)
    assert needed(ratios, level=0.95) < needed(ratios, level=last) <= blocks


def test_a_percentile_needs_more_blocks_because_its_intervals_are_wider_by_a_bin() -> None:
    trials = trials_frame(results(CAMPAIGN, noise=0.02))
    wanted = replace(CAMPAIGN, blocks=20, margin_pct=3.0)
    said = dict(text.split(" of rr: ") for text in enough.asked_for(trials, CAMPAIGN, wanted)
                if " of rr: " in text)  # fmt: skip
    table = compare.paired(trials, flow="rr", metric="rr_p50_ns")
    ratios = [np.log(table[name] / table["none"]).to_numpy() for name in ("ipip", "vxlan")]
    # 3 % for the interval, of which 1/64 is the bin's.
    left = 100 * (1.03 / (1 + 1 / 64) - 1)
    blocks = max(power.blocks_needed(one, half_width_pct=left, level=0.95) or 0 for one in ratios)
    assert blocks > needed(ratios, level=0.95)
    assert said["Round trip, median"] == f"about {blocks} blocks for intervals within ±3 %."
    wanted = replace(wanted, until_pct=1.5, until_metric="rr_p50_ns")
    assert enough.asked_for(trials, CAMPAIGN, wanted) == (
        "Round trip, median of rr: no number of blocks gives intervals within ±1.5 %: it is read "
        "from bins of 1.6 %.",
    )


def test_what_a_gate_voids_narrows_nothing(tmp_path: Path) -> None:
    """Two trials of eight on another path: six blocks are left, too few for the look's level."""
    store = Store.create(tmp_path / "c", LONG)
    said: list[str] = []
    ending = enough.Ending(store, say=said.append)
    for result in results(replace(LONG, blocks=8), noise=0.001):
        lost = result.trial.block < 2 and result.trial.treatment.name == "vxlan"
        seen = Fact("", "wire_overlay", "none" if lost else result.trial.treatment.overlay_name)
        asked = Fact("", "wire_expected", result.trial.treatment.overlay_name)
        store.append(replace(result, facts=(*result.facts, seen, asked)))
    assert not ending()
    assert store.campaign.ended_after is None
    assert said == [
        "After 8 of 24 blocks 1 intervals are wider than ±5 %; the widest: Throughput of tcp under "
        "vxlan none."
    ]
