"""The table of faults: what the documentation says of it, and how a fault is found in it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from ebpfperf.errors import LabError
from ebpfperf.lab.faults import standing
from ebpfperf.lab.faults.declaration import Fault

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
