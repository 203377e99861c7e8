"""Felix fields set by the environment of calico-node, which silently beats the resource.

Felix's precedence, highest first: environment (``FELIX_`` + the internal name in capitals), its
file, the node's own FelixConfiguration (``node.<name>``), ``default``. Source:
felix/config/config_params.go, v3.16.1 to v3.32.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# Resource field → internal name, where they differ by more than capitals.
_INTERNAL = {
    "ipipEnabled": "IpInIpEnabled",
    "ipipMTU": "IpInIpMtu",
    "bpfConntrackMode": "BPFConntrackCleanupMode",
}

# What decides which tunnels exist and what MTU they have.
TUNNEL_FIELDS = (
    "bpfEnabled",
    "ipipEnabled",
    "vxlanEnabled",
    "ipipMTU",
    "vxlanMTU",
    "mtuIfacePattern",
)


def variable(field: str) -> str:
    """The environment variable that beats a resource field: ``FELIX_IPINIPENABLED``."""
    return f"FELIX_{_INTERNAL.get(field, field)}".upper()


def resource_field(name: str) -> str | None:
    """The resource field that an internal or environment name stands for, where they differ.

    ``ipInIpEnabled``, ``IpInIpEnabled`` and ``FELIX_IPINIPENABLED`` all mean ``ipipEnabled``, which
    alone is a field of the resource; None for any other name.
    """
    plain = name.upper().removeprefix("FELIX_")
    return next((field for field, own in _INTERNAL.items() if own.upper() == plain), None)


def environment(pod: Mapping[str, Any], fields: Iterable[str]) -> dict[str, str | None]:
    """Field → its text in a calico-node pod's environment, for those of ``fields`` that it sets.

    None stands for a value that the pod takes from elsewhere (a ConfigMap) and does not show.
    """
    found = variables(pod)
    return {f: found[variable(f)] for f in sorted(set(fields)) if variable(f) in found}


def variables(pod: Mapping[str, Any]) -> dict[str, str | None]:
    """Variable in capitals → its text, of a calico-node pod's containers; None as above."""
    found: dict[str, str | None] = {}
    for container in pod.get("spec", {}).get("containers") or []:
        for entry in container.get("env") or []:
            found[str(entry.get("name", "")).upper()] = (
                str(entry["value"]) if "value" in entry and "valueFrom" not in entry else None
            )
    return found


def effective(
    default: Mapping[str, Any], node: Mapping[str, Any], env: Mapping[str, str | None]
) -> dict[str, Any]:
    """Felix's fields after precedence; an environment value of None leaves the field out."""
    fields = {**default, **{name: value for name, value in node.items() if value is not None}}
    for name, text in env.items():
        if text is None:
            fields.pop(name, None)
        else:
            fields[name] = _value(text)
    return fields


def _value(text: str) -> bool | int | str:
    """A Felix environment value: booleans and integers by Go's spelling, else the text."""
    lowered = text.strip().lower()
    if lowered in ("true", "1", "yes", "y", "t") and not lowered.isdigit():
        return True
    if lowered in ("false", "no", "n", "f"):
        return False
    return int(lowered) if lowered.isdigit() else text
