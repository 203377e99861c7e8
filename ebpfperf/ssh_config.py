"""From a host alias to a logged-in connection, by the rules of ssh_config(5)."""

from __future__ import annotations

import contextlib
import getpass
import socket
from dataclasses import dataclass
from pathlib import Path

import paramiko
import stamina

from ebpfperf.errors import ConnectError, HostKeyError

_KEEPALIVE_S = 15


@dataclass(frozen=True, slots=True)
class Login:
    """What ssh_config says of one host alias.

    Attributes
    ----------
    key_name
        The name under which the host key stands in the known_hosts files.
    jumps
        Host aliases to go through, first hop first.
    """

    alias: str
    hostname: str
    port: int
    user: str
    identities: tuple[Path, ...]
    identities_only: bool
    known_hosts: tuple[Path, ...]
    key_name: str
    jumps: tuple[str, ...]
    proxy_command: str | None


def resolve(alias: str, config_path: Path | None) -> Login:
    """What ssh_config (default ``~/.ssh/config``) says of ``alias``.

    Raises
    ------
    ConnectError
        The file named does not exist or cannot be read.
    """
    path = config_path or Path.home() / ".ssh" / "config"
    try:
        config = paramiko.SSHConfig.from_path(str(path))
    except FileNotFoundError:
        if config_path is not None:
            raise ConnectError(
                f"The SSH configuration {path} does not exist.",
                "Give an existing file, or none for ~/.ssh/config.",
                node=alias,
            ) from None
        config = paramiko.SSHConfig()
    except (OSError, paramiko.ConfigParseError) as error:
        raise ConnectError(
            f"The SSH configuration {path} cannot be read: {error}.", "Mend it.", node=alias
        ) from error
    found = config.lookup(alias)
    port = int(found.get("port", 22))
    hostname = found.get("hostname", alias)
    default_hosts = "~/.ssh/known_hosts /etc/ssh/ssh_known_hosts"
    files = (
        f"{found.get('userknownhostsfile', default_hosts)} {found.get('globalknownhostsfile', '')}"
    )
    jump = found.get("proxyjump", "")
    return Login(
        alias=alias,
        hostname=hostname,
        port=port,
        user=found.get("user", getpass.getuser()),
        identities=tuple(Path(p).expanduser() for p in found.get("identityfile", [])),
        identities_only=found.get("identitiesonly", "no").lower() == "yes",
        known_hosts=tuple(Path(p.strip('"')).expanduser() for p in files.split()),
        key_name=found.get("hostkeyalias", hostname if port == 22 else f"[{hostname}]:{port}"),
        jumps=tuple(j for j in jump.split(",") if j and j != "none"),
        proxy_command=found.get("proxycommand"),
    )


def open_client(alias: str, *, config_path: Path | None, timeout_s: float) -> paramiko.SSHClient:
    """A logged-in client for ``alias``; only the TCP connection is retried, never the login.

    Raises
    ------
    HostKeyError
        The host key is unknown or differs from the recorded one.
    ConnectError
        Name, network, login or configuration refuses.
    """
    login = resolve(alias, config_path)
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    for path in login.known_hosts:
        if path.is_file():
            client.load_host_keys(str(path))
    where = f"{alias} ({login.user}@{login.hostname} port {login.port})"
    hosts_file = login.known_hosts[0] if login.known_hosts else "known_hosts"
    try:
        channel = _reach(login, config_path=config_path, timeout_s=timeout_s)
        client.connect(
            login.key_name.removeprefix("[").partition("]")[0],
            port=login.port if login.key_name.startswith("[") else 22,
            username=login.user,
            key_filename=[str(p) for p in login.identities if p.is_file()] or None,
            allow_agent=not login.identities_only,
            look_for_keys=not login.identities,
            sock=channel,
            timeout=timeout_s,
            banner_timeout=timeout_s,
            auth_timeout=timeout_s,
            channel_timeout=timeout_s,
        )
    except paramiko.BadHostKeyException as error:
        raise HostKeyError(
            f"The host key of {where} is not the one recorded in {hosts_file}; nothing was sent.",
            f"If the node was reinstalled, remove its old key: "
            f"ssh-keygen -R '{login.key_name}' -f {hosts_file}",
            node=alias,
        ) from error
    except paramiko.AuthenticationException as error:
        raise ConnectError(
            f"{where} refuses the login: {error}.",
            "Check the user and IdentityFile in the SSH configuration, or the agent.",
            node=alias,
        ) from error
    except paramiko.SSHException as error:
        if "not found in known_hosts" in str(error):
            raise HostKeyError(
                f"The host key of {where} is not known; nothing was sent.",
                f"Verify it and record it: "
                f"ssh-keyscan -p {login.port} {login.hostname} >> {hosts_file}",
                node=alias,
            ) from error
        raise ConnectError(
            f"{where} does not speak SSH as expected: {error}.", "Try: ssh " + alias, node=alias
        ) from error
    except OSError as error:
        raise ConnectError(
            f"{where} cannot be reached: {error or type(error).__name__}.",
            "Check that the node is up and its address in the SSH configuration.",
            node=alias,
        ) from error
    transport = client.get_transport()
    assert transport is not None
    transport.set_keepalive(_KEEPALIVE_S)
    return client


def _reach(login: Login, *, config_path: Path | None, timeout_s: float) -> socket.socket:
    """A byte stream to the SSH server: direct, through jump hosts, or by a proxy command."""
    if login.proxy_command and login.proxy_command != "none":
        return paramiko.ProxyCommand(login.proxy_command)  # type: ignore[return-value]
    if not login.jumps:
        return _dial(login.hostname, login.port, timeout_s)
    # Each hop is a login of its own with its own host key; the last hop opens the way on.
    hop = open_client(login.jumps[-1], config_path=config_path, timeout_s=timeout_s)
    transport = hop.get_transport()
    assert transport is not None
    channel = transport.open_channel(
        "direct-tcpip", (login.hostname, login.port), ("127.0.0.1", 0), timeout=timeout_s
    )
    channel.hop = hop  # type: ignore[attr-defined]  # keeps the hop's connection alive
    return channel  # type: ignore[return-value]


@stamina.retry(on=(ConnectionRefusedError, socket.gaierror), attempts=2, wait_initial=0.2)
def _dial(hostname: str, port: int, timeout_s: float) -> socket.socket:
    sock = socket.create_connection((hostname, port), timeout=timeout_s)
    # Small packets at once: Nagle against delayed ACK costs 40 ms a command.
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
