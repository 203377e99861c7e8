"""Structural schemas applied: unknown fields pruned, known ones checked. Pure.

Covers what Calico's definitions use: type, properties, required, items, additionalProperties,
enum, pattern, minimum, int-or-string and preserve-unknown-fields.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from ebpfperf.lab.felix_schema import Schema
from ebpfperf.lab.status import Cause

_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def prune(value: Any, schema: Schema, path: str = "") -> tuple[Any, tuple[str, ...]]:
    """``value`` without fields the schema does not know, and the paths of those that went.

    Nulls of known fields go too, silently, as the API server drops them before defaulting.
    """
    if isinstance(value, list) and "items" in schema:
        pairs = [prune(v, schema["items"], f"{path}[{i}]") for i, v in enumerate(value)]
        return [v for v, _ in pairs], tuple(name for _, names in pairs for name in names)
    if not isinstance(value, dict) or "properties" not in schema:
        return value, ()
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields", False)
    kept: dict[str, Any] = {}
    gone: list[str] = []
    for key, child in value.items():
        place = f"{path}.{key}" if path else key
        known = schema["properties"].get(key)
        if known is not None:
            if child is not None:
                kept[key], below = prune(child, known, place)
                gone += below
        elif open_ended:
            kept[key] = child
        else:
            gone.append(place)
    return kept, tuple(gone)


def check(value: Any, schema: Schema, path: str = "") -> tuple[Cause, ...]:
    """What is wrong with ``value``: one cause per place, none when it fits."""
    if schema.get("x-kubernetes-int-or-string"):
        fits = isinstance(value, (int, str)) and not isinstance(value, bool)
        return () if fits else (_type_cause(value, path, "integer,string"),)
    wanted = schema.get("type")
    if wanted and not _is(value, wanted):
        return (_type_cause(value, path, wanted),)
    causes: list[Cause] = []
    if "enum" in schema and value not in schema["enum"]:
        words = ", ".join(f'"{word}"' for word in schema["enum"] if word != "")
        message = f'Unsupported value: "{value}": supported values: {words}'
        causes.append((path, "FieldValueNotSupported", message))
    if "pattern" in schema and not _pattern(schema["pattern"]).search(value):
        message = f"Invalid value: \"{value}\": {path} in body should match '{schema['pattern']}'"
        causes.append((path, "FieldValueInvalid", message))
    if "minimum" in schema and value < schema["minimum"]:
        message = f"Invalid value: {value}: must be greater than or equal to {schema['minimum']}"
        causes.append((path, "FieldValueInvalid", message))
    if isinstance(value, list):
        for index, child in enumerate(value):
            causes += check(child, schema.get("items", {}), f"{path}[{index}]")
    if isinstance(value, dict):
        for key in schema.get("required", ()):
            if key not in value:
                place = f"{path}.{key}" if path else key
                causes.append((place, "FieldValueRequired", "Required value"))
        for key, child in value.items():
            below = schema.get("properties", {}).get(key, schema.get("additionalProperties", {}))
            causes += check(child, below, f"{path}.{key}" if path else key)
    return tuple(causes)


def _is(value: Any, wanted: str) -> bool:
    if isinstance(value, bool):
        return wanted == "boolean"
    if wanted == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _PYTHON_TYPES[wanted])


def _type_cause(value: Any, path: str, wanted: str) -> Cause:
    found = next((name for name in _PYTHON_TYPES if _is(value, name)), "null")
    message = f'Invalid value: "{found}": {path} in body must be of type {wanted}: "{found}"'
    return path, "FieldValueTypeInvalid", message


@lru_cache(maxsize=128)
def _pattern(text: str) -> re.Pattern[str]:
    # Go takes (?i) anywhere; Python only as a flag of the whole.
    flags = re.IGNORECASE if "(?i)" in text else re.NOFLAG
    return re.compile(text.replace("(?i)", ""), flags)
