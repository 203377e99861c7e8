"""What a client asks before it asks for objects: groups, resources, versions, OpenAPI. Pure."""

from __future__ import annotations

from typing import Any

from ebpfperf.lab.resources import CORE, RESOURCES, api_version
from ebpfperf.lab.schema import schema_of

Object = dict[str, Any]
View = tuple[str, str]

# The Kubernetes minor whose behaviour the API follows; clients compare it with their own.
KUBERNETES_VERSION = "v1.32.0"
VERBS = (
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
)
VIEWS: tuple[View, ...] = tuple(
    sorted({view for kind in RESOURCES.values() for view in kind.views})
)


def version() -> Object:
    """The answer of ``/version``."""
    major, minor = KUBERNETES_VERSION[1:].split(".")[:2]
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"{KUBERNETES_VERSION}+ebpfperf-lab",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "linux/amd64",
    }


def api_versions() -> Object:
    """The answer of ``/api``."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def api_groups() -> Object:
    """The answer of ``/apis``."""
    groups = [api_group(group) for group in sorted({group for group, _ in VIEWS} - {""})]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def api_group(name: str) -> Object:
    """The answer of ``/apis/NAME``; without versions when there is no such group."""
    versions = [
        {"groupVersion": api_version(view), "version": view[1]} for view in VIEWS if view[0] == name
    ]
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": name,
        "versions": versions,
        "preferredVersion": versions[0] if versions else None,
    }


def api_resources(view: View) -> Object:
    """The answer of ``/api/v1`` or ``/apis/GROUP/VERSION``."""
    resources: list[Object] = []
    for kind in RESOURCES.values():
        if view not in kind.views:
            continue
        entry: Object = {
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": list(VERBS),
        }
        if kind.short_names:
            entry["shortNames"] = list(kind.short_names)
        if kind.plural in ("pods", "services", "daemonsets"):
            entry["categories"] = ["all"]
        resources.append(entry)
        below = ["status"] if kind.has_status else []
        if kind.plural == "pods":
            below.append("log")
        for name in below:
            verbs = ["get"] if name == "log" else ["get", "patch", "update"]
            resources.append(
                {
                    "name": f"{kind.plural}/{name}",
                    "singularName": "",
                    "namespaced": kind.namespaced,
                    "kind": kind.kind,
                    "verbs": verbs,
                }
            )
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version(view),
        "resources": resources,
    }


def openapi_v2() -> Object:
    """A valid and nearly empty Swagger document: clients that find no schema skip their check."""
    return {"swagger": "2.0", "info": _info(), "paths": {}, "definitions": {}}


def openapi_v2_protobuf() -> bytes:
    """The same document as a gnostic ``openapi.v2.Document``: field 1 swagger, field 2 info."""
    info = _field(1, _info()["title"].encode()) + _field(2, _info()["version"].encode())
    return _field(1, b"2.0") + _field(2, info)


def openapi_v3() -> Object:
    """The index of ``/openapi/v3``."""
    return {
        "paths": {
            _prefix(view): {"serverRelativeURL": f"/openapi/v3/{_prefix(view)}"} for view in VIEWS
        }
    }


def openapi_v3_of(view: View, *, minor: int) -> Object:
    """One group version's document.

    The ``fieldValidation`` parameter on PATCH is what kubectl looks for to leave validation to the
    server; the schemas are what ``kubectl explain`` prints.
    """
    paths: Object = {}
    schemas: Object = {}
    group, name = view
    for kind in RESOURCES.values():
        if view not in kind.views:
            continue
        gvk = {"group": group, "version": name, "kind": kind.kind}
        within = "namespaces/{namespace}/" if kind.namespaced else ""
        parameter = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
        operation = {
            "parameters": [parameter],
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": "patch",
            "x-kubernetes-group-version-kind": gvk,
        }
        paths[f"/{_prefix(view)}/{within}{kind.plural}/{{name}}"] = {"patch": operation}
        known = schema_of(kind.plural, minor)
        schemas[f"{group or 'core'}.{name}.{kind.kind}"] = {
            **known,
            "x-kubernetes-group-version-kind": [gvk],
        }
    return {
        "openapi": "3.0.0",
        "info": _info(),
        "paths": paths,
        "components": {"schemas": schemas},
    }


def view_of(prefix: str) -> View | None:
    """The view of ``api/v1`` or ``apis/GROUP/VERSION``; None when nothing is served there."""
    return next((view for view in VIEWS if _prefix(view) == prefix), None)


def _prefix(view: View) -> str:
    return "api/v1" if view == CORE else f"apis/{view[0]}/{view[1]}"


def _info() -> Object:
    return {"title": "ebpfperf lab", "version": KUBERNETES_VERSION}


def _field(number: int, value: bytes) -> bytes:
    """One length-delimited protobuf field; lengths here stay below 128, so one byte each."""
    return bytes(((number << 3) | 2, len(value))) + value
