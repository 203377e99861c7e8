"""The recent changes of an object store: what watches are fed from."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from ebpfperf.lab.status import Gone

Object = dict[str, Any]

KEPT = 4096


@dataclass(frozen=True, slots=True)
class Event:
    """One change: ``kind`` is ADDED, MODIFIED or DELETED; ``old`` is None for ADDED.

    The objects are the store's own: read them, copy before changing.
    """

    version: int
    kind: str
    resource: str
    object: Object
    old: Object | None


class History:
    """The newest ``kept`` events, in order. Its user holds the lock."""

    def __init__(self, kept: int = KEPT) -> None:
        self._events: deque[Event] = deque(maxlen=kept)
        # Every event newer than this is still here.
        self._forgotten = 1

    def note(self, event: Event) -> None:
        """Add the newest event."""
        if len(self._events) == self._events.maxlen:
            self._forgotten = self._events[0].version
        self._events.append(event)

    def after(self, since: int, newest: int) -> list[Event]:
        """The events after ``since``, oldest first.

        Raises
        ------
        Gone
            Some of them are forgotten, or ``since`` is past ``newest``: from another store.
        """
        if not self._forgotten <= since <= newest:
            raise Gone(f"too old resource version: {since} ({self._forgotten})")
        found: list[Event] = []
        for event in reversed(self._events):
            if event.version <= since:
                break
            found.append(event)
        return found[::-1]
