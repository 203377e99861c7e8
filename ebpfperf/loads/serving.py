"""A load's server on its node: started on a free port, ready when it says so, always ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ebpfperf.errors import CommandError, CommandTimeout, LoadError, NodeError
from ebpfperf.loads.reasons import Reason

if TYPE_CHECKING:
    from ebpfperf.model import Endpoint
    from ebpfperf.remote import Completed, Node, Stream

NOT_FOUND = 127
_READY_S = 10.0
_IN_USE = ("in use", "bind socket", "errno=98")

# The server ends with its standard input: at once when we let go of it, and when we are gone.
_SERVE = """\
exec 3<&0
"$@" </dev/null 3<&- &
p=$!
(read -r _ <&3; kill "$p") >/dev/null 2>&1 &
w=$!
exec 3<&-
wait "$p"; r=$?
kill "$w" 2>/dev/null
exit "$r"
"""


@dataclass(slots=True)
class Server:
    """A server that listens on ``port``."""

    port: int
    stream: Stream
    said: bytes

    def stop(self) -> bytes:
        """End it; what it printed, its errors last."""
        done: Completed = self.stream.stop()
        return self.said + done.stdout + done.stderr


@contextmanager
def serving(
    node: Node,
    endpoint: Endpoint,
    *,
    command: Callable[[int], Sequence[str]],
    ports: Iterable[int],
    ready: bytes,
    package: str,
) -> Iterator[Server]:
    """A server inside ``endpoint``'s network namespace, for the length of the block.

    Parameters
    ----------
    command
        Port → the server's argv; it must print a line that holds ``ready`` when it listens.
    ports
        Tried in order; one in use is passed over.
    package
        Debian package that brings the program, for the sentence when it is missing.

    Raises
    ------
    LoadError
        ``missing_binary``, ``port_taken``, ``timeout`` (never ready) or ``other``.
    """
    tried: list[int] = []
    for port in ports:
        tried.append(port)
        argv = ["sh", "-c", _SERVE, "serve", *endpoint.within(list(command(port)))]
        with node.stream(argv, sudo=endpoint.netns_pid is not None) as stream:
            said = _wait_ready(stream, node, endpoint, ready=ready, package=package)
            if said is None:
                continue
            yield Server(port, stream, said)
            return
    raise LoadError(
        f"{node.name}: ports {tried[0]} to {tried[-1]} of {endpoint.workload.name} are all in use.",
        "End what listens there, or use another workload.",
        reason=Reason.PORT_TAKEN.value,
        node=node.name,
    )


def _wait_ready(
    stream: Stream, node: Node, endpoint: Endpoint, *, ready: bytes, package: str
) -> bytes | None:
    """What the server said until it listens; None when its port is in use."""
    said = b""
    try:
        while ready not in said:
            said += stream.read_line(timeout_s=_READY_S) + b"\n"
    except CommandTimeout as error:
        raise LoadError(
            f"{node.name}: the server of {endpoint.workload.name} did not say within "
            f"{_READY_S:g} s that it listens.",
            "Look at the node's load.",
            reason=Reason.TIMEOUT.value,
            node=node.name,
        ) from error
    except CommandError as error:
        done = stream.stop()
        if done.status == NOT_FOUND:
            raise missing(node.name, package) from error
        words = (said + done.stdout + done.stderr).decode("utf-8", "replace").strip()
        if any(known in words.lower() for known in _IN_USE):
            return None
        raise LoadError(
            f"{node.name}: the server of {endpoint.workload.name} ended at once: {words[-300:]}.",
            "Run it on the node to see why.",
            reason=Reason.OTHER.value,
            node=node.name,
        ) from error
    return said


def missing(node: str, package: str) -> LoadError:
    """The error for a program that a node does not have."""
    return LoadError(
        f"{node}: {package} is not installed.",
        f"Install it there: apt-get install {package}.",
        reason=Reason.MISSING_BINARY.value,
        node=node,
    )


def run_client(
    node: Node,
    argv: Sequence[str],
    *,
    endpoint: Endpoint,
    timeout_s: float,
    limit_bytes: int = 64_000_000,
) -> Completed:
    """The ended client, whatever its exit status.

    Raises
    ------
    LoadError
        ``timeout``: it did not end in time and was ended.
    NodeError
        The node could not be reached, or the client printed more than ``limit_bytes``.
    """
    try:
        return node.run(
            argv,
            timeout_s=timeout_s,
            check=False,
            sudo=endpoint.netns_pid is not None,
            limit_bytes=limit_bytes,
        )
    except CommandTimeout as error:
        raise LoadError(
            f"{node.name}: the client of {endpoint.workload.name} did not end within "
            f"{timeout_s:g} s and was ended.",
            "Check that packets of this path pass in both directions and at full size (MTU).",
            reason=Reason.TIMEOUT.value,
            node=node.name,
        ) from error


def connected(nodes: Mapping[str, Node], endpoint: Endpoint) -> Node:
    """The node that ``endpoint`` lives on; NodeError when there is no connection to it."""
    try:
        return nodes[endpoint.node]
    except KeyError:
        raise NodeError(
            f"There is no connection to node {endpoint.node}.",
            "Check the cluster's node names against the SSH host names.",
            node=endpoint.node,
        ) from None
