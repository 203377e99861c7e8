"""What a run says while it runs: a bar with the time left, and a line for what went wrong.

``auto`` gives the bar that fits: tqdm in a notebook, rich in a terminal, plain lines elsewhere. All
of it goes to stderr: stdout belongs to results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ebpfperf import plan, units
from ebpfperf.model import Status, Trial, TrialResult

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Step:
    """Where a run is: trials done of all, what begins now, and seconds left."""

    done: int
    total: int
    doing: str
    left_s: float


class Progress:
    """Follows a run through its trials; ``show`` draws a step, ``say`` prints a sentence.

    Parameters
    ----------
    trials
        The trials of this run: those that earlier runs completed are not in it.
    before
        Number of trials that earlier runs completed.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        *,
        before: int,
        show: Callable[[Step], None],
        say: Callable[[str], None],
        clock: Clock = time.monotonic,
    ) -> None:
        self._trials = tuple(trials)
        self._before = before
        self._show = show
        self.say = say
        self._clock = clock
        self._begun_s: float | None = None
        self._ended = 0
        self._estimate_s = plan.estimate_s(self._trials)

    def begin(self, trial: Trial) -> None:
        """A trial begins."""
        if self._begun_s is None:
            self._begun_s = self._clock()
        self._draw(trial.trial_id)

    def end(self, result: TrialResult) -> None:
        """A trial has ended."""
        self._ended += 1
        if said := trouble(result):
            self.say(said)
        self._draw(result.trial.trial_id)

    def left_s(self) -> float:
        """Seconds left: what the plan says of the rest, scaled by how the plan fared so far."""
        rest_s = plan.estimate_s(self._trials[self._ended :])
        planned_s = self._estimate_s - rest_s
        if self._begun_s is None or planned_s <= 0:
            return rest_s
        return rest_s * (self._clock() - self._begun_s) / planned_s

    def _draw(self, doing: str) -> None:
        done, total = self._before + self._ended, self._before + len(self._trials)
        self._show(Step(done, total, doing, self.left_s()))


def trouble(result: TrialResult) -> str:
    """``"b003-vxlan-tcp failed: refused: The server …"``; empty for a good trial."""
    if result.status is Status.OK:
        return ""
    return f"{result.trial.trial_id} {result.status}: {result.reason}"


@contextmanager
def auto(trials: Sequence[Trial], *, before: int = 0) -> Iterator[Progress]:
    """The progress that fits where this runs."""
    if "ipykernel" in sys.modules:
        chosen = notebook
    else:
        chosen = terminal if sys.stderr.isatty() else lines
    with chosen(trials, before=before) as progress:
        yield progress


@contextmanager
def lines(trials: Sequence[Trial], *, before: int = 0) -> Iterator[Progress]:
    """A line per trial on stderr: for logs and pipes."""

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def show(step: Step) -> None:
        left = units.duration_s(step.left_s)
        say(f"[{step.done}/{step.total}] {step.doing}, {left} left")

    yield Progress(trials, before=before, show=_once_per_trial(show), say=say)


@contextmanager
def terminal(trials: Sequence[Trial], *, before: int = 0) -> Iterator[Progress]:
    """A bar on the terminal behind stderr, gone at the end."""
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.SpinnerColumn(),
        bars.MofNCompleteColumn(),
        bars.BarColumn(bar_width=24),
        bars.TextColumn("{task.fields[left]} left", markup=False),
        bars.TextColumn("{task.description}", markup=False),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        total, first = before + len(trials), units.duration_s(plan.estimate_s(tuple(trials)))
        task = bar.add_task("connecting", total=total, completed=before, left=first)

        def say(text: str) -> None:
            bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

        def show(step: Step) -> None:
            left = units.duration_s(step.left_s)
            bar.update(task, completed=step.done, description=step.doing, left=left)

        yield Progress(trials, before=before, show=show, say=say)


@contextmanager
def notebook(trials: Sequence[Trial], *, before: int = 0) -> Iterator[Progress]:
    """The bar that notebooks show."""
    from tqdm.auto import tqdm

    with tqdm(total=before + len(trials), initial=before, unit="trial") as bar:

        def show(step: Step) -> None:
            bar.set_description(step.doing, refresh=False)
            bar.set_postfix_str(f"{units.duration_s(step.left_s)} left", refresh=False)
            bar.update(step.done - bar.n)

        yield Progress(trials, before=before, show=show, say=lambda text: bar.write(text))


def _once_per_trial(show: Callable[[Step], None]) -> Callable[[Step], None]:
    """Leave out the steps at which no further trial is done."""
    last = [-1]

    def shown(step: Step) -> None:
        if last[0] not in (-1, step.done):
            show(step)
        last[0] = step.done

    return shown
