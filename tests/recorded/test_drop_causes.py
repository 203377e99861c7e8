"""Who was dropped and why, of logs that the lab's programs wrote: seven datagrams, denied."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ebpfperf.drop_causes import DIRECTION, causes

LOGS = sorted((Path(__file__).parent / "tracelog").glob("v*.log"))
POD, NIC, DENIED = "calia7a3e029a7b", "ens11", 7
TARGET, PORT = "198.19.0.64", 5998


def release(path: Path) -> tuple[int, int]:
    return 3, int(path.stem.split(".")[1])


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_denied_packets_have_a_place_a_reason_and_addresses(path: Path) -> None:
    found = causes(path.read_bytes(), {"node-1": [POD, NIC]}, release=release(path))
    ((row, packets),) = found.rows
    node, device, direction, reason, _, destination, protocol = row
    assert (node, device, direction, protocol) == ("node-1", POD, "egress", "udp")
    assert (reason, destination, packets) == ("policy", f"{TARGET}:{PORT}", DENIED)
    assert found.seen > DENIED
    assert found.sentences[0] == DIRECTION


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_as_many_as_a_naive_search_finds(path: Path) -> None:
    """Up to v3.23 there is no word of it: silence is how a drop looks."""
    said = len(re.findall(r"Final result=DENY", path.read_text()))
    assert said == (0 if path.stem == "v3.16" else DENIED)


def test_devices_of_others_on_the_same_kernel_are_left_out_and_counted() -> None:
    log = LOGS[-1].read_bytes()
    found = causes(log, {"node-1": ["cali0123456789a", NIC]}, release=None)
    assert found.rows == ()
    assert found.sentences[0].startswith(f"{DENIED} dropped packets were on devices that none")


def test_a_device_that_two_nodes_have_may_be_eithers() -> None:
    log = LOGS[-1].read_bytes()
    found = causes(log, {"node-1": [POD], "node-2": [POD], "node-3": [NIC]}, release=None)
    assert [row[0] for row, _ in found.rows] == ["node-1 or node-2"]


def test_an_empty_log_has_no_drop() -> None:
    found = causes(b"", {"node-1": [POD]}, release=None)
    assert (found.rows, found.seen, found.sentences) == ((), 0, ())
