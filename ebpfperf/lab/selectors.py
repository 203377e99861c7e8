"""Label and field selectors of list and watch requests. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ebpfperf.lab.status import BadRequest

Object = dict[str, Any]
Selector = Callable[[Object], bool]

# Fields that may be selected by, beside metadata.name and metadata.namespace.
_FIELDS = {
    "pods": ("spec.nodeName", "spec.restartPolicy", "status.phase", "status.podIP"),
    "namespaces": ("status.phase",),
    "nodes": ("spec.unschedulable",),
    "events": (
        "involvedObject.kind",
        "involvedObject.name",
        "involvedObject.namespace",
        "involvedObject.uid",
        "reason",
        "type",
    ),
}
_SET = re.compile(r"\s*([\w./-]+)\s+(in|notin)\s*\(([^()]*)\)\s*")
_EQUAL = re.compile(r"\s*([\w./-]+)\s*(==|=|!=)\s*([\w.-]*)\s*")
_EXISTS = re.compile(r"\s*(!?)\s*([\w./-]+)\s*")
_COMMA = re.compile(r",(?![^()]*\))")


def label_selector(text: str) -> Selector:
    """Whether an object's labels fit ``a=b,c!=d,e in (f,g),!h``; anything fits an empty text.

    Raises
    ------
    BadRequest
        The text is no selector.
    """
    tests = [_label_test(part) for part in _COMMA.split(text)] if text.strip() else []

    def fits(obj: Object) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(test(labels) for test in tests)

    return fits


def _label_test(part: str) -> Callable[[dict[str, str]], bool]:
    if match := _SET.fullmatch(part):
        key, word, listed = match.groups()
        values = {value.strip() for value in listed.split(",")}
        if word == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if match := _EQUAL.fullmatch(part):
        key, sign, value = match.groups()
        if sign == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if match := _EXISTS.fullmatch(part):
        absent, key = match.groups()
        return lambda labels: (key in labels) != bool(absent)
    raise BadRequest(f"unable to parse requirement: {part!r}")


def field_selector(resource: str, text: str) -> Selector:
    """Whether an object's fields fit ``spec.nodeName=node-1,status.phase!=Running``.

    Raises
    ------
    BadRequest
        The text is no selector, or the kind cannot be selected by that field.
    """
    wanted = []
    for part in filter(None, text.split(",")):
        path, sign, value = _field_parts(part)
        if path not in ("metadata.name", "metadata.namespace", *_FIELDS.get(resource, ())):
            raise BadRequest(f"field label not supported: {path}")
        wanted.append((path.split("."), sign, value))

    def fits(obj: Object) -> bool:
        return all((_read(obj, path) == value) == (sign != "!=") for path, sign, value in wanted)

    return fits


def _field_parts(part: str) -> tuple[str, str, str]:
    for sign in ("!=", "==", "="):
        path, found, value = part.partition(sign)
        if found:
            return path.strip(), sign, value.strip()
    raise BadRequest(f"invalid selector: {part!r}; can't understand it")


def _read(obj: Any, path: list[str]) -> str:
    for key in path:
        obj = obj.get(key) if isinstance(obj, dict) else None
    if isinstance(obj, bool):
        return str(obj).lower()
    return "" if obj is None else str(obj)
