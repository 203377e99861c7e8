"""Whether the values of one side of pairs are others than those of the other side. Pure.

The test: in each pair the two values may have come the other way around. Of all such exchanges, the
part that tells the sides apart at least as well is p. The measure is how often each value occurs on
one side more than on the other, added over the values: the total variation of the two counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ALPHA = 0.05
# Beyond so many unequal pairs the exchanges are drawn, always the same ones.
_ALL_EXCHANGES, _DRAWN, _SEED = 12, 8191, 20


def separation_p(pairs: Sequence[tuple[str, str]]) -> float:
    """Part of the exchanges within pairs that tell the two sides apart at least as well, 0 to 1.

    Exact up to 12 unequal pairs; beyond, 8191 drawn exchanges and the one observed.
    """
    unequal = [pair for pair in pairs if pair[0] != pair[1]]
    size = len(unequal)
    if not size:
        return 1.0
    values = sorted({value for pair in unequal for value in pair})
    steps = np.zeros((size, len(values)), dtype=np.int64)
    for at, (one, other) in enumerate(unequal):
        steps[at, values.index(one)] += 1
        steps[at, values.index(other)] -= 1
    if size <= _ALL_EXCHANGES:
        signs = 1 - 2 * (np.arange(2**size)[:, None] >> np.arange(size) & 1)
    else:
        drawn = np.random.default_rng(_SEED).integers(0, 2, (_DRAWN, size))
        signs = np.vstack([np.ones(size, dtype=np.int64), 1 - 2 * drawn])
    apart = np.abs(signs @ steps).sum(axis=1)
    return float(np.mean(apart >= apart[0]))


def goes_with_the_arm(pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether values differ systematically between the sides of pairs (baseline's, treatment's).

    No value on both sides counts at any number of pairs, unless every exchange would tell as much:
    values that are new each time (two pairs or more) only drift.
    """
    ours, theirs = ({pair[side] for pair in pairs} for side in (0, 1))
    p = separation_p(pairs)
    if not ours & theirs:
        return len(pairs) == 1 or p < 1
    return p <= ALPHA
