"""Reads what nodes count of dropped packets: one process a node, all nodes at once.

``probes/node/drop_counters.py`` runs there under the node's own Python; nothing is written on a
node and nothing changed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from ebpfperf import reach
from ebpfperf.calico.counters import PIN
from ebpfperf.calico.maps import DIRECTORY
from ebpfperf.conditions import COMMAND, sources
from ebpfperf.drop_counts import NodeCounts, parse
from ebpfperf.drop_differences import NodeDrops, between
from ebpfperf.errors import InputError, NodeError
from ebpfperf.remote import Node

TIMEOUT_S = 20.0
_SCRIPTS = ("maps", "drop_counters")


def question() -> bytes:
    """What a node's ``conditions.COMMAND`` is told, so that it prints its counts once."""
    asked = {"directory": DIRECTORY, "pin": PIN}
    return json.dumps({"sources": sources(*_SCRIPTS), "asked": asked}).encode()


@dataclass(slots=True)
class Watched:
    """Nodes that are read again and again; a context manager that closes their connections.

    Attributes
    ----------
    lost
        Node → why it is not read.
    """

    nodes: Mapping[str, Node]
    release: str | None = None
    lost: dict[str, str] = field(default_factory=dict)

    @classmethod
    def connect(
        cls, names: Sequence[str], *, ssh_config: Path | None, release: str | None = None
    ) -> Self:
        """The nodes that SSH reaches; the others are in ``lost``.

        Raises
        ------
        ConnectError
            It reaches none of them.
        """
        nodes, refused = reach.log_in(names, ssh_config=ssh_config)
        if not nodes:
            raise next(iter(refused.values()))
        lost = {name: f"not read: {error.what}" for name, error in refused.items()}
        return cls(nodes, release, lost)

    def read(self) -> dict[str, NodeCounts]:
        """Node → its counts; a node that cannot say is in ``lost`` from then on."""
        told = question()
        names = [name for name in self.nodes if name not in self.lost]

        def ask(name: str) -> NodeCounts | None:
            try:
                done = self.nodes[name].run(COMMAND, input=told, timeout_s=TIMEOUT_S, check=False)
            except NodeError as error:
                self.lost[name] = f"cannot be read: {error.what}"
                return None
            if done.status != 0:
                said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
                self.lost[name] = f"cannot be read: {said or f'status {done.status}'}"
                return None
            try:
                return parse(name, json.loads(done.stdout))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self.lost[name] = f"cannot be read: its answer is unreadable ({error!r})"
                return None

        with ThreadPoolExecutor(max_workers=min(16, len(names) or 1)) as pool:
            found = zip(names, pool.map(ask, names), strict=True)
            return {name: counts for name, counts in found if counts is not None}

    def follow(self, interval_s: float) -> Iterator[list[NodeDrops]]:
        """What each node dropped in each interval, without a gap, for as long as somebody asks.

        Raises
        ------
        InputError
            None of the nodes forwards by eBPF, or none can be read.
        """
        before = self.read()
        self._refuse(before)
        while True:
            time.sleep(interval_s)
            after = self.read()
            yield [
                between(before[name], counts, release=self.release)
                for name, counts in after.items()
                if name in before
            ]
            before = after

    def close(self) -> None:
        """Close the connections."""
        for node in self.nodes.values():
            node.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refuse(self, found: Mapping[str, NodeCounts]) -> None:
        if any(counts.has_bpf for counts in found.values()):
            return
        if not found:
            raise InputError(
                f"No node can be read: {'; '.join(f'{n}: {t}' for n, t in self.lost.items())}.",
                "A node needs python3 and root, by sudo -n.",
            )
        names = ", ".join(found)
        raise InputError(
            f"No BPF program of Calico's is on {names}, and no counters either.",
            "Is bpfEnabled on? See ebpfperf felix show --field bpfEnabled.",
        )
