"""A node that answers from a recording (made by ``ebpfperf.recorder``).

The recording is a JSON file: the node's name and, in the order in which they ended, its
*exchanges*: ``run`` (argv, SHA-256 of the input → status, outputs), ``get`` and ``put`` (path),
``stream`` (argv → lines written and read, in order, and its end). Bytes are text where they are
UTF-8, else ``{"base64": …}``. An error of the node is recorded and raised again.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import json
import shlex
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ebpfperf.errors import (
    CommandError,
    CommandTimeout,
    ConnectError,
    InputError,
    NodeError,
    OutputLimitError,
)
from ebpfperf.remote_session import Completed, ended

SCHEMA = 1

_ERRORS: Mapping[str, type[NodeError]] = {
    kind.__name__: kind
    for kind in (CommandError, CommandTimeout, ConnectError, NodeError, OutputLimitError)
}


class ReplayNode:
    """A node that answers what was recorded, and nothing else.

    A command is the same when its arguments and input are. Asked again, it answers as it did the
    next time in the recording; the last answer repeats. ``sudo``, time limits and bounds are not
    compared.
    """

    def __init__(self, name: str, exchanges: Sequence[Mapping[str, Any]]) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._answers: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
        for exchange in exchanges:
            self._answers.setdefault(_key(exchange), []).append(exchange)

    @classmethod
    def load(cls, path: Path) -> ReplayNode:
        """The node of a recording.

        Raises
        ------
        InputError
            The file is missing, is no recording, or of a newer schema.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["schema"] != SCHEMA:
                raise ValueError(f"its schema is {document['schema']!r}, known is {SCHEMA}")
            return cls(document["node"], document["exchanges"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is no recording of a node: {error}.",
                "Record it again with ebpfperf.recorder.Recorder.",
                path=str(path),
            ) from error

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
        """The recorded end of a command; NodeError when there is none. See ``Node.run``."""
        answer = self._answer(("run", digest(input), *argv))
        done = _completed(tuple(argv), answer)
        if check and done.status != 0:
            raise ended(f"{self.name}: {shlex.join(argv)}", done)
        return done

    def put(self, data: bytes, path: str, *, mode: int = 0o644) -> None:
        """Nothing, where the recording has a ``put`` to that path; contents are not compared."""
        self._answer(("put", path))

    def get(self, path: str, *, limit_bytes: int = 64_000_000) -> bytes:
        """The recorded content."""
        return from_json(self._answer(("get", path))["stdout"])

    def stream(
        self,
        argv: Sequence[str],
        *,
        sudo: bool = True,
        limit_bytes: int = 16_000_000,
        grace_s: float = 0.3,
    ) -> ReplayStream:
        """The recorded conversation with a command."""
        return ReplayStream(self.name, tuple(argv), self._answer(("stream", *argv)))

    def close(self) -> None:
        """Nothing."""

    def _answer(self, key: tuple[str, ...]) -> Mapping[str, Any]:
        with self._lock:
            answers = self._answers.get(key)
            if answers is None:
                raise self._unknown(key)
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if "error" in answer:
            raise raised(answer["error"])
        return answer

    def _unknown(self, key: tuple[str, ...]) -> NodeError:
        asked = _shown(key)
        known = {_shown(other): other for other in self._answers}
        near = difflib.get_close_matches(asked, known, n=1, cutoff=0.0)
        same_but_input = near and near[0] == asked
        nearest = f"The nearest recorded is: {near[0]}" if near else "The recording is empty"
        return NodeError(
            f"The recording of {self.name} has no answer to: {asked}"
            f"{' with this input' if same_but_input else ''}.",
            f"{nearest}. Record this node again.",
            node=self.name,
            argv=key,
        )


class ReplayStream:
    """A recorded conversation: lines must be written as they were, and in that order."""

    def __init__(self, name: str, argv: tuple[str, ...], answer: Mapping[str, Any]) -> None:
        self._name = name
        self._argv = argv
        self._answer = answer
        self._lines: list[list[Any]] = list(answer["lines"])

    def read_line(self, *, timeout_s: float) -> bytes:
        """The next recorded line, or the error that was recorded in its place."""
        if not self._lines:
            raise ended(f"{self._name}: {shlex.join(self._argv)}", self.stop())
        kind, content = self._lines[0]
        if kind == "write":
            raise self._otherwise("a line is read", f"{from_json(content)!r} was written")
        del self._lines[0]
        if kind == "error":
            raise raised(content)
        return from_json(content)

    def write_line(self, line: bytes) -> None:
        """Nothing, where the recording has this line as the next one written."""
        # What the node said and nobody read then was recorded nowhere; what was read then and is
        # not read now is passed over.
        while self._lines and self._lines[0][0] != "write":
            del self._lines[0]
        if not self._lines:
            raise self._otherwise(f"{line!r} is written", "nothing more was")
        _, content = self._lines[0]
        if from_json(content) != line:
            raise self._otherwise(f"{line!r} is written", f"it was {from_json(content)!r}")
        del self._lines[0]

    def stop(self, *, timeout_s: float = 5.0) -> Completed:
        """How it ended in the recording."""
        return _completed(self._argv, self._answer)

    def wait(self, *, timeout_s: float) -> Completed:
        """How it ended in the recording, or the error that was recorded."""
        if "wait_error" in self._answer:
            raise raised(self._answer["wait_error"])
        return self.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing."""

    def _otherwise(self, now: str, then: str) -> NodeError:
        return NodeError(
            f"The recording of {self._name} differs in {shlex.join(self._argv)[:200]}: "
            f"now {now}, then {then}.",
            "Record this node again.",
            node=self._name,
            argv=self._argv,
        )


def digest(data: bytes | None) -> str:
    """SHA-256 of an input, in hex; empty for none."""
    return "" if data is None else hashlib.sha256(data).hexdigest()


def to_json(data: bytes) -> str | dict[str, str]:
    """Bytes as they stand in a recording."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def from_json(value: str | Mapping[str, str]) -> bytes:
    """Bytes of what ``to_json`` made."""
    return value.encode() if isinstance(value, str) else base64.b64decode(value["base64"])


def raised(told: Mapping[str, Any]) -> NodeError:
    """A recorded error, to be raised again."""
    kind = _ERRORS.get(told["type"], NodeError)
    return kind(told["what"], told["remedy"], **told["fields"])


def _completed(argv: tuple[str, ...], answer: Mapping[str, Any]) -> Completed:
    return Completed(
        argv,
        answer["status"],
        from_json(answer["stdout"]),
        from_json(answer["stderr"]),
        answer["duration_s"],
    )


def _key(exchange: Mapping[str, Any]) -> tuple[str, ...]:
    kind = exchange["kind"]
    if kind == "run":
        return (kind, exchange["input_sha256"], *exchange["argv"])
    if kind == "stream":
        return (kind, *exchange["argv"])
    return (kind, exchange["path"])


def _shown(key: tuple[str, ...]) -> str:
    return f"{key[0]} {shlex.join(key[2:] if key[0] == 'run' else key[1:])}"
