"""The debug log of the lab's own programs, in each release it presents, against one plain regex."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest

from ebpfperf.tracelog.line_frames import objects
from ebpfperf.tracelog.packets import packets_of
from ebpfperf.tracelog.reading import Reading
from ebpfperf.units import UNKNOWN

RECORDED = sorted((Path(__file__).parent / "tracelog").glob("v*.log"))
ORACLE = re.compile(
    r"^ *(?P<task>.+?)-(?P<pid>\d+) +\[(?P<cpu>\d+)\] (?P<flags>\S+) +(?P<time>[\d.]+): "
    r"(?P<function>\w+): (?P<iface>\S+?)-*-(?P<direction>[IE]): (?P<text>.*)$"
)
RESULT = re.compile(
    r"^Final result=(\w+) (?:\(|rc )(-?\w+)\)?\.(?: Program execution time: (\d+)ns)?"
)
DENIED = 7


def read(path: Path) -> list[dict[str, Any]]:
    reading = Reading()
    return [o for t in reading.tables(io.BytesIO(path.read_bytes())) for o in objects(t, reading)]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_every_line_reads_as_one_regex_reads_it(path: Path) -> None:
    lines = [line for line in path.read_text().split("\n") if line]
    found = read(path)
    assert len(found) == len(lines) > 100
    for line, one in zip(lines, found, strict=True):
        match = ORACLE.match(line)
        assert match is not None, line
        assert one["task"] == match["task"]
        assert (one["pid"], one["cpu"]) == (int(match["pid"]), int(match["cpu"]))
        assert (one["flags"], one["function"]) == (match["flags"], match["function"])
        assert one["timestamp_s"] == float(match["time"])
        assert one["iface"] == match["iface"]
        assert one["direction"] == {"I": "ingress", "E": "egress"}[match["direction"]]
        assert one["text"] == match["text"]
        assert one["kind"] not in ("other", "text", "unparsed"), line
        said = RESULT.match(match["text"])
        assert (one["verdict"] is None) == (said is None)
        if said is not None:
            base = 16 if said[1] == "DENY" and path.stem in ("v3.16", "v3.26") else 10
            assert (one["verdict"], one["code"]) == (said[1], int(said[2], base))
            assert one["duration_ns"] == (None if said[3] is None else int(said[3]))
            assert UNKNOWN not in one["code_name"]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_names_are_cut_where_the_release_cuts_them(path: Path) -> None:
    pods = {(o["iface"], o["iface_truncated"]) for o in read(path) if o["iface"].startswith("cali")}
    assert len(pods) == 2
    for name, truncated in pods:
        assert (len(name), truncated) == ((8, True) if path.stem == "v3.16" else (15, False))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_denied_packets_are_found_by_word_or_by_silence(path: Path) -> None:
    """Seven datagrams to port 5998 were sent against a deny list, and others followed."""
    frames = list(packets_of(Reading(), io.BytesIO(path.read_bytes())))
    denied = [
        row
        for frame in frames
        for row in frame.to_dict("records")
        if row["destination_port"] == 5998
    ]
    assert len(denied) == DENIED
    for row in denied:
        assert (row["verdict"], row["path"], row["why"]) == ("DENY", "dropped", "policy")
        assert (row["direction"], row["protocol"]) == ("egress", "udp")
        assert row["by_silence"] == (path.stem == "v3.16")
    others = [
        row for f in frames for row in f.to_dict("records") if row["destination_port"] != 5998
    ]
    assert not any(row["verdict"] == "DENY" for row in others)
    assert {"redirect", "host stack"} <= {row["path"] for row in others}


def test_there_is_a_log_of_each_release() -> None:
    assert [path.stem for path in RECORDED] == ["v3.16", "v3.26", "v3.30", "v3.32"]
