"""Traffic between a lab's nodes, for real: measured, judged, and nothing left behind."""

from __future__ import annotations

import json

import pytest

from ebpfperf import gathering_api, traffic_probe
from ebpfperf.lab.running import Lab
from ebpfperf.loads import PORTS
from ebpfperf.reach import log_in

pytestmark = pytest.mark.lab


def test_two_nodes_carry_traffic_and_nothing_is_left(lab: Lab) -> None:
    nodes, refused = log_in(["node-1", "node-2"], ssh_config=lab.ssh_config)
    assert refused == {}
    try:
        item = traffic_probe.measure(
            nodes,
            {node.name: node.underlay_ip.split("/")[0] for node in lab.nodes},
            seconds=1,
            taken_utc=gathering_api.now_utc(),
        )
        listening = nodes["node-2"].run(["ss", "-Hltn"]).text
    finally:
        for node in nodes.values():
            node.close()
    assert item.error == ""
    told = json.loads(item.content)
    assert (told["client"]["kind"], told["server"]["mtu_bytes"]) == ("veth", 1500)
    assert told["client"]["boot_id"] == told["server"]["boot_id"]
    assert [run["streams"] for run in told["runs"]] == [1, 8]
    for run in told["runs"]:
        assert run["received_bits_per_s"] > 1e6, run
        assert all(0 < pct <= 100 for pct in run["cores_pct"])
    assert not any(f":{port} " in listening for port in PORTS["tcp"])
