"""What a fault is: a row that says what users see, which check names it, how it comes and goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ebpfperf.lab.faults.place import Place

Record = dict[str, Any]
"""What must be known to take a fault back: JSON, written before anything is changed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes
    ----------
    symptom
        What users of a cluster that has it see.
    checks
        Ids of the doctor's checks that name it, the most telling first.
    real
        What is done, and how far that is the real thing.
    before
        What must be put back, read off the lab before anything is changed.
    put
        Makes it; may be asked again while it stands.
    take
        Takes it back, also where ``put`` got only half-way, or was never asked.
    of_node
        Whether it is one node's; else the cluster's.
    since, until
        First release, and first release no longer, to which it applies.
    """

    name: str
    symptom: str
    checks: tuple[str, ...]
    real: str
    before: Callable[[Place], Record]
    put: Callable[[Place, Record], None]
    take: Callable[[Place, Record], None]
    of_node: bool = True
    since: tuple[int, int] | None = None
    until: tuple[int, int] | None = None

    def applies(self, release: tuple[int, int]) -> bool:
        """Whether a lab of that release can have it."""
        late = self.since is None or release >= self.since
        return late and (self.until is None or release < self.until)
