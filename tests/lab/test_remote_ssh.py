"""The real thing against a real sshd on loopback, with keys and configuration of its own."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest
from lab.ssh_server import LIMIT_S, Server, processes, serve, stands, stubborn, until

from ebpfperf.errors import (
    CommandError,
    CommandTimeout,
    ConnectError,
    OutputLimitError,
)
from ebpfperf.recorder import Recorder
from ebpfperf.remote import Completed, Node, SSHNode
from ebpfperf.replay import ReplayNode
from ebpfperf.ssh_config import resolve

pytestmark = [pytest.mark.lab, pytest.mark.beside]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = serve(tmp_path_factory.mktemp("sshd"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def server_with_bash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on a distribution whose ``sh`` is bash."""
    directory = tmp_path_factory.mktemp("sshd-bash")
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("missing: bash (Debian package bash)")
    (directory / "bin").mkdir()
    (directory / "bin" / "sh").symlink_to(bash)
    server = serve(directory, env=f"PATH={directory}/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    yield server
    server.close()


@pytest.fixture(scope="module", params=["server", "server_with_bash"], ids=["sh", "bash"])
def node(request: pytest.FixtureRequest) -> Iterator[SSHNode]:
    server = request.getfixturevalue(request.param)
    node = SSHNode.connect("node-1", ssh_config=server.config())
    yield node
    node.close()


@pytest.fixture
def marker() -> Iterator[str]:
    """An argument nobody else has; nothing with it may be left."""
    name = f"ebpfperf-test-{random.getrandbits(64):x}"
    yield name
    until(lambda: not processes(name))


# --- running


def test_outputs_and_status_are_separate(node: SSHNode) -> None:
    done = node.run(["sh", "-c", "echo out; echo err >&2; exit 7"], check=False)
    assert (done.stdout, done.stderr, done.status) == (b"out\n", b"err\n", 7)
    assert isinstance(node, Node)
    with pytest.raises(CommandError, match="ended with status 7: err") as caught:
        node.run(["sh", "-c", "echo err >&2; exit 7"])
    assert caught.value.fields["status"] == 7
    assert caught.value.fields["node"] == "node-1"


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "USR1"])
def test_death_by_signal_is_told(node: SSHNode, name: str) -> None:
    done = node.run(["sh", "-c", f"kill -{name} $$"], check=False)
    assert done.status == 128 + signal.Signals[f"SIG{name}"]


def test_missing_command_is_status_127(node: SSHNode) -> None:
    with pytest.raises(CommandError) as caught:
        node.run(["no-such-command-here"])
    assert caught.value.fields["status"] == 127
    assert "no-such-command-here" in str(caught.value)


ODD = [
    "",
    " ",
    "a b",
    "it's",
    '"',
    "$(touch /tmp/never)",
    "`id`",
    "$HOME",
    "a\nb\n",
    "\\",
    "\\n",
    "~",
    "*",
    "-n",
    "--",
    "!x",
    "µ – ü 漢",
    ";|&<>()",
    "a\tb",
    "#",
    "=",
]


def test_arguments_arrive_verbatim(node: SSHNode) -> None:
    done = node.run(["printf", "%s\\0", *ODD])
    assert done.stdout == b"".join(text.encode() + b"\0" for text in ODD)
    with node.stream(["printf", "%s\\0", *ODD]) as stream:
        assert stream.wait(timeout_s=10).stdout == done.stdout


@pytest.mark.parametrize("size", [0, 1, 65_537, 1_000_003, 3_000_017])
def test_binary_input_comes_back_intact(node: SSHNode, size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert node.run(["cat"], input=data).stdout == data


def test_without_input_stdin_is_empty(node: SSHNode) -> None:
    assert node.run(["cat"], timeout_s=5).stdout == b""


def test_input_is_no_file_that_stays(node: SSHNode) -> None:
    place = Path(node.run(["printenv", "TMPDIR"]).text.strip())
    before = set(place.iterdir())
    node.run(["cat"], input=b"x" * 1009)
    assert set(place.iterdir()) == before


def test_many_at_once_over_one_connection(server: Server) -> None:
    node = SSHNode.connect("node-1", ssh_config=server.config())
    connections = (server.dir / "sshd.log").read_bytes().count(b"Accepted publickey")

    def one(number: int) -> bool:
        data = random.Random(number).randbytes(10_007)
        digest = hashlib.sha256(data).hexdigest()
        return node.run(["sha256sum"], input=data).text.split()[0] == digest

    # More than the ten sessions that sshd allows at once by default.
    with ThreadPoolExecutor(24) as pool:
        assert all(pool.map(one, range(61)))
    assert (server.dir / "sshd.log").read_bytes().count(b"Accepted publickey") == connections
    node.close()


# --- bounds and ends


def runs_out_of_time(node: SSHNode, marker: str, directory: Path) -> None:
    """``node.run`` of a stubborn command that stood when its time was over."""
    for timeout_s in (1.5, 6, 24):
        ready = directory / f"ready-{timeout_s}"
        start = time.monotonic()
        with pytest.raises(CommandTimeout, match=f"did not answer within {timeout_s} s"):
            node.run(stubborn(marker, ready), timeout_s=timeout_s)
        assert time.monotonic() - start < timeout_s + 20
        until(lambda: not processes(marker))
        if stands(ready):
            return
    pytest.fail("it never stood in time")


def test_timeout_ends_the_process_group(node: SSHNode, marker: str, tmp_path: Path) -> None:
    runs_out_of_time(node, marker, tmp_path)


def test_what_comes_while_it_is_looked_for_is_not_lost(
    node: SSHNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if this process had been paused after any look that found nothing, until all had come."""
    look = paramiko.Channel.recv_ready

    def paused(channel: paramiko.Channel) -> bool:
        found = look(channel)
        if not found:
            until(lambda: channel.closed)
        return found

    monkeypatch.setattr(paramiko.Channel, "recv_ready", paused)
    done = node.run(["sh", "-c", "echo out; exit 7"], check=False)
    assert (done.stdout, done.status) == (b"out\n", 7)
    with node.stream(["sh", "-c", "echo out; echo more; exit 7"]) as stream:
        assert stream.read_line(timeout_s=20) == b"out"
        assert stream.wait(timeout_s=20).stdout == b"more\n"


def test_flood_is_bounded(node: SSHNode, marker: str) -> None:
    for redirect in ("", " >&2"):
        with pytest.raises(OutputLimitError, match="more than 100,000 bytes"):
            node.run(
                ["sh", "-c", f"while :; do echo 0123456789; done{redirect}", marker],
                limit_bytes=100_000,
                timeout_s=30,
            )
    until(lambda: not processes(marker))


def test_output_at_its_bound_is_taken(node: SSHNode) -> None:
    assert len(node.run(["head", "-c", "99991", "/dev/zero"], limit_bytes=99_991).stdout) == 99_991


def test_ctrl_c_ends_the_process_group(server: Server, marker: str, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    with controller(server, f"node.run({stubborn(marker, ready)!r}, timeout_s=100)") as child:
        until(lambda: stands(ready))
        child.send_signal(signal.SIGINT)
        _, stderr = child.communicate(timeout=LIMIT_S)
    assert b"KeyboardInterrupt" in stderr
    until(lambda: not processes(marker))


@contextlib.contextmanager
def controller(server: Server, statement: str) -> Iterator[subprocess.Popen[bytes]]:
    # What a shell starts with `&` ignores SIGINT, and so do its children: this one must not.
    script = (
        "import signal, time\nfrom pathlib import Path\nfrom ebpfperf.remote import SSHNode\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"node = SSHNode.connect('node-1', ssh_config=Path({str(server.config('node-1'))!r}))\n"
        f"{statement}\n"
    )
    # Its statement names the marker: given on stdin, it is nobody's argument.
    child = subprocess.Popen(
        [sys.executable, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdin is not None
    child.stdin.write(script.encode())
    child.stdin.close()
    child.stdin = None
    try:
        yield child
    finally:
        child.kill()
        child.communicate(timeout=10)


@pytest.mark.parametrize(
    "statement",
    ["node.run({argv!r}, timeout_s=100)", "s = node.stream({argv!r}, grace_s=0); time.sleep(100)"],
    ids=["run", "stream"],
)
def test_a_killed_controller_leaves_nothing(
    server: Server, marker: str, tmp_path: Path, statement: str
) -> None:
    ready = tmp_path / "ready"
    with controller(server, statement.format(argv=stubborn(marker, ready))) as child:
        until(lambda: stands(ready))
        assert len(processes(marker)) >= 4
        child.kill()
    until(lambda: not processes(marker))


def test_closing_the_connection_ends_what_runs(server: Server, marker: str, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    node = SSHNode.connect("node-1", ssh_config=server.config())
    stream = node.stream(stubborn(marker, ready))
    until(lambda: stands(ready))
    assert node.alive
    node.close()
    node.close()
    assert not node.alive
    until(lambda: not processes(marker))
    assert stream.stop().status == 255
    with pytest.raises(ConnectError, match="closed here"):
        node.run(["true"])


def test_what_a_command_leaves_in_its_group_ends_with_it(node: SSHNode, marker: str) -> None:
    left = f"sh -c 'sleep 60; : {marker}' & echo started"
    assert node.run(["sh", "-c", left], timeout_s=10).stdout == b"started\n"
    with node.stream(["sh", "-c", left]) as stream:
        assert stream.wait(timeout_s=10).stdout == b"started\n"
    until(lambda: not processes(marker))


def started_over(server: Server) -> list[str]:
    """Arguments of every process that came of a session with this server, orphans included."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            environ = (entry / "environ").read_bytes() if entry.name.isdigit() else b""
            if f" 127.0.0.1 {server.port}\0".encode() in environ:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_nothing_of_ours_is_left_on_the_node(server: Server, tmp_path: Path) -> None:
    node = SSHNode.connect("node-1", ssh_config=server.config())
    for number in range(3):
        node.run(["cat"], input=b"x")
        with node.stream(["cat"]) as stream:
            stream.write_line(b"x")
            assert stream.read_line(timeout_s=20) == b"x"
            assert len(started_over(server)) >= 3
        with node.stream(["sleep", "100"], grace_s=0) as stream:
            pass
        # However little of that time is left for it once its session is open.
        with pytest.raises(CommandTimeout):
            node.run(["sleep", "100"], timeout_s=0.1)
        with node.stream(stubborn("", tmp_path / f"{number}"), grace_s=0) as stream:
            until(lambda: stands(tmp_path / f"{number}"))  # noqa: B023
    until(lambda: started_over(server) == [])
    node.close()


# --- streams


def test_a_stream_speaks_lines(node: SSHNode) -> None:
    with node.stream(["cat"], grace_s=10) as stream:
        for number in range(101):
            stream.write_line(b"line %d" % number)
        for number in range(101):
            assert stream.read_line(timeout_s=20) == b"line %d" % number
        stream.write_line(b"")
        assert stream.read_line(timeout_s=20) == b""
        with pytest.raises(CommandTimeout):
            stream.read_line(timeout_s=0.2)
        stream.write_line(b"still there")
        assert stream.read_line(timeout_s=20) == b"still there"
        done = stream.stop()
    assert (done.status, done.stdout, done.stderr) == (0, b"", b"")
    assert stream.stop() is done


def test_long_lines_and_many_bytes(node: SSHNode) -> None:
    line = random.Random(7).randbytes(300_007).hex().encode()
    with node.stream(["cat"], limit_bytes=1_000_000) as stream:
        # Six times the bound passes through: it bounds only what nobody has read.
        for _ in range(10):
            stream.write_line(line)
            assert stream.read_line(timeout_s=10) == line


def test_the_end_of_a_stream_is_an_error_to_its_reader(node: SSHNode) -> None:
    script = "echo ready; read -r _; echo 'no such map' >&2; printf rest; exit 3"
    with node.stream(["sh", "-c", script]) as stream:
        assert stream.read_line(timeout_s=20) == b"ready"
        stream.write_line(b"go")
        with pytest.raises(CommandError, match="status 3: no such map"):
            stream.read_line(timeout_s=20)
        assert stream.wait(timeout_s=1).stdout == b"rest"
        stream.write_line(b"nobody hears this")


def test_stdin_ends_before_signals_come(node: SSHNode, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f"cat >/dev/null; echo by-eof >{out}; exit 5"
    with node.stream(["sh", "-c", script], grace_s=10) as stream:
        assert stream.stop().status == 5
    assert out.read_text() == "by-eof\n"


def test_stop_sends_term_to_who_ignores_stdin(node: SSHNode, marker: str) -> None:
    script = f"trap 'echo bye; exit 0' TERM; echo ready; : {marker}; while :; do sleep 0.05; done"
    for grace_s in (0, 0.3):
        with node.stream(["sh", "-c", script], grace_s=grace_s) as stream:
            assert stream.read_line(timeout_s=20) == b"ready"
            done = stream.stop()
        assert (done.status, done.stdout) == (0, b"bye\n")


def test_stop_kills_who_ignores_all(node: SSHNode, marker: str, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    with node.stream(stubborn(marker, ready)) as stream:
        until(lambda: stands(ready))
        assert stream.stop().status == 128 + signal.SIGKILL
    until(lambda: not processes(marker))


def test_wait_in_time_and_out_of_time(node: SSHNode, marker: str, tmp_path: Path) -> None:
    with node.stream(["sh", "-c", "sleep 0.1; echo done"]) as stream:
        assert stream.wait(timeout_s=10).stdout == b"done\n"
    ready = tmp_path / "ready"
    with node.stream(stubborn(marker, ready)) as stream:
        until(lambda: stands(ready))
        with pytest.raises(CommandTimeout):
            stream.wait(timeout_s=0.3)
    until(lambda: not processes(marker))


def test_a_stream_that_floods_is_bounded(node: SSHNode, marker: str) -> None:
    script = f"while :; do echo 0123456789; done; : {marker}"
    with node.stream(["sh", "-c", script], limit_bytes=100_000) as stream:
        with pytest.raises(OutputLimitError):
            stream.wait(timeout_s=30)


def test_a_stream_that_closes_its_stdin_lives_on(node: SSHNode, marker: str) -> None:
    script = f"exec <&-; echo ready; sleep 0.6; echo alive; : {marker}"
    with node.stream(["sh", "-c", script], grace_s=0) as stream:
        assert stream.read_line(timeout_s=20) == b"ready"
        stream.write_line(b"into the void")
        assert stream.read_line(timeout_s=20) == b"alive"


# --- files


def test_put_and_get(node: SSHNode, tmp_path: Path) -> None:
    path = tmp_path / "a b'$(x)"
    data = random.Random(1).randbytes(1_000_003)
    node.put(data, str(path), mode=0o640)
    assert node.get(str(path)) == data
    assert path.stat().st_mode & 0o7777 == 0o640
    node.put(b"", str(path))
    assert path.read_bytes() == b""
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_put_that_fails_leaves_the_old_file(node: SSHNode, tmp_path: Path) -> None:
    with pytest.raises(CommandError):
        node.put(b"x", str(tmp_path / "missing" / "file"))
    (tmp_path / "dir").mkdir()
    with pytest.raises(CommandError):
        node.put(b"x", str(tmp_path / "dir"))
    assert [p.name for p in tmp_path.iterdir()] == ["dir"]


def test_get_is_bounded_and_says_what_is_missing(node: SSHNode, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 100_003)
    with pytest.raises(OutputLimitError):
        node.get(str(tmp_path / "big"), limit_bytes=100_000)
    with pytest.raises(CommandError, match="No such file"):
        node.get(str(tmp_path / "none"))


def test_input_cut_short_is_never_run(server: Server, tmp_path: Path) -> None:
    """A connection lost in the midst of the input: the command must not see half of it."""
    from ebpfperf.remote_session import RUN

    out = tmp_path / "out"
    done = subprocess.run(
        ["sh", "-c", RUN, "ebpfperf", "1009", "sh", "-c", f"cat >{out}"],
        input=b"x" * 1008,
        timeout=10,
        check=False,
        capture_output=True,
    )
    assert done.returncode == 125
    assert not out.exists()


# --- sudo


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that every user may read: pytest closes its own ones whenever one more starts."""
    with tempfile.TemporaryDirectory(prefix="ebpfperf-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_sudo_where_the_login_is_not_root(open_path: Path, marker: str) -> None:
    """A server whose account files, seen by it alone, make its one user somebody else than root."""
    if shutil.which("sudo") is None or shutil.which("unshare") is None:
        pytest.skip("missing: sudo (Debian package sudo)")
    for name, text in {
        "passwd": "root:x:0:0::/root:/bin/sh\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n"
        "plain:x:4711:4711::/tmp:/bin/sh\n",
        "shadow": "root:*:19000::::::\nplain:*:19000::::::\n",
        "sudoers": "Defaults use_pty\nplain ALL=(root) NOPASSWD: ALL\n",
    }.items():
        (open_path / name).write_text(text)
        os.chmod(open_path / name, 0o440 if name == "sudoers" else 0o644)
    mounts = " && ".join(
        f"mount --bind {open_path}/{name} /etc/{name}" for name in ("passwd", "shadow", "sudoers")
    )
    prefix = ("unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh")
    server = serve(open_path / "sshd", prefix=prefix)
    try:
        os.chmod(server.dir, 0o755)
        os.chmod(server.dir / "authorized_keys", 0o644)
        config = server.config()
        config.write_text(config.read_text().replace(f"User {getpass.getuser()}", "User plain"))
        node = SSHNode.connect("node-1", ssh_config=config)
        assert node.run(["id", "-u"]).text == "0\n"
        assert node.run(["id", "-u"], sudo=False).text == "4711\n"
        assert node.run(["cat"], input=b"x" * 10_007).stdout == b"x" * 10_007
        node.put(b"secret", str(open_path / "file"), mode=0o600)
        assert (open_path / "file").stat().st_uid == 0
        assert node.get(str(open_path / "file")) == b"secret"
        runs_out_of_time(node, marker, open_path)
        with node.stream(stubborn(marker, open_path / "ready-2")) as stream:
            until(lambda: stands(open_path / "ready-2"))
            stream.stop()
        until(lambda: not processes(marker))
        node.stream(stubborn(marker, open_path / "ready-3"))
        until(lambda: stands(open_path / "ready-3"))
        node.close()
        until(lambda: not processes(marker))
        (open_path / "sudoers").chmod(0o644)
        (open_path / "sudoers").write_text("root ALL=(ALL) ALL\n")
        (open_path / "sudoers").chmod(0o440)
        with contextlib.closing(SSHNode.connect("node-1", ssh_config=config)) as node:
            with pytest.raises(CommandError, match="sudo") as caught:
                node.run(["true"])
            assert "without a password" in caught.value.remedy
    finally:
        server.close()


# --- configuration, read alone


def test_included_files_and_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh" / "conf.d").mkdir(parents=True)
    (tmp_path / ".ssh" / "conf.d" / "a").write_text(
        "Host node-1\n HostName 198.18.0.11\n Port 2222\n ServerAliveInterval 7\n"
    )
    (tmp_path / ".ssh" / "config").write_text(
        "Include conf.d/*\nUser everyone\nHost node-*\n User calico\n"
        ' UserKnownHostsFile "~/my hosts"\n ConnectTimeout 3\n'
    )
    login = resolve("node-1", None)
    assert (login.hostname, login.port, login.key_name) == (
        "198.18.0.11",
        2222,
        "[198.18.0.11]:2222",
    )
    assert login.user == "everyone"
    assert login.known_hosts[0] == tmp_path / "my hosts"
    assert login.known_hosts[-1] == Path("/etc/ssh/ssh_known_hosts2")
    assert (login.keepalive_s, login.connect_timeout_s) == (7, 3.0)
    other = resolve("bob@[fd00::1]:2200", None)
    assert (other.user, other.hostname, other.port) == ("bob", "fd00::1", 2200)
    assert other.key_name == "[fd00::1]:2200"


def test_what_was_recorded_over_ssh_is_replayed(node: SSHNode, tmp_path: Path) -> None:
    def ask(one: Node) -> list[object]:
        with one.stream(["cat"]) as stream:
            stream.write_line(b"\xff")
            line = stream.read_line(timeout_s=20)
        return [
            line,
            stream.stop().status,
            one.run(["sh", "-c", "cat; kill -9 $$"], input=bytes(range(256)), check=False),
            one.get("/proc/sys/kernel/ostype"),
        ]

    recorder = Recorder(node, tmp_path / "node.json")
    recorded = ask(recorder)
    recorder.save()
    replayed = ask(ReplayNode.load(tmp_path / "node.json"))
    assert [str(a) for a in recorded[:2]] == [str(b) for b in replayed[:2]]
    assert recorded[3] == replayed[3]
    one, two = recorded[2], replayed[2]
    assert isinstance(one, Completed)
    assert isinstance(two, Completed)
    assert (one.status, one.stdout) == (two.status, two.stdout) == (137, bytes(range(256)))
