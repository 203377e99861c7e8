"""Log-linear histograms: counts per bin, merged by adding, quantiles with the bounds of their bin.

A layout with ``bits`` splits every power of two into ``2**bits`` bins of equal width, so that no
bin is wider than ``2**-bits`` of its lower bound; below ``2**bits`` each whole number has its own
bin. The same numbering is used in the kernel (``probes/node/counting.py``) and here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ebpfperf.model import HistogramBin


@dataclass(frozen=True, slots=True)
class Layout:
    """How whole numbers ≥ 0 fall into bins.

    Attributes
    ----------
    bits
        log2 of the bins per power of two: 3 gives bins of at most 12.5 %, 6 of at most 1.6 %.
    unit_ns
        Nanoseconds of one counted unit: 1, or 1000 where the kernel counts microseconds.
    """

    bits: int
    unit_ns: int = 1

    def index(self, value: int) -> int:
        """Number of the bin that holds ``value`` (in units, ≥ 0)."""
        shift = max(0, value.bit_length() - 1 - self.bits)
        return (shift << self.bits) + (value >> shift)

    def indices(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the bins that hold ``values`` (in units, ≥ 0, below 2**53)."""
        # frexp gives the exponent of the next power of two above: the bit length, exactly.
        _, length = np.frexp(values.astype(np.float64))
        shift = np.maximum(0, length.astype(np.int64) - 1 - self.bits)
        return (shift << self.bits) + (values >> shift)

    def bounds_ns(self, index: int) -> tuple[int, int]:
        """Lower bound (included) and upper bound (excluded) of a bin, in nanoseconds."""
        shift = max(0, (index >> self.bits) - 1)
        first = index - (shift << self.bits)
        return (first << shift) * self.unit_ns, ((first + 1) << shift) * self.unit_ns

    def bins(
        self, counts: Iterable[tuple[int, int]], *, probe: str, endpoint: str, metric: str
    ) -> tuple[HistogramBin, ...]:
        """Histogram rows of (bin number, count) pairs, in order, empty bins left out."""
        return tuple(
            HistogramBin(probe, endpoint, metric, *self.bounds_ns(index), count)
            for index, count in sorted(counts)
            if count
        )

    def count(
        self, values: NDArray[np.int64], *, probe: str, endpoint: str, metric: str
    ) -> tuple[HistogramBin, ...]:
        """Histogram rows of observed ``values`` (in units, ≥ 0)."""
        numbers, counts = np.unique(self.indices(values), return_counts=True)
        pairs = zip(numbers.tolist(), counts.tolist(), strict=True)
        return self.bins(pairs, probe=probe, endpoint=endpoint, metric=metric)


# Every request's round trip, in nanoseconds.
FINE = Layout(bits=6)
# What probes count in the kernel, in nanoseconds.
KERNEL = Layout(bits=3)


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile known to within its bin.

    Attributes
    ----------
    value_ns
        The middle of the bin, at most half a bin's width from the observed value.
    lower_ns, upper_ns
        The bin's bounds: the observed value is in ``[lower_ns, upper_ns)``.
    """

    value_ns: float
    lower_ns: int
    upper_ns: int


def merge(*histograms: Iterable[HistogramBin]) -> tuple[HistogramBin, ...]:
    """One histogram: bins of equal bounds added, labelled as the first bin, in order of value.

    Bins of different layouts must not be mixed: they would overlap.

    Raises
    ------
    ValueError
        Two bins overlap without being equal.
    """
    found: dict[tuple[int, int], HistogramBin] = {}
    for row in (row for histogram in histograms for row in histogram):
        key = (row.lower_ns, row.upper_ns)
        before = found.get(key)
        found[key] = HistogramBin(
            before.probe if before else row.probe,
            before.endpoint if before else row.endpoint,
            before.metric if before else row.metric,
            row.lower_ns,
            row.upper_ns,
            row.count + (before.count if before else 0),
        )
    merged = tuple(found[key] for key in sorted(found))
    for left, right in itertools.pairwise(merged):
        if left.upper_ns > right.lower_ns:
            raise ValueError(
                f"bins [{left.lower_ns}, {left.upper_ns}) and [{right.lower_ns}, "
                f"{right.upper_ns}) ns overlap: histograms of different layouts cannot be merged"
            )
    return merged


def total(bins: Iterable[HistogramBin]) -> int:
    """Number of observations in a histogram."""
    return sum(row.count for row in bins)


def quantile(bins: Sequence[HistogramBin], q: float) -> Quantile | None:
    """The ``q`` quantile (0 to 1) by nearest rank, or None for an empty histogram.

    The nearest rank is the smallest observation that at least ``q`` of all observations do not
    exceed: observation number ``ceil(q n)`` counted from 1. It is known to be in one bin, whose
    middle is the value.

    Raises
    ------
    ValueError
        ``q`` is not between 0 and 1.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"a quantile is asked for between 0 and 1, not {q}")
    ordered = sorted(bins, key=lambda row: row.lower_ns)
    # A hair below, so that 0.9 * 10 = 9.000000000000002 is rank 9.
    rank = max(1, math.ceil(q * total(ordered) - 1e-9))
    for row in ordered:
        rank -= row.count
        if rank <= 0:
            middle = (row.lower_ns + row.upper_ns) / 2
            return Quantile(middle, row.lower_ns, row.upper_ns)
    return None
