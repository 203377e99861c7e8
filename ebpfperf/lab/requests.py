"""Requests and responses of the lab's API, apart from HTTP: paths, parameters, bodies. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ebpfperf.lab import protobuf
from ebpfperf.lab.discovery import view_of
from ebpfperf.lab.resources import RESOURCES, ResourceType
from ebpfperf.lab.status import BadRequest, NotFound, UnsupportedMediaType

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``headers`` has lower-case names; ``path`` has no query and is unquoted."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes = b""

    @classmethod
    def of(cls, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Request:
        """The request of an HTTP request line and what came with it."""
        parts = urlsplit(target)
        return cls(
            method,
            unquote(parts.path),
            parse_qs(parts.query, keep_blank_values=True),
            {name.lower(): value for name, value in headers.items()},
            body,
        )

    def one(self, name: str) -> str:
        """The parameter's value; empty when it is not given."""
        return (self.query.get(name) or [""])[0]

    def is_set(self, name: str) -> bool:
        """Whether a boolean parameter is true."""
        return self.one(name).lower() in ("true", "1")

    def number(self, name: str) -> int | None:
        """The parameter as a natural number; None when it is not given."""
        text = self.one(name)
        if not text:
            return None
        if not (text.isascii() and text.isdigit()):
            raise BadRequest(f"invalid value for {name}: {text!r} is no natural number")
        return int(text)

    @property
    def media(self) -> str:
        """Media type of the body, without parameters."""
        return self.headers.get("content-type", JSON).partition(";")[0].strip().lower() or JSON

    def document(self) -> Any:
        """The body, read as JSON or YAML.

        Raises
        ------
        BadRequest
            It is neither.
        UnsupportedMediaType
            It says it is something else.
        """
        if self.media == protobuf.MEDIA:
            return protobuf.read_object(self.body)
        if self.media.endswith("yaml"):
            return _yaml(self.body)
        if not self.media.endswith("json"):
            raise UnsupportedMediaType(f"a body of type {self.media} is not read: send {JSON}")
        try:
            return json.loads(self.body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is not JSON: {error}") from error


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. ``warnings`` become Warning headers."""

    body: bytes
    status: int = 200
    media: str = JSON
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, document: Any, *, status: int = 200, warnings: tuple[str, ...] = ()) -> Response:
        """The answer that carries this document as JSON."""
        body = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        return cls(body, status, JSON, warnings)


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer that comes piece by piece; an empty piece means nothing new."""

    pieces: Iterator[bytes]
    media: str = JSON


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names: a collection, an object or its subresource."""

    kind: ResourceType
    view: tuple[str, str]
    namespace: str | None = None
    name: str = ""
    subresource: str = field(default="")


def target_of(path: str) -> Target:
    """The target of ``/api/v1/…`` or ``/apis/GROUP/VERSION/…``.

    Raises
    ------
    NotFound
        Nothing is served there.
    """
    segments = path.strip("/").split("/")
    head = 2 if segments[0] == "api" else 3
    view = view_of("/".join(segments[:head]))
    rest = segments[head:]
    if view is None or not rest or "" in rest:
        raise _no_path()
    namespace = None
    if rest[0] == "namespaces" and len(rest) >= 3 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    kind = RESOURCES.get(rest[0])
    if kind is None or view not in kind.views or len(rest) > 3:
        raise _no_path()
    if namespace is not None and not kind.namespaced:
        raise _no_path()
    name, subresource = (*rest[1:], "", "")[:2]
    if name and kind.namespaced and namespace is None:
        raise _no_path()
    return Target(kind, view, namespace, name, subresource)


def _no_path() -> NotFound:
    return NotFound("the server could not find the requested resource")


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _yaml(body: bytes) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(BytesIO(body))
    except YAMLError as error:
        raise BadRequest(f"the body is not YAML: {error}") from error
