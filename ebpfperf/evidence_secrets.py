"""Evidence without passwords, tokens and keys: their values are taken out before it is kept. Pure.

What is gathered is chosen so that no secret is in it: of pods' environment only variables that
decide on something, and no Secret. Felix takes a few secrets by its environment and file, though,
and people put some where they do not belong.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ebpfperf.evidence import Evidence, Item
from ebpfperf.evidence_sources import MAPS

TAKEN_OUT = "(taken out)"
# A name such as EtcdPassword, FELIX_…_TOKEN or clientSecret; then =, : or ": and the value. Names
# that say where a secret is (…File, …Path, …Name, …Ref) are followed by other letters.
_WORD = (
    rb"(?:passw(?:or)?d|passphrase|secret|token|api[-_]?key|private[-_ ]?key|credentials?|"
    rb"secret_?access_?key|key-data|(?<![a-z])psk)"
)
_VALUE = rb"(?:\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'|[^\s,;\"'&}{\]\[]+)"
_NAMED = re.compile(
    rb"(?i)(" + _WORD + rb"[\"']?\s*[=:]\s*)(" + _VALUE + rb")",
)
# Of an object's environment: {"name": "FELIX_…PASSWORD", "value": "…"}.
_VARIABLE = re.compile(
    rb"(?i)(\"name\":\s*\"[^\"]*" + _WORD + rb"\",\s*\"value\":\s*)(\"(?:[^\"\\]|\\.)*\")"
)
# JSON within a string of JSON: \"password\":\"…\".
_ESCAPED = re.compile(rb"(?i)(" + _WORD + rb"\\+\"\s*:\s*\\+\")([^\"\\]+)")
_ARGUMENT = re.compile(rb"(?i)((?<![\w-])--?[\w-]*" + _WORD + rb"\s+)([^\s\"'-][^\s\"']*)")
_BEARER = re.compile(rb"(?i)(\b(?:bearer|basic)\s+)([\w+/=.~-]{16,})")
_IN_URL = re.compile(rb"(://(?:[^/\s:@\"]+:)?)([^/\s@\"]+)(?=@)")
# What is known by its form: a token that is signed (RFC 7519), an access key of AWS.
_BY_FORM = re.compile(rb"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
_KEY = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    rb"(?:.*?-----END [A-Z ]*PRIVATE KEY-----|(?:[A-Za-z0-9+/=\s]|\\n)*)",
    re.S,
)


def redacted(evidence: Evidence) -> Evidence:
    """The same evidence, with ``(taken out)`` where a secret stood."""
    items = {where: _item(item) for where, item in evidence.items.items()}
    return replace(evidence, items=items)


def _item(item: Item) -> Item:
    if item.source == MAPS:
        return item
    content = without(item.content)
    return item if content == item.content else replace(item, content=content)


def without(content: bytes) -> bytes:
    """The text with ``(taken out)`` where a secret stood; quotes stay."""
    found = _BY_FORM.sub(TAKEN_OUT.encode(), _KEY.sub(TAKEN_OUT.encode(), content))
    for pattern in (_VARIABLE, _NAMED, _ESCAPED, _ARGUMENT, _BEARER, _IN_URL):
        found = pattern.sub(_marked, found)
    return found


def _marked(match: re.Match[bytes]) -> bytes:
    before, value = match[1], match[2]
    if value in (b"null", b"true", b"false", b'""', b"''"):
        return match[0]
    # After a key of JSON only a number stands without quotes; another word there is no JSON.
    if before.rstrip(b" :").endswith(b'"') and value.lstrip(b"-").isdigit():
        return match[0]
    return before + _mark(value)


def _mark(value: bytes) -> bytes:
    quote = value[:1] if value[:1] in (b'"', b"'") else b""
    return quote + TAKEN_OUT.encode() + quote
