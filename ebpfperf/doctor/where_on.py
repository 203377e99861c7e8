"""Rules that say something only where a node forwards by eBPF. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import wraps

from ebpfperf.diagnosis import Outcome
from ebpfperf.doctor.case import Case, not_applicable
from ebpfperf.doctor.node_state import Mode

Rule = Callable[[Case, str], Iterable[Outcome]]


def where_on(rule: Rule) -> Callable[[Case, str], Iterator[Outcome]]:
    """The rule, but N/A where eBPF mode is asked for and not on: A1 says so, once is enough."""

    @wraps(rule)
    def asked(case: Case, node: str) -> Iterator[Outcome]:
        state = case.state(node)
        if state.mode in (Mode.FALLBACK, Mode.OFF):
            shown = [case.show(source, node) for source in state.sources
                     if case.evidence.item(source, node) is not None]  # fmt: skip
            yield not_applicable(f"The node does not forward by eBPF: {state.why}.", *shown)
            return
        yield from rule(case, node)

    return asked
