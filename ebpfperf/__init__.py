"""Measure, compare and explain the networking modes of Calico clusters."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ebpfperf.compare import effects
    from ebpfperf.errors import EbpfperfError
    from ebpfperf.model import Campaign, Flow, Overlay, Scope, Treatment, Trial, TrialResult
    from ebpfperf.plan import load, schedule
    from ebpfperf.report import render, render_all
    from ebpfperf.runner import run
    from ebpfperf.store import Store

__all__ = [
    "Campaign",
    "EbpfperfError",
    "Flow",
    "Overlay",
    "Scope",
    "Store",
    "Treatment",
    "Trial",
    "TrialResult",
    "effects",
    "load",
    "render",
    "render_all",
    "run",
    "schedule",
]

# Loaded on first use: `ebpfperf --help` must not wait for pandas or paramiko.
_HOMES = {
    "EbpfperfError": "errors",
    "Store": "store",
    "effects": "compare",
    "load": "plan",
    "render": "report",
    "render_all": "report",
    "run": "runner",
    "schedule": "plan",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"ebpfperf.{_HOMES.get(name, 'model')}"), name)


def __dir__() -> list[str]:
    return list(__all__)
