"""What was recorded is what is answered, and nothing else."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpfperf.errors import (
    CommandError,
    CommandTimeout,
    ConnectError,
    InputError,
    NodeError,
    OutputLimitError,
)
from ebpfperf.recorder import Recorder, replacing
from ebpfperf.remote import Completed, Node
from ebpfperf.replay import ReplayNode, from_json, to_json


class ScriptedStream:
    """Echoes lines; the line ``hang`` times out, the line ``end`` ends it."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def read_line(self, *, timeout_s: float) -> bytes:
        line = self.heard.pop(0)
        if line == b"hang":
            raise CommandTimeout("rack-7: cat did not answer.", "Wait.", timeout_s=timeout_s)
        if line == b"end":
            raise CommandError("rack-7: cat ended with status 3.", "See why.", status=3)
        return line

    def write_line(self, line: bytes) -> None:
        self.heard.append(line)

    def stop(self, *, timeout_s: float = 5.0) -> Completed:
        return Completed(("cat",), 3, b"", b"bye from rack-7", 1.5)

    def wait(self, *, timeout_s: float) -> Completed:
        raise CommandTimeout("rack-7: cat did not end.", "Wait.", timeout_s=timeout_s)

    def __enter__(self) -> ScriptedStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class LocalNode:
    """Runs commands here: enough of a node to have something to record."""

    name = "rack-7"

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.closed = False

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 30.0,
        input: bytes | None = None,
        check: bool = True,
        sudo: bool = True,
        limit_bytes: int = 16_000_000,
    ) -> Completed:
        if argv[0] == "lost":
            raise ConnectError("rack-7: the SSH connection was lost.", "Check it.", node="rack-7")
        done = subprocess.run(list(argv), input=input or b"", capture_output=True, check=False)
        return Completed(tuple(argv), done.returncode, done.stdout, done.stderr, 0.25)

    def put(self, data: bytes, path: str, *, mode: int = 0o644) -> None:
        self.files[path] = data

    def get(self, path: str, *, limit_bytes: int = 64_000_000) -> bytes:
        if path not in self.files:
            raise CommandError(f"rack-7: no {path}", "", status=1)
        if len(self.files[path]) > limit_bytes:
            raise OutputLimitError("too much", "", limit_bytes=limit_bytes)
        return self.files[path]

    def stream(
        self,
        argv: Sequence[str],
        *,
        sudo: bool = True,
        limit_bytes: int = 16_000_000,
        grace_s: float = 0.3,
    ) -> ScriptedStream:
        return ScriptedStream()

    def close(self) -> None:
        self.closed = True


def outcome(act: Callable[[], Any]) -> Any:
    """What an act yields, an error included, in a form that compares."""
    try:
        result = act()
    except NodeError as error:
        return type(error), error.what, error.remedy, error.fields.get("status")
    return result


def everything(node: Node, tmp_path: Path) -> list[Any]:
    """Some of all that can be asked of a node, and what came of it."""
    counter = tmp_path / "count"
    count = [
        "sh",
        "-c",
        f"n=$(cat {counter} 2>/dev/null || echo 0); echo $n; echo $((n+1)) >{counter}",
    ]
    seen = [
        outcome(lambda: node.run(["echo", "a b", "", "µ"])),
        outcome(lambda: node.run(["cat"], input=bytes(range(256)))),
        outcome(lambda: node.run(["cat"], input=b"other")),
        outcome(lambda: node.run(["cat"])),
        outcome(lambda: node.run(["sh", "-c", "echo no >&2; exit 3"], check=False)),
        outcome(lambda: node.run(["sh", "-c", "echo no >&2; exit 3"])),
        outcome(lambda: node.run(["lost"])),
        *[outcome(lambda: node.run(count)) for _ in range(3)],
        outcome(lambda: node.put(b"\xff\x00", "/tmp/a")),
        outcome(lambda: node.get("/tmp/a")),
        outcome(lambda: node.get("/tmp/b")),
        outcome(lambda: node.get("/tmp/a", limit_bytes=1)),
    ]
    with node.stream(["cat"]) as stream:
        for line in (b"one", b"\xfe", b"", b"hang", b"two", b"end"):
            stream.write_line(line)
            seen.append(outcome(lambda: stream.read_line(timeout_s=1)))
        seen.append(outcome(lambda: stream.wait(timeout_s=1)))
        seen.append(outcome(stream.stop))
    return seen


def test_a_replay_answers_as_the_node_did(tmp_path: Path) -> None:
    node = LocalNode()
    recorder = Recorder(node, tmp_path / "node.json")
    recorded = everything(recorder, tmp_path)
    recorder.close()
    assert node.closed
    assert isinstance(recorder, Node)
    replay = ReplayNode.load(tmp_path / "node.json")
    assert isinstance(replay, Node)
    assert replay.name == "rack-7"
    assert everything(replay, tmp_path) == recorded
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []


def test_repeated_commands_answer_in_order_and_the_last_repeats(tmp_path: Path) -> None:
    recorder = Recorder(LocalNode(), tmp_path / "node.json")
    count = ["sh", "-c", f"echo x >>{tmp_path}/n; wc -l <{tmp_path}/n"]
    assert [recorder.run(count).text.strip() for _ in range(3)] == ["1", "2", "3"]
    recorder.save()
    replay = ReplayNode.load(tmp_path / "node.json")
    assert [replay.run(count).text.strip() for _ in range(5)] == ["1", "2", "3", "3", "3"]


def test_an_unknown_command_names_itself_and_the_nearest(tmp_path: Path) -> None:
    recorder = Recorder(LocalNode(), tmp_path / "node.json")
    recorder.run(["echo", "link", "show", "eth0"])
    recorder.run(["cat"], input=b"x")
    recorder.save()
    replay = ReplayNode.load(tmp_path / "node.json")
    with pytest.raises(NodeError, match="no answer to: run echo link show eth1") as caught:
        replay.run(["echo", "link", "show", "eth1"])
    assert "run echo link show eth0" in caught.value.remedy
    with pytest.raises(NodeError, match="run cat with this input"):
        replay.run(["cat"], input=b"y")
    for ask in (
        lambda: replay.get("/none"),
        lambda: replay.put(b"", "/none"),
        lambda: replay.stream(["cat"]),
    ):
        with pytest.raises(NodeError, match="has no answer to"):
            ask()
    with pytest.raises(NodeError, match="has no answer") as caught:
        ReplayNode("bare", []).run(["true"])
    assert "empty" in caught.value.remedy


def test_a_stream_that_goes_otherwise_is_refused(tmp_path: Path) -> None:
    recorder = Recorder(LocalNode(), tmp_path / "node.json")
    with recorder.stream(["cat"]) as stream:
        for line in (b"one", b"two"):
            stream.write_line(line)
            stream.read_line(timeout_s=1)
    recorder.save()
    replay = ReplayNode.load(tmp_path / "node.json")
    with replay.stream(["cat"]) as again:
        with pytest.raises(NodeError, match="now a line is read, then b'one' was written"):
            again.read_line(timeout_s=1)
        with pytest.raises(NodeError, match="now b'three' is written, then it was b'one'"):
            again.write_line(b"three")
        again.write_line(b"one")
        again.write_line(b"two")
        assert again.read_line(timeout_s=1) == b"two"
        with pytest.raises(CommandError, match="ended with status 3"):
            again.read_line(timeout_s=1)
        with pytest.raises(NodeError, match="nothing more was"):
            again.write_line(b"three")


def test_nothing_redacted_is_written(tmp_path: Path) -> None:
    secret, name = "t0k3n", "rack-7"
    redact = replacing({secret: "TOKEN", name: "node-1", "rack-77": "node-2", "node-1": "other"})
    recorder = Recorder(LocalNode(), tmp_path / "node.json", redact=redact)
    assert recorder.run(["echo", f"{secret} on {name}, rack-77"]).text.startswith(secret)
    recorder.run(["cat"], input=secret.encode())
    recorder.put(b"", f"/tmp/{secret}")
    for argv in (["sh", "-c", f"echo {secret} >&2; exit 1"], ["lost", secret]):
        with contextlib.suppress(NodeError):
            recorder.run(argv)
    with recorder.stream(["cat", secret]) as stream:
        for line in (secret.encode(), b"hang"):
            stream.write_line(line)
            with contextlib.suppress(NodeError):
                stream.read_line(timeout_s=1)
    recorder.save()
    text = (tmp_path / "node.json").read_text()
    assert secret not in text
    assert name not in text
    replay = ReplayNode.load(tmp_path / "node.json")
    assert replay.name == "node-1"
    assert replay.run(["echo", "TOKEN on node-1, node-2"]).text == "TOKEN on node-1, node-2\n"
    assert replay.run(["cat"], input=b"TOKEN").text == "TOKEN"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"schema": 2, "node": "a", "exchanges": []}', '{"schema": 1}', "\x00"],
)
def test_no_recording_is_an_input_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad").write_text(text)
    with pytest.raises(InputError, match="no recording of a node"):
        ReplayNode.load(tmp_path / "bad")
    with pytest.raises(InputError, match="no recording of a node"):
        ReplayNode.load(tmp_path / "missing")


@given(st.binary())
def test_bytes_survive(data: bytes) -> None:
    assert from_json(json.loads(json.dumps(to_json(data)))) == data
