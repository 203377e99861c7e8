"""Felix's fields: type, default and meaning by release, and how Felix reads a value.

The table is ``felix_fields.toml`` beside this file, with its sources. How values are read:
felix/config/param_types.go and config_params.go (``resolve``), v3.16.1 to v3.32.1.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from ebpfperf.calico.durations import duration_text, go_duration_s
from ebpfperf.calico.releases import minor
from ebpfperf.errors import InputError

UNSET = "unset"
PREFIX = "FELIX_"
_ZERO: Mapping[str, Any] = {"bool": False, "int": 0, "duration": "0s", "list": [], "map": {}}
_TRUE, _FALSE = ("true", "1", "yes", "y", "t"), ("false", "0", "no", "n", "f")
_RANGE = re.compile(r"(v3\.\d+)?-(v3\.\d+)?: ")
_OPEN = (99, 99)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of FelixConfiguration.

    Attributes
    ----------
    type
        ``bool``, ``int``, ``text``, ``regexp``, ``duration``, ``word`` (one of ``levels``),
        ``list``, ``map`` or ``ports``.
    since, until
        First and last release whose resource has it, such as ``v3.13``; empty: older than v3.13,
        and still there.
    settable_since
        First release in which the environment and the file can set it.
    internal
        Felix's own name: the key in its file, in any case.
    levels, levels_since
        The words of all releases, and of those that came later since when; ``of`` has a release's.
    nonzero
        Whether ``none`` is an error to Felix, and not its zero value.
    fatal
        Whether Felix does not start with a value that it cannot read.
    unset
        What it means that there is no value, where that is the default.
    page
        What the page "Troubleshooting eBPF mode" of v3.16 advises; empty where it says nothing.
    """

    name: str
    type: str
    what: str
    source: str
    defaults: tuple[tuple[str, Any], ...]
    since: str = ""
    until: str = ""
    settable_since: str = ""
    internal: str = ""
    levels: tuple[str, ...] = ()
    nonzero: bool = False
    fatal: bool = False
    unset: str = ""
    how: tuple[str, ...] = ()
    traps: tuple[str, ...] = ()
    page: str = ""
    page_now: tuple[str, ...] = ()
    levels_since: tuple[tuple[str, str], ...] = ()

    @property
    def variable(self) -> str:
        """The environment variable of calico-node that sets it."""
        return PREFIX + self.internal.upper()

    def in_resource(self, release: str) -> bool:
        """Whether that release's resource has the field."""
        return _within(minor(release), self.since, self.until)

    def settable(self, release: str) -> bool:
        """Whether that release's Felix reads it from its environment and its file."""
        return _within(minor(release), self.settable_since, self.until)

    def of(self, release: str) -> Field:
        """The field with that release's words alone: others Felix cannot read there."""
        later = {word for word, since in self.levels_since if minor(release) < minor(since)}
        return replace(self, levels=tuple(each for each in self.levels if each not in later))

    def default(self, release: str) -> Any:
        """What Felix takes where nothing is set: None for *unset*, or text that begins UNKNOWN.

        None also in releases before the first that is known.
        """
        found = None
        for since, value in self.defaults:
            if minor(since) <= minor(release):
                found = value
        return None if found == UNSET else found

    def said(self, texts: Iterable[str], release: str) -> list[str]:
        """Those of ``how``, ``traps`` or ``page_now`` that hold in that release."""
        return [text for text in map(lambda t: _of(t, release), texts) if text]


@cache
def fields() -> Mapping[str, Field]:
    """Name → field, in the table's order."""
    rows = dict(_table())
    rows.pop("others")
    rows.pop("internal")
    return {name: _field(name, row) for name, row in rows.items()}


@cache
def other_names() -> frozenset[str]:
    """Names of the fields that the resource has besides, and that are not told about."""
    return frozenset(_table()["others"]["names"].split())


@cache
def internal_names() -> frozenset[str]:
    """Felix's names of what the environment and the file can set besides."""
    return frozenset(_table()["internal"]["names"].split())


def field(name: str) -> Field:
    """The field that a name stands for: the resource's, Felix's own or the variable's, in any case.

    ``ipipEnabled``, ``ipInIpEnabled`` and ``FELIX_IPINIPENABLED`` are one.

    Raises
    ------
    InputError
        There is no such field, or nothing is told about it; says the nearest.
    """
    found = find(name)
    if found is not None:
        return found
    asked = name.strip()
    plain = asked.lower().removeprefix(PREFIX.lower())
    known = {other.lower(): other for other in other_names()}
    if plain in known:
        raise InputError(
            f"{known[plain]} is a field of Felix, but changes nothing of its eBPF mode, and is not "
            "in the table.",
            "See Calico's reference of FelixConfiguration for it.",
        )
    nearest = nearest_names(asked)
    raise InputError(
        f"Felix has no field {asked}.",
        f"Did you mean {' or '.join(nearest)}?" if nearest else "See docs/felix.md for the fields.",
        field=asked,
    )


def find(name: str) -> Field | None:
    """The field that a name stands for, or None."""
    plain = name.strip().lower().removeprefix(PREFIX.lower())
    return _by_any_name().get(plain)


def nearest_names(name: str, *, most: int = 2) -> list[str]:
    """Names of fields that look like it, the nearest first."""
    plain = name.strip().lower().removeprefix(PREFIX.lower())
    known = {alias: one.name for alias, one in _by_any_name().items()}
    known |= {other.lower(): other for other in other_names()}
    close = get_close_matches(plain, known, n=2 * most, cutoff=0.7)
    return list(dict.fromkeys(known[alias] for alias in close))[:most]


def read_value(one: Field, given: Any, *, local: bool) -> Any:
    """A value as Calico spells it: words in their case, durations as ``1m30s``.

    Parameters
    ----------
    given
        As it stands in the resource, or text of the environment or file.
    local
        Whether it is text of the environment or file, where durations are plain seconds.

    Raises
    ------
    ValueError
        Felix cannot read it; the text says what it wants.
    """
    if local and str(given).strip().lower() == "none":
        if one.nonzero:
            raise ValueError("a value other than none")
        return _ZERO.get(one.type)
    reader = _READERS.get(one.type)
    if reader is not None:
        return reader(given)
    if one.type == "word":
        for level in one.levels:
            if level.lower() == str(given).strip().lower():
                return level
        raise ValueError(f"{', '.join(one.levels[:-1])} or {one.levels[-1]}".removeprefix(" or "))
    if one.type == "duration":
        return _duration(given, local=local)
    return given


def _bool(given: Any) -> bool:
    text = str(given).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("true or false")


def _int(given: Any) -> int:
    """Go's ParseInt with base 0: decimal, 0x, 0o, 0b, and an octal with a leading zero."""
    text = str(given).strip()
    try:
        return int(text, 8) if re.fullmatch(r"[+-]?0[0-7]+", text) else int(text, 0)
    except ValueError:
        raise ValueError("a whole number") from None


def _list(given: Any) -> list[Any]:
    if isinstance(given, list):
        return given
    return [part.strip() for part in str(given).split(",") if part.strip()]


def _map(given: Any) -> dict[str, Any]:
    if isinstance(given, dict):
        return given
    pairs = [part.partition("=") for part in str(given).split(",") if part.strip()]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError("NAME=VALUE, separated by commas")
    return {name.strip(): value.strip() for name, _, value in pairs}


_READERS = {"bool": _bool, "int": _int, "list": _list, "map": _map}


def _duration(given: Any, *, local: bool) -> str:
    text = str(given).strip()
    if not local:
        seconds = go_duration_s(text)
    else:
        try:
            seconds = float(text)
        except ValueError:
            raise ValueError("plain seconds, such as 10") from None
    return duration_text(seconds)


def _within(release: tuple[int, int], since: str, until: str) -> bool:
    return (not since or minor(since) <= release) and (not until or release <= minor(until))


def _of(text: str, release: str) -> str:
    """The text without its releases, or nothing where it is of others."""
    match = _RANGE.match(text)
    if match is None:
        return text
    since, until = match[1] or "", match[2] or ""
    return text[match.end() :] if _within(minor(release), since, until) else ""


@cache
def _table() -> dict[str, Any]:
    place = files("ebpfperf.calico").joinpath("felix_fields.toml")
    return tomllib.loads(place.read_text("utf-8"))


def _field(name: str, row: Mapping[str, Any]) -> Field:
    since = str(row.get("since", ""))
    return Field(
        name=name,
        type=row["type"],
        what=row["what"],
        source=row["source"],
        levels=tuple(row.get("levels", ())),
        how=tuple(row.get("how", ())),
        traps=tuple(row.get("traps", ())),
        page_now=tuple(row.get("page_now", ())),
        defaults=tuple((first, value) for first, value in row["default"]),
        since=since,
        until=row.get("until", ""),
        settable_since=row.get("internal_since", since),
        internal=row.get("internal", _internal(name)),
        nonzero=row.get("nonzero", False),
        fatal=row.get("fatal", False),
        unset=row.get("unset", ""),
        page=row.get("page", ""),
        levels_since=tuple(row.get("levels_since", {}).items()),
    )


def _internal(name: str) -> str:
    """Felix's spelling: an abbreviation at the beginning is in capitals."""
    for short in ("bpf", "vxlan", "mtu", "aws", "nat"):
        if name.startswith(short):
            return short.upper() + name[len(short) :]
    return name[0].upper() + name[1:]


@cache
def _by_any_name() -> Mapping[str, Field]:
    found = {one.internal.lower(): one for one in fields().values()}
    return found | {name.lower(): one for name, one in fields().items()}
