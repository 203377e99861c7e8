"""Charts say in words and numbers what they draw, and look the same for the same treatment."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import matplotlib
import pandas as pd
import pytest
from synthetic import CAMPAIGN, histograms_frame, results, trials_frame

from ebpfperf import chart, charts, compare, distributions
from ebpfperf.model import Overlay, Treatment

RESULTS = results()
TRIALS = trials_frame(RESULTS)
EFFECTS = compare.effects(TRIALS, CAMPAIGN)


def every_chart() -> list[chart.Chart]:
    shown = [
        charts.forest(EFFECTS, CAMPAIGN),
        *charts.comparisons(TRIALS, EFFECTS, CAMPAIGN),
        *charts.drifts(TRIALS, EFFECTS, CAMPAIGN),
        *distributions.draw(histograms_frame(RESULTS), TRIALS, CAMPAIGN),
    ]
    return [item for item in shown if isinstance(item, chart.Chart)]


def test_every_chart_has_words_numbers_and_a_picture() -> None:
    drawn = every_chart()
    assert len(drawn) > 8
    for item in drawn:
        html = item._repr_html_()
        alt = re.search(r'alt="([^"]+)"', html)
        assert alt is not None
        assert len(alt[1]) > 40, item.title
        assert any(character.isdigit() for character in alt[1]), item.title
        assert "nan" not in alt[1].lower()
        assert not item.frame.empty, item.title
        assert "<figcaption>" in html
        assert "<details>" in html
        assert "http" not in re.sub(r'base64,[^"]+', "", html)
        assert item.png().startswith(b"\x89PNG")


def test_same_numbers_give_the_same_bytes() -> None:
    first, second = (charts.forest(EFFECTS, CAMPAIGN).png() for _ in range(2))
    assert first == second


def test_no_pyplot_figure_is_left_open() -> None:
    every_chart()
    pyplot = matplotlib.pyplot if hasattr(matplotlib, "pyplot") else None
    assert pyplot is None or pyplot.get_fignums() == []


def test_colour_follows_the_overlay_mode_and_marker_the_treatment() -> None:
    more = replace(
        CAMPAIGN,
        treatments=(*CAMPAIGN.treatments, Treatment("vxlan-cs", Overlay.VXLAN)),
    )
    looks = chart.looks(more)
    assert looks["vxlan"].colour == looks["vxlan-cs"].colour
    assert looks["vxlan"].marker != looks["vxlan-cs"].marker
    assert looks["vxlan"] == chart.looks(CAMPAIGN)["vxlan"]
    assert len({look.colour for look in chart.looks(CAMPAIGN).values()}) == 3


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_contrast_with_white_by_three_to_one() -> None:
    for look in chart.looks(CAMPAIGN).values():
        assert 1.05 / (luminance(look.colour) + 0.05) >= 3.0


def test_the_baseline_is_leftmost() -> None:
    moved = replace(CAMPAIGN, baseline="ipip")
    effects = compare.effects(TRIALS, moved)
    frame = charts.comparison(TRIALS, effects, moved, metric="received_bits_per_s").frame
    assert frame["treatment"].iloc[0] == "ipip"


def test_a_campaign_without_a_good_trial_still_draws() -> None:
    failed = TRIALS.assign(status="failed")
    effects = compare.effects(failed, CAMPAIGN)
    assert charts.forest(effects, CAMPAIGN).frame.empty
    assert charts.comparisons(failed, effects, CAMPAIGN) == ()
    assert charts.drift(failed, CAMPAIGN, metric="rr_p50_ns")._repr_html_()
    assert charts.forest(effects, CAMPAIGN)._repr_html_()


def test_undecided_effects_are_drawn_without_an_interval() -> None:
    few = TRIALS[TRIALS["block"] < 3]
    item = charts.forest(compare.effects(few, CAMPAIGN), CAMPAIGN)
    assert set(item.frame["verdict"]) == {"undecided"}
    assert item.frame["low_pct"].isna().all()
    assert "–" in item.alt


def test_distributions_add_counts_and_never_average() -> None:
    drawn = distributions.draw(histograms_frame(RESULTS), TRIALS, CAMPAIGN)
    (rr,) = [item for item in drawn if "every request" in item.title]
    assert set(rr.frame["count"]) == {4001 * CAMPAIGN.blocks}
    for row in rr.frame.itertuples():
        percentiles = [row.p50_below_us, row.p90_below_us, row.p99_below_us, row.p999_below_us]
        assert percentiles == sorted(percentiles)


def test_failed_trials_do_not_enter_a_distribution() -> None:
    spoiled = TRIALS.copy()
    spoiled.loc[spoiled["block"].eq(0), "status"] = "failed"
    drawn = distributions.draw(histograms_frame(RESULTS), spoiled, CAMPAIGN)
    (rr,) = [item for item in drawn if "every request" in item.title]
    assert set(rr.frame["count"]) == {4001 * (CAMPAIGN.blocks - 1)}


@pytest.mark.parametrize("spread", [(1.0, 1.01, 1.02), (1.0, 5.0, 9.0), (2.0, 2.0, 2.0)])
def test_end_labels_are_apart_and_inside(spread: tuple[float, ...]) -> None:
    figure = matplotlib.figure.Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [min(spread), max(spread) + 0.1])
    names = list(chart.looks(CAMPAIGN))
    ends = [(1.0, y, name) for y, name in zip(spread, names, strict=True)]
    chart.label_ends(axes, ends, chart.looks(CAMPAIGN))
    places = sorted(text.xyann[1] for text in axes.texts)
    low, high = axes.get_ylim()
    assert all(b - a >= (high - low) / 8 - 1e-9 for a, b in itertools.pairwise(places))
    assert places[-1] <= high + 1e-9


def test_no_chart_depends_on_the_order_of_rows() -> None:
    mixed = TRIALS.sample(frac=1, random_state=1).reset_index(drop=True)
    here = charts.drift(TRIALS, CAMPAIGN, metric="rr_p50_ns")
    there = charts.drift(mixed, CAMPAIGN, metric="rr_p50_ns")
    pd.testing.assert_frame_equal(here.frame, there.frame)
    assert here.png() == there.png()


@pytest.mark.parametrize("widest", [1.01, 1.05, 1.08, 1.3, 2.0, 3.0])
def test_ticks_of_a_forest_are_few_and_inside(widest: float) -> None:
    ticks = charts._ticks_pct(widest)
    assert 0 in ticks
    assert len(ticks) <= 9
    assert all(1 / widest - 1e-9 <= 1 + tick / 100 <= widest + 1e-9 for tick in ticks)


def test_an_interval_beyond_the_axis_ends_in_an_arrow_and_keeps_its_number() -> None:
    wide = EFFECTS.copy()
    wide.loc[0, ["ratio", "low", "high"]] = [1.2, 0.01, 40.0]
    item = charts.forest(wide, CAMPAIGN)
    assert item.frame["high_pct"].iloc[0] == pytest.approx(3900)
    assert item.figure.axes[0].get_xlim()[1] < 4
    markers = [line.get_marker() for line in item.figure.axes[0].lines]
    assert {"<", ">"} <= set(markers)
