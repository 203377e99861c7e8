"""The lab's object store: what an API server and its etcd keep, in memory and thread-safe."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from ebpfperf.lab.history import KEPT, Event, History
from ebpfperf.lab.metadata import Object, body, keep_identity, ordered, timestamp
from ebpfperf.lab.patches import PatchError, json_patch, merge_patch
from ebpfperf.lab.resources import RESOURCES, ResourceType
from ebpfperf.lab.status import (
    AlreadyExists,
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    no_such,
)
from ebpfperf.lab.strategic import strategic_merge

Objects = list[Object]
Admit = Callable[[Object, Object | None], Object]
"""(new, old or None) → the object to store; raises a ``StatusError`` to refuse it."""


__all__ = ["AlreadyExists", "Conflict", "Event", "Invalid", "NotFound", "ObjectStore"]


class ObjectStore:
    """Objects by resource (plural, ``"pods"``), namespace and name.

    Every method returns copies. An object is kept in the spelling of its resource's first view
    (``projectcalico.org/v3`` for Calico's own). A write that changes nothing leaves the
    resourceVersion as it is, so a level-triggered loop that writes what it wants comes to rest.

    The methods raise ``NotFound``, ``AlreadyExists``, ``Conflict``, ``Forbidden``, ``Invalid`` or
    ``BadRequest`` from ``ebpfperf.lab.status``.
    """

    def __init__(self, *, history: int = KEPT) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._objects: dict[str, dict[tuple[str, str], Object]] = {r: {} for r in RESOURCES}
        self._version = 1
        self._history = History(history)

    @property
    def version(self) -> int:
        """The newest resourceVersion given out."""
        with self._changed:
            return self._version

    def list(self, resource: str, namespace: str | None = None) -> Objects:
        """The objects by namespace and name; all namespaces for None."""
        return self.list_at(resource, namespace)[0]

    def list_at(self, resource: str, namespace: str | None = None) -> tuple[Objects, int]:
        """The objects, and the resourceVersion at which they are the whole truth."""
        kind = _kind(resource)
        with self._changed:
            found = sorted(self._objects[resource].items())
            wanted = namespace if kind.namespaced else None
            objects = [
                deepcopy(obj) for (space, _), obj in found if wanted is None or space == wanted
            ]
            return objects, self._version

    def get(self, resource: str, name: str, namespace: str | None = None) -> Object:
        """The object of that name."""
        with self._changed:
            return deepcopy(self._stored(resource, name, namespace))

    def create(
        self, resource: str, obj: Object, *, admit: Admit | None = None, dry_run: bool = False
    ) -> Object:
        """The object as stored, with uid, creationTimestamp and resourceVersion."""
        kind = _kind(resource)
        with self._changed:
            new = deepcopy(obj)
            meta = new.setdefault("metadata", {})
            if not meta.get("name") and meta.get("generateName"):
                meta["name"] = f"{meta['generateName']}{uuid.uuid4().hex[:5]}"
            name, namespace = meta.get("name"), meta.get("namespace")
            if not name:
                raise Invalid(
                    f"{kind.kind} is invalid: metadata.name: Required value: name is required",
                    resource=resource,
                    causes=(("metadata.name", "FieldValueRequired", "Required value"),),
                )
            if kind.namespaced:
                self._check_namespace(resource, name, namespace)
            else:
                meta.pop("namespace", None)
            key = self._key(kind, name, namespace)
            if key in self._objects[resource]:
                raise AlreadyExists(
                    f'{kind.qualified} "{name}" already exists', resource=resource, name=name
                )
            if meta.get("resourceVersion"):
                raise BadRequest("resourceVersion should not be set on objects to be created")
            for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "managedFields"):
                meta.pop(field, None)
            new["apiVersion"], new["kind"] = kind.api_version, kind.kind
            meta["uid"] = str(uuid.uuid4())
            meta["creationTimestamp"] = timestamp()
            if kind.counts_generation:
                meta["generation"] = 1
            if admit is not None:
                new = admit(new, None)
            if dry_run:
                return new
            return self._put(kind, key, new, None)

    def replace(
        self,
        resource: str,
        obj: Object,
        *,
        admit: Admit | None = None,
        dry_run: bool = False,
    ) -> Object:
        """The object as stored; ``metadata.resourceVersion``, where given, must be the newest."""
        meta = obj.get("metadata", {})
        return self._update(
            resource,
            meta.get("name", ""),
            meta.get("namespace"),
            lambda _: deepcopy(obj),
            admit=admit,
            dry_run=dry_run,
        )

    def patch(
        self,
        resource: str,
        name: str,
        patch: Any,
        *,
        namespace: str | None = None,
        kind: str = "merge",
        admit: Admit | None = None,
        dry_run: bool = False,
    ) -> Object:
        """The object after a ``merge``, ``strategic`` or ``json`` patch, applied atomically."""

        def changed(old: Object) -> Object:
            new = _patched(resource, old, patch, kind)
            if not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
                raise BadRequest("the patch leaves no object", resource=resource, name=name)
            return new

        return self._update(resource, name, namespace, changed, admit=admit, dry_run=dry_run)

    def update_status(
        self, resource: str, name: str, status: Object, namespace: str | None = None
    ) -> Object:
        """The object with ``status`` replaced as a whole."""
        return self._update(
            resource, name, namespace, lambda old: {**deepcopy(old), "status": deepcopy(status)}
        )

    def delete(
        self,
        resource: str,
        name: str,
        namespace: str | None = None,
        *,
        grace_s: int | None = None,
        uid: str | None = None,
        version: str | None = None,
        dry_run: bool = False,
    ) -> Object:
        """The object as it was last seen; for what goes later, with a deletionTimestamp.

        A pod bound to a node stays until its kubelet calls ``finalize_delete``, with a grace of 0
        too: the pod's device is named by the pod's name, so a successor must not come before the
        old one is down. A namespace stays until it is empty. ``uid`` and ``version`` are
        preconditions.
        """
        kind = _kind(resource)
        with self._changed:
            old = self._stored(resource, name, namespace)
            meta = old["metadata"]
            for field, wanted in (("uid", uid), ("resourceVersion", version)):
                if wanted and meta[field] != wanted:
                    raise Conflict(
                        f'Operation cannot be fulfilled on {kind.qualified} "{name}": Precondition '
                        f"failed: {field} in precondition: {wanted}, in object meta: {meta[field]}",
                        resource=resource,
                        name=name,
                    )
            waits = resource == "namespaces" or (
                resource == "pods" and bool(old.get("spec", {}).get("nodeName"))
            )
            if dry_run:
                return deepcopy(old)
            key = self._key(kind, name, namespace)
            if not waits:
                return self._remove(kind, key)
            if "deletionTimestamp" not in meta:
                self._terminate(kind, key, old, grace_s)
            if resource == "namespaces":
                self._empty_namespace(name)
            remaining = self._objects[resource].get(key)
            return deepcopy(old if remaining is None else remaining)

    def finalize_delete(self, resource: str, name: str, namespace: str | None = None) -> None:
        """Remove what waits for it; nothing when it is gone or not being deleted."""
        kind = _kind(resource)
        with self._changed:
            key = self._key(kind, name, namespace)
            old = self._objects[resource].get(key)
            if old is not None and "deletionTimestamp" in old["metadata"]:
                self._remove(kind, key)

    def changed(self, since: int, timeout_s: float) -> int:
        """The newest resourceVersion, as soon as it is past ``since`` or the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self._version > since, max(0.0, timeout_s))
            return self._version

    def events(self, since: int, timeout_s: float) -> tuple[Sequence[Event], int]:
        """The events after ``since`` and the version they lead to; empty when time is up.

        Raises
        ------
        Gone
            Events after ``since`` are no longer kept, or ``since`` is from another store.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._version > since, max(0.0, timeout_s))
            return self._history.after(since, self._version), self._version

    def wake(self) -> None:
        """Let every waiter return now, and whoever is about to wait (used when the lab stops).

        A resourceVersion is skipped for it, so that the call cannot fall between a controller's
        look at its stop flag and its wait: it looks at the flag after it has read the version that
        it will wait past.
        """
        with self._changed:
            self._version += 1
            self._changed.notify_all()

    # -- below: with the lock held -----------------------------------------------------------

    def _stored(self, resource: str, name: str, namespace: str | None) -> Object:
        kind = _kind(resource)
        found = self._objects[resource].get(self._key(kind, name, namespace))
        if found is None:
            raise no_such(resource, name)
        return found

    @staticmethod
    def _key(kind: ResourceType, name: str, namespace: str | None) -> tuple[str, str]:
        return (namespace or "default", name) if kind.namespaced else ("", name)

    def _check_namespace(self, resource: str, name: str, namespace: str | None) -> None:
        found = self._stored("namespaces", namespace or "default", None)
        if "deletionTimestamp" in found["metadata"]:
            raise Forbidden(
                f'{resource} "{name}" is forbidden: unable to create new content in namespace '
                f"{namespace} because it is being terminated",
                resource=resource,
                name=name,
            )

    def _update(
        self,
        resource: str,
        name: str,
        namespace: str | None,
        change: Callable[[Object], Object],
        *,
        admit: Admit | None = None,
        dry_run: bool = False,
    ) -> Object:
        kind = _kind(resource)
        with self._changed:
            old = self._stored(resource, name, namespace)
            new = change(old)
            keep_identity(kind, old, new)
            if admit is not None:
                new = admit(new, deepcopy(old))
            if kind.counts_generation and body(new) != body(old):
                new["metadata"]["generation"] = old["metadata"]["generation"] + 1
            if new == old or dry_run:
                return deepcopy(new)
            return self._put(kind, self._key(kind, name, namespace), new, old)

    def _put(
        self, kind: ResourceType, key: tuple[str, str], new: Object, old: Object | None
    ) -> Object:
        self._version += 1
        new["metadata"]["resourceVersion"] = str(self._version)
        if kind.namespaced:
            new["metadata"]["namespace"] = key[0]
        new = ordered(new)
        self._objects[kind.plural][key] = new
        self._note(Event(self._version, "MODIFIED" if old else "ADDED", kind.plural, new, old))
        return deepcopy(new)

    def _remove(self, kind: ResourceType, key: tuple[str, str]) -> Object:
        old = self._objects[kind.plural].pop(key)
        self._version += 1
        last = deepcopy(old)
        last["metadata"]["resourceVersion"] = str(self._version)
        self._note(Event(self._version, "DELETED", kind.plural, last, old))
        if kind.namespaced:
            self._close_namespace(key[0])
        return deepcopy(last)

    def _note(self, event: Event) -> None:
        self._history.note(event)
        self._changed.notify_all()

    def _terminate(
        self, kind: ResourceType, key: tuple[str, str], old: Object, grace_s: int | None
    ) -> None:
        new = deepcopy(old)
        if kind.plural == "namespaces":
            grace = 0
            new.setdefault("status", {})["phase"] = "Terminating"
        else:
            spec = new.get("spec", {})
            grace = spec.get("terminationGracePeriodSeconds", 30) if grace_s is None else grace_s
            new["metadata"]["deletionGracePeriodSeconds"] = grace
        new["metadata"]["deletionTimestamp"] = timestamp(ahead_s=grace)
        self._put(kind, key, new, old)

    def _empty_namespace(self, namespace: str) -> None:
        for resource, kind in RESOURCES.items():
            if kind.namespaced:
                for space, name in list(self._objects[resource]):
                    if space == namespace:
                        self.delete(resource, name, namespace)
        self._close_namespace(namespace)

    def _close_namespace(self, namespace: str) -> None:
        """Remove a namespace that is being deleted once nothing is left in it."""
        found = self._objects["namespaces"].get(("", namespace))
        if found is None or "deletionTimestamp" not in found["metadata"]:
            return
        if not any(space == namespace for kept in self._objects.values() for space, _ in kept):
            self._remove(RESOURCES["namespaces"], ("", namespace))


def _kind(resource: str) -> ResourceType:
    known = RESOURCES.get(resource)
    if known is None:
        raise NotFound("the server could not find the requested resource", resource=resource)
    return known


def _patched(resource: str, old: Object, patch: Any, kind: str) -> Any:
    if kind == "merge":
        return merge_patch(old, patch)
    if kind == "strategic":
        return deepcopy(strategic_merge(old, patch))
    if kind != "json":
        raise ValueError(f"{kind!r} is no kind of patch")
    if not isinstance(patch, list):
        raise BadRequest("a JSON patch is a list of operations")
    try:
        return json_patch(old, patch)
    except PatchError as error:
        name = old["metadata"]["name"]
        message = f"the patch does not apply: {error}"
        # As a cause too: kubectl shows nothing but the causes of what is invalid.
        raise Invalid(
            f'{resource} "{name}" is invalid: {message}',
            resource=resource,
            name=name,
            causes=(("", "FieldValueInvalid", message),),
        ) from error
