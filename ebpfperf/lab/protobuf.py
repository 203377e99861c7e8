"""The protobuf bodies kubectl sends on its own account, read into plain objects. Pure.

``kubectl create`` with ``namespace``, ``serviceaccount`` or ``service`` (1.32) sends protobuf
without asking; everything that starts from a manifest or a patch is JSON. Source: the field numbers
of ``k8s.io/apimachinery`` runtime.Unknown and meta/v1 ObjectMeta, ``k8s.io/api`` core/v1
ServiceSpec.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ebpfperf.lab.status import BadRequest, UnsupportedMediaType

MEDIA = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_KINDS = ("Namespace", "Service", "ServiceAccount")


def read_object(body: bytes) -> dict[str, Any]:
    """The object's apiVersion, kind, name, labels and annotations; of a Service what kubectl sets.

    Raises
    ------
    BadRequest
        The body is no such message.
    UnsupportedMediaType
        It is another kind of object: that must come as JSON.
    """
    try:
        if not body.startswith(_MAGIC):
            raise ValueError("no k8s prefix")
        unknown = dict(_fields(body[len(_MAGIC) :]))
        types = dict(_fields(unknown[1]))
        kind = types[2].decode()
        if kind not in _KINDS:
            raise UnsupportedMediaType(f"a {kind} is not read as protobuf: send application/json")
        parts = dict(_fields(unknown[2]))
        obj: dict[str, Any] = {
            "apiVersion": types[1].decode(),
            "kind": kind,
            "metadata": _metadata(parts.get(1, b"")),
        }
        if kind == "Service":
            obj["spec"] = _service_spec(parts.get(2, b""))
        return obj
    except (ValueError, KeyError, IndexError) as error:
        raise BadRequest(f"the body is no Kubernetes protobuf object: {error}") from error


def _metadata(message: bytes) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    for number, value in _fields(message):
        name = {1: "name", 2: "generateName", 3: "namespace"}.get(number)
        if name and value:
            meta[name] = value.decode()
        elif number in (11, 12):
            meta.setdefault("labels" if number == 11 else "annotations", {}).update(_entry(value))
    return meta


def _service_spec(message: bytes) -> dict[str, Any]:
    spec: dict[str, Any] = {"ports": []}
    for number, value in _fields(message):
        name = {3: "clusterIP", 4: "type", 10: "externalName"}.get(number)
        if name and value:
            spec[name] = value.decode()
        elif number == 1:
            spec["ports"].append(_service_port(value))
        elif number == 2:
            spec.setdefault("selector", {}).update(_entry(value))
    return spec


def _service_port(message: bytes) -> dict[str, Any]:
    words, numbers = dict(_fields(message)), dict(_numbers(message))
    port: dict[str, Any] = {"port": numbers.get(3, 0)}
    for number, name in ((1, "name"), (2, "protocol")):
        if words.get(number):
            port[name] = words[number].decode()
    if numbers.get(5):
        port["nodePort"] = numbers[5]
    # An IntOrString: type 1 is a string.
    target = words.get(4, b"")
    kind = dict(_numbers(target))
    port["targetPort"] = dict(_fields(target))[3].decode() if kind.get(1) else kind.get(2, 0)
    return port


def _entry(message: bytes) -> dict[str, str]:
    """One entry of a map of strings."""
    entry = dict(_fields(message))
    return {entry[1].decode(): entry.get(2, b"").decode()}


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(field number, value) of the length-delimited fields."""
    return ((number, value) for number, value in _all(message) if isinstance(value, bytes))


def _numbers(message: bytes) -> Iterator[tuple[int, int]]:
    """(field number, value) of the numbers."""
    return ((number, value) for number, value in _all(message) if isinstance(value, int))


def _all(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(field number, value) of every field; those of fixed width are skipped."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        match tag & 7:
            case 0:
                value, place = _varint(message, place)
                yield tag >> 3, value
            case 1:
                place += 8
            case 2:
                length, place = _varint(message, place)
                if place + length > len(message):
                    raise ValueError("cut short")
                yield tag >> 3, message[place : place + length]
                place += length
            case 5:
                place += 4
            case wire:
                raise ValueError(f"wire type {wire}")


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number is too long")
