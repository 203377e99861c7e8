"""What ssh_config(5) says of a host alias. Reads files, opens nothing."""

from __future__ import annotations

import getpass
import glob
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko

from ebpfperf.errors import ConnectError

_SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
_USER_HOSTS = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
_SYSTEM_HOSTS = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"
_INCLUDE = re.compile(r"\s*include\s*[= ]\s*(?P<patterns>.+)", re.IGNORECASE)
_HEADER = re.compile(r"\s*(host|match)\b", re.IGNORECASE)
_HOP = re.compile(
    r"(ssh://)?((?P<user>[^@]+)@)?(?P<alias>\[[^]]+\]|[^:@/]+|[^@/]*:[^@/]*:[^@/]*)"
    r"(:(?P<port>\d+))?/?"
)
# paramiko takes off the outer quotes of a value, and with them the bounds of names with spaces.
_QUOTED = re.compile(r"(?P<key>\s*(user|global)knownhostsfile\s*[= ]\s*)(?P<value>\".*\")\s*", re.I)
_INCLUDE_DEPTH = 8


@dataclass(frozen=True, slots=True)
class Login:
    """What is said of one host alias.

    Attributes
    ----------
    known_hosts
        Files that hold host keys, the user's first; those that do not exist included.
    key_name
        The name under which the host key stands there: ``host``, ``[host]:port`` or the
        HostKeyAlias.
    jumps
        Hosts to go through, first hop first: ``[user@]alias[:port]``.
    connect_timeout_s, keepalive_s
        None where nothing is said.
    """

    alias: str
    hostname: str
    port: int
    user: str
    identities: tuple[Path, ...]
    identities_only: bool
    known_hosts: tuple[Path, ...]
    key_name: str
    jumps: tuple[str, ...] = ()
    proxy_command: str | None = None
    connect_timeout_s: float | None = None
    keepalive_s: int | None = None

    @property
    def where(self) -> str:
        """Alias and what it stands for, for messages."""
        return f"{self.alias} ({self.user}@{self.hostname} port {self.port})"


def resolve(spec: str, config_path: Path | None) -> Login:
    """The login for ``[user@]alias[:port]``.

    Parameters
    ----------
    config_path
        Read alone when given; None: ``~/.ssh/config``, then ``/etc/ssh/ssh_config``.

    Raises
    ------
    ConnectError
        The file named does not exist, cannot be read or makes no sense.
    """
    hop = _HOP.fullmatch(spec)
    if hop is None:
        raise ConnectError(f"{spec!r} names no SSH host.", "Write [user@]host[:port].", node=spec)
    alias = hop["alias"].strip("[]")
    paths = [config_path] if config_path else [Path.home() / ".ssh" / "config", _SYSTEM_CONFIG]
    try:
        config = paramiko.SSHConfig()
        for path in paths:
            if config_path or path.is_file():
                config.parse(io.StringIO("\n".join(_lines(path, depth=0))))
        return _login(alias, config.lookup(alias), user=hop["user"], port=hop["port"])
    except FileNotFoundError as error:
        raise ConnectError(
            f"The SSH configuration {error.filename} does not exist.",
            "Give an existing file, or none for ~/.ssh/config.",
            node=alias,
        ) from error
    # ImportError: `Match exec` needs a package that the kit does not ask for.
    except (OSError, ValueError, ImportError, paramiko.SSHException) as error:
        raise ConnectError(
            f"The SSH configuration {paths[0]} cannot be used: {error}.",
            "Mend it, or give a smaller one with ssh_config.",
            node=alias,
        ) from error


def _login(
    alias: str, found: paramiko.SSHConfigDict, *, user: str | None, port: str | None
) -> Login:
    number = int(port or found.get("port") or 22)
    hostname = found.get("hostname", alias)
    name = hostname if number == 22 else f"[{hostname}]:{number}"
    jump = found.get("proxyjump") or ""
    user_hosts = shlex.split(found.get("userknownhostsfile", _USER_HOSTS))
    system_hosts = shlex.split(found.get("globalknownhostsfile", _SYSTEM_HOSTS))
    connect_timeout = found.get("connecttimeout", "none")
    identities = [p for p in found.get("identityfile", []) if p.lower() != "none"]
    return Login(
        alias=alias,
        hostname=hostname,
        port=number,
        user=user or found.get("user") or getpass.getuser(),
        identities=tuple(Path(p).expanduser() for p in identities),
        identities_only=found.get("identitiesonly", "no").lower() == "yes",
        known_hosts=tuple(
            Path(p).expanduser() for p in user_hosts + system_hosts if p.lower() != "none"
        ),
        key_name=found.get("hostkeyalias", name),
        jumps=tuple(j.strip() for j in jump.split(",") if j.strip().lower() not in ("", "none")),
        proxy_command=found.get("proxycommand"),
        connect_timeout_s=None if connect_timeout == "none" else float(connect_timeout),
        keepalive_s=int(found.get("serveraliveinterval") or 0) or None,
    )


def _lines(path: Path, *, depth: int) -> Iterator[str]:
    """The lines of a file with what it includes in place (paramiko skips ``Include``)."""
    if depth > _INCLUDE_DEPTH:
        raise ValueError(f"{path} is included too deeply")
    header = "Host *"
    for line in path.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        if _HEADER.match(line):
            header = line
        if (include := _INCLUDE.fullmatch(line)) is None:
            quoted = _QUOTED.fullmatch(line)
            yield f'{quoted["key"]}"{quoted["value"]}"' if quoted else line
            continue
        for pattern in shlex.split(include["patterns"]):
            # Relative names are relative to where OpenSSH looks for its own configuration.
            base = Path("/etc/ssh") if path == _SYSTEM_CONFIG else Path.home() / ".ssh"
            for name in sorted(glob.glob(str(base / Path(pattern).expanduser()))):
                yield from _lines(Path(name), depth=depth + 1)
                yield header
