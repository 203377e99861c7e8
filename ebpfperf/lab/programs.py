"""The lab's dataplane programs: which one for a hook, what it is told, how it is loaded.

One object a release (up to v3.26 one a kind of hook, which had programs of different names). What
differs from hook to hook is written into the object's read-only data before it is loaded, so that
the verifier drops what a hook does not need. ``bpf/calico/config.h`` is the other side of this.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

from ebpfperf.calico.mtu import VXLAN_OVERHEAD_BYTES
from ebpfperf.calico.releases import minor
from ebpfperf.errors import LabError
from ebpfperf.lab.attach import INGRESS, Hook
from ebpfperf.lab.compiler import compiled
from ebpfperf.lab.nodes import LabNode, run

_SOURCE = "calico.bpf.c"
_MAGIC = b"ebpfperf-config\0"
_CONFIG = struct.Struct("<16s24s3I4s5I20x")
_LEVELS = {"info": 1, "debug": 2}
_LEVEL_WORDS = ("no_log", "info", "debug")
# Since v3.25 the tag has room for the longest name; since v3.27 all programs have one name.
_WIDE_TAG_FROM, _ONE_NAME_FROM, _OBJECT_NAMES_UNTIL = (3, 25), (3, 27), (3, 20)
# Before, a workload's program leaves room for a tunnel within the tunnel's own MTU.
_ONE_LIMIT_FROM = (3, 17)
# Kernel map in the object → what the map is for.
MAPS = {
    "ct": "conntrack",
    "nat_fe": "nat-frontend",
    "nat_be": "nat-backend",
    "nat_aff": "nat-affinity",
    "routes": "routes",
    "counters": "counters",
}
DENY_MAP = "deny_list"


class Kind(IntFlag):
    """What a program is attached to; bits as in ``config.h``."""

    WORKLOAD = 1
    HOST = 2
    TUNNEL = 4
    L3 = 8
    TO_HOST = 16


class Option(IntFlag):
    """What a program may do; bits as in ``config.h``."""

    FIB = 1
    DSR = 2
    DENY = 4
    PEER = 8


@dataclass(frozen=True, slots=True)
class Settings:
    """What all programs of a node are told.

    Attributes
    ----------
    log_level
        ``bpfLogLevel``, in any case; empty is off.
    tunnel_mtu
        Bytes of the longest IP packet that fits on the underlay once wrapped.
    vxlan_ifindex, tunl_ifindex
        0 where the node has no such device.
    """

    release: str
    options: Option
    log_level: str
    host_ip: str
    tunnel_mtu: int
    vxlan_port: int
    vxlan_vni: int
    vxlan_ifindex: int
    tunl_ifindex: int


def tag(device: str, kind: Kind, release: str) -> str:
    """How a log line names the interface and the direction of policy: ``ens192---E``."""
    width = 15 if minor(release) >= _WIDE_TAG_FROM else 8
    outward = bool(kind & Kind.WORKLOAD) == bool(kind & Kind.TO_HOST)
    return f"{device[:width]:-<{width}}-{'E' if outward else 'I'}"


def filter_name(hook: Hook, kind: Kind, settings: Settings, program_id: int) -> str:
    """What ``tc filter show`` prints of a filter: up to v3.20 the object's file and section.

    Later Calico loads by libbpf, which names a filter ``<program>:[<id>]``.
    """
    if minor(settings.release) > _OBJECT_NAMES_UNTIL:
        return f"{_kernel_name(kind, settings.release)}:[{program_id}]"
    way = "from" if hook.direction == INGRESS else "to"
    short = "wep" if kind & Kind.WORKLOAD else "tnl" if kind & Kind.TUNNEL else "hep"
    fib = "fib_" if settings.options & Option.FIB and kind & Kind.TO_HOST else ""
    # Only these answer an outside client, or send it to another node.
    answers = kind & (Kind.HOST | Kind.TO_HOST) and not kind & Kind.TUNNEL
    dsr = "dsr_" if settings.options & Option.DSR and answers else ""
    level = _LEVEL_WORDS[_level(settings)]
    return f"{way}_{short}_{fib}{dsr}{level}.o:[{_program_name(kind, settings.release)}]"


def prepare(release: str) -> None:
    """Nothing, once the release's objects are compiled. LabError as ``compiled``."""
    kinds = (Kind.WORKLOAD, Kind.HOST, Kind.TUNNEL)
    names = {_program_name(kind | way, release) for kind in kinds for way in (0, Kind.TO_HOST)}
    with ThreadPoolExecutor() as pool:
        list(pool.map(_object, names, [release] * len(names)))


def configured(device: str, kind: Kind, settings: Settings, *, options: Option) -> bytes:
    """The object for a hook as the kernel gets it; ``options`` beside those of ``settings``.

    Raises
    ------
    LabError
        As ``compiled``.
    """
    program = _object(_program_name(kind, settings.release), settings.release)
    return _configured(program, device, kind, settings, options)


def load(
    node: LabNode,
    device: str,
    kind: Kind,
    settings: Settings,
    *,
    options: Option,
    maps: Mapping[str, str],
    pin: Path,
) -> None:
    """The program for a hook, loaded and pinned at ``pin``.

    Parameters
    ----------
    options
        Beside those of ``settings``.
    maps
        Name in the object → path of its pin, as the node sees it.
    pin
        As the node sees it.

    Raises
    ------
    LabError
        It cannot be compiled, or the kernel refuses it; with the verifier's last words.
    """
    file = node.dir / f"{device}-{pin.name}.o"
    file.write_bytes(configured(device, kind, settings, options=options))
    argv = ["bpftool", "prog", "load", str(file), str(pin), "type", "classifier"]
    for name, path in maps.items():
        argv += ["map", "name", name, "pinned", path]
    try:
        run(node.enter(argv))
    except LabError as error:
        raise LabError(
            f"The kernel refuses the lab's program for {device} on {node.name}: {error.what}",
            "This is a defect: the lab's programs are written for Linux 6.1 and newer.",
        ) from error
    finally:
        file.unlink()


def _program_name(kind: Kind, release: str) -> str:
    if minor(release) >= _ONE_NAME_FROM:
        return "cali_tc_preamble"
    way = "from" if kind & Kind.TO_HOST else "to"
    what = "workload" if kind & Kind.WORKLOAD else "tunnel" if kind & Kind.TUNNEL else "host"
    return f"calico_{way}_{what}_ep"


def _kernel_name(kind: Kind, release: str) -> str:
    return _program_name(kind, release)[:15]


def _object(name: str, release: str) -> bytes:
    major, low = minor(release)
    return compiled(_SOURCE, {"RELEASE": f"{major}{low:02d}", "PROGRAM": name})


def _configured(
    program: bytes, device: str, kind: Kind, settings: Settings, options: Option
) -> bytes:
    place = program.index(_MAGIC)
    limit = settings.tunnel_mtu
    if kind & Kind.WORKLOAD and minor(settings.release) < _ONE_LIMIT_FROM:
        limit -= VXLAN_OVERHEAD_BYTES
    config = _CONFIG.pack(
        _MAGIC,
        tag(device, kind, settings.release).encode(),
        kind,
        settings.options | options,
        _level(settings),
        socket.inet_aton(settings.host_ip),
        limit,
        settings.vxlan_port,
        settings.vxlan_vni,
        settings.vxlan_ifindex,
        settings.tunl_ifindex,
    )
    return program[:place] + config + program[place + len(config) :]


def _level(settings: Settings) -> int:
    # Felix takes its default, off, for a word that it does not know.
    return _LEVELS.get(settings.log_level.lower(), 0)
