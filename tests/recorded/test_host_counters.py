"""Counters of a real machine before and after real traffic, against two-line readings of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ebpfperf.model import Flow, Reading, Status
from ebpfperf.model import Path as FlowPath
from ebpfperf.probes.host_counters import ENDS, HostCounters
from ebpfperf.probes.host_text import parse_counters

HERE = Path(__file__).parent / "host_counters"
PROBE = HostCounters()
CASES = {
    "forward": Flow("f", FlowPath.POD_POD, "tcp"),
    "request-response": Flow("f", FlowPath.POD_POD, "request-response", message_bytes=64),
    # With the clock, queueing disciplines and Calico's own counters: programs as filters, and by
    # TCX links.
    "clsact": Flow("f", FlowPath.POD_POD, "tcp", duration_s=1, omit_s=0),
    "tcx": Flow("f", FlowPath.POD_POD, "tcp", duration_s=2, omit_s=0),
}
NEWER = ("clsact", "tcx")


def raw(case: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (HERE / case).iterdir()}


def text(case: str, node: str, when: str) -> str:
    return (HERE / case / f"host_counters.{node}.{when}.txt").read_text()


def parse(case: str, found: dict[str, bytes] | None = None) -> Reading:
    return PROBE.parse(CASES[case], found or raw(case))


def ticks(printed: str) -> list[int]:
    return [int(n) for n in re.search(r"^cpu  (.*)$", printed, re.M)[1].split()]  # type: ignore[index]


def received(case: str, node: str) -> int:
    """Bytes that eth0 of the node's end received between the two readings."""
    ends = (text(case, node, "before"), text(case, node, "after"))
    before, after = (int(re.search(r"^ *eth0: *(\d+)", t, re.M)[1]) for t in ends)  # type: ignore[index]
    return after - before


@pytest.mark.parametrize("case", CASES)
def test_busy_is_all_but_idle_iowait_and_steal(case: str) -> None:
    before, after = (ticks(text(case, "node-1", when)) for when in ("before", "after"))
    user, nice, system, _, _, irq, softirq, *_ = (b - a for a, b in zip(before, after, strict=True))
    reading = parse(case)
    assert reading.status is Status.OK, reading.reason
    assert reading.metrics["cpu_s"] == pytest.approx((user + nice + system + irq + softirq) / 100)
    assert reading.metrics["softirq_s"] == pytest.approx(softirq / 100)


@pytest.mark.parametrize("case", CASES)
def test_nodes_of_one_boot_id_are_one_machine(case: str) -> None:
    assert json.loads(raw(case)[ENDS])["client"]["node"] == "node-1"
    modes = [s.metric for s in parse(case).samples if s.metric.startswith("cpu_")]
    assert len(modes) == len(set(modes)) == 8
    # As two machines, twice the seconds.
    apart = raw(case)
    for name in apart:
        if ".node-2." in name:
            apart[name] = re.sub(rb"\w{8}-\w{4}-\w{4}-\w{4}-\w{12}", b"another", apart[name])
    assert parse(case, apart).metrics["cpu_s"] == pytest.approx(
        2 * parse(case).metrics["cpu_s"], rel=0.05
    )


def test_a_node_that_forwards_in_between_counts_once() -> None:
    """A machine of its own adds its seconds and no bits; one that is known already adds nothing."""
    known, apart = raw("forward"), raw("forward")
    ends = json.loads(known[ENDS])
    for found, node in ((known, "node-2"), (apart, "node-3")):
        found[ENDS] = json.dumps({**ends, "between": {"node": node}}).encode()
    for when in ("before", "after"):
        apart[f"host_counters.node-3.{when}.txt"] = re.sub(
            rb"\w{8}-\w{4}-\w{4}-\w{4}-\w{12}",
            b"another",
            apart[f"host_counters.node-1.{when}.txt"],
        )
    alone = parse("forward").metrics
    assert parse("forward", known).metrics == alone
    with_it = parse("forward", apart).metrics
    assert with_it["cpu_s"] == pytest.approx(2 * alone["cpu_s"])
    assert with_it["cpu_s_per_gbit"] == pytest.approx(2 * alone["cpu_s_per_gbit"])
    assert with_it["tcpext_retransmits"] == alone["tcpext_retransmits"]


def test_processor_seconds_per_gigabit_are_over_what_the_ends_received() -> None:
    bits = 8 * (received("forward", "node-1") + received("forward", "node-2"))
    metrics = parse("forward").metrics
    assert bits > 1e9
    assert metrics["cpu_s_per_gbit"] == pytest.approx(metrics["cpu_s"] / (bits / 1e9))
    assert "rr_cpu_us_per_request" not in metrics


def test_processor_time_per_request_is_over_the_answers() -> None:
    def segments(when: str) -> int:
        tcp = re.findall(r"^Tcp: (.*)$", text("request-response", "node-1", when), re.M)
        return int(dict(zip(*(line.split() for line in tcp[:2]), strict=True))["InSegs"])

    answers = segments("after") - segments("before")
    metrics = parse("request-response").metrics
    assert answers > 1000
    expected = metrics["cpu_s"] * 1e6 / answers
    assert metrics["rr_cpu_us_per_request"] == pytest.approx(expected)


@pytest.mark.parametrize("case", CASES)
def test_samples_span_the_window(case: str) -> None:
    samples = parse(case).samples
    assert {s.endpoint for s in samples} == {"node-1", "client", "server"}
    assert len({s.t_s for s in samples}) <= 2
    assert all(0 < s.t_s < 60 for s in samples)
    names = [(s.endpoint, s.metric) for s in samples]
    assert len(names) == len(set(names))


def test_a_reboot_during_the_trial_is_a_failure() -> None:
    found = raw("forward")
    name = "host_counters.node-1.after.txt"
    found[name] = re.sub(rb"\w{8}-\w{4}-\w{4}-\w{4}-\w{12}", b"another", found[name])
    assert parse("forward", found).reason.startswith("rebooted: ")


@pytest.mark.parametrize("name", sorted(path.name for path in (HERE / "forward").iterdir()))
@pytest.mark.parametrize("damage", ["gone", "empty", "cut"])
def test_damaged_counters_have_a_reason(name: str, damage: str) -> None:
    found: dict[str, Any] = raw("forward")
    if damage == "gone":
        del found[name]
    else:
        found[name] = b"" if damage == "empty" else found[name][: len(found[name]) // 3]
    reading = PROBE.parse(CASES["forward"], found)
    assert reading.status is Status.FAILED
    assert reading.reason.startswith("unreadable: ")


def core_ticks(case: str, node: str, core: int) -> list[int]:
    """Ticks by mode of one processor between the two readings."""
    found = []
    for when in ("before", "after"):
        (line,) = re.findall(rf"^cpu{core} (.*)$", text(case, node, when), re.M)
        found.append([int(number) for number in line.split()])
    return [after - before for before, after in zip(*found, strict=True)]


@pytest.mark.parametrize("case", CASES)
def test_the_busiest_processor_is_of_the_traffics_seconds(case: str) -> None:
    flow = CASES[case]
    uptime = [
        float(re.search(r"uptime <==\n([\d.]+)", text(case, "node-1", when))[1])  # type: ignore[index]
        for when in ("before", "after")
    ]
    share = min(1, (flow.duration_s + flow.omit_s) / (uptime[1] - uptime[0]))
    busiest = 0.0
    for core in (0, 1):
        user, nice, system, idle, iowait, irq, softirq, steal, *_ = core_ticks(case, "node-1", core)
        busy = user + nice + system + irq + softirq
        busiest = max(busiest, 100 * busy / (busy + idle + iowait + steal) / share)
    metrics = parse(case).metrics
    assert metrics["client_busiest_core_pct"] == pytest.approx(min(100, busiest))
    assert metrics["busy_pct"] <= metrics["client_busiest_core_pct"] + 1e-9 or busiest >= 100
    assert 0 <= metrics["steal_pct"] < 5


def test_older_recordings_lack_what_was_not_read() -> None:
    metrics = parse("forward").metrics
    assert {"clock_step_s", "clsact_drops", "other_nic_bits_per_s"} & set(metrics) == set()
    assert parse("forward").facts == ()


@pytest.mark.parametrize("case", NEWER)
def test_a_step_of_the_clock_is_seen_by_its_size(case: str) -> None:
    assert parse(case).metrics["clock_step_s"] == 0
    for step_s in (-7.25, 7.25):
        stepped = raw(case)
        name = "host_counters.node-2.after.txt"
        stepped[name] = re.sub(
            rb"(clock \w+ <==\n)([\d.]+)",
            lambda m, by=step_s: m[1] + f"{float(m[2]) + by:.6f}".encode(),
            stepped[name],
        )
        # The two clocks are read some milliseconds apart, which are allowed for.
        found = parse(case, stepped).metrics["clock_step_s"]
        assert abs(step_s) - 0.2 < found <= abs(step_s) + 0.001


@pytest.mark.parametrize("case", NEWER)
def test_what_changed_meanwhile_is_a_fact(case: str) -> None:
    facts = {(fact.node, fact.name): fact.value for fact in parse(case).facts}
    assert facts["node-1", "clocksource"] == facts["node-2", "clocksource"] == "tsc"
    changed = raw(case)
    name = "host_counters.node-1.after.txt"
    changed[name] = changed[name].replace(b"<==\ntsc\n", b"<==\nhpet\n")
    facts = {(fact.node, fact.name): fact.value for fact in parse(case, changed).facts}
    assert facts["node-1", "clocksource"] == "tsc → hpet"


def test_drops_at_the_paths_devices_are_counted_by_device() -> None:
    assert parse("clsact").metrics["clsact_drops"] == 0
    ends = json.loads(raw("clsact")[ENDS])
    grown = raw("clsact")
    name = "host_counters.node-1.after.txt"
    head, _, rest = grown[name].partition(b"==> tc -s -j qdisc show <==\n")
    entries = json.loads(rest.split(b"\n\n")[0])
    mine = {ends["client"]["host_device"]: 7, ends["client"]["nic"]: 11, "cali-other": 13}
    entries.append({"kind": "clsact", "dev": "cali-other"})
    for entry in entries:
        if entry["kind"] == "clsact":
            entry["drops"] = mine.get(entry["dev"], 0)
    grown[name] = head + b"==> tc -s -j qdisc show <==\n" + json.dumps(entries).encode()
    reading = parse("clsact", grown)
    assert reading.metrics["clsact_drops"] == 7 + 11
    at = {s.metric.partition(":")[2]: s.value for s in reading.samples if "clsact" in s.metric}
    assert at[ends["client"]["host_device"]] == 7
    assert "cali-other" not in at


def test_programs_without_a_qdisc_count_by_calicos_counters() -> None:
    assert b"clsact" not in raw("tcx")["host_counters.node-1.after.txt"]
    assert parse("tcx").metrics["clsact_drops"] == 0
    # Of 27 counters: 4 is dropped by policy, 14 and 17 are no drops, 26 is one. Two processors.
    words = [0] * 27
    words[4], words[14], words[17], words[26] = 3, 1000, 1000, 5
    value = [f"0x{octet:02x}" for word in words for octet in word.to_bytes(8, "little")]
    dump = [{"key": [], "values": [{"cpu": 0, "value": value}, {"cpu": 1, "value": value}]}]
    assert parse_counters(json.dumps(dump)) == 2 * (3 + 5)
    assert parse_counters("") == 0


@pytest.mark.parametrize("case", NEWER)
def test_other_traffic_is_what_the_pod_did_not_cause(case: str) -> None:
    """The flow's own packets on the NIC, encapsulation and all, are no other traffic."""
    assert parse(case).metrics["other_nic_bits_per_s"] == 0
    more = raw(case)
    name, extra = "host_counters.node-1.after.txt", 10**9 + 7
    nic = json.loads(more[ENDS])["client"]["nic"].encode()
    head, mark, rest = more[name].partition(b"/proc/net/dev <==")
    rest = re.sub(
        rb"(\n *" + nic + rb": *)(\d+)",
        lambda m: m[1] + str(int(m[2]) + extra).encode(),
        rest,
        count=1,
    )
    more[name] = head + mark + rest
    found = parse(case, more)
    window_s = next(sample.t_s for sample in found.samples if sample.endpoint == "client")
    # A little of it is taken for what frames add: 120 bytes of each that crossed the NIC.
    bits = found.metrics["other_nic_bits_per_s"] * window_s
    assert 0.9 * 8 * extra < bits <= 8 * extra
