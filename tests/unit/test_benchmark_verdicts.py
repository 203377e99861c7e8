"""The benchmark of verdicts: campaigns are the kit's, noise is as said, sums add up."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebpfperf import intervals, plan, power
from ebpfperf.model import Role
from ebpfperf.store import Store

ROOT = Path(__file__).parents[2]
NAMES = ("simulated", "customary", "calibration", "framed", "verdicts")


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``import`` of a benchmark by name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module
    for name in NAMES:
        sys.modules.pop(name, None)


def test_arms_take_the_places_that_the_schedule_gives(benchmark_module: Any) -> None:
    simulated = benchmark_module("simulated")
    campaign = simulated.campaign(3, blocks=7)
    schedule = plan.schedule(campaign)
    assert [trial.order for trial in schedule] == list(range(21))
    places = simulated.orders(4)[3, :7]
    for trial in schedule:
        again = simulated.AGAIN if trial.role is Role.AGAIN else simulated.BASELINE
        arm = simulated.CHANGED if trial.treatment.name == "vxlan" else again
        assert places[trial.block, arm] == trial.order
    # No arm has a place of its own, or comparing them would compare places.
    firsts = np.bincount(simulated.orders(200).argmin(axis=2).ravel(), minlength=3)
    assert firsts.sum() == 200 * simulated.MOST_BLOCKS
    assert firsts.min() > 0.9 * firsts.sum() / 3


def test_noise_is_a_series_in_the_order_of_the_trials(benchmark_module: Any) -> None:
    simulated = benchmark_module("simulated")
    made = simulated.arms("drifting", campaigns=5, blocks=6, seed=4)
    random = np.random.default_rng([4, simulated.KINDS.index("drifting")])
    series = simulated.noise("drifting", random, campaigns=5, trials=18)
    for number, campaign in enumerate(made):
        in_order = np.empty(18)
        in_order[simulated.orders(5)[number, :6].ravel()] = campaign.ravel()
        assert in_order == pytest.approx(series[number])


@pytest.mark.parametrize(
    ("kind", "mean", "spread", "lag"),
    [
        ("normal", 0.0, 1.0, 0.0),
        ("skewed", 0.0, 1.0, 0.0),
        ("autocorrelated", 0.0, 1.0, 0.6),
        # Two levels 2 apart, left with probability 0.3: variance 1, lag 1 - 2 * 0.3; and 1/16 more.
        ("bimodal", 1.0, math.sqrt(17 / 16), 0.4 / (17 / 16)),
    ],
)
def test_noise_is_what_it_is_called(
    benchmark_module: Any, kind: str, mean: float, spread: float, lag: float
) -> None:
    simulated = benchmark_module("simulated")
    found = simulated.noise(kind, np.random.default_rng(1), campaigns=4000, trials=12)
    assert found.mean() == pytest.approx(mean, abs=0.05)
    assert found.std() == pytest.approx(spread, abs=0.05)
    successive = np.corrcoef(found[:, :-1].ravel(), found[:, 1:].ravel())[0, 1]
    assert successive == pytest.approx(lag, abs=0.03)


def test_an_unknown_noise_is_named_with_those_that_are_known(benchmark_module: Any) -> None:
    simulated = benchmark_module("simulated")
    with pytest.raises(ValueError, match="'pink': there are normal, skewed"):
        simulated.noise("pink", np.random.default_rng(1), campaigns=1, trials=1)


def test_recorded_noise_is_replayed_in_runs(
    benchmark_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated = benchmark_module("simulated")
    assert all(one.std() == pytest.approx(1) for one in simulated.recorded())
    # Series of whole numbers, so that a run is seen to go on, and to wrap.
    monkeypatch.setattr(simulated, "recorded", lambda: (np.arange(17.0), np.arange(100.0, 123.0)))
    found = simulated.noise("recorded", np.random.default_rng(1), campaigns=300, trials=60)
    one, other = found[found[:, 0] < 100], found[found[:, 0] >= 100]
    assert min(len(one), len(other)) > 100
    for rows, begin, length in ((one, 0, 17), (other, 100, 23)):
        assert set(rows.ravel()) == set(range(begin, begin + length))
        went_on = (rows[:, 1:] - rows[:, :-1]) % length == 1
        # Five times in six the run goes on; a new one may begin where it would have gone on.
        assert went_on.mean() == pytest.approx(5 / 6 + 1 / 6 / length, abs=0.02)


def test_residuals_are_what_an_arm_leaves(benchmark_module: Any, tmp_path: Path) -> None:
    verdicts = benchmark_module("verdicts")
    to = tmp_path / "made.csv"
    written = verdicts.record(ROOT / "examples" / "demo", to, note="A note.")
    lines = to.read_text().splitlines()
    assert "A note." in lines[1]
    rows = [line.split(",") for line in lines[3:]]
    assert len(rows) == written
    trials = Store.open(ROOT / "examples" / "demo").frame("trials")
    tcp = trials[trials["flow"].eq("tcp")].sort_values("order")
    logs = np.log(tcp["received_bits_per_s"])
    residuals = {
        int(row[2]): float(row[3]) for row in rows if row[:2] == ["tcp", "received_bits_per_s"]
    }
    assert sorted(residuals) == tcp["order"].tolist()
    for arm, of in tcp.groupby(["treatment", "role"]):
        own = np.array([residuals[order] for order in of["order"]])
        assert own.sum() == pytest.approx(0, abs=1e-4), arm
        # Scaled so that their mean square is the variance of the arm's trials.
        variance = np.var(logs[of.index], ddof=1)
        assert np.mean(own**2) == pytest.approx(variance, abs=1e-4)


def test_a_rate_says_what_so_many_campaigns_leave_open(benchmark_module: Any) -> None:
    rate = benchmark_module("calibration").Rate
    assert rate.of(np.array([True, False, False, True])) == rate(2, 4)
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20.
    assert rate(81, 263).wilson_pct() == pytest.approx((25.53, 36.62), abs=0.01)
    assert rate(15, 148).wilson_pct() == pytest.approx((6.24, 16.05), abs=0.01)
    assert rate(0, 20).wilson_pct() == pytest.approx((0, 16.11), abs=0.01)
    assert rate(15, 148).shown() == "10.1 (6.2–16.0)"


def test_aims_are_met_missed_or_open(benchmark_module: Any) -> None:
    verdicts = benchmark_module("verdicts")
    rate = benchmark_module("calibration").Rate
    told = {
        "met": rate(100, 4000),
        "undecided": rate(199, 4000),
        "not met": rate(400, 4000),
    }
    for expected, one in told.items():
        assert verdicts.verdict(one, limit_pct=5, at_most=True) == expected
    assert verdicts.verdict(rate(3900, 4000), limit_pct=94, at_most=False) == "met"
    assert verdicts.verdict(rate(3600, 4000), limit_pct=94, at_most=False) == "not met"
    tables = {"false alarms": {"6 blocks": told}, "power at half the interval": {}}
    lines = verdicts.aims("here", tables)
    assert lines == [
        "- here: false alarms at most 5 %: 1 of 3 met, 1 undecided",
        "  - not met: 6 blocks, not met: 10.0 (9.1–11.0)",
        "  - undecided: 6 blocks, undecided: 5.0 (4.3–5.7)",
    ]
    table = verdicts.markdown("Some", tables["false alarms"], head="what")
    assert table.splitlines()[2:4] == ["| what | met | undecided | not met |", "|---|---|---|---|"]


def test_rates_are_counts_of_the_verdicts_own_functions(benchmark_module: Any) -> None:
    calibration, simulated = benchmark_module("calibration"), benchmark_module("simulated")
    rates = calibration.verdict_rates("skewed", 6, campaigns=60)
    logs = calibration.NOISE * simulated.arms("skewed", campaigns=60, blocks=6)
    aa = logs[..., simulated.AGAIN] - logs[..., simulated.BASELINE]
    changed = logs[..., simulated.CHANGED] - logs[..., simulated.BASELINE] + calibration.EFFECT
    alarms = sum(intervals.paired_p(row) <= 0.05 for row in aa)
    assert rates["false alarms"] == calibration.Rate(alarms, 60)
    detected = sum(
        intervals.paired_p(row + power.detectable(pilot, level=0.95)) <= 0.05
        for row, pilot in zip(np.roll(aa, -1, axis=0), changed, strict=True)
    )
    # Detected on the wrong side is not detected; nor does it happen at such effects.
    assert rates["power"] == calibration.Rate(detected, 60)
    assert rates["power at half the interval"].hits < detected


def test_stopping_early_is_counted_at_the_look_it_stops_at(benchmark_module: Any) -> None:
    rates = benchmark_module("calibration").sequential_rates("drifting", campaigns=40)
    assert 0 < rates["stopped early"].hits < 40
    assert rates["false alarms"].hits <= rates["any look"].hits <= rates["any look, unspent"].hits


def test_runs_differ_by_more_than_their_intervals_say(benchmark_module: Any) -> None:
    customary = benchmark_module("customary")
    random = np.random.default_rng(1)
    rates = random.normal(size=(4000, 1)) + customary.within(random, campaigns=4000)
    between = rates.mean(axis=1).std()
    believed = np.sqrt(np.mean(rates.var(axis=1, ddof=1)) / customary.INTERVALS)
    # 3 by the trials, and sqrt((1 + 0.5) / (1 - 0.5)) by the autocorrelation within.
    assert between / believed == pytest.approx(math.sqrt(3**2 + 3), rel=0.1)


def test_welch_is_the_one_of_scipy(benchmark_module: Any) -> None:
    from scipy import stats as scipy_stats

    customary = benchmark_module("customary")
    random = np.random.default_rng(2)
    a, b = random.normal(size=(200, 12)), random.normal(size=(200, 12)) * 3 + 1.5
    p = scipy_stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue
    near = np.abs(p - 0.05) < 0.002
    assert near.sum() < 20
    assert (customary._welch(a, b) == (p <= 0.05))[~near].all()


def test_compare_says_what_the_logs_say(benchmark_module: Any) -> None:
    alarms, differing = benchmark_module("framed").alarms_of_compare(
        "bimodal", campaigns=3, blocks=11
    )
    assert (len(alarms), differing) == (3, 0)
