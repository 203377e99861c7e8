"""The API's refusals: exceptions that become a Kubernetes ``Status`` object."""

from __future__ import annotations

from typing import Any

from ebpfperf.lab.resources import RESOURCES

Cause = tuple[str, str, str]
"""(field, reason, message) of an invalid object, e.g. ``("spec.cidr", "FieldValueInvalid", …)``."""


class StatusError(Exception):
    """A request the API refuses; ``code`` is the HTTP status, ``reason`` Kubernetes' word."""

    code = 500
    reason = "InternalError"

    def __init__(
        self,
        message: str,
        *,
        resource: str = "",
        name: str = "",
        causes: tuple[Cause, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.resource = resource
        self.name = name
        self.causes = causes

    def to_status(self) -> dict[str, Any]:
        """The ``v1.Status`` document that is sent as the body."""
        details: dict[str, Any] = {}
        if self.name:
            details["name"] = self.name
        if self.resource:
            known = RESOURCES.get(self.resource)
            if known is not None and known.group:
                details["group"] = known.group
            # Kubernetes names the kind where an object is invalid, the resource elsewhere.
            details["kind"] = known.kind if known and self.code == 422 else self.resource
        if self.causes:
            details["causes"] = [
                {"field": field, "reason": reason, "message": message}
                for field, reason, message in self.causes
            ]
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if details:
            status["details"] = details
        return status


class BadRequest(StatusError):
    """400: the request itself is malformed."""

    code, reason = 400, "BadRequest"


class Unauthorized(StatusError):
    """401: no token, or a wrong one."""

    code, reason = 401, "Unauthorized"


class Forbidden(StatusError):
    """403: understood and refused, e.g. a create in a namespace that is being deleted."""

    code, reason = 403, "Forbidden"


class NotFound(StatusError):
    """404: no such object, resource or path."""

    code, reason = 404, "NotFound"


class MethodNotAllowed(StatusError):
    """405: the resource exists and does not do this."""

    code, reason = 405, "MethodNotAllowed"


class NotAcceptable(StatusError):
    """406: no representation the client accepts."""

    code, reason = 406, "NotAcceptable"


class AlreadyExists(StatusError):
    """409: an object of that name exists."""

    code, reason = 409, "AlreadyExists"


class Conflict(StatusError):
    """409: written against a stale resourceVersion or a wrong uid."""

    code, reason = 409, "Conflict"


class Gone(StatusError):
    """410: a watch asks for history that is no longer kept."""

    code, reason = 410, "Expired"


class TooLarge(StatusError):
    """413: the body is larger than the API reads."""

    code, reason = 413, "RequestEntityTooLarge"


class UnsupportedMediaType(StatusError):
    """415: a body or a patch of a kind the API does not read."""

    code, reason = 415, "UnsupportedMediaType"


class Invalid(StatusError):
    """422: well-formed, and wrong in named fields."""

    code, reason = 422, "Invalid"


class Unavailable(StatusError):
    """503: the part that answers this is not there."""

    code, reason = 503, "ServiceUnavailable"


def no_such(resource: str, name: str) -> NotFound:
    """The 404 of an object that is not there, worded as Kubernetes words it."""
    known = RESOURCES.get(resource)
    qualified = known.qualified if known else resource
    return NotFound(f'{qualified} "{name}" not found', resource=resource, name=name)
