"""When a running campaign may be looked at, and how sure each look must be. Pure.

Who looks after every block and stops when the interval suits him is wrong more often than its level
says. So each look spends a part of the error that is allowed altogether: what has been spent after
a share t of the blocks is alpha ln(1 + (e - 1) t) (Lan and DeMets, *Discrete sequential boundaries
for clinical trials*, 1983, of Pocock's kind), and a look at level 1 - (its part) holds by itself.
That any of the intervals misses has at most the probability of all parts together, alpha, whatever
rule stops the campaign, and whether or not it is obeyed.
"""

from __future__ import annotations

import math

FIRST, STEP = 8, 4


def looks(blocks: int, *, first: int = FIRST, level: float = 0.95) -> tuple[int, ...]:
    """How many blocks are complete at each look, ascending; the last is ``blocks``.

    The first look is after ``first`` blocks and the next ones at least four apart, where what they
    may spend is within the reach of an exact test of so many; others are left out, so that a
    campaign of fewer than twelve blocks has one look, its end.
    """
    found: list[int] = []
    spent = 0.0
    for n in range(first, blocks - STEP + 1, STEP):
        # As long a campaign as this spends little early on: 2 / 2^n is all that n blocks can show.
        spending = _spent(n / blocks) * (1 - level)
        if spending - spent >= 2 / 2**n and (1 - level) - spending >= 2 / 2**blocks:
            found.append(n)
            spent = spending
    return (*found, blocks)


def spent_level(n: int, looks: tuple[int, ...], *, level: float) -> float:
    """The confidence level, 0 to 1, of intervals and tests at the look after ``n`` blocks.

    ``looks`` are all that there may be, as of the function of that name; ``level`` is what holds
    for all of them together. With one look it is ``level``.

    Raises
    ------
    ValueError
        There is no look after ``n`` blocks.
    """
    if n not in looks:
        raise ValueError(f"no look after {n} blocks: they are after {looks}")
    earlier = [look for look in looks if look < n]
    before = _spent(max(earlier) / looks[-1]) if earlier else 0.0
    return 1 - (1 - level) * (_spent(n / looks[-1]) - before)


def _spent(share: float) -> float:
    """What part of the error has been spent after that share of the blocks: 0 of 0, 1 of 1."""
    return math.log1p((math.e - 1) * share)
