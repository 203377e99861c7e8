"""iperf3's output as one document: JSON of every release, repeated keys kept, or why there is none.

The common case is one call of orjson. A slower loader that sees every pair of keys takes over where
something may be repeated (``--bidir`` of 3.7 to 3.10.1 prints ``sum``, ``sum_sent`` and
``sum_received`` twice, and an ordinary loader keeps the second direction alone), where old releases
printed ``-nan`` (esnet/iperf issue 613), where bytes are no UTF-8 (shells on Windows redirect to
UTF-16), and where other text stands around the document.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ebpfperf.loads.reasons import Reason

REVERSE = "_bidir_reverse"
"""Suffix of the second direction's sums: as 3.11 and later print it, and as it is read here."""

_KEY = b'":'  # what ends a key; within text it stands in both alike
_REPEATED = ("sum", "sum_sent", "sum_received")
# Printed once a stream, with whatever each socket got; nothing is read from them.
_HARMLESS = frozenset({"sock_bufsize", "sndbuf_actual", "rcvbuf_actual"})
_HARMLESS_KEYS = tuple(f'"{key}":'.encode() for key in sorted(_HARMLESS))
_NO_NUMBER = re.compile(r"(?<=[:\[,\s])[-+]?(?:nan|inf(?:inity)?)(?=\s*[,}\]])", re.IGNORECASE)
# Enough of a beginning to know that what stops was a document of iperf3.
_BEGINNINGS = ('{"start"', '{"event"')
# What begins one more document, wherever on a line.
_ANOTHER = re.compile(r'^\{|\{\s*"(?:start|event)"', re.MULTILINE)

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Printed:
    """What was printed: a document, or the reason for none.

    Attributes
    ----------
    beside
        Text before and after the document that is none: usually what went to standard error.
    conflict
        A key that stands twice in one object with two values, where no release repeats it.
    """

    document: Document | None
    problem: Reason | None = None
    beside: str = ""
    conflict: str = ""


def load(data: bytes) -> Printed:
    """The document in ``data``, which is not empty."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return _carefully(data)
    if type(document) is not dict:
        return Printed(None, Reason.NOT_JSON)
    if "event" in document or _repeats(data, document):
        return _carefully(data)
    return Printed(document)


def _repeats(data: bytes, document: Document) -> bool:
    """Whether more keys stand in ``data`` than in ``document``, or it is of an unusual shape."""
    try:
        more = data.count(_KEY) - _keys(document)
    except (AttributeError, KeyError, TypeError):
        return True
    if more > 0:
        head = data[: data.find(b'"intervals"')]
        more -= sum([max(0, head.count(key) - 1) for key in _HARMLESS_KEYS])
    return more != 0


def _keys(document: Document) -> int:
    """How many keys it has if all its intervals are alike, as iperf3 prints them."""
    intervals, found = document.get("intervals"), len(document)
    if intervals:
        first = intervals[0].values()
        parts = [len(part) if type(part) is dict else sum(map(len, part)) for part in first]
        found += len(intervals) * (len(first) + sum(parts))
    rest = [value for key, value in document.items() if key != "intervals"]
    return found + orjson.dumps(rest).count(_KEY)


def _carefully(data: bytes) -> Printed:
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = data.decode("utf-16" if wide else "utf-8", "replace").strip().lstrip("\ufeff")
    before, text = _from_brace(text)
    if not text:
        return Printed(None, Reason.NOT_JSON, before)
    pairs = _Pairs()
    try:
        first, after = _first(text, pairs)
    except (ValueError, RecursionError):
        started = '"start"' in text or _begins(text)
        return Printed(None, Reason.TRUNCATED if started else Reason.NOT_JSON, before)
    if _ANOTHER.search(before):
        return Printed(None, Reason.CONCATENATED)
    if "event" in first:
        return _from_events(text, before)
    if _ANOTHER.search(after):
        return Printed(None, Reason.CONCATENATED)
    return Printed(first, None, f"{before}\n{after}".strip(), pairs.conflict)


def _first(text: str, pairs: _Pairs) -> tuple[Document, str]:
    """The object that ``text`` begins with, and the text after it; ValueError if there is none."""
    decoder = json.JSONDecoder(object_pairs_hook=pairs.keep)
    try:
        found, end = decoder.raw_decode(text)
    except ValueError:
        text = _NO_NUMBER.sub("null", text)
        pairs.conflict = ""
        found, end = decoder.raw_decode(text)
    return found, text[end:].strip()


def _from_brace(text: str) -> tuple[str, str]:
    """What stands before the first line that begins with a brace, and the text from there on."""
    found = re.search(r"^\{", text, re.MULTILINE)
    return (text, "") if found is None else (text[: found.start()].strip(), text[found.start() :])


def _begins(text: str) -> bool:
    compact = re.sub(r"\s+", "", text[:200])
    return any(beginning.startswith(compact[: len(beginning)]) for beginning in _BEGINNINGS)


def _from_events(text: str, before: str) -> Printed:
    """A document put together from ``--json-stream`` lines (3.17 and later)."""
    document: Document = {"intervals": []}
    beside, lines = [before], text.split("\n")
    for number, line in enumerate(lines):
        if line.strip() == "{" and "end" in document:
            return _with_whole(document, "\n".join(lines[number:]), beside)
        if not line.lstrip().startswith("{"):
            if '"event"' in line or line.rstrip().endswith("}"):
                return Printed(None, Reason.TRUNCATED, before)
            beside.append(line.strip())
            continue
        try:
            event = _event(line)
        except (ValueError, RecursionError):
            return Printed(None, Reason.TRUNCATED, before)
        if type(event) is not dict or type(event.get("event")) is not str:
            another = type(event) is dict and "start" in event
            return Printed(None, Reason.CONCATENATED if another else Reason.NOT_JSON, before)
        name, data = event["event"], event.get("data")
        if name == "interval":
            document["intervals"].append(data)
        elif name in document:
            return Printed(None, Reason.CONCATENATED, before)
        else:
            document[name] = "" if name == "error" and data is None else data
    return Printed(document, None, "\n".join(filter(None, beside)))


def _with_whole(document: Document, text: str, beside: list[str]) -> Printed:
    """The events' document, if the one that ``text`` begins with is the same and the last.

    ``--json-stream-full-output`` (3.20 and later) appends the whole document, pretty-printed.
    """
    pairs = _Pairs()
    try:
        whole, after = _first(text, pairs)
    except (ValueError, RecursionError):
        return Printed(None, Reason.TRUNCATED, beside[0])
    if _ANOTHER.search(after) or whole.get("start") != document.get("start"):
        return Printed(None, Reason.CONCATENATED)
    differs = next((key for key in ("intervals", "end") if whole.get(key) != document[key]), "")
    said = "\n".join(filter(None, [*beside, after]))
    return Printed(whole | document, None, said, pairs.conflict or differs)


def _event(line: str) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(_NO_NUMBER.sub("null", line))


class _Pairs:
    """Makes objects of pairs: a repeated sum is the second direction's, by its later name."""

    def __init__(self) -> None:
        self.conflict = ""

    def keep(self, pairs: Sequence[tuple[str, Any]]) -> Mapping[str, Any]:
        found: Document = {}
        for key, value in pairs:
            if key not in found:
                found[key] = value
            elif key in _REPEATED and key + REVERSE not in found:
                found[key + REVERSE] = value
            elif key not in _HARMLESS and found[key] != value:
                self.conflict = self.conflict or key
        return found
