"""Other addresses in place of true ones: what shared a prefix shares one of the same length. Pure.

A bit is flipped or not by a keyed hash of the bits before it, so that networks, pools and subnets
stay what they are to each other (Xu, Fan, Ammar, Moon: Prefix-preserving IP address anonymization,
2002). What is the same everywhere stays, and of private networks their own first bits.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# Kept whole: unspecified, loopback, link-local (Calico's 169.254.1.1 among them), multicast, and
# what is a netmask or the broadcast address.
KEPT = {
    4: ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
    6: ("::/8", "ff00::/8"),
}
# Only their own bits are kept: a private address stays a private one.
FIRST_BITS_KEPT = {
    4: ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15",
        "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),
    6: ("fe80::/64", "fc00::/7", "2000::/3", "2001:db8::/32"),
}  # fmt: skip
WIDTH = {4: 32, 6: 128}
# IPv4 addresses within IPv6 ones: RFC 4291, RFC 6052.
_MAPPED, _NAT64 = ipaddress.ip_network("::ffff:0:0/96"), ipaddress.ip_network("64:ff9b::/96")
# libcalico-go: the MAC address and link-local address of the host's end of every pod's veth.
CALICO_MAC = "ee:ee:ee:ee:ee:ee"
CALICO_LINK_LOCAL = int(ipaddress.IPv6Address("fe80::ecee:eeff:feee:eeee"))
_KEPT_MACS = {CALICO_MAC, "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"}
_LINK_LOCAL = 0xFE80 << 48


def stays(text: str) -> bool:
    """Whether an address or network is the same under every secret."""
    network = ipaddress.ip_network(text, strict=False)
    family = network.version
    within = any(_holds(ipaddress.ip_network(each), network) for each in KEPT[family])
    above = (*KEPT[family], *FIRST_BITS_KEPT[family])
    return within or any(_holds(network, ipaddress.ip_network(each)) for each in above)


class Addresses:
    """Pseudonyms of addresses by one secret."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self._found: dict[int, dict[int, int]] = {4: {}, 6: {}}
        self._flips: dict[tuple[int, int, int], bytes] = {}
        self._networks: dict[tuple[int, int, int], int] = {}
        self._macs: dict[str, str] = {}
        self._kept = {family: _bits(family, KEPT[family]) for family in WIDTH}
        first = {f: _bits(f, (*KEPT[f], *FIRST_BITS_KEPT[f])) for f in WIDTH}
        # Every place on the way to a kept network: the bit that comes next is not flipped.
        self._ways = {
            family: {
                (length, value >> (size - length))
                for size, value in first[family]
                for length in range(size)
            }
            for family in WIDTH
        }

    def given(self) -> Mapping[str, str]:
        """True address, network or MAC → its pseudonym, of all that were asked for."""
        pairs = {
            _spelled(family, one): _spelled(family, other)
            for family in WIDTH
            for one, other in self._found[family].items()
        }
        pairs |= {
            f"{_spelled(family, one)}/{bits}": f"{_spelled(family, other)}/{bits}"
            for (family, one, bits), other in self._networks.items()
        }
        return {one: other for one, other in (pairs | self._macs).items() if one != other}

    def number(self, family: int, number: int) -> int:
        """The pseudonym of an address, as numbers."""
        found = self._found[family].get(number)
        if found is None:
            found = self._found[family][number] = self._number(family, number)
        return found

    def network(self, family: int, number: int, bits: int) -> int:
        """The pseudonym of a network, its host bits zero."""
        host = WIDTH[family] - bits
        if not host:
            return self.number(family, number)
        place = (family, number >> host << host, bits)
        found = self._networks.get(place)
        if found is None:
            found = self._networks[place] = self._number(family, place[1]) >> host << host
        return found

    def text(self, text: str) -> str:
        """The pseudonym of an address or network in text; ValueError for text that is none.

        ``10.65.0.0/26`` is a network, ``10.65.0.7/26`` an address with the length of its network.
        """
        spelled, slash, bits = text.partition("/")
        address = ipaddress.ip_address(spelled)
        family, number, width = address.version, int(address), address.max_prefixlen
        length = int(bits) if slash else width
        if length > width:
            raise ValueError(f"{text!r} has a prefix of impossible length")
        host = width - length
        whole = number >> host << host == number
        mapped = self.network(family, number, length) if whole else self.number(family, number)
        return f"{type(address)(mapped)}{slash}{bits}"

    def mac(self, text: str) -> str:
        """The pseudonym of a MAC address, locally administered and multicast as it was."""
        given = text.lower()
        if given in _KEPT_MACS or given.startswith(("01:00:5e", "33:33")):
            return given
        if given not in self._macs:
            octets = bytearray(self._hash(b"mac", given.encode())[:6])
            octets[0] = octets[0] & 0xFC | int(given[:2], 16) & 0x03
            self._macs[given] = octets.hex(":")
        return self._macs[given]

    # ----------------------------------------------------------------- inside

    def _number(self, family: int, number: int) -> int:
        width = WIDTH[family]
        if family == 6 and (inside := self._within(number)) is not None:
            return inside
        if any(number >> (width - size) == value for size, value in self._kept[family]):
            return number
        result = 0
        for at in range(width):
            before = number >> (width - at)
            bit = number >> (width - at - 1) & 1
            kept = (at, before) in self._ways[family]
            result = result << 1 | (bit if kept else bit ^ self._flip(family, at, before))
        return result

    def _within(self, number: int) -> int | None:
        """Of an IPv6 address that holds another one, or a MAC address."""
        if number == CALICO_LINK_LOCAL:
            return number
        for outer in (_MAPPED, _NAT64):
            if number >> 32 == int(outer.network_address) >> 32:
                return number >> 32 << 32 | self.number(4, number & 0xFFFFFFFF)
        if number >> 64 == _LINK_LOCAL and number >> 24 & 0xFFFF == 0xFFFE:
            own = (number & (1 << 64) - 1).to_bytes(8, "big")
            mac = bytes([own[0] ^ 0x02]) + own[1:3] + own[5:]
            other = bytes.fromhex(self.mac(mac.hex(":")).replace(":", ""))
            there = bytes([other[0] ^ 0x02]) + other[1:3] + b"\xff\xfe" + other[3:]
            return _LINK_LOCAL << 64 | int.from_bytes(there, "big")
        return None

    def _flip(self, family: int, at: int, before: int) -> int:
        """The bit for one place: of 256 that one hash gives for the octet that it is in."""
        octet, place = divmod(at, 8)
        node = 1 << place | before & (1 << place) - 1
        key = (family, octet, before >> place)
        flips = self._flips.get(key)
        if flips is None:
            told = f"{family} {octet} {before >> place:x}".encode()
            flips = self._flips[key] = self._hash(b"bits", told)
        return flips[node >> 3] >> (node & 7) & 1

    def _hash(self, purpose: bytes, told: bytes) -> bytes:
        return hashlib.blake2b(told, key=self.secret, person=purpose, digest_size=32).digest()


def _holds(one: Network, other: Network) -> bool:
    if one.prefixlen > other.prefixlen:
        return False
    host = one.max_prefixlen - one.prefixlen
    return int(one.network_address) >> host == int(other.network_address) >> host


def _spelled(family: int, number: int) -> str:
    kind = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
    return str(kind(number))


def _bits(family: int, networks: Iterable[str]) -> list[tuple[int, int]]:
    """(Length, first bits) of networks."""
    found = []
    for text in networks:
        network: Network = ipaddress.ip_network(text)
        assert network.version == family, text
        host = WIDTH[family] - network.prefixlen
        found.append((network.prefixlen, int(network.network_address) >> host))
    return found
