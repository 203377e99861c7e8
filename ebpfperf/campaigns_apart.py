"""What differs between two campaigns' facts; and which facts no comparison looks at. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

ABSENT = "not there"

# Name of a fact → why it is not compared between arms.
LEFT_OUT: Mapping[str, str] = {
    r"conditions": "says only whether the others were read",
    r"address:.*|dialled|.*_answers": "pods and Services are made anew, with other addresses",
    r"felix_process": "a process id",
    r"(.*_)?route": "names addresses; which way packets went is checked before each trial",
    r"wire_.*": "which encapsulation was seen is judged by a gate of its own",
    r"nic_programs|(tunl0|vxlan)_(kind|mtu)|pod_mtu_rule": "the same as mtu:…, programs:…",
    r"(pod_pod|pod_service|host_host|nodeport_\w+|felix_pod)_mtu": "the same as mtu:pod, mtu:nic",
    r".*_(lost_events|watched_s|unseen|unmatched|changed|without_room|given_up|skipped)": (
        "a probe's own"
    ),
    r".*_on:.*|qdisc_queues": "a probe's own; names devices",
    r"live_.*": "whether somebody looked",
}
# Beside them, between campaigns.
LEFT_OUT_BETWEEN: Mapping[str, str] = {
    r"boot_id|hostname": "another machine's are others",
    r"clock_offset(_bound)?": "measured anew",
    r"shared_kernel": "names nodes",
    r"imported_from": "names files",
}

_PLACED = r"placement:.*"
"""Which node an end was on: told only where the nodes' names are the same on both sides."""


def between(
    before: pd.DataFrame,
    after: pd.DataFrame,
    *,
    roles_before: Mapping[str, str] | None = None,
    roles_after: Mapping[str, str] | None = None,
    same_nodes: bool = False,
) -> pd.DataFrame:
    """What differs between two campaigns' facts, those of trials included.

    Parameters
    ----------
    before, after
        Facts frames; of several trials the set of values counts. Objects in JSON (``felix_spec``,
        pools) are compared field by field. ``LEFT_OUT`` and ``LEFT_OUT_BETWEEN`` are left out.
    roles_before, roles_after
        Node → what it is called on both sides, where node names differ (``roles``).
    same_nodes
        Whether a name means the same node on both sides, so that ends may be on others.

    Returns
    -------
    DataFrame
        ``name``, ``node``, ``before``, ``after``. UNKNOWN on one side is said as such; ``not
        there`` where a side has no such fact, unless it has no trial's facts at all.
    """
    sides = [
        _values(frame, roles or {}, without=() if same_nodes else (_PLACED,))
        for frame, roles in ((before, roles_before), (after, roles_after))
    ]
    rows = []
    for key in sorted(sides[0].keys() | sides[1].keys()):
        shown = [" | ".join(sorted(side.get(key, {ABSENT}))) for side in sides]
        if shown[0] != shown[1]:
            node, name = key
            rows.append((name, node, *shown))
    return pd.DataFrame(rows, columns=["name", "node", "before", "after"], dtype="str")


def roles(facts: pd.DataFrame) -> dict[str, str]:
    """Node → ``client`` or ``server``, as the trials' facts say where the ends were placed."""
    found: dict[str, str] = {}
    for end in ("client", "server"):
        placed = facts.loc[facts["name"].eq(f"placement:{end}"), "value"]
        if len(placed):
            found.setdefault(str(placed.mode().iloc[0]), end)
    return found


def json_object(text: str) -> dict[str, Any]:
    """A fact that is a JSON object; empty where it is none."""
    if not text.startswith("{"):
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def pattern(patterns: Iterable[str]) -> re.Pattern[str]:
    """One pattern that is any of them."""
    return re.compile("|".join(f"(?:{one})" for one in patterns))


def _values(
    facts: pd.DataFrame, names: Mapping[str, str], *, without: Iterable[str]
) -> dict[tuple[str, str], set[str]]:
    """(node, name) → the values it had, of what is compared between campaigns."""
    left_out = pattern([*LEFT_OUT, *LEFT_OUT_BETWEEN, *without])
    found: dict[tuple[str, str], set[str]] = {}
    ours = facts[facts["unit"].isin(["", "bytes", "Mbit/s"])]
    for row in ours[["node", "name", "value"]].drop_duplicates().to_dict("records"):
        name, value = str(row["name"]), str(row["value"])
        if left_out.fullmatch(name):
            continue
        node = names.get(row["node"], row["node"])
        if fields := json_object(value):
            for field, held in fields.items():
                found.setdefault((node, f"{name}.{field}"), set()).add(json.dumps(held))
        else:
            found.setdefault((node, name), set()).add(value)
    return found
