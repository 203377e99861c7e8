"""The checks and the sources of evidence as rows, for ``doctor --list`` and the documentation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from ebpfperf.doctor.declaration import Check, Release
from ebpfperf.evidence_sources import API_SOURCES, NODE_SOURCES


class Row(TypedDict):
    """A check, in words."""

    id: str
    name: str
    question: str
    releases: str
    reads: str
    source: str


def rows(checks: Iterable[Check], release: Release | None = None) -> list[Row]:
    """The checks, or those of them that apply to a release."""
    return [
        Row(
            id=check.id,
            name=check.name,
            question=check.title,
            releases=releases(check),
            reads=", ".join(check.reads),
            source=check.source,
        )
        for check in checks
        if release is None or applies(check, release)
    ]


def applies(check: Check, release: Release) -> bool:
    """Whether a check applies to a release."""
    since, before = check.since, check.before
    return (since is None or release >= since) and (before is None or release < before)


def releases(check: Check) -> str:
    """``all``, ``v3.27 and later``, ``up to v3.22`` or ``v3.23 to v3.31``."""
    since = None if check.since is None else f"v{check.since[0]}.{check.since[1]}"
    last = None if check.before is None else f"v{check.before[0]}.{check.before[1] - 1}"
    if since and last:
        return since if since == last else f"{since} to {last}"
    if since:
        return f"{since} and later"
    return f"up to {last}" if last else "all"


def sources() -> list[tuple[str, str, str]]:
    """Name, who is asked, and what is learnt, of all that is gathered by a command or a list."""
    of_nodes = [(each.name, "node", each.what, each.twice) for each in NODE_SOURCES]
    of_api = [(each.name, each.asked, each.what, each.twice) for each in API_SOURCES]
    return [
        (name, asked, f"{what}{'; twice' if twice else ''}")
        for name, asked, what, twice in (*of_nodes, *of_api)
    ]
