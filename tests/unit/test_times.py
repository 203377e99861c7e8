"""Times as options give them."""

from __future__ import annotations

import pytest

from ebpfperf.commands import times
from ebpfperf.errors import InputError


@pytest.mark.parametrize(
    ("text", "seconds"), [("10s", 10), ("1m30s", 90), ("2", 2), ("0.5", 0.5), ("500ms", 0.5)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert times.seconds(text, "--for", most_s=90) == seconds


@pytest.mark.parametrize("text", ["0s", "0", "-1s", "ten", "", "91s", "nan", "inf", "1e3"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"--for {text}"):
        times.seconds(text, "--for", most_s=90)


def test_no_time_at_all_where_that_is_a_way() -> None:
    assert times.seconds("0", "--for", most_s=90, nought=True) == 0
    assert times.seconds("0s", "--for", most_s=90, nought=True) == 0
    with pytest.raises(InputError, match="up to 1m30s"):
        times.seconds("2m", "--for", most_s=90, nought=True)
