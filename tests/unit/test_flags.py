"""The table of flags, row by row, and what is to be expected of a treatment by it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfperf.calico.encapsulation import pool_modes
from ebpfperf.calico.expectation import Effective, Expectation, Kind, expected_effect
from ebpfperf.calico.felixenv import resource_field
from ebpfperf.calico.flags import LEVELS, RULES, fib_shortcut, level, rule
from ebpfperf.model import Overlay, Path, Scope

RELEASES = [f"v3.{number}.1" for number in range(13, 34)]
FORWARDED = [path.value for path in Path if path is not Path.HOST_HOST]


# release → whether the short-cut is on with (neither, IPIP, VXLAN, both) enabled
@pytest.mark.parametrize(
    ("release", "shortcut"),
    [
        ("v3.13.0", (True, False, False, False)),
        ("v3.16.1", (True, False, False, False)),
        ("v3.17.4", (True, False, False, False)),
        ("v3.18.0", (True, False, True, False)),
        ("v3.22.0", (True, False, True, False)),
        ("v3.23.0", (True, False, True, False)),
        ("v3.31.7", (True, False, True, False)),
        ("v3.32.0", (True, True, True, True)),
        ("v3.34.0-0.dev+67", (True, True, True, True)),
    ],
)
def test_the_short_cut_is_that_of_calicos_source(release: str, shortcut: tuple[bool, ...]) -> None:
    flags = [(False, False), (True, False), (False, True), (True, True)]
    found = [
        fib_shortcut({"ipipEnabled": ipip, "vxlanEnabled": vxlan}, [], release)
        for ipip, vxlan in flags
    ]
    assert tuple(found) == shortcut


@pytest.mark.parametrize(
    ("release", "mode", "shortcut"),
    [
        ("v3.16.1", "ipipMode", True),
        ("v3.22.5", "ipipMode", True),
        ("v3.23.0", "ipipMode", False),
        ("v3.23.0", "vxlanMode", True),
        ("v3.31.0", "ipipMode", False),
        ("v3.32.0", "ipipMode", True),
    ],
)
def test_an_unset_flag_follows_the_pools_from_v323(release: str, mode: str, shortcut: bool) -> None:
    assert fib_shortcut({}, [{mode: "Always"}], release) is shortcut
    # What is set wins over the pools.
    off = {"ipipEnabled": False, "vxlanEnabled": False}
    assert fib_shortcut(off, [{mode: "Always"}], release) is True


def test_the_table_has_one_row_for_each_flag_and_release() -> None:
    for flag, release in itertools.product(LEVELS, RELEASES):
        number = int(release.split(".")[1])
        rows = [
            row
            for row in RULES
            if row.flag == flag
            and row.since <= (3, number)
            and (row.until is None or (3, number) <= row.until)
        ]
        assert rows == [rule(flag, release)], (flag, release)
        assert rows[0].source
        assert rows[0].changes
    assert {row.flag for row in RULES} == set(LEVELS)


def test_before_ebpf_no_flag_has_a_row() -> None:
    assert [rule(flag, "v3.12.0") for flag in LEVELS] == [None] * len(LEVELS)


def test_a_range_of_releases_reads_as_one() -> None:
    assert rule("ipipEnabled", "v3.26.1").releases == "v3.23 to v3.31"
    assert rule("ipipEnabled", "v3.32.1").releases == "v3.32 and later"


def test_what_unset_means_changed_in_v323() -> None:
    assert rule("ipipEnabled", "v3.22.0").unset == "false"
    assert rule("ipipEnabled", "v3.23.0").unset.startswith("derived")
    assert rule("bpfLogLevel", "v3.26.0").unset == "Off"
    assert rule("bpfExternalServiceMode", "v3.26.0").unset == "Tunnel"
    assert rule("bpfEnabled", "v3.26.0").unset == "false"


def test_levels_are_read_in_any_case_and_given_as_calico_spells_them() -> None:
    assert level("bpfLogLevel", "dEBUG") == "Debug"
    assert level("bpfExternalServiceMode", "dsr") == "DSR"
    assert level("ipipEnabled", True) is True
    assert level("ipipEnabled", None) is None
    assert level("vxlanMTU", 1400) == 1400


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("bpfLogLevel", False, "Off, Info or Debug"),
        ("bpfLogLevel", "Trace", "Off, Info or Debug"),
        ("bpfExternalServiceMode", "Direct", "Tunnel or DSR"),
        ("ipipEnabled", "yes", "true or false"),
        ("ipipEnabled", 1, "true or false"),
        ("bpfEnabled", "true", "true or false"),
    ],
)
def test_a_level_that_is_none_is_refused_with_those_that_are(
    flag: str, value: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=f"^{words}$"):
        level(flag, value)


def test_internal_names_lead_to_the_resources_field() -> None:
    for name in ("ipInIpEnabled", "IpInIpEnabled", "FELIX_IPINIPENABLED"):
        assert resource_field(name) == "ipipEnabled"
    assert resource_field("IpInIpMtu") == "ipipMTU"
    assert resource_field("ipipEnabled") is None
    assert resource_field("vxlanEnabled") is None


# ------------------------------------------------------------------- what is to be expected


def effective(
    *, overlay: Overlay = Overlay.NONE, ebpf: bool = True, scope: Scope = Scope.ALWAYS, **felix: Any
) -> Effective:
    return Effective(overlay, scope, {"bpfEnabled": ebpf, **felix}, (pool_modes(overlay, scope),))


def expect(
    before: Effective,
    after: Effective,
    *,
    release: str = "v3.26.1",
    path: str = "pod-pod",
    fills: bool = False,
) -> Expectation:
    return expected_effect(before, after, release=release, path=path, fills_mtu=fills)


@pytest.mark.parametrize(
    ("flag", "release", "kind"),
    [
        ("ipipEnabled", "v3.13.0", Kind.SLOWER),
        ("ipipEnabled", "v3.17.4", Kind.SLOWER),
        ("ipipEnabled", "v3.18.0", Kind.SLOWER),
        ("ipipEnabled", "v3.26.1", Kind.SLOWER),
        ("ipipEnabled", "v3.31.7", Kind.SLOWER),
        ("ipipEnabled", "v3.32.0", Kind.NONE),
        ("vxlanEnabled", "v3.13.0", Kind.SLOWER),
        ("vxlanEnabled", "v3.17.4", Kind.SLOWER),
        ("vxlanEnabled", "v3.18.0", Kind.NONE),
        ("vxlanEnabled", "v3.31.7", Kind.NONE),
        ("vxlanEnabled", "v3.32.0", Kind.NONE),
    ],
)
def test_a_tunnel_flag_without_a_tunnel_in_use(flag: str, release: str, kind: Kind) -> None:
    off = {"ipipEnabled": False, "vxlanEnabled": False}
    there = expect(effective(**off), effective(**off | {flag: True}), release=release)
    back = expect(effective(**off | {flag: True}), effective(**off), release=release)
    assert there.kind is kind
    assert back.kind is (Kind.FASTER if kind is Kind.SLOWER else kind)
    assert flag in there.why
    assert there.source
    assert not there.small


def test_vxlan_enabled_for_nothing_costs_mtu_where_it_costs_no_short_cut() -> None:
    found = expect(effective(), effective(vxlanEnabled=True), fills=True)
    assert found.kind is Kind.SLOWER
    assert found.small
    assert "50 bytes of MTU less (1450 instead of 1500)" in found.why
    assert "leaves the FIB short-cut alone" in found.why
    assert "determinePodMTU" in found.source
    small = expect(effective(), effective(vxlanEnabled=True), fills=False)
    assert small.kind is Kind.NONE
    assert "do not fill" in small.why
    # v3.16 takes pods' MTU from the CNI configuration, whatever the flag says.
    old = expect(effective(), effective(vxlanEnabled=True), release="v3.16.1", fills=True)
    assert "MTU" not in old.why
    assert old.kind is Kind.SLOWER


def test_unset_is_what_it_is_derived_to_be() -> None:
    unset, set_off = effective(), effective(ipipEnabled=False)
    found = expect(unset, set_off)
    assert found.kind is Kind.NONE
    assert "means what unset does: off" in found.why
    in_use = effective(overlay=Overlay.IPIP)
    assert expect(in_use, effective(overlay=Overlay.IPIP, ipipEnabled=True)).kind is Kind.NONE


@pytest.mark.parametrize("flag", ["ipipEnabled", "vxlanEnabled"])
def test_the_standard_dataplane_has_no_short_cut_to_lose(flag: str) -> None:
    off = {"ipipEnabled": False, "vxlanEnabled": False}
    found = expect(
        effective(ebpf=False, **off), effective(ebpf=False, **off | {flag: True}), release="v3.16.1"
    )
    assert found.kind is Kind.NONE
    assert "only eBPF" in found.why


@pytest.mark.parametrize(
    ("before", "after", "ebpf", "kind"),
    [
        ("Off", "Debug", True, Kind.SLOWER),
        ("Off", "info", True, Kind.SLOWER),
        (None, "Debug", True, Kind.SLOWER),
        ("Debug", "Info", True, Kind.FASTER),
        ("Debug", "Off", True, Kind.FASTER),
        ("", "Off", True, Kind.NONE),
        ("Off", "Debug", False, Kind.NONE),
    ],
)
def test_more_log_lines_are_slower_under_ebpf_alone(
    before: str | None, after: str, ebpf: bool, kind: Kind
) -> None:
    found = expect(
        effective(ebpf=ebpf, bpfLogLevel=before), effective(ebpf=ebpf, bpfLogLevel=after)
    )
    assert found.kind is kind


@pytest.mark.parametrize("path", [path.value for path in Path])
def test_the_service_mode_touches_only_nodeports_with_a_backend_elsewhere(path: str) -> None:
    tunnel, direct = effective(), effective(bpfExternalServiceMode="DSR")
    kind = expect(tunnel, direct, path=path).kind
    assert kind is (Kind.FASTER if path == "nodeport-remote" else Kind.NONE)
    back = expect(direct, effective(bpfExternalServiceMode="tunnel"), path=path).kind
    assert back is (Kind.SLOWER if path == "nodeport-remote" else Kind.NONE)
    standard = [effective(ebpf=False), effective(ebpf=False, bpfExternalServiceMode="DSR")]
    assert expect(*standard, path=path).kind is Kind.NONE


@pytest.mark.parametrize("path", FORWARDED)
def test_another_dataplane_promises_no_direction(path: str) -> None:
    found = expect(effective(ebpf=False), effective(ebpf=True, ipipEnabled=True), path=path)
    assert found.kind is Kind.SOME
    assert expect(effective(ebpf=True), effective(ebpf=False), path=path).kind is Kind.SOME


def test_between_hosts_tunnels_change_nothing_and_programs_are_not_promised() -> None:
    on = {"ipipEnabled": True, "vxlanEnabled": True}
    assert expect(effective(), effective(**on), path="host-host", fills=True).kind is Kind.NONE
    wrapped = effective(overlay=Overlay.VXLAN)
    assert expect(effective(), wrapped, path="host-host", fills=True).kind is Kind.NONE
    for other in (effective(bpfLogLevel="Debug"), effective(ebpf=False)):
        assert expect(effective(), other, path="host-host").kind is Kind.UNKNOWN
    quiet = [effective(ebpf=False), effective(ebpf=False, bpfLogLevel="Debug")]
    assert expect(*quiet, path="host-host").kind is Kind.NONE


def test_an_overlay_is_slower_and_cross_subnet_is_not_known() -> None:
    standard = effective(ebpf=False)
    for overlay in (Overlay.IPIP, Overlay.VXLAN):
        wrapped = effective(ebpf=False, overlay=overlay)
        assert expect(standard, wrapped).kind is Kind.SLOWER
        assert expect(wrapped, standard).kind is Kind.FASTER
        across = effective(ebpf=False, overlay=overlay, scope=Scope.CROSS_SUBNET)
        assert expect(standard, across).kind is Kind.UNKNOWN
    one, other = (effective(ebpf=False, overlay=o) for o in (Overlay.IPIP, Overlay.VXLAN))
    assert expect(one, other).kind is Kind.SOME


def test_opposite_effects_leave_no_direction_and_other_fields_are_not_known() -> None:
    mixed = expect(effective(bpfLogLevel="Debug"), effective(ipipEnabled=True))
    assert mixed.kind is Kind.SOME
    assert "bpfLogLevel" in mixed.why
    assert "ipipEnabled" in mixed.why
    other = expect(effective(), effective(bpfHostConntrackBypass=True, bpfLogLevel="Debug"))
    assert other.kind is Kind.UNKNOWN
    assert "bpfHostConntrackBypass" in other.why


EFFECTIVE = st.builds(
    lambda overlay, ebpf, ipip, vxlan, log, mode: effective(
        overlay=overlay,
        ebpf=ebpf,
        ipipEnabled=ipip,
        vxlanEnabled=vxlan,
        bpfLogLevel=log,
        bpfExternalServiceMode=mode,
    ),
    st.sampled_from(list(Overlay)),
    st.booleans(),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, "", "Off", "info", "Debug"]),
    st.sampled_from([None, "Tunnel", "DSR"]),
)
MIRROR = {Kind.SLOWER: Kind.FASTER, Kind.FASTER: Kind.SLOWER}


@given(
    EFFECTIVE,
    EFFECTIVE,
    st.sampled_from(RELEASES),
    st.sampled_from([path.value for path in Path]),
    st.booleans(),
)
def test_exchanging_the_two_sides_mirrors_the_expectation(
    one: Effective, other: Effective, release: str, path: str, fills: bool
) -> None:
    there = expected_effect(one, other, release=release, path=path, fills_mtu=fills)
    back = expected_effect(other, one, release=release, path=path, fills_mtu=fills)
    assert back.kind is MIRROR.get(there.kind, there.kind)
    assert back.small is there.small
    same = expected_effect(one, one, release=release, path=path, fills_mtu=fills)
    assert same.kind is Kind.NONE
    assert there.why
    assert there.kind is not Kind.VOID


def test_what_is_no_release_is_refused() -> None:
    with pytest.raises(ValueError, match="not a Calico version"):
        expect(effective(), effective(), release="latest")
