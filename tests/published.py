"""The published 40 Gbit/s data as documents and as a campaign, made of the rows that are kept.

A document has one interval, the whole test, as ``-i 0`` prints it: the measured seconds' own
intervals were not kept. Times of start say the order of the runs and nothing else.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from ebpfperf import importing
from ebpfperf.loads import iperf3_document
from ebpfperf.model import Campaign, Fact, Overlay, TrialResult
from ebpfperf.store import Store

CSV = Path(__file__).parent / "recorded" / "published" / "cni-2024-01.csv"
ARMS = ("iptables", "ebpf", "none")
LINK = Fact("", "nic_speed", "40000", "Mbit/s")


def rows() -> list[dict[str, str]]:
    """The rows, in the order of runs."""
    with CSV.open(newline="") as file:
        return sorted(csv.DictReader(file), key=lambda row: (row["test"], int(row["run"])))


def document(row: dict[str, str]) -> bytes:
    """The client's document of one row, as 3.16 with ``-i 0`` would print it."""
    streams = int(row["streams"])
    sent, received = _amounts(row, "sent"), _amounts(row, "received")
    sent["retransmits"] = int(row["retransmits"])
    parts = [
        {"sender": _part(sent, number, streams), "receiver": _part(received, number, streams)}
        for number in range(streams)
    ]
    if row["rtt_mean_us"]:
        parts[0]["sender"]["mean_rtt"] = int(row["rtt_mean_us"])
        parts[0]["sender"]["max_snd_wnd"] = int(row["max_snd_wnd_bytes"])
    interval = {**sent, "omitted": False}
    made: dict[str, Any] = {
        "start": {
            "connected": [{"socket": 5 + number} for number in range(streams)],
            "version": f"iperf {row['version']}",
            "system_info": f"Linux node {row['kernel']} #1 SMP x86_64",
            "timestamp": {"timesecs": 1_706_000_000 + 3600 * int(row["run"]) + streams},
            "connecting_to": {},
            "cookie": row["source"],
            "tcp_mss_default": int(row["mss_bytes"]),
            "test_start": {
                "protocol": row["protocol"],
                "num_streams": streams,
                "blksize": 131072,
                "omit": int(row["omit_s"]),
                "duration": int(row["duration_s"]),
                "bytes": 0,
                "blocks": 0,
                "reverse": 0,
                "bidir": 0,
            },
        },
        "intervals": [
            {"streams": [{**part["sender"], "omitted": False} for part in parts], "sum": interval}
        ],
        "end": {
            "streams": parts,
            "sum_sent": sent,
            "sum_received": received,
            "cpu_utilization_percent": {
                "host_total": float(row["host_cpu_pct"]),
                "remote_total": float(row["remote_cpu_pct"]),
            },
        },
    }
    return json.dumps(made).encode()


def imported() -> tuple[Campaign, list[TrialResult]]:
    """The campaign and its trials, as ``ebpfperf import iperf3`` makes them of the documents."""
    documents = {row["source"]: (row, document(row)) for row in rows()}
    read = {file: iperf3_document.read(text) for file, (_, text) in documents.items()}
    entries = [
        importing.entry(file, row["arm"], read[file])
        for file, (row, _) in sorted(
            documents.items(), key=lambda item: ARMS.index(item[1][0]["arm"])
        )
    ]
    planned = importing.plan(
        entries,
        name="cni-2024-01",
        overlays=dict.fromkeys(ARMS, Overlay.NONE),
        baseline="iptables",
    )
    results = [
        importing.result(
            trial,
            read[one.file],
            file=one.file,
            raw={},
            mtu_bytes=int(documents[one.file][0]["mtu_bytes"]),
        )
        for one, trial in planned.trials
    ]
    return planned.campaign, results


def store(path: Path) -> Store:
    """The campaign in a directory."""
    campaign, results = imported()
    made = Store.create(path, campaign)
    made.add_facts([LINK])
    for result in results:
        made.append(result)
    return made


def _amounts(row: dict[str, str], side: str) -> dict[str, Any]:
    return {
        "start": 0,
        "end": float(row[f"{side}_s"]),
        "seconds": float(row[f"{side}_s"]),
        "bytes": int(row[f"{side}_bytes"]),
        "bits_per_second": float(row[f"{side}_bits_per_s"]),
        "sender": True,
    }


def _part(total: dict[str, Any], number: int, streams: int) -> dict[str, Any]:
    """A stream's part: how the total is spread is not known, so it is spread evenly."""
    part = dict(total, socket=5 + number, bits_per_second=total["bits_per_second"] / streams)
    for key in ("bytes", "retransmits"):
        if key in total:
            part[key] = total[key] // streams + (total[key] % streams if number == 0 else 0)
    return part
