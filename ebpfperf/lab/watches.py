"""Watch streams: the store's events, seen through a selector."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from ebpfperf.lab.objects import Event, ObjectStore
from ebpfperf.lab.representations import Representation, event_line
from ebpfperf.lab.status import Gone

Object = dict[str, Any]

TIMEOUT_S = 1800.0
BOOKMARK_EVERY_S = 30.0
BEAT_S = 0.5


def watch(
    store: ObjectStore,
    form: Representation,
    *,
    fits: Callable[[Object], bool],
    since: int | None,
    timeout_s: float = TIMEOUT_S,
    bookmarks: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[bytes]:
    """Lines of a watch; ``b""`` at least every ``BEAT_S``, so that its sender can look around.

    Parameters
    ----------
    since
        Only what changed after this resourceVersion. None: first every object as ADDED.

    Raises
    ------
    Gone
        At the first step: ``since`` is too old. Later the stream says so itself, and ends.
    """
    resource = form.kind.plural
    deadline = time.monotonic() + timeout_s
    next_bookmark = time.monotonic() + BOOKMARK_EVERY_S
    headed = True
    if since is None:
        objects, seen = store.list_at(resource)
        for obj in filter(fits, objects):
            yield form.event("ADDED", obj, headed=headed)
            headed = False
    else:
        seen = since
        store.events(seen, 0.0)
    yield b""
    while not stopped():
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            events, seen = store.events(seen, min(BEAT_S, left))
        except Gone as error:
            yield event_line("ERROR", error.to_status())
            return
        for event in events:
            word = _word(event, fits) if event.resource == resource else ""
            if word:
                yield form.event(word, event.object, headed=headed)
                headed = False
        if bookmarks and time.monotonic() >= next_bookmark:
            next_bookmark += BOOKMARK_EVERY_S
            yield form.bookmark(seen)
        yield b""
    if bookmarks:
        yield form.bookmark(seen)


def _word(event: Event, fits: Callable[[Object], bool]) -> str:
    """The event as a watcher with this selector sees it; empty when it does not concern it."""
    was = event.old is not None and fits(event.old)
    now = event.kind != "DELETED" and fits(event.object)
    return {(False, True): "ADDED", (True, True): "MODIFIED", (True, False): "DELETED"}.get(
        (was, now), ""
    )
