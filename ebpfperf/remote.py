"""A node reached by SSH: run a command, keep one running, move a file.

``Node`` and ``Stream`` are the seam; ``SSHNode`` is the real thing, ``ReplayNode`` (in
``ebpfperf.replay``) answers from a recording. Commands are lists of arguments; nobody but
``remote_session.Session`` quotes. Whatever is started on a node runs in a process group of its own,
which ends with the command's time limit, with the connection, and with this process, kill -9
included.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import paramiko

from ebpfperf.errors import ConnectError
from ebpfperf.remote_session import HOLD, RUN, STREAM, Completed, Session, ended
from ebpfperf.remote_stream import SSHStream
from ebpfperf.ssh_connection import Connection

__all__ = ["Completed", "Node", "SSHNode", "SSHStream", "Stream"]


class Stream(Protocol):
    """A running command with its own stdin; a context manager that stops it.

    Used by one thread at a time.
    """

    def read_line(self, *, timeout_s: float) -> bytes:
        """One line of its stdout, without the newline.

        Raises
        ------
        CommandTimeout
            No whole line came in time; the command still runs.
        CommandError
            The output ended; ``status`` and the tail of ``stderr`` say how.
        """
        ...

    def write_line(self, line: bytes) -> None:
        """Send one line to its stdin; a newline is added. Quiet when the command has ended."""
        ...

    def stop(self, *, timeout_s: float = 5.0) -> Completed:
        """How it ended: stdin closed, after ``grace_s`` TERM, a second later KILL, to its group.

        Idempotent. Does not raise when the connection is gone: the status is then 255.

        Raises
        ------
        CommandTimeout
            It was not gone ``timeout_s`` after KILL.
        """
        ...

    def wait(self, *, timeout_s: float) -> Completed:
        """Its own end, whatever the status.

        Raises
        ------
        CommandTimeout
            It did not end in time; its process group was ended as by ``stop``.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class Node(Protocol):
    """A machine that commands can be run on. ``name`` is its Kubernetes node name.

    Safe to use from several threads. Every method raises ConnectError when the connection is lost.
    """

    name: str

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 30.0,
        input: bytes | None = None,
        check: bool = True,
        sudo: bool = True,
        limit_bytes: int = 16_000_000,
    ) -> Completed:
        """The ended command. What it left running in its process group ended with it.

        Parameters
        ----------
        input
            Its whole stdin; it starts when all of it has arrived. None: ``/dev/null``.
        check
            Whether a status other than 0 is an error.
        sudo
            Run as root: through ``sudo -n`` where the login user is not root.
        limit_bytes
            Bound on stdout and stderr together.

        Raises
        ------
        CommandError, CommandTimeout, OutputLimitError
            After the latter two its process group is ended.
        """
        ...

    def put(self, data: bytes, path: str, *, mode: int = 0o644) -> None:
        """Write a file as root, whole or not at all. CommandError when it cannot be written."""
        ...

    def get(self, path: str, *, limit_bytes: int = 64_000_000) -> bytes:
        """A file's content, read as root. CommandError, OutputLimitError."""
        ...

    def stream(
        self,
        argv: Sequence[str],
        *,
        sudo: bool = True,
        limit_bytes: int = 16_000_000,
        grace_s: float = 0.3,
    ) -> Stream:
        """A command left running, in a process group of its own.

        Parameters
        ----------
        limit_bytes
            Bound on what it printed and nobody read yet.
        grace_s
            Seconds between the end of its stdin and TERM; 0 for what never reads stdin.
        """
        ...

    def close(self) -> None:
        """End the connection, and with it whatever still runs over it. Idempotent."""
        ...


class SSHNode:
    """A node reached by SSH: one connection, many sessions. Safe to use from several threads.

    A connection found dead is made anew before the next command; no command is ever repeated.
    """

    def __init__(self, name: str, *, ssh_config: Path | None, timeout_s: float) -> None:
        self.name = name
        self._ssh_config = ssh_config
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._root = False
        self._closed = False

    @classmethod
    def connect(
        cls, host_alias: str, *, ssh_config: Path | None = None, timeout_s: float = 10.0
    ) -> SSHNode:
        """A connected node.

        Parameters
        ----------
        host_alias
            Looked up in ``ssh_config``, by default ``~/.ssh/config``.
        timeout_s
            For the connection and again for the login; ``ConnectTimeout`` there wins.

        Raises
        ------
        HostKeyError
            The host key is unknown or differs from the recorded one.
        ConnectError
            Name, network, login or configuration refuses.
        """
        node = cls(host_alias, ssh_config=ssh_config, timeout_s=timeout_s)
        node._transport()
        return node

    @property
    def alive(self) -> bool:
        """Whether the connection stands, as far as is known here."""
        return self._connection is not None and self._connection.alive

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 30.0,
        input: bytes | None = None,
        check: bool = True,
        sudo: bool = True,
        limit_bytes: int = 16_000_000,
    ) -> Completed:
        """The ended command; see ``Node.run``."""
        data = input or b""
        transport = self._transport()
        command = [*self._prefix(sudo), "sh", "-c", RUN, "ebpfperf", str(len(data)), *argv]
        with Session(
            self.name,
            transport,
            command=command,
            argv=argv,
            limit_bytes=limit_bytes,
            open_s=timeout_s,
        ) as session:
            if data:
                session.send(data, timeout_s=timeout_s)
            done = session.finish(timeout_s)
        if check and done.status != 0:
            raise ended(session.label, done)
        return done

    def put(self, data: bytes, path: str, *, mode: int = 0o644) -> None:
        """Write a file whole or not at all; see ``Node.put``."""
        script = (
            'umask 077; t="$1.part.$$"; cat >"$t" && chmod "$2" "$t" && mv -fT "$t" "$1" '
            '|| { rm -f "$t"; exit 1; }'
        )
        self.run(["sh", "-c", script, "put", path, f"{mode:o}"], input=data)

    def get(self, path: str, *, limit_bytes: int = 64_000_000) -> bytes:
        """A file's content; see ``Node.get``."""
        return self.run(["cat", "--", path], limit_bytes=limit_bytes).stdout

    def stream(
        self,
        argv: Sequence[str],
        *,
        sudo: bool = True,
        limit_bytes: int = 16_000_000,
        grace_s: float = 0.3,
    ) -> SSHStream:
        """A command left running; see ``Node.stream``."""
        transport = self._transport()
        prefix = self._prefix(sudo)
        command = [*prefix, "sh", "-c", STREAM, "ebpfperf", HOLD, f"{grace_s:g}", *argv]
        session = Session(self.name, transport, command=command, argv=argv, limit_bytes=limit_bytes)
        return SSHStream(session, grace_s=grace_s)

    def close(self) -> None:
        """End the connection; see ``Node.close``."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()

    def _prefix(self, sudo: bool) -> tuple[str, ...]:
        return ("sudo", "-n", "--") if sudo and not self._root else ()

    def _transport(self) -> paramiko.Transport:
        with self._lock:
            if self._closed:
                raise ConnectError(
                    f"{self.name}: the connection was closed here.",
                    "Open a new one.",
                    node=self.name,
                )
            if self._connection is None or not self._connection.alive:
                self._connection = self._open()
            return self._connection.transport

    def _open(self) -> Connection:
        if self._connection is not None:
            self._connection.close()
        connection = Connection.open(
            self.name, config_path=self._ssh_config, timeout_s=self._timeout_s
        )
        try:
            command = ["id", "-u"]
            with Session(
                self.name, connection.transport, command=command, argv=command, limit_bytes=1000
            ) as session:
                self._root = session.finish(self._timeout_s).text.strip() == "0"
        except BaseException:
            connection.close()
            raise
        return connection
