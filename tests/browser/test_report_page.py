"""A report in a real browser, with the network blocked: it opens whole and asks for nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ebpfperf.report import Report

pytestmark = [pytest.mark.browser, pytest.mark.beside]

FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
).split()


@pytest.fixture(scope="module")
def pages(reports: tuple[Report, ...]) -> Path:
    """The directory of the reports of a made-up campaign."""
    assert [one.error for one in reports] == ["", "", "", ""]
    return reports[0].html.parent


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        browser.close()


class Watched:
    """A page whose every request is noted, and aborted unless it is the file asked for."""

    def __init__(self, browser: Browser, path: Path, **context: object) -> None:
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.context = browser.new_context(offline=True, **context)
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.context.route("**/*", lambda route: self.note(route))
        self.page.goto(path.as_uri())

    def note(self, route: object) -> None:
        self.requests.append(route.request.url)
        if route.request.url.startswith("file:"):
            route.continue_()
        else:
            route.abort()


NAMES = ("index", "overlay-comparison", "felix-flags", "latency-anatomy", "capacity-planning")


@pytest.mark.parametrize("name", NAMES)
def test_page_opens_offline_and_requests_nothing(browser: Browser, pages: Path, name: str) -> None:
    path = pages / f"{name}.html"
    watched = Watched(browser, path)
    page = watched.page
    assert [url for url in watched.requests if not url.startswith("data:")] == [path.as_uri()]
    assert watched.messages == []
    images = page.locator("img").all()
    assert images or name == "index"
    for image in images:
        assert len(image.get_attribute("alt") or "") > 30
        assert image.evaluate("image => image.naturalWidth") > 300
    levels = page.eval_on_selector_all(
        "h1,h2,h3,h4,h5,h6", "nodes => nodes.map(node => Number(node.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert "not Calico" in page.inner_text("main")
    watched.context.close()


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_sticks_out_sideways(browser: Browser, pages: Path, name: str, width: int) -> None:
    watched = Watched(browser, pages / f"{name}.html", viewport={"width": width, "height": 900})
    wider = watched.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wider <= 0
    watched.context.close()


def test_contents_lead_down_the_page_and_the_keyboard_reaches_them(
    browser: Browser, pages: Path
) -> None:
    watched = Watched(browser, pages / "overlay-comparison.html", reduced_motion="reduce")
    page = watched.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for link in page.locator("nav.contents a").all():
        link.click()
        # The page scrolls with its next frame.
        page.wait_for_function(
            """id => {
              const y = document.getElementById(id).getBoundingClientRect().y;
              return -1 <= y && y < 900;
            }""",
            arg=(link.get_attribute("href") or "")[1:],
        )
    watched.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrasts_in_both_schemes(browser: Browser, pages: Path, scheme: str) -> None:
    watched = Watched(browser, pages / "overlay-comparison.html", color_scheme=scheme)
    ratios = watched.page.evaluate(
        """() => {
          const light = colour => {
            const parts = colour.match(/[0-9.]+/g).slice(0, 3).map(text => Number(text) / 255)
              .map(p => p <= 0.03928 ? p / 12.92 : ((p + 0.055) / 1.055) ** 2.4);
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
          };
          const behind = node => {
            for (let at = node; at; at = at.parentElement) {
              const colour = getComputedStyle(at).backgroundColor;
              if (!/, 0\\)$/.test(colour)) return colour;
            }
            return "rgb(255, 255, 255)";
          };
          const nodes = document.querySelectorAll("p,li,h1,h2,td,th,caption,figcaption,a,summary");
          return [...nodes].filter(node => node.innerText && node.offsetParent)
            .map(node => {
              const ends = [light(getComputedStyle(node).color), light(behind(node))].sort();
              return (Math.max(...ends) + 0.05) / (Math.min(...ends) + 0.05);
            });
        }"""
    )
    assert len(ratios) > 50
    assert min(ratios) >= 4.5
    watched.context.close()


def test_the_table_of_a_figure_opens(browser: Browser, pages: Path) -> None:
    watched = Watched(browser, pages / "overlay-comparison.html")
    figure = watched.page.locator("figure").first
    assert not figure.locator("table").is_visible()
    figure.locator("summary").click()
    expect(figure.locator("table")).to_be_visible()
    assert figure.locator("th[scope=col]").count() > 3
    watched.context.close()
