"""Services, routes, IP sets, neighbours, interfaces and counters, packed by struct and decoded."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import pytest
from map_bytes import address, as_bpftool, text
from typer.testing import CliRunner

from ebpfperf.calico import maps
from ebpfperf.calico.counters import CAPTIONS, DROPS
from ebpfperf.calico.releases import FULL_VERSIONS
from ebpfperf.cli import app
from ebpfperf.errors import InputError
from ebpfperf.mapdump import objects, reading

FAMILIES = (4, 6)
WIDE = {4: 4, 6: 16}
each_family = pytest.mark.parametrize("family", FAMILIES)


def decoded(kind: str, entries: list[tuple[bytes, bytes]], **options: Any) -> list[dict[str, Any]]:
    (found,) = reading.decode(kind, as_bpftool(entries), **options)
    assert found.remarks == ()
    return list(objects.of(found))


def network(chance: random.Random, family: int) -> tuple[bytes, int, str]:
    """An address, a number of bits, and both as text; the rest of the address stays."""
    packed = address(chance, family)
    bits = chance.randrange(8 * WIDE[family] + 1)
    return packed, bits, f"{text(packed)}/{bits}"


# ------------------------------------------------------------------------------- the table of maps


def test_versions_agree_with_the_maps_of_the_exact_releases() -> None:
    purposes = {each.purpose for each in maps.VERSIONS}
    for release in FULL_VERSIONS:
        specs = {spec.purpose: spec for spec in maps.maps_of(release)}
        for purpose in purposes:
            version = maps.version_for(purpose, release)
            if purpose == "ifstate" and maps.minor(release) < (3, 24):
                # Flags alone, in which of the releases before v3.24 was not read off.
                assert purpose not in specs
                continue
            if purpose not in specs:
                assert version is None, (release, purpose)
                continue
            spec = specs[purpose]
            assert version is not None
            assert (version.name, version.key_bytes) == (spec.name, spec.key_bytes)
            assert version.value_bytes == spec.value_bytes, (release, purpose)


def test_a_release_has_one_version_of_each_map() -> None:
    for number in range(13, 35):
        release = f"v3.{number}"
        for purpose in {each.purpose for each in maps.VERSIONS}:
            for family in FAMILIES:
                names = {
                    each.name
                    for each in maps.VERSIONS
                    if each.purpose == purpose and each.family in (0, family) and each.has(release)
                }
                assert len(names) <= 1, (release, purpose, family)


def test_versions_say_of_which_releases_they_are() -> None:
    said = {each.name: each.releases for each in maps.VERSIONS if each.purpose == "conntrack"}
    assert said["cali_v4_ct"] == "v3.13"
    assert said["cali_v4_ct2"] == "v3.14 to v3.23"
    assert said["cali_v4_ct4"] == "v3.31 and later"


# --------------------------------------------------------------------------------------- services

FLAGS = ["external-local", "internal-local", "nat-exclude", "maglev"]


@pytest.mark.parametrize(
    ("release", "family", "trie", "flagged"),
    [("v3.13", 4, False, False), ("v3.16", 4, True, False), ("v3.26", 4, True, True),
     ("v3.32", 6, True, True)],
)  # fmt: skip
def test_frontends(release: str, family: int, trie: bool, flagged: bool) -> None:
    chance = random.Random(f"{release} {family}")
    entries, expected = [], []
    for at in range(101):
        packed, port, proto = address(chance, family), chance.randrange(1 << 16), (6, 17)[at % 2]
        source, bits, cidr = network(chance, family)
        place = packed + struct.pack("<HB", port, proto)
        before = {4: 56, 6: 152}[family]
        key = struct.pack("<I", before + bits) + place + source + b"\0" if trie else place + b"\0"
        count = chance.choice([0, 1, 3, 0xFFFFFFFF])
        number, local, seconds, flags = (chance.randrange(1 << 31) for _ in range(4))
        flags &= 0xF
        value = struct.pack("<IIII", number, count, local, seconds)
        value += struct.pack("<I", flags) if flagged else b""
        entries.append((key, value))
        expected.append(
            {
                "proto": proto,
                "addr": text(packed),
                "port": port,
                "src_cidr": cidr if trie else "0.0.0.0/0",
                "id": number,
                "count": count,
                "local": local,
                "affinity_timeout_s": seconds,
                "flags": flags if flagged else None,
                "flag_names": [FLAGS[bit] for bit in range(4) if flags >> bit & 1]
                if flagged
                else None,
                "blackhole": count == 0xFFFFFFFF,
            }
        )
    found = decoded("nat", entries, release=release)
    assert found == expected
    assert list(found[0]) == list(expected[0])


@each_family
def test_backends_and_affinities(family: int) -> None:
    chance = random.Random(family)
    backends, affinities = [], []
    expected: tuple[list[Any], list[Any]] = ([], [])
    for ordinal in range(67):
        packed, port, number = (
            address(chance, family),
            chance.randrange(1 << 16),
            chance.choice([5]),
        )
        backend = packed + struct.pack("<HH", port, 0)
        backends.append((struct.pack("<II", number, ordinal), backend))
        expected[0].append({"id": 5, "ordinal": ordinal, "addr": text(packed), "port": port})
        service, client = address(chance, family), address(chance, family)
        at_ns = chance.randrange(1 << 60)
        key = service + struct.pack("<HBx", 443, 6) + client
        key += bytes({4: 16, 6: 40}[family] - len(key))
        value = backend + bytes({4: 0, 6: 4}[family]) + struct.pack("<Q", at_ns)
        affinities.append((key, value))
        expected[1].append(
            {
                "proto": 6, "addr": text(service), "port": 443, "client": text(client),
                "backend_addr": text(packed), "backend_port": port, "last_used_ns": at_ns,
            }
        )  # fmt: skip
    assert decoded("nat", backends, release="v3.30") == expected[0]
    assert decoded("nat-affinity", affinities, release="v3.30") == expected[1]


def test_one_size_of_two_maps_is_told_by_the_name() -> None:
    key, value = bytes(15) + b"\1", bytes(15) + b"\1"
    (frontends,) = reading.decode("nat", as_bpftool([(b"\x38" + key[1:], value)]), release="v3.16")
    assert frontends.purpose == "nat-frontend"
    (affinities,) = reading.decode("nat", as_bpftool([(key, value)]), map_name="cali_v4_nat_aff")
    assert affinities.purpose == "nat-affinity"
    (unsure,) = reading.decode("nat", as_bpftool([(b"\x38" + key[1:], value)]))
    assert unsure.purpose == "nat-frontend"
    assert "cali_v4_nat_aff" in unsure.remarks[0]


# ----------------------------------------------------------------------------------------- routes

ROUTE_WORDS = ["in-pool", "nat-out", "workload", "local", "host", "same-subnet", "tunneled",
               "no-dsr", "blackhole-drop", "blackhole-reject", "vxlan",
               "skip-ingress-redir"]  # fmt: skip


@each_family
def test_routes(family: int) -> None:
    chance = random.Random(family + 10)
    entries, expected = [], []
    for _ in range(211):
        packed, bits, cidr = network(chance, family)
        flags = chance.randrange(1 << 12)
        hop, ifindex = address(chance, family), chance.randrange(1 << 16)
        workload, local = flags & 4, flags & 8
        end = struct.pack("<I", ifindex).ljust(WIDE[family], b"\0") if local else hop
        entries.append((struct.pack("<I", bits) + packed, struct.pack("<I", flags) + end))
        expected.append(
            {
                "dest": cidr,
                "flags": flags,
                "flag_names": [ROUTE_WORDS[bit] for bit in range(12) if flags >> bit & 1],
                "ifindex": ifindex if workload and local else None,
                "next_hop": text(hop) if workload and not local else None,
            }
        )
    assert decoded("routes", entries, release="v3.32") == expected


def test_a_prefix_that_cannot_be_is_said() -> None:
    entries = [
        (struct.pack("<I", 33) + bytes(4), bytes(8)),
        (struct.pack("<I", 32) + bytes(4), bytes(8)),
    ]
    (found,) = reading.decode("routes", as_bpftool(entries), release="v3.26")
    assert found.remarks == ("1 of 2 routes have a prefix of impossible length.",)


@each_family
def test_ip_sets_neighbours(family: int) -> None:
    chance = random.Random(family + 20)
    members, neighbours = [], []
    expected: tuple[list[Any], list[Any]] = ([], [])
    for at in range(83):
        packed, bits, cidr = network(chance, family)
        number, port, proto = (
            chance.randrange(1 << 64),
            chance.randrange(1 << 16),
            (0, 6, 17)[at % 3],
        )
        length = 64 + (8 * WIDE[family] + 24 if proto else bits)
        key = struct.pack("<I", length) + struct.pack(">Q", number) + packed
        members.append((key + struct.pack("<HBx", port, proto), b"\1\0\0\0"))
        expected[0].append(
            {
                "set_id": hex(number),
                "member": f"{text(packed)}/{8 * WIDE[family]}" if proto else cidr,
                "port": port if proto else None,
                "proto": proto or None,
            }
        )
        ifindex, macs = chance.randrange(1 << 20), chance.randbytes(12)
        neighbours.append((packed + struct.pack("<I", ifindex), macs))
        expected[1].append(
            {"addr": text(packed), "ifindex": ifindex, "src_mac": macs[:6].hex(":"),
             "dst_mac": macs[6:].hex(":")}
        )  # fmt: skip
    assert decoded("ipsets", members, release="v3.30") == expected[0]
    assert decoded("arp", neighbours, release="v3.30") == expected[1]


# ------------------------------------------------------------------------- interfaces and counters

PROGRAMS = ("xdp_v4", "ingress_v4", "egress_v4", "xdp_v6", "ingress_v6", "egress_v6",
            "ingress_filter", "egress_filter")  # fmt: skip


@pytest.mark.parametrize(
    ("release", "size", "programs"),
    [("v3.22", 4, ()), ("v3.24", 20, ()), ("v3.26", 40, (0, 1, 2, 6, 7)),
     ("v3.27", 40, (0, 1, 2, 6, 7)), ("v3.32", 52, range(8))],
)  # fmt: skip
def test_interfaces(release: str, size: int, programs: tuple[int, ...]) -> None:
    name = b"cali0123456789a"
    numbers = [at * 7 - 1 for at in range(len(programs))]
    value = struct.pack("<I", 0x3)
    value += name.ljust(16, b"\0") if size >= 20 else b""
    value += struct.pack(f"<{len(numbers)}i", *numbers)
    (found,) = decoded("ifstate", [(struct.pack("<I", 41), value)], release=release)
    expected: dict[str, Any] = dict.fromkeys(PROGRAMS)
    for at, number in zip(programs, numbers, strict=True):
        expected[PROGRAMS[at]] = None if number == -1 else number
    ready = "v4Ready" if release in ("v3.27", "v3.32") else "ready"
    assert found == {
        "ifindex": 41,
        "name": name.decode() if size >= 20 else None,
        "flags": 3,
        "flag_names": ["workload", ready],
        **expected,
    }


@pytest.mark.parametrize(("release", "count"), [("v3.26", 14), ("v3.30", 17), ("v3.31", 25),
                                                ("v3.32", 27)])  # fmt: skip
def test_counters_are_added_over_processors(release: str, count: int) -> None:
    chance = random.Random(count)
    places = [(7, 0), (7, 1), (8, 2)]
    cpus = 3
    numbers = [[[chance.randrange(1 << 40) for _ in range(count)] for _ in range(cpus)]
               for _ in places]  # fmt: skip
    dump = [
        {
            "key": [hex(octet) for octet in struct.pack("<II", *place)],
            "values": [
                {"cpu": cpu, "value": [hex(octet) for octet in struct.pack(f"<{count}Q", *row)]}
                for cpu, row in enumerate(rows)
            ],
        }
        for place, rows in zip(places, numbers, strict=True)
    ]
    raw = b"".join(
        struct.pack("<II", *place) + b"".join(struct.pack(f"<{count}Q", *row) for row in rows)
        for place, rows in zip(places, numbers, strict=True)
    )
    for data, options in ((json.dumps(dump).encode(), {}), (raw, {"cpus": cpus})):
        (found,) = reading.decode("counters", data, release=release, **options)  # type: ignore[arg-type]
        entries = list(objects.of(found))
        assert [(one["ifindex"], one["hook"]) for one in entries] == [
            (7, "ingress"), (7, "egress"), (8, "xdp"),
        ]  # fmt: skip
        for one, rows in zip(entries, numbers, strict=True):
            sums = [sum(column) for column in zip(*rows, strict=True)]
            assert list(one["counters"].values()) == sums
            assert list(one["counters"]) == [" ".join(words) for words in CAPTIONS[:count]]
            assert one["dropped_packets"] == sum(sums[at] for at in DROPS if at < count)


def test_counters_of_raw_bytes_need_the_number_of_processors() -> None:
    with pytest.raises(InputError, match="a value for every processor"):
        reading.decode("counters", bytes(300), release="v3.26")


def test_a_release_without_the_map_says_since_when_there_is_one() -> None:
    for kind, since in (("counters", "v3.24"), ("arp", "v3.18"), ("ifstate", "v3.22")):
        with pytest.raises(InputError, match=f"it came with {since}"):
            reading.decode(kind, b"[]", release="v3.16")


def test_a_block_of_another_node() -> None:
    key, value = bytes.fromhex("1a0000000a410200"), bytes.fromhex("47040000ac10000c")
    (found,) = decoded("routes", [(key, value)], release="v3.32")
    assert found == {
        "dest": "10.65.2.0/26",
        "flags": 0x447,
        "flag_names": ["in-pool", "nat-out", "workload", "tunneled", "vxlan"],
        "ifindex": None,
        "next_hop": "172.16.0.12",
    }


def test_sums_of_more_than_64_bits_are_printed() -> None:
    """Of a torn value, or a node that has run for a long time."""
    value = struct.pack("<14Q", *[1 << 62] * 14)
    dump = [{"key": list(struct.pack("<II", 2, 0)), "values": [{"cpu": 0, "value": list(value)}]}]
    done = CliRunner().invoke(
        app,
        ["maps", "decode", "counters", "--release", "v3.26", "-", "--json"],
        input=json.dumps(dump),
    )
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["dropped_packets"] == 10 << 62
