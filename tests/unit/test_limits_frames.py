"""What limited the trials and arms of frames: read as they stand there, refused for no number.

The 40 Gbit/s numbers are of github.com/InfraBuilder/benchmark-k8s-cni-2024-01: three runs an arm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import pandas as pd
import published
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import CAMPAIGN, facts, facts_frame, failed, results, trials_frame

from ebpfperf import frames, limits, limits_reading
from ebpfperf.limits_reading import Read
from ebpfperf.limits_rules import RULES, Limiter
from ebpfperf.limits_seen import End
from ebpfperf.model import (
    Campaign,
    ClusterRef,
    Direction,
    Flow,
    Overlay,
    Path,
    Role,
    Scope,
    Treatment,
)

NONE, VXLAN = Treatment("none", Overlay.NONE), Treatment("vxlan", Overlay.VXLAN)
TCP = Flow("tcp", Path.POD_POD, "tcp", duration_s=10)


def campaign(
    *flows: Flow, treatments: Sequence[Treatment] = (NONE, VXLAN), **fields: Any
) -> Campaign:
    return Campaign("c", 1, 3, treatments[0].name, tuple(treatments), flows or (TCP,), **fields)


def trials(*rows: dict[str, Any]) -> pd.DataFrame:
    """Trials of ``tcp`` under ``none``, with the numbers given; all columns of the contract."""
    made = [
        {
            "trial_id": f"t{number}", "block": number, "order": number, "flow": "tcp",
            "treatment": "none", "status": "ok", "reason": "", "role": Role.COMPARED.value, **row,
        }
        for number, row in enumerate(rows)
    ]  # fmt: skip
    return pd.DataFrame(made).reindex(columns=list(frames.COLUMNS["trials"]))


def known(*rows: tuple[str, str, str], trial_id: str | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        [(trial_id, *row) for row in rows], columns=["trial_id", "node", "name", "value"]
    ).astype({"trial_id": "str", "node": "str", "name": "str", "value": "str"})


NOTHING = known()


def rates(trial_id: str, values: Iterable[float], **fields: Any) -> pd.DataFrame:
    rows = [
        {
            "campaign": "c", "trial_id": trial_id, "source": "iperf3", "endpoint": "client",
            "metric": "sent_bits_per_s", "unit": "bit/s", "t_s": float(t), "value": value,
            "phase": "measure", **fields,
        }
        for t, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def read_one(
    row: dict[str, Any],
    told: pd.DataFrame = NOTHING,
    of: Campaign | None = None,
    samples: pd.DataFrame | None = None,
) -> Read:
    samples = frames.empty("samples") if samples is None else samples
    (found,) = limits_reading.read(trials(row), samples, told, of or campaign())
    return found


@pytest.mark.parametrize(
    ("direction", "sender", "receiver"),
    [
        (Direction.FORWARD, ("the sender", "n1", 70.0, 11.0), ("the receiver", "n2", 80.0, 22.0)),
        (Direction.REVERSE, ("the sender", "n2", 70.0, 22.0), ("the receiver", "n1", 80.0, 11.0)),
        (Direction.BIDIR, ("the client", "n1", 70.0, 11.0), ("the server", "n2", 80.0, 22.0)),
    ],
)
def test_the_direction_says_whose_node_sends(
    direction: Direction, sender: tuple[Any, ...], receiver: tuple[Any, ...]
) -> None:
    row = {"sender_cpu_pct": 70.0, "receiver_cpu_pct": 80.0,
           "client_busiest_core_pct": 11.0, "server_busiest_core_pct": 22.0}  # fmt: skip
    of = campaign(
        replace(TCP, direction=direction), cluster=ClusterRef(client_node="n1", server_node="n2")
    )
    found = read_one(row, of=of).seen
    assert (found.sender, found.receiver) == (End(*sender), End(*receiver))


def test_the_ceiling_is_of_the_trials_own_segment_overlay_and_link() -> None:
    told = known(("node-1", "nic_speed", "10000"), ("node-2", "nic_speed", "10000"))
    row = {"received_bits_per_s": 9e9, "mss_bytes": 1398.0, "treatment": "vxlan"}
    assert read_one(row, told).seen.ceiling_bits_per_s == pytest.approx(9.09e9, abs=6e6)
    row = {"received_bits_per_s": 9e9, "mtu_bytes": 1500.0}
    assert read_one(row, told).seen.ceiling_bits_per_s == pytest.approx(9.41e9, abs=6e6)
    both = campaign(replace(TCP, direction=Direction.BIDIR))
    assert read_one(row, told, both).seen.ceiling_bits_per_s == pytest.approx(18.83e9, abs=6e6)


@pytest.mark.parametrize(
    ("treatment", "flow", "captured", "added"),
    [
        (VXLAN, TCP, None, 50),
        (VXLAN, TCP, "none", 0),
        (VXLAN, TCP, "ipip", 20),
        (VXLAN, TCP, "mixed", 50),
        (VXLAN, TCP, "UNKNOWN: tcpdump is not installed", 50),
        (VXLAN, replace(TCP, path=Path.HOST_HOST), None, 0),
        (VXLAN, replace(TCP, path=Path.NODEPORT_REMOTE), None, 0),
        (replace(VXLAN, scope=Scope.CROSS_SUBNET), TCP, None, 0),
        (replace(VXLAN, scope=Scope.CROSS_SUBNET), TCP, "vxlan", 50),
        (replace(VXLAN, overlay=None), TCP, None, 0),
    ],
)
def test_headers_of_the_overlay_count_where_packets_have_them(
    treatment: Treatment, flow: Flow, captured: str | None, added: int
) -> None:
    told = known(("", "wire_overlay", captured), trial_id="t0") if captured else NOTHING
    of = campaign(flow, treatments=(NONE, treatment))
    packet = read_one({"mss_bytes": 1000.0, "treatment": "vxlan"}, told, of).packet
    assert packet is not None
    assert packet.wire_bytes == 1000 + 52 + 38 + added


def test_the_segment_a_flow_asks_for_has_room_for_options() -> None:
    of = campaign(replace(TCP, mss_bytes=1000))
    assert read_one({"mss_bytes": 1448.0}, of=of).seen.segment_bytes == 988
    off = known(("node-1", "tcp_timestamps", "0"))
    assert read_one({"mss_bytes": 1460.0}, off, of).seen.segment_bytes == 1000
    assert read_one({"mss_bytes": 536.0}, of=of).seen.segment_bytes == 536
    stampless = read_one({"mss_bytes": 1460.0, "mtu_bytes": 1500.0}).packet
    assert stampless is not None
    assert stampless.wire_bytes == 1538


def test_a_datagram_is_the_message_or_what_iperf3_chooses() -> None:
    udp = Flow("tcp", Path.POD_POD, "udp", rate_bits_per_s=1e9, message_bytes=3000)
    found = read_one({"mtu_bytes": 1500.0, "mss_bytes": 1448.0}, of=campaign(udp)).packet
    assert found is not None
    assert (found.payload_bytes, found.wire_bytes) == (3000, 3008 + 3 * (20 + 38))
    chosen = read_one(
        {"mtu_bytes": 1500.0, "mss_bytes": 1448.0}, of=campaign(replace(udp, message_bytes=None))
    )
    assert chosen.packet is not None
    assert (chosen.packet.payload_bytes, chosen.packet.wire_bytes) == (1448, 1448 + 28 + 38)


@pytest.mark.parametrize(
    ("told", "virtual", "gbit"),
    [
        ([("node-1", "nic_speed", "40000"), ("node-2", "nic_speed", "25000")], False, 25.0),
        ([("node-1", "nic_speed", "UNKNOWN: the driver gives none")], False, math.nan),
        ([("node-1", "nic_speed", "0")], False, math.nan),
        ([("", "nic_speed", "40000")], False, 40.0),
        ([("node-1", "nic_speed", "10000"), ("node-1", "nic_kind", "veth")], True, math.nan),
        ([("node-1", "nic_speed", "10000"), ("node-1", "nic_kind", "bond")], False, 10.0),
        ([("node-1", "nic_speed", "10000"), ("node-1", "boot_id", "a"),
          ("node-2", "boot_id", "a")], True, math.nan),
        ([("node-3", "nic_speed", "1000"), ("n1", "nic_speed", "40000")], False, 40.0),
    ],
)  # fmt: skip
def test_the_links_speed_is_the_slower_ends(
    told: list[tuple[str, str, str]], virtual: bool, gbit: float
) -> None:
    of = campaign(cluster=ClusterRef(client_node="n1", server_node="n2"))
    if told[0][0] in ("node-1",):
        of = campaign()
    found = read_one({}, known(*told), of).seen
    assert found.link_is_virtual is virtual
    assert found.link_bits_per_s == pytest.approx(gbit * 1e9, nan_ok=True)


@pytest.mark.parametrize(
    ("versions", "streams", "direction", "threads", "name"),
    [
        (["3.12", "3.12"], 8, Direction.FORWARD, 1, "3.12"),
        (["3.16"], 8, Direction.FORWARD, 8, "3.16"),
        (["iperf 3.17.1+"], 8, Direction.BIDIR, 16, "3.17.1+"),
        (["3.16", "3.17"], 8, Direction.FORWARD, 8, ""),
        (["3.12", "3.16"], 8, Direction.FORWARD, None, ""),
        (["3.12", "3.16"], 1, Direction.FORWARD, 1, ""),
        (["3.9"], 1, Direction.BIDIR, 1, "3.9"),
        ([], 8, Direction.FORWARD, None, ""),
        (["UNKNOWN: not installed"], 2, Direction.FORWARD, None, ""),
        (["4.0"], 2, Direction.FORWARD, 2, "4.0"),
    ],
)
def test_how_many_threads_a_release_of_iperf3_has(
    versions: list[str], streams: int, direction: Direction, threads: int | None, name: str
) -> None:
    told = known(*((f"node-{n}", "iperf3_version", text) for n, text in enumerate(versions)))
    found = read_one({}, told, campaign(replace(TCP, streams=streams, direction=direction))).seen
    assert (found.threads, found.iperf3) == (threads, name)


def test_a_trials_own_fact_counts_before_the_campaigns() -> None:
    told = pd.concat(
        [
            known(("node-1", "nic_speed", "40000")),
            known(("node-1", "nic_speed", "10000"), trial_id="t0"),
            known(("node-1", "nic_speed", "1000"), trial_id="t1"),
        ]
    )
    assert read_one({}, told).seen.link_bits_per_s == 10e9


def test_retransmits_are_a_part_of_the_segments_sent() -> None:
    # 10 s at 1.1584 Gbit/s are a million segments of 1448 bytes.
    row = {"sent_bits_per_s": 1.1584e9, "mss_bytes": 1448.0, "retransmits": 1000.0}
    assert read_one(row).seen.retransmitted_pct == pytest.approx(0.1)
    row["retransmits"], row["tcpext_retransmits"] = math.nan, 5000.0
    assert read_one(row).seen.retransmitted_pct == pytest.approx(0.5)
    assert math.isnan(read_one(row | {"sent_bits_per_s": 0.0}).seen.retransmitted_pct)


def test_steadiness_is_of_the_way_the_client_saw_and_without_warm_up() -> None:
    samples = pd.concat(
        [
            rates("t0", [1e9, 1.1e9, 0.9e9, 1e9, 1e9, math.nan]),
            rates("t0", [5e9] * 3, phase="warmup"),
            rates("t0", [7e9, 9e9], metric="received_bits_per_s"),
            rates("t0", [5e9], source="host_counters"),
            rates("other", [5e9]),
        ]
    )
    found = read_one({}, samples=samples).seen
    assert found.intervals == 5
    assert found.variation_pct == pytest.approx(100 * math.sqrt(0.02 / 4))
    back = campaign(replace(TCP, direction=Direction.REVERSE))
    assert read_one({}, of=back, samples=samples).seen.intervals == 2


def test_the_round_trip_without_load_is_of_the_same_path_and_treatment() -> None:
    rr = Flow("rr", Path.POD_POD, "request-response")
    host = Flow("host-rr", Path.HOST_HOST, "request-response")
    rows = trials(
        {},
        {"treatment": "vxlan"},
        *({"flow": "rr", "rr_p50_ns": value} for value in (30e3, 32e3, 50e3)),
        {"flow": "host-rr", "rr_p50_ns": 10e3},
    )
    found = list(
        limits_reading.read(rows, frames.empty("samples"), NOTHING, campaign(TCP, rr, host))
    )
    assert found[0].seen.base_rtt_ns == 32e3
    assert math.isnan(found[1].seen.base_rtt_ns)


def test_of_two_round_trips_in_the_middle_one_is_taken_and_never_their_average() -> None:
    rr = Flow("rr", Path.POD_POD, "request-response")
    values = (30e3, 32e3, 40e3, 50e3)
    rows = trials({}, *({"flow": "rr", "rr_p50_ns": value} for value in values))
    found = list(limits_reading.read(rows, frames.empty("samples"), NOTHING, campaign(TCP, rr)))
    assert found[0].seen.base_rtt_ns == 32e3


def test_a_failed_trial_is_not_asked() -> None:
    made = results()
    made[0] = failed(made[0], reason="refused: The server refused the connection.")
    found = limits.of_trials(
        trials_frame(made), frames.empty("samples"), facts_frame(facts()), CAMPAIGN
    )
    assert found.iloc[0]["limiter"] == Limiter.UNKNOWN
    assert found.iloc[0]["evidence"] == "unknown: the trial's numbers may not be used (refused)"
    assert list(found["trial_id"]) == [one.trial.trial_id for one in made]
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == limits.COLUMNS


# ------------------------------------------------------------------ arms


def arms_of_published(tmp_path: FilePath) -> pd.DataFrame:
    """The arms of the published campaign, through a store."""
    made, (of, _) = published.store(tmp_path / "published"), published.imported()
    rows, samples, told = (made.frame(name) for name in ("trials", "samples", "facts"))
    return limits.of_arms(limits.of_trials(rows, samples, told, of), rows, of)


def test_the_published_arms_one_stream_by_cores_eight_by_the_link(tmp_path: FilePath) -> None:
    arms = arms_of_published(tmp_path).set_index(["flow", "treatment"])
    assert arms.loc[("tcp", "iptables"), ["limiter", "n_limited"]].tolist() == ["sender core", 2]
    assert arms.loc[("tcp", "iptables"), "others"] == "unknown 1"
    assert arms.loc[("tcp", "ebpf"), ["limiter", "n_limited"]].tolist() == ["receiver core", 3]
    for arm in published.ARMS:
        assert arms.loc[("tcp-8", arm), ["limiter", "n_limited"]].tolist() == ["link", 3]
        assert arms.loc[("tcp-8", arm), "ceiling_bits_per_s"] == pytest.approx(39.6e9, abs=1e7)
    assert arms.loc[("tcp", "ebpf"), "measured_ratio"] == pytest.approx(25.384 / 19.608, abs=1e-4)
    assert arms.loc[("tcp-8", "ebpf"), "of_ceiling_pct"] == pytest.approx(99.8, abs=0.05)


def test_sentences_say_that_the_bottleneck_moved_and_where_there_is_no_room(
    tmp_path: FilePath,
) -> None:
    said = limits.sentences(arms_of_published(tmp_path))
    assert said == (
        "Flow tcp: under iptables and none the sender's core limited 2 of 3 and 1 of 3 trials "
        "(others under iptables: unknown 1; none: receiver core 1, unknown 1); under ebpf the "
        "receiver's core limited 3 of 3 trials. Between iptables and ebpf the bottleneck moved: "
        "the two rates are of different bottlenecks.",
        "Flow tcp-8: under iptables, none and ebpf the link limited 3 of 3, 3 of 3 and 3 of 3 "
        "trials. Between iptables, none and ebpf there is no room to differ: compare CPU per Gbit "
        "instead.",
    )


def test_headers_explain_a_part_of_a_measured_ratio() -> None:
    rows = trials(
        {"received_bits_per_s": 10e9, "mss_bytes": 1448.0},
        {"received_bits_per_s": 8e9, "mss_bytes": 1398.0, "treatment": "vxlan"},
        {"received_bits_per_s": 1e9, "mss_bytes": 100.0, "role": Role.BARE.value},
        {"received_bits_per_s": 1e9, "mss_bytes": 100.0, "status": "failed"},
    )
    found = limits.of_trials(rows, frames.empty("samples"), NOTHING, campaign())
    arms = limits.of_arms(found, rows, campaign())
    assert list(arms["n_trials"]) == [1, 1]
    assert arms["headers_ratio"].iloc[1] == pytest.approx(1398 / 1448)
    said = limits.sentences(arms)[1]
    assert said == "Flow tcp against none: vxlan −20.0 %, of which headers make at most −3.5 %."
    faster = limits.sentences(arms.assign(measured_ratio=[1.0, 1.1]))[1]
    assert faster == "Flow tcp against none: vxlan +10.0 %, where headers alone make −3.5 %."
    paced = campaign(replace(TCP, rate_bits_per_s=20e9))
    assert len(limits.sentences(limits.of_arms(found, rows, paced))) == 1
    effects = pd.DataFrame(
        [("received_bits_per_s", "tcp", "vxlan", 0.9), ("rr_p50_ns", "tcp", "vxlan", 2.0)],
        columns=["metric", "flow", "treatment", "ratio"],
    )
    assert limits.of_arms(found, rows, campaign(), effects=effects)["measured_ratio"].iloc[1] == 0.9


def test_an_arm_without_a_good_trial_is_unknown_and_silent() -> None:
    rows = trials({"received_bits_per_s": 1e9, "status": "failed"})
    found = limits.of_trials(rows, frames.empty("samples"), NOTHING, campaign())
    arms = limits.of_arms(found, rows, campaign())
    assert list(arms["limiter"]) == ["unknown", "unknown"]
    assert list(arms["n_trials"]) == [0, 0]
    assert limits.sentences(arms) == ()
    assert {name: str(dtype) for name, dtype in arms.dtypes.items()} == limits.ARM_COLUMNS


def test_the_document_has_the_rules() -> None:
    text = (FilePath(__file__).parents[2] / "docs/limits.md").read_text()
    rows = [f"| {' | '.join(row)} |" for row in limits.rules().itertuples(index=False, name=None)]
    assert [row for row in rows if row not in text] == []
    assert len(rows) == len(RULES)


# ------------------------------------------------------------------ whatever the numbers

NUMBERS = st.sampled_from([math.nan, math.inf, -1.0, 0.0, 1.0, 95.0, 1448.0, 1e9, 9e9, 1e30])


FLOWS = (
    TCP,
    replace(TCP, streams=8),
    replace(TCP, load="udp", rate_bits_per_s=1e9),
    replace(TCP, load="request-response"),
    replace(TCP, direction=Direction.BIDIR),
    replace(TCP, load="unknown", streams=0, duration_s=0),
)


@settings(max_examples=40)
@given(st.data())
def test_no_frame_is_refused_for_its_numbers(data: st.DataObject) -> None:
    flow = data.draw(st.sampled_from(FLOWS))
    columns = list(frames.METRICS)
    rows = trials(*(
        {"treatment": name, **dict(zip(columns, data.draw(
            st.lists(NUMBERS, min_size=len(columns), max_size=len(columns))), strict=True))}
        for name in ("none", "vxlan")
    ))  # fmt: skip
    told = known(
        *(
            (
                "node-1",
                name,
                data.draw(st.sampled_from(["", "-1", "0", "10000", "UNKNOWN: x", "a"])),
            )
            for name in ("nic_speed", "nic_mtu", "iperf3_version", "tcp_timestamps", "wire_overlay")
        )
    )
    samples = rates("t0", data.draw(st.lists(NUMBERS, min_size=1, max_size=8)))
    of = campaign(flow)
    found = limits.of_trials(rows, samples, told, of)
    assert list(found["trial_id"]) == ["t0", "t1"]
    said = [*found["evidence"], *found["also"], *limits.sentences(limits.of_arms(found, rows, of))]
    assert not [text for text in said if re.search(r"nan|\binf\b", text, re.I)]


def test_effects_have_beside_them_what_limited_both_arms_and_their_ceilings() -> None:
    """Eight streams on 40 Gbit/s: 8898 bytes of each 8988 on the wire are payload."""
    found = limits.beside(
        pd.DataFrame({"flow": ["tcp-8"], "treatment": ["ebpf"], "baseline": ["iptables"]}),
        pd.DataFrame(
            {"flow": ["tcp-8", "tcp-8", "tcp"], "treatment": ["ebpf", "iptables", "ebpf"],
             "limiter": ["link", "sender core", "window"], "load": "tcp",
             "ceiling_bits_per_s": [40e9 * 8898 / 8988, math.nan, 1.0]}
        ),
    )  # fmt: skip
    (row,) = found.to_dict("records")
    assert (row["limiter"], row["baseline_limiter"]) == ("link", "sender core")
    assert row["ceiling_bits_per_s"] == 40e9 * 8898 / 8988
    assert math.isnan(row["baseline_ceiling_bits_per_s"])
