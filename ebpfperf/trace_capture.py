"""Reads the kernel's trace pipe on nodes for some seconds: where the debug log comes out.

The pipe is consumed by reading, and it is the kernel's, not the node's or Calico's: whoever reads
it takes the lines from every other reader. So there is one reader a kernel, none where another
process reads already, and nodes that share a kernel (one boot_id) share what was read. Nothing is
changed on the cluster: bpfLogLevel stays as it is. What the buffer held already comes out first; a
line of our own in between says where reading began.
"""

from __future__ import annotations

import gzip
import re
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from ebpfperf.calico.felixenv import effective, environment
from ebpfperf.errors import NodeError
from ebpfperf.remote import Node
from ebpfperf.units import UNKNOWN

LIMIT_BYTES = 64 << 20
LEVELS = ("Off", "Info", "Debug")
COST = (
    "At Debug every packet is logged at every hook it passes, several lines each time, and "
    "forwarding is slower meanwhile: set bpfLogLevel back to Off when done."
)
_SLACK_S = 20.0
_BUSY, _ABSENT = 9, 8

_BOOT = ["cat", "/proc/sys/kernel/random/boot_id"]
# $1: seconds; $2: bytes; $3: what is written into the buffer first, so that what stood in it before
# can be told from what came since. The log goes into a file first: sent while it is read, each
# packet of the connection would itself be logged. cat writes at once what it reads, so that none of
# it is lost when its time is over.
READ = f"""\
for d in /sys/kernel/tracing /sys/kernel/debug/tracing; do
  [ -e "$d/trace_pipe" ] && break
done
[ -e "$d/trace_pipe" ] || exit {_ABSENT}
r=$(find /proc/[0-9]*/fd -maxdepth 1 -lname '*/trace_pipe' ! -lname '*/instances/*' 2>/dev/null)
if [ -n "$r" ]; then
  p=${{r#/proc/}}; p=${{p%%/*}}; echo "$p $(cat "/proc/$p/comm")" >&2; exit {_BUSY}
fi
t=$(mktemp) || exit 1
trap 'rm -f "$t"' EXIT
echo "$3" >"$d/trace_marker" 2>/dev/null
timeout "$1" cat "$d/trace_pipe" | head -c "$2" >"$t"
gzip -1 -c "$t"
"""


@dataclass(frozen=True, slots=True)
class Captured:
    """What came out of one kernel's pipe.

    Attributes
    ----------
    nodes
        Who shares that kernel; the first was read.
    log
        The raw log, gzipped; empty where there is none.
    raw_bytes
        Its size before compression.
    full
        Whether reading ended at its bound of bytes, before its time was over.
    mark
        Stands in the log where reading began; what is before it is older.
    problem
        Why there is no log, with what to do; empty where there is one.
    """

    nodes: tuple[str, ...]
    log: bytes
    raw_bytes: int
    full: bool
    mark: str
    problem: str = ""


def capture(
    nodes: Mapping[str, Node], *, for_s: float, limit_bytes: int = LIMIT_BYTES
) -> list[Captured]:
    """What the pipe of each kernel gave in ``for_s`` seconds, read at the same time.

    A node that cannot be read is a result with its problem.

    Parameters
    ----------
    limit_bytes
        Bound for each kernel.
    """
    if not nodes:
        return []
    with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
        boots = dict(zip(nodes, pool.map(_boot_id, nodes.values()), strict=True))
        groups: dict[str, list[str]] = {}
        for name, boot in boots.items():
            groups.setdefault(boot, []).append(name)
        readings = [
            pool.submit(_read, tuple(names), nodes[names[0]], for_s, limit_bytes)
            for names in groups.values()
        ]
        return [reading.result() for reading in readings]


def log_level(
    default: Mapping[str, Any], own: Mapping[str, Any], pod: Mapping[str, Any] | None
) -> str:
    """``Off``, ``Info`` or ``Debug``: what Felix logs on a node; UNKNOWN where it is not told.

    Parameters
    ----------
    default, own
        ``spec`` of FelixConfiguration ``default`` and ``node.<name>``.
    pod
        The node's calico-node pod, whose environment silently wins.
    """
    env = environment(pod, ["bpfLogLevel"]) if pod is not None else {}
    if env.get("bpfLogLevel", "") is None:
        return UNKNOWN
    text = str(effective(default, own, env).get("bpfLogLevel") or "Off")
    return next((level for level in LEVELS if level.lower() == text.lower()), UNKNOWN)


def level_sentences(levels: Mapping[str, str]) -> list[str]:
    """What the log levels of the nodes mean for a capture; node → level."""
    said = []
    off = [name for name, level in levels.items() if level == "Off"]
    if off:
        said.append(
            f"bpfLogLevel is Off on {_listed(off)}: Calico's programs there print nothing. Set it "
            "to Debug in FelixConfiguration, for as long as you look."
        )
    unknown = [name for name, level in levels.items() if level == UNKNOWN]
    if unknown:
        said.append(
            f"bpfLogLevel is UNKNOWN on {_listed(unknown)}: the environment of calico-node sets it "
            "from elsewhere, or to no level."
        )
    info = [name for name, level in levels.items() if level == "Info"]
    if info:
        said.append(
            f"bpfLogLevel is Info on {_listed(info)}: results only, without addresses or reasons."
        )
    if any(level in ("Info", "Debug") for level in levels.values()):
        said.append(COST)
    return said


def _boot_id(node: Node) -> str:
    try:
        return node.run(_BOOT, sudo=False).text.strip()
    except NodeError:
        return node.name


def _read(names: Sequence[str], node: Node, for_s: float, limit_bytes: int) -> Captured:
    mark = f"ebpfperf begins {uuid.uuid4().hex}"
    argv = ["sh", "-c", READ, "trace", f"{for_s:g}", str(limit_bytes), mark]
    nothing = Captured(tuple(names), b"", 0, full=False, mark=mark)
    try:
        done = node.run(
            argv, timeout_s=for_s + _SLACK_S, check=False, limit_bytes=limit_bytes + (1 << 20)
        )
    except NodeError as error:
        return _without(nothing, str(error))
    said = done.stderr.decode("utf-8", "replace").strip()
    if done.status == _BUSY:
        pid, _, comm = said.partition(" ")
        return _without(
            nothing,
            f"On {names[0]} process {pid} ({comm}) reads the trace pipe already, and two readers "
            "would each get only a part. End it, or read its output with trace parse.",
        )
    if done.status == _ABSENT:
        return _without(
            nothing,
            f"{names[0]} has no trace_pipe under /sys/kernel/tracing or /sys/kernel/debug/tracing. "
            "Mount tracefs there.",
        )
    if done.status != 0:
        return _without(
            nothing,
            f"{names[0]}: the trace pipe could not be read: {said or done.status}. "
            "Look whether the kernel's lockdown forbids tracing.",
        )
    raw_bytes = _size(done.stdout)
    full = raw_bytes >= limit_bytes
    return Captured(tuple(names), done.stdout, raw_bytes, full=full, mark=mark)


def _without(captured: Captured, problem: str) -> Captured:
    return replace(captured, problem=problem)


def _size(packed: bytes) -> int:
    """Bytes of a gzip stream unpacked, which its last four bytes say (RFC 1952, ISIZE)."""
    return int.from_bytes(packed[-4:], "little") if len(packed) >= 18 else 0


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def unpacked(captured: Captured) -> bytes:
    """The raw log."""
    return gzip.decompress(captured.log) if captured.log else b""


def older_bytes(raw: bytes, mark: str) -> int | None:
    """How much of a raw log is from before reading began; None where the mark is not in it."""
    place = raw.find(mark.encode())
    end = raw.find(b"\n", place)
    return None if place < 0 or end < 0 else end + 1


def recent(captured: Captured) -> bytes:
    """The raw log from where reading began; all of it where that is not marked."""
    raw = unpacked(captured)
    return raw[older_bytes(raw, captured.mark) or 0 :]


def file_part(names: Sequence[str]) -> str:
    """What a file of these nodes' log is called by: their names, without what a path forbids."""
    return re.sub(r"[^\w.-]", "_", "+".join(names))
