"""JSON merge patch (RFC 7386) and JSON patch (RFC 6902) over plain documents. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

_MISSING = object()


class PatchError(ValueError):
    """A patch that cannot be applied to this document; the message says which step."""


def merge_patch(document: Any, patch: Any) -> Any:
    """``document`` with ``patch`` merged in: null removes, objects recurse, all else replaces.

    Source: RFC 7386 §2. Neither argument is changed.
    """
    if not isinstance(patch, dict):
        return deepcopy(patch)
    result = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return deepcopy(result)


def json_patch(document: Any, operations: Sequence[Any]) -> Any:
    """``document`` after every operation in order; all or nothing.

    Source: RFC 6902. Neither argument is changed.

    Raises
    ------
    PatchError
        An operation is malformed, names a place that is not there, or a ``test`` fails.
    """
    result = deepcopy(document)
    for index, operation in enumerate(operations):
        try:
            result = _operate(result, operation)
        except PatchError as error:
            raise PatchError(f"operation {index}: {error}") from None
    return result


def _operate(document: Any, operation: Any) -> Any:
    if not isinstance(operation, dict):
        raise PatchError("not an object")
    name = operation.get("op")
    path = _pointer(operation.get("path"))
    match name:
        case "add":
            return _add(document, path, deepcopy(_value(operation)))
        case "remove":
            return _remove(document, path)[0]
        case "replace":
            return _replace(document, path, deepcopy(_value(operation)))
        case "test":
            if not _equal(_get(document, path), _value(operation)):
                raise PatchError(f"test of {operation['path']!r} failed")
            return document
        case "copy":
            return _add(document, path, deepcopy(_get(document, _pointer(operation.get("from")))))
        case "move":
            source = _pointer(operation.get("from"))
            if path[: len(source)] == source and len(path) > len(source):
                raise PatchError("a value cannot be moved into itself")
            document, value = _remove(document, source)
            return _add(document, path, value)
        case _:
            raise PatchError(f"unknown op {name!r}")


def _value(operation: dict[str, Any]) -> Any:
    if "value" not in operation:
        raise PatchError("value is missing")
    return operation["value"]


def _pointer(text: Any) -> list[str]:
    """The reference tokens of a JSON pointer (RFC 6901)."""
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise PatchError(f"{text!r} is no JSON pointer")
    return [token.replace("~1", "/").replace("~0", "~") for token in text.split("/")[1:]]


def _get(document: Any, path: list[str]) -> Any:
    for token in path:
        document = _child(document, token)
    return document


def _child(container: Any, token: str) -> Any:
    if isinstance(container, dict):
        child = container.get(token, _MISSING)
        if child is _MISSING:
            raise PatchError(f"{token!r} is not there")
        return child
    if isinstance(container, list):
        return container[_index(token, len(container) - 1)]
    raise PatchError(f"{token!r} is below a value that has no members")


def _index(token: str, last: int) -> int:
    # RFC 6901 §4: digits only, no leading zero.
    if not (token.isascii() and token.isdigit()) or (len(token) > 1 and token[0] == "0"):
        raise PatchError(f"{token!r} is no array index")
    index = int(token)
    if index > last:
        raise PatchError(f"index {index} is past the end")
    return index


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _get(document, path[:-1])
    if isinstance(parent, dict):
        parent[path[-1]] = value
    elif isinstance(parent, list):
        index = len(parent) if path[-1] == "-" else _index(path[-1], len(parent))
        parent.insert(index, value)
    else:
        raise PatchError(f"{path[-1]!r} is below a value that has no members")
    return document


def _remove(document: Any, path: list[str]) -> tuple[Any, Any]:
    if not path:
        return None, document
    parent = _get(document, path[:-1])
    value = _child(parent, path[-1])
    if isinstance(parent, dict):
        del parent[path[-1]]
    else:
        del parent[int(path[-1])]
    return document, value


def _replace(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent = _get(document, path[:-1])
    _child(parent, path[-1])
    if isinstance(parent, dict):
        parent[path[-1]] = value
    else:
        parent[int(path[-1])] = value
    return document


def _equal(left: Any, right: Any) -> bool:
    """JSON equality: Python's would call ``true`` and 1 equal."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    return bool(left == right)
