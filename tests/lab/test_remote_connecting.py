"""Who is connected to and who is not: host keys, logins, jumps, servers that say nothing or end."""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.ssh_server import Server, free_port, keygen, processes, serve, stands, stubborn, until

from ebpfperf.errors import (
    CommandTimeout,
    ConnectError,
    HostKeyError,
)
from ebpfperf.remote import SSHNode

pytestmark = [pytest.mark.lab, pytest.mark.beside]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = serve(tmp_path_factory.mktemp("sshd"))
    yield server
    server.close()


@pytest.fixture
def marker() -> Iterator[str]:
    """An argument nobody else has; nothing with it may be left."""
    name = f"ebpfperf-test-{random.getrandbits(64):x}"
    yield name
    until(lambda: not processes(name))


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
