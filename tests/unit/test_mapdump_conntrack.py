"""Connections decoded, against an oracle that packs them field by field; every form of a dump."""

from __future__ import annotations

import codecs
import gzip
import json
import random
import struct
from typing import Any

import pytest
from map_bytes import LAYOUTS, Layout, as_bpftool, connection

from ebpfperf.errors import InputError
from ebpfperf.mapdump import objects, reading

each_layout = pytest.mark.parametrize("how", LAYOUTS, ids=lambda how: f"{how.name}-{how.release}")


def made(how: Layout, count: int, seed: int = 1) -> tuple[list[tuple[bytes, bytes]], list[Any]]:
    chance = random.Random(f"{seed} {how.name} {how.release}")
    found = [connection(chance, how) for _ in range(count)]
    return [(key, value) for key, value, _ in found], [expected for *_, expected in found]


def decoded(data: bytes, how: Layout, **more: Any) -> list[dict[str, Any]]:
    (found,) = reading.decode("conntrack", data, release=how.release, map_name=how.name, **more)
    assert not found.partial
    return list(objects.of(found))


@each_layout
def test_random_entries_are_what_they_were_made_of(how: Layout) -> None:
    entries, expected = made(how, 307)
    assert decoded(as_bpftool(entries), how) == expected


@each_layout
def test_keys_of_an_object_are_those_documented_and_in_order(how: Layout) -> None:
    entries, _ = made(how, 1)
    (found,) = decoded(as_bpftool(entries), how)
    assert list(found) == [
        "proto", "addr_a", "port_a", "addr_b", "port_b", "type", how.first, "last_seen_ns", "flags",
        "flag_names", "a_to_b", "b_to_a", "orig_ip", "orig_port", "orig_sport", "tun_ip", "rev_key",
        "nat_sport", "tcp_state", "initiator",
    ]  # fmt: skip


@each_layout
def test_every_form_of_a_dump_gives_the_same(how: Layout) -> None:
    entries, expected = made(how, 23, seed=2)
    raw = b"".join(key + value for key, value in entries)
    assert decoded(raw, how) == expected
    assert decoded(as_bpftool(entries, spaced=True), how) == expected
    lines = []
    for key, value in entries:
        lines.append(f"key:\n{key[:16].hex(' ')}")
        lines += [key[16:].hex(" ")] if len(key) > 16 else []
        rows = [value[at : at + 16] for at in range(0, len(value), 16)]
        lines += ["value:", *(f"{row[:8].hex(' ')}  {row[8:].hex(' ')}".rstrip() for row in rows)]
    text = "\n".join([*lines, f"Found {len(entries)} elements", ""]).encode()
    assert decoded(text, how) == expected


def test_the_release_alone_says_which_map() -> None:
    for how in LAYOUTS:
        if how.family == 6:
            continue
        entries, expected = made(how, 5)
        (found,) = reading.decode("conntrack", as_bpftool(entries), release=how.release)
        assert list(objects.of(found)) == expected
        assert found.version is not None
        assert found.version.name == how.name


def test_ipv6_is_told_by_the_size_of_the_key() -> None:
    for how in LAYOUTS:
        if how.family == 4:
            continue
        entries, expected = made(how, 5)
        (found,) = reading.decode("conntrack", as_bpftool(entries), release=how.release)
        assert list(objects.of(found)) == expected


def test_raw_bytes_are_of_the_map_whose_entries_they_are_whole_ones_of() -> None:
    how = next(each for each in LAYOUTS if each.name == "cali_v6_ct4")
    entries, expected = made(how, 5)
    raw = b"".join(key + value for key, value in entries)
    (found,) = reading.decode("conntrack", raw, release=how.release)
    assert list(objects.of(found)) == expected
    # Thirteen of these are as long as 21 of IPv4's, and are none of them.
    entries, expected = made(how, 13)
    raw = b"".join(key + value for key, value in entries)
    assert len(raw) == 21 * 104
    (found,) = reading.decode("conntrack", raw, release=how.release)
    assert list(objects.of(found)) == expected
    # A torn dump of IPv4's may be as long as whole entries of IPv6.
    how = next(each for each in LAYOUTS if each.name == "cali_v4_ct4" and each.release == "v3.32")
    entries, expected = made(how, 5)
    raw = b"".join(key + value for key, value in entries)[: 3 * 168]
    (torn,) = reading.decode("conntrack", raw, release=how.release)
    assert list(objects.of(torn)) == expected[:4]
    assert torn.partial


def test_without_release_the_first_word_tells_the_two_meanings_of_map_3() -> None:
    old, new = (how for how in LAYOUTS if how.name == "cali_v4_ct3")
    entries, expected = made(old, 40)
    (found,) = reading.decode("conntrack", as_bpftool(entries), map_name=old.name)
    assert list(objects.of(found)) == expected
    entries = [(key, bytes(8) + value[8:]) for key, value in made(new, 40)[0]]
    (found,) = reading.decode("conntrack", as_bpftool(entries), map_name=new.name)
    assert "rst_seen_ns" in found.frame
    assert (found.frame["rst_seen_ns"] == 0).all()


def test_a_release_that_the_first_word_contradicts_is_said() -> None:
    old, new = (how for how in LAYOUTS if how.name == "cali_v4_ct3")
    entries, _ = made(old, 40)
    (found,) = reading.decode("conntrack", as_bpftool(entries), release=new.release)
    assert found.remarks == ("v3.30 has rst_seen_ns; it looks like created_ns.",)
    (found,) = reading.decode("conntrack", as_bpftool(entries), release=old.release)
    assert found.remarks == ()


# ------------------------------------------------------------------------ what is wrong with dumps


@pytest.mark.parametrize("how", LAYOUTS[1:9:3], ids=lambda how: f"{how.name}-{how.release}")
def test_raw_bytes_cut_anywhere_give_the_whole_entries(how: Layout) -> None:
    entries, expected = made(how, 2)
    raw = b"".join(key + value for key, value in entries)
    size = len(raw) // 2
    for end in range(1, len(raw)):
        if end < size:
            # Few bytes may happen to be text.
            with pytest.raises(InputError):
                reading.decode("conntrack", raw[:end], map_name=how.name)
            continue
        (found,) = reading.decode("conntrack", raw[:end], release=how.release, map_name=how.name)
        assert list(objects.of(found)) == expected[: end // size]
        assert found.partial == (end % size != 0)
        assert any("torn" in remark for remark in found.remarks) == found.partial


def test_json_cut_anywhere_gives_the_whole_entries() -> None:
    routes = [
        (bytes([32, 0, 0, 0, 10, 65, 0, at]), bytes([12, 0, 0, 0, at, 0, 0, 0])) for at in range(3)
    ]
    text = as_bpftool(routes)
    ends = [at + 1 for at, octet in enumerate(text) if octet == ord("}")]
    for end in range(1, len(text)):
        whole = sum(one <= end for one in ends)
        if not whole:
            with pytest.raises(InputError):
                reading.decode("routes", text[:end], release="v3.26")
            continue
        (found,) = reading.decode("routes", text[:end], release="v3.26")
        assert found.frame["ifindex"].tolist() == list(range(whole)), end
        assert found.partial
        assert "torn" in found.remarks[0]


def test_entries_of_another_size_are_left_out_and_said() -> None:
    how = LAYOUTS[2]
    entries, expected = made(how, 4)
    entries[1] = (entries[1][0], entries[1][1][:-1])
    (found,) = reading.decode("conntrack", as_bpftool(entries), release=how.release)
    assert list(objects.of(found)) == [expected[0], *expected[2:]]
    assert found.partial
    assert found.remarks == (
        "1 of 4 entries are of another size than the others (key 16, value 88 bytes).",
    )


def test_a_byte_that_is_none_is_an_entry_that_is_none() -> None:
    how = LAYOUTS[2]
    entries, expected = made(how, 3)
    text = as_bpftool(entries)
    at = text.index(b"0x", text.index(b"value"))
    broken = text[: at + 2] + b"zz" + text[at + 4 :]
    (found,) = reading.decode("conntrack", broken, release=how.release)
    assert list(objects.of(found)) == expected[1:]
    assert found.partial


def test_an_entry_of_no_known_type_is_kept_without_its_body() -> None:
    how = LAYOUTS[2]
    entries, expected = made(how, 2)
    key, value = entries[0]
    entries[0] = key, value[:16] + b"\x07" + value[17:]
    (found,) = reading.decode("conntrack", as_bpftool(entries), release=how.release)
    first, second = objects.of(found)
    assert second == expected[1]
    assert first["type"] is None
    assert first["a_to_b"] is first["b_to_a"] is first["orig_ip"] is first["rev_key"] is None
    assert found.partial
    assert "no known type" in found.remarks[0]
    with pytest.raises(InputError, match="None of 1 entries"):
        reading.decode("conntrack", as_bpftool(entries[:1]), release=how.release)


@pytest.mark.parametrize(
    ("data", "options", "sentence"),
    [
        (b"", {"release": "v3.26"}, "empty"),
        (b"\n", {"release": "v3.26"}, "empty"),
        (b"[]", {"release": "banana"}, "not a Calico version"),
        (b"[]", {"release": "v9.99"}, "not known here"),
        (b"[]", {"release": "v3.12"}, "not known here"),
        (b"[]", {"map_name": "cali_v4_ct9"}, "no version of one"),
        (b"[]", {"map_name": "cali_v4_routes"}, "no map of conntrack"),
        (b'{"error":"can\'t get map"}', {"release": "v3.26"}, "could not dump the map: can't get"),
        (b"{}", {"release": "v3.26"}, "no map's dump"),
        (b'[{"key":1}]', {"release": "v3.26"}, "no entry that can be read"),
        (b"what is this\n", {"release": "v3.26"}, "No line is one of calico-bpf conntrack"),
        (b"\0\1\2", {"release": "v3.26"}, "has 3 bytes, and one entry is 104"),
        (b"\0\1\2", {}, "nothing says of which map"),
        (b"key:\nzz\n", {"release": "v3.26"}, "no entry that can be read"),
    ],
)
def test_what_cannot_be_decoded_is_one_sentence(
    data: bytes, options: dict[str, str], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence) as raised:
        reading.decode("conntrack", data, **options)  # type: ignore[arg-type]
    assert raised.value.remedy.endswith(".")
    assert raised.value.exit_status == 2


def test_sizes_of_another_version_are_refused_with_its_name() -> None:
    entries, expected = made(LAYOUTS[1], 2)
    with pytest.raises(InputError, match=r"values of 64 bytes; cali_v4_ct3 of v3\.26") as raised:
        reading.decode("conntrack", as_bpftool(entries), release="v3.26")
    assert "--map cali_v4_ct2" in raised.value.remedy
    # An older map stays pinned after an upgrade: the name wins, and it is said.
    (found,) = reading.decode(
        "conntrack", as_bpftool(entries), release="v3.26", map_name="cali_v4_ct2"
    )
    assert [one["a_to_b"] for one in objects.of(found)] == [one["a_to_b"] for one in expected]
    assert "of v3.14 to v3.23, not of v3.26" in found.remarks[0]


def test_an_empty_map_has_no_entries() -> None:
    (found,) = reading.decode("conntrack", b"[]\n", release="v3.32")
    assert found.frame.empty
    assert not found.partial
    assert "a_to_b_bytes" in found.frame


def test_what_bpftool_could_not_read_is_said_in_its_words() -> None:
    entries, expected = made(LAYOUTS[2], 3)
    document = json.loads(as_bpftool(entries))
    document[1]["value"] = {"error": "No such file or directory"}
    for data in (json.dumps(document), json.dumps(document) + '\n{"error":"Interrupted"}\n'):
        (found,) = reading.decode("conntrack", data.encode(), release="v3.26")
        assert found.partial
        assert found.remarks[0] == "bpftool could not read 1: No such file or directory."
        assert list(objects.of(found)) == [expected[0], expected[2]]
    assert found.remarks[1:] == ("bpftool could not read 1: Interrupted.",)


def test_dumps_that_follow_each_other_are_read_as_one() -> None:
    entries, expected = made(LAYOUTS[2], 4)
    both = as_bpftool(entries[:1]) + b"\n" + as_bpftool(entries[1:])
    assert decoded(both, LAYOUTS[2]) == expected
    (found,) = reading.decode("conntrack", both.rstrip().removesuffix(b"]"), release="v3.26")
    assert found.partial
    assert found.remarks[0].startswith("The dump is torn after entry 4")


def test_a_protocol_that_there_is_not_is_no_connection() -> None:
    entries, _ = made(LAYOUTS[2], 2)
    wrong = struct.pack("<I", 0x10006) + entries[0][0][4:]
    mixed = as_bpftool([(wrong, entries[0][1]), entries[1]])
    (found,) = reading.decode("conntrack", mixed, release="v3.26")
    assert found.partial
    assert found.remarks == ("1 of 2 entries have a protocol above 255.",)
    with pytest.raises(InputError, match="None of 1 entries is of a type and protocol"):
        reading.decode("conntrack", as_bpftool([(wrong, entries[0][1])]), release="v3.26")


def test_a_name_may_be_the_pins_path_and_a_byte_order_mark_is_none_of_it() -> None:
    entries, expected = made(LAYOUTS[2], 2)
    (found,) = reading.decode(
        *("conntrack", codecs.BOM_UTF8 + as_bpftool(entries)),
        release="v3.26",
        map_name="/sys/fs/bpf/tc/globals/cali_v4_ct3",
    )
    assert list(objects.of(found)) == expected


def test_a_packed_dump_is_refused() -> None:
    entries, _ = made(LAYOUTS[2], 20)
    for data in (as_bpftool(entries), b"".join(key + value for key, value in entries)):
        with pytest.raises(InputError, match="packed with gzip") as raised:
            reading.decode("conntrack", gzip.compress(data), release="v3.26")
        assert "zcat FILE | ebpfperf maps decode conntrack -" in raised.value.remedy


def test_a_bit_that_two_releases_mean_differently_has_no_word_without_one() -> None:
    how = next(how for how in LAYOUTS if how.release == "v3.32")
    ((key, value),), _ = made(how, 1)
    value = value[:16] + bytes(8) + value[24:]
    value = value[:23] + b"\x80" + value[24:]
    data = as_bpftool([(key, value)])
    said = {
        release: next(objects.of(reading.decode("conntrack", data, release=release)[0]))
        for release in ("v3.31", "v3.32", None)
    }
    words = [one["flag_names"] for one in said.values()]
    assert words == [["cluster-external"], ["dscp"], ["0x8000"]]
