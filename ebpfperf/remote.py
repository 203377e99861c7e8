"""A node reached by SSH: run a command, keep one running, move a file.

``Node`` and ``Stream`` are the seam; ``SSHNode`` is the real thing, ``ReplayNode`` (in
``ebpfperf.replay``) answers from a recording. Commands are lists of arguments; the one place that
quotes is ``_Session.open``. Whatever is started on a node runs in a process group of its own, which
ends with the command's time limit, with the connection, and with this process, kill -9 included.
"""

from __future__ import annotations

import contextlib
import select
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import paramiko

from ebpfperf.errors import CommandError, CommandTimeout, ConnectError, NodeError, OutputLimitError
from ebpfperf.ssh_config import open_client

# $1: bytes of input that follow on stdin (kept aside first: the lifeline reads the same stdin); the
# rest: the command. Stdin stays open as a lifeline: when it ends (we closed it, or the connection
# is gone), the command's process group is ended.
_RUN = """\
n=$1; shift
exec 3<&0
if [ "$n" -gt 0 ]; then
  t=$(mktemp) && head -c "$n" <&3 >"$t" && exec 4<"$t" && rm -f "$t" || exit 125
else
  exec 4</dev/null
fi
setsid "$@" <&4 3<&- 4<&- &
p=$!
(read -r _ <&3; kill -TERM -"$p"; sleep 1; kill -KILL -"$p") >/dev/null 2>&1 &
w=$!
exec 3<&-
wait "$p"; r=$?
kill "$w" 2>/dev/null
exit "$r"
"""

# The command owns stdin; the lifeline is the SSH server's process for this session. The first line
# on stderr is the process group, so that it can be ended from a second session.
_STREAM = """\
exec 3<&0
setsid "$@" <&3 3<&- &
p=$!
exec 3<&- </dev/null
echo "$p" >&2
(while [ -d "/proc/$PPID" ]; do sleep 1; done; kill -TERM -"$p"; sleep 1; kill -KILL -"$p") \
>/dev/null 2>&1 &
w=$!
wait "$p"; r=$?
kill "$w" 2>/dev/null
exit "$r"
"""

_CHUNK = 1 << 16
_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended: its status and what it printed. Above 128: ended by a signal."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes
    duration_s: float

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode("utf-8", "replace")


class Stream(Protocol):
    """A running command with its own stdin; a context manager that stops it."""

    def read_line(self, *, timeout_s: float) -> bytes:
        """One line without its newline. CommandTimeout; CommandError when the output ended."""
        ...

    def write_line(self, line: bytes) -> None:
        """Send one line to its stdin."""
        ...

    def stop(self, *, timeout_s: float = 5.0) -> Completed:
        """End it: stdin closed, then TERM, then KILL to its process group. Idempotent."""
        ...

    def wait(self, *, timeout_s: float) -> Completed:
        """Its own end; on CommandTimeout its process group was ended."""
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
    """A machine that commands can be run on. ``name`` is its Kubernetes node name."""

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
        """The ended command. CommandError (if ``check``), CommandTimeout, OutputLimitError."""
        ...

    def put(self, data: bytes, path: str, *, mode: int = 0o644) -> None:
        """Write a file whole or not at all."""
        ...

    def get(self, path: str, *, limit_bytes: int = 64_000_000) -> bytes:
        """A file's content."""
        ...

    def stream(
        self, argv: Sequence[str], *, sudo: bool = True, limit_bytes: int = 16_000_000
    ) -> Stream:
        """A command left running."""
        ...

    def close(self) -> None:
        """End the connection, and with it whatever still runs over it. Idempotent."""
        ...


class SSHNode:
    """A node reached by SSH: one connection, many sessions. Safe to use from several threads."""

    def __init__(self, name: str, client: paramiko.SSHClient) -> None:
        self.name = name
        self._client = client
        self._root: bool | None = None

    @classmethod
    def connect(
        cls, host_alias: str, *, ssh_config: Path | None = None, timeout_s: float = 10.0
    ) -> SSHNode:
        """A connected node. HostKeyError, ConnectError."""
        client = open_client(host_alias, config_path=ssh_config, timeout_s=timeout_s)
        return cls(host_alias, client)

    @property
    def alive(self) -> bool:
        """Whether the connection still stands."""
        transport = self._client.get_transport()
        return transport is not None and transport.is_active()

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
        session = self._session(_RUN, (str(len(data)), *argv), argv, sudo, limit_bytes)
        with session.ending():
            if data:
                session.send(data, timeout_s=timeout_s)
            done = session.finish(timeout_s)
        if check and done.status != 0:
            message = done.stderr.decode("utf-8", "replace").strip()[-500:]
            raise CommandError(
                f"{self.name}: {shlex.join(argv)[:200]} ended with status {done.status}"
                f"{': ' + message if message else ''}.",
                "Run it on the node to see why.",
                node=self.name,
                argv=tuple(argv),
                status=done.status,
                stderr=message,
            )
        return done

    def put(self, data: bytes, path: str, *, mode: int = 0o644) -> None:
        """Write a file whole or not at all; see ``Node.put``."""
        script = 'umask 077; cat >"$1.part" && chmod "$2" "$1.part" && mv -f "$1.part" "$1"'
        self.run(["sh", "-c", script, "put", path, f"{mode:o}"], input=data)

    def get(self, path: str, *, limit_bytes: int = 64_000_000) -> bytes:
        """A file's content; see ``Node.get``."""
        return self.run(["cat", "--", path], limit_bytes=limit_bytes).stdout

    def stream(
        self, argv: Sequence[str], *, sudo: bool = True, limit_bytes: int = 16_000_000
    ) -> SSHStream:
        """A command left running; see ``Node.stream``."""
        session = self._session(_STREAM, tuple(argv), argv, sudo, limit_bytes)
        return SSHStream(self, session)

    def close(self) -> None:
        """End the connection; see ``Node.close``."""
        self._client.close()

    def _session(
        self, script: str, arguments: tuple[str, ...], argv: Sequence[str], sudo: bool, limit: int
    ) -> _Session:
        prefix = ["sudo", "-n", "--"] if sudo and not self._is_root() else []
        command = [*prefix, "sh", "-c", script, "ebpfperf", *arguments]
        transport = self._client.get_transport()
        try:
            if transport is None or not transport.is_active():
                raise EOFError("the connection is closed")
            return _Session(self.name, transport, command, tuple(argv), limit)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise _lost(self.name, error) from error

    def _is_root(self) -> bool:
        if self._root is None:
            self._root = True  # the question itself needs no sudo
            self._root = self.run(["id", "-u"], sudo=False).text.strip() == "0"
        return self._root


class SSHStream:
    """A command running over SSH; see ``Stream``."""

    def __init__(self, node: SSHNode, session: _Session) -> None:
        self._node = node
        self._session = session
        self._done: Completed | None = None

    def read_line(self, *, timeout_s: float) -> bytes:
        """One line without its newline; see ``Stream.read_line``."""
        line = self._session.line(timeout_s)
        if line is None:
            done = self.stop()
            message = self._stderr(done).decode("utf-8", "replace").strip()[-500:]
            raise CommandError(
                f"{self._node.name}: {shlex.join(done.argv)[:200]} ended while it was needed"
                f"{': ' + message if message else ''}.",
                "Run it on the node to see why.",
                node=self._node.name,
                argv=done.argv,
                status=done.status,
                stderr=message,
            )
        return line

    def write_line(self, line: bytes) -> None:
        """Send one line; see ``Stream.write_line``."""
        self._session.send(line + b"\n", timeout_s=_GRACE_S)

    def stop(self, *, timeout_s: float = 5.0) -> Completed:
        """End it; see ``Stream.stop``."""
        if self._done is None:
            self._session.end_input()
            for signal, wait_s in (("", 0.3), ("TERM", timeout_s), ("KILL", timeout_s)):
                if signal:
                    self._kill(signal)
                with contextlib.suppress(CommandTimeout):
                    self._done = self._session.finish(wait_s)
                    break
            else:
                self._session.close()
                raise CommandTimeout(
                    f"{self._node.name}: {shlex.join(self._session.argv)[:200]} cannot be ended.",
                    "Look for it on the node.",
                    node=self._node.name,
                    argv=self._session.argv,
                )
            self._session.close()
        return self._trimmed()

    def wait(self, *, timeout_s: float) -> Completed:
        """Its own end; see ``Stream.wait``."""
        if self._done is None:
            try:
                self._done = self._session.finish(timeout_s)
            except CommandTimeout:
                self.stop()
                raise
            self._session.close()
        return self._trimmed()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(NodeError):
            self.stop()

    def _kill(self, signal: str) -> None:
        group, _, _ = bytes(self._session.stderr).partition(b"\n")
        if group.isdigit():
            with contextlib.suppress(NodeError):
                self._node.run(["kill", f"-{signal}", "--", f"-{group.decode()}"], check=False)

    def _stderr(self, done: Completed) -> bytes:
        return done.stderr.partition(b"\n")[2]

    def _trimmed(self) -> Completed:
        done = self._done
        assert done is not None
        return Completed(done.argv, done.status, done.stdout, self._stderr(done), done.duration_s)


class _Session:
    """One SSH session: its bytes in and out, bounded in size and time."""

    def __init__(
        self,
        name: str,
        transport: paramiko.Transport,
        command: list[str],
        argv: tuple[str, ...],
        limit_bytes: int,
    ) -> None:
        self.name = name
        self.argv = argv
        self.stdout = bytearray()
        self.stderr = bytearray()
        self._read_to = 0
        self._limit = limit_bytes
        self._start = time.monotonic()
        self._channel = transport.open_session(timeout=_GRACE_S)
        self._channel.exec_command(shlex.join(command))

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Whatever happens inside, the command is ended afterwards: its lifeline is cut."""
        try:
            yield
        finally:
            self.close()

    def send(self, data: bytes, *, timeout_s: float) -> None:
        self._channel.settimeout(timeout_s)
        try:
            view = memoryview(data)
            while view:
                view = view[self._channel.send(bytes(view[:_CHUNK])) :]
                self._pump(0)
        except TimeoutError as error:
            raise self._timeout(timeout_s) from error
        except OSError as error:
            if not self._channel.exit_status_ready():
                raise _lost(self.name, error) from error

    def end_input(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._channel.shutdown_write()

    def line(self, timeout_s: float) -> bytes | None:
        """The next line of stdout; None when the output ended without one."""
        deadline = time.monotonic() + timeout_s
        while (end := self.stdout.find(b"\n", self._read_to)) < 0:
            if self._ended():
                return None
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise self._timeout(timeout_s)
            self._pump(min(remaining, 1.0))
        line = bytes(self.stdout[self._read_to : end])
        self._read_to = end + 1
        return line

    def finish(self, timeout_s: float) -> Completed:
        """The ended command; CommandTimeout leaves the decision to end it to the caller."""
        deadline = time.monotonic() + timeout_s
        while not self._ended():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise self._timeout(timeout_s)
            self._pump(min(remaining, 1.0))
        status = self._channel.recv_exit_status()
        if status < 0:
            raise _lost(self.name, EOFError("the connection was lost"))
        return Completed(
            self.argv,
            status,
            bytes(self.stdout),
            bytes(self.stderr),
            time.monotonic() - self._start,
        )

    def close(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._channel.close()

    def _ended(self) -> bool:
        channel = self._channel
        if channel.recv_ready() or channel.recv_stderr_ready():
            return False
        if channel.closed or not channel.get_transport().is_active():
            return True
        return bool(channel.exit_status_ready() and channel.eof_received)

    def _pump(self, wait_s: float) -> None:
        """Take what has arrived, after waiting up to ``wait_s`` for something to."""
        channel = self._channel
        if wait_s > 0 and not (channel.recv_ready() or channel.recv_stderr_ready()):
            select.select([channel], [], [], wait_s if not channel.eof_received else 0.002)
        while channel.recv_ready():
            self.stdout += channel.recv(_CHUNK)
            self._check_size()
        while channel.recv_stderr_ready():
            self.stderr += channel.recv_stderr(_CHUNK)
            self._check_size()

    def _check_size(self) -> None:
        if len(self.stdout) + len(self.stderr) > self._limit:
            self.close()
            raise OutputLimitError(
                f"{self.name}: {shlex.join(self.argv)[:200]} printed more than "
                f"{self._limit:,} bytes and was ended.",
                "Ask it for less.",
                node=self.name,
                argv=self.argv,
                limit_bytes=self._limit,
            )

    def _timeout(self, timeout_s: float) -> CommandTimeout:
        return CommandTimeout(
            f"{self.name}: {shlex.join(self.argv)[:200]} did not answer within {timeout_s:g} s.",
            "Look at the node's load, or whether the command waits for something.",
            node=self.name,
            argv=self.argv,
            timeout_s=timeout_s,
        )


def _lost(name: str, error: BaseException) -> ConnectError:
    return ConnectError(
        f"{name}: the SSH connection was lost: {error or type(error).__name__}.",
        "Check the node and the network; what ran there over it was ended.",
        node=name,
    )
