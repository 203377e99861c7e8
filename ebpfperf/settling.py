"""Watch the nodes until they show a treatment: devices, routes, MTU, a restarted Felix."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from ebpfperf.calico import felixenv
from ebpfperf.calico.encapsulation import felix_fields
from ebpfperf.calico.nodelog import FelixState, LoggedDataplane, felix_state, parse
from ebpfperf.errors import KubeError, SettleError
from ebpfperf.kube import Kube
from ebpfperf.kube_objects import pod_ready
from ebpfperf.model import Fact, Treatment
from ebpfperf.network_view import (
    LINKS_ARGV,
    ROUTES_ARGV,
    TCX_ARGV,
    NodeView,
    filters_argv,
    ipip_driver,
    parse_links,
    parse_programs,
    parse_routes,
)
from ebpfperf.remote import Node
from ebpfperf.units import UNKNOWN
from ebpfperf.verify import (
    ASSUMED_RELEASE,
    IPIP_DEVICE,
    VXLAN_DEVICE,
    Wanted,
    peer_routes,
    problems,
)

SHOWN_S = 90.0
POLL_S = 0.2
LOG_LINES = 500
# A field set to what it already meant does not restart Felix: after this long without a sign of
# one, none is coming. Felix itself takes about 2 s to exit.
RESTART_S = 20.0
MTU_FILE = "/var/lib/calico/mtu"


@dataclass(frozen=True, slots=True)
class FelixSeen:
    """What the calico-node log of a node says, or why it cannot be read."""

    state: FelixState
    unknown: str = ""
    tail: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """The nodes as they show a treatment, and the evidence."""

    views: Mapping[str, NodeView]
    facts: tuple[Fact, ...]
    raw: Mapping[str, bytes]


class Observer:
    """Reads what the measured nodes show. It changes nothing."""

    def __init__(self, kube: Kube, nodes: Mapping[str, Node], addresses: Mapping[str, str]) -> None:
        self._kube = kube
        self._nodes = nodes
        self._addresses = addresses

    def views(self, *, programs: bool = False) -> tuple[dict[str, NodeView], dict[str, bytes]]:
        """Node → what it shows, and file name → what its commands printed.

        ``programs``: whether to look for Calico's eBPF programs too.
        """
        with ThreadPoolExecutor(max_workers=len(self._nodes)) as pool:
            seen = list(pool.map(self._view, self._nodes, [programs] * len(self._nodes)))
        raw: dict[str, bytes] = {}
        for _, printed in seen:
            raw.update(printed)
        return {view.name: view for view, _ in seen}, raw

    def felix(self) -> dict[str, FelixSeen]:
        """Node → what its calico-node log says."""
        return {name: self._felix(name) for name in self._nodes}

    def calico_ready(self, name: str) -> bool:
        """Whether the node's calico-node pod is Ready; True where none is found."""
        pod = self._kube.calico_node_pod(name)
        return pod is None or pod_ready(pod)

    def _view(self, name: str, programs: bool) -> tuple[NodeView, dict[str, bytes]]:
        node = self._nodes[name]
        links = node.run(LINKS_ARGV).stdout
        routes = node.run(ROUTES_ARGV).stdout
        mtu = node.run(["cat", MTU_FILE], check=False).text.strip()
        view = NodeView(
            name,
            self._addresses[name],
            parse_links(links),
            parse_routes(routes),
            int(mtu) if mtu.isdigit() else None,
        )
        if programs and view.nic is not None:
            view = replace(view, programs=_programs(node, view.nic.name))
        return view, {f"settle.{name}.addr.json": links, f"settle.{name}.route.json": routes}

    def _felix(self, name: str) -> FelixSeen:
        nothing = FelixState(None, LoggedDataplane.UNSAID, "")
        try:
            pod = self._kube.calico_node_pod(name)
            if pod is None:
                return FelixSeen(nothing, "no calico-node pod was found for it")
            text = self._kube.logs(
                pod["metadata"]["namespace"],
                pod["metadata"]["name"],
                tail_lines=LOG_LINES,
                container=_container(pod),
            )
        except KubeError as error:
            # Reading logs is a right of its own; devices and routes still tell.
            return FelixSeen(nothing, error.what)
        return FelixSeen(felix_state(parse(text)), tail="\n".join(text.splitlines()[-40:]))


def _programs(node: Node, nic: str) -> tuple[str, ...] | None:
    """Calico's programs on the node's NIC; None where neither tc nor the pins can be read."""
    filters = node.run(filters_argv(nic), check=False)
    pins = node.run(TCX_ARGV, check=False)
    if filters.status != 0 and pins.status != 0:
        return None
    return parse_programs(filters.text, pins.text, nic)


def wanted_on(
    kube: Kube,
    node: str,
    treatment: Treatment,
    *,
    felix: Mapping[str, Any],
    pools: tuple[Mapping[str, Any], ...],
    cidrs: tuple[str, ...],
    release: str | None,
) -> Wanted:
    """What a treatment means on one node, its own Felix settings taken into account.

    Parameters
    ----------
    felix
        ``spec`` of FelixConfiguration ``default``, the treatment applied.
    pools, cidrs
        ``spec`` of every pool; CIDRs of those that the campaign changes.

    Raises
    ------
    SettleError
        The node's FelixConfiguration or calico-node's environment beats a field that the treatment
        sets, or the release has no such field, so that it would not be what it says.
    """
    fields = felix_fields(treatment, release=release)
    for field, value in fields.items():
        # The API prunes a field it does not know without a word; empty text may be left out too.
        if value not in (None, "") and field not in felix:
            raise SettleError(
                f"Calico {release or '(release not known)'} has no field {field}, so treatment "
                f"{treatment.name} cannot be shown.",
                f"Leave {field} out of the treatment, or measure a release that has it.",
            )
    env = felixenv.environment(kube.calico_node_pod(node) or {}, {*felixenv.TUNNEL_FIELDS, *fields})
    own = (kube.felix_configuration(f"node.{node}") or {}).get("spec") or {}
    for field in fields:
        if field in env or own.get(field) is not None:
            where = felixenv.variable(field) if field in env else f"node.{node}"
            raise SettleError(
                f"Treatment {treatment.name} sets {field}, but on {node} the setting {where} "
                "beats FelixConfiguration default.",
                f"Remove {where}, or leave {field} out of the treatment.",
            )
    return Wanted(
        treatment,
        felixenv.effective(felix, own, env),
        pools,
        cidrs,
        release or ASSUMED_RELEASE,
        frozenset(field for field, text in env.items() if text is None),
    )


def await_shown(
    observer: Observer,
    wanted: Mapping[str, Wanted],
    *,
    before: Mapping[str, FelixSeen],
    restart_expected: bool,
    timeout_s: float = SHOWN_S,
) -> Shown:
    """The evidence, once every node shows what is wanted of it.

    Parameters
    ----------
    before
        What the logs said before the change.
    restart_expected
        Whether the change restarts Felix; waited for where its log can be read.

    Raises
    ------
    SettleError
        Not within ``timeout_s``: says which node shows what instead of what.
    """
    begun = time.monotonic()
    names = list(wanted)
    programs = any("bpfEnabled" in felix_fields(want.treatment) for want in wanted.values())
    while True:
        views, raw = observer.views(programs=programs)
        felix = observer.felix()
        waited_s = time.monotonic() - begun
        found: list[str] = []
        for name, peer in zip(names, reversed(names), strict=True):
            found += problems(views[name], views[peer], wanted[name])
            expected = restart_expected and waited_s < RESTART_S
            found += _felix_problems(name, before[name], felix[name], expected=expected)
        _refuse_fallback(wanted, felix, before, restart_expected=restart_expected)
        if not found:
            found += [
                f"calico-node on {n} is not ready" for n in names if not observer.calico_ready(n)
            ]
        if not found:
            raw |= {f"settle.{n}.calico-node.log": felix[n].tail.encode() for n in names}
            return Shown(views, _facts(views, wanted, before, felix), raw)
        if waited_s > timeout_s:
            treatment = wanted[names[0]].treatment.name
            raise SettleError(
                f"Treatment {treatment} is not shown after {timeout_s:g} s: {'; '.join(found)}.",
                "Does Felix run on these nodes, and does nothing else (an operator) own the pools?",
                evidence="; ".join(found),
            )
        time.sleep(POLL_S)


def _felix_problems(name: str, before: FelixSeen, now: FelixSeen, *, expected: bool) -> list[str]:
    if now.unknown or now.state.pid is None:
        return []
    if now.state.leaving:
        return [f"Felix on {name} is about to restart"]
    if expected and before.state.pid is not None and now.state.pid == before.state.pid:
        return [f"Felix on {name} has not restarted"]
    return []


def _refuse_fallback(
    wanted: Mapping[str, Wanted],
    felix: Mapping[str, FelixSeen],
    before: Mapping[str, FelixSeen],
    *,
    restart_expected: bool,
) -> None:
    """SettleError at once where eBPF is asked for and the new Felix says it cannot."""
    for name, want in wanted.items():
        state = felix[name].state
        fresh = not restart_expected or state.pid != before[name].state.pid
        asked = felix_fields(want.treatment).get("bpfEnabled") is True
        if asked and fresh and state.dataplane is LoggedDataplane.UNSUPPORTED:
            raise SettleError(
                f"Felix on {name} says that its kernel does not support the eBPF dataplane and "
                f"stays on the standard one, so treatment {want.treatment.name} cannot be shown.",
                "Leave dataplane out of the treatment, or measure on nodes that support it.",
                evidence=f"{name}: calico-node log",
            )


def _facts(
    views: Mapping[str, NodeView],
    wanted: Mapping[str, Wanted],
    before: Mapping[str, FelixSeen],
    felix: Mapping[str, FelixSeen],
) -> tuple[Fact, ...]:
    facts: list[Fact] = []
    names = list(wanted)
    for name, peer in zip(names, reversed(names), strict=True):
        view, want = views[name], wanted[name]
        routes = ", ".join(map(str, peer_routes(view, views[peer], want.cidrs)))
        facts += [
            Fact(name, "peer_route", routes or f"{UNKNOWN}: the peer owns no address block yet"),
            Fact(name, "felix_process", _felix_text(before[name], felix[name])),
            Fact(name, "felix_dataplane", str(felix[name].state.dataplane)),
        ]
        facts.append(Fact(name, "ipip_driver", ipip_driver(view.link(IPIP_DEVICE))))
        for device in (IPIP_DEVICE, VXLAN_DEVICE):
            if link := view.link(device):
                label = device.split(".")[0]
                facts.append(Fact(name, f"{label}_kind", link.kind or UNKNOWN))
                facts.append(Fact(name, f"{label}_mtu", str(link.mtu_bytes), "bytes"))
        if view.programs is not None:
            facts.append(Fact(name, "nic_programs", ", ".join(view.programs) or "none"))
        if view.mtu_file_bytes is not None:
            facts.append(Fact(name, "felix_pod_mtu", str(view.mtu_file_bytes), "bytes"))
    return tuple(facts)


def _felix_text(before: FelixSeen, now: FelixSeen) -> str:
    if now.unknown or now.state.pid is None:
        return f"{UNKNOWN}: {now.unknown or 'its log names no Felix process'}"
    if before.state.pid is not None and before.state.pid != now.state.pid:
        return f"{now.state.pid} (restarted, was {before.state.pid})"
    return str(now.state.pid)


def _container(pod: Mapping[str, Any]) -> str | None:
    names = [container["name"] for container in pod["spec"].get("containers") or []]
    return "calico-node" if "calico-node" in names and len(names) > 1 else None
