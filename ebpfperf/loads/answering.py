"""Whether a server is reached through its front, before anything is measured through it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ebpfperf import loads
from ebpfperf.errors import SettleError
from ebpfperf.loads.serving import NOT_FOUND, connected, missing
from ebpfperf.model import Fact

if TYPE_CHECKING:
    from ebpfperf.model import Endpoint, Flow
    from ebpfperf.remote import Node

ANSWER_S = 20.0
_CONNECT_S = 2
_POLL_S = 0.1
# The shell's own connection: no program has to be installed for it.
_CONNECT = 'exec 3<>"/dev/tcp/$0/$1"'


def connect_argv(address: str, port: int) -> list[str]:
    """The command that ends with status 0 once a TCP connection is made."""
    return ["timeout", str(_CONNECT_S), "bash", "-c", _CONNECT, address, str(port)]


def await_answer(flow: Flow, client: Endpoint, server: Endpoint, nodes: Mapping[str, Node]) -> Fact:
    """What was dialled, as a fact, once a TCP connection from the client reached the server.

    Raises
    ------
    SettleError
        None did within 20 s; says what was dialled and what the client was told.
    LoadError, NodeError
        The server could not be started, or a node could not be reached.
    """
    sender = connected(nodes, client)
    deadline = time.monotonic() + ANSWER_S
    with loads.load(flow.load).serve(replace(flow, transport="tcp"), server, nodes) as running:
        dialled = server.dialling(running.port)
        argv = connect_argv(server.dialled_address, server.dialled_port(running.port))
        while True:
            done = sender.run(client.within(argv), check=False, sudo=client.netns_pid is not None)
            if done.status == 0:
                return Fact("", f"{flow.path}_answers".replace("-", "_"), dialled)
            if done.status == NOT_FOUND:
                raise missing(sender.name, "bash")
            if time.monotonic() > deadline:
                said = done.stderr.decode("utf-8", "replace").strip().rpartition(": ")[2]
                raise SettleError(
                    f"Path {flow.path} does not answer after {ANSWER_S:g} s: {client.workload.name}"
                    f" dials {dialled} and is told: {said or 'nothing'}.",
                    "Does kube-proxy, or Felix in eBPF mode, serve Services on these nodes?",
                    evidence=f"{sender.name}: {' '.join(argv)}",
                )
            time.sleep(_POLL_S)
