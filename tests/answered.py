"""Recorded answers of the nodes' observers, for one probe."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ebpfperf.histograms import KERNEL
from ebpfperf.probes.answers import file

RECORDED = Path(__file__).parent / "recorded"


def raw(probe: str, case: str) -> dict[str, bytes]:
    """The file of a recorded case."""
    return {file(probe): (RECORDED / probe / case / file(probe)).read_bytes()}


def answer(probe: str, case: str) -> dict[str, Any]:
    """What the node script said, of a case with one kernel."""
    (kernel,) = json.loads(raw(probe, case)[file(probe)])["kernels"]
    return dict(kernel["answer"])


def naive_quantile_ns(bins: list[list[int]], q: float) -> int:
    """A nanosecond that is in the bin of the quantile: the nearest rank of all, listed."""
    events = sorted(KERNEL.bounds_ns(index)[0] for index, count in bins for _ in range(count))
    return events[max(0, math.ceil(q * len(events) - 1e-9) - 1)]
