"""Steps of packets that were followed on a real kernel, in the lab's eBPF mode, Linux 6.18.

The exchange's walks all came to their end; most of those of the bulk flow were given up.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ebpfperf import anatomy, anatomy_findings, plan

HERE = Path(__file__).parent / "anatomy"
CAMPAIGN = plan.load(HERE / "campaign.yaml")


def frame(name: str) -> pd.DataFrame:
    return pd.read_parquet(HERE / f"{name}.parquet")


@pytest.fixture(scope="module")
def steps() -> pd.DataFrame:
    return anatomy.steps(frame("trials"), frame("samples"), frame("histograms"), CAMPAIGN)


def whole() -> pd.Series:
    told = frame("samples")
    told = told[told["metric"].eq("hop_mean_ns:=end-to-end")]
    return told.set_index(["trial_id", "endpoint"])["value"].sort_index()


def test_steps_of_an_exchange_add_up_to_the_whole_way_exactly(steps: pd.DataFrame) -> None:
    ours = steps[steps["flow"].eq("rr")]
    found = ours.groupby(["trial_id", "sender"])["cost_ns"].sum()
    assert len(found) > 30
    np.testing.assert_allclose(found, whole().loc[found.index.to_list()], rtol=1e-9)
    assert ours["share"].eq(1).all()


def test_every_step_seen_has_a_row_of_its_own_in_the_table(steps: pd.DataFrame) -> None:
    seen = set(zip(steps["start"], steps["end"], strict=True))
    assert seen <= set(anatomy.STEPS)
    assert ("tunnel-queue", "nic-queue") in seen


def test_of_bulk_traffic_few_walks_end_and_the_shares_stay(steps: pd.DataFrame) -> None:
    bulk = steps[steps["flow"].eq("tcp")]
    first, last = (
        bulk[bulk["start"].eq(at)]["events"].sum() for at in ("pod-queue", "pod-receive")
    )
    assert last < first / 2
    assert bulk["share"].between(0.95, 1).all()


def test_what_differs_is_the_overlay_and_where_it_was_put(steps: pd.DataFrame) -> None:
    """Not how much: which steps are there at all is the kernel's own, whatever its speed."""
    costs = anatomy.parts(steps)
    overlay = costs[costs["part"].eq(anatomy.OVERLAY)].groupby("treatment")["cost_ns"]
    assert overlay.max()["none"] == 0
    assert overlay.min()["vxlan"] > 0
    found = anatomy.differences(costs, CAMPAIGN)
    said = anatomy_findings.where(found, steps, CAMPAIGN)
    assert "Under ipip no packet was seen at a tunnel device of the sender" in said.legend
    (row,) = found[
        found["flow"].eq("tcp") & found["treatment"].eq("vxlan") & found["part"].eq("overlay")
    ].to_dict("records")
    assert anatomy_findings.told(row) == "longer"
    assert row["n_blocks"] == CAMPAIGN.blocks
