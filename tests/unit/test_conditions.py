"""What is asked of nodes before a trial, and what becomes of their answers."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfperf import conditions, conditions_text
from ebpfperf.conditions import question, read
from ebpfperf.errors import CommandTimeout, ConnectError, NodeError
from ebpfperf.model import Endpoint, Fact, Front, Workload, WorkloadKind
from ebpfperf.remote import Completed, Node

ROOT = Path(__file__).resolve().parents[2]


def pod(node: str, pid: int) -> Endpoint:
    workload = Workload(f"on-{node}", node, WorkloadKind.POD, "ebpfperf")
    return Endpoint(workload, f"198.19.0.{pid}", pid, "eth0", f"cali{pid:011x}", 1450)


def host(node: str, device: str = "eth0") -> Endpoint:
    return Endpoint(
        Workload(node, node, WorkloadKind.HOST), "198.18.0.9", None, device, device, 1500
    )


class Fake:
    """A node that answers one thing, and remembers what it was asked."""

    def __init__(self, name: str, answer: bytes | NodeError, status: int = 0) -> None:
        self.name = name
        self.answer = answer
        self.status = status
        self.asked: list[dict[str, Any]] = []

    def run(self, argv: Any, *, input: bytes, timeout_s: float, check: bool) -> Completed:
        assert tuple(argv) == conditions.COMMAND
        assert not check
        self.asked.append(json.loads(input)["asked"])
        if isinstance(self.answer, NodeError):
            raise self.answer
        stderr = b"Traceback\nOSError: no\n" if self.status else b""
        return Completed(tuple(argv), self.status, self.answer, stderr, 0.01)


def nodes(*fakes: Fake) -> dict[str, Node]:
    return {fake.name: cast(Node, fake) for fake in fakes}


def test_devices_are_named_by_their_role() -> None:
    asked = question("node-1", pod("node-1", 7), pod("node-2", 8), address="198.18.0.11")
    assert asked["pods"] == {"pod": {"pid": 7, "device": "eth0"}}
    assert asked["devices"]["pod-host"] == "cali00000000007"
    assert asked["devices"]["vxlan"] == "vxlan.calico"
    assert (asked["nic"], asked["address"]) == (None, "198.18.0.11")


def test_a_host_workload_tells_the_nic_where_no_address_does() -> None:
    asked = question("out", host("out", "ens5"), pod("node-2", 8))
    assert (asked["nic"], asked["address"], asked["pods"]) == ("ens5", None, {})


def test_both_ends_on_one_node_have_names_of_their_own() -> None:
    asked = question("node-1", pod("node-1", 7), pod("node-1", 8))
    assert set(asked["pods"]) == {"client-pod", "server-pod"}
    assert asked["devices"]["server-pod-host"] == "cali00000000008"


def test_every_node_of_the_path_is_asked_once() -> None:
    fakes = [Fake(name, b"{}") for name in ("node-1", "node-2", "out", "node-3")]
    server = replace(pod("node-2", 8), front=Front("198.18.0.11", ((5201, 30001),), "node-1"))
    read(nodes(*fakes), host("out"), server, addresses={"node-1": "198.18.0.11"})
    assert [len(fake.asked) for fake in fakes] == [1, 1, 1, 0]
    assert fakes[0].asked[0]["address"] == "198.18.0.11"
    both = Fake("node-1", b"{}")
    read(nodes(both), pod("node-1", 7), pod("node-1", 8))
    assert len(both.asked) == 1


def test_where_the_ends_are_placed() -> None:
    facts = read(nodes(Fake("a", b"{}"), Fake("b", b"{}")), pod("a", 7), pod("b", 8))
    assert Fact("", "placement:client", "a") in facts
    assert Fact("", "placement:server", "b") in facts
    assert Fact("", "address:server", "198.19.0.8") in facts


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (b"", 127, "/usr/bin/python3 is not installed"),
        (b"", 1, "OSError: no"),
        (b"{", 0, "its answer is unreadable: JSONDecodeError"),
        (b"[]", 0, "its answer is unreadable: TypeError"),
        (b"{}", 0, "its answer is unreadable: KeyError"),
        (CommandTimeout("node a: no end within 10 s.", "x"), 0, "node a: no end within 10 s."),
    ],
)
def test_a_node_that_cannot_say_is_unknown(
    answer: bytes | NodeError, status: int, reason: str
) -> None:
    facts = read(nodes(Fake("a", answer, status)), host("a"), host("a"))
    (only,) = [fact for fact in facts if fact.node == "a"]
    assert only.name == "conditions"
    assert only.value.startswith(f"UNKNOWN: {reason}")


def test_a_lost_connection_is_no_fact() -> None:
    lost = Fake("a", ConnectError("a: gone.", "x"))
    with pytest.raises(ConnectError):
        read(nodes(lost), host("a"), host("a"))


def device(**parts: Any) -> dict[str, Any]:
    return {
        "name": "eth0",
        "kind": "",
        "numbers": {"mtu": 1500, "txqueuelen": 1000, "gso_max": 65536},
        "qdiscs": [[True, "mq"], [False, "fq_codel"], [False, "fq_codel"], [False, "fq"]],
        "programs": {},
        "features": ["rx-gro", "highdma"],
        "driver": ["mlx5_core", "6.1.0", "16.35"],
        "rps": {f"rx-{n}": ["ff", "0"] for n in range(4)},
        "xps": {"tx-0": "01", "tx-1": "02", "tx-2": "02"},
        "link": {"speed": "40000", "duplex": "full"},
        "numa_node": "1",
        "irqs": {"eth0-rx-10": "3", "eth0-rx-9": "2", "eth0-rx-0": "0-1"},
        **parts,
    }


def answer(**parts: Any) -> dict[str, Any]:
    return {
        "files": {},
        "sysctls": {"": {"net.core.busy_poll": "0"}},
        "vulnerabilities": {"spectre_v2": "Mitigation: x", "l1tf": "Not affected"},
        "policies": {},
        "idle": {},
        "irqbalance": True,
        "binaries": {"sockperf": None},
        "devices": {"nic": device()},
        "tools": {"iperf3": "iperf 3.12 (cJSON 1.7.15)\nLinux x\n"},
        **parts,
    }


def parsed(**parts: Any) -> dict[str, str]:
    return {fact.name: fact.value for fact in conditions_text.parse("n", answer(**parts))}


def test_a_nic_with_queues() -> None:
    found = parsed()
    assert found["qdisc:nic"] == "mq: fq ×1 fq_codel ×2"
    assert found["offloads:nic"] == "highdma rx-gro"
    assert found["rps:nic"] == "ff 0"
    assert found["xps:nic"] == "01 on 0; 02 on 1-2"
    assert found["irq_affinity:nic"] == "eth0-rx-0 0-1, eth0-rx-9 2, eth0-rx-10 3"
    assert found["driver:nic"] == "mlx5_core 6.1.0 16.35"
    assert found["link:nic"] == "duplex=full speed=40000"
    assert found["mitigations"] == "l1tf: Not affected; spectre_v2: Mitigation: x"
    assert found["sockperf_binary"] == "UNKNOWN: sockperf is not installed"
    assert found["kernel"] == "UNKNOWN: /proc/sys/kernel/osrelease: not there"


def test_processors_that_are_not_alike_are_told_apart() -> None:
    governors = {
        f"policy{n}": "powersave" if n in (0, 1, 2, 7) else "performance" for n in range(8)
    }
    found = parsed(
        policies={name: {"scaling_governor": value} for name, value in governors.items()},
        idle={"C6": [8, 2], "POLL": [8, 0]},
    )
    assert found["frequency_governor"] == "performance on 3-6; powersave on 0-2,7"
    assert found["frequency_driver"].startswith("UNKNOWN: ")
    assert found["idle_states"] == "C6 (off on 2 of 8), POLL"


@pytest.mark.parametrize(
    ("names", "level"),
    [
        (["from_hep_fib_no_log.o:[calico_from_host_ep]"], "Off"),
        (["from_wep_debug.o:[calico_from_workload_ep]"], "Debug"),
        (["to_tnl_fib_dsr_info.o:[calico_to_tunnel_ep]"], "Info"),
        (["from_hep_no_log.o:[calico_x]", "to_hep_debug.o:[calico_y]"], "Debug, Off"),
        (["cali_tc_preambl:[71]"], "UNKNOWN: since Calico v3.21 a program's name does not tell it"),
    ],
)
def test_the_log_level_as_names_of_programs_show_it(names: list[str], level: str) -> None:
    found = parsed(devices={"nic": device(programs={"ingress": names})})
    assert found["bpf_log_level"] == level


def test_programs_of_others_tell_no_log_level() -> None:
    found = parsed(devices={"nic": device(programs={"ingress": ["other.o:[tc/decap]"]})})
    assert "bpf_log_level" not in found
    assert found["programs:nic"] == "ingress other.o:[tc/decap]"


def test_nothing_new_at_each_load_is_in_a_programs_fact() -> None:
    one, other = (
        parsed(devices={"nic": device(programs={"egress": [f"cali_tc_preambl:[{n}]"]})})
        for n in (71, 72)
    )
    assert one == other
    assert one["programs:nic"] == "egress cali_tc_preambl"
    assert parsed(devices={"nic": device(programs=None)})["programs:nic"].startswith("UNKNOWN: ")


def test_a_node_without_its_nic_and_a_pod_that_is_gone() -> None:
    found = parsed(devices={"pod": {"error": "No such file or directory"}})
    assert found["mtu:nic"].startswith("UNKNOWN: ")
    assert found["mtu:pod"] == "UNKNOWN: No such file or directory"


@given(st.sets(st.integers(0, 300)))
def test_ranges_hold_just_these_numbers(numbers: set[int]) -> None:
    text = conditions_text._ranges(numbers)
    spans = [part.split("-") for part in text.split(",") if part]
    held = [n for span in spans for n in range(int(span[0]), int(span[-1]) + 1)]
    assert held == sorted(numbers)
    assert all(int(b[0]) - int(a[-1]) > 1 for a, b in pairwise(spans))


def test_the_documentation_lists_every_setting_and_fact() -> None:
    text = (ROOT / "docs/conditions.md").read_text()
    named = [name for name, _ in conditions_text.FILES.values()]
    for name in (*conditions.SYSCTLS, *named, *conditions_text.POLICY.values()):
        assert f"`{name}`" in text, name
