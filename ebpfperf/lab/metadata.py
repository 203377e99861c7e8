"""What the API itself keeps of an object: identity, times, and what a write may not change."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from ebpfperf.lab.resources import ResourceType
from ebpfperf.lab.status import Conflict, Invalid

Object = dict[str, Any]

MODIFIED = (
    "the object has been modified; please apply your changes to the latest version and try again"
)


def timestamp(*, ahead_s: float = 0) -> str:
    """Now, or ``ahead_s`` seconds from now, as Kubernetes writes it: UTC, whole seconds."""
    moment = datetime.fromtimestamp(time.time(), UTC) + timedelta(seconds=ahead_s)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def keep_identity(kind: ResourceType, old: Object, new: Object) -> None:
    """Check what a write may not change, and carry over what it need not repeat."""
    had, meta = old["metadata"], new.setdefault("metadata", {})
    name = had["name"]
    where = f'{kind.qualified} "{name}"'
    if meta.get("resourceVersion") not in (None, "", had["resourceVersion"]):
        raise Conflict(
            f"Operation cannot be fulfilled on {where}: {MODIFIED}",
            resource=kind.plural,
            name=name,
        )
    if meta.get("uid") not in (None, "", had["uid"]):
        raise Conflict(
            f"Operation cannot be fulfilled on {where}: Precondition failed: UID in precondition: "
            f"{meta['uid']}, UID in object meta: {had['uid']}",
            resource=kind.plural,
            name=name,
        )
    for field in ("name", "namespace"):
        if meta.get(field) not in (None, "", had.get(field)):
            message = f"Invalid value: {json.dumps(meta[field])}: field is immutable"
            raise Invalid(
                f'{kind.kind} "{name}" is invalid: metadata.{field}: {message}',
                resource=kind.plural,
                name=name,
                causes=((f"metadata.{field}", "FieldValueInvalid", message),),
            )
    for field in (
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "resourceVersion",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ):
        if field in had:
            meta[field] = had[field]
        else:
            meta.pop(field, None)
    meta.pop("managedFields", None)
    new["apiVersion"], new["kind"] = old["apiVersion"], old["kind"]


def body(obj: Object) -> Object:
    """What ``metadata.generation`` counts the changes of: all but metadata and status."""
    return {key: value for key, value in obj.items() if key not in ("metadata", "status")}


def ordered(obj: Object) -> Object:
    """The object with apiVersion, kind, metadata, spec, status first: as people read it."""
    order = ("apiVersion", "kind", "metadata", "spec", "status")
    head = {key: obj[key] for key in order if key in obj}
    return head | {key: value for key, value in obj.items() if key not in head}
