"""Which names a cluster's objects have, and the objects with other ones. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from ebpfperf.pseudonyms.names import Names
from ebpfperf.pseudonyms.words import (
    IMAGES,
    PLAIN_LABELS,
    PLAIN_VALUES,
    PUBLIC_DOMAINS,
    PUBLIC_KEYS,
)

Known = defaultdict[str, set[str]]
_KINDS = {"Node": "node", "Pod": "pod", "Service": "svc", "IPPool": "pool"}
_OF_NODE = "node."
_HOSTNAME = "kubernetes.io/hostname"
_SERVICE = "kubernetes.io/service-name"
# Maps of labels, wherever they stand; a selector may also be text, in Calico's language.
_LABELS = ("labels", "matchLabels", "nodeSelector", "selector", "deprecatedTopology")
# Of Calico's language of selectors: zone == 'a', has(gpu), team in {'x', 'y'}.
_SELECTORS = ("nodeSelector", "selector")
_COMPARED = re.compile(r"([\w./-]+)\s*(?:==|!=|not\s+in\b|in\b|contains\b|starts|ends)")
_HAS = re.compile(r"has\(\s*([\w./-]+)\s*\)")
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_NAMES = {"namespace": "ns", "nodeName": "node", "hostname": "host", "serviceName": "svc",
          "serviceAccountName": "object", "clusterName": "object", "externalName": "host",
          "generateName": "object", "zone": "value", "targetPort": "port",
          "subdomain": "host", "loadBalancerClass": "value", "prometheusMetricsHost": "host",
          "healthHost": "host"}  # fmt: skip
_AS_IT_IS = ("apiVersion", "kind", "type", "resourceVersion", "creationTimestamp", "protocol",
             "calicoVersion", "kernelVersion", "osImage", "containerRuntimeVersion")  # fmt: skip
# What nobody judges, and may say whose cluster it is.
_LEFT_OUT = ("images", "volumesAttached", "volumesInUse", "managedFields", "ownerReferences",
             "message")  # fmt: skip
# Annotations are free text, of accounts and certificates, too: these and the lab's own are kept.
_ADDRESS_ANNOTATION = re.compile(
    r"(?:cni\.)?projectcalico\.org/(?:IPv[46]\w*Addr(?:ess)?|podIPs?|natExcludeService)"
)
_OF_LAB = "lab.ebpfperf/"
_DATA_KEPT = "KUBERNETES_SERVICE_"
_PUBLIC_PATHS = (
    "calico",
    "docker.io/calico",
    "quay.io/calico",
    "quay.io/tigera",
    "registry.k8s.io",
)
_REGISTRY = ("registry", "imagePath", "imagePrefix")
# A host's name with its domain; in objects anything may be one, in logs only known endings.
_HOST = r"(?:(?<![\w./-])|(?<=://))(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+"
_IN_OBJECTS = re.compile(_HOST + r"[a-z]{2,}(?![\w.-])", re.I)
IN_TEXT = re.compile(
    _HOST + r"(?:com|net|org|io|local|internal|intern|corp|lan|cloud|dev|app|example|test|home|"
    r"[a-z]{2}(?<!go)(?<!py)(?<!sh)(?<!so)(?<!rs)(?<!js)(?<!md)(?<!cc)(?<!gz)(?<!db))(?![\w.-])"
)
_OURS = re.compile(
    r"(?:^|\.)(?:cluster\.local|kubernetes\.io|k8s\.io|projectcalico\.org|tigera\.io|docker\.com|"
    r"github\.com|debian\.org)$|^host-[0-9a-f]{6}\.example$"
)
_INSTANCE = re.compile(r"(?<![\w-])i-[0-9a-f]{8,17}(?![\w-])")


def known(found: Any, into: Known) -> None:
    """Add the names that objects of the API have, by kind of name."""
    for each in found if isinstance(found, list) else [found]:
        if isinstance(each, dict):
            _object(each, into)


def strings(found: Any) -> Iterator[str]:
    """All text in JSON, keys left out."""
    if isinstance(found, str):
        yield found
    elif isinstance(found, Mapping):
        for each in found.values():
            yield from strings(each)
    elif isinstance(found, list):
        for each in found:
            yield from strings(each)


def rewritten(found: Any, names: Names) -> Any:
    """The objects with pseudonyms."""
    return _Rewriting(names).of(found, "", "")


def hosts_hidden(text: str, names: Names) -> str:
    """Text of a log with hosts' names replaced, and identities of machines."""
    return _INSTANCE.sub(
        lambda m: "i-" + names.digest(m[0], len(m[0]) - 2),
        IN_TEXT.sub(lambda m: _host(m[0], names), text),
    )


# ------------------------------------------------------------------------------ which names


def _object(found: Mapping[str, Any], into: Known) -> None:
    meta = found.get("metadata") or {}
    name, kind = str(meta.get("name") or ""), str(found.get("kind") or "")
    if kind == "FelixConfiguration" and name.startswith(_OF_NODE):
        into["node"].add(name.removeprefix(_OF_NODE))
    else:
        into[_KINDS.get(kind, "object")].add(name)
    _inside(found, "", into)


def _inside(found: Any, key: str, into: Known) -> None:
    if isinstance(found, list):
        for each in found:
            _inside(each, key, into)
    if not isinstance(found, Mapping):
        return
    if _is_labels(key, found):
        _labels(found, into)
        return
    if "operator" in found and isinstance(found.get("key"), str):
        values = found.get("values") or []
        for value in values or [""]:
            _labels({found["key"]: value}, into)
    if key == "targetRef" and isinstance(found.get("name"), str):
        into["pod" if found.get("kind") == "Pod" else "object"].add(found["name"])
    if key in ("containers", "ports") and isinstance(found.get("name"), str):
        into["port" if key == "ports" else "object"].add(found["name"])
    if found.get("type") in ("Hostname", "InternalDNS", "ExternalDNS"):
        into["host"].add(str(found.get("address") or ""))
    for inner, value in found.items():
        if inner in _SELECTORS and isinstance(value, str):
            _selector(value, into)
        elif inner in _NAMES and isinstance(value, str):
            into[_NAMES[inner]].add(value)
        else:
            _inside(value, inner, into)


def _is_labels(key: str, found: Mapping[str, Any]) -> bool:
    return key in _LABELS and all(isinstance(value, str) for value in found.values())


def _labels(found: Mapping[str, Any], into: Known) -> None:
    for key, value in found.items():
        if not _is_public(key):
            into["label"].add(key)
        if key in PLAIN_LABELS or not isinstance(value, str):
            continue
        kind = {_HOSTNAME: "node", _SERVICE: "svc"}.get(key, "value")
        into[kind].add(value)


def _selector(text: str, into: Known) -> None:
    for key in (*_COMPARED.findall(text), *_HAS.findall(text)):
        if not _is_public(key):
            into["label"].add(key)
    into["value"] |= {one or other for one, other in _QUOTED.findall(text)}


def _is_public(key: str) -> bool:
    domain, slash, _ = key.rpartition("/")
    if not slash:
        return key in PUBLIC_KEYS
    return any(domain == own or domain.endswith(f".{own}") for own in PUBLIC_DOMAINS)


# ------------------------------------------------------------------------------ other ones


class _Rewriting:
    def __init__(self, names: Names) -> None:
        self._names = names

    def of(self, found: Any, key: str, above: str) -> Any:
        if isinstance(found, list):
            return [self.of(each, key, above) for each in found]
        if isinstance(found, Mapping):
            if _is_labels(key, found):
                return self._labels(found)
            if "operator" in found and isinstance(found.get("key"), str):
                return self._expression(found)
            if key == "annotations":
                return self._annotations(found)
            if key == "data":
                found = {k: v for k, v in found.items() if k.startswith(_DATA_KEPT)}
            return {
                self._key(inner, key): self._value(inner, value, key, found)
                for inner, value in found.items()
                if inner not in _LEFT_OUT
            }
        return self._string(found) if isinstance(found, str) else found

    def _key(self, key: str, above: str) -> str:
        """A key of an object; those of bpfLogFilters are devices."""
        return self._names.devices(key) if above == "bpfLogFilters" else key

    def _value(self, key: str, value: Any, above: str, beside: Mapping[str, Any]) -> Any:
        if not isinstance(value, str):
            return self.of(value, key, above)
        if key in _AS_IT_IS or (key == "name" and above == "env"):
            return value
        if key == "name":
            if value.startswith(_OF_NODE) and above == "metadata":
                return _OF_NODE + self._names.name(value.removeprefix(_OF_NODE), "node")
            return self._names.name(value, "port" if above == "ports" else "object")
        if key in _NAMES:
            return self._names.name(value, _NAMES[key])
        if key == "address" and beside.get("type") in ("Hostname", "InternalDNS", "ExternalDNS"):
            return self._names.name(value, "host")
        if key in ("image", "imageID"):
            return self._image(value)
        if key in _REGISTRY and value:
            return self._names.name(value, "host")
        if key == "providerID":
            scheme, _, rest = value.partition("://")
            return f"{scheme}://{self._names.digest(rest, 12)}"
        if "effect" in beside and key in ("key", "value"):
            return value if _is_public(value) else self._names.name(value, "label")
        return self._string(value)

    def _string(self, value: str) -> str:
        found = _IN_OBJECTS.sub(lambda m: _host(m[0], self._names), self._names.text(value))
        return _INSTANCE.sub(lambda m: "i-" + self._names.digest(m[0], len(m[0]) - 2), found)

    def _labels(self, found: Mapping[str, Any]) -> dict[str, Any]:
        result = {}
        for key, value in found.items():
            own = key if _is_public(key) else self._names.name(key, "label")
            plain = key in PLAIN_LABELS or not isinstance(value, str)
            result[own] = value if plain else self._names.name(value, "value")
        return result

    def _expression(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Of a selector: a label's key, and values that it may have."""
        (key,) = self._labels({found["key"]: ""})
        plain = found["key"] in PLAIN_LABELS
        values = [
            value if plain else self._names.name(str(value), "value")
            for value in found.get("values") or []
        ]
        return {**found, "key": key, **({"values": values} if "values" in found else {})}

    def _annotations(self, found: Mapping[str, Any]) -> dict[str, str]:
        return {
            key: self._string(str(value))
            for key, value in found.items()
            if key.startswith(_OF_LAB) or _ADDRESS_ANNOTATION.fullmatch(key)
        }

    def _image(self, value: str) -> str:
        path, _, last = value.partition("@")[0].rpartition("/")
        repository, colon, tag = last.partition(":")
        if repository not in IMAGES:
            return f"image-{self._names.digest(value, 8)}"
        public = not path or path in _PUBLIC_PATHS
        where = path if public else self._names.name(path, "host")
        return f"{where}{'/' if path else ''}{repository}{colon}{tag}"


def _host(text: str, names: Names) -> str:
    if _OURS.search(text.lower()) or text.lower() in PLAIN_VALUES:
        return text
    return f"host-{names.digest(text.lower(), 6)}.example"
