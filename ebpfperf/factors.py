"""Treatments as the cross product of factors: levels of overlay, scope, dataplane, Felix fields.

Also what may be said of a Felix field in a campaign file at all, however treatments are written.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TypeVar

from ebpfperf.calico.felixenv import resource_field
from ebpfperf.calico.flags import level
from ebpfperf.model import Dataplane, FelixValue, Overlay, Scope, Treatment

BASE = "base"
UNSET = "unset"
LONGEST_NAME = 63

Levels = Mapping[str, FelixValue]
"""Factor → one level of it: what a treatment is, before it has a name."""

_WORDS: Mapping[str, type[StrEnum]] = {"overlay": Overlay, "scope": Scope, "dataplane": Dataplane}
# What a name calls a field whose level alone would not say what it is of.
_SHORT = {"bpfLogLevel": "log", "bpfExternalServiceMode": "service", "bpfEnabled": "bpf"}
_Word = TypeVar("_Word", bound=StrEnum)


class Misfit(ValueError):
    """Something in the section is wrong: where in it, what, and what to write instead."""

    def __init__(self, place: tuple[str | int, ...], what: str, remedy: str) -> None:
        super().__init__(f"{'.'.join(map(str, place))} {what}. {remedy}")
        self.place = place
        self.what = what
        self.remedy = remedy


def treatments(section: object) -> dict[str, tuple[Levels, Treatment]]:
    """Name → levels and treatment, in the order of the file: the last factor changes fastest.

    A name is made of its levels, in the order of the factors: ``none-debug``, ``ipip-true``.

    Raises
    ------
    Misfit
        The section, a factor or a level cannot be; two treatments would have one name.
    """
    base, factors = _split(section)
    if "overlay" not in {*base, *factors}:
        raise Misfit((), "says no overlay", f"Add overlay: none, or another, to {BASE}.")
    found: dict[str, tuple[Levels, Treatment]] = {}
    for combined in itertools.product(*factors.values()):
        levels = dict(zip(factors, combined, strict=True))
        name = "-".join(_word(factor, value) for factor, value in levels.items())
        if len(name) > LONGEST_NAME:
            what = f"makes the name {name}, which is longer than {LONGEST_NAME} characters"
            raise Misfit((), what, "Vary fewer fields, or write treatments, with names.")
        if name in found:
            raise Misfit((), f"makes two treatments named {name}", "Write treatments, with names.")
        found[name] = (levels, _treatment(name, {**base, **levels}))
    if len(found) < 2:
        raise Misfit((), "makes one treatment", "Give some factor a second level to compare.")
    return found


def baseline(chosen: Mapping[str, object], made: Mapping[str, tuple[Levels, Treatment]]) -> str:
    """The name of the one treatment that has the chosen levels; factors may be left out.

    Raises
    ------
    Misfit
        A factor or level is not among those of the campaign, or several treatments have them.
    """
    known = next(iter(made.values()))[0]
    wanted: dict[str, FelixValue] = {}
    for factor, value in chosen.items():
        if factor not in known:
            raise Misfit((factor,), "is no factor here", f"Factors: {', '.join(known)}.")
        wanted[factor] = _level(factor, value, place=(factor,))
        if not any(_same(levels[factor], wanted[factor]) for levels, _ in made.values()):
            shown = dict.fromkeys(spell(levels[factor]) for levels, _ in made.values())
            what = f"is {spell(wanted[factor])}, which is no level of it here"
            raise Misfit((factor,), what, f"Levels: {', '.join(shown)}.")
    fitting = [
        name
        for name, (levels, _) in made.items()
        if all(_same(levels[factor], value) for factor, value in wanted.items())
    ]
    if len(fitting) > 1:
        left = ", ".join(factor for factor in known if factor not in wanted)
        raise Misfit((), f"fits {len(fitting)} treatments", f"Say the level of {left} too.")
    return fitting[0]


def field_problem(name: str) -> tuple[str, str] | None:
    """What is wrong with a Felix field's name and what to do; None when it could be Calico's."""
    meant = resource_field(name)
    if meant is not None:
        return "is Felix's internal name, not a field of the resource", f"Write {meant}."
    if re.fullmatch(r"[a-z][A-Za-z0-9]*", name) is None:
        return "cannot be a Felix field", "Write it as in vxlanEnabled."
    return None


def level_problem(name: str, value: FelixValue) -> tuple[str, str] | None:
    """What is wrong with a value of a Felix field and what to do; None when nothing is known."""
    try:
        level(name, value)
    except ValueError as error:
        return f"is {spell(value)}, which {name} cannot be", f"Write {error}."
    return None


def spell(value: FelixValue) -> str:
    """A level as a campaign file has it: ``unset``, ``true``, ``Debug``, ``1450``."""
    if value is None:
        return UNSET
    return str(value).lower() if isinstance(value, bool) else str(value)


def _split(section: object) -> tuple[dict[str, FelixValue], dict[str, list[FelixValue]]]:
    """The base's levels and the factors' lists of levels, each level checked."""
    if not isinstance(section, Mapping) or not section:
        what = "is not keys with lists of levels"
        raise Misfit((), what, "Write it as in ipipEnabled: [unset, true].")
    given = section.get(BASE, {})
    if not isinstance(given, Mapping):
        raise Misfit((BASE,), "is not keys and values", "Write it as in base: {overlay: none}.")
    base: dict[str, FelixValue] = {}
    for key, value in given.items():
        name = _factor(key, (BASE, str(key)))
        base[name] = _level(name, value, place=(BASE, name))
    factors: dict[str, list[FelixValue]] = {}
    for key, values in section.items():
        if key == BASE:
            continue
        name = _factor(key, (str(key),))
        if name in base:
            raise Misfit((name,), f"is in {BASE} too", "Keep one of the two.")
        factors[name] = _levels(name, values, (name,))
    if {"dataplane", "bpfEnabled"} <= {*base, *factors}:
        where = (BASE, "bpfEnabled") if "bpfEnabled" in base else ("bpfEnabled",)
        raise Misfit(where, "is what dataplane sets", "Keep one of the two.")
    return base, factors


def _factor(name: object, place: tuple[str, ...]) -> str:
    text = str(name)
    problem = None if text in _WORDS else field_problem(text)
    if problem is not None:
        raise Misfit(place, *problem)
    return text


def _levels(factor: str, values: object, place: tuple[str, ...]) -> list[FelixValue]:
    if not isinstance(values, list) or not values:
        raise Misfit(place, "is no list of levels", f"Write it as in {factor}: [A, B].")
    found: list[FelixValue] = []
    for index, value in enumerate(values):
        one = _level(factor, value, place=(*place, index))
        if any(_same(one, other) for other in found):
            raise Misfit((*place, index), f"{spell(one)} is listed twice", "Keep one of them.")
        found.append(one)
    return found


def _level(factor: str, value: object, *, place: tuple[str | int, ...]) -> FelixValue:
    """One level as Calico spells it; ``unset`` and null are None."""
    if not isinstance(value, bool | int | str | None):
        raise Misfit(place, "is no single value", "Write true, false, unset, a number or a word.")
    if factor in _WORDS:
        words = [word.value for word in _WORDS[factor]]
        if factor == "dataplane" and value in (None, UNSET):
            return None
        if value not in words:
            what = f"is {spell(value)}, which is not known"
            raise Misfit(place, what, f"Known: {', '.join(words)}.")
        return value
    if value is None or value == UNSET:
        return None
    problem = level_problem(factor, value)
    if problem is not None:
        raise Misfit(place, *problem)
    return level(factor, value)


def _same(one: FelixValue, other: FelixValue) -> bool:
    """Whether two levels are one: 1 is not true."""
    return one == other and type(one) is type(other)


def _word(factor: str, value: FelixValue) -> str:
    """A level's part of a name; truth, numbers and the like carry the field's name along."""
    text = re.sub(r"[^a-z0-9]+", "-", spell(value).lower()).strip("-")
    if not text:
        raise Misfit((factor,), f"{value!r} cannot be part of a name", "Write treatments instead.")
    if factor in _WORDS and value is not None:
        return text
    if isinstance(value, str) and value.isalpha() and text not in ("off", "on", "none"):
        return text
    return f"{_short(factor)}-{text}"


def _short(factor: str) -> str:
    """``ipip`` of ipipEnabled, ``vxlan-mtu`` of vxlanMTU."""
    if factor in _SHORT:
        return _SHORT[factor]
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", factor.removesuffix("Enabled"))
    return "-".join(words).lower()


def _treatment(name: str, levels: Levels) -> Treatment:
    felix: Sequence[tuple[str, FelixValue]] = sorted(
        (field, value) for field, value in levels.items() if field not in _WORDS
    )
    return Treatment(
        name,
        _typed(Overlay, levels["overlay"], Overlay.NONE),
        _typed(Scope, levels.get("scope"), Scope.ALWAYS),
        tuple(felix),
        None if levels.get("dataplane") is None else Dataplane(str(levels["dataplane"])),
    )


def _typed(kind: type[_Word], value: FelixValue, default: _Word) -> _Word:
    return default if value is None else kind(str(value))
