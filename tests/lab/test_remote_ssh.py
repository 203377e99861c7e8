"""The real thing against a real sshd on loopback, with keys and configuration of its own."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
import pytest

from ebpfperf.errors import (
    CommandError,
    CommandTimeout,
    ConnectError,
    HostKeyError,
    OutputLimitError,
)
from ebpfperf.recorder import Recorder
from ebpfperf.remote import Completed, Node, SSHNode
from ebpfperf.replay import ReplayNode
from ebpfperf.ssh_config import resolve

pytestmark = [pytest.mark.lab, pytest.mark.beside]

SSHD = "/usr/sbin/sshd"
# For what comes to pass soon on a machine that has time.
LIMIT_S = 60.0
# SetEnv SHLVL: bash would take a session for a login from rsh and read ~/.bashrc.
CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {dir}/host_key
AuthorizedKeysFile {dir}/authorized_keys
PidFile none
UsePAM no
UseDNS no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv SHLVL=2 TMPDIR={dir}/tmp {env}
"""


def keygen(path: Path) -> str:
    """The public half of a new key, ``type base64``."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)],
        check=True,
        timeout=30,
    )
    return path.with_suffix(".pub").read_text().strip()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass
class Server:
    """A running sshd, and the files a client needs for it."""

    dir: Path
    port: int
    host_key: str
    process: subprocess.Popen[bytes]
    hosts: dict[str, str] = field(default_factory=dict)

    def config(self, name: str = "node-1", *, more: str = "", hosts: str | None = None) -> Path:
        """An ssh_config in which ``name`` is this server."""
        known = self.dir / f"known_hosts-{name}"
        entry = f"[127.0.0.1]:{self.port} {self.host_key}\n"
        known.write_text(entry if hosts is None else hosts)
        path = self.dir / f"config-{name}"
        path.write_text(
            f"Host {name}\n HostName 127.0.0.1\n Port {self.port}\n"
            f" User {getpass.getuser()}\n IdentitiesOnly yes\n"
            f" IdentityFile {self.dir}/user_key\n UserKnownHostsFile {known}\n"
            f" GlobalKnownHostsFile none\n{more}"
        )
        return path

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def serve(directory: Path, *, env: str = "", prefix: tuple[str, ...] = ()) -> Server:
    directory.mkdir(parents=True, exist_ok=True)
    host_key = keygen(directory / "host_key")
    (directory / "authorized_keys").write_text(keygen(directory / "user_key") + "\n")
    (directory / "tmp").mkdir()
    (directory / "tmp").chmod(0o1777)
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd's empty directory for privilege separation
    port = free_port()
    config = directory / "sshd_config"
    config.write_text(CONFIG.format(port=port, dir=directory, env=env))
    with (directory / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            [*prefix, SSHD, "-D", "-e", "-f", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    until(lambda: b"Server listening" in (directory / "sshd.log").read_bytes())
    return Server(directory, port, host_key, process)


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < deadline, "did not come to pass in time"
        time.sleep(0.02)


def processes(marker: str) -> list[int]:
    """Processes with ``marker`` as one of their arguments or in their environment's place."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


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


def stubborn(marker: str, ready: Path) -> list[str]:
    """Ignores TERM and HUP, has a child and a grandchild that do too, and says when it stands."""
    script = textwrap.dedent(
        """
        import os, signal, sys, time
        for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(s, signal.SIG_IGN)
        os.fork(); os.fork()
        open(sys.argv[2], "a").write("x")
        time.sleep(120)
        """
    )
    return [sys.executable, "-c", script, marker, str(ready)]


def stands(ready: Path) -> bool:
    return ready.exists() and len(ready.read_text()) == 4


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


# --- connecting


def test_unknown_host_key_is_refused(server: Server) -> None:
    config = server.config("stranger", hosts="")
    with pytest.raises(HostKeyError, match="not known; nothing was sent") as caught:
        SSHNode.connect("stranger", ssh_config=config)
    assert "known_hosts-stranger" in caught.value.remedy


def test_changed_host_key_is_refused(server: Server, tmp_path: Path) -> None:
    other = keygen(tmp_path / "other")
    config = server.config("changed", hosts=f"[127.0.0.1]:{server.port} {other}\n")
    with pytest.raises(HostKeyError, match=r"not the one recorded in .*known_hosts-changed"):
        SSHNode.connect("changed", ssh_config=config)


NAME = "[127.0.0.1]:{port}"


@pytest.mark.parametrize(
    "lines",
    [
        f"{NAME} ssh-ed25519 AAAAnonsense\n",
        f"{NAME} {{key}}\n@revoked * {{key}}\n",
        f"@cert-authority {NAME} {{key}}\n",
        f"*,!{NAME} {{key}}\n",
        "127.0.0.1 {key}\n",
        "[127.0.0.2]:{port} {key}\n",
        "1:{port} {key}\n",
        f"# {NAME} {{key}}\n",
    ],
)
def test_records_that_are_none_of_this_host(server: Server, lines: str) -> None:
    config = server.config("other", hosts=lines.format(port=server.port, key=server.host_key))
    with pytest.raises(HostKeyError, match="not known"):
        SSHNode.connect("other", ssh_config=config)


@pytest.mark.parametrize("names", ["*", "[127.0.0.?]:*", f"other,{NAME}", "!other,[127.*]:{port}"])
def test_records_by_pattern(server: Server, names: str) -> None:
    hosts = f"nonsense\n\n{names.format(port=server.port)} {server.host_key} comment\n"
    with contextlib.closing(
        SSHNode.connect("pattern", ssh_config=server.config("pattern", hosts=hosts))
    ) as node:
        assert node.run(["true"]).status == 0


def test_hashed_names_and_aliases_are_found(server: Server) -> None:
    config = server.config("hashed")
    known = server.dir / "known_hosts-hashed"
    subprocess.run(["ssh-keygen", "-H", "-f", str(known)], check=True, capture_output=True)
    assert b"127.0.0.1" not in known.read_bytes()
    with contextlib.closing(SSHNode.connect("hashed", ssh_config=config)) as node:
        assert node.run(["true"]).status == 0
    config = server.config("alias", more=" HostKeyAlias rack\n", hosts=f"rack {server.host_key}\n")
    with contextlib.closing(SSHNode.connect("alias", ssh_config=config)) as node:
        assert node.run(["true"]).status == 0


def test_wrong_key_is_a_refused_login(server: Server, tmp_path: Path) -> None:
    keygen(tmp_path / "other")
    config = server.config("wrong")
    text = config.read_text().replace(f"{server.dir}/user_key", f"{tmp_path}/other")
    config.write_text(text)
    with pytest.raises(ConnectError, match="refuses the login"):
        SSHNode.connect("wrong", ssh_config=config)


def test_locked_key_says_so(server: Server, tmp_path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(tmp_path / "locked")],
        check=True,
    )
    config = server.config("locked")
    config.write_text(config.read_text().replace(f"{server.dir}/user_key", f"{tmp_path}/locked"))
    with pytest.raises(ConnectError, match="passphrase"):
        SSHNode.connect("locked", ssh_config=config)


def test_agent_holds_the_key_even_with_identities_only(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("ssh-agent") is None:
        pytest.skip("missing: ssh-agent (Debian package openssh-client)")
    agent = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(tmp_path / "agent")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        # 1: it has no key; 2: nobody answers.
        until(lambda: subprocess.run(["ssh-add", "-l"], capture_output=True).returncode == 1)
        subprocess.run(
            ["ssh-add", "-q", str(server.dir / "user_key")], check=True, capture_output=True
        )
        shutil.copy(server.dir / "user_key.pub", tmp_path / "key.pub")
        config = server.config("agent")
        config.write_text(config.read_text().replace(f"{server.dir}/user_key", f"{tmp_path}/key"))
        with contextlib.closing(SSHNode.connect("agent", ssh_config=config)) as node:
            assert node.run(["true"]).status == 0
    finally:
        agent.terminate()
        agent.wait(10)


def test_dead_port(server: Server) -> None:
    config = server.config("dead")
    config.write_text(config.read_text().replace(f"Port {server.port}", f"Port {free_port()}"))
    with pytest.raises(ConnectError, match="Connection refused"):
        SSHNode.connect("dead", ssh_config=config)


def test_unknown_name(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host nowhere\n HostName nowhere.invalid\n")
    with pytest.raises(ConnectError, match="does not resolve"):
        SSHNode.connect("nowhere", ssh_config=tmp_path / "config", timeout_s=3)


@pytest.mark.parametrize(
    "banner", [b"", b"SSH-2.0-silent\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"]
)
def test_a_server_that_says_nothing_is_bounded(server: Server, banner: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def answer() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                connection.sendall(banner)
                held.append(connection)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        config = server.config("silent")
        port = listener.getsockname()[1]
        config.write_text(config.read_text().replace(f"Port {server.port}", f"Port {port}"))
        start = time.monotonic()
        with pytest.raises(ConnectError, match="SSH"):
            SSHNode.connect("silent", ssh_config=config, timeout_s=1)
        assert time.monotonic() - start < 10
        thread.join(5)
        for connection in held:
            connection.close()


def test_a_failed_connection_says_nothing_on_its_own(server: Server) -> None:
    """The library's own tracebacks do not reach the terminal, and no thread is left behind."""
    config = server.config("quiet", hosts="")
    script = (
        "import threading, time\nfrom pathlib import Path\nfrom ebpfperf.errors import NodeError\n"
        "from ebpfperf.remote import SSHNode\n"
        f"try:\n    SSHNode.connect('quiet', ssh_config=Path({str(config)!r}))\n"
        "except NodeError as error:\n    print(type(error).__name__)\n"
        "until = time.monotonic() + 20\n"
        "while threading.active_count() > 1 and time.monotonic() < until: time.sleep(0.02)\n"
        "print(threading.active_count())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("HostKeyError\n1\n", "")


def test_configuration_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match="does not exist"):
        SSHNode.connect("node-1", ssh_config=tmp_path / "none")
    (tmp_path / "bad").write_text("Host *\n Port many\n")
    with pytest.raises(ConnectError, match="cannot be used"):
        SSHNode.connect("node-1", ssh_config=tmp_path / "bad")
    (tmp_path / "circle").write_text("Host node-1\n HostName 127.0.0.1\n ProxyJump node-1\n")
    with pytest.raises(ConnectError, match="circle"):
        SSHNode.connect("node-1", ssh_config=tmp_path / "circle")


def test_proxy_jump_and_proxy_command(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Target behind jump-2 behind jump-1, each with its own host key and login key."""
    jumps = [serve(tmp_path_factory.mktemp(f"jump-{n}")) for n in (1, 2)]
    try:
        text = server.config(
            "target", more=f" ProxyJump jump-1,{getpass.getuser()}@jump-2:{jumps[1].port}\n"
        ).read_text()
        text += jumps[0].config("jump-1").read_text()
        text += jumps[1].config("jump-2").read_text().replace(f"Port {jumps[1].port}", "Port 1")
        config = server.dir / "config-jump"
        config.write_text(text)
        node = SSHNode.connect("target", ssh_config=config)
        data = random.Random(2).randbytes(1_000_003)
        assert node.run(["cat"], input=data).stdout == data
        node.close()
        for one in jumps:
            log = (one.dir / "sshd.log").read_bytes()
            assert log.count(b"Accepted publickey") == 1
            until(lambda: not children(one.process.pid))  # noqa: B023

        (jumps[0].dir / "known_hosts-jump-1").write_text("")
        with pytest.raises(HostKeyError, match="jump-1"):
            SSHNode.connect("target", ssh_config=config)
    finally:
        for one in jumps:
            one.close()
    relay = (
        "import os,socket,sys,threading\n"
        "s=socket.create_connection((sys.argv[1],int(sys.argv[2])))\n"
        "def up():\n"
        "    while b:=os.read(0,65536): s.sendall(b)\n"
        "    s.shutdown(1)\n"
        "threading.Thread(target=up,daemon=True).start()\n"
        "while b:=s.recv(65536): os.write(1,b)\n"
    )
    (server.dir / "relay.py").write_text(relay)
    config = server.config(
        "proxied", more=f" ProxyCommand {sys.executable} {server.dir}/relay.py %h %p\n"
    )
    with contextlib.closing(SSHNode.connect("proxied", ssh_config=config)) as node:
        assert node.run(["cat"], input=b"x" * 10_007).stdout == b"x" * 10_007
    assert not processes(f"{server.dir}/relay.py")


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_lost_connection_is_an_error_and_the_next_command_connects_anew(
    tmp_path: Path, marker: str
) -> None:
    server = serve(tmp_path / "sshd")
    try:
        node = SSHNode.connect("node-1", ssh_config=server.config())
        ready = tmp_path / "ready"
        with node.stream(stubborn(marker, ready)) as stream:
            until(lambda: stands(ready))
            (first,) = children(server.process.pid)
            os.kill(int(first), signal.SIGKILL)
            with pytest.raises(ConnectError, match="was lost"):
                stream.wait(timeout_s=20)
        until(lambda: not processes(marker))
        assert not node.alive
        assert node.run(["echo", "again"]).stdout == b"again\n"
        session = int(children(server.process.pid)[0])
        server.close()
        os.kill(session, signal.SIGKILL)
        until(lambda: not node.alive)
        with pytest.raises(ConnectError, match="Connection refused"):
            node.run(["true"], timeout_s=3)
        node.close()
    finally:
        server.process.kill()
        server.process.wait()


def test_a_frozen_server_is_bounded(tmp_path: Path) -> None:
    server = serve(tmp_path / "sshd")
    session = ""
    try:
        node = SSHNode.connect("node-1", ssh_config=server.config())
        (session,) = children(server.process.pid)
        stream = node.stream(["cat"])
        os.kill(int(session), signal.SIGSTOP)
        with pytest.raises(CommandTimeout):
            stream.read_line(timeout_s=0.5)
        start = time.monotonic()
        with pytest.raises((ConnectError, CommandTimeout)):
            node.run(["true"], timeout_s=1)
        assert time.monotonic() - start < 15
        node.close()
    finally:
        if session:
            os.kill(int(session), signal.SIGCONT)
        server.close()


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
