"""iperf3's output as one document: JSON of every release, repeated keys kept, or why there is none.

The common case is one call of orjson. A slower loader that sees every pair of keys takes over where
something may be repeated (``--bidir`` of 3.7 to 3.10.1 prints ``sum``, ``sum_sent`` and
``sum_received`` twice, and an ordinary loader keeps the second direction alone), where old releases
printed ``-nan`` (esnet/iperf issue 613), where bytes are no UTF-8, and where other text stands
around the document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ebpfperf.loads.reasons import Reason

REVERSE = "_bidir_reverse"
"""Suffix of the second direction's sums: as 3.11 and later print it, and as it is read here."""

_REPEATED = ("sum", "sum_sent", "sum_received")
# Printed once a stream, with whatever each socket got; nothing is read from them.
_HARMLESS = frozenset({"sock_bufsize", "sndbuf_actual", "rcvbuf_actual"})
_NO_NUMBER = re.compile(r"(?<=[:\[,\s])[-+]?(?:nan|inf(?:inity)?)(?=\s*[,}\]])", re.IGNORECASE)
# Enough of a beginning to know that what stops was a document of iperf3.
_BEGINNINGS = ('{"start"', '{"event"')

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
    """Whether sums stand in ``data`` more often than in ``document``, or some other number odd."""
    sums = _sums(document)
    theirs = document.get("server_output_json")
    if type(theirs) is dict:
        sums += _sums(theirs)
    return data.count(b'"sum') != sums


def _sums(document: Document) -> int:
    """How many keys of it begin with ``sum``."""
    intervals, end = document.get("intervals"), document.get("end")
    found = 0
    if type(end) is dict:
        found = sum([key.startswith("sum") for key in end])
    if type(intervals) is list and intervals and type(intervals[0]) is dict:
        found += len(intervals) * sum([key.startswith("sum") for key in intervals[0]])
    return found


def _carefully(data: bytes) -> Printed:
    text = data.decode("utf-8", "replace").strip().lstrip("\ufeff")
    before, text = _from_brace(text)
    if not text:
        return Printed(None, Reason.NOT_JSON, before)
    pairs = _Pairs()
    decoder = json.JSONDecoder(object_pairs_hook=pairs.keep)
    try:
        first, end = decoder.raw_decode(text)
    except (ValueError, RecursionError):
        text = _NO_NUMBER.sub("null", text)
        pairs.conflict = ""
        try:
            first, end = decoder.raw_decode(text)
        except (ValueError, RecursionError):
            started = '"start"' in text or _begins(text)
            return Printed(None, Reason.TRUNCATED if started else Reason.NOT_JSON, before)
    if "event" in first:
        return _from_events(text, before, decoder)
    after = text[end:].strip()
    if after.startswith("{"):
        return Printed(None, Reason.CONCATENATED)
    return Printed(first, None, f"{before}\n{after}".strip(), pairs.conflict)


def _from_brace(text: str) -> tuple[str, str]:
    """What stands before the first line that begins with a brace, and the text from there on."""
    found = re.search(r"^\{", text, re.MULTILINE)
    return (text, "") if found is None else (text[: found.start()].strip(), text[found.start() :])


def _begins(text: str) -> bool:
    compact = re.sub(r"\s+", "", text[:200])
    return any(beginning.startswith(compact[: len(beginning)]) for beginning in _BEGINNINGS)


def _from_events(text: str, before: str, decoder: json.JSONDecoder) -> Printed:
    """A document put together from ``--json-stream`` lines (3.17 and later)."""
    document: Document = {"intervals": []}
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            event = _event(line, decoder)
        except (ValueError, RecursionError):
            # --json-stream-full-output (3.20) appends the whole document, pretty-printed.
            if line.strip() == "{" and "end" in document:
                break
            return Printed(None, Reason.TRUNCATED, before)
        if type(event) is not dict or type(event.get("event")) is not str:
            return Printed(None, Reason.NOT_JSON, before)
        name = event["event"]
        if name == "interval":
            document["intervals"].append(event.get("data"))
        elif name in document:
            return Printed(None, Reason.CONCATENATED, before)
        else:
            document[name] = event.get("data")
    return Printed(document, None, before)


def _event(line: str, decoder: json.JSONDecoder) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return decoder.decode(_NO_NUMBER.sub("null", line))


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
