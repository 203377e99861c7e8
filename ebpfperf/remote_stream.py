"""A command left running over SSH."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from ebpfperf.errors import CommandTimeout, ConnectError, OutputLimitError
from ebpfperf.remote_session import LOST, Completed, Session, ended

_SEND_S = 10.0
_TERM_S = 1.0


class SSHStream:
    """A command running over SSH; see ``remote.Stream``. For one thread at a time."""

    def __init__(self, session: Session, *, grace_s: float) -> None:
        self._session = session
        self._grace_s = grace_s
        self._done: Completed | None = None

    def read_line(self, *, timeout_s: float) -> bytes:
        """One line without its newline; see ``remote.Stream.read_line``."""
        line = None if self._done else self._session.line(timeout_s)
        if line is None:
            raise ended(self._session.label, self.stop())
        return line

    def write_line(self, line: bytes) -> None:
        """Send one line; see ``remote.Stream.write_line``."""
        if self._done is None:
            self._session.send(line + b"\n", timeout_s=_SEND_S)

    def stop(self, *, timeout_s: float = 5.0) -> Completed:
        """End it; see ``remote.Stream.stop``."""
        if self._done is None:
            try:
                self._session.end_input()
                self._done = self._session.finish(self._grace_s + _TERM_S + timeout_s)
            except ConnectError:
                self._done = self._session.completed(LOST)
            except OutputLimitError:
                self._done = self._session.completed(128 + 15)
            finally:
                self._session.close()
        return self._done

    def wait(self, *, timeout_s: float) -> Completed:
        """Its own end; see ``remote.Stream.wait``."""
        if self._done is None:
            try:
                self._done = self._session.finish(timeout_s)
            except CommandTimeout:
                self.stop()
                raise
            finally:
                self._session.close()
        return self._done

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        except CommandTimeout:
            # The error under way says more than that its command is slow to die.
            if error is None:
                raise
