"""What the observers on the nodes answered for one probe, read. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebpfperf.histograms import KERNEL
from ebpfperf.model import Fact, HistogramBin, Reading, Status
from ebpfperf.units import NS_PER_S


class Unwatched(ValueError):
    """No kernel watched the window, and why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one kernel saw.

    Attributes
    ----------
    node
        The node whose observer answered.
    ends
        The flow's ends on that kernel: ``client``, ``server`` or both.
    seen
        The node script's own answer.
    watched_ns
        For how long it was on; None: for the whole window.
    lost
        Events passed over because another program ran on that CPU; None where the kernel does not
        count them.
    """

    node: str
    ends: tuple[str, ...]
    seen: Mapping[str, Any]
    watched_ns: int | None
    lost: int | None

    @property
    def endpoint(self) -> str:
        """``client``, ``server`` or ``client+server``: whose kernel it was."""
        return "+".join(self.ends)


@dataclass(frozen=True, slots=True)
class Answers:
    """All kernels' answers for one probe, or why nothing was asked."""

    skipped: str
    of: tuple[Answer, ...]

    def facts(self, name: str) -> tuple[Fact, ...]:
        """For how long the probe was on, and how many events it lost."""
        if self.skipped:
            return (Fact("", f"{name}_skipped", self.skipped),)
        found = []
        lost = [answer.lost for answer in self.of if "program" in answer.seen]
        if lost:
            counted = sum(number for number in lost if number is not None)
            value = "UNKNOWN: the kernel does not count it" if None in lost else str(counted)
            found.append(Fact("", f"{name}_lost_events", value, "1"))
        found += [
            Fact(answer.node, f"{name}_watched_s", f"{answer.watched_ns / NS_PER_S:.3f}", "s")
            for answer in self.of
            if answer.watched_ns is not None
        ]
        return tuple(found)


def file(name: str) -> str:
    """Name of the file that holds a probe's answers."""
    return f"{name}.json"


def pack(skipped: str, found: Sequence[Mapping[str, Any]]) -> bytes:
    """The bytes that ``read`` reads: per kernel its node, the ends there and the answer."""
    return json.dumps({"skipped": skipped, "kernels": list(found)}).encode()


def read(name: str, raw: Mapping[str, bytes], *, windowed: bool = True) -> Answers:
    """The answers in recorded bytes; a kernel that did not watch the window is left out.

    Nothing seen is zero only of somebody who looked: where the traffic's beginning was not seen
    there, or no slice of time fell into its window, that is the reason for no answer.

    Parameters
    ----------
    windowed
        False for a probe that counts from when it is armed.

    Raises
    ------
    KeyError, ValueError, TypeError, AttributeError
        They are damaged, or no kernel watched; ``damaged`` makes a reading of it.
    """
    document = json.loads(raw[file(name)])
    found, unwatched = [], []
    for kernel in document["kernels"]:
        seen = kernel["answer"]
        if windowed and (why := _not_watched(seen)):
            unwatched.append(f"{kernel['node']}: {why}")
            continue
        program = seen.get("program", {})
        misses = program.get("recursion_misses")
        watched = seen.get("watched_ns")
        found.append(
            Answer(
                str(kernel["node"]),
                tuple(str(end) for end in kernel["ends"]),
                seen,
                None if watched is None else int(watched),
                None if misses is None else int(misses),
            )
        )
    if unwatched and not found:
        raise Unwatched("; ".join(unwatched))
    return Answers(str(document["skipped"]), tuple(found))


def _not_watched(seen: Mapping[str, Any]) -> str:
    """Why an answer says nothing of the window; empty where it does."""
    opened = seen.get("opened")
    if opened is False:
        return "the flow's traffic was not seen to begin"
    if opened and seen.get("watched_ns") == 0:
        return "the window was over before it was this probe's turn"
    return ""


DAMAGE = (KeyError, ValueError, TypeError, AttributeError, IndexError)


def damaged(error: Exception) -> Reading:
    """The reading of answers that cannot be read, or say nothing of the window."""
    if isinstance(error, Unwatched):
        return Reading(Status.FAILED, f"not_watched: {error}")
    return Reading(Status.FAILED, f"unreadable: The probe's answer is damaged. ({error!r})")


def bins(
    pairs: Iterable[Sequence[int]], *, probe: str, endpoint: str, metric: str
) -> tuple[HistogramBin, ...]:
    """Histogram rows of (bin number, count) pairs as counted in the kernel."""
    numbered = [(int(index), int(count)) for index, count in pairs]
    return KERNEL.bins(numbered, probe=probe, endpoint=endpoint, metric=metric)
