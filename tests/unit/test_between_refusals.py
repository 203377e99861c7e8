"""What is not comparable is refused with every reason, and goes on only with a reason given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import synthetic

from ebpfperf import between, comparable, compare
from ebpfperf.between import Pair, Side
from ebpfperf.comparable import Refusal
from ebpfperf.errors import InputError
from ebpfperf.model import Campaign, Fact, Flow, Overlay, Treatment

SMALL = replace(
    synthetic.CAMPAIGN,
    blocks=2,
    flows=synthetic.CAMPAIGN.flows[:1],
    treatments=synthetic.CAMPAIGN.treatments[:2],
)
(TCP,) = SMALL.flows
NONE, IPIP = SMALL.treatments


def side(
    campaign: Campaign = SMALL, *, facts: tuple[Fact, ...] | None = None, **columns: Any
) -> Side:
    trials = synthetic.trials_frame(synthetic.results(campaign), campaign).assign(**columns)
    told = synthetic.facts_frame(synthetic.facts() if facts is None else facts)
    return Side(f"runs/{campaign.name}", campaign, trials, told)


def refused(after: Side, *, before: Side | None = None, **given: Any) -> tuple[Refusal, ...]:
    ours = before or side()
    paired = between.pairs(ours.campaign, after.campaign, renamed=given.pop("pairs", None))
    return comparable.refusals(ours, after, paired=paired, **given)


def test_the_same_campaign_on_another_day_is_comparable() -> None:
    # Neither these nor the number of blocks are what a trial is.
    other = replace(SMALL, seed=99, blocks=3, description="again", name="again")
    assert refused(side(other)) == ()


def treatments(**changes: Any) -> dict[str, Any]:
    return {"treatments": (NONE, replace(IPIP, **changes))}


def flow(**changes: Any) -> dict[str, Any]:
    return {"flows": (replace(TCP, **changes),)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (flow(streams=8), "Flow tcp is not the same: streams 1 before, 8 after."),
        (flow(duration_s=30), "duration_s 2 before, 30 after"),
        (flow(message_bytes=1024), "message_bytes not set before, 1024 after"),
        (flow(rate_bits_per_s=1e9), "rate_bits_per_s not set before"),
        (flow(congestion="bbr"), "congestion not set before, bbr after"),
        ({"probes": ("hops",)}, "The probes are not the same, and they cost something"),
        ({"probe_share_pct": 50.0}, "on for 4 % of the time before and for 50 % after"),
        ({"margin_pct": 2.0}, "The margin fixed before the runs is not the same"),
        ({"level": 0.99}, "The level fixed before the runs is not the same"),
        ({"source": "iperf3"}, "not measured by the same tool: before ebpfperf, after iperf3"),
        (treatments(overlay=Overlay.VXLAN), "Treatment ipip is not the same: overlay ipip before"),
        (treatments(felix=(("ipipEnabled", True),)), "felix none before, ipipEnabled=True after"),
    ],
)
def test_each_difference_is_one_reason_with_a_remedy(changes: dict[str, Any], words: str) -> None:
    # The MTUs of the made-up campaign follow the overlay; here another thing is the question.
    after = side(replace(SMALL, **changes), mtu_bytes=1500.0)
    (found,) = refused(after, before=side(mtu_bytes=1500.0))
    assert words in found.what
    assert found.remedy.endswith(".")
    assert not found.final


def test_the_lab_is_not_compared_with_a_real_cluster() -> None:
    (found,) = refused(side(facts=synthetic.facts(lab=False)))
    assert "One cluster is the embedded lab: before the embedded lab, after a real cluster" in (
        found.what
    )


def test_another_mtu_needs_a_treatment_that_explains_it_or_to_be_the_subject() -> None:
    jumbo = side(mtu_bytes=8980.0)
    found = refused(jumbo, before=side(mtu_bytes=1480.0))
    assert len(found) == 2
    assert "1480 bytes before, 8980 after, and the treatment does not explain it" in found[0].what
    assert refused(jumbo, before=side(mtu_bytes=1480.0), expected=("nic_mtu",)) == ()
    # IPIP in place of none, as a person said: its headers explain it.
    moved = side(replace(SMALL, treatments=(NONE, IPIP), baseline="none"))
    assert refused(moved, pairs={"none": "ipip"}, renamed={"none"}) == ()


def test_given_rules_and_given_pairs_are_no_reason() -> None:
    other = side(replace(SMALL, margin_pct=2.0, level=0.99))
    assert len(refused(other)) == 2
    assert refused(other, margin_given=True, level_given=True) == ()
    felix = (("bpfLogLevel", "Debug"),)
    debug = side(replace(SMALL, treatments=(NONE, replace(IPIP, felix=felix))))
    assert len(refused(debug)) == 1
    assert refused(debug, renamed={"ipip"}) == ()


def test_other_units_are_refused() -> None:
    units = ({"rate": "bit/s", "rtt": "ns"}, {"rate": "Mbit/s", "other": "ns"})
    (found,) = refused(side(), units=units)
    assert found.what == "rate is in bit/s before and in Mbit/s after."


def test_a_failed_aa_test_is_said_with_its_numbers() -> None:
    row = dict.fromkeys(compare.COLUMNS, 0.0) | {
        "metric": "received_bits_per_s", "flow": "tcp", "primary": True, "verdict": "worse",
        "ratio": 0.9, "low": 0.85, "high": 0.95,
    }  # fmt: skip
    (found,) = refused(replace(side(), aa=pd.DataFrame([row])))
    assert "The A/A test of the campaign after (runs/synthetic) differs: Throughput of tcp" in (
        found.what
    )
    assert "−15.0 to −5.0 %" in found.what
    quiet = replace(side(), aa=pd.DataFrame([row | {"verdict": "equivalent"}]))
    assert refused(quiet) == ()


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (side(status="failed"), "has no good trial"),
        (side(replace(SMALL, flows=(replace(TCP, name="other"),))), "No flow is in both"),
        (
            side(
                replace(SMALL, treatments=(Treatment("x", Overlay.NONE),), baseline="x"),
            ),
            "No treatment is in both campaigns: before none, ipip; after x.",
        ),
    ],
)
def test_where_there_is_nothing_to_compare_no_reason_helps(after: Side, words: str) -> None:
    found = refused(after)
    assert words in found[0].what
    for accepted in (None, "because"):
        with pytest.raises(InputError, match="not comparable") as raised:
            comparable.check(found, accepted=accepted)
        assert raised.value.exit_status == 2
        assert "--accept" not in str(raised.value.fields["problems"])


def test_every_reason_is_listed_and_accepting_keeps_them() -> None:
    worse = replace(SMALL, margin_pct=2.0, flows=(replace(TCP, streams=8),), probes=("hops",))
    found = refused(side(worse))
    assert len(found) == 3
    with pytest.raises(InputError) as raised:
        comparable.check(found, accepted=None)
    problems = raised.value.fields["problems"]
    assert isinstance(problems, tuple)
    assert len(problems) == 3
    assert all(one.what in problem for one, problem in zip(found, problems, strict=True))
    assert problems[-1].endswith(comparable.ACCEPTING)
    assert comparable.check(found, accepted="we know") == tuple(one.what for one in found)
    assert comparable.check((), accepted=None) == ()


def test_every_field_of_a_flow_is_compared() -> None:
    """A field that is added to flows is one in which they can differ, whatever it is."""
    for field in Flow.__dataclass_fields__:
        if field == "name":
            continue
        odd = replace(TCP, **{field: "something else"})
        (found, *_) = refused(replace(side(), campaign=replace(SMALL, flows=(odd,))))
        assert f"{field} " in found.what


def test_pairs_of_two_names_are_compared_as_told() -> None:
    paired = between.pairs(SMALL, SMALL, renamed={"none": "ipip"})
    assert paired == (Pair("none", "ipip"),)
