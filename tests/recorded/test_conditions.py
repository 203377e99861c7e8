"""Conditions from recorded answers of nodes; a new platform is a new file in conditions/."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ebpfperf import conditions, conditions_text

ANSWERS = Path(__file__).parent / "conditions"
# Facts that every node has, besides those of settings and devices.
ALWAYS = {
    "conditions",
    "devices",
    "idle_states",
    "irqbalance",
    "mitigations",
    "mtu:nic",
    "iperf3_version",
    "sockperf_binary",
    *(name for name, _ in conditions_text.FILES.values()),
    *conditions_text.POLICY.values(),
}


def read(name: str) -> dict[str, str]:
    answer = json.loads((ANSWERS / f"{name}.json").read_text())
    facts = conditions_text.parse("node-1", answer)
    assert {fact.node for fact in facts} == {"node-1"}
    found = {fact.name: fact.value for fact in facts}
    assert len(found) == len(facts)
    return found


@pytest.mark.parametrize("path", sorted(ANSWERS.glob("*.json")), ids=lambda path: path.stem)
def test_every_recorded_answer_yields_every_fact(path: Path) -> None:
    found = read(path.stem)
    assert set(found) >= ALWAYS
    assert all(re.fullmatch(r"[a-z0-9_-]+(:\S+)?", name) for name in found)
    assert all(value and "\n" not in value for value in found.values())
    assert all(re.fullmatch(r"UNKNOWN: .+", v) for v in found.values() if "UNKNOWN" in v)
    for role in found["devices"].split():
        assert {f"{kind}:{role}" for kind in ("mtu", "offloads", "qdisc", "txqueuelen")} <= set(
            found
        )
    settings = {name.partition(":")[2] for name in found if name.startswith("sysctl:")}
    assert settings <= set(conditions.SYSCTLS)


def test_a_virtio_nic() -> None:
    found = read("virtio")
    assert found["devices"] == "nic"
    assert found["kind:nic"] == "physical"
    assert found["driver:nic"] == "virtio_net 1.0.0"
    assert found["mtu:nic"] == "1400"
    assert found["channels:nic"] == "combined=1 other=0 rx=0 tx=0"
    assert found["rings:nic"] == "rx=256 rx_jumbo=0 rx_mini=0 tx=256"
    assert found["coalesce:nic"].startswith("adaptive_rx=0 adaptive_tx=0 rx_frames=1 ")
    # As ethtool -k printed on that machine.
    assert found["offloads:nic"] == (
        "highdma rx-checksum rx-gro rx-gro-hw tx-checksum-ip-generic tx-generic-segmentation "
        "tx-gso-robust tx-scatter-gather tx-tcp-segmentation tx-tcp6-segmentation"
    )
    assert found["qdisc:nic"] == "pfifo_fast"
    assert found["irq_affinity:nic"] == (
        "virtio2-config 0-1, virtio2-input.0 0-1, virtio2-output.0 0-1"
    )
    assert found["link:nic"] == "UNKNOWN: the driver tells no speed"
    assert found["rps:nic"] == "0 0"
    assert found["frequency_governor"].startswith("UNKNOWN: ")
    assert found["sysctl:net.core.bpf_jit_enable"] == "1"
    assert found["iperf3_version"] == "3.12"
    assert not [name for name in found if name.startswith("pod")]
    assert "bpf_log_level" not in found


def test_a_node_of_the_lab_with_a_pod_in_ebpf_mode() -> None:
    found = read("lab-ebpf-vxlan")
    assert found["devices"] == "ipip nic pod pod-host vxlan"
    mtus = {role: found[f"mtu:{role}"] for role in found["devices"].split()}
    assert mtus == {
        "ipip": "1480",
        "nic": "1500",
        "pod": "1450",
        "pod-host": "1450",
        "vxlan": "1450",
    }
    assert found["kind:pod"] == found["kind:pod-host"] == "veth"
    # Program ids are new each time, and are no condition.
    assert found["programs:pod-host"] == "egress calico_to_workl; ingress calico_from_wor"
    assert found["programs:pod"] == "none"
    assert found["bpf_log_level"].startswith("UNKNOWN: since Calico v3.21")
    # The pod's namespace has settings of its own.
    assert found["sysctl:net.ipv4.ip_forward"] == "1"
    assert found["pod_sysctl:net.ipv4.ip_forward"] == "0"
    assert found["rings:nic"] == "not offered by the driver"
    assert "rings:pod" not in found
