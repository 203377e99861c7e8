"""Evidence under other names and addresses, alike in all of it: to show to others. Pure.

The secret by which they are chosen is drawn anew and kept nowhere, so that nobody can reckon back.
``docs/bundle.md`` says what is replaced, what stays, and what to look at before it is sent.
"""

from __future__ import annotations

import json
import secrets
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ebpfperf.evidence import API, Evidence, Item
from ebpfperf.evidence_sources import MAPS
from ebpfperf.pseudonyms import maps, objects
from ebpfperf.pseudonyms.addresses import Addresses, stays
from ebpfperf.pseudonyms.names import Names, addresses_in

SECRET_BYTES = 32
_TRIES, _TRIED_ON = 20, 2000
_FREE_TEXT = ("ifalias",)
"""Of what programs print: what people wrote on a device."""


def pseudonymous(
    evidence: Evidence, *, secret: bytes | None = None
) -> tuple[Evidence, Mapping[str, str]]:
    """The evidence with pseudonyms, and true name or address → pseudonym.

    Parameters
    ----------
    secret
        For tests; None: a random one.
    """
    known = _known(evidence)
    told = addresses_in(text for parsed in _parsed(evidence) for text in objects.strings(parsed))
    addresses = _drawn(told, secret)
    names = Names(
        addresses.secret,
        addresses,
        known,
        prefixes=_prefixes(evidence),
        known_addresses=told,
    )
    writer = _Writer(names, addresses)
    items = [writer.item(item) for item in evidence]
    found = Evidence.of(
        items,
        nodes=[names.name(each, "node") for each in evidence.nodes],
        release=evidence.release,
        taken_utc=evidence.taken_utc,
        seconds=evidence.seconds,
        lost={names.name(one, "node"): writer.text(why) for one, why in evidence.lost.items()},
        pseudonyms=True,
    )
    return found, {**names.given(), **addresses.given()}


class _Writer:
    """Items with pseudonyms, each by what it holds."""

    def __init__(self, names: Names, addresses: Addresses) -> None:
        self._names, self._addresses = names, addresses

    def item(self, item: Item) -> Item:
        """The item; one that cannot be read as what it should be has its reason instead."""
        error = self.text(item.error)
        try:
            content = self._content(item)
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as reason:
            content, error = b"", f"left out, for it could not be read ({type(reason).__name__})"
        return replace(
            item,
            node=self._names.name(item.node, "node") if item.node else API,
            asked=self.text(item.asked),
            content=content,
            error=error,
        )

    def text(self, text: str) -> str:
        """Text, and of lines that are JSON their strings."""
        return "".join(self._line(line) for line in text.splitlines(keepends=True))

    def _content(self, item: Item) -> bytes:
        if not item.content:
            return b""
        if item.source == MAPS:
            return maps.rewritten(item.content, self._addresses, self._names.text)
        if item.node == API:
            found = objects.rewritten(json.loads(item.content), self._names)
            return json.dumps(found, separators=(",", ":")).encode()
        text = item.content.decode("utf-8", "surrogateescape")
        return self.text(text).encode("utf-8", "surrogateescape")

    def _line(self, line: str) -> str:
        if line[:1] in ("{", "["):
            try:
                found = json.loads(line)
            except ValueError:
                pass
            else:
                end = "\n" if line.endswith("\n") else ""
                return json.dumps(self._printed(found), separators=(",", ":")) + end
        return objects.hosts_hidden(self._names.text(line), self._names)

    def _printed(self, found: Any) -> Any:
        """JSON that a program printed; its keys may be devices and addresses, but no names."""
        if isinstance(found, dict):
            return {
                self._names.devices(key): self._printed(each)
                for key, each in found.items()
                if key not in _FREE_TEXT
            }
        if isinstance(found, list):
            return [self._printed(each) for each in found]
        return self._names.text(found) if isinstance(found, str) else found


def _drawn(known: Iterable[str], secret: bytes | None) -> Addresses:
    """Addresses by a secret that gives few of the cluster's own: none, where one is found."""
    if secret is not None:
        return Addresses(secret)
    own = [each for each in known if not stays(each)][:_TRIED_ON]
    best = Addresses(secrets.token_bytes(SECRET_BYTES))
    fewest = len(own) + 1
    for _ in range(_TRIES):
        addresses = Addresses(secrets.token_bytes(SECRET_BYTES))
        found = len({addresses.text(each) for each in own}.intersection(own))
        if found < fewest:
            best, fewest = addresses, found
        if not found:
            break
    # What was only tried is no pseudonym of the evidence.
    return Addresses(best.secret)


def _parsed(evidence: Evidence) -> Iterator[Any]:
    for item in evidence:
        if item.node == API and item.content:
            try:
                yield json.loads(item.content)
            except ValueError:
                continue


def _known(evidence: Evidence) -> Mapping[str, Iterable[str]]:
    found: objects.Known = defaultdict(set)
    for parsed in _parsed(evidence):
        objects.known(parsed, found)
    found["node"] |= {*evidence.nodes, *evidence.lost}
    # Machines say their names without the domain.
    found["host"] |= {name.partition(".")[0] for name in found["node"] if "." in name}
    return found


def _prefixes(evidence: Evidence) -> tuple[str, ...]:
    """How pods' devices are called here."""
    item = evidence.item("felixconfigurations")
    try:
        specs = [each.get("spec") or {} for each in json.loads(item.content)] if item else []
        given = [str(spec.get("interfacePrefix") or "") for spec in specs]
    except (ValueError, AttributeError):
        given = []
    return tuple(word.strip() for text in given for word in text.split(",") if word.strip())
