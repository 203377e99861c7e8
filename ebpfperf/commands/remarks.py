"""Sentences about nodes, each once: those that hold of several name them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

MOST = 3


def grouped(remarks: Mapping[str, Iterable[str]]) -> list[str]:
    """``node-1, node-2: sentence``, in the order in which they came up; node → its sentences."""
    nodes: dict[str, list[str]] = {}
    for node, texts in remarks.items():
        for text in texts:
            nodes.setdefault(text, []).append(node)
    return [f"{_named(list(dict.fromkeys(names)))}: {text}" for text, names in nodes.items()]


def _named(names: list[str]) -> str:
    head = ", ".join(names[:MOST])
    return head if len(names) <= MOST else f"{head} and {len(names) - MOST} more nodes"
