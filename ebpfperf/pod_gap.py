"""What pods carried of what their hosts did, from a campaign that measured both: as evidence."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ebpfperf.evidence import API, Item
from ebpfperf.evidence_sources import POD_GAP
from ebpfperf.model import Path as FlowPath
from ebpfperf.model import Role, Status
from ebpfperf.store import Store

_SAME = ["treatment", "overlay", "dataplane", "streams", "direction"]


def measured(path: Path) -> Item:
    """The medians of both paths, treatment by treatment.

    The content is JSON: ``campaign``, ``shared_kernel`` (the fact), and ``rows`` of ``treatment``,
    ``overlay``, ``dataplane``, ``streams``, ``direction``, and of ``host`` and ``pod`` the median
    ``bits_per_s`` and the number of ``trials``. Flows of unpaced TCP alone take part.

    Raises
    ------
    InputError
        There is no campaign.
    StoreError
        It cannot be read.
    """
    store = Store.open(path)
    facts = store.frame("facts")
    shared = facts.loc[facts["name"] == "shared_kernel", "value"].tolist()
    document = {
        "campaign": store.campaign.name,
        "shared_kernel": str(shared[0]) if shared else "",
        "rows": rows(store.frame("trials")),
    }
    taken = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Item(POD_GAP, API, f"trials of {path}", taken, json.dumps(document, indent=1).encode())


def rows(trials: pd.DataFrame) -> list[dict[str, Any]]:
    """One row of each treatment, number of streams and direction that has both paths."""
    used = trials[
        (trials["status"] == Status.OK.value)
        & (trials["role"] == Role.COMPARED.value)
        & (trials["load"] == "tcp")
        & trials["rate_bits_per_s"].isna()
        & trials["received_bits_per_s"].notna()
    ]
    # A treatment that says nothing of the dataplane leaves what the cluster has.
    used = used.assign(dataplane=used["dataplane"].fillna(""))
    found = []
    for same, group in used.groupby(_SAME, sort=True):
        ends = {
            word: group.loc[group["path"] == path.value, "received_bits_per_s"]
            for word, path in (("host", FlowPath.HOST_HOST), ("pod", FlowPath.POD_POD))
        }
        if all(len(each) for each in ends.values()):
            row: dict[str, Any] = dict(zip(_SAME, same, strict=True))
            row["streams"] = int(row["streams"])
            for word, each in ends.items():
                row[word] = {"bits_per_s": float(each.median()), "trials": len(each)}
            found.append(row)
    return found
