"""What the bpf_programs probe answered on a real kernel, read; and what damage does to it."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import answered
import pytest

from ebpfperf.model import Flow, Status
from ebpfperf.model import Path as FlowPath
from ebpfperf.probes import probe
from ebpfperf.probes.answers import file, pack

PROBE = probe("bpf_programs")
RAW = file("bpf_programs")
FLOW = Flow("f", FlowPath.POD_POD, "tcp")


raw = partial(answered.raw, PROBE.name)


def programs(case: str) -> list[dict[str, Any]]:
    kernels = json.loads(raw(case)[RAW])["kernels"]
    return [program for kernel in kernels for program in kernel["answer"]["programs"]]


def answer(*found: dict[str, Any], changed: tuple[str, ...] = ()) -> dict[str, bytes]:
    """As a node with the client answers."""
    seen = {"ends": ["client"], "programs": found, "changed": changed}
    return {RAW: pack("", [{"node": "node-1", "ends": ["client", "server"], "answer": seen}])}


def program(hook: str, runs: int, ns: int, name: str = "cali") -> dict[str, Any]:
    return {"hook": hook, "id": 7, "name": name, "runs": runs, "ns": ns}


@pytest.mark.parametrize(("case", "kind"), [("filters", "filter"), ("sliced_tcx", "tcx")])
def test_columns_are_the_sum_over_hooks_of_both_nodes(case: str, kind: str) -> None:
    reading = PROBE.parse(FLOW, raw(case))
    assert reading.status is Status.OK
    runs = sum(each["runs"] for each in programs(case))
    assert reading.metrics["bpf_runs"] == runs > 0
    total_ns = sum(each["ns"] for each in programs(case))
    assert reading.metrics["bpf_ns_per_run"] == pytest.approx(total_ns / runs)
    assert {sample.endpoint for sample in reading.samples} == {"client", "server"}
    hooks = {sample.metric.partition(":")[2] for sample in reading.samples}
    assert {hook.split()[-1] for hook in hooks} == {kind}


def test_each_hook_has_its_runs_and_only_those_that_ran_a_time() -> None:
    reading = PROBE.parse(FLOW, raw("filters"))
    values = {(sample.endpoint, sample.metric): sample.value for sample in reading.samples}
    for kernel in json.loads(raw("filters")[RAW])["kernels"]:
        (end,) = kernel["answer"]["ends"]
        for each in kernel["answer"]["programs"]:
            assert values.pop((end, f"bpf_runs:{each['hook']}")) == each["runs"]
            time = values.pop((end, f"bpf_ns_per_run:{each['hook']}"), None)
            assert time == (each["ns"] / each["runs"] if each["runs"] else None)
    assert values == {}
    # 101 datagrams went from pod to pod.
    assert 101 <= max(each["runs"] for each in programs("filters")) <= 103


def test_the_programs_of_each_hook_are_facts_of_their_node() -> None:
    facts = PROBE.parse(FLOW, raw("filters")).facts
    named = {(f.node, f.name.partition(":")[2], f.value) for f in facts if "_on:" in f.name}
    assert named == {
        (kernel["node"], each["hook"], each["name"])
        for kernel in json.loads(raw("filters")[RAW])["kernels"]
        for each in kernel["answer"]["programs"]
    }


def test_no_event_is_said_to_be_lost_where_no_program_watches() -> None:
    facts = PROBE.parse(FLOW, raw("sliced_tcx")).facts
    assert "bpf_programs_lost_events" not in {fact.name for fact in facts}
    watched = [fact for fact in facts if fact.name == "bpf_programs_watched_s"]
    assert [fact.node for fact in watched] == ["node-1", "node-2"]


def test_without_programs_there_are_no_runs_and_no_time() -> None:
    reading = PROBE.parse(FLOW, raw("standard"))
    assert reading.metrics == {"bpf_runs": 0.0}
    assert reading.samples == ()


def test_programs_of_one_hook_are_added() -> None:
    reading = PROBE.parse(
        FLOW,
        answer(
            program("a ingress tcx", 3, 30, "one"),
            program("a ingress tcx", 1, 50, "two"),
            program("a egress tcx", 0, 0),
        ),
    )
    assert reading.metrics == {"bpf_runs": 4.0, "bpf_ns_per_run": 20.0}
    assert [(sample.metric, sample.value) for sample in reading.samples] == [
        ("bpf_runs:a ingress tcx", 4.0),
        ("bpf_ns_per_run:a ingress tcx", 20.0),
        ("bpf_runs:a egress tcx", 0.0),
    ]
    assert reading.facts[0].value == "one, two"


def test_hooks_that_changed_are_a_fact_and_a_program_that_was_gone_has_no_name() -> None:
    found = answer(program("a ingress tcx", 0, 0, ""), changed=("a ingress tcx",))
    facts = {fact.name: fact.value for fact in PROBE.parse(FLOW, found).facts}
    assert facts["bpf_programs_changed"] == "a ingress tcx"
    assert facts["bpf_programs_on:a ingress tcx"].startswith("UNKNOWN: ")
