"""Documents as iperf3 prints them, made of numbers that are known: for releases without a sample.

The shapes, after documents of these or neighbouring releases: 3.0 has neither round-trip times nor
windows nor out-of-order counts and prints six digits; up to 3.10.1 a UDP ``end`` has ``sum`` alone;
3.7 to 3.10.1 repeat the sums' keys with ``--bidir``; from 3.11 on they have names of their own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

RELEASES = ("3.0.11", "3.1.3", "3.7", "3.10.1", "3.12", "3.21")


def _number(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split("."))


@dataclass(frozen=True, slots=True)
class Way:
    """One direction: what the client counted of each stream in each interval of one second.

    ``sent`` and ``arrived`` are bytes of all streams; whichever of them the client counts itself
    is the sum of ``carried``. ``lost`` of a UDP direction's ``packets`` did not arrive.
    """

    carried: Sequence[Sequence[int]]  # stream → interval
    sent: int
    arrived: int
    retransmits: int = 0
    packets: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Test:
    """A test of whole seconds; in a bidirectional one ``ways`` are client to server, and back."""

    __test__ = False

    release: str
    ways: Sequence[Way]
    protocol: str = "TCP"
    reverse: bool = False
    omit_s: int = 0
    cpu: tuple[float, float] = (12.5, 25.0)
    rtt_us: int = 100
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def bidir(self) -> bool:
        return len(self.ways) == 2

    @property
    def seconds(self) -> int:
        return len(self.ways[0].carried[0])


class Repeated(list[tuple[str, Any]]):
    """An object whose keys may stand more than once."""


def document(test: Test) -> dict[str, Any]:
    """The client's document; objects with repeated keys are ``Repeated``."""
    udp, number = test.protocol == "UDP", _number(test.release)
    duration = test.seconds
    start = {
        "connected": [{"socket": 5}],
        "version": f"iperf {test.release}",
        "system_info": "Linux made 6.1.0",
        "timestamp": {"time": "", "timesecs": 1_700_000_000},
        "connecting_to": {"host": "192.0.2.1", "port": 5201},
        "cookie": "made",
        "test_start": {
            "protocol": test.protocol,
            "num_streams": len(test.ways[0].carried),
            "blksize": 1000 if udp else 131072,
            "omit": test.omit_s,
            "duration": duration,
            "bytes": 0,
            "blocks": 0,
            "reverse": int(test.reverse),
            **({"bidir": int(test.bidir)} if number >= (3, 13) else {}),
        },
    }
    warm = [_interval(test, second, omitted=True) for second in range(test.omit_s)]
    measured = [_interval(test, second, omitted=False) for second in range(duration)]
    end: list[tuple[str, Any]] = [
        ("streams", [s for way in range(len(test.ways)) for s in _end_streams(test, way)])
    ]
    for way in range(len(test.ways)):
        end += _sums(test, way)
    host, remote = test.cpu
    end.append(("cpu_utilization_percent", {"host_total": host, "remote_total": remote}))
    return {
        "start": start,
        "intervals": warm + measured,
        "end": _object(end),
        **test.extra,
    }


def printed(test: Test, *, indent: int | None = None) -> bytes:
    """The document as it is printed, keys repeated where that release repeats them."""
    return dumped(document(test)).encode() if indent is None else pretty(test)


def pretty(test: Test) -> bytes:
    """The same with line ends and tabs, where no key is repeated."""
    return json.dumps(document(test), indent="\t").encode()


def streamed(test: Test) -> bytes:
    """The same as ``--json-stream`` prints it: one event a line."""
    whole = document(test)
    events = [("start", whole["start"])]
    events += [("interval", interval) for interval in whole["intervals"]]
    events += [("end", whole["end"])]
    return b"".join(
        (dumped({"event": name, "data": data}) + "\n").encode() for name, data in events
    )


def _sends(test: Test, way: int) -> bool:
    """Whether the client sends in this direction."""
    return way == 0 and not test.reverse


def _interval(test: Test, second: int, *, omitted: bool) -> dict[str, Any]:
    udp, number = test.protocol == "UDP", _number(test.release)
    streams, sums = [], []
    for way, found in enumerate(test.ways):
        sends = _sends(test, way)
        who = {"sender": sends} if number >= (3, 7) else {}
        for socket, carried in enumerate(found.carried):
            one = _amounts(second, 1, carried[second], six=number < (3, 1))
            one |= {"omitted": omitted, **who, "socket": 5 + socket + 100 * way}
            if sends and not udp:
                one |= {"retransmits": 0, "snd_cwnd": 14480}
                one |= {"rtt": test.rtt_us} if number >= (3, 1) else {}
                one |= {"snd_wnd": 65536} if number >= (3, 10) else {}
            streams.append(one)
        total = sum(carried[second] for carried in found.carried)
        sums.append(
            (
                _key("sum", test, way),
                {**_amounts(second, 1, total, six=number < (3, 1)), "omitted": omitted, **who},
            )
        )
    return _object([("streams", streams), *sums])


def _end_streams(test: Test, way: int) -> list[dict[str, Any]]:
    found, number = test.ways[way], _number(test.release)
    six, who = number < (3, 1), {"sender": _sends(test, way)} if number >= (3, 7) else {}
    streams = []
    for socket in range(len(found.carried)):
        first = socket == 0
        # How a direction's bytes are spread over its streams is told by the first alone.
        count = found.sent if first else 0
        sent = _amounts(0, test.seconds, count, six=six) | {"socket": 5 + socket, **who}
        if test.protocol == "UDP":
            sent |= {
                "jitter_ms": 0.01,
                "packets": found.packets if first else 0,
                "lost_packets": found.lost if first else 0,
                "lost_percent": _percent(found) if first else 0,
            }
            streams.append({"udp": sent})
            continue
        sent["retransmits"] = found.retransmits if first else 0
        if number >= (3, 1):
            sent |= {f"{kind}_rtt": test.rtt_us for kind in ("max", "min", "mean")}
            sent |= {"max_snd_cwnd": 14480}
        got = _amounts(0, test.seconds, found.arrived if first else 0, six=six)
        streams.append({"sender": sent, "receiver": {**got, **who}})
    return streams


def _sums(test: Test, way: int) -> list[tuple[str, Any]]:
    found, number = test.ways[way], _number(test.release)
    six, who = number < (3, 1), {"sender": _sends(test, way)} if number >= (3, 7) else {}
    sent = _amounts(0, test.seconds, found.sent, six=six)
    received = _amounts(0, test.seconds, found.arrived, six=six)
    if test.protocol == "TCP":
        return [
            (_key("sum_sent", test, way), {**sent, "retransmits": found.retransmits, **who}),
            (_key("sum_received", test, way), {**received, **who}),
        ]
    loss = {
        "jitter_ms": 0.01,
        "lost_packets": found.lost,
        "packets": found.packets,
        "lost_percent": _percent(found),
    }
    sums = [(_key("sum", test, way), {**sent, **loss, **who})]
    if number >= (3, 11):
        none = {"jitter_ms": 0, "lost_packets": 0, "packets": found.packets, "lost_percent": 0}
        sums += [
            (_key("sum_sent", test, way), {**sent, **none, "sender": True}),
            (_key("sum_received", test, way), {**received, **loss, "sender": False}),
        ]
    return sums


def _key(name: str, test: Test, way: int) -> str:
    return f"{name}_bidir_reverse" if way and _number(test.release) >= (3, 11) else name


def _amounts(start: int, seconds: int, count: int, *, six: bool) -> dict[str, Any]:
    rate = count * 8 / seconds
    return {
        "start": start,
        "end": start + seconds,
        "seconds": seconds,
        "bytes": count,
        "bits_per_second": float(f"{rate:.6g}") if six else rate,
    }


def _percent(way: Way) -> float:
    return 100 * way.lost / way.packets if way.packets else 0


def _object(items: list[tuple[str, Any]]) -> Any:
    keys = [key for key, _ in items]
    return dict(items) if len(set(keys)) == len(keys) else Repeated(items)


def dumped(value: Any) -> str:
    if isinstance(value, Repeated):
        pairs: Any = value
    elif isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        return f"[{', '.join(dumped(item) for item in value)}]"
    else:
        return json.dumps(value)
    return "{" + ",\t".join(f"{json.dumps(key)}:\t{dumped(item)}" for key, item in pairs) + "}"
