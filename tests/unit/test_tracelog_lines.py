"""Lines of the debug log: every prefix, tag and result; damage; many at once as one by one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebpfperf.tracelog import codes, reading, words
from ebpfperf.tracelog.grammar import ALL_KINDS, line_of
from ebpfperf.tracelog.line_frames import JSON_KEYS, frame, objects
from ebpfperf.tracelog.reading import Reading

SHAPES = Path(__file__).parents[1] / "recorded" / "tracelog" / "shapes.jsonl"
CASES = [json.loads(line) for line in SHAPES.read_text().splitlines()]
MANY = 31
READ_BY_BOTH = (
    "kind", "task", "pid", "cpu", "flags", "function", "iface", "iface_truncated", "direction",
    "ip_version", "verdict", "duration_ns", "timestamp_s",
)  # fmt: skip


def read(data: bytes, *, size: int = 1 << 22, release: tuple[int, int] | None = None) -> list[Any]:
    """The objects of a log that is read so many bytes at once."""
    one = Reading(release=release)
    return [o for t in one.tables(io.BytesIO(data), stretch_bytes=size) for o in objects(t, one)]


@pytest.mark.parametrize("case", CASES, ids=[case["what"] for case in CASES])
@pytest.mark.parametrize("times", [1, MANY], ids=["alone", "among its like"])
def test_every_shape(case: dict[str, Any], times: int) -> None:
    found = read((case["line"] + "\n").encode() * times)
    assert len(found) == times
    for one in found:
        assert tuple(one) == JSON_KEYS
        assert {key: one[key] for key in case["expect"]} == case["expect"]


def test_the_order_of_lines_is_kept_and_speed_changes_nothing() -> None:
    lines = [case["line"] for case in CASES]
    alone = [read(line.encode())[0] for line in lines]
    mixed = "".join(line + "\n" for line in lines * MANY).encode()
    assert read(mixed) == alone * MANY
    one = Reading()
    for _ in one.tables(io.BytesIO(mixed)):
        pass
    assert one.scanner.slow_lines < len(lines * MANY) / 2


@pytest.mark.parametrize("size", [1, 97, 4096])
def test_where_a_log_is_cut_into_stretches_changes_nothing(size: int) -> None:
    data = "".join(case["line"] + "\n\n" for case in CASES * 3).encode()
    assert read(data, size=size) == read(data)


def test_lines_are_numbered_with_the_blank_ones() -> None:
    data = b"\n".join(case["line"].encode() for case in CASES[:2]) + b"\n\n  \n# end"
    one = Reading()
    tables = list(one.tables(io.BytesIO(data)))
    assert [number for table in tables for number in frame(table, one)["line"]] == [1, 2, 5]
    assert one.lines == 5


def test_crlf_is_a_newline() -> None:
    data = "".join(case["line"] + "\r\n" for case in CASES * MANY).encode()
    assert read(data) == read(data.replace(b"\r\n", b"\n"))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=120), max_size=20), st.randoms(use_true_random=False))
def test_damage_is_kept_and_breaks_nothing(noise: list[bytes], chance: Any) -> None:
    """Noise between lines, and lines with bytes of noise in them."""
    lines = [case["line"].encode() for case in CASES]
    for piece in noise:
        at = chance.randrange(len(lines))
        line = lines[at]
        place = chance.randrange(len(line) + 1)
        lines[at] = line[:place] + piece + line[place:]
        lines.insert(at, piece)
    data = b"\n".join(lines)
    as_the_rules_read(data)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(CASES),
    st.lists(
        st.tuples(
            st.integers(0, 29),
            st.integers(0, 200),
            st.sampled_from([*b" -:[](){}.0123459abefINSEX#\r\t", 0, 0xC3, 0xA9, 0xFF]),
            st.sampled_from(["put", "add", "drop"]),
        ),
        max_size=25,
    ),
)
def test_lines_of_one_layout_with_a_byte_changed(
    case: dict[str, Any], changes: list[tuple[int, int, int, str]]
) -> None:
    """What nearly fits the layout of the others is read as if it stood alone."""
    lines = [bytearray(case["line"].encode()) for _ in range(30)]
    for number, place, byte, how in changes:
        line = lines[number]
        place %= len(line) or 1
        line[place : place + (how != "add")] = b"" if how == "drop" else bytes([byte])
    as_the_rules_read(b"\n".join(lines) + b"\n" + b"x" * 200)


@pytest.mark.parametrize("what", ["the v3.16 page's sample", "ALLOW rc of v3.30", "record-tgid"])
def test_every_byte_of_a_line_changed_in_turn(what: str) -> None:
    (line,) = (case["line"].encode() for case in CASES if case["what"] == what)
    changed = [
        line[:place] + bytes([byte]) + line[place + 1 :]
        for place in range(len(line))
        for byte in b":;?/ a-x9[\x00\xff"
    ]
    as_the_rules_read(b"\n".join([line, *changed] + [line] * len(changed) + [b"x" * 200]))


def test_a_name_longer_than_the_kernels_among_lines_that_are_further_right() -> None:
    rest = b"-7       [000] ..s2.  1234.000000: bpf_trace_printk: eth0------------I: CT: Miss."
    names = [b"a" * 16, b"a" * 17, b"b c", b"-" * 16, b"-" * 17] + [b"c"] * 40
    as_the_rules_read(b"\n".join(name.rjust(20) + rest for name in names) + b"\n" + b"x" * 200)


def as_the_rules_read(data: bytes) -> None:
    """AssertionError where many lines at once are read in another way than one by one."""
    found = read(data)
    one_by_one = [line_of(line.decode("utf-8", "replace")) for line in data.split(b"\n")]
    expected = [line for line in one_by_one if line is not None]
    assert [one["text"] for one in found] == [line.text for line in expected]
    for one, line in zip(found, expected, strict=True):
        for key in READ_BY_BOTH:
            assert one[key] == getattr(line, key), (key, line)


def test_values_that_share_a_key_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    data = "".join(case["line"] + "\n" for case in CASES * MANY).encode()
    expected = read(data)
    monkeypatch.setattr(words, "_MIX", (0, 0, 0, 0))
    assert read(data) == expected


NAMES = st.text("abcdefghij0123456789-_.", min_size=1, max_size=15).filter(
    lambda name: not name.endswith("-")
)
COMMS = st.text("abcXYZ-/:[]. ", min_size=1, max_size=15).filter(lambda comm: comm == comm.strip())
TEXTS = st.sampled_from(
    ["CT: Miss.", "NAT: Miss.", "New packet at ifindex=7; mark=0", "FIB lookup succeeded", "x"]
)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_what_was_put_into_lines_comes_out(data: st.DataObject) -> None:
    """Lines printed by the kernel's and Calico's formats, many with the same widths."""
    wide = data.draw(st.booleans(), label="wide")
    width, pids = (15, 7) if wide else (8, 5)
    irq, tgid = data.draw(st.booleans(), label="irq"), data.draw(st.booleans(), label="tgid")
    rows, text = [], ""
    for _ in range(data.draw(st.integers(1, 60), label="lines")):
        row: dict[str, Any] = {
            "task": data.draw(COMMS),
            "pid": data.draw(st.integers(1, 4_194_304)),
            "cpu": data.draw(st.integers(0, 511)),
            "flags": data.draw(st.text(".dbNs0123", min_size=4, max_size=4)) if irq else None,
            "timestamp_s": data.draw(st.integers(0, 10**13)) / 1_000_000,
            "iface": data.draw(NAMES),
            "direction": data.draw(st.sampled_from(["ingress", "egress", "xdp"])),
            "ip_version": data.draw(st.sampled_from([4, 6])),
            "text": data.draw(TEXTS),
            "duration_ns": None,
            "verdict": None,
        }
        if data.draw(st.booleans()):
            row["duration_ns"] = data.draw(st.integers(0, 10**10))
            row["verdict"] = data.draw(st.sampled_from(["ALLOW", "DENY"]))
            row["text"] = (
                f"Final result={row['verdict']} (7). Program execution time: {row['duration_ns']}ns"
            )
        letter = {"ingress": "I", "egress": "E", "xdp": "X"}[row["direction"]]
        tag = ("IPv6 " if row["ip_version"] == 6 else "") + row["iface"][:width].ljust(width, "-")
        if tag.endswith("-" * width):
            continue
        group = f"({row['pid']:7d}) " if tgid else ""
        flags = f"{row['flags']} " if irq else ""
        text += (
            f"{row['task']:>16}-{row['pid']:<{pids}d} {group}[{row['cpu']:03d}] {flags}"
            f"{row['timestamp_s']:12.6f}: bpf_trace_printk: {tag}-{letter}: {row['text']}\n"
        )
        row["iface"] = row["iface"][:width].rstrip("-")
        row["iface_truncated"] = not wide and len(row["iface"]) == width
        rows.append(row)
    found = read(text.encode())
    assert [{key: one[key] for key in row} for row, one in zip(rows, found, strict=True)] == rows


def test_a_huge_line_is_cut_and_what_follows_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST_BYTES", 1000)
    line = CASES[0]["line"].encode()
    one = Reading()
    data = line + b"\n" + b"x" * 5000 + b"\n" + line + b"\n"
    tables = list(one.tables(io.BytesIO(data), stretch_bytes=500))
    kinds = [ALL_KINDS[kind] for table in tables for kind in table.kind]
    assert kinds == ["result", "unparsed", "result"]
    assert one.cut_lines == 1


def test_a_frame_has_the_columns_of_the_objects() -> None:
    data = "".join(case["line"] + "\n" for case in CASES).encode()
    one = Reading()
    (table,) = one.tables(io.BytesIO(data))
    found = frame(table, one)
    assert set(JSON_KEYS) | {"line", "lost_events"} == set(found.columns)
    for row, expected in zip(found.to_dict("records"), objects(table, one), strict=True):
        assert {k: None if pd.isna(row[k]) else row[k] for k in JSON_KEYS} == expected
    lost = found.loc[found["kind"] == "lost", "lost_events"]
    assert list(lost) == [18446, 0]


def test_an_empty_log_has_no_line() -> None:
    assert read(b"") == []
    assert read(b"\n\n \n") == []


def deny(digits: str, tag: str = "cali0123456789a") -> bytes:
    return (
        f"          <idle>-0       [000] ..s2.  1234.000001: bpf_trace_printk: {tag}-E: "
        f"Final result=DENY ({digits}). Program execution time: 70ns\n"
    ).encode()


def named(data: bytes, release: tuple[int, int] | None = None) -> tuple[int | None, str]:
    last = read(data, release=release)[-1]
    return last["code"], last["code_name"]


def test_ten_is_sixteen_up_to_v3_29() -> None:
    lookup = (
        b"  <idle>-0   [000] ..s2.  1.000001: bpf_trace_printk: eth0------------I: CT: lookup from "
    )
    assert named(deny("10"))[0] is None
    assert named(deny("10"))[1].startswith("UNKNOWN")
    assert named(lookup + b"198.18.0.1:80\n" + deny("10")) == (10, "decapsulation")
    assert named(lookup + b"c6120001:80\n" + deny("10"))[0] == 16
    assert named(deny("10"), (3, 29)) == (16, "NAT interface")
    assert named(deny("10"), (3, 32)) == (10, "decapsulation")
    # Both notations in one log say nothing.
    both = lookup + b"c6120001:80\n" + lookup + b"198.18.0.1:80\n"
    assert named(both + deny("10"))[0] is None


def test_reasons_after_the_counters_move_with_the_release() -> None:
    assert named(deny("f")) == (
        15,
        "UNKNOWN: NAT interface (v3.26-v3.28) or workload not ready (v3.29)",
    )
    assert named(deny("f"), (3, 26)) == (15, "NAT interface")
    assert named(deny("f"), (3, 29)) == (15, "workload not ready")
    assert named(deny("18"), (3, 30)) == (18, "workload not ready")
    assert named(deny("26"), (3, 31)) == (26, "workload not ready")
    assert named(deny("26"), (3, 32)) == (26, "VXLAN without host IP")
    # v3.24 has eight characters and numbers of counters.
    assert named(deny("4", "eth0----")) == (4, "policy")
    assert named(deny("be", "eth0----")) == (0xBE, "policy")
    assert named(deny("6", "eth0----"))[1].startswith("UNKNOWN")
    assert named(deny("6", "eth0----"), (3, 16)) == (6, "IPv6 from workload")


def test_every_reason_has_a_name_of_its_own() -> None:
    for table in (codes.BEFORE_COUNTERS, codes.COUNTERS, codes.TC_ACTIONS):
        assert len(set(table.values())) == len(table)
