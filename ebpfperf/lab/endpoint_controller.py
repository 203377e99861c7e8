"""Keeps EndpointSlices and Endpoints as the Services and the pods ask for; one thread a lab."""

from __future__ import annotations

import logging
import threading

from ebpfperf.lab.endpoints import (
    ENDPOINTS_KEEPER,
    SLICE_KEEPER,
    Object,
    endpoints_of,
    slice_name,
    slice_of,
    stale,
)
from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.status import NotFound, StatusError

_RESYNC_S = 5.0
_RETRY_S = 0.5
_log = logging.getLogger(__name__)


class EndpointController:
    """Level-triggered. A Service without selector is left alone: users write its slices."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lab-endpoints", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; what was written stays."""
        self._stopped.set()
        self._store.wake()
        self._thread.join(5.0)

    def _run(self) -> None:
        seen = 0
        while True:
            version = self._store.version
            if self._stopped.is_set():  # after the version: see ObjectStore.wake
                return
            try:
                self._reconcile()
            except StatusError as error:
                # What was to go went meanwhile: the next look finds it gone.
                _log.info("endpoints: %s", error)
                self._stopped.wait(_RETRY_S)
                version = seen
            except Exception:  # A controller that died would leave backends stale, unsaid.
                _log.exception("endpoints")
                self._stopped.wait(_RETRY_S)
                version = seen
            seen = self._store.changed(version, _RESYNC_S)

    def _reconcile(self) -> None:
        services, pods = self._store.list("services"), self._store.list("pods")
        for service in services:
            if not service["spec"].get("selector"):
                continue
            try:
                self._write("endpointslices", slice_of(service, pods))
                self._write("endpoints", endpoints_of(service, pods))
            except StatusError as error:
                # Its namespace goes, and it with it: the others do not wait for that.
                _log.info("endpoints: %s", error)
        metas = [(service, service["metadata"]["namespace"]) for service in services]
        self._remove(
            "endpointslices", SLICE_KEEPER, {(space, slice_name(one)) for one, space in metas}
        )
        self._remove(
            "endpoints",
            ENDPOINTS_KEEPER,
            {(space, one["metadata"]["name"]) for one, space in metas},
        )

    def _write(self, resource: str, obj: Object) -> None:
        try:
            self._store.replace(resource, obj)
        except NotFound:
            self._store.create(resource, obj)

    def _remove(self, resource: str, keeper: tuple[str, str], kept: set[tuple[str, str]]) -> None:
        for obj in stale(self._store.list(resource), keeper, kept):
            self._store.delete(resource, obj["metadata"]["name"], obj["metadata"]["namespace"])
