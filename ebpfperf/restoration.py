"""How a cluster gets back to what it was: the journal against the cluster as it is. Pure.

A field that the kit changed returns to its original value, absence included. A field that the kit
never touched stays as somebody else left it, and a sentence says so. A field that both changed is a
conflict: nobody's change is overwritten silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ebpfperf.journal import Key, Remembered
from ebpfperf.mutations import (
    Mutation,
    canonical,
    create_again,
    delete,
    is_ours,
    patch_spec,
)

WHY = "restore"
# What the kit makes and takes away again, in the order of going: Calico's objects come at 1.
CREATED = {"Pod": 0, "Service": 0, "Namespace": 2}
Live = Mapping[Key, Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Restoration:
    """What to do and what to say.

    Attributes
    ----------
    notes
        Sentences on what others changed and what is therefore left as it is.
    conflicts
        Sentences on what cannot be put back without overwriting somebody's change.
    """

    mutations: tuple[Mutation, ...]
    notes: tuple[str, ...]
    conflicts: tuple[str, ...]


def restoration(
    objects: Iterable[Remembered],
    live: Live,
    *,
    namespace_empty: bool = True,
    overwrite: bool = False,
) -> Restoration:
    """What puts the objects back: what was made first, then Calico's objects, the namespace last.

    Parameters
    ----------
    live
        Every remembered object as it is now; None where it is gone.
    namespace_empty
        Whether the kit's namespace holds nothing but the kit's pods.
    overwrite
        Put the original back also where somebody else changed the same field.
    """
    calls: list[Mutation] = []
    notes: list[str] = []
    conflicts: list[str] = []
    for entry in sorted(objects, key=lambda entry: CREATED.get(entry.kind, 1)):
        now = live[entry.key]
        if entry.kind in CREATED:
            call, note = _created(entry, now, namespace_empty=namespace_empty)
            calls += [call] if call else []
            notes += [note] if note else []
        else:
            one = _changed(entry, now, overwrite=overwrite)
            calls += one.mutations
            notes += one.notes
            conflicts += one.conflicts
    return Restoration(tuple(calls), tuple(notes), tuple(conflicts))


def differences(objects: Iterable[Remembered], live: Live) -> tuple[str, ...]:
    """Sentences on fields that the kit touched and that are not as they were; empty when restored.

    Also what the kit created and is still there.
    """
    found: list[str] = []
    for entry in objects:
        now = live[entry.key]
        if entry.kind in CREATED:
            if now is not None and is_ours(now) and entry.original is None:
                found.append(f"{entry.kind} {entry.name} is still there.")
            continue
        spec, was = _spec(now), entry.spec or {}
        found += [
            f"{entry.kind} {entry.name}: {name} is {_say(spec.get(name))}, "
            f"was {_say(was.get(name))}."
            for name in entry.touched
            if canonical(spec.get(name)) != canonical(was.get(name))
        ]
    return tuple(found)


def byte_equal(entry: Remembered, now: Mapping[str, Any] | None) -> bool:
    """Whether an object's ``spec`` is, in canonical JSON, what it was (or is absent as it was)."""
    if entry.original is None or now is None:
        return entry.original is None and now is None
    return canonical(entry.spec) == canonical(_spec(now))


def _created(
    entry: Remembered, now: Mapping[str, Any] | None, *, namespace_empty: bool
) -> tuple[Mutation | None, str]:
    """A pod, Service or namespace that the kit made."""
    if now is None or entry.original is not None:
        return None, ""
    if not is_ours(now):
        return None, f"{entry.kind} {entry.name} is not the kit's any more and was left."
    if entry.kind == "Namespace" and not namespace_empty:
        return None, f"Namespace {entry.name} was left: other pods live in it now."
    return delete(entry.kind, entry.name, entry.namespace, why=WHY), ""


def _changed(entry: Remembered, now: Mapping[str, Any] | None, *, overwrite: bool) -> Restoration:
    """An object of Calico's whose ``spec`` the kit changed."""
    label = f"{entry.kind} {entry.name}"
    if now is None:
        if entry.original is None:
            return Restoration((), (), ())
        if overwrite:
            return Restoration((create_again(entry.kind, entry.original, why=WHY),), (), ())
        return Restoration((), (), (f"{label} was deleted by somebody else.",))
    spec, was = _spec(now), entry.spec or {}
    notes = [
        f"{label}: {name} was changed by somebody else from {_say(was.get(name))} to "
        f"{_say(spec.get(name))} and was left so."
        for name in sorted({*spec, *was} - set(entry.touched))
        if canonical(spec.get(name)) != canonical(was.get(name))
    ]
    back: dict[str, Any] = {}
    conflicts: list[str] = []
    for name, ours in sorted(entry.touched.items()):
        value, original = spec.get(name), was.get(name)
        if canonical(value) == canonical(original):
            continue
        if overwrite or canonical(value) in map(canonical, ours):
            back[name] = original
        else:
            conflicts.append(
                f"{label}: {name} is {_say(value)}, which is neither what it was "
                f"({_say(original)}) nor what the campaign set ({', '.join(map(_say, ours))})."
            )
    if entry.original is None and not conflicts:
        if not set(spec) - set(entry.touched):
            return Restoration((delete(entry.kind, entry.name, why=WHY),), (), ())
        notes.append(f"{label} was created by the campaign and stays: others use it now.")
    calls = (patch_spec(entry.kind, entry.name, back, why=WHY),) if back else ()
    return Restoration(calls, tuple(notes), tuple(conflicts))


def _spec(obj: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return {} if obj is None else obj.get("spec") or {}


def _say(value: object) -> str:
    if value is None:
        return "absent"
    return value if isinstance(value, str) and value else canonical(value)
