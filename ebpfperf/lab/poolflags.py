"""Up to v3.22: a pool with an overlay mode switches the cluster's flag on, and nothing back off.

Calico's client library did that when a pool was written (libcalico-go lib/clientv3/ippool.go,
maybeEnableIPIP). From v3.23 on Felix derives an unset flag from the pools instead.
"""

from __future__ import annotations

from ebpfperf.calico.encapsulation import NEVER
from ebpfperf.calico.releases import derives_encapsulation
from ebpfperf.lab.objects import ObjectStore

_FLAGS = (("ipipMode", "ipipEnabled"), ("vxlanMode", "vxlanEnabled"))


class PoolFlags:
    """Sets ``ipipEnabled`` or ``vxlanEnabled`` of ``default`` when a pool takes up that mode.

    Edge-triggered, as the original: a flag that somebody sets to false afterwards stays false.
    """

    def __init__(self, store: ObjectStore, version: str) -> None:
        self._store = store
        self._active = not derives_encapsulation(version)
        self._seen: set[tuple[str, str]] = set()

    def follow(self) -> None:
        """Look at the pools again. StatusError when ``default`` is not there."""
        if not self._active:
            return
        now = {
            (pool["metadata"]["name"], mode)
            for pool in self._store.list("ippools")
            for mode, _ in _FLAGS
            if pool["spec"].get(mode, NEVER) not in ("", NEVER)
        }
        risen = {mode for _, mode in now - self._seen}
        patch = {flag: True for mode, flag in _FLAGS if mode in risen}
        if patch:
            self._store.patch("felixconfigurations", "default", {"spec": patch})
        self._seen = now
