"""Campaigns made of noise alone, in the order in which the kit runs them. Pure but for reading CSV.

A campaign has three trials a block: the baseline, the baseline once more (A/A) and a treatment.
``plan.schedule`` gives their order. Noise belongs to a place in the order, not to an arm, and is
about one unit of standard deviation between successive trials, whatever the kind.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ebpfperf import plan
from ebpfperf.model import Campaign, Flow, Overlay, Role, Treatment
from ebpfperf.model import Path as FlowPath

Floats = NDArray[np.float64]

RECORDED = Path(__file__).parent / "noise"
KINDS = ("normal", "skewed", "drifting", "autocorrelated", "bimodal", "recorded")
BASELINE, AGAIN, CHANGED = range(3)
ARMS = 3
MOST_BLOCKS = 20

# Recorded noise is replayed in runs of about so many successive trials.
_RUN_LENGTH = 6


def campaign(seed: int, *, blocks: int) -> Campaign:
    """A campaign of a baseline with its A/A test and one treatment, one flow."""
    return Campaign(
        name="simulated",
        seed=seed,
        blocks=blocks,
        baseline="none",
        treatments=(Treatment("none", Overlay.NONE), Treatment("vxlan", Overlay.VXLAN)),
        flows=(Flow("tcp", FlowPath.POD_POD, "tcp"),),
        aa_test=True,
    )


@cache
def orders(campaigns: int) -> NDArray[np.int64]:
    """Places in the order, by campaign, block and arm (``BASELINE``, ``AGAIN``, ``CHANGED``).

    Of the longest campaigns: shorter ones are their beginnings.
    """
    places = np.empty((campaigns, MOST_BLOCKS, ARMS), dtype=np.int64)
    for seed in range(campaigns):
        for trial in plan.schedule(campaign(seed, blocks=MOST_BLOCKS)):
            changed = trial.treatment.name != "none"
            arm = CHANGED if changed else AGAIN if trial.role is Role.AGAIN else BASELINE
            places[seed, trial.block, arm] = trial.order
    return places


def noise(kind: str, random: np.random.Generator, *, campaigns: int, trials: int) -> Floats:
    """Log noise by campaign and place in the order.

    ``drifting`` adds a straight line of up to a few units over the campaign and a random walk;
    ``autocorrelated`` is AR(1) with 0.6 from trial to trial; ``bimodal`` stays on one of two levels
    for three trials or so; ``recorded`` replays what real trials did.
    """
    shape = (campaigns, trials)
    normal = random.normal(size=shape)
    if kind == "normal":
        return normal
    if kind == "skewed":
        # A lognormal of standard deviation 1: a long tail to one side, as stalls make.
        spread = np.sqrt((np.exp(0.64) - 1) * np.exp(0.64))
        return (np.exp(0.8 * normal) - np.exp(0.32)) / spread
    if kind == "drifting":
        line = random.normal(size=(campaigns, 1)) * np.linspace(-2, 2, trials)
        walk = np.cumsum(0.3 * random.normal(size=shape), axis=1)
        return 0.5 * normal + line + walk
    if kind == "autocorrelated":
        found = normal.copy()
        for place in range(1, trials):
            found[:, place] = 0.6 * found[:, place - 1] + 0.8 * normal[:, place]
        return found
    if kind == "bimodal":
        jumps = random.random(shape) < 0.3
        jumps[:, 0] = random.random(campaigns) < 0.5
        return 0.25 * normal + 2.0 * (np.cumsum(jumps, axis=1) % 2)
    if kind == "recorded":
        return _replayed(random, campaigns=campaigns, trials=trials)
    raise ValueError(f"no noise of kind {kind!r}: there are {', '.join(KINDS)}")


def arms(kind: str, *, campaigns: int, blocks: int, seed: int = 0) -> Floats:
    """Logs by campaign, block and arm, without any effect."""
    random = np.random.default_rng([seed, KINDS.index(kind)])
    series = noise(kind, random, campaigns=campaigns, trials=blocks * ARMS)
    flat = orders(campaigns)[:, :blocks].reshape(campaigns, -1)
    return np.take_along_axis(series, flat, axis=1).reshape(campaigns, blocks, ARMS)


@cache
def recorded(directory: Path = RECORDED) -> tuple[Floats, ...]:
    """Series of recorded residuals, one per file, flow and metric, each of standard deviation 1.

    Raises
    ------
    FileNotFoundError
        There is no recording.
    """
    series: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    for path in sorted(directory.glob("*.csv")):
        with path.open(newline="") as lines:
            for row in csv.DictReader(line for line in lines if not line.startswith("#")):
                key = path.name, row["flow"], row["metric"]
                series.setdefault(key, []).append((int(row["order"]), float(row["residual"])))
    if not series:
        raise FileNotFoundError(f"no recorded noise in {directory}: verdicts.py --from makes some")
    found = (np.array([value for _, value in sorted(rows)]) for rows in series.values())
    return tuple(one / np.std(one) for one in found)


def _replayed(random: np.random.Generator, *, campaigns: int, trials: int) -> Floats:
    """Each campaign one series, in runs from random places (stationary bootstrap, wrapping)."""
    found = np.empty((campaigns, trials))
    series = recorded()
    which = random.integers(len(series), size=campaigns)
    begins = random.random((campaigns, trials)) < 1 / _RUN_LENGTH
    begins[:, 0] = True
    starts = random.integers(2**31, size=(campaigns, trials))
    steps = np.arange(trials)
    # The last place at which a run began, for every place.
    last = np.maximum.accumulate(np.where(begins, steps, 0), axis=1)
    places = np.take_along_axis(starts, last, axis=1) + steps - last
    for number, one in enumerate(series):
        chosen = which == number
        found[chosen] = one[places[chosen] % one.size]
    return found
