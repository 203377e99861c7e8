"""Go's durations (``1m30s``), in which FelixConfiguration has its times."""

from __future__ import annotations

import re

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|us|µs|ns|h|m|s)")


def go_duration_s(text: str) -> float:
    """Seconds of ``10s``, ``1m30s``, ``500ms`` or ``0``. Source: Go's time.ParseDuration.

    Raises
    ------
    ValueError
        The text is no duration.
    """
    plain = text.strip()
    if plain == "0":
        return 0.0
    parts = _PART.findall(plain)
    if not parts or "".join(number + unit for number, unit in parts) != plain:
        raise ValueError("a duration such as 10s or 1m30s")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def duration_text(seconds: float) -> str:
    """``1m30s``: hours, minutes and seconds, those that are not nought; ``500ms`` below one."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else ""]
    return "".join(parts) + (f"{rest:g}s" if rest or not (hours or minutes) else "")
