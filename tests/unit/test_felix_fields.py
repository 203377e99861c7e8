"""The table of Felix's fields against the two others that the kit has, and how values are read."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from ebpfperf.calico import felix_fields, felixenv, flags
from ebpfperf.calico.durations import duration_text, go_duration_s
from ebpfperf.calico.felix_fields import field, fields, read_value
from ebpfperf.cli import app
from ebpfperf.errors import InputError
from ebpfperf.felix_explained import explain
from ebpfperf.lab.felix_schema import felix_spec

RELEASES = tuple(f"v3.{minor}" for minor in range(13, 34))
# What the published resource definitions have: the lab's oldest release to its newest.
PUBLISHED = tuple(range(16, 33))


@pytest.mark.parametrize("minor", PUBLISHED)
def test_the_table_and_the_published_definitions_have_the_same_fields(minor: int) -> None:
    release = f"v3.{minor}"
    published = set(felix_spec(minor)["properties"])
    told = {name for name, one in fields().items() if one.in_resource(release)}
    assert told <= published
    assert published - told <= felix_fields.other_names()


def test_no_field_is_told_about_and_set_aside() -> None:
    assert felix_fields.other_names() & set(fields()) == set()
    assert set(felix_spec(32)["properties"]) <= felix_fields.other_names() | set(fields())


@pytest.mark.parametrize("name", sorted(fields()))
def test_every_field_can_be_told_about_in_every_release(name: str) -> None:
    one = field(name)
    assert one.source
    assert one.type in ("bool", "int", "text", "regexp", "duration", "word", "list", "map", "ports")
    assert bool(one.levels) == (one.type == "word")
    for release in RELEASES:
        told = explain(one, release)
        assert told.present == one.in_resource(release)
        rows = dict(told.rows())
        assert rows["there"].startswith("yes" if told.present else "NO")
        if not one.in_resource(release):
            continue
        default = one.default(release)
        if default is None:
            assert one.unset, f"{name}: what does unset mean in {release}?"
        elif not str(default).startswith("UNKNOWN") and one.type != "duration":
            assert read_value(one, default, local=False) == default


@pytest.mark.parametrize("name", sorted(n for n, one in fields().items() if one.page))
def test_each_release_has_one_word_on_the_pages_advice(name: str) -> None:
    one = field(name)
    for release in RELEASES:
        if one.in_resource(release) or one.until:
            said = one.said(one.page_now, release)
            assert len(said) == (1 if one.settable(release) or release >= one.since else 0), release


@pytest.mark.parametrize("name", ["ipipEnabled", "vxlanEnabled"])
@pytest.mark.parametrize("release", RELEASES)
def test_the_pages_advice_is_right_where_the_flag_ends_the_short_cut(
    name: str, release: str
) -> None:
    rule = flags.rule(name, release)
    assert rule is not None
    (said,) = explain(field(name), release).page_now
    assert said.startswith("Right") == rule.ends_shortcut
    assert (field(name).default(release) is None) == rule.unset.startswith("derived")


def test_values_and_names_agree_with_the_table_of_flags() -> None:
    for name, levels in flags.LEVELS.items():
        one = field(name)
        assert one.levels == tuple(level for level in levels if isinstance(level, str))
    for name, one in fields().items():
        assert one.variable == felixenv.variable(name)
        assert felixenv.resource_field(one.variable) in (None, name)


@pytest.mark.parametrize(
    "said", ["ipipEnabled", "ipInIpEnabled", "IpInIpEnabled", "FELIX_IPINIPENABLED", " IPIPENABLED"]
)
def test_a_field_is_found_by_any_of_its_names(said: str) -> None:
    assert field(said).name == "ipipEnabled"


@pytest.mark.parametrize(
    ("said", "nearest"),
    [
        ("bpfLoglvel", "bpfLogLevel"),
        ("ipipEnable", "ipipEnabled"),
        ("FELIX_BPFENABLE", "bpfEnabled"),
        ("bpfKubeProxyEndpointSliceEnabled", "bpfKubeProxyEndpointSlicesEnabled"),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest(said: str, nearest: str) -> None:
    with pytest.raises(InputError, match=f"Did you mean {nearest}") as refused:
        field(said)
    assert refused.value.exit_status == 2


def test_a_field_that_changes_nothing_of_ebpf_is_known_as_one() -> None:
    with pytest.raises(InputError, match="healthEnabled is a field of Felix"):
        field("HealthEnabled")


@pytest.mark.parametrize(
    ("name", "given", "local", "value"),
    [
        ("bpfLogLevel", "DEBUG", True, "Debug"),
        ("bpfEnabled", "1", True, True),
        ("bpfEnabled", "No", True, False),
        ("bpfEnabled", "none", True, False),
        ("vxlanPort", "0x12b5", True, 4789),
        ("vxlanPort", "011265", True, 4789),
        ("bpfKubeProxyMinSyncPeriod", "90", True, "1m30s"),
        ("bpfKubeProxyMinSyncPeriod", "1m30s", False, "1m30s"),
        ("bpfDSROptoutCIDRs", "10.0.0.0/8, 192.0.2.0/24", True, ["10.0.0.0/8", "192.0.2.0/24"]),
        ("bpfLogFilters", "eth0=tcp port 80,all=udp", True, {"eth0": "tcp port 80", "all": "udp"}),
    ],
)
def test_values_are_read_as_felix_reads_them(
    name: str, given: object, local: bool, value: object
) -> None:
    assert read_value(field(name), given, local=local) == value


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("bpfKubeProxyMinSyncPeriod", "10s", "plain seconds"),
        ("bpfLogLevel", "trace", "Off, Info or Debug"),
        ("bpfLogLevel", "none", "other than none"),
        ("bpfEnabled", "on", "true or false"),
        ("vxlanPort", "many", "whole number"),
        ("bpfLogFilters", "eth0", "NAME=VALUE"),
    ],
)
def test_what_felix_cannot_read_says_what_it_wants(name: str, given: str, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        read_value(field(name), given, local=True)


@pytest.mark.parametrize(
    ("text", "seconds", "again"),
    [
        ("1m30s", 90, "1m30s"),
        ("500ms", 0.5, "500ms"),
        ("1h", 3600, "1h"),
        ("1.5s", 1.5, "1.5s"),
        ("0", 0, "0s"),
        ("3661s", 3661, "1h1m1s"),
    ],
)
def test_durations_are_gos(text: str, seconds: float, again: str) -> None:
    assert go_duration_s(text) == seconds
    assert duration_text(seconds) == again
    assert go_duration_s(again) == seconds


@pytest.mark.parametrize("text", ["", "5", "5 s", "s", "1m-2s", "ten"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a duration"):
        go_duration_s(text)


def test_explain_needs_no_cluster_where_it_is_told_the_release(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket", refuse)
    for release in ("v3.16", "3.26.1", "v3.32"):
        asked = ["felix", "explain", "ipInIpEnabled", "--release", release]
        done = CliRunner().invoke(app, [*asked, "--json"])
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
        assert told["field"] == "ipipEnabled"
        assert told["variable"] == "FELIX_IPINIPENABLED"
        shown = CliRunner().invoke(app, asked).stdout
        assert "ipipEnabled" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bpfLoglvel", "--release", "v3.26"], "Did you mean bpfLogLevel"),
        (["bpfLogLevel", "--release", "v3.12"], "no eBPF mode"),
        (["bpfLogLevel", "--release", "newest"], "not a Calico version"),
    ],
)
def test_what_cannot_be_explained_ends_with_status_2(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["felix", "explain", *arguments])
    assert isinstance(done.exception, InputError)
    assert words in str(done.exception)
    assert done.exception.exit_status == 2


def test_what_is_removed_says_so() -> None:
    told = explain(field("bpfKubeProxyEndpointSlicesEnabled"), "v3.32.1")
    assert not told.present
    assert told.lifetime == "since v3.15, removed in v3.32"
    assert told.as_json()["default"] is None
    assert told.defaults == (("v3.15", "false"), ("v3.23", "true"))


@pytest.mark.parametrize("name", ["ipipEnabled", "vxlanEnabled"])
@pytest.mark.parametrize(("release", "follows"), [("v3.16.1", False), ("v3.17.4", True)])
def test_pods_mtu_follows_the_flags_from_v3_17(name: str, release: str, follows: bool) -> None:
    told = explain(field(name), release)
    assert any("MTU of new pods" in text for text in told.ebpf) is follows
    assert any("pods keep their MTU" in text for text in told.traps) is follows
    assert any("veth_mtu" in text for text in told.traps) is not follows


@pytest.mark.parametrize(
    ("name", "word"), [("bpfAttachType", "Netkit"), ("programClusterRoutes", "EnabledIPIPOnly")]
)
def test_a_word_that_came_later_is_not_told_of_before(name: str, word: str) -> None:
    before, after = explain(field(name), "v3.32.1"), explain(field(name), "v3.34.0-0.dev+67")
    assert word not in before.values
    assert word not in before.default
    assert word in after.values
    assert after.default == word
