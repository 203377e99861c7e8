"""Reports: parameters checked, artefacts kept, work not done twice, pages that stand alone."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import nbformat
import pytest

from ebpfperf import report, templates
from ebpfperf.errors import InputError, ParameterError, ReportError


def small(path: Path, *lines: str) -> Path:
    """A template with a ``parameters`` cell and one cell of ``lines``."""
    head = nbformat.v4.new_code_cell(
        'campaign: str = "x"  # directory of one campaign\nscale: float = 1.0  # a factor'
    )
    head.metadata["tags"] = ["parameters"]
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    notebook.cells = [
        nbformat.v4.new_markdown_cell("# Small"),
        head,
        nbformat.v4.new_code_cell("\n".join(lines)),
    ]
    nbformat.write(notebook, path)
    return path


def test_every_template_becomes_a_page_and_an_executed_notebook(
    campaign: Path, reports: tuple[report.Report, ...]
) -> None:
    assert [one.notebook for one in reports] == [
        "overlay-comparison",
        "felix-flags",
        "latency-anatomy",
        "capacity-planning",
    ]
    for one in reports:
        assert one.error == ""
        assert one.rendered
        assert one.html.is_file()
        executed = nbformat.read(one.executed, as_version=4)
        assert all(
            cell.get("execution_count") for cell in executed.cells if cell.cell_type == "code"
        )
        assert one.html.parent == campaign / "reports"


def test_the_reports_on_treatments_say_what_the_probes_cost(
    reports: tuple[report.Report, ...],
) -> None:
    for one in reports[:3]:
        html = one.html.read_text()
        assert "The probes (tcp_rtt) changed flow rr by: Round trip, median " in html
        assert ">Probes on against probes off, both under none, " in html


def test_pages_stand_alone(reports: tuple[report.Report, ...]) -> None:
    for one in reports:
        html = one.html.read_text()
        bare = re.sub(r'data:image/png;base64,[^"]+', "data:", html)
        for value in re.findall(r'(?:src|href)="([^"]*)"', bare):
            assert value.startswith(("#", "data:")), value
        assert "<script" not in bare
        assert "Traceback" not in bare
        for image in re.findall(r"<img[^>]*>", bare):
            assert re.search(r'alt="[^"]{30,}"', image), image
        levels = [int(level) for level in re.findall(r"<h([1-6])", bare)]
        assert levels.count(1) == 1
        assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_the_headline_stands_before_everything_and_says_lab(
    reports: tuple[report.Report, ...],
) -> None:
    html = reports[0].html.read_text()
    order = ["1 Headline", "It is not Calico", "Throughput (flow tcp", "2 Validity", "3 What ran"]
    places = [
        html.index(f">{text}" if text[0].isdigit() else text, html.index("<main")) for text in order
    ]
    assert places == sorted(places)
    assert "share one kernel" in html
    assert "worse, beyond the margin" in html


def test_no_path_of_this_machine_is_in_a_report(reports: tuple[report.Report, ...]) -> None:
    for one in reports:
        for path in (one.html, one.executed):
            assert str(templates.notebooks_dir().parent) not in path.read_text()


def test_the_index_leads_to_every_report(
    campaign: Path, reports: tuple[report.Report, ...]
) -> None:
    html = (campaign / "reports" / "index.html").read_text()
    for one in reports:
        assert f'href="{one.html.name}"' in html
    assert "Throughput (flow tcp" in html
    assert "It is not Calico" in html


def test_a_second_rendering_of_the_same_numbers_does_nothing(
    campaign: Path, reports: tuple[report.Report, ...]
) -> None:
    before = [(one.html.stat().st_mtime_ns, one.executed.stat().st_mtime_ns) for one in reports]
    again = report.render_all(campaign)
    assert [one.rendered for one in again] == [False] * len(reports)
    after = [(one.html.stat().st_mtime_ns, one.executed.stat().st_mtime_ns) for one in again]
    assert before == after


def test_new_numbers_or_a_new_template_or_force_render_again(
    campaign: Path, tmp_path: Path
) -> None:
    template = small(tmp_path / "10-small.ipynb", "1")
    out = tmp_path / "out"
    first = report.render(template, campaign=campaign, out_dir=out)
    assert first.rendered
    assert not report.render(template, campaign=campaign, out_dir=out).rendered
    assert report.render(template, campaign=campaign, out_dir=out, force=True).rendered
    small(template, "2")
    assert report.render(template, campaign=campaign, out_dir=out).rendered
    copy = tmp_path / "copy"
    shutil.copytree(campaign, copy)
    record = next(copy.glob("trials/*/record.json"))
    assert not report.render(template, campaign=copy, out_dir=out).rendered
    record.write_text(record.read_text() + "\n")
    assert report.render(template, campaign=copy, out_dir=out).rendered


def test_parameters_reach_the_notebook_and_name_the_file(campaign: Path, tmp_path: Path) -> None:
    template = small(tmp_path / "10-small.ipynb", "print(scale * 3)", "print(campaign)")
    one = report.render(template, campaign=campaign, params={"scale": 2.5}, out_dir=tmp_path)
    assert re.fullmatch(r"small--[0-9a-f]{8}\.html", one.html.name)
    html = one.html.read_text()
    assert "7.5" in html
    # Where the executed notebook stands, its campaign is found from there.
    assert os.path.relpath(campaign, tmp_path) in html


def test_braces_in_a_path_are_not_placeholders(campaign: Path, tmp_path: Path) -> None:
    folder = tmp_path / "{x}"
    folder.mkdir()
    template = small(folder / "10-small.ipynb", "1")
    assert report.render(template, campaign=campaign, out_dir=folder).html.is_file()


def test_a_failing_notebook_leaves_its_artefacts_and_an_error(
    campaign: Path, tmp_path: Path
) -> None:
    template = small(tmp_path / "10-small.ipynb", "print('so far')", "{}['gone']")
    with pytest.raises(ReportError, match="KeyError: 'gone'") as caught:
        report.render(template, campaign=campaign, out_dir=tmp_path)
    page = Path(str(caught.value.fields["path"]))
    html = page.read_text()
    assert "so far" in html
    assert "Incomplete: KeyError: &#x27;gone&#x27; (in the cell that begins with" in html
    assert page.with_suffix(".ipynb").is_file()
    # It is not taken for done.
    with pytest.raises(ReportError):
        report.render(template, campaign=campaign, out_dir=tmp_path)


class OneAtATime(Executor):
    """An executor that proves that jobs can be sent to other processes."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        import pickle

        job = pickle.loads(pickle.dumps((fn, args, kwargs)))
        future: Future[Any] = Future()
        future.set_result(pickle.loads(pickle.dumps(job[0](*job[1], **job[2]))))
        return future


def test_any_executor_renders_and_one_failure_does_not_stop_the_others(
    campaign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = small(tmp_path / "10-bad.ipynb", "1 / 0")
    good = small(tmp_path / "20-good.ipynb", "1")
    monkeypatch.setattr(templates, "notebooks_dir", lambda: tmp_path)
    assert templates.reports() == (bad, good)
    first, second = report.render_all(campaign, out_dir=tmp_path / "out", executor=OneAtATime())
    assert "ZeroDivisionError" in first.error
    assert second.error == ""
    assert "ZeroDivisionError" in (tmp_path / "out" / "index.html").read_text()


def test_no_campaign_and_no_place_to_write_are_one_sentence(campaign: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no campaign directory"):
        report.render("overlay-comparison", campaign=tmp_path / "nothing")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ReportError, match="cannot be written"):
        report.render("overlay-comparison", campaign=campaign, out_dir=blocked / "reports")


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"demand_gbit_per_sec": 1.0}, "The nearest is 'demand_gbit_per_s'"),
        ({"cores_budget": "two"}, "must be of type float"),
        ({"cores_budget": True}, "must be of type float"),
        ({"campaign": "elsewhere"}, "no parameter 'campaign'"),
        ({"demand_gbit_per_s": None}, "must be of type float"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(
    campaign: Path, tmp_path: Path, params: dict[str, Any], words: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ParameterError, match=re.escape(words)):
        report.render("capacity-planning", campaign=campaign, params=params, out_dir=out)
    assert not out.exists()


def test_a_whole_number_is_a_good_float() -> None:
    templates.check("capacity-planning", {"cores_budget": 4})


def test_an_unknown_notebook_names_the_nearest() -> None:
    with pytest.raises(ParameterError, match="nearest is 'overlay-comparison'"):
        templates.find("overlay-comparision")


def test_typed_reads_each_value_as_its_declared_type() -> None:
    found = templates.typed("capacity-planning", ["demand_gbit_per_s=2.5", "cores_budget=3"])
    assert found == {"demand_gbit_per_s": 2.5, "cores_budget": 3}
    for text, words in (
        ("cores_budget", "Write name=value"),
        ("cores_budget=many", "must be of type float"),
        ("cores=2", "no parameter 'cores'"),
    ):
        with pytest.raises(ParameterError, match=words):
            templates.typed("capacity-planning", [text])


def test_a_broken_executed_notebook_is_rendered_again(campaign: Path, tmp_path: Path) -> None:
    template = small(tmp_path / "10-small.ipynb", "1")
    one = report.render(template, campaign=campaign, out_dir=tmp_path / "out")
    one.executed.write_text(json.dumps({"cells": []}))
    assert report.render(template, campaign=campaign, out_dir=tmp_path / "out").rendered
