"""A campaign of iperf3 documents that exist already: arms, flows and trials of them. Pure.

Imported trials stand for themselves: the documents of one block number were not made close in time,
so a campaign of them is ``INDEPENDENT``. A block number counts the documents of an arm and flow in
the order of time. What no document says stays unknown: the overlay, and where the ends were.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Any

from ebpfperf.errors import InputError
from ebpfperf.loads import iperf3
from ebpfperf.loads.iperf3_document import Outcome
from ebpfperf.loads.reasons import Reason, sentence
from ebpfperf.model import (
    Campaign,
    Design,
    Direction,
    Fact,
    Flow,
    Overlay,
    Path,
    Status,
    Treatment,
    Trial,
    TrialResult,
    trial_name,
)

SOURCE = "iperf3"
FROM = "imported_from"
"""Name of the fact that says which file a trial is."""

_LOADS = {"TCP": "tcp", "UDP": "udp"}
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_LONGEST = 40
_TCP_BLOCK_BYTES = 131_072  # iperf3's default write, which the load leaves to it
_UNREADABLE = Flow("unreadable", Path.POD_POD, "unknown", streams=0, duration_s=0, omit_s=0)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is remembered of a file until its trial is written.

    Attributes
    ----------
    flow
        The flow of its test, not yet named among the others; None where the file does not say.
    ends
        What ended the test if not the time: ``n1048576`` bytes or ``k50`` blocks.
    started_s
        Unix time of its start; None where the file does not say.
    cookie
        What client and server of one test have in common.
    """

    file: str
    arm: str
    flow: Flow | None
    ends: str = ""
    started_s: int | None = None
    cookie: str = ""
    server: bool = False

    @property
    def when(self) -> tuple[bool, int, str]:
        """By this key entries are in the order of time; those without a time come last."""
        return self.started_s is None, self.started_s or 0, self.file


@dataclass(frozen=True, slots=True)
class Plan:
    """The campaign, and which file is which of its trials.

    Attributes
    ----------
    doubles
        Files of tests that another file tells already, by the same cookie: the server's side, or a
        copy.
    """

    campaign: Campaign
    trials: tuple[tuple[Entry, Trial], ...]
    doubles: tuple[str, ...]


def arms(files: Sequence[str], patterns: Sequence[tuple[str, str]]) -> list[str]:
    """The arm of each file: the first pattern that matches its path, or its folder's name.

    Raises
    ------
    InputError
        A file has no arm, or two folders would become one.
    """
    if patterns:
        return [_matched(file, patterns) for file in files]
    found, folders = [], dict[str, PurePath]()
    for file in files:
        folder = PurePath(file).parent
        arm = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")[:_LONGEST].strip("-")
        arm = arm or "files"
        if folders.setdefault(arm, folder) != folder:
            raise InputError(
                f"The folders {folders[arm]} and {folder} would both be the arm {arm}.",
                "Name the arms: --arm NAME=GLOB, once for each.",
                file=file,
            )
        found.append(arm)
    return found


def _matched(file: str, patterns: Sequence[tuple[str, str]]) -> str:
    for arm, pattern in patterns:
        if fnmatchcase(file, pattern) or fnmatchcase(file, f"*/{pattern}"):
            return arm
    raise InputError(
        f"{file} belongs to no arm.",
        "Give an --arm NAME=GLOB that matches its path, or leave the file out.",
        file=file,
    )


def entry(file: str, arm: str, outcome: Outcome) -> Entry:
    """What is remembered of a file that was read to ``outcome``."""
    flow, ends = None, ""
    if outcome.protocol in _LOADS and outcome.streams:
        load = _LOADS[outcome.protocol]
        direction = Direction.REVERSE if outcome.reverse else Direction.FORWARD
        pace = (outcome.target_bits_per_s or 0) * outcome.streams
        usual = load == "tcp" and outcome.block_bytes == _TCP_BLOCK_BYTES
        flow = Flow(
            name="",
            path=Path.POD_POD,
            load=load,
            direction=Direction.BIDIR if outcome.bidir else direction,
            streams=outcome.streams,
            duration_s=int(outcome.duration_s),
            omit_s=int(outcome.omit_s),
            message_bytes=None if usual else outcome.block_bytes,
            rate_bits_per_s=float(pace) or None,
            transport=load,
        )
        ends = f"n{outcome.bytes_asked}" if outcome.bytes_asked else ""
        ends = ends or (f"k{outcome.blocks_asked}" if outcome.blocks_asked else "")
    return Entry(
        file=file,
        arm=arm,
        flow=flow,
        ends=ends,
        started_s=outcome.started_s,
        cookie=outcome.cookie,
        server=outcome.server,
    )


def plan(
    entries: Iterable[Entry],
    *,
    name: str,
    overlays: Mapping[str, Overlay] | None = None,
    baseline: str | None = None,
    margin_pct: float = 5.0,
    path: Path = Path.POD_POD,
) -> Plan:
    """The campaign of the files, and their trials in the order of time.

    Raises
    ------
    InputError
        A name cannot be one, an arm that is named does not exist, or there is no file.
    """
    kept, doubles = _once(sorted(entries, key=lambda one: one.when))
    overlays = overlays or {}
    found = list(dict.fromkeys(one.arm for one in kept))
    _check(name, found, [*overlays, *([baseline] if baseline else [])])
    treatments = {arm: Treatment(arm, overlays.get(arm)) for arm in found}
    flows = _flows(kept, path)
    counts: dict[str, int] = {}
    trials = []
    for order, (one, flow) in enumerate(zip(kept, flows, strict=True)):
        what = trial_name(treatments[one.arm], flow)
        block = counts[what] = counts.get(what, -1) + 1
        trial = Trial(f"b{block:03d}-{what}", block, order, treatments[one.arm], flow)
        trials.append((one, trial))
    campaign = Campaign(
        name=name,
        seed=0,
        blocks=1 + max(counts.values()),
        baseline=baseline or found[0],
        treatments=tuple(treatments.values()),
        flows=tuple(dict.fromkeys(flows)),
        margin_pct=margin_pct,
        description="Imported from iperf3 documents.",
        design=Design.INDEPENDENT,
        source=SOURCE,
    )
    return Plan(campaign, tuple(trials), doubles)


def result(
    trial: Trial,
    outcome: Outcome,
    *,
    file: str,
    raw: Mapping[str, bytes],
    mtu_bytes: int | None = None,
) -> TrialResult:
    """The trial of one file; failed, with the reason, where the document may not be used."""
    reason, detail = outcome.reason, outcome.detail
    if reason is None and outcome.protocol not in _LOADS:
        reason, detail = Reason.MISMATCH, f"protocol {outcome.protocol} is of no load"
    ways = [way for way in (outcome.forward, outcome.backward) if way is not None]
    said = {
        "iperf3_version": outcome.version,
        "kernel": _kernel(outcome),
        "printed_by": "server" if outcome.server else "",
        FROM: file,
    }
    metrics = {} if reason else iperf3.metrics(outcome)
    if mtu_bytes is not None and not reason:
        metrics["mtu_bytes"] = float(mtu_bytes)
    return TrialResult(
        trial=trial,
        status=Status.FAILED if reason else Status.OK,
        reason=sentence(reason, detail) if reason else "",
        start_utc=_utc(outcome.started_s),
        duration_s=outcome.omit_s + max((way.seconds for way in ways), default=0.0),
        overhead_s=0.0,
        metrics=metrics,
        samples=() if reason else tuple(iperf3.samples(outcome)),
        facts=tuple(Fact("", fact, value) for fact, value in said.items() if value),
        raw=raw,
    )


def raw_files(document: bytes, *, stderr: str, status: int) -> dict[str, bytes]:
    """What is kept beside the record, by the names that a trial of the kit's own has them."""
    files = {iperf3.DOCUMENT: document, iperf3.RUN: json.dumps({"status": status}).encode()}
    return {**files, iperf3.ERRORS: stderr.encode()} if stderr else files


def summary(file: str, outcome: Outcome) -> dict[str, Any]:
    """One file as ``ebpfperf import iperf3 --json`` prints it; ``docs/iperf3.md`` says the keys.

    The rates, loss and retransmits are of the first direction, ``reverse_…`` of the second one of
    a bidirectional test; of a failed test, what its document still says of them.
    """
    known = bool(outcome.protocol)
    ways = outcome.partial if outcome.reason else (outcome.forward, outcome.backward)
    first = ways[1] if outcome.reverse else ways[0]
    second = ways[1] if outcome.bidir else None
    return {
        "file": file,
        "status": "failed" if outcome.reason else "ok",
        "reason": "" if outcome.reason is None else outcome.reason.value,
        "version": outcome.version or None,
        "protocol": outcome.protocol or None,
        "reverse": outcome.reverse if known else None,
        "bidir": outcome.bidir if known else None,
        "streams": outcome.streams or None,
        "sent_bits_per_s": first and first.sent_bits_per_s,
        "received_bits_per_s": first and first.received_bits_per_s,
        "reverse_sent_bits_per_s": second and second.sent_bits_per_s,
        "reverse_received_bits_per_s": second and second.received_bits_per_s,
        "lost_pct": first and first.lost_pct,
        "retransmits": first and first.retransmits,
    }


def _once(entries: Sequence[Entry]) -> tuple[list[Entry], tuple[str, ...]]:
    """One entry a test, the client's where there is one; and the files that were left out."""
    best: dict[str, Entry] = {}
    for one in entries:
        if one.cookie and (one.cookie not in best or (best[one.cookie].server and not one.server)):
            best[one.cookie] = one
    kept = [one for one in entries if not one.cookie or best[one.cookie] is one]
    return kept, tuple(one.file for one in entries if one.cookie and best[one.cookie] is not one)


def _check(name: str, found: Sequence[str], named: Sequence[str]) -> None:
    if not found:
        raise InputError("There is no file to import.", "Name the files that iperf3 printed.")
    for one in (name, *found):
        if not _NAME.fullmatch(one):
            raise InputError(
                f"{one!r} cannot be a name.", "Use small letters, digits and hyphens.", name=one
            )
    for one in named:
        if one not in found:
            raise InputError(
                f"There is no arm {one}.", f"The arms are {', '.join(found)}.", arm=one
            )


def _flows(entries: Sequence[Entry], path: Path) -> list[Flow]:
    """The flow of each entry, named so that flows that differ have different names.

    A file that does not say its flow is of the only one there is, or of one named ``unreadable``.
    """
    kinds = dict.fromkeys((one.flow, one.ends) for one in entries if one.flow is not None)
    groups: dict[str, list[tuple[Flow, str]]] = {}
    for flow, ends in kinds:
        assert flow is not None
        groups.setdefault(_base(flow, ends), []).append((flow, ends))
    named: dict[tuple[Flow | None, str], Flow] = {}
    for base, alike in groups.items():
        for flow, ends in alike:
            name = "-".join([base, *_differences(flow, [other for other, _ in alike])])
            named[flow, ends] = replace(flow, name=name, path=path)
    only = next(iter(named.values())) if len(named) == 1 else replace(_UNREADABLE, path=path)
    return [named.get((one.flow, one.ends), only) for one in entries]


def _base(flow: Flow, ends: str) -> str:
    parts = [flow.load]
    if flow.streams > 1:
        parts.append(str(flow.streams))
    if flow.direction is not Direction.FORWARD:
        parts.append(str(flow.direction))
    return "-".join([*parts, *([ends] if ends else [])])


def _differences(flow: Flow, alike: Sequence[Flow]) -> list[str]:
    """What tells ``flow`` from those that go by the same name."""
    told = []
    if len({other.rate_bits_per_s for other in alike}) > 1:
        rate = flow.rate_bits_per_s
        told.append("unpaced" if rate is None else f"{rate:.0f}bps")
    if len({other.duration_s for other in alike}) > 1:
        told.append(f"{flow.duration_s}s")
    if len({other.omit_s for other in alike}) > 1:
        told.append(f"omit{flow.omit_s}s")
    if len({other.message_bytes for other in alike}) > 1:
        told.append("own" if flow.message_bytes is None else f"{flow.message_bytes}b")
    return told


def _kernel(outcome: Outcome) -> str:
    """Kernel release of the end that printed, from ``Linux HOST RELEASE …``; empty if not said."""
    start = outcome.document.get("start")
    words = str(start.get("system_info", "")).split() if isinstance(start, Mapping) else []
    return words[2] if len(words) > 2 and words[0] == "Linux" else ""


def _utc(seconds: int | None) -> str:
    try:
        when = datetime.fromtimestamp(seconds, UTC) if seconds is not None else None
    except (ValueError, OverflowError, OSError):
        when = None
    return when.isoformat(timespec="seconds").replace("+00:00", "Z") if when else ""
