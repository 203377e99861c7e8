"""Conntrack entries worked out in hex, by release: read by the lab's tests and its sweeper."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from lab.calico_bytes import (
    ACK,
    APPROVED,
    NP_FWD,
    OPENER,
    SYN,
    WORKLOAD,
    End,
    connection,
    connection_key,
    forward,
    key_of,
    tracked,
)

from ebpfperf.lab import sweeper

TCP = 6
CREATED, SEEN = 1_000_000_000_000, 1_000_500_000_000
TIMES = "0010a5d4e8000000 007572f2e8000000"
TIMES_SINCE_V330 = "0000000000000000 007572f2e8000000"

# An established connection, opened by A.
OPENED = End("10.65.0.2", 43210, SYN | ACK | APPROVED | OPENER | WORKLOAD, 17, 12, 3456, 0x11223344)
ANSWERED = End("10.65.1.7", 80, SYN | ACK | APPROVED, 18, 10, 98765, 0x55667788)
# A SYN to a node port of a node without backend, opened by B; forwarded to 172.16.0.12.
CLIENT = End("203.0.113.9", 50000, SYN | APPROVED | OPENER, 2, 1, 74, 0x01020304)
NODE_PORT = End("172.16.0.11", 30080)
BACKEND = End("10.65.2.3", 8080, APPROVED)
BACKEND_NODE = "172.16.0.12"


@dataclass(frozen=True)
class Example:
    release: str
    key: str
    value: str
    ends: tuple[End, End]
    fields: dict[str, Any]


def established(release: str, value: str) -> Example:
    fields = tracked(release, OPENED, ANSWERED)
    key = "06000000 0a410002 0a410107 caa8 5000"
    return Example(release, key, f"{value} {bytes(16).hex()}", (OPENED, ANSWERED), fields)


def through_the_node(release: str, value: str) -> Example:
    fields = tracked(release, CLIENT, BACKEND, service=NODE_PORT, tun_ip=BACKEND_NODE, flags=NP_FWD)
    return Example(
        release, "06000000 0a410203 cb007109 901f 50c3", value, (CLIENT, BACKEND), fields
    )


EXAMPLES = {
    "v3.16": established(
        "v3.16",
        f"{TIMES} 0000000000000000 11223344 33000000 11000000 55667788 13000000 12000000",
    ),
    "v3.26": established(
        "v3.26",
        f"{TIMES} 0000000000000000"
        " 800d000000000000 0c000000 11223344 33000000 11000000"
        " cd81010000000000 0a000000 55667788 13000000 12000000",
    ),
    **{
        release: established(
            release,
            f"{TIMES_SINCE_V330} 0000000000000000"
            " 800d000000000000 0c000000 11223344 73000000 11000000"
            " cd81010000000000 0a000000 55667788 13000000 12000000",
        )
        for release in ("v3.30", "v3.32")
    },
    "v3.16 node port, forward": Example(
        "v3.16",
        "06000000 cb007109 ac10000b 50c3 8075",
        f"{TIMES} 0100000000000000 06000000 0a410203 cb007109 901f 50c3 {bytes(24).hex()}",
        (CLIENT, NODE_PORT),
        forward(TCP, CLIENT, BACKEND),
    ),
    "v3.16 node port, reverse": through_the_node(
        "v3.16",
        f"{TIMES} 0204000000000000 00000000 10000000 00000000 01020304 31000000 02000000"
        " ac10000b 8075 0000 ac10000c 00000000",
    ),
    "v3.32 node port, reverse": through_the_node(
        "v3.32",
        f"{TIMES_SINCE_V330} 0204000000000001"
        " 0000000000000000 00000000 00000000 10000000 00000000"
        " 4a00000000000000 01000000 01020304 31000000 02000000"
        " ac10000c ac10000b 8075 0000 00000000",
    ),
}
each_example = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)


@each_example
def test_the_tests_own_reader_agrees_with_the_example(example: Example) -> None:
    assert connection_key(bytes.fromhex(example.key)) == key_of(TCP, *example.ends)
    created = CREATED if example.release in ("v3.16", "v3.26") else 0
    times = {"word0": created, "last_seen": SEEN}
    assert connection(bytes.fromhex(example.value), example.release) == example.fields | times


def test_the_tests_own_reader_sees_a_byte_that_no_field_explains() -> None:
    value = bytearray.fromhex(EXAMPLES["v3.26"].value)
    value[19] = 1
    with pytest.raises(AssertionError, match="padding is not zero"):
        connection(bytes(value), "v3.26")


def test_the_last_octet_tells_which_end_is_a() -> None:
    near, far = replace(OPENED, address="10.65.0.9"), replace(ANSWERED, address="10.65.1.7")
    found = key_of(TCP, near, far)
    assert (found["addr_a"], found["addr_b"]) == (far.address, near.address)
    same = key_of(TCP, End("10.65.0.9", 9), End("10.65.0.9", 8))
    assert (same["port_a"], same["port_b"]) == (8, 9)


@each_example
def test_the_sweeper_reads_the_example(example: Example) -> None:
    key, value = bytes.fromhex(example.key), bytes.fromhex(example.value)
    found = sweeper.read(key, value)
    assert (found.protocol, found.last_seen_ns) == (TCP, SEEN)
    assert found.kind == example.fields["type"]
    assert found.flags == example.fields["flags"] & 0xFF
    if "reverse.protocol" in example.fields:
        expected = {name.removeprefix("reverse."): field for name, field in example.fields.items()}
        reverse = connection_key(found.reverse)
        assert reverse == {name: expected[name] for name in reverse}
    else:
        assert found.bits == (example.fields["a_to_b.bits"], example.fields["b_to_a.bits"])
        open_for_s = 3600 if example.fields["type"] == 0 else 20
        assert sweeper.timeout_s(found, sweeper.timeouts_of({}, example.release)) == open_for_s
