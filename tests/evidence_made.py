"""Evidence for tests: that of a healthy cluster, with single answers changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from ebpfperf import bundle
from ebpfperf.diagnosis import Outcome, Result
from ebpfperf.doctor import judge
from ebpfperf.doctor.case import Case
from ebpfperf.evidence import Evidence, Item

PLACE = Path(__file__).parent / "recorded" / "doctor"
NODES = ("node-1", "node-2")
Where = tuple[str, str]  # source, node ("" for the API)


@cache
def healthy(release: str = "v3.26") -> Evidence:
    """Recorded of a lab: two nodes, eBPF mode on, no overlay, nothing wrong."""
    return bundle.read(PLACE / f"healthy-{release}.tar.gz")


def changed(
    base: Evidence,
    answers: Mapping[Where, str | bytes] | None = None,
    *,
    without: Collection[Where] = (),
    statuses: Mapping[Where, int] | None = None,
    release: str | None = None,
) -> Evidence:
    """The evidence with other answers, without some, or of another release by name."""
    items = {where: item for where, item in base.items.items() if where not in without}
    for (source, node), text in (answers or {}).items():
        old = base.item(source, node) or Item(source, node, source, base.taken_utc)
        content = text if isinstance(text, bytes) else text.encode()
        items[source, node] = replace(old, content=content, error="")
    for where, status in (statuses or {}).items():
        items[where] = replace(items[where], status=status)
    return replace(base, items=items, release=release or base.release)


def objects(base: Evidence, source: str, change: Callable[[list[Any]], None]) -> str:
    """The objects of an API source after ``change`` had its way with them, as an answer."""
    found = json.loads(base.items[source, ""].text)
    change(found)
    return json.dumps(found)


def felix(base: Evidence, fields: Mapping[str, Any], name: str = "default") -> str:
    """FelixConfigurations with these fields of one set; None takes a field out."""

    def change(found: list[Any]) -> None:
        own = next((each for each in found if each["metadata"]["name"] == name), None)
        if own is None:
            own = {"metadata": {"name": name}, "spec": {}}
            found.append(own)
        merged = {**own["spec"], **fields}
        own["spec"] = {key: value for key, value in merged.items() if value is not None}

    return objects(base, "felixconfigurations", change)


def result(evidence: Evidence, check: str) -> Result:
    """What one check says of it."""
    (found,) = judge.chosen([check])
    return judge.result(Case(evidence), found)


def outcomes(evidence: Evidence, check: str) -> dict[str, list[Outcome]]:
    """Node (empty: the cluster) → what one check says of it."""
    found: dict[str, list[Outcome]] = {}
    for each in result(evidence, check).outcomes:
        found.setdefault(each.node, []).append(each)
    return found


def verdicts(evidence: Evidence, check: str) -> dict[str, str]:
    """Node (empty: the cluster) → the worst verdict of one check there."""
    return {
        node: min((each.verdict for each in found), key=list(type(found[0].verdict)).index).value
        for node, found in outcomes(evidence, check).items()
    }
