"""What the API answers about itself: health, version, discovery, OpenAPI. Pure."""

from __future__ import annotations

from typing import Any

from ebpfperf.lab import discovery
from ebpfperf.lab.requests import Request, Response
from ebpfperf.lab.status import MethodNotAllowed

Object = dict[str, Any]

HEALTH = ("/healthz", "/livez", "/readyz")
_PROTOBUF = "application/com.github.proto-openapi.spec.v2"


def about(request: Request, *, minor: int) -> Response | None:
    """The answer, or None when the request is about objects or about nothing there is."""
    path = request.path.rstrip("/")
    if path in HEALTH:
        return Response(b"ok", media="text/plain")
    segments = path.strip("/").split("/")
    if segments == ["openapi", "v2"] and _PROTOBUF in request.headers.get("accept", ""):
        return Response(discovery.openapi_v2_protobuf(), media=f"{_PROTOBUF}.v1+protobuf")
    document = _document(segments, minor)
    if document is None:
        return None
    if request.method != "GET":
        raise MethodNotAllowed("this is only read")
    return Response.of(document)


def _document(segments: list[str], minor: int) -> Object | None:
    match segments:
        case ["version"]:
            return discovery.version()
        case ["api"]:
            return discovery.api_versions()
        case ["apis"]:
            return discovery.api_groups()
        case ["apis", group]:
            found = discovery.api_group(group)
            return found if found["versions"] else None
        case ["api", _] | ["apis", _, _]:
            view = discovery.view_of("/".join(segments))
            return discovery.api_resources(view) if view else None
        case ["openapi", "v2"]:
            return discovery.openapi_v2()
        case ["openapi", "v3"]:
            return discovery.openapi_v3()
        case ["openapi", "v3", *rest]:
            view = discovery.view_of("/".join(rest))
            return discovery.openapi_v3_of(view, minor=minor) if view else None
    return None
