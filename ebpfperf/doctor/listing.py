"""The checks and the sources of evidence as rows, for ``doctor --list`` and the documentation."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import TypedDict

from ebpfperf.doctor.declaration import Check, Release
from ebpfperf.evidence_sources import (
    API_SOURCES,
    COUNTS,
    LOG,
    MACHINE,
    MAPS,
    NODE_SOURCES,
    POD_GAP,
    SOURCE_PROBE,
    TRAFFIC,
    VXLAN_PROBE,
)

_TWICE = "; twice"
_OWN = (
    (COUNTS, "a script of Python", "programs on devices, and what is counted of drops; twice"),
    (MACHINE, "a script of Python", "the NICs' offloads, the processors"),
    (MAPS, "a script of Python", "BPF maps of services, connections and routes"),
    (LOG, "`kubectl logs`", "the end of calico-node's log"),
    (VXLAN_PROBE, "a few datagrams between nodes", "whether VXLAN leaves and arrives"),
    (SOURCE_PROBE, "a few datagrams between nodes", "whether others' sources arrive; with DSR"),
    (TRAFFIC, "iperf3 between two hosts", "what the underlay carries; with `--traffic`"),
    (POD_GAP, "a campaign's trials", "what pods and hosts carried; with `--campaign`"),
)


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
    """Name, how it is asked, and what is learnt, of all that checks read."""
    of_nodes = [
        (each.name, _asked(each.argv), f"{each.what}{_TWICE if each.twice else ''}")
        for each in NODE_SOURCES
    ]
    of_api = [
        (each.name, f"`{each.asked}`", f"{each.what}{_TWICE if each.twice else ''}")
        for each in API_SOURCES
    ]
    return [*of_nodes, *_OWN, *of_api]


def _asked(argv: tuple[str, ...]) -> str:
    return "a script of the shell" if argv[:2] == ("sh", "-c") else f"`{shlex.join(argv)}`"
