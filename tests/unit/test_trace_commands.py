"""``ebpfperf trace parse``: files, standard input, JSON, stories, and what it refuses."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ebpfperf.cli import app
from ebpfperf.errors import InputError
from ebpfperf.tracelog.line_frames import JSON_KEYS
from ebpfperf.tracelog.packed import TORN

LOG = Path(__file__).parents[1] / "recorded" / "tracelog" / "v3.26.log"


def run(*argv: str, stdin: bytes | None = None) -> str:
    done = CliRunner().invoke(app, ["trace", "parse", *argv], input=stdin)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_json_is_one_object_a_line_with_the_keys_in_order() -> None:
    lines = [line for line in LOG.read_text().split("\n") if line]
    found = [json.loads(line) for line in run(str(LOG), "--json").splitlines()]
    assert len(found) == len(lines)
    assert {tuple(one) for one in found} == {JSON_KEYS}
    assert [one["text"] for one in found] == [line.split(": ", 3)[3] for line in lines]


def test_standard_input_is_a_file_like_any_other() -> None:
    assert run("-", "--json", stdin=LOG.read_bytes()) == run(str(LOG), "--json")
    wanted = ["--story", "198.19.0.0"]
    assert run("-", *wanted, stdin=LOG.read_bytes()) == run(str(LOG), *wanted)


def test_a_summary_says_what_is_distorted_and_names_files_where_there_are_several() -> None:
    said = run(str(LOG), str(LOG), "--top", "1")
    assert said.count(f"{LOG}:\n") == 2
    assert said.count("Times in this log are distorted") == 2
    assert said.count("dropped") == 2


def test_a_story_of_nobody() -> None:
    assert "no packet from or to 203.0.113.9" in run(str(LOG), "--story", "203.0.113.9")


def test_noise_and_nothing_are_read() -> None:
    assert run("-", stdin=b"").startswith("0 lines, 0 packets")
    assert "1 of 1 lines are no lines of a trace" in run("-", stdin=bytes(range(10)) + b"\xff\n")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["/nowhere/log"], "There is no file /nowhere/log."),
        (["/"], "is a directory"),
        ([str(LOG), "--release", "newest"], "'newest' is not a Calico version"),
    ],
)
def test_what_is_refused_is_said_in_a_sentence(argv: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words.replace("/", ".")) as raised:
        run(*argv)
    assert raised.value.exit_status == 2
    assert raised.value.remedy


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--for", "soon"], "--for soon is not a duration"),
        (["--for", "0s"], "--for 0s is no time"),
        (["--for", "11m"], "--for 11m is no time"),
        (["--out", str(LOG)], "exists already"),
        (["--out", "/nowhere/log"], "no directory"),
    ],
)
def test_a_capture_that_could_not_be_kept_is_refused_before_it_begins(
    argv: list[str], words: str
) -> None:
    done = CliRunner().invoke(app, ["trace", "capture", *argv])
    assert isinstance(done.exception, InputError)
    assert words in str(done.exception)


def test_who_reads_only_the_beginning_is_no_error() -> None:
    command = f"{sys.executable} -m ebpfperf.cli trace parse - --json | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        input=LOG.read_bytes() * 20, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""


@pytest.mark.parametrize("options", [(), ("--json",), ("--story", "198.19.0.0")])
def test_a_packed_log_is_read_alike(tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "log").write_bytes(gzip.compress(LOG.read_bytes()))
    assert run(str(tmp_path / "log"), *options) == run(str(LOG), *options)


def test_a_packed_log_may_come_by_standard_input_and_end_early() -> None:
    packed = gzip.compress(LOG.read_bytes())
    command = [sys.executable, "-m", "ebpfperf.cli", "trace", "parse", "-", "--json"]
    for data, said in (
        (packed, ""),
        (packed[: len(packed) // 2], TORN),
        (packed[:-8] + b"whatever", TORN),
    ):
        done = subprocess.run(command, input=data, capture_output=True, timeout=60, check=True)
        whole = run(str(LOG), "--json")
        lines = done.stdout.decode().splitlines()
        if data == packed[: len(packed) // 2]:
            # But for the last, which the tear cut.
            assert 10 < len(lines) < len(whole.splitlines())
            assert lines[:-1] == whole.splitlines()[: len(lines) - 1]
        else:
            assert done.stdout.decode() == whole
        assert said in done.stderr.decode()
        assert bool(said) == bool(done.stderr)


SIX = """\
          iperf3-7 [000] ..s2.   1.000001: bpf_trace_printk: IPv6 eth0------------I: CT: lookup \
from [fd00:0000:0000:0000:0000:0000:0000:0007]:4000
          iperf3-7 [000] ..s2.   1.000002: bpf_trace_printk: IPv6 eth0------------I: CT: lookup \
to   [fd00:0000:0000:0000:0000:0000:0000:0008]:80
          iperf3-7 [000] ..s2.   1.000003: bpf_trace_printk: IPv6 eth0------------I: Final \
result=DENY (4). Program execution time: 500ns
"""


@pytest.mark.parametrize("wanted", ["fd00::8", "fd00:0:0::0008", "[fd00::8]", "[FD00:0::8]:80"])
def test_a_story_is_found_however_its_address_is_spelled(wanted: str) -> None:
    assert "1 packets from or to" in run("-", "--story", wanted, stdin=SIX.encode())


@pytest.mark.parametrize("wanted", ["web-7", "10.65.1.7:http", "10.65.1", "[]", ""])
def test_a_story_of_what_is_no_address_is_refused(wanted: str) -> None:
    with pytest.raises(InputError, match="is no address"):
        run(str(LOG), "--story", wanted)


def test_a_story_of_a_service_is_told_to_its_end() -> None:
    """Asked for by the service's address, which the packet loses at the first hook."""
    log = LOG.with_name("v3.30.log")
    lookup = re.search(r"NAT: 1st level lookup addr=(\S+) port=80 tcp", log.read_text())
    assert lookup is not None
    first, *_ = run(str(log), "--story", f"{lookup[1]}:80").split("Packet 2:")
    backend = re.search(r"on to (\S+)\n", first)
    assert backend is not None
    hooks = [sight.splitlines() for sight in first.split("\n  +")[1:]]
    assert f"      CT: lookup to   {lookup[1]}:80" in hooks[0]
    assert len(hooks) > 1
    for hook in hooks[1:]:
        assert f"      CT: lookup to   {backend[1]}" in hook
