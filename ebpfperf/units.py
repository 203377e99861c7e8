"""Numbers with units: the only place with 1e3, 1e6 and 8.

Suffixes used in names everywhere: ``_s`` seconds, ``_ns`` nanoseconds, ``_us`` microseconds,
``_bytes``, ``_bits_per_s``, ``_pct`` percent (0 to 100), ``_per_s`` a rate. SI throughout:
1 Gbit/s is 1e9 bits per second.
"""

from __future__ import annotations

import math
import re

NS_PER_US = 1_000
NS_PER_S = 1_000_000_000
BITS_PER_BYTE = 8
BITS_PER_GBIT = 1_000_000_000

_SI = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_TIME_NS = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"))
_RATE = re.compile(
    r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<prefix>[kMGT]?)(?:bits?(?:/s|ps)?|bps)?\s*", re.ASCII
)
_SIZE = re.compile(r"\s*(?P<number>\d+)\s*(?P<prefix>[kKMG]?)(?:i?B)?\s*", re.ASCII)

UNKNOWN = "UNKNOWN"


def gbit(bits: float) -> float:
    """Gigabits (1e9) in ``bits``."""
    return bits / BITS_PER_GBIT


def bits_per_s(value: float | None) -> str:
    """``"9.41 Gbit/s"``: three significant digits; UNKNOWN for None or NaN."""
    if value is None or math.isnan(value):
        return UNKNOWN
    for factor, prefix in _SI:
        if abs(value) >= factor:
            return f"{_digits(value / factor)} {prefix}bit/s"
    return f"{_digits(value)} bit/s"


def duration_ns(value: float | None) -> str:
    """``"83.2 µs"``: three significant digits; UNKNOWN for None or NaN."""
    if value is None or math.isnan(value):
        return UNKNOWN
    for factor, suffix in _TIME_NS:
        if abs(value) >= factor:
            return f"{_digits(value / factor)} {suffix}"
    return f"{_digits(value)} ns"


def duration_s(value: float | None) -> str:
    """``"2 min 05 s"`` above a minute, ``"4.20 s"`` below; UNKNOWN for None or NaN."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if value >= 60:
        minutes, seconds = divmod(round(value), 60)
        return f"{minutes} min {seconds:02d} s"
    return f"{_digits(value)} s"


def ratio_pct(ratio: float | None) -> str:
    """``"+4.2 %"`` for 1.042; UNKNOWN for None or NaN."""
    if ratio is None or math.isnan(ratio):
        return UNKNOWN
    return f"{(ratio - 1) * 100:+.1f} %"


def number(value: float | None) -> str:
    """Three significant digits with thousands separated; UNKNOWN for None or NaN."""
    if value is None or math.isnan(value):
        return UNKNOWN
    return _digits(value)


def parse_bits_per_s(text: str | float) -> float:
    """Bits per second of ``"1.5G"``, ``"300 Mbit/s"`` or a bare number.

    Raises
    ------
    ValueError
        The text is no rate.
    """
    match = _RATE.fullmatch(str(text))
    if match is None:
        raise ValueError(
            f"{text!r} is not a rate: write for example 500M or 1.5G (bits per second)"
        )
    factor = {prefix: value for value, prefix in _SI} | {"": 1.0}
    return float(match["number"]) * factor[match["prefix"]]


def parse_pct(text: str | float) -> float:
    """Percent of ``"3%"``, ``"2.5 %"`` or a bare number.

    Raises
    ------
    ValueError
        The text is no percentage above zero.
    """
    try:
        value = float(str(text).strip().removesuffix("%"))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{text!r} is not a percentage: write for example 3% or 2.5%")
    return value


def parse_bytes(text: str | int) -> int:
    """Bytes of ``"64"``, ``"128K"`` or ``"1M"`` (binary prefixes, as iperf3 reads them).

    Raises
    ------
    ValueError
        The text is no size.
    """
    match = _SIZE.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{text!r} is not a size: write for example 64, 128K or 1M (bytes)")
    power = " KMG".index(match["prefix"].upper() or " ")
    return int(match["number"]) << (10 * power)


def _digits(value: float) -> str:
    magnitude = abs(value)
    if magnitude >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if magnitude >= 10 else f"{value:.2f}"
