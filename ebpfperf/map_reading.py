"""Calico's BPF maps of live nodes: read whole by one process a node.

``probes/node/maps.py`` runs there under the node's own Python. It opens maps for reading alone;
nothing is written on a node and nothing changed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from ebpfperf.calico.maps import DIRECTORY, versions_of
from ebpfperf.errors import CommandError
from ebpfperf.map_answers import NodeMaps, parse
from ebpfperf.mapdump import reading
from ebpfperf.remote import Node

TIMEOUT_S = 60.0
MOST_ENTRIES = 4_000_000
MOST_BYTES = 512_000_000
_NOT_FOUND = 127
_SCRIPTS = ("bpf_call", "maps")
_BOOT = """\
import json, sys, types
told = json.loads(sys.stdin.read())
for name, text in told["sources"]:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name + ".py", "exec"), module.__dict__)
sys.modules["maps"].main(told["asked"])
"""
COMMAND = ("/usr/bin/python3", "-I", "-S", "-c", _BOOT)


def read(
    node: Node, kinds: Sequence[str], *, release: str | None = None, directory: str = DIRECTORY
) -> NodeMaps:
    """The node's maps of these kinds (``reading.KINDS``), the newest version of each.

    Parameters
    ----------
    release
        Calico's, where it is known: what flags and the first word of connections mean.

    Raises
    ------
    NodeError
        The node cannot be reached, has no Python, or does not answer in time.
    """
    done = answer(node, kinds, directory=directory)
    return parse(node.name, done, purposes_of(kinds), release=release)


def purposes_of(kinds: Sequence[str]) -> list[str]:
    """The purposes of the maps of these kinds."""
    return list(dict.fromkeys(p for kind in kinds for p in reading.KINDS[kind]))


def answer(
    node: Node,
    kinds: Sequence[str],
    *,
    directory: str = DIRECTORY,
    most_entries: int = MOST_ENTRIES,
) -> bytes:
    """What the node prints of its maps of these kinds, for ``map_answers.parse``; NodeError."""
    groups = [
        list(dict.fromkeys(each.name for each in versions_of(purpose) if each.family == family))
        for purpose in purposes_of(kinds)
        for family in (4, 6, 0)
    ]
    asked = {
        "directory": directory,
        "groups": [group for group in groups if group],
        "most_entries": most_entries,
    }
    told = json.dumps({"sources": sources(), "asked": asked}).encode()
    done = node.run(COMMAND, input=told, timeout_s=TIMEOUT_S, check=False, limit_bytes=MOST_BYTES)
    if done.status:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        if done.status == _NOT_FOUND:
            said = f"{COMMAND[0]} is not installed"
        raise CommandError(
            f"The maps of {node.name} cannot be read: {said or f'status {done.status}'}.",
            "Dump them there with bpftool, and read the file with: ebpfperf maps decode.",
            node=node.name,
            status=done.status,
        )
    return done.stdout


@cache
def sources() -> tuple[tuple[str, str], ...]:
    """Names and texts of the scripts that a node runs, each after those it needs."""
    place = files("ebpfperf.probes").joinpath("node")
    return tuple((name, place.joinpath(f"{name}.py").read_text("utf-8")) for name in _SCRIPTS)
