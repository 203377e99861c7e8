"""The page around a report: landmarks, one first-level heading, contents that lead somewhere."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

import nbformat
import pytest

from ebpfperf import export, page

BODY = "<h1>Not the title</h1><h2>1 Headline</h2><p>x</p><h3>Sub &amp; sub</h3><h2>1 Headline</h2>"


class Elements(HTMLParser):
    """Every start tag with its attributes, and whether what was opened was closed."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def elements(html: str) -> list[tuple[str, dict[str, str]]]:
    parser = Elements()
    parser.feed(html)
    assert parser.open == []
    return parser.found


def test_the_page_is_whole_and_asks_for_nothing() -> None:
    html = page.shell(title="A & B", body=BODY, stamp="Campaign demo")
    found = elements(html)
    tags = [tag for tag, _ in found]
    assert ("html", {"lang": "en"}) in found
    assert tags.count("main") == tags.count("header") == tags.count("footer") == 1
    assert tags.count("h1") == 1
    assert "<title>A &amp; B</title>" in html
    assert not {"script", "iframe", "object"} & set(tags)
    for _, attributes in found:
        for name in ("src", "href"):
            assert "http" not in attributes.get(name, "")
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "url(" not in page.STYLE
    assert "@import" not in page.STYLE


def test_contents_lead_to_headings_that_exist_once() -> None:
    html = page.shell(title="T", body=BODY, stamp="s")
    found = elements(html)
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [attributes["href"][1:] for tag, attributes in found if tag == "a"]
    assert set(targets) <= set(ids)
    assert "1-headline" in targets
    assert "1-headline-2" in targets


def test_headings_go_down_one_level_at_a_time() -> None:
    levels = [
        int(level)
        for level in re.findall(r"<h([1-6])", page.shell(title="T", body=BODY, stamp="s"))
    ]
    assert levels[0] == 1
    assert all(next_ - before <= 1 for before, next_ in itertools.pairwise(levels))


def test_an_incomplete_page_says_so_in_title_and_body() -> None:
    html = page.shell(title="T", body="", stamp="s", incomplete="cell 3 raised <KeyError>")
    assert "<title>Incomplete: T</title>" in html
    assert "Incomplete: cell 3 raised &lt;KeyError&gt;" in html
    assert "Incomplete" not in page.shell(title="T", body="", stamp="s")


@pytest.mark.parametrize(
    ("text", "anchor"),
    [("1 Headline", "1-headline"), ("Ä é ×", "a-e"), ("…", "section"), ("a  --  b", "a-b")],
)
def test_slugs(text: str, anchor: str) -> None:
    assert page.slug(text) == anchor


def test_export_leaves_out_code_title_and_removed_cells() -> None:
    code = nbformat.v4.new_code_cell("secret = 1")
    code.outputs = [
        nbformat.v4.new_output(
            "display_data", data={"text/html": "<b>shown</b>", "text/plain": "x"}
        )
    ]
    banner = nbformat.v4.new_markdown_cell("An Exception was encountered")
    banner.metadata["tags"] = ["papermill-error-cell-tag"]
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_markdown_cell("# The title\n\nQuestion?\n\n## 1 Headline"),
        code,
        banner,
    ]
    assert export.title(notebook) == "The title"
    html = export.body(notebook)
    assert "secret" not in html
    assert "The title" not in html
    assert "Exception" not in html
    assert "<b>shown</b>" in html
    assert "Question?" in html
    assert "¶" not in html
    assert notebook.cells[0].source.startswith("# The title")
