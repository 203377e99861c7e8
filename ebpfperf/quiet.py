"""Wait until the nodes are quiet, before a trial: never after its result was seen.

One command a node, all nodes at once: counters, a pause, counters, so that the connection's own
work lies outside the pause.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ebpfperf.errors import CommandError, CommandTimeout, OutputLimitError
from ebpfperf.model import Quiet, Reading, Status
from ebpfperf.probes.host_text import NODE_DEVICES
from ebpfperf.remote import Node
from ebpfperf.units import BITS_PER_BYTE, bits_per_s

# $1: seconds between the two readings.
WATCH = f"""\
reading() {{ cat /proc/uptime && grep '^cpu ' /proc/stat && cat {NODE_DEVICES}; }}
reading && echo '== later ==' && sleep "$1" && reading
"""
_LATER = "== later ==\n"
_TIMEOUT_S = 10.0
_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Calm:
    """How busy a node was while it was watched.

    Attributes
    ----------
    busy_pct
        Of all processors, idle and waiting for disks left out, stolen time left in: whoever took
        it, the node did not have it.
    nic_bits_per_s
        Both ways added; None where the NIC is not known.
    """

    node: str
    busy_pct: float
    nic_bits_per_s: float | None

    def problem(self, quiet: Quiet) -> str:
        """What is not quiet about it, as half a sentence; empty when it is."""
        if self.busy_pct > quiet.busy_pct:
            return f"{self.node} was {self.busy_pct:.0f} % busy"
        if self.nic_bits_per_s is not None and self.nic_bits_per_s > quiet.nic_bits_per_s:
            return f"the NIC of {self.node} carried {bits_per_s(self.nic_bits_per_s)}"
        return ""


def wait(
    nodes: Mapping[str, Node],
    names: Iterable[str],
    quiet: Quiet | None,
    *,
    nics: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Reading:
    """How quiet the named nodes were at last: once they are, or may be waited for no more.

    ``idle_busy_pct`` and ``idle_nic_bits_per_s`` are of the worst node; ``waited_s`` counts from
    the end of the first sample. With ``quiet`` None nothing is asked and nothing said. A node that
    cannot be watched is a reading that failed, not a trial that did.

    Parameters
    ----------
    nics
        Node → its NIC.
    say
        Told once, in a sentence, that and why it is waited.

    Raises
    ------
    ConnectError
        A node's connection is lost.
    """
    if quiet is None:
        return Reading()
    asked = tuple(dict.fromkeys(names))
    begun: float | None = None
    while True:
        try:
            found = _sample(nodes, asked, quiet, nics or {})
        except (CommandError, CommandTimeout, OutputLimitError, ValueError) as error:
            return Reading(Status.FAILED, f"How quiet the nodes were is not known: {error}")
        now = time.monotonic()
        first = begun is None
        begun = now if begun is None else begun
        noisy = "; ".join(filter(None, (calm.problem(quiet) for calm in found)))
        if not noisy or now - begun + quiet.sample_s > quiet.wait_s:
            carried = [calm.nic_bits_per_s for calm in found if calm.nic_bits_per_s is not None]
            metrics = {
                "idle_busy_pct": max(calm.busy_pct for calm in found),
                "waited_s": now - begun,
            }
            if carried:
                metrics["idle_nic_bits_per_s"] = max(carried)
            return Reading(metrics=metrics)
        if first:
            say(f"Waiting up to {quiet.wait_s:g} s for quiet nodes: {noisy}.")
        time.sleep(min(_PAUSE_S, quiet.wait_s))


def in_vain(reading: Reading, quiet: Quiet | None) -> bool:
    """Whether the nodes were not quiet even when they were waited for no more."""
    said = reading.metrics
    return quiet is not None and (
        said.get("idle_busy_pct", 0.0) > quiet.busy_pct
        or said.get("idle_nic_bits_per_s", 0.0) > quiet.nic_bits_per_s
    )


def parse(node: str, printed: str, *, nic: str) -> Calm:
    """What one node's two readings say.

    Raises
    ------
    ValueError
        They are not as expected.
    """
    before, _, after = printed.partition(_LATER)
    try:
        (up, cpu, devices), (up_then, cpu_then, devices_then) = _parts(after), _parts(before)
    except IndexError as error:
        raise ValueError(f"{node} printed {printed[:80]!r}") from error
    spent = [now - then for now, then in zip(cpu, cpu_then, strict=True)]
    # idle and iowait; guest time (the ninth and tenth) is in user.
    idle, whole = spent[3] + spent[4], sum(spent[:8])
    carried = None
    if nic in devices and nic in devices_then and up > up_then:
        carried = (devices[nic] - devices_then[nic]) * BITS_PER_BYTE / (up - up_then)
    return Calm(node, 100 * max(0, whole - idle) / whole if whole > 0 else 0.0, carried)


def _sample(
    nodes: Mapping[str, Node], names: tuple[str, ...], quiet: Quiet, nics: Mapping[str, str]
) -> list[Calm]:
    argv = ["sh", "-c", WATCH, "watch", f"{quiet.sample_s:g}"]

    def ask(name: str) -> Calm:
        limit_s = quiet.sample_s + _TIMEOUT_S
        done = nodes[name].run(argv, timeout_s=limit_s, sudo=False)
        return parse(name, done.text, nic=nics.get(name, ""))

    with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
        return list(pool.map(ask, names))


def _parts(text: str) -> tuple[float, list[int], dict[str, int]]:
    """Uptime, ticks by mode, and device → bytes received and sent."""
    lines = text.splitlines()
    devices = {}
    for line in lines[2:]:
        name, colon, numbers = line.partition(":")
        if colon and "|" not in line:
            values = numbers.split()
            devices[name.strip()] = int(values[0]) + int(values[8])
    return float(lines[0].split()[0]), [int(n) for n in lines[1].split()[1:]], devices
