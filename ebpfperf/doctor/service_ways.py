"""Checks of the way of node ports between nodes: whether VXLAN passes and fits. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ebpfperf.calico.mtu import VXLAN_OVERHEAD_BYTES
from ebpfperf.diagnosis import Outcome, Verdict
from ebpfperf.doctor import underlay_pairs, values
from ebpfperf.doctor.case import Case, Missing, not_applicable, unknown
from ebpfperf.doctor.clouds import AWS, AZURE, GCP, cloud
from ebpfperf.doctor.declaration import PAGE, Check
from ebpfperf.doctor.performance_devices import pod_devices
from ebpfperf.doctor.underlay_pairs import COMPILED_IN, COMPILED_IN_UNTIL, Pair, named
from ebpfperf.evidence_sources import VXLAN_PROBE
from ebpfperf.felix_values import Effective
from ebpfperf.kube_objects import Object
from ebpfperf.network_view import Link

# Of more nodes than these one sentence says that nothing passes at all.
_FEW = 6
_OPEN = {
    AWS: "Allow UDP port {port} between the nodes in their security groups.",
    GCP: "Allow UDP port {port} between the nodes by a firewall rule of their network.",
    AZURE: "Allow UDP port {port} between the nodes in their network security groups.",
}
_OPEN_ANYWHERE = (
    "Let UDP port {port} pass between the nodes, both ways, in the underlay and in firewalls on "
    "the nodes' way; where it filters by VXLAN network: 0xCA11C0 (13242816)."
)


# ------------------------------------------------------------------------------------ B3


@dataclass(frozen=True, slots=True)
class _Blamed:
    node: str
    pairs: tuple[Pair, ...]


def vxlan_passes(case: Case) -> Iterator[Outcome]:
    """B3: whether VXLAN leaves each node and arrives at the others."""
    if len(case.nodes) < 2:
        yield not_applicable("there is only one node", case.show("nodes", excerpt=case.nodes))
        return
    pairs = underlay_pairs.vxlan(case)
    deaf = underlay_pairs.receivers_without(case, VXLAN_PROBE)
    known = [pair for pair in pairs if pair.known]
    if len(case.nodes) > _FEW and _all_lost(known):
        yield _lost_everywhere(case, known)
        return
    bad: set[str] = set()
    for each in _blamed(known):
        bad.add(each.node)
        yield _lost(case, each)
    for node in case.nodes:
        kept = [pair for pair in pairs if pair.sender == node and pair.kept_back]
        if kept:
            bad.add(node)
            yield _kept_back(case, node, kept)
        partly = [p for p in pairs if p.receiver == node and p.known and p.arrives]
        partly = [pair for pair in partly if not pair.whole]
        if partly:
            bad.add(node)
            words = "; ".join(str(pair) for pair in partly[:3])
            yield Outcome(
                Verdict.WARN, f"Some VXLAN datagrams are lost: {words}.",
                underlay_pairs.shown(case, VXLAN_PROBE, partly), node=node,
                remedy="Ask again; if it stays so, look for loss in the underlay (ip -s link).",
            )  # fmt: skip
    for node in case.nodes:
        if node in bad:
            continue
        yield _passes(case, node, pairs, deaf.get(node, ""))


def _passes(case: Case, node: str, pairs: Iterable[Pair], deaf: str) -> Outcome:
    there = case.evidence.lost.get(node, "") or deaf
    own = [pair for pair in pairs if node in (pair.sender, pair.receiver)]
    arrived = [pair for pair in own if pair.whole]
    if not arrived:
        errors = [pair.error for pair in own if pair.error]
        why = there or (errors[0] if errors else "it took no part")
        found = unknown(f"Whether VXLAN passes is not known: {why}.", case.show(VXLAN_PROBE, node))
        return Outcome(found.verdict, found.what, found.shown, node=node)
    came = [pair.sender for pair in arrived if pair.receiver == node]
    went = [pair.receiver for pair in arrived if pair.sender == node]
    if set(came) == set(went):
        others = f"{len(came)} other{'s' if len(came) > 1 else ''}"
        words = f"passes both ways between the node and {others}"
    else:
        words = f"arrives from {named(came) or 'nobody'}, and at {named(went) or 'nobody'}"
    silent = sorted({*_ends(own)} - {*_ends(arrived)})
    rest = f" Not known: {named(silent)}, which did not listen or send." if silent else ""
    return Outcome(
        Verdict.OK,
        f"VXLAN (UDP port {arrived[0].port}) {words}: all {arrived[0].sent} datagrams each way."
        + rest,
        underlay_pairs.shown(case, VXLAN_PROBE, arrived),
        node=node,
    )


def _ends(pairs: Iterable[Pair]) -> Iterator[str]:
    for pair in pairs:
        yield from (pair.sender, pair.receiver)


def _blamed(known: list[Pair]) -> Iterator[_Blamed]:
    """Failing pairs by the node that explains them: cut off both ways, then one way, then rest."""
    failing = [pair for pair in known if pair.lost]
    nodes = list(dict.fromkeys(name for p in known for name in (p.receiver, p.sender)))
    left = set(failing)
    both = [n for n in nodes if _all_lost([p for p in known if n in (p.sender, p.receiver)])]
    for node in both:
        own = tuple(p for p in failing if node in (p.sender, p.receiver))
        left -= set(own)
        yield _Blamed(node, own)
    for end in ("receiver", "sender"):
        for node in nodes:
            own = tuple(p for p in failing if p in left and getattr(p, end) == node)
            if own and _all_lost([p for p in known if getattr(p, end) == node]):
                left -= set(own)
                yield _Blamed(node, own)
    for node in nodes:
        own = tuple(p for p in failing if p in left and p.receiver == node)
        if own:
            yield _Blamed(node, own)


def _all_lost(pairs: list[Pair]) -> bool:
    return bool(pairs) and all(pair.lost for pair in pairs)


def _lost(case: Case, blamed: _Blamed) -> Outcome:
    node, pairs = blamed.node, blamed.pairs
    came = [pair.sender for pair in pairs if pair.receiver == node]
    went = [pair.receiver for pair in pairs if pair.sender == node]
    ways = [f"from {named(came)} to {node}"] if came else []
    ways += [f"from {node} to {named(went)}"] if went else []
    first = pairs[0]
    return Outcome(
        Verdict.FAIL,
        f"The underlay loses VXLAN (UDP port {first.port}) {' and '.join(ways)}: {first.left} of "
        f"{first.sent} datagrams leave {first.sender} by {', '.join(first.out)}, none arrives at "
        f"{first.receiver}.",
        underlay_pairs.shown(case, VXLAN_PROBE, pairs),
        node=node,
        remedy=_open(case, node, first.port),
        corrected=_port_note(case, first.port),
    )


def _lost_everywhere(case: Case, pairs: list[Pair]) -> Outcome:
    first = pairs[0]
    return Outcome(
        Verdict.FAIL,
        f"The underlay loses VXLAN (UDP port {first.port}) between all nodes: datagrams leave each "
        f"of {len({pair.sender for pair in pairs})} nodes, none arrives at any other.",
        underlay_pairs.shown(case, VXLAN_PROBE, pairs[:_FEW]),
        remedy=_open(case, first.receiver, first.port),
        corrected=_port_note(case, first.port),
    )


def _open(case: Case, node: str, port: int) -> str:
    try:
        text = _OPEN.get(cloud(case, node), _OPEN_ANYWHERE)
    except Missing:
        text = _OPEN_ANYWHERE
    return text.format(port=port)


def _port_note(case: Case, port: int) -> str:
    try:
        if case.minor <= COMPILED_IN_UNTIL:
            return (
                "The page says that 4789 is the default; in this release it is compiled in for "
                "node ports, whatever vxlanPort says."
            )
    except Missing:
        return ""
    if port != COMPILED_IN:
        return f"The page speaks of port 4789; vxlanPort is {port} here."
    return ""


def _kept_back(case: Case, node: str, pairs: list[Pair]) -> Outcome:
    where = named([pair.receiver for pair in pairs])
    return Outcome(
        Verdict.FAIL,
        f"VXLAN to {where} does not leave the node: "
        + (pairs[0].error or f"of {pairs[0].sent} datagrams none is seen on its way out")
        + ".",
        underlay_pairs.shown(case, VXLAN_PROBE, pairs),
        node=node,
        remedy="Look for what drops it there: host endpoint policy, iptables or nft rules in "
        "OUTPUT (iptables-save -c), Calico's program on the NIC (ebpfperf drops).",
    )


# ------------------------------------------------------------------------------------ B4


def fits(case: Case, node: str) -> Iterator[Outcome]:
    """B4: whether what node ports wrap in VXLAN fits the NICs on its way."""
    fronts = [_name(each) for each in case.services() if _from_outside(each)]
    if not fronts:
        why = "no service has a node port or an external address"
        count = f"services: {len(case.services())}, all of type ClusterIP or ExternalName"
        yield not_applicable(why, case.show("services", excerpt=count))
        return
    nic, pods = case.nic(node), _pods(case, node)
    value = case.value(node, "vxlanMTU")
    if values.is_unknown(value):
        yield unknown(f"{values.spoken(value)}.", values.shown(case, value))
        return
    room = nic.mtu_bytes - VXLAN_OVERHEAD_BYTES
    limit = int(value.value or 0) or room
    shown = (case.show("links", node, _mtus([nic, *pods])), values.shown(case, value))
    if limit > room:
        yield Outcome(
            Verdict.WARN,
            f"Node ports wrap packets of up to {limit} bytes ({values.spoken(value)}), which with "
            f"{VXLAN_OVERHEAD_BYTES} bytes of VXLAN exceed the {nic.mtu_bytes} of {nic.name}.",
            shown, remedy=_smaller(case, value, room),
        )  # fmt: skip
        return
    narrow = _narrower(case, node, limit + VXLAN_OVERHEAD_BYTES)
    if narrow:
        other, device = narrow
        fitting = device.mtu_bytes - VXLAN_OVERHEAD_BYTES
        yield Outcome(
            Verdict.WARN,
            f"Node ports wrap packets of up to {limit} bytes here; with {VXLAN_OVERHEAD_BYTES} "
            f"bytes of VXLAN they exceed the {device.mtu_bytes} of {device.name} on {other}.",
            (*shown, case.show("links", other, _mtus([device]))),
            remedy=f"Give all NICs one MTU. Or: {values.advice(value, fitting)}",
        )  # fmt: skip
        return
    big = [pod for pod in pods if pod.mtu_bytes > nic.mtu_bytes]
    if big:
        yield Outcome(
            Verdict.WARN,
            f"{big[0].name} has MTU {big[0].mtu_bytes}, more than the {nic.mtu_bytes} of "
            f"{nic.name}: large answers by node ports of other nodes stall.",
            shown,
            subject=big[0].name,
            remedy=f"Make the pods anew once their MTU is at most {room} (see check E7).",
        )
        return
    bigger = [pod for pod in pods if pod.mtu_bytes > room]
    if bigger:
        words = (
            f"Pods have MTUs of up to {bigger[0].mtu_bytes}, the NIC {nic.mtu_bytes}: "
            f"packets of more than {limit} bytes by node ports of other nodes are answered with "
            "'fragmentation needed', which clients must receive. With pods of MTU "
            f"{room} nothing depends on that."
        )
    else:
        words = f"What node ports wrap (up to {limit} bytes) fits the NIC ({nic.mtu_bytes})."
    yield Outcome(Verdict.OK, words, shown)


def _smaller(case: Case, value: Effective, room: int) -> str:
    # 0 is automatic since v3.17.
    wanted = 0 if case.minor > COMPILED_IN_UNTIL else room
    note = " (automatic)" if wanted == 0 else ""
    return f"{values.advice(value, wanted).rstrip('.')}{note}."


def _from_outside(service: Object) -> bool:
    spec = service.get("spec") or {}
    return spec.get("type") in ("NodePort", "LoadBalancer") or bool(spec.get("externalIPs"))


def _name(each: Object) -> str:
    return f"{each['metadata'].get('namespace', '')}/{each['metadata']['name']}"


def _pods(case: Case, node: str) -> list[Link]:
    """Host ends of the pods' devices, the largest MTU first."""
    return sorted(pod_devices(case, node), key=lambda link: -link.mtu_bytes)


def _narrower(case: Case, node: str, size: int) -> tuple[str, Link] | None:
    for other in case.nodes:
        try:
            nic = case.nic(other)
        except (Missing, ValueError):
            continue
        if other != node and nic.mtu_bytes < size:
            return other, nic
    return None


def _mtus(links: Iterable[Link]) -> list[str]:
    return [f"{link.name}: mtu {link.mtu_bytes}" for link in links][:6]


CHECKS: tuple[Check, ...] = (
    Check(
        "B3", "vxlan-between-nodes", "Does the underlay let VXLAN pass between the nodes?",
        "Node ports time out when the backend is on another node.",
        (VXLAN_PROBE,),
        "Datagrams that leave a node and do not arrive are FAIL (the underlay), as those that do "
        "not leave (the node); some lost WARN; all arrived OK; not sent UNKNOWN.",
        PAGE, of_cluster=vxlan_passes,
    ),
    Check(
        "B4", "node-port-mtu", "Does what node ports wrap in VXLAN fit the NICs?",
        "Large transfers by a node port stall when the backend is on another node.",
        ("links", "services", "felixconfigurations", "felix-process"),
        "A vxlanMTU above NIC − 50, another node's NIC that is narrower than what is wrapped, or a "
        "pod's MTU above the NIC's is WARN; else OK, saying where clients need 'fragmentation "
        "needed'.",
        "felix/bpf-gpl (NAT tunnel's MTU)", of_node=fits,
    ),
)  # fmt: skip
