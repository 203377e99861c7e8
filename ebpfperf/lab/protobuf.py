"""The two protobuf bodies kubectl sends on its own account, read into plain objects. Pure.

``kubectl create namespace`` and ``create serviceaccount`` (1.32) send protobuf without asking;
everything that starts from a manifest or a patch is JSON. Source: the field numbers of
``k8s.io/apimachinery`` runtime.Unknown and meta/v1 ObjectMeta.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ebpfperf.lab.status import BadRequest, UnsupportedMediaType

MEDIA = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_KINDS = ("Namespace", "ServiceAccount")


def read_object(body: bytes) -> dict[str, Any]:
    """The object's apiVersion, kind, and of its metadata name, labels and annotations.

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
        metadata = dict(_fields(unknown[2])).get(1, b"")
        return {
            "apiVersion": types[1].decode(),
            "kind": kind,
            "metadata": _metadata(metadata),
        }
    except (ValueError, KeyError, IndexError) as error:
        raise BadRequest(f"the body is no Kubernetes protobuf object: {error}") from error


def _metadata(message: bytes) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    for number, value in _fields(message):
        name = {1: "name", 2: "generateName", 3: "namespace"}.get(number)
        if name and value:
            meta[name] = value.decode()
        elif number in (11, 12):
            entry = dict(_fields(value))
            entries = meta.setdefault("labels" if number == 11 else "annotations", {})
            entries[entry[1].decode()] = entry.get(2, b"").decode()
    return meta


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(field number, value) of the length-delimited fields; numbers and fixed ones are skipped."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        match tag & 7:
            case 0:
                _, place = _varint(message, place)
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
