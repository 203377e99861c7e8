"""Checks of DSR: answers that go straight to the client, with another node's address. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ebpfperf.diagnosis import Outcome, Shown, Verdict
from ebpfperf.doctor import clouds, underlay_pairs, values
from ebpfperf.doctor.case import Case, Missing, not_applicable, unknown
from ebpfperf.doctor.declaration import PAGE, Check
from ebpfperf.doctor.underlay_pairs import Pair, named
from ebpfperf.evidence_sources import SOURCE_PROBE, VXLAN_PROBE
from ebpfperf.felix_values import Effective
from ebpfperf.kube_objects import Object

MODE, OPT_OUT, AWS_CHECK = "bpfExternalServiceMode", "bpfDSROptoutCIDRs", "awsSrcDstCheck"
DSR, TUNNEL = "DSR", "Tunnel"
OPT_OUT_FROM = (3, 26)
_BY_HAND = "aws ec2 modify-instance-attribute --instance-id <instance> --no-source-dest-check"
_PAGE_AWS = (
    "The page has the check switched off by hand; awsSrcDstCheck: Disable lets Felix do it, where "
    "the node has the right to."
)
_PAGE_LB = (
    "The page says that DSR does not work behind a load balancer; since v3.26 bpfDSROptoutCIDRs "
    "exempts clients for whom it does not."
)


# ------------------------------------------------------------------------ what was tried out


@dataclass(frozen=True, slots=True)
class _Tried:
    """What became of a node's datagrams with another node's source.

    Attributes
    ----------
    arrived
        Whether the underlay carries them; None where that cannot be told, and ``words`` says why.
    """

    arrived: bool | None
    words: str
    shown: tuple[Shown, ...] = ()
    some: bool = False


def _tried(case: Case, node: str) -> _Tried:
    try:
        own = next((p for p in underlay_pairs.foreign(case) if p.sender == node), None)
    except Missing as missing:
        return _Tried(None, missing.why)
    if own is None or not own.known:
        return _Tried(None, _why_unknown(case, node, own))
    shown = underlay_pairs.shown(case, SOURCE_PROBE, [own])
    ends = f"of {own.sent} datagrams to {own.receiver} with the source {own.source}"
    if own.arrives:
        return _Tried(True, f"{own.arrived} {ends} arrive", shown, not own.whole)
    if own.kept_back:
        return _Tried(None, f"none {ends} leaves the node: its own rules keep them back", shown)
    plain = _plain(case, own)
    if plain is None or not plain.known:
        return _Tried(None, f"none {ends} arrives, and with its own source none was tried", shown)
    shown += underlay_pairs.shown(case, VXLAN_PROBE, [plain])
    if not plain.arrives:
        words = f"none {ends} arrives, with its own source neither (check B3)"
        return _Tried(None, words, shown)
    words = (
        f"none {ends} (of {own.owner}) arrives, though {own.left} leave by "
        f"{', '.join(own.out)}; with its own source {plain.arrived} of {plain.sent} do"
    )
    return _Tried(False, words, shown)


def _why_unknown(case: Case, node: str, own: Pair | None) -> str:
    deaf = underlay_pairs.receivers_without(case, SOURCE_PROBE)
    if node in case.evidence.lost:
        return f"the node was not reached: {case.evidence.lost[node]}"
    if own is not None:
        return own.error or "the datagrams were not seen"
    return deaf.get(node) or (f"{named(list(deaf))} did not listen" if deaf else "it took no part")


def _plain(case: Case, own: Pair) -> Pair | None:
    """The same way with the sender's own source."""
    ends = (own.sender, own.receiver)
    try:
        pairs = underlay_pairs.vxlan(case)
    except Missing:
        return None
    return next((p for p in pairs if (p.sender, p.receiver) == ends), None)


def _mode(case: Case, node: str) -> tuple[Effective, Outcome | None]:
    """The mode, and what to say where it is not DSR."""
    value = case.value(node, MODE)
    if values.is_unknown(value):
        return value, unknown(f"{values.spoken(value)}.", values.shown(case, value))
    if value.value != DSR:
        return value, not_applicable(values.spoken(value), values.shown(case, value))
    return value, None


# -------------------------------------------------------------------------------- B5, B6


def aws(case: Case, node: str) -> Iterator[Outcome]:
    """B5: whether AWS drops what a node sends with another node's address."""
    _, otherwise = _mode(case, node)
    if otherwise is not None:
        yield otherwise
        return
    if (elsewhere := _elsewhere(case, node, clouds.AWS)) is not None:
        yield elsewhere
        return
    tried, told = _tried(case, node), case.value(node, AWS_CHECK)
    shown = (case.show("cloud", node), values.shown(case, told), *tried.shown)
    switch = f"{values.advice(told, 'Disable')} Or by hand: {_BY_HAND}."
    if tried.arrived is False:
        yield Outcome(
            Verdict.FAIL,
            f"AWS's source/destination check is on: {tried.words}. Answers by DSR are lost.",
            shown, remedy=switch, corrected=_PAGE_AWS,
        )  # fmt: skip
    elif told.value == "Enable":
        also = f", although {tried.words}" if tried.arrived else ""
        yield Outcome(
            Verdict.WARN if tried.arrived else Verdict.FAIL,
            f"{values.spoken(told)}: Felix switches AWS's source/destination check on{also}.",
            shown, remedy=switch, corrected=_PAGE_AWS,
        )  # fmt: skip
    elif tried.arrived:
        yield Outcome(
            Verdict.OK, f"AWS lets packets with another node's source pass: {tried.words}.", shown
        )
    else:
        yield unknown(
            f"Whether AWS's source/destination check is off is not known: {tried.words}; "
            f"{values.spoken(told)}.",
            *shown,
            remedy="Ask: aws ec2 describe-instance-attribute --instance-id <instance> --attribute "
            "sourceDestCheck; it must be false.",
        )


def gcp(case: Case, node: str) -> Iterator[Outcome]:
    """B6: whether Google's cloud drops what a node sends with another node's address."""
    _, otherwise = _mode(case, node)
    if otherwise is not None:
        yield otherwise
        return
    if (elsewhere := _elsewhere(case, node, clouds.GCP)) is not None:
        yield elsewhere
        return
    tried = _tried(case, node)
    shown = (case.show("cloud", node), *tried.shown)
    if tried.arrived is False:
        yield Outcome(
            Verdict.FAIL,
            f"The instance may not forward (canIpForward): {tried.words}. Answers by DSR are lost.",
            shown,
            remedy="Make the instance anew with --can-ip-forward: it is set at its creation.",
        )
    elif tried.arrived:
        yield Outcome(Verdict.OK, f"The instance may forward: {tried.words}.", shown)
    else:
        yield unknown(
            f"Whether the instance may forward is not known: {tried.words}.",
            *shown,
            remedy="Ask: gcloud compute instances describe <instance> --format "
            "'value(canIpForward)'; it must be True.",
        )


def _elsewhere(case: Case, node: str, wanted: str) -> Outcome | None:
    found = clouds.cloud(case, node)
    if found == wanted:
        return None
    where = f"the node is on {found}" if found else "its firmware names no known cloud"
    return not_applicable(f"not {wanted}: {where}", case.show("cloud", node))


# ------------------------------------------------------------------------------------ B7


def balanced(case: Case) -> Iterator[Outcome]:
    """B7: whether a cloud's load balancer stands before services that answer by DSR."""
    nodes, unsaid = [], []
    others: list[Shown] = []
    for node in case.nodes:
        try:
            if not case.wants_ebpf(node):
                continue
            value, otherwise = _mode(case, node)
        except Missing as missing:
            unsaid.append((missing.why, missing.shown))
            continue
        if otherwise is None:
            nodes.append((node, value))
        elif values.is_unknown(value):
            unsaid.append((values.spoken(value), otherwise.shown))
        else:
            others += otherwise.shown
    if not nodes:
        yield (
            unknown(f"Not known: {unsaid[0][0]}.", *unsaid[0][1])
            if unsaid
            else not_applicable(f"{MODE} is {TUNNEL} on every node", *dict.fromkeys(others))
        )
        return
    node, value = nodes[0]
    found = [each for each in case.services() if _is_balanced(each)]
    shown = (values.shown(case, value), case.show("services", excerpt=_lines(found)))
    names = named([_name(each) for each in found])
    if not found:
        words = "No load balancer stands before a service that nodes forward to each other"
        yield Outcome(Verdict.OK, f"{words} ({values.spoken(value)}).", shown)
        return
    exempt = case.value(node, OPT_OUT) if case.minor >= OPT_OUT_FROM else None
    if exempt is not None and exempt.value:
        yield unknown(
            f"{values.spoken(exempt)}: whether that holds the addresses from which the load "
            f"balancers of {names} come is not known here.",
            *shown, values.shown(case, exempt),
            remedy="Compare them with the load balancers' own addresses (or the clients', where "
            "those are kept).",
        )  # fmt: skip
        return
    remedy = values.advice(value, TUNNEL)
    if exempt is not None:
        remedy += f" Or list the load balancers' clients in {OPT_OUT}."
    cloud = _cloud(case)
    if not cloud:
        yield unknown(
            f"{values.spoken(value)}, and {names} of type LoadBalancer: a load balancer that "
            "expects the answers by itself loses them; which kind stands there is not known.",
            *shown, remedy=f"If it does: {remedy[0].lower()}{remedy[1:]}",
        )  # fmt: skip
        return
    yield Outcome(
        Verdict.FAIL,
        f"{values.spoken(value)}, and load balancers of {cloud} before {names}: answers of "
        "backends on other nodes do not go back through them, and are lost.",
        shown,
        remedy=remedy,
        corrected=_PAGE_LB if exempt is not None else "",
    )


def _is_balanced(service: Object) -> bool:
    """A load balancer has answered for it, and nodes may forward what it sends to other nodes."""
    spec = service.get("spec") or {}
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress")
    everywhere = spec.get("externalTrafficPolicy") != "Local"
    return spec.get("type") == "LoadBalancer" and bool(ingress) and everywhere


def _name(service: Object) -> str:
    return f"{service['metadata'].get('namespace', '')}/{service['metadata']['name']}"


def _lines(services: list[Object]) -> list[str]:
    return [
        f"{_name(each)}: LoadBalancer "
        + ", ".join(
            str(one.get("ip") or one.get("hostname"))
            for one in each["status"]["loadBalancer"]["ingress"]
        )
        for each in services
    ] or ["none of type LoadBalancer with an address and externalTrafficPolicy Cluster"]


def _cloud(case: Case) -> str:
    for node in case.nodes:
        try:
            if found := clouds.cloud(case, node):
                return found
        except Missing:
            continue
    return ""


# ------------------------------------------------------------------------------------ B8


def foreign_sources(case: Case, node: str) -> Iterator[Outcome]:
    """B8: whether the underlay carries what a node sends with another node's address."""
    value, otherwise = _mode(case, node)
    if otherwise is not None:
        yield otherwise
        return
    if len(case.nodes) < 2:
        yield not_applicable("there is only one node", case.show("nodes", excerpt=node))
        return
    tried = _tried(case, node)
    shown = (*tried.shown, values.shown(case, value))
    if tried.arrived is None:
        yield unknown(
            f"Whether the underlay carries other nodes' sources is not known: {tried.words}.",
            *shown,
        )
    elif tried.arrived:
        # Between nodes: what lies before the clients was not tried.
        yield Outcome(
            Verdict.WARN if tried.some else Verdict.OK,
            f"Between nodes the underlay carries other nodes' sources: {tried.words}.",
            shown,
            remedy="Ask again; if it stays so, look for loss in the underlay."
            if tried.some
            else "",
        )
    else:
        yield Outcome(
            Verdict.FAIL,
            f"The underlay drops packets with another node's source: {tried.words}. Answers by DSR "
            "are lost.",
            shown,
            remedy="Let the underlay carry them (source checks, reverse-path filters, port "
            f"security of virtual machines). Or: {values.advice(value, TUNNEL)}",
        )


CHECKS: tuple[Check, ...] = (
    Check(
        "B5", "dsr-aws", "With DSR on AWS: is the source/destination check off?",
        "Node ports answer only from backends on the node that was asked.",
        ("felixconfigurations", "felix-process", "cloud", SOURCE_PROBE),
        "Foreign sources that arrive are OK, that do not FAIL; awsSrcDstCheck Enable is FAIL, or "
        "WARN while they still arrive; nothing tried UNKNOWN.",
        PAGE, of_node=aws,
    ),
    Check(
        "B6", "dsr-gcp", "With DSR on Google Cloud: may the instance forward?",
        "Node ports answer only from backends on the node that was asked.",
        ("felixconfigurations", "felix-process", "cloud", SOURCE_PROBE),
        "Foreign sources that arrive are OK, that do not FAIL; nothing tried UNKNOWN.",
        PAGE, of_node=gcp,
    ),
    Check(
        "B7", "dsr-load-balancer", "With DSR: does a cloud's load balancer stand before a service?",
        "Connections through the load balancer hang; straight to a node they work.",
        ("felixconfigurations", "felix-process", "services", "cloud"),
        "DSR and a Service of type LoadBalancer with an address and externalTrafficPolicy Cluster "
        "(with Local no node forwards to another) in a cloud is FAIL; elsewhere, or with "
        "bpfDSROptoutCIDRs (v3.26 and later), UNKNOWN.",
        PAGE, of_cluster=balanced,
    ),
    Check(
        "B8", "dsr-underlay", "With DSR: does the underlay carry other nodes' sources?",
        "Node ports answer only from backends on the node that was asked.",
        ("felixconfigurations", "felix-process", SOURCE_PROBE, VXLAN_PROBE),
        "Datagrams with another node's source that leave and do not arrive, while those with the "
        "node's own do, are FAIL; some lost WARN; not sent UNKNOWN; without DSR N/A.",
        "felix/bpf-gpl (DSR); " + PAGE, of_node=foreign_sources,
    ),
)  # fmt: skip
