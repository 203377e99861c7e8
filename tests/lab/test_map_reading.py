"""Pinned maps of a node, read over SSH: every type, every way of reading, and what was not there.

The maps are made here and hold what is known; the lab's own are read where it has some.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.ebpf import FORWARDING, UNKNOWN, World
from lab.namespaces import eventually
from map_bytes import LAYOUTS, connection
from typer.testing import CliRunner

from ebpfperf import map_answers, map_reading
from ebpfperf.calico.maps import DIRECTORY
from ebpfperf.commands.maps import app
from ebpfperf.lab.bpfmaps import Map, open_pinned, possible_cpus
from ebpfperf.lab.running import Lab
from ebpfperf.mapdump import objects, reading
from ebpfperf.mutations import Mutation
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


def test_where_the_call_is_refused_bpftool_is_asked(
    node: SSHNode,
    place: tuple[Path, str],
    made: dict[str, dict[bytes, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = map_reading.read(node, ["nat", "counters"], directory=place[1])
    scripts = tuple(
        (name, text.replace("BATCH = 1, 4, 7, 15, 24", "BATCH = 1, 4, 999, 15, 24"))
        for name, text in map_reading.sources()
    )
    assert scripts != map_reading.sources()
    monkeypatch.setattr(map_reading, "sources", lambda: scripts)
    after = map_reading.read(node, ["nat", "counters"], directory=place[1])
    assert {each.how.partition(" (")[0] for each in after.maps} == {"bpftool"}
    assert [each.name for each in after.maps] == [each.name for each in before.maps]
    for one, other in zip(before.maps, after.maps, strict=True):
        assert rows_of(one) == rows_of(other)
        assert (one.kind, one.max_entries) == (other.kind, other.max_entries)


def rows_of(found: map_answers.PinnedMap) -> list[str]:
    return sorted(json.dumps(entry) for entry in objects.of(found.decoded))


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


# ------------------------------------------------------------------------ the lab's own dataplane


@contextlib.contextmanager
def ebpf(world: World) -> Iterator[None]:
    """Meanwhile Felix keeps the maps."""

    def become(enabled: bool | None) -> None:
        before = {node.name: world.felix_pid(node) for node in world.lab.nodes}
        body = {"spec": {"bpfEnabled": enabled}}
        world.kube.apply(Mutation("patch", "FelixConfiguration", "default", body=body))
        for node in world.lab.nodes:
            eventually("a new Felix", lambda n=node: world.felix_pid(n) != before[n.name])
        at_rest(world)

    was = (world.kube.felix_configuration() or {"spec": {}})["spec"].get("bpfEnabled")
    become(True)
    try:
        yield
    finally:
        become(was)


def at_rest(world: World) -> None:
    """Until every Felix has done all that the API asks for until now."""
    # Twice: the first may be answered at the end of a look that began before.
    for node in [*world.lab.nodes] * 2:
        world.annotate(node, FORWARDING, UNKNOWN)
        eventually("done", lambda n=node: world.annotation(n, FORWARDING) != UNKNOWN)


def command(lab: Lab, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and JSON of ``ebpfperf maps``."""
    where = ["--kubeconfig", str(lab.kubeconfig), "--ssh-config", str(lab.ssh_config), "--json"]
    done = CliRunner().invoke(app, [*arguments, *where])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    if arguments[0] == "check":
        return done.exit_code, json.loads(done.stdout)
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()]


def test_the_maps_of_a_cluster_hold_what_its_api_says(lab: Lab) -> None:
    world = World(lab)
    with contextlib.closing(world.kube), ebpf(world), world.pod("far", 2, behind="front") as far:
        with world.service("front") as front, world.service("nobody") as nobody:
            addresses = {front.address, nobody.address}
            # Who is behind it is found out by one, and read by the others.
            eventually("an endpoint", lambda: any(
                endpoint["addresses"] == [far.address]
                for each in world.kube.endpoint_slices("default", "front")
                for endpoint in each["endpoints"]
            ))  # fmt: skip
            at_rest(world)
            _, found = command(lab, "nat", "--node", "node-1")
            assert addresses <= {one.get("addr") for one in found}
            assert any(one.get("addr") == far.address and "ordinal" in one for one in found)
            status, found = command(lab, "check")
            ours = [one for one in found if one["what"].startswith("default/")]
            assert {one["check"] for one in ours} == {"service-empty"}
            assert {(one["node"], one["severity"]) for one in ours} == {
                ("node-1", "WARN"), ("node-2", "WARN"),
            }  # fmt: skip
            assert all("default/nobody" in one["what"] for one in ours)
            assert status == 0, found
            _, routes = command(lab, "routes", "--node", "node-2", "--address", far.address)
            (own,) = (one for one in routes if one["dest"] == f"{far.address}/32")
            assert own["flag_names"][-2:] == ["workload", "local"]
            empty(world, "cali_v4_nat_be")
            status, found = command(lab, "check", "--node", "node-1")
            faults = [one for one in found if "default/front" in one["what"]]
            assert status == 1
            assert len(faults) == 2, "one for TCP, one for UDP"
            assert {(one["check"], one["severity"]) for one in faults} == {
                ("backend-missing", "FAIL")
            }


def empty(world: World, name: str) -> None:
    """Take everything out of a map of node-1, behind Felix's back."""
    path = Path(f"/proc/{world.node(1).holder_pid}/root{DIRECTORY}/{name}")
    found = Map(open_pinned(path), key_bytes=8, value_bytes=8, per_cpu=False)
    for key in list(found.keys()):
        found.delete(key)
    found.close()
