"""What decoding connections costs, against ``struct.unpack`` in a loop on the same bytes.

    .venv/bin/python benchmarks/maps.py [--entries N] [--turns N]

Needs neither root nor a cluster. Each turn decodes every dump once each way, in random order; a
ratio is of the two ways' times in the same turn. Ways, each from the bytes of a dump to all fields
of every entry:

- ``frame``: ``reading.decode`` of a raw dump, the frame made with addresses as text;
- ``frame, from bpftool's JSON``: the same of what ``bpftool -j map dump`` prints of these entries;
- ``objects``: ``frame`` and a Python object of every entry, as ``--json`` prints;
- ``struct``: ``struct.unpack`` of every key and value in a loop, addresses by ``inet_ntop``, flags
  and states left as bits, every entry a tuple of its fields;
- ``struct, from bpftool's JSON``: ``orjson.loads`` and ``int(…, 16)`` before it.

The first and the fourth do the same work, but that the frame also has states, words and initiator.
"""

from __future__ import annotations

import argparse
import random
import socket
import statistics
import struct
import time
from collections.abc import Callable, Mapping

import numpy as np
import orjson

from ebpfperf.mapdump import objects, reading
from ebpfperf.stats import hodges_lehmann

BASE = "struct"


def made(count: int, release: str, *, family: int, addresses: int) -> bytes:
    """A raw dump: of ten connections one is NAT forward and one NAT reverse."""
    chance = np.random.default_rng(1)
    wide, size = (4, 88) if family == 4 else (16, 128)
    if release == "v3.16":
        size = 64
    key_bytes = 8 + 2 * wide
    table = chance.integers(0, 256, (count, key_bytes + size), dtype=np.uint8)
    known = chance.integers(0, 256, (addresses, wide), dtype=np.uint8)
    table[:, 0:4] = 0
    table[:, 0] = chance.choice([6, 6, 6, 17], count)
    table[:, 4 : 4 + wide] = known[chance.integers(0, addresses, count)]
    table[:, 4 + wide : 4 + 2 * wide] = known[chance.integers(0, addresses, count)]
    value = table[:, key_bytes:]
    value[:, :16] = 0
    value[:, 8:14] = chance.integers(0, 256, (count, 6), dtype=np.uint8)
    value[:, 16] = chance.choice([0, 0, 0, 0, 0, 0, 0, 0, 1, 2], count)
    value[:, 17:24] = 0
    value[:, 17] = chance.choice([0, 1, 4], count)
    value[:, 23] = chance.integers(0, 2, count, dtype=np.uint8)
    tail = slice(48 if size == 64 else 72, size)
    value[:, tail] = 0
    # Entries of NAT point to connections between ends that are known.
    forward = np.flatnonzero(value[:, 16] == 1)
    value[forward, 24 : 24 + key_bytes] = table[chance.integers(0, count, len(forward)), :key_bytes]
    return table.tobytes()


def as_json(data: bytes, size: int, key_bytes: int) -> bytes:
    """What ``bpftool -j map dump`` prints of a raw dump."""
    words = [f'"0x{octet:02x}"' for octet in range(256)]
    parts = []
    for at in range(0, len(data), size):
        key, value = data[at : at + key_bytes], data[at + key_bytes : at + size]
        parts.append(
            '{"key":[' + ",".join([words[octet] for octet in key])
            + '],"value":[' + ",".join([words[octet] for octet in value]) + "]}"
        )  # fmt: skip
    return ("[" + ",".join(parts) + "]").encode()


def loop(release: str, family: int) -> Callable[[bytes], list[tuple[object, ...]]]:
    """``struct.unpack`` in a loop over a raw dump."""
    wide = 4 if family == 4 else 16
    key = struct.Struct(f"<I{wide}s{wide}sHH")
    head = struct.Struct("<QQBBBB3xB")
    counts = struct.Struct("<QI")
    rest = struct.Struct("<II")
    size = 64 if release == "v3.16" else 88 if family == 4 else 128
    step = 12 if release == "v3.16" else 24
    seqno = struct.Struct(">I")
    forward = struct.Struct(f"<I{wide}s{wide}sHHH")
    if release == "v3.16":
        tail, at = struct.Struct("<4sHH4s"), 48
    elif family == 4:
        tail, at = struct.Struct("<4s4sHH4s"), 72
    else:
        tail, at = struct.Struct("<16s16sHH16s"), 72
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    spell = socket.inet_ntop
    whole = key.size + size

    def decode(data: bytes) -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = []
        for start in range(0, len(data), whole):
            proto, a, b, port_a, port_b = key.unpack_from(data, start)
            value = start + key.size
            times = head.unpack_from(data, value)
            fields = [proto, spell(kind, a), port_a, spell(kind, b), port_b, *times]
            if times[2] == 1:
                proto, a, b, port_a, port_b, sport = forward.unpack_from(data, value + 24)
                fields += [proto, spell(kind, a), port_a, spell(kind, b), port_b, sport]
            else:
                for place in (value + 24, value + 24 + step):
                    if step == 24:
                        fields += counts.unpack_from(data, place)
                        place += 12
                    fields += seqno.unpack_from(data, place)
                    fields += rest.unpack_from(data, place + 4)
                for field in tail.unpack_from(data, value + at):
                    fields.append(spell(kind, field) if isinstance(field, bytes) else field)
            found.append(tuple(fields))
        return found

    return decode


def ways(release: str, family: int) -> Mapping[str, Callable[[bytes, bytes], object]]:
    """Name → what is done with a raw dump and the same as JSON."""
    unpack = loop(release, family)

    def frame(raw: bytes) -> object:
        return reading.decode("conntrack", raw, release=release, map_name=name(release, family))

    def from_json(text: bytes) -> object:
        entries = orjson.loads(text)
        return unpack(
            b"".join(
                bytes([int(octet, 16) for octet in one[part]])
                for one in entries
                for part in ("key", "value")
            )
        )

    return {
        "struct": lambda raw, text: unpack(raw),
        "frame": lambda raw, text: frame(raw),
        "objects": lambda raw, text: list(objects.of(frame(raw)[0])),  # type: ignore[index]
        "frame, from bpftool's JSON": lambda raw, text: frame(text),
        "struct, from bpftool's JSON": lambda raw, text: from_json(text),
    }


def name(release: str, family: int) -> str:
    return f"cali_v{family}_ct{ {'v3.16': 2, 'v3.26': 3, 'v3.32': 4}[release] }"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--turns", type=int, default=7)
    given = parser.parse_args()
    print(f"| {given.entries} entries | way | entries/s (median) | times the loop's |")
    print("|---|---|---|---|")
    for release, family, addresses in (
        ("v3.16", 4, 2000),
        ("v3.26", 4, 2000),
        ("v3.26", 4, 10 * given.entries),
        ("v3.32", 6, 2000),
    ):
        raw = made(given.entries, release, family=family, addresses=addresses)
        size = len(raw) // given.entries
        text = as_json(raw, size, 16 if family == 4 else 40)
        every = ways(release, family)
        seconds: dict[str, list[float]] = {way: [] for way in every}
        order = random.Random(1)
        for _ in range(given.turns):
            for way in order.sample(list(every), len(every)):
                begin = time.perf_counter()
                every[way](raw, text)
                seconds[way].append(time.perf_counter() - begin)
        some = f"{addresses} addresses" if addresses < given.entries else "every address another"
        for way, times in seconds.items():
            base = f"struct{way.removeprefix('frame').removeprefix('struct')}"
            base = BASE if base not in seconds else base
            ratios = [b / a for a, b in zip(times, seconds[base], strict=True)]
            rate = given.entries / statistics.median(times)
            print(f"| {name(release, family)}, {some} | {way} | {rate:,.0f} | "
                  f"{hodges_lehmann(ratios):.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()
