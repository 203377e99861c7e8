"""One Python on each node that holds a campaign's BPF programs: loaded once, armed per trial.

``node/observer.py`` runs there under the node's own Python, with one script a probe beside it; they
travel as the first line of its stdin, so that no file is written on the node. Nodes that share a
kernel (one boot_id, one PID namespace) share its programs too, which are loaded once.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

from ebpfperf.errors import CommandError, CommandTimeout, NodeError, ProbeError
from ebpfperf.model import PROBE_SHARE_PCT, Endpoint, Fact, Flow
from ebpfperf.probes import answers, ends

if TYPE_CHECKING:
    from ebpfperf.probes import Probe
    from ebpfperf.remote import Node, Stream

T = TypeVar("T")


# What the observer and the probes stand on.
_SCRIPTS = ("ground", "btf", "counting", "bpf_call", "attached", "programs", "opening")
# Scripts that one probe needs besides its own.
_OF_PROBES = {"hops": ("hops_programs",)}
# Modules by name, then the observer itself.
_BOOT = """\
import importlib.util, json, sys
sources = json.loads(sys.stdin.readline())
class Finder:
    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name in sources else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        exec(compile(sources[module.__name__], module.__name__ + ".py", "exec"), module.__dict__)
sys.meta_path.insert(0, Finder())
import observer
observer.main()
"""
COMMAND = ("/usr/bin/python3", "-u", "-c", _BOOT)
# Emulated machines take half a minute to compile.
_LOAD_S, _ANSWER_S = 180.0, 30.0
_LIMIT_BYTES = 64_000_000
_NOT_FOUND = 127

_REMEDIES = {
    "no_bcc": "Install it there: apt-get install python3-bpfcc.",
    "no_python": "Install it there: apt-get install python3 python3-bpfcc.",
    "no_headers": "Install it there: apt-get install linux-headers-$(uname -r).",
    "no_permission": "Log in as root, or let the user sudo without a password.",
    "no_tracefs": "Mount it there: mount -t tracefs tracefs /sys/kernel/tracing.",
}


@dataclass(slots=True)
class _Observer:
    """The conversation with one node's Python."""

    node: str
    stream: Stream
    kernel: str = ""
    pid: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, question: Any, *, expect: str, timeout_s: float = _ANSWER_S) -> dict[str, Any]:
        """The answer to a question; ProbeError, NodeError."""
        try:
            with self.lock:
                self.stream.write_line(json.dumps(question).encode())
                answer: dict[str, Any] = json.loads(self.stream.read_line(timeout_s=timeout_s))
        except CommandTimeout as error:
            raise failed(self.node, "timeout", f"No answer within {timeout_s:g} s.") from error
        except CommandError as error:
            missing = error.fields.get("status") == _NOT_FOUND
            said = str(error.fields.get("stderr", "")) or str(error)
            raise failed(self.node, "no_python" if missing else "ended", said) from error
        except ValueError as error:
            raise failed(self.node, "unreadable", f"Its answer is no JSON: {error}.") from error
        if answer.get("event") != expect:
            reason = str(answer.get("reason", "unreadable"))
            raise failed(self.node, reason, str(answer.get("message", "")))
        return answer


class Observers:
    """The probes of a campaign that run on the nodes.

    Parameters
    ----------
    share
        Part of the time for which each probe that costs something is on, 0 to 1; at 1 all of them
        are on for as long as they are armed.
    whole
        Count from when the probes are armed until they are read, not in the flow's steady window.
    options
        Probe name → what its node script is told when it is loaded.
    """

    def __init__(
        self,
        probes: Iterable[Probe],
        *,
        share: float = PROBE_SHARE_PCT / 100,
        whole: bool = False,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._probes = {probe.name: probe for probe in probes}
        self._share, self._whole = share, whole
        self._options = dict(options or {})
        self._observers: dict[str, _Observer] = {}
        # Node → the node whose observer holds the programs of their common kernel.
        self._leaders: dict[str, str] = {}
        # Node → probe → why it cannot run there.
        self._refused: dict[str, dict[str, ProbeError]] = {}
        self._skipped: dict[str, str] = {}
        # Node → the probes armed there and the flow's ends that it watches.
        self._armed: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}

    def attach(self, nodes: Mapping[str, Node]) -> tuple[Fact, ...]:
        """What each node can and cannot do, as facts: ``probes_…`` and ``<probe>_…``.

        A probe that a node cannot run has there one fact ``<probe>_variant`` with the reason.

        Raises
        ------
        NodeError
            A node could not be reached. Nothing is left behind.
        """
        self.detach()
        if not self._probes:
            return ()
        try:
            self._each(nodes, lambda name: self._start(nodes[name]))
            first: dict[str, str] = {}
            for name in (name for name in nodes if name in self._observers):
                kernel = self._observers[name].kernel
                self._leaders[name] = first.setdefault(kernel, name)
            loaded = self._each(self._observers, self._load)
        except NodeError:
            self.detach()
            raise
        for node, leader in self._leaders.items():
            refused = self._refused[leader].items()
            whole = {name: why for name, why in refused if not self._probes[name].per_node}
            self._refused[node] |= whole
        return tuple(fact for facts in loaded.values() for fact in facts)

    def refused(self) -> dict[str, str]:
        """Probe → why no node can run it."""
        nodes = self._refused.values()
        return {
            name: str(next(iter(reasons[name] for reasons in nodes)))
            for name in self._probes
            if self._refused and all(name in reasons for reasons in nodes)
        }

    def arm(
        self, names: Iterable[str], flow: Flow, client: Endpoint, server: Endpoint
    ) -> dict[str, str]:
        """Watch ``flow`` with those probes from now on; live on return. Probe → why a part is not.

        Raises
        ------
        ProbeError, NodeError
            An observer does not answer.
        """
        wanted = [name for name in names if name in self._probes]
        self._armed, self._skipped = {}, {}
        for name in wanted:
            if why := self._probes[name].skip(flow):
                self._skipped[name] = why
        watched = [name for name in wanted if name not in self._skipped]
        places: dict[str, list[dict[str, Any]]] = {}
        warnings: dict[str, str] = {}
        for end in ends.both(flow, client, server):
            node = end["node"]
            leader = self._leaders.get(node, node)
            observer = self._observers.get(node)
            told = {**end, "node_pid": observer.pid if observer else None}
            for holder in dict.fromkeys((leader, node)):
                places.setdefault(holder, []).append({**told, "here": node == holder})
        asked: dict[str, dict[str, Any]] = {}
        window = ends.window(flow, share=self._share).asked()
        if self._whole:
            window |= {"opens": "now", "omit_ns": 0, "length_ns": 1 << 62}
        for node, seen in places.items():
            own = [name for name in watched if self._leads(node) or self._probes[name].per_node]
            for name in own:
                if error := self._refused.get(node, {}).get(name):
                    warnings[name] = str(error)
            can = [name for name in own if name not in self._refused.get(node, {})]
            if can and node in self._observers:
                asked[node] = {"do": "arm", "ends": seen, "window": window, "probes": can}
        told_back = self._each(
            asked, lambda node: self._observers[node].ask(asked[node], expect="armed")
        )
        for node, answer in told_back.items():
            for name, why in answer["refused"].items():
                warnings[name] = str(failed(node, why["reason"], why["message"], probe=name))
            names_there = [n for n in asked[node]["probes"] if n not in answer["refused"]]
            seen_ends = tuple(str(end["end"]) for end in asked[node]["ends"])
            self._armed[node] = (tuple(names_there), seen_ends)
        return warnings

    def collect(self, *, last: bool = True) -> dict[str, dict[str, bytes]]:
        """Probe → its file, of what was seen since ``arm``; ProbeError, NodeError.

        Parameters
        ----------
        last
            Whether watching ends with it; otherwise this is a look in between.
        """
        question = {"do": "look", "last": last}
        seen = self._each(
            self._armed, lambda node: self._observers[node].ask(question, expect="seen")
        )
        found: dict[str, list[dict[str, Any]]] = {}
        for node, (names, seen_ends) in self._armed.items():
            for name in names:
                entry = {"node": node, "ends": seen_ends, "answer": seen[node]["probes"][name]}
                found.setdefault(name, []).append(entry)
        if last:
            self._armed = {}
        packed = {name: answers.pack("", kernels) for name, kernels in found.items()}
        packed |= {name: answers.pack(why, ()) for name, why in self._skipped.items()}
        return {name: {answers.file(name): data} for name, data in packed.items()}

    def rest(self) -> None:
        """Detach every program until the next ``arm``; ProbeError, NodeError."""
        self._armed = {}
        self._each(
            self._observers,
            lambda node: self._observers[node].ask({"do": "rest"}, expect="resting"),
        )

    def detach(self) -> None:
        """End what runs on the nodes. Idempotent; raises nothing."""
        for observer in self._observers.values():
            with suppress(NodeError):
                observer.stream.stop()
        self._observers, self._leaders, self._refused = {}, {}, {}
        self._armed, self._skipped = {}, {}

    def _leads(self, node: str) -> bool:
        return self._leaders.get(node, node) == node

    @staticmethod
    def _each(names: Iterable[str], do: Callable[[str], T]) -> dict[str, T]:
        """``do`` of every name at once."""
        listed = list(names)
        with ThreadPoolExecutor(max_workers=len(listed) or 1) as pool:
            return dict(zip(listed, pool.map(do, listed), strict=True))

    def _start(self, node: Node) -> None:
        """Start the observer, or note why no probe can run there."""
        stream = node.stream(COMMAND, limit_bytes=_LIMIT_BYTES)
        observer = _Observer(node.name, stream)
        try:
            told = observer.ask(sources(self._probes), expect="here", timeout_s=_LOAD_S)
        except ProbeError as error:
            self._refused[node.name] = dict.fromkeys(self._probes, error)
            with suppress(NodeError):
                stream.stop()
            return
        observer.kernel, observer.pid = str(told["kernel"]), int(told["pid"])
        self._observers[node.name] = observer

    def _load(self, node: str) -> tuple[Fact, ...]:
        own = [name for name, probe in self._probes.items() if self._leads(node) or probe.per_node]
        refused = self._refused.setdefault(node, {})
        question = {"do": "load", "probes": own, "options": self._options}
        try:
            answer = self._observers[node].ask(question, expect="loaded", timeout_s=_LOAD_S)
        except ProbeError as error:
            refused |= dict.fromkeys(own, error)
            return tuple(_unknown(node, name, error) for name in own)
        found = [Fact(node, f"probes_{name}", text) for name, text in answer["facts"].items()]
        for name, told in answer["probes"].items():
            if "reason" in told:
                refused[name] = failed(node, told["reason"], told["message"], probe=name)
                found.append(_unknown(node, name, refused[name]))
            else:
                found += [Fact(node, f"{name}_{key}", text) for key, text in told["facts"].items()]
        return tuple(found)


def sources(names: Iterable[str]) -> dict[str, str]:
    """Module name → text, of the observer and the scripts of those probes."""
    place = files("ebpfperf.probes").joinpath("node")
    wanted: list[str] = [*_SCRIPTS, "observer"]
    for name in names:
        wanted += [name, *_OF_PROBES.get(name, ())]
    return {name: place.joinpath(f"{name}.py").read_text("utf-8") for name in wanted}


def failed(node: str, reason: str, message: str, *, probe: str = "") -> ProbeError:
    """Why a node cannot run a probe, or any."""
    what = f"probe {probe} " if probe else "probes "
    return ProbeError(
        f"{node}: {what}({reason}): {message}".rstrip(),
        _REMEDIES.get(reason, "Leave the probe out, or look at the node."),
        reason=reason,
        node=node,
    )


def _unknown(node: str, name: str, error: ProbeError) -> Fact:
    return Fact(node, f"{name}_variant", f"UNKNOWN: {error.what}")
