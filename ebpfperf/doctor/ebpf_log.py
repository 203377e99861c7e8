"""Checks of what Felix says of eBPF mode in its log. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ebpfperf.calico.nodelog import LoggedDataplane, LogLine, parse
from ebpfperf.diagnosis import Outcome, Shown, Verdict
from ebpfperf.doctor.case import UNREADABLE, Case, Missing, not_applicable, unknown
from ebpfperf.doctor.ebpf_machine import newer_kernel
from ebpfperf.doctor.node_state import Mode
from ebpfperf.evidence_sources import COUNTS, LOG
from ebpfperf.kube_objects import pod_ready, pod_state

RECENT = timedelta(minutes=5)
# The source whose lines begin with the node's time; clocks that differ by less than a command may
# take are alike.
_DATED, _ALIKE = "rules", timedelta(minutes=1)
_SAID = re.compile(
    r"BPF enabled, starting BPF endpoint manager and map manager\."
    r"|BPF data ?plane mode enabled but not supported by the kernel"
)
_WHY = re.compile(r'error="([^"]*)"|error=(\S+)')
# felix/dataplane/linux/bpf_ep_mgr.go, v3.16 to v3.32: the fields name and iface hold the device.
_DIRTY = "Failed to apply policy to endpoint, leaving it dirty"
_DEVICE = re.compile(r'\b(?:name|iface|ifaceName)="?([^"\s]+)"?')
_AGAIN = re.compile(r"Adding workload interface to .* allow list")
_REFUSED = re.compile(r"libbpf: .*failed to load|END PROG LOAD LOG")
_NAMED, _UNNAMED = 5, "a device"


def active(case: Case, node: str) -> Iterator[Outcome]:
    """Whether Felix says that it forwards by eBPF, or its programs do where it is silent."""
    state = case.state(node)
    try:
        logged = case.logged(node)
    except Missing:
        logged = None
    if logged is not None and logged.dataplane is LoggedDataplane.UNSUPPORTED:
        yield _fallback(case, node)
        return
    if logged is not None and logged.leaving:
        yield unknown(
            f"Felix has just announced its restart: {logged.leaving[:120]}.",
            case.show(LOG, node, logged.leaving),
            remedy="Ask again in a minute.",
        )
        return
    shown = tuple(
        _said(case, node) if source == LOG else case.show(source, node if source == COUNTS else "")
        for source in state.sources
    )
    what = f"{state.why[:1].upper()}{state.why[1:]}"
    match state.mode:
        case Mode.ON:
            yield Outcome(Verdict.OK, f"{what}.", shown)
        case Mode.UNKNOWN:
            yield unknown(f"Whether the node forwards by eBPF is not known: {state.why}.", *shown)
        case _:
            yield Outcome(
                Verdict.FAIL,
                f"eBPF mode is asked for, but the node does not forward by it: {state.why}.",
                shown,
                remedy="See that calico-node runs there, and what its log says at its start.",
            )


def dirty(case: Case, node: str) -> Iterator[Outcome]:
    """Whether Felix failed to put programs on a device, and which."""
    if case.state(node).mode is Mode.FALLBACK:
        why = f"Felix does not forward by eBPF there: {case.state(node).why}."
        yield not_applicable(why, _said(case, node))
        return
    item = case.item(LOG, node)
    events, newest, begun = _events(item.text)
    taken = _utc(item.taken_utc)
    # Times of the log are the node's: when the log was read by its clock, which may be another,
    # and never before its newest line.
    taken = taken and taken + _ahead(case, node)
    now = max(filter(None, (taken, newest)), default=None)
    gone = _gone(case, node, [event.device for event in events])
    events = [_ended(e, "the device is gone") if e.device in gone else e for e in events]
    past = [event for event in events if event.over and not _recent(event, now)]
    found = [_outcome(case, node, event, now) for event in events if event not in past]
    if not found and (outcome := _not_ready(case, node)):
        found = [outcome]
    yield from found[:_NAMED]
    if len(found) > _NAMED:
        worst = min((each.verdict for each in found[_NAMED:]), key=list(Verdict).index)
        what = f"{len(found) - _NAMED} more devices had no programs put on them."
        yield Outcome(worst, what, (case.show(LOG, node, _DIRTY),))
    if not found:
        if begun is None:
            yield unknown("The log has no line of Felix's.", case.show(LOG, node))
            return
        what = f"Felix logged no device without programs since {begun:%Y-%m-%d %H:%M:%S}"
        if past:
            what = f"{len(past)} devices without programs that Felix logged are gone or have them"
        shown = case.show(LOG, node, past[-1].line if past else f"no line with: {_DIRTY}")
        yield Outcome(Verdict.OK, f"{what}.", (shown,))


# ---------------------------------------------------------------------------------- active


def _said(case: Case, node: str) -> Shown:
    """The line of the log that says it, the newest."""
    try:
        lines = [line for line in case.text(LOG, node).splitlines() if _SAID.search(line)]
    except Missing:
        lines = []
    return case.show(LOG, node, lines[-1:] or "")


def _fallback(case: Case, node: str) -> Outcome:
    shown = [_said(case, node), case.show("kernel", node)]
    why = _WHY.search(shown[0].excerpt)
    said = f": {why[1] or why[2]}" if why else ""
    try:
        kernel = f" {case.text('kernel', node).split()[0]}"
    except (Missing, IndexError):
        kernel = ""
    return Outcome(
        Verdict.FAIL,
        f"Felix logged that kernel{kernel} does not support eBPF mode{said}; the node forwards by "
        "the standard dataplane, and services need kube-proxy.",
        tuple(shown),
        remedy=f"{newer_kernel(case, node)} Until then set bpfEnabled to false and run kube-proxy.",
        corrected="Newer pages write “data plane”; every release logs “BPF dataplane mode enabled "
        "but not supported by the kernel.  Disabling BPF mode.”, with two spaces.",
    )


# ----------------------------------------------------------------------------------- dirty


@dataclass(frozen=True, slots=True)
class _Event:
    """The last failure of a device (empty: of a program, no device named).

    Attributes
    ----------
    over
        Why it is over, as half a sentence; empty where nothing says so.
    """

    device: str
    at: datetime
    line: str
    over: str = ""


def _events(text: str) -> tuple[list[_Event], datetime | None, datetime | None]:
    """The failures that the log tells, and the times of Felix's newest and first line.

    A line of libbpf's has no time of its own: it is that of the line before.
    """
    failed: dict[str, _Event] = {}
    refused: _Event | None = None
    pids: dict[str, int] = {}
    at, first, pid = None, None, None
    for raw in text.splitlines():
        line = next(parse(raw), None)
        if line is not None and line.component == "felix":
            at, pid = line.time, line.pid
            first = first or at
            _follow(line, raw, failed, pids)
        if at is not None and _REFUSED.search(raw):
            refused = _Event("", at, raw.strip())
    events = [
        _ended(event, "Felix has restarted since") if pids[event.device] != pid else event
        for event in failed.values()
    ]
    if refused is not None and not events:
        events = [refused]
    return events, at, first


def _follow(line: LogLine, raw: str, failed: dict[str, _Event], pids: dict[str, int]) -> None:
    match = _DEVICE.search(line.message)
    name = match[1] if match else _UNNAMED
    if _DIRTY in line.message:
        failed[name], pids[name] = _Event(name, line.time, raw), line.pid
    elif name in failed and _AGAIN.search(line.message):
        failed[name] = _ended(failed[name], f"it got them at {line.time:%H:%M:%S}")


def _ended(event: _Event, why: str) -> _Event:
    return _Event(event.device, event.at, event.line, event.over or why)


def _outcome(case: Case, node: str, event: _Event, now: datetime | None) -> Outcome:
    recent = _recent(event, now)
    verdict = Verdict.FAIL if recent and not event.over else Verdict.WARN
    error = _WHY.search(event.line)
    why = f" ({error[1] or error[2]})" if error else ""
    when = f"at {event.at:%Y-%m-%d %H:%M:%S}"
    what = f"Felix could not put its programs on {event.device} {when}{why}"
    if not event.device:
        what = f"The kernel refused a program of Felix's {when}"
    tail = f"; {event.over}" if event.over else "" if recent else "; not since"
    return Outcome(
        verdict,
        f"{what}{tail}.",
        (case.show(LOG, node, event.line),),
        subject="" if event.device == _UNNAMED else event.device,
        remedy="Read the verifier's lines in the log above END PROG LOAD LOG; try another kernel "
        "or release, and report both to Calico.",
    )


def _recent(event: _Event, now: datetime | None) -> bool:
    return now is None or now - event.at <= RECENT


def _gone(case: Case, node: str, devices: list[str]) -> set[str]:
    """Those of these devices that the node has no more, as far as that is known."""
    try:
        found = {link.name for link in case.links(node)}
    except (Missing, *UNREADABLE):
        return set()
    return {device for device in devices if device not in ("", _UNNAMED, *found)}


def _not_ready(case: Case, node: str) -> Outcome | None:
    """A calico-node pod that is not Ready, where the log does not say why."""
    try:
        pod = case.calico_pod(node)
    except Missing:
        return None
    if pod is None or pod_ready(pod):
        return None
    return Outcome(
        Verdict.WARN,
        f"calico-node is not Ready: {pod_state(pod)}.",
        (case.show("pods", "", f"{pod['metadata'].get('name')}: {pod_state(pod)}"),),
        remedy="kubectl describe the pod: its readiness probe says what is not.",
    )


def _ahead(case: Case, node: str) -> timedelta:
    """How far the node's clock is ahead of the one that wrote down when it was asked."""
    try:
        item = case.item(_DATED, node)
        told = datetime.fromtimestamp(float(item.text.split()[0]), UTC).replace(tzinfo=None)
    except (Missing, *UNREADABLE):
        return timedelta()
    taken = _utc(item.taken_utc)
    ahead = timedelta() if taken is None else told - taken
    return ahead if abs(ahead) > _ALIKE else timedelta()


def _utc(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return None
