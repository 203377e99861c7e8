"""Which FelixConfiguration with a ``nodeSelector`` holds on a node (v3.32 and later). Pure.

Felix takes one: of those that choose the node the oldest by creationTimestamp, whole. What the
others set does nothing there. It ignores one whose selector it cannot read, and a node without any
label is chosen by none. Sources: FelixConfiguration's reference of v3.32, "Selector-scoped
configuration" (a tech preview); felix/calc/config_batcher.go.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ebpfperf.calico import selectors
from ebpfperf.calico.releases import minor

SELECTED_FROM = (3, 32)
_LABELS = "projectcalico.org/labels"


@dataclass(frozen=True, slots=True)
class Selected:
    """A FelixConfiguration with a ``nodeSelector``; ``created`` is its creationTimestamp."""

    name: str
    spec: Mapping[str, Any]
    created: str = ""

    @property
    def selector(self) -> str:
        """As it is written."""
        return str(self.spec.get("nodeSelector") or "")

    @property
    def created_at(self) -> datetime | None:
        """When it was made; None where that is not said."""
        try:
            found = datetime.fromisoformat(self.created)
        except ValueError:
            return None
        return found if found.tzinfo else None


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of a field: by whom, and the value, or why it is not known."""

    names: str
    value: Any = None
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """What holds on a node.

    Attributes
    ----------
    possible
        Those that may hold: one, or several where it is not known which; empty: none does.
    certain
        Whether one of them does hold.
    why
        Half a sentence on why it is not known which does; empty where it is.
    remarks
        Sentences on those that do nothing, without the node's name.
    """

    possible: tuple[Selected, ...] = ()
    certain: bool = True
    why: str = ""
    remarks: tuple[str, ...] = ()

    def said(self, field: str) -> Said | None:
        """What holds of a field, by its name; None where nothing is said. Empty text is nothing."""
        values = [(each, each.spec.get(field)) for each in self.possible]
        values = [(each, None if value == "" else value) for each, value in values]
        saying = [(each, value) for each, value in values if value is not None]
        if not saying:
            return None
        names = " or ".join(each.name for each, _ in saying)
        if not self.certain:
            told = " or ".join(f"{value!r} if {each.selector!r}" for each, value in saying)
            return Said(names, unknown=f"{told} chooses this node, whose labels are not known")
        if all(value == values[0][1] for _, value in values):
            return Said(names, values[0][1])
        told = " or ".join(
            f"{'nothing' if value is None else repr(value)} by {each.name}"
            for each, value in values
        )
        return Said(
            names, unknown=f"{told}: these choose this node, Felix takes the oldest, but {self.why}"
        )


def selected(objects: Iterable[Mapping[str, Any]]) -> tuple[Selected, ...]:
    """Those of all FelixConfigurations that have a selector and a name that may have one."""
    found = []
    for each in objects:
        meta, spec = each["metadata"], each.get("spec") or {}
        name = str(meta["name"])
        if name != "default" and not name.startswith("node.") and spec.get("nodeSelector"):
            found.append(Selected(name, spec, str(meta.get("creationTimestamp") or "")))
    return tuple(found)


def labels_of(node: Mapping[str, Any]) -> dict[str, str]:
    """A Node's labels as Calico sees them: those that calicoctl gave it, beaten by its own.

    Source: libcalico-go/lib/backend/k8s/resources/node.go, ``mergeCalicoAndK8sLabels``.
    """
    meta = node.get("metadata") or {}
    try:
        calico = json.loads((meta.get("annotations") or {}).get(_LABELS) or "{}")
    except ValueError:
        calico = {}
    if not isinstance(calico, Mapping) or not all(isinstance(v, str) for v in calico.values()):
        calico = {}
    return {**calico, **(meta.get("labels") or {})}


def standing(found: Iterable[Selected], labels: Mapping[str, str] | None, release: str) -> Standing:
    """What holds on a node with these labels (None: they are not known).

    Raises
    ------
    ValueError
        The release is no version.
    """
    given = tuple(found)
    if given and minor(release) < SELECTED_FROM:
        why = f"has a nodeSelector, which {release} does not know: it does nothing."
        return Standing(remarks=tuple(f"FelixConfiguration {each.name} {why}" for each in given))
    readable, remarks = [], []
    for each in given:
        try:
            selectors.parse(each.selector)
        except ValueError as error:
            remarks.append(
                f"FelixConfiguration {each.name} does nothing, because its nodeSelector "
                f"{each.selector!r} is none: {error}."
            )
        else:
            readable.append(each)
    if labels is None:
        return Standing(tuple(readable), certain=False, remarks=tuple(remarks))
    choosing = [
        each for each in readable if labels and selectors.parse(each.selector).chooses(labels)
    ]
    return _oldest(choosing, remarks)


def _oldest(choosing: list[Selected], remarks: list[str]) -> Standing:
    if len(choosing) < 2:
        return Standing(tuple(choosing), remarks=tuple(remarks))
    times = [each.created_at for each in choosing]
    known = [when for when in times if when is not None]
    if len(known) < len(times):
        oldest, why = choosing, "when they were made is not known"
    else:
        first = min(known)
        oldest = [each for each, when in zip(choosing, known, strict=True) if when == first]
        why = "they were made in the same second"
    names = " or ".join(each.name for each in oldest)
    for each in choosing:
        if each not in oldest:
            remarks.append(
                f"FelixConfiguration {each.name} chooses the node too and does nothing there: "
                f"Felix takes the oldest alone, {names}."
            )
    if len(oldest) == 1:
        return Standing(tuple(oldest), remarks=tuple(remarks))
    remarks.append(
        f"Several FelixConfigurations choose the node, {names}: Felix takes the oldest alone, but "
        f"{why}."
    )
    return Standing(tuple(oldest), why=why, remarks=tuple(remarks))
