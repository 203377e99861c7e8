"""What the nodes' own counters say of a trial: read before and after it, by one command a node.

Processor time is of the whole machine between the two readings, whoever used it: busy is all but
idle and iowait, without steal (which is reported apart), and guest time is not counted twice (it is
in user). Nodes that share a kernel (one boot_id) are one machine and are counted once.

Formats: proc(5), Documentation/filesystems/proc.rst; softnet_stat: net/core/net-procfs.c.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

from ebpfperf.errors import ProbeError
from ebpfperf.model import Endpoint, Fact, Flow, Reading, Sample, Status
from ebpfperf.probes import circumstances
from ebpfperf.probes.host_text import NODE_DEVICES, Snapshot, parse_snapshot, read_argv
from ebpfperf.units import BITS_PER_BYTE, gbit

if TYPE_CHECKING:
    from ebpfperf.remote import Completed, Node

ENDS = "host_counters.json"
_NET_FILES = ("dev", "snmp", "netstat")
_TIMEOUT_S = 10.0
_US_PER_S = 1e6
# A request and its answer are one segment each up to here, so that segments count requests.
_ONE_SEGMENT_BYTES = 1200
_DEVICE = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "rx_dropped", "tx_dropped",
           "rx_errors", "tx_errors")  # fmt: skip
_TCP = (("Tcp", "RetransSegs"), ("TcpExt", "TCPTimeouts"), ("TcpExt", "TCPLossProbes"),
        ("TcpExt", "TCPFastRetrans"), ("TcpExt", "TCPSlowStartRetrans"))  # fmt: skip


class HostCounters:
    """The ``host_counters`` probe; see the module."""

    name: ClassVar[str] = "host_counters"

    def __init__(self) -> None:
        self._nodes: Mapping[str, Node] = {}
        self._ends: dict[str, Endpoint] = {}
        self._nics: Mapping[str, str] = {}
        self._between: str | None = None
        self._before: dict[str, bytes] = {}

    def attach(self, nodes: Mapping[str, Node]) -> tuple[Fact, ...]:
        """No facts: every Linux has these counters."""
        self._nodes = nodes
        return ()

    def arm(
        self,
        flow: Flow,
        client: Endpoint,
        server: Endpoint,
        *,
        nics: Mapping[str, str] | None = None,
    ) -> None:
        """Read the counters of both ends' nodes, and of a node between them that forwards.

        ``nics``: node → its NIC, where that is known.
        """
        self._ends = {"client": client, "server": server}
        self._nics = nics or {}
        front = server.front
        self._between = front.node if front and front.node not in (server.node, "") else None
        self._before = self._read(counters_first=False)

    def collect(self) -> dict[str, bytes]:
        """What was printed before and after, per node, and where the ends are."""
        after = self._read(counters_first=True)
        where: dict[str, dict[str, Any]] = {
            end: {
                "node": e.node,
                "pid": e.netns_pid,
                "device": e.device,
                "host_device": e.host_device,
                "nic": self._nics.get(e.node) or (e.device if e.netns_pid is None else ""),
            }
            for end, e in self._ends.items()
        }
        if self._between:
            where["between"] = {"node": self._between}
        raw = {ENDS: json.dumps(where).encode()}
        for node in after:
            raw[_file(node, "before")] = self._before[node]
            raw[_file(node, "after")] = after[node]
        return raw

    def parse(self, flow: Flow, raw: Mapping[str, bytes]) -> Reading:
        """Processor seconds, drops and retransmits between the two readings.

        ``cpu_s``, ``softirq_s``: seconds of all machines together; every mode is a sample.
        ``cpu_s_per_gbit``: per 1e9 bits that both ends' devices received (headers as those devices
        count them, warm-up and ACKs included, as the processor time does).
        ``rr_cpu_us_per_request``: for request-response of small messages, per answer (segment or
        datagram) that the client's namespace received.
        ``softnet_dropped``: packets that a full backlog refused.
        ``tcpext_retransmits``: TCP segments sent again in the ends' namespaces.
        ``circumstances.metrics`` says the rest.
        """
        try:
            where: dict[str, Any] = json.loads(raw[ENDS])
            nodes = sorted({place["node"] for place in where.values()})
            pairs = {
                node: (
                    parse_snapshot(raw[_file(node, "before")]),
                    parse_snapshot(raw[_file(node, "after")]),
                )
                for node in nodes
            }
            return _reading(flow, where, pairs)
        except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
            said = f"unreadable: The nodes' counters cannot be read. ({error!r})"
            return Reading(Status.FAILED, said)

    def detach(self) -> None:
        """Nothing runs on the nodes."""
        self._nodes = {}

    def _read(self, *, counters_first: bool) -> dict[str, bytes]:
        wanted: dict[str, list[str]] = {}
        for end in self._ends.values():
            paths = wanted.setdefault(end.node, [NODE_DEVICES])
            paths += [path for path in net_files(end.netns_pid) if path not in paths]
        if self._between:
            wanted.setdefault(self._between, [NODE_DEVICES])
        missing = [node for node in wanted if node not in self._nodes]
        if missing:
            raise ProbeError(
                f"Probe host_counters is not attached to node {missing[0]}.",
                "Attach it before the first trial.",
                reason="not_attached",
                node=missing[0],
            )

        pods = any(end.netns_pid is not None for end in self._ends.values())

        def read(node: str) -> Completed:
            argv = read_argv(wanted[node], counters_first=counters_first)
            return self._nodes[node].run(argv, timeout_s=_TIMEOUT_S, sudo=pods)

        with ThreadPoolExecutor(max_workers=len(wanted)) as pool:
            done = pool.map(read, wanted)
        return {node: completed.stdout for node, completed in zip(wanted, done, strict=True)}


def net_files(pid: int | None) -> list[str]:
    """Counters of a network namespace: a process's, or the one that a login to the node is in."""
    return [f"{net_place(pid)}/{name}" for name in _NET_FILES]


def net_place(pid: int | None) -> str:
    """Where the files of that network namespace are."""
    return "/proc/net" if pid is None else f"/proc/{pid}/net"


def window(pair: Sequence[Snapshot]) -> float:
    """Seconds between two readings."""
    return pair[1].uptime_s - pair[0].uptime_s


def _file(node: str, when: str) -> str:
    return f"host_counters.{node}.{when}.txt"


def _reading(
    flow: Flow, where: Mapping[str, Any], pairs: Mapping[str, tuple[Snapshot, Snapshot]]
) -> Reading:
    machines: dict[str, str] = {}
    for node, (before, after) in pairs.items():
        if before.boot_id != after.boot_id:
            said = f"rebooted: Node {node} was started anew during the trial."
            return Reading(Status.FAILED, said)
        machines.setdefault(after.boot_id, node)
    samples: list[Sample] = []
    modes: dict[str, float] = {}
    dropped = 0
    for node in machines.values():
        before, after = pairs[node]
        window_s = window(pairs[node])
        for mode, end_s in after.cpu_s.items():
            spent_s = max(0.0, end_s - before.cpu_s[mode])
            modes[mode] = modes.get(mode, 0.0) + spent_s
            samples.append(_sample(node, f"cpu_{mode}_s", "s", spent_s, at_s=window_s))
        dropped += after.softnet_dropped - before.softnet_dropped
        for metric, change in (
            ("softnet_dropped", after.softnet_dropped - before.softnet_dropped),
            ("softnet_squeezed", after.softnet_squeezed - before.softnet_squeezed),
        ):
            samples.append(_sample(node, metric, "1", change, at_s=window_s))
    ends = {end: _End(where[end], pairs[where[end]["node"]]) for end in ("client", "server")}
    for end, found in ends.items():
        samples += found.samples(end)
    busy_s = sum(s for mode, s in modes.items() if mode not in ("idle", "iowait", "steal"))
    namespaces = {found.namespace: found for found in ends.values()}.values()
    metrics = {
        "cpu_s": busy_s,
        "softirq_s": modes["softirq"],
        "softnet_dropped": float(dropped),
        "tcpext_retransmits": float(sum(n.counter("Tcp", "RetransSegs") for n in namespaces)),
    }
    received_gbit = gbit(sum(f.device("rx_bytes") for f in ends.values()) * BITS_PER_BYTE)
    if received_gbit > 0:
        metrics["cpu_s_per_gbit"] = busy_s / received_gbit
    answers = _answers(flow, ends["client"])
    if answers > 0:
        metrics["rr_cpu_us_per_request"] = busy_s * _US_PER_S / answers
    places = {
        end: circumstances.Place.of(where[end], f"{net_place(where[end]['pid'])}/dev")
        for end in ends
    }
    metrics |= circumstances.metrics(flow, places, pairs)
    for dropped_at, count in (circumstances.clsact_drops(places, pairs) or {}).items():
        end, _, device = dropped_at.partition(" ")
        at_s = window(pairs[places[end].node])
        samples.append(_sample(end, f"clsact_drops:{device}", "1", count, at_s=at_s))
    return Reading(metrics=metrics, samples=tuple(samples), facts=tuple(circumstances.facts(pairs)))


class _End:
    """One end's namespace before and after."""

    def __init__(self, place: Mapping[str, Any], pair: Sequence[Snapshot]) -> None:
        self._before, self._after = pair
        self._device = str(place["device"])
        self._files = {path.rsplit("/", 1)[1]: path for path in net_files(place["pid"])}
        self.namespace = (str(place["node"]), place["pid"])

    def device(self, counter: str) -> int:
        """Change of a counter of the end's device."""
        path = self._files["dev"]
        before, after = (s.devices(path)[self._device] for s in (self._before, self._after))
        return after[counter] - before[counter]

    def counter(self, group: str, name: str) -> int:
        """Change of a protocol counter; 0 where this kernel does not keep it."""
        path = self._files["snmp" if group in ("Tcp", "Udp", "Ip") else "netstat"]
        before, after = (
            s.protocols(path).get(group, {}).get(name, 0) for s in (self._before, self._after)
        )
        return after - before

    def samples(self, end: str) -> Iterator[Sample]:
        """Rows of the end's device and of its TCP."""
        at_s = window((self._before, self._after))
        for counter in _DEVICE:
            unit = "B" if counter.endswith("bytes") else "1"
            yield _sample(end, f"device_{counter}", unit, self.device(counter), at_s=at_s)
        for group, name in _TCP:
            yield _sample(end, f"{group}:{name}", "1", self.counter(group, name), at_s=at_s)


def _sample(endpoint: str, metric: str, unit: str, value: float, *, at_s: float) -> Sample:
    return Sample(HostCounters.name, endpoint, metric, unit, at_s, float(value))


def _answers(flow: Flow, client: _End) -> int:
    """Answers that the client received, where segments count them; otherwise 0."""
    if flow.load != "request-response" or (flow.message_bytes or 0) > _ONE_SEGMENT_BYTES:
        return 0
    if flow.transport == "udp":
        return client.counter("Udp", "InDatagrams")
    return client.counter("Tcp", "InSegs")
