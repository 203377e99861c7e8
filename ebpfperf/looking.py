"""Looks at a trial while its traffic runs: a thread asks the probes every so often, and tells."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ebpfperf.model import Fact, Reading, Trial

EVERY_S = 0.5

OnLook = Callable[[Trial, Mapping[str, Reading]], None]


class Looked:
    """What became of the looks at one trial.

    Attributes
    ----------
    facts
        Whether and how often it was looked at; none where nobody wanted to look.
    warnings
        Why a look failed: the first reason alone.
    """

    def __init__(self) -> None:
        self.facts: tuple[Fact, ...] = ()
        self.warnings: tuple[str, ...] = ()


class Looks:
    """Who is told what the probes of a trial see meanwhile, and how often.

    Parameters
    ----------
    on_look
        Called in a thread of its own, one look at a time; None: nobody looks.
    every_s
        Seconds from one look to the next, the time that the look itself takes not included.
    """

    def __init__(self, on_look: OnLook | None = None, *, every_s: float = EVERY_S) -> None:
        self._on_look = on_look
        self._every_s = every_s

    @contextmanager
    def during(self, trial: Trial, look: Callable[[], Mapping[str, Reading]]) -> Iterator[Looked]:
        """Looks inside the block; none is under way any more, and the facts are there, after it."""
        looked = Looked()
        if self._on_look is None:
            yield looked
            return
        tell, ending, succeeded = self._on_look, threading.Event(), [0]

        def keep_looking() -> None:
            while not ending.wait(self._every_s):
                try:
                    tell(trial, look())
                    succeeded[0] += 1
                except Exception as error:  # whoever is told: no trial fails by being looked at
                    looked.warnings = looked.warnings or (f"live view: {error or repr(error)}",)

        thread = threading.Thread(target=keep_looking, name=f"looks at {trial.trial_id}")
        thread.start()
        try:
            yield looked
        finally:
            ending.set()
            thread.join()
            looked.facts = (
                Fact("", "live_view", f"yes: looked every {self._every_s:g} s"),
                Fact("", "live_looks", str(succeeded[0]), "1"),
            )
