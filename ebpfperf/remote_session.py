"""Sessions over an SSH connection: one command each, its bytes, its end.

A command runs in a process group of its own on the node, and that group ends with the session: the
session's stdin is a lifeline that a small POSIX shell holds there. It is cut when we close the
session (time limit, bound on output, Ctrl-C, any exception) and when the SSH server loses the
connection (this process killed, this machine gone). Nothing but ``sh``, ``setsid``, ``cat``,
``head`` and ``sleep`` is needed on the node.
"""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import paramiko

from ebpfperf.errors import CommandError, CommandTimeout, ConnectError, OutputLimitError

# $1: bytes of input; the rest: the command. The input comes first on stdin and is kept aside (in a
# file that has no name any more), since what follows on the same stdin is the lifeline. Input that
# came short means that the connection went: the command is not started on half of it.
# What the command leaves behind in its group ends with it.
RUN = """\
n=$1; shift; exec 3<&0
if [ "$n" -gt 0 ]; then
  t=$(mktemp) && head -c "$n" <&3 >"$t" && [ "$(wc -c <"$t")" -eq "$n" ] && exec 4<"$t"
  r=$?; rm -f "$t"; [ "$r" -eq 0 ] || exit 125
else
  exec 4</dev/null
fi
setsid "$@" <&4 3<&- 4<&- &
p=$!
(read -r _ <&3; kill -TERM -"$p"; sleep 1; kill -KILL -"$p") >/dev/null 2>&1 &
w=$!
exec 3<&- 4<&-
wait "$p"; r=$?
{ kill "$w"; kill -KILL -"$p"; } 2>/dev/null
exit "$r"
"""

# $1: HOLD; the rest: its arguments. HOLD says "<group> <status>" on descriptor 5, at the command's
# end. Whoever is left in the group then ends; the copying cat is, so the number is still ours.
STREAM = """\
h=$1; shift; exec 3<&0 4>&1 </dev/null
r=$(setsid sh -c "$h" ebpfperf "$@" 5>&1 >&4 4>&-)
kill -KILL -"${r% *}" 2>/dev/null
r=${r#* }
exit "${r:-137}"
"""

# $1: seconds between the end of the lifeline and TERM; the rest: the command. The command's stdin
# is what comes over the lifeline, copied by cat; at its end the group ($$ is its number) gets TERM,
# and a second later KILL. Not waited for here: sh would wait for both ends of the pipe.
HOLD = """\
g=$1; shift; printf '%s ' $$ >&5
(
  trap '' TERM HUP INT; exec 2>/dev/null 5>&-
  cat <&3; exec >/dev/null; cat <&3
  sleep "$g"; kill -TERM -$$; sleep 1; kill -KILL -$$
) | { trap : TERM; "$@" 3<&- 5>&-; printf %s $? >&5; } &
"""

LOST = 255

_CHUNK = 1 << 16
_SLICE_S = 0.25
_OPEN_S = 10.0
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended: its status and what it printed.

    Attributes
    ----------
    status
        Above 128: ended by signal ``status - 128``; 255 also when nobody could say.
    stdout, stderr
        Bytes as printed. Of a stream: what was not read as lines.
    duration_s
        From opening the session to its end, as seen from here.
    """

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes
    duration_s: float

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode("utf-8", "replace")


class Session:
    """One SSH session: its bytes in and out, bounded in size and time. For one thread at a time.

    Parameters
    ----------
    command
        Arguments as the node shall see them; this is the one place that quotes.
    argv
        What messages call it.
    limit_bytes
        Bound on what was printed and not yet taken.
    open_s
        How long to wait for the server to open a session (it allows so many at once) and to
        start the command: the command's own time limit. None: some seconds.

    Raises
    ------
    ConnectError
        The connection is gone, or the server opens no session in some seconds.
    CommandTimeout
        Nor in the command's time.
    """

    def __init__(
        self,
        name: str,
        transport: paramiko.Transport,
        *,
        command: Sequence[str],
        argv: Sequence[str],
        limit_bytes: int,
        open_s: float | None = None,
    ) -> None:
        self.name = name
        self.argv = tuple(argv)
        self._transport = transport
        self._limit_bytes = limit_bytes
        self._stdout = bytearray()
        self._stderr = bytearray()
        self._taken = 0
        self._scanned = 0
        self._start = time.monotonic()
        wait_s = _OPEN_S if open_s is None else open_s
        try:
            self._channel = _open_channel(transport, wait_s)
        except (paramiko.SSHException, EOFError, OSError) as error:
            # Of a connection that stands it says so only when the time is over.
            if open_s is not None and transport.is_active():
                raise self._late(open_s) from error
            raise lost(name, error) from error
        # paramiko waits for the answer without a limit; closing the channel wakes it.
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._channel.close()

        watch = threading.Timer(wait_s, give_up)
        watch.daemon = True
        watch.start()
        try:
            self._channel.exec_command(shlex.join(command))
        except (paramiko.SSHException, EOFError, OSError) as error:
            self.close()
            if open_s is not None and late.is_set() and transport.is_active():
                raise self._late(open_s) from error
            raise lost(name, error) from error
        except BaseException:
            self.close()
            raise
        finally:
            watch.cancel()

    @property
    def label(self) -> str:
        """Node and command, for messages."""
        text = shlex.join(self.argv)
        return f"{self.name}: {text if len(text) <= _SHOWN else text[:_SHOWN] + '…'}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, data: bytes, *, timeout_s: float) -> None:
        """Send bytes to its stdin. CommandTimeout, ConnectError; quiet when the command ended."""
        self._channel.settimeout(timeout_s)
        try:
            view = memoryview(data)
            while view:
                sent = self._channel.send(bytes(view[:_CHUNK]))
                if sent == 0:
                    return
                view = view[sent:]
                self._take_what_came()
        except TimeoutError as error:
            raise self._late(timeout_s) from error
        except (OSError, EOFError) as error:
            if not self._transport.is_active():
                raise lost(self.name, error) from error

    def end_input(self) -> None:
        """Cut the lifeline, gently."""
        with contextlib.suppress(OSError, EOFError):
            self._channel.shutdown_write()

    def line(self, timeout_s: float) -> bytes | None:
        """The next line of stdout; None when the output ended without one."""
        deadline = time.monotonic() + timeout_s
        while True:
            end = self._stdout.find(b"\n", max(self._taken, self._scanned))
            if end >= 0:
                break
            self._scanned = len(self._stdout)
            if not self._pump(deadline):
                raise self._late(timeout_s)
            if self._ended() and self._scanned == len(self._stdout):
                return None
        line = bytes(self._stdout[self._taken : end])
        self._taken = end + 1
        if self._taken > _CHUNK and self._taken * 2 > len(self._stdout):
            del self._stdout[: self._taken]
            self._taken = self._scanned = 0
        return line

    def finish(self, timeout_s: float) -> Completed:
        """The ended command; after CommandTimeout it still runs: the caller closes the session."""
        deadline = time.monotonic() + timeout_s
        while not self._ended():
            if not self._pump(deadline):
                raise self._late(timeout_s)
        status = self._channel.exit_status
        if status < 0 and not self._transport.is_active():
            raise lost(self.name, self._transport.get_exception())
        return self.completed(status if status >= 0 else LOST)

    def completed(self, status: int) -> Completed:
        """What has come so far, with a status."""
        duration_s = time.monotonic() - self._start
        stdout = bytes(self._stdout[self._taken :])
        return Completed(self.argv, status, stdout, bytes(self._stderr), duration_s)

    def close(self) -> None:
        """End it: the lifeline is cut and its process group ends. Idempotent."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()

    def _ended(self) -> bool:
        channel = self._channel
        # Closed is what comes last: both outputs and the status came before it. Asked first: asked
        # after the outputs, it would be true of an output that came between the two questions.
        over = channel.closed or bool(channel.eof_received and channel.exit_status_ready())
        return over and not channel.recv_ready() and not channel.recv_stderr_ready()

    def _pump(self, deadline: float) -> bool:
        """Take what comes, waiting a moment for it; False when the deadline has passed."""
        remaining_s = deadline - time.monotonic()
        slice_s = max(0.0, min(remaining_s, _SLICE_S))
        if self._channel.eof_received and not self._channel.recv_ready():
            self._channel.status_event.wait(slice_s)
        else:
            self._channel.settimeout(slice_s)
            with contextlib.suppress(TimeoutError):
                self._stdout += self._channel.recv(_CHUNK)
        self._take_what_came()
        return remaining_s > 0

    def _take_what_came(self) -> None:
        channel = self._channel
        while True:
            if channel.recv_ready():
                self._stdout += channel.recv(_CHUNK)
            elif channel.recv_stderr_ready():
                self._stderr += channel.recv_stderr(_CHUNK)
            else:
                break
            self._check_size()
        self._check_size()

    def _check_size(self) -> None:
        if len(self._stdout) - self._taken + len(self._stderr) > self._limit_bytes:
            self.close()
            raise OutputLimitError(
                f"{self.label} printed more than {self._limit_bytes:,} bytes and was ended.",
                "Ask it for less.",
                node=self.name,
                argv=self.argv,
                limit_bytes=self._limit_bytes,
            )

    def _late(self, timeout_s: float) -> CommandTimeout:
        return CommandTimeout(
            f"{self.label} did not answer within {timeout_s:g} s.",
            "Look at the node's load, or whether the command waits for something.",
            node=self.name,
            argv=self.argv,
            timeout_s=timeout_s,
        )


def ended(label: str, done: Completed) -> CommandError:
    """The error that says how a command ended, with the tail of what it said on stderr."""
    message = done.stderr.decode("utf-8", "replace").strip()[-500:]
    remedy = "Run it on the node to see why."
    if message.startswith("sudo:"):
        remedy = "Log in as root, or allow this user to run sudo without a password."
    name, _, _ = label.partition(":")
    return CommandError(
        f"{label} ended with status {done.status}{': ' + message if message else ''}.",
        remedy,
        node=name,
        argv=done.argv,
        status=done.status,
        stderr=message,
    )


def lost(name: str, error: BaseException | None) -> ConnectError:
    """The error that says that a connection is gone."""
    return ConnectError(
        f"{name}: the SSH connection was lost ({error or 'closed by the other side'}).",
        "Check the node and the network; what ran there over it was ended.",
        node=name,
    )


def _open_channel(transport: paramiko.Transport, open_s: float) -> paramiko.Channel:
    """A new session; waits while the server has as many as it allows (MaxSessions, often 10)."""
    deadline = time.monotonic() + open_s
    pause_s = 0.005
    while True:
        try:
            return transport.open_session(timeout=max(0.1, deadline - time.monotonic()))
        # Not ChannelException alone: two refusals at once lose one of their reasons in paramiko.
        except paramiko.SSHException:
            if not transport.is_active() or time.monotonic() + pause_s > deadline:
                raise
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.2)
