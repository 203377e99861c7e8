"""The table of faults: what the documentation says of it, and how a fault is found in it."""

from __future__ import annotations

import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ebpfperf.errors import LabError
from ebpfperf.lab.faults import standing
from ebpfperf.lab.faults.declaration import Fault
from ebpfperf.lab.faults.place import Place
from ebpfperf.lab.running import Lab

DOCUMENT = Path(__file__).parents[2] / "docs" / "lab-faults.md"


def _releases(fault: Fault) -> str:
    words = [
        f"{word} v{release[0]}.{release[1]}"
        for word, release in (("since", fault.since), ("before", fault.until))
        if release is not None
    ]
    return " ".join(words) or "all"


def test_the_documentation_has_every_fault_as_it_is() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", DOCUMENT.read_text(), re.M)
    told = {name: rest.split(" | ") for name, rest in rows}
    assert len(told) == len(rows)
    assert told == {
        fault.name: [
            "node" if fault.of_node else "cluster",
            fault.symptom,
            ", ".join(fault.checks),
            fault.real,
            _releases(fault),
        ]
        for fault in standing.FAULTS
    }


def test_no_two_faults_have_one_name() -> None:
    counted = Counter(fault.name for fault in standing.FAULTS)
    assert [name for name, count in counted.items() if count > 1] == []
    assert all(re.fullmatch("[a-z0-9-]+", name) for name in counted)


def test_every_check_is_spelled_as_an_id() -> None:
    odd = [
        (fault.name, check)
        for fault in standing.FAULTS
        for check in fault.checks
        if not re.fullmatch("[A-E][1-9][0-9]?", check)
    ]
    assert odd == []
    assert [fault.name for fault in standing.FAULTS if not fault.checks] == []


def test_a_name_that_is_nearly_one_is_told_the_fault() -> None:
    with pytest.raises(LabError, match="Did you mean vxlan-blocked") as refused:
        standing.named("vxlan-blockd")
    assert "no fault vxlan-blockd" in refused.value.what
    assert standing.named("vxlan-blocked").name == "vxlan-blocked"


@pytest.mark.parametrize(
    ("since", "until", "applying"),
    [
        (None, None, [(3, 16), (3, 26), (3, 32)]),
        ((3, 26), None, [(3, 26), (3, 32)]),
        (None, (3, 26), [(3, 16)]),
        ((3, 17), (3, 32), [(3, 26)]),
    ],
)
def test_a_fault_applies_from_its_first_release_to_before_its_last(
    since: tuple[int, int] | None, until: tuple[int, int] | None, applying: list[tuple[int, int]]
) -> None:
    fault = Fault(
        "some", "Something.", ("A1",), "Nothing.", lambda _: {}, lambda *_: None, lambda *_: None,
        since=since, until=until,
    )  # fmt: skip
    assert [each for each in [(3, 16), (3, 26), (3, 32)] if fault.applies(each)] == applying


# --------------------------------------------------------------- several faults of one lab


def _lab(directory: Path) -> Lab:
    nodes = tuple(SimpleNamespace(name=name) for name in ("node-1", "node-2"))
    shape = SimpleNamespace(release="v3.26")
    by_name = {node.name: node for node in nodes}
    found = SimpleNamespace(
        directory=directory, name="lab", nodes=nodes, shape=shape, node=by_name.__getitem__
    )
    return cast(Lab, found)


class World:
    """Fields of a FelixConfiguration, and faults that set them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fields: dict[str, Any] = {}
        self.faults = {
            fault.name: fault
            for fault in (
                self.fault("one", "log", "Debug"),
                self.fault("two", "log", "Info"),
                self.fault("three", "mode", "DSR", of_node=True),
            )
        }
        monkeypatch.setattr(standing, "named", self.faults.__getitem__)

    def fault(self, name: str, field: str, value: str, *, of_node: bool = False) -> Fault:
        def before(_: Place) -> dict[str, Any]:
            was = self.fields.get(field)
            time.sleep(0.05)  # What another one changes meanwhile would be taken for what was.
            return {"fields": {field: was}}

        def put(_: Place, __: dict[str, Any]) -> None:
            self.fields[field] = value

        def take(_: Place, record: dict[str, Any]) -> None:
            self.fields |= record["fields"]

        return Fault(name, "It.", ("A1",), "It.", before, put, take, of_node=of_node)


def test_faults_that_are_made_at_once_are_all_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, lab = World(monkeypatch), _lab(tmp_path)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda fault: standing.put(lab, fault), world.faults.values()))
    assert {each.fault.name for each in standing.standing(lab)} == {"one", "two", "three"}
    assert len(list(standing.heal(lab))) == 3
    assert world.fields == {"log": None, "mode": None}
    assert standing.standing(lab) == []


def test_a_fault_beneath_another_one_of_the_same_fields_is_not_healed_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, lab = World(monkeypatch), _lab(tmp_path)
    for name in ("one", "two", "three"):
        standing.put(lab, world.faults[name])
    with pytest.raises(LabError, match=r"two .* was made after one, and remembers log"):
        list(standing.heal(lab, "one"))
    assert world.fields == {"log": "Info", "mode": "DSR"}
    assert [each.fault.name for each in standing.heal(lab, "two")] == ["two"]
    assert world.fields["log"] == "Debug"
    assert [each.fault.name for each in standing.heal(lab, "one")] == ["one"]
    assert world.fields == {"log": None, "mode": "DSR"}


def test_one_nodes_fault_beneath_another_nodes_is_not_healed_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, lab = World(monkeypatch), _lab(tmp_path)
    for node in ("node-1", "node-2"):
        standing.put(lab, world.faults["three"], node)
    with pytest.raises(LabError, match="remembers mode"):
        list(standing.heal(lab, node="node-1"))
    assert [each.node for each in standing.heal(lab)] == ["node-2", "node-1"]
    assert world.fields == {"mode": None}


def test_of_a_nodes_own_resource_and_of_its_pod_others_are_independent() -> None:
    fault = standing.named("mixed-cluster")
    own = standing.Standing(fault, "node-1", {"own": True, "fields": {"bpfEnabled": None}})
    shared = standing.Standing(fault, "node-1", {"fields": {"bpfEnabled": True}})
    pods = [standing.Standing(fault, node, {"pod": {}}) for node in ("node-1", "node-2")]
    assert not standing.remembered(own) & standing.remembered(shared)
    assert not standing.remembered(pods[0]) & standing.remembered(pods[1])
    assert standing.remembered(pods[0]) == {"calico-node of node-1"}
    for name in ("pool", "pools"):
        assert "the pools" in standing.remembered(standing.Standing(fault, "node-1", {name: {}}))
