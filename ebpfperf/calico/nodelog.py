"""The calico-node log: which Felix runs, what it runs, when it restarted.

Format (all releases): ``YYYY-MM-DD HH:MM:SS.mmm [LEVEL][PID] felix/<file>.go <line>: <message>
key=value …``; the component before the slash names the sub-process. Source: libcalico-go
lib/logutils (Formatter) and felix/daemon/daemon.go, v3.16.1 to v3.32.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

_LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) \[(?P<level>[A-Z]+)\]\[(?P<pid>\d+)\] "
    r"(?:(?P<component>[\w-]+)/)?(?P<file>[\w.-]+\.go) (?P<line>\d+): (?P<message>.*)"
)
# Documentation spells it "data plane" today; every release logs "dataplane" and two spaces.
_UNSUPPORTED = re.compile(
    r"BPF data ?plane mode enabled but not supported by the kernel\.\s+Disabling BPF mode"
)
_ACTIVE = re.compile(r"BPF enabled, starting BPF endpoint manager and map manager\.")
_RESTART = re.compile(
    r"Config change requires restart|change DOES require Felix to restart"
    r"|Exiting for config change|encapsulation changed, need to restart"
    r"|Exiting for encapsulation change"
)


class LoggedDataplane(StrEnum):
    """What the newest Felix said about its dataplane."""

    EBPF = "ebpf"
    UNSUPPORTED = "unsupported"
    UNSAID = "unsaid"


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line. ``component`` is ``felix``, ``confd``, …; empty where the line names none."""

    time: datetime
    level: str
    pid: int
    component: str
    file: str
    line: int
    message: str


@dataclass(frozen=True, slots=True)
class FelixState:
    """What a stretch of log says of Felix.

    Attributes
    ----------
    pid
        Process of the newest Felix line; None where Felix said nothing.
    dataplane
        From the lines of that process alone: logs rotate, so *unsaid* is not *standard*.
    leaving
        The line by which that process announced its restart; empty where it did not.
    """

    pid: int | None
    dataplane: LoggedDataplane
    leaving: str


def parse(text: str) -> Iterator[LogLine]:
    """The lines that have Calico's format, in order; others (BIRD, stack traces) are left out."""
    for raw in text.splitlines():
        match = _LINE.match(raw)
        if match is None:
            continue
        yield LogLine(
            datetime.strptime(match["time"], "%Y-%m-%d %H:%M:%S.%f"),
            match["level"],
            int(match["pid"]),
            match["component"] or "",
            match["file"],
            int(match["line"]),
            match["message"],
        )


def felix_state(lines: Iterable[LogLine]) -> FelixState:
    """What the lines say of Felix; the newest process is the one that spoke last."""
    felix = [line for line in lines if line.component == "felix"]
    if not felix:
        return FelixState(None, LoggedDataplane.UNSAID, "")
    pid = felix[-1].pid
    dataplane = LoggedDataplane.UNSAID
    leaving = ""
    for line in felix:
        if line.pid != pid:
            continue
        if _RESTART.search(line.message):
            leaving = line.message
        if _UNSUPPORTED.search(line.message):
            dataplane = LoggedDataplane.UNSUPPORTED
        elif _ACTIVE.search(line.message):
            dataplane = LoggedDataplane.EBPF
    return FelixState(pid, dataplane, leaving)
