"""A diagnosis as people read it: what says the same becomes one, and where that is. Pure.

The terminal and the notebook show the same sentences, made here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ebpfperf.diagnosis import WORST, Diagnosis, Outcome, Result, Verdict

BAD = (Verdict.FAIL, Verdict.WARN, Verdict.UNKNOWN)
IS_IT_ON = "A1"
"""The check that does not apply where nobody asks for eBPF mode."""
NAMED = 3
"""How many names are written out before the rest is a number."""

_NAME = re.compile(r"\S*\d\S*")


@dataclass(frozen=True, slots=True)
class Group:
    """Outcomes of one check that say the same of several nodes, devices or services.

    They share verdict, remedy and correction, and their sentence but for numbers and names.
    """

    result: Result
    verdict: Verdict
    outcomes: tuple[Outcome, ...]

    @property
    def check(self) -> str:
        """``A4 bpffs``."""
        return f"{self.result.id} {self.result.name}"

    @property
    def remedy(self) -> str:
        """What to do; empty where nothing is."""
        return self.outcomes[0].remedy

    @property
    def corrected(self) -> str:
        """Where the documentation's advice does not hold; empty where it does."""
        return self.outcomes[0].corrected

    def where(self, nodes: Collection[str]) -> str:
        """``node-2``, ``both nodes``, ``node-2, node-5, node-7 and 3 more``, or ``cluster``."""
        return where((each.node for each in self.outcomes), nodes)

    def said(self, most: int = NAMED) -> tuple[str, ...]:
        """What was found: one sentence where all say the same, else those of the first."""
        first = self.outcomes[0]
        if all(each.what == first.what for each in self.outcomes):
            subjects = list(dict.fromkeys(each.subject for each in self.outcomes if each.subject))
            said = all(each in first.what for each in subjects)
            return (first.what if said else f"{named(subjects, most)}: {first.what}",)
        lines = [f"{_place(each)}: {each.what}" for each in self.outcomes[:most]]
        left = len(self.outcomes) - most
        return (*lines, f"and {left} more like these.") if left > 0 else tuple(lines)


def grouped(diagnosis: Diagnosis, verdicts: Collection[Verdict] = BAD) -> tuple[Group, ...]:
    """The outcomes with these verdicts, worst first, else in the checks' order."""
    found: list[Group] = []
    for result in diagnosis.results:
        kept: dict[tuple[str, ...], list[Outcome]] = {}
        for each in result.outcomes:
            if each.verdict in verdicts:
                key = (each.verdict, each.remedy, each.corrected, _shape(each))
                kept.setdefault(key, []).append(each)
        found += [Group(result, same[0].verdict, tuple(same)) for same in kept.values()]
    return tuple(sorted(found, key=lambda group: WORST.index(group.verdict)))


def told_apart(diagnosis: Diagnosis, groups: Collection[Group]) -> tuple[Group, ...]:
    """These without what ``doubts`` says already: UNKNOWN because the node was not reached."""
    return tuple(
        group
        for group in groups
        if not all(_for_lack_of_node(diagnosis, each) for each in group.outcomes)
    )


def headline(diagnosis: Diagnosis) -> str:
    """The verdict in one sentence, as ``FAIL: 2 of 40 checks fail (node-2); 1 warns``."""
    counts, total = diagnosis.counts(), len(diagnosis.results)
    fail, warn, unknown = (counts[each] for each in BAD)
    cannot = f"{unknown} cannot tell (UNKNOWN)" if unknown else ""
    if fail:
        said = [f"{fail} of {checks(total)} {_verb(fail, 'fail')}{_on(diagnosis, Verdict.FAIL)}"]
        said += [f"{warn} {_verb(warn, 'warn')}"] if warn else []
        return f"FAIL: {'; '.join((*said, cannot) if cannot else said)}."
    if warn:
        said = [f"{warn} of {checks(total)} {_verb(warn, 'warn')}{_on(diagnosis, Verdict.WARN)}"]
        return f"WARN: {'; '.join((*said, cannot) if cannot else said)}; none fails."
    if unknown:
        return f"UNKNOWN: none of {checks(total)} fails or warns, but {cannot}."
    asked = total - counts[Verdict.NOT_APPLICABLE]
    return f"OK: {checks(asked)} found nothing wrong{_unasked(total - asked)}."


def circumstances(diagnosis: Diagnosis) -> tuple[str, ...]:
    """What was asked, and when, in one sentence or two."""
    release = diagnosis.release or "of an unknown release"
    nodes = f"{len(diagnosis.nodes)} node{'' if len(diagnosis.nodes) == 1 else 's'}"
    counting = f", counted for {diagnosis.seconds:.1f} s" if diagnosis.seconds else ""
    return (f"Calico {release}, {nodes}, evidence of {clock(diagnosis.taken_utc)}{counting}.",)


def doubts(diagnosis: Diagnosis) -> tuple[str, ...]:
    """What a reader has to know before believing it."""
    said = [
        f"{name} was not reached: {why} {checks(len(_unasked_there(diagnosis, name)))} of it "
        "could not be asked."
        for name, why in diagnosis.lost.items()
    ]
    if off := _not_asked_for(diagnosis):
        said.append(
            f"eBPF mode is not asked for ({where(off, diagnosis.nodes)}): most checks do not apply "
            "there. If it is meant to be on, see bpfEnabled."
        )
    if diagnosis.emulated:
        said.append("The cluster is the embedded lab: an emulation, not Calico.")
    if diagnosis.from_bundle:
        said.append(
            f"The evidence is from a bundle of {clock(diagnosis.taken_utc)}; the cluster may be "
            "another by now."
        )
    if diagnosis.pseudonyms:
        said.append("Names and addresses are pseudonyms.")
    if not diagnosis.release:
        said.append(
            "The cluster does not say which release of Calico it runs: what depends on that is "
            "UNKNOWN."
        )
    return tuple(said)


def where(of: Iterable[str], nodes: Collection[str]) -> str:
    """Names of nodes, shortened; ``cluster`` where it is of none."""
    names = list(dict.fromkeys(of))
    if "" in names:
        return "cluster"
    if len(names) > 1 and set(names) == set(nodes):
        return "both nodes" if len(names) == 2 else f"all {len(names)} nodes"
    return named(names)


def named(names: Sequence[str], most: int = NAMED) -> str:
    """``a, b, c and 4 more``; one more than ``most`` is written out, too."""
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def clock(taken_utc: str) -> str:
    """``2026-01-31 09:05:33 UTC`` of ``2026-01-31T09:05:33Z``."""
    return taken_utc.replace("T", " ").replace("Z", " UTC")


def printable(text: str) -> str:
    """A line in which characters that would steer a terminal are written out."""
    plain = text.expandtabs()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


def _for_lack_of_node(diagnosis: Diagnosis, outcome: Outcome) -> bool:
    why = diagnosis.lost.get(outcome.node)
    return why is not None and outcome.verdict is Verdict.UNKNOWN and why in outcome.what


def _unasked_there(diagnosis: Diagnosis, node: str) -> set[str]:
    """Ids of the checks that could not be asked of a node that was not reached."""
    return {
        result.id
        for result, each in diagnosis.outcomes()
        if each.node == node and _for_lack_of_node(diagnosis, each)
    }


def _not_asked_for(diagnosis: Diagnosis) -> list[str]:
    """The nodes to which the first question does not apply."""
    return [
        each.node
        for result in diagnosis.results
        if result.id == IS_IT_ON
        for each in result.outcomes
        if each.verdict is Verdict.NOT_APPLICABLE
    ]


def _place(outcome: Outcome) -> str:
    return " ".join(part for part in (outcome.node, outcome.subject) if part) or "cluster"


def _shape(outcome: Outcome) -> str:
    """The sentence without numbers, and names with numbers, in which it may differ from others."""
    text = outcome.what
    for name in (outcome.subject, outcome.node):
        text = text.replace(name, "0") if name else text
    return _NAME.sub("#", text)


def _on(diagnosis: Diagnosis, verdict: Verdict) -> str:
    nodes = [each.node for _, each in diagnosis.outcomes() if each.verdict is verdict]
    of_nodes = [name for name in nodes if name]
    if not of_nodes:
        return " (cluster)"
    also = " and the cluster" if len(of_nodes) < len(nodes) else ""
    return f" ({where(of_nodes, diagnosis.nodes)}{also})"


def checks(number: int) -> str:
    """``1 check``, ``12 checks``."""
    return f"{number} check{'' if number == 1 else 's'}"


def _verb(number: int, verb: str) -> str:
    return f"{verb}s" if number == 1 else verb


def _unasked(number: int) -> str:
    if not number:
        return ""
    return f"; {number} {'does' if number == 1 else 'do'} not apply here"
