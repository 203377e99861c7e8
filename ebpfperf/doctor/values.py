"""A Felix field as evidence, and the sentence that says how to change it. Pure."""

from __future__ import annotations

from typing import Any

from ebpfperf import felix_values
from ebpfperf.calico import felix_fields
from ebpfperf.calico.durations import go_duration_s
from ebpfperf.diagnosis import Shown
from ebpfperf.doctor.case import Case
from ebpfperf.felix_values import Effective, Origin
from ebpfperf.units import UNKNOWN

_ON_NODE = (Origin.ENVIRONMENT, Origin.FILE)


def is_unknown(value: Effective) -> bool:
    """Whether it is not known what Felix acts on."""
    return isinstance(value.value, str) and value.value.startswith(UNKNOWN)


def spoken(value: Effective) -> str:
    """``bpfLogLevel is Debug (FelixConfiguration default)``; ``… is Off (v3.26.1's default)``."""
    where = f"{value.where}'s default" if value.origin is Origin.RELEASE else value.where
    return f"{value.field} is {felix_values.shown(value.value)} ({where})"


def shown(case: Case, value: Effective) -> Shown:
    """The evidence for a value: the place that gives it, or the resources that do not."""
    if value.origin in _ON_NODE and case.evidence.item("felix-process", value.node) is not None:
        return case.show("felix-process", value.node, spoken(value))
    if value.origin in _ON_NODE:
        return case.show("pods", excerpt=spoken(value))
    if value.origin is Origin.DERIVED:
        return case.show("ippools", excerpt=spoken(value))
    return case.show("felixconfigurations", excerpt=spoken(value))


def place(value: Effective) -> str:
    """Where it is to be set: ``in FelixConfiguration default``, or in what beats that now."""
    if value.origin is Origin.ENVIRONMENT:
        return f"by {value.where} in calico-node's environment, which wins,"
    if value.origin is Origin.FILE:
        return f"in {felix_values.FILE} of {value.node}, which wins,"
    if value.origin in (Origin.NODE, Origin.SELECTOR):
        return f"in {value.where}, which wins,"
    return "in FelixConfiguration default"


def advice(value: Effective, wanted: Any) -> str:
    """What to do so that Felix acts on another value, at the place that decides now."""
    field = felix_fields.field(value.field)
    text = felix_values.shown(wanted)
    if field.type == "duration" and value.origin in _ON_NODE:
        text = f"{go_duration_s(text):g}"  # Plain seconds there.
    if value.origin is Origin.ENVIRONMENT:
        return f"Set {field.variable} to {text} in calico-node's environment, which wins."
    if value.origin is Origin.FILE:
        return f"Set {field.internal} = {text} in {felix_values.FILE} of {value.node}, which wins."
    own = value.where if value.origin in (Origin.NODE, Origin.SELECTOR) else ""
    return f"Set {value.field}: {text} in {own or 'FelixConfiguration default'}."
