"""What ``tail -v -n +1`` prints of files under /proc, as numbers. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

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
    softnet_dropped, softnet_squeezed
        Packets refused by a full backlog; times that the softirq ran out of budget or time.
    texts
        Path → content, for the rest.
    """

    boot_id: str
    uptime_s: float
    cpu_s: Mapping[str, float]
    softnet_dropped: int
    softnet_squeezed: int
    texts: Mapping[str, str]

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


def parse_snapshot(printed: bytes) -> Snapshot:
    """One node's reading.

    Raises
    ------
    ValueError, KeyError
        A file is missing or not as expected.
    """
    pieces = _HEADER.split(printed.decode("utf-8", "replace"))
    texts = {path: text.strip("\n") for path, text in zip(pieces[1::2], pieces[2::2], strict=True)}
    dropped, squeezed = _softnet(texts["/proc/net/softnet_stat"])
    return Snapshot(
        boot_id=texts["/proc/sys/kernel/random/boot_id"].strip(),
        uptime_s=float(texts["/proc/uptime"].split()[0]),
        cpu_s=_cpu(texts["/proc/stat"]),
        softnet_dropped=dropped,
        softnet_squeezed=squeezed,
        texts=texts,
    )


def _cpu(stat: str) -> dict[str, float]:
    line = next(line for line in stat.splitlines() if line.startswith("cpu "))
    ticks = [int(number) for number in line.split()[1 : 1 + len(_MODES)]]
    return {mode: tick / _TICKS_PER_S for mode, tick in zip(_MODES, ticks, strict=True)}


def _softnet(text: str) -> tuple[int, int]:
    """Columns 2 and 3, hexadecimal, one line a processor."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    return sum(int(row[1], 16) for row in rows), sum(int(row[2], 16) for row in rows)
