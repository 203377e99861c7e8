"""One line of the debug log by the rules, slowly: what every other reader here must agree with.

Kernel's part (kernel/trace/trace_output.c): ``TASK-PID (TGID) [CPU] FLAGS TIMESTAMP: FUNCTION:``.
TASK is up to 15 characters, right-aligned to 16; the column TGID is there with the option
record-tgid, FLAGS unless irq-info is off: 4 characters, 5 from Linux 5.12 on. FUNCTION is ``0`` or
``0x00000001`` before Linux 5.9, ``bpf_trace_printk`` since.

Calico's part (felix bpf-gpl ``log.h``): the interface's name padded with ``-`` to 8 characters
(cut there; up to v3.24) or 15 (v3.25 and later), then ``-I``, ``-E`` or ``-X``, ``: `` and the
text; ``IPv6 `` before it in programs for IPv6. The connect-time load balancer and the conntrack
cleaner have tags of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from ebpfperf.tracelog import codes

# A comm may hold spaces, brackets and dashes; it ends at the last "-" before the number, and
# "CPU", time and function must follow, so that the shortest that fits is the only one.
PREFIX = re.compile(
    r" *(?P<task>[^\n]{1,16}?)-(?P<pid>\d{1,10}) +(?:\( *(?:\d+|-+)\) +)?"
    r"\[(?P<cpu>\d{3,4})\] +(?:(?P<flags>[^\s:]{4,5}) +)?(?P<time>\d{1,10}\.\d{6}): "
    r"(?P<function>[^\s:]+): ?",
    re.ASCII,
)
TAG = re.compile(
    r"(?P<six>IPv6 )?(?:(?P<name>[!-.0-9;-~]{8}|[!-.0-9;-~]{15})-(?P<letter>[IEXC])"
    r"|(?P<own>CTLB------------|CTLB-V46--------|CT-CLEANER------)): "
)
LOST = re.compile(r"CPU:(?P<cpu>\d+) \[LOST (?:(?P<count>\d+) )?EVENTS\]", re.ASCII)
RESULT = re.compile(
    r"Final result=(?P<verdict>ALLOW|DENY) (?:\((?P<code>-?[0-9a-f]{1,8})\)|rc (?P<rc>-?\d{1,8}))"
    r"\. ?(?P<rest>.*)",
    re.ASCII | re.DOTALL,
)
TIMED = re.compile(r"Program execution time: (?P<duration>\d{1,18})ns", re.ASCII)
UNTAGGED_SIX = "IPv6 Final result="

DIRECTIONS = {"I": "ingress", "E": "egress", "X": "xdp", "C": "connect"}
CONNECT, CLEANER = "connect", "cleaner"

# Beginning of the text → kind, first that fits. Eight characters decide, no more: the fast reader
# looks at no more.
KINDS: tuple[tuple[str, str], ...] = (
    ("Final re", "result"),
    ("New pack", "start"),
    ("IP id=", "ip"),
    ("IP s=", "header"),
    ("IP ihl=", "header"),
    ("TCP; por", "header"),
    ("UDP; por", "header"),
    ("ICMP; ", "header"),
    ("CT: ", "conntrack"),
    ("CT-", "conntrack"),
    ("conntrac", "conntrack"),
    ("NAT: ", "nat"),
    ("About to", "asked"),
    ("Allowed ", "policy"),
    ("Denied b", "policy"),
    ("Implicit", "policy"),
    ("DENY due", "policy"),
    ("policy A", "policy"),
    ("policy D", "policy"),
    ("IPv6 fro", "refused"),
    ("FIB ", "route"),
    ("Got Linu", "redirect"),
    ("Redirect", "redirect"),
    ("Workload", "rpf"),
    ("Host RPF", "rpf"),
    ("vxlan ", "tunnel"),
    ("VXLAN", "tunnel"),
    ("SKB too ", "tunnel"),
    ("returned", "tunnel"),
    ("Traffic ", "mark"),
    ("Packet p", "bypass"),
)
TEXT_KINDS = (*dict.fromkeys(kind for _, kind in KINDS), "text")
OTHER_KINDS = ("other", "lost", "comment", "unparsed")
ALL_KINDS = (*TEXT_KINDS, *OTHER_KINDS)

_BANNERS = ("Running! Hang up with ^C!",)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log; what it does not say is None.

    ``code`` is a result's number as printed (``-1``, ``be``); ``lost`` counts events that the
    kernel's buffer lost just before, 0 where that is all the line says of it.
    """

    kind: str
    text: str
    task: str | None = None
    pid: int | None = None
    cpu: int | None = None
    flags: str | None = None
    timestamp_s: float | None = None
    function: str | None = None
    iface: str | None = None
    wide: bool | None = None
    iface_truncated: bool | None = None
    direction: str | None = None
    ip_version: int | None = None
    verdict: str | None = None
    code: str | None = None
    rest: str | None = None
    duration_ns: int | None = None
    lost: int | None = None


class Tag(NamedTuple):
    """What stands before the text: ``length`` characters of it."""

    length: int
    iface: str | None
    wide: bool | None
    truncated: bool | None
    direction: str | None
    ip_version: int | None


class Result(NamedTuple):
    """What a result's line says: see ``Line``."""

    verdict: str
    code: str
    rest: str
    duration_ns: int | None


UNTAGGED = Tag(0, None, None, None, None, None)


def kind_of(text: str) -> str:
    """The kind of a text of Calico's, by its first eight characters."""
    head = text[:8]
    return next((kind for start, kind in KINDS if head.startswith(start)), "text")


def tag_of(text: str) -> Tag:
    """The tag that a text begins with; ``UNTAGGED`` where it has none."""
    match = TAG.match(text)
    if match is None:
        if text.startswith(UNTAGGED_SIX):
            return UNTAGGED._replace(length=5, ip_version=6)
        if text.startswith("CALI-C: "):
            return UNTAGGED._replace(length=8, direction=CONNECT)
        return UNTAGGED
    version = 6 if match["six"] else 4
    if match["own"]:
        direction = CLEANER if match["own"].startswith("CT-") else CONNECT
        return Tag(match.end(), None, None, None, direction, None)
    name, wide = match["name"], len(match["name"]) == 15
    # Eight characters that are all used may be the beginning of a longer name.
    truncated = not wide and not name.endswith("-")
    direction = DIRECTIONS[match["letter"]]
    return Tag(match.end(), name.rstrip("-") or None, wide, truncated, direction, version)


def result_of(text: str) -> Result | None:
    """What a line says of a packet's end; None where it does not."""
    match = RESULT.match(text)
    if match is None:
        return None
    rest = match["rest"]
    timed = TIMED.match(rest)
    code = match["code"] or match["rc"]
    if match["verdict"] == "ALLOW" and not code.lstrip("-").isdigit():
        return None
    return Result(match["verdict"], code, rest, int(timed["duration"]) if timed else None)


def line_of(text: str) -> Line | None:
    """What one line says, without its newline; None for a blank one. Never raises."""
    text = text.removesuffix("\r")
    if not text.strip():
        return None
    prefix = PREFIX.match(text)
    if prefix is None:
        return _without_prefix(text)
    said = text[prefix.end() :]
    tag = tag_of(said)
    said = said[tag.length :]
    kind = kind_of(said)
    result = result_of(said) if kind == "result" else None
    if kind == "result" and result is None:
        kind = "text"
    if tag == UNTAGGED and result is None:
        kind = "other"
    return Line(
        kind=kind,
        text=said,
        task=prefix["task"].strip() or None,
        pid=int(prefix["pid"]),
        cpu=int(prefix["cpu"]),
        flags=prefix["flags"],
        timestamp_s=float(prefix["time"]),
        function=prefix["function"],
        iface=tag.iface,
        wide=tag.wide,
        iface_truncated=tag.truncated,
        direction=tag.direction,
        ip_version=tag.ip_version,
        verdict=result.verdict if result else None,
        code=result.code if result else None,
        rest=result.rest if result else None,
        duration_ns=result.duration_ns if result else None,
    )


def named(
    verdict: str,
    code: str,
    rest: str,
    *,
    wide: bool,
    release: tuple[int, int] | None,
    decimal: bool | None,
) -> tuple[int | None, str]:
    """(number, name) of a result's code; see ``codes``."""
    if verdict == "ALLOW":
        number = int(code)
        return number, codes.allow(number, rest)
    if not re.fullmatch("[0-9a-f]+", code):
        return None, "UNKNOWN: not a reason"
    return codes.deny(code, wide=wide, release=release, decimal=decimal)


def _without_prefix(text: str) -> Line:
    lost = LOST.match(text.strip())
    if lost is not None:
        return Line("lost", text, cpu=int(lost["cpu"]), lost=int(lost["count"] or 0))
    if text.startswith("#") or text.strip() in _BANNERS:
        return Line("comment", text)
    return Line("unparsed", text)
