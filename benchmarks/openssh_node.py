"""A node reached by the ssh command: what a shell script does, behind the interface of ``Node``.

One ``ssh`` process per command. With ``control`` the commands share a master connection
(ControlMaster, ControlPersist). It does less than ``SSHNode``: it bounds no output and ends no
process group on the node.
"""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ebpfperf.errors import CommandError, CommandTimeout
from ebpfperf.remote import Completed


class OpenSSHNode:
    """A node whose every command is an ``ssh`` process. The login user must be root.

    Parameters
    ----------
    control
        Directory for the control socket of a shared connection; None: a connection per command.
    """

    def __init__(self, name: str, *, ssh_config: Path, control: Path | None = None) -> None:
        self.name = name
        self._ssh = ["ssh", "-F", str(ssh_config), "-T", "-o", "BatchMode=yes"]
        if control is not None:
            self._ssh += ["-o", "ControlMaster=auto", "-o", "ControlPersist=60"]
            self._ssh += ["-o", f"ControlPath={control}/%C"]
        self._control = control

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The ssh command for ``argv``."""
        return [*self._ssh, self.name, "--", shlex.join(argv)]

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
        begun = time.monotonic()
        done = subprocess.run(
            self.argv(argv), input=input or b"", capture_output=True, timeout=timeout_s, check=False
        )
        took_s = time.monotonic() - begun
        if check and done.returncode:
            message = done.stderr.decode("utf-8", "replace")
            raise CommandError(
                f"{self.name}: {shlex.join(argv)}: {message}", status=done.returncode
            )
        return Completed(tuple(argv), done.returncode, done.stdout, done.stderr, took_s)

    def put(self, data: bytes, path: str, *, mode: int = 0o644) -> None:
        """Write a file; see ``Node.put``."""
        script = 'cat >"$1.part" && chmod "$2" "$1.part" && mv -f "$1.part" "$1"'
        self.run(["sh", "-c", script, "put", path, f"{mode:o}"], input=data)

    def get(self, path: str, *, limit_bytes: int = 64_000_000) -> bytes:
        """A file's content."""
        return self.run(["cat", "--", path]).stdout

    def stream(
        self,
        argv: Sequence[str],
        *,
        sudo: bool = True,
        limit_bytes: int = 16_000_000,
        grace_s: float = 0.3,
    ) -> OpenSSHStream:
        """A command left running; see ``Node.stream``."""
        return OpenSSHStream(self.name, tuple(argv), self.argv(argv))

    def close(self) -> None:
        """End the shared connection, where there is one."""
        if self._control is not None:
            subprocess.run(
                [*self._ssh, "-O", "exit", self.name], capture_output=True, timeout=10, check=False
            )


class OpenSSHStream:
    """A command that an ``ssh`` process in the background runs."""

    def __init__(self, name: str, argv: tuple[str, ...], command: list[str]) -> None:
        self._name = name
        self._argv = argv
        self._begun = time.monotonic()
        self._buffer = b""
        self._errors = b""
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def read_line(self, *, timeout_s: float) -> bytes:
        """One line; see ``Stream.read_line``."""
        out, err = self._process.stdout, self._process.stderr
        assert out is not None
        assert err is not None
        deadline = time.monotonic() + timeout_s
        open_ends = [out, err]
        while b"\n" not in self._buffer:
            ready, _, _ = select.select(open_ends, [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise CommandTimeout(f"{self._name}: {shlex.join(self._argv)}: no line.")
            for end in ready:
                chunk = os.read(end.fileno(), 1 << 16)
                if end is err:
                    self._errors += chunk
                    if not chunk:
                        open_ends.remove(err)
                elif chunk:
                    self._buffer += chunk
                else:
                    raise CommandError(f"{self._name}: {shlex.join(self._argv)}: {self._errors!r}")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def write_line(self, line: bytes) -> None:
        """Send one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def stop(self, *, timeout_s: float = 5.0) -> Completed:
        """Close its stdin and wait; whoever does not care for that is left to the node."""
        try:
            return self.wait(timeout_s=timeout_s)
        except CommandTimeout:
            return Completed(self._argv, self._process.returncode, self._buffer, self._errors, 0.0)

    def wait(self, *, timeout_s: float) -> Completed:
        """Its end."""
        if not self._process.stdout or not self._process.stdout.closed:
            try:
                out, err = self._process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired as error:
                self._process.kill()
                self._process.communicate()
                raise CommandTimeout(f"{self._name}: {shlex.join(self._argv)}") from error
            self._buffer += out
            self._errors += err
        return Completed(
            self._argv,
            self._process.returncode,
            self._buffer,
            self._errors,
            time.monotonic() - self._begun,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
