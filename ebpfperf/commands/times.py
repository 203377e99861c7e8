"""Times as options give them."""

from __future__ import annotations

from ebpfperf.errors import InputError


def seconds(text: str, option: str, *, most_s: float, nought: bool = False) -> float:
    """Seconds of ``10s``, ``1m30s``, ``500ms`` or a plain number.

    Raises
    ------
    InputError
        It is none, longer than ``most_s``, or (without ``nought``) no time at all.
    """
    from ebpfperf.calico.durations import duration_text, go_duration_s

    try:
        found = float(text) if text.replace(".", "", 1).isdecimal() else go_duration_s(text)
    except ValueError as error:
        raise InputError(f"{option} {text} is not {error}.", "Write for example 10s.") from error
    if found > most_s or (found <= 0 and not nought):
        raise InputError(
            f"{option} {text} is no time up to {duration_text(most_s)}.", "Write for example 10s."
        )
    return found
