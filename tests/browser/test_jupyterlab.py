"""The notebooks in a real JupyterLab: opened, run from top to bottom, and looked at."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from in_jupyterlab import SECOND_MS, browsing, executed, has_loaded, run_all, serving
from playwright.sync_api import Page, expect
from synthetic import write_store

from ebpfperf import templates

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of the notebooks beside a made-up campaign, so that nothing here is written to."""
    root = tmp_path_factory.mktemp("workspace")
    write_store(root / "examples" / "demo")
    shutil.copytree(templates.notebooks_dir(), root / "notebooks")
    plans = templates.notebooks_dir().parent / "benchmarks" / "campaigns"
    shutil.copytree(plans, root / "benchmarks" / "campaigns")
    return root


@pytest.fixture(scope="module")
def server(workspace: Path) -> Iterator[str]:
    with serving(workspace) as address:
        yield address


@pytest.fixture
def page() -> Iterator[Page]:
    with browsing() as page:
        yield page


@pytest.mark.parametrize("name", ["00-start-here", "10-overlay-comparison"])
def test_notebook_runs_from_top_to_bottom(
    server: str, workspace: Path, page: Page, tmp_path: Path, name: str
) -> None:
    notebook = run_all(page, server.format(name=name))
    figure = notebook.locator("figure img").first
    expect(figure).to_be_attached(timeout=120 * SECOND_MS)
    saved = workspace / "notebooks" / f"{name}.ipynb"
    cells = executed(page, saved)
    figure.scroll_into_view_if_needed()
    expect(figure).to_be_visible()
    has_loaded(figure)
    page.screenshot(path=tmp_path / f"{name}.png")
    problems = [
        output for cell in cells for output in cell.outputs if output.output_type == "error"
    ]
    assert problems == []
