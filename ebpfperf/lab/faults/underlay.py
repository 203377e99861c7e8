"""Faults of the underlay: what the network between the nodes drops, limits or cuts."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ebpfperf.lab.dataplane import DEFAULT_PORT
from ebpfperf.lab.faults import acting, pods
from ebpfperf.lab.faults.declaration import Fault, Record
from ebpfperf.lab.faults.place import Place

RATE = "200mbit"
"""What ``bandwidth-cap`` leaves of a node's link, each way; as tc spells it."""
CUT_BYTES = 100
"""How much smaller ``mtu-mismatch`` makes a link than it was."""
_POD = "fault-mtu"

# ------------------------------------------------------------------ what the switch drops


def _port(place: Place) -> str:
    return f"port{place.node.index}"


def _drop(place: Place, rules: Sequence[str]) -> None:
    """Have the switch drop what these rules of ebtables match, each of them once."""
    _pass(place, rules)
    for rule in rules:
        place.in_switch(["ebtables-nft", "-A", *rule.split(), "-j", "DROP"])


def _pass(place: Place, rules: Sequence[str]) -> None:
    for rule in rules:
        place.in_switch(["ebtables-nft", "-D", *rule.split(), "-j", "DROP"], check=False)


def _vxlan_rules(place: Place, port: int) -> list[str]:
    """All ways of a VXLAN packet by the node's port: to another one, to and from the router."""
    match = f"-p IPv4 --ip-proto udp --ip-dport {port}"
    own = _port(place)
    return [
        f"FORWARD -i {own} {match}", f"INPUT -i {own} {match}",
        f"FORWARD -o {own} {match}", f"OUTPUT -o {own} {match}",
    ]  # fmt: skip


def _vxlan_port(place: Place) -> Record:
    return {"port": int(place.felix_spec().get("vxlanPort") or DEFAULT_PORT)}


def _block_vxlan(place: Place, record: Record) -> None:
    _drop(place, _vxlan_rules(place, record["port"]))


def _let_vxlan(place: Place, record: Record) -> None:
    _pass(place, _vxlan_rules(place, record["port"]))


def _source_rules(place: Place) -> list[str]:
    match = f"-i {_port(place)} -p IPv4 --ip-src ! {place.node.underlay_ip}"
    return [f"FORWARD {match}", f"INPUT {match}"]


def _service_mode(place: Place) -> Record:
    field = "bpfExternalServiceMode"
    return {"fields": {field: place.felix_spec().get(field)}}


def _check_source(place: Place, _: Record) -> None:
    _drop(place, _source_rules(place))
    acting.tell(place, {"bpfExternalServiceMode": "DSR"})


def _take_any_source(place: Place, record: Record) -> None:
    _pass(place, _source_rules(place))
    acting.tell(place, record["fields"])


# ------------------------------------------------------------------ how much it carries


def _nothing(_: Place) -> Record:
    return {}


def _cap(place: Place, _: Record) -> None:
    """A second switch between the port and the first one: each way leaves by a queue."""
    index, mtu = place.node.index, place.lab.shape.mtu_bytes
    queue = f"root tbf rate {RATE} burst 256kb latency 50ms"
    _uncap(place, {})
    place.in_switch(
        ["ip", "-batch", "-"],
        input="\n".join([
            f"link add brcap{index} mtu {mtu} type bridge mcast_snooping 0",
            f"link add cap{index} mtu {mtu} type veth peer name uncap{index} mtu {mtu}",
            *(f"link set {device} addrgenmode none up"
              for device in (f"brcap{index}", f"cap{index}", f"uncap{index}")),
            f"link set cap{index} master brcap{index}",
            f"link set uncap{index} master br0",
            f"link set {_port(place)} master brcap{index}",
        ]),
    )  # fmt: skip
    for device in (_port(place), f"cap{index}"):
        place.in_switch(["tc", "qdisc", "replace", "dev", device, *queue.split()])


def _uncap(place: Place, _: Record) -> None:
    index = place.node.index
    place.in_switch(["tc", "qdisc", "del", "dev", _port(place), "root"], check=False)
    place.in_switch(["ip", "link", "set", _port(place), "master", "br0"])
    for device in (f"cap{index}", f"brcap{index}"):
        place.in_switch(["ip", "link", "del", device], check=False)


def _mtu(place: Place) -> Record:
    (link,) = json.loads(place.node.run(["ip", "-j", "link", "show", "dev", place.node.nic]))
    return {"mtu": link["mtu"]}


def _set_mtu(place: Place, mtu_bytes: int) -> None:
    place.in_switch(["ip", "link", "set", _port(place), "mtu", str(mtu_bytes)])
    place.node.run(["ip", "link", "set", place.node.nic, "mtu", str(mtu_bytes)])


def _cut(place: Place, record: Record) -> None:
    # A pod keeps the MTU that it was made with.
    pods.make(place, _POD)
    _set_mtu(place, record["mtu"] - CUT_BYTES)


def _uncut(place: Place, record: Record) -> None:
    _set_mtu(place, record["mtu"])
    pods.remove(place, _POD)


FAULTS: tuple[Fault, ...] = (
    Fault(
        "vxlan-blocked",
        "A node port times out where the backend is on another node.",
        ("B3",),
        "The lab's switch drops UDP to vxlanPort that enters or leaves by the node's port "
        "(nftables, by ebtables); on the nodes nothing is changed.",
        _vxlan_port,
        _block_vxlan,
        _let_vxlan,
    ),
    Fault(
        "foreign-source-dropped",
        "With DSR, answers from another node than the one that was asked never arrive.",
        ("B8",),
        "The lab's switch drops IPv4 from the node's port with a source that is not the node's, as "
        "clouds with a source check do; pods without overlay lose packets, too, as there. "
        "bpfExternalServiceMode becomes DSR.",
        _service_mode,
        _check_source,
        _take_any_source,
    ),
    Fault(
        "bandwidth-cap",
        "A node gets no more than a fixed rate, between hosts as between pods.",
        ("E5",),
        f"A token bucket of {RATE} in the lab's switch, each way; what is queued for more than "
        "50 ms is dropped.",
        _nothing,
        _cap,
        _uncap,
    ),
    Fault(
        "mtu-mismatch",
        "Large packets of pods stall or arrive in pieces; small ones pass.",
        ("E7", "B4"),
        f"NIC and switch port take {CUT_BYTES} bytes less than when the node's pods were made; one "
        "is made before.",
        _mtu,
        _cut,
        _uncut,
    ),
)
