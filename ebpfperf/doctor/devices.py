"""A node's devices as programs are put on them: bonds, VLANs, workloads; Felix's pattern. Pure.

``network_view`` reads what all others need of a device; here are masters and lower devices as well.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ebpfperf.calico import felix_fields
from ebpfperf.calico.releases import minor
from ebpfperf.units import UNKNOWN

PATTERN, L3_PATTERN = "bpfDataIfacePattern", "bpfL3IfacePattern"
# Calico's own tunnels and service devices: Felix knows them without the pattern, or by it.
CALICO_DEVICES = frozenset(
    "tunl0 vxlan.calico vxlan-v6.calico wireguard.cali wg-v6.cali egress.calico bpfin.cali "
    "bpfout.cali".split()
)
# What RE2 has and Python reads otherwise, and what Python has and RE2 refuses.
_OTHERWISE = re.compile(r"\[\[|\(\?(?:[=!]|<[=!]|U)|\\[1-9]")


@dataclass(frozen=True, slots=True)
class Device:
    """A device of a node.

    Attributes
    ----------
    kind
        ``bond``, ``vlan``, ``veth``, …; empty for hardware.
    master
        The bond, team or bridge that it belongs to; empty for none.
    slave_kind
        What of: ``bond``, ``team``, ``bridge``.
    lower
        The device below it in the same namespace, as a VLAN has one; empty for none.
    up
        Whether it runs: a NIC without a carrier does not.
    addresses
        Addresses of both families without prefix length.
    """

    name: str
    kind: str
    up: bool
    loopback: bool
    master: str
    slave_kind: str
    lower: str
    addresses: tuple[str, ...]


def parse_devices(text: str) -> dict[str, Device]:
    """Name → device of ``ip -j -d addr show``.

    Raises
    ------
    ValueError
        Not iproute2's JSON (busybox ``ip`` prints none).
    """
    entries = json.loads(text)
    if not isinstance(entries, list):
        raise ValueError("ip -j printed no list")
    found = {}
    for entry in entries:
        if not entry.get("ifname"):
            continue
        info, flags = entry.get("linkinfo") or {}, entry.get("flags") or ()
        found[str(entry["ifname"])] = Device(
            str(entry["ifname"]),
            str(info.get("info_kind", "")),
            _runs(entry),
            "LOOPBACK" in flags,
            str(entry.get("master", "")),
            str(info.get("info_slave_kind", "")),
            str(entry.get("link", "")),
            tuple(
                str(each["local"])
                for each in entry.get("addr_info") or ()
                if each.get("family") in ("inet", "inet6") and "local" in each
            ),
        )
    return found


def _runs(entry: dict[str, Any]) -> bool:
    """Whether the device is up and has a carrier: IFF_RUNNING, by which Felix goes."""
    flags, state = entry.get("flags") or (), str(entry.get("operstate", "UNKNOWN"))
    return "UP" in flags and "NO-CARRIER" not in flags and state in ("UP", "UNKNOWN")


def below(devices: dict[str, Device], name: str) -> list[str]:
    """The devices that a bond, team, bridge or VLAN stands on; none for a NIC."""
    own = devices[name]
    slaves = [each.name for each in devices.values() if each.master == name]
    return slaves + ([own.lower] if own.lower and own.kind != "veth" else [])


def patterns(value: object, release: str) -> tuple[str, ...]:
    """The expressions that must agree: the value, or the release's neighbours.

    Of some releases the default was not read off. What the default before and the one after agree
    about is so in them, too. Empty where nothing is known.
    """
    if not str(value).startswith(UNKNOWN):
        return (str(value),)
    if value != felix_fields.field(PATTERN).default(release):
        return ()
    known = [
        (minor(since), str(text))
        for since, text in felix_fields.field(PATTERN).defaults
        if not str(text).startswith(UNKNOWN)
    ]
    before = [text for since, text in known if since <= minor(release)]
    after = [text for since, text in known if since > minor(release)]
    return (before[-1], after[0]) if before and after else ()


def matches(expressions: tuple[str, ...], name: str) -> bool | None:
    """Whether Felix's pattern matches the device, anywhere in its name, as Go does.

    None where the expressions disagree, or Go and Python may read them differently.
    """
    found = set()
    for text in expressions:
        if _OTHERWISE.search(text):
            return None
        try:
            found.add(re.search(text, name) is not None)
        except re.error:
            return None
    return found.pop() if len(found) == 1 else None
