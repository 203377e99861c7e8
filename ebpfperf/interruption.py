"""Ctrl-C, politely: once to stop after the trial in hand, twice to stop at once.

In both cases the cluster is put back, and nothing but ``kill -9`` interrupts that.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Whether the reader asked to stop.

    Attributes
    ----------
    signal
        Number of the signal that asked last; 0 when none did.
    """

    def __init__(self, say: Callable[[str], None], *, key: str) -> None:
        self._say = say
        self._key = key
        self.signal = 0
        self._aborted = False

    def __call__(self) -> bool:
        """Whether to stop before the next trial."""
        return self.signal != 0

    @property
    def exit_status(self) -> int:
        """128 and the signal's number; 0 when none came."""
        return 128 + self.signal if self.signal else 0

    def _came(self, number: int, frame: FrameType | None) -> None:
        first = self.signal == 0
        self.signal = number
        if self._aborted:
            self._say("Putting the cluster back; please wait.")
        elif first and number == signal.SIGINT:
            self._say(f"Stopping after the trial in hand; {self._key} again stops it at once.")
        else:
            self._aborted = True
            self._say("Stopping now, and putting the cluster back.")
            raise KeyboardInterrupt


@contextmanager
def interruption(say: Callable[[str], None], *, key: str = "Ctrl-C") -> Iterator[Interruption]:
    """Signals caught inside the block; ``say`` tells the reader what they did.

    ``key`` is what the reader presses.

    SIGINT asks to stop after the trial in hand. A second one, SIGTERM or SIGHUP raise
    KeyboardInterrupt, once: what unwinds then is not interrupted again. Outside the main thread,
    where Python delivers no signals, nothing is caught.
    """
    asked = Interruption(say, key=key)
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, asked._came) for number in (signal.SIGINT, *ENDING)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
