"""Campaigns and trial results as JSON, and back. The record is the truth; frames come from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ebpfperf.model import (
    Campaign,
    ClusterRef,
    Dataplane,
    Design,
    Direction,
    Fact,
    Flow,
    HistogramBin,
    Overlay,
    Path,
    Quiet,
    Role,
    Sample,
    Scope,
    Status,
    Treatment,
    Trial,
    TrialResult,
)

Record = dict[str, Any]


def dump(document: Mapping[str, Any]) -> bytes:
    """Canonical JSON: sorted keys, indented, a newline at the end; NaN is refused."""
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def dump_result(result: TrialResult) -> bytes:
    """A result's record as canonical JSON in which every row of a table is one line.

    A trial has hundreds of rows: spread over a line a value they would be three times as large, and
    nobody could read them.
    """
    parts = []
    for key, value in sorted(result_record(result).items()):
        if value and isinstance(value, list) and isinstance(value[0], list):
            rows = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in value)
            text = "[\n  " + ",\n  ".join(rows) + "\n ]"
        else:
            text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
        parts.append(f" {json.dumps(key)}: {text}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def campaign_record(campaign: Campaign) -> Record:
    """The campaign as JSON values."""
    record: Record = json_values(asdict(campaign))
    return record


def campaign_from(record: Mapping[str, Any]) -> Campaign:
    """The campaign of a record; KeyError, TypeError or ValueError when it is none."""
    fields = dict(record)
    fields["treatments"] = tuple(_treatment(t) for t in fields["treatments"])
    fields["flows"] = tuple(_flow(f) for f in fields["flows"])
    fields["probes"] = tuple(fields["probes"])
    cluster = dict(fields["cluster"])
    cluster["ippools"] = tuple(cluster["ippools"])
    fields["cluster"] = ClusterRef(**cluster)
    # Absent before schema 3.
    if fields.get("quiet") is not None:
        fields["quiet"] = Quiet(**fields["quiet"])
    fields["design"] = Design(fields.get("design", Design.BLOCKS))
    return Campaign(**fields)


def result_record(result: TrialResult) -> Record:
    """The result as JSON values, without its raw files."""
    record: Record = json_values(asdict(result))
    del record["raw"]
    # Rows as lists: there are hundreds.
    record["facts"] = [list(asdict(row).values()) for row in result.facts]
    record["samples"] = [list(asdict(row).values()) for row in result.samples]
    record["histograms"] = [list(asdict(row).values()) for row in result.histograms]
    return record


def result_from(record: Mapping[str, Any]) -> TrialResult:
    """The result of a record, without raw files."""
    fields = dict(record)
    trial = dict(fields["trial"])
    trial["treatment"] = _treatment(trial["treatment"])
    trial["flow"] = _flow(trial["flow"])
    trial["probes"] = tuple(trial["probes"])
    trial["role"] = _role(trial)
    fields["trial"] = Trial(**trial)
    fields["status"] = Status(fields["status"])
    fields["samples"] = tuple(Sample(*row) for row in fields["samples"])
    fields["histograms"] = tuple(HistogramBin(*row) for row in fields["histograms"])
    # Before schema 3 a fact was an object.
    fields["facts"] = tuple(
        Fact(**fact) if isinstance(fact, dict) else Fact(*fact) for fact in fields["facts"]
    )
    fields["warnings"] = tuple(fields["warnings"])
    return TrialResult(**fields)


def json_values(value: Any) -> Any:
    """``value`` as JSON would give it back: lists for tuples, text for enumerations."""
    # bytes (raw files) are kept as files, not in the record.
    return json.loads(json.dumps(value, default=lambda raw: None))


def rows(campaign: str, result: TrialResult) -> dict[str, list[Record]]:
    """Frame name → the rows that one result adds to it."""
    trial, treatment, flow = result.trial, result.trial.treatment, result.trial.flow
    key = {"campaign": campaign, "trial_id": trial.trial_id}
    head = {
        **key,
        "block": trial.block,
        "order": trial.order,
        "treatment": treatment.name,
        "overlay": treatment.overlay_name,
        "scope": str(treatment.scope),
        "dataplane": None if treatment.dataplane is None else str(treatment.dataplane),
        "felix": json.dumps(dict(treatment.felix), sort_keys=True),
        "flow": flow.name,
        "path": str(flow.path),
        "load": flow.load,
        "transport": "udp" if flow.load == "udp" else flow.transport,
        "direction": str(flow.direction),
        "streams": flow.streams,
        "message_bytes": flow.message_bytes,
        "rate_bits_per_s": flow.rate_bits_per_s,
        "probes": ", ".join(trial.optional_probes),
        "role": str(trial.role),
        "status": str(result.status),
        "reason": result.reason,
        "start_utc": result.start_utc,
        "duration_s": result.duration_s,
        "overhead_s": result.overhead_s,
        "warnings": "; ".join(result.warnings),
    }
    return {
        "trials": [{**head, **result.metrics}],
        "samples": [{**key, **asdict(row)} for row in result.samples],
        "histograms": [{**key, **asdict(row)} for row in result.histograms],
        "facts": [{**key, **asdict(fact)} for fact in result.facts],
    }


def _role(trial: Mapping[str, Any]) -> Role:
    """Before schema 3 a trial did not say: bare ones are known by their id."""
    if "role" in trial:
        return Role(trial["role"])
    bare = f"{trial['treatment'].name}-{trial['flow'].name}-{Role.BARE}"
    same = trial["trial_id"] == f"b{trial['block']:03d}-{bare}" and not trial["probes"]
    return Role.BARE if same else Role.COMPARED


def _treatment(record: Mapping[str, Any]) -> Treatment:
    dataplane = record["dataplane"]
    return Treatment(
        name=record["name"],
        overlay=None if record["overlay"] is None else Overlay(record["overlay"]),
        scope=Scope(record["scope"]),
        felix=tuple((name, value) for name, value in record["felix"]),
        dataplane=None if dataplane is None else Dataplane(dataplane),
    )


def _flow(record: Mapping[str, Any]) -> Flow:
    fields = dict(record)
    return Flow(
        **{**fields, "path": Path(fields["path"]), "direction": Direction(fields["direction"])}
    )
