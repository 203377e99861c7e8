"""Calico's rules against the tables of its documentation."""

from __future__ import annotations

import pytest

from ebpfperf.calico.encapsulation import Enabled, enabled, pool_modes, pool_overlay
from ebpfperf.calico.mtu import host_mtu_bytes, mss_bytes, pod_mtu_bytes
from ebpfperf.calico.releases import FULL_VERSIONS, minor
from ebpfperf.model import Overlay, Scope


@pytest.mark.parametrize(
    ("host", "ipip", "vxlan"),
    [(1500, 1480, 1450), (9000, 8980, 8950), (9001, 8981, 8951), (1460, 1440, 1410)],
)
def test_pod_mtu_is_that_of_calicos_table(host: int, ipip: int, vxlan: int) -> None:
    assert pod_mtu_bytes({}, Enabled(False, False), host, "v3.26.1") == host
    assert pod_mtu_bytes({}, Enabled(True, False), host, "v3.26.1") == ipip
    assert pod_mtu_bytes({}, Enabled(False, True), host, "v3.26.1") == vxlan
    assert pod_mtu_bytes({}, Enabled(True, True), host, "v3.26.1") == vxlan


def test_fixed_mtus_win_and_v316_has_fixed_defaults() -> None:
    assert pod_mtu_bytes({"vxlanMTU": 1300}, Enabled(False, True), 1500, "v3.26.1") == 1300
    assert pod_mtu_bytes({}, Enabled(True, False), 9000, "v3.16.1") == 1440
    assert pod_mtu_bytes({}, Enabled(False, True), 9000, "v3.16.1") == 1410


def test_host_mtu_is_the_smallest_of_the_matching_devices() -> None:
    assert host_mtu_bytes({"ens11": 1500, "eth1": 1400, "docker0": 576, "lo": 65536}) == 1400
    assert host_mtu_bytes({"lo": 65536}) == 1460


@pytest.mark.parametrize(
    ("spec", "pool", "version", "expected"),
    [
        ({}, {"vxlanMode": "Always"}, "v3.26.1", Enabled(False, True)),
        ({}, {"ipipMode": "CrossSubnet"}, "v3.23.0", Enabled(True, False)),
        ({}, {"ipipMode": "Always"}, "v3.22.5", Enabled(False, False)),
        ({"ipipEnabled": False}, {"ipipMode": "Always"}, "v3.26.1", Enabled(False, False)),
        ({"vxlanEnabled": True}, {}, "v3.32.1", Enabled(False, True)),
        ({}, {"vxlanMode": "Always", "disabled": True}, "v3.30.2", Enabled(False, True)),
    ],
)
def test_unset_flags_derive_from_pools_from_v323(spec, pool, version, expected) -> None:
    assert enabled(spec, [pool], version) == expected


@pytest.mark.parametrize("overlay", list(Overlay))
@pytest.mark.parametrize("scope", list(Scope))
def test_pool_modes_and_pool_overlay_are_inverse(overlay: Overlay, scope: Scope) -> None:
    expected = (overlay, scope) if overlay is not Overlay.NONE else (overlay, Scope.ALWAYS)
    assert pool_overlay(pool_modes(overlay, scope)) == expected
    assert pool_overlay({}) == (Overlay.NONE, Scope.ALWAYS)


def test_mss_is_mtu_less_headers() -> None:
    assert mss_bytes(1450, timestamps=False) == 1410
    assert mss_bytes(1450, timestamps=True) == 1398


def test_versions_are_read_as_calico_writes_them() -> None:
    assert minor("v3.34.0-0.dev+67") == (3, 34)
    with pytest.raises(ValueError, match="not a Calico version"):
        minor("latest")


def test_what_is_presented_is_of_its_release_and_leaves_out_what_is_not_known() -> None:
    for release, version in FULL_VERSIONS.items():
        assert version.startswith(f"{release}.")
    known = [minor(release)[1] for release in FULL_VERSIONS]
    assert known == [*range(16, 24), *range(26, 33)]
