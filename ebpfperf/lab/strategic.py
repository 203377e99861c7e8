"""Strategic merge patch for the kinds the lab serves: lists of named things merge by name. Pure.

Source: the Kubernetes API conventions on strategic merge patch; the keys are those of Pod, Node,
DaemonSet and Service. A list without a known key is replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# List field → the key its members are matched by.
_KEYS: dict[str, str | None] = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "conditions": "type",
    "addresses": "type",
    "imagePullSecrets": "name",
    "ownerReferences": "uid",
}
# Kinds whose lists of these names are other lists: matched by another key, or replaced (None).
_KEYS_OF_KIND: dict[str, dict[str, str | None]] = {
    "Service": {"ports": "port"},
    "EndpointSlice": {"ports": None},
}
_HINTS = ("$setElementOrder/", "$retainKeys", "$deleteFromPrimitiveList/")


def strategic_merge(document: Any, patch: Any) -> Any:
    """``document`` with ``patch`` merged in; ``$patch: delete`` and ``replace`` are honoured."""
    kind = document.get("kind") if isinstance(document, dict) else None
    return _merge(document, patch, _KEYS | _KEYS_OF_KIND.get(str(kind), {}))


def _merge(document: Any, patch: Any, keys: Mapping[str, str | None]) -> Any:
    if not isinstance(patch, dict):
        return patch
    base = document if isinstance(document, dict) else {}
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    merged = dict(base)
    for key, value in patch.items():
        if key == "$patch" or key.startswith(_HINTS):
            continue
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, list) and (by := keys.get(key)) is not None:
            had = merged.get(key)
            merged[key] = _merge_lists(had if isinstance(had, list) else [], value, by, keys)
        else:
            merged[key] = _merge(merged.get(key), value, keys)
    for key, gone in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            if isinstance(merged.get(name), list) and isinstance(gone, list):
                merged[name] = [item for item in merged[name] if item not in gone]
    return merged


def _merge_lists(
    old: list[Any], new: list[Any], key: str, keys: Mapping[str, str | None]
) -> list[Any]:
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in new):
        return [i for i in new if not (isinstance(i, dict) and i.get("$patch") == "replace")]
    merged = list(old)
    for item in new:
        name = item.get(key) if isinstance(item, dict) else None
        # What is no object (a patch may hold anything) has no name to match; validation judges it.
        named = ((i, had) for i, had in enumerate(merged) if isinstance(had, dict))
        place = next((i for i, had in named if had.get(key) == name), None)
        if isinstance(item, dict) and item.get("$patch") == "delete":
            if place is not None:
                del merged[place]
        elif place is None or name is None:
            merged.append(_merge({}, item, keys))
        else:
            merged[place] = _merge(merged[place], item, keys)
    return merged
