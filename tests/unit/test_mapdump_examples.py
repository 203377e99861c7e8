"""Entries that were worked out in hexadecimal from Calico's own structs, through the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from map_bytes import BITS, WORDS, as_bpftool, state
from typer.testing import CliRunner
from unit.test_conntrack_examples import CREATED, EXAMPLES, SEEN, Example

from ebpfperf.calico.releases import minor
from ebpfperf.commands.maps import app
from ebpfperf.errors import InputError
from ebpfperf.mapdump import objects, reading

OPENED = {"src": "10.65.0.2", "sport": 43210, "dst": "10.65.1.7", "dport": 80}
THROUGH = {"src": "203.0.113.9", "sport": 50000}
TYPES = ("normal", "nat-forward", "nat-reverse")


def run(*arguments: str, text: bytes = b"") -> tuple[int, list[dict[str, Any]], str]:
    """Exit status, objects and stderr of ``ebpfperf maps decode``."""
    done = CliRunner().invoke(app, ["decode", *arguments], input=text)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def expected(example: Example) -> dict[str, Any]:
    """The object of an example's fields, whose words are those of the tests' own reader."""
    fields, release = example.fields, minor(example.release)
    found: dict[str, Any] = {"type": TYPES[fields["type"]], "flags": fields["flags"]}
    found["flag_names"] = [WORDS[bit] for bit in range(16) if fields["flags"] >> bit & 1]
    found["last_seen_ns"] = SEEN
    found |= {"created_ns": CREATED} if release < (3, 30) else {"rst_seen_ns": 0}
    if "reverse.addr_a" in fields:
        reverse = {name: fields[f"reverse.{name}"]
                   for name in ("addr_a", "port_a", "addr_b", "port_b")}  # fmt: skip
        return found | {"rev_key": {"proto": 6, **reverse}, "a_to_b": None, "b_to_a": None}
    for way in ("a_to_b", "b_to_a"):
        bits = fields[f"{way}.bits"]
        leg = {name: bool(bits >> at & 1) for at, name in enumerate(BITS)}
        leg["workload"] = leg["workload"] if release >= (3, 30) else None
        leg |= {name: fields.get(f"{way}.{name}")
                for name in ("bytes", "packets", "seqno", "ifindex")}  # fmt: skip
        found[way] = leg
    found |= {name: fields[name] for name in ("orig_ip", "orig_port", "tun_ip")}
    return found | {"tcp_state": state(found["a_to_b"], found["b_to_a"], fwd_dsr=False)}


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_every_worked_example_of_a_connection(example: Example) -> None:
    entry = bytes.fromhex(example.key), bytes.fromhex(example.value)
    options = ("conntrack", "--release", example.release, "-", "--json")
    status, (found,), said = run(*options, text=as_bpftool([entry]))
    assert (status, said) == (0, "")
    assert {name: found[name] for name in expected(example)} == expected(example)
    if found["orig_ip"] in (None, "172.16.0.11"):
        assert THROUGH.items() <= found["initiator"].items()
    else:
        assert found["initiator"] == OPENED
    # The same from a file, and with the whole dump as bytes.
    assert run(*options, text=b"".join(entry))[1] == [found]


def test_the_first_release_has_shorter_legs_without_interface() -> None:
    key = bytes.fromhex("060000000a4100020a410107caa85000")
    value = bytes.fromhex(
        "0010a5d4e8000000 007572f2e8000000 0000000000000000 1122334433000000 5566778813000000"
    ) + bytes(16)
    status, (found,), _ = run("conntrack", "--release", "v3.13", "-", "--json", text=key + value)
    assert status == 0
    assert found["a_to_b"] == {
        "bytes": None, "packets": None, "seqno": 0x11223344, "syn_seen": True, "ack_seen": True,
        "fin_seen": False, "rst_seen": False, "approved": True, "opener": True, "workload": None,
        "ifindex": None,
    }  # fmt: skip
    assert (found["tcp_state"], found["initiator"]) == ("ESTABLISHED", OPENED)


def test_the_worked_examples_of_services_and_routes() -> None:
    frontend = bytes.fromhex("380000000a60000a3500110000000000")
    value = bytes.fromhex("0600000002000000010000000000000000000000")
    _, (found,), _ = run(
        "nat", "--release", "v3.26", "-", "--json", text=as_bpftool([(frontend, value)])
    )
    assert found == {
        "proto": 17, "addr": "10.96.0.10", "port": 53, "src_cidr": "0.0.0.0/0", "id": 6, "count": 2,
        "local": 1, "affinity_timeout_s": 0, "flags": 0, "flag_names": [], "blackhole": False,
    }  # fmt: skip
    backend = bytes.fromhex("0600000001000000"), bytes.fromhex("0a41020335000000")
    _, (found,), _ = run("nat", "--release", "v3.26", "-", "--json", text=as_bpftool([backend]))
    assert found == {"id": 6, "ordinal": 1, "addr": "10.65.2.3", "port": 53}
    local = bytes.fromhex("200000000a410203"), bytes.fromhex("0f00000011000000")
    _, (found,), _ = run("routes", "--release", "v3.26", "-", "--json", text=as_bpftool([local]))
    assert found == {
        "dest": "10.65.2.3/32", "flags": 0xF, "ifindex": 17, "next_hop": None,
        "flag_names": ["in-pool", "nat-out", "workload", "local"],
    }  # fmt: skip


# ----------------------------------------------------------------------------------- the command


def test_exit_statuses_say_whether_all_some_or_nothing_was_read(tmp_path: Path) -> None:
    example = EXAMPLES["v3.26"]
    whole = as_bpftool([(bytes.fromhex(example.key), bytes.fromhex(example.value))] * 3)
    file = tmp_path / "dump.json"
    file.write_bytes(whole)
    options = ("conntrack", "--release", "v3.26", "--map", "cali_v4_ct3", str(file), "--json")
    status, found, said = run(*options)
    assert (status, len(found), said) == (0, 3, "")
    file.write_bytes(whole[:-9])
    status, found, said = run(*options)
    assert (status, len(found)) == (1, 2)
    assert said.startswith("PARTIAL: The dump is torn after entry 2")
    for broken in (b"", whole[:40], b"[", b"hello"):
        file.write_bytes(broken)
        with pytest.raises(InputError):
            run(*options)
    with pytest.raises(InputError, match="cannot be read"):
        run("conntrack", str(tmp_path / "none"), "--release", "v3.26")


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ((), 2),
        (("--address", "10.65.0.2"), 1),
        (("--address", "10.65.0.0/16"), 2),
        (("--address", "fd00::/8"), 0),
        (("--port", "30080"), 1),
        (("--proto", "tcp"), 2),
        (("--proto", "17"), 0),
        (("--state", "syn-sent"), 1),
        (("--interface", "17"), 1),
    ],
)
def test_filters(options: tuple[str, ...], count: int) -> None:
    some = [EXAMPLES[name] for name in ("v3.16", "v3.16 node port, reverse")]
    text = as_bpftool([(bytes.fromhex(one.key), bytes.fromhex(one.value)) for one in some])
    _, found, _ = run("conntrack", "--release", "v3.16", "-", "--json", *options, text=text)
    assert len(found) == count


def test_a_service_is_shown_with_its_backends() -> None:
    text = (
        b"10.96.0.1 port 443 proto 6 id 0 count 1 local 0\n\t0:0\t 10.0.0.21:6443\n"
        b"10.96.0.2 port 443 proto 6 id 1 count 1 local 0\n\t1:0\t 10.0.0.22:6443\n"
    )
    _, found, _ = run("nat", "-", "--json", "--address", "10.96.0.2", text=text)
    assert [one["addr"] for one in found] == ["10.96.0.2", "10.0.0.22"]
    _, found, _ = run("nat", "-", "--json", "--address", "10.0.0.21", text=text)
    assert [one["addr"] for one in found] == ["10.0.0.21"]
    alone = b"10.96.0.1 port 443 proto 6 id 0 count 0 local 0\n"
    _, found, _ = run("nat", "-", "--json", "--address", "10.96.0.1", text=alone)
    assert [one["addr"] for one in found] == ["10.96.0.1"]


def test_what_is_said_of_a_text_of_two_frames_is_said_once() -> None:
    text = b"10.96.0.1 port 443 proto 6 id 0 count 1 local 0\n\t0:0\t is missing\nwhat?\n"
    status, _, said = run("nat", "-", "--json", text=text)
    assert status == 1
    assert said.splitlines() == [
        "PARTIAL: 1 backends are missing.",
        "PARTIAL: 1 lines are none that the tool prints of nat.",
    ]


def test_the_table_sums_up_states_services_and_ages() -> None:
    some = [EXAMPLES[name] for name in ("v3.16", "v3.16 node port, reverse",
                                        "v3.16 node port, forward")]  # fmt: skip
    text = as_bpftool([(bytes.fromhex(one.key), bytes.fromhex(one.value)) for one in some])
    done = CliRunner().invoke(app, ["decode", "conntrack", "--release", "v3.16", "-"], input=text)
    assert done.exit_code == 0, done.output
    for words in ("cali_v4_ct2", "50.0 % of TCP", "TCP 172.16.0.11:30080", "1 connections",
                  "within 0 s", "nat-forward"):  # fmt: skip
        assert words in done.stdout


def test_filters_that_are_none_are_refused() -> None:
    for options in (("--address", "10.65"), ("--proto", "quic")):
        with pytest.raises(InputError, match=r"\."):
            run("conntrack", "--release", "v3.16", "-", *options, text=b"[]")


def test_every_table_is_printed() -> None:
    for kind in reading.KINDS:
        done = CliRunner().invoke(app, ["decode", kind, "--release", "v3.32", "-"], input=b"[]")
        assert done.exit_code == 0, (kind, done.output)
        assert "entries" in done.stdout


def test_an_object_is_made_of_every_row() -> None:
    example = EXAMPLES["v3.32"]
    (found,) = reading.decode(
        "conntrack", bytes.fromhex(example.key + example.value), release="v3.32"
    )
    assert len(list(objects.of(found))) == len(found.frame) == 1
