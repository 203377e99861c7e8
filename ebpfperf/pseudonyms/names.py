"""Other names in place of true ones, the same everywhere; and text with all of it replaced. Pure.

Which names there are is told beforehand (``known``). Text is then read for these, for addresses,
MAC addresses, UUIDs and devices of pods, wherever they stand.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from hashlib import blake2b, sha256
from itertools import count

from ebpfperf.pseudonyms.addresses import Addresses
from ebpfperf.pseudonyms.words import ORDINARY, PLAIN_VALUES, WELL_KNOWN

PREFIXES = ("node", "ns", "svc", "pod", "pool", "value", "label", "port", "image", "host", "object")
_DIGITS = 9
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_UUID = re.compile(
    r"(?<![0-9A-Za-z])[0-9a-f]{8}([-_])[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}"
    r"(?![0-9A-Za-z])|(?<=pod)[0-9a-f]{8}([-_])(?:[0-9a-f]{4}\2){3}[0-9a-f]{12}",
    re.I,
)
_LONG_HEX = re.compile(r"(?<![0-9A-Za-z])(?:[0-9a-f]{64}|[0-9a-f]{32})(?![0-9A-Za-z])")
_MAC = re.compile(r"(?<![\w:])(?:[0-9a-f]{2}:){5}[0-9a-f]{2}(?![\w:])", re.I)
# With hyphens; and within a NIC's name, as udev gives it where nothing else is known: enx0a1b….
_MAC_HYPHENS = re.compile(r"(?<![\w-])(?:[0-9a-f]{2}-){5}[0-9a-f]{2}(?![\w-])", re.I)
_MAC_IN_NAME = re.compile(r"(?<![0-9A-Za-z])(en|et|ib|sl|wl|ww)x([0-9a-f]{12})(?![0-9A-Za-z])")
_IPV6 = re.compile(
    # After a word and a colon, too, whose last letters may be hexadecimal ones: node:2001:db8::7.
    r"(?:(?<![0-9a-z:.])|(?<=[g-z]:)|(?<=[g-z][a-f]:)|(?<=[g-z][a-f]{2}:)|(?<=[g-z][a-f]{3}:)|"
    r"(?<=[g-z][a-f]{4}:))"
    r"((?:[0-9a-f]{0,4}:){2,7}(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]{0,4}))(/\d{1,3})?"
    r"(?![0-9a-z:])",
    re.I,
)
_IPV4 = re.compile(r"(?<![\d.])(\d{1,3}(?:\.\d{1,3}){3})(?:(/\d{1,2})(?!\w))?(?!\d)")
_GLUED_BEFORE, _GLUED_AFTER = re.compile(r"[A-Za-z]$"), re.compile(r"[A-Za-z_]")
_IPV4_INSIDE = re.compile(r"(?<!\d)(\d{1,3})([-_])(\d{1,3})\2(\d{1,3})\2(\d{1,3})(?!\d)")
# What says that numbers with points are a version: version=3.26.1.2, kernel 4.18.0-193.28.1.2.
_VERSION_BEFORE = re.compile(r"(?:version|release|revision|build|kernel)[\"'\s:=]*v?$|\d-$", re.I)
_RANGE_BEFORE = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}-$")
_MORE = re.compile(r"\.\w")
_LOOK_BACK = 24
_WORD = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?")
_PIECE = re.compile(r"[-._]")
# Calico's names of endpoints hold a node's and a pod's, with every hyphen of these doubled.
_SINGLE_HYPHEN = re.compile(r"(?<!-)-(?!-)")
_SMALLEST_BITS, _LARGEST_BITS = 8, 30
_ESCAPED_SLASH = re.compile(r"(%2f)", re.I)
# Names in Felix's logs of what may be gone from the API: WorkloadId:"ns/pod", kns.ns, ksa.ns.name.
_WORKLOAD = re.compile(r"(workload_?id\W{1,4})([\w.-]+)(/|%2F|%2f)([\w.-]+)", re.I)
_PROFILE = re.compile(r"\b(kns\.|ksa\.|knp\.default\.)([\w-]+)(?:([./])([\w.-]+))?")


class Names:
    """Pseudonyms of names by one secret.

    Parameters
    ----------
    names
        Kind (of ``PREFIXES``) → names of it. A name of several kinds gets that of the first.
    prefixes
        How names of pods' devices begin: ``cali``.
    """

    def __init__(
        self,
        secret: bytes,
        addresses: Addresses,
        names: Mapping[str, Iterable[str]],
        *,
        prefixes: Iterable[str] = ("cali",),
        known_addresses: Iterable[str] = (),
    ) -> None:
        self._secret, self._addresses = secret, addresses
        self._given: dict[str, str] = {}
        self._known_addresses = frozenset(known_addresses)
        networks = (ipaddress.ip_network(each) for each in self._known_addresses if "/" in each)
        self._networks = [
            each for each in networks if _SMALLEST_BITS <= each.prefixlen <= _LARGEST_BITS
        ]
        told = {kind: sorted(set(names.get(kind, ())), key=self._order) for kind in PREFIXES}
        taken = {name for kind in told.values() for name in kind}
        for kind, found in told.items():
            numbers = _numbers(kind, taken)
            for name in found:
                if name and name not in self._given and not is_plain(name):
                    behind = self._behind(name) if kind == "object" else ""
                    self._given[name] = self._ending(name) or behind or next(numbers)
        self._most = max((len(_PIECE.split(name)) for name in self._given), default=1)
        begin = "|".join(sorted((re.escape(each) for each in prefixes if each), key=len))
        begin = f"{begin}|" if begin else ""
        self._device = re.compile(
            rf"(?<![A-Za-z0-9])({begin}cali|veth|tap|azv|eni|gke|lxc|br-)([0-9a-f]{{6,12}})"
            r"(?![0-9A-Za-z])"
        )

    def given(self) -> Mapping[str, str]:
        """True name → its pseudonym."""
        return dict(self._given)

    def name(self, text: str, kind: str = "object") -> str:
        """The pseudonym of what is a name, whatever it looks like."""
        if is_plain(text) or not text:
            return text
        found = self._given.get(text)
        if found is None:
            if any(pattern.fullmatch(text) for pattern in (_IPV4, _IPV6, _UUID)):
                return self.devices(text)
            found = self._given[text] = self._ending(text) or f"{kind}-{self.digest(text, 8)}"
        return found

    def text(self, text: str) -> str:
        """Text with every name and address replaced."""
        found = _WORKLOAD.sub(
            lambda m: m[1] + self.name(m[2], "ns") + m[3] + self.name(m[4], "pod"),
            self.devices(text),
        )
        found = _PROFILE.sub(self._profile, found)
        # Else the 2F would be taken for the beginning of the word after it.
        parts = _ESCAPED_SLASH.split(found)
        parts[::2] = [_WORD.sub(self._word, part) for part in parts[::2]]
        return "".join(parts)

    def devices(self, text: str) -> str:
        """Text with addresses, UUIDs and pods' devices replaced, and no names."""
        found = _UUID.sub(lambda m: self._uuid(m[0]), text)
        found = _LONG_HEX.sub(lambda m: self.digest(m[0], len(m[0])), found)
        found = _MAC.sub(lambda m: self._addresses.mac(m[0]), found)
        found = _MAC_HYPHENS.sub(lambda m: self._mac(m[0].replace("-", ""), "-"), found)
        found = _MAC_IN_NAME.sub(lambda m: f"{m[1]}x{self._mac(m[2], '')}", found)
        found = _IPV6.sub(self._ipv6, found)
        found = _IPV4.sub(self._ipv4, found)
        return self._device.sub(lambda m: m[1] + self.digest(m[0], len(m[2])), found)

    # ----------------------------------------------------------------- inside

    def _order(self, name: str) -> bytes:
        return hmac.digest(self._secret, name.encode(), sha256)

    def digest(self, text: str, size: int) -> str:
        """Hexadecimal digits that stand for a text."""
        told = blake2b(text.encode(), key=self._secret, person=b"name", digest_size=64)
        return told.hexdigest()[:size]

    def _ending(self, name: str) -> str:
        """Of a pod such as calico-node-x7k2p, the pseudonym that still says what it runs."""
        pieces = name.split("-")
        for size in range(len(pieces) - 1, 0, -1):
            begin = "-".join(pieces[:size])
            if begin in WELL_KNOWN:
                rest = name[len(begin) + 1 :]
                return f"{begin}-{self._given.get(rest) or self.digest(name, 5)}"
        return ""

    def _behind(self, name: str) -> str:
        """Of a slice such as web-x7k2p, the pseudonym that still says of which service it is."""
        begin, _, _ = name.rpartition("-")
        return f"{self._given[begin]}-{self.digest(name, 5)}" if begin in self._given else ""

    def _mac(self, digits: str, between: str) -> str:
        pairs = ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))
        return self._addresses.mac(pairs).replace(":", between)

    def _profile(self, match: re.Match[str]) -> str:
        rest = f"{match[3]}{self.name(match[4])}" if match[4] else ""
        return f"{match[1]}{self.name(match[2], 'ns')}{rest}"

    def _uuid(self, text: str) -> str:
        plain = text.replace("_", "-").lower()
        # Those of EC2's machines under Xen begin so; it says whose machine it is.
        cloud = "ec2" if plain.startswith("ec2") else ""
        digits = (cloud + self.digest(plain, 32))[:32]
        parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
        return ("_" if "_" in text else "-").join(parts)

    def _ipv6(self, match: re.Match[str]) -> str:
        return self._address(match[0], match[1], match[2] or "")

    def _ipv4(self, match: re.Match[str]) -> str:
        before = match.string[max(0, match.start() - _LOOK_BACK) : match.start()]
        if _VERSION_BEFORE.search(before) and not _RANGE_BEFORE.search(before):
            return match[0]
        # Four numbers of more, unless it is an address with a name after or before it.
        more = _MORE.match(match.string, match.end()) or _GLUED_AFTER.match(
            match.string, match.end()
        )
        if (more or _GLUED_BEFORE.search(before)) and match[1] not in self._known_addresses:
            return match[0]
        return self._address(match[0], match[1], match[2] or "")

    def _address(self, whole: str, address: str, bits: str) -> str:
        try:
            return self._addresses.text(address + bits)
        except ValueError:
            pass
        try:
            return self._addresses.text(address) + bits
        except ValueError:
            return whole

    def _word(self, match: re.Match[str]) -> str:
        word = match[0]
        found = self._given.get(word)
        if found is not None:
            return found if word not in ORDINARY or _as_name(match) else word
        if not _PIECE.search(word):
            return word
        if "--" in word:
            parts = [part.replace("--", "-") for part in _SINGLE_HYPHEN.split(word)]
            if any(part in self._given for part in parts):
                new = (self._given.get(part, part) for part in parts)
                return "-".join(part.replace("-", "--") for part in new)
        word = _IPV4_INSIDE.sub(self._inside, word)
        return self._pieces(word) if word == match[0] else word

    def _inside(self, match: re.Match[str]) -> str:
        """An address within a name, as in ip-10-0-0-1.internal, where it is one of the cluster.

        Or in one of its networks: a block of a pool is called 10-244-77-0-26.
        """
        address = ".".join(match.group(1, 3, 4, 5))
        if address not in self._known_addresses and not self._within(address):
            return match[0]
        return self._addresses.text(address).replace(".", match[2])

    def _within(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._networks)

    def _pieces(self, word: str) -> str:
        """A word with names among its pieces: the longest first."""
        pieces = re.split(r"([-._])", word)
        at, result = 0, []
        while at < len(pieces):
            for size in range(min(self._most, (len(pieces) - at + 1) // 2), 0, -1):
                end = at + 2 * size - 1
                run = "".join(pieces[at:end])
                found = self._given.get(run)
                if found is not None and run not in ORDINARY and run not in WELL_KNOWN:
                    result.append(found)
                    at = end
                    break
            else:
                result.append(pieces[at])
                at += 1
        return "".join(result)


def is_plain(name: str) -> bool:
    """Whether a name is the same in every cluster, or is no name."""
    return name in WELL_KNOWN or name in PLAIN_VALUES or name.isdecimal() or len(name) < 2


def addresses_in(texts: Iterable[str]) -> frozenset[str]:
    """The IPv4 addresses and networks that stand in texts of objects."""
    found = set()
    for text in texts:
        for match in _IPV4.finditer(text):
            try:
                network = ipaddress.IPv4Network(match[0], strict=False)
                found |= {str(network), match[1]} if match[2] else {match[1]}
            except ValueError:
                continue
    return frozenset(found)


def _as_name(match: re.Match[str]) -> bool:
    """Whether what stands around an ordinary word says that it is a name: a/b, or "b"."""
    text = match.string
    before = text[match.start() - 1 : match.start()]
    after = text[match.end() : match.end() + 1]
    return "/" in (before, after) and " " not in (before, after)


def _numbers(kind: str, taken: Collection[str]) -> Iterator[str]:
    """node-a1 to node-a9, node-b1, …, node-z9, node-aa1, …: those that are nobody's name."""
    for number in count():
        row, digit = divmod(number, _DIGITS)
        letters = _LETTERS[row % len(_LETTERS)]
        while (row := row // len(_LETTERS)) > 0:
            row -= 1
            letters = _LETTERS[row % len(_LETTERS)] + letters
        found = f"{kind}-{letters}{digit + 1}"
        if found not in taken:
            yield found
