"""One reading of a node's counters: the command, and what it prints, as numbers. Pure.

A header with its name stands before every part, as ``tail -v`` prints it before a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ebpfperf.calico.counters import DROPS

KERNEL_FILES = ("/proc/sys/kernel/random/boot_id", "/proc/uptime", "/proc/stat",
                "/proc/net/softnet_stat")  # fmt: skip
# The node's own devices: a pod's are in its own namespace.
NODE_DEVICES = "/proc/net/dev"
CLOCKSOURCE = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
_CPUFREQ = "/sys/devices/system/cpu/cpu0/cpufreq"
LIMIT, GOVERNOR = f"{_CPUFREQ}/scaling_max_freq", f"{_CPUFREQ}/scaling_governor"
THROTTLED = "throttled"
QDISCS, COUNTERS = "tc -s -j qdisc show", "cali_counters"
BEFORE, AFTER = "clock before", "clock after"
# $1: which part comes first, so that the counters are what is read last before the traffic and
# first after it; the rest: files that must be there. Programs that TCX attached have no clsact
# qdisc to count their drops: then Calico's own counters are read, where they are pinned.
READ = f"""\
counters() {{
  echo '==> {BEFORE} <=='; date +%s.%N
  tail -v -n +1 "$@" || exit
  printf '\n==> {AFTER} <==\n'; date +%s.%N
}}
others() {{
  tail -v -n +1 {CLOCKSOURCE} {LIMIT} {GOVERNOR} 2>/dev/null
  printf '\n==> {THROTTLED} <==\n'
  cat /sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count 2>/dev/null
  q=$({QDISCS} 2>/dev/null) && printf '\n==> {QDISCS} <==\n%s\n' "$q"
  case $q in *'"clsact"'*) return;; esac
  for map in /sys/fs/bpf/tc/globals/cali_counters*; do
    [ -e "$map" ] && printf '\n==> {COUNTERS} <==\n' && bpftool -j map dump pinned "$map"
  done 2>/dev/null
}}
first=$1; shift
if [ "$first" = counters ]; then counters "$@"; echo; others; else others; echo; counters "$@"; fi
exit 0
"""

# Ticks of user space: 100 a second on every architecture that Calico runs on (see time(7)).
_TICKS_PER_S = 100
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_HEADER = re.compile(r"^==> (.+) <==$", re.M)
_DEVICE = ("rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "rx_fifo", "rx_frame",
           "rx_compressed", "rx_multicast", "tx_bytes", "tx_packets", "tx_errors", "tx_dropped",
           "tx_fifo", "tx_collisions", "tx_carrier", "tx_compressed")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One reading of a node's counters.

    Attributes
    ----------
    cpu_s
        Mode of /proc/stat → seconds since boot, all processors; guest is inside user.
    cores
        The same by processor.
    softnet_dropped, softnet_squeezed
        Packets refused by a full backlog; times that the softirq ran out of budget or time.
    boot_utc_s
        Between which seconds since 1970 the wall clock said that the node was booted; None where
        the clock was not read. A step of the clock moves them.
    throttled
        Times that processors were slowed for heat; None where the node does not count them.
    clsact
        Device → packets that programs at its clsact qdisc dropped, both directions added; None
        where tc gave none.
    texts
        Path → content, for the rest.
    """

    boot_id: str
    uptime_s: float
    cpu_s: Mapping[str, float]
    softnet_dropped: int
    softnet_squeezed: int
    texts: Mapping[str, str]
    cores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    boot_utc_s: tuple[float, float] | None = None
    throttled: int | None = None
    clsact: Mapping[str, int] | None = None

    @property
    def calico_drops(self) -> int | None:
        """Packets that Calico's programs dropped, by their own counters; None where not read."""
        try:
            return parse_counters(self.texts[COUNTERS])
        except (KeyError, ValueError):
            return None

    def devices(self, path: str) -> dict[str, dict[str, int]]:
        """Device → counter → value, of a ``net/dev`` file."""
        found: dict[str, dict[str, int]] = {}
        for line in self.texts[path].splitlines():
            name, colon, numbers = line.partition(":")
            if colon and "|" not in line:
                values = (int(number) for number in numbers.split())
                found[name.strip()] = dict(zip(_DEVICE, values, strict=False))
        return found

    def protocols(self, path: str) -> dict[str, dict[str, int]]:
        """Group → counter → value, of a ``net/snmp`` or ``net/netstat`` file."""
        found: dict[str, dict[str, int]] = {}
        lines = self.texts[path].splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=False):
            group, _, counters = names.partition(":")
            numbers = values.partition(":")[2].split()
            found[group] = dict(zip(counters.split(), map(int, numbers), strict=True))
        return found


def read_argv(files: Iterable[str], *, counters_first: bool) -> list[str]:
    """The command that prints one reading; ``files`` besides those of every node."""
    first = "counters" if counters_first else "others"
    return ["sh", "-c", READ, "read", first, *KERNEL_FILES, *files]


def parse_snapshot(printed: bytes) -> Snapshot:
    """One node's reading; parts that older recordings lack are absent.

    Raises
    ------
    ValueError, KeyError
        A file is missing or not as expected.
    """
    pieces = _HEADER.split(printed.decode("utf-8", "replace"))
    texts = {path: text.strip("\n") for path, text in zip(pieces[1::2], pieces[2::2], strict=True)}
    dropped, squeezed = _softnet(texts["/proc/net/softnet_stat"])
    uptime_s = float(texts["/proc/uptime"].split()[0])
    cpus = _cpus(texts["/proc/stat"])
    throttled = texts.get(THROTTLED, "").split()
    return Snapshot(
        boot_id=texts["/proc/sys/kernel/random/boot_id"].strip(),
        uptime_s=uptime_s,
        cpu_s=cpus.pop("cpu"),
        softnet_dropped=dropped,
        softnet_squeezed=squeezed,
        texts=texts,
        cores=cpus,
        boot_utc_s=_booted(texts, uptime_s),
        throttled=sum(map(int, throttled)) if throttled else None,
        clsact=parse_clsact(texts[QDISCS]) if QDISCS in texts else None,
    )


def parse_clsact(text: str) -> dict[str, int] | None:
    """Device → packets dropped at its clsact or ingress qdisc, from ``tc -s -j qdisc show``.

    A program's (or a filter's) verdict to drop counts there, whichever direction it is at. None
    where iproute2 printed no JSON.
    """
    try:
        entries: list[dict[str, Any]] = json.loads(text) if text.strip() else []
    except ValueError:
        return None
    return {
        entry["dev"]: int(entry.get("drops", 0))
        for entry in entries
        if entry.get("kind") in ("clsact", "ingress") and "dev" in entry
    }


_COUNTER_BYTES = 8


def parse_counters(text: str) -> int:
    """Packets dropped, of all devices, hooks and processors, from ``bpftool -j map dump``.

    Raises
    ------
    ValueError
        Not bpftool's JSON.
    """
    entries = json.loads(text) if text.strip() else []
    dropped = 0
    for entry in entries:
        for cpu in entry.get("values", ()):
            value = bytes(int(byte, 16) for byte in cpu["value"])
            numbers = [
                int.from_bytes(value[at : at + _COUNTER_BYTES], "little")
                for at in range(0, len(value), _COUNTER_BYTES)
            ]
            dropped += sum(numbers[index] for index in DROPS if index < len(numbers))
    return dropped


def _cpus(stat: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for line in stat.splitlines():
        name, *numbers = line.split()
        if not name.startswith("cpu"):
            break
        ticks = [int(number) for number in numbers[: len(_MODES)]]
        found[name] = {m: tick / _TICKS_PER_S for m, tick in zip(_MODES, ticks, strict=True)}
    return found


def _booted(texts: Mapping[str, str], uptime_s: float) -> tuple[float, float] | None:
    """The uptime was read between the two readings of the clock, and is cut to 10 ms."""
    try:
        before, after = float(texts[BEFORE]), float(texts[AFTER])
    except (KeyError, ValueError):
        return None
    return before - uptime_s - 1 / _TICKS_PER_S, after - uptime_s


def _softnet(text: str) -> tuple[int, int]:
    """Columns 2 and 3, hexadecimal, one line a processor."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    return sum(int(row[1], 16) for row in rows), sum(int(row[2], 16) for row in rows)
