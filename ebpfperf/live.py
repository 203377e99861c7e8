"""A campaign run from a notebook's cell, which shows it while it runs, in place.

The nodes feel that they are looked at: each trial says so (fact ``live_view``). Outside a notebook
there is nothing to look with: lines on stderr say where the run is, and no trial is looked at.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ebpfperf import live_view, plan, preflight, progress, runner, units
from ebpfperf.enough import Ending
from ebpfperf.interruption import interruption
from ebpfperf.live_view import Now
from ebpfperf.looking import EVERY_S
from ebpfperf.model import Reading, Trial, TrialResult
from ebpfperf.progress import Progress, Step
from ebpfperf.store import Store


def run(
    campaign: Store | str | Path,
    *,
    out: str | Path | None = None,
    look_every_s: float = EVERY_S,
    connect: runner.Connect = runner.connect,
) -> Store:
    """The campaign's store, once all of its trials are in it or the reader has stopped it.

    Interrupting the kernel stops after the trial in hand, and a second time at once; the cluster
    is put back, and running the cell again goes on. Outside a notebook the second interrupt raises
    KeyboardInterrupt.

    Parameters
    ----------
    campaign
        A campaign file, or a store that was created for one.
    out
        Directory of the campaign, for a file; default ``runs/`` and the campaign's name.

    Raises
    ------
    EbpfperfError
        As ``plan.load``, ``Store.create`` and ``runner.run``.
    """
    store = campaign if isinstance(campaign, Store) else opened(Path(campaign), out=out)
    if "ipykernel" in sys.modules:
        _shown(store, look_every_s=look_every_s, connect=connect)
    else:
        _told(store, connect=connect)
    return store


def opened(file: Path, *, out: str | Path | None = None) -> Store:
    """The store of a campaign file: the one that is there, or a new one."""
    found = plan.load(file)
    source = file.read_text(encoding="utf-8")
    return Store.create(out or Path("runs") / found.name, found, source=source)


class Cell:
    """What a notebook's cell shows of a run: the trial in hand, and a table of the finished ones.

    Drawn by two threads: the run's, and the one that looks.
    """

    def __init__(self, store: Store) -> None:
        from IPython.display import display

        # A signal arrives in the run's thread, also while that draws: it may enter twice.
        self._lock = threading.RLock()
        self._now = Now(store.campaign, "Connecting")
        self._said: list[str] = []
        self._done: tuple[TrialResult, ...] = ()
        show: Any = display  # IPython says nothing of its types
        self._upper = show(self._now, display_id=True)
        self._lower = show(live_view.finished(()), display_id=True)

    def show(self, **changes: Any) -> None:
        """Draw the upper part anew, with these changes of ``Now``."""
        with self._lock:
            self._now = replace(self._now, **changes)
            self._upper.update(replace(self._now, said=tuple(self._said)))

    def step(self, step: Step) -> None:
        """Where the run is."""
        left = units.duration_s(step.left_s)
        number = min(step.done + 1, step.total)
        self.show(place=f"Trial {number} of {step.total}, about {left} left")

    def begin(self, trial: Trial) -> None:
        """A trial begins: nothing was seen of it."""
        self.show(trial=trial, readings={}, points=())

    def look(self, trial: Trial, readings: Mapping[str, Reading]) -> None:
        """What the probes of the trial in hand have seen until now."""
        point = live_view.point(trial.flow, readings.get(live_view.COUNTERS))
        with self._lock:
            points = self._now.points if point is None else (*self._now.points, point)
            self.show(readings=readings, points=points)

    def end(self, result: TrialResult) -> None:
        """A trial has ended: a row more."""
        with self._lock:
            self._done = (*self._done, result)
            self._lower.update(live_view.finished(self._done))

    def say(self, text: str) -> None:
        """A sentence below what is shown."""
        self._said.append(text)
        self.show()

    def close(self, place: str) -> None:
        """How the run ended."""
        self.show(place=place, trial=None, readings={}, points=())


def _shown(store: Store, *, look_every_s: float, connect: runner.Connect) -> None:
    left, before = runner.remaining(store), len(store.completed())
    cell = Cell(store)
    bar = Progress(left, before=before, show=cell.step, say=cell.say)
    ended = "Ended by an error, which stands below"

    def on_start(trial: Trial) -> None:
        cell.begin(trial)
        bar.begin(trial)

    try:
        with interruption(cell.say, key="interrupting the kernel") as stop:
            running = runner.run(
                store,
                connect=connect,
                stop=Ending(store, stop=stop, say=cell.say),
                on_start=on_start,
                on_look=cell.look,
                look_every_s=look_every_s,
                preflight=partial(preflight.before, say=cell.say),
            )
            # Closed before anything is said of the cluster.
            with closing(running):
                for result in running:
                    bar.end(result)
                    cell.end(result)
        ended = "Stopped" if stop() else "Done"
    except KeyboardInterrupt:
        ended = "Stopped"
    finally:
        cell.close(f"{ended}: {_state(store, ended)}")


def _state(store: Store, ended: str) -> str:
    done, rest = len(store.completed()), len(runner.remaining(store))
    there = f"{done} of {done + rest} trials are in {store.path}"
    if ended == "Done":
        return f"{there}, and the cluster is as it was before"
    if ended == "Stopped":
        again = "; run this cell again to go on" if rest else ""
        return f"{there}, and the cluster is as it was before{again}"
    return there


def _told(store: Store, *, connect: runner.Connect) -> None:
    left, before = runner.remaining(store), len(store.completed())
    with (
        progress.auto(left, before=before) as bar,
        interruption(bar.say) as stop,
    ):
        ending = Ending(store, stop=stop, say=bar.say)
        running = runner.run(
            store, connect=connect, stop=ending, on_start=bar.begin, on_wait=bar.say,
            preflight=partial(preflight.before, say=bar.say),
        )  # fmt: skip
        for result in running:
            bar.end(result)
