"""What is said of log levels, and of what came out of a trace pipe; no pipe is read here."""

from __future__ import annotations

import gzip

import pytest

from ebpfperf.errors import CommandTimeout
from ebpfperf.remote import Completed
from ebpfperf.trace_capture import (
    Captured,
    capture,
    file_part,
    level_sentences,
    log_level,
    older_bytes,
    recent,
    unpacked,
)
from ebpfperf.units import UNKNOWN


def pod(*variables: dict[str, object]) -> dict[str, object]:
    return {"spec": {"containers": [{"env": list(variables)}]}}


def test_a_level_is_what_felix_takes() -> None:
    assert log_level({}, {}, None) == "Off"
    assert log_level({"bpfLogLevel": ""}, {}, pod()) == "Off"
    assert log_level({"bpfLogLevel": "debug"}, {}, pod()) == "Debug"
    assert log_level({"bpfLogLevel": "Debug"}, {"bpfLogLevel": "Info"}, pod()) == "Info"
    own = pod({"name": "FELIX_BPFLOGLEVEL", "value": "off"})
    assert log_level({"bpfLogLevel": "Debug"}, {}, own) == "Off"
    elsewhere = pod({"name": "FELIX_BPFLOGLEVEL", "valueFrom": {}})
    assert log_level({"bpfLogLevel": "Debug"}, {}, elsewhere) == UNKNOWN
    assert log_level({"bpfLogLevel": "loud"}, {}, None) == UNKNOWN


def test_each_level_is_told_with_its_nodes_and_the_cost_once() -> None:
    said = level_sentences({"a": "Off", "b": "Off", "c": "Debug", "d": "Info", "e": UNKNOWN})
    assert [s for s in said if "Off on a and b" in s]
    assert [s for s in said if "Info on d" in s]
    assert [s for s in said if "UNKNOWN on e" in s]
    assert sum("set bpfLogLevel back" in s for s in said) == 1
    assert not any("back to Off" in s for s in level_sentences({"a": "Off"}))


class Pipe:
    """A node that answers with a boot id and with what its pipe would give."""

    def __init__(self, name: str, boot: str, done: Completed | None) -> None:
        self.name, self.boot, self.done = name, boot, done
        self.reads = 0

    def run(self, argv: list[str], **_: object) -> Completed:
        if argv[0] == "cat":
            return Completed(tuple(argv), 0, self.boot.encode(), b"", 0.0)
        self.reads += 1
        if self.done is None:
            raise CommandTimeout(f"{self.name} is slow.", "Look why.", node=self.name)
        return self.done


def done(status: int, log: bytes = b"", said: bytes = b"") -> Completed:
    return Completed((), status, gzip.compress(log), said, 0.0)


def test_one_reader_a_kernel() -> None:
    nodes = {n: Pipe(n, b, done(0, b"line\n" * 7)) for n, b in (("a", "1"), ("b", "2"), ("c", "1"))}
    found = capture(nodes, for_s=1.0)  # type: ignore[arg-type]
    assert [one.nodes for one in found] == [("a", "c"), ("b",)]
    assert [nodes[name].reads for name in "abc"] == [1, 1, 0]
    assert {unpacked(one) for one in found} == {b"line\n" * 7}
    assert {(one.raw_bytes, one.full, one.problem) for one in found} == {(35, False, "")}
    assert capture({}, for_s=1.0) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (done(9, said=b"4711 tc\n"), "process 4711 (tc) reads the trace pipe already"),
        (done(8), "has no trace_pipe"),
        (done(1, said=b"mktemp: no space\n"), "mktemp: no space"),
        (None, "is slow. Look why."),
    ],
)
def test_a_node_that_cannot_be_read_is_a_problem_and_no_error(
    answer: Completed | None, words: str
) -> None:
    (one,) = capture({"a": Pipe("a", "1", answer)}, for_s=1.0)  # type: ignore[dict-item]
    assert words in one.problem
    assert (one.raw_bytes, unpacked(one)) == (0, b"")


def test_what_is_older_ends_with_the_mark() -> None:
    raw = b"old\n  sh-1 [000] ..... 1.000000: tracing_mark_write: mark 77\nnew\n"
    one = Captured(("a",), gzip.compress(raw), len(raw), full=False, mark="mark 77")
    assert recent(one) == b"new\n"
    assert older_bytes(raw, "mark 78") is None
    assert older_bytes(b"mark 77", "mark 77") is None
    other = Captured(("a",), gzip.compress(raw), len(raw), full=False, mark="mark 78")
    assert recent(other) == raw


def test_a_file_is_called_by_its_nodes() -> None:
    assert file_part(["node-1", "a/b:c"]) == "node-1_a_b_c"
