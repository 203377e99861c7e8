"""Lines of the calico-node log, in the form that every release of Felix writes."""

from __future__ import annotations

from datetime import UTC, datetime


def line(level: str, pid: int, file: str, number: int, message: str) -> str:
    """``2026-01-31 09:05:33.123 [INFO][42] felix/daemon.go 386: message``; the time is UTC."""
    now = datetime.now(UTC)
    stamp = f"{now:%Y-%m-%d %H:%M:%S}.{now.microsecond // 1000:03d}"
    return f"{stamp} [{level}][{pid}] felix/{file} {number}: {message}"
