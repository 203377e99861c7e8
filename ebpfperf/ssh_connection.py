"""A logged-in SSH connection: direct, by jump hosts or a proxy command; strict host keys."""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import paramiko
import stamina

from ebpfperf.errors import ConnectError, HostKeyError
from ebpfperf.ssh_config import Login, resolve

_KEEPALIVE_S = 15
_DEAD_AFTER_MS = 45_000
_JUMP_DEPTH = 8

# What paramiko logs comes back as an exception; its tracebacks on stderr would say it twice.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection that is logged in.

    Attributes
    ----------
    under
        What it stands on: connections to jump hosts, a proxy command. Closed after it.
    """

    transport: paramiko.Transport
    under: contextlib.ExitStack

    @classmethod
    def open(cls, spec: str, *, config_path: Path | None, timeout_s: float) -> Connection:
        """A connection to ``[user@]alias[:port]``. The network is tried thrice, the login once.

        Raises
        ------
        HostKeyError
            The host key, or that of a jump host, is unknown or differs from the recorded one.
        ConnectError
            Name, network, login or configuration refuses.
        """
        with contextlib.ExitStack() as stack:
            transport = _open(spec, config_path, timeout_s, stack)
            return cls(transport, stack.pop_all())

    @property
    def alive(self) -> bool:
        """Whether it stands, as far as is known here."""
        return self.transport.is_active()

    def close(self) -> None:
        """Close it and what it stands on. Idempotent."""
        self.under.close()


def _open(
    spec: str,
    config_path: Path | None,
    timeout_s: float,
    stack: contextlib.ExitStack,
    via: paramiko.Transport | None = None,
    depth: int = 0,
) -> paramiko.Transport:
    if depth > _JUMP_DEPTH:
        raise ConnectError(
            f"ProxyJump of {spec} leads in a circle.", "Mend the SSH configuration.", node=spec
        )
    login = resolve(spec, config_path)
    timeout_s = login.connect_timeout_s or timeout_s
    if via is None and not login.proxy_command:
        # The first hop goes by its own configuration; the others through the hop before them.
        for jump in login.jumps:
            via = _open(jump, config_path, timeout_s, stack, via, depth + 1)
    if via is not None:
        through = via
        reach: Callable[[], socket.socket] = lambda: _forward(through, login, timeout_s)  # noqa: E731
    elif login.proxy_command:
        proxy = login.proxy_command
        reach = lambda: _proxy(proxy, stack)  # noqa: E731
    else:
        reach = lambda: _dial(login.hostname, login.port, timeout_s)  # noqa: E731
    try:
        sock = reach()
    except paramiko.SSHException as error:
        raise _refused(login, f"the jump host does not reach it: {error}") from error
    except socket.gaierror as error:
        raise _refused(login, f"its name does not resolve: {error.strerror}") from error
    except TimeoutError as error:
        raise _refused(login, f"it does not answer within {timeout_s:g} s") from error
    except OSError as error:
        raise _refused(login, error.strerror or str(error)) from error
    stack.callback(sock.close)
    return _log_in(login, sock, timeout_s, stack)


def _refused(login: Login, why: str) -> ConnectError:
    return ConnectError(
        f"{login.where} cannot be reached: {why}.",
        "Check that the node is up, and HostName and Port in the SSH configuration.",
        node=login.alias,
    )


def _log_in(
    login: Login, sock: socket.socket, timeout_s: float, stack: contextlib.ExitStack
) -> paramiko.Transport:
    client = paramiko.SSHClient()
    stack.callback(client.close)
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    hosts_file = login.known_hosts[0] if login.known_hosts else Path("known_hosts")
    # With a sock given, the name and port are those of the host key; see known_hosts(5).
    identities = [str(path) for path in login.identities if path.is_file()]
    key_host, bracket, key_port = login.key_name.removeprefix("[").partition("]:")
    try:
        _load_host_keys(client, login)
        client.connect(
            key_host,
            port=int(key_port) if bracket else 22,
            username=login.user,
            pkey=_agent_key(login, stack),
            key_filename=identities or None,  # type: ignore[arg-type]  # a list is documented
            allow_agent=not login.identities_only,
            look_for_keys=not login.identities,
            sock=sock,
            timeout=timeout_s,
            banner_timeout=timeout_s,
            auth_timeout=timeout_s,
            channel_timeout=timeout_s,
        )
    except paramiko.BadHostKeyException as error:
        raise HostKeyError(
            f"The host key of {login.where} is not the one recorded in {hosts_file}; "
            "nothing was sent.",
            f"If the node was reinstalled, remove its old key: "
            f"ssh-keygen -R '{login.key_name}' -f {hosts_file}",
            node=login.alias,
        ) from error
    except paramiko.PasswordRequiredException as error:
        raise ConnectError(
            f"{login.where}: the private key is locked by a passphrase.",
            "Load it into an SSH agent: ssh-add",
            node=login.alias,
        ) from error
    except paramiko.AuthenticationException as error:
        raise ConnectError(
            f"{login.where} refuses the login: {str(error).rstrip('.')}.",
            "Check User and IdentityFile in the SSH configuration, or the agent.",
            node=login.alias,
        ) from error
    except paramiko.SSHException as error:
        raise _no_session(login, error, hosts_file) from error
    except (OSError, EOFError) as error:
        raise ConnectError(
            f"{login.where} closed the connection: {error or 'without a word'}.",
            f"Look at its SSH server's log, or try: ssh {login.alias}",
            node=login.alias,
        ) from error
    transport = client.get_transport()
    assert transport is not None
    transport.set_keepalive(login.keepalive_s or _KEEPALIVE_S)
    return transport


def _load_host_keys(client: paramiko.SSHClient, login: Login) -> None:
    """Give ``client`` the host's recorded keys; as in ssh(1), a line without sense is none."""
    entries, revoked = [], set()
    for path in login.known_hosts:
        with contextlib.suppress(OSError):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                marker, _, rest = line.strip().partition(" ")
                if marker == "@cert-authority":
                    continue
                entry = _entry(rest if marker == "@revoked" else line)
                if entry is None or entry.key is None:
                    continue
                if marker == "@revoked":
                    revoked.add(entry.key.get_base64())
                else:
                    entries.append(entry)
    known = client.get_host_keys()
    for entry in entries:
        if entry.key.get_base64() not in revoked:
            for name in _names(entry.hostnames, login.key_name):
                known.add(name, entry.key.get_name(), entry.key)


def _names(patterns: list[str], key_name: str) -> list[str]:
    """Names to record a key under: hashed ones as they are, ours when a pattern is for it."""
    hashed = [pattern for pattern in patterns if pattern.startswith("|")]
    if any(_matches(pattern[1:], key_name) for pattern in patterns if pattern.startswith("!")):
        return hashed
    return hashed + [key_name for pattern in patterns if _matches(pattern, key_name)][:1]


def _matches(pattern: str, name: str) -> bool:
    # Only * and ? are wild in known_hosts; the brackets of [host]:port are not.
    return fnmatch.fnmatchcase(name.lower(), pattern.lower().replace("[", "[[]"))


def _entry(line: str) -> paramiko.hostkeys.HostKeyEntry | None:
    try:
        return paramiko.hostkeys.HostKeyEntry.from_line(line)
    except (paramiko.SSHException, paramiko.hostkeys.InvalidHostKey, ValueError):
        return None


def _no_session(login: Login, error: paramiko.SSHException, hosts_file: Path) -> ConnectError:
    if "not found in known_hosts" in str(error):
        return HostKeyError(
            f"The host key of {login.where} is not known; nothing was sent.",
            f"Verify it and record it in {hosts_file}; to see it: "
            f"ssh-keyscan -p {login.port} {login.hostname}",
            node=login.alias,
        )
    if "banner" in str(error) or "Timeout" in str(error) or "No existing session" in str(error):
        return ConnectError(
            f"{login.where} took the connection and did not speak SSH in time.",
            "Look at the node's load, and whether an SSH server has that port.",
            node=login.alias,
        )
    return ConnectError(
        f"{login.where} does not speak SSH as expected: {error}.",
        f"Try: ssh {login.alias}",
        node=login.alias,
    )


def _agent_key(login: Login, stack: contextlib.ExitStack) -> paramiko.PKey | None:
    """The agent's key for one of the login's identities; None leaves the choice to paramiko.

    With IdentitiesOnly OpenSSH still lets the agent use the keys whose files are named.
    """
    if not login.identities_only:
        return None
    wanted = set()
    for path in login.identities:
        with contextlib.suppress(OSError, IndexError):
            wanted.add(Path(f"{path}.pub").read_text().split()[1])
    if not wanted:
        return None
    with contextlib.suppress(paramiko.SSHException):
        agent = paramiko.Agent()
        # Its key signs through it, so it is closed with the connection.
        stack.callback(agent.close)
        for key in agent.get_keys():
            if key.get_base64() in wanted:
                return key
    return None


@stamina.retry(on=ConnectionError, attempts=3, wait_initial=0.2, wait_max=1.0)
def _dial(hostname: str, port: int, timeout_s: float) -> socket.socket:
    sock = socket.create_connection((hostname, port), timeout=timeout_s)
    # Small packets at once: Nagle against delayed ACK costs 40 ms a command.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # With the keepalive: a machine that went without a word is noticed within a minute.
    with contextlib.suppress(AttributeError, OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER_MS)
    return sock


def _forward(via: paramiko.Transport, login: Login, timeout_s: float) -> socket.socket:
    target = (login.hostname, login.port)
    channel = via.open_channel("direct-tcpip", target, ("127.0.0.1", 0), timeout=timeout_s)
    return channel  # type: ignore[return-value]  # it has all that paramiko needs of a socket


def _proxy(command: str, stack: contextlib.ExitStack) -> socket.socket:
    """A socket whose other end is stdin and stdout of a local command, as ssh(1) starts it."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    stack.callback(_end, process)
    return ours


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
