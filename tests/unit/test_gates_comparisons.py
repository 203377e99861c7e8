"""Gates of comparisons: drift, MTU, versions, log level, caps, losses, the probes' own effect."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import combinations
from statistics import median
from typing import Any

import pandas as pd
import pytest

from ebpfperf import frames, gates
from ebpfperf.comparison_gates import trend
from ebpfperf.gate_table import GATES, Scope
from ebpfperf.model import Campaign, Dataplane, Flow, Overlay, Treatment
from ebpfperf.model import Path as FlowPath

TCP = Flow("tcp", FlowPath.POD_POD, "tcp", duration_s=30)
NONE = Treatment("none", Overlay.NONE, dataplane=Dataplane.EBPF)
VXLAN = Treatment("vxlan", Overlay.VXLAN, dataplane=Dataplane.EBPF)
CAMPAIGN = Campaign("c", 1, 10, "none", (NONE, VXLAN), (TCP,), margin_pct=5)
MTU = {"none": 1500, "vxlan": 1450}
BLOCKS = 10


def trials(
    rate: Any = lambda treatment, block: 8e9 + 1e8 * (block % 2),
    *,
    mtu: Any = lambda treatment, block: MTU[treatment],
    core_pct: float = 50,
    failed: Any = lambda treatment, block: False,
) -> pd.DataFrame:
    rows = [
        {
            "trial_id": f"b{block:03d}-{treatment}-tcp", "block": block, "treatment": treatment,
            "flow": "tcp", "role": "compared", "status": "failed" if bad else "ok",
            "received_bits_per_s": math.nan if bad else float(rate(treatment, block)),
            "mtu_bytes": float(mtu(treatment, block)), "client_busiest_core_pct": core_pct,
            "server_busiest_core_pct": core_pct,
        }
        for block in range(BLOCKS)
        for treatment in ("none", "vxlan")
        for bad in (failed(treatment, block),)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def facts(*more: tuple[str, str | None, str, str], spec: str = "{}") -> pd.DataFrame:
    """(node, trial, name, value), besides what is so of both nodes."""
    rows: list[tuple[str, str | None, str, str]] = [
        ("", None, "felix_spec", spec),
        ("", None, "calico_release", "v3.26.1"),
        *((node, None, "kernel", "6.1.0") for node in ("node-1", "node-2")),
        *more,
    ]
    names = ("node", "trial_id", "name", "value")
    return frames.build(
        "facts",
        [{"campaign": "c", "unit": "", **dict(zip(names, row, strict=True))} for row in rows],
    )


OVERHEAD = pd.DataFrame(
    {"metric": ["received_bits_per_s"], "flow": ["tcp"], "ratio": [0.99], "low": [0.96],
     "high": [1.01], "reason": [""]}
)  # fmt: skip


def judged(
    frame: pd.DataFrame | None = None,
    known: pd.DataFrame | None = None,
    campaign: Campaign = CAMPAIGN,
    **options: Any,
) -> pd.DataFrame:
    return gates.of_comparisons(
        trials() if frame is None else frame,
        facts() if known is None else known,
        campaign,
        **{"overhead": OVERHEAD, **options},
    )


def against(found: pd.DataFrame) -> list[tuple[str, str, str]]:
    """(treatment, flow, gate) of what tripped."""
    rows = gates.tripped(found)
    return list(rows[["treatment", "flow", "gate"]].itertuples(index=False, name=None))


def test_good_comparisons_pass_every_gate() -> None:
    found = judged()
    assert found.empty
    table = gates.summary(judged_trials(), trials(), comparisons=found)
    ours = table[table["scope"].ne(Scope.TRIAL.value)]
    assert set(ours["gate"]) == {g.name for g in GATES.values() if g.scope is not Scope.TRIAL}
    assert ours["checked"].gt(0).all()


def judged_trials() -> pd.DataFrame:
    return pd.DataFrame(columns=gates.TRIAL_COLUMNS).astype({"n": "int64"})


@pytest.mark.parametrize(
    ("rise_pct", "trips"), [(5.0, False), (5.2, True), (-5.2, True), (0.0, False)]
)
def test_a_baseline_that_drifts_beyond_the_margin(rise_pct: float, trips: bool) -> None:
    """The change is of the median, which lies in the middle of a straight line."""
    step = 8e9 * rise_pct / 100 / (BLOCKS - 1)
    frame = trials(lambda treatment, block: 8e9 + step * (block - (BLOCKS - 1) / 2))
    expected = [("", "tcp", "drift")] if trips else []
    assert against(judged(frame)) == expected


def test_a_large_change_in_no_order_is_noise() -> None:
    frame = trials(lambda treatment, block: 8e9 * (1 + 0.1 * (block * 7 % 10 - 4.5)))
    assert against(judged(frame)) == []


def test_trend_against_the_naive_expressions() -> None:
    values = pd.Series([3.0, 1.0, 4.0, 1.5, 5.0, 9.0], index=[0, 1, 2, 4, 5, 7])
    rank, pct = trend(values)
    points = list(zip(values.index, values, strict=True))
    slope = median((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2))
    assert pct == pytest.approx(100 * slope * 7 / median(values))
    order = {value: place for place, value in enumerate(sorted(values))}
    square = sum((order[value] - place) ** 2 for place, value in enumerate(values))
    assert rank == pytest.approx(1 - 6 * square / (6 * (36 - 1)))


def test_too_few_blocks_for_a_drift_are_not_checked() -> None:
    frame = trials()
    found = judged(frame[frame["block"].lt(5)])
    assert [row["gate"] for row in found.to_dict("records")] == ["drift"]
    assert found["severity"].eq("unchecked").all()


def test_an_mtu_that_the_treatment_explains_is_none_to_speak_of() -> None:
    assert against(judged(trials(mtu=lambda t, b: MTU[t]))) == []
    assert against(judged(trials(mtu=lambda t, b: 1500))) == []
    fixed = trials(mtu=lambda t, b: {"none": 1500, "vxlan": 1400}[t])
    assert against(judged(fixed)) == [("vxlan", "tcp", "mtu_differs")]
    # Calico's rule gives just this: vxlanMTU is set.
    rules = [
        ("node-1", trial, "pod_mtu_rule", f"{mtu:.0f}")
        for trial, mtu in fixed[["trial_id", "mtu_bytes"]].itertuples(index=False)
    ]
    assert against(judged(fixed, facts(*rules))) == []


def test_an_mtu_that_changes_within_an_arm() -> None:
    frame = trials(mtu=lambda t, b: MTU[t] - (t == "none" and b == 3))
    assert against(judged(frame)) == [("none", "tcp", "mtu_differs")]


@pytest.mark.parametrize("name", ["kernel", "iperf3_version", "sockperf_version"])
def test_versions_that_differ_between_nodes(name: str) -> None:
    pair = [("node-1", None, name, "6.1.0"), ("node-2", None, name, "6.1.0")]
    assert against(judged(None, facts(*pair))) == []  # type: ignore[arg-type]
    other = [*pair[:1], ("node-2", None, name, "6.1.1")]
    assert against(judged(None, facts(*other))) == [("", "", "versions_differ")]  # type: ignore[arg-type]
    unknown = [*pair[:1], ("node-2", None, name, "UNKNOWN: not installed")]
    found = judged(None, facts(*unknown))  # type: ignore[arg-type]
    assert ("", "", "versions_differ") not in against(found) or name == "kernel"


def test_versions_that_differ_between_arms() -> None:
    def told(newer: str) -> pd.DataFrame:
        rows = [
            ("", trial, "iperf3_version", newer if treatment == "vxlan" else "3.12")
            for trial, treatment in trials()[["trial_id", "treatment"]].itertuples(index=False)
        ]
        return facts(*rows)

    assert against(judged(None, told("3.12"))) == []
    assert against(judged(None, told("3.16"))) == [("vxlan", "", "versions_differ")]


def test_a_calico_that_was_upgraded_meanwhile() -> None:
    """The facts of the campaign know the newest alone: those of trials tell."""
    rows = [
        ("", trial, "calico_release", "v3.26.1" if block < 5 else "v3.27.0")
        for trial, block in trials()[["trial_id", "block"]].itertuples(index=False)
    ]
    found = judged(None, facts(*rows))
    assert against(found) == [("", "", "versions_differ")]
    assert found["evidence"].iloc[0] == "Calico changed during the campaign: v3.26.1, v3.27.0."


def test_a_log_that_nobody_asked_for() -> None:
    debug = facts(spec=json.dumps({"bpfEnabled": True, "bpfLogLevel": "Debug"}))
    off = facts(spec=json.dumps({"bpfEnabled": True, "bpfLogLevel": "Off"}))
    assert against(judged(None, off)) == []
    assert against(judged(None, debug)) == [
        ("none", "", "bpf_log_level"),
        ("vxlan", "", "bpf_log_level"),
    ]
    asked = replace(VXLAN, felix=(("bpfLogLevel", "Debug"),))
    iptables = replace(NONE, dataplane=Dataplane.STANDARD)
    campaign = replace(CAMPAIGN, treatments=(iptables, asked))
    assert against(judged(None, debug, campaign)) == []


def test_a_log_level_is_off_however_it_is_spelled() -> None:
    for spelled in ("off", "OFF", ""):
        spec = json.dumps({"bpfEnabled": True, "bpfLogLevel": spelled})
        assert against(judged(None, facts(spec=spec))) == []
    spec = json.dumps({"bpfEnabled": True, "bpfLogLevel": "debug"})
    assert len(against(judged(None, facts(spec=spec)))) == 2


@pytest.mark.parametrize("shown", ["Debug", "Debug, Off", "Info"])
def test_programs_that_log_though_the_resource_says_off(shown: str) -> None:
    """FELIX_BPFLOGLEVEL and a node's own FelixConfiguration beat the default one."""

    def told(level: str) -> pd.DataFrame:
        rows = [
            ("node-1", trial, "bpf_log_level", level if treatment == "vxlan" else "Off")
            for trial, treatment in trials()[["trial_id", "treatment"]].itertuples(index=False)
        ]
        return facts(*rows, spec=json.dumps({"bpfEnabled": True, "bpfLogLevel": "Off"}))

    assert against(judged(None, told("Off"))) == []
    assert against(judged(None, told("UNKNOWN: since Calico v3.21 a name does not tell it"))) == []
    found = judged(None, told(shown))
    assert against(found) == [("vxlan", "", "bpf_log_level")]
    assert found["evidence"].iloc[0] == (
        f"Programs log ({shown.removesuffix(', Off')}) under vxlan, which does not ask for it."
    )
    asked = replace(VXLAN, felix=(("bpfLogLevel", "Debug"),))
    campaign = replace(CAMPAIGN, treatments=(NONE, asked))
    assert against(judged(None, told(shown), campaign)) == []


@pytest.mark.parametrize(
    ("low", "high", "trips"),
    [(0.96, 1.2, False), (1.04, 1.2, False), (1.051, 1.2, True), (0.9, 0.95, True),
     (0.9, 0.96, False)],
)  # fmt: skip
def test_probes_whose_effect_is_beyond_the_margin(low: float, high: float, trips: bool) -> None:
    found = judged(overhead=OVERHEAD.assign(low=low, high=high))
    assert against(found) == ([("", "tcp", "probe_overhead")] if trips else [])
    if trips:
        assert found["metric"].tolist() == ["received_bits_per_s"]


def test_without_bare_trials_the_probes_effect_is_not_checked() -> None:
    for overhead in (None, OVERHEAD.iloc[:0]):
        (row,) = judged(overhead=overhead).to_dict("records")
        assert (row["gate"], row["severity"]) == ("probe_overhead", "unchecked")


@pytest.mark.parametrize(
    ("rate", "core_pct", "speed", "capped"),
    [
        (4.96e9, 50, "25000", True),
        (4.96e9, 50, "UNKNOWN: the driver gives none", True),
        (4.49e9, 50, "25000", False),
        (5.01e9, 50, "25000", False),
        (4.96e9, 80, "25000", False),
        (4.96e9, 50, "5000", False),
        (9.41e9, 50, "10000", False),
        (9.41e9, 50, "UNKNOWN: the driver gives none", False),
        (9.41e9, 50, "25000", True),
    ],
)
def test_one_stream_at_a_providers_limit(
    rate: float, core_pct: float, speed: str, capped: bool
) -> None:
    frame = trials(lambda t, b: rate * (1 + 0.001 * (b % 2)), core_pct=core_pct)
    found = against(judged(frame, facts(("node-1", None, "nic_speed", speed))))
    expected = [(name, "tcp", "single_stream_cap") for name in ("none", "vxlan")]
    assert found == (expected if capped else [])


def test_a_rate_that_varies_is_no_limit_of_a_provider() -> None:
    frame = trials(lambda t, b: 4.9e9 * (1 + 0.011 * (b % 2)))
    assert against(judged(frame)) == []


def test_trials_lost_in_one_arm() -> None:
    one = trials(failed=lambda t, b: t == "vxlan" and b == 2)
    assert against(judged(one)) == []
    two = trials(failed=lambda t, b: t == "vxlan" and b in (2, 5))
    assert against(judged(two)) == [("vxlan", "tcp", "failed_trials")]
    # An excluded one is lost as well.
    found = judged_trials()
    found.loc[0] = ["b007-vxlan-tcp", "wrong_path", "void", "x.", "y.", 1]
    assert against(judged(one, found=found)) == [("vxlan", "tcp", "failed_trials")]
    base = trials(failed=lambda t, b: t == "none" and b < 3)
    assert set(against(judged(base))) == {
        ("", "tcp", "failed_trials"),
        ("vxlan", "tcp", "failed_trials"),
    }


def test_trials_of_other_roles_are_not_compared() -> None:
    again = trials(failed=lambda t, b: True).assign(role="again")
    assert judged(pd.concat([trials(), again])).empty
