"""What a check is: a row that says what it reads and by which rule it judges."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from ebpfperf.diagnosis import Outcome
from ebpfperf.doctor.case import Case

Release = tuple[int, int]
PAGE: Final = "Troubleshooting eBPF mode, v3.16"
CURRENT: Final = "Troubleshoot eBPF mode, v3.32"


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the cluster.

    Attributes
    ----------
    id, name
        As ``docs/doctor.md`` lists it, such as ``A4`` and ``bpffs``.
    title
        What it finds out, as a question.
    symptom
        What users see where it fails.
    reads
        Names of evidence sources, for the documentation and for a preflight that gathers less.
    rule
        When it says what, in words.
    source
        Where the rule comes from: the page, the current page, or Calico's source.
    of_node, of_cluster
        The rule itself; one of them. A rule of a node is asked for each node.
    since, before
        The first release to which it applies, and the first to which it no longer does.
    why_not
        Half a sentence, for releases outside: ``the field is gone``.
    ebpf
        Whether it applies only where the node (or any node) is to forward by eBPF.
    preflight
        Whether a campaign asks it before it begins.
    """

    id: str
    name: str
    title: str
    symptom: str
    reads: tuple[str, ...]
    rule: str
    source: str
    of_node: Callable[[Case, str], Iterable[Outcome]] | None = None
    of_cluster: Callable[[Case], Iterable[Outcome]] | None = None
    since: Release | None = None
    before: Release | None = None
    why_not: str = ""
    ebpf: bool = True
    preflight: bool = False
