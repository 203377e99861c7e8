"""Pinned maps of a node, read over SSH: every type, every way of reading, and what was not there.

The maps are made here and hold what is known; the lab's own are read where it has some.
"""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from map_bytes import LAYOUTS, connection

from ebpfperf import map_reading
from ebpfperf.lab.bpfmaps import Map, possible_cpus
from ebpfperf.lab.running import Lab
from ebpfperf.mapdump import objects, reading
from ebpfperf.remote import SSHNode

pytestmark = pytest.mark.lab

# More than two batches.
MANY = 20011
PRIME = 211
NO_PREALLOC = 1
KINDS = ("conntrack", "nat", "routes", "counters", "ipsets", "arp", "ifstate")
TYPES = {"conntrack": "lru_hash", "nat-frontend": "lpm_trie", "nat-backend": "hash",
         "routes": "lpm_trie", "counters": "percpu_hash"}  # fmt: skip


@pytest.fixture(scope="module")
def node(lab: Lab) -> Iterator[SSHNode]:
    node = SSHNode.connect("node-1", ssh_config=lab.ssh_config)
    yield node
    node.close()


@pytest.fixture(scope="module")
def place(lab: Lab) -> Iterator[tuple[Path, str]]:
    """A directory of the node's BPF file system: as this process sees it, and as the node does."""
    inside = "/sys/fs/bpf/read-here"
    outside = Path(f"/proc/{lab.nodes[0].holder_pid}/root{inside}")
    outside.mkdir()
    yield outside, inside
    shutil.rmtree(outside)


def pinned(path: Path, name: str, kind: str, entries: dict[bytes, bytes], most: int) -> None:
    key, value = next(iter(entries.items()))
    flags = NO_PREALLOC if kind in ("hash", "lpm_trie") else 0
    made = Map.create(
        name, kind, key_bytes=len(key), value_bytes=len(value), entries=most, flags=flags
    )
    for key, value in entries.items():
        made.put(key, value)
    made.pin(path / name)
    made.close()


@pytest.fixture(scope="module")
def made(place: tuple[Path, str]) -> dict[str, dict[bytes, bytes]]:
    chance = random.Random(1)
    how = next(each for each in LAYOUTS if each.release == "v3.32" and each.family == 4)
    content = {
        "cali_v4_ct4": dict(connection(chance, how)[:2] for _ in range(MANY)),
        "cali_v4_nat_fe3": {
            struct.pack("<I", 56) + chance.randbytes(4) + struct.pack("<HB5x", 80, 6):
            struct.pack("<5I", at, 1, 0, 0, 0) for at in range(PRIME)
        },
        "cali_v4_nat_be": {
            struct.pack("<II", at, 0): chance.randbytes(6) + b"\0\0" for at in range(PRIME)
        },
        "cali_v4_routes": {
            struct.pack("<I", 32) + chance.randbytes(4): struct.pack("<II", 0xC, at)
            for at in range(PRIME)
        },
        "cali_counters6": {
            struct.pack("<II", at, 1): struct.pack("<27Q", *range(at, at + 27))
            for at in range(1, PRIME + 1)
        },
    }  # fmt: skip
    kinds = {"cali_v4_ct4": "lru_hash", "cali_v4_nat_fe3": "lpm_trie", "cali_v4_nat_be": "hash",
             "cali_v4_routes": "lpm_trie", "cali_counters6": "percpu_hash"}  # fmt: skip
    for name, entries in content.items():
        # An LRU map may drop entries long before it is full.
        pinned(place[0], name, kinds[name], entries, 4 * MANY)
    pinned(place[0], "cali_v4_ct3", "hash", {bytes(16): bytes(88)}, 8)
    return content


def test_every_map_is_read_whole(
    node: SSHNode, place: tuple[Path, str], made: dict[str, dict[bytes, bytes]]
) -> None:
    found = map_reading.read(node, KINDS, release="v3.32", directory=place[1])
    assert {each.decoded.purpose: each.kind for each in found.maps} == TYPES
    for each in found.maps:
        entries = made[each.name]
        values = each.entries.values
        if each.cpus:
            assert each.cpus == possible_cpus() == values.shape[1]
            assert (values == values[:, :1]).all()
            values = values[:, 0]
        got = {
            key.tobytes(): value.tobytes()
            for key, value in zip(each.entries.keys, values, strict=True)
        }
        assert len(each.entries) == len(entries), each.name
        assert got == entries
        assert each.max_entries == 4 * MANY
        assert each.others == (("cali_v4_ct3",) if each.name == "cali_v4_ct4" else ())


def test_counters_are_those_of_all_processors(
    node: SSHNode, place: tuple[Path, str], made: dict[str, dict[bytes, bytes]]
) -> None:
    (counters,) = map_reading.read(node, ["counters"], release="v3.32", directory=place[1]).maps
    rows = {one["ifindex"]: one for one in objects.of(counters.decoded)}
    assert rows[1]["interface"] == "lo"
    for ifindex, one in rows.items():
        expected = [number * possible_cpus() for number in range(ifindex, ifindex + 27)]
        assert list(one["counters"].values()) == expected


def test_without_batches_the_same_is_read_one_by_one(
    node: SSHNode,
    place: tuple[Path, str],
    made: dict[str, dict[bytes, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds = ("nat", "routes", "counters")
    before = map_reading.read(node, kinds, directory=place[1])
    scripts = tuple(
        (name, text.replace("LOOKUP_BATCH = 1, 4, 7, 15, 24", "LOOKUP_BATCH = 1, 4, 7, 15, 999"))
        for name, text in map_reading.sources()
    )
    assert scripts != map_reading.sources()
    monkeypatch.setattr(map_reading, "sources", lambda: scripts)
    after = map_reading.read(node, kinds, directory=place[1])
    assert {each.how.partition(" (")[0] for each in after.maps} == {"bpf(2), one by one"}
    assert [each.name for each in after.maps] == [each.name for each in before.maps]
    for one, other in zip(before.maps, after.maps, strict=True):
        assert sorted(one.content()) == sorted(other.content())


def test_a_raw_dump_is_read_from_its_file(
    node: SSHNode, place: tuple[Path, str], made: dict[str, dict[bytes, bytes]]
) -> None:
    found = map_reading.read(node, ["routes", "counters"], directory=place[1])
    for each in found.maps:
        kind = each.decoded.purpose
        (again,) = reading.decode(kind, each.content(), map_name=each.name, cpus=each.cpus)
        one, other = list(objects.of(again)), list(objects.of(each.decoded))
        for entry in (*one, *other):
            entry.pop("interface", None)
        assert one == other


def test_what_is_not_pinned_is_said(node: SSHNode) -> None:
    found = map_reading.read(node, ["conntrack"], directory="/sys/fs/bpf/none")
    assert found.maps == ()
    assert found.missing == ("/sys/fs/bpf/none: No such file or directory",)
    assert found.now_ns > 0
    found = map_reading.read(node, ["conntrack"], directory="/sys/fs/bpf")
    assert found.missing == ("No map of conntrack is pinned.",)
