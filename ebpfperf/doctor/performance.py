"""Checks of performance. Pure."""

from __future__ import annotations

from ebpfperf.doctor.declaration import Check

CHECKS: tuple[Check, ...] = ()
