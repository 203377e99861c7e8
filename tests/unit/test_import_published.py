"""The published 40 Gbit/s data through the import: the numbers that its publisher's files hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from published import document, imported, rows, store

from ebpfperf.loads import iperf3_document
from ebpfperf.model import Design, Status


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["source"])
def test_a_row_comes_back_from_its_document(row: dict[str, str]) -> None:
    read = iperf3_document.read(document(row))
    assert read.reason is None, read.detail
    assert read.forward is not None
    assert read.forward.sent_bits_per_s == float(row["sent_bits_per_s"])
    assert read.forward.received_bits_per_s == float(row["received_bits_per_s"])
    assert read.forward.retransmits == int(row["retransmits"])
    assert read.mss_bytes == int(row["mss_bytes"]) == int(row["mtu_bytes"]) - 52


def test_the_campaign_has_three_trials_of_each_arm_and_flow() -> None:
    campaign, results = imported()
    assert campaign.design is Design.INDEPENDENT
    assert campaign.baseline == "iptables"
    assert {flow.name for flow in campaign.flows} == {"tcp", "tcp-8"}
    assert campaign.blocks == 3
    assert len(results) == 18
    assert all(result.status is Status.OK for result in results)


def test_what_a_correct_report_must_find_is_in_it(tmp_path: Path) -> None:
    trials = store(tmp_path / "published").frame("trials")
    one = trials[trials["flow"] == "tcp"].set_index("treatment")
    gbit = one["received_bits_per_s"] / 1e9
    # All nine pairs are positive, by 4.7 to 7.9 Gbit/s.
    pairs = [e - i for e in gbit["ebpf"] for i in gbit["iptables"]]
    assert (round(min(pairs), 1), round(max(pairs), 1)) == (4.7, 7.9)
    # The bottleneck moved: iptables is bound by the sender in two of three, eBPF by the receiver.
    assert sorted(one.loc["iptables", "sender_cpu_pct"].round()) == [70, 93, 93]
    assert sorted(one.loc["ebpf", "receiver_cpu_pct"].round()) == [95, 97, 98]
    eight = trials[trials["flow"] == "tcp-8"].set_index("treatment")
    medians = eight.groupby(level=0)["received_bits_per_s"].median() / 1e9
    assert medians.round(1).to_dict() == {"ebpf": 39.5, "iptables": 39.0, "none": 39.6}
