"""Student's t by integer degrees of freedom: probability and quantile, to about 1e-12. Pure.

The finite sums of Abramowitz and Stegun, *Handbook of Mathematical Functions*, 26.7.3 and 26.7.4.
SciPy has them too, and takes longer to import than a whole report to compute.
"""

from __future__ import annotations

import math
from functools import lru_cache


def probability(t: float, df: int) -> float:
    """P(T <= t), 0 to 1, with ``df`` degrees of freedom, 1 or more."""
    angle = math.atan2(abs(t), math.sqrt(df))
    sine, cosine = math.sin(angle), math.cos(angle)
    # Odd: cos, 2/3 cos^3, 2·4/(3·5) cos^5 …; even: 1, 1/2 cos^2, 1·3/(2·4) cos^4 …
    odd = df % 2
    term = cosine if odd else 1.0
    total = term if df > 1 else 0.0
    for power in range(3 if odd else 2, df - 1, 2):
        term *= cosine * cosine * (power - 1) / power
        total += term
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + math.copysign(within / 2, t)


@lru_cache(maxsize=4096)
def quantile(share: float, df: int) -> float:
    """The t below which ``share`` (0 to 1, ends excluded) of the distribution lies.

    Raises
    ------
    ValueError
        ``share`` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"a share of {share} has no quantile: it lies between 0 and 1")
    if share > 0.5:
        return -quantile(1 - share, df)
    low, high = -1.0, 0.0
    while probability(low, df) > share:
        low *= 2
    for _ in range(100):
        middle = (low + high) / 2
        if probability(middle, df) < share:
            low = middle
        else:
            high = middle
    return high
