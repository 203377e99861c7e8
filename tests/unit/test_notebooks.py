"""The templates as they are committed: clean, short, one ``parameters`` cell, prose and calls."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import nbformat
import pytest

from ebpfperf import templates

ALL = sorted(templates.notebooks_dir().glob("*.ipynb"))
TAGS = {"parameters", "hide-input", "remove-input", "remove-cell"}
SECTIONS = ["1 Headline", "2 Validity", "3 What ran"]


@pytest.fixture(params=ALL, ids=[path.stem for path in ALL])
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def cells(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def test_the_notebooks_are_there() -> None:
    assert [path.stem for path in ALL] == [
        "00-start-here",
        "05-live",
        "10-overlay-comparison",
        "20-felix-flags",
        "30-latency-anatomy",
        "40-capacity-planning",
        "50-packets-and-maps",
        "60-troubleshooting",
    ]


def test_nothing_of_a_run_is_committed(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in cells(path, "code"):
        assert cell.outputs == []
        assert cell.execution_count is None
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
        assert set(cell.metadata.get("tags", [])) <= TAGS


def test_one_parameters_cell_first_of_annotated_literals_with_help(path: Path) -> None:
    code = cells(path, "code")
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == code[:1]
    for line, node in zip(
        tagged[0].source.splitlines(), ast.parse(tagged[0].source).body, strict=True
    ):
        assert isinstance(node, ast.AnnAssign)
        assert node.value is not None
        ast.literal_eval(node.value)
        assert len(line.partition("  # ")[2]) > 10, line
    assert re.match(r"(campaign(_file)?|diagnosis|log): str = ", tagged[0].source)


def test_the_second_code_cell_opens_the_campaign_out_of_sight(path: Path) -> None:
    second = cells(path, "code")[1]
    assert second.metadata.tags == ["remove-input"]
    assert "import" in second.source


def test_cells_are_at_most_five_lines_and_define_nothing(path: Path) -> None:
    for cell in cells(path, "code"):
        assert len(cell.source.splitlines()) <= 5, cell.source
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda), cell.source


def test_one_title_and_headings_without_a_gap(path: Path) -> None:
    lines = [line for cell in cells(path, "markdown") for line in cell.source.splitlines()]
    levels = [len(line) - len(line.lstrip("#")) for line in lines if line.startswith("#")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


@pytest.mark.parametrize("report", templates.all_reports(), ids=lambda path: path.stem)
def test_reports_lead_with_headline_validity_and_what_ran(report: Path) -> None:
    headings = [
        line.removeprefix("## ")
        for cell in cells(report, "markdown")
        for line in cell.source.splitlines()
        if line.startswith("## ")
    ]
    sections = SECTIONS if report in templates.reports() else SECTIONS[:2]
    assert headings[: len(sections)] == sections
    assert headings[-1].endswith("Appendix")


def test_parameters_are_inspected_with_type_and_help() -> None:
    found = {one.name: one for one in templates.parameters("capacity-planning")}
    assert found["demand_gbit_per_s"].type == "float"
    assert found["cores_budget"].help
    assert found["campaign"].type == "str"
