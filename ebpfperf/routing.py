"""Whether packets between two endpoints would take the treatment's way, as the kernel tells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ebpfperf.errors import SettleError
from ebpfperf.model import Endpoint, Fact, WorkloadKind
from ebpfperf.network_view import NodeView, parse_routes
from ebpfperf.remote import Node
from ebpfperf.verify import Wanted, wanted_device, wanted_pod_mtu

Endpoints = Mapping[tuple[str, str], Endpoint]


@dataclass(frozen=True, slots=True)
class _Leg:
    """Packets that ``node`` sends to an address, and the device that they must leave by."""

    node: str
    name: str
    address: str
    device: str


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
    """Facts and what ``ip route get`` printed, once every leg of every path is right.

    Between pods and between hosts the legs are the two directions; by node port they are the
    client's way to the node that it dials, and that node's way to the server.

    Raises
    ------
    SettleError
        A node would send packets to the other end by another device than the treatment's.
    """
    facts: list[Fact] = []
    raw: dict[str, bytes] = {}
    for path in sorted({path for path, _ in endpoints}):
        client, server = endpoints[path, "client"], endpoints[path, "server"]
        label = path.replace("-", "_")
        for leg in _legs(client, server, views, wanted):
            argv = ["ip", "-j", "-4", "route", "get", leg.address]
            printed = nodes[leg.node].run(argv).stdout
            raw[f"settle.{leg.node}.{path}.route-get.json"] = printed
            route = next(iter(parse_routes(printed)), None)
            if route is None or route.device != leg.device:
                raise SettleError(
                    f"Node {leg.node} sends packets to {leg.name} ({leg.address}) by "
                    f"{route.device if route else 'no route'}, not by {leg.device}.",
                    "Is the pod's address from a pool that the campaign changes?",
                    evidence=f"{leg.node}: ip route get {leg.address}",
                )
            facts.append(Fact(leg.node, f"{label}_route", str(route)))
        for end in (client, server):
            facts.append(Fact(end.node, f"{label}_mtu", str(end.mtu_bytes), "bytes"))
            facts += _rule_facts(end, views, wanted)
    # A pod stands on several paths.
    return tuple(dict.fromkeys(facts)), raw


def _legs(
    client: Endpoint,
    server: Endpoint,
    views: Mapping[str, NodeView],
    wanted: Mapping[str, Wanted],
) -> Iterator[_Leg]:
    front = server.front
    if front is None or not front.node:
        for here, there in ((client, server), (server, client)):
            device = _wanted(here, there, views, wanted)
            yield _Leg(here.node, there.workload.name, there.address, device)
        return
    yield _Leg(client.node, front.node, front.address, client.device)
    device = server.host_device
    if front.node != server.node:
        device = wanted_device(views[front.node], views[server.node], wanted[front.node])
    yield _Leg(front.node, server.workload.name, server.address, device)


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
