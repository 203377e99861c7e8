"""A fault of policy: programs drop what one pod sends to another, all the time."""

from __future__ import annotations

import json
from pathlib import Path

from ebpfperf.lab.faults import acting, pods
from ebpfperf.lab.faults.declaration import Fault, Record
from ebpfperf.lab.faults.place import Place
from ebpfperf.lab.own_annotations import DENY

RATE_PER_S = 23
_SENDER, _RECEIVER, _PROCESS, _PORT = "fault-sender", "fault-receiver", "fault-sending", 2323
_DENIED = [{"direction": "ingress", "cidr": "0.0.0.0/0", "protocol": "UDP", "port": _PORT}]
_SEND = (
    "import socket, time\n"
    "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "while True:\n"
    "    try: s.sendto(b'dropped', ('{address}', {port}))\n"
    "    except OSError: pass\n"
    "    time.sleep(1 / {rate})\n"
)
_LOOK_S = 0.2


def _nothing(_: Place) -> Record:
    return {}


def _put(place: Place, _: Record) -> None:
    acting.needs_ebpf(place)
    receiver = pods.make(place, _RECEIVER, annotations={DENY: json.dumps(_DENIED)})
    sender = pods.make(place, _SENDER)
    source = _SEND.format(address=receiver.address, port=_PORT, rate=RATE_PER_S)
    lines = ["/usr/bin/python3 -I -S - <<'END'", source + "END"]
    place.start(_PROCESS, lines, inside=sender.pid)
    place.wait("the loss of datagrams", lambda: _lost(place, sender.pid, receiver.pid))


def _lost(place: Place, sender: int, receiver: int) -> bool:
    """Whether datagrams leave one pod, and none comes to the other."""
    before = _sent(sender), _received(receiver)
    place.pause(_LOOK_S)
    return _sent(sender) > before[0] and _received(receiver) == before[1]


def _sent(pid: int) -> int:
    return _udp(pid, "OutDatagrams")


def _received(pid: int) -> int:
    # Nobody listens there: what comes is of no port.
    return _udp(pid, "NoPorts") + _udp(pid, "InDatagrams")


def _udp(pid: int, name: str) -> int:
    """A number of the UDP line of /proc/net/snmp, in the network of a process."""
    lines = Path(f"/proc/{pid}/net/snmp").read_text().splitlines()
    names, numbers = (line.split() for line in lines if line.startswith("Udp:"))
    return int(numbers[names.index(name)])


def _take(place: Place, _: Record) -> None:
    place.stop(_PROCESS)
    pods.remove(place, _SENDER, _RECEIVER)


FAULTS: tuple[Fault, ...] = (
    Fault(
        "program-dropping",
        "Connections to a pod time out.",
        ("D2", "D1", "D4"),
        f"A pod sends {RATE_PER_S} datagrams a second to another one of the node, whose program "
        "denies and drops them: the lab's deny list, which stands in for policy.",
        _nothing,
        _put,
        _take,
    ),
)
