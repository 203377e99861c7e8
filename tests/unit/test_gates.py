"""Gates of trials: each trips beyond its limit, is silent at it, and never passes unasked."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ebpfperf import frames, gates
from ebpfperf.gate_table import GATES, Scope, Severity
from ebpfperf.model import Campaign, Flow, Overlay, Quiet, Treatment
from ebpfperf.model import Path as FlowPath
from ebpfperf.trial_gates import CHECKS, shift

DOCS = Path(__file__).resolve().parents[2] / "docs" / "gates.md"
TCP = Flow("tcp", FlowPath.POD_POD, "tcp", duration_s=10, omit_s=1)
RR = Flow("rr", FlowPath.POD_POD, "request-response", duration_s=2, omit_s=0, message_bytes=64)
CAMPAIGN = Campaign(
    "c", 1, 1, "none", (Treatment("none", Overlay.NONE), Treatment("vxlan", Overlay.VXLAN)),
    (TCP, RR), quiet=Quiet(busy_pct=15, nic_bits_per_s=1e7),
)  # fmt: skip
ID = "b000-none-tcp"
# A trial that nothing can be said against.
GOOD: dict[str, float] = {
    "received_bits_per_s": 8e9,
    "sent_bits_per_s": 8e9,
    "retransmits": 0,
    "mss_bytes": 1000,
    "softnet_dropped": 0,
    "cpu_s": 1,
    "sender_cpu_pct": 50,
    "receiver_cpu_pct": 50,
    "client_busiest_core_pct": 60,
    "server_busiest_core_pct": 60,
    "busy_pct": 50,
    "steal_pct": 0,
    "idle_busy_pct": 2,
    "idle_nic_bits_per_s": 0,
    "waited_s": 0,
    "other_nic_bits_per_s": 0,
    "clock_step_s": 0,
    "clsact_drops": 0,
}
FACTS = {"wire_overlay": "none", "wire_expected": "none", "iperf3_version": "3.16"}
RATES = [8e9] * 10


def trials(flow: Flow = TCP, warnings: str = "", **numbers: float) -> pd.DataFrame:
    row: dict[str, Any] = {
        "campaign": "c", "trial_id": ID, "block": 0, "order": 0, "treatment": "none",
        "overlay": "none", "scope": "always", "dataplane": None, "felix": "{}", "flow": flow.name,
        "path": "pod-pod", "load": flow.load, "transport": "tcp", "direction": "forward",
        "streams": flow.streams, "message_bytes": None, "rate_bits_per_s": None, "probes": "",
        "role": "compared", "status": "ok", "reason": "", "start_utc": "2026-11-25T07:00:00Z",
        "duration_s": 11.0, "overhead_s": 0.1, "warnings": warnings, **GOOD, **numbers,
    }  # fmt: skip
    return frames.build("trials", [row])


def samples(rates: list[float] | None = None, **drops: float) -> pd.DataFrame:
    """Intervals of a second, the first of them warm-up; drops by device of the client's node."""
    rows = [
        ("iperf3", "client", "sent_bits_per_s", "bit/s", float(at), rate, phase)
        for at, rate, phase in [
            (1, 8e9, "warmup"),
            *((at, rate, "measure") for at, rate in enumerate(rates or RATES, start=2)),
        ]
    ]
    rows += [
        ("host_counters", "client", f"clsact_drops:{device}", "1", 11.0, count, "measure")
        for device, count in drops.items()
    ]
    names = list(frames.COLUMNS["samples"])[2:]
    return frames.build(
        "samples",
        [{"campaign": "c", "trial_id": ID, **dict(zip(names, row, strict=True))} for row in rows],
    )


def facts(shared: bool | None = False, **values: str) -> pd.DataFrame:
    rows = [("", ID, name, value) for name, value in {**FACTS, **values}.items()]
    if shared is not None:
        boots = ("one", "one") if shared else ("one", "two")
        rows += [(f"node-{n}", None, "boot_id", boot) for n, boot in enumerate(boots)]  # type: ignore[misc]
    return frames.build(
        "facts",
        [
            {"campaign": "c", "trial_id": trial, "node": node, "name": name, "value": value,
             "unit": ""}
            for node, trial, name, value in rows
        ],
    )  # fmt: skip


def judged(**given: Any) -> pd.DataFrame:
    flow = given.get("flow", TCP)
    campaign = replace(given.get("campaign", CAMPAIGN))
    if flow.name not in {known.name for known in campaign.flows} or flow not in campaign.flows:
        campaign = replace(campaign, flows=(flow,))
    return gates.of_trials(
        trials(flow, given.get("warnings", ""), **given.get("numbers", {})),
        samples(given.get("rates"), **given.get("drops", {})),
        facts(given.get("shared", False), **given.get("facts", {})),
        campaign,
    )


def against(found: pd.DataFrame) -> dict[str, str]:
    """Gate → severity, of what tripped."""
    rows = gates.tripped(found)
    return dict(zip(rows["gate"], rows["severity"], strict=True))


def test_a_good_trial_passes_every_gate_and_was_asked_by_each() -> None:
    found = judged()
    assert found.empty
    table = gates.summary(found, trials())
    assert set(table["gate"]) == {gate.name for gate in GATES.values() if gate.scope is Scope.TRIAL}
    assert table["checked"].eq(1).all()
    assert table[["tripped", "void", "unchecked"]].eq(0).all(axis=None)


def level(before: float, after: float) -> list[float]:
    return [before] * 5 + [after] * 5


# Retransmits: 8 Gbit/s of 1000-byte segments for 10 s are 1e7 segments.
SEGMENTS = 10_000_000
EDGES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("idle_load", "doubt", {"numbers": {"idle_busy_pct": 15}},
     {"numbers": {"idle_busy_pct": 15.1}}),
    ("other_traffic", "doubt", {"numbers": {"idle_nic_bits_per_s": 1e7}},
     {"numbers": {"idle_nic_bits_per_s": 1.01e7}}),
    ("other_traffic", "doubt", {"numbers": {"other_nic_bits_per_s": 0.02 * 8e9}},
     {"numbers": {"other_nic_bits_per_s": 0.02 * 8e9 + 1}}),
    ("other_traffic", "doubt",
     {"numbers": {"other_nic_bits_per_s": 1e7, "received_bits_per_s": 1e8}},
     {"numbers": {"other_nic_bits_per_s": 1.01e7, "received_bits_per_s": 1e8}}),
    ("steal", "doubt", {"numbers": {"steal_pct": 2}}, {"numbers": {"steal_pct": 2.1}}),
    ("softnet_drops", "doubt", {}, {"numbers": {"softnet_dropped": 1}}),
    ("clock", "void", {"numbers": {"clock_step_s": 0.099}}, {"numbers": {"clock_step_s": 0.1}}),
    ("clock", "doubt", {"facts": {"clocksource": "tsc"}},
     {"facts": {"clocksource": "tsc → hpet"}}),
    ("clock", "doubt", {"facts": {"cpu_throttled": "0"}}, {"facts": {"cpu_throttled": "3"}}),
    ("clock", "doubt", {"facts": {"cpu_limit_khz": "3400000"}},
     {"facts": {"cpu_limit_khz": "3400000 → 2000000"}}),
    ("rebooted", "void", {"warnings": "probe hops: late"},
     {"warnings": "probe host_counters: rebooted: Node node-1 was started anew."}),
    ("retransmit_storm", "doubt", {"numbers": {"retransmits": SEGMENTS // 100}},
     {"numbers": {"retransmits": SEGMENTS // 100 + 1}}),
    ("short_trial", "void", {"rates": [8e9] * 9}, {"rates": [8e9] * 8}),
    ("short_trial", "doubt", {}, {"flow": replace(TCP, duration_s=9)}),
    ("not_steady", "doubt", {"rates": level(8e9, 8.7e9)}, {"rates": level(8e9, 9e9)}),
    ("not_steady", "doubt", {"rates": [8e9 + 0.06e9 * at for at in range(10)]},
     {"rates": [8e9 + 0.25e9 * at for at in range(10)]}),
    # One dip is a large difference, and explains too little of the rest.
    ("not_steady", "doubt", {"rates": [8e9, 9e9] * 5}, {"rates": level(9e9, 8e9)}),
    ("wrong_path", "void", {"facts": {"wire_overlay": "vxlan", "wire_expected": "vxlan"}},
     {"facts": {"wire_overlay": "none", "wire_expected": "vxlan"}}),
    ("wrong_path", "void", {}, {"facts": {"wire_overlay": "mixed"}}),
    ("clsact_drops", "void", {"drops": {"cali1": 0, "ens5": 0}},
     {"drops": {"cali1": 1}, "numbers": {"clsact_drops": 1}}),
    ("clsact_drops", "doubt", {}, {"drops": {"ens5": 1}, "numbers": {"clsact_drops": 1}}),
    ("core_saturated", "doubt", {"numbers": {"client_busiest_core_pct": 94.9}},
     {"numbers": {"client_busiest_core_pct": 95}}),
    ("core_saturated", "doubt", {"numbers": {"receiver_cpu_pct": 94.9}},
     {"numbers": {"receiver_cpu_pct": 95}}),
    ("core_saturated", "doubt",
     {"numbers": {"sender_cpu_pct": 95}, "flow": replace(TCP, streams=4)},
     {"numbers": {"sender_cpu_pct": 95}, "flow": replace(TCP, streams=4),
      "facts": {"iperf3_version": "3.12"}}),
    ("lab_shared_cpu", "doubt", {"shared": True, "numbers": {"busy_pct": 89.9}},
     {"shared": True, "numbers": {"busy_pct": 90}}),
    ("lab_shared_cpu", "doubt", {"shared": False, "numbers": {"busy_pct": 100}},
     {"shared": True, "numbers": {"busy_pct": 100}}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("gate", "severity", "silent", "trips"), EDGES, ids=[f"{e[0]}-{n}" for n, e in enumerate(EDGES)]
)
def test_a_gate_trips_beyond_its_limit_alone(
    gate: str, severity: str, silent: dict[str, Any], trips: dict[str, Any]
) -> None:
    assert gate not in against(judged(**silent))
    found = judged(**trips)
    assert against(found) == {gate: severity}
    assert gates.excluded(found) == ({ID} if severity == "void" else set())
    (row,) = found[found["gate"].eq(gate) & found["severity"].eq(severity)].to_dict("records")
    assert row["evidence"].endswith(".")
    assert row["advice"] == GATES[gate].advice
    table = gates.summary(found, trials()).set_index("gate")
    assert table.loc[gate, ["checked", "tripped"]].tolist() == [1, 1]
    assert table.loc[gate, "void"] == (severity == "void")
    assert table["tripped"].sum() == 1


def test_every_gate_of_trials_has_an_edge() -> None:
    assert {edge[0] for edge in EDGES} == set(CHECKS)
    assert set(CHECKS) == {gate.name for gate in GATES.values() if gate.scope is Scope.TRIAL}


def test_few_requests_are_too_few_for_a_tail() -> None:
    rr = {"requests": 1000.0}
    assert "short_trial" not in against(judged(flow=RR, numbers=rr, rates=[8e9, 8e9]))
    found = judged(flow=RR, numbers={"requests": 999.0}, rates=[8e9, 8e9])
    assert against(found)["short_trial"] == "doubt"


@pytest.mark.parametrize("gate", sorted(CHECKS))
def test_an_old_campaign_did_not_pass_what_it_was_never_asked(gate: str) -> None:
    """Numbers of before, and nothing else: once not checked, whatever the number of trials."""
    old = trials()
    old[[*GOOD]] = float("nan")
    old["received_bits_per_s"] = 8e9
    two = pd.concat([old, old.assign(trial_id="b001-none-tcp", block=1)])
    found = gates.of_trials(two, frames.empty("samples"), frames.empty("facts"), CAMPAIGN)
    assert against(found) == {}
    assert gates.excluded(found) == set()
    rows = found[found["gate"].eq(gate)]
    table = gates.summary(found, two).set_index("gate")
    if gate == "short_trial":
        # Its length is known of any trial.
        assert (len(rows), table.loc[gate, "checked"]) == (0, 2)
        return
    (row,) = rows.to_dict("records")
    assert (row["trial_id"], row["severity"], row["n"]) == ("", Severity.UNCHECKED, 2)
    assert row["evidence"].startswith("not checked: ")
    assert table.loc[gate, ["checked", "unchecked"]].tolist() == [0, 2]
    assert table.loc[gate, "reason"] == row["evidence"]


def test_a_wire_that_could_not_be_seen_is_not_checked_with_its_reason() -> None:
    found = judged(facts={"wire_overlay": "UNKNOWN: tcpdump is not installed"})
    (row,) = found.to_dict("records")
    assert (row["gate"], row["severity"]) == ("wrong_path", "unchecked")
    assert row["evidence"] == "not checked: tcpdump is not installed"


@pytest.mark.parametrize(
    ("unknown", "word"), [("other_nic_bits_per_s", "during"), ("idle_nic_bits_per_s", "before")]
)
def test_half_a_question_about_other_traffic_is_not_the_whole(unknown: str, word: str) -> None:
    """Of a flow between hosts nobody knows what else crossed the NIC meanwhile."""
    found = judged(numbers={unknown: float("nan")})
    (row,) = found.to_dict("records")
    assert (row["gate"], row["severity"]) == ("other_traffic", "unchecked")
    assert f"{word} the trial is not known" in row["evidence"]
    busy = {"idle_nic_bits_per_s": 1e9, "other_nic_bits_per_s": 1e9, unknown: float("nan")}
    assert against(judged(numbers=busy)) == {"other_traffic": "doubt"}


def test_failed_trials_have_no_numbers_to_judge() -> None:
    bad = trials(idle_busy_pct=99).assign(status="failed")
    found = gates.of_trials(bad, samples(), facts(), CAMPAIGN)
    assert found.empty
    assert gates.summary(found, bad)["checked"].eq(0).all()


def test_exclusion_does_not_look_at_what_was_measured() -> None:
    """A hundredth and a hundred times the rate: the same trials are excluded."""
    for factor in (0.01, 1, 100):
        rates = {name: GOOD[name] * factor for name in ("received_bits_per_s", "sent_bits_per_s")}
        found = judged(numbers=rates, rates=[rate * factor for rate in RATES])
        assert gates.excluded(found) == set()


@pytest.mark.parametrize("at", range(2, 9))
def test_a_step_is_found_where_it_is_and_by_its_size(at: int) -> None:
    values = [100.0] * at + [120.0] * (10 - at)
    pct, explained = shift(values)
    assert explained == pytest.approx(1)
    assert pct == pytest.approx(100 * 20 / (sum(values) / 10))
    assert shift(values[::-1])[0] == pytest.approx(-pct)


def test_a_slope_is_half_of_its_rise_and_even_values_are_none() -> None:
    """The two halves of a straight line lie half of its rise apart, nearly."""
    values = [100.0 + at for at in range(11)]
    pct, explained = shift(values)
    assert explained == pytest.approx(1)
    assert pct == pytest.approx(100 * 5 / 105)
    assert shift([7.0] * 9) == (0.0, 0.0)


def test_the_document_is_the_table() -> None:
    rows = {
        row[0]: row[1:]
        for row in re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$",
                              DOCS.read_text(), re.M)
    }  # fmt: skip
    assert rows == {
        gate.name: (gate.asks, f"{gate.limit} ({gate.severity})", gate.ground, gate.advice)
        for gate in GATES.values()
    }
