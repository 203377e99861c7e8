"""Whether packets between two endpoints would take the treatment's way, as the kernel tells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ebpfperf.errors import SettleError
from ebpfperf.model import Endpoint, Fact, WorkloadKind
from ebpfperf.network_view import NodeView, parse_routes
from ebpfperf.remote import Node
from ebpfperf.verify import Wanted, wanted_device, wanted_pod_mtu

Endpoints = Mapping[tuple[str, str], Endpoint]


def check_mtu(
    endpoints: Iterable[Endpoint], views: Mapping[str, NodeView], wanted: Mapping[str, Wanted]
) -> None:
    """Returns when every pod has the MTU of Calico's rule, or one that its operator fixed.

    A smaller MTU than the rule's is accepted where Felix itself offers the rule's: then the CNI
    configuration holds a number. The fact ``pod_mtu_rule`` says so.

    Raises
    ------
    SettleError
        A pod has the MTU of another treatment.
    """
    for endpoint in endpoints:
        view = views[endpoint.node]
        rule = wanted_pod_mtu(view, wanted[endpoint.node])
        if rule is None or endpoint.mtu_bytes == rule:
            continue
        if endpoint.mtu_bytes < rule == view.mtu_file_bytes:
            continue
        raise SettleError(
            f"Pod {endpoint.workload.name} on {endpoint.node} has MTU {endpoint.mtu_bytes}, not "
            f"{rule} as treatment {wanted[endpoint.node].treatment.name} gives.",
            "Check mtu in the CNI configuration and mtuIfacePattern in FelixConfiguration.",
            evidence=f"{endpoint.node}: {endpoint.device} mtu {endpoint.mtu_bytes}",
        )


def check_paths(
    endpoints: Endpoints,
    views: Mapping[str, NodeView],
    wanted: Mapping[str, Wanted],
    nodes: Mapping[str, Node],
) -> tuple[tuple[Fact, ...], dict[str, bytes]]:
    """Facts and what ``ip route get`` printed, once both directions of every path are right.

    Raises
    ------
    SettleError
        A node would send packets to the other end by another device than the treatment's.
    """
    facts: list[Fact] = []
    raw: dict[str, bytes] = {}
    for path in sorted({path for path, _ in endpoints}):
        client, server = endpoints[path, "client"], endpoints[path, "server"]
        for here, there in ((client, server), (server, client)):
            name = here.node
            printed = nodes[name].run(["ip", "-j", "-4", "route", "get", there.address]).stdout
            raw[f"settle.{name}.{path}.route-get.json"] = printed
            device = _wanted(here, there, views, wanted)
            route = next(iter(parse_routes(printed)), None)
            if route is None or route.device != device:
                raise SettleError(
                    f"Node {name} sends packets to {there.workload.name} ({there.address}) by "
                    f"{route.device if route else 'no route'}, not by {device}.",
                    "Is the pod's address from a pool that the campaign changes?",
                    evidence=f"{name}: ip route get {there.address}",
                )
            facts.append(Fact(name, f"{path}_route".replace("-", "_"), str(route)))
            facts.append(Fact(name, f"{path}_mtu".replace("-", "_"), str(here.mtu_bytes), "bytes"))
            facts += _rule_facts(here, views, wanted)
    return tuple(facts), raw


def _wanted(
    here: Endpoint, there: Endpoint, views: Mapping[str, NodeView], wanted: Mapping[str, Wanted]
) -> str:
    if here.workload.kind is WorkloadKind.HOST:
        return here.device
    return wanted_device(views[here.node], views[there.node], wanted[here.node])


def _rule_facts(
    endpoint: Endpoint, views: Mapping[str, NodeView], wanted: Mapping[str, Wanted]
) -> list[Fact]:
    if endpoint.workload.kind is WorkloadKind.HOST:
        return []
    rule = wanted_pod_mtu(views[endpoint.node], wanted[endpoint.node])
    if rule is None:
        return [Fact(endpoint.node, "pod_mtu_rule", "UNKNOWN: set from elsewhere", "bytes")]
    return [Fact(endpoint.node, "pod_mtu_rule", str(rule), "bytes")]
