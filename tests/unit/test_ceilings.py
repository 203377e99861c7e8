"""Header arithmetic against numbers that are known, and against counting bytes by hand."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ebpfperf import ceilings
from ebpfperf.ceilings import full_segment, headers_ratio, tcp_segment, udp_datagram
from ebpfperf.model import Overlay

MODES = st.sampled_from(list(Overlay))


@pytest.mark.parametrize(
    ("overlay", "payload", "gbit_per_s"),
    [(Overlay.NONE, 1448, 9.41), (Overlay.IPIP, 1428, 9.29), (Overlay.VXLAN, 1398, 9.09)],
)
def test_ten_gigabits_at_mtu_1500(overlay: Overlay, payload: int, gbit_per_s: float) -> None:
    segment = full_segment(1500, overlay=overlay)
    assert (segment.payload_bytes, segment.wire_bytes) == (payload, 1538)
    assert segment.goodput_bits_per_s(10e9) == pytest.approx(gbit_per_s * 1e9, abs=6e6)


def test_without_timestamps_a_segment_holds_twelve_bytes_more() -> None:
    segment = full_segment(1500, overlay=Overlay.NONE, timestamps=False)
    assert (segment.payload_bytes, segment.wire_bytes) == (1460, 1538)
    assert segment.part == pytest.approx(0.9493, abs=5e-5)


def test_at_mtu_9000_modes_are_less_than_point_six_percent_apart() -> None:
    none = full_segment(9000, overlay=Overlay.NONE)
    ratios = [
        headers_ratio(full_segment(9000, overlay=mode), none)
        for mode in (Overlay.IPIP, Overlay.VXLAN)
    ]
    assert ratios == [pytest.approx(8928 / 8948), pytest.approx(8898 / 8948)]
    assert all(1 - ratio < 0.006 for ratio in ratios)


def test_at_mtu_1500_headers_explain_three_and_a_half_percent_of_vxlan() -> None:
    none, vxlan = (full_segment(1500, overlay=mode) for mode in (Overlay.NONE, Overlay.VXLAN))
    assert headers_ratio(vxlan, none) == pytest.approx(1398 / 1448)
    assert headers_ratio(none, vxlan) == pytest.approx(1448 / 1398)


def test_a_pod_mtu_for_vxlan_without_an_overlay_costs_payload_but_no_headers() -> None:
    """The published 40 Gbit/s rows: pods at 8950, and nothing encapsulated on one subnet."""
    segment = tcp_segment(8898, overlay=Overlay.NONE)
    assert segment.wire_bytes == 8950 + 38
    assert segment.goodput_bits_per_s(40e9) == pytest.approx(39.6e9, abs=1e7)


def test_a_vlan_tag_is_four_bytes() -> None:
    bare, tagged = (tcp_segment(1448, overlay=Overlay.NONE, vlan_tags=n) for n in (0, 1))
    assert tagged.wire_bytes - bare.wire_bytes == 4


def test_small_datagrams_are_padded_to_the_shortest_frame() -> None:
    # 64 bytes of frame, 8 of preamble, 12 of gap.
    assert udp_datagram(1, mtu_bytes=1500, overlay=Overlay.NONE).wire_bytes == 84
    assert udp_datagram(18, mtu_bytes=1500, overlay=Overlay.NONE).wire_bytes == 84
    assert udp_datagram(19, mtu_bytes=1500, overlay=Overlay.NONE).wire_bytes == 85
    assert udp_datagram(1, mtu_bytes=1450, overlay=Overlay.VXLAN).wire_bytes == 29 + 50 + 38


def test_datagrams_above_the_mtu_go_in_fragments() -> None:
    whole = udp_datagram(1472, mtu_bytes=1500, overlay=Overlay.NONE)
    assert whole.wire_bytes == 1538
    two = udp_datagram(1473, mtu_bytes=1500, overlay=Overlay.NONE)
    assert two.wire_bytes == 1538 + 84  # one byte over: a fragment of its own, padded


@given(st.integers(1, 65507), st.integers(576, 9216), MODES, st.integers(0, 2))
@example(3857, 576, Overlay.NONE, 0)  # the last fragment is longer than the others
def test_datagrams_against_counting_fragments(
    payload: int, mtu: int, overlay: Overlay, tags: int
) -> None:
    left, wire = payload + 8, 0
    added = {Overlay.IPIP: 20, Overlay.VXLAN: 50}.get(overlay, 0)
    while left:
        size = left
        if 20 + size > mtu:
            size = mtu - 20
            size -= size % 8
        left -= size
        wire += 8 + 14 + 4 * tags + max(46, added + 20 + size) + 4 + 12
    found = udp_datagram(payload, mtu_bytes=mtu, overlay=overlay, vlan_tags=tags)
    assert (found.payload_bytes, found.wire_bytes) == (payload, wire)


@given(st.integers(1, 65000), MODES, st.booleans(), st.integers(0, 2))
def test_payload_is_a_part_that_grows_with_the_segment(
    payload: int, overlay: Overlay, timestamps: bool, tags: int
) -> None:
    one, more = (
        tcp_segment(size, overlay=overlay, timestamps=timestamps, vlan_tags=tags)
        for size in (payload, payload + 1)
    )
    assert 0 < one.part < more.part < 1
    assert one.part <= tcp_segment(payload, overlay=Overlay.NONE, timestamps=timestamps).part


@pytest.mark.parametrize("payload", [0, -1])
def test_no_payload_is_refused(payload: int) -> None:
    with pytest.raises(ValueError, match="is none"):
        tcp_segment(payload, overlay=Overlay.NONE)
    with pytest.raises(ValueError, match="is none"):
        udp_datagram(payload, mtu_bytes=1500, overlay=Overlay.NONE)
    with pytest.raises(ValueError, match="is none"):
        full_segment(payload + 52, overlay=Overlay.NONE)
    with pytest.raises(ValueError, match="holds no fragment"):
        udp_datagram(1, mtu_bytes=27, overlay=Overlay.NONE)


def test_every_overlay_has_its_bytes() -> None:
    assert set(ceilings.OVERLAY_BYTES) == set(Overlay)
