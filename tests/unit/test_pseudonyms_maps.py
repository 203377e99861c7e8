"""Pseudonyms in the bytes of BPF maps: exactly the addresses are others, in every layout."""

from __future__ import annotations

import ipaddress
import json
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from map_bytes import LAYOUTS, connection

from ebpfperf import map_answers
from ebpfperf.calico.maps import VERSIONS
from ebpfperf.pseudonyms import maps
from ebpfperf.pseudonyms.addresses import Addresses
from ebpfperf.pseudonyms.names import Names

SECRET = b"of these tests: always the same."


def frames(answer: bytes, purposes: list[str]) -> list[pd.DataFrame]:
    return [each.decoded.frame for each in map_answers.parse("n", answer, purposes).maps]


def answer(name: str, entries: list[tuple[bytes, bytes]]) -> bytes:
    keys, values = b"".join(k for k, _ in entries), b"".join(v for _, v in entries)
    head = {
        "maps": [{"name": name, "others": [], "error": "", "cut": False, "how": "", "cpus": 0,
                  "max_entries": 9, "kind": "hash", "key_bytes": len(entries[0][0]),
                  "value_bytes": len(entries[0][1]), "sizes": [len(keys), len(values)]}],
        "reason": "", "pinned": [name], "now_ns": 5, "interfaces": {"7": "cali0761ccbeace"},
    }  # fmt: skip
    return json.dumps(head).encode() + b"\n" + zlib.compress(keys + values)


def check(name: str, purpose: str, entries: list[tuple[bytes, bytes]]) -> None:
    """After rewriting, exactly the addresses are others: the pseudonyms of what they were."""
    addresses = Addresses(SECRET)
    names = Names(SECRET, addresses, {})
    before = answer(name, entries)
    after = maps.rewritten(before, addresses, names.text)
    assert b"cali0761ccbeace" not in after
    (one,), (other,) = frames(before, [purpose]), frames(after, [purpose])
    assert len(one) == len(entries)
    different = 0
    for column in one.columns:
        for text, found in zip(one[column].tolist(), other[column].tolist(), strict=True):
            expected = names.text(text) if isinstance(text, str) else text
            assert found is expected or found == expected or (pd.isna(found) and pd.isna(expected))
            different += isinstance(text, str) and text != found
    assert different > 0


@pytest.mark.parametrize("how", LAYOUTS, ids=lambda how: f"{how.name}-{how.release}")
def test_connections_of_every_release_get_other_addresses(how: Any) -> None:
    chance = random.Random(how.release)
    check(how.name, "conntrack", [connection(chance, how)[:2] for _ in range(60)])


def entries_of(purpose: str, family: int, chance: random.Random) -> Iterator[tuple[bytes, bytes]]:
    wide = 4 if family == 4 else 16

    def network(bits: int) -> bytes:
        number = int.from_bytes(chance.randbytes(wide), "big")
        host = 8 * wide - bits
        return (number >> host << host).to_bytes(wide, "big")

    for at in range(20):
        address, other = chance.randbytes(wide), chance.randbytes(wide)
        if purpose == "nat-frontend":
            bits = chance.choice([0, 8, 24, 8 * wide])
            key = struct.pack("<I", 8 * (wide + 3) + bits) + address
            key += struct.pack("<HB", 80, 6) + network(bits)
            yield key.ljust(16 if family == 4 else 40, b"\0"), struct.pack("<5I", at, 1, 0, 0, 0)
        elif purpose == "nat-backend":
            yield (
                struct.pack("<II", at, 0),
                (address + struct.pack("<H", 80)).ljust(8 if family == 4 else 20, b"\0"),
            )
        elif purpose == "nat-affinity":
            key = address + struct.pack("<HBx", 80, 6) + other
            value = chance.randbytes(wide) + struct.pack("<H2x", 81)
            size = (16, 16) if family == 4 else (40, 32)
            yield key.ljust(size[0], b"\0"), value.ljust(size[1], b"\0")
        elif purpose == "routes":
            bits = chance.choice([8, 26, 8 * wide])
            local = struct.pack("<II", 0xC, at).ljust(4 + wide, b"\0")
            value = local if at % 2 else struct.pack("<I", 0x4) + address
            size = 8 if family == 4 else 20
            yield struct.pack("<I", bits) + network(bits), value.ljust(size, b"\0")
        elif purpose == "ip-sets":
            bits = chance.choice([8, 8 * wide])
            head = struct.pack("<I", 64 + bits) + struct.pack(">Q", at + 1)
            yield (head + network(bits)).ljust(20 if family == 4 else 32, b"\0"), bytes(4)
        elif purpose == "arp":
            yield address + struct.pack("<I", at), chance.randbytes(12)
        else:
            name = b"cali0761ccbeace\0" if at else b"eth0".ljust(16, b"\0")
            yield struct.pack("<I", at), struct.pack("<I", 1) + name


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    "purpose",
    ["nat-frontend", "nat-backend", "nat-affinity", "routes", "ip-sets", "arp", "ifstate"],
)
def test_every_other_map_gets_other_addresses(purpose: str, family: int) -> None:
    made = list(entries_of(purpose, family, random.Random(purpose)))
    sizes = len(made[0][0]), len(made[0][1])
    fitting = [
        each.name
        for each in VERSIONS
        if each.purpose == purpose
        and each.family in (0, family)
        and (each.key_bytes, each.value_bytes) == sizes
    ]
    assert fitting, sizes
    check(fitting[0], purpose, made)


def test_a_map_that_is_not_known_is_left_out() -> None:
    secret = ipaddress.IPv4Address("10.65.0.7").packed
    for name in ("cali_v4_new9", "cali_v4_ct3"):
        after = maps.rewritten(answer(name, [(secret, secret)]), Addresses(SECRET), str)
        head, content = map_answers.unpacked(after)
        assert content == b""
        assert head["maps"][0]["error"] == maps.LEFT_OUT


def test_what_bpftool_printed_is_rewritten_as_bytes() -> None:
    made = list(entries_of("nat-backend", 4, random.Random(1)))
    raw = answer("cali_v4_nat_be", made)
    head = json.loads(raw.partition(b"\n")[0])
    rows = [{"key": [hex(b) for b in k], "value": [hex(b) for b in v]} for k, v in made]
    text = json.dumps(rows).encode()
    head["maps"][0] |= {"dump": "bpftool", "sizes": [len(text), 0]}
    printed = json.dumps(head).encode() + b"\n" + zlib.compress(text)
    one, other = (maps.rewritten(each, Addresses(SECRET), str) for each in (raw, printed))
    assert map_answers.unpacked(one)[1] == map_answers.unpacked(other)[1]
