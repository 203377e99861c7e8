"""The notebooks in a real JupyterLab: opened, run from top to bottom, and looked at."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Page, expect, sync_playwright
from synthetic import write_store

from ebpfperf import templates

pytestmark = pytest.mark.browser

FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
).split()
SECOND_MS = 1000


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


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
    """Address, with token, of a JupyterLab on loopback that keeps to directories of its own."""
    own = workspace / ".jupyter"
    settings = own / "settings"
    settings.mkdir(parents=True)
    news = {"fetchNews": "false", "checkForUpdates": False}
    overrides = {"@jupyterlab/apputils-extension:notification": news}
    (settings / "overrides.json").write_text(json.dumps(overrides))
    port, token = free_port(), secrets.token_hex(16)
    environment = os.environ | {
        f"JUPYTER_{name}_DIR": str(own / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")
    }
    environment |= {"JUPYTER_TOKEN": token, "IPYTHONDIR": str(own / "ipython")}
    log = (own / "log").open("wb")
    process = subprocess.Popen(
        [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
            f"--ServerApp.root_dir={workspace}", "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
            f"--LabApp.app_settings_dir={settings}",
            f"--LabApp.user_settings_dir={own / 'user'}",
            f"--LabApp.workspaces_dir={own / 'workspaces'}",
        ],
        stdout=log, stderr=log, env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, (own / "log").read_text()[-2000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/lab/tree/notebooks/{{name}}.ipynb?token={token}&reset"
    finally:
        # Its kernels are children in its session: all end together.
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=10)
        log.close()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
        # Loopback is all it may talk to.
        context.route(
            lambda url: not url.startswith(("http://127.0.0.1:", "data:", "blob:")),
            lambda route: route.abort(),
        )
        page = context.new_page()
        # On a slow start JupyterLab asks for the kernel before it knows that there is one.
        asked = page.get_by_role("button", name="Select Kernel", exact=True)
        page.add_locator_handler(asked, lambda button: button.click())
        yield page
        browser.close()


@pytest.mark.parametrize("name", ["00-start-here", "10-overlay-comparison"])
def test_notebook_runs_from_top_to_bottom(
    server: str, workspace: Path, page: Page, tmp_path: Path, name: str
) -> None:
    page.goto(server.format(name=name), timeout=60 * SECOND_MS)
    notebook = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
    expect(notebook.locator(".jp-Cell").first).to_be_visible(timeout=60 * SECOND_MS)
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=60 * SECOND_MS)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    figure = notebook.locator("figure img").first
    expect(figure).to_be_attached(timeout=120 * SECOND_MS)
    page.keyboard.press("Control+s")
    saved = workspace / "notebooks" / f"{name}.ipynb"
    cells = executed(page, saved)
    figure.scroll_into_view_if_needed()
    expect(figure).to_be_visible()
    assert figure.evaluate("image => image.naturalWidth") > 300
    page.screenshot(path=tmp_path / f"{name}.png")
    problems = [
        output for cell in cells for output in cell.outputs if output.output_type == "error"
    ]
    assert problems == []


def executed(page: Page, path: Path) -> list[nbformat.NotebookNode]:
    """The code cells of the saved notebook, once every one of them has run."""
    for _ in range(120):
        cells = [
            cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"
        ]
        if all(cell.execution_count for cell in cells):
            return cells
        page.wait_for_timeout(SECOND_MS)
        page.keyboard.press("Control+s")
    raise AssertionError(f"{path.name} did not finish")
