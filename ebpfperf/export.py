"""An executed notebook to the body of a page: prose and results, no code, no link out."""

from __future__ import annotations

import re

import nbformat
from nbconvert import HTMLExporter

_TITLE = re.compile(r"^#\s+(?P<title>.+?)\s*$", re.M)
_REMOVED = {"remove-cell", "papermill-error-cell-tag"}


def title(notebook: nbformat.NotebookNode) -> str:
    """The notebook's first-level heading, or "Report" when it has none."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (match := _TITLE.search(cell.source)):
            return match["title"]
    return "Report"


def body(notebook: nbformat.NotebookNode) -> str:
    """HTML of the notebook's prose and outputs, without its title and without its code."""
    cells = [
        _without_title(cell) if cell.cell_type == "markdown" else cell
        for cell in notebook.cells
        if not _REMOVED & set(cell.metadata.get("tags", []))
    ]
    shown = nbformat.NotebookNode(notebook | {"cells": cells})
    exporter = HTMLExporter(template_name="basic")
    exporter.exclude_input = True
    exporter.exclude_input_prompt = True
    exporter.exclude_output_prompt = True
    exporter.exclude_anchor_links = True
    exporter.embed_images = True
    html, _ = exporter.from_notebook_node(shown)
    return str(html)


def _without_title(cell: nbformat.NotebookNode) -> nbformat.NotebookNode:
    source = _TITLE.sub("", cell.source, count=1).lstrip("\n")
    return nbformat.NotebookNode(cell | {"source": source})
