"""What the lab's API does with a request: the verbs of Kubernetes over the object store."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import chain
from typing import Any

from ebpfperf.lab import podlogs
from ebpfperf.lab.about import about
from ebpfperf.lab.admission import Admission
from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.representations import Representation, wants_table
from ebpfperf.lab.requests import Request, Response, Stream, Target, target_of
from ebpfperf.lab.resources import api_version
from ebpfperf.lab.schema import minor_of
from ebpfperf.lab.selectors import Selector, field_selector, label_selector
from ebpfperf.lab.status import (
    BadRequest,
    Forbidden,
    Invalid,
    MethodNotAllowed,
    NotFound,
    StatusError,
    UnsupportedMediaType,
)
from ebpfperf.lab.structural import check
from ebpfperf.lab.watches import TIMEOUT_S, watch

Object = dict[str, Any]

# Namespaces every cluster keeps.
_LASTING = ("default", "kube-system")
_PATCHES = {
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
    "application/json-patch+json": "json",
}


_DELETE_OPTIONS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "gracePeriodSeconds": {"type": "integer", "minimum": 0},
        "preconditions": {"type": "object", "additionalProperties": {"type": "string"}},
        "dryRun": {"type": "array", "items": {"type": "string"}},
    },
}


class Routes:
    """Answers requests. Thread-safe: it keeps nothing of its own.

    Whatever can be wrong with a request is looked at before the store is touched: a request that
    is refused has changed nothing.

    Parameters
    ----------
    logs
        Node name → lines of that node's Felix.
    stopped
        Whether streams should end.
    """

    def __init__(
        self, store: ObjectStore, *, logs: podlogs.Logs, stopped: Callable[[], bool]
    ) -> None:
        self._store = store
        self._logs = logs
        self._stopped = stopped

    def answer(self, request: Request) -> Response | Stream:
        """The answer to a request that has been let in.

        Raises
        ------
        StatusError
            It is refused.
        """
        known = about(request, minor=self._minor())
        if known is not None:
            return known
        target = target_of(request.path)
        if target.subresource:
            return self._subresource(request, target)
        match request.method, bool(target.name):
            case "GET", False:
                return self._list(request, target)
            case "GET", True:
                return self._get(request, target)
            case "POST", False:
                return self._create(request, target)
            case "PUT", True:
                return self._replace(request, target)
            case "PATCH", True:
                return self._patch(request, target)
            case "DELETE", True:
                return self._delete(request, target)
            case "DELETE", False:
                return self._delete_collection(request, target)
        raise MethodNotAllowed("the server does not allow this method on the requested resource")

    def _minor(self) -> int:
        """The Calico release the cluster says it runs, as its minor number."""
        try:
            information = self._store.get("clusterinformations", "default")
        except NotFound:
            return minor_of(None)
        return minor_of(information.get("spec", {}).get("calicoVersion"))

    # -- reading -------------------------------------------------------------------------------

    def _list(self, request: Request, target: Target) -> Response | Stream:
        form = _form(request, target)
        fits = _selector(request, target)
        if request.is_set("watch"):
            return self._watch(request, form, fits)
        objects, version = self._store.list_at(target.kind.plural, target.namespace)
        return Response.of(form.many([obj for obj in objects if fits(obj)], version))

    def _get(self, request: Request, target: Target) -> Response:
        obj = self._store.get(target.kind.plural, target.name, target.namespace)
        return Response.of(_form(request, target).one(obj))

    def _watch(self, request: Request, form: Representation, fits: Selector) -> Stream:
        if request.one("sendInitialEvents"):
            message = "Forbidden: sendInitialEvents is not supported by this server"
            raise Invalid(
                f"ListOptions.meta.k8s.io is invalid: sendInitialEvents: {message}",
                causes=(("sendInitialEvents", "FieldValueForbidden", message),),
            )
        timeout_s = request.number("timeoutSeconds")
        pieces = watch(
            self._store,
            form,
            fits=fits,
            since=request.number("resourceVersion") or None,
            timeout_s=TIMEOUT_S if timeout_s is None else timeout_s,
            bookmarks=request.is_set("allowWatchBookmarks"),
            stopped=self._stopped,
        )
        # Taken here, so that a version too old is a 410 of its own and not a broken stream.
        return Stream(chain([next(pieces)], pieces))

    # -- writing -------------------------------------------------------------------------------

    def _create(self, request: Request, target: Target) -> Response:
        if target.kind.namespaced and target.namespace is None:
            raise MethodNotAllowed("create it in a namespace")
        form = _form(request, target)
        new = _body(request, target)
        admission = self._admission(request, target)
        created = self._store.create(
            target.kind.plural, new, admit=admission, dry_run=_is_dry(request)
        )
        return _written(form, created, admission, status=201)

    def _replace(self, request: Request, target: Target) -> Response:
        form = _form(request, target)
        new = _body(request, target)
        name = new["metadata"].setdefault("name", target.name)
        if name != target.name:
            raise BadRequest(
                f"the name of the object ({name}) does not match the name on the URL "
                f"({target.name})"
            )
        admission = self._admission(request, target)
        stored = self._store.replace(
            target.kind.plural, new, admit=admission, dry_run=_is_dry(request)
        )
        return _written(form, stored, admission)

    def _patch(self, request: Request, target: Target) -> Response:
        kind = _PATCHES.get(request.media)
        if kind is None:
            hint = " (server-side apply)" if "apply-patch" in request.media else ""
            raise UnsupportedMediaType(
                f"patches of type {request.media}{hint} are not supported; supported are: "
                + ", ".join(_PATCHES)
            )
        form = _form(request, target)
        admission = self._admission(request, target)
        stored = self._store.patch(
            target.kind.plural,
            target.name,
            request.document(),
            namespace=target.namespace,
            kind=kind,
            admit=admission,
            dry_run=_is_dry(request),
        )
        return _written(form, stored, admission)

    def _delete(self, request: Request, target: Target) -> Response:
        form = _form(request, target)
        if target.kind.plural == "namespaces" and target.name in _LASTING:
            raise Forbidden(
                f'namespaces "{target.name}" is forbidden: this namespace may not be deleted',
                resource="namespaces",
                name=target.name,
            )
        options = _delete_options(request)
        conditions = options.get("preconditions") or {}
        resource = target.kind.plural
        gone = self._store.delete(
            resource,
            target.name,
            target.namespace,
            grace_s=options.get("gracePeriodSeconds"),
            uid=conditions.get("uid"),
            version=conditions.get("resourceVersion"),
            dry_run=_is_dry(request, options),
        )
        # As Kubernetes: what is on its way, and any pod, comes back as an object.
        if resource == "pods" or gone["metadata"].get("deletionTimestamp"):
            return Response.of(form.one(gone))
        details = {"name": target.name, "kind": resource, "uid": gone["metadata"]["uid"]}
        if target.kind.group:
            details["group"] = target.view[0]
        return Response.of(
            {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Success",
                "details": details,
            }
        )

    def _delete_collection(self, request: Request, target: Target) -> Response:
        form = _form(request, target)
        if target.kind.plural == "namespaces":
            raise MethodNotAllowed("namespaces are deleted one by one")
        if target.kind.namespaced and target.namespace is None:
            raise MethodNotAllowed("delete them in a namespace")
        options = _delete_options(request)
        fits = _selector(request, target)
        resource = target.kind.plural
        gone = []
        for obj in filter(fits, self._store.list(resource, target.namespace)):
            meta = obj["metadata"]
            try:
                deleted = self._store.delete(
                    resource,
                    meta["name"],
                    meta.get("namespace"),
                    grace_s=options.get("gracePeriodSeconds"),
                    uid=meta["uid"],
                    dry_run=_is_dry(request, options),
                )
            except StatusError as error:
                # Gone or replaced meanwhile, by somebody else: that is what was wanted.
                if error.code not in (404, 409):
                    raise
            else:
                gone.append(deleted)
        return Response.of(form.many(gone, self._store.version))

    # -- subresources --------------------------------------------------------------------------

    def _subresource(self, request: Request, target: Target) -> Response | Stream:
        if target.subresource == "log" and target.kind.plural == "pods":
            if request.method != "GET":
                raise MethodNotAllowed("a log is only read")
            return self._log(request, target)
        if target.subresource == "status" and target.kind.has_status:
            match request.method:
                case "GET":
                    return self._get(request, target)
                case "PUT":
                    return self._replace(request, target)
                case "PATCH":
                    return self._patch(request, target)
            raise MethodNotAllowed("a status is read, replaced or patched")
        if target.kind.plural == "pods" and target.subresource in ("exec", "attach", "portforward"):
            raise MethodNotAllowed(
                f"the lab has no pods/{target.subresource}: log in to the pod's node by SSH and "
                "use nsenter"
            )
        raise NotFound("the server could not find the requested resource")

    def _log(self, request: Request, target: Target) -> Response | Stream:
        pod = self._store.get("pods", target.name, target.namespace)
        node = podlogs.node_of(pod, request.one("container"))
        if node is not None:
            # A pod can name a node that is not there; then nobody keeps its log.
            self._store.get("nodes", node)

        def read() -> list[str]:
            return list(self._logs(node)) if node else []

        since_s = request.number("sinceSeconds")
        return podlogs.answer(
            read,
            tail_lines=request.number("tailLines"),
            since=None if since_s is None else time.time() - since_s,
            timestamps=request.is_set("timestamps"),
            stopped=self._stopped if request.is_set("follow") else None,
        )

    def _admission(self, request: Request, target: Target) -> Admission:
        wanted = request.one("fieldValidation") or "Warn"
        if wanted not in ("Ignore", "Warn", "Strict"):
            raise BadRequest(f"invalid fieldValidation {wanted!r}: Ignore, Warn or Strict")
        return Admission(
            target.kind,
            target.view,
            minor=self._minor(),
            field_validation=wanted,
            subresource=target.subresource,
            services=lambda: self._store.list("services"),
        )


def _form(request: Request, target: Target) -> Representation:
    return Representation(
        target.kind,
        target.view,
        as_table=wants_table(request.headers.get("accept", "")),
        include=request.one("includeObject") or "Metadata",
    )


def _selector(request: Request, target: Target) -> Selector:
    by_label = label_selector(request.one("labelSelector"))
    by_field = field_selector(target.kind.plural, request.one("fieldSelector"))
    namespace = target.namespace

    def fits(obj: Object) -> bool:
        inside = namespace is None or obj["metadata"].get("namespace") == namespace
        return inside and by_label(obj) and by_field(obj)

    return fits


def _body(request: Request, target: Target) -> Object:
    """The object in the body, known to be of the target's kind, view and namespace."""
    new = request.document()
    if not isinstance(new, dict):
        raise BadRequest("the body is no object")
    for field, wanted in (("apiVersion", api_version(target.view)), ("kind", target.kind.kind)):
        if new.get(field) not in (None, wanted):
            raise BadRequest(
                f"the {field} in the data ({new[field]}) does not match the expected {field} "
                f"({wanted})"
            )
    meta = new.setdefault("metadata", {})
    if not isinstance(meta, dict):
        raise BadRequest("metadata is no object")
    if target.kind.namespaced:
        if meta.get("namespace") not in (None, "", target.namespace):
            raise BadRequest(
                f"the namespace of the provided object does not match the namespace sent on the "
                f"request ({target.namespace})"
            )
        meta["namespace"] = target.namespace
    return new


def _delete_options(request: Request) -> Object:
    """gracePeriodSeconds, preconditions and dryRun, each of its type."""
    options = request.document() if request.body else {}
    if not isinstance(options, dict):
        raise BadRequest("the body is no DeleteOptions")
    grace = request.number("gracePeriodSeconds")
    if grace is not None:
        options["gracePeriodSeconds"] = grace
    if causes := check(options, _DELETE_OPTIONS):
        raise BadRequest("; ".join(f"{field}: {message}" for field, _, message in causes))
    return options


def _is_dry(request: Request, options: Object | None = None) -> bool:
    asked = request.query.get("dryRun") or (options or {}).get("dryRun") or []
    if asked not in ([], ["All"]):
        raise BadRequest(f"invalid dryRun {asked!r}: only All is supported")
    return bool(asked)


def _written(
    form: Representation, stored: Object, admission: Admission, *, status: int = 200
) -> Response:
    return Response.of(form.one(stored), status=status, warnings=tuple(admission.warnings))
