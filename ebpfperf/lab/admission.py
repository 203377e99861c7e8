"""What the API does to an object before it is stored: prune, default, check."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from ebpfperf.lab import own_annotations, schema, service_admission, structural
from ebpfperf.lab.resources import CALICO, CRD, ResourceType
from ebpfperf.lab.status import BadRequest, Cause, Invalid

Object = dict[str, Any]

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
# Fields of a pod's spec that may change once it is created, beside its containers' images.
_POD_MUTABLE = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds")
# What the API fills into a pod, and into each container of it.
POD_DEFAULTS: Object = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "serviceAccountName": "default",
    "schedulerName": "default-scheduler",
}
CONTAINER_DEFAULTS: Object = {"imagePullPolicy": "IfNotPresent", "resources": {}}


class Admission:
    """One request's admission: call it with (new, old); ``warnings`` are filled on the way.

    Parameters
    ----------
    view
        (group, version) the request came through: only Calico's own API fills in defaults.
    field_validation
        ``Ignore``, ``Warn`` or ``Strict``: what happens to fields the kind does not have.
    subresource
        Empty, or ``status``.
    services
        Every Service there is when an object is admitted: what they hold is taken.
    """

    def __init__(
        self,
        kind: ResourceType,
        view: tuple[str, str],
        *,
        minor: int,
        field_validation: str = "Warn",
        subresource: str = "",
        services: Callable[[], Sequence[Object]] = tuple,
    ) -> None:
        self.kind = kind
        self.view = view
        self.minor = minor
        self.field_validation = field_validation
        self.subresource = subresource
        self.services = services
        self.warnings: list[str] = []

    def __call__(self, new: Object, old: Object | None) -> Object:
        """The object to store.

        Raises
        ------
        Invalid
            Fields are wrong; each is a cause.
        BadRequest
            Strict, and there are unknown fields.
        """
        known = schema.schema_of(self.kind.plural, self.minor)
        if self.subresource == "status" and old is not None:
            new = {**deepcopy(old), "status": new.get("status", {})}
            if causes := structural.check(new, known):
                raise invalid(self.kind, new["metadata"]["name"], causes)
            return new
        if self.kind.has_status:
            new.pop("status", None)
            if old is not None and "status" in old:
                new["status"] = deepcopy(old["status"])
        causes = _metadata(self.kind, new["metadata"])
        new, unknown = structural.prune(new, known)
        self._unknown(unknown)
        if self.kind.group in (CALICO[0], CRD[0]):
            # Controllers read the spec of whatever is stored.
            new.setdefault("spec", {})
        if old is None:
            _fill_in(self.kind, self.view, new, self.minor)
        elif self.kind.plural == "ippools" and self.view == CALICO:
            _keep_block_size(new, old)
        causes += structural.check(new, known)
        if not causes:
            # Rules compare fields with each other and rely on their types.
            causes = schema.broken_rules(self.kind.plural, new, old)
            if self.kind.plural == "pods":
                causes += _pod(new["spec"], old)
            if self.kind.plural == "services":
                new, found = self._service(new, old)
                causes += found
            elif self.kind.plural == "endpointslices":
                causes += service_admission.wrong_slice(new, old)
        if causes:
            raise invalid(self.kind, new["metadata"]["name"], causes)
        return new

    def _service(self, new: Object, old: Object | None) -> tuple[Object, tuple[Cause, ...]]:
        new = service_admission.completed(new, old)
        if causes := service_admission.wrong(new, old):
            return new, causes
        own = (new["metadata"].get("namespace"), new["metadata"]["name"])
        metas = [(each, each["metadata"]) for each in self.services()]
        others = [each for each, meta in metas if (meta.get("namespace"), meta["name"]) != own]
        return service_admission.allocated(new, others)

    def _unknown(self, paths: tuple[str, ...]) -> None:
        messages = [f'unknown field "{path}"' for path in paths]
        if messages and self.field_validation == "Strict":
            raise BadRequest(
                f'{self.kind.kind} in version "{self.view[1]}" cannot be handled as a '
                f"{self.kind.kind}: strict decoding error: {', '.join(messages)}"
            )
        if self.field_validation == "Warn":
            self.warnings += messages


def invalid(kind: ResourceType, name: str, causes: tuple[Cause, ...]) -> Invalid:
    """The 422 that names every field."""
    lines = [f"{field}: {message}" for field, _, message in causes]
    text = lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"
    title = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    message = f'{title} "{name}" is invalid: {text}'
    return Invalid(message, resource=kind.plural, name=name, causes=causes)


def _metadata(kind: ResourceType, meta: Object) -> tuple[Cause, ...]:
    causes: list[Cause] = []
    name = meta["name"]
    rule, longest = (_LABEL, 63) if kind.plural == "namespaces" else (_SUBDOMAIN, 253)
    if not isinstance(name, str) or not rule.fullmatch(name) or len(name) > longest:
        message = (
            f"Invalid value: {json.dumps(name)}: must consist of lower case alphanumeric "
            f"characters, '-' or '.', start and end alphanumeric, and have at most {longest} "
            "characters"
        )
        causes.append(("metadata.name", "FieldValueInvalid", message))
    for field in ("labels", "annotations"):
        entries = meta.get(field)
        if entries is None:
            continue
        if not isinstance(entries, dict) or not all(isinstance(v, str) for v in entries.values()):
            message = f"Invalid value: {json.dumps(entries)}: must be a map of strings"
            causes.append((f"metadata.{field}", "FieldValueInvalid", message))
        elif field == "labels":
            causes += [
                (
                    "metadata.labels",
                    "FieldValueInvalid",
                    f"Invalid value: {json.dumps(v)}: no label value",
                )
                for v in entries.values()
                if len(v) > 63 or not _LABEL_VALUE.fullmatch(v)
            ]
        elif wrong := own_annotations.problem(kind.plural, entries):
            causes.append(("metadata.annotations", "FieldValueInvalid", f"Invalid value: {wrong}"))
    return tuple(causes)


def _fill_in(kind: ResourceType, view: tuple[str, str], new: Object, minor: int) -> None:
    """Defaults of a created object."""
    match kind.plural:
        case "namespaces":
            labels = new["metadata"].setdefault("labels", {})
            labels.setdefault("kubernetes.io/metadata.name", new["metadata"]["name"])
            new.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
            new["status"] = {"phase": "Active"}
        case "pods":
            _fill_in_pod(new)
        case "services":
            new["status"] = {"loadBalancer": {}}
        case "ippools" if view == CALICO and isinstance(new.get("spec"), dict):
            spec = new["spec"]
            v6 = ":" in str(spec.get("cidr", ""))
            spec.setdefault("blockSize", 122 if v6 else 26)
            for field in ("ipipMode", "vxlanMode"):
                spec[field] = spec.get(field) or "Never"
            spec.setdefault("nodeSelector", "all()")
            if minor >= 20:
                spec.setdefault("allowedUses", ["Workload", "Tunnel"])


def _keep_block_size(new: Object, old: Object) -> None:
    """A manifest need not repeat the size that Calico's API once filled in."""
    size = old.get("spec", {}).get("blockSize")
    if size is not None and isinstance(new.get("spec"), dict):
        new["spec"].setdefault("blockSize", size)


def _fill_in_pod(new: Object) -> None:
    spec = new.setdefault("spec", {})
    new["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
    if not isinstance(spec, dict):
        return
    for field, value in POD_DEFAULTS.items():
        spec.setdefault(field, value)
    containers = spec.get("containers")
    for container in containers if isinstance(containers, list) else ():
        if isinstance(container, dict):
            for field, value in CONTAINER_DEFAULTS.items():
                container.setdefault(field, deepcopy(value))


def _pod(spec: Object, old: Object | None) -> tuple[Cause, ...]:
    if old is None:
        missing = () if spec["containers"] else ("Required value",)
        return tuple(("spec.containers", "FieldValueRequired", message) for message in missing)
    if _fixed(spec) == _fixed(old.get("spec", {})):
        return ()
    message = (
        "Forbidden: pod updates may not change fields other than a container's image and "
        + ", ".join(_POD_MUTABLE)
    )
    return (("spec", "FieldValueForbidden", message),)


def _fixed(spec: Object) -> Object:
    kept = {key: value for key, value in spec.items() if key not in _POD_MUTABLE}
    kept["containers"] = [
        {key: value for key, value in container.items() if key != "image"}
        for container in spec.get("containers", [])
    ]
    return kept
