"""Factors in a campaign file: what treatments they make, what they are called, what is refused."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfperf import factors, plan
from ebpfperf.calico.flags import LEVELS
from ebpfperf.errors import PlanError
from ebpfperf.model import Campaign, Dataplane, Overlay, Scope, Treatment

GOOD = """\
campaign: flags
blocks: 6
baseline: {ipipEnabled: unset, bpfLogLevel: off}
factors:
  ipipEnabled: [unset, true]
  bpfLogLevel: [Off, debug]
  base:
    overlay: none
    dataplane: ebpf
    vxlanMTU: 1400
flows:
  - {name: tcp, load: tcp, duration_s: 2}
"""


def load(tmp_path: Path, text: str) -> Campaign:
    path = tmp_path / "campaign.yaml"
    path.write_text(text)
    return plan.load(path)


def test_treatments_are_the_cross_product_the_last_factor_fastest(tmp_path: Path) -> None:
    campaign = load(tmp_path, GOOD)
    assert [one.name for one in campaign.treatments] == [
        "ipip-unset-log-off",
        "ipip-unset-debug",
        "ipip-true-log-off",
        "ipip-true-debug",
    ]
    assert campaign.baseline == "ipip-unset-log-off"
    assert campaign.treatments[1] == Treatment(
        "ipip-unset-debug",
        Overlay.NONE,
        Scope.ALWAYS,
        (("bpfLogLevel", "Debug"), ("ipipEnabled", None), ("vxlanMTU", 1400)),
        Dataplane.EBPF,
    )


def test_overlay_scope_and_dataplane_are_factors_too(tmp_path: Path) -> None:
    text = GOOD[: GOOD.index("factors:")].replace(
        "{ipipEnabled: unset, bpfLogLevel: off}", "{overlay: none, scope: always, dataplane: ebpf}"
    )
    text += """\
factors:
  overlay: [none, vxlan]
  scope: [always, cross-subnet]
  dataplane: [ebpf, standard]
flows: [{name: tcp, load: tcp}]
"""
    campaign = load(tmp_path, text)
    assert len(campaign.treatments) == 8
    last = campaign.treatments[-1]
    assert last == Treatment(
        "vxlan-cross-subnet-standard",
        Overlay.VXLAN,
        Scope.CROSS_SUBNET,
        dataplane=Dataplane.STANDARD,
    )


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ({"overlay": ["none", "ipip"], "bpfLogLevel": ["Debug"]}, ["none-debug", "ipip-debug"]),
        (
            {"overlay": ["ipip"], "vxlanEnabled": [True, None]},
            ["ipip-vxlan-true", "ipip-vxlan-unset"],
        ),
        (
            {"overlay": ["none"], "bpfExternalServiceMode": ["tunnel", "dsr", "unset"]},
            ["none-tunnel", "none-dsr", "none-service-unset"],
        ),
        (
            {"base": {"overlay": "none"}, "bpfHostConntrackBypass": [True, False]},
            ["bpf-host-conntrack-bypass-true", "bpf-host-conntrack-bypass-false"],
        ),
        (
            {"base": {"overlay": "none"}, "ipipMTU": [1300, 1400]},
            ["ipip-mtu-1300", "ipip-mtu-1400"],
        ),
        (
            {"base": {"overlay": "none"}, "bpfKubeProxyMinSyncPeriod": ["1s", "10s"]},
            ["bpf-kube-proxy-min-sync-period-1s", "bpf-kube-proxy-min-sync-period-10s"],
        ),
    ],
)  # fmt: skip
def test_names_say_the_levels(section: dict[str, object], names: list[str]) -> None:
    assert list(factors.treatments(section)) == names


# what is replaced → by what, line of the complaint, words of it or of its remedy
BAD = {
    "both sections": ("flows:", "treatments: [none, ipip]\nflows:", 4, "Keep one of the two"),
    "no section": ("factors:", "factorz:", 4, "Did you mean factors?"),
    "factors is a list": (
        GOOD[GOOD.index("factors:") : GOOD.index("flows:")], "factors: [a]\n", 4, "as in ipip",
    ),
    "internal name": ("  ipipEnabled", "  ipInIpEnabled", 5, "Write ipipEnabled."),
    "file name": ("  ipipEnabled", "  IpInIpEnabled", 5, "Write ipipEnabled."),
    "environment name": ("  ipipEnabled", "  FELIX_IPINIPENABLED", 5, "Write ipipEnabled."),
    "internal name in base": ("    vxlanMTU", "    ipInIpEnabled", 10, "Write ipipEnabled."),
    "no field": ("  bpfLogLevel: [", "  bpf-log: [", 6, "as in vxlanEnabled"),
    "log level false": ("[Off, debug]", "[false, debug]", 6, "Write Off, Info or Debug."),
    "log level unknown": ("[Off, debug]", "[Off, Trace]", 6, "Write Off, Info or Debug."),
    "flag is a word": ("[unset, true]", "[unset, on]", 5, "Write true or false."),
    "level twice": ("[Off, debug]", "[debug, Debug]", 6, "listed twice"),
    "null is unset": ("[unset, true]", "[unset, null]", 5, "unset is listed twice"),
    "no list": ("[unset, true]", "true", 5, "no list of levels"),
    "empty list": ("[unset, true]", "[]", 5, "no list of levels"),
    "level is a list": ("[unset, true]", "[unset, [true]]", 5, "no single value"),
    "level is a fraction": ("vxlanMTU: 1400", "vxlanMTU: 14.5", 10, "no single value"),
    "unknown overlay": ("overlay: none", "overlay: nome", 8, "Known: none, ipip, vxlan."),
    "null overlay": ("overlay: none", "overlay: null", 8, "Known: none, ipip, vxlan."),
    "unknown dataplane": ("dataplane: ebpf", "dataplane: bpf", 9, "Known: ebpf, standard."),
    "no overlay": ("    overlay: none\n", "", 4, "Add overlay: none"),
    "base is a list": (
        "  base:\n    overlay: none\n    dataplane: ebpf\n    vxlanMTU: 1400\n", "  base: []\n", 7,
        "base: {overlay: none}",
    ),
    "in base and factors": ("vxlanMTU: 1400", "ipipEnabled: true", 5, "Keep one of the two"),
    "dataplane set twice": ("vxlanMTU: 1400", "bpfEnabled: true", 10, "is what dataplane sets"),
    "one treatment": ("[unset, true]\n  bpfLogLevel: [Off, debug]", "[unset]", 4, "second level"),
    "name too long": (
        "  bpfLogLevel: [Off", f"  logPrefix: [{'long' * 15}", 4, "Vary fewer fields",
    ),
    "nameless level": ("  bpfLogLevel: [Off", "  logPrefix: ['…'", 6, "part of a name"),
    "baseline level unknown": ("unset, bpfLogLevel: off", "false", 3, "Levels: unset, true."),
    "baseline factor unknown": ("ipipEnabled: unset,", "vxlanEnabled: true,", 3, "Factors: ipip"),
    "baseline of many": ("ipipEnabled: unset, ", "", 3, "Say the level of ipipEnabled too."),
    "baseline name unknown": (
        "{ipipEnabled: unset, bpfLogLevel: off}", "ipip-true-debg", 3,
        "Did you mean ipip-true-debug?",
    ),
    "baseline is a number": ("{ipipEnabled: unset, bpfLogLevel: off}", "7", 3, "text"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_section_says_line_and_remedy(tmp_path: Path, name: str) -> None:
    old, new, line, words = BAD[name]
    assert GOOD.count(old) >= 1
    with pytest.raises(PlanError) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    said = str(caught.value)
    assert words in said, said
    assert caught.value.fields["line"] == line, said
    assert caught.value.remedy


def test_a_file_without_treatments_says_so(tmp_path: Path) -> None:
    text = GOOD[: GOOD.index("factors:")] + GOOD[GOOD.index("flows:") :]
    with pytest.raises(PlanError, match=r"lacks the key treatments.*factors"):
        load(tmp_path, text)


def test_levels_for_a_baseline_need_factors(tmp_path: Path) -> None:
    text = GOOD[: GOOD.index("factors:")] + "treatments: [none, ipip]\n"
    with pytest.raises(PlanError, match="Give a treatment's name"):
        load(tmp_path, text + GOOD[GOOD.index("flows:") :])


@pytest.mark.parametrize(
    ("felix", "words"),
    [
        ("IpInIpEnabled: true", "Write ipipEnabled."),
        ("bpfLogLevel: false", "Write Off, Info or Debug."),
        ("bpfExternalServiceMode: direct", "Write Tunnel or DSR."),
        ("vxlanEnabled: 1", "Write true or false."),
    ],
)
def test_treatments_are_held_to_the_same_fields_and_levels(
    tmp_path: Path, felix: str, words: str
) -> None:
    text = "campaign: c\nbaseline: none\ntreatments:\n  - none\n  - name: t\n    overlay: none\n"
    text += f"    felix: {{{felix}}}\nflows: [{{name: tcp, load: tcp}}]\n"
    with pytest.raises(PlanError, match=re.escape(words)) as caught:
        load(tmp_path, text)
    assert caught.value.fields["line"] == 7


def test_a_baseline_may_be_named_or_left_with_what_tells_it_apart(tmp_path: Path) -> None:
    named = GOOD.replace("{ipipEnabled: unset, bpfLogLevel: off}", "ipip-true-debug")
    assert load(tmp_path, named).baseline == "ipip-true-debug"
    one = GOOD.replace("[Off, debug]", "[debug]").replace(", bpfLogLevel: off", "")
    assert load(tmp_path, one).baseline == "ipip-unset-debug"


FIELDS = st.dictionaries(
    st.sampled_from([*LEVELS, "wireguardEnabled", "vxlanMTU"]),
    st.none(),
    min_size=1,
    max_size=4,
)


@given(FIELDS, st.data())
def test_any_levels_make_distinct_speakable_names_and_are_found_again(
    chosen: dict[str, None], data: st.DataObject
) -> None:
    section: dict[str, object] = {"base": {"overlay": "none"}}
    sizes = []
    for field in chosen:
        known = [None, *LEVELS.get(field, (True, False))]
        levels = data.draw(st.lists(st.sampled_from(known), min_size=1, unique=True))
        section[field] = levels
        sizes.append(len(levels))
    if math.prod(sizes) < 2:
        with pytest.raises(factors.Misfit, match="second level"):
            factors.treatments(section)
        return
    made = factors.treatments(section)
    assert len(made) == math.prod(sizes)
    for name, (levels, treatment) in made.items():
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name)
        assert treatment.name == name
        assert dict(treatment.felix) == levels
        assert factors.baseline(levels, made) == name
