"""A recorder for nodes: what was asked and answered, in the file that ``ReplayNode`` reads."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from ebpfperf.errors import NodeError
from ebpfperf.remote import Node, Stream
from ebpfperf.remote_session import Completed, ended
from ebpfperf.replay import SCHEMA, digest, to_json

Redact = Callable[[bytes], bytes]
T = TypeVar("T")


def replacing(words: Mapping[str, str]) -> Redact:
    """A redaction that replaces words (host names, addresses, tokens), the longest first."""
    stand_ins = {word.encode(): stand_in.encode() for word, stand_in in words.items() if word}
    if not stand_ins:
        return bytes
    longest_first = sorted(stand_ins, key=len, reverse=True)
    pattern = re.compile(b"|".join(re.escape(word) for word in longest_first))
    return lambda data: pattern.sub(lambda match: stand_ins[match[0]], data)


class Recorder:
    """A node that passes everything on to another and keeps what was said.

    Parameters
    ----------
    path
        Written whole by ``save`` and by ``close``.
    redact
        Applied to all that is kept, arguments and input included, and only to that.
    """

    def __init__(self, node: Node, path: Path, *, redact: Redact = bytes) -> None:
        self.name = node.name
        self._node = node
        self._path = path
        self._redact = redact
        self._lock = threading.Lock()
        self._exchanges: list[dict[str, Any]] = []

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
        """The other node's answer; see ``Node.run``."""
        kept = None if input is None else self._redact(input)
        exchange = {"kind": "run", "argv": self._words(argv), "input_sha256": digest(kept)}
        # Not checked there: a status that is an error to this caller may be none to the replay's.
        done = self._kept(
            exchange,
            lambda: self._node.run(
                argv,
                timeout_s=timeout_s,
                input=input,
                check=False,
                sudo=sudo,
                limit_bytes=limit_bytes,
            ),
            self.end,
        )
        if check and done.status != 0:
            raise ended(f"{self.name}: {shlex.join(argv)}", done)
        return done

    def put(self, data: bytes, path: str, *, mode: int = 0o644) -> None:
        """The other node's ``put``."""
        exchange = {"kind": "put", "path": self._word(path)}
        self._kept(
            exchange, lambda: self._node.put(data, path, mode=mode), lambda _: {"mode": f"{mode:o}"}
        )

    def get(self, path: str, *, limit_bytes: int = 64_000_000) -> bytes:
        """The other node's ``get``."""
        exchange = {"kind": "get", "path": self._word(path)}
        return self._kept(
            exchange,
            lambda: self._node.get(path, limit_bytes=limit_bytes),
            lambda data: {"stdout": self.data(data)},
        )

    def stream(
        self,
        argv: Sequence[str],
        *,
        sudo: bool = True,
        limit_bytes: int = 16_000_000,
        grace_s: float = 0.3,
    ) -> RecorderStream:
        """The other node's stream, listened to."""
        exchange = {"kind": "stream", "argv": self._words(argv), "lines": []}
        # Kept from its start on, at its place among the others: a stream may never be stopped.
        stream = self._kept(
            exchange,
            lambda: self._node.stream(argv, sudo=sudo, limit_bytes=limit_bytes, grace_s=grace_s),
            lambda _: {"status": 0, "stdout": "", "stderr": "", "duration_s": 0.0},
        )
        return RecorderStream(stream, exchange, keep=self)

    def save(self) -> None:
        """Write the recording."""
        with self._lock:
            document = {"schema": SCHEMA, "node": self._word(self.name)}
            text = json.dumps(
                document | {"exchanges": self._exchanges}, ensure_ascii=False, indent=1
            )
        part = self._path.with_name(self._path.name + ".part")
        part.write_text(text + "\n", encoding="utf-8")
        os.replace(part, self._path)

    def close(self) -> None:
        """Write the recording and close the other node."""
        try:
            self.save()
        finally:
            self._node.close()

    def _kept(
        self, exchange: dict[str, Any], act: Callable[[], T], answer: Callable[[T], dict[str, Any]]
    ) -> T:
        asked = len(exchange)
        try:
            result = act()
            exchange.update(answer(result))
        except NodeError as error:
            exchange["error"] = self.told(error)
            raise
        finally:
            # Neither answered nor refused: interrupted here, and nothing the node said.
            if len(exchange) > asked:
                with self._lock:
                    self._exchanges.append(exchange)
        return result

    def _word(self, text: str) -> str:
        return self._redact(text.encode()).decode()

    def _words(self, argv: Sequence[str]) -> list[str]:
        return [self._word(text) for text in argv]

    def data(self, data: bytes) -> str | dict[str, str]:
        """Bytes as they are kept."""
        return to_json(self._redact(data))

    def told(self, error: NodeError) -> dict[str, Any]:
        """An error as it is kept."""
        fields = json.loads(json.dumps(error.fields, default=str))
        told = {"what": error.what, "remedy": error.remedy, "fields": fields}
        kept: dict[str, Any] = json.loads(self._word(json.dumps(told, ensure_ascii=False)))
        return kept | {"type": type(error).__name__}

    def end(self, done: Completed) -> dict[str, Any]:
        """An end as it is kept."""
        return {
            "status": done.status,
            "stdout": self.data(done.stdout),
            "stderr": self.data(done.stderr),
            "duration_s": round(done.duration_s, 6),
        }


class RecorderStream:
    """A stream that is listened to."""

    def __init__(self, stream: Stream, exchange: dict[str, Any], *, keep: Recorder) -> None:
        self._stream = stream
        self._exchange = exchange
        self._lines: list[tuple[str, Any]] = exchange["lines"]
        self._keep = keep

    def read_line(self, *, timeout_s: float) -> bytes:
        """The other stream's line."""
        try:
            line = self._stream.read_line(timeout_s=timeout_s)
        except NodeError as error:
            self._lines.append(("error", self._keep.told(error)))
            raise
        self._lines.append(("read", self._keep.data(line)))
        return line

    def write_line(self, line: bytes) -> None:
        """Send one line to the other stream."""
        self._stream.write_line(line)
        self._lines.append(("write", self._keep.data(line)))

    def stop(self, *, timeout_s: float = 5.0) -> Completed:
        """How the other stream ended."""
        done = self._stream.stop(timeout_s=timeout_s)
        self._exchange.update(self._keep.end(done))
        return done

    def wait(self, *, timeout_s: float) -> Completed:
        """The other stream's own end."""
        try:
            done = self._stream.wait(timeout_s=timeout_s)
        except NodeError as error:
            self._exchange["wait_error"] = self._keep.told(error)
            raise
        self._exchange.update(self._keep.end(done))
        return done

    def __enter__(self) -> Self:
        self._stream.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._stream.__exit__(kind, error, trace)
        finally:
            # Ended by now: asked again, it says how.
            with contextlib.suppress(NodeError):
                self.stop()
