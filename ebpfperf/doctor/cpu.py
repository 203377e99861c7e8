"""Checks of processor time: kube-proxy, services that change, endpoint slices. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from ebpfperf.calico import felix_fields
from ebpfperf.calico.durations import go_duration_s
from ebpfperf.diagnosis import Outcome, Verdict
from ebpfperf.doctor import cpu_settings, kube_proxy, values
from ebpfperf.doctor.case import Case, Missing, unknown
from ebpfperf.doctor.declaration import PAGE, Check
from ebpfperf.doctor.kube_proxy import BUSY_PCT, FELIX
from ebpfperf.evidence_sources import LATER
from ebpfperf.felix_values import Origin
from ebpfperf.map_wanted import SERVICE_LABEL

MANY_SERVICES, MANY_CHANGES_PER_S, SHORT_PERIOD_S = 1_000, 1.0, 1.0
PERIOD, SLICES = "bpfKubeProxyMinSyncPeriod", "bpfKubeProxyEndpointSlicesEnabled"
LISTED = "endpointslices"
_NONE = ("", "", 0)
ON_BY_DEFAULT_FROM = (3, 23)


def changes(case: Case) -> tuple[int, float]:
    """How often EndpointSlices changed between the readings, at least; within seconds, at most.

    A slice's generation counts its changes; one that came or went changed once. Missing where
    there are not two readings.
    """
    if not case.evidence.seconds:
        raise Missing("they were read only once")
    before, after = _versions(case.slices()), _versions(case.slices(later=True))
    count = 0
    for key in {*before, *after}:
        (uid, version, generation), now = before.get(key, _NONE), after.get(key, _NONE)
        more = now[2] - generation if uid == now[0] else 0
        count += max(more, int(version != now[1]))
    first, later = case.item(LISTED).taken_utc, case.item(LISTED + LATER).taken_utc
    # The times are whole seconds.
    apart_s = (datetime.fromisoformat(later) - datetime.fromisoformat(first)).total_seconds() + 1
    return count, max(apart_s, case.evidence.seconds)


def _versions(slices: list[Any]) -> dict[tuple[str, str], tuple[str, str, int]]:
    return {
        (str(meta.get("namespace", "")), str(meta["name"])): (
            str(meta.get("uid", "")),
            str(meta.get("resourceVersion", "")),
            int(meta.get("generation") or 0),
        )
        for meta in (each["metadata"] for each in slices)
    }


def churn(case: Case, node: str) -> Iterator[Outcome]:
    """C3: many services, or many changes of them, while calico-node is busy."""
    services = len(case.services())
    endpoints = sum(len(each.get("endpoints") or ()) for each in case.slices())
    shown = [case.show("services", excerpt=f"{services} services, {endpoints} endpoints")]
    rate, said = None, ""
    try:
        count, within_s = changes(case)
        rate = count / within_s
        said = f"changes of EndpointSlices: at least {rate:.1f} a second"
        line = f"{count} changes within {within_s:.1f} s"
        shown.append(case.show(LISTED + LATER, excerpt=line))
    except Missing as missing:
        said = f"how often EndpointSlices change is not known ({missing.why})"
    what = f"Services: {services}; endpoints: {endpoints}; {said}"
    period = case.value(node, PERIOD)
    shown.append(values.shown(case, period))
    if services <= MANY_SERVICES and rate is not None and rate <= MANY_CHANGES_PER_S:
        yield Outcome(Verdict.OK, f"{what}: few.", tuple(shown))
        return
    what = f"{what}; {values.spoken(period)}"
    if values.is_unknown(period):
        yield unknown(f"{what}.", *shown)
        return
    seconds = go_duration_s(str(period.value))
    if seconds > SHORT_PERIOD_S:
        yield Outcome(Verdict.OK, f"{what}: already raised.", tuple(shown))
        return
    try:
        busy = kube_proxy.busy_pct(case, node, FELIX)
    except Missing as missing:
        what = f"{what}; what calico-node takes is not known ({missing.why})"
        if services <= MANY_SERVICES and rate is None:
            yield unknown(f"{what}.", *shown)
            return
    else:
        what = f"{what}; calico-node takes {busy:.0f} % of a processor"
        shown.append(case.show("processes" + LATER, node))
        if busy <= BUSY_PCT:
            yield Outcome(Verdict.OK, f"{what}: it keeps up.", tuple(shown))
            return
        if services <= MANY_SERVICES and rate is None:
            yield unknown(f"{what}.", *shown)
            return
    yield Outcome(
        Verdict.WARN,
        f"{what}.",
        tuple(shown),
        remedy=f"{values.advice(period, '10s')} Changes of services then show up to 10 s later, "
        "and Felix restarts once.",
    )


def slices(case: Case, node: str) -> Iterator[Outcome]:
    """C4: whether backends are read from EndpointSlices, where the release can be told."""
    if case.minor and not felix_fields.field(SLICES).settable(case.release):
        yield Outcome(
            Verdict.NOT_APPLICABLE,
            f"{case.release} has no field {SLICES}: it always reads EndpointSlices.",
            (case.released(),),
            corrected=_corrected(case),
        )
        return
    value = case.value(node, SLICES)
    shown = [values.shown(case, value)]
    said = values.spoken(value)
    if values.is_unknown(value):
        yield unknown(f"Whether slices are read is not known: {said}.", *shown)
        return
    if value.value is True:
        yield Outcome(Verdict.OK, f"{said}.", tuple(shown), corrected=_corrected(case))
        return
    found = case.slices()
    if not found:
        yield Outcome(Verdict.OK, f"{said}, and there are no EndpointSlices.", tuple(shown))
        return
    several = _several(found)
    largest = max((len(each.get("endpoints") or ()) for each in found), default=0)
    shown.append(case.show(LISTED, excerpt=f"{len(found)} slices; most endpoints: {largest}"))
    remedy = values.advice(value, True)
    if value.origin is Origin.RELEASE and not several:
        yield Outcome(
            Verdict.OK,
            f"{said}: Felix reads Endpoints. No service has more than one EndpointSlice of a "
            "family, so each change is as small to read.",
            tuple(shown),
            remedy=f"Before services grow: {remedy}",
        )
        return
    why = f"{several[0]} alone has {several[1]} slices" if several else "somebody set it so"
    yield Outcome(
        Verdict.WARN,
        f"{said} although the cluster has EndpointSlices ({why}): Felix reads all endpoints of a "
        "service whenever one changes.",
        tuple(shown),
        remedy=remedy
        if case.minor < ON_BY_DEFAULT_FROM
        else f"{remedy} Or leave it unset: true is the default of {case.release}.",
        corrected=_corrected(case),
    )


def _several(found: list[Any]) -> tuple[str, int] | None:
    """The service with most slices of one family, if it has several of one."""
    counts = Counter(
        (_service(each["metadata"]), str(each.get("addressType", "IPv4"))) for each in found
    )
    several = {service: count for (service, _), count in counts.items() if service and count > 1}
    return max(several.items(), key=lambda pair: pair[1]) if several else None


def _service(meta: Mapping[str, Any]) -> str:
    name = (meta.get("labels") or {}).get(SERVICE_LABEL, "")
    return f"{meta.get('namespace', '')}/{name}" if name else ""


def _corrected(case: Case) -> str:
    if case.minor < ON_BY_DEFAULT_FROM:
        return ""
    (now,) = felix_fields.field(SLICES).said(
        felix_fields.field(SLICES).page_now, case.release
    )  # fmt: skip
    return f"The page says to set {SLICES}. In {case.release}: {now}"


CHECKS: tuple[Check, ...] = (
    *kube_proxy.CHECKS,
    Check(
        "C3",
        "service-churn",
        "Are there more services, or changes of them, than Felix keeps up with?",
        "calico-node takes much processor time in a large or busy cluster.",
        ("services", LISTED, "processes", "felixconfigurations", "felix-process"),
        f"More than {MANY_SERVICES} services, or more than {MANY_CHANGES_PER_S:g} change of "
        f"EndpointSlices a second, with {PERIOD} at most {SHORT_PERIOD_S:g} s is WARN, unless "
        "calico-node was seen to take at most one processor; else OK.",
        PAGE,
        of_node=churn,
    ),
    Check(
        "C4",
        "endpoint-slices",
        "Does Felix read EndpointSlices?",
        "calico-node takes much processor time where services have many endpoints.",
        (LISTED, "felixconfigurations", "felix-process"),
        "On is OK. Off is WARN where somebody set it so, or a service has several slices of a "
        "family; the default of v3.15 to v3.22 with smaller services is OK. v3.32 and later have "
        "no such field: N/A.",
        PAGE,
        of_node=slices,
        since=(3, 15),
        why_not=f"it has no field {SLICES} yet",
    ),
    *cpu_settings.CHECKS,
)
