"""What reading the debug log costs, against a plain loop with one regex over its lines.

    python benchmarks/trace.py [--turns N] [--lines N] [FILE…]

Each turn reads every log once each way, in random order; a ratio is of the two ways' times in the
same turn. Without FILE: the recorded logs of each release, repeated with other addresses, ports and
durations up to so many lines. Ways:

- ``regex loop``: one expression with named groups, matched line by line, its numbers made numbers,
  a tuple for each line (``loop`` here);
- ``regex loop, frame``: that, and a pandas frame of the tuples, as the next way makes one;
- ``columns``: ``tracelog``, every part of every line as numpy and Arrow columns, by stretches;
- ``frame``: that, and a pandas frame made of each stretch;
- ``packets``: ``columns``, and packets with their flows made of the lines;
- ``json``: one JSON object a line, to nowhere.
"""

from __future__ import annotations

import argparse
import io
import random
import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson
import pandas as pd

from ebpfperf.stats import hodges_lehmann
from ebpfperf.tracelog.line_frames import frame, objects
from ebpfperf.tracelog.packets import packets_of
from ebpfperf.tracelog.reading import Reading

RECORDED = Path(__file__).parents[1] / "tests" / "recorded" / "tracelog"
BASE = "regex loop"
LINE = re.compile(
    r"^ *(?P<task>.{1,16}?)-(?P<pid>\d+) +(?:\( *[\d-]+\) +)?\[(?P<cpu>\d+)\] +"
    r"(?:(?P<flags>[^\s:]{4,5}) +)?(?P<time>\d+\.\d{6}): (?P<function>[^\s:]+): ?"
    r"(?:(?P<six>IPv6 )?(?P<iface>[!-.0-9;-~]{8}|[!-.0-9;-~]{15})-(?P<direction>[IEXC]): )?"
    r"(?P<text>(?:Final result=(?P<verdict>ALLOW|DENY) (?:\((?P<code>[^)]*)\)|rc (?P<rc>-?\d+))\. "
    r"(?:Program execution time: (?P<duration>\d+)ns)?)?.*)$"
)
LOOP_COLUMNS = [
    "task", "pid", "cpu", "flags", "timestamp_s", "function", "iface", "direction", "ip_version",
    "text", "verdict", "code", "duration_ns",
]  # fmt: skip


def loop(data: bytes) -> list[tuple[object, ...]]:
    """A row for each line that matches, its numbers as numbers."""
    rows: list[tuple[object, ...]] = []
    for line in data.decode("utf-8", "replace").split("\n"):
        match = LINE.match(line)
        if match is None:
            continue
        (task, pid, cpu, flags, seconds, function, six, iface, direction, text, verdict, code, rc,
         duration) = match.groups()  # fmt: skip
        rows.append((
            task, int(pid), int(cpu), flags, float(seconds), function,
            iface and iface.rstrip("-"), direction, 6 if six else 4, text, verdict, code or rc,
            int(duration) if duration else None,
        ))  # fmt: skip
    return rows


def loop_frame(data: bytes) -> pd.DataFrame:
    return pd.DataFrame(loop(data), columns=LOOP_COLUMNS)


def columns(data: bytes) -> None:
    for _ in Reading().tables(io.BytesIO(data)):
        pass


def frames(data: bytes) -> None:
    reading = Reading()
    for table in reading.tables(io.BytesIO(data)):
        frame(table, reading)


def packets(data: bytes) -> None:
    for _ in packets_of(Reading(), io.BytesIO(data)):
        pass


def json(data: bytes) -> None:
    reading = Reading()
    for table in reading.tables(io.BytesIO(data)):
        for one in objects(table, reading):
            orjson.dumps(one)


WAYS: Mapping[str, Callable[[bytes], object]] = {
    BASE: loop,
    "regex loop, frame": loop_frame,
    "columns": columns,
    "frame": frames,
    "packets": packets,
    "json": json,
}


def repeated(data: bytes, lines: int, *, seed: int) -> bytes:
    """A log of about so many lines: ``data`` again and again, its numbers changed each time."""
    chance = random.Random(seed)
    text = data.decode()
    found: list[str] = []
    count = text.count("\n")
    for shift in range(0, lines, count):

        def later(match: re.Match[str], shift: int = shift) -> str:
            micros = (int(match[2]) + shift * 7919) % 10**6
            return f" {int(match[1]) + shift // count}.{micros:06d}: "

        other = re.sub(r" (\d{2,})\.(\d{6}): ", later, text)
        other = re.sub(r": \d+ns", lambda _: f": {chance.randrange(500, 60_000)}ns", other)
        ports = rf"\1:{chance.randrange(1024, 65_536)}"
        found.append(re.sub(r"(lookup from [^ :\n]+):\d+", ports, other))
    return "".join(found).encode()


def measure(data: bytes, *, turns: int) -> dict[str, list[float]]:
    """Way → seconds of each turn."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    order = random.Random(1)
    for _ in range(turns):
        for way in order.sample(list(WAYS), len(WAYS)):
            begin = time.perf_counter()
            WAYS[way](data)
            seconds[way].append(time.perf_counter() - begin)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--lines", type=int, default=300_000)
    given = parser.parse_args()
    if given.files:
        logs = {str(file): file.read_bytes() for file in given.files}
    else:
        logs = {
            file.stem: repeated(file.read_bytes(), given.lines, seed=1)
            for file in sorted(RECORDED.glob("v*.log"))
        }
    others = [way for way in WAYS if way != BASE]
    print("| log | lines | MB | " + " | ".join(f"{way}, lines/s" for way in WAYS) + " | "
          + " | ".join(f"{way}, ×" for way in others) + " |")  # fmt: skip
    print("|---|---|---|" + "---|" * (len(WAYS) + len(others)))
    for name, data in logs.items():
        # Up to v3.29 every other line is blank.
        lines = sum(1 for line in data.split(b"\n") if line)
        seconds = measure(data, turns=given.turns)
        cells = [f"{lines / statistics.median(seconds[way]):,.0f}" for way in WAYS]
        for way in others:
            ratios = [a / b for a, b in zip(seconds[BASE], seconds[way], strict=True)]
            cells.append(f"{hodges_lehmann(ratios):.1f}")
        print(f"| {name} | {lines:,} | {len(data) / 1e6:.0f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
