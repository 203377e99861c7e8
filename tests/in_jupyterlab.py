"""A real JupyterLab on loopback, and a notebook open in it in headless Chromium."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import nbformat
from playwright.sync_api import Locator, Page, expect, sync_playwright

FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
).split()
SECOND_MS = 1000


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def serving(workspace: Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Address of a notebook by ``{name}``, with token; it keeps to directories of its own.

    Its kernels have ``environment`` besides this process's.
    """
    own = workspace / ".jupyter"
    settings = own / "settings"
    settings.mkdir(parents=True)
    news = {"fetchNews": "false", "checkForUpdates": False}
    overrides = {"@jupyterlab/apputils-extension:notification": news}
    (settings / "overrides.json").write_text(json.dumps(overrides))
    port, token = free_port(), secrets.token_hex(16)
    told = os.environ | {
        f"JUPYTER_{name}_DIR": str(own / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")
    }
    told |= {"JUPYTER_TOKEN": token, "IPYTHONDIR": str(own / "ipython"), **(environment or {})}
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
        stdout=log, stderr=log, env=told, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
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


@contextlib.contextmanager
def browsing() -> Iterator[Page]:
    """A page that may talk to loopback alone."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
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


def run_all(page: Page, address: str) -> Locator:
    """The notebook at that address, open and being run from top to bottom."""
    page.goto(address, timeout=120 * SECOND_MS)
    notebook = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
    expect(notebook.locator(".jp-Cell").first).to_be_visible(timeout=120 * SECOND_MS)
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=120 * SECOND_MS)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    return notebook


def has_loaded(picture: Locator) -> None:
    """Return once the picture is there with more than 300 dots in a row.

    It may be replaced while one looks, and one that is new is empty for a moment.
    """
    for _ in range(300):
        if picture.evaluate("image => image.naturalWidth") > 300:
            return
        picture.page.wait_for_timeout(SECOND_MS / 10)
    raise AssertionError("the picture is empty")


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    """The code cells of a notebook; none while the server is writing it, which it does in place."""
    try:
        cells = nbformat.read(path, as_version=4).cells
    except ValueError:
        return []
    return [cell for cell in cells if cell.cell_type == "code"]


def executed(page: Page, path: Path) -> list[nbformat.NotebookNode]:
    """The code cells of the saved notebook, once every one of them has run."""
    for _ in range(120):
        page.keyboard.press("Control+s")
        cells = code_cells(path)
        if cells and all(cell.execution_count for cell in cells):
            return cells
        page.wait_for_timeout(SECOND_MS)
    raise AssertionError(f"{path.name} did not finish")
