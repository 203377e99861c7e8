"""Which value Felix acts on, by where it is set: a naive oracle, and Felix's own peculiarities."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from ebpfperf.calico.felix_fields import field, fields
from ebpfperf.commands.remarks import grouped
from ebpfperf.felix_selected import Selected, labels_of, selected
from ebpfperf.felix_values import (
    FILE,
    Evidence,
    Origin,
    effective,
    parse_printed,
    shown,
    strays,
    value_of,
)

PORT = field("vxlanPort")
NODE = "node-1"
POOLS: dict[str, dict[str, Any]] = {
    "one": {"ipipMode": "Never", "vxlanMode": "CrossSubnet"},
    "two": {"ipipMode": "Never", "vxlanMode": "Never"},
}
# Place → how the evidence says it there, highest first.
PLACES: dict[Origin, tuple[str, Any]] = {
    Origin.ENVIRONMENT: ("environment", {"FELIX_VXLANPORT": "4001"}),
    Origin.FILE: ("file", {"VxlanPort": "4002"}),
    Origin.NODE: ("own", {"vxlanPort": 4003}),
    Origin.DEFAULT: ("default", {"vxlanPort": 4004}),
}
VALUES = dict(zip(PLACES, (4001, 4002, 4003, 4004), strict=True))


def seen(release: str = "v3.26.1", **given: Any) -> Evidence:
    return Evidence(NODE, release, **given)


@pytest.mark.parametrize(
    "places", [c for n in range(5) for c in itertools.combinations(PLACES, n)], ids=str
)
def test_the_highest_place_wins_and_the_others_are_shown(places: tuple[Origin, ...]) -> None:
    found = value_of(seen(**dict(PLACES[place] for place in places)), PORT)
    if not places:
        assert (found.value, found.origin, found.shadowed) == (4789, Origin.RELEASE, ())
        return
    assert (found.value, found.origin) == (VALUES[places[0]], places[0])
    assert [(g.origin, g.value) for g in found.shadowed] == [(p, VALUES[p]) for p in places[1:]]


def test_a_disabled_pool_asks_for_its_tunnel_too() -> None:
    pools = {**POOLS, "old": {"ipipMode": "Always", "disabled": True}}
    found = value_of(seen("v3.32.1", pools=pools), field("ipipEnabled"))
    assert (found.value, found.where) == (True, "IP pools: old has ipipMode Always")


def test_places_have_the_names_by_which_people_look_for_them() -> None:
    found = value_of(seen(**dict(PLACES.values())), PORT)
    wheres = [found.where, *(given.where for given in found.shadowed)]
    assert wheres == [
        "FELIX_VXLANPORT",
        FILE,
        "FelixConfiguration node.node-1",
        "FelixConfiguration default",
    ]


def test_what_felix_cannot_read_becomes_the_default_and_not_what_is_below() -> None:
    found = value_of(
        seen(environment={"FELIX_VXLANPORT": "many"}, default={"vxlanPort": 4004}), PORT
    )
    assert found.value == 4789
    assert "'many' is not a whole number" in found.notes[0]
    assert [given.value for given in found.shadowed] == [4004]
    fatal = value_of(seen(environment={"FELIX_IPTABLESMARKMASK": "x"}), field("iptablesMarkMask"))
    assert fatal.value == "UNKNOWN: Felix does not start with it"


def test_empty_text_says_nothing() -> None:
    found = value_of(
        seen(environment={"FELIX_BPFLOGLEVEL": " "}, default={"bpfLogLevel": ""}),
        field("bpfLogLevel"),
    )
    assert (found.value, found.origin) == ("Off", Origin.RELEASE)


def test_a_variable_from_a_config_map_is_unknown_and_still_wins() -> None:
    found = value_of(
        seen(environment={"FELIX_IPINIPMTU": None}, default={"ipipMTU": 1400}), field("ipipMTU")
    )
    assert found.origin is Origin.ENVIRONMENT
    assert str(found.value).startswith("UNKNOWN")
    assert found.shadowed[0].value == 1400


@pytest.mark.parametrize(
    ("release", "name", "value", "origin", "where"),
    [
        ("v3.22.0", "vxlanEnabled", False, Origin.RELEASE, "v3.22.0"),
        (
            "v3.23.0",
            "vxlanEnabled",
            True,
            Origin.DERIVED,
            "IP pools: one has vxlanMode CrossSubnet",
        ),
        ("v3.32.1", "ipipEnabled", False, Origin.DERIVED, "IP pools: none asks for it"),
    ],
)
def test_unset_tunnel_flags_follow_the_pools_from_v3_23_on(
    release: str, name: str, value: bool, origin: Origin, where: str
) -> None:
    found = value_of(seen(release, pools=POOLS), field(name))
    assert (found.value, found.origin, found.where) == (value, origin, where)
    fixed = value_of(seen(release, pools=POOLS, default={name: not value}), field(name))
    assert (fixed.value, fixed.origin) == (not value, Origin.DEFAULT)


@pytest.mark.parametrize(
    ("release", "flag", "value", "words"),
    [
        ("v3.16.1", "vxlanEnabled", False, "one has vxlanMode CrossSubnet: that overlay does not"),
        ("v3.16.1", "ipipEnabled", True, "no IP pool asks for it"),
        ("v3.26.1", "ipipEnabled", True, "switches the FIB short-cut off"),
        ("v3.32.1", "ipipEnabled", True, "the MTU of new pods"),
        ("v3.26.1", "ipipEnabled", False, ""),
        ("v3.26.1", "vxlanEnabled", True, ""),
    ],
)
def test_a_flag_against_the_pools_says_what_comes_of_it(
    release: str, flag: str, value: bool, words: str
) -> None:
    found = value_of(seen(release, pools=POOLS, default={flag: value}), field(flag))
    assert words in " ".join(found.notes)
    assert bool(found.notes) == bool(words)


def test_remarks_that_hold_of_several_nodes_are_made_once() -> None:
    told = {f"n{number}": ["same", f"own {number % 2}"] for number in range(5)}
    assert grouped(told) == [
        "n0, n1, n2 and 2 more nodes: same",
        "n0, n2, n4: own 0",
        "n1, n3: own 1",
    ]


def test_a_kernel_that_cannot_beats_everything() -> None:
    found = value_of(
        seen(unsupported=True, environment={"FELIX_BPFENABLED": "true"}), field("bpfEnabled")
    )
    assert (found.value, found.origin) == (False, Origin.OVERRIDE)
    assert found.shadowed[0].value is True


LEVEL = field("bpfLogLevel")
FAST = Selected(
    "fast", {"nodeSelector": "has(fast)", "bpfLogLevel": "Debug"}, "2026-05-02T10:00:00Z"
)
ALL = Selected("all", {"nodeSelector": "all()", "bpfLogLevel": "Off"}, "2026-05-02T10:00:01Z")
BARE = Selected("bare", {"nodeSelector": "all()"}, "2026-05-02T10:00:00Z")
LABELS = {"fast": "", "kubernetes.io/os": "linux"}


def chosen(*selected: Selected, labels: dict[str, str] | None = LABELS, **given: Any) -> Evidence:
    given.setdefault("default", {"bpfLogLevel": "Info"})
    return seen("v3.32.1", selected=selected, labels=labels, **given)


def test_a_resource_that_chooses_the_node_beats_default_and_not_the_nodes_own() -> None:
    found = value_of(chosen(FAST), LEVEL)
    assert (found.value, found.origin) == ("Debug", Origin.SELECTOR)
    assert found.where == "FelixConfiguration fast"
    assert [given.value for given in found.shadowed] == ["Info"]
    own = value_of(chosen(FAST, own={"bpfLogLevel": "Off"}), LEVEL)
    assert (own.value, own.origin) == ("Off", Origin.NODE)
    assert [given.origin for given in own.shadowed] == [Origin.SELECTOR, Origin.DEFAULT]
    assert strays(chosen(FAST)) == []


@pytest.mark.parametrize("labels", [{"slow": ""}, {}])
def test_a_resource_that_does_not_choose_the_node_says_nothing(labels: dict[str, str]) -> None:
    evidence = chosen(FAST, labels=labels)
    found = value_of(evidence, LEVEL)
    assert (found.value, found.origin, found.shadowed) == ("Info", Origin.DEFAULT, ())
    assert strays(evidence) == []


def test_a_node_without_labels_is_chosen_by_none() -> None:
    assert value_of(chosen(ALL, labels={}), LEVEL).origin is Origin.DEFAULT
    assert value_of(chosen(ALL), LEVEL).value == "Off"


def test_of_two_that_choose_the_node_the_oldest_holds_whole() -> None:
    evidence = chosen(ALL, FAST)
    found = value_of(evidence, LEVEL)
    assert (found.value, found.where) == ("Debug", "FelixConfiguration fast")
    assert strays(evidence) == [
        "FelixConfiguration all chooses the node too and does nothing there: Felix takes the "
        "oldest alone, fast."
    ]
    silent = value_of(chosen(ALL, BARE), LEVEL)
    assert (silent.value, silent.origin) == ("Info", Origin.DEFAULT)


@pytest.mark.parametrize(
    ("created", "why"),
    [
        (FAST.created, "they were made in the same second"),
        ("", "when they were made is not known"),
        ("yesterday", "when they were made is not known"),
        ("2026-05-02T10:00:00", "when they were made is not known"),
    ],
)
def test_without_an_oldest_what_differs_is_unknown_with_both_values(created: str, why: str) -> None:
    evidence = chosen(FAST, replace(ALL, created=created))
    found = value_of(evidence, LEVEL)
    assert found.origin is Origin.SELECTOR
    assert found.value == (
        "UNKNOWN: 'Debug' by fast or 'Off' by all: these choose this node, Felix takes the oldest, "
        f"but {why}"
    )
    assert [given.value for given in found.shadowed] == ["Info"]
    (said,) = strays(evidence)
    assert said.startswith("Several FelixConfigurations choose the node, fast or all")
    assert why in said
    alike = replace(ALL, spec={**ALL.spec, "bpfLogLevel": "Debug"}, created=created)
    assert value_of(chosen(FAST, alike), LEVEL).value == "Debug"
    nothing = value_of(chosen(FAST, replace(BARE, created=created)), LEVEL)
    assert "'Debug' by fast or nothing by bare" in nothing.value


def test_of_three_only_the_oldest_ones_count() -> None:
    found = value_of(chosen(ALL, FAST, BARE), LEVEL)
    assert "'Debug' by fast or nothing by bare" in found.value
    assert len(strays(chosen(ALL, FAST, BARE))) == 2


def test_labels_that_are_not_known_leave_it_unknown() -> None:
    found = value_of(chosen(FAST, labels=None), LEVEL)
    assert found.origin is Origin.SELECTOR
    assert found.value == (
        "UNKNOWN: 'Debug' if 'has(fast)' chooses this node, whose labels are not known"
    )
    assert [given.value for given in found.shadowed] == ["Info"]
    assert value_of(chosen(FAST, labels=None), PORT).origin is Origin.RELEASE


@pytest.mark.parametrize("labels", [LABELS, None])
def test_a_selector_that_is_none_is_said_and_its_resource_ignored(
    labels: dict[str, str] | None,
) -> None:
    wrong = replace(FAST, spec={**FAST.spec, "nodeSelector": "fast=true"})
    evidence = chosen(wrong, labels=labels)
    assert value_of(evidence, LEVEL).value == "Info"
    assert strays(evidence) == [
        "FelixConfiguration fast does nothing, because its nodeSelector 'fast=true' is none: "
        "expected an operator at character 5, behind a label's name."
    ]


def test_a_release_without_selectors_ignores_them() -> None:
    evidence = seen("v3.31.0", selected=(FAST,), labels=LABELS)
    assert value_of(evidence, LEVEL).origin is Origin.RELEASE
    (said,) = strays(evidence)
    assert "fast has a nodeSelector, which v3.31.0 does not know" in said


def test_typos_are_said_of_the_resource_that_holds() -> None:
    wrong = replace(FAST, spec={**FAST.spec, "bpfLogLevl": "Off"})
    (said,) = strays(chosen(wrong))
    assert said.startswith("FelixConfiguration fast sets bpfLogLevl")
    assert strays(chosen(wrong, labels={"slow": ""})) == []


def test_only_names_that_may_have_a_selector_are_selected() -> None:
    spec = {"nodeSelector": "all()"}
    names = ("default", "node.node-1", "fast", "none")
    made = [
        {"metadata": {"name": name, "creationTimestamp": FAST.created}, "spec": spec}
        for name in names
    ]
    made[3]["spec"] = {"nodeSelector": ""}
    assert selected([*made, {"metadata": {"name": "empty"}}]) == (
        Selected("fast", spec, FAST.created),
    )


@pytest.mark.parametrize(
    ("annotation", "labels"),
    [
        ('{"rack": "r1", "os": "other"}', {"os": "linux", "rack": "r1"}),
        ("{", {"os": "linux"}),
        ('["os"]', {"os": "linux"}),
        ('{"rack": 1}', {"os": "linux"}),
        (None, {"os": "linux"}),
    ],
)
def test_labels_of_calicoctl_count_and_kubernetes_own_beat_them(
    annotation: str | None, labels: dict[str, str]
) -> None:
    annotations = {} if annotation is None else {"projectcalico.org/labels": annotation}
    node = {"metadata": {"labels": {"os": "linux"}, "annotations": annotations}}
    assert labels_of(node) == labels
    assert labels_of({"metadata": {"name": "bare"}}) == {}


def test_an_mtu_of_nought_is_automatic_only_where_the_release_has_that() -> None:
    (note,) = value_of(seen("v3.26.1"), field("vxlanMTU")).notes
    assert note == "automatic: the NIC's less 50 bytes"
    old = value_of(seen("v3.16.1"), field("vxlanMTU"))
    assert (old.value, old.notes) == (1410, ())


@pytest.mark.parametrize("release", ["v3.13.0", "v3.16.1", "v3.26.1", "v3.32.1"])
def test_every_field_of_a_release_has_a_value(release: str) -> None:
    found = effective(seen(release, pools=POOLS))
    assert [v.field for v in found] == [n for n, f in fields().items() if f.settable(release)]
    assert all(shown(value.value) for value in found)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"environment": {"FELIX_IPIPENABLED": "1"}}, "ipipEnabled is FELIX_IPINIPENABLED"),
        ({"environment": {"FELIX_BPFLOGLEVL": "off"}}, "did you mean bpfLogLevel?"),
        ({"file": {"IpipMtu": "1400"}}, "ipipMTU is FELIX_IPINIPMTU or IpInIpMtu"),
        ({"default": {"ipInIpEnabled": False}}, "did you mean ipipEnabled?"),
        ({"own": {"bpfProfiling": "Enabled"}}, "v3.26.1 does not have"),
        ({"environment": {"FELIX_BPFPROFILING": "Enabled"}}, "v3.26.1 does not know"),
    ],
)
def test_what_is_set_in_vain_is_said(given: dict[str, Any], words: str) -> None:
    (said,) = strays(seen(**given))
    assert words in said


def test_what_manifests_and_the_operator_set_is_not_in_vain() -> None:
    environment: dict[str, str | None] = {
        name: "1"
        for name in (
            "FELIX_DEFAULTENDPOINTTOHOSTACTION", "FELIX_HEALTHENABLED", "FELIX_IPV6SUPPORT",
            "FELIX_IPINIPMTU", "FELIX_VXLANMTU", "FELIX_WIREGUARDMTU", "FELIX_TYPHAK8SSERVICENAME",
            "FELIX_TYPHAK8SNAMESPACE", "FELIX_LOGSEVERITYSCREEN", "FELIX_REPORTINGINTERVALSECS",
            "FELIX_IPTABLESLOCKPROBEINTERVALMILLIS",
        )
    }  # fmt: skip
    file = {"MetadataAddr": "None", "LogFilePath": "None", "LogSeveritySys": "None"}
    spec = {"reportingInterval": "0s", "floatingIPs": "Disabled", "bpfLogLevel": ""}
    assert strays(seen(environment=environment, file=file, default=spec)) == []


def test_environment_and_file_are_read_as_the_node_prints_them() -> None:
    printed = (
        "==> environment <==\nFELIX_BPFLOGLEVEL=Debug\nfelix_x=a=b\n==> file <==\n"
        "[global]\n# VXLANPort = 1\nVXLANPort = 4790\nLogFilePath=None\n"
    )
    environment, file = parse_printed(printed)
    assert environment == {"FELIX_BPFLOGLEVEL": "Debug", "FELIX_X": "a=b"}
    assert file == {"VXLANPort": "4790", "LogFilePath": "None"}
    assert parse_printed("==> no process <==\n") == (None, None)
    assert parse_printed("==> environment <==\n==> file <==\n") == ({}, {})


def test_a_word_that_the_release_does_not_know_is_its_default() -> None:
    told = {"bpfAttachType": "netkit"}
    before = value_of(seen("v3.32.1", default=told), field("bpfAttachType"))
    assert before.value == "TCX"
    assert before.notes == ("'netkit' is not TC or TCX: Felix takes its default instead",)
    after = value_of(seen("v3.34.0-0.dev+67", default=told), field("bpfAttachType"))
    assert (after.value, after.origin, after.notes) == ("Netkit", Origin.DEFAULT, ())
