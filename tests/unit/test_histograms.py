"""Log-linear bins: width, order, merging, and quantiles against the sorted observations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfperf.histograms import FINE, KERNEL, Layout, merge, quantile, total
from ebpfperf.model import HistogramBin

LAYOUTS = [FINE, KERNEL, Layout(bits=0), Layout(bits=5, unit_ns=10)]
values = st.integers(min_value=0, max_value=2**44)
many = st.lists(values, min_size=1, max_size=300)


def rows(layout: Layout, observed: list[int]) -> tuple[HistogramBin, ...]:
    array = np.array(observed, dtype=np.int64)
    return layout.count(array, probe="p", endpoint="client", metric="rtt")


@given(values, st.sampled_from(LAYOUTS))
def test_a_value_is_inside_its_bin(value: int, layout: Layout) -> None:
    lower, upper = layout.bounds_ns(layout.index(value))
    assert lower <= value * layout.unit_ns < upper


@given(values, st.sampled_from(LAYOUTS))
def test_a_bin_is_no_wider_than_its_layout_allows(value: int, layout: Layout) -> None:
    lower, upper = layout.bounds_ns(layout.index(value))
    assert upper - lower <= max(layout.unit_ns, lower / 2**layout.bits)


def test_widths_are_as_promised() -> None:
    assert 1 / 2**FINE.bits <= 0.016
    assert 1 / 2**KERNEL.bits <= 0.125


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bins_follow_each_other_without_gap(layout: Layout) -> None:
    bounds = [layout.bounds_ns(index) for index in range(400)]
    assert bounds[0][0] == 0
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))


@given(many, st.sampled_from(LAYOUTS))
def test_the_array_and_the_scalar_agree(observed: list[int], layout: Layout) -> None:
    array = np.array(observed, dtype=np.int64)
    assert layout.indices(array).tolist() == [layout.index(value) for value in observed]


@given(many, st.floats(0, 1))
def test_a_quantile_is_in_the_bin_of_the_nearest_rank(observed: list[int], q: float) -> None:
    rank = max(1, math.ceil(q * len(observed) - 1e-9))
    truth = sorted(observed)[rank - 1]
    found = quantile(rows(FINE, observed), q)
    assert found is not None
    assert found.lower_ns <= truth < found.upper_ns
    assert found.lower_ns <= found.value_ns <= found.upper_ns


@given(many, many)
def test_merging_is_counting_all_at_once(left: list[int], right: list[int]) -> None:
    both = rows(FINE, left + right)
    assert merge(rows(FINE, left), rows(FINE, right)) == both
    assert merge(rows(FINE, right), rows(FINE, left)) == both
    assert total(both) == len(left) + len(right)


def test_known_quantiles() -> None:
    observed = rows(Layout(bits=6), list(range(1, 11)))
    assert [round(quantile(observed, q).lower_ns) for q in (0, 0.1, 0.5, 0.9, 0.99, 1)] == [  # type: ignore[union-attr]
        1, 1, 5, 9, 10, 10,
    ]  # fmt: skip


def test_an_empty_histogram_has_no_quantile() -> None:
    assert quantile((), 0.5) is None
    assert total(()) == 0


def test_a_quantile_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantile((), 50)


def test_overlapping_bins_are_not_merged() -> None:
    with pytest.raises(ValueError, match="different layouts"):
        merge(rows(FINE, [1000]), rows(Layout(bits=3), [1000]))
