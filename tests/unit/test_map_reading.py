"""What a node answers of its maps, made up: what is missing, refused, cut or no answer at all."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any, cast

import pytest

from ebpfperf import map_answers, map_reading
from ebpfperf.errors import CommandError, NodeError
from ebpfperf.mapdump import objects
from ebpfperf.remote import Completed, Node

NOW_NS = 10_000_000_000


class Fake:
    """A node that answers every command so."""

    name = "node-1"

    def __init__(self, status: int = 0, stdout: bytes = b"", stderr: bytes = b"") -> None:
        self.answer = Completed((), status, stdout, stderr, 0.0)
        self.asked: dict[str, Any] = {}

    def run(self, argv: Any, *, input: bytes, **_: Any) -> Completed:
        self.asked = json.loads(input)["asked"]
        return self.answer


def answer(*maps: tuple[dict[str, Any], bytes, bytes], reason: str = "") -> bytes:
    heads = [{"others": [], "error": "", "cut": False, "how": "", "cpus": 0, "max_entries": 100,
              "kind": "hash", **told, "sizes": [len(keys), len(values)]}
             for told, keys, values in maps]  # fmt: skip
    head = {"maps": heads, "reason": reason, "pinned": [], "now_ns": NOW_NS,
            "interfaces": {"7": "cali7"}}  # fmt: skip
    content = b"".join(keys + values for _, keys, values in maps)
    return json.dumps(head).encode() + b"\n" + zlib.compress(content)


def read(stdout: bytes, *kinds: str, release: str | None = "v3.26") -> map_answers.NodeMaps:
    return map_reading.read(cast(Node, Fake(stdout=stdout)), kinds, release=release)


CONNECTION = (
    bytes.fromhex("060000000a4100020a410107caa85000"),
    struct.pack("<QQ", 1, NOW_NS - 1_500_000_000) + bytes(72),
)
CT3 = {"name": "cali_v4_ct3", "key_bytes": 16, "value_bytes": 88}


def test_ages_are_by_the_nodes_clock() -> None:
    (found,) = read(answer((CT3, *CONNECTION)), "conntrack").maps
    (one,) = objects.of(found.decoded)
    assert one["active_ago_s"] == pytest.approx(1.5)
    later = CONNECTION[1][:8] + struct.pack("<Q", NOW_NS + 1000) + CONNECTION[1][16:]
    (found,) = read(answer((CT3, CONNECTION[0], later)), "conntrack").maps
    (one,) = objects.of(found.decoded)
    assert one["active_ago_s"] == pytest.approx(-1e-6)


def test_counters_bear_the_interfaces_name() -> None:
    told = {"name": "cali_counters2", "key_bytes": 8, "value_bytes": 112, "cpus": 2}
    keys = struct.pack("<IIII", 7, 0, 8, 1)
    values = struct.pack("<56Q", *range(56))
    (found,) = read(answer((told, keys, values)), "counters").maps
    one, other = objects.of(found.decoded)
    assert (one["interface"], one["counters"]["Total packets"]) == ("cali7", 0 + 14)
    assert (other["interface"], other["ifindex"], other["hook"]) == (None, 8, "egress")
    assert found.content() == keys[:8] + values[:224] + keys[8:] + values[224:]


def test_the_newest_version_comes_first_and_families_apart() -> None:
    node = Fake(stdout=answer())
    map_reading.read(cast(Node, node), ["conntrack", "counters"])
    assert node.asked["groups"] == [
        ["cali_v4_ct4", "cali_v4_ct3", "cali_v4_ct2", "cali_v4_ct"],
        ["cali_v6_ct4", "cali_v6_ct3"],
        ["cali_counters6", "cali_counters5", "cali_counters3", "cali_counters2", "cali_counters"],
    ]


@pytest.mark.parametrize(
    ("stdout", "missing"),
    [
        (answer(), "No map of conntrack is pinned."),
        (answer(reason="/sys: Permission denied"), "/sys: Permission denied"),
        (answer((CT3 | {"error": "refused"}, b"", b"")), "cali_v4_ct3: refused"),
        (
            answer((CT3 | {"value_bytes": 64}, bytes(16), bytes(64))),
            "cali_v4_ct3: The dump has keys of 16 and values of 64 bytes",
        ),
    ],
)
def test_what_is_missing_is_said(stdout: bytes, missing: str) -> None:
    found = read(stdout, "conntrack")
    assert found.maps == ()
    (sentence,) = found.missing
    assert sentence.startswith(missing)


def test_a_version_that_is_not_known_is_named() -> None:
    head, _, packed = answer((CT3, *CONNECTION)).partition(b"\n")
    told = json.loads(head) | {"pinned": ["cali_v4_ct3", "cali_v4_ct9", "cali_v4_ct_nats"]}
    found = read(json.dumps(told).encode() + b"\n" + packed, "conntrack", "routes")
    assert [each.name for each in found.maps] == ["cali_v4_ct3"]
    assert found.missing == (
        "cali_v4_ct9 is pinned, a version that is not known here.",
        "No map of routes is pinned.",
    )


def test_a_map_that_was_cut_is_partial() -> None:
    (found,) = read(answer((CT3 | {"cut": True}, *CONNECTION)), "conntrack").maps
    assert found.decoded.partial
    assert found.decoded.remarks[0] == "Only the first 1 entries were read."


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (Fake(127), "/usr/bin/python3 is not installed"),
        (Fake(1, stderr=b"Traceback\nPermissionError: no\n"), "PermissionError: no"),
        (Fake(1), "status 1"),
    ],
)
def test_a_node_that_cannot_say(node: Fake, words: str) -> None:
    with pytest.raises(CommandError, match=words) as raised:
        map_reading.read(cast(Node, node), ["routes"])
    assert raised.value.fields["node"] == "node-1"


@pytest.mark.parametrize("stdout", [b"", b"{}\nnothing", b"no json\n"])
def test_an_answer_that_is_none(stdout: bytes) -> None:
    with pytest.raises(NodeError, match="unreadable"):
        read(stdout, "routes")
