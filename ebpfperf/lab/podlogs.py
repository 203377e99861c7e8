"""``pods/log``: what a calico-node pod's Felix has said, as ``kubectl logs`` shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from ebpfperf.lab.requests import Response, Stream
from ebpfperf.lab.status import BadRequest

Logs = Callable[[str], Sequence[str]]
"""Node name → the lines its Felix keeps, oldest first."""

FOLLOW_S = 3600.0
POLL_S = 0.2


def answer(
    read: Callable[[], Sequence[str]],
    *,
    tail_lines: int | None,
    since: float | None,
    timestamps: bool,
    stopped: Callable[[], bool] | None,
) -> Response | Stream:
    """The log as it is; where ``stopped`` is given, and what comes until then."""
    lines = read()
    chosen = select(lines, tail_lines=tail_lines, since=since, timestamps=timestamps)
    if stopped is None:
        return Response(_text(chosen), media="text/plain")

    def pieces() -> Iterator[bytes]:
        yield _text(chosen)
        for fresh in follow(read, lines, stopped=stopped):
            yield _text(select(fresh, timestamps=timestamps))

    return Stream(pieces(), media="text/plain")


def select(
    lines: Sequence[str],
    *,
    tail_lines: int | None = None,
    since: float | None = None,
    timestamps: bool = False,
) -> list[str]:
    """The lines asked for.

    ``since`` is in seconds since the epoch; a line without a time of its own belongs to the line
    before it.
    """
    kept = []
    shown, stamp = since is None, ""
    for line in lines:
        moment = line_time(line)
        if moment is not None:
            shown = since is None or moment >= since
            stamp = f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        if shown:
            kept.append(f"{stamp} {line}" if timestamps and stamp else line)
    return kept if tail_lines is None else kept[max(0, len(kept) - tail_lines) :]


def line_time(line: str) -> float | None:
    """Seconds since the epoch of ``2026-01-31 09:05:33.123 [INFO][42] …``, None without a time."""
    try:
        return datetime.fromisoformat(line[:23]).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def node_of(pod: dict[str, Any], container: str) -> str | None:
    """The node whose Felix writes this pod's log; None for a pod that says nothing.

    Raises
    ------
    BadRequest
        The pod has no such container, or has not been started.
    """
    name = pod["metadata"]["name"]
    containers = [entry["name"] for entry in pod["spec"].get("containers", ())]
    if container and container not in containers:
        raise BadRequest(f"container {container} is not valid for pod {name}")
    node: str | None = pod["spec"].get("nodeName")
    if not node:
        raise BadRequest(f"pod {name} does not have a host assigned")
    labels = pod["metadata"].get("labels") or {}
    return node if labels.get("k8s-app") == "calico-node" else None


def follow(
    read: Callable[[], Sequence[str]], seen: Sequence[str], *, stopped: Callable[[], bool]
) -> Iterator[list[str]]:
    """Batches of lines that come after ``seen``, empty ones in between; ends when stopped.

    The kept lines are bounded, so the last line seen may have gone: then all are new.
    """
    deadline = time.monotonic() + FOLLOW_S
    while not stopped() and time.monotonic() < deadline:
        now = list(read())
        fresh = now[overlap(seen, now) :]
        seen = now or seen
        yield fresh
        time.sleep(POLL_S)


def overlap(seen: Sequence[str], now: Sequence[str]) -> int:
    """How many lines at the head of ``now`` are the tail of ``seen``."""
    for length in range(min(len(seen), len(now)), 0, -1):
        if list(seen[-length:]) == list(now[:length]):
            return length
    return 0


def _text(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
