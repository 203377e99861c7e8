"""The evidence as the checks ask for it: parsed once, shared by all. Pure.

Whatever is not there raises ``Missing`` with the reason; ``judge`` makes UNKNOWN of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

from ebpfperf import felix_selected, felix_values, map_answers, map_wanted
from ebpfperf import network_view as view
from ebpfperf.calico import felix_fields, felixenv
from ebpfperf.calico.felix_fields import PREFIX
from ebpfperf.calico.nodelog import FelixState, LoggedDataplane, felix_state, parse
from ebpfperf.calico.releases import minor
from ebpfperf.diagnosis import Outcome, Shown, Verdict
from ebpfperf.doctor import node_answers, node_state
from ebpfperf.doctor.node_answers import Processes
from ebpfperf.doctor.node_state import Clues, NodeState
from ebpfperf.drop_counts import NodeCounts
from ebpfperf.drop_counts import parse as parse_counts
from ebpfperf.errors import EbpfperfError
from ebpfperf.evidence import API, Evidence, Item
from ebpfperf.evidence_sources import COUNTS, LATER, LOG, MAP_KINDS, MAPS
from ebpfperf.felix_values import Effective
from ebpfperf.kube_objects import Object, internal_ip, is_windows
from ebpfperf.map_answers import NodeMaps
from ebpfperf.mapdump import reading
from ebpfperf.units import UNKNOWN

T = TypeVar("T")
EXCERPT_LINES, EXCERPT_CHARACTERS = 12, 1_200
_NOT_FOUND = 127
_SUDO = b"sudo: "
CHOSEN_IPV4 = map_wanted.CHOSEN[0]
# Whatever a parser may raise of an answer that is none.
UNREADABLE = (
    ArithmeticError, AttributeError, EbpfperfError, LookupError, RecursionError, TypeError,
    ValueError, re.error,
)  # fmt: skip


class Missing(Exception):
    """Something that a check needs was not gathered; says why."""

    def __init__(self, why: str, *shown: Shown) -> None:
        super().__init__(why)
        self.why = why
        self.shown = shown


class Case:
    """A cluster's evidence, parsed on demand and kept."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.release = evidence.release
        self._kept: dict[tuple[Any, ...], Any] = {}
        self.windows = self._windows()
        self.nodes = tuple(name for name in evidence.nodes if name not in self.windows)

    def _windows(self) -> tuple[str, ...]:
        """Nodes that run Windows: nothing is gathered of them, and no check is of them."""
        found = _or_none(
            lambda: [str(n["metadata"]["name"]) for n in self.objects("nodes") if is_windows(n)]
        )
        return tuple(name for name in self.evidence.nodes if name in (found or ()))

    # ---------------------------------------------------------------- raw

    @property
    def minor(self) -> tuple[int, int]:
        """The release as numbers, (3, 26); Missing where the cluster does not say it."""
        try:
            return minor(self.release)
        except ValueError:
            why = "the cluster does not say which release of Calico it runs"
            raise Missing(why, self.show("clusterinformation")) from None

    def released(self) -> Shown:
        """The evidence for what applies to some releases alone."""
        return self.show("clusterinformation", excerpt=f"calicoVersion: {self.release}")

    def item(self, source: str, node: str = API) -> Item:
        """The item; Missing where it was not gathered or has no answer."""
        found = self.evidence.item(source, node)
        if found is None and node in self.evidence.lost:
            raise Missing(
                f"the node was not reached: {self.evidence.lost[node]}", self.show(source, node)
            )
        if found is None:
            raise Missing(f"{source} was not gathered", self.show(source, node))
        if found.error:
            raise Missing(found.error, self.show(source, node))
        if found.status and found.content.startswith(_SUDO):
            why = f"the login may not become root: {found.text.strip().splitlines()[0]}"
            raise Missing(why, self.show(source, node))
        if found.status == _NOT_FOUND:
            tool = found.asked.split()[0]
            raise Missing(f"there is no {tool} on the node", self.show(source, node))
        return found

    def text(self, source: str, node: str = API) -> str:
        """What was printed; Missing."""
        return self.item(source, node).text

    def show(self, source: str, node: str = API, excerpt: str | Iterable[str] = "") -> Shown:
        """The evidence for an outcome, with the part that decided: given, or the beginning."""
        item = self.evidence.item(source, node)
        if item is None:
            why = self.evidence.lost.get(node)
            when = self.evidence.taken_utc if why else ""
            return Shown(source, node, "", when, f"not gathered{f': {why}' if why else ''}")
        given = excerpt if isinstance(excerpt, str) else "\n".join(excerpt)
        text = given or item.error or item.text
        lines = text.strip().splitlines()
        cut = "\n".join(lines[:EXCERPT_LINES])[:EXCERPT_CHARACTERS]
        more = " …" if len(lines) > EXCERPT_LINES or len(cut) == EXCERPT_CHARACTERS else ""
        return Shown(source, node, item.asked, item.taken_utc, (cut or "(nothing)") + more)

    # ---------------------------------------------------------------- API

    def objects(self, source: str) -> list[Object]:
        """The objects of an API source; Missing."""
        return self._keep(
            ("objects", source), lambda: cast(list[Object], json.loads(self.text(source)))
        )

    def node_object(self, node: str) -> Object:
        """The Node; Missing."""
        by_name = self._keep(
            ("nodes-by-name",),
            lambda: {each["metadata"]["name"]: each for each in self.objects("nodes")},
        )
        if node not in by_name:
            raise Missing("the API has no such node")
        return by_name[node]

    def address(self, node: str) -> str:
        """The IPv4 address that Calico chose, where it says so, or the first InternalIP; Missing.

        With several NICs it need not be the kubelet's.
        """
        own = self.node_object(node)
        chosen = (own["metadata"].get("annotations") or {}).get(CHOSEN_IPV4)
        found = str(chosen).partition("/")[0] if chosen else internal_ip(own)
        if found is None:
            raise Missing("the node has no IPv4 InternalIP")
        return found

    def services(self) -> list[Object]:
        """All Services; Missing."""
        return self.objects("services")

    def slices(self, *, later: bool = False) -> list[Object]:
        """All EndpointSlices, by the first or the later reading; Missing."""
        return self.objects("endpointslices" + (LATER if later else ""))

    def pools(self) -> dict[str, Mapping[str, Any]]:
        """Name → spec of every IPPool; Missing."""
        return {
            str(each["metadata"]["name"]): each.get("spec") or {}
            for each in self.objects("ippools")
        }

    def calico_pod(self, node: str) -> Object | None:
        """The node's calico-node pod, its newest; Missing."""
        return self._keep(("calico-pods",), self._calico_pods).get(node)

    def _calico_pods(self) -> dict[str, Object]:
        own = [
            pod
            for pod in self.objects("pods")
            if (pod["metadata"].get("labels") or {}).get("k8s-app") == "calico-node"
        ]
        own.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
        return {str((pod.get("spec") or {}).get("nodeName")): pod for pod in own}

    # ---------------------------------------------------------------- Felix

    def felix(self, node: str) -> felix_values.Evidence:
        """What decides on the node's Felix; Missing where resources or release are."""
        return self._keep(("felix", node), lambda: self._felix(node))

    def value(self, node: str, field: str) -> Effective:
        """What the node's Felix acts on for a field; Missing where the release lacks the field."""
        _ = self.minor
        wanted = felix_fields.field(field)
        if not wanted.settable(self.release):
            raise Missing(f"{self.release} has no field {field}")
        return felix_values.value_of(self.felix(node), wanted)

    def logged(self, node: str) -> FelixState:
        """What the newest Felix of the node's log said; Missing without a log."""
        return self._keep(("log", node), lambda: felix_state(parse(self.text(LOG, node))))

    def wants_ebpf(self, node: str) -> bool:
        """Whether somebody told the node's Felix to forward by eBPF, able or not; Missing."""
        value = self.value(node, "bpfEnabled")
        asked = [value.value, *(given.value for given in value.shadowed)]
        if value.origin is felix_values.Origin.OVERRIDE:
            asked = asked[1:]
        if asked and str(asked[0]).startswith(UNKNOWN):
            raise Missing(f"bpfEnabled is not known: {asked[0]}")
        return bool(asked) and asked[0] is True

    def state(self, node: str) -> NodeState:
        """Whether the node forwards by eBPF, or has fallen back, or that is not known."""
        return self._keep(("state", node), lambda: self._state(node))

    def _state(self, node: str) -> NodeState:
        clues = Clues(
            _or_none(lambda: self.logged(node).dataplane),
            _or_none(lambda: self.wants_ebpf(node)),
            _or_none(lambda: tuple(self.programs(node).calico_devices)),
        )
        return node_state.state(clues, log=LOG, counts=COUNTS, resources="felixconfigurations")

    def _felix(self, node: str) -> felix_values.Evidence:
        _ = self.minor
        resources = self.objects("felixconfigurations")
        specs = {str(each["metadata"]["name"]): each.get("spec") or {} for each in resources}
        remarks: list[str] = []
        environment: dict[str, str | None] | None = None
        file: dict[str, str] | None = None
        try:
            environment, file = felix_values.parse_printed(self.text("felix-process", node))
        except Missing as missing:
            remarks.append(missing.why)
        # What the process itself has is all of it: the pod need not be known as well.
        pod = self.calico_pod(node) if environment is None else None
        if pod is not None:
            environment = {
                name: text
                for name, text in felixenv.variables(pod).items()
                if name.startswith(PREFIX)
            }
        try:
            unsupported = self.logged(node).dataplane is LoggedDataplane.UNSUPPORTED
        except Missing:
            unsupported = False
        return felix_values.Evidence(
            node,
            self.release,
            default=specs.get("default"),
            own=specs.get(f"node.{node}"),
            selected=felix_selected.selected(resources),
            labels=_or_none(lambda: felix_selected.labels_of(self.node_object(node))),
            environment=environment,
            file=file,
            pools=_or_none(self.pools),
            unsupported=unsupported,
            remarks=tuple(remarks),
        )

    # ---------------------------------------------------------------- node

    def links(self, node: str) -> tuple[view.Link, ...]:
        """The node's devices; Missing."""
        return self._keep(
            ("links", node), lambda: view.parse_links(self.item("links", node).content)
        )

    def nic(self, node: str) -> view.Link:
        """The device that carries the node's InternalIP; Missing."""
        address = self.address(node)
        found = view.link_of(self.links(node), address)
        if found is None:
            raise Missing(f"no device carries {address}", self.show("links", node))
        return found

    def routes(self, node: str) -> tuple[view.Route, ...]:
        """The node's IPv4 routes of all tables but ``local``; Missing."""
        return self._keep(
            ("routes", node), lambda: node_answers.parse_routes(self.text("routes", node))
        )

    def default_devices(self, node: str) -> tuple[str, ...]:
        """The devices of the main table's IPv4 default routes; Missing."""
        routes = node_answers.parse_routes(self.text("routes", node), main=True)
        ways = (route for route in routes if route.destination in ("default", "0.0.0.0/0"))
        return tuple(dict.fromkeys(route.device for route in ways if route.device))

    def settings(self, node: str) -> Mapping[str, str]:
        """Sysctl (``net.ipv4.ip_forward``) → value, as far as the node has them; Missing."""
        return self._keep(
            ("settings", node), lambda: node_answers.parse_settings(self.text("settings", node))
        )

    def processes(self, node: str, *, later: bool = True) -> Processes:
        """calico-node, kube-proxy and iperf3 there, by the later or first reading; Missing."""
        source = "processes" + (LATER if later else "")
        return self._keep(
            (source, node), lambda: node_answers.parse_processes(self.text(source, node))
        )

    def maps(self, node: str) -> NodeMaps:
        """Calico's maps of services, connections and routes; Missing."""
        return self._keep(("maps", node), lambda: self._maps(node))

    def _maps(self, node: str) -> NodeMaps:
        purposes = dict.fromkeys(p for kind in MAP_KINDS for p in reading.KINDS[kind])
        try:
            return map_answers.parse(
                node, self.item(MAPS, node).content, list(purposes), release=self.release or None
            )
        except EbpfperfError as error:
            raise Missing(error.what, self.show(MAPS, node, error.what)) from error

    def programs(self, node: str) -> NodeCounts:
        """Programs on devices by the newest reading that there is; Missing."""
        try:
            return self.counts(node)
        except Missing:
            return self.counts(node, later=False)

    def counts(self, node: str, *, later: bool = True) -> NodeCounts:
        """Programs on devices and what is counted of drops, by the later or first reading."""
        source = COUNTS + (LATER if later else "")
        return self._keep(
            (source, node), lambda: parse_counts(node, json.loads(self.text(source, node)))
        )

    def forget_maps(self, node: str) -> None:
        """Keep a node's maps no longer; whoever asks for them again has them read again."""
        self._kept.pop(("maps", node), None)

    def kept(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """What ``make`` gives, made once for a key; Missing each time where it is."""
        return self._keep(key, make)

    def _keep(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        if key not in self._kept:
            try:
                self._kept[key] = make()
            except Missing as missing:
                self._kept[key] = missing
        found = self._kept[key]
        if isinstance(found, Missing):
            raise found
        return cast(T, found)


def asked(ask: Callable[[], Iterable[Outcome]], node: str) -> list[Outcome]:
    """What a rule finds of a node, or of the cluster; what is missing is UNKNOWN."""
    try:
        found = list(ask())
    except Missing as missing:
        why = missing.why.rstrip(".")
        found = [unknown(f"{why[:1].upper()}{why[1:]}.", *missing.shown)]
    except UNREADABLE as error:
        found = [unknown(f"The evidence cannot be read: {error!r}.")]
    return [each if each.node else replace(each, node=node) for each in found]


def _or_none(ask: Callable[[], T]) -> T | None:
    """What is asked for, or None where it is missing or cannot be read."""
    try:
        return ask()
    except (Missing, *UNREADABLE):
        return None


def unknown(why: str, *shown: Shown, subject: str = "", remedy: str = "") -> Outcome:
    """UNKNOWN, with its reason."""
    return Outcome(Verdict.UNKNOWN, why, shown, subject=subject, remedy=remedy)


def not_applicable(why: str, *shown: Shown) -> Outcome:
    """N/A, with its reason."""
    return Outcome(Verdict.NOT_APPLICABLE, why, shown)
