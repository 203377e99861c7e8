"""Lines of the calico-node log, in the form that every release of Felix writes."""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from ebpfperf.calico.releases import minor

# Resource field → the name Felix logs, where it is not the field with its first word in capitals.
_NAMES = {"ipipEnabled": "IpInIpEnabled", "ipipMTU": "IpInIpMtu"}
_ACRONYMS = re.compile(r"^(aws|bpf|bgp|dns|ipv6|mtu|nat|vxlan)(?=[A-Z])")


# felix/config/config_params.go: LogFilePath where nothing else is set.
LOG_FILE = "/var/log/calico/felix.log"
# felix/daemon/daemon.go and felix/dataplane/linux/int_dataplane.go: the beginning, and when what
# was read then has been applied.
STARTING = "Felix starting up"
FIRST_UPDATE = "Completed first update to dataplane."
_KEPT_LINES = 5000
# Which loader says why a program was refused.
_LIBBPF_FROM = (3, 21)
_LARGEST_BYTES = 1_000_000


class NodeLog:
    """What a node's Felix has said: the newest lines, and a file on the node."""

    def __init__(self, root: Path) -> None:
        self._file = root / LOG_FILE.lstrip("/")
        # A node that has no /var of its own would write to the machine's.
        own = self._file.parent.is_dir()
        self._own = own and self._file.parent.stat().st_dev != Path("/var").stat().st_dev
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)

    @property
    def lines(self) -> list[str]:
        """The newest lines, oldest first."""
        return list(self._lines)

    def begin(self) -> None:
        """Forget the lines, as with a new container; the file stays."""
        self._lines.clear()

    def add(self, text: str, *, to_file: bool = True) -> None:
        """One more line. A file that cannot be written is done without."""
        self._lines.append(text)
        if not (self._own and to_file):
            return
        with contextlib.suppress(OSError):
            if self._file.exists() and self._file.stat().st_size > _LARGEST_BYTES:
                self._file.replace(self._file.with_suffix(".log.1"))
            with self._file.open("a") as file:
                file.write(text + "\n")


def line(level: str, pid: int, file: str, number: int, message: str) -> str:
    """``2026-01-31 09:05:33.123 [INFO][42] felix/daemon.go 386: message``; the time is UTC."""
    now = datetime.now(UTC)
    stamp = f"{now:%Y-%m-%d %H:%M:%S}.{now.microsecond // 1000:03d}"
    return f"{stamp} [{level}][{pid}] felix/{file} {number}: {message}"


def internal_name(field: str) -> str:
    """The name by which Felix logs a resource field: ``IpInIpEnabled``, ``BPFLogLevel``."""
    if field in _NAMES:
        return _NAMES[field]
    upper = _ACRONYMS.sub(lambda match: match[1].upper().replace("IPV6", "IPv6"), field)
    return upper[:1].upper() + upper[1:]


def config_change(
    old: Mapping[str, object], new: Mapping[str, object], version: str
) -> list[tuple[str, str, int, str]]:
    """(level, file, line, message) for each field that differs, worded as that release does.

    Sources: v3.16.1 felix/daemon/daemon.go; v3.26.1 felix/config/config_params.go.
    """
    found = []
    for key in sorted(set(old) | set(new)):
        if old.get(key) == new.get(key):
            continue
        fields = (
            f'key="{internal_name(key)}" new="{_text(new.get(key))}" old="{_text(old.get(key))}"'
        )
        if minor(version) >= (3, 24):
            message = "Configuration value changed; change DOES require Felix to restart."
            found.append(("INFO", "config_params.go", 1047, f"{message} {fields}"))
        else:
            found.append(("WARNING", "daemon.go", 1084, f"Config change requires restart {fields}"))
    return found


def encapsulation_change(version: str) -> tuple[str, str, int, str]:
    """(level, file, line, message) where the pools now ask for other tunnels."""
    kinds = "IPIP, VXLAN and/or noencap" if minor(version) >= (3, 26) else "IPIP and/or VXLAN"
    message = f"{kinds} encapsulation changed, need to restart."
    return "WARNING", "daemon.go", 1147, message


def bpf_start(
    spec: Mapping[str, object], version: str, *, supported: bool
) -> list[tuple[str, str, int, str]]:
    """(level, file, line, message) of a start with ``bpfEnabled``; none without.

    Sources: felix/daemon/daemon.go and felix/dataplane/linux/int_dataplane.go, v3.16.1 to HEAD.
    """
    if not spec.get("bpfEnabled"):
        return []
    if not supported:
        message = "BPF dataplane mode enabled but not supported by the kernel.  Disabling BPF mode."
        if minor(version) < (3, 30):
            return [("ERROR", "daemon.go", 337, message)]
        reason = "BPF syscall support is not available on this platform"
        return [("ERROR", "daemon.go", 1608, f'{message} error="{reason}"')]
    new = minor(version) >= (3, 29)
    found = []
    if spec.get("bpfKubeProxyIptablesCleanupEnabled", True):
        layer = "iptables/nftables" if new else "iptables"
        message = f"BPF enabled, configuring {layer} layer to clean up kube-proxy's rules."
        found.append(("INFO", "int_dataplane.go", 671 if new else 313, message))
    message = "BPF enabled, starting BPF endpoint manager and map manager."
    found.append(("INFO", "int_dataplane.go", 1082 if new else 493, message))
    return found


def rejected(version: str) -> list[str]:
    """What the loader prints when the verifier takes no program for a device; not Felix's form.

    Up to v3.20 that is tc, whose output Felix keeps to itself; later libbpf, in words of its own.
    """
    if minor(version) < _LIBBPF_FROM:
        return []
    name = "cali_tc_preambl" if minor(version) >= (3, 27) else "calico_from_workload_ep"
    return [
        f"libbpf: prog '{name}': BPF program load failed: Permission denied",
        f"libbpf: prog '{name}': -- BEGIN PROG LOAD LOG --",
        "R1 invalid mem access 'scalar'",
        "-- END PROG LOAD LOG --",
        f"libbpf: prog '{name}': failed to load: -13",
    ]


def left_dirty(device: str, version: str) -> tuple[str, str, int, str]:
    """(level, file, line, message) where an endpoint stays without its programs.

    Source: felix/dataplane/linux/bpf_ep_mgr.go, which v3.13 and later all have.
    """
    why = "failed to load program: permission denied"
    if minor(version) < _LIBBPF_FROM:
        why = "tc failed with exit status 1"
    message = "Failed to apply policy to endpoint, leaving it dirty"
    return "WARNING", "bpf_ep_mgr.go", 1190, f'{message} error="{why}" name="{device}"'


def _text(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
