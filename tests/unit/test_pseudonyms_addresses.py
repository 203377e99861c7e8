"""Pseudonyms of addresses: prefixes kept, what is the same everywhere stays, none is told."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfperf.pseudonyms.addresses import Addresses

SECRET = b"of these tests: always the same."
V4 = st.integers(0, 2**32 - 1)
# Without what holds another address: mapped and translated IPv4, MACs in link-local ones.
V6 = st.integers(0x2000 << 112, 2**128 - 1).filter(lambda n: n >> 112 != 0xFE80)


def shared(one: int, other: int, width: int) -> int:
    """How many first bits are the same."""
    return width - (one ^ other).bit_length()


@given(one=V4, other=V4, near=st.integers(0, 31))
def test_ipv4_prefixes_are_kept_exactly(one: int, other: int, near: int) -> None:
    addresses = Addresses(SECRET)
    for second in (other, one ^ 1 << near):
        found = addresses.number(4, one), addresses.number(4, second)
        assert shared(*found, 32) == shared(one, second, 32)


@given(one=V6, other=V6, near=st.integers(0, 120))
def test_ipv6_prefixes_are_kept_exactly(one: int, other: int, near: int) -> None:
    addresses = Addresses(SECRET)
    for second in (other, one ^ 1 << near):
        if second >> 112 == 0xFE80:
            continue
        found = addresses.number(6, one), addresses.number(6, second)
        assert shared(*found, 128) == shared(one, second, 128)


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0", "0.0.0.0/0", "127.0.0.1", "127.0.0.0/8", "169.254.1.1", "169.254.169.254/32",
        "224.0.0.1", "239.255.255.250", "255.255.255.255", "255.255.240.0", "128.0.0.0/1",
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15", "100.64.0.0/10",
        "::", "::/0", "::1", "::1/128", "fe80::ecee:eeff:feee:eeee", "fe80::/64", "ff02::1",
        "fc00::/7", "2000::/3", "2001:db8::/32",
    ],
)  # fmt: skip
def test_what_is_the_same_everywhere_stays(text: str) -> None:
    assert Addresses(SECRET).text(text) == text


@pytest.mark.parametrize(
    ("text", "within"),
    [
        ("10.65.3.9", "10.0.0.0/8"), ("172.20.3.9", "172.16.0.0/12"), ("192.0.2.9", "192.0.2.0/24"),
        ("192.168.3.9", "192.168.0.0/16"), ("fd00:1::7", "fc00::/7"),
        ("2001:db8::7", "2001:db8::/32"),
    ],
)  # fmt: skip
def test_a_private_address_stays_one_and_becomes_another(text: str, within: str) -> None:
    found = Addresses(SECRET).text(text)
    assert found != text
    assert ipaddress.ip_address(found) in ipaddress.ip_network(within)


@given(number=V4, bits=st.integers(0, 32))
def test_networks_hold_the_pseudonyms_of_what_is_in_them(number: int, bits: int) -> None:
    addresses = Addresses(SECRET)
    network = ipaddress.ip_network((number, bits), strict=False)
    found = ipaddress.ip_network(addresses.text(str(network)))
    assert found.prefixlen == bits
    assert ipaddress.IPv4Address(addresses.number(4, number)) in found


def test_an_address_with_its_networks_length_is_an_address() -> None:
    addresses = Addresses(SECRET)
    assert addresses.text("10.65.0.7/24") == addresses.text("10.65.0.7") + "/24"
    assert addresses.text("10.65.0.0/24") != addresses.text("10.65.0.0") + "/24"
    assert addresses.text("10.65.0.0/24").endswith(".0/24")


def test_addresses_within_others_are_the_same_pseudonyms() -> None:
    addresses = Addresses(SECRET)
    inner = int(ipaddress.IPv4Address(addresses.text("10.65.0.7")))
    for outer in ("::ffff:0:0", "64:ff9b::"):
        begin = int(ipaddress.IPv6Address(outer))
        whole = ipaddress.IPv6Address(begin + int(ipaddress.IPv4Address("10.65.0.7")))
        assert addresses.text(str(whole)) == str(ipaddress.IPv6Address(begin + inner))
    # RFC 4291, appendix A.
    mac = bytes.fromhex(addresses.mac("02:00:c6:12:00:0b").replace(":", ""))
    host = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    expected = ipaddress.IPv6Address(bytes.fromhex("fe80000000000000") + host)
    assert addresses.text("fe80::c6ff:fe12:b") == str(expected)


def test_macs_keep_their_kind() -> None:
    addresses = Addresses(SECRET)
    for kept in (
        "ee:ee:ee:ee:ee:ee",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
        "33:33:00:00:00:01",
    ):
        assert addresses.mac(kept) == kept
    for mac in ("02:00:c6:12:00:0b", "3c:fd:fe:01:02:03"):
        found = addresses.mac(mac)
        assert found != mac
        assert int(found[:2], 16) & 3 == int(mac[:2], 16) & 3
        assert addresses.mac(mac.upper()) == found


def test_another_secret_gives_others() -> None:
    one, other = Addresses(b"1" * 32), Addresses(b"2" * 32)
    texts = [f"10.65.{number}.7" for number in range(20)]
    assert sum(one.text(text) == other.text(text) for text in texts) <= 1
