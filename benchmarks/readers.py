"""What reading an iperf3 document costs, against ``orjson.loads`` alone on the same bytes.

    python benchmarks/readers.py [--turns N] [FILE…]

Each turn reads every document once each way, in random order; a ratio is of the two ways' times in
the same turn. Without FILE: documents of 60 intervals made by the local iperf3 in a network
namespace of its own (needs root), and recorded ones. Ways besides ``orjson.loads``:

- ``read``: ``iperf3_document.read``, the totals judged;
- ``read, rows``: the same, and the rows of intervals, streams and streams in intervals made;
- ``json.loads``: the standard library's loader alone.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson

from ebpfperf.loads import iperf3_document
from ebpfperf.stats import hodges_lehmann

RECORDED = Path(__file__).parents[1] / "tests" / "recorded" / "iperf3"
NETNS, PORT = "ebpfperf-readers", "5399"
BASE = "orjson.loads"
# Six seconds in 60 intervals: the same document as of a minute in seconds.
MADE = {
    "60 intervals, 1 stream": ["-t", "6", "-i", "0.1", "-b", "50M"],
    "60 intervals, 8 streams": ["-t", "6", "-i", "0.1", "-b", "5M", "-P", "8"],
    "60 intervals, 8 streams, UDP": ["-t", "6", "-i", "0.1", "-b", "1M", "-P", "8", "-u"],
    "60 intervals, 1 stream, both ways": ["-t", "6", "-i", "0.1", "-b", "50M", "--bidir"],
}
KEPT = {
    "2 intervals, 1 stream": "v3.12__tcp.json",
    "2 intervals, both ways, repeated keys (3.7)": "v3.7__bidir_tcp.json",
}


def rows(text: bytes) -> None:
    read = iperf3_document.read(text)
    _ = read.intervals, read.stream_intervals, read.stream_rows


WAYS: Mapping[str, Callable[[bytes], object]] = {
    BASE: orjson.loads,
    "read": iperf3_document.read,
    "read, rows": rows,
    "json.loads": json.loads,
}


def made() -> dict[str, bytes]:
    """Documents of the local iperf3 over a loopback that nobody else has."""
    inside = ["ip", "netns", "exec", NETNS]
    subprocess.run(["ip", "netns", "add", NETNS], check=True)
    try:
        subprocess.run(["ip", "-n", NETNS, "link", "set", "lo", "up"], check=True)
        found = {}
        for name, options in MADE.items():
            serve = [*inside, "iperf3", "-s", "-1", "-p", PORT]
            with subprocess.Popen(serve, stdout=subprocess.DEVNULL) as server:
                time.sleep(0.3)
                client = [*inside, "iperf3", "-c", "127.0.0.1", "-p", PORT, "-J", *options]
                done = subprocess.run(client, capture_output=True, check=True, timeout=30)
                server.wait(timeout=30)
            found[name] = done.stdout
    finally:
        subprocess.run(["ip", "netns", "del", NETNS], check=True)
    return found


def measure(text: bytes, *, turns: int) -> dict[str, list[float]]:
    """Way → seconds of each turn."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    order = random.Random(1)
    for _ in range(turns):
        for way in order.sample(list(WAYS), len(WAYS)):
            begin = time.perf_counter()
            WAYS[way](text)
            seconds[way].append(time.perf_counter() - begin)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--turns", type=int, default=500)
    given = parser.parse_args()
    if given.files:
        texts = {str(file): file.read_bytes() for file in given.files}
    else:
        texts = made() | {name: (RECORDED / file).read_bytes() for name, file in KEPT.items()}
    others = [way for way in WAYS if way != BASE]
    print(f"| document | kB | {BASE}, µs | " + " | ".join(f"{way}, ×" for way in others) + " |")
    print("|---|---|---|" + "---|" * len(others))
    for name, text in texts.items():
        outcome = iperf3_document.read(text)
        if outcome.reason is not None:
            raise SystemExit(f"{name} cannot be used: {outcome.reason} ({outcome.detail})")
        seconds = measure(text, turns=given.turns)
        cells = [f"{statistics.median(seconds[BASE]) * 1e6:.0f}"]
        for way in others:
            ratios = [a / b for a, b in zip(seconds[way], seconds[BASE], strict=True)]
            cells.append(f"{hodges_lehmann(ratios):.2f}")
        print(f"| {name} | {len(text) / 1000:.0f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
